"""From 60,000,000 cells of hundreds of datasets to one pooled table: time, memory, and the truth.

A table like CZ CELLxGENE's Census is made in pieces, with its column names: datasets of one to four
tissues, donors of 20 to 85 years, a third of the cells not primary, ages that are none, donors who
stand in two datasets. In every other tissue old donors' compositions are more uneven by a planted
amount, which differs from dataset to dataset; in the others nothing changes but by chance. The
stages run as ``make forest ATLAS=census`` runs them; the memory is that of all their processes
together. What is pooled is set beside what was planted. Run:
``python -m benchmarks.many_datasets [--folder DIR] [--cells N] [--datasets N] [--out DIR]``.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.measurement.concentration import effective_number, gini

Floats = NDArray[np.float64]

NOTICE = "Simulated cells of simulated donors: they say nothing about ageing."

N_TISSUES, MOST_TYPES = 50, 24
PLANTED, APART = 0.25, 0.12
"""The exponent of old donors' shares is 1 + a draw from a normal of this mean and spread."""
DONOR_SD, TRUE_DONORS = 0.5, 1000
SCHEMA = pa.schema(
    [("soma_joinid", pa.int64())]
    + [
        (name, pa.dictionary(pa.int32(), pa.string()))
        for name in ("dataset_id", "donor_id", "tissue_general", "cell_type", "development_stage")
    ]
    + [(name, pa.dictionary(pa.int32(), pa.string())) for name in ("sex", "disease", "assay")]
    + [("is_primary_data", pa.bool_())]
)


def shares(centre: Floats, exponent: Floats, rng: np.random.Generator) -> Floats:
    """Return compositions of donors (n_donors, n_types) about a centre of log shares."""
    logs = exponent[:, None] * (centre + DONOR_SD * rng.normal(size=(len(exponent), len(centre))))
    weights: Floats = np.exp(logs - logs.max(axis=1, keepdims=True))
    shared: Floats = weights / weights.sum(axis=1, keepdims=True)
    return shared


def true_changes(centre: Floats, exponent: float, rng: np.random.Generator) -> list[float]:
    """Return the change of the medians of both numbers, of very many donors."""
    old, young = (shares(centre, np.full(TRUE_DONORS, power), rng) for power in (exponent, 1.0))
    return [float(np.median(of(old)) - np.median(of(young))) for of in (gini, effective_number)]


def generate(path: Path, *, n_cells: int, n_datasets: int, seed: int = 0) -> pd.DataFrame:
    """Write the table; return the mean of the true changes of each tissue over its datasets."""
    rng = np.random.default_rng(seed)
    centres = [
        rng.normal(size=int(rng.integers(8, MOST_TYPES + 1))) * 1.3 for _ in range(N_TISSUES)
    ]
    size = rng.lognormal(sigma=0.8, size=n_datasets)
    size = np.maximum((size / size.sum() * n_cells).astype(int), 500)
    size[-1] += n_cells - size.sum()
    truth, start, previous = [], 0, None
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for i in range(n_datasets):
            n_donors = int(rng.integers(6, 36))
            ages = rng.integers(20, 86, n_donors)
            names = np.array([f"d{i}_{j}" for j in range(n_donors)])
            sexes = rng.choice(["female", "male"], n_donors)
            tissues = rng.choice(N_TISSUES, int(rng.integers(1, 5)), replace=False)
            if i % 50 == 49 and previous is not None:
                # Donors of the last dataset once more, and a tissue of it.
                names[:3], ages[:3], sexes[:3] = (part[:3] for part in previous[:3])
                tissues[0] = previous[3]
            previous = (names, ages, sexes, tissues[0])
            labels = [f"{age}-year-old stage" for age in ages]
            if i % 40 == 7:
                labels = ["adult stage"] * n_donors
            donor, kind, where = [], [], []
            for tissue in tissues:
                centre = centres[tissue] + 0.3 * rng.normal(size=len(centres[tissue]))
                exponent = 1 + (PLANTED * (tissue % 2) + APART * rng.normal())
                power = np.where(ages >= 60, exponent, 1.0)
                drawn = rng.multinomial(
                    size[i] // len(tissues) // n_donors, shares(centre, power, rng)
                )
                for j, row in enumerate(drawn):
                    kind.append(np.repeat(np.arange(len(row)), row))
                    donor.append(np.full(row.sum(), j))
                    where.append(np.full(row.sum(), tissue))
                if i % 40 != 7:
                    truth.append([f"tissue {tissue}", *true_changes(centre, exponent, rng)])
            order = rng.permutation(sum(map(len, donor)))
            d, k, t = (np.concatenate(part)[order] for part in (donor, kind, where))
            coded = {
                "dataset_id": (np.zeros(len(d), int), [f"dataset-{i:04d}"]),
                "donor_id": (d, list(names)),
                "tissue_general": (t, [f"tissue {j}" for j in range(N_TISSUES)]),
                "cell_type": (k, [f"type {j}" for j in range(MOST_TYPES)]),
                "development_stage": (d, labels),
                "sex": (d, list(sexes)),
                "disease": (rng.choice(2, len(d), p=[0.95, 0.05]), ["normal", "COVID-19"]),
                "assay": (rng.integers(0, 2, len(d)), ["10x 3' v2", "10x 3' v3"]),
            }
            columns = [pa.array(np.arange(start, start + len(d)))]
            columns += [
                pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(texts))
                for codes, texts in coded.values()
            ]
            columns.append(pa.array(rng.random(len(d)) > 1 / 3))
            writer.write_table(pa.Table.from_arrays(columns, schema=SCHEMA))
            start += len(d)
    found = pd.DataFrame(truth, columns=["tissue", "gini", "effective_number"])
    print(f"{start:,} cells of {n_datasets} datasets, {path.stat().st_size / 1e6:.0f} MB")
    return found.groupby("tissue").mean()


