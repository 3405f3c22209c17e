"""Hold the figures of clusters to what print needs, and to the numbers of their tables."""

import importlib
import itertools
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex

from stages.base import tables
from stages.base.errors import FigureError
from stages.base.study import Arm, Study
from stages.cells import over_clusters
from stages.cells.figures import (
    clusters,
    granularity_curve,
    replication_animals,
    replication_robustness,
    substate_scale,
)
from stages.cells.names import is_named
from stages.cells.settings import Contrast
from stages.cells.tables.clusters import ALL_TYPES, CLUSTER_CONTRAST, CLUSTER_METRICS
from stages.cells.tables.contrast import CONTRAST
from stages.cells.tables.metrics import CELLS
from stages.cells.tables.stability import STABILITY
from stages.drawing import style

SIMULATED = Study(
    name="demo",
    source="demo",
    simulated=True,
    notice="Simulated demo data: made up. They say nothing.",
)
REAL = replace(SIMULATED, simulated=False, notice="")
NOTICE = "Simulated demo data"

COMPARISON = Contrast(
    metrics=["gini", "effective_number"], confidence=0.95, max_permutations=500, seed=5
)
RESOLUTIONS = (0.2, 0.4, 0.8, 1.2, 1.6)
CURVE = (0.005, 0.02, 0.1, 0.2, 0.4, 0.8, 1.2, 1.6, 3.0)
REFERENCE = 0.8
SERIES = (("tms", "facs"), ("tms", "droplet"), ("kimmel", "droplet"))
LONG = "kidney loop of Henle thick ascending limb epithelial cell"
TYPES = ("podocyte", "macrophage", "B cell", LONG, f"{LONG}, cortical part")
ABOUT = Study("local", "local", simulated=False, notice="")
KEY = ["cohort", "platform", "tissue", "resolution"]


def cluster_metrics(places, resolutions, cell_types=(ALL_TYPES,), n=(4, 3)):
    """Simulate animals whose Gini rises with age at the lowest resolution and falls at the rest."""
    rng = np.random.default_rng(1)
    names = list(CLUSTER_METRICS.columns)
    rows = []
    of_all = itertools.product(places, cell_types, enumerate(resolutions))
    for (cohort, platform, tissue), cell_type, (k, resolution) in of_all:
        drift = 0.12 - 0.3 * k / max(len(resolutions) - 1, 1)
        for group, count, old in (("reference", n[0], 0), ("compared", n[1], 1)):
            for animal in range(count):
                gini = float(np.clip(0.5 + drift * old + rng.normal(0, 0.05), 0, 1))
                for cells in CELLS:
                    row = dict.fromkeys(names, 1.0) | {
                        "cohort": cohort,
                        "platform": platform,
                        "tissue": tissue,
                        "animal": f"{group}{animal}",
                        "sex": ("male", None)[animal % 2],
                        "age_months": 3.0 + 20 * old,
                        "block": None,
                        "condition": None,
                        "group": group,
                        "cell_type": cell_type,
                        "resolution": resolution,
                        "n_clusters": 5 + 2 * k,
                        "cells": cells,
                        "n_cells": 100,
                        "gini": gini,
                        "effective_number": 1 + 12 * (1 - gini) + rng.normal(0, 0.05),
                    }
                    rows.append(row)
    return CLUSTER_METRICS.validate(pd.DataFrame(rows)[names])


def cluster_contrast(metrics):
    return CLUSTER_CONTRAST.validate(over_clusters.compare(metrics, COMPARISON, family=KEY[:2]))


def coarse_contrast(places):
    """Return the change over annotated types, as the composition room compares it."""
    fine = cluster_contrast(cluster_metrics(places, (0.1,)))
    return CONTRAST.validate(fine[list(CONTRAST.columns)])


def stability_of(contrast, *, runs=9):
    """Say of every other resolution that its direction is not stable."""
    found = contrast[(contrast["cells"] == "all")].copy()
    ranks = found["resolution"].rank(method="dense").astype(int)
    found["n_runs"] = found["n_clusterings"] = runs
    found["change_median"] = found["change"]
    found["change_lowest"] = found["change"] - found["change"].abs() / 2
    found["change_highest"] = found["change"] + found["change"].abs() / 2
    found["direction"] = np.sign(found["change"]).astype(int)
    found["stable"] = ranks % 2 == 1
    found["same_direction_share"] = np.where(found["stable"], 1.0, 6 / 9)
    found["share_low"], found["share_high"] = 0.3, 1.0
    found["ari_median"], found["ari_lowest"] = 0.93, 0.9
    found["n_clusters_lowest"] = found["n_clusters"]
    found["n_clusters_highest"] = found["n_clusters"] + ranks % 2
    return STABILITY.validate(found[list(STABILITY.columns)].reset_index(drop=True))


