"""From a file of the droplet atlas's true size to per-animal metrics: reading `obs` or loading all.

The file is generated: 245,389 cells x 20,138 genes in the legacy layout, 2,000 expressed genes a
cell, `X` and `raw.X`, about 8 GB uncompressed as the published object is. Both ways then count,
exclude and measure by the same functions; they differ in how they come by `obs`:

* ours: the wanted columns of `obs` alone (``stages.inputs.obs.read_obs``);
* loading: ``anndata.read_h5ad(path)``, as a notebook does.

Each way runs in a process of its own, in turn, so that the peak memory is that of one way. Both
must give the same table. Run: ``python -m benchmarks.obs_of_a_large_atlas [--folder DIR]``.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from stages.base.files import file_hash
from stages.cells.counts import matrix
from stages.cells.metrics import measure
from stages.cells.proportions import proportions
from stages.cells.settings import Proportions
from stages.inputs import cells
from stages.inputs.demo import legacy
from stages.inputs.obs import read_obs
from stages.inputs.settings import CellsFile, Columns

N_CELLS, N_GENES, GENES_A_CELL = 245_389, 20_138, 2_000
BLOCK = 10_000
ANIMALS = {
    "1m": ["1-M-62", "1-M-63"],
    "3m": ["3-F-56", "3-F-57", "3-M-5/6", "3-M-7/8", "3-M-8/9", "3-M-8", "3-M-9"],
    "18m": ["18-F-50", "18-F-51", "18-M-52", "18-M-53"],
    "21m": ["21-F-54", "21-F-55"],
    "24m": ["24-M-58", "24-M-59", "24-M-60", "24-M-61"],
    "30m": ["30-M-2", "30-M-3", "30-M-4", "30-M-5"],
}
N_TISSUES, TYPES_A_TISSUE = 16, 12
SPEC = CellsFile(
    raw=Path("large.h5ad"),
    cohort="tms",
    platform="droplet",
    columns=Columns(
        animal="mouse.id", tissue="tissue", age="age", sex="sex", cell_type="cell_ontology_class"
    ),
    groups={"reference": {"up_to": "3 months"}, "compared": {"from": "24 months"}},
)
RULES = Proportions(min_cells=50, pooled_pattern="[/|+]")


def generate(path: Path, *, n_cells: int, seed: int = 0) -> None:
    """Write an atlas of `n_cells` cells in the legacy layout, its matrices block by block."""
    rng = np.random.default_rng(seed)
    obs = obs_of(n_cells, rng)
    var = pd.DataFrame(
        {"n_cells": rng.integers(1, n_cells, N_GENES)},
        index=pd.Index([f"Gene{i}" for i in range(N_GENES)]),
    )
    empty = sparse.csr_matrix(
        (np.empty(0, np.float32), np.empty(0, np.int32), np.zeros(n_cells + 1, np.int64)),
        shape=(n_cells, N_GENES),
    )
    legacy.write(path, x=empty, obs=obs, var=var, raw_x=empty, raw_var=var)
    with h5py.File(path, "r+") as file:
        for name in ("X", "raw.X"):
            group = file[name]
            for part in ("data", "indices", "indptr"):
                del group[part]
            size = n_cells * GENES_A_CELL
            indptr = np.arange(0, size + 1, GENES_A_CELL, dtype=np.int64)
            group.create_dataset("indptr", data=indptr)
            data = group.create_dataset("data", (size,), np.float32)
            indices = group.create_dataset("indices", (size,), np.int32)
            step = N_GENES // GENES_A_CELL
            for start in range(0, n_cells, BLOCK):
                rows = min(BLOCK, n_cells - start)
                where = slice(start * GENES_A_CELL, (start + rows) * GENES_A_CELL)
                # One gene out of every ten, at random: sorted and distinct without sorting.
                genes = np.arange(GENES_A_CELL, dtype=np.int32) * step
                picked = genes + rng.integers(0, step, (rows, GENES_A_CELL), dtype=np.int32)
                indices[where] = picked.ravel()
                data[where] = rng.integers(1, 20, rows * GENES_A_CELL).astype(np.float32)


def obs_of(n_cells: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return a table of cells like that of the droplet atlas."""
    animals = [(age, name) for age, names in ANIMALS.items() for name in names]
    chosen = rng.integers(0, len(animals), n_cells)
    tissue = rng.integers(0, N_TISSUES, n_cells)
    shares = rng.dirichlet(np.full(TYPES_A_TISSUE, 0.7), N_TISSUES).cumsum(axis=1)
    kind = (rng.random(n_cells)[:, np.newaxis] > shares[tissue]).sum(axis=1)
    mouse = np.array([name for _, name in animals])[chosen]
    columns = {
        "age": np.array([age for age, _ in animals])[chosen],
        "cell": np.array([f"cell_{i}" for i in range(n_cells)]),
        "cell_ontology_class": np.char.add(
            np.char.add("type ", (tissue * TYPES_A_TISSUE + np.minimum(kind, 11)).astype(str)), ""
        ),
        "mouse.id": mouse,
        "sex": np.where(np.char.find(mouse, "-F-") > 0, "female", "male"),
        "tissue": np.char.add("Tissue_", tissue.astype(str)),
        "n_counts": rng.integers(2_500, 50_000, n_cells).astype(np.float32),
        "n_genes": rng.integers(250, 6_000, n_cells),
    }
    index = pd.Index([f"ACGT{i:08d}-1" for i in range(n_cells)])
    obs = pd.DataFrame(columns, index=index)
    for name in ("age", "cell_ontology_class", "mouse.id", "sex", "tissue"):
        obs[name] = obs[name].astype("category")
    return obs


