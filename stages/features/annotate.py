"""Name features by the genes, and the cells, that they fire most in.

A gene's share in a feature is its mean code where that gene is read; the top genes are held against
sets of genes, and the top cells against the labels of cells, by the hypergeometric distribution
with all genes (cells) that could have been on top as background, adjusted after Benjamini and
Hochberg over all features and sets of a collection. Sets of the demo are those that were planted.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats

from stages.base import cli, tables
from stages.base.errors import FeatureError
from stages.base.settings import load
from stages.features import autoencoder, subject
from stages.features.autoencoders import name_of, source_layer
from stages.features.settings import Annotate
from stages.features.subject import Subject
from stages.features.tables.annotate import ANNOTATED, ANNOTATION
from stages.features.tables.trace import TRACED
from stages.inputs import gene_sets
from stages.inputs.encoders import encoded, vocabulary
from stages.inputs.material import Cells
from stages.inputs.settings import GeneSets
from stages.measurement.enrichment import nearest
from stages.measurement.streams import stream
from stages.models.devices import devices, matmul_precision
from stages.representations.streams import streams

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Row = dict[str, object]

PERMUTATIONS = 20
SET_SIZES = (5, 500)
"""Sets of fewer or more genes of the background are left out."""


def top(values: Floats, n: int) -> Mask:
    """Return where each row has its `n` largest values above 0: (n_groups, n)."""
    order = np.argsort(-values, axis=1, kind="stable")[:, :n]
    found = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(found, order, np.take_along_axis(values, order, axis=1) > 0, axis=1)
    return found


def collections(
    params: Annotate,
    files: Mapping[str, GeneSets],
    names: Sequence[str],
    synonyms: Mapping[str, str] | None = None,
) -> dict[str, tuple[list[str], Mask]]:
    """Return the collections of sets of genes: names of sets, and which genes are in each.

    Parameters
    ----------
    names
        Of the genes of the background.
    synonyms
        Other names of genes, in capitals, to those.

    Raises
    ------
    FeatureError
        A file is missing or has not what is asked for.
    """
    at = {name: i for i, name in enumerate(names)}
    members: dict[str, dict[str, list[str]]] = {}
    for path in params.tables:
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
            for column in params.columns:
                by = table.groupby(column)["gene"].apply(list)
                members[column] = {name: genes for name, genes in by.items() if name != "-1"}
        except (OSError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            msg = (
                f"{path} is no table of genes with the columns gene, {', '.join(params.columns)} "
                f"({reason}). Correct annotate.tables."
            )
            raise FeatureError(msg) from None
    for name, of in files.items():
        read = gene_sets.read(of)
        cli.log.info("%s: %s", of.path, read.said)
        members[name] = {
            label: [(synonyms or {}).get(gene.upper(), gene) for gene in sorted(genes)]
            for label, genes in (read.sets or {}).items()
        }
    found = {}
    for collection, sets in members.items():
        kept: dict[str, list[int]] = {}
        for name, genes in sets.items():
            inside = sorted({at[gene] for gene in genes if gene in at})
            if SET_SIZES[0] <= len(inside) <= SET_SIZES[1]:
                kept[name] = inside
        if kept:
            mask = np.zeros((len(names), len(kept)), dtype=bool)
            for i, inside in enumerate(kept.values()):
                mask[inside, i] = True
            found[collection] = list(kept), mask
    return found


def shares(
    of: Subject, made: autoencoder.Autoencoder, layer: int, features: NDArray[np.int64], n: int
) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Return mean codes by what is read, how often that is, and mean codes by sequence.

    Returns
    -------
    by_item, counts, by_sequence
        (n_features, n_ids), (n_ids,), (n_features, n_sequences)
    """
    learnt = of.sequences(of.learnt, np.arange(min(n, len(of.learnt))))
    n_ids = of.architecture.vocab_size
    by_item = torch.zeros(n_ids, len(features), dtype=torch.float64)
    by_sequence = torch.zeros(len(learnt), len(features), dtype=torch.float64)
    counts = torch.zeros(n_ids, dtype=torch.long)
    which = torch.from_numpy(features)
    with torch.inference_mode():
        for batch in streams(of.architecture, learnt.text, (layer,), device=of.device):
            seq = batch.states[layer].shape[1]
            kept = learnt.kept[batch.sequences, :seq]
            ids = learnt.ids[batch.sequences, :seq]
            codes = made.encode(made.centred(batch.states[layer], ids.to(of.device)))
            own = codes[..., which.to(of.device)].double().cpu() * kept[..., None]
            by_sequence[batch.sequences] = own.sum(dim=1) / kept.sum(dim=1, keepdim=True)
            by_item.index_add_(0, ids[kept], own[kept])
            counts += torch.bincount(ids[kept], minlength=n_ids)
    by_item /= counts.clamp(min=1)[:, None]
    return by_item.T.numpy(), counts.numpy(), by_sequence.T.numpy()


