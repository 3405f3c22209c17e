"""The values and tables of the paper that are about cells and annotated types."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from stages.base.settings import Settings
from stages.cells.tables.drivers import NUMBER_OF_TYPES
from stages.cells.tables.metrics import CELLS
from stages.inputs.tables import AGE_GROUPS
from stages.measurement.concentration import QUADRANTS
from stages.measurement.resampling import SIGNIFICANT
from stages.report import text
from stages.report.reading import read_all

# Types shown for each tissue; the table on disk holds all of them.
N_DRIVERS = 3
RULES = {
    "unannotated": "no cell type given",
    "unknown_animal": "animal not stated",
    "pooled_label": "label of several animals",
    "too_few_cells": "too few annotated cells",
}


class CellTables(NamedTuple):
    """The tables that the text on cells rests on."""

    samples: pd.DataFrame
    confounding: pd.DataFrame
    proportions: pd.DataFrame
    exclusions: pd.DataFrame
    aging: pd.DataFrame
    not_compared: pd.DataFrame
    concordance: pd.DataFrame
    concordance_summary: pd.DataFrame
    drivers: pd.DataFrame
    recovery: pd.DataFrame


def read_tables(folder: Path) -> CellTables:
    """Read and check all of them."""
    return CellTables(**read_all(CellTables._fields, folder))


def variables(found: CellTables, settings: Settings) -> dict[str, Any]:
    """Return what the text says of cells, nested by topic; all are text, ready to print.

    Parameters
    ----------
    found
        The tables on cells.
    settings
        All settings.
    """
    plane = found.aging[found.aging["metric"] == "gini"]
    full, equal = (plane[plane["cells"] == cells] for cells in CELLS)
    return {
        "data": _data(found),
        "rule": _rules(found, settings),
        "aging": _aging(found.aging, full, equal),
        "concordance": _concordance(found.concordance_summary),
        "recovery": _recovery(found.recovery),
    }


def _data(found: CellTables) -> dict[str, str]:
    kept = found.proportions
    animals = kept.drop_duplicates(["cohort", "platform", "animal"])
    samples = kept.drop_duplicates(["cohort", "platform", "tissue", "animal"])
    arms = animals.drop_duplicates(["cohort", "platform"])
    names = [text.arm(cohort, platform) for cohort, platform in _pairs(arms)]
    confounded = found.confounding.drop_duplicates(["cohort", "platform", "tissue"])
    return {
        "n_cells": text.integer(int(kept["n_cells"].sum())),
        "n_cells_read": text.integer(int(found.samples["n_cells"].sum())),
        "n_samples": text.plural(len(samples), "sample"),
        "n_animals": text.plural(len(animals), "animal"),
        "n_tissues": text.plural(kept["tissue"].nunique(), "tissue"),
        "n_types": text.plural(kept["cell_type"].nunique(), "cell type"),
        "arms": text.listed(names),
        "n_arms": text.plural(len(arms), "arm"),
        "n_confounded": text.integer(int(confounded["sex_confounded"].sum())),
        "n_tissue_arms": text.integer(len(confounded)),
    }


def _pairs(table: pd.DataFrame) -> list[tuple[str, str]]:
    return [(row.cohort, row.platform) for row in table.itertuples()]


def _rules(found: CellTables, settings: Settings) -> dict[str, str]:
    by_rule = found.exclusions.groupby("rule")["n_cells"].sum()
    return {
        "min_cells": text.integer(settings.proportions.min_cells),
        "n_excluded": text.integer(int(by_rule.sum())),
        "category_set": {
            "present": "the cell types present in that animal's sample",
            "tissue": "all cell types seen in that tissue and arm",
            "fixed": "a fixed list of cell types",
        }[settings.metrics.category_set],
        "rarefaction_draws": text.integer(settings.metrics.rarefaction.draws),
        "confidence": f"{100 * settings.aging.confidence:g}%",
        "significant": f"{SIGNIFICANT:g}",
        "driver_draws": text.integer(settings.drivers.draws),
        "pseudo_count": f"{settings.drivers.pseudo_count:g}",
        "max_permutations": text.integer(settings.aging.max_permutations),
        "ages": _ages(settings),
    }


def _ages(settings: Settings) -> str:
    by_rule: dict[tuple[float, float], list[str]] = {}
    for spec in settings.atlas.cells.values():
        name = text.COHORTS.get(spec.cohort, spec.cohort)
        names = by_rule.setdefault((spec.young_max_months, spec.old_min_months), [])
        if name not in names:
            names.append(name)
    parts = [
        f"{text.listed(names)}: young up to {young:g} months, old from {old:g} months"
        for (young, old), names in by_rule.items()
    ]
    return "; ".join(parts)


def _aging(aging: pd.DataFrame, full: pd.DataFrame, equal: pd.DataFrame) -> dict[str, str]:
    key = ["cohort", "platform", "tissue"]
    plane = aging[(aging["cells"] == "all") & aging["metric"].isin(text.CHANGES)]
    excludes_zero = (plane["change_low"] > 0) | (plane["change_high"] < 0)
    both = full.merge(equal, on=key, suffixes=("", "_equal"))
    same = both["quadrant"] == both["quadrant_equal"]
    significant = {
        metric: int((plane.loc[plane["metric"] == metric, "mann_whitney_q"] < SIGNIFICANT).sum())
        for metric in text.CHANGES
    }
    counted = {
        f"n_{quadrant}": text.integer(int((full["quadrant"] == quadrant).sum()))
        for quadrant in QUADRANTS
    }
    names = {
        f"list_{quadrant}": _tissues_by_arm(full[full["quadrant"] == quadrant])
        for quadrant in QUADRANTS
    }
    return (
        counted
        | names
        | {
            "n_compared": text.plural(len(full), "comparison"),
            "n_gini_significant": text.integer(significant["gini"]),
            "n_effective_number_significant": text.integer(significant["effective_number"]),
            "n_intervals": text.integer(len(plane)),
            "n_intervals_exclude_zero": text.integer(int(excludes_zero.sum())),
            "n_same_when_rarefied": text.integer(int(same.sum())),
            "smallest_p": text.attainable_p(float(full["mann_whitney_p_smallest"].min())),
            "largest_smallest_p": text.attainable_p(float(full["mann_whitney_p_smallest"].max())),
            "n_within_sex": text.integer(int((full["within_sex_n"] > 0).sum())),
        }
    )


def _tissues_by_arm(rows: pd.DataFrame) -> str:
    """Return `kidney and lung (TMS FACS); spleen (Kimmel droplet)`."""
    parts = []
    for (cohort, platform), arm in rows.groupby(["cohort", "platform"], sort=False):
        tissues = [text.tissue_name(name).lower() for name in sorted(arm["tissue"])]
        parts.append(f"{text.listed(tissues)} ({text.arm(str(cohort), str(platform))})")
    return "; ".join(parts) or "none"


def _concordance(summary: pd.DataFrame) -> dict[str, Any]:
    return {
        row.metric: {
            "n_tissues": text.integer(row.n_tissues),
            "n_same_sign": text.integer(row.n_same_sign),
            "same_sign_p": text.p_value(row.same_sign_p),
            "spearman": text.number(row.spearman, 2),
            "spearman_p": text.p_value(row.spearman_p),
            "spearman_p_smallest": text.attainable_p(row.spearman_p_smallest),
        }
        for row in summary.itertuples()
    }


def _recovery(recovery: pd.DataFrame) -> dict[str, str]:
    large = recovery[recovery["same_sign"]]
    return {
        "n": text.integer(len(recovery)),
        "n_covered": text.integer(int(recovery["covered"].sum())),
        "n_same_sign": text.integer(len(large)),
    }


def includes(found: CellTables) -> dict[str, str]:
    """Return the Markdown tables of the paper by name."""
    return {
        "arms": _arms(found),
        "confounding": _confounding(found.confounding),
        "exclusions": _exclusions(found.exclusions),
        "aging": _aging_table(found.aging),
        "aging_otherwise": _aging_otherwise(found.aging),
        "concordance": _concordance_table(found.concordance),
        "drivers": _drivers_table(found.drivers),
        "recovery": _recovery_table(found.recovery),
    }


def _arms(found: CellTables) -> str:
    kept = found.proportions
    rows = []
    for (cohort, platform), arm in kept.groupby(["cohort", "platform"]):
        animals = arm.drop_duplicates("animal")
        groups = animals["age_group"].value_counts()
        rows.append(
            [
                text.arm(str(cohort), str(platform)),
                text.listed([text.tissue_name(name) for name in sorted(arm["tissue"].unique())]),
                *(text.integer(int(groups.get(group, 0))) for group in AGE_GROUPS),
                text.integer(int(arm["n_cells"].sum())),
            ]
        )
    header = ["Arm", "Tissues", "Young", "Middle", "Old", "Cells"]
    return text.pipe_table(header, rows, align="llrrrr")


def _confounding(confounding: pd.DataFrame) -> str:
    wide = confounding.set_index(["cohort", "platform", "tissue", "age_group"])
    rows = []
    for key in wide.index.droplevel("age_group").drop_duplicates():
        tissue = wide.loc[key]
        cells = [
            f"{tissue.loc[group, 'n_female']} / {tissue.loc[group, 'n_male']}"
            for group in AGE_GROUPS
        ]
        within = "no" if tissue["sex_confounded"].iloc[0] else "yes"
        pooled = text.integer(int(tissue["n_pooled"].sum()))
        rows.append([text.arm(key[0], key[1]), text.tissue_name(key[2]), *cells, pooled, within])
    header = ["Arm", "Tissue", "Young F / M", "Middle F / M", "Old F / M", "Pooled", "Within sex"]
    return text.pipe_table(header, rows, align="llrrrrl")


def _exclusions(exclusions: pd.DataFrame) -> str:
    rows = []
    for rule, meaning in RULES.items():
        here = exclusions[exclusions["rule"] == rule]
        rows.append([meaning, text.integer(len(here)), text.integer(int(here["n_cells"].sum()))])
    return text.pipe_table(["Left out", "Samples", "Cells"], rows, align="lrr")


def _with_interval(value: float, low: float, high: float, digits: int) -> str:
    estimate = text.signed(value, digits)
    # Groups may be too small for any interval of exact ranks.
    return estimate if math.isnan(low) else f"{estimate} {text.interval(low, high, digits)}"


def _aging_table(aging: pd.DataFrame) -> str:
    key = ["cohort", "platform", "tissue"]
    plane = aging[(aging["cells"] == "all") & aging["metric"].isin(text.CHANGES)]
    wide = plane.set_index([*key, "metric"])
    rows = []
    for tissue in wide.index.droplevel("metric").drop_duplicates():
        gini, effective = (wide.loc[(*tissue, metric)] for metric in text.CHANGES)
        rows.append(
            [
                text.arm(tissue[0], tissue[1]),
                text.tissue_name(tissue[2]),
                f"{gini.n_young}, {gini.n_old}",
                _with_interval(gini.change, gini.change_low, gini.change_high, 3),
                text.p_value(gini.mann_whitney_p),
                text.p_value(gini.mann_whitney_q),
                _with_interval(effective.change, effective.change_low, effective.change_high, 2),
                text.p_value(effective.mann_whitney_p),
                text.p_value(effective.mann_whitney_q),
                str(gini.quadrant),
            ]
        )
    header = ["Arm", "Tissue", "n", "ΔGini", "p", "q", "ΔN~eff~", "p", "q", "Quadrant"]
    return text.pipe_table(header, rows, align="llrrrrrrrl")


def _aging_otherwise(aging: pd.DataFrame) -> str:
    """Return the same comparisons by other means: equal cells, rank shift, within the sexes."""
    key = ["cohort", "platform", "tissue", "metric", "cells"]
    shown = aging[aging["metric"].isin(text.CHANGES)].set_index(key)
    rows = []
    for tissue in shown.index.droplevel(["metric", "cells"]).drop_duplicates():
        for metric in text.CHANGES:
            name, digits = text.CHANGES[metric]
            full, equal = (shown.loc[(*tissue, metric, cells)] for cells in CELLS)
            within = text.p_value(full.within_sex_p)
            smallest = text.attainable_p(full.within_sex_p_smallest)
            rows.append(
                [
                    text.arm(tissue[0], tissue[1]),
                    text.tissue_name(tissue[2]),
                    name,
                    _with_interval(equal.change, equal.change_low, equal.change_high, digits),
                    _with_interval(full["shift"], full.shift_low, full.shift_high, digits),
                    within,
                    smallest,
                ]
            )
    header = ["Arm", "Tissue", "Change", "Equal cells", "Shift", "p within sex", "smallest"]
    return text.pipe_table(header, rows, align="lllrrrr")


def _concordance_table(concordance: pd.DataFrame) -> str:
    rows = []
    for row in concordance.itertuples():
        name, digits = text.CHANGES.get(row.metric, (str(row.metric), 3))
        rows.append(
            [
                text.tissue_name(row.tissue),
                name,
                _with_interval(
                    row.change_first, row.change_first_low, row.change_first_high, digits
                ),
                _with_interval(
                    row.change_second, row.change_second_low, row.change_second_high, digits
                ),
                "yes" if row.same_sign else "no",
            ]
        )
    header = ["Tissue", "Change", "First platform", "Second platform", "Same sign"]
    return text.pipe_table(header, rows, align="llrrl")


def _drivers_table(drivers: pd.DataFrame) -> str:
    rows = []
    real = drivers[drivers["cell_type"] != NUMBER_OF_TYPES]
    for (cohort, platform, tissue), types in real.groupby(["cohort", "platform", "tissue"]):
        order = types["gini_contribution"].abs().sort_values(ascending=False, kind="stable").index
        for row in types.loc[order[:N_DRIVERS]].itertuples():
            before = text.number(100 * row.young_proportion, 1)
            after = text.number(100 * row.old_proportion, 1)
            rows.append(
                [
                    text.arm(str(cohort), str(platform)),
                    text.tissue_name(str(tissue)),
                    str(row.cell_type),
                    f"{before}{text.NBSP}→{text.NBSP}{after}",
                    text.signed(row.gini_contribution, 3),
                    text.signed(row.effective_number_contribution, 2),
                    _with_interval(row.clr_change, row.clr_change_low, row.clr_change_high, 2),
                ]
            )
    header = ["Arm", "Tissue", "Cell type", "Share (%)", "to ΔGini", "to ΔN~eff~", "Δclr"]
    return text.pipe_table(header, rows, align="lllrrrr")


def _recovery_table(recovery: pd.DataFrame) -> str:
    rows = []
    for row in recovery.itertuples():
        name, digits = text.CHANGES[row.metric]
        rows.append(
            [
                text.arm(row.cohort, row.platform),
                text.tissue_name(row.tissue),
                name,
                text.signed(row.truth, digits),
                _with_interval(row.change, row.change_low, row.change_high, digits),
                "yes" if row.covered else "no",
            ]
        )
    header = ["Arm", "Tissue", "Change", "Truth", "Found", "Covered"]
    return text.pipe_table(header, rows, align="lllrrl")
