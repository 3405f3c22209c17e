"""The values of the paper: what fits simulated inputs, what fits real ones, and no number lost."""

import copy
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from stages import study, tables
from stages.ablation import (
    attribution,
    classes,
    companion,
    control_variate,
    distribution,
    importance,
    noise_floor,
    screen,
    trajectory,
)
from stages.composition import aging, concordance, describe, drivers, metrics, proportions
from stages.composition.recovery import recovery
from stages.manuscript import check, source, values

KINDS = ["B cell", "T cell", "a|b cell"]


def _cells(platforms, tissue="Limb_Muscle"):
    rows = []
    for platform in platforms:
        for group, months, weights in (("young", 3.0, (40, 35, 25)), ("old", 24.0, (70, 20, 10))):
            for i in range(3):
                for kind, n in zip(KINDS, weights, strict=True):
                    sample = ["tms", platform, tissue, f"{group}{i}", "male", months, group]
                    rows.append([*sample, kind, n + i])
    return pd.DataFrame(rows, columns=list(tables.COUNTS.columns))


def _write_head_tables(folder):
    """Run the analysis of heads on effects in which head L1H2 grows and all else is noise."""
    rng = np.random.default_rng(0)
    for step, size in ((1, 0.0), (8, 0.3)):
        rows = []
        for layer in range(2):
            for head in range(4):
                effect = rng.normal(0, 0.01, 12) + size * ((layer, head) == (1, 2))
                for sequence, delta in enumerate(effect):
                    key = [step, "head", "zero", layer, head, 0, sequence]
                    rows.append([*key, 3.0, 3.0 + delta, (3.0 + delta) - 3.0])
        table = pd.DataFrame(rows, columns=list(tables.EFFECTS_PER_SEQUENCE.columns))
        Path("effects").mkdir(exist_ok=True)
        table.to_parquet(f"effects/step{step}.parquet")
        first_order = np.random.default_rng(step).normal(0, 0.01, (12, 2, 4))
        features = attribution.Features(
            first_order, first_order**2, np.ones((12, 2, 4)), np.full(12, 3.0)
        )
        out = Path(f"attribution/step{step}.parquet")
        made_table = attribution.to_table(features, step)
        tables.write_parquet(made_table, tables.ATTRIBUTION, out, metadata={})
    found, made = "--effects effects".split(), f"{folder}/head_"
    assert importance.main([*found, "--out", f"{made}importance.csv"]) == 0
    assert noise_floor.main([*found, "--out", f"{made}noise_floor.csv"]) == 0
    words = [*found, "--noise-floor", f"{made}noise_floor.csv", "--out", f"{made}trajectory.csv"]
    assert trajectory.main([*words, "--change", f"{made}change.csv"]) == 0
    words = ["--importance", f"{made}importance.csv", "--out"]
    assert classes.main([*words, f"{made}classes.csv"]) == 0
    fits = [f"{made}distribution.csv", "--granularity", f"{made}granularity.csv"]
    assert distribution.main([*words, *fits]) == 0
    found = [*found, "--attribution", "attribution", "--out"]
    assert screen.main([*found, f"{made}screen.csv"]) == 0
    words = [*found, "estimates", "--summary", f"{made}control_variate.csv"]
    assert control_variate.main(words) == 0


def _published_effects(folder, moved):
    """Return published effects of half of the heads of `_write_head_tables`, one of them moved."""
    ours = tables.read(folder / "head_importance.csv", tables.HEAD_IMPORTANCE)
    theirs = ours[ours["head"] < 2].copy()
    at = (theirs["step"] == 8) & (theirs["layer"] == 1) & (theirs["head"] == 1)
    theirs.loc[at, "delta_loss_nats"] += moved
    return companion.agreement(ours, theirs.assign(loss_base=theirs["loss_base"] - 0.25))


