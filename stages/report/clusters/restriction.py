"""Caloric restriction in the rat: drift, rescue, and what exchanging whole libraries says."""

import numpy as np
import pandas as pd

from stages.base.settings import Settings
from stages.measurement.concentration import quadrant
from stages.report import text
from stages.report.clusters.inputs import ClusterTables
from stages.report.clusters.words import change, number_range

SIMULATED = {
    "coverage_alike": "95%",
    "coverage": "46%",
    "false_alike": "4%",
    "false": "26%",
    "probability": "0.975",
}
"""What intervals over cells do in studies simulated by the demo's model, of two libraries a
condition, as :mod:`stages.cells.restriction` states it: how often that of the rescue
fraction of the effective number holds the truth, and how often the probability of a rescue exceeds
the last where restriction does nothing; where animals are alike, and where they differ as the
demo's do."""

LIBRARIES = {
    "mean": "mean of both",
    "pooled": "cells pooled",
    "male": "male alone",
    "female": "female alone",
}
EXCHANGED = {"all": "freely", "within_sex": "within a sex"}
CONTRASTS = {"drift": "young, old", "rescue": "restricted, old"}


def variables(found: ClusterTables, settings: Settings) -> dict[str, str]:
    """Return what the text says of the rescue; nothing without the libraries of the rat."""
    table = found.restriction
    if table.empty:
        return {}
    at = table[table["resolution"] == settings.clusters.reference]
    mean = at[(at["libraries"] == "mean") & (at["cells"] == "all")].set_index("metric")
    tissue = text.tissue_name(str(mean["tissue"].iloc[0])).lower()
    direction = str(quadrant(*(mean.loc[metric, "drift"] for metric in text.CHANGES)))
    values = {
        "n_libraries": text.integer(int(mean["n_libraries"].iloc[0])),
        "n_cells": text.integer(int(mean["n_cells"].iloc[0])),
        "n_clusters": text.integer(int(mean["n_clusters"].iloc[0])),
        "tissue": tissue,
        "direction_sentence": f"by these signs the {tissue} {text.DOES[direction]}.",
    }
    of_mean = table[table["libraries"] == "mean"]
    for metric in text.CHANGES:
        row = mean.loc[metric]
        along = of_mean[of_mean["metric"] == metric]
        full, equal = (along[along["cells"] == cells] for cells in ("all", "rarefied"))
        here = at[(at["metric"] == metric) & (at["cells"] == "all")].set_index("libraries")
        values |= {
            f"{metric}_drift": change(row, metric, "drift"),
            f"{metric}_rescue": change(row, metric, "rescue"),
            f"{metric}_fraction": fraction(row),
            # Never alone: what begins with ">" is a quotation in Markdown.
            f"{metric}_probability": f"P {_probability(row['rescue_probability'])}",
            f"{metric}_fractions": number_range(full["rescue_fraction"], 2),
            f"{metric}_fractions_equal": number_range(equal["rescue_fraction"], 2),
            f"{metric}_male": fraction(here.loc["male"]),
            f"{metric}_female": fraction(here.loc["female"]),
        }
    tests = found.restriction_tests
    return values | {
        "p_smallest": text.p_value(_smallest(tests, "all")),
        "p_smallest_within_sex": text.p_value(_smallest(tests, "within_sex")),
        "n_arrangements": text.integer(
            int(tests.loc[tests["strata"] == "all", "n_arrangements"].iloc[0])
        ),
    }


def _smallest(tests: pd.DataFrame, strata: str) -> float:
    return float(tests.loc[tests["strata"] == strata, "p_smallest"].min())


def fraction(row: pd.Series) -> str:
    """Return a rescue fraction with its interval, as far as there are."""
    if np.isnan(row["rescue_fraction"]):
        return text.DASH
    value = text.number(row["rescue_fraction"], 2)
    if np.isnan(row["rescue_fraction_low"]):
        return value
    low, high = (text.number(row[f"rescue_fraction_{end}"], 2) for end in ("low", "high"))
    return f"{value} [{low},{text.NBSP}{high}]"


def _probability(probability: float) -> str:
    """Return a probability with its relation: a share of draws is never certain."""
    if probability >= 0.9995:
        return "> 0.999"
    return "< 0.001" if probability < 0.0005 else f"= {probability:.3f}"


def table(rescue: pd.DataFrame, settings: Settings) -> str:
    """Return drift and rescue at the reference resolution, libraries taken together each way."""
    at = rescue[rescue["resolution"] == settings.clusters.reference]
    rows = []
    for metric, (name, _) in text.CHANGES.items():
        for libraries, meaning in LIBRARIES.items():
            for cells, extra in (("all", ""), ("rarefied", ", equal cells")):
                if extra and libraries != "mean":
                    continue
                here = at[
                    (at["metric"] == metric)
                    & (at["libraries"] == libraries)
                    & (at["cells"] == cells)
                ]
                rows += [
                    [
                        name.removeprefix("Δ"),
                        f"{meaning}{extra}",
                        change(row, metric, "drift"),
                        change(row, metric, "rescue"),
                        fraction(row),
                        _probability(row["rescue_probability"]).removeprefix("= "),
                    ]
                    for _, row in here.iterrows()
                ]
    header = ["Metric", "Libraries", "Drift", "Rescue", "Fraction", "P(rescue > 0)"]
    return text.pipe_table(header, rows, align="llrrrr")


def tests_table(tests: pd.DataFrame, settings: Settings) -> str:
    """Return the exact tests at the reference resolution, whole libraries exchanged."""
    at = tests[(tests["resolution"] == settings.clusters.reference) & (tests["cells"] == "all")]
    rows = []
    for (metric, contrast), part in at.groupby(["metric", "contrast"], sort=False):
        name, digits = text.CHANGES[metric]
        of = part.set_index("strata")
        cells = [
            text.p_value(of.loc[strata, column])
            for strata in EXCHANGED
            for column in ("p", "p_smallest")
        ]
        difference = text.signed(of.loc["all", "difference"], digits)
        rows.append([name.removeprefix("Δ"), CONTRASTS[contrast], difference, *cells])
    of_strata = [column for name in EXCHANGED.values() for column in (f"p, {name}", "smallest")]
    header = ["Metric", "Compared", "Difference", *of_strata]
    return text.pipe_table(header, rows, align="llrrrrr")
