"""The values of the paper: what fits simulated inputs, what fits real ones, and no number lost."""

import re
import shutil

import pandas as pd
import pytest
import yaml

from stages.heads.tables.attribution import HEAD_CONTROL_VARIATE
from stages.report import check, source, values
from stages.report import text as words


@pytest.fixture
def project(study_folder, repository, tmp_path):
    """Return what writes all tables of a study, runs the stage and reads its outputs."""

    def go(platforms, **options):
        made = study_folder(platforms, **options)
        words = ["--cells", "cells.json", "--heads", "heads.json", "--overrides", "overrides.json"]
        words += ["--tables", "tables", "--planted", "planted.csv", "--includes", "_includes"]
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


def test_the_same_comparison_by_other_means(project):
    _, includes, made = project(["facs"], simulated=False)
    aged = made["aging"].set_index(["cells", "metric"])
    of_gini, of_number = includes["table_aging_otherwise"].splitlines()[2:]
    full, equal = aged.loc[("all", "gini")], aged.loc[("rarefied", "gini")]
    equal_change, shift, within, smallest = of_gini.split(" | ")[3:]
    assert equal_change.startswith(f"{equal.change:+.3f} [")
    # Ranks of three against three give no interval at this level, and no brackets without one.
    assert pd.isna(full["shift_low"])
    assert shift == f"{full['shift']:+.3f}"
    assert within == f"{full['within_sex_p']:.2f}"
    assert smallest == f"{full['within_sex_p_smallest']:.2g} |"
    assert of_number.split(" | ")[2] == "ΔN~eff~"


def test_the_abstract_says_only_what_the_inputs_hold(project, cluster_tables):
    filled, _, _ = project(["facs", "droplet"], simulated=True, clusters=cluster_tables.filled)
    abstract = filled["abstract"]
    assert (
        "the direction of the kidney turns with granularity in TMS droplet, and"
        in (abstract["clusters"])
    )
    # Four were followed through nine runs each; of one, three runs go the other way.
    assert "3 of 4 directions over clusters hold" in abstract["clusters"]
    assert filled["restriction"]["gini_fraction"] in abstract["restriction"]
    assert abstract["plane"].startswith(f"Of {filled['plane']['n_tissues']}, ")
    empty, _, _ = project(["facs"], simulated=True)
    assert set(empty["abstract"].values()) == {""}


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
        columns=list(HEAD_CONTROL_VARIATE.columns),
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


def test_without_clusters_one_sentence_says_so(project, settings):
    variables, includes, _ = project(["facs"], simulated=True)
    topics = ("kidney", "kimmel", "substates", "restriction")
    assert all(variables[topic] == {} for topic in topics)
    # The methods are told of all inputs alike.
    along = {*settings.clusters.resolutions, *settings.granularity["curve"].resolutions}
    assert variables["clusters"]["n_curve"] == str(len(along))
    assert includes["section_clusters"].startswith("These inputs name no counts of genes")
    assert "include" not in includes["section_clusters"]


def test_a_turn_over_clusters_is_told_from_one_between_types_and_clusters(project, cluster_tables):
    variables, includes, made = project(
        ["facs", "droplet"], simulated=True, clusters=cluster_tables.filled, tissue="Kidney"
    )
    kidney = variables["kidney"]
    assert set(made["aging"]["quadrant"]) == {"crystallize"}
    assert kidney["types_sentence"] == (
        "Over annotated types it crystallizes in TMS droplet (3 types) and TMS FACS (3 types)."
    )
    assert kidney["along"] == (
        "TMS droplet crystallizes at 0.2 and disperses from 0.8 to 1.6 (4 clusters); "
        "TMS FACS disperses at every resolution (4 clusters)"
    )
    turn = kidney["turn_sentence"]
    assert "the direction turns in TMS droplet." in turn
    assert "for both metrics, are found in TMS droplet." in turn
    assert "In TMS FACS clusters of every granularity disperse" in turn
    assert "the step from annotated types to clusters" in turn
    # Equal results share a row: two arms of types, and of 0.2 and 0.8 to 1.6, or of all three.
    rows = [row.split(" | ")[1] for row in includes["table_kidney"].splitlines()[2:]]
    assert rows == ["types", "0.2", "0.8–1.6", "types", "0.2–1.6"]  # noqa: RUF001


