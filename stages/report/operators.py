"""What the paper says of heads as maps between genes: what they pass, add and are made of."""

from types import MappingProxyType

import pandas as pd

from stages.measurement.resampling import SIGNIFICANT
from stages.report.comparisons import Row, records
from stages.report.reading import Tables

PUBLISHED = MappingProxyType({"donor": (0.496, 0.596), "share": 0.662})
"""Of scGPT, as third-party notes on arXiv 2603.10261 have it: correlation with the ruler where
donors are held out, on the internal panel and on the external one; share of the four factors."""
SHOWN = ("trustworthiness", "donor", "within", "p_kinds")


def context(found: Tables) -> Row:
    """Return what the templates need; nothing where cells are of no branches of the ruler."""
    gates = found.operator_gates
    if "p_kinds" not in set(gates["gate"]):
        return {}
    gates = gates[gates["dimensions"] == gates["dimensions"].max()]
    last, rows = judged(gates)
    operators = [row for row in rows if row["is_operator"] and not row["untrained"]]
    return {
        "last": last,
        "published": dict(PUBLISHED),
        "n_anchors": int(gates["n_anchors"].iloc[0]),
        "n_donors": int(gates["n_donors"].iloc[0]),
        "threshold": float(gates.loc[gates["gate"] == "donor", "threshold"].iloc[0]),
        "rows": rows,
        "wrong_donor": ends([row["wrong_donor"] for row in operators]),
        "wrong_within": ends([row["wrong_within"] for row in rows]),
        "operators": operators,
        "embedding": next(r for r in rows if r["source"] == "embedding" and not r["untrained"]),
        "expression": next(row for row in rows if row["source"] == "expression"),
        "random": ends(_within(gates[gates["source"] == "random"])),
        "beyond": [row for row in operators if row["gain"] and row["gain"]["low"] > 0],
        "factors": factors(found.operator_factors),
        "measured": _measured(found, last),
        "edges": _edges(found.operator_edges, last),
        "steps": _steps(found.operator_readouts),
    }


def _within(gates: pd.DataFrame) -> list[float]:
    shown = gates[(gates["gate"] == "within") & (gates["ruler"] == "right")]
    return [float(value) for value in shown["value"]]


def ends(values: list[float]) -> tuple[float, float] | None:
    """Return the smallest and the largest of the values that are known, if any is."""
    known = [value for value in values if value == value]
    return (min(known), max(known)) if known else None


def judged(gates: pd.DataFrame) -> tuple[str, list[Row]]:
    """Return the last state, and one row a candidate that was judged with wrong rulers."""
    gates = gates[gates["dimensions"] == gates["dimensions"].max()]
    gates = gates.assign(value_low=gates["low"], value_high=gates["high"])
    last = str(gates["state"].dropna().iloc[-1])
    rows: list[Row] = []
    keys = ["source", "name", "state", "adaptor"]
    for (source, name, state, _), of in gates.groupby(keys, sort=False, dropna=False):
        right = {row["gate"]: row for row in records(of[of["ruler"] == "right"])}
        wrong = of[of["ruler"] == "wrong"].set_index("gate")["value"]
        if "p_kinds" not in right:
            continue
        rows.append(
            {gate: right[gate] for gate in SHOWN}
            | {
                "source": source,
                "name": name,
                "untrained": isinstance(state, str) and state != last,
                "is_operator": source in {"attn_mean", "ov_weight"},
                "wrong_donor": float(wrong["donor"]),
                "wrong_within": float(wrong["within"]),
                "gain": right.get("beyond_embedding"),
            }
        )
    return last, rows


def factors(table: pd.DataFrame) -> Row:
    """Return the shares of the core in the last state, by condition."""
    last = table[table["state"] == table["state"].iloc[-1]]
    core = last[last["top"] == last["top"].min()]
    core = core.assign(share_low=core["low"], share_high=core["high"])
    return {str(row["condition"]): row for row in records(core)}


def _measured(found: Tables, last: str) -> Row | None:
    table = found.operator_factor_effects
    shown = table[
        (table["state"] == last)
        & (table["metric"] == "effective_number")
        & (table["condition"] == "fixed")
    ]
    return records(shown)[0] if len(shown) else None


def _edges(table: pd.DataFrame, last: str) -> Row:
    """Return the areas that the text names; nothing where no edges are known."""
    if table.empty:
        return {}
    table = table.assign(value_low=table["low"], value_high=table["high"])
    attention = table[(table["source"] == "attn_mean") & (table["name"] == "mean of heads")]
    trained = {row["way"]: row for row in records(attention[attention["state"] == last])}
    others = attention[(attention["state"] != last) & (attention["way"] == "target to factor")]
    similar = table[(table["source"] == "embedding") & (table["state"] == last)]
    chosen = table[(table["source"] == "attn_mean") & (table["name"] == "best head")]
    chosen = chosen[(chosen["state"] == last) & (chosen["way"] == "direction")]
    return {
        "correlation": records(table[table["source"] == "expression"])[0],
        "embedding": records(similar)[0],
        "attention": trained.get("target to factor"),
        "direction": trained.get("direction"),
        "chosen_direction": records(chosen)[0] if len(chosen) else None,
        "untrained": records(others)[0] if len(others) else None,
    }


def _steps(table: pd.DataFrame) -> list[Row]:
    """Return the steps of the compression, with how many endpoints each makes clearly worse."""
    table = table[(table["source"] == "ov_weight") & (table["through"] == "features")]
    rows = []
    for name, of in table[table["p"].notna()].groupby("name", sort=False):
        worse = (of["q"] < SIGNIFICANT) & (of["loss"] > 0)
        size = int(of["n_bytes"].iloc[0]) / 1e6
        rows.append({"name": name, "megabytes": size, "worse": int(worse.sum()), "of": len(of)})
    return rows
