"""Schemas of what features are named by, and of what that is worth."""

from stages.base.columns import count, number, schema, text

ANNOTATION = schema(
    "annotation",
    {
        "feature": text(),
        "collection": text(),
        "set": text(),
        "overlap": count(),
        "set_size": count(1),
        "p": number(0, 1),
        "q": number(0, 1),
    },
    ["feature", "collection"],
)
"""Of each traced feature and collection the set that its top genes (or cells) are in most: the
upper tail of the hypergeometric distribution, adjusted over features and sets of the collection."""

ANNOTATED = schema(
    "annotated",
    {
        "collection": text(),
        "n_sets": count(1),
        "n_background": count(1),
        "n_features": count(1),
        "annotated": count(),
        "permuted": number(0),
        "hubs": count(1),
        "hubs_annotated": count(),
        "odds_ratio": number(0, nullable=True),
        "p": number(0, 1),
    },
    ["collection"],
)
"""By collection: how many features are in a set more than by chance, and how many are when genes
(or cells) are permuted; of the hubs, how many are, with the odds ratio and Fisher's p against the
others."""
