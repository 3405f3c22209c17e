"""Two conditions and no model: real donors through `make cells`, and nothing to compare."""

import re
import shutil

import pandas as pd
import pytest

from stages.base import tables
from stages.cells.tables.clusters import CLUSTER_CONTRAST
from stages.cells.tables.contrast import CONTRAST, NOT_COMPARED
from tests.clones import FEW_OF_CELLS, call, copy_of, must, stages_run

QUICK = f"""{FEW_OF_CELLS}
    granularity.curve.resolutions=[0.05]
"""
KANG = """
    raw=cells.h5ad cohort=kang platform=droplet constants.tissue=PBMC animal_pattern='[0-9]+'
    columns={animal: sample_id, condition: group_id, cell_type: cluster_id}
    groups={reference: [ctrl], compared: [stim], names: {reference: control, compared: stimulated}}
    graphs.pbmc={cells: mine, raw: cells.h5ad, tissue: PBMC}
"""


@pytest.fixture(scope="module")
def clone(repository, real_input, tmp_path_factory):
    """Return a copy with the cells of two donors, without and with interferon."""
    folder = copy_of(repository, tmp_path_factory.mktemp("groups") / "clone")
    shutil.copyfile(real_input("kang_ifn_pbmc_subset.h5ad"), folder / "cells.h5ad")
    return folder


@pytest.fixture(scope="module")
def ran(clone):
    """Return the stages that `make cells` ran."""
    return stages_run(must(clone, "make", "cells", "ATLAS=local", f"SET={KANG} {QUICK}"))


def test_no_stage_of_a_model_runs(clone, ran):
    assert "cells_alone@cells" in ran
    models = ("trained", "ablate", "corpus", "importance", "plane", "head", "manuscript")
    assert not [name for name in ran if name.startswith(models)]
    assert not (clone / "models" / "pythia-mini").exists()


def test_donors_are_paired_and_every_part_is_there(clone, ran):
    assert ran
    folder = clone / "reports" / "tables"
    found = tables.read(folder / "contrast.csv", CONTRAST)
    assert found["paired"].all()
    assert set(found["n_reference"]) == {2}
    of_clusters = tables.read(folder / "granularity_curve.csv", CLUSTER_CONTRAST)
    assert set(of_clusters["resolution"]) == {0.05, 0.2, 0.8}
    assert of_clusters["paired"].all()
    for name in ("stability", "substates", "drivers", "comparators", "multiverse"):
        assert len(pd.read_csv(folder / f"{name}.csv")) > 0, name


def test_the_paper_speaks_of_its_groups_and_of_cells_alone(clone, ran):
    assert ran
    paper = " ".join((clone / "reports/cells.qmd").read_text(encoding="utf-8").split())
    assert "stimulated minus control" in paper
    assert (
        'title: "Over how many cell types is a tissue spread? Stimulated against control"' in paper
    )
    assert "exact signed-rank test of pairs" in paper
    for word in ("young", "ageing", "attention", "transformer", "Pythia", "head_"):
        assert not re.search(rf"\b{word}", paper), word
    page = (clone / "reports/_output/cells.html").read_text(encoding="utf-8")
    assert "stimulated minus control" in " ".join(page.split())
    assert (clone / "reports/_output/cells.pdf").stat().st_size > 50_000
    svg = (clone / "reports/figures/fig_direction_heatmap.svg").read_text(encoding="utf-8")
    assert "stimulated \N{MINUS SIGN} control" in svg


def test_nothing_to_compare_ends_in_a_paper_that_says_why(clone, ran):
    assert ran
    wrong = call(clone, "make", "cells", "SET=" + f"{KANG} {QUICK}".replace("[stim]", "[x]"))
    assert wrong.returncode != 0
    assert (
        "no cell of cells.h5ad has 'x' in column group_id; values there are: ctrl" in wrong.stdout
    )
    must(clone, "make", "cells", f"SET={KANG} {QUICK} graphs={{}} proportions.min_cells=400")
    left_out = tables.read(clone / "reports/tables/not_compared.csv", NOT_COMPARED)
    assert left_out["reason"].tolist() == ["needs 2 complete pairs"]
    paper = " ".join((clone / "reports/cells.qmd").read_text(encoding="utf-8").split())
    assert "No tissue could be compared." in paper
    reason = "* kang droplet, PBMC: needs 2 complete pairs; there are 1 control and 1 stimulated."
    assert reason in paper
    assert (clone / "reports/_output/cells.pdf").stat().st_size > 20_000
