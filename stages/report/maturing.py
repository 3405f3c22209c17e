"""What the paper says of all systems: whether they concentrate, and what measures are worth.

The numbers of published measures are those of the model of cells, whose truth is known, in this
run's training and in every further one that was measured (``reports/room_seeds``).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from stages.base.settings import Settings
from stages.measurement.resampling import SIGNIFICANT
from stages.plane.tables import MOSTLY_NOISE, NOISE_COUNTS, VERDICTS
from stages.report import features, operators, pairs, spectra
from stages.report.comparisons import Row, records
from stages.report.reading import Tables


def context(found: Tables, made: Row, settings: Settings, seeds: Path | None) -> Row:
    """Return what the templates need on all systems.

    Parameters
    ----------
    made
        The contexts of the rooms: a measure is shown where its room has something to say.
    seeds
        Folder of further trainings, ``<model>/seed<N>/tables``.
    """
    folders = [] if seeds is None else _further(found.maturing, settings.cellmodel.name, seeds)
    asked = {
        "pairs": _of_pairs if len(settings.cell_pairs.states) else None,
        "spectra": _of_spectra(found) if made["spectra"]["genes"] else None,
        "features": _of_features if made["features"] and settings.features.of != "model" else None,
        "operators": _of_operators if made["operators"] else None,
    }
    return {
        "answers": _answers(found.maturing_answers),
        "mostly_noise": MOSTLY_NOISE,
        "measures": {
            room: _over([found, *map(Tables, folders)], read)
            for room, read in asked.items()
            if read is not None
        },
        "n_trainings": 1 + len(folders),
    }


def _further(maturing: pd.DataFrame, model: str, seeds: Path) -> list[Path]:
    """Return the tables of the trainings that the one table has: those of the same recipe."""
    of_model = maturing.loc[maturing["group"] == model, "seed"].dropna().astype(int)
    folders = [seeds / model / f"seed{seed}" / "tables" for seed in sorted(of_model.unique())]
    return [folder for folder in folders if folder.exists()]


def _answers(table: pd.DataFrame) -> Row:
    """Return the rows of the series that are shown, of the first state and by verdict."""
    table = table[table["shown"]]
    first = records(table[table["start"] == "first"])
    quiet = {row["system"]: row for row in records(table[table["start"] != "first"])}
    for row in first:
        row["beyond_noise"] = quiet.get(row["system"])
        row["n_components"] = None if pd.isna(row["n_components"]) else int(row["n_components"])
        # Noise that is not negligible, and a concentration that is not told from its.
        row["begins_as_noise"] = row["noise_first"] > NOISE_COUNTS and row["p_first"] >= SIGNIFICANT
        row["name"] = row["components"]
        if row["system"] != "cells":
            row["name"] += f" of {row['group']}"
    by = {name: [row for row in first if row["verdict"] == name] for name in VERDICTS}
    falls = [row for name, rows in by.items() if name.startswith(("yes", "falls")) for row in rows]
    return {
        "rows": first,
        "by": by,
        "falls": falls,
        "asked": [row for row in first if row["verdict"] not in {"noise", "one state"}],
    }


def _over(
    trainings: Sequence[Tables], read: Callable[[Tables], Mapping[str, float]]
) -> dict[str, Row]:
    """Return each number of this run's training, with its ends over all of them."""
    every = pd.DataFrame([read(one) for one in trainings])
    return {
        str(name): {"value": float(of.iloc[0]), "ends": (float(of.min()), float(of.max()))}
        for name, of in every.items()
    }


def _of_pairs(found: Tables) -> Mapping[str, float]:
    last = pairs.of_model(
        found.cell_epistasis, found.cell_epistasis_heads, found.cell_epistasis_sets
    )["last"]
    ratio, positive = last.get("tier_ratio", {}), last.get("share_positive", {})
    by = {name: ratio[name]["value"] for name in ("measured", "additive", "product") if ratio}
    return by | ({"positive": positive["measured"]["value"]} if "measured" in positive else {})


def _of_spectra(ours: Tables) -> Callable[[Tables], Mapping[str, float]]:
    """Return what reads the ranks of the state in which rows of zeros do most in our training."""
    state = spectra.zeros(ours.cell_spectrum)["state"]

    def read(found: Tables) -> Mapping[str, float]:
        zeros = spectra.zeros(found.cell_spectrum, state)
        return {name: zeros[name]["last"] for name in ("plain", "zeros", "mean")}

    return read


def _of_features(found: Tables) -> Mapping[str, float]:
    edges = features.edges(found.tracing, found.traced_features, found.feature_statistics)
    together = features.together(found.combinations)
    row = {"ratio": float(edges["ratios"][0]["ratio"])}
    row |= {name: edges["edges"]["published"][name]["edges"] for name in ("feature", "random")}
    row["specific"] = edges["edges"]["specific"]["feature"]["edges"]
    return row | {name: together[name] for name in ("published", "additive", "raw") if together}


def _of_operators(found: Tables) -> Mapping[str, float]:
    _, judged = operators.judged(found.operator_gates)
    ours = [row for row in judged if row["is_operator"] and not row["untrained"]]
    fixed = operators.factors(found.operator_factors)["fixed"]
    return {
        "donor": max(row["donor"]["value"] for row in ours),
        "wrong_donor": max(row["wrong_donor"] for row in ours),
        "wrong_within": max(row["wrong_within"] for row in ours),
        "within": max(row["within"]["value"] for row in ours),
        "share": float(fixed["share"]),
        "rotated": float(fixed["rotated"]),
    }