class Inputs:
    """The tables of one case: which cohorts, tissues, cell types and animals there are."""

    def __init__(self, series, tissues, cell_types, n):
        cohort, platform = series[-1]
        places = [(*which, tissue) for which in series for tissue in tissues]
        self.metrics = cluster_metrics(
            [(cohort, platform, tissue) for tissue in tissues], RESOLUTIONS, n=n
        )
        self.kimmel = cluster_contrast(self.metrics)
        self.stability = stability_of(self.kimmel)
        self.curve = cluster_contrast(
            cluster_metrics([(*which, tissues[0]) for which in series], CURVE, n=n)
        )
        self.substates = cluster_contrast(
            cluster_metrics(
                [place for place in places if place[0] != "kimmel"] or places,
                (REFERENCE,),
                cell_types,
                n,
            )
        )
        self.coarse = coarse_contrast(places)


MANY = (*TYPES, *(f"type number {i}" for i in range(30)))
CASES = {
    "demo": (SERIES, ("Kidney", "Lung", "Spleen"), TYPES, (4, 3)),
    "many": (
        (*SERIES, ("another_lab", "drop_seq")),
        ("Kidney", "Limb_Muscle", "Large_Intestine", "Spleen", "Mammary_Gland"),
        MANY,
        (2, 2),
    ),
    "local": ((("my_lab", "droplet"),), ("Kidney",), TYPES[:1], (2, 2)),
}


@pytest.fixture(scope="module")
def inputs():
    made = {}

    def of(case):
        if case not in made:
            made[case] = Inputs(*CASES[case])
        return made[case]

    return of


