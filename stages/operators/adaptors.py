"""Lead features of anchors onto a ruler in closed form.

Ridge regression of the ruler's own coordinates (classical scaling) on the features. What is fitted
is a linear map of the coordinates, so that other rulers and dimensions cost nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
