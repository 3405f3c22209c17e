"""Schemas of the numbers over clusters."""

from stages.base.columns import count, number, schema, text
from stages.cells.tables.contrast import CONTRAST
from stages.cells.tables.metrics import METRICS
from stages.inputs.tables import SAMPLE, SAMPLE_KEY, TISSUE

ALL_TYPES = "(all cells)"
"""The cell type of clusters of a whole tissue, which are not within one type."""


_METRICS = {name: column for name, column in METRICS.columns.items() if name not in SAMPLE}


_CLUSTERING = {"cell_type": text(), "resolution": number(0)}


CLUSTER_METRICS = schema(
    "cluster_metrics",
    SAMPLE | _CLUSTERING | {"n_clusters": count(1)} | _METRICS,
    [*SAMPLE_KEY, *_CLUSTERING, "cells"],
)
"""The numbers of each sample when the components are the Leiden clusters of its tissue, or of one
cell type of it. `n_clusters`: of all samples together."""


_CONTRAST = {name: column for name, column in CONTRAST.columns.items() if name not in TISSUE}


CLUSTER_CONTRAST = schema(
    "cluster_contrast",
    TISSUE | _CLUSTERING | {"n_clusters": count(1)} | _CONTRAST,
    [*TISSUE, *_CLUSTERING, "cells", "metric"],
)
"""Compared minus reference over clusters, as the ``contrast`` table over annotated types."""
