"""The values, tables and passages of the paper that are about clusters of cells."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from stages import tables
from stages.figures.substate_scale import NAMED, is_named
from stages.manuscript import text
from stages.settings import Settings

METRICS = {"gini": ("ΔGini", 3), "effective_number": ("ΔN~eff~", 2)}
"""Those of the plane: how the change is named, and its digits."""
DOES = {"crystallize": "crystallizes", "disperse": "disperses", "mixed": "is mixed"}
DO = {"crystallize": "crystallize", "disperse": "disperse", "mixed": "are mixed"}

SIMULATED = {
    "coverage_alike": "95%",
    "coverage": "46%",
    "false_alike": "4%",
    "false": "26%",
    "probability": "0.975",
}
"""What intervals over cells do in studies simulated by the demo's model, of two libraries a
condition, as :mod:`stages.resolution.caloric_restriction` states it: how often that of the rescue
fraction of the effective number holds the truth, and how often the probability of a rescue exceeds
the last where restriction does nothing; where animals are alike, and where they differ as the
demo's do."""

LIBRARIES = {
    "mean": "mean of both",
    "pooled": "cells pooled",
    "male": "male alone",
    "female": "female alone",
}
EXCHANGED = {"all": "freely", "within_sex": "within a sex"}
CONTRASTS = {"drift": "young, old", "rescue": "restricted, old"}

ARM = ["cohort", "platform"]
TISSUE = [*ARM, "tissue"]
Describe = Callable[[tuple[str, str, str]], str]


class ClusterTables(NamedTuple):
    """The tables that the text on clusters rests on; each may be empty."""

    kidney: pd.DataFrame
    kimmel: pd.DataFrame
    stability: pd.DataFrame
    substates: pd.DataFrame
    substates_not_compared: pd.DataFrame
    caloric_restriction: pd.DataFrame
    restriction_tests: pd.DataFrame


SCHEMAS = {
    name: getattr(tables, name.upper(), tables.CLUSTER_AGING) for name in ClusterTables._fields
}
"""Of each table."""


def read_tables(folder: Path) -> ClusterTables:
    """Read and check all of them."""
    return ClusterTables(
        **{name: tables.read(folder / f"{name}.csv", schema) for name, schema in SCHEMAS.items()}
    )


def variables(
    found: ClusterTables, aging: pd.DataFrame, proportions: pd.DataFrame, settings: Settings
) -> dict[str, Any]:
    """Return the values of the clusters by topic, all as text; a topic without inputs has none.

    Parameters
    ----------
    found
        The tables on clusters.
    aging, proportions
        The change over annotated cell types, and their shares.
    settings
        All settings.
    """
    return {
        "clusters": _rules(settings),
        "kidney": _kidney(found, aging, proportions, settings),
        "kimmel": _kimmel(found, settings),
        "substates": _substates(found, settings),
        "restriction": _restriction(found, settings),
    }


def includes(
    found: ClusterTables, aging: pd.DataFrame, proportions: pd.DataFrame, settings: Settings
) -> dict[str, str]:
    """Return the Markdown tables on clusters by name; the arguments are those of the values."""
    return {
        "kidney": _kidney_table(found.kidney, aging, proportions, settings),
        "kimmel": _kimmel_table(found.kimmel, found.stability),
        "substates": _substates_table(at_shown(found.substates, settings)),
        "restriction": _restriction_table(found.caloric_restriction, settings),
        "restriction_tests": _tests_table(found.restriction_tests, settings),
    }


def sections(found: ClusterTables, settings: Settings) -> dict[str, str]:
    """Return which of the passages written by hand fits the inputs, by name."""
    there = {
        "kidney": not found.kidney.empty,
        "kimmel": not found.kimmel.empty,
        "substates": not found.substates.empty,
        "restriction": not found.caloric_restriction.empty,
    }
    there["clusters"] = any(there.values())
    there["planted"] = there["clusters"] and settings.atlas.source == "demo"
    return {name: name if filled else f"{name}_none" for name, filled in there.items()}


