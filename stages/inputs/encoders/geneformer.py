"""Geneformer's rank-value encoding.

The genes of a cell in the order of ``count / total * 10,000 / median``, the largest first. Upstream
sorts with ``np.argsort(-x)``, which leaves the order of equal values to the machine; here the lower
id comes first.

References
----------
Theodoris, C. V. et al. (2023). Transfer learning enables predictions in network biology. Nature
618:616-624.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stages.inputs.encoders.encoded import Ids
from stages.inputs.encoders.vocabulary import Vocabulary

TARGET_SUM = 10_000
NO_MEDIAN = 1.0


def medians_of(vocabulary: Vocabulary) -> NDArray[np.float64]:
    """Return the median of each id, 1 where it has none; shape (n_ids,)."""
    medians = np.full(len(vocabulary), NO_MEDIAN)
    for gene, token in vocabulary.genes.items():
        medians[token] = (vocabulary.medians or {}).get(gene, NO_MEDIAN)
    return medians


def ranked(
    known: sparse.csr_matrix,
    totals: NDArray[np.float64],
    medians: NDArray[np.float64],
    *,
    logged: bool = False,
) -> list[Ids]:
    """Return the ids of each cell's genes, the highest value first and of equal ones the lower id.

    Parameters
    ----------
    known
        Counts by id without zeros, ids ascending in each row. (n_cells, n_ids)
    totals
        Of all genes of each cell, also those that the model does not know. (n_cells,)
    medians
        By id. (n_ids,)
    logged
        Whether log1p is taken before the division.
    """
    values = known.data / np.repeat(totals, np.diff(known.indptr)) * TARGET_SUM
    if logged:
        values = np.log1p(values)
    values /= -medians[known.indices]
    ids = known.indices.astype(np.int32, copy=False)
    spans = zip(known.indptr[:-1], known.indptr[1:], strict=True)
    return [ids[i:j][np.argsort(values[i:j], kind="stable")] for i, j in spans]
