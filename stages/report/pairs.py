"""What the paper says of pairs of heads: what they do beyond the sum, and what explains it."""

from types import MappingProxyType

import pandas as pd

from stages.base.settings import Settings
from stages.pairs.components import CONDITIONS
from stages.report.comparisons import Row, records
from stages.report.reading import Tables

PUBLISHED = MappingProxyType({"product": 44.7, "fitted": 7.6})
"""Of Pythia-410M at its last step, from the table of pairs of mool32/epistasis-transformer-heads:
the ratio between the pairs of the strongest heads and random ones, of the median products of the
heads' effects, and of these to the power that fits best."""
NAMED = 3
"""Heads that the text names."""


def context(found: Tables, settings: Settings) -> Row:
    """Return what the templates need on pairs; nothing where none were removed."""
    models = []
    if settings.pairs.states:
        models.append(
            of_model(found.epistasis, found.epistasis_heads, found.epistasis_sets)
            | {"name": settings.model.name, "demo": settings.model.source == "mini"}
            | {"read": "sequence", "figure": "pairs"}
        )
    if settings.cell_pairs.states:
        models.append(
            of_model(
                found.cell_epistasis,
                found.cell_epistasis_heads,
                found.cell_epistasis_sets,
            )
            | {"name": settings.cellmodel.name, "demo": settings.cellmodel.source == "mini"}
            | {"read": "cell", "figure": "cell_pairs"}
        )
    if not models:
        return {}
    stated = found.claims[found.claims["id"].isin(("pairs-ratio", "pairs-positive"))]
    claimed = dict(zip(stated["quantity"], stated["published"], strict=True))
    return {"models": models, "published": claimed | PUBLISHED}


def of_model(table: pd.DataFrame, heads: pd.DataFrame, sets: pd.DataFrame) -> Row:
    """Return of one model its states, and of the last what heads make up for."""
    shown = min(table["perturbation"].unique(), key=CONDITIONS.index)
    table, heads, sets = (of[of["perturbation"] == shown] for of in (table, heads, sets))
    path = []
    for state, rows in table.groupby("state", sort=False):
        by_quantity = rows.groupby("quantity")
        path.append(
            {"state": state}
            | {
                str(quantity): {row["source"]: row for row in records(of)}
                for quantity, of in by_quantity
            }
        )
    last = path[-1]["state"]
    heads, sets = heads[heads["state"] == last], sets[sets["state"] == last]
    made_up = heads[heads["made_up_low"] > heads["noise_high"]]
    made_up = made_up.sort_values("made_up", ascending=False, kind="stable")
    whole = sets[sets["kind"] == "attention"].groupby("what")["value"].sum()
    more = sets[sets["kind"] == "cumulative"]
    if not more.empty:
        more = more[more["n_heads"] == more["n_heads"].max()]
    first = table.iloc[0]
    return {
        "path": path,
        "last": path[-1],
        "removed_by": shown,
        "n_heads": int(first["n_heads"]),
        "n_pairs": int(first["n_pairs"]),
        "all": int(first["n_pairs"]) == int(first["n_heads"]) * (int(first["n_heads"]) - 1) // 2,
        "n_sequences": int(first["n_sequences"]),
        "unit": first["unit"],
        "n_made_up": len(made_up),
        "made_up": records(made_up.head(NAMED)),
        "layers": {str(what): float(value) for what, value in whole.items()},
        "cumulative": {row["what"]: row for row in records(more)},
    }
