"""What the paper says of cells and annotated types, as numbers and rows."""

import pandas as pd

from stages.base.settings import Settings
from stages.base.study import ANNOTATION, RECONSTRUCTED, SIMULATED, Study
from stages.cells.tables.comparators import METHODS
from stages.inputs.groups import AgeRange
from stages.inputs.tables import GROUPS
from stages.measurement.resampling import SIGNIFICANT
from stages.report import text
from stages.report.comparisons import (
    ARM,
    TISSUE,
    Row,
    compared,
    ends,
    in_order,
    records,
    spread,
)
from stages.report.reading import Tables

# Kinds of faults of a reconstruction that are shown, some with a share in their names.
FAULTS = ("merge", "split", "exchange", "several")
# A direction that at least this share of all analyses gives, and one that fewer than that give.
FIRM, LOOSE = 0.9, 0.5


def context(found: Tables, settings: Settings, about: Study) -> Row:
    """Return what the templates need on cells, by topic.

    Parameters
    ----------
    found
        The tables.
    settings
        All settings.
    about
        What names the animals of each arm. Of simulated arms only what is planted in them is told,
        where there are real ones.
    """
    kept, read = found.proportions, found.exclusions
    groups = about.groups(about.real(kept))
    confounding = spread(about.real(found.confounding), TISSUE, "group")
    recovery = found.recovery
    aged = about.real(found.contrast)
    return {
        "groups": groups._asdict(),
        "data": {
            "arms": [_arm(rows) for _, rows in in_order(kept).groupby(ARM, sort=False)],
            "groups": _groups(settings, kept),
            "n_cells_read": int(found.samples["n_cells"].sum()),
            "confounding": confounding,
            "n_confounded": sum(bool(row["sex_confounded"]) for row in confounding),
            "excluded": {
                rule: {"n": len(rows), "n_cells": int(rows["n_cells"].sum())}
                for rule, rows in read.groupby("rule")
            },
            **_evidence(kept, settings, about),
        },
        "contrast": _compared(aged, found.not_compared, about),
        "calibration": _calibration(found.calibration),
        "multiverse": _multiverse(about.real(found.multiverse)),
        "trend": _trend(about.real(found.trend)),
        "comparators": _comparators(about.real(found.comparators)),
        "reconstruction": _reconstruction(found.reconstruction),
        "concordance": {
            "rows": records(found.concordance),
            **{row["metric"]: row for row in records(found.concordance_summary)},
        },
        "recovery": {
            "rows": records(in_order(recovery)),
            "n_covered": int(recovery["covered"].sum()),
            "n_same_sign": int(recovery["same_sign"].sum()),
        },
    }


def _evidence(kept: pd.DataFrame, settings: Settings, about: Study) -> Row:
    """Say which arms are annotated, reconstructed and simulated."""
    arms = kept.drop_duplicates(TISSUE)
    named = about.evidence_of(arms)
    of_compared = kept[(kept["group"] == "compared") & kept["sex"].notna()]
    simulated = [arm.cohort for arm in about.arms if arm.evidence == SIMULATED]
    if not about.arms and about.simulated:
        simulated = sorted(kept["cohort"].unique())
    return {
        "real": bool((named != SIMULATED).any()),
        "annotated": [
            f"{text.arm(row['cohort'], row['platform'])} {text.tissue_name(row['tissue']).lower()}"
            for row in records(arms[named == ANNOTATION])
        ],
        "n_reconstructed": int((named == RECONSTRUCTED).sum()),
        "reconstructed": bool((named == RECONSTRUCTED).any()),
        "simulated": [text.cohort_name(name) for name in dict.fromkeys(simulated)],
        "bases": [
            {
                "cohort": arm.cohort,
                "platform": arm.platform,
                "tissue": text.tissue_name(arm.tissue).lower() if arm.tissue else "other tissues",
                "evidence": arm.evidence,
                "basis": arm.basis,
            }
            for arm in about.arms
            if arm.basis
        ],
        "compared_sexes": sorted(of_compared["sex"].unique()),
    }


def _compared(aged: pd.DataFrame, skipped: pd.DataFrame, about: Study) -> Row:
    found = compared(aged)
    for row in found["rows"]:
        row["evidence"] = about.evidence(row["cohort"], row["platform"], row["tissue"])
    return found | {
        "emphasised": [row for row in found["rows"] if row["emphasised"]],
        "paired": sum(bool(row["gini"]["paired"]) for row in found["rows"]),
        "not_compared": records(in_order(skipped)),
    }


