"""The summaries: from the tables alone, under the notice of simulated inputs, whole without any."""

import re

import pytest

from stages.report import manuscript

NAMES = {"components", "kimmel_validation", "substates", "results"}
NOTHING = "These inputs have nothing to summarise here."
WORDS = [
    *("--cells", "cells.json", "--heads", "heads.json", "--overrides", "overrides.json"),
    *(
        "--planted",
        "planted.csv",
        "--tables",
        "tables",
        "--paper",
        "paper.qmd",
        "--summaries",
        "summaries",
    ),
]


@pytest.fixture
def written(study_folder, tmp_path):
    """Return what writes all tables of a study, runs the stage and reads the summaries."""

    def go(platforms, **options):
        study_folder(platforms, **options)
        assert manuscript.main(WORDS) == 0
        return {
            path.stem: path.read_text(encoding="utf-8")
            for path in (tmp_path / "summaries").iterdir()
        }

    return go


def _words(markdown):
    return " ".join(markdown.split())


def _tables(markdown):
    """Return the pipe tables of a text, each as its rows of cells."""
    blocks = re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE)
    return [
        [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in block.splitlines()]
        for block in blocks
    ]


def test_every_summary_of_simulated_inputs_says_so(written, cluster_tables):
    found = written(["facs", "droplet"], simulated=True, clusters=cluster_tables.filled)
    assert set(found) == NAMES
    for markdown in found.values():
        assert markdown.startswith("# ")
        assert "**Simulated demo data and demo model: no finding." in markdown
        # No Markdown but pandoc's knows a subscript between tildes.
        assert "~" not in markdown
        assert "{{<" not in markdown


def test_summaries_of_real_inputs_have_no_notice_and_no_truth(written, cluster_tables):
    found = written(["facs"], simulated=False, clusters=cluster_tables.filled)
    assert not any("imulated demo" in markdown for markdown in found.values())
    assert "Recovery" not in found["results"]


def test_tables_are_whole(written, cluster_tables):
    found = written(["facs"], simulated=True, clusters=cluster_tables.filled)
    n_checked = 0
    for markdown in found.values():
        for rows in _tables(markdown):
            assert len({len(row) for row in rows}) == 1
            assert len(rows) > 2
            n_checked += 1
    assert n_checked > 8


def test_components_name_types_and_clusters_once(written, cluster_tables):
    markdown = written(
        ["droplet"], simulated=True, clusters=cluster_tables.filled, tissue="Kidney"
    )["components"]
    types, of_clusters, _ = _tables(markdown)
    assert types[2:] == [["TMS droplet", "Kidney", "3", "3", "crystallize"]]
    # The kidneys of two arms and the validation cohort's two tissues, at three resolutions each.
    assert len(of_clusters) - 2 == 12
    assert ["TMS droplet", "Kidney", "0.8", "4", "disperse"] in of_clusters


def test_validation_and_substates_follow_their_tables(written, cluster_tables):
    found = written(["droplet"], simulated=True, clusters=cluster_tables.filled)
    assert "Not stable: kidney at 0.8 (6 of 9 runs)." in _words(found["kimmel_validation"])
    ((_, _, *validation),) = _tables(found["kimmel_validation"])
    assert [row[:2] for row in validation] == [
        [tissue, at] for tissue in ("Kidney", "Spleen") for at in ("0.2", "0.8", "1.6")
    ]
    compared, left_out = _tables(found["substates"])
    assert [row[1] for row in compared[2:]] == ["fenestrated\\|cell", "macrophage", "podocyte"]
    assert left_out[2][2:5] == ["podocyte", "20", "1, 2"]
    results = _words(found["results"])
    assert "Podocytes crystallize in kidney (TMS droplet)" in results
    assert "no two-sided p below 0.33 is possible" in results
    assert "such intervals of the effective number held the truth in 46% only" in results


def test_without_clusters_each_summary_is_whole(written, cluster_tables):
    found = written(["facs"], simulated=True, clusters=cluster_tables.empty)
    for name in ("kimmel_validation", "substates", "components"):
        assert NOTHING in found[name]
    results = found["results"]
    assert f"## Finer and coarser cells\n\n{NOTHING}\n" in results
    # One change of the simulated cells is known, and nothing of clusters.
    assert "1 of 1 changes over annotated types have the true sign" in _words(results)
    assert "Restriction" not in results


def test_a_missing_table_is_one_line(study_folder, tmp_path, caplog):
    study_folder(["facs"], simulated=True)
    (tmp_path / "tables" / "stability.csv").unlink()
    assert manuscript.main(WORDS) == 1
    assert "stability.csv does not exist" in caplog.text
    assert not (tmp_path / "summaries").exists()
    assert not (tmp_path / "paper.qmd").exists()