def at_shown(substates: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Return the substates at the one resolution that the text shows."""
    rows: pd.DataFrame = substates[substates["resolution"] == _shown(settings)]
    return rows


def _shown(settings: Settings) -> float:
    """Return the reference resolution, or the finest of the substates if they lack it."""
    resolutions, reference = settings.substates.resolutions, settings.clusters.reference
    return reference if reference in resolutions else resolutions[-1]


def _rules(settings: Settings) -> dict[str, str]:
    graph, rules, stability = settings.neighbours, settings.clusters, settings.stability
    n_runs = (1 + stability.subsamples) * stability.seeds
    curve = sorted({*rules.resolutions, *settings.kidney.curve})
    n_iterations = settings.leiden.n_iterations
    return {
        "target_sum": text.integer(int(graph.target_sum)),
        "n_top_genes": text.integer(graph.n_top_genes),
        "n_comps": text.integer(graph.n_comps),
        "n_neighbors": text.integer(graph.n_neighbors),
        "iterations": (
            "until nothing improves"
            if n_iterations == -1
            else f"in {text.plural(n_iterations, 'iteration')}"
        ),
        "flavor": settings.leiden.flavor,
        "category_set": {
            "present": "the clusters present in an animal's sample",
            "tissue": "all clusters of the tissue",
        }[rules.category_set],
        "equal_draws": text.integer(rules.equal_cells.draws),
        "confidence": f"{100 * rules.comparison.confidence:g}%",
        "resolutions": text.listed([f"{value:g}" for value in rules.resolutions]),
        "n_resolutions": text.integer(len(rules.resolutions)),
        "reference": f"{rules.reference:g}",
        "n_curve": text.integer(len(curve)),
        "curve_first": f"{curve[0]:g}",
        "curve_last": f"{curve[-1]:g}",
        "substates_resolution": f"{_shown(settings):g}",
        "substates_min_cells": text.integer(settings.substates.min_cells),
        "substates_min_animals": text.integer(settings.substates.min_animals),
        "seeds": text.integer(stability.seeds),
        "subsamples": text.plural(stability.subsamples, "random part"),
        "cells_share": f"{100 * stability.cells_share:g}%",
        "n_runs": text.integer(n_runs),
        "min_share": f"{100 * stability.min_share:g}%",
        "restriction_draws": text.integer(settings.caloric_restriction.draws),
        "restriction_confidence": f"{100 * settings.caloric_restriction.confidence:g}%",
    } | {f"simulated_{name}": value for name, value in SIMULATED.items()}


def _change(row: pd.Series, metric: str, column: str = "change") -> str:
    digits = METRICS[metric][1]
    ends = text.interval(row[f"{column}_low"], row[f"{column}_high"], digits)
    return f"{text.signed(row[column], digits)} {ends}"


def _p(p: float) -> str:
    shown = text.p_value(p)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def _all_cells(table: pd.DataFrame) -> pd.DataFrame:
    rows: pd.DataFrame = table[(table["cells"] == "all") & table["metric"].isin(METRICS)]
    return rows


def directions(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a comparison, from all cells: the quadrant of both metrics."""
    rows: pd.DataFrame = table[(table["cells"] == "all") & (table["metric"] == "gini")]
    return rows


def _along(rows: pd.DataFrame) -> str:
    """Say which way one tissue goes as the resolution rises.

    Examples
    --------
    >>> rows = pd.DataFrame({"resolution": [0.2, 0.8, 1.6], "quadrant": ["mixed"] + ["disperse"] * 2})
    >>> _along(rows), _along(rows[1:]), _along(rows[:1])
    ('is mixed at 0.2 and disperses from 0.8 to 1.6', 'disperses at every resolution', 'is mixed at 0.2')
    """  # noqa: E501
    ordered = rows.sort_values("resolution")
    pairs = zip(ordered["quadrant"], ordered["resolution"], strict=True)
    parts = []
    for quadrant, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
        at = [resolution for _, resolution in group]
        if len(at) == len(ordered) > 1:
            return f"{DOES[quadrant]} at every resolution"
        where = f"at {at[0]:g}" if len(at) == 1 else f"from {at[0]:g} to {at[-1]:g}"
        parts.append(f"{DOES[quadrant]} {where}")
    return text.listed(parts)


def _excludes_zero(rows: pd.DataFrame) -> pd.Series:
    return (rows["change_low"] > 0) | (rows["change_high"] < 0)


def _same_with_equal_cells(table: pd.DataFrame) -> str:
    """Return `14 of 16`: how many comparisons keep their quadrant with equal numbers of cells."""
    key = [*TISSUE, "cell_type", "resolution"]
    quadrant = table[table["metric"] == "gini"].set_index(key)
    full, equal = (
        quadrant.loc[quadrant["cells"] == cells, "quadrant"] for cells in ("all", "rarefied")
    )
    same = int((full == equal.reindex(full.index)).sum())
    return f"{text.integer(same)} of {text.integer(len(full))}"


def _number_range(values: pd.Series, digits: int) -> str:
    low, high = (text.number(float(end), digits) for end in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def stable_both(stability: pd.DataFrame) -> pd.DataFrame:
    """Return one row a tissue and resolution: whether both metrics keep their direction.

    Returns
    -------
    DataFrame
        The tissue, `resolution`, `n_runs`, `n_same` (of the metric that keeps its direction less
        often), `stable` (both metrics are), `ari_median`, `ari_lowest`.
    """
    rows = stability.assign(
        n_same=(stability["same_direction_share"] * stability["n_runs"]).round().astype(int)
    )
    found = rows.groupby([*TISSUE, "resolution"], as_index=False, sort=True).agg(
        n_runs=("n_runs", "first"),
        n_same=("n_same", "min"),
        stable=("stable", "all"),
        ari_median=("ari_median", "first"),
        ari_lowest=("ari_lowest", "first"),
    )
    return found


def _stability(stability: pd.DataFrame, describe: Describe) -> dict[str, str]:
    """Say which directions are stable, and how alike the clusterings of the seeds are."""
    if stability.empty:
        return {"stable_sentence": "Stability was not asked for.", "ari": text.DASH}
    both = stable_both(stability)
    unstable: dict[str, list[str]] = {}
    for row in both[~both["stable"]].itertuples():
        where = unstable.setdefault(describe((row.cohort, row.platform, row.tissue)), [])
        where.append(f"{row.resolution:g} ({row.n_same} of {row.n_runs} runs)")
    n = len(both)
    n_stable = int(both["stable"].sum())
    if n_stable == n:
        sentence = f"All {n} directions are stable." if n > 1 else "The direction is stable."
    else:
        listed = [f"{name} at {text.listed(where)}" for name, where in unstable.items()]
        count = f"{n_stable} {'is' if n_stable == 1 else 'are'}" if n_stable else "none is"
        sentence = f"Of {n} directions {count} stable. Not stable: {'; '.join(listed)}."
    return {"stable_sentence": sentence, "ari": _number_range(both["ari_median"], 2)}


def _kidney(
    found: ClusterTables, aging: pd.DataFrame, proportions: pd.DataFrame, settings: Settings
) -> dict[str, str]:
    if found.kidney.empty:
        return {}
    tissue = text.tissue_name(settings.kidney.tissue).lower()
    of_arms: dict[str, list[str]] = {}
    along, same = [], []
    for key, rows in directions(found.kidney).groupby(TISSUE):
        arm = text.arm(key[0], key[1])
        if of_types := over_types(aging, key):
            n_types = _n_types(proportions, key)
            of_arms.setdefault(of_types, []).append(f"{arm} ({text.plural(n_types, 'type')})")
        n_clusters = _number_range(rows["n_clusters"], 0)
        along.append(f"{arm} {_along(rows)} ({n_clusters} clusters)")
        distinct = len(rows.drop_duplicates(["n_clusters", "change"]))
        same.append(f"{distinct} in {arm}")
    by_direction = [f"{DOES[way]} in {text.listed(arms)}" for way, arms in of_arms.items()]
    stability = found.stability[found.stability["tissue"] == settings.kidney.tissue]
    return {
        "tissue": tissue,
        "types_sentence": (
            f"Over annotated types it {text.listed(by_direction)}."
            if of_arms
            else f"Over annotated types the {tissue} was not compared."
        ),
        "along": "; ".join(along),
        "turn_sentence": _turns(found.kidney, aging),
        "distinct": text.listed(same),
        "n_same_when_rarefied": _same_with_equal_cells(found.kidney),
    } | _stability(stability, lambda key: text.arm(key[0], key[1]))


def over_types(aging: pd.DataFrame, key: tuple[str, str, str]) -> str:
    """Return the direction of a tissue over annotated types; empty if it was not compared."""
    rows = directions(aging)
    rows = rows[(rows[TISSUE] == list(key)).all(axis=1)]
    return str(rows["quadrant"].iloc[0]) if len(rows) else ""


def _n_types(proportions: pd.DataFrame, key: tuple[str, str, str]) -> int:
    here = proportions[(proportions[TISSUE] == list(key)).all(axis=1)]
    return int(here["cell_type"].nunique())


def _turns(kidney: pd.DataFrame, aging: pd.DataFrame) -> str:
    """Say where the direction turns over clusters, and where only between types and clusters."""
    turning, sure, one_way = [], [], []
    for key, rows in _all_cells(kidney).groupby(TISSUE):
        arm = text.arm(key[0], key[1])
        by = dict(iter(rows.groupby("quadrant")))
        if {"crystallize", "disperse"} <= set(by):
            turning.append(arm)
            if all(_some_sure(by[quadrant]) for quadrant in ("crystallize", "disperse")):
                sure.append(arm)
        elif len(by) == 1:
            one_way.append((arm, str(next(iter(by))), over_types(aging, key)))
    parts = []
    if turning:
        parts.append(f"Over clusters alone the direction turns in {text.listed(turning)}.")
        parts.append(
            "Clusterings of both directions whose intervals leave out zero, for both metrics, "
            f"are found in {text.listed(sure)}."
            if sure
            else "In no arm do the intervals of both metrics leave out zero on both sides of the "
            "turn."
        )
    else:
        parts.append("Over clusters alone the direction turns in no arm.")
    for arm, quadrant, of_types in one_way:
        if of_types and of_types != quadrant:
            parts.append(
                f"In {arm} clusters of every granularity {DO[quadrant]}: what turns there is the "
                "step from annotated types to clusters."
            )
    return " ".join(parts)


def _some_sure(rows: pd.DataFrame) -> bool:
    """Say whether at some resolution the intervals of both metrics leave out zero."""
    sure = _excludes_zero(rows).groupby(rows["resolution"]).all()
    return bool(sure.any())


def _kimmel(found: ClusterTables, settings: Settings) -> dict[str, str]:
    if found.kimmel.empty:
        return {}
    rows = directions(found.kimmel)
    several = len(rows.drop_duplicates(ARM)) > 1

    def tissue(key: tuple[str, str, str]) -> str:
        name = text.tissue_name(key[2]).lower()
        return f"{name} ({text.arm(key[0], key[1])})" if several else name

    at = rows[rows["resolution"] == settings.clusters.reference]
    at_reference = {
        quadrant: [tissue((row.cohort, row.platform, row.tissue)) for row in part.itertuples()]
        for quadrant, part in at.groupby("quadrant")
    }
    along = [f"{tissue(key)} {_along(part)}" for key, part in rows.groupby(TISSUE)]
    plane = _all_cells(found.kimmel)
    stability = found.stability.merge(rows[TISSUE].drop_duplicates())
    return {
        "at_reference": ", ".join(
            [
                f"{text.listed(names)} {(DOES if len(names) == 1 else DO)[quadrant]}"
                for quadrant, names in at_reference.items()
            ]
        ),
        "along": "; ".join(along),
        "animals": text.listed(
            sorted(
                {f"{row.n_young} young and {row.n_old} old animals" for row in rows.itertuples()}
            )
        ),
        "p_smallest": text.attainable_p(float(plane["mann_whitney_p_smallest"].min())),
        "n_significant": text.integer(int((plane["mann_whitney_q"] < 0.05).sum())),
        "n_tests": text.integer(len(plane)),
        "n_intervals_exclude_zero": text.integer(int(_excludes_zero(plane).sum())),
        "n_same_when_rarefied": _same_with_equal_cells(found.kimmel),
    } | _stability(stability, tissue)


def _substates(found: ClusterTables, settings: Settings) -> dict[str, str]:
    if found.substates.empty:
        return {}
    at = at_shown(found.substates, settings)
    rows, plane = directions(at), _all_cells(at)
    others = directions(found.substates)
    others = others[others["resolution"] != _shown(settings)]
    key = [*TISSUE, "cell_type"]
    both = others.merge(rows, on=key, suffixes=("", "_shown"))
    kept = int((both["quadrant"] == both["quadrant_shown"]).sum())
    significant = {
        metric: int((part["mann_whitney_q"] < 0.05).sum())
        for metric, part in plane.groupby("metric")
    }
    elsewhere = text.listed([f"{value:g}" for value in sorted(set(others["resolution"]))])
    return (
        {
            f"n_{quadrant}": text.integer(int((rows["quadrant"] == quadrant).sum()))
            for quadrant in tables.QUADRANTS
        }
        | {
            f"n_{metric}_significant": text.integer(significant.get(metric, 0))
            for metric in METRICS
        }
        | {
            "n_compared": text.plural(len(rows), "comparison"),
            "n_not_compared": text.plural(len(found.substates_not_compared), "type"),
            "named_sentence": " ".join(_named(plane, word) for word in NAMED),
            "n_same_when_rarefied": _same_with_equal_cells(at),
            "other_sentence": (
                f"{kept} of {len(both)} have the same direction at resolution {elsewhere}."
                if len(both)
                else ""
            ),
        }
    )


def _named(plane: pd.DataFrame, word: str) -> str:
    """Say what the substates of one of the published cell types do."""
    mine = plane[
        plane["cell_type"].map(lambda name: is_named(str(name)) and word in str(name).lower())
    ]
    if mine.empty:
        return f"{word.capitalize()}s could be compared nowhere."
    parts = []
    for (*tissue, _), rows in mine.groupby([*TISSUE, "cell_type"]):
        by = rows.set_index("metric")
        changes = "; ".join(
            f"{name} {_change(by.loc[metric], metric)}, {_p(by.loc[metric, 'mann_whitney_p'])}"
            for metric, (name, _) in METRICS.items()
        )
        where = f"{text.tissue_name(tissue[2]).lower()} ({text.arm(tissue[0], tissue[1])})"
        parts.append(f"{DO[str(rows['quadrant'].iloc[0])]} in {where}: {changes}")
    return f"{word.capitalize()}s {'; they '.join(parts)}."


def fraction(row: pd.Series) -> str:
    """Return a rescue fraction with its interval, as far as there are."""
    if np.isnan(row["rescue_fraction"]):
        return text.DASH
    value = text.number(row["rescue_fraction"], 2)
    if np.isnan(row["rescue_fraction_low"]):
        return value
    low, high = (text.number(row[f"rescue_fraction_{end}"], 2) for end in ("low", "high"))
    return f"{value} [{low},{text.NBSP}{high}]"


def _probability(probability: float) -> str:
    """Return a probability with its relation: a share of draws is never certain."""
    if probability >= 0.9995:
        return "> 0.999"
    return "< 0.001" if probability < 0.0005 else f"= {probability:.3f}"


def _restriction(found: ClusterTables, settings: Settings) -> dict[str, str]:
    table = found.caloric_restriction
    if table.empty:
        return {}
    at = table[table["resolution"] == settings.clusters.reference]
    mean = at[(at["libraries"] == "mean") & (at["cells"] == "all")].set_index("metric")
    tissue = text.tissue_name(str(mean["tissue"].iloc[0])).lower()
    values = {
        "n_libraries": text.integer(int(mean["n_libraries"].iloc[0])),
        "n_cells": text.integer(int(mean["n_cells"].iloc[0])),
        "n_clusters": text.integer(int(mean["n_clusters"].iloc[0])),
        "tissue": tissue,
        "direction_sentence": f"by these signs the {tissue} {DOES[quadrant_of(mean['drift'])]}.",
    }
    of_mean = table[table["libraries"] == "mean"]
    for metric in METRICS:
        row = mean.loc[metric]
        along = of_mean[of_mean["metric"] == metric]
        full, equal = (along[along["cells"] == cells] for cells in ("all", "rarefied"))
        here = at[(at["metric"] == metric) & (at["cells"] == "all")].set_index("libraries")
        values |= {
            f"{metric}_drift": _change(row, metric, "drift"),
            f"{metric}_rescue": _change(row, metric, "rescue"),
            f"{metric}_fraction": fraction(row),
            # Never alone: what begins with ">" is a quotation in Markdown.
            f"{metric}_probability": f"P {_probability(row['rescue_probability'])}",
            f"{metric}_fractions": _number_range(full["rescue_fraction"], 2),
            f"{metric}_fractions_equal": _number_range(equal["rescue_fraction"], 2),
            f"{metric}_male": fraction(here.loc["male"]),
            f"{metric}_female": fraction(here.loc["female"]),
        }
    tests = found.restriction_tests
    return values | {
        "p_smallest": text.p_value(_smallest(tests, "all")),
        "p_smallest_within_sex": text.p_value(_smallest(tests, "within_sex")),
        "n_arrangements": text.integer(
            int(tests.loc[tests["strata"] == "all", "n_arrangements"].iloc[0])
        ),
    }


def _smallest(tests: pd.DataFrame, strata: str) -> float:
    return float(tests.loc[tests["strata"] == strata, "p_smallest"].min())


def quadrant_of(changes: pd.Series) -> str:
    """Return the quadrant of the changes of both metrics."""
    rises, falls = changes["gini"] > 0, changes["effective_number"] < 0
    if rises and falls:
        return "crystallize"
    opposite = changes["gini"] < 0 and changes["effective_number"] > 0
    return "disperse" if opposite else "mixed"


def _kidney_table(
    kidney: pd.DataFrame, aging: pd.DataFrame, proportions: pd.DataFrame, settings: Settings
) -> str:
    """Return the types, the resolutions of all clusters and both ends of the curve."""
    rows = []
    ends = {kidney["resolution"].min(), kidney["resolution"].max()}
    shown = sorted({*settings.clusters.resolutions, *ends} & set(kidney["resolution"]))
    for key, part in _all_cells(kidney).groupby(TISSUE):
        arm = text.arm(key[0], key[1])
        of_types = _all_cells(aging)
        of_types = of_types[(of_types[TISSUE] == list(key)).all(axis=1)].set_index("metric")
        if len(of_types):
            n_types = text.integer(_n_types(proportions, key))
            rows.append([arm, "types", n_types, *_changes(of_types)])
        last: list[str] = []
        for resolution in shown:
            of_clusters = part[part["resolution"] == resolution].set_index("metric")
            n_clusters = text.integer(int(of_clusters["n_clusters"].iloc[0]))
            cells = [n_clusters, *_changes(of_clusters)]
            if cells == last:
                first = rows[-1][1].partition(text.DASH)[0]
                rows[-1][1] = f"{first}{text.DASH}{resolution:g}"
            else:
                rows.append([arm, f"{resolution:g}", *cells])
            last = cells
    header = ["Arm", "Granularity", "n", "ΔGini", "p", "ΔN~eff~", "p", "Direction"]
    return text.pipe_table(header, rows, align="lrrrrrrl")


def _changes(by_metric: pd.DataFrame, *, p: str = "mann_whitney_p") -> list[str]:
    """Return change and p of both metrics, and the direction."""
    cells = []
    for metric in METRICS:
        row = by_metric.loc[metric]
        cells += [_change(row, metric), text.p_value(row[p])]
    return [*cells, str(by_metric["quadrant"].iloc[0])]


def _kimmel_table(kimmel: pd.DataFrame, stability: pd.DataFrame) -> str:
    runs = stable_both(stability).set_index([*TISSUE, "resolution"])
    rows = []
    for key, part in _all_cells(kimmel).groupby([*TISSUE, "resolution"]):
        by = part.set_index("metric")
        same, ari = text.DASH, text.DASH
        if key in runs.index:
            of = runs.loc[key]
            same = f"{of['n_same']} of {of['n_runs']}"
            ari = text.number(float(of["ari_median"]), 2)
        n_clusters = text.integer(int(by["n_clusters"].iloc[0]))
        name = text.tissue_name(key[2])
        rows.append([name, f"{key[3]:g}", n_clusters, *_changes(by), same, ari])
    header = ["Tissue", "Resolution", "n", "ΔGini", "p", "ΔN~eff~", "p", "Direction", "Runs", "ARI"]
    return text.pipe_table(header, rows, align="lrrrrrrlrr")


def _substates_table(at: pd.DataFrame) -> str:
    rows = []
    for key, part in _all_cells(at).groupby([*TISSUE, "cell_type"]):
        by = part.set_index("metric")
        first = by.iloc[0]
        # A line may break after the tissue only.
        arm = text.arm(key[0], key[1]).replace(" ", text.NBSP)
        rows.append(
            [
                f"{text.tissue_name(key[2])}, {arm}",
                str(key[3]),
                text.integer(int(first["n_clusters"])),
                f"{first['n_young']}, {first['n_old']}",
                *_changes(by, p="mann_whitney_q"),
            ]
        )
    header = ["Tissue", "Cell type", "k", "n", "ΔGini", "q", "ΔN~eff~", "q", "Direction"]
    return text.pipe_table(header, rows, align="llrrrrrrl")


def _restriction_table(table: pd.DataFrame, settings: Settings) -> str:
    at = table[table["resolution"] == settings.clusters.reference]
    rows = []
    for metric, (name, _) in METRICS.items():
        for libraries, meaning in LIBRARIES.items():
            for cells, extra in (("all", ""), ("rarefied", ", equal cells")):
                if extra and libraries != "mean":
                    continue
                here = at[
                    (at["metric"] == metric)
                    & (at["libraries"] == libraries)
                    & (at["cells"] == cells)
                ]
                rows += [
                    [
                        name.removeprefix("Δ"),
                        f"{meaning}{extra}",
                        _change(row, metric, "drift"),
                        _change(row, metric, "rescue"),
                        fraction(row),
                        _probability(row["rescue_probability"]).removeprefix("= "),
                    ]
                    for _, row in here.iterrows()
                ]
    header = ["Metric", "Libraries", "Drift", "Rescue", "Fraction", "P(rescue > 0)"]
    return text.pipe_table(header, rows, align="llrrrr")


def _tests_table(tests: pd.DataFrame, settings: Settings) -> str:
    at = tests[(tests["resolution"] == settings.clusters.reference) & (tests["cells"] == "all")]
    rows = []
    for (metric, contrast), part in at.groupby(["metric", "contrast"], sort=False):
        name, digits = METRICS[metric]
        of = part.set_index("strata")
        cells = [
            text.p_value(of.loc[strata, column])
            for strata in EXCHANGED
            for column in ("p", "p_smallest")
        ]
        difference = text.signed(of.loc["all", "difference"], digits)
        rows.append([name.removeprefix("Δ"), CONTRASTS[contrast], difference, *cells])
    of_strata = [column for name in EXCHANGED.values() for column in (f"p, {name}", "smallest")]
    header = ["Metric", "Compared", "Difference", *of_strata]
    return text.pipe_table(header, rows, align="llrrrrr")
