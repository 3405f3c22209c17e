"""Hold the figures to what print needs: legible, nothing covered, the same bytes each time."""

import os
import subprocess
import sys
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from stages.base import tables
from stages.base.errors import FigureError
from stages.base.study import Study
from stages.cells.figures import (
    direction_heatmap,
    driver_contributions,
    metrics_vs_age,
    platform_concordance,
)
from stages.cells.tables.concordance import CONCORDANCE, CONCORDANCE_SUMMARY
from stages.cells.tables.contrast import CONTRAST
from stages.cells.tables.drivers import DRIVERS, NUMBER_OF_TYPES
from stages.cells.tables.metrics import CELLS, METRICS
from stages.drawing import style
from stages.measurement.concentration import QUADRANTS

SIMULATED = Study(
    name="demo",
    source="demo",
    simulated=True,
    notice="Simulated demo data: made up. They say nothing.",
)
REAL = replace(SIMULATED, simulated=False, notice="")
NOTICE = "Simulated demo data"

TISSUES = (
    "Bladder Fat Heart_and_Aorta Kidney Large_Intestine Limb_Muscle Liver Lung Mammary_Gland "
    "Marrow Pancreas Skin Spleen Thymus Tongue Trachea Brain_Myeloid Brain_Non-Myeloid Aorta BAT "
    "GAT MAT SCAT"
).split()
TYPES = (
    "B cell",
    "T cell",
    "kidney loop of Henle ascending limb epithelial cell",
    "kidney loop of Henle thick ascending limb epithelial cell",
    "kidney proximal convoluted tubule epithelial cell, first segment",
    "kidney proximal convoluted tubule epithelial cell, second segment",
    *(f"type number {i}" for i in range(8)),
)
SERIES = (("tms", "facs"), ("tms", "droplet"), ("kimmel", "droplet"))


def _places(n_tissues, series):
    """Every cohort has its tissues: the last, as that of Kimmel, only three."""
    return [
        (cohort, platform, tissue)
        for cohort, platform in series
        for tissue in TISSUES[: min(n_tissues, 3) if cohort == "kimmel" else n_tissues]
    ]


def metrics_table(n_tissues, series=SERIES):
    rng = np.random.default_rng(1)
    ages = [("reference", 3.0)] * 3 + [("other", 18.0)] * 2 + [("compared", 24.0)] * 3
    rows = []
    for place in _places(n_tissues, series):
        for i, (group, age) in enumerate(ages):
            for cells in CELLS:
                sex = ("male", "female", None)[i % 3]
                numbers = dict.fromkeys(list(METRICS.columns)[11:], 1.0)
                numbers |= {"gini": rng.uniform(0.3, 0.8), "effective_number": rng.uniform(2, 9)}
                names = dict(zip(list(METRICS.columns)[:4], [*place, f"m{i}"], strict=True))
                rest = {"sex": sex, "block": None, "age_months": age, "condition": None}
                rest["group"] = group
                rows.append(names | rest | {"cells": cells, "n_cells": 100} | numbers)
    return METRICS.validate(pd.DataFrame(rows))


def contrast_table(n_tissues, series=SERIES):
    rng = np.random.default_rng(2)
    rows = []
    for place in _places(n_tissues, series):
        for cells in CELLS:
            change = {"gini": rng.normal(0, 0.1), "effective_number": rng.normal(0, 12)}
            up, down = change["gini"] > 0, change["effective_number"] < 0
            quadrant = "mixed" if up != down else "crystallize" if up else "disperse"
            for metric, value in change.items():
                row = dict.fromkeys(CONTRAST.columns, 0.5) | {"n_reference": 3, "n_compared": 3}
                row["paired"] = False
                row |= dict(zip(["cohort", "platform", "tissue"], place, strict=True))
                row |= {"cells": cells, "metric": metric, "quadrant": quadrant, "change": value}
                row |= {"change_low": value - 0.1, "change_high": value + 0.1}
                row |= {"rank_q": rng.uniform(0, 0.1), "within_block_n": 6}
                row |= {"emphasised": bool(rng.random() < 0.5)}
                rows.append(row | {"within_block_exact": True})
    return CONTRAST.validate(pd.DataFrame(rows))


