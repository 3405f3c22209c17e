"""What the paper says of the directions of items, and of what rows of zeros do to them."""

import numpy as np
import pandas as pd

from stages.measurement.resampling import SIGNIFICANT
from stages.report.comparisons import Row, records
from stages.report.reading import Tables

WITHOUT_ZEROS = (236.3, 48.4)
"""Effective rank of scGPT's genes in the first layer and the last over rows that are not zero, as a
later file of the published study has it (Biodyn-AI/topology-biomechinterp1, iter_0047)."""


def context(found: Tables, *, of_genes: bool) -> Row:
    """Return what the templates need on the spectra of tokens, and of genes where there is a model.

    Parameters
    ----------
    of_genes
        Whether there is a model of cells.
    """
    published = found.claims[found.claims["id"] == "spectra-rank"]
    made: Row = {
        "tokens": _ranks(found.spectrum, found.token_spectra)
        | {"separation": _separated(found.separation), "classes": _classes(found.separation)},
        "published": dict(zip(published["quantity"], published["published"], strict=True)),
        "without_zeros": WITHOUT_ZEROS,
        "genes": {},
    }
    if of_genes:
        made["genes"] = _ranks(found.cell_spectrum, found.cell_spectra) | {
            "zeros": zeros(found.cell_spectrum),
            "separation": _separated(found.cell_separation),
            "structures": _structures(found.cell_structures),
        }
    return made


def _ranks(spectrum: pd.DataFrame, measured: pd.DataFrame) -> Row:
    """Return the numbers of the last layer, in the first state and the last."""
    states, layers = spectrum["state"].unique(), spectrum["layer"].unique()
    of = spectrum.set_index(["matrix", "state", "layer"])
    ends = measured[measured["metric"] == "effective_number"].set_index(["state", "series"])

    def rank(state: str, layer: str) -> Row:
        low, high = ends.loc[(state, layer), ["replicates_low", "replicates_high"]]
        row: Row = of.loc[("items", state, layer)].to_dict()
        ends_of = {"effective_rank_low": float(low), "effective_rank_high": float(high)}
        return row | ends_of | {"n_items": int(row["n_items"])}

    return {
        "states": [str(states[0]), str(states[-1])],
        "first": rank(states[0], layers[-1]),
        "last": rank(states[-1], layers[-1]),
        "entering": rank(states[-1], layers[0]),
        "shuffled": of.loc[("column shuffle", states[-1], layers[-1])].to_dict(),
    }


def zeros(spectrum: pd.DataFrame, state: str | None = None) -> Row:
    """Return the ranks of a state with and without rows of zeros.

    Without `state`, of the one in which they make the largest fall over layers.
    """
    wide = spectrum.pivot(index=["matrix", "state"], columns="layer", values="effective_rank")
    layers = spectrum["layer"].unique()
    fall = np.log(wide[layers[0]] / wide[layers[-1]])
    state = state or (fall.loc["zero rows"] - fall.loc["items"]).idxmax()
    some = spectrum[spectrum["matrix"] == "zero rows"].iloc[0]
    return {
        "state": state,
        "share": some["n_zero_rows"] / (some["n_zero_rows"] + some["n_items"]),
        **{
            name: {
                "first": float(wide.loc[(matrix, state), layers[0]]),
                "last": float(wide.loc[(matrix, state), layers[-1]]),
            }
            for name, matrix in (
                ("plain", "items"),
                ("zeros", "zero rows"),
                ("mean", "zero rows, mean alone"),
            )
        },
    }


def _separated(table: pd.DataFrame) -> Row:
    """Return how the first direction of what enters block 0 goes with frequency."""
    if table.empty:
        return {}
    last = table[table["state"] == table["state"].iloc[-1]]
    entering = last[(last["layer"] == last["layer"].iloc[0]) & (last["family"] == "frequency")]
    return {
        "frequency": float(entering.loc[entering["axis"] == 1, "value"].iloc[0]),
        "n_tests": int(table["n_tests"].iloc[0]),
    }


def _classes(table: pd.DataFrame) -> Row:
    """Return the set that the last layer tells best beyond frequency, and its family at first."""
    sets = table[table["statistic"] == "auroc"]
    if sets.empty:
        return {}
    ends = [str(state) for state in (sets["state"].iloc[0], sets["state"].iloc[-1])]
    of_layer = sets[sets["layer"] == sets["layer"].iloc[-1]]
    last = of_layer[of_layer["state"] == ends[-1]]
    best = last.loc[last["beyond_frequency"].idxmax()]
    alike = of_layer[(of_layer["state"] == ends[0]) & (of_layer["family"] == best["family"])]
    return {
        "states": ends,
        "axis": int(best["axis"]),
        "family": str(best["family"]),
        "set": str(best["set"]),
        "auroc": float(best["beyond_frequency"]),
        "expected": float(best["expected"]),
        "q": float(best["q"]),
        "first": float(alike["beyond_frequency"].max()),
    }


def _structures(table: pd.DataFrame) -> Row:
    """Return a row a question: the model in its last layer, first state and last, and others."""
    if table.empty:
        return {}
    of_model = table[table["source"] == "model"]
    layer = of_model["layer"].iloc[-1]
    kept = table[(table["source"] != "model") | (table["layer"] == layer)]
    first, last = of_model["state"].iloc[0], of_model["state"].iloc[-1]
    rows = []
    for name, part in kept.groupby("structure", sort=False):
        by = {
            (row["source"], row["state"] if row["source"] == "model" else ""): row
            for row in records(part.rename(columns={"low": "value_low", "high": "value_high"}))
        }
        rows.append(
            {
                "name": str(name),
                "statistic": by["co-expression", ""]["statistic"],
                "last": by["model", last],
                "first": by["model", first],
                "coexpression": by["co-expression", ""],
                "frequency": by["frequency", ""],
            }
        )
    told = [row for row in rows if row["coexpression"]["q"] < SIGNIFICANT]
    return {
        "rows": rows,
        "n_tests": int(table["n_tests"].iloc[0]),
        "n_told": len(told),
        "n_better": sum(_clear(row["coexpression"]) > _clear(row["last"]) for row in told),
    }


def _clear(row: Row) -> float:
    """Return how far an answer is from chance, of the way there is."""
    value = float(row["value"])
    return abs(value) if row["statistic"] == "rho" else abs(2 * value - 1)