def test_without_annotated_types_no_step_to_clusters_is_claimed(project, cluster_tables):
    variables, _, _ = project(["facs"], simulated=False, clusters=cluster_tables.filled)
    kidney = variables["kidney"]
    assert kidney["types_sentence"] == "Over annotated types the kidney was not compared."
    assert "step from annotated types" not in kidney["turn_sentence"]
    assert variables["planted"] == {}


def test_an_unstable_direction_is_named_with_its_runs(project, cluster_tables):
    variables, includes, _ = project(["facs"], simulated=True, clusters=cluster_tables.filled)
    kimmel = variables["kimmel"]
    assert kimmel["stable_sentence"] == (
        "Of 3 directions 2 are stable. Not stable: kidney at 0.8 (6 of 9 runs)."
    )
    assert kimmel["at_reference"] == "kidney crystallizes, spleen disperses"
    assert (kimmel["p_smallest"], kimmel["n_significant"]) == ("0.1", "0")
    assert kimmel["ari"] == "0.90"
    lines = includes["table_kimmel"].splitlines()
    assert any("| 6 of 9 | 0.90 |" in line and line.startswith("| Kidney | 0.8") for line in lines)
    # What was asked of the other kidney is none of the validation cohort's.
    assert variables["kidney"]["stable_sentence"].startswith("Of 3 directions 2 are stable.")


def test_substates_are_those_of_the_shown_resolution(project, cluster_tables):
    variables, includes, _ = project(["facs"], simulated=True, clusters=cluster_tables.filled)
    found = variables["substates"]
    assert (found["n_compared"], found["n_crystallize"], found["n_disperse"]) == (
        "3 comparisons",
        "1",
        "2",
    )
    assert found["named_sentence"].startswith("Podocytes crystallize in kidney (TMS droplet): ")
    assert "Macrophages disperse in kidney (TMS droplet): " in found["named_sentence"]
    # The macrophages turn between the two resolutions.
    assert found["other_sentence"] == "1 of 2 have the same direction at resolution 0.3."
    assert found["n_not_compared"] == "1 type"
    assert "fenestrated\\|cell" in includes["table_substates"]


def test_a_rescue_says_what_its_intervals_are_over(project, cluster_tables):
    variables, includes, _ = project(["facs"], simulated=True, clusters=cluster_tables.filled)
    found, passage = variables["restriction"], includes["section_restriction"]
    table = cluster_tables.filled.restriction
    row = table[
        (table["libraries"] == "mean") & (table["cells"] == "all") & (table["metric"] == "gini")
    ].iloc[0]
    assert found["gini_fraction"].startswith(f"{row.rescue_fraction:.2f} [")
    assert (found["n_libraries"], found["p_smallest"]) == ("2", "0.33")
    assert (found["n_arrangements"], found["p_smallest_within_sex"]) == ("6", "0.50")
    tests = includes["table_restriction_tests"].splitlines()[2:]
    assert len(tests) == 4
    assert all(row.endswith("| 0.33 | 0.33 | 0.50 | 0.50 |") for row in tests)
    assert "over cells" in passage
    assert "clusters.simulated_coverage >}}" in passage
    assert variables["clusters"]["simulated_coverage"] == "46%"
    # A value that begins with ">" would be a quotation in Markdown.
    assert found["gini_probability"] == "P > 0.999"
    assert not any(value.startswith((">", "<")) for value in found.values())


def test_what_was_planted_is_compared_with_what_was_found(project, cluster_tables):
    variables, includes, _ = project(
        ["facs", "droplet"], simulated=True, clusters=cluster_tables.filled, tissue="Kidney"
    )
    planted = variables["planted"]
    assert "disperses over types and substates together in 2 of 2 arms" in planted["kidney"]
    assert (
        "over annotated types in 2 of 2 and over the finest clusters in 2 of 2" in planted["kidney"]
    )
    assert (
        "podocytes crystallize and macrophages disperse in the simulation" in planted["substates"]
    )
    assert (
        "Restriction takes back 0.6 of the drift of the mean composition" in planted["restriction"]
    )
    assert "no published claim is tested" in includes["section_planted"]


