"""Counting millions of cells: time and memory, in every layout that an atlas of that size comes in.

A table of 2,000,000 cells like the droplet atlas's is made, with six wanted columns and others, and
written as CSV, Parquet and h5ad. The same cells thirty times over, 60,000,000 (the size of the
CELLxGENE Census), are one Parquet file, and thirty h5ad files. Each is counted in a process of its
own, so that the peak memory is that of one way:

* in pieces: the distinct rows and their numbers of cells (``stages.inputs.obs.count_obs``);
* whole: the six columns in memory (``stages.inputs.obs.read_obs``), then their distinct rows.

All must give the same numbers, thirty times as many for the large ones. Run:
``python -m benchmarks.counting_many_cells [--folder DIR] [--cells N] [--times N]``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.obs_of_a_large_atlas import SPEC, obs_of
from stages.inputs import cells
from stages.inputs.obs import N_CELLS, count_obs, distinct, read_obs

ASSAYS = ["10x 3' v2", "10x 3' v3", "Smart-seq2"]
COLUMNS = [*cells.wanted_columns(SPEC), "assay"]
PIECES, WHOLE = "in pieces", "whole"


def generate(folder: Path, *, n_cells: int, times: int) -> dict[str, Path]:
    """Write all tables; return their paths by what they are."""
    rng = np.random.default_rng(0)
    obs = obs_of(n_cells, rng)
    obs["assay"] = pd.Categorical.from_codes(rng.integers(0, len(ASSAYS), n_cells), ASSAYS)
    one = {name: folder / f"one.{name}" for name in ("csv", "parquet", "h5ad")}
    obs.to_csv(one["csv"], index_label="barcode")
    table = pa.Table.from_pandas(obs)
    pq.write_table(table, one["parquet"])
    ad.AnnData(obs=obs).write_h5ad(one["h5ad"])
    many = {"parquet": folder / "many.parquet", "h5ad": folder / "many"}
    with pq.ParquetWriter(many["parquet"], table.schema) as writer:
        for _ in range(times):
            writer.write_table(table)
    many["h5ad"].mkdir()
    for i in range(times):
        os.link(one["h5ad"], many["h5ad"] / f"{i:03d}.h5ad")
    few = {f"{n_cells:,} cells, {name}": path for name, path in one.items()}
    return few | {f"{n_cells * times:,} cells, {name}": path for name, path in many.items()}


def one_way(way: str, path: Path, out: Path) -> None:
    """Count in this process; write the distinct rows, the seconds and the peak memory."""
    started = time.perf_counter()
    counted = count_obs(path, COLUMNS) if way == PIECES else distinct(read_obs(path, COLUMNS))
    seconds = time.perf_counter() - started
    texts = counted.astype(dict.fromkeys(COLUMNS, str)).sort_values(COLUMNS, ignore_index=True)
    texts.to_csv(out.with_suffix(".csv"), index=False)
    # Not getrusage: its maximum is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    out.write_text(json.dumps({"seconds": seconds, "peak_mib": peak}), encoding="utf-8")


def run(way: str, path: Path, out: Path) -> tuple[dict[str, float], pd.DataFrame]:
    """Count in a fresh process; return its figures and the distinct rows."""
    command = [sys.executable, "-W", "ignore", "-m", __spec__.name, "--way", way]
    subprocess.run([*command, "--file", str(path), "--out", str(out)], check=True)
    figures: dict[str, float] = json.loads(out.read_text(encoding="utf-8"))
    return figures, pd.read_csv(out.with_suffix(".csv"))


def main() -> None:
    """Generate, count, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--folder", type=Path, help="where to put some 3 GB (default: temporary)")
    parser.add_argument("--cells", type=int, default=2_000_000)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--way", choices=[PIECES, WHOLE], help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        one_way(args.way, args.file, args.out)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder = Path(scratch)
        tables = generate(folder, n_cells=args.cells, times=args.times)
        print("| table | way | seconds | peak memory (MiB) |\n|:--|:--|--:|--:|")
        expected = None
        for what, path in tables.items():
            # The large ones are not read whole.
            large = path.stem == "many"
            for way in [PIECES] if large else [PIECES, WHOLE]:
                figures, found = run(way, path, folder / "out.json")
                expected = found if expected is None else expected
                wanted = expected.assign(**{N_CELLS: expected[N_CELLS] * args.times**large})
                pd.testing.assert_frame_equal(found, wanted)
                print(f"| {what} | {way} | {figures['seconds']:.1f} | {figures['peak_mib']:.0f} |")
        print(f"{len(COLUMNS)} columns, {len(found):,} distinct rows, the same in all")


if __name__ == "__main__":
    main()
