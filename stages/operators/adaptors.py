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

    turned: Floats
    """All rows along the directions of the fit: (rows, fitted)."""
    vectors: Floats
    """These directions, over the rows of the fit: (fitted, fitted)."""
    shrunk: Floats
    """What is left of each, over its variance: (strengths, fitted)."""
    kept: Floats
    """What is left of each: (strengths, fitted)."""
    groups: Groups
    """Of the rows of the fit: (fitted,)."""

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
        shrunk = 1 / (values + np.array(RIDGE)[:, np.newaxis] * scale)
        return cls(outer @ vectors, vectors, shrunk, values * shrunk, groups)

    def told(self, targets: Floats, strength: int | slice = slice(None)) -> Floats:
        """Return the targets of all rows: (fitted, width) -> (strengths, rows, width).

        Parameters
        ----------
        strength
            The place of one of them, whose are (rows, width).
        """
        along = self.shrunk[strength, :, np.newaxis] * (self.vectors.T @ targets)
        return np.asarray(self.turned @ along + targets.mean(axis=0))

    def left_out(self, targets: Floats) -> Floats:
        """Return the errors of rows of the fit, had their group been left out.

        ``(1 - H_gg)^-1 (y - H y)_g`` of the hat H: (fitted, width) -> (strengths, fitted, width).
        """
        along = self.kept[:, :, np.newaxis] * (self.vectors.T @ targets)
        found = targets - self.vectors @ along - targets.mean(axis=0)
        for group in np.unique(self.groups):
            at = np.flatnonzero(self.groups == group)
            own = self.vectors[at]
            hat = (own * self.kept[:, np.newaxis, :]) @ own.T + 1 / len(self.vectors)
            found[:, at] = np.linalg.solve(np.eye(len(at)) - hat, found[:, at])
        return np.asarray(found)

    def errors(self, targets: Floats) -> Floats:
        """Return the mean squared error of groups left out, by strength, over the variance."""
        variance = ((targets - targets.mean(axis=0)) ** 2).sum()
        return np.asarray((self.left_out(targets) ** 2).sum(axis=(1, 2)) / variance)

    def outside(self, targets: Floats, of: Groups) -> Floats:
        """Return the targets of all rows, each told without the group that it belongs to.

        A row of no group of the fit is told by all. What a group does to other rows is taken out
        exactly: ``y(r) - H_rg e_g``, of the errors e that the group has where it was left out.

        Parameters
        ----------
        of
            The group of each row: (rows,).

        Returns
        -------
        ndarray
            (strengths, rows, width)
        """
        found, errors = self.told(targets), self.left_out(targets)
        for group in np.unique(self.groups):
            inside, rows = np.flatnonzero(self.groups == group), np.flatnonzero(of == group)
            along = self.shrunk[:, :, np.newaxis] * (self.vectors[inside].T @ errors[:, inside])
            found[:, rows] -= self.turned[rows] @ along
            found[:, rows] -= errors[:, inside].sum(axis=1, keepdims=True) / len(self.vectors)
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
    # Each pair stands twice; a row is at no angle from itself.
    n_pairs = len(x) * (len(x) - 1)
    others = 1 - torch.eye(len(x), dtype=x.dtype)
    optimiser = torch.optim.Adam([weight, offset], lr=params.learning_rate)
    for _ in range(params.steps):
        optimiser.zero_grad()
        z = (x - offset) @ weight.T
        direction = torch.nn.functional.normalize(z, dim=1)
        cosine = (direction @ direction.T).clamp(-1 + 1e-6, 1 - 1e-6)
        apart = (params.beta * torch.arccos(cosine) - wanted) * others
        kept = z @ weight + offset - x
        loss = (apart**2).sum() / n_pairs + params.alpha * (kept**2).sum(dim=1).mean()
        torch.autograd.backward(loss)
        optimiser.step()
    with torch.no_grad():
        z = (torch.from_numpy(reduced) - offset) @ weight.T
        return np.asarray(torch.nn.functional.normalize(z, dim=1).numpy())
