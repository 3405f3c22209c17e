"""Schema of the spectra of items, beside what nulls give."""

from stages.base.columns import count, number, schema, text

MATRICES = ("items", "column shuffle", "not centred", "zero rows", "zero rows, mean alone")

SPECTRUM = schema(
    "spectrum",
    {
        "state": text(),
        "position": number(nullable=True),
        "layer": text(),
        "matrix": text(isin=MATRICES),
        "n_items": count(1),
        "n_never_met": count(),
        "n_rare": count(),
        "n_zero_rows": count(),
        "width": count(1),
        "effective_rank": number(1),
        "effective_rank_low": number(0, nullable=True),
        "effective_rank_high": number(1, nullable=True),
        "participation_ratio": number(1),
        "sv1_share": number(0, 1),
        "two_nn": number(0, nullable=True),
        "two_nn_error": number(0, nullable=True),
        "noise_share": number(0, nullable=True),
        "sv1_frequency": number(0, 1, nullable=True),
    },
    ["state", "layer", "matrix"],
)
"""`matrix`: `items` are the mean vectors, centred; `column shuffle` has each of their columns
permuted (means over draws, with the ends of their range); `not centred` keeps the mean vector;
`zero rows` has `n_zero_rows` rows of zeros added before it is centred, as the published matrix had;
`zero rows, mean alone` has these and the mean vector of the items, but nothing else of them: a flat
spectrum of the same variance. `effective_rank` is the Hill number of order 1 of the squared
singular values, the `participation_ratio` that of order 2; `sv1_share` the largest one's share.
`two_nn`: intrinsic dimension and its standard error. `n_never_met`, `n_rare`: items that are not in
the matrix. Of the items' own matrix, `noise_share` is the share of its variance that stems from how
few cells (sequences) there were, `sv1_frequency` the absolute rank correlation of the first
direction with how often items were met."""
