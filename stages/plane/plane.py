"""Lay all measured systems into one plane, and compare their directions.

Original steps 07 and 14. What is compared was laid down before any of it was computed: the vectors
in :mod:`stages.plane.vectors`, the tests in :mod:`stages.plane.same_direction`.

*Uncertainty.* Animals are resampled within their age group, with both metrics of an animal kept
together; the intervals of single coordinates are those of the exact bootstrap
(:func:`stages.measurement.resampling.bootstrap_median_change`). For heads, sequences are resampled
and, separately, heads, the same ones at all checkpoints (:mod:`stages.measurement.measured`).
Angles have intervals of the turns from the estimate [1]_. Over 400 simulated tissues the nominal
95% intervals held the true coordinates and angle in 0.93 to 0.94 with 4 and 3 animals, 0.96 to 0.97
with 6 and 5, 0.96 to 0.98 with 9 and 9. Over 200 simulated trainings (48 heads, 32 sequences) those
over sequences held them in 0.92 to 0.97 where noise made a fifth of the sum of absolute effects
(`noise_share`), but only in 0.58 to 0.78 where it made two fifths at the first checkpoint: then no
interval of the heads should be believed.

*What it cannot say.* A quadrant that cells and heads share is an analogy and not a mechanism: no
tissue of one animal and no head of one model have a common cause here. Ages are permuted regardless
of sex, so what confounds age and sex (:mod:`stages.cells.contrast` permutes within sexes) stays
in. The first checkpoint's heads may be all but noise, whose Gini is 0.414: `noise_share_first` says
how far the vector starts from the noise floor instead of from a measured state.

References
----------
.. [1] Mardia, K. V. and Jupp, P. E. (2000). Directional Statistics. Wiley, chapter 12.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from stages.base import cli, tables
from stages.base.settings import load
from stages.heads.tables.seeds import HEAD_SEEDS
from stages.measurement.concentration import quadrant
from stages.plane import directions
from stages.plane.directions import Floats
from stages.plane.same_direction import same_direction
from stages.plane.settings import Plane
from stages.plane.tables import PLANE, PLANE_DIRECTIONS
from stages.plane.vectors import AXES, KEY, Trail, read, trails


def plane(found: Sequence[Trail], settings: Plane) -> pd.DataFrame:
    """Return every vector of the plane with its uncertainty (``PLANE``).

    Parameters
    ----------
    found
        From :func:`stages.plane.vectors.trails`.
    """
    rows = [row for trail in found for row in _rows(trail, settings)]
    if not rows:
        return tables.empty(PLANE)
    table = pd.DataFrame(rows)
    named = quadrant(table["d_gini"], table["d_effective"])
    table["quadrant"] = pd.Series(named, table.index).where(table["scale"] != "shape")
    return table[list(PLANE.columns)]


def _rows(trail: Trail, settings: Plane) -> list[dict[str, object]]:
    """Return one row for each later state and each bootstrap."""
    rows = []
    for i in range(1, len(trail.states)):
        vector = trail.values[i] - trail.values[0]
        for bootstrap, drawn in trail.draws.items():
            low, high = trail.ends[bootstrap, trail.states[i]]
            rows.append(
                {
                    **dict(zip(KEY, trail.key, strict=True)),
                    "state_first": trail.states[0],
                    "state": trail.states[i],
                    "position_first": trail.positions[0],
                    "position": trail.positions[i],
                    "scale": trail.scale,
                    "bootstrap": bootstrap,
                    "n_first": trail.n[0],
                    "n_last": trail.n[i],
                    **_coordinates(vector, low, high),
                    **_angle(
                        vector,
                        drawn[i] - drawn[0],
                        settings,
                        mirrored=trail.is_mirrored(bootstrap),
                    ),
                    "noise_share_first": trail.noise[0],
                    "noise_share": trail.noise[i],
                }
            )
    return rows


def _coordinates(vector: Floats, low: Floats, high: Floats) -> dict[str, object]:
    return {
        f"{axis}{end}": float(values[i])
        for i, axis in enumerate(AXES)
        for end, values in (("", vector), ("_low", low), ("_high", high))
    }


def _angle(vector: Floats, draws: Floats, settings: Plane, *, mirrored: bool) -> dict[str, object]:
    """Return the direction with its interval."""
    angle, angles = float(directions.direction(vector)), directions.direction(draws)
    low, high = directions.interval(
        angle, angles, confidence=settings.confidence, mirrored=mirrored
    )
    return {"angle_degrees": angle, "angle_low": low, "angle_high": high}


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    names = sorted({*settings.systems, *settings.plane.beside})
    found = trails(
        read(names, args.measured, args.changes, args.draws),
        settings.plane,
        untrained={name: system.untrained for name, system in settings.systems.items()},
    )
    tables.write(plane(found, settings.plane), PLANE, args.out)
    trainings = None if args.trainings is None else tables.read(args.trainings, HEAD_SEEDS)
    compared = same_direction(found, settings.plane, trainings)
    tables.write(compared, PLANE_DIRECTIONS, args.directions)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--measured", type=Path, required=True, help="folder of one CSV a system")
    parser.add_argument("--changes", type=Path, required=True, help="the like of changes")
    parser.add_argument("--draws", type=Path, required=True, help="the like of draws (.parquet)")
    parser.add_argument("--trainings", type=Path, help="the table head_seeds")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--directions", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
