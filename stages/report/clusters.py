"""What the paper says of clusters, as numbers and rows; a topic without inputs is empty."""

import pandas as pd

from stages.base.settings import Settings
from stages.base.study import SIMULATED, Study
from stages.cells.names import NAMED, is_named
from stages.measurement.concentration import quadrant
from stages.report import text
from stages.report.comparisons import (
    ARM,
    TISSUE,
    Row,
    all_cells,
    compared,
    directions,
    ends,
    in_order,
    keyed,
    over_types,
    records,
)
from stages.report.reading import Tables

IN_SIMULATIONS = {"coverage_alike": 0.95, "coverage": 0.46, "false_alike": 0.04, "false": 0.26}
"""What intervals over cells do in studies simulated by the demo's model, of two libraries a
condition, as :mod:`stages.cells.restriction` states it: how often that of the rescue
fraction of the effective number holds the truth, and how often the probability of a rescue exceeds
``NEAR_CERTAIN`` where restriction does nothing; where animals are alike, and where they differ as
the demo's do."""
NEAR_CERTAIN = 0.975
BOTH_WAYS = {"crystallize", "disperse"}


def context(found: Tables, settings: Settings, about: Study) -> Row:
    """Return what the templates need on clusters, by topic."""
    rules, stability = settings.clusters, settings.stability
    made: Row = {
        "kidney": _kidney(found, about),
        "kimmel": _kimmel(found, settings),
        "substates": _substates(found, settings),
        "restriction": _restriction(found, settings),
    }
    made["clusters"] = {
        "any": any(made.values()),
        "curve": sorted({*rules.resolutions, *settings.granularity["curve"].resolutions}),
        "shown": shown_resolution(settings),
        "n_runs": (1 + stability.subsamples) * stability.seeds,
        "simulated": IN_SIMULATIONS,
        "near_certain": NEAR_CERTAIN,
    }
    return made


def shown_resolution(settings: Settings) -> float:
    """Return the reference resolution, or the finest of the substates if they lack it."""
    resolutions: list[float] = settings.substates.resolutions
    reference: float = settings.clusters.reference
    return reference if reference in resolutions else resolutions[-1]


def _stable_both(stability: pd.DataFrame) -> pd.DataFrame:
    """Return one row a tissue and resolution: whether both metrics keep their direction.

    ``n_same`` is of the metric that keeps its direction less often.
    """
    share, n = stability["same_direction_share"], stability["n_clusterings"]
    n_same = (share * n).round().astype(int)
    return (
        stability.assign(n_same=n_same)
        .groupby([*TISSUE, "resolution"], as_index=False)
        .agg(
            n_clusterings=("n_clusterings", "first"),
            n_same=("n_same", "min"),
            stable=("stable", "all"),
            ari_median=("ari_median", "first"),
        )
    )


def _stable(stability: pd.DataFrame) -> Row:
    """Return how many directions are stable, which are not, and how alike the clusterings are."""
    if stability.empty:
        return {"n": 0}
    both = _stable_both(stability)
    return {
        "n": len(both),
        "n_stable": int(both["stable"].sum()),
        "unstable": records(both[~both["stable"]]),
        "ari": ends(both["ari_median"]),
    }


def _kidney(found: Tables, about: Study) -> Row:
    if found.kidney.empty:
        return {}
    tissue = str(found.kidney["tissue"].iloc[0])
    of = found.stability["tissue"] == tissue
    return compared(found.kidney) | {
        "tissue": tissue,
        "simulated": bool((about.evidence_of(found.kidney) == SIMULATED).all()),
        "arms": [
            _curve(rows, over_types(found, key))
            for key, rows in in_order(all_cells(found.kidney)).groupby(TISSUE, sort=False)
        ],
        "stability": _stable(found.stability[of]),
    }


def _curve(rows: pd.DataFrame, types: Row) -> Row:
    """Return what one arm shows over granularity, over types and over clusters.

    ``turns``: there are clusterings of both directions; ``sure``: of both there is one that is
    emphasised; ``one_way``: the only direction over clusters.
    """
    gini = directions(rows)
    ways = set(gini["quadrant"])
    turns = ways >= BOTH_WAYS
    return {
        **records(rows[TISSUE])[0],
        "types": types,
        "along": records(gini.sort_values("resolution")),
        "n_clusters": ends(gini["n_clusters"]),
        "n_distinct": len(gini.drop_duplicates(["n_clusters", "change"])),
        "turns": turns,
        "sure": turns and set(gini.loc[gini["emphasised"], "quadrant"]) >= BOTH_WAYS,
        "one_way": "" if len(ways) > 1 else str(next(iter(ways))),
    }


def _kimmel(found: Tables, settings: Settings) -> Row:
    if found.kimmel.empty:
        return {}
    gini = directions(found.kimmel)
    at = gini[gini["resolution"] == settings.clusters.reference]
    return compared(found.kimmel) | {
        "several": len(gini.drop_duplicates(ARM)) > 1,
        "at_reference": records(at.sort_values("quadrant", kind="stable")),
        "tissues": [
            {**records(rows[TISSUE])[0], "along": records(rows.sort_values("resolution"))}
            for _, rows in gini.groupby(TISSUE)
        ],
        "animals": sorted({(row["n_reference"], row["n_compared"]) for row in records(gini)}),
        "stability": _stable(found.stability.merge(gini[TISSUE].drop_duplicates())),
    }


def at_shown(substates: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Return the substates at the one resolution that the text shows."""
    rows: pd.DataFrame = substates[substates["resolution"] == shown_resolution(settings)]
    return rows


def _substates(found: Tables, settings: Settings) -> Row:
    if found.substates.empty:
        return {}
    made = compared(at_shown(found.substates, settings))
    others = directions(found.substates)
    others = others[others["resolution"] != shown_resolution(settings)]
    key = (*TISSUE, "cell_type")
    shown, elsewhere = keyed(made["rows"], key), keyed(records(others), key)
    same = [elsewhere[of]["quadrant"] == shown[of]["quadrant"] for of in elsewhere if of in shown]
    return made | {
        "elsewhere": {
            "n": len(same),
            "n_same": sum(same),
            "resolutions": sorted(set(others["resolution"])),
        },
        "named": {word: [row for row in made["rows"] if _is(row, word)] for word in NAMED},
        "left_out": records(found.substates_not_compared),
    }


def _is(row: Row, word: str) -> bool:
    return is_named(row["cell_type"]) and word in row["cell_type"].lower()


def _restriction(found: Tables, settings: Settings) -> Row:
    table = found.restriction
    if table.empty:
        return {}
    at = table[table["resolution"] == settings.clusters.reference]
    of_mean = table[table["libraries"] == "mean"]
    tests = found.restriction_tests
    by_metric = {
        metric: {row["libraries"]: row for row in records(rows)}
        for metric, rows in at[at["cells"] == "all"].groupby("metric")
    }
    fractions = of_mean.groupby(["metric", "cells"])["rescue_fraction"]
    return {
        **by_metric,
        "first": by_metric["gini"]["mean"],
        "quadrant": str(quadrant(*(by_metric[name]["mean"]["drift"] for name in text.CHANGES))),
        "fractions": {"_".join(of): ends(values) for of, values in fractions},
        "n_arrangements": int(tests.loc[tests["strata"] == "all", "n_arrangements"].iloc[0]),
        "p_smallest": {name: float(p.min()) for name, p in tests.groupby("strata")["p_smallest"]},
    }
