"""Lead features of anchors onto a ruler: in closed form, and by search as published.

Ridge regression of the ruler's own coordinates (classical scaling) on the features. What is fitted
is a linear map of the coordinates, so that other rulers and dimensions cost nothing. The published
adaptor is z = W (x - b), whose angles are the distances (arXiv 2603.10261; its constants are
unknown).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from stages.operators.settings import Arccos

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Groups = NDArray[np.generic]

RIDGE = tuple(10.0 ** np.arange(-5, 1))
"""Strengths, as multiples of the mean variance of the features."""


@dataclass(frozen=True)
class Ridge:
    """Ridge regression on features of some rows, told of any rows, for every strength.

    The strength is chosen by leaving out, among the rows of the fit, one group at a time (a donor,
    a kind): errors of these are exact, without a refit.
    """

    hats: Floats
    """What each row of the fit contributes to any row: (strengths, rows, fitted)."""
    left_out: Floats
    """Errors of rows of the fit, had their group been left out: (strengths, fitted, fitted)."""

    @classmethod
    def fit(cls, kernel: Floats, fitted: Rows, groups: Groups) -> "Ridge":
        """Fit on the rows `fitted`.

        Parameters
        ----------
        kernel
            Products of the features of all rows and of all rows, (rows, rows); or (rows, anchors),
            of which the first rows are the anchors.
        groups
            Of the rows of the fit: (fitted,).
        """
        inner = kernel[np.ix_(fitted, fitted)]
        mean = inner.mean(axis=0)
        centred = inner - mean - mean[:, np.newaxis] + mean.mean()
        values, vectors = np.linalg.eigh(centred)
        values = np.clip(values, 0, None)
        scale = max(values.sum() / len(fitted), 1e-300)
        outer = kernel[:, fitted]
        outer = outer - outer.mean(axis=1, keepdims=True) - mean + mean.mean()
        turned = outer @ vectors
        of_group = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        hats, left_out = [], []
        n = len(fitted)
        for strength in RIDGE:
            hats.append((turned / (values + strength * scale)) @ vectors.T + 1 / n)
            hat = (vectors * (values / (values + strength * scale))) @ vectors.T + 1 / n
            errors = np.eye(n) - hat
            for group in of_group:
                errors[group] = np.linalg.solve(errors[np.ix_(group, group)], errors[group])
            left_out.append(errors)
        # The share of the mean that each row has is in the hat; rows of a hat sum to 1.
        return cls(np.stack(hats), np.stack(left_out))

    def errors(self, targets: Floats) -> Floats:
        """Return the mean squared error of groups left out, by strength, over the variance."""
        variance = ((targets - targets.mean(axis=0)) ** 2).sum()
        return np.asarray(((self.left_out @ targets) ** 2).sum(axis=(1, 2)) / variance)

    def predict(self, targets: Floats) -> Floats:
        """Return the targets of all rows at the best strength: (rows, width)."""
        return np.asarray(self.hats[int(self.errors(targets).argmin())] @ targets)

    def outside(self, targets: Floats, groups: Groups, of: Groups) -> Floats:
        """Return the targets of all rows, each told without the group that it belongs to.

        A row of no group of the fit is told by all. What a group does to other rows is taken out
        exactly: ``y(r) - H_rg e_g``, of the errors e that the group has where it was left out.

        Parameters
        ----------
        groups
            Of the rows of the fit: (fitted,).
        of
            Of all rows: (rows,).

        Returns
        -------
        ndarray
            (strengths, rows, width)
        """
        found = self.hats @ targets
        errors = self.left_out @ targets
        for group in np.unique(groups):
            inside, rows = np.flatnonzero(groups == group), np.flatnonzero(of == group)
            found[:, rows] -= self.hats[:, rows][:, :, inside] @ errors[:, inside]
        return np.asarray(found)


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
