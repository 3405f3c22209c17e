"""Take single factors out of one head, and ask in how many of them its use lies.

The head is the one whose `ov_weight` leads anchors best onto the ruler; its factors are the first
singular ones. A factor is set to zero with the probes as they are (the published way) and with
probes fitted anew. The published core consists of the factors of the largest singular values: what
random bases of the same space give stands beside, and the singular values are the declared
exposure. Where cells have no labels, what is lost is the factor's share of the head's own output.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, tables
from stages.base.files import atomic_folder
from stages.base.settings import Settings, load
from stages.inputs import known
from stages.inputs.encoders import vocabulary
from stages.measurement import effects, resampling
from stages.measurement.effects import Effects, State
from stages.measurement.enrichment import nearest
from stages.measurement.streams import stream
from stages.operators import candidates, rulers
from stages.operators.adaptors import Ridge
from stages.operators.endpoints import Endpoints, donor_groups
from stages.operators.maps import Maps, factors, read
from stages.operators.panel import Inputs, Prepared, add_arguments, logs, prepare, unit
from stages.operators.settings import OperatorFactors
from stages.operators.tables.factors import (
    CONDITIONS,
    OPERATOR_CORE,
    OPERATOR_FACTORS,
    OPERATOR_PROGRAMMES,
)

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
SYSTEM = "operators"


@dataclass(frozen=True)
class Factored:
    """The first factors of one head."""

    head: str
    reads: Floats
    """(n_items, rank)"""
    sigma: Floats
    """(rank,), descending"""
    writes: Floats
    """(n_items, rank)"""

    @classmethod
    def of(cls, maps: Maps, layer: int, head: int, rank: int) -> "Factored":
        """Return at most as many as the head has dimensions."""
        u, sigma, v = factors(maps.reads[layer, head], maps.writes[layer, head])
        return cls(f"L{layer}H{head}", u[:, :rank], sigma[:rank], v[:, :rank])

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.sigma)

    @property
    def names(self) -> list[str]:
        """``f00`` and so on, by singular value."""
        return [f"f{number:02d}" for number in range(len(self))]

    def __call__(self, x: Floats) -> Floats:
        """Return what each factor reads, scaled: (rows, rank); distances are those of x A."""
        return np.asarray(x @ self.reads * self.sigma)


class Drops:
    """What is read off the features of a head, whole or without some of them."""

    def __init__(
        self, features: Floats, ends: Endpoints, donors: NDArray[np.str_], n_groups: int
    ) -> None:
        self.features, self.ends, self.donors = features, ends, donors
        self.names = sorted(np.unique(donors))
        self.folds = []
        for group in donor_groups(donors, n_groups):
            out = np.isin(donors, list(group))
            cells = {name: np.flatnonzero(donors == name) for name in sorted(group)}
            self.folds.append((cells, out, *ends.probes(features, ~out)))
        self.whole = self.fixed(np.zeros((features.shape[1], 0)))

    def fixed(self, without: Floats) -> Floats:
        """Return endpoints by donor with directions set to zero under the probes of the whole.

        `without`: orthonormal, (width, n). Result: (donors, endpoints).
        """
        features = self.features - (self.features @ without) @ without.T
        found = {}
        for cells, _, weights, offset in self.folds:
            for name, rows in cells.items():
                found[name] = self.ends.values(features[rows] @ weights + offset, rows)
        return np.stack([found[name] for name in self.names])

    def refitted(self, basis: Floats) -> Floats:
        """Return endpoints by donor of probes fitted on some directions, (width, n), alone."""
        features = self.features @ basis
        found = {}
        for cells, out, _, _ in self.folds:
            weights, offset = self.ends.probes(features, ~out)
            for name, rows in cells.items():
                found[name] = self.ends.values(features[rows] @ weights + offset, rows)
        return np.stack([found[name] for name in self.names])

    def of_basis(self, basis: Floats, condition: str) -> Floats:
        """Return the drop, summed over endpoints, without each vector of an orthonormal basis.

        Returns
        -------
        ndarray
            (donors, vectors); an endpoint that a donor does not have counts for nothing.
        """
        found = []
        for at in range(basis.shape[1]):
            if condition == "fixed":
                left = self.fixed(basis[:, [at]])
            else:
                left = self.refitted(np.delete(basis, at, axis=1))
            found.append(np.nansum(self.whole - left, axis=1))
        return np.stack(found, axis=1)


def top_share(drops: Floats, top: int) -> float:
    """Return the share of the largest absolute drops in the sum of all.

    >>> round(top_share(np.array([3.0, -1.0, 0.0, 0.0]), 1), 2)
    0.75
    """
    size = np.sort(np.abs(drops))[::-1]
    # Rounding makes more than all of all.
    return min(1.0, float(size[:top].sum() / size.sum())) if size.sum() > 0 else np.nan


def shares(
    drops: Floats,
    rotated: Floats | None,
    sigma: Floats,
    params: OperatorFactors,
    of: dict[str, object],
) -> Iterator[dict[str, object]]:
    """Yield the rows of one state and condition.

    Parameters
    ----------
    drops
        (donors, factors)
    rotated
        Mean drops in random bases, (rotations, factors); none: not made.
    """
    rng = stream(params.seed, "donors")
    weights = resampling.group_weights(len(drops), params.draws, rng)
    mean, drawn = drops.mean(axis=0), weights @ drops
    order = np.argsort(-np.abs(mean), kind="stable")
    for top in sorted({min(count, drops.shape[1] - 1) for count in (params.core, 10)}):
        share = top_share(mean, top)
        each = np.array([top_share(one, top) for one in drawn])
        low, high = resampling.percentile_interval(each, confidence=params.confidence)
        null = None if rotated is None else np.array([top_share(one, top) for one in rotated])
        yield of | {
            "top": top,
            "share": share,
            "low": low,
            "high": high,
            "rotated": np.nan if null is None else null.mean(),
            "rotated_low": np.nan if null is None else np.quantile(null, 0.025),
            "rotated_high": np.nan if null is None else np.quantile(null, 0.975),
            "p": np.nan if null is None else (1 + (null >= share).sum()) / (1 + len(null)),
            "sigma2_share": (sigma[order[:top]] ** 2).sum() / (sigma**2).sum(),
            "n_factors": drops.shape[1],
            "n_donors": len(drops),
        }


def rotations(width: int, count: int, seed: int) -> Iterator[Floats]:
    """Yield random orthonormal bases of a space, uniformly (Haar)."""
    for draw in range(count):
        gaussian = stream(seed, "rotation", draw).standard_normal((width, width))
        q, r = np.linalg.qr(gaussian)
        yield q * np.sign(np.diag(r))


def core(
    drops: Drops,
    order: NDArray[np.int64],
    names: Sequence[str],
    params: OperatorFactors,
    state: str,
) -> Iterator[dict[str, object]]:
    """Yield the rows of every subset of the first of `order`, kept alone."""
    rng = stream(params.seed, "donors")
    weights = resampling.group_weights(len(drops.names), params.draws, rng)
    everything = np.eye(len(names))
    for count in range(1, params.core + 1):
        for kept in itertools.combinations(sorted(order[: params.core]), count):
            values = drops.refitted(everything[:, list(kept)])
            for at, endpoint in enumerate(drops.ends.names):
                known = np.isfinite(values[:, at])
                if not known.any():
                    continue
                lost = np.where(known, drops.whole[:, at] - values[:, at], 0)
                drawn = weights @ lost / (weights @ known)
                low, high = resampling.percentile_interval(drawn, confidence=params.confidence)
                yield {
                    "state": state,
                    "kept": "+".join(names[number] for number in kept),
                    "n_kept": count,
                    "endpoint": endpoint,
                    "value": float(values[known, at].mean()),
                    "loss": float(lost.sum() / known.sum()),
                    "low": low,
                    "high": high,
                    "n_donors": int(known.sum()),
                }


def programmes(
    factored: Factored, sets: tuple[list[str], Mask], count: int, state: str
) -> pd.DataFrame:
    """Return for each factor and side the programme that its largest entries are most often of.

    Parameters
    ----------
    sets
        Names of programmes, and which items are in each: (n_sets, n_items). All items are the
        background.
    """
    labels, inside = sets
    there = inside.any(axis=1)
    n_items, count = inside.shape[1], min(count, inside.shape[1])
    if not there.any():
        return tables.empty(OPERATOR_PROGRAMMES)
    rows = [
        (factor, side, np.argsort(-np.abs(entries[:, at]), kind="stable")[:count])
        for side, entries in (("read", factored.reads), ("write", factored.writes))
        for at, factor in enumerate(factored.names)
    ]
    items, named = np.arange(n_items), np.array(labels)[there]
    chosen = np.stack([np.isin(items, top) for _, _, top in rows])
    found = nearest(chosen, inside[there].T)
    table = pd.DataFrame(
        {
            "state": state,
            "factor": [factor for factor, _, _ in rows],
            "side": [side for _, side, _ in rows],
            "programme": named[found.at],
            "n_top": count,
            "n_programme": found.size,
            "n_background": n_items,
            "overlap": found.overlap,
            "expected": count * found.size / n_items,
            "p": found.p,
            "q": found.q,
        }
    )
    return table[list(OPERATOR_PROGRAMMES.columns)]


def best_head(maps: Maps, prepared: Prepared, anchors: Inputs, dimensions: int) -> tuple[int, int]:
    """Return the head whose `ov_weight` leads anchors best onto the ruler, a donor left out."""
    panel = prepared.panel
    there = np.unique(panel.kind)
    places = rulers.coordinates(prepared.ruler.hops()[np.ix_(there, there)], dimensions)
    wanted = places[np.searchsorted(there, panel.kind)]
    found = []
    for head in candidates.single(maps, "", "ov_weight"):
        features = head.of(anchors)
        fit = Ridge.fit(features @ features.T, np.arange(len(panel)), panel.donor)
        found.append(fit.errors(wanted).min())
    return maps.heads[int(np.argmin(found))]


def as_effects(
    state: State, factored: Factored, drops: dict[str, Floats], baseline: Floats | None
) -> list[Effects]:
    """Return the effects of the factors of one head, by condition: (replicates, factors) each."""
    known = pd.DataFrame(
        {
            "factor": np.arange(len(factored)),
            "sigma2": factored.sigma**2,
            "head": factored.head,
        },
        index=pd.Index(factored.names, name="component"),
    )
    return [
        Effects(
            state=state,
            kind="factor",
            condition=condition,
            components=known,
            replicates=np.arange(len(values)),
            draws=values[np.newaxis],
            baseline=baseline,
        )
        for condition, values in drops.items()
    ]


def unlabelled(x: Floats, factored: Factored, blocks: int) -> dict[str, Floats]:
    """Return the share of the head's output that each factor is, by block of cells."""
    square = factored(x) ** 2
    parts = np.array_split(np.arange(len(x)), blocks)
    return {"fixed": np.stack([square[part].sum(axis=0) / square[part].sum() for part in parts])}


