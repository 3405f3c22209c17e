"""Schema of what a model of cells knows, beside what simpler things know."""

from stages.base.columns import count, number, schema, text

MEASURES = ("loss", "label", "order")
SOURCES = ("model", "expression", "frequency")

PROBES = schema(
    "cell_probes",
    {
        "source": text(isin=SOURCES),
        "name": text(),
        "position": number(0, nullable=True),
        "layer": text(nullable=True),
        "measure": text(isin=MEASURES),
        "value": number(nullable=True),
        "low": number(nullable=True),
        "high": number(nullable=True),
        "n_cells": count(2),
    },
    ["source", "name", "layer", "measure"],
)
"""`source`: the model (`name`: its state), principal components of expression, or how frequent
genes are. `measure`: the mean loss of the hidden genes (in the model's unit, lower is better); the
share of cells whose label a linear probe finds; and R2 of a linear probe of their place in order.
`layer`: output of block l, counted from 0, or what enters block 0. `low`, `high`: interval over
cells."""
