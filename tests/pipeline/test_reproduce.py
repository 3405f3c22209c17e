"""The whole demo, for real: `make reproduce` in a copy of this tree, and what runs again."""

import json
from importlib.metadata import version

import numpy as np
import pytest
import torch
import yaml
from pypdf import PdfReader

from stages.base import record, tables
from stages.cells.tables.concordance import CONCORDANCE_SUMMARY
from stages.cells.tables.describe import SAMPLES
from stages.cells.tables.proportions import EXCLUSIONS, PROPORTIONS
from stages.cells.tables.recovery import RECOVERY
from stages.heads import attribution, control_variate, subset
from stages.heads.tables.importance import HEAD_IMPORTANCE
from stages.inputs.mini.corpus import SEPARATOR, spread
from stages.inputs.mini.tokenizer import encode
from stages.inputs.tokenizer import tokenizer_of
from stages.measurement.concentration import gini as gini_of
from stages.measurement.tables import MEASURED
from stages.models.interventions import single_heads
from stages.models.load import load_model
from stages.models.passes import Passes
from stages.models.text import next_tokens
from tests.clones import FEW, REPRO, call, copy_of, must, stages_run

NOTICE = "Simulated demo data and demo model"
READ = ",".join(f"{name}:{version(name)}" for name in ("networkx", "scipy"))
# A real model in every respect, trained for a 64th of the steps on the docstrings of two packages.
SMALL = f"""{FEW}
    model.corpus.packages={{{READ}}}
    cellmodel.train.steps=24 cellmodel.checkpoints=[step8,step24]
    model.train.steps=32 model.checkpoints=[step8,step32]
    model.text.n_sequences=16 model.text.reference_sequences=16
"""


@pytest.fixture(scope="module")
def clone(repository, tmp_path_factory):
    """Return a copy of what git would hand out, with an empty cache, on which the demo was run."""
    # Spaces and letters outside ASCII: a path that a person may well have.
    folder = copy_of(repository, tmp_path_factory.mktemp("a päth with spaces") / "clone")
    output = must(folder, "make", "reproduce", "PYTHON=python3.11", f"SET={SMALL}")
    assert "render" in stages_run(output)
    return folder


def test_demo_ends_with_tables_figures_and_paper(clone):
    names = "metrics_vs_age platform_concordance direction_heatmap driver_contributions"
    names += " substate_scale kimmel_validation kimmel_robustness kidney_symmetry calico_cr_rescue"
    for name in f"{names} head_trajectories head_effects head_heatmap lorenz".split():
        for suffix in ("png", "svg"):
            assert (clone / f"reports/figures/fig_{name}.{suffix}").stat().st_size > 10_000
    html = (clone / "reports/_output/paper.html").read_text(encoding="utf-8")
    assert NOTICE in html
    assert "{{<" not in html
    pages = [page.extract_text() for page in PdfReader(clone / "reports/_output/paper.pdf").pages]
    assert len(pages) > 3
    assert all(NOTICE in page for page in pages)
    assert not any("{{<" in page for page in pages)


def test_known_truth_is_recovered_within_its_intervals(clone):
    found = tables.read(clone / "reports/tables/recovery.csv", RECOVERY)
    assert len(found) >= 20
    # 26 intervals of nominally 95%, six of them on 4 against 3 animals, and two on each tissue. At
    # a true coverage of 90% fewer than 20 of 26 come about once in 100 seeds; observed: 23.
    assert found["covered"].mean() >= 20 / 26
    # Where an interval leaves out zero, the sign it gives is the true one.
    sure = found[(found["change_low"] > 0) | (found["change_high"] < 0)]
    assert len(sure) >= 8
    assert (np.sign(sure["change"]) == np.sign(sure["truth"])).mean() >= 0.95


def test_every_cell_is_accounted_for(clone):
    kept = tables.read(clone / "reports/tables/proportions.csv", PROPORTIONS)
    excluded = tables.read(clone / "reports/tables/exclusions.csv", EXCLUSIONS)
    samples = tables.read(clone / "reports/tables/samples.csv", SAMPLES)
    assert kept["n_cells"].sum() + excluded["n_cells"].sum() == samples["n_cells"].sum()
    assert {"unannotated", "pooled_label", "too_few_cells"} <= set(excluded["rule"])


def test_heads_are_ablated_at_every_checkpoint_and_sequence(clone):
    found = tables.read(clone / "reports/tables/head_importance.csv", HEAD_IMPORTANCE)
    heads = found[found["unit"] == "head"]
    assert heads.groupby("position").size().to_dict() == {8: 48, 32: 48}
    assert (heads["n_sequences"] == 16).all()
    along = tables.read(clone / "reports/tables/measured/heads.csv", MEASURED)
    loss = along.drop_duplicates("position").set_index("position")["baseline"]
    # Training lowers the loss; before training it would be ln 2048 = 7.62.
    assert 7.62 > loss[8] > loss[32] > 3