def rows_of(
    collection: str,
    chosen: Mask,
    sets: tuple[list[str], Mask],
    traced: pd.DataFrame,
    params: Annotate,
) -> tuple[list[Row], Row]:
    """Return rows of ``ANNOTATION`` and the row of ``ANNOTATED`` of a collection.

    Parameters
    ----------
    chosen
        What is on top of each feature: (n_features, n_background).
    sets
        Their names, and which of the background are in each.
    """
    names, inside = sets
    found = nearest(chosen, inside)
    named = found.q < params.max_q
    rows: list[Row] = [
        {
            "feature": feature,
            "collection": collection,
            "set": names[found.at[i]],
            "overlap": int(found.overlap[i]),
            "set_size": int(found.size[i]),
            "p": found.p[i],
            "q": found.q[i],
        }
        for i, feature in enumerate(traced["feature"])
    ]
    rng = stream(params.seed, "permuted", collection)
    permuted = [
        (nearest(chosen, inside[rng.permutation(len(inside))]).q < params.max_q).sum()
        for _ in range(PERMUTATIONS)
    ]
    order = traced["edges"].rank(method="first", ascending=False).to_numpy()
    hub = order <= min(params.hubs, len(traced) // 2)
    counts = [[(named & hub).sum(), (~named & hub).sum()]]
    counts += [[(named & ~hub).sum(), (~named & ~hub).sum()]]
    ratio, fisher = stats.fisher_exact(np.array(counts))
    return rows, {
        "collection": collection,
        "n_sets": len(names),
        "n_background": len(inside),
        "n_features": len(named),
        "annotated": int(named.sum()),
        "permuted": float(np.mean(permuted)),
        "hubs": int(hub.sum()),
        "hubs_annotated": int((named & hub).sum()),
        "odds_ratio": float(ratio) if np.isfinite(ratio) else np.nan,
        "p": float(fisher),
    }


def _labels(
    of: Subject, folder: Path, n: int, params: Annotate
) -> Mapping[str, tuple[list[str], Mask]]:
    """Return the labels of the cells as sets of them, if they have any."""
    cells = encoded.read(folder).cells
    if params.label not in cells or not isinstance(of.learnt, Cells):
        return {}
    labels = cells[params.label].astype(str).to_numpy()[list(of.learnt.rows[:n])]
    names, counts = np.unique(labels, return_counts=True)
    names = names[counts >= SET_SIZES[0]]
    return {params.label: (names.tolist(), labels[:, np.newaxis] == names)} if len(names) else {}


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    params: Annotate = settings.annotate
    rows: list[Row] = []
    summary: list[Row] = []
    if settings.features.of == "cellmodel":
        traced = tables.read(args.traced, TRACED)
        device = torch.device(devices(args.device)[0])
        of = subject.of_settings(settings, args.checkpoints, args.sequences, device)
        layer = source_layer(settings.autoencoders, of.architecture.n_layers)
        made = autoencoder.load(args.autoencoders / name_of(layer, 0)).to(device)
        features = traced["feature"].str.removeprefix("f").to_numpy(dtype=np.int64)
        with matmul_precision("float32"):
            by_item, counts, by_cell = shares(of, made, layer, features, params.cells)
        known = vocabulary.read(of.checkpoint)
        background = np.flatnonzero(counts >= params.min_count)
        background = background[~np.isin(background, of.special)]
        chosen = top(by_item[:, background], params.top)
        names = [known.names[i] for i in background]
        of_genes = collections(params, settings.gene_sets, names, known.synonyms)
        found = [(name, chosen, sets) for name, sets in of_genes.items()]
        n = by_cell.shape[1]
        found += [
            (name, top(by_cell, params.top), sets)
            for name, sets in _labels(of, args.sequences, n, params).items()
        ]
        for name, on_top, sets in found:
            more, one = rows_of(name, on_top, sets, traced, params)
            rows += more
            summary.append(one)
    for part, schema, name in (
        (rows, ANNOTATION, "annotation.csv"),
        (summary, ANNOTATED, "annotated.csv"),
    ):
        table = pd.DataFrame(part, columns=list(schema.columns)) if part else tables.empty(schema)
        tables.write(table, schema, args.out / name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of <state>/")
    parser.add_argument(
        "--sequences", type=Path, required=True, help="folder of encoded cells, or of tokens"
    )
    parser.add_argument("--autoencoders", type=Path, required=True, help="folder of autoencoders")
    parser.add_argument("--traced", type=Path, required=True, help="table of traced features")
    parser.add_argument("--out", type=Path, required=True, help="folder of two tables")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:0")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
