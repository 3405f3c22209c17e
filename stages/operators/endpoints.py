"""What is read off features of cells: their place along an order, their kind, pairs of kinds.

All probes are ridge regressions, so that what a feature adds to a score is a product and can be
taken away alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from stages.measurement.ranks import auroc
from stages.operators.panel import Cells

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

STRENGTH = 1e-3
"""Of the probes' ridge, as a multiple of the mean variance of the features."""


@dataclass(frozen=True)
class Endpoints:
    """Endpoints of some cells."""

    kinds: NDArray[np.int64]
    """Those that there are, ascending."""
    place: NDArray[np.int64]
    """Of each cell's kind among them."""
    order: Floats | None
    pairs: tuple[tuple[int, int], ...]
    """Places of kinds that are told from one another."""
    names: tuple[str, ...]

    @classmethod
    def of(
        cls, cells: Cells, ruled: Sequence[str], pairs: Sequence[tuple[str, str]]
    ) -> "Endpoints":
        """Return the endpoints that some cells have.

        Parameters
        ----------
        ruled
            The kinds of the ruler.
        pairs
            Pairs of which one kind is missing are left out.
        """
        kinds = np.unique(cells.kind)
        there = {ruled[kind]: place for place, kind in enumerate(kinds)}
        kept = [pair for pair in pairs if set(pair) <= set(there)]
        order = cells.order
        order = None if order is None or not np.isfinite(order).all() else order
        return cls(
            kinds=kinds,
            place=np.searchsorted(kinds, cells.kind),
            order=order,
            pairs=tuple((there[one], there[other]) for one, other in kept),
            names=(
                *(() if order is None else ("depth",)),
                "kind",
                *(f"{one} / {other}" for one, other in kept),
            ),
        )

    def probes(self, features: Floats, fitted: Mask) -> tuple[Floats, Floats]:
        """Return weights (width, scores) and offsets of linear probes, fitted on some cells.

        Scores are an indicator of each kind, the order if there is one, and the side of each pair,
        which is fitted on the cells of both alone.
        """
        found = [probe(features, np.eye(len(self.kinds))[self.place], fitted)]
        if self.order is not None:
            found.append(probe(features, self.order[:, np.newaxis], fitted))
        for one, other in self.pairs:
            both = fitted & np.isin(self.place, (one, other))
            side = np.where(self.place == other, 1.0, -1.0)[:, np.newaxis]
            width = features.shape[1]
            empty = np.zeros((width, 1)), np.zeros(1)
            found.append(probe(features, side, both) if both.any() else empty)
        return np.hstack([weights for weights, _ in found]), np.hstack([b for _, b in found])

    def values(self, mine: Floats, some: NDArray[np.int64]) -> Floats:
        """Return the endpoints of some cells from their scores, in the order of the names.

        Spearman correlation with the order; balanced accuracy; areas under curves; nan where the
        cells lack a kind.
        """
        place = self.place[some]
        n_kinds = len(self.kinds)
        found, at = [], n_kinds
        if self.order is not None:
            ranks = rankdata(mine[:, at]), rankdata(self.order[some])
            found.append(np.corrcoef(*ranks)[0, 1] if np.ptp(mine[:, at]) > 0 else 0.0)
            at += 1
        right = mine[:, :n_kinds].argmax(axis=1) == place
        of_kind = np.bincount(place, minlength=n_kinds)
        hits = np.bincount(place, weights=right, minlength=n_kinds)
        found.append(np.mean(hits[of_kind > 0] / of_kind[of_kind > 0]))
        for number, (one, other) in enumerate(self.pairs):
            both = np.isin(place, (one, other))
            found.append(auroc(mine[both, at + number], place[both] == other))
        return np.array(found)

    @property
    def n_scores(self) -> int:
        """Return how many scores there are."""
        return len(self.kinds) + (self.order is not None) + len(self.pairs)


def probe(features: Floats, targets: Floats, fitted: Mask) -> tuple[Floats, Floats]:
    """Return weights (width, targets) and offsets of a ridge regression on some cells."""
    mean, offset = features[fitted].mean(axis=0), targets[fitted].mean(axis=0)
    centred = features[fitted] - mean
    square = centred.T @ centred
    penalty = STRENGTH * max(np.trace(square) / len(square), 1e-300)
    weights = np.linalg.solve(
        square + penalty * np.eye(len(square)), centred.T @ (targets[fitted] - offset)
    )
    return weights, offset - mean @ weights


def donor_groups(donors: NDArray[np.str_], n_groups: int) -> list[set[str]]:
    """Return so many groups of donors, at most as many as there are."""
    names = np.unique(donors)
    return [set(part) for part in np.array_split(names, min(n_groups, len(names)))]
