"""Expression as everything beside a model reads it: ln(1 + counts per 10,000)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.inputs.encoders import matrix, naming
from stages.inputs.encoders.presets import PRESETS
from stages.inputs.encoders.settings import Encoding
from stages.inputs.encoders.vocabulary import Vocabulary

Floats = NDArray[np.float64]


def counts(
    h5ad: Path,
    encoding: Encoding,
    rows: NDArray[np.int64],
    known: Vocabulary | None = None,
    tokens: NDArray[np.int64] | None = None,
) -> Iterator[tuple[Floats, Floats]]:
    """Yield counts of cells, some at a time: (cells, genes), and over all genes, (cells,).

    Parameters
    ----------
    h5ad
        What was encoded, and how.
    rows
        Which cells of it, ascending.
    known
        Genes are those of a vocabulary, by id, and counts of an id that the file has under several
        names are summed, as when cells are encoded; none: those of the file.
    tokens
        Only these ids.

    Raises
    ------
    AtlasError
        The file is not what was encoded.
    """
    preset = PRESETS[encoding.preset]
    with matrix.opened(h5ad, counts=encoding.counts, gene_column=encoding.gene_column) as source:
        genes = known and naming.match(
            source.genes,
            known,
            given=encoding.genes or preset.genes,
            wanted=preset.genes,
            source=str(h5ad),
        )
        for chunk in source.chunks(rows, whole=preset.counts):
            found = genes.only(chunk.counts) if genes else chunk.counts
            dense = (found if tokens is None else found.tocsc()[:, tokens]).toarray()
            yield dense, chunk.totals


def logs(
    h5ad: Path,
    encoding: Encoding,
    rows: NDArray[np.int64],
    known: Vocabulary | None = None,
    tokens: NDArray[np.int64] | None = None,
) -> Iterator[Floats]:
    """Yield ln(1 + counts per 10,000), (cells, genes); arguments as of :func:`counts`."""
    for dense, totals in counts(h5ad, encoding, rows, known, tokens):
        yield np.log1p(dense / np.maximum(totals, 1.0)[:, np.newaxis] * 1e4)
