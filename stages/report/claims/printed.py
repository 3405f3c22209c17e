"""Write the ledger of claims as the paper prints it."""

from collections.abc import Mapping
from math import isnan
from typing import Any, NamedTuple

import pandas as pd

from stages.report import text
from stages.report.tables import VERDICTS


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
    **{
        f"{key}_{end}": _Named(f"{name}, {end} layer", digits, signed=False)
        for key, name, digits in (
            ("effective_rank", "effective rank", 2),
            ("two_nn", "intrinsic dimension", 1),
        )
        for end in ("first", "last")
    },
    "rescue_fraction": _Named("rescue fraction", 2, signed=False),
    "rescue_probability": _Named("P(rescue > 0)", 3, signed=False),
}


def ours(row: Mapping[str, Any]) -> str:
    """Return the name and our value of a number, with its interval."""
    named = NAMES[row["quantity"]]
    if row["compared"] == "at most":
        return f"{named.name} {text.p_value(row['ours'])}"
    write = text.signed if named.signed else text.number
    shown = f"{named.name} {write(row['ours'], named.digits)}"
    if isnan(row["ours_low"]):
        return shown
    low, high = (write(row[f"ours_{end}"], named.digits) for end in ("low", "high"))
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
        ``n_reproduced``, ``n_differs``, ``n_agrees``, ``n_disagrees``, ``n_not_testable``;
        ``rows``: what each claim says (``claim``, ``verdict``, ``stage``), the numbers that were
        published (``stated``, of the first case), those that were found and ``judged``, how many of
        these agree (``n_agree``) in how many cases (``n_cases``), and those that are ``noted``
        beside, by case.
    """
    rows = [_claim(part) for _, part in table.groupby("id", sort=False)]
    names = ("n_reproduced", "n_differs", "n_agrees", "n_disagrees", "n_not_testable")
    counts = {
        name: sum(row["verdict"] == verdict for row in rows)
        for name, verdict in zip(names, VERDICTS, strict=True)
    }
    return {"rows": rows, **counts}


def _claim(part: pd.DataFrame) -> dict[str, Any]:
    numbers: list[dict[str, Any]] = part.to_dict("records")
    numbers = [row | {"named": NAMES[row["quantity"]]} for row in numbers]
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
