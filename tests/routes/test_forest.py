"""Many datasets through `make forest`: from one table of cells to the figure."""

import pytest

from stages.base import tables
from stages.cells.tables.pooled import POOLED
from tests.clones import call, copy_of, must, stages_run
from tests.made_census import cells_of

RAW = "atlas.datasets.census.raw"


@pytest.fixture(scope="module")
def clone(repository, tmp_path_factory):
    return copy_of(repository, tmp_path_factory.mktemp("forest") / "clone")


def test_a_table_that_is_not_there_is_one_line(clone):
    done = call(clone, "make", "forest", "ATLAS=census", f"SET={RAW}=none.parquet")
    assert done.returncode != 0
    assert done.stdout.count("error: none.parquet is not there; datasets@census reads it") == 1
    assert "Traceback" not in done.stdout
    assert not (clone / "reports" / "tables").exists()


def test_every_tissue_is_pooled_and_drawn(clone):
    cells_of().to_parquet(clone / "obs.parquet")
    settings = f"SET={RAW}=obs.parquet metrics.rarefaction.draws=5"
    ran = stages_run(must(clone, "make", "forest", "ATLAS=census", settings))
    assert [name.partition("@")[0] for name in ran[-3:]] == ["datasets", "pooled", "forest"]
    assert not [name for name in ran if name.startswith(("trained", "ablate", "neighbours"))]
    found = tables.read(clone / "reports/tables/pooled_census.csv", POOLED)
    of_all = found[(found["cells"] == "all") & (found["metric"] == "gini")].set_index("tissue")
    assert of_all["n_datasets"].to_dict() == {"lung": 7, "liver": 7}
    assert of_all.loc["lung", "change_low"] > 0.02
    assert (clone / "reports/figures/census/fig_forest.png").stat().st_size > 10_000
