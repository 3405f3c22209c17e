"""What the paper says of features: what they move, alone and together, and where they steer."""

from types import MappingProxyType

import pandas as pd
from scipy import stats

from stages.base.settings import Settings
from stages.features.tables.trace import DIRECTIONS
from stages.report.comparisons import Row, records
from stages.report.reading import Tables

PUBLISHED = MappingProxyType({"edges": 355.6, "norm_matched": 22.7, "ratio": 0.53})
"""Of Geneformer's layer 5 (Biodyn-AI/sae-biological-map, after its revision): mean edges of 200
features and of Gaussian directions of the same norm in their place, and the median ratio of sets of
three."""


def context(found: Tables, settings: Settings) -> Row:
    """Return what the templates need on the features of a model; nothing where there is none."""
    if not settings.features.names:
        return {}
    return {
        "model": settings.features.names[0],
        "published": dict(PUBLISHED),
        **_autoencoders(found.autoencoders),
        **edges(found.tracing, found.traced_features, found.feature_statistics),
        "together": together(found.combinations),
        "steered": _steered(found.steering),
        "named": {row["collection"]: row for row in records(found.annotated)},
        "measured": {
            series: {row["metric"]: row for row in records(of)}
            for series, of in found.feature_measured.groupby("series")
        },
    }


def _ends(values: pd.Series) -> Row:
    return {"low": float(values.min()), "high": float(values.max())}


def _autoencoders(table: pd.DataFrame) -> Row:
    of_stream = table[table["on"] == "stream"]
    trained = of_stream[of_stream["kind"] == "trained"]
    frozen = of_stream[of_stream["kind"] != "trained"]
    layer = int(frozen["layer"].iloc[0])
    here = trained[trained["layer"] == layer]
    planted = table[table["on"] == "planted"].set_index("kind")
    rows = [
        {"kind": kind, **records(of)[0], "found": float(planted.loc[kind, "found"])}
        for kind, of in pd.concat([here[here["seed"] == 0], frozen]).groupby("kind", sort=False)
    ]
    blank = records(table[table["on"] == "untrained model"])
    return {
        "layer": layer,
        "n_seeds": int(trained["seed"].nunique()),
        "explained": _ends(trained["explained"]),
        "recovered": _ends(trained["recovered"]),
        "stability": float(here["stability"].mean()),
        "autoencoders": rows,
        # Whether one of which a part never learnt keeps nearly as much of the loss.
        "alike": bool((frozen["recovered"] > 0.95 * here["recovered"].mean()).any()),
        "untrained": blank[0] if blank else None,
    }


def edges(tracing: pd.DataFrame, traced: pd.DataFrame, statistics: pd.DataFrame) -> Row:
    """Return the edges of features and of other directions, by every rule."""
    first = tracing[tracing["seed"] == tracing["seed"].min()]
    rows = {
        rule: {row["direction"]: row for row in records(of)} for rule, of in first.groupby("rule")
    }
    ratios = tracing[(tracing["rule"] == "published") & (tracing["direction"] == "random")]
    by = {row["what"]: row for row in records(statistics)}
    return {
        "edges": rows,
        "directions": list(DIRECTIONS[1:]),
        "ratios": records(ratios),
        # Whether features have more edges than random directions, with every autoencoder.
        "specific": bool((ratios["ratio_low"] > 1).all()),
        "n_traced": len(traced),
        "statistics": by,
    }


def _rho(rows: pd.DataFrame, name: str) -> float:
    """Return the rank correlation of the published ratio with another over sets."""
    return float(stats.spearmanr(rows[name], rows["published"])[0])


def together(combinations: pd.DataFrame) -> Row:
    """Return the ratios of the largest sets; nothing where no features fire together."""
    if combinations.empty:
        return {}
    rows = combinations[combinations["order"] == combinations["order"].max()]
    apart = rows["high"].lt(1) | rows["low"].gt(1)
    ratios = rows[["raw", "published", "additive"]]
    varies = len(rows) > 2 and bool((ratios.nunique() > 1).all())
    return {
        "order": int(rows["order"].iloc[0]),
        "n": len(rows),
        "n_apart": int(apart.sum()),
        **{name: float(rows[name].median()) for name in ("raw", "published", "additive")},
        "raw_ends": _ends(rows["raw"]),
        "rho": _rho(rows, "raw") if varies else None,
        "rho_additive": _rho(rows, "additive") if varies else None,
        # Whether over sets it follows what exact sums give rather than what raw effects do.
        "blind": varies and _rho(rows, "additive") > _rho(rows, "raw"),
    }


def _steered(steering: pd.DataFrame) -> Row:
    """Return means over autoencoders of the first layer, by readout and kind, at a middle dose."""
    if steering.empty:
        return {}
    doses = sorted(steering["dose"].unique())
    dose = doses[len(doses) // 2]
    rows = steering[(steering["layer"] == steering["layer"].min()) & (steering["dose"] == dose)]
    means = rows.groupby(["readout", "kind"])[["shift", "positive"]].mean()
    return {
        "dose": float(dose),
        "readouts": {
            str(readout): {
                str(kind): {name: float(value) for name, value in means.loc[readout, kind].items()}
                for kind in means.loc[readout].index
            }
            for readout in means.index.get_level_values(0).unique()
        },
    }