def run(*words: str, folder: Path) -> None:
    """Run a stage; print its seconds and the most memory that its processes had together."""
    started, peak = time.perf_counter(), 0
    process = psutil.Popen([sys.executable, "-m", *words], cwd=folder)
    while process.poll() is None:
        try:
            every = [process, *process.children(recursive=True)]
            peak = max(peak, sum(one.memory_info().rss for one in every))
        except psutil.Error:
            continue
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(process.returncode)
    seconds = time.perf_counter() - started
    print(f"| {words[0]} | {seconds:.0f} | {peak / 2**20:.0f} |", flush=True)


def main() -> None:
    """Generate, run both stages, and print what was found beside what was planted."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--folder", type=Path, help="where to put some 1 GB (default: temporary)")
    parser.add_argument("--cells", type=int, default=60_000_000)
    parser.add_argument("--datasets", type=int, default=800)
    parser.add_argument("--out", type=Path, help="where to keep the tables and the figure")
    args = parser.parse_args()
    here = Path.cwd()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder = Path(scratch)
        raw = folder / "obs.parquet"
        truth = generate(raw, n_cells=args.cells, n_datasets=args.datasets)
        params = folder / "params.yaml"
        words = ["--atlas", "census", "--params", str(params)]
        words += ["--set", f"atlas.datasets.census.raw={raw}"]
        words += ["atlas.datasets.census.evidence=simulated", f"atlas.notice='{NOTICE}'"]
        subprocess.run([sys.executable, "-m", "stages.base.compose", *words], check=True)
        print("| stage | seconds | peak memory of all processes (MiB) |\n|:--|--:|--:|", flush=True)
        of = ["--params", str(params)]
        stage = ["stages.cells.datasets", *of, "--collection", "census"]
        stage += ["--scratch", str(folder / "shards"), "--out", str(folder / "datasets.csv")]
        stage += ["--not-compared", str(folder / "not_compared.csv")]
        run(*stage, folder=here)
        first = (folder / "datasets.csv").read_bytes()
        print("once more, from the shards:", flush=True)
        run(*stage, folder=here)
        if (folder / "datasets.csv").read_bytes() != first:
            msg = "the shards give other numbers"
            raise RuntimeError(msg)
        pooled, shrunken = folder / "pooled.csv", folder / "shrunken.csv"
        pool = ["stages.cells.pooled", *of, "--datasets", str(folder / "datasets.csv")]
        run(*pool, "--out", str(pooled), "--shrunken", str(shrunken), folder=here)
        study = ["stages.inputs.study", *of, "--conf", "conf"]
        for what in ("cells", "heads", "cellmodel", "overrides"):
            study += [f"--{what}", str(folder / f"{what}.json")]
        run(*study, folder=here)
        draw = ["stages.cells.figures.forest", "--pooled", str(pooled), "--shrunken", str(shrunken)]
        run(*draw, "--study", str(folder / "cells.json"), "--out", str(folder), folder=here)
        report(pd.read_csv(pooled), truth)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            for path in (*folder.glob("*.csv"), *folder.glob("fig_*")):
                shutil.copy2(path, args.out)


def report(pooled: pd.DataFrame, truth: pd.DataFrame) -> None:
    """Print how often tissues with and without a planted change are found."""
    for metric in ("gini", "effective_number"):
        rows = pooled[(pooled["cells"] == "all") & (pooled["metric"] == metric)]
        rows = rows.set_index("tissue").join(truth[metric].rename("true"))
        planted = rows.index.str.split().str[1].astype(int) % 2 == 1
        holds = (rows["change_low"] <= rows["true"]) & (rows["true"] <= rows["change_high"])
        for name, part in (("planted", rows[planted]), ("null", rows[~planted])):
            shares = {
                "truth in the interval": holds[part.index],
                "p <= 0.05": part["p"] <= 0.05,
                "q <= 0.05": part["q"] <= 0.05,
                "emphasised": part["emphasised"],
            }
            print(
                f"{metric}, {len(part)} {name}: true {part['true'].mean():+.3f}, pooled "
                f"{part['change'].mean():+.3f}, median I2 {part['i2'].median():.2f};",
                ", ".join(f"{what} {of.mean():.2f}" for what, of in shares.items()),
            )


if __name__ == "__main__":
    main()
