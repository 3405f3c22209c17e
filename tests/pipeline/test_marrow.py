"""Real cells: the published change of bone marrow, through the stage commands and every layout."""

import gzip
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stages.base import compose, tables
from stages.cells import concordance, contrast, describe, drivers, metrics, proportions
from stages.cells.tables.contrast import CONTRAST
from stages.cells.tables.drivers import DRIVERS
from stages.cells.tables.metrics import METRICS
from stages.cells.tables.proportions import EXCLUSIONS, PROPORTIONS
from stages.inputs import cells
from stages.inputs.demo import legacy

# Published: +0.088 and -2.19 (Spiro 2026). From the same cells, to the digits given beside them.
DGINI, DEFFN = 0.0875, -2.186


def _table(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, keep_default_na=False, dtype=str)
    return frame[["age", "sex", "tissue", "subtissue", "cell_ontology_class", "mouse.id"]]


def _as_anndata(source: Path, target: Path) -> None:
    obs = _table(source).astype("category")
    obs.index = [f"cell{i}" for i in range(len(obs))]
    ad.AnnData(sparse.csr_matrix((len(obs), 1), dtype=np.float32), obs=obs).write_h5ad(target)


def _as_legacy(source: Path, target: Path) -> None:
    obs = _table(source).astype("category")
    obs.index = [f"cell{i}" for i in range(len(obs))]
    x = sparse.csr_matrix((len(obs), 1), dtype=np.float32)
    var = pd.DataFrame({"n_cells": [0]}, index=["gene"])
    legacy.write(target, x=x, obs=obs, var=var)


def _as_csv(source: Path, target: Path) -> None:
    with gzip.open(source, "rb") as packed, target.open("wb") as plain:
        shutil.copyfileobj(packed, plain)


def _as_parquet(source: Path, target: Path) -> None:
    _table(source).to_parquet(target)


LAYOUTS = {
    "cells.csv.gz": shutil.copy,
    "cells.csv": _as_csv,
    "cells.parquet": _as_parquet,
    "modern.h5ad": _as_anndata,
    "legacy.h5ad": _as_legacy,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_change_of_bone_marrow(name, marrow_cells, repository, tmp_path, monkeypatch):
    raw = tmp_path / name
    LAYOUTS[name](marrow_cells, raw)
    monkeypatch.chdir(tmp_path)
    conf = ["--conf", str(repository / "conf")]
    assert not compose.main([*conf, "--atlas", "local", "--set", f"atlas.cells.mine.raw='{raw}'"])
    assert not cells.main(["--file", "mine", "--out", "cells/mine.csv"])
    assert not describe.main(
        ["--cells", "cells", "--samples", "samples.csv", "--confounding", "confounding.csv"]
    )
    assert not proportions.main(
        ["--cells", "cells", "--out", "proportions.csv", "--exclusions", "exclusions.csv"]
    )
    assert not metrics.main(["--proportions", "proportions.csv", "--out", "metrics.csv"])
    assert not contrast.main(
        ["--metrics", "metrics.csv", "--out", "contrast.csv", "--not-compared", "not.csv"]
    )
    assert not concordance.main(
        "--proportions proportions.csv --contrast contrast.csv --out concordance.csv "
        "--summary summary.csv".split()
    )
    assert not drivers.main(
        ["--metrics", "metrics.csv", "--proportions", "proportions.csv", "--out", "drivers.csv"]
    )

    found = tables.read(Path("contrast.csv"), CONTRAST)
    found = found[found["cells"] == "all"].set_index("metric")
    gini, effective = found.loc["gini"], found.loc["effective_number"]
    assert (gini.n_reference, gini.n_compared) == (5, 4)
    assert gini.change == pytest.approx(DGINI, abs=5e-5)
    assert effective.change == pytest.approx(DEFFN, abs=5e-4)
    assert gini.quadrant == "crystallize"
    # The published choice of statistic does not hide how uncertain five and four animals are.
    assert gini.change_low < 0 < gini.change_high
    assert gini.rank_p_smallest == pytest.approx(2 / 126)

    # The pair of females that plate order could not tell apart is no animal.
    excluded = tables.read(Path("exclusions.csv"), EXCLUSIONS)
    assert excluded["rule"].tolist() == ["pooled_label"]
    assert excluded["animal"].tolist() == ["18_46_F|18_47_F (unresolved)"]
    kept = tables.read(Path("proportions.csv"), PROPORTIONS)
    assert kept["n_cells"].sum() + excluded["n_cells"].sum() == len(_table(marrow_cells))

    _drivers_sum_to_the_change_of_the_means()


def _drivers_sum_to_the_change_of_the_means() -> None:
    shared = tables.read(Path("drivers.csv"), DRIVERS)
    measured = tables.read(Path("metrics.csv"), METRICS)
    measured = measured[measured["cells"] == "all"]
    means = measured.groupby("group")[["gini", "effective_number"]].mean()
    for metric in ("gini", "effective_number"):
        whole = means.loc["compared", metric] - means.loc["reference", metric]
        # Quadrature of the effective number: observed 4e-15.
        assert shared[f"{metric}_contribution"].sum() == pytest.approx(whole, abs=1e-11)
