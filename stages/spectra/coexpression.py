"""How genes go together in the counts that a model reads: what needs no model at all."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.inputs.encoders import matrix, naming
from stages.inputs.encoders.presets import PRESETS
from stages.inputs.encoders.settings import Encoding
from stages.inputs.encoders.vocabulary import Vocabulary

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def correlations(
    h5ad: Path, rows: Rows, tokens: Rows, known: Vocabulary, encoding: Encoding
) -> Floats:
    """Return the correlations of genes over cells, of ln(1 + counts per 10,000).

    The cells are read some at a time, and only sums are held.

    Parameters
    ----------
    h5ad
        Raw counts.
    rows
        Which cells, ascending.
    tokens
        Which genes, by their ids in the model.

    Returns
    -------
    ndarray
        (n_genes, n_genes); nan for a gene that does not vary.

    Raises
    ------
    AtlasError
        The file is not what was encoded.
    """
    n = len(tokens)
    first, second, n_cells = np.zeros(n), np.zeros((n, n)), 0
    wanted = PRESETS[encoding.preset].genes
    with matrix.opened(h5ad, counts=encoding.counts, gene_column=encoding.gene_column) as source:
        genes = naming.match(
            source.genes,
            known,
            given=encoding.genes or wanted,
            wanted=wanted,
            source=str(h5ad),
        )
        for chunk in source.chunks(rows):
            counts = genes.only(chunk.counts).tocsc()[:, tokens].toarray()
            logs = np.log1p(counts / chunk.totals[:, np.newaxis] * 1e4)
            first += logs.sum(axis=0)
            second += logs.T @ logs
            n_cells += len(logs)
    mean = first / n_cells
    covariance = second / n_cells - np.outer(mean, mean)
    spread = np.sqrt(np.diag(covariance).clip(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = covariance / np.outer(spread, spread)
    return found