def test_a_control_variate_covers_the_exact_effects_of_the_trained_model(clone):
    model_folder = clone / "models/pythia-mini"
    tokenizer, _ = tokenizer_of(model_folder)
    documents = (model_folder / "heldout.txt").read_text(encoding="utf-8").split(SEPARATOR)
    tokens = torch.from_numpy(spread(encode(tokenizer, documents), 96, 128).astype(np.int64))
    model = load_model(model_folder / "step32")
    text = next_tokens(tokens)
    removed = [one for layer in range(6) for one in single_heads(layer, range(8))]
    losses = Passes(model, text).run([(), *removed])
    exact = (losses[1:] - losses[0]).numpy().T  # (sequences, heads)
    columns = attribution.features(model, text, batch_size=8).columns().reshape(96, 48, -1)
    truth, rng = exact.mean(axis=0), np.random.default_rng(0)
    gini = gini_of(np.abs(truth))
    covered, errors, plain = [], [], []
    for _ in range(200):
        chosen = subset.choose(columns, 32, certain_share=0.25, rng=rng)
        found = control_variate.estimate(
            exact[chosen.sequences], chosen, columns, least_r2=0.1, rng=rng
        )
        covered.append(np.abs(found.mean - truth) < 1.96 * found.se_subset)
        errors.append(gini_of(np.abs(found.mean)) - gini)
        some = exact[rng.choice(96, 32, replace=False)].mean(axis=0)
        plain.append(gini_of(np.abs(some)) - gini)
    # Nominal 95%, on all heads and draws together; one head may have a heavier tail.
    assert 0.91 <= np.mean(covered) <= 0.98
    assert np.mean(covered, axis=0).min() > 0.7
    # What it is for: a much smaller error of Gini from as many ablations.
    assert np.mean(np.square(plain)) > 8 * np.mean(np.square(errors))


def test_every_output_says_what_it_comes_from(clone):
    found = json.loads((clone / "reports/provenance.json").read_text(encoding="utf-8"))
    graph, locked = (
        yaml.load((clone / name).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)["stages"]
        for name in ("dvc.yaml", "dvc.lock")
    )
    described = {name.partition("@")[0] for name in found["stages"]}
    absent = {"provenance", "render", "explorer", "downloaded", "cells_alone", "heads_alone"}
    absent |= {"cell_downloaded", "datasets", "pooled", "forest"}
    assert described == set(graph) - absent
    files, n_ran = record.code_hashes(clone), 0
    for name, entry in found["stages"].items():
        outputs = {out["path"]: out["md5"] for out in locked[name]["outs"]}
        assert {path: out["md5"] for path, out in entry["outputs"].items()} == outputs
        # This copy has no commit: any other entry is of the run that first wrote the same bytes.
        if entry["run"]["commit"] is None:
            hashes = {dep["path"]: dep["md5"] for dep in locked[name]["deps"]}
            code = {path: md5 for path, md5 in hashes.items() if path.startswith("stages/")}
            assert {path: record.md5_of(path, files) for path in code} == code
            assert entry["code"] == record.short_hash(code)
            assert entry["run"]["environment"] in found["environments"]
            n_ran += 1
    # The model of this run is another than that of the repository, and all that rests on it.
    assert n_ran > 20
    page = (clone / "reports/_output/paper.html").read_text(encoding="utf-8")
    assert page.count('id="tbl-provenance"') == 1


def test_a_second_run_runs_nothing_and_a_figure_that_stays_the_same_only_itself(clone):
    assert stages_run(must(clone, "dvc", "repro")) == []
    assert stages_run(must(clone, "make", "reproduce", "PYTHON=python3.11")) == []
    figure = clone / "stages/cells/figures/direction_heatmap.py"
    figure.write_text(figure.read_text(encoding="utf-8") + "\n# A change.\n", encoding="utf-8")
    # Not even the paper needs to be rendered again; one that changes is in the next test.
    assert stages_run(must(clone, *REPRO)) == ["direction_heatmap"]


def test_one_changed_number_changes_what_depends_on_it_and_nothing_else(clone):
    path = clone / "reports/tables/concordance_summary.csv"

    def state():
        return {file: file.read_bytes() for file in (clone / "reports").rglob("*.*")}

    before, name = state(), str(path.relative_to(clone))
    table = tables.read(path, CONCORDANCE_SUMMARY)
    tables.write(table.assign(spearman=0.125), CONCORDANCE_SUMMARY, path)
    must(clone, "dvc", "commit", "--force", "concordance")
    ran = stages_run(must(clone, *REPRO))
    stages = yaml.safe_load((clone / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    direct = {stage for stage, what in stages.items() if name in what.get("deps", [])}
    assert {"manuscript", "platform_concordance"} <= direct
    assert direct <= set(ran) <= direct | {"provenance", "render"}
    changed = {str(file.relative_to(clone / "reports")) for file in before}
    changed -= {
        str(f.relative_to(clone / "reports")) for f, now in state().items() if before[f] == now
    }
    assert changed == {
        "tables/concordance_summary.csv",
        "figures/fig_platform_concordance.png",
        "figures/fig_platform_concordance.svg",
        "paper.qmd",
        # No stage wrote this table: its row says "fetched" now.
        "provenance.json",
        "_provenance/runs.md",
        "_provenance/table.md",
        "_output/paper.html",
        "_output/paper.pdf",
    }
    text = (clone / "reports/paper.qmd").read_text(encoding="utf-8").splitlines()
    old = before[clone / "reports/paper.qmd"].decode().splitlines()
    # The correlation of Gini, and that of the effective number.
    assert [line.count(" 0.12 for") for line in text if line not in old] == [1, 1]


def test_a_changed_setting_that_was_not_composed_stops_the_run(clone):
    config = clone / "conf/config.yaml"
    before = config.read_text(encoding="utf-8")
    config.write_text(before.replace("draws: 2000", "draws: 1999"), encoding="utf-8")
    done = call(clone, "dvc", "repro")
    config.write_text(before, encoding="utf-8")
    assert done.returncode != 0
    assert "params.yaml does not follow from conf" in done.stdout