def concordance_tables(n_tissues, scale=1.0):
    """Points crowd together as `scale` falls; their intervals stay."""
    rng = np.random.default_rng(3)
    rows, totals = [], []
    for metric, size in (("gini", 0.1), ("effective_number", 2.0)):
        for tissue in TISSUES[:n_tissues]:
            x = rng.normal(0, size * scale)
            y = x + rng.normal(0, size * scale / 2)
            ends = [x, x - size, x + size, y, y - size, y + size]
            rows.append(["tms", tissue, metric, *ends, bool(np.sign(x) == np.sign(y))])
        same = sum(row[-1] for row in rows if row[2] == metric)
        totals.append([metric, "facs", "droplet", n_tissues, same, 0.5, 0.6, 0.35, 0.01, True])
    changes = pd.DataFrame(rows, columns=list(CONCORDANCE.columns))
    summary = pd.DataFrame(totals, columns=list(CONCORDANCE_SUMMARY.columns))
    return CONCORDANCE.validate(changes), CONCORDANCE_SUMMARY.validate(summary)


def drivers_table(n_tissues, series=SERIES):
    rng = np.random.default_rng(4)
    rows = []
    for place in _places(n_tissues, series):
        for cell_type in [*TYPES, NUMBER_OF_TYPES]:
            gini, number = rng.normal(0, 0.05), rng.normal(0, 1)
            ends = [gini, gini - 0.02, gini + 0.02, number, number - 0.3, number + 0.3]
            rows.append([*place, cell_type, 0.1, 0.1, *ends, 0.0, -1.0, 1.0])
    return DRIVERS.validate(pd.DataFrame(rows, columns=list(DRIVERS.columns)))


DRAW = {
    "metrics_vs_age": lambda n, s: metrics_vs_age.draw(metrics_table(n, s), about=REAL),
    "platform_concordance": lambda n, s: platform_concordance.draw(
        *concordance_tables(n), about=REAL
    ),
    "direction_heatmap": lambda n, s: direction_heatmap.draw(contrast_table(n, s), about=REAL),
    "driver_contributions": lambda n, s: driver_contributions.draw(drivers_table(n, s), about=REAL),
}
CASES = {"demo": (5, SERIES), "published": (23, SERIES), "local": (1, (("my_lab", "droplet"),))}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", DRAW)
def test_all_text_is_legible_inside_the_page_and_clear_of_other_text(name, case, legible):
    boxes = legible(DRAW[name](*CASES[case]), NOTICE)
    assert not any("_" in text.get_text() for text, _ in boxes)


def test_the_check_of_overlaps_finds_one(drawn_texts, overlapping):
    figure = Figure()
    figure.text(0.5, 0.5, "Kidney")
    figure.text(0.505, 0.505, "Lung")
    assert overlapping(drawn_texts(figure)) == [("Kidney", "Lung")]


@pytest.mark.parametrize(("n_tissues", "scale"), [(5, 1.0), (16, 1.0), (16, 0.25), (5, 0.02)])
def test_names_in_the_concordance_figure_do_not_overlap(n_tissues, scale, drawn_texts, overlapping):
    figure = platform_concordance.draw(*concordance_tables(n_tissues, scale), about=REAL)
    boxes = drawn_texts(figure)
    names = [style.name(tissue) for tissue in TISSUES[:n_tissues]]
    shown = [text.get_text() for text, _ in boxes if text.get_text() in names]
    assert sorted(shown) == sorted(names * 2)  # one in each panel
    assert overlapping(boxes, slack=0) == []


def test_concordance_says_in_words_that_no_tissue_is_on_both_platforms(drawn_texts):
    _, summary = concordance_tables(1)
    summary["n_tissues"] = 0
    figure = platform_concordance.draw(tables.empty(CONCORDANCE), summary, about=REAL)
    words = " ".join(text.get_text() for text, _ in drawn_texts(figure))
    assert "No tissue was compared on both platforms" in words
    assert "FACS and droplet" in words


def test_concordance_states_the_agreement(drawn_texts):
    changes, summary = concordance_tables(5)
    summary.loc[1, ["spearman", "spearman_p"]] = np.nan
    figure = platform_concordance.draw(changes, summary, about=REAL)
    words = [text.get_text() for text, _ in drawn_texts(figure)]
    same = summary["n_same_sign"]
    assert (
        f"Same sign in {same[0]} of 5 tissues; Spearman \N{GREEK SMALL LETTER RHO} = 0.60, p = 0.35"
        in words
    )
    assert f"Same sign in {same[1]} of 5 tissues" in words


@pytest.mark.parametrize("name", DRAW)
def test_notice_is_on_simulated_inputs_only(name, tmp_path):
    for about, expected in ((SIMULATED, 1), (REAL, 0)):
        figure = DRAW[name](*CASES["local"])
        style.save(figure, tmp_path, name, about)
        assert [text.get_text() for text in figure.texts].count(NOTICE) == expected
        svg = (tmp_path / f"fig_{name}.svg").read_text(encoding="utf-8")
        assert svg.count(f">{NOTICE}<") == expected


