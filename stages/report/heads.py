"""What the paper says of attention heads, by themselves and beside cells, as numbers and rows."""

import pandas as pd

from stages.base.settings import Settings
from stages.heads.components import perturbation
from stages.heads.tables.classes import HEAD_CLASS_NAMES
from stages.measurement.concentration import quadrant
from stages.plane.tables import AMONG, MOSTLY_NOISE
from stages.report.comparisons import Row, ends, records, spread
from stages.report.reading import Tables, along_training

# Fewer trainings have no interval over them.
MIN_SEEDS = 2


def context(found: Tables, settings: Settings) -> Row:
    """Return what the templates need on heads, by topic; a topic without inputs is empty."""
    shown = perturbation(found.head_importance)
    return {
        "heads": _heads(found, shown, settings),
        "screen": _screen(_shown(found.head_screen, shown)),
        "companion": _companion(found.companion_agreement),
        "removals": _removals(found.head_removals),
        "seeds": _seeds(found),
        "published_heads": _published(found),
    }


def _shown(table: pd.DataFrame, by: str) -> pd.DataFrame:
    rows: pd.DataFrame = table[table["perturbation"] == by]
    return rows


def _is_silent(found: Tables, shown: str, state: str, settings: Settings) -> bool:
    """Say whether no head of a state could count as anything but silent."""
    rows = _shown(found.head_importance, shown)
    rows = rows[(rows["unit"] == "head") & (rows["state"] == state)]
    relative = rows["delta_loss_nats"].abs() / rows["loss_base"]
    return bool((relative < settings.classes.silent_relative).all())


def _heads(found: Tables, shown: str, settings: Settings) -> Row:
    trajectory, change = along_training(found), along_training(found, "head_change")
    over = {f"sequences_{end}": f"value_{end}" for end in ("low", "high")}
    states = spread(trajectory.rename(columns=over), ["position", "state"])
    first, last = states[0], states[-1]
    changes = {row["metric"]: row for row in records(change)}
    classes = _shown(found.head_classes, shown)["head_class"].value_counts()
    at_last = {
        name: rows[(rows["state"] == last["state"]) & (rows["unit"] == "head")]
        for name in ("head_importance", "head_granularity")
        if len(rows := _shown(getattr(found, name), shown))
    }
    largest = records(at_last["head_importance"].sort_values("rank").head(1))[0]
    effects = at_last["head_importance"]["delta_loss_nats"].abs()
    exact = found.head_control_variate
    exact = exact[exact["unit"] == "head"]
    units = found.head_granularity
    return {
        "removed_by": shown,
        "states": states,
        "first": first,
        "last": last,
        "top": max(states, key=lambda row: float(row["gini"]["value"])),
        "noisy": [row["state"] for row in states if row["gini"]["noise_share"] > MOSTLY_NOISE],
        "mostly_noise": MOSTLY_NOISE,
        "n_layers": int(found.head_importance["layer"].max()) + 1,
        "change": changes,
        "quadrant": _quadrant(changes),
        "first_is_silent": _is_silent(found, shown, first["state"], settings),
        "classes": {name: int(classes.get(name, 0)) for name in HEAD_CLASS_NAMES},
        "largest": largest | {"share": abs(largest["delta_loss_nats"]) / float(effects.sum())},
        "share_deleterious": float(at_last["head_granularity"]["share_deleterious"].iloc[0]),
        "estimated": records(exact)[0] | {"r2": ends(exact["r2_median"])} if len(exact) else {},
        "units": records(
            units[units["state"].isin((first["state"], last["state"]))].sort_values(
                ["position", "n"]
            )
        ),
    }


