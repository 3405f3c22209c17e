r"""Take the items of each layer apart into directions: how much of their variance lies along each.

The matrix X of a layer holds the mean vector of every item, centred; items that were never met, or
too seldom, are left out and counted. Its singular values say in how many directions the items
differ: with :math:`p_k = \sigma_k^2 / \sum \sigma^2`, the *effective rank* is :math:`\exp(-\sum p
\ln p)` (Roy and Vetterli 2007), the Hill number of order 1 of the squared singular values, and the
participation ratio that of order 2: directions are components, their shares the effects, and the
one measurement applies.

What part r of the text says of :math:`\lambda_k = \sigma_k^2` is its pseudo-value
:math:`\lambda_k + 2\, v_k^T X^T D_r v_k`, with the deviation :math:`D_r` of the part's items
(:mod:`stages.spectra.matrices`). Its mean over parts is :math:`\lambda_k` exactly, so that the
measured effective number is the effective rank; and since singular values move with the matrix to
first order as if their directions stood still, its spread is the sampling error. Noise of the means
adds to every :math:`\lambda_k`, most visibly to small ones: `noise_share` says how much in all.

Beside it: every column permuted (what the scales of the columns alone give); the matrix that is not
centred; all-zero rows, as the published matrix held; and these with the mean vector alone.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, tables
from stages.base.settings import load
from stages.measurement import concentration, effects, resampling
from stages.measurement.effects import Effects, State
from stages.measurement.streams import stream
from stages.representations.arrays import layer_name
from stages.spectra import matrices
from stages.spectra.dimension import Dimension, two_nn
from stages.spectra.matrices import Items
from stages.spectra.settings import Spectrum
from stages.spectra.statistics import rank_correlation
from stages.spectra.tables.spectrum import MATRICES, SPECTRUM

Floats = NDArray[np.float64]

ENTERING, INNER, LAST = "entering", "inner", "last"
"""Conditions: where a layer is, of those that there are."""
UNIT = "share of the variance"


@dataclass(frozen=True)
class Directions:
    """A centred matrix, taken apart."""

    centred: Floats
    """(n_items, width)"""
    squares: Floats
    """Squared singular values, descending: (min(n_items, width),)."""
    directions: Floats
    """A row each, of length 1."""

    @property
    def along(self) -> Floats:
        """Coordinates of the items along the directions, (n_items, n_directions)."""
        return np.asarray(self.centred @ self.directions.T)


def directions(matrix: Floats) -> Directions:
    """Return the directions of the rows of a matrix about their mean.

    A direction's sign is that which makes its largest entry positive.
    """
    centred = matrix - matrix.mean(axis=0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(rows).argmax(axis=1)
    signs = np.sign(rows[np.arange(len(rows)), largest])
    return Directions(centred, singular**2, rows * signs[:, np.newaxis])


def squares(matrix: Floats) -> Floats:
    """Return the squared singular values of a matrix, as it is, ascending.

    As eigenvalues of its products, which takes a fifth of the time of the singular values and loses
    what is below 1e-15 of the largest.
    """
    product = matrix.T @ matrix if len(matrix) > matrix.shape[1] else matrix @ matrix.T
    return np.asarray(np.clip(np.linalg.eigvalsh(product), 0, None))


def numbers(values: Floats) -> dict[str, float]:
    """Return the effective rank, the participation ratio and the first share of a spectrum.

    >>> {name: round(value, 9) for name, value in numbers(np.array([4.0, 4.0, 0.0])).items()}
    {'effective_rank': 2.0, 'participation_ratio': 2.0, 'sv1_share': 0.5}
    """
    return {
        "effective_rank": float(concentration.effective_number(values)),
        "participation_ratio": float(concentration.hill_number(values, 2)),
        "sv1_share": float(values.max() / values.sum()),
    }


def pseudo_values(found: Directions, deviations: Floats) -> Floats:
    """Return what each part says of the squared singular values: (n_parts, n_directions).

    Parameters
    ----------
    deviations
        Of the items, by part: (n_parts, n_items, width).
    """
    along = found.along
    moved = np.einsum("rid,kd,ik->rk", deviations, found.directions, along, optimize=True)
    return np.asarray(found.squares + 2 * moved)


def with_zero_rows(matrix: Floats, share: float) -> Floats:
    """Return a matrix with so many all-zero rows added that they are this share of it.

    >>> len(with_zero_rows(np.ones((41, 2)), 0.59))
    100
    """
    n_zero = round(len(matrix) * share / (1 - share))
    return np.concatenate([matrix, np.zeros((n_zero, matrix.shape[1]))])


def mean_alone(matrix: Floats, share: float) -> Floats:
    r"""Return the spectrum of rows that share the mean vector m, and of zero rows.

    The items have the mean and the variance of the matrix, spread evenly over all directions; a
    share f of all rows is zero. The covariance of both together is
    :math:`(1 - f) \Sigma + f (1 - f) m m^T`: one large eigenvalue, and equal ones.

    Returns
    -------
    ndarray
        (width,), descending.
    """
    mean, width = matrix.mean(axis=0), matrix.shape[1]
    flat = matrix.var(axis=0).sum() / width
    values = np.full(width, (1 - share) * flat)
    values[0] += share * (1 - share) * (mean @ mean)
    return values


def spectra(items: Items, state: State, params: Spectrum) -> tuple[list[Effects], pd.DataFrame]:
    """Take every layer apart.

    Parameters
    ----------
    items
        Of one state.
    state
        How its effects are named.

    Returns
    -------
    parts, table
        Effects (a kind a layer, a component a direction) and ``SPECTRUM``.
    """
    parts, rows = [], []
    layers = items.found.layers
    for layer in layers:
        matrix = items.matrix(layer)
        found = directions(matrix)
        deviations = items.deviations(layer, matrix)
        where = {layers[0]: ENTERING, layers[-1]: LAST}.get(layer, INNER)
        parts.append(_effects(found, deviations, items, layer, where, state))
        noise = (deviations**2).sum() / (items.n_parts * (items.n_parts - 1))
        known = {
            "state": state.name,
            "position": state.position,
            "layer": layer_name(layer),
            "n_items": len(items),
            "n_never_met": items.n_never_met,
            "n_rare": items.n_rare,
            "width": matrix.shape[1],
        }
        for name, of in _beside(matrix, found, params, layer_name(layer)):
            rows.append(known | {"matrix": name, "n_zero_rows": 0} | of)
        first = next(row for row in rows[::-1] if row["matrix"] == MATRICES[0])
        first["noise_share"] = float(noise / found.squares.sum())
        first["sv1_frequency"] = rank_correlation(found.along[:, 0], items.log_frequency)[0]
    return parts, pd.DataFrame(rows).reindex(columns=list(SPECTRUM.columns))


def _effects(
    found: Directions, deviations: Floats, items: Items, layer: int, where: str, state: State
) -> Effects:
    total = found.squares.sum()
    numbered = np.arange(1, len(found.squares) + 1)
    names = [f"s{number}" for number in numbered]
    return Effects(
        state=state,
        kind=layer_name(layer),
        condition=where,
        components=pd.DataFrame({"direction": numbered}, index=names),
        replicates=np.arange(items.n_parts),
        draws=(pseudo_values(found, deviations) / total)[np.newaxis],
    )


def _beside(
    matrix: Floats, found: Directions, params: Spectrum, layer: str
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the numbers of the items and of what stands beside them, by name."""
    share = params.zero_share
    zeros = with_zero_rows(matrix, share)
    n_zero = len(zeros) - len(matrix)
    # The same draws in all states, so that these differ by nothing else.
    rng = stream(params.seed, layer)
    some = rng.permutation(len(matrix))[: params.neighbours_among]
    yield "items", numbers(found.squares) | _dimension(two_nn(matrix[some], rng))
    shuffled = [rng.permuted(found.centred, axis=0) for _ in range(params.shuffles)]
    drawn = pd.DataFrame([numbers(squares(one)) for one in shuffled])
    low, high = resampling.percentile_interval(
        drawn["effective_rank"].to_numpy(), confidence=params.confidence
    )
    ends = {"effective_rank_low": low, "effective_rank_high": high}
    yield (
        "column shuffle",
        drawn.mean().to_dict() | ends | _dimension(two_nn(shuffled[0][some], rng)),
    )
    yield "not centred", numbers(squares(matrix))
    yield "zero rows", numbers(squares(zeros - zeros.mean(axis=0))) | {"n_zero_rows": n_zero}
    yield (
        "zero rows, mean alone",
        numbers(mean_alone(matrix, n_zero / len(zeros))) | {"n_zero_rows": n_zero},
    )


def _dimension(found: Dimension) -> dict[str, float]:
    return {"two_nn": found.value, "two_nn_error": found.error}


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    params: Spectrum = settings.spectrum
    model = getattr(settings, args.of)
    made = []
    for name in settings.systems[args.system].states:
        items = matrices.read(args.items / name, min_count=params.min_count)
        state = State(args.system, name, model.position(name), UNIT)
        parts, table = spectra(items, state, params)
        effects.write(args.effects / f"{name}.parquet", parts)
        made.append(table)
    tables.write(pd.concat(made, ignore_index=True), SPECTRUM, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--system", required=True, help="a key of systems")
    parser.add_argument("--of", choices=("model", "cellmodel"), default="model", help="whose items")
    parser.add_argument("--items", type=Path, required=True, help="folder of <state>/")
    parser.add_argument("--effects", type=Path, required=True, help="folder of <state>.parquet")
    parser.add_argument("--out", type=Path, required=True, help="the table")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
