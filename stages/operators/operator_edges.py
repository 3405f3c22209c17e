"""Ask what maps between genes know of regulation that expression does not show.

Targets of a factor are told from other genes of the factor's own programme: between programmes,
every score that knows of kinds of cells would do. Beside the maps stand correlation of expression,
similarity of gene embeddings, and the untrained model. A single head is chosen on all other
programmes. Edges and programmes are those that were planted; files of the same form beside other
cells are read alike.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, tables
from stages.base.settings import Settings, load
from stages.inputs import known
from stages.inputs.encoders import vocabulary
from stages.inputs.known import REPRESSES, Known
from stages.measurement import resampling
from stages.measurement.ranks import auroc
from stages.measurement.streams import stream
from stages.operators.maps import Kind, Maps
from stages.operators.panel import add_arguments, logs, maps_of, unit
from stages.operators.settings import OperatorEdges
from stages.operators.tables.edges import OPERATOR_EDGES

Floats = NDArray[np.float64]
FEWEST = 3
"""Targets, and other genes, that a factor needs."""


@dataclass(frozen=True)
class Programme:
    """Factors and genes of one programme, by their place among the items."""

    factors: NDArray[np.int64]
    genes: NDArray[np.int64]
    """Those that are no factors."""
    edges: NDArray[np.bool_]
    """Which genes each factor activates: (factors, genes)."""


def programmes(of: Known, names: Sequence[str]) -> list[Programme]:
    """Return the programmes that have factors with enough targets among the items, in their order.

    Where it is not known whether a factor activates or represses a gene, it counts as activated.
    """
    place = {name: at for at, name in enumerate(names)}
    there = of.edges[of.edges["sign"] != REPRESSES]
    pairs = set(zip(there["factor"], there["target"], strict=True))
    found = []
    for genes in of.near.values():
        inside = sorted(genes & set(place))
        factors, others = (
            [one for one in inside if (one in of.factors) == is_factor]
            for is_factor in (True, False)
        )
        matrix = np.array([[(one, other) in pairs for other in others] for one in factors])
        matrix = matrix.reshape(len(factors), len(others))
        enough = (matrix.sum(axis=1) >= FEWEST) & ((~matrix).sum(axis=1) >= FEWEST)
        if enough.any():
            found.append(
                Programme(
                    np.array([place[name] for name in factors])[enough],
                    np.array([place[name] for name in others]),
                    matrix[enough],
                )
            )
    return found


def told(scores: Floats, edges: NDArray[np.bool_]) -> float:
    """Return the mean over factors of the area under the curve; both (factors, genes)."""
    return float(np.mean([auroc(row, of) for row, of in zip(scores, edges, strict=True)]))


def of_head(
    maps: Maps, kind: Kind, layer: int, head: int, programme: Programme
) -> dict[str, Floats]:
    """Return the scores of a head by their way: (factors, genes) each."""
    i, j = programme.factors, programme.genes
    if kind == "attn_mean" and maps.attention is not None:
        whole = maps.attention[layer, head]
        there, back = whole[np.ix_(i, j)].astype(float), whole[np.ix_(j, i)].T.astype(float)
    else:
        reads, writes = maps.reads[layer, head], maps.writes[layer, head]
        there, back = reads[i] @ writes[j].T, (reads[j] @ writes[i].T).T
    return {"factor to target": there, "target to factor": back, "direction": there - back}


def of_heads(maps: Maps, kind: Kind, of: Sequence[Programme]) -> Iterator[tuple[str, str, Floats]]:
    """Yield name, way and value by programme, of the mean head and of the one chosen elsewhere."""
    each = [
        [of_head(maps, kind, layer, head, programme) for layer, head in maps.heads]
        for programme in of
    ]
    for way in each[0][0]:
        single = np.array(
            [
                [told(head[way], programme.edges) for head in heads]
                for heads, programme in zip(each, of, strict=True)
            ]
        )
        pooled = [
            told(np.mean([head[way] for head in heads], axis=0), programme.edges)
            for heads, programme in zip(each, of, strict=True)
        ]
        yield "mean of heads", way, np.array(pooled)
        others = (single.sum(axis=0) - single) / max(1, len(of) - 1)
        # A head may say the direction either way round.
        merit = np.abs(others - 0.5) if way == "direction" else others
        yield "best head", way, single[np.arange(len(of)), merit.argmax(axis=1)]


def edges_table(
    states: Mapping[str, Maps],
    expressed: Floats,
    of: Sequence[Programme],
    params: OperatorEdges,
) -> pd.DataFrame:
    """Return the table of all scores.

    Parameters
    ----------
    states
        Of the untrained state, if there is one, and of the last.
    expressed
        Expression of cells over the items: (n_cells, n_items).
    """
    weights = resampling.group_weights(len(of), params.draws, stream(params.seed, "programmes"))
    rows = []

    def add(source: str, name: str, state: str | None, way: str, values: Floats) -> None:
        low, high = resampling.percentile_interval(weights @ values, confidence=params.confidence)
        rows.append(
            {
                "source": source,
                "name": name,
                "state": state,
                "way": way,
                "value": float(values.mean()),
                "low": float(low),
                "high": float(high),
                "n_edges": int(sum(one.edges.sum() for one in of)),
                "n_programmes": len(of),
            }
        )

    def alike(vectors: Floats) -> Floats:
        """Tell targets by the similarity of items, (n_items, width)."""
        long = unit(vectors)
        return np.array([told(long[one.factors] @ long[one.genes].T, one.edges) for one in of])

    centred = (expressed - expressed.mean(axis=0)).T
    add("expression", "correlation", None, "both", alike(centred))
    for state, maps in states.items():
        embedding = alike(maps.embedding.astype(float))
        add("embedding", "gene embedding", state, "both", embedding)
        for kind in maps.kinds:
            for name, way, values in of_heads(maps, kind, of):
                add(kind, name, state, way, values)
    return pd.DataFrame(rows, columns=list(OPERATOR_EDGES.columns))


def _run(args: argparse.Namespace) -> None:
    settings: Settings = load(args.params)
    of = maps_of(args, settings)
    last, some = list(of.items())[-1]
    synonyms = vocabulary.read(args.checkpoints / last).synonyms
    found = programmes(known.read(args.known, settings.gene_sets, synonyms), some.names)
    table = tables.empty(OPERATOR_EDGES)
    if len(found) > 1:
        table = edges_table(of, logs(args, settings, some), found, settings.operator_edges)
    tables.write(table, OPERATOR_EDGES, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    add_arguments(parser)
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
