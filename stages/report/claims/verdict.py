"""Compare what was published with what the tables hold, and give the verdict.

A claim is *reproduced* if everything that it states agrees, *differs* if one number does not, and
is *not testable on these inputs* if they are simulated, are not those that it is about, or lack a
part of it. Where the animals of an arm were not named but reconstructed, it only *agrees* or *does
not agree on reconstructed animals*: a wrong reconstruction can do either. Where this run does not
measure the system, and figures of the study's own result files are at hand, it *agrees* or *does
not agree with its published results*: that a study says the same twice. A statement about several
cases (all resolutions, coarse and fine) is refuted by one of them and upheld only by all. Each
claim is judged by itself: partial inputs leave the others untouched.
"""

from collections.abc import Iterable, Sequence
from math import isnan, nan
from typing import Any

import pandas as pd

from stages.base.study import RECONSTRUCTED, SIMULATED, Study
from stages.report import text
from stages.report.claims import printed
from stages.report.claims.published import Claim, Quantity
from stages.report.claims.rules import RESULTS_FILE, Found, Models, Ours, Tables, look_up
from stages.report.tables import CLAIMS, VERDICTS

REPRODUCED, DIFFERS, NOT_TESTABLE = VERDICTS[0], VERDICTS[1], VERDICTS[-1]
ON_RECONSTRUCTED = dict(zip((REPRODUCED, DIFFERS), VERDICTS[2:4], strict=True))
OF_RESULTS = dict(zip((REPRODUCED, DIFFERS), VERDICTS[4:6], strict=True))
# Numbers that a reason names; the table has them all.
_N_SHOWN = 2
NOWHERE = "(none)"
"""The case of a claim that could be looked at nowhere."""


def evaluate(claims: Iterable[Claim], of: Tables, *, cells: Study, models: Models) -> pd.DataFrame:
    """Return the ledger.

    Parameters
    ----------
    claims
        See :func:`stages.report.claims.published.read`.
    of
        Their tables; see :func:`stages.report.claims.rules.read_tables`.
    cells
        What the atlas is. Simulated cells judge nothing.
    models
        What the models of language (``model``) and of cells (``cellmodel``) are. A claim is judged
        by the one that it names.

    Returns
    -------
    DataFrame
        ``CLAIMS``.
    """
    rows: list[dict[str, object]] = []
    for claim in claims:
        where = claim.tissue
        arms = [] if where is None else cells.arms_of(where.cohort, where.platform, where.tissue)
        if any(arm.evidence == SIMULATED for arm in arms):
            found = Found(missing=f"the {text.cohort_name(arms[0].cohort)} cells are simulated")
        else:
            found = look_up(claim, of, models)
        judged = _judged(claim.quantities, found)
        verdict, reason = _verdict(judged, found)
        inferred = [arm for arm in arms if arm.evidence == RECONSTRUCTED]
        if verdict in ON_RECONSTRUCTED:
            verdict = ON_RECONSTRUCTED[verdict] if inferred else verdict
            bases = [
                f"; animals of {text.arm(arm.cohort, arm.platform)}: {arm.basis}"
                for arm in arms
                if arm.basis
            ]
            reason += "".join(bases)
        if found.of_results:
            verdict = OF_RESULTS.get(verdict, verdict)
        known = {"id": claim.id, "claim": claim.text, "source": claim.source}
        evidence = {
            "verdict": verdict,
            "reason": reason,
            "table": _path(found.table or claim.table),
            "figure": claim.evidence.figure,
            "stage": claim.evidence.stage,
            "file": claim.evidence.file,
        }
        rows += [known | row | evidence for row in judged]
    return pd.DataFrame(rows, columns=list(CLAIMS.columns))


def _path(table: str | None) -> str:
    """Return where a table lies; a claim that nothing could judge has none but the results'."""
    if table in {None, RESULTS_FILE}:
        return f"data/embedded/{RESULTS_FILE}"
    return f"reports/tables/{table}"


def _judged(quantities: Sequence[Quantity], found: Found) -> list[dict[str, Any]]:
    """Compare each stated number in each case."""
    rows = []
    for case, numbers in (found.cases or {NOWHERE: {}}).items():
        for quantity in quantities:
            ours = numbers.get(quantity.quantity, Ours(nan))
            agrees = "not judged"
            if not isnan(ours.ours):
                agrees = "yes" if _agrees(quantity, ours.ours) else "no"
            rows.append(_row(case, quantity, ours, agrees))
    for case, numbers in found.noted.items():
        rows += [
            _row(case, Quantity(name, "value", nan), ours, "noted")
            for name, ours in numbers.items()
        ]
    return rows


def _row(case: str, quantity: Quantity, ours: Ours, agrees: str) -> dict[str, Any]:
    return {"case": case, **quantity._asdict(), **ours._asdict(), "agrees": agrees}


def _agrees(quantity: Quantity, ours: float) -> bool:
    match quantity.compared:
        case "sign":
            return ours * quantity.published > 0
        case "at most":
            return ours <= quantity.published + quantity.tolerance
        case "value":
            return abs(ours - quantity.published) <= quantity.tolerance


def _verdict(judged: list[dict[str, Any]], found: Found) -> tuple[str, str]:
    """Return the verdict on a claim and one sentence, without its full stop, that says why."""
    wrong = [row for row in judged if row["agrees"] == "no"]
    open_ = [row for row in judged if row["agrees"] == "not judged"]
    stated = [row for row in judged if row["agrees"] != "noted"]
    missing = found.missing
    if open_ and not missing:
        names = text.listed([f"{printed.named(row).name} on {row['case']}" for row in open_])
        missing = f"there is no {names}"
    if wrong:
        shown = "; ".join(f"{printed.ours(row)} on {row['case']}" for row in wrong[:_N_SHOWN])
        more = f"; {len(wrong) - _N_SHOWN} more" if len(wrong) > _N_SHOWN else ""
        return DIFFERS, f"{len(wrong)} of {len(stated)} numbers differ: {shown}{more}"
    if missing:
        return NOT_TESTABLE, missing
    reason = f"{len(stated)} of {len(stated)} numbers agree{found.remark}"
    off = [
        abs(row["ours"] - row["published"]) / row["tolerance"]
        for row in stated
        if row["compared"] == "value" and row["tolerance"]
    ]
    if off:
        reason += f"; the largest difference is {text.percent(max(off), 0)} of its tolerance"
    signs = [row for row in stated if row["compared"] == "sign"]
    uncertain = sum(row["ours_low"] <= 0 <= row["ours_high"] for row in signs)
    if uncertain:
        reason += f"; the interval of {uncertain} of {len(signs)} signs holds zero"
    return REPRODUCED, reason
