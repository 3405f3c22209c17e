"""Schema of where cells go when features that follow an order are amplified."""

from stages.base.columns import count, number, schema, text

KINDS = ("feature", "random feature", "random direction", "shuffled order", "ceiling")
READOUTS = ("probe", "markers", "state")

STEERING = schema(
    "steering",
    {
        "layer": count(),
        "seed": count(),
        "kind": text(isin=KINDS),
        "dose": number(1),
        "readout": text(isin=READOUTS),
        "n_features": count(1),
        "n_sequences": number(1),
        "shift": number(),
        "low": number(),
        "high": number(),
        "positive": number(0, 1),
    },
    ["layer", "seed", "kind", "dose", "readout"],
)
"""`shift`: mean over features, times the sign with which each follows the order, of what `dose`
times their codes moves a readout: the place in the order by a linear probe of the last layer;
logits of late less early markers at hidden positions; the share of the way from early to late in
the last layer. `low`, `high`: interval over features; `positive`: share of features that move it
the way they follow. `n_sequences`: early cells in which a feature fires, on average. Beside them:
other features at their own positions; at the feature's positions a random direction, and the way
from early to late itself (`ceiling`), of the same lengths; features of a shuffled order."""