def _run(args: argparse.Namespace) -> None:
    settings: Settings = load(args.params)
    params: OperatorFactors = settings.operator_factors
    states = settings.cellmodel.checkpoints
    prepared = prepare(args, settings, read(args.maps / f"{states[-1]}.safetensors"))
    synonyms = vocabulary.read(args.checkpoints / states[-1]).synonyms
    near = known.read(args.known, settings.gene_sets, synonyms).near
    rows: dict[str, list[dict[str, object]]] = {"factors": [], "core": []}
    found = tables.empty(OPERATOR_PROGRAMMES)
    with atomic_folder(args.effects) as folder:
        for name in states:
            of = read(args.maps / f"{name}.safetensors")
            if prepared is None:
                parts = _without_labels(settings, args, name, of)
            else:
                parts, last = _of_state(prepared, of, settings, name, rows)
                if near and name == states[-1]:
                    sets = known.membership(near, of.names)
                    found = programmes(last, sets, params.top_genes, name)
            effects.write(folder / f"{name}.parquet", parts)
    for schema, made in ((OPERATOR_FACTORS, rows["factors"]), (OPERATOR_CORE, rows["core"])):
        table = pd.DataFrame(made, columns=list(schema.columns)) if made else tables.empty(schema)
        tables.write(table, schema, args.out / f"{schema.name}.csv")
    tables.write(found, OPERATOR_PROGRAMMES, args.out / f"{OPERATOR_PROGRAMMES.name}.csv")


