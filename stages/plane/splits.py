"""Count the series that agree with a reference, and how many would by chance.

Old minus young of a tissue agrees with the heads where both are less than 90 degrees apart, or lie
in one quadrant. Were age nothing, its animals could be split into groups of the same sizes in any
way: a share of these splits agrees too (:mod:`stages.plane.same_direction`, `split_*`), about half
of them where the plane is nearly a line. The number of tissues that agree is then a sum of
independent trials of these shares, whose distribution (Poisson binomial [1]_) is computed exactly.

*What it leaves out.* Tissues of one mouse are not independent: where they move together, the number
varies more than is said here, and p is too small. The mice of most tissues were told apart within a
tissue only, so that they cannot be split jointly.

References
----------
.. [1] Wang, Y. H. (1993). On the number of successes in independent trials. Statistica Sinica
   3:295-312.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, study, tables
from stages.base.settings import load
from stages.measurement.resampling import SIGNIFICANT
from stages.plane.tables import AMONG, CRITERIA, PLANE_DIRECTIONS, REFERENCE, SPLITS

Floats = NDArray[np.float64]

_KEYS = ["system", "condition", *REFERENCE, "scale"]


def successes(shares: Floats) -> Floats:
    """Return the probabilities of 0 to n successes in n independent trials.

    Parameters
    ----------
    shares : shape (n,)
        The probability of each trial's success.

    Examples
    --------
    >>> successes(np.array([0.5, 0.5])).tolist()
    [0.25, 0.5, 0.25]
    """
    found = np.ones(1)
    for share in shares:
        found = np.convolve(found, [1 - share, share])
    return found


def splits(same: pd.DataFrame, about: study.Study, *, confidence: float) -> pd.DataFrame:
    """Return how many series agree with each reference, and how many would (``SPLITS``).

    Parameters
    ----------
    same
        ``PLANE_DIRECTIONS``. Series whose replicates cannot be split are left out.
    about
        The cells: which of them are simulated.
    confidence
        Probability of the central interval, at least.
    """
    split = same[same["split_quadrant"].notna()]
    real, simulated = AMONG
    kinds = [simulated if _is_simulated(row, about) else real for row in split.to_dict("records")]
    rows = []
    for key, of in split.assign(kind=kinds).groupby(_KEYS, sort=False):
        known = dict(zip(_KEYS, key, strict=True))
        for column in ("kind", "group"):
            for among, part in of.groupby(column, sort=False):
                for criterion in CRITERIA:
                    found = {"among": among, "criterion": criterion}
                    rows.append(known | found | _count(part, criterion, confidence))
    return pd.DataFrame(rows)[list(SPLITS.columns)] if rows else tables.empty(SPLITS)


def _is_simulated(row: dict[str, str], about: study.Study) -> bool:
    if row["system"] != "cells":
        return False
    cohort, platform = row["group"].split(" ", 1)
    return about.evidence(cohort, platform, row["series"]) == study.SIMULATED


def _count(part: pd.DataFrame, criterion: str, confidence: float) -> dict[str, object]:
    agree = part["angle_degrees"] < 90 if criterion == "right_angle" else part["same_quadrant"]
    shares = part[f"split_{criterion}"].to_numpy(float)
    probability = successes(shares)
    tail = (1 - confidence) / 2
    low, high = np.searchsorted(np.cumsum(probability), [tail, 1 - tail])
    return {
        "n_series": len(part),
        "n_agree": int(agree.sum()),
        "expected": shares.sum(),
        "expected_low": int(low),
        "expected_high": int(high),
        "p": min(1.0, float(probability[int(agree.sum()) :].sum())),
        "n_significant": int((part["p"] < SIGNIFICANT).sum()),
        "n_significant_trainings": int((part["p_trainings"] < SIGNIFICANT).sum()),
    }


def _run(args: argparse.Namespace) -> None:
    same = tables.read(args.directions, PLANE_DIRECTIONS)
    confidence = load(args.params).plane.confidence
    found = splits(same, study.read(args.study), confidence=confidence)
    tables.write(found, SPLITS, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--directions", type=Path, required=True)
    parser.add_argument("--study", type=Path, required=True, help="what the cells are")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