def _seeds(found: Tables) -> Row:
    """Return how far Gini changes to the last state, from each earlier one, over trainings.

    ``told``, of these: the earliest state that has learnt something, and the most frequent peak.
    """
    table = found.head_baselines
    table = table[table["metric"] == "gini"]
    if table.empty or table["n_seeds"].max() < MIN_SEEDS:
        return {}
    last = table["position_last"].max()
    rows = []
    for state, part in table[table["position_last"] == last].groupby("position_first"):
        row: Row = {"state": part["state_first"].iloc[0], "position": state}
        for effects, of in part.groupby("effects"):
            row[str(effects)] = {one["estimator"]: one for one in records(of)}
        rows.append(row)
    over = found.head_over_seeds
    over = over[(over["metric"] == "gini") & (over["estimator"] == "plug_in")]
    peaks = records(over[(over["effects"] == "absolute") & (over["n_peaks"] > 0)])
    top = max(peaks, key=lambda row: int(row["n_peaks"]))
    trained = [row for row in rows if row["position"] > 0]
    late = next((row for row in rows if row["position"] == top["position"]), None)
    told = [trained[0], *([late] if late and late is not trained[0] else [])]
    return {
        "n_seeds": int(table["n_seeds"].max()),
        "baselines": rows,
        "told": told,
        "early": told[0] if len(told) > 1 else None,
        "late": told[-1],
        "peaks": peaks,
    }


def _removals(table: pd.DataFrame) -> list[Row]:
    """Return what each way of removal gives, with its rank correlation with the first way."""
    if table.empty:
        return []
    first = table["perturbation"].iloc[0]
    rows = []
    for _, part in table.groupby(["state", "perturbation"], sort=False):
        shown = part[part["beside"].isna() | (part["beside"] == first)]
        row = spread(shown, ["state", "perturbation"])[0]
        # The first way agrees with itself.
        rows.append({"spearman": None, "first": first} | row)
    return rows


def _published(found: Tables) -> Row:
    """Return what the published effects of another model's heads do."""
    along = spread(found.companion_trajectory, ["position", "state"])
    change = {row["metric"]: row for row in records(found.companion_change)}
    if not change:
        return {"change": {}}
    top = max(along, key=lambda row: float(row["gini"]["value"]))
    first, last = along[0], along[-1]
    return {
        "group": first["group"],
        "n_heads": first["n_heads"],
        "first": first["state"],
        "last": last["state"],
        "top": top["state"],
        "change": change,
        "same_model": first["group"] in set(found.head_trajectory["group"]),
    }


def _quadrant(changes: Row) -> str:
    """Return what the heads do from the first state to the last; nothing where there is one."""
    if not changes:
        return ""
    return str(quadrant(*(changes[metric]["change"] for metric in ("gini", "effective_number"))))


def _screen(along: pd.DataFrame) -> Row:
    rows = records(along.sort_values("position"))
    lowest = min(rows, key=lambda row: float(row["spearman"]))
    return {"rows": rows, "first": rows[0], "last": rows[-1], "lowest": lowest}


def _companion(agreement: pd.DataFrame) -> list[Row]:
    """Return the comparison with published effects by state; nothing without one."""
    loss = (agreement["loss_base"] - agreement["loss_base_companion"]).abs()
    return records(agreement.assign(loss_difference=loss).sort_values("position"))


def plane(found: Tables) -> Row:
    """Return both systems in one plane; nothing without both.

    Returns
    -------
    dict
        ``splits``, by reference, scale and criterion: how many real tissues (simulated ones where
        none is real) agree, and would by chance; ``axes``, by system and candidate; and of those
        less than a right angle away from the heads ``n_close`` of ``n_tissues``.
    """
    directions = found.plane_directions
    if directions.empty:
        return {}
    shown = perturbation(directions)
    counted: Row = {}
    # The real ones come last, and replace the simulated.
    for among in reversed(AMONG):
        for row in records(found.splits[found.splits["among"] == among]):
            if row["reference_system"] != "heads" or row["reference_condition"] == shown:
                of = counted.setdefault(row["reference_system"], {}).setdefault(row["scale"], {})
                of[row["criterion"]] = row
    first = counted["heads"]["corrected"]["right_angle"]
    return {
        "splits": counted,
        "axes": {
            system: {row["candidate"]: row for row in records(rows)}
            for system, rows in found.axes.groupby("system")
        },
        "n_tissues": first["n_series"],
        "n_close": first["n_agree"],
    }
