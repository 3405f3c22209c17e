"""Set first-order attribution beside the effects of removal, to see how good a screen it is.

One forward and backward pass tells every head's first-order effect. Whether that finds the heads
whose removal matters is an empirical question, and its answer changes from state to state; nothing
else in this study rests on it but the precision of the control variate.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from stages.base import cli, tables
from stages.base.errors import TableError
from stages.base.settings import load
from stages.heads import covariates
from stages.heads.settings import Screen
from stages.heads.tables.attribution import HEAD_SCREEN
from stages.measurement import concentration, effects, resampling
from stages.measurement.effects import Effects
from stages.measurement.streams import stream

Floats = NDArray[np.float64]


def rank_correlations(first: Floats, second: Floats) -> Floats:
    """Return Spearman's rank correlation of each pair of rows; nan where a row is constant.

    Parameters
    ----------
    first, second : (n_draws, n_heads)

    Examples
    --------
    >>> rank_correlations(np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 5.0, 4.0]]))
    array([0.5])
    """
    ranks = [stats.rankdata(values, axis=1) for values in (first, second)]
    a, b = (one - one.mean(axis=1, keepdims=True) for one in ranks)
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    product = (a * b).sum(axis=1)
    found: Floats = np.divide(product, norm, out=np.full(len(a), np.nan), where=norm > 0)
    return found.clip(-1, 1)


def screen(
    parts: Sequence[Effects],
    found: dict[str, covariates.Features],
    params: Screen,
    *,
    measured: bool = True,
) -> pd.DataFrame:
    """Return how well first-order attribution orders the heads in every state.

    Parameters
    ----------
    parts
        Effects of all states (:func:`stages.measurement.effects.read_states`).
    found
        Attribution by state, of the same sequences.
    params
        Confidence of the intervals over sequences, which are resampled for both at once, and the
        share of the heads that counts as the top.
    measured
        Whether every sequence's effect was measured; predicted ones have no correlation of their
        own with the attribution.

    Returns
    -------
    DataFrame
        ``HEAD_SCREEN``.

    Raises
    ------
    TableError
        Attribution and effects are not of the same heads and sequences.
    """
    rows = []
    for (_, perturbation), states in effects.series(parts, ["head"]).items():
        for part in states:
            state = part.state.name
            first_order = _same_heads(part, found[state])
            rng = stream(params.seed, perturbation, state)
            row = _row(part.values, first_order, params, rng)
            if not measured:
                row["r2_median"] = np.nan
            key = {"state": state, "position": part.state.position, "perturbation": perturbation}
            rows.append(key | row)
    return pd.DataFrame(rows)


def _same_heads(part: Effects, found: covariates.Features) -> Floats:
    """Return the first-order effects of the heads and sequences of `part`, shaped as its own."""
    n, n_layers, n_heads = found.first_order.shape
    layer, head = (part.components[name].to_numpy(int) for name in ("layer", "head"))
    if part.replicates[-1] >= n or layer.max() >= n_layers or head.max() >= n_heads:
        msg = (
            f"{part.label}: the attribution is of {n} sequences, {n_layers} layers and {n_heads} "
            "heads, which the effects exceed. Run dvc repro attribution."
        )
        raise TableError(msg)
    return found.first_order[part.replicates][:, layer, head]


def _row(
    exact: Floats, first_order: Floats, params: Screen, rng: np.random.Generator
) -> dict[str, object]:
    n_sequences, n_heads = exact.shape
    mean, cheap = exact.mean(axis=0), first_order.mean(axis=0)
    weights = resampling.group_weights(n_sequences, params.draws, rng)
    drawn, drawn_cheap = weights @ exact, weights @ first_order
    row: dict[str, object] = {"n_heads": n_heads, "n_sequences": n_sequences}
    for name, of in (("spearman", np.asarray), ("spearman_abs", np.abs)):
        row[name] = rank_correlations(of(mean)[np.newaxis], of(cheap)[np.newaxis])[0]
        over = rank_correlations(of(drawn), of(drawn_cheap))
        low, high = resampling.percentile_interval(over, confidence=params.confidence)
        row |= {f"{name}_low": low, f"{name}_high": high}
    n_top = max(1, round(params.top_share * n_heads))
    tops = [set(np.argsort(-np.abs(one), kind="stable")[:n_top]) for one in (mean, cheap)]
    row |= {"n_top": n_top, "n_top_shared": len(tops[0] & tops[1])}
    for name, one in (("", mean), ("_first_order", cheap)):
        row[f"gini{name}"] = concentration.gini(np.abs(one))
    row["sum_abs_delta_nats"] = np.abs(mean).sum()
    row["sum_abs_first_order_nats"] = np.abs(cheap).sum()
    row["r2_median"] = np.median(_squared_correlations(exact, first_order))
    return row


def _squared_correlations(first: Floats, second: Floats) -> Floats:
    """Return the squared correlation over sequences of each head; 0 where one does not vary."""
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)
    norm = (a**2).sum(axis=0) * (b**2).sum(axis=0)
    product = (a * b).sum(axis=0) ** 2
    share: Floats = np.divide(product, norm, out=np.zeros_like(norm), where=norm > 0)
    return share.clip(0, 1)


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    states = settings.model.checkpoints
    parts = effects.read_states(args.effects, states)
    found = {name: covariates.read(args.attribution / f"{name}.parquet", name) for name in states}
    measured = settings.sweep.estimator == "exact"
    table = screen(parts, found, settings.screen, measured=measured)
    tables.write(table, HEAD_SCREEN, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--effects", type=Path, required=True, help="folder of <state>.parquet")
    parser.add_argument("--attribution", type=Path, required=True, help="the like of attribution")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