def metrics_of(obs: pd.DataFrame) -> pd.DataFrame:
    """Count, exclude and measure: what both ways share."""
    counted = cells.count(obs, SPEC, name="large", atlas="benchmark")
    shares, _ = proportions(counted, RULES)
    parts = []
    for _, tissue in shares.groupby("tissue"):
        table = matrix(tissue)
        parts.append(table.samples.assign(**measure(table.counts, components="present")))
    return pd.concat(parts, ignore_index=True)


def one_way(way: str, path: Path, out: Path) -> None:
    """Run one way in this process and write its metrics, seconds and peak memory."""
    started = time.perf_counter()
    if way == "ours":
        obs = read_obs(path, cells.wanted_columns(SPEC))
    else:
        import anndata  # only this way pays for it

        obs = anndata.read_h5ad(path).obs
    found = metrics_of(obs)
    seconds = time.perf_counter() - started
    found.to_csv(out.with_suffix(".csv"), index=False)
    # Not getrusage: its maximum is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    out.write_text(json.dumps({"seconds": seconds, "peak_mib": peak}), encoding="utf-8")


def compare(path: Path, folder: Path, *, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Run both ways in turn, each in a fresh process, and check that they agree."""
    runs: dict[str, dict[str, list[float]]] = {
        way: {"seconds": [], "peak_mib": []} for way in ("ours", "loading")
    }
    for _ in range(repeats):
        for way, figures in runs.items():
            out = folder / f"{way}.json"
            command = [sys.executable, "-W", "ignore", "-m", __spec__.name, "--way", way]
            subprocess.run([*command, "--file", str(path), "--out", str(out)], check=True)
            for name, value in json.loads(out.read_text(encoding="utf-8")).items():
                figures[name].append(value)
        if file_hash(folder / "ours.csv") != file_hash(folder / "loading.csv"):
            msg = "the two ways give different metrics"
            raise RuntimeError(msg)
    return runs


def main() -> None:
    """Generate, compare, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--folder", type=Path, help="where to put some 8 GB (default: temporary)")
    parser.add_argument("--cells", type=int, default=N_CELLS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=["ours", "loading"], help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        one_way(args.way, args.file, args.out)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        path = Path(scratch) / "large.h5ad"
        generate(path, n_cells=args.cells)
        print(f"{args.cells:,} cells x {N_GENES:,} genes, {path.stat().st_size / 1e9:.2f} GB")
        runs = compare(path, Path(scratch), repeats=args.repeats)
    middle = {
        way: {name: statistics.median(values) for name, values in figures.items()}
        for way, figures in runs.items()
    }
    print("| way | seconds (median, min to max) | peak memory (MiB) |\n|:--|--:|--:|")
    for way, figures in runs.items():
        s = figures["seconds"]
        print(
            f"| {way} | {middle[way]['seconds']:.2f} ({min(s):.2f} to {max(s):.2f}) "
            f"| {middle[way]['peak_mib']:.0f} |"
        )
    for name in ("seconds", "peak_mib"):
        print(f"ratio of {name}: {middle['loading'][name] / middle['ours'][name]:.1f}")


if __name__ == "__main__":
    main()
