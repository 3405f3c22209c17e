"""The paper's source: what fits simulated inputs, what fits real ones, and no number lost."""

import functools
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from stages.audit import provenance
from stages.base.errors import RenderError
from stages.heads.tables.attribution import HEAD_CONTROL_VARIATE
from stages.report import check, manuscript, source
from stages.report import text as words
from stages.report.writing import TEMPLATES, Templates

LABEL = r"\{#([\w-]+)[ }]"


def _squeezed(text):
    return " ".join(text.split())


def _read(markdown):
    """Return a paper's `head`, its `words`, its `sections` and its `tables`, by their labels.

    A section is its words up to the next header; a table its rows of cells, header first.
    """
    _, head, body = markdown.split("---\n", 2)
    sections, tables = {}, {}
    for part in re.split(r"(?m)^(?=#+ )", body):
        if label := re.match(rf"#.*{LABEL}", part):
            sections[label.group(1)] = _squeezed(part)
    pattern = rf"((?:^\|.*\n)+)\n: (?:.+\n)*?.*?{LABEL}"
    for block, label in re.findall(pattern, body, flags=re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", row)[1:-1] for row in block.splitlines()]
        tables[label] = [[_squeezed(cell) for cell in row] for row in rows]
    read = yaml.safe_load(head)
    return SimpleNamespace(
        head=read,
        abstract=_squeezed(read["abstract"]),
        text=body,
        words=_squeezed(body),
        sections=sections,
        tables=tables,
    )


READ_ONCE = functools.cache(Templates)
"""Of the paper's own folder: a test that changes a template has one of its own."""


@pytest.fixture
def project(study_folder, tmp_path, monkeypatch):
    """Return what writes all tables of a study, runs the stage and reads the paper."""
    monkeypatch.setattr(manuscript, "Templates", READ_ONCE)

    def go(platforms, **options):
        made = study_folder(platforms, **options)
        words = ["--cells", "cells.json", "--heads", "heads.json", "--overrides", "overrides.json"]
        words += ["--planted", "planted.csv"]
        words += ["--tables", "tables", "--paper", "paper.qmd"]
        assert manuscript.main(words) == 0
        paper = _read((tmp_path / "paper.qmd").read_text(encoding="utf-8"))
        paper.made = made
        return paper

    return go


def _signed(value, digits):
    return f"{value:+.{digits}f}".replace("-", words.MINUS)


def test_simulated_inputs_get_the_text_about_the_simulation(project):
    paper = project(["facs", "droplet"], simulated=True)
    assert paper.head["notice"].startswith("Simulated demo data and demo model: no finding.")
    assert paper.abstract.endswith(paper.head["notice"])
    assert "**Simulated** are TMS:" in paper.sections["sec-data"]
    assert {row[1][-1] for row in paper.tables["tbl-aging"][2:]} == {"‡"}
    recovery = paper.sections["sec-recovery"]
    assert "the true change of every tissue is known" in recovery
    assert "1 of 1 changes have the true sign, and 1 of 1 95% intervals hold the truth" in recovery
    assert len(paper.tables["tbl-recovery"]) == 3


def test_real_inputs_get_no_word_of_a_simulation(project):
    paper = project(["facs"], simulated=False)
    assert paper.head["notice"] == ""
    assert "simulated" not in paper.sections["sec-data"]
    assert "These inputs are real" in paper.sections["sec-recovery"]
    assert "tbl-recovery" not in paper.text
    assert {row[1] for row in paper.tables["tbl-aging"][2:]} == {"Limb Muscle"}


def test_one_platform_has_no_table_of_two(project):
    paper = project(["facs"], simulated=False)
    assert "no tissue that was compared on both" in paper.sections["sec-concordance"]
    paper = project(["facs", "droplet"], simulated=False)
    assert "changes with the same sign in 1 of 1 tissues" in paper.sections["sec-concordance"]


def test_values_are_those_of_the_tables(project):
    paper = project(["facs"], simulated=False)
    gini = paper.made["contrast"].set_index(["cells", "metric"]).loc[("all", "gini")]
    (row,) = paper.tables["tbl-aging"][2:]
    assert row[:3] == ["TMS FACS", "Limb Muscle", "3, 3"]
    assert row[3].startswith(f"{_signed(gini.change, 3)} [")
    assert row[4] == f"{gini.rank_p:.2f}"
    tissue = paper.sections["sec-tissue"]
    assert "show 1 comparison of old with young animals" in tissue
    assert "1 crystallize, 0 disperse. No direction is emphasised." in tissue
    # 3 against 3: two of the twenty arrangements are as extreme as any can be.
    assert "that could be reached lies between 0.1 and 0.1" in paper.sections["sec-direction"]
    (design,) = paper.tables["tbl-calibration"][2:]
    assert design[:3] == ["3, 3", "1", "0.1"]
    assert design[-1].startswith("0.0% [0.0%, ")
    (other,) = paper.tables["tbl-comparators"][2:]
    assert other[4].replace("\\|", "|") in {"B cell", "T cell", "a|b cell"}


def test_no_table_has_a_ragged_row(project):
    paper = project(["facs"], simulated=False)
    for table in paper.tables.values():
        assert len({len(row) for row in table}) == 1


def test_the_same_comparison_by_other_means(project):
    paper = project(["facs"], simulated=False)
    aged = paper.made["contrast"].set_index(["cells", "metric"])
    of_gini, of_number = paper.tables["tbl-otherwise"][2:]
    full, equal = aged.loc[("all", "gini")], aged.loc[("rarefied", "gini")]
    equal_change, shift, within, smallest = of_gini[3:]
    assert equal_change.startswith(f"{equal.change:+.3f} [")
    # Ranks of three against three give no interval at this level, and no brackets without one.
    assert pd.isna(full["shift_low"])
    assert shift == f"{full['shift']:+.3f}"
    assert within == f"{full['within_block_p']:.2f}"
    assert smallest == f"{full['within_block_p_smallest']:.2g}"
    assert of_number[2] == "ΔN~eff~"


def test_the_abstract_says_only_what_the_inputs_hold(project, cluster_tables):
    filled = project(["facs", "droplet"], simulated=True, clusters=cluster_tables.filled)
    assert "Of 2 tissues in simulated arms, 2 crystallize and 0 disperse" in filled.abstract
    assert "none of these directions is beyond chance" in filled.abstract
    assert "of 2 tissues of an arm point less than a right angle" in filled.abstract
    answer = re.search(r"of (\d+ systems?, .* would give)\.", filled.abstract).group(1)
    assert f"Of {answer}." in filled.sections["sec-maturing"]
    empty = project(["facs"], simulated=False)
    assert "Of 1 tissue in real arms," in empty.abstract
    assert "right angle" not in empty.abstract


def test_trainings_are_told_from_every_baseline(project):
    alone = project(["facs"], simulated=True)
    assert "tbl-baselines" not in alone.text
    paper = project(["facs"], simulated=True, trainings=3)
    heads = paper.sections["sec-heads"]
    assert "Over 3 trainings that differ in their seed alone" in heads
    (row,) = paper.tables["tbl-baselines"][2:]
    assert row[0] == "step 1"
    assert row[2].endswith("(3 of 3)")
    # L1H2 grows from nothing in every training.
    assert "at step 8 in 3." in heads


def test_heads_are_described_by_their_tables(project):
    paper = project(["facs"], simulated=True)
    heads, more = paper.sections["sec-heads"], paper.sections["sec-heads-where"]
    assert "the largest effect in step 8 is L1H2:" in more
    assert "follows 8 heads of pythia-mini from step 1 to step 8" in heads
    assert "2 layers and 8 heads in all" in paper.sections["sec-model"]
    first, last = re.search(
        r"goes from (0\.\d+) \(noise alone: .* to (0\.\d+) in step 8", heads
    ).groups()
    assert float(last) > 0.6 > float(first)
    # Noise keeps it from being silent at step 1, so it does not count as emergent.
    assert "Of 8 heads, 0 are born critical, 0 emergent, 1 growing," in more
    assert "so none could be born critical" not in more
    # With every true effect zero at step 1 the whole sum is noise, and the text must say so.
    assert "At step 1 more than 0.4 of the sum" in heads
    assert len(paper.tables["tbl-heads"]) == 4
    assert "Every effect is computed on every sequence." in paper.sections["sec-removal"]
    # Attribution that was drawn by chance names the largest head by chance alone.
    screen = paper.sections["sec-screen"]
    assert "Of the 1 heads with the largest effects" in screen
    assert len(paper.tables["tbl-screen"]) == 4
    assert "**Demo model.**" in paper.sections["sec-model"]


def test_one_state_has_no_change_to_show(project, cluster_tables):
    paper = project(["facs"], simulated=False, clusters=cluster_tables.filled, states={"main": 0.3})
    heads = paper.sections["sec-heads"]
    assert "One state of the model was measured, main: there is no change to show." in heads
    assert "of them to show" in paper.sections["sec-model"]
    # Only a state that is the first as well can make a critical head a born one.
    classes = pd.read_csv("tables/head_classes.csv")["head_class"].value_counts()
    more = paper.sections["sec-heads-where"]
    assert f"Of 8 heads {classes['born_critical']} are critical." in more
    assert set(classes.index) == {"born_critical", "never_critical"}
    assert "emergent" not in heads + more
    assert "the first" not in paper.sections["sec-screen"]
    for name, n_rows in (("tbl-heads", 1), ("tbl-screen", 1), ("tbl-granularity", 1)):
        rows = paper.tables[name][2:]
        assert [row[0] for row in rows] == ["main"] * n_rows
    assert "these inputs hold one state, main, and so no change" in paper.sections["sec-plane"]
    assert "fig-plane" not in paper.text


def test_states_that_are_no_steps_go_by_their_names(project, cluster_tables):
    paper = project(
        ["facs"],
        simulated=False,
        clusters=cluster_tables.filled,
        states={"warm_up": 0.0, "main": 0.3},
    )
    heads = paper.sections["sec-heads"]
    assert "follows 8 heads of y from warm_up to main, while" in heads.replace("local", "y")
    # In the order of the settings, not of the alphabet.
    assert [row[0] for row in paper.tables["tbl-heads"][2:]] == ["warm_up", "main"]
    assert [row[0] for row in paper.tables["tbl-screen"][2:]] == ["warm_up", "main"]
    assert "crystallize between warm_up and main." in paper.abstract
    more = paper.sections["sec-heads-where"]
    assert "The head with the largest effect in main is L1H2:" in more
    ours, _ = heads.split("**Published effects.**")
    assert not re.search(r"\bstep \d", ours + paper.abstract)


def test_a_control_variate_is_stated(project):
    row = ["head", "zero", 48, 48, 400, 48, 12]
    summary = pd.DataFrame(
        [["step16", 16, *row, 0.999, 0.9, 300.0], ["step64", 64, *row, 0.97, 0.7, 250.0]],
        columns=list(HEAD_CONTROL_VARIATE.columns),
    )
    removal = project(["facs"], simulated=True, summary=summary).sections["sec-removal"]
    assert "48 of the 400 sequences" in removal
    assert "12 are chosen for their unusual first-order attribution" in removal
    assert "explain 0.97 to 1.00 of the variance" in removal
    assert "on every sequence" not in removal


def test_published_effects_are_described_by_the_table_of_agreement(project):
    paper = project(["facs"], simulated=True, published=True)
    found, table = paper.sections["sec-companion"], paper.made["companion_agreement"]
    assert "setting the output of 4 of these heads to zero" in found
    assert "over the heads and the 2 states that both have" in found
    assert "0.1250 nats, is that of L1H1 in step 8." in found
    assert "differ by at most 0.2500 nats" in found
    first, last = (table.iloc[i] for i in (0, -1))
    ours, theirs = (_signed(last[key] - first[key], 3) for key in ("gini", "gini_companion"))
    assert "From step 1 to step 8 the Gini coefficient of these heads changes by" in found
    assert f"by {ours} (published effects: {theirs})" in found
    assert ours != theirs
    # The first step agrees, so the range of the correlation ends at 1.
    assert re.search(r"correlation of the effects is \S+ to 1\.000;", found)
    *_, of_last = paper.tables["tbl-companion"]
    assert of_last[:3] == ["step 8", "4", "+0.2500"]
    assert of_last[4:6] == ["0.1250", "L1H1"]


def test_without_published_effects_one_sentence_says_so(project):
    paper = project(["facs"], simulated=True)
    assert "No published effects of these heads" in paper.sections["sec-screen"]
    assert "sec-companion" not in paper.text
    assert "tbl-companion" not in paper.text


def test_without_clusters_one_sentence_says_so(project, settings):
    paper = project(["facs"], simulated=True)
    # The methods are told of all inputs alike.
    along = {*settings.clusters.resolutions, *settings.granularity["curve"].resolutions}
    assert f"cohort and platform at {len(along)} resolutions" in paper.sections["sec-clusters"]
    granularity = paper.sections["sec-granularity"]
    assert "These inputs name no counts of genes" in granularity
    for topic in ("kidney", "kimmel", "substates", "restriction", "planted"):
        assert f"{{#sec-{topic}}}" not in paper.text


def test_a_turn_over_clusters_is_told_from_one_between_types_and_clusters(project, cluster_tables):
    paper = project(
        ["facs", "droplet"], simulated=True, clusters=cluster_tables.filled, tissue="Kidney"
    )
    kidney, body = paper.sections["sec-kidney"], paper.sections["sec-granularity"]
    assert set(paper.made["contrast"]["quadrant"]) == {"crystallize"}
    assert (
        "Over annotated types it crystallizes in TMS FACS (3 types) and TMS droplet (3 types)."
    ) in body
    assert (
        "by resolution (@fig-kidney): TMS FACS disperses at every resolution (4 clusters);"
        " TMS droplet crystallizes at 0.2 and disperses from 0.8 to 1.6 (4 clusters)."
    ) in kidney
    assert "the direction turns in TMS droplet. In no arm are both emphasised." in body
    assert "In TMS FACS clusters of every granularity disperse" in body
    assert "the step from annotated types to clusters." in body
    assert "**simulated**" in body


def test_without_annotated_types_no_step_to_clusters_is_claimed(project, cluster_tables):
    paper = project(["facs"], simulated=False, clusters=cluster_tables.filled)
    body = paper.sections["sec-granularity"]
    assert "Over annotated types the kidney was not compared." in body
    assert "step from annotated types" not in body
    assert "simulated" not in body
    assert "sec-planted" not in paper.text


def test_stretches_of_one_direction(templates):
    macro = (TEMPLATES / "words.md.j2").read_text(encoding="utf-8")
    rows = pd.DataFrame({"resolution": [0.2, 0.8, 1.6], "quadrant": ["mixed"] + ["disperse"] * 2})
    said = [
        _squeezed(templates(macro + "{{ along(found) }}", found=part.to_dict("records")))
        for part in (rows, rows[1:], rows[:1])
    ]
    assert said == [
        "is mixed at 0.2 and disperses from 0.8 to 1.6",
        "disperses at every resolution",
        "is mixed at 0.2",
    ]


def test_an_unstable_direction_is_named_with_its_runs(project, cluster_tables):
    paper = project(["facs"], simulated=True, clusters=cluster_tables.filled)
    kimmel = paper.sections["sec-kimmel"]
    unstable = "Of 3 directions 2 are stable. Not stable: kidney at 0.8 (6 of 9 clusterings)."
    assert unstable in kimmel
    assert "at resolution 0.8: kidney crystallizes, spleen disperses." in kimmel
    assert "no p-value below 0.1 is possible, and 0 of the 12 tests have q" in kimmel
    assert "adjusted Rand index of 0.90 (median" in kimmel
    # What was asked of the other kidney is none of the validation cohort's.
    kidney = paper.sections["sec-kidney"]
    assert "Of 3 directions 2 are stable." in kidney
    assert "Kimmel droplet at 0.8 (6 of 9 clusterings)" in kidney


def test_substates_are_those_of_the_shown_resolution(project, cluster_tables):
    paper = project(["facs"], simulated=True, clusters=cluster_tables.filled)
    found = paper.sections["sec-substates"]
    assert "Of 3 comparisons of a type in a tissue and arm, 1 crystallize, 2 disperse" in found
    assert "Podocytes crystallize in kidney (TMS droplet): ΔGini +" in found
    assert "Macrophages disperse in kidney (TMS droplet): " in found
    # The macrophages turn between the two resolutions.
    assert "1 of 2 have the same direction at resolution 0.3." in found
    assert "to be compared: 1 type." in found


def test_a_rescue_says_what_its_intervals_are_over(project, cluster_tables):
    paper = project(["facs"], simulated=True, clusters=cluster_tables.filled)
    found = paper.sections["sec-restriction"]
    table = cluster_tables.filled.restriction
    row = table[
        (table["libraries"] == "mean") & (table["cells"] == "all") & (table["metric"] == "gini")
    ].iloc[0]
    assert f"takes back {row.rescue_fraction:.2f} [" in found
    assert "with 2 libraries a condition" in found
    assert "no two-sided p below 0.33 is possible, within sexes none below 0.50" in found
    assert "two conditions have 6 arrangements" in found
    assert "over cells" in found
    assert "held the truth in 46% of studies only" in found
    assert "(P > 0.999 for a rescue at all)" in found
    # A line that begins with ">" would be a quotation in Markdown.
    assert not re.search(r"(?m)^\s*[<>] ", paper.text)


def test_what_was_planted_is_compared_with_what_was_found(project, cluster_tables):
    paper = project(
        ["facs", "droplet"], simulated=True, clusters=cluster_tables.filled, tissue="Kidney"
    )
    planted = paper.sections["sec-planted"]
    assert "disperses over types and substates together in 2 of 2 arms" in planted
    assert "over annotated types in 2 of 2 and over the finest clusters in 2 of 2" in planted
    assert "podocytes crystallize and macrophages disperse in the simulation" in planted
    assert "Restriction takes back 0.6 of the drift of the mean composition" in planted


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
    paper = project(["facs"], simulated=True, clusters=found._replace(substates=wrong))
    assert "; another is found in podocyte (TMS droplet, Kidney)." in paper.sections["sec-planted"]


@pytest.mark.parametrize("simulated", [False, True])
@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("published", [False, True])
def test_the_paper_finds_all_it_refers_to(
    project, repository, tmp_path, cluster_tables, published, filled, simulated
):
    made = cluster_tables.filled if filled else cluster_tables.empty
    paper = project(["facs", "droplet"], simulated=simulated, published=published, clusters=made)
    for name in ("_quarto.yml", "references.bib", "paper.css", "paper.lua", "style.typ"):
        shutil.copy(repository / "reports" / name, tmp_path)
    # The check asks only whether a figure is there; drawing them is tested elsewhere. So are the
    # words on provenance, which another stage writes.
    (tmp_path / "_provenance").mkdir()
    (tmp_path / "_provenance" / "runs.md").write_text("One run.\n", encoding="utf-8")
    row = words.pipe_table(["Stage"], [["`study`"]], align="l")
    (tmp_path / "_provenance" / "table.md").write_text(row + "\n", encoding="utf-8")
    (tmp_path / "figures").mkdir()
    drawn = set(re.findall(r"\((figures/\w+\.svg)\)", paper.text))
    assert len(drawn) > 5
    for name in drawn:
        (tmp_path / name).touch()
    (tmp_path / "scratch").mkdir()
    read = source.read_source(tmp_path, "paper.qmd")
    used = check.check_source(read, folder=tmp_path / "scratch")
    assert drawn <= set(used)
    assert "One run." in read.text
    assert ("## Beside published effects" in read.text) == published
    assert ("figures/fig_kidney_symmetry.svg" in used) == filled
    assert not re.search(r"\{%|\{\{(?!<)|None|Undefined", paper.text)


def test_both_systems_lie_in_one_plane(project, cluster_tables):
    paper = project(["facs"], simulated=True, clusters=cluster_tables.filled)
    found = paper.sections["sec-plane"]
    assert "Of 1 tissue of an arm" in found
    counted = pd.read_csv("tables/splits.csv")
    counted = counted[(counted["reference_system"] == "heads") & (counted["scale"] == "corrected")]
    row = counted[counted["criterion"] == "right_angle"].iloc[0]
    assert f"{row.n_agree} point less than a right angle away" in found
    assert f"split at random {row.expected:.1f} would" in found
    assert "fig-plane" in found
    assert "fig-plane" not in project(["facs"], simulated=True).sections["sec-plane"]


def test_the_ledger_reproduces_nothing_on_simulated_cells(project):
    paper = project(["facs"], simulated=True)
    # But for the rows that name a study.
    rows = [row for row in paper.tables["tbl-claims"][2:] if row[3]]
    verdict = {row[0]: row[3] for row in rows}
    pythia = "The heads of Pythia-410M crystallize from step 512 to step 143,000"
    # From its published effects, which are real.
    assert verdict.pop(pythia) == "reproduced"
    of_results = [of for of in verdict.values() if "published results" in of]
    assert set(verdict.values()) - set(of_results) == {"not testable"}
    assert len(of_results) > 10
    assert f"Of {len(rows)}, 1 is reproduced and 0 differ;" in paper.sections["sec-claims"]
    assert f"Reproduced: {pythia} (2 of 2 numbers agree" in paper.sections["sec-claims"]


def test_settings_that_were_changed_are_named(project, tmp_path):
    paper = project(["facs"], simulated=False)
    assert "All settings are those of the repository." in paper.sections["sec-availability"]
    (tmp_path / "overrides.json").write_text('{"contrast.x": "1|2", "b": "c"}', encoding="utf-8")
    words = ["--cells", "cells.json", "--heads", "heads.json", "--overrides", "overrides.json"]
    words += ["--planted", "planted.csv"]
    words += ["--tables", "tables", "--paper", "paper.qmd"]
    assert manuscript.main(words) == 0
    text = (tmp_path / "paper.qmd").read_text(encoding="utf-8")
    assert "`contrast.x` = `1|2` and `b` = `c`." in text


# Templates


@pytest.fixture
def templates(tmp_path):
    """Return what fills one template."""

    def go(markdown, **values):
        (tmp_path / "x.md.j2").write_text(markdown, encoding="utf-8")
        return Templates(tmp_path).fill("x.md.j2", values)

    return go


FAULTS = {
    "unknown value": ("A\n{{ b }}", "x.md.j2, line 2: 'b' is undefined. Correct"),
    "unknown value in a filter": ("{{ n | number(2) }}", "x.md.j2, line 1: 'n' is undefined"),
    "unknown part of a value": (
        "A\n\n{{ row.y }}",
        "x.md.j2, line 3: 'dict object' has no attribute 'y'. Correct",
    ),
    "unknown value in a condition": ("{% if b %}x{% endif %}", "line 1: 'b' is undefined"),
    "unknown filter": ("A\n{{ row.x | nombre }}", "x.md.j2, line 2: No filter named 'nombre'."),
    "no template": ("{% include 'y.md.j2' %}", "there is no template y.md.j2. Restore it"),
    "broken template": ("A\n{% if row %}", "x.md.j2, line 2: "),
    "float without digits": (
        "A\n{{ row.x }}",
        "x.md.j2, line 2: the value 0.125 has no filter that says how it is written.",
    ),
    "nothing in place of a value": ("{{ row.none }}", "line 1: the value None has no filter"),
    "row with too few cells": (
        '{% filter table("lr") %}\na | b\n{{ row.name }}\n{% endfilter %}',
        "has 1 cells, not 2",
    ),
    "no name": ("{{ row.none | tissue_name }}", "x.md.j2, line 1: 'NoneType' object has no"),
    "wrong kind of value": ("A\n{{ row.name | number(1) }}", "x.md.j2, line 2: must be real"),
    "number by hand": (
        "A\n\nThe change was +0.145.",
        "x.md.j2, line 3: the number +0.145 stands in the text by hand. Put in a value of a table",
    ),
    "number by hand beside a value": ("{{ row.name }} of 24 mice", "line 1: the number 24 stands"),
    "number by hand under a condition": (
        "{% if row %}\nA\n{% else %}\nOf 24 mice.\n{% endif %}",
        "x.md.j2, line 4: the number 24 stands",
    ),
    "number by hand in a string": ('{{ "24 mice" if row else "" }}', "the number 24 stands"),
    "number by hand in a caption": ("![In 24 mice](a.png){#fig-a}", "the number 24 stands"),
    "measured number as mathematics": ("It was $G = 0.145$.", "the number 0.145 stands"),
    "number by hand in the abstract": (
        "---\ntitle: T\nabstract: |\n  It was 7%.\n---\n",
        "x.md.j2, line 4: the number 7% stands in the text by hand.",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_template_is_one_line_that_names_it(templates, fault):
    markdown, message = FAULTS[fault]
    with pytest.raises(RenderError) as caught:
        templates(markdown, row={"x": 0.125, "none": None, "name": "a"})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_digits_that_are_no_result_may_stand_in_a_template(templates):
    lines = ["Pythia-410M has L3H2, $1 - 1/n$ is a maximum and `x[1] = 2.5` code; 10x is a name."]
    lines += ["See [@gini1912, p. 3] and a [link](https://example.org/2026/1).", "1. An item."]
    lines += ["$$ G = 2 $$ {#eq-x}", "{{ n }} of {{ 0.5 | number(2) }}", "<# 24 mice #>"]
    markdown = "\n\n".join(lines)
    assert templates(markdown, n=1234).endswith("1,234 of 0.50\n\n")


def test_a_name_of_a_table_may_hold_bars(templates):
    markdown = '{% filter table("ll") %}\na | b\n{{ name }} | {{ n }}\n{% endfilter %}\n'
    assert templates(markdown, name="x|y", n=1) == "| a | b |\n|:--|:--|\n| x\\|y | 1 |\n"


def test_undefined_numbers_are_dashes(templates):
    markdown = (
        "{{ x | number(2) }} {{ x | p_value }} {{ row | change }} {{ row | estimate('y', 1) }}"
    )
    row = {"metric": "gini", "change": 0.5, "change_low": np.nan, "change_high": np.nan}
    row |= {"y": np.nan, "y_low": 1.0, "y_high": 2.0}
    dash = words.DASH
    assert templates(markdown, x=np.nan, row=row) == f"{dash} {dash} +0.500 {dash}"


def test_every_template_is_used():
    texts = {path: path.read_text(encoding="utf-8") for path in TEMPLATES.rglob("*.j2")}
    named = set(re.findall(r'(?:include|import) "([\w/.]+)"', "".join(texts.values())))
    named |= set(manuscript.PAPERS.values())
    named |= {f"provenance/{name}.j2" for name in provenance.INCLUDED}
    assert named == {path.relative_to(TEMPLATES).as_posix() for path in texts}