@pytest.fixture
def project(settings, params, repository, tmp_path, monkeypatch):
    """Return what writes all tables of a study, runs the stage and reads its outputs."""

    def go(platforms, *, simulated, published=False, summary=None):
        folder = tmp_path / "tables"
        counted = _cells(platforms)
        shares, excluded = proportions.proportions(counted, settings.proportions)
        measured = metrics.metrics(shares, settings.metrics)
        aged, skipped = aging.aging(measured, settings.aging)
        described = describe.samples(counted, pooled_pattern="/")
        both = concordance.concordance(aged, settings.concordance)
        truth = tables.empty(tables.TRUTH)
        if simulated:
            row = aged[(aged["metric"] == "gini") & (aged["cells"] == "all")].iloc[0]
            key = [row.cohort, row.platform, row.tissue, "gini"]
            truth = pd.DataFrame([[*key, row.change, row.change]], columns=list(truth.columns))
        made = {
            "samples": described,
            "confounding": describe.confounding(described),
            "proportions": shares,
            "exclusions": excluded,
            "aging": aged,
            "not_compared": skipped,
            "concordance": both,
            "concordance_summary": concordance.summary(both, settings.concordance, rng=None),
            "drivers": drivers.drivers(measured, shares, settings.drivers),
            "recovery": recovery(truth, aged),
        }
        for name, table in made.items():
            tables.write(table, getattr(tables, name.upper()), folder / f"{name}.csv")
        notice = "Simulated demo data: no finding." if simulated else ""
        cells = study.Study("x", "demo", simulated, notice)
        heads = study.Study("y", "mini", simulated, "Demo model: no finding." if simulated else "")
        for name, content in (
            ("cells", cells.__dict__),
            ("heads", heads.__dict__),
            ("overrides", {}),
        ):
            (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        changed = copy.deepcopy(params)
        if not simulated:
            changed["atlas"] |= {"source": "local", "acquire": {}}
            del changed["atlas"]["seed"]
        changed["model"]["checkpoints"] = [1, 8]
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed))
        monkeypatch.chdir(tmp_path)
        _write_head_tables(folder)
        if summary is not None:
            out = folder / "head_control_variate.csv"
            tables.write(summary, tables.HEAD_CONTROL_VARIATE, out)
        agreement = tables.empty(tables.COMPANION_AGREEMENT)
        if published:
            agreement = _published_effects(folder, moved=-0.125)
        tables.write(agreement, tables.COMPANION_AGREEMENT, folder / "companion_agreement.csv")
        made["companion_agreement"] = agreement
        words = ["--cells", "cells.json", "--heads", "heads.json", "--overrides", "overrides.json"]
        words += ["--tables", "tables", "--includes", "_includes"]
        words += ["--sections", str(repository / "reports" / "sections")]
        assert values.main([*words, "--variables", "_variables.yml"]) == 0
        text = (tmp_path / "_variables.yml").read_text(encoding="utf-8")
        includes = {path.stem: path.read_text() for path in (tmp_path / "_includes").iterdir()}
        return yaml.safe_load(text), includes, made

    return go


def test_simulated_inputs_get_the_text_about_the_simulation(project):
    variables, includes, _ = project(["facs", "droplet"], simulated=True)
    assert variables["notice"].startswith("Simulated demo data and demo model: no finding.")
    assert "**simulated**" in includes["section_inputs"]
    assert "the true change of every tissue is known" in includes["section_recovery"]
    assert variables["recovery"] == {"n": "1", "n_covered": "1", "n_same_sign": "1"}


def test_real_inputs_get_no_word_of_a_simulation(project):
    variables, includes, _ = project(["facs"], simulated=False)
    assert variables["notice"] == ""
    assert "simulated" not in includes["section_inputs"]
    assert "{#tbl-recovery}" not in includes["section_recovery"]


def test_one_platform_has_no_table_of_two(project):
    _, includes, _ = project(["facs"], simulated=False)
    assert "no tissue that was compared on both" in includes["section_concordance"]
    assert "table_concordance" not in includes["section_concordance"]


def test_values_are_those_of_the_tables(project):
    variables, includes, made = project(["facs"], simulated=False)
    aged = made["aging"].set_index(["cells", "metric"])
    gini = aged.loc[("all", "gini")]
    assert f"+{gini.change:.3f}" in includes["table_aging"]
    assert f"{gini.mann_whitney_p:.2f}" in includes["table_aging"]
    kept = made["proportions"]["n_cells"].sum()
    assert variables["data"]["n_cells"] == f"{kept:,}"
    assert variables["aging"]["n_crystallize"] == "1"
    assert variables["aging"]["list_crystallize"] == "limb muscle (TMS FACS)"
    # 3 against 3: two of the twenty arrangements are as extreme as any can be.
    assert variables["aging"]["smallest_p"] == "0.1"


def test_every_value_is_text_and_a_bar_in_a_name_breaks_no_table(project):
    variables, includes, _ = project(["facs"], simulated=False)

    def leaves(node):
        return [v for x in node.values() for v in leaves(x)] if isinstance(node, dict) else [node]

    assert all(isinstance(leaf, str) for leaf in leaves(variables))
    rows = includes["table_drivers"].splitlines()
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1
    assert "a\\|b cell" in includes["table_drivers"]