def _of_state(
    prepared: Prepared,
    maps: Maps,
    settings: Settings,
    name: str,
    rows: dict[str, list[dict[str, object]]],
) -> tuple[list[Effects], Factored]:
    """Return the effects of one state, and add its rows to the tables."""
    params: OperatorFactors = settings.operator_factors
    inputs = Inputs(prepared.x)
    dimensions = settings.operator_gates.dimensions[-1]
    head = best_head(maps, prepared, prepared.panel.inputs(inputs), dimensions)
    factored = Factored.of(maps, *head, params.rank)
    pairs = settings.operator_readouts.pairs
    ends = Endpoints.of(prepared.cells, prepared.ruler.kinds, pairs)
    groups = settings.operator_readouts.donor_folds
    drops = Drops(factored(inputs.x), ends, prepared.cells.donor, groups)
    whole = np.eye(len(factored))
    by = {condition: drops.of_basis(whole, condition) for condition in CONDITIONS}
    is_last = name == settings.cellmodel.checkpoints[-1]
    for condition, values in by.items():
        rotated = None
        if is_last:
            bases = rotations(len(factored), params.rotations, params.seed)
            rotated = np.stack([drops.of_basis(one, condition).mean(axis=0) for one in bases])
        of: dict[str, object] = {"state": name, "head": factored.head, "condition": condition}
        rows["factors"] += shares(values, rotated, factored.sigma, params, of)
    if is_last:
        order = np.argsort(-np.abs(by["fixed"].mean(axis=0)), kind="stable")
        rows["core"] += core(drops, order, factored.names, params, name)
    position = settings.cellmodel.position(name)
    state = State(SYSTEM, name, position, "sum over endpoints", "sigma2")
    return as_effects(state, factored, by, np.nansum(drops.whole, axis=1)), factored


def _without_labels(
    settings: Settings, args: argparse.Namespace, name: str, maps: Maps
) -> list[Effects]:
    """Return effects on the head's own output: of the head that writes most."""
    params: OperatorFactors = settings.operator_factors
    x = unit(logs(args, settings, maps))
    every = [Factored.of(maps, *head, params.rank) for head in maps.heads]
    factored = max(every, key=lambda one: float((one.sigma**2).sum()))
    position = settings.cellmodel.position(name)
    state = State(SYSTEM, name, position, "share of the output", "sigma2")
    return as_effects(state, factored, unlabelled(x, factored, params.blocks), None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    add_arguments(parser)
    parser.add_argument("--effects", type=Path, required=True, help="folder of <state>.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
