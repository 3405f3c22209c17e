"""Lead features of anchors onto a ruler by search, as published.

z = W (x - b), whose angles are the distances (arXiv 2603.10261; its constants are unknown).
"""

import numpy as np
import torch
from numpy.typing import NDArray

from stages.operators.settings import Arccos

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def search(
    features: Floats, fitted: Rows, distances: Floats, params: Arccos, *, dimensions: int
) -> Floats:
    """Return the published adaptor's coordinates of all rows: (rows, dimensions).

    Minimises ``sum (beta arccos cos(z_i, z_j) - d_ij)^2 + alpha ||W^T z + b - x||^2`` over W and b
    with z = W (x - b), by Adam, from the first principal components.

    Parameters
    ----------
    features
        (rows, width); more directions than rows of the fit are led onto those of the fit.
    distances
        Between the rows of the fit; they are divided by their largest, as an angle has an end.
    """
    mean = features[fitted].mean(axis=0)
    _, sigma, right = np.linalg.svd(features[fitted] - mean, full_matrices=False)
    right = right[sigma > sigma[0] * 1e-8]
    reduced = (features - mean) @ right.T
    reduced /= np.sqrt((reduced[fitted] ** 2).sum(axis=1).mean())
    x = torch.from_numpy(reduced[fitted])
    wanted = torch.from_numpy(distances / distances.max())
    weight = torch.eye(dimensions, x.shape[1], dtype=x.dtype).requires_grad_()
    offset = torch.zeros(x.shape[1], dtype=x.dtype).requires_grad_()
    pairs = torch.triu_indices(len(x), len(x), 1)
    optimiser = torch.optim.Adam([weight, offset], lr=params.learning_rate)
    for _ in range(params.steps):
        optimiser.zero_grad()
        z = (x - offset) @ weight.T
        direction = torch.nn.functional.normalize(z, dim=1)
        cosine = (direction @ direction.T)[pairs[0], pairs[1]].clamp(-1 + 1e-6, 1 - 1e-6)
        apart = params.beta * torch.arccos(cosine) - wanted[pairs[0], pairs[1]]
        kept = z @ weight + offset - x
        loss = (apart**2).mean() + params.alpha * (kept**2).sum(dim=1).mean()
        torch.autograd.backward(loss)
        optimiser.step()
    with torch.no_grad():
        z = (torch.from_numpy(reduced) - offset) @ weight.T
        return np.asarray(torch.nn.functional.normalize(z, dim=1).numpy())
