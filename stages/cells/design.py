"""Say who is compared with whom in one tissue: two groups of samples, or pairs of them.

Samples form pairs where every block that holds both groups holds one sample of each: a donor before
and after, two litter mates, one library of each condition in every batch. Their change is that
within pairs, and samples without a partner say nothing of it. Else both groups are compared as they
are, and blocks and sexes are the strata within which samples may be exchanged.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.inputs.tables import TWO_GROUPS
from stages.measurement import resampling

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Design:
    """Places of the samples of both groups in their table."""

    reference: Places
    compared: Places
    """In pairs, in the order of their partners."""
    paired: bool

    @property
    def n(self) -> tuple[int, int]:
        """How many samples each group has."""
        return len(self.reference), len(self.compared)

    def split(self, values: Floats) -> tuple[Floats, Floats]:
        """Return the values of both groups, of samples along the first axis."""
        return values[self.reference], values[self.compared]

    def change(self, values: Floats) -> Floats:
        """Return compared minus reference of the medians; in pairs, the median of the changes.

        Parameters
        ----------
        values : shape (n_samples, ...)
        """
        reference, compared = self.split(values)
        changed: Floats = (
            np.median(compared - reference, axis=0)
            if self.paired
            else np.median(compared, axis=0) - np.median(reference, axis=0)
        )
        return changed

    def bootstrap(self, values: Floats, *, confidence: float) -> resampling.Interval:
        """Return the change of a metric with the interval of its exact bootstrap.

        Parameters
        ----------
        values : shape (n_samples,)
        """
        reference, compared = self.split(values)
        if self.paired:
            return resampling.bootstrap_median(compared - reference, confidence=confidence)
        return resampling.bootstrap_median_change(reference, compared, confidence=confidence)


def design(samples: pd.DataFrame) -> Design:
    """Return the design of the samples of one tissue.

    Parameters
    ----------
    samples
        One row a sample, with `group` and `block`; others than the two groups are passed over.

    Examples
    --------
    >>> table = pd.DataFrame({"group": ["compared", "reference", "reference"]})
    >>> design(table.assign(block=["a", "b", "a"]))
    Design(reference=array([2]), compared=array([0]), paired=True)
    >>> design(table.assign(block=None)).n
    (2, 1)
    """
    return between(
        samples["block"],
        *((samples["group"] == name).to_numpy() for name in TWO_GROUPS),
    )


def between(blocks: pd.Series, reference: NDArray[np.bool_], compared: NDArray[np.bool_]) -> Design:
    """Return the design of samples of which it is known who is in which group.

    Parameters
    ----------
    blocks, reference, compared : shape (n_samples,)
        The block of each sample, missing where there is none, and its group.
    """
    both = reference | compared
    alone = Design(np.flatnonzero(reference), np.flatnonzero(compared), paired=False)
    if not both.any() or blocks[both].isna().any():
        return alone
    of_block = pd.DataFrame({"reference": reference, "compared": compared})[both]
    counted = of_block.groupby(blocks.to_numpy()[both]).sum()
    complete = counted[counted.min(axis=1) > 0]
    if complete.empty or (complete > 1).any(axis=None):
        return alone
    place = {
        name: dict(zip(blocks.to_numpy()[group], np.flatnonzero(group), strict=True))
        for name, group in (("reference", reference), ("compared", compared))
    }
    first, second = (
        np.array([place[name][block] for block in complete.index]) for name in TWO_GROUPS
    )
    return Design(first, second, paired=True)


def strata(samples: pd.DataFrame, found: Design) -> list[tuple[Places, Places]]:
    """Return the samples of both groups within each pair, or each sex and block that holds both."""
    if found.paired:
        return list(zip(found.reference[:, None], found.compared[:, None], strict=True))
    # Where none has a sex, or a block, it divides nobody; where some have, the others are in none.
    by = [name for name in ("sex", "block") if samples[name].notna().any()]
    parts = []
    for rows in samples.groupby(by, sort=True).indices.values() if by else ():
        both = [np.intersect1d(group, rows) for group in (found.reference, found.compared)]
        if min(map(len, both)):
            parts.append((both[0], both[1]))
    return parts