def test_heads_are_described_by_their_tables(project):
    variables, includes, _ = project(["facs"], simulated=True)
    heads = variables["heads"]
    assert (heads["largest"], heads["n_heads"], heads["n_layers"]) == ("L1H2", "8", "2")
    assert float(heads["gini_last"]) > 0.6 > float(heads["gini_first"])
    assert heads["direction"] == "crystallize"
    # Noise keeps it from being silent at step 1, so it does not count as emergent.
    assert (heads["n_growing"], heads["n_born_critical"]) == ("1", "0")
    # With every true effect zero at step 1 the whole sum is noise, and the text must say so.
    assert float(heads["noise_share_first"]) > 0.4 > float(heads["noise_share_last"])
    assert "At step 1 more than 0.4 of the sum" in heads["noise_sentence"]
    assert len(includes["table_heads"].splitlines()) == 4
    assert heads["estimator_sentence"] == "Every effect is computed on every sequence."
    # Attribution that was drawn by chance names the largest head by chance alone.
    screen = variables["screen"]
    assert (screen["n_top"], screen["gini_exact_last"]) == ("1", heads["gini_last"])
    assert len(includes["table_screen"].splitlines()) == 4
    assert "**Demo model.**" in includes["section_model"]


def test_a_control_variate_is_stated(project):
    row = ["head", "zero", 48, 48, 400, 48, 12]
    summary = pd.DataFrame(
        [[16, *row, 0.999, 0.9, 300.0], [64, *row, 0.97, 0.7, 250.0]],
        columns=list(tables.HEAD_CONTROL_VARIATE.columns),
    )
    variables, _, _ = project(["facs"], simulated=True, summary=summary)
    sentence = variables["heads"]["estimator_sentence"]
    assert "48 of the 400 sequences" in sentence
    assert "12 are chosen for their unusual first-order attribution" in sentence
    assert "explain 0.97 to 1.00 of the variance" in sentence


def test_published_effects_are_described_by_the_table_of_agreement(project):
    variables, includes, made = project(["facs"], simulated=True, published=True)
    found, table = variables["companion"], made["companion_agreement"]
    assert (found["n_heads"], found["n_steps"]) == ("4", "2 checkpoints")
    assert (found["largest"], found["largest_step"]) == ("L1H1", "8")
    assert (found["largest_difference"], found["loss_difference"]) == ("0.1250", "0.2500")
    first, last = (table.iloc[i] for i in (0, -1))
    ours, theirs = (f"{last[key] - first[key]:+.3f}" for key in ("gini", "gini_companion"))
    sentence = found["change_sentence"].replace("\N{MINUS SIGN}", "-")
    assert sentence.startswith("From step 1 to step 8 the Gini coefficient of these heads")
    assert f"by {ours} (published effects: {theirs})" in sentence
    assert ours != theirs
    # The first step agrees, so the range of the correlation ends at 1.
    assert found["spearman"].endswith(" to 1.000")
    assert "@tbl-companion" in includes["section_companion"]
    *_, of_last = includes["table_companion"].splitlines()
    assert of_last.startswith("| 8 | 4 | +0.2500 |")
    assert "| 0.1250 | L1H1 |" in of_last


def test_without_published_effects_one_sentence_says_so(project):
    variables, includes, _ = project(["facs"], simulated=True)
    assert variables["companion"] == {}
    assert includes["section_companion"].startswith("No published effects of these heads")
    assert "companion" not in includes["section_companion"]


@pytest.mark.parametrize("published", [False, True])
def test_the_paper_finds_all_it_refers_to(project, repository, tmp_path, published):
    project(["facs", "droplet"], simulated=True, published=published)
    for name in ("paper.qmd", "_quarto.yml", "references.bib", "paper.css"):
        shutil.copy(repository / "reports" / name, tmp_path)
    text = (tmp_path / "paper.qmd").read_text(encoding="utf-8")
    text += (tmp_path / "_includes" / "section_concordance.md").read_text(encoding="utf-8")
    # The check asks only whether a figure is there; drawing them is tested elsewhere.
    (tmp_path / "figures").mkdir()
    drawn = set(re.findall(r"\((figures/\w+\.svg)\)", text))
    assert len(drawn) > 5
    for name in drawn:
        (tmp_path / name).touch()
    (tmp_path / "scratch").mkdir()
    paper = source.read_source(tmp_path, "paper.qmd")
    assert drawn <= set(check.check_source(paper, folder=tmp_path / "scratch"))
    assert ("## Beside published effects" in paper.text) == published


def test_a_second_run_replaces_the_includes_whole(project, tmp_path):
    _, includes, _ = project(["facs"], simulated=False)
    (tmp_path / "_includes" / "left_over.md").write_text("old", encoding="utf-8")
    _, again, _ = project(["facs"], simulated=False)
    assert set(again) == set(includes)
