"""Ask what the leading directions of each layer separate: frequencies first, then known classes.

Of genes, what was planted or stands in files; of tokens, how they are written.

In the first state and the last. A direction that orders items by how often they were met can seem
to separate any classes that differ in frequency, so every class stands beside its own number after
frequency is taken out. Labels are permuted, and everything that was tried is counted and adjusted
for.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from stages.base import cli, tables
from stages.base.settings import load
from stages.inputs import known, token_classes
from stages.inputs.encoders import vocabulary
from stages.inputs.known import REGULATOR, Known
from stages.measurement import resampling
from stages.measurement.ranks import auroc_of_ranks
from stages.measurement.streams import stream
from stages.representations.arrays import layer_name
from stages.spectra import matrices
from stages.spectra.matrices import Items
from stages.spectra.settings import Separation
from stages.spectra.spectrum import directions
from stages.spectra.statistics import (
    permutation_p,
    rank_correlation,
    residual,
)
from stages.spectra.tables.separation import FREQUENCY, SEPARATION

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def families(of: Known, names: Sequence[str]) -> dict[str, tuple[list[str], Mask]]:
    """Return every family of sets as far as the items have it: names, (n_sets, n_items).

    Regulators are one more family, of one set against the genes that are regulated.
    """
    found = {name: known.membership(sets, names) for name, sets in of.families.items()}
    if len(of.edges):
        factors, targets = of.factors, set(of.edges["target"])
        is_factor = np.array([name in factors for name in names])
        is_target = np.array([name in targets for name in names]) & ~is_factor
        found[REGULATOR] = [REGULATOR, "target"], np.stack([is_factor, is_target])
    usable = {}
    for name, (labels, inside) in found.items():
        sizes = inside.sum(axis=1)
        kept = (sizes >= 2) & (sizes < inside.any(axis=0).sum())
        if kept.any():
            usable[name] = (
                [label for label, at in zip(labels, kept, strict=True) if at],
                inside[kept],
            )
    return usable


def same_pole(inside: Mask | Floats, poles: Floats) -> Floats:
    """Return the share of pairs of one set that lie in one pole, by axis.

    Parameters
    ----------
    inside
        (n_sets, n_items), 0 or 1.
    poles
        (2, n_items, n_axes), 0 or 1: the highest and the lowest.
    """
    sizes = inside.sum(axis=1)
    counts = inside.astype(np.float64) @ poles
    pairs = (counts * (counts - 1) / 2).sum(axis=(0, 1))
    return np.asarray(pairs / (sizes * (sizes - 1) / 2).sum())


def poles(along: Floats, share: float) -> Floats:
    """Return which items are the highest and which the lowest of each axis: (2, n, n_axes)."""
    n = len(along)
    size = round(n * share)
    places = np.argsort(np.argsort(along, axis=0, kind="stable"), axis=0, kind="stable")
    return np.stack([places >= n - size, places < size]).astype(np.float64)


def separated(
    along: Floats,
    log_frequency: Floats,
    labels: Sequence[str],
    inside: Mask,
    params: Separation,
    rng: np.random.Generator,
) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield what a family of sets has on each axis, by the axis' number.

    Parameters
    ----------
    along
        Coordinates of all items, (n_items, n_axes).
    labels, inside
        Of the sets: names, and (n_sets, n_items).
    """
    universe = inside.any(axis=0)
    along, inside = along[universe], inside[:, universe]
    left = np.stack([residual(one, log_frequency[universe]) for one in along.T], axis=1)
    ranks = stats.rankdata(along, axis=0)
    there = poles(along, params.pole_share)
    found = auroc_of_ranks(ranks, inside)
    beyond = auroc_of_ranks(stats.rankdata(left, axis=0), inside)
    pole = same_pole(inside, there)
    drawn, drawn_poles = [], []
    for _ in range(params.permutations):
        shuffled = inside[:, rng.permutation(len(along))]
        drawn.append(np.abs(auroc_of_ranks(ranks, shuffled) - 0.5).max(axis=0))
        drawn_poles.append(same_pole(shuffled, there))
    largest, by_pole = np.array(drawn), np.array(drawn_poles)
    of_all: dict[str, object] = {"n_sets": len(labels), "n_items": len(along)}
    for axis in range(along.shape[1]):
        best = int(np.abs(found[:, axis] - 0.5).argmax())
        far = abs(found[best, axis] - 0.5)
        reached = (largest[:, axis] >= far - 1e-12).sum()
        # The end of an axis means nothing: both numbers are turned to where the set lies.
        sign = 1.0 if found[best, axis] >= 0.5 else -1.0
        yield (
            axis,
            of_all
            | {
                "statistic": "auroc",
                "set": labels[best],
                "value": 0.5 + far,
                "beyond_frequency": 0.5 + sign * (beyond[best, axis] - 0.5),
                "expected": 0.5 + largest[:, axis].mean(),
                "p": (1 + reached) / (1 + len(largest)),
            },
        )
        yield (
            axis,
            of_all
            | {
                "statistic": "same pole",
                "value": pole[axis],
                "expected": by_pole[:, axis].mean(),
                "p": permutation_p(pole[axis], by_pole[:, axis]),
            },
        )


def separation(
    items: Items, of: Known, state: str, position: float, params: Separation
) -> pd.DataFrame:
    """Return what the leading axes of every layer separate; `q` is not yet there."""
    rows: list[dict[str, object]] = []
    asked = families(of, items.names)
    for layer in items.found.layers:
        found = directions(items.matrix(layer))
        along = found.along[:, : params.n_axes]
        shares = found.squares / found.squares.sum()
        common = [
            {"state": state, "position": position, "layer": layer_name(layer)}
            | {"axis": axis + 1, "share": shares[axis]}
            for axis in range(along.shape[1])
        ]
        for axis, one in enumerate(along.T):
            rho, p = rank_correlation(one, items.log_frequency)
            rows.append(
                common[axis]
                | {"family": FREQUENCY, "statistic": "rho", "value": rho}
                | {"p": p, "n_sets": 0, "n_items": len(items)}
            )
        for family, (labels, inside) in asked.items():
            rng = stream(params.seed, state, layer_name(layer), family)
            for axis, said in separated(along, items.log_frequency, labels, inside, params, rng):
                rows.append(common[axis] | {"family": family} | said)
    return pd.DataFrame(rows)


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    params: Separation = settings.separation
    states = settings.systems[args.system].states
    read = {
        name: matrices.read(args.items / name, min_count=settings.spectrum.min_count)
        for name in dict.fromkeys((states[0], states[-1]))
    }
    if args.known is None:
        model = settings.model
        met = sorted({int(token) for items in read.values() for token in items.tokens})
        of = token_classes.read(args.checkpoints, model, met)
    else:
        model = settings.cellmodel
        synonyms = vocabulary.read(args.checkpoints / states[0]).synonyms
        of = known.read(args.known, settings.gene_sets, synonyms)
    made = [
        separation(items, of, name, model.position(name), params) for name, items in read.items()
    ]
    table = pd.concat(made, ignore_index=True)
    table["q"] = resampling.benjamini_hochberg(table["p"].to_numpy(float))
    table["n_tests"] = int(table["p"].notna().sum())
    tables.write(table.reindex(columns=list(SEPARATION.columns)), SEPARATION, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--system", required=True, help="a key of systems")
    parser.add_argument("--items", type=Path, required=True, help="folder of <state>/")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of <state>/")
    parser.add_argument("--known", type=Path, help="of genes, folder of what was planted")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
