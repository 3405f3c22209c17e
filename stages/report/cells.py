"""What the paper says of cells and annotated types, as numbers and rows."""

import pandas as pd

from stages.base.settings import Settings
from stages.cells.tables.drivers import NUMBER_OF_TYPES
from stages.inputs.tables import AGE_GROUPS
from stages.report.comparisons import ARM, TISSUE, Row, compared, over_types, records, spread
from stages.report.reading import Tables

# Types shown for each tissue; the table on disk holds all of them.
N_DRIVERS = 3


def context(found: Tables, settings: Settings) -> Row:
    """Return what the templates need on cells, by topic.

    Parameters
    ----------
    found
        The tables.
    settings
        All settings.
    """
    kept, read = found.proportions, found.exclusions
    confounding = spread(found.confounding, TISSUE, "age_group")
    recovery = found.recovery
    return {
        "data": {
            "arms": [_arm(rows) for _, rows in kept.groupby(ARM)],
            "ages": _ages(settings),
            "n_cells": int(kept["n_cells"].sum()),
            "n_cells_read": int(found.samples["n_cells"].sum()),
            "n_samples": len(kept.drop_duplicates([*TISSUE, "animal"])),
            "n_animals": len(kept.drop_duplicates([*ARM, "animal"])),
            "types": [_types(rows, found) for _, rows in kept.groupby(TISSUE)],
            "confounding": confounding,
            "n_confounded": sum(bool(row["sex_confounded"]) for row in confounding),
            "excluded": {
                rule: {"n": len(rows), "n_cells": int(rows["n_cells"].sum())}
                for rule, rows in read.groupby("rule")
            },
        },
        "aging": compared(found.aging),
        "drivers": _drivers(found.drivers),
        "concordance": {
            "rows": records(found.concordance),
            **{row["metric"]: row for row in records(found.concordance_summary)},
        },
        "recovery": {
            "rows": records(recovery),
            "n_covered": int(recovery["covered"].sum()),
            "n_same_sign": int(recovery["same_sign"].sum()),
        },
    }


def _arm(rows: pd.DataFrame) -> Row:
    groups = rows.drop_duplicates("animal")["age_group"].value_counts()
    return {
        **records(rows[ARM])[0],
        "tissues": sorted(rows["tissue"].unique()),
        "n_cells": int(rows["n_cells"].sum()),
        "n_animals": {group: int(groups.get(group, 0)) for group in AGE_GROUPS},
    }


def _types(rows: pd.DataFrame, found: Tables) -> Row:
    """Return how many types a tissue has, in all and in a sample, and where they go with age."""
    tissue = records(rows[TISSUE])[0]
    in_sample = rows.groupby("animal")["cell_type"].nunique()
    return {
        **tissue,
        "n_types": int(rows["cell_type"].nunique()),
        "in_sample": (int(in_sample.min()), int(in_sample.max())),
        "quadrant": over_types(found, tuple(tissue.values())).get("quadrant"),
    }


def _ages(settings: Settings) -> list[Row]:
    """Return which cohorts share which ages of young and old animals."""
    found: dict[tuple[float, float], dict[str, None]] = {}
    for spec in settings.atlas.cells.values():
        found.setdefault((spec.young_max_months, spec.old_min_months), {})[spec.cohort] = None
    return [{"young": ages[0], "old": ages[1], "cohorts": list(of)} for ages, of in found.items()]


def _drivers(drivers: pd.DataFrame) -> list[Row]:
    """Return the types with the largest contributions to the change of Gini in each tissue."""
    real = drivers[drivers["cell_type"] != NUMBER_OF_TYPES]
    size = real["gini_contribution"].abs()
    ranked = real.loc[size.sort_values(ascending=False, kind="stable").index]
    return [row for _, rows in ranked.groupby(TISSUE) for row in records(rows.head(N_DRIVERS))]