def test_a_wrong_direction_is_named(project, cluster_tables):
    turned = {"crystallize": "disperse", "disperse": "crystallize"}
    found = cluster_tables.filled
    wrong = found.substates.assign(
        quadrant=[
            turned[quadrant] if kind == "podocyte" else quadrant
            for kind, quadrant in zip(
                found.substates["cell_type"], found.substates["quadrant"], strict=True
            )
        ]
    )
    variables, _, _ = project(["facs"], simulated=True, clusters=found._replace(substates=wrong))
    sentence = variables["planted"]["substates"]
    assert sentence.endswith("; another is found in podocyte (TMS droplet, Kidney).")


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("published", [False, True])
def test_the_paper_finds_all_it_refers_to(
    project, repository, tmp_path, cluster_tables, published, filled
):
    clusters = cluster_tables.filled if filled else cluster_tables.empty
    project(["facs", "droplet"], simulated=True, published=published, clusters=clusters)
    for name in ("paper.qmd", "_quarto.yml", "references.bib", "paper.css"):
        shutil.copy(repository / "reports" / name, tmp_path)
    text = (tmp_path / "paper.qmd").read_text(encoding="utf-8")
    for section in sorted((tmp_path / "_includes").glob("section_*.md")):
        text += section.read_text(encoding="utf-8")
    # The check asks only whether a figure is there; drawing them is tested elsewhere. So are the
    # words on provenance, which another stage writes.
    (tmp_path / "_provenance").mkdir()
    (tmp_path / "_provenance" / "runs.md").write_text("One run.\n", encoding="utf-8")
    row = words.pipe_table(["Stage"], [["`study`"]], align="l")
    (tmp_path / "_provenance" / "table.md").write_text(row + "\n", encoding="utf-8")
    (tmp_path / "figures").mkdir()
    drawn = set(re.findall(r"\((figures/\w+\.svg)\)", text))
    assert len(drawn) > 5
    for name in drawn:
        (tmp_path / name).touch()
    (tmp_path / "scratch").mkdir()
    paper = source.read_source(tmp_path, "paper.qmd")
    used = check.check_source(paper, folder=tmp_path / "scratch")
    assert drawn <= set(used)
    assert ("## Beside published effects" in paper.text) == published
    assert ("figures/fig_kidney_symmetry.svg" in used) == filled


def test_a_second_run_replaces_the_includes_whole(project, tmp_path):
    _, includes, _ = project(["facs"], simulated=False)
    (tmp_path / "_includes" / "left_over.md").write_text("old", encoding="utf-8")
    _, again, _ = project(["facs"], simulated=False)
    assert set(again) == set(includes)


def test_both_systems_lie_in_one_plane(project, cluster_tables):
    variables, includes, _ = project(["facs"], simulated=True, clusters=cluster_tables.filled)
    found = variables["plane"]
    assert (found["step_first"], found["step_last"], found["n_steps"]) == (
        "1",
        "8",
        "2 checkpoints",
    )
    # L1H2 grows: more Gini, fewer effective heads.
    assert found["heads_quadrant"] == "crystallize"
    assert found["n_tissues"] == "1 tissue of an arm"
    # All is noise at the first step, and the text must say what that does to the intervals.
    assert "are not to be believed" in found["noise_sentence"]
    assert "fig-plane" in includes["section_plane"]
    _, includes, _ = project(["facs"], simulated=True)
    assert "fig-plane" not in includes["section_plane"]


def test_the_ledger_reproduces_nothing_on_simulated_inputs(project):
    variables, includes, _ = project(["facs"], simulated=True)
    counted = variables["claims"]
    assert (counted["n_reproduced"], counted["n_differs"]) == ("0", "0")
    assert counted["n_claims"].startswith(counted["n_not_testable"])
    assert "not testable" in includes["table_claims"]