DRAW = {
    "substate_scale": lambda t: substate_scale.draw(
        t.substates, t.coarse, reference=REFERENCE, about=ABOUT
    ),
    "replication_animals": lambda t: replication_animals.draw(
        t.metrics, t.kimmel, reference=REFERENCE, about=ABOUT
    ),
    "replication_robustness": lambda t: replication_robustness.draw(
        t.kimmel, t.stability, about=ABOUT
    ),
    "granularity_curve": lambda t: granularity_curve.draw(t.curve, t.coarse, about=ABOUT),
}
PUBLISHED = {
    "substate_scale": "substate_scale",
    "replication_animals": "kimmel_validation",
    "replication_robustness": "kimmel_robustness",
    "granularity_curve": "kidney_symmetry",
}
OPTIONS = {
    "substate_scale": {"substates": "substates", "coarse": "coarse"},
    "replication_animals": {"metrics": "metrics", "contrast": "kimmel"},
    "replication_robustness": {"contrast": "kimmel", "stability": "stability"},
    "granularity_curve": {"contrast": "curve", "coarse": "coarse"},
}
SCHEMAS = {
    "substates": CLUSTER_CONTRAST,
    "kimmel": CLUSTER_CONTRAST,
    "curve": CLUSTER_CONTRAST,
    "coarse": CONTRAST,
    "metrics": CLUSTER_METRICS,
    "stability": STABILITY,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", DRAW)
def test_all_text_is_legible_inside_the_page_and_clear_of_other_text(name, case, inputs, legible):
    boxes = legible(DRAW[name](inputs(case)), NOTICE)
    assert not any("_" in text.get_text() for text, _ in boxes)


@pytest.mark.parametrize("name", DRAW)
def test_stage_writes_the_same_bytes_twice_with_the_notice(name, inputs, tmp_path):
    """Both times through the command line; a figure of real inputs bears no notice."""
    module = importlib.import_module(f"stages.cells.figures.{name}")
    t = inputs("local")
    options = []
    for option, table in OPTIONS[name].items():
        path = tmp_path / f"{table}.csv"
        tables.write(getattr(t, table), SCHEMAS[table], path)
        options.append(f"--{option}={path}")
    if name in ("substate_scale", "replication_animals"):
        options.append(f"--reference={REFERENCE}")
    study = tmp_path / "study.json"
    study.write_text(
        f'{{"name": "d", "source": "demo", "simulated": true, "notice": "{SIMULATED.notice}"}}'
    )
    found = []
    for folder in ("a", "b"):
        out = tmp_path / folder
        assert module.main([*options, f"--study={study}", f"--out={out}"]) == 0
        found.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
    file = f"fig_{PUBLISHED[name]}"
    assert sorted(found[0]) == [f"{file}.png", f"{file}.svg"]
    assert found[0] == found[1]
    assert found[0][f"{file}.svg"].decode().count(f">{NOTICE}<") == 1
    style.save(DRAW[name](t), tmp_path, PUBLISHED[name], REAL)
    assert NOTICE not in (tmp_path / f"{file}.svg").read_text(encoding="utf-8")


def with_tables(inputs, **changed):
    """Return the inputs with other tables."""
    other = Inputs.__new__(Inputs)
    other.__dict__ = inputs.__dict__ | changed
    return other


@pytest.mark.parametrize("name", DRAW)
def test_a_figure_of_an_empty_table_says_so_in_words(name, inputs, drawn_texts):
    empty = tables.empty(CLUSTER_CONTRAST)
    without = with_tables(inputs("local"), kimmel=empty, curve=empty, substates=empty)
    boxes = drawn_texts(DRAW[name](without))
    assert len(boxes) == 1
    assert boxes[0][0].get_text().startswith("The atlas has no graph of")


@pytest.mark.parametrize("name", DRAW)
def test_a_comparison_without_the_metrics_is_refused(name, inputs):
    t = inputs("local")
    bare = {
        table: getattr(t, table).query("metric == 'gini'")
        for table in ("kimmel", "curve", "substates")
    }
    with pytest.raises(
        FigureError, match=r"does not compare effective_number\. Add it to clusters"
    ):
        DRAW[name](with_tables(t, **bare))


@pytest.mark.parametrize(
    "draw",
    [
        lambda t: substate_scale.draw(t.substates, t.coarse, reference=0.7, about=ABOUT),
        lambda t: replication_animals.draw(t.metrics, t.kimmel, reference=0.7, about=ABOUT),
    ],
)
def test_a_resolution_that_is_not_there_is_refused_with_those_that_are(draw, inputs):
    with pytest.raises(
        FigureError, match=r"no resolution 0\.7: it has .*0\.8.*clusters\.reference"
    ):
        draw(inputs("local"))


def drawn_at(axes):
    """Return the places of the single points of a panel, in the order in which they were drawn."""
    points = [of.get_offsets() for of in axes.collections if isinstance(of, PathCollection)]
    return np.array([places[0] for places in points if len(places) == 1])


def test_validation_shows_every_animal_its_medians_and_the_change_between_them(inputs):
    t = inputs("demo")
    figure = replication_animals.draw(t.metrics, t.kimmel, reference=REFERENCE, about=ABOUT)
    panels = [axes for axes in figure.axes if axes.collections]
    assert len(panels) == 2 * 3
    at = t.metrics[(t.metrics["resolution"] == REFERENCE) & (t.metrics["cells"] == "all")]
    order = itertools.product(("Kidney", "Lung", "Spleen"), clusters.METRICS)
    for axes, (tissue, metric) in zip(panels, order, strict=True):
        here = at[at["tissue"] == tissue]
        young, old = (here.loc[here["group"] == g, metric] for g in ("reference", "compared"))
        for points, values in zip(axes.collections, (young, old), strict=False):
            assert sorted(points.get_offsets()[:, 1]) == pytest.approx(sorted(values))
        bars = [line.get_ydata() for line in axes.lines if line.get_linewidth() == 1.8]
        assert np.ravel(bars) == pytest.approx(np.repeat([young.median(), old.median()], 2))
        row = t.kimmel[
            (t.kimmel["tissue"] == tissue)
            & (t.kimmel["metric"] == metric)
            & (t.kimmel["resolution"] == REFERENCE)
            & (t.kimmel["cells"] == "all")
        ].iloc[0]
        # The point of the change stands at the old median, its interval from the young one on.
        assert drawn_at(axes)[0, 1] == pytest.approx(old.median())
        upright = next(x for x in axes.lines if np.ptp(x.get_xdata()) == 0).get_ydata()
        assert upright == pytest.approx(young.median() + row[["change_low", "change_high"]])
        [change_axis] = axes.child_axes
        shown = change_axis._functions[0](old.median())
        assert shown == pytest.approx(row["change"])


def test_groups_go_by_their_names_wherever_they_are_named(inputs, drawn_texts):
    t = inputs("demo")
    arms = (
        Arm("kimmel", "droplet", None, "annotation", "", "control", "stimulated", by_age=False),
    )
    about = replace(ABOUT, arms=arms)
    figures = [
        replication_animals.draw(t.metrics, t.kimmel, reference=REFERENCE, about=about),
        replication_robustness.draw(t.kimmel, t.stability, about=about),
    ]
    for figure in figures:
        said = " ".join(text.get_text() for text, _ in drawn_texts(figure))
        assert "stimulated \N{MINUS SIGN} control" in said
        for word in ("young", "old", "reference", "compared"):
            assert word not in said.split()
            assert f"{word}:" not in said.split()


def test_validation_states_the_test_and_the_smallest_p(inputs, drawn_texts):
    t = inputs("demo")
    figure = replication_animals.draw(t.metrics, t.kimmel, reference=REFERENCE, about=ABOUT)
    words = [text.get_text() for text, _ in drawn_texts(figure)]
    # Of 35 ways to choose 3 of 7 animals, 2 are the most extreme.
    assert sum("(\N{GREATER-THAN OR EQUAL TO} 0.057)" in word for word in words) == 6
    assert words.count("4 young, 3 old; 9 clusters") == 3


def test_validation_refuses_a_comparison_without_animals(inputs):
    t = inputs("demo")
    without = t.metrics[t.metrics["tissue"] != "Lung"]
    with pytest.raises(FigureError, match=r"no animals of one group of Lung"):
        replication_animals.draw(without, t.kimmel, reference=REFERENCE, about=ABOUT)


def large(axes):
    """Return the points of changes from all cells."""
    return [of for of in axes.collections if of.get_sizes()[0] >= min(style.SIZES.values())]


def is_pale(points):
    pale = {style.pale(style.COLOURS[direction]) for direction in style.MARKERS}
    return to_hex(points.get_edgecolors()[0]) in pale


def test_robustness_is_pale_where_the_direction_is_not_stable(inputs, drawn_texts):
    t = inputs("demo")
    figure = replication_robustness.draw(t.kimmel, t.stability, about=ABOUT)
    panels = [axes for axes in figure.axes if axes.collections]
    assert len(panels) == 2 * 3
    changes, stable = [], []
    for points in (points for axes in panels for points in large(axes)):
        changes.append(points.get_offsets()[0, 0])
        stable.append(not is_pale(points))
    every = t.kimmel[t.kimmel["cells"] == "all"].merge(t.stability, on=[*KEY, "metric"])
    every = every.sort_values(["tissue", "metric", "resolution"], ascending=[True, False, True])
    assert changes == pytest.approx(every["change"].tolist())
    assert stable == every["stable"].tolist()
    assert 0 < sum(stable) < len(stable)
    words = [(text.get_text(), text.get_weight()) for text, _ in drawn_texts(figure)]
    assert words.count(("9 of 9", "bold")) == sum(stable)
    assert words.count(("6 of 9", "normal")) == len(stable) - sum(stable)


def test_robustness_is_not_stable_where_most_runs_have_the_other_direction(inputs):
    t = inputs("local")
    other = t.stability.assign(direction=-t.stability["direction"], stable=True)
    for axes in replication_robustness.draw(t.kimmel, other, about=ABOUT).axes:
        assert all(is_pale(points) for points in large(axes))


def test_robustness_refuses_a_comparison_without_runs(inputs):
    t = inputs("demo")
    fewer = t.stability[t.stability["resolution"] != 1.2]
    with pytest.raises(FigureError, match=r"no runs of Kidney .* at resolution 1\.2"):
        replication_robustness.draw(t.kimmel, fewer, about=ABOUT)


def test_curves_are_the_changes_and_cross_zero_where_the_direction_flips(inputs):
    t = inputs("demo")
    figure = granularity_curve.draw(t.curve, t.coarse, about=ABOUT)
    panels = [axes for axes in figure.axes if axes.get_xscale() == "log"]
    assert len(panels) == 3 * len(SERIES)
    for column, (cohort, platform) in enumerate(SERIES):
        here = t.curve[(t.curve["cohort"] == cohort) & (t.curve["platform"] == platform)]
        for axes, metric in zip(panels[3 * column :], clusters.METRICS, strict=False):
            every = here[(here["metric"] == metric) & (here["cells"] == "all")]
            every = every.sort_values("resolution")
            curve = axes.lines[0]
            assert list(curve.get_xdata()) == list(CURVE)
            assert curve.get_ydata() == pytest.approx(every["change"].to_numpy())
            assert len(set(np.sign(curve.get_ydata()))) == 2
            band = axes.collections[0].get_paths()[0].get_extents()
            assert (band.y0, band.y1) == pytest.approx(
                (every["change_low"].min(), every["change_high"].max())
            )
            # Cell types stand left of every resolution, with the change of the contrast table.
            types = t.coarse[
                (t.coarse["cohort"] == cohort)
                & (t.coarse["platform"] == platform)
                & (t.coarse["tissue"] == "Kidney")
                & (t.coarse["metric"] == metric)
                & (t.coarse["cells"] == "all")
            ]
            leftmost = min(drawn_at(axes), key=lambda place: place[0])
            assert leftmost[0] < min(CURVE)
            assert leftmost[1] == pytest.approx(types["change"].item())
        counts = panels[3 * column + 2].lines[0]
        assert list(counts.get_ydata()) == [5 + 2 * k for k in range(len(CURVE))]


def test_curves_stand_alone_where_the_cell_types_were_not_compared(inputs):
    t = inputs("demo")
    figure = granularity_curve.draw(t.curve, tables.empty(CONTRAST), about=ABOUT)
    places = np.concatenate(
        [drawn_at(axes) for axes in figure.axes if axes.get_xscale() == "log" and axes.collections]
    )
    assert set(places[:, 0]) == set(CURVE)


def test_substates_stand_below_the_whole_tissue_and_published_cases_are_bold(inputs, drawn_texts):
    t = inputs("demo")
    figure = substate_scale.draw(t.substates, t.coarse, reference=REFERENCE, about=ABOUT)
    words = [text for text, _ in drawn_texts(figure)]
    bold = [text.get_text() for text in words if text.get_weight() == "bold"]
    for tissue in ("Kidney", "Lung", "Spleen"):
        assert bold.count(tissue) == 1
    assert [bold.count(name) for name in ("podocyte", "macrophage", "B cell")] == [3, 3, 0]
    assert bold.count(substate_scale.WHOLE) == 3
    panel = next(axes for axes in figure.axes if axes.collections)
    whole = t.coarse[
        (t.coarse["tissue"] == "Kidney")
        & (t.coarse["cohort"] == "tms")
        & (t.coarse["metric"] == "gini")
        & (t.coarse["cells"] == "all")
    ].sort_values("platform", ascending=False)  # FACS comes first
    places = drawn_at(panel)
    assert places[:2, 0] == pytest.approx(whole["change"].to_numpy())
    assert (places[:2, 1] < 0.5).all()
    assert (places[2:, 1] > 0.5).all()
    assert len(places) == 2 * (1 + len(TYPES))


def test_substates_are_pale_where_equal_cells_have_the_other_sign(inputs):
    table = inputs("local").substates.copy()
    rarefied = (table["cells"] == "rarefied") & (table["metric"] == "gini")
    pale = []
    for sign in (1, -1):
        table.loc[rarefied, "change"] = (
            sign
            * table.loc[
                (table["cells"] == "all") & (table["metric"] == "gini"), "change"
            ].to_numpy()
        )
        figure = substate_scale.draw(
            table, tables.empty(CONTRAST), reference=REFERENCE, about=ABOUT
        )
        points = [p for axes in figure.axes for p in axes.collections]
        pale.append([is_pale(p) for p in points])
    assert pale == [[False, False], [True, False]]


def test_of_many_types_those_that_change_most_and_the_published_cases_are_shown(inputs):
    t = inputs("many")
    kidney = t.substates[t.substates["tissue"] == "Kidney"]
    whole = t.coarse[t.coarse["tissue"] == "Kidney"]
    rows = substate_scale.rows(kidney, whole, 10)
    assert len(rows) == 10
    assert rows[0].label == substate_scale.WHOLE
    assert rows[-1].label == f"({len(MANY) - 8} types that change less)"
    shown = [row.cell_type for row in rows[1:-1]]
    assert {"podocyte", "macrophage"} <= set(shown)
    every = kidney[(kidney["metric"] == "gini") & (kidney["cells"] == "all")]
    change = every.groupby("cell_type")["change"].mean()
    assert list(change[shown]) == sorted(change[shown], reverse=True)
    others = [name for name in shown if not is_named(name)]
    assert change[others].abs().min() >= change.drop(shown).abs().max()
    assert len(substate_scale.rows(kidney, whole, len(MANY) + 1)) == len(MANY) + 1


@pytest.mark.parametrize(
    ("cell_type", "named"),
    [("podocyte", True), ("kidney Macrophage", True), ("macrophage-like", False), ("", False)],
)
def test_published_cases_are_known_by_the_word(cell_type, named):
    assert is_named(cell_type) is named


def test_drawing_leaves_the_settings_of_matplotlib_alone(inputs):
    before = dict(mpl.rcParams)
    for draw in DRAW.values():
        draw(inputs("local"))
    assert dict(mpl.rcParams) == before
