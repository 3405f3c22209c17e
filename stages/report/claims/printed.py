"""Write the ledger of claims as the paper prints it."""

from collections.abc import Mapping
from math import isnan
from typing import Any, NamedTuple

import pandas as pd

from stages.report import text
from stages.report.tables import VERDICTS

_, DIFFERS, _ = VERDICTS


class _Named(NamedTuple):
    """How a quantity is written: its name, its digits, and whether it is a change."""

    name: str
    digits: int
    signed: bool = True


_PLANE = {"gini_change": _Named("ΔGini", 3), "effective_number_change": _Named("ΔN~eff~", 2)}
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


def _published(row: Mapping[str, Any]) -> str:
    """Return the name and the published value of a number, with its tolerance."""
    named = NAMES[row["quantity"]]
    match row["compared"]:
        case "sign":
            return f"{named.name} {'>' if row['published'] > 0 else '<'} 0"
        case "at most":
            return f"{named.name} {text.p_value(row['published'])}"
        case _:
            allowed = f"± {row['tolerance']:g}"
            if not named.signed:
                return f"{named.name} {text.number(row['published'], named.digits)} {allowed}"
            # As many digits as were published: those that the file keeps.
            digits = len(repr(float(row["published"])).partition(".")[2])
            return f"{named.name} {text.signed(row['published'], digits)} {allowed}"


def counts(table: pd.DataFrame) -> dict[str, str]:
    """Return what the text says of the whole ledger, ready to print.

    Parameters
    ----------
    table
        ``CLAIMS``.

    Returns
    -------
    dict
        ``n_claims``, ``n_reproduced``, ``n_differs``, ``n_not_testable``; and ``differs_list``, the
        claims that differ.
    """
    each = table.drop_duplicates("id")
    by_verdict = each["verdict"].value_counts()
    names = ("n_reproduced", "n_differs", "n_not_testable")
    differs = each.loc[each["verdict"] == DIFFERS, "claim"]
    return (
        {"n_claims": text.plural(len(each), "published claim")}
        | {
            name: text.integer(int(by_verdict.get(verdict, 0)))
            for name, verdict in zip(names, VERDICTS, strict=True)
        }
        | {"differs_list": "; ".join(str(claim).rstrip(".") for claim in differs) or "none"}
    )


def ledger(table: pd.DataFrame) -> str:
    """Return the ledger as a Markdown table, one row a claim.

    Parameters
    ----------
    table
        ``CLAIMS``.

    Returns
    -------
    str
        What was published, what was found (our numbers; how many agree where there are several
        cases; empty where the inputs can say nothing), the verdict and the stage.
    """
    rows = []
    for _, part in table.groupby("id", sort=False):
        stated = part[part["agrees"] != "noted"]
        first = part.iloc[0]
        at_first = stated[stated["case"] == first["case"]]
        published = ", ".join(_published(dict(row)) for _, row in at_first.iterrows())
        rows.append(
            [
                str(first["claim"]).rstrip("."),
                published,
                _found(part, stated),
                str(first["verdict"]).removesuffix(" on these inputs"),
                f"`{first['stage']}`",
            ]
        )
    header = ["Claim", "Published", "Found here", "Verdict", "Stage"]
    return text.pipe_table(header, rows, align="lllll")


def _found(part: pd.DataFrame, stated: pd.DataFrame) -> str:
    judged = stated[stated["agrees"] != "not judged"]
    if judged.empty:
        return text.DASH
    if stated["case"].nunique() > 1:
        n_agree = int((judged["agrees"] == "yes").sum())
        return f"{n_agree} of {len(judged)} numbers agree"
    shown = ", ".join(ours(dict(row)) for _, row in judged.iterrows())
    noted = part[part["agrees"] == "noted"].groupby("case", sort=False)
    beside = [
        f"{case}: {', '.join(ours(dict(row)) for _, row in rows.iterrows())}"
        for case, rows in noted
    ]
    return f"{shown} ({'; '.join(beside)})" if beside else shown
