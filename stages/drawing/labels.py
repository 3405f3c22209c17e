"""Put names beside points so that none covers another, the same way each time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from stages.drawing import style

Floats = NDArray[np.float64]

# In points. Names first try to stand close; further out they get a line to their point.
DISTANCES = (3.0, 6.0, 10.0, 16.0, 22.0, 30.0, 40.0, 55.0, 75.0, 100.0)
N_DIRECTIONS = 16
LEADER_FROM = 5.0
POINT_RADIUS = 3.5
PADDING = 1.2
SWEEPS = 6

# What a place costs. Covering a name or leaving the panel is never worth it; the rest is taste.
COVERS_NAME = 1e4
LEAVES_PANEL = 1e6
COVERS_POINT = 150.0
CROSSED_BY_LEADER = 60.0
CROSSED_BY_LINE = 25.0
FAR = 0.6


@dataclass(frozen=True)
class _Places:
    """Candidate places of one name, in points from the lower left corner of the figure."""

    boxes: Floats  # (n_places, 4): left, bottom, right, top
    centres: Floats  # (n_places, 2)
    distances: Floats  # (n_places,)


def place(
    axes: Axes, x: Floats, y: Floats, names: Sequence[str], *, lines: Floats | None = None
) -> None:
    """Write each name beside its point; names never cover one another where there is room.

    Starting from the closest places, names move one after the other to their cheapest place given
    all the others, until none wants to move. Nothing is random.

    Parameters
    ----------
    axes
        Laid out for good (:func:`stages.drawing.style.freeze`).
    x, y : shape (n,)
        The points, in data.
    lines : shape (m, 4)
        Lines to keep clear of where possible: x, y of both ends, in data.
    """
    axes.apply_aspect()
    per_point = _pixels_per_point(axes)
    points = axes.transData.transform(np.column_stack([x, y])) / per_point
    ends = np.zeros((0, 4)) if lines is None else lines
    drawn = (axes.transData.transform(ends.reshape(-1, 2)) / per_point).reshape(-1, 4)
    frame = np.array(axes.get_window_extent().extents) / per_point
    places = [_places(point, name) for point, name in zip(points, names, strict=True)]
    fixed = [_fixed_cost(p, points, drawn, frame) for p in places]
    chosen = _settle(places, fixed, points)
    for name, point, found, k in zip(names, points, places, chosen, strict=True):
        _write(axes, name, point, found.centres[k], far=found.distances[k] >= LEADER_FROM)


def _pixels_per_point(axes: Axes) -> float:
    # The display transform of a figure is in inches times its resolution.
    return float(axes.get_figure(root=True).dpi) / style.POINTS_PER_INCH  # type: ignore[union-attr]


def _places(point: Floats, name: str) -> _Places:
    width, height = style.text_size(name)
    half = np.array([width, height]) / 2 + PADDING
    angles = 2 * math.pi * np.arange(N_DIRECTIONS) / N_DIRECTIONS
    # Around a square, not a circle: at its corners a name is clear of both arms of a cross.
    directions = np.clip(1.5 * np.column_stack([np.cos(angles), np.sin(angles)]), -1, 1)
    centres = np.concatenate([point + directions * (half + r) for r in DISTANCES])
    distances = np.repeat(DISTANCES, N_DIRECTIONS)
    return _Places(np.column_stack([centres - half, centres + half]), centres, distances)


def _fixed_cost(places: _Places, points: Floats, lines: Floats, frame: Floats) -> Floats:
    """Return what each place costs whatever the other names do."""
    boxes = places.boxes
    outside = (boxes[:, :2] < frame[:2]).any(axis=1) | (boxes[:, 2:] > frame[2:]).any(axis=1)
    # (n_places, n_points)
    nearest = np.clip(points, boxes[:, np.newaxis, :2], boxes[:, np.newaxis, 2:])
    covered = np.hypot(*np.moveaxis(nearest - points, -1, 0)) < POINT_RADIUS
    crossed = np.zeros(len(boxes))
    for line in lines:
        crossed += _meets(boxes, line[:2], line[2:])
    cost: Floats = (
        LEAVES_PANEL * outside
        + COVERS_POINT * covered.sum(axis=1)
        + CROSSED_BY_LINE * crossed
        + FAR * places.distances
    )
    return cost


def _meets(boxes: Floats, start: Floats, end: Floats) -> NDArray[np.bool_]:
    """Say which boxes the line from `start` to `end` runs through."""
    # (n_steps, 1, 2); names are far larger than a fiftieth of any line in a panel.
    way = start + np.linspace(0, 1, 50)[:, np.newaxis, np.newaxis] * (end - start)
    inside = (way > boxes[:, :2]) & (way < boxes[:, 2:])
    return np.asarray(inside.all(axis=-1).any(axis=0))


def _settle(places: list[_Places], fixed: list[Floats], points: Floats) -> list[int]:
    chosen = [int(np.argmin(cost)) for cost in fixed]
    for _ in range(SWEEPS):
        before = list(chosen)
        for i, mine in enumerate(places):
            cost = fixed[i].copy()
            for j, theirs in enumerate(places):
                if i == j:
                    continue
                k = chosen[j]
                cost += COVERS_NAME * _overlaps(mine.boxes, theirs.boxes[k])
                if theirs.distances[k] >= LEADER_FROM:
                    cost += CROSSED_BY_LEADER * _meets(mine.boxes, points[j], theirs.centres[k])
            chosen[i] = int(np.argmin(cost))
        if chosen == before:
            break
    return chosen


def _overlaps(boxes: Floats, other: Floats) -> NDArray[np.bool_]:
    apart = (boxes[:, :2] >= other[2:]) | (boxes[:, 2:] <= other[:2])
    return np.asarray(~apart.any(axis=1))


def _write(axes: Axes, name: str, point: Floats, centre: Floats, *, far: bool) -> None:
    anchor = axes.transData.inverted().transform(point * _pixels_per_point(axes))
    line = {"arrowstyle": "-", "linewidth": 0.4, "color": style.QUIET, "shrinkA": 0, "shrinkB": 2}
    axes.annotate(
        name,
        xy=(float(anchor[0]), float(anchor[1])),
        xytext=(float(centre[0] - point[0]), float(centre[1] - point[1])),
        textcoords="offset points",
        ha="center",
        va="center",
        arrowprops=line if far else None,
        path_effects=[withStroke(linewidth=1.6, foreground="white")],
        zorder=5,
    )
