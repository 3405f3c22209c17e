"""Lay the ageing of tissues and the training of heads into one plane, and compare directions.

Original steps 07 and 14. What is compared was laid down before any of it was computed: the vectors
in :mod:`stages.plane.vectors`, the tests in :mod:`stages.plane.same_direction`.

*Uncertainty.* Animals are resampled within their age group, with both metrics of an animal kept
together; the intervals of single coordinates are those of the exact bootstrap
(:func:`stages.measurement.resampling.bootstrap_median_change`). For heads, sequences are resampled
and, separately, heads, the same ones at all checkpoints (:mod:`stages.heads.trajectory`). The
covariance of the draws makes the ellipse; angles have intervals of the turns from the estimate
[1]_. Over 400 simulated tissues the nominal 95% intervals held the true coordinates and angle in
0.93 to 0.94 with 4 and 3 animals, 0.96 to 0.97 with 6 and 5, 0.96 to 0.98 with 9 and 9. Over 200
simulated trainings (48 heads, 32 sequences) those over sequences held them in 0.92 to 0.97 where
noise made a fifth of the sum of absolute effects (`noise_share`), but only in 0.58 to 0.78 where it
made two fifths at the first checkpoint: then no interval of the heads should be believed.

*What it cannot say.* A quadrant that cells and heads share is an analogy and not a mechanism: no
tissue of one animal and no head of one model have a common cause here. Ages are permuted regardless
of sex, so what confounds age and sex (:mod:`stages.cells.aging` permutes within sexes) stays
in. The first checkpoint's heads may be all but noise, whose Gini is 0.414: `noise_share_first` says
how far the vector starts from the noise floor instead of from a measured state.

References
----------
.. [1] Mardia, K. V. and Jupp, P. E. (2000). Directional Statistics. Wiley, chapter 12.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stages.base import cli, tables
from stages.base.errors import TableError
from stages.base.settings import load
from stages.cells import counts
from stages.cells.tables.metrics import METRICS
from stages.heads import effects, trajectory
from stages.heads.tables.trajectory import HEAD_TRAJECTORY
from stages.measurement import resampling
from stages.measurement.concentration import quadrant
from stages.plane import directions
from stages.plane.directions import Floats
from stages.plane.same_direction import same_direction
from stages.plane.settings import Plane
from stages.plane.tables import PLANE, PLANE_DIRECTIONS
from stages.plane.vectors import HEAD_AXES, Heads, Tissue, heads, tissues


def plane(
    of_tissues: Sequence[Tissue],
    of_heads: Sequence[Heads],
    along: pd.DataFrame,
    settings: Plane,
) -> pd.DataFrame:
    """Return every vector of the plane with its uncertainty (``PLANE``).

    Parameters
    ----------
    of_tissues, of_heads
        From :mod:`stages.plane.vectors`.
    along
        ``HEAD_TRAJECTORY`` of the same effects.

    Raises
    ------
    TableError
        The trajectory is not that of these effects.
    """
    rows = [_tissue_row(tissue, settings) for tissue in of_tissues]
    for moving in of_heads:
        rows += _head_rows(moving, _noise_shares(along, moving), settings)
    if not rows:
        return tables.empty(PLANE)
    table = pd.DataFrame(rows)
    table["quadrant"] = quadrant(table["d_gini"], table["d_effective"])
    return table.reindex(columns=list(PLANE.columns))


def _tissue_row(tissue: Tissue, settings: Plane) -> dict[str, object]:
    ends = [
        resampling.bootstrap_median_change(
            tissue.young[:, axis], tissue.old[:, axis], confidence=settings.confidence
        )
        for axis in (0, 1)
    ]
    return {
        "system": "cells",
        **dict(zip(counts.TISSUE, tissue.key, strict=True)),
        "scale": tissue.scale,
        "bootstrap": "animals",
        "n_young": len(tissue.young),
        "n_old": len(tissue.old),
        **_coordinates(tissue.vector, [end.low for end in ends], [end.high for end in ends]),
        **_spread(tissue.vector, tissue.draws, settings, mirrored=False),
    }


def _head_rows(
    moving: Heads, noise_shares: Sequence[float], settings: Plane
) -> list[dict[str, object]]:
    """Return one row for each later checkpoint and each of the two bootstraps."""
    rows = []
    for i in range(1, len(moving.steps)):
        vector = moving.values[i] - moving.values[0]
        draws = {
            "sequences": moving.sequences[i] - moving.sequences[0],
            "heads": moving.heads[i] - moving.heads[0],
        }
        ends = trajectory.intervals(vector, draws["sequences"], draws["heads"], settings.confidence)
        for bootstrap, (low, high) in zip(draws, (ends[:2], ends[4:]), strict=True):
            rows.append(
                {
                    "system": "heads",
                    "perturbation": moving.perturbation,
                    "step_first": moving.steps[0],
                    "step": moving.steps[i],
                    "scale": moving.scale,
                    "bootstrap": bootstrap,
                    **_coordinates(vector, low, high),
                    **_spread(
                        vector, draws[bootstrap], settings, mirrored=bootstrap == "sequences"
                    ),
                    "noise_share_first": noise_shares[0],
                    "noise_share": noise_shares[i],
                }
            )
    return rows


def _coordinates(
    vector: Floats, low: Sequence[float] | Floats, high: Sequence[float] | Floats
) -> dict[str, object]:
    return {
        f"{axis}{end}": float(values[i])
        for i, axis in enumerate(("d_gini", "d_effective"))
        for end, values in (("", vector), ("_low", low), ("_high", high))
    }


def _spread(vector: Floats, draws: Floats, settings: Plane, *, mirrored: bool) -> dict[str, object]:
    """Return the covariance of the draws, and the direction with its interval."""
    covariance = np.cov(draws, rowvar=False)
    angle, angles = float(directions.direction(vector)), directions.direction(draws)
    low, high = directions.interval(
        angle, angles, confidence=settings.confidence, mirrored=mirrored
    )
    return {
        "variance_gini": covariance[0, 0],
        "variance_effective": covariance[1, 1],
        "covariance": covariance[0, 1],
        "angle_degrees": angle,
        "angle_low": low,
        "angle_high": high,
        "resultant_length": directions.resultant_length(angles),
    }


def _noise_shares(along: pd.DataFrame, moving: Heads) -> list[float]:
    """Return the share of noise at each checkpoint, from the trajectory of the same effects."""
    metric = HEAD_AXES[moving.scale][0]
    chosen = (along["perturbation"] == moving.perturbation) & (along["metric"] == metric)
    rows = along[chosen].set_index("step")
    for step, value in zip(moving.steps, moving.values[:, 0], strict=True):
        known = step in rows.index
        if not known or not np.isclose(rows.loc[step, "value"], value, rtol=1e-9, atol=0):
            shown = f"{rows.loc[step, 'value']:.6g}" if known else "nothing"
            msg = (
                f"the head_trajectory table says {shown} for {metric} at step {step} "
                f"({moving.perturbation}), the effects {value:.6g}. Run dvc repro trajectory."
            )
            raise TableError(msg)
    return [float(rows.loc[step, "noise_share"]) for step in moving.steps]


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    metrics = tables.read(args.metrics, METRICS)
    along = tables.read(args.trajectory, HEAD_TRAJECTORY)
    parts = effects.read(args.effects, settings.model.checkpoints)
    of_tissues = tissues(metrics, settings.plane)
    of_heads = heads(parts, settings.plane)
    vectors = plane(of_tissues, of_heads, along, settings.plane)
    compared = same_direction(of_tissues, of_heads, settings.plane)
    tables.write(vectors, PLANE, args.out)
    tables.write(compared, PLANE_DIRECTIONS, args.directions)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--trajectory", type=Path, required=True)
    parser.add_argument("--effects", type=Path, required=True, help="folder of step<N>.parquet")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--directions", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