def test_saving_twice_stamps_once(tmp_path):
    figure = style.message("nothing")
    style.save(figure, tmp_path, "x", SIMULATED)
    style.save(figure, tmp_path, "x", SIMULATED)
    assert [text.get_text() for text in figure.texts].count(NOTICE) == 1


def test_simulated_inputs_without_a_notice_are_refused(tmp_path):
    with pytest.raises(FigureError, match=r"their notice is empty"):
        style.save(style.message("x"), tmp_path, "x", replace(SIMULATED, notice=""))
    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import importlib, sys
for name, *rest in (line.split() for line in sys.stdin):
    module = importlib.import_module("stages.cells.figures." + name)
    assert module.main(rest) == 0
    assert "matplotlib.pyplot" not in sys.modules
"""


def test_bytes_are_the_same_in_another_process_and_whatever_matplotlibrc_says(tmp_path):
    (tmp_path / "study.json").write_text(
        '{"name": "d", "source": "demo", "simulated": true, "notice": "Simulated demo data: x"}'
    )
    changes, summary = concordance_tables(3)
    written = {
        "metrics": (metrics_table(1), METRICS),
        "contrast": (contrast_table(2), CONTRAST),
        "concordance": (changes, CONCORDANCE),
        "summary": (summary, CONCORDANCE_SUMMARY),
        "drivers": (drivers_table(1), DRIVERS),
    }
    for table, (rows, schema) in written.items():
        tables.write(rows, schema, tmp_path / f"{table}.csv")
    inputs = {
        "metrics_vs_age": ["metrics"],
        "platform_concordance": ["concordance", "summary"],
        "direction_heatmap": ["contrast"],
        "driver_contributions": ["drivers"],
    }
    (tmp_path / "matplotlibrc").write_text(
        "font.size: 30\naxes.facecolor: red\nlines.linewidth: 9\n"
    )
    found = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        lines = []
        for name, wanted in inputs.items():
            options = [f"--{table}={tmp_path / table}.csv" for table in wanted]
            lines.append(f"{name} {' '.join(options)} --study={tmp_path}/study.json --out={out}")
        # Only the second process has a matplotlibrc of its own.
        extra = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")} if seed == "2" else {}
        subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM],
            input="\n".join(lines),
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed} | extra,
        )
        found.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
    assert sorted(found[0]) == sorted(f"fig_{n}.{s}" for n in inputs for s in ("png", "svg"))
    differ = [name for name in found[0] if found[0][name] != found[1][name]]
    assert differ == []
    for name, content in found[0].items():
        assert b"Matplotlib" not in content, name  # no version, no date: nothing but the picture
        assert b"<dc:date>" not in content, name


def test_bytes_are_the_same_from_two_drawings_in_one_process(tmp_path):
    for name, draw in DRAW.items():
        for folder in ("a", "b"):
            style.save(draw(2, SERIES[:1]), tmp_path / folder, name, SIMULATED)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 2 * len(DRAW)
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_png_has_the_resolution_and_size_of_print(tmp_path):
    style.save(style.figure(style.SINGLE_MM, 60), tmp_path, "x", REAL)
    content = (tmp_path / "fig_x.png").read_bytes()
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
    assert (width, height) == (int(89 / 25.4 * 300), int(60 / 25.4 * 300))


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    before = dict(mpl.rcParams)
    style.message("nothing")
    assert dict(mpl.rcParams) == before


def test_rows_of_drivers_hold_every_contribution_once():
    tissue = drivers_table(1)
    rows = driver_contributions.rows(tissue, 5)
    assert [row.label for row in rows][-2:] == ["others (9)", NUMBER_OF_TYPES]
    assert len(rows) == 5 + 2
    held = pd.concat([row.parts for row in rows])
    assert sorted(held.index) == sorted(tissue.index)
    largest = [row.parts["gini_contribution"].abs().max() for row in rows[:5]]
    assert largest == sorted(largest, reverse=True)
    assert largest[-1] >= rows[5].parts["gini_contribution"].abs().max()


def test_one_type_too_many_is_shown_and_not_summed_up():
    tissue = drivers_table(1)
    labels = [row.label for row in driver_contributions.rows(tissue, len(TYPES) - 1)]
    assert sorted(labels[:-1]) == sorted(TYPES)


def test_number_of_types_has_no_row_where_it_moves_nothing():
    tissue = drivers_table(1)
    tissue.loc[tissue["cell_type"] == NUMBER_OF_TYPES, "gini_contribution"] = 0
    assert "others" in driver_contributions.rows(tissue, 5)[-1].label


def test_sums_of_drivers_are_stated(drawn_texts):
    table = drivers_table(1)
    words = [
        text.get_text() for text, _ in drawn_texts(driver_contributions.draw(table, about=REAL))
    ]
    for which in style.series(table):
        rows = style.of_series(table, which)
        assert style.signed(rows["gini_contribution"].sum(), 3) in words
        assert style.signed(rows["effective_number_contribution"].sum(), 2) in words


def test_many_tissues_show_those_in_most_arms_and_of_these_those_that_change_most():
    table = drivers_table(23)
    shown = driver_contributions.compared(table)
    assert len(shown) == driver_contributions.MAX_TISSUES
    sums = table.groupby(["cohort", "platform", "tissue"])["gini_contribution"].sum().abs()
    largest = sums.groupby("tissue").max()
    everywhere = TISSUES[:3]  # also in the third cohort
    assert set(everywhere) <= set(shown)
    others = [tissue for tissue in shown if tissue not in everywhere]
    assert largest[others].min() >= largest.drop(shown).max()


def test_heatmap_is_bold_where_the_direction_is_emphasised_and_nowhere_else(drawn_texts):
    table = contrast_table(1, (("my_lab", "droplet"),))
    # What decided it once: an interval or q of one metric alone.
    table[["change_low", "change_high", "rank_q"]] = [0.1, 0.2, 0.001]
    table["emphasised"] = table["cells"] == "all"
    words = drawn_texts(direction_heatmap.draw(table, about=REAL))
    for metric, digits in (("gini", 3), ("effective_number", 2)):
        for cells, weight in (("all", "bold"), ("rarefied", "normal")):
            row = table[(table["metric"] == metric) & (table["cells"] == cells)].iloc[0]
            number = style.signed(row["change"], digits)
            assert [t.get_weight() for t, _ in words if t.get_text() == number] == [weight]


def test_heatmap_colours_differ_in_grey():
    grey = [np.dot(direction_heatmap.tint(q), [0.2126, 0.7152, 0.0722]) for q in QUADRANTS]
    steps = np.abs(np.subtract.outer(grey, grey))[np.triu_indices(3, 1)]
    assert steps.min() > 0.05


def test_medians_in_metrics_vs_age_are_those_of_the_groups():
    table = metrics_table(1, (("tms", "facs"),))
    axes = metrics_vs_age.draw(table, about=REAL).axes[0]
    rows = table[table["cells"] == "all"]
    for line, group in zip(axes.lines[:2], ("reference", "compared"), strict=True):
        expected = rows.loc[rows["group"] == group, "gini"].median()
        assert line.get_ydata() == pytest.approx([expected, expected])
    shown = sum(len(points.get_offsets()) for points in axes.collections)
    assert shown == len(rows)


def test_a_table_without_samples_is_refused_in_words():
    with pytest.raises(FigureError, match="Check the"):
        metrics_vs_age.draw(tables.empty(METRICS), about=REAL)


@pytest.mark.parametrize(
    ("draw", "schema"),
    [(direction_heatmap.draw, CONTRAST), (driver_contributions.draw, DRIVERS)],
)
def test_a_figure_of_no_comparison_says_so(draw, schema):
    figure = draw(tables.empty(schema), about=REAL)
    assert [text.get_text() for text in figure.texts] == [style.NOTHING_COMPARED]


def test_names_that_would_read_the_same_are_kept_apart():
    short = style.shorten_all(TYPES, 30)
    assert len(set(short)) == len(TYPES)
    assert all(style.text_width_mm(text) <= 30 for text in short)
    assert short[0] == "B cell"


@pytest.mark.parametrize(
    ("value", "text"), [(0.08849, "+0.088"), (-0.0004, "0.000"), (-2.19, "\N{MINUS SIGN}2.190")]
)
def test_signed_numbers(value, text):
    assert style.signed(value, 3) == text


def test_series_keep_their_looks_whatever_else_is_there():
    few = style.series(metrics_table(1, (("tms", "droplet"),)))
    many = style.series(
        metrics_table(1, (("a_lab", "x"), ("kimmel", "droplet"), ("tms", "droplet")))
    )
    assert [s.label for s in many] == ["TMS droplet", "Kimmel droplet", "a lab x"]
    assert many[0] == few[0]
    assert len({(s.colour, s.filled) for s in many}) == 3