def _calibration(table: pd.DataFrame) -> Row:
    """Return how often nothing is called something, and a planted change what it is."""
    if table.empty:
        return {}
    table = table[table["cohort"] == table["cohort"].iloc[0]]
    unchanged = table[(table["gini_shift"] == 0) & (table["n_arms"] > 0)]
    planted = table[(table["gini_shift"] > 0) & (table["rule"] == "emphasised")]
    shift = float(planted["gini_shift"].median()) if len(planted) else 0.0
    shift = min(planted["gini_shift"].unique(), key=lambda one: abs(float(one) - shift))
    at = planted[planted["gini_shift"] == shift]
    by_size = records(
        at.assign(n=at["n_reference"] + at["n_compared"]).sort_values(["n_arms", "n"])
    )
    return {
        "n_studies": int(table["n_studies"].iloc[0]),
        "designs": spread(unchanged, ["n_reference", "n_compared"], "rule"),
        "ends": {rule: ends(rows["rate"]) for rule, rows in unchanged.groupby("rule")},
        "shift": float(shift),
        "typical": by_size[-1],
        "largest": max(by_size, key=lambda row: int(row["n"])),
    }


def _multiverse(table: pd.DataFrame) -> Row:
    if table.empty:
        return {}
    rows = [row | {"share": row[row["direction"]]} for row in records(in_order(table))]
    return {
        "rows": rows,
        "n_choices": ends(table["n_choices"]),
        "firm": [row for row in rows if row["share"] >= FIRM],
        "loose": [row for row in rows if row["share"] < LOOSE],
        "firm_share": FIRM,
        "loose_share": LOOSE,
    }


def _trend(table: pd.DataFrame) -> Row:
    table = table[table["cells"] == "all"]
    if table.empty:
        return {}
    small = table[table["q"] < SIGNIFICANT]["metric"]
    return {
        "n": len(table.drop_duplicates(TISSUE)),
        "n_significant": {metric: int((small == metric).sum()) for metric in text.CHANGES},
    }


def _comparators(table: pd.DataFrame) -> Row:
    if table.empty:
        return {}
    rows = spread(in_order(table), TISSUE, "method", sort=False)
    for row in rows:
        row["ranks_q"] = min(row[metric]["q"] for metric in text.CHANGES)
    small = table[table["q"] < SIGNIFICANT]["method"]
    return {
        "rows": rows,
        "n_arms": len(rows),
        "n": (n := {method: int((small == method).sum()) for method in METHODS}),
        # All others see more than either of ours.
        "surer": min(n[method] for method in METHODS if method not in text.CHANGES)
        > max(n[metric] for metric in text.CHANGES),
    }


def _reconstruction(table: pd.DataFrame) -> Row:
    """Return the share of each kind of fault that keeps the direction of an arm."""
    if table.empty:
        return {}
    kinds = [name for name in table["fault"].unique() if name.split("_")[0] in FAULTS]
    wide = table.pivot(index=TISSUE, columns="fault", values="keeps_direction")[kinds]
    return {
        "kinds": [name.replace("_", " ") for name in kinds],
        "rows": [
            row | {"keeps": [row[kind] for kind in kinds]}
            for row in records(in_order(wide.reset_index()))
        ],
        "n_arms": len(wide),
        "keeps": {kind: ends(wide[kind].dropna()) for kind in kinds},
    }


def _arm(rows: pd.DataFrame) -> Row:
    groups = rows.drop_duplicates("animal")["group"].value_counts()
    return {
        **records(rows[ARM])[0],
        "tissues": sorted(rows["tissue"].unique()),
        "n_cells": int(rows["n_cells"].sum()),
        "n_animals": {group: int(groups.get(group, 0)) for group in GROUPS},
    }


def _groups(settings: Settings, kept: pd.DataFrame) -> list[Row]:
    """Return which cohorts share which groups."""
    there = set(kept["cohort"])
    found: dict[tuple[str, ...], dict[str, None]] = {}
    for spec in settings.atlas.cells.values():
        if spec.cohort not in there:
            continue
        called = spec.groups.called
        said = [_members(group) for group in (spec.groups.reference, spec.groups.compared)]
        key = (called.reference, said[0], called.compared, said[1])
        found.setdefault(key, {})[spec.cohort] = None
    names = ("reference", "of_reference", "compared", "of_compared")
    return [dict(zip(names, key, strict=True)) | {"cohorts": list(of)} for key, of in found.items()]


def _members(group: AgeRange | list[str]) -> str:
    """Say who is in a group.

    Examples
    --------
    >>> _members(AgeRange(up_to="3 months")), _members(["ctrl", "mock"])
    ('up to 3 months', 'ctrl or mock')
    """
    if not isinstance(group, AgeRange):
        return " or ".join(group)
    ends = (("from", group.from_), ("up to", group.up_to))
    return " ".join(f"{word} {age}" for word, age in ends if age is not None)
