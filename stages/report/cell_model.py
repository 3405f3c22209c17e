"""What the paper says of a model of cells: what it knows, and in how many heads it holds that."""

import pandas as pd

from stages.base.settings import Settings
from stages.heads.components import CONDITIONS, shown
from stages.report.comparisons import Row, records
from stages.report.reading import Tables

METRICS = ("gini", "effective_number")


def context(found: Tables, settings: Settings) -> Row:
    """Return what the templates need on the model of cells."""
    measured = found.cell_heads
    measured = measured[measured["series"] == "head"]
    states = settings.cellmodel.checkpoints
    removed_by = shown(measured["condition"])
    measured = measured[measured["metric"].isin(METRICS)]
    rows = {
        state: {
            condition: {row["metric"]: row for row in records(of)}
            for condition, of in part.groupby("condition")
        }
        for state, part in measured.groupby("state")
    }
    joint = found.cell_joint_removal
    last = joint[joint["state"] == states[-1]]
    by_layer = last[last["perturbation"] == removed_by]
    first = next(iter(rows[states[-1]].values()))["gini"]
    return {
        "states": states,
        "removed_by": removed_by,
        "ways": sorted(rows[states[-1]], key=CONDITIONS.index),
        "last": rows[states[-1]],
        "path": [{"state": state} | rows[state][removed_by] for state in states],
        "n_heads": first["n_components"],
        "n_cells": first["n_replicates"],
        "unit": str(by_layer["unit"].iloc[0]),
        "together": _total(by_layer, "together"),
        "singles": _total(by_layer, "singles"),
        "made_up_for": records(by_layer[(by_layer["what"] == "excess") & (by_layer["low"] > 0)]),
        "n_layers": int(by_layer["layer"].nunique()),
        **_known(found.cell_probes, states),
    }


def _total(joint: pd.DataFrame, what: str) -> float:
    return float(joint.loc[joint["what"] == what, "value"].sum())


def _known(probes: pd.DataFrame, states: list[str]) -> Row:
    """Return losses, and what probes find in the last layer, of the states and beside them."""
    loss = probes[probes["measure"] == "loss"].set_index("name")["value"]
    of_model = probes[probes["source"] == "model"]
    layer = of_model["layer"].dropna().iloc[-1] if of_model["layer"].notna().any() else None
    kept = probes[
        (probes["measure"] != "loss") & ((probes["layer"] == layer) | probes["layer"].isna())
    ]
    kept = kept.rename(columns={"low": "value_low", "high": "value_high"})
    found = {
        measure: {row["name"]: row for row in records(of)}
        for measure, of in kept.groupby("measure")
    }
    return {
        "loss": {state: float(loss[state]) for state in states},
        "guessed": {
            name: float(loss[name]) for name in probes.loc[probes["source"] == "frequency", "name"]
        },
        "probes": found,
        "layer": layer,
        "expression": list(probes.loc[probes["source"] == "expression", "name"].unique()),
    }
