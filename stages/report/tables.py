"""Schemas of the ledger of published claims and of the published figures that judge some."""

from stages.base.columns import number, schema, text

VERDICTS = (
    "reproduced",
    "differs",
    "agrees on reconstructed animals",
    "does not agree on reconstructed animals",
    "agrees with its published results",
    "does not agree with its published results",
    "not testable on these inputs",
)


COMPARED = ("value", "sign", "at most")


AGREES = ("yes", "no", "noted", "not judged")


CLAIMS = schema(
    "claims",
    {
        **{name: text() for name in ("id", "claim", "source", "case", "quantity")},
        "compared": text(isin=COMPARED),
        **{name: number(nullable=True) for name in ("published", "ours", "ours_low", "ours_high")},
        "tolerance": number(0, nullable=True),
        "agrees": text(isin=AGREES),
        "verdict": text(isin=VERDICTS),
        **{name: text() for name in ("reason", "table", "figure", "stage", "file")},
    },
    ["id", "case", "quantity"],
)
"""Each published claim beside what was found: one row a number. `case`: where it was looked at (an
arm, a resolution, a set of heads). `compared`: the value within `tolerance`; its sign, with +1 or
-1 as `published`; or that it is `published` + `tolerance` at most. `agrees`: of this number alone;
"noted" is shown and not judged. `verdict`, `reason`: of the claim, the same in all its rows.
`table` and `figure` show the evidence, `stage` and its `file` compute it."""

RESULTS = schema(
    "results",
    {
        "source": text(),
        "name": text(),
        "at": text(nullable=True),
        "value": number(),
        "file": text(),
        "key": text(),
    },
    ["source", "name", "at"],
)
"""Figures of the result files that a study published beside its claims. `source`: as in the
references; `at`: the layer, group or set of features of each of several; `file`, `key`: where in
the files of its repository a figure stands. They judge claims and enter no other number."""
