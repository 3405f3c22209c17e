"""Schema of the ledger of published claims."""

from stages.base.columns import number, schema, text

VERDICTS = ("reproduced", "differs", "not testable on these inputs")


COMPARED = ("value", "sign", "at most")


AGREES = ("yes", "no", "noted", "not judged")


CLAIMS = schema(
    "claims",
    {
        "id": text(),
        "claim": text(),
        "source": text(),
        "case": text(),
        "quantity": text(),
        "compared": text(isin=COMPARED),
        "published": number(nullable=True),
        "ours": number(nullable=True),
        "ours_low": number(nullable=True),
        "ours_high": number(nullable=True),
        "tolerance": number(0, nullable=True),
        "agrees": text(isin=AGREES),
        "verdict": text(isin=VERDICTS),
        "reason": text(),
        "table": text(),
        "figure": text(),
        "stage": text(),
        "file": text(),
    },
    ["id", "case", "quantity"],
)
"""Each published claim beside what was found: one row a number. `case`: where it was looked at (an
arm, a resolution, a set of heads). `compared`: the value within `tolerance`; its sign, with +1 or
-1 as `published`; or that it is `published` + `tolerance` at most. `agrees`: of this number alone;
"noted" is shown and not judged. `verdict`, `reason`: of the claim, the same in all its rows.
`table` and `figure` show the evidence, `stage` and its `file` compute it."""
