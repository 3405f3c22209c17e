"""Write the ledger of claims as the paper prints it."""

from collections.abc import Mapping
from math import ceil, isnan, log10
from typing import Any, NamedTuple

import pandas as pd

from stages.report import text
from stages.report.tables import VERDICTS

_WORDS = {
    "two_nn": "intrinsic dimension",
    "auroc": "AUROC",
    "rho": "\N{GREEK SMALL LETTER RHO}",
    "_": " ",
}
"""For parts of the names of quantities."""
_HALF = 0.5 + 1e-9
"""Of a unit of the last digit."""
_SLACK = 1e-9
"""Of a logarithm that is a whole number."""


class _Named(NamedTuple):
    """How a quantity is written: its name, its digits, and whether it is a change."""

    name: str
    digits: int
    signed: bool = True


_PLANE = {f"{metric}_change": _Named(*named) for metric, named in text.CHANGES.items()}
NAMES = {
    **_PLANE,
    **{
        f"{end}_{key}": named._replace(name=f"{end} {named.name}")
        for end in ("coarse", "fine")
        for key, named in _PLANE.items()
    },
    "gini_p": _Named("p of Gini", 3, signed=False),
    "effective_number_p": _Named("p of N~eff~", 3, signed=False),
    "smaller_p": _Named("the smaller p", 3, signed=False),
    "rescue_fraction": _Named("rescue fraction", 2, signed=False),
    "rescue_probability": _Named("P(rescue > 0)", 3, signed=False),
}
"""Of numbers that are not called and written by rule; see :func:`named`."""


def named(row: Mapping[str, Any]) -> _Named:
    """Return how the number of a row is written: by rule as it is called, rounded as published.

    Examples
    --------
    >>> named({"quantity": "two_nn_first", "published": 20.0, "tolerance": 0.05})
    _Named(name='intrinsic dimension, first', digits=1, signed=False)
    """
    if row["quantity"] in NAMES:
        return NAMES[row["quantity"]]
    stem, _, end = row["quantity"].rpartition("_")
    name = f"{stem}, {end}" if end in {"first", "last"} else row["quantity"]
    for key, word in _WORDS.items():
        name = name.replace(key, word)
    digits = len(repr(row["published"]).removesuffix(".0").partition(".")[2])
    # A number that ends in zeros has lost them, and its tolerance tells of them.
    if row["tolerance"] > 0:
        digits = max(digits, ceil(-log10(2 * row["tolerance"]) - _SLACK))
    return _Named(name, digits, signed=False)


def value(row: Mapping[str, Any], at: str) -> str:
    """Return a number of a row, in groups of three where it is whole."""
    how = named(row)
    if not how.signed and not how.digits and not isnan(row[at]):
        return text.integer(round(row[at]))
    return (text.signed if how.signed else text.number)(row[at], how.digits)


def ours(row: Mapping[str, Any]) -> str:
    """Return the name and our value of a number, with its interval."""
    how = named(row)
    if row["compared"] == "at most":
        return f"{how.name} {text.p_value(row['ours'])}"
    shown = f"{how.name} {value(row, 'ours')}"
    if isnan(row["ours_low"]):
        return shown
    low, high = (value(row, f"ours_{end}") for end in ("low", "high"))
    return f"{shown} [{low},{text.NBSP}{high}]"


def context(table: pd.DataFrame) -> dict[str, Any]:
    """Return what the text says of the whole ledger, and a row for each claim.

    Parameters
    ----------
    table
        ``CLAIMS``.

    Returns
    -------
    dict
        ``n_reproduced``, ``n_differs``, ``n_agrees``, ``n_disagrees`` (on reconstructed animals),
        ``n_same``, ``n_other`` (in published results), ``n_not_testable``; ``sources``; ``rows``:
        what each claim says (``claim``, ``source``, ``verdict``, ``stage``), the numbers that were
        published (``stated``, of the first case), those that were found and ``judged``, how many of
        these agree (``n_agree``) in how many cases (``n_cases``), and those that are ``noted``
        beside, by case.
    """
    rows = [_claim(part) for _, part in table.groupby("id", sort=False)]
    names = ("reproduced", "differs", "agrees", "disagrees", "same", "other", "not_testable")
    counts = {
        f"n_{name}": sum(row["verdict"] == verdict for row in rows)
        for name, verdict in zip(names, VERDICTS, strict=True)
    }
    return {"rows": rows, "sources": list(dict.fromkeys(table["source"])), **counts}


def _claim(part: pd.DataFrame) -> dict[str, Any]:
    numbers: list[dict[str, Any]] = part.to_dict("records")
    numbers = [row | _written(row) for row in numbers]
    stated = [row for row in numbers if row["agrees"] != "noted"]
    judged = [row for row in stated if row["agrees"] != "not judged"]
    noted: dict[str, list[dict[str, Any]]] = {}
    for row in numbers:
        if row["agrees"] == "noted":
            noted.setdefault(row["case"], []).append(row)
    return {
        **numbers[0],
        "stated": [row for row in stated if row["case"] == numbers[0]["case"]],
        "n_cases": len({row["case"] for row in stated}),
        "judged": judged,
        "n_agree": sum(row["agrees"] == "yes" for row in judged),
        "noted": noted,
    }


def _written(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a number is written: as published, whether it was rounded so, and as found."""
    how = named(row)
    called = row["quantity"] in NAMES
    label = how.name.replace(", first", " from") if not how.name.endswith(", last") else "to"
    return {
        "named": how._replace(name=label),
        "shown": value(row, "published"),
        "rounded": row["tolerance"] * 10**how.digits <= _HALF,
        "found": ours(row) if called else value(row, "ours"),
        "mark": ", " if called else "; ",
    }
