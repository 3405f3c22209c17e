"""Name features by the genes, or the tokens, and by the cells that they fire most in.

An item's share in a feature is its mean code where that item is read; the top items are held
against what is known of them (sets of genes, or how tokens are written), and the top cells against
the labels of cells, by the hypergeometric distribution with all items (cells) that could have been
on top as background, adjusted after Benjamini and Hochberg over all features and sets of a family.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats

from stages.base import cli, tables
from stages.base.settings import Settings, load
from stages.features import autoencoder, subject
from stages.features.autoencoders import name_of, source_layer
from stages.features.settings import Annotate
from stages.features.subject import Subject
from stages.features.tables.annotate import ANNOTATED, ANNOTATION
from stages.features.tables.trace import TRACED
from stages.inputs import known, token_classes
from stages.inputs.encoders import encoded, vocabulary
from stages.inputs.known import Known
from stages.inputs.material import Cells
from stages.measurement.enrichment import nearest
from stages.measurement.streams import stream
from stages.models.devices import devices, matmul_precision
from stages.representations.streams import streams

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Row = dict[str, object]
Families = dict[str, tuple[list[str], Mask]]
"""Of each family the names of its sets, and what is in each: (n, n_sets)."""

PERMUTATIONS = 20
SMALLEST, LARGEST = 5, 500
"""Sets of fewer or more genes of the background are left out."""


def top(values: Floats, n: int) -> Mask:
    """Return where each row has its `n` largest values above 0: (n_groups, n)."""
    order = np.argsort(-values, axis=1, kind="stable")[:, :n]
    found = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(found, order, np.take_along_axis(values, order, axis=1) > 0, axis=1)
    return found


def sets_of(
    of: Known, names: Sequence[str], largest: int
) -> Iterator[tuple[str, tuple[list[str], Mask]]]:
    """Yield the families of sets: names of sets, and which of the background are in each.

    Parameters
    ----------
    names
        Of the background.
    largest
        Sets of more of it are left out.
    """
    for family, sets in of.families.items():
        labels, inside = known.membership(sets, names)
        sizes = inside.sum(axis=1)
        use = (sizes >= SMALLEST) & (sizes <= largest)
        if use.any():
            named = [label for label, at in zip(labels, use, strict=True) if at]
            yield family, (named, inside[use].T)


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


def _labels(of: Subject, folder: Path, n: int, params: Annotate) -> Families:
    """Return the labels of the cells as sets of them, if they have any."""
    if not isinstance(of.learnt, Cells):
        return {}
    cells = encoded.read(folder).cells
    if params.label not in cells:
        return {}
    labels = cells[params.label].astype(str).to_numpy()[list(of.learnt.rows[:n])]
    names, counts = np.unique(labels, return_counts=True)
    names = names[counts >= SMALLEST]
    return {params.label: (names.tolist(), labels[:, np.newaxis] == names)} if len(names) else {}


def _known(settings: Settings, of: Subject, folder: Path, items: NDArray[np.int64]) -> Families:
    """Return what is known of the items of the background, by family."""
    if settings.features.of == "model":
        classes = token_classes.read(of.checkpoint.parent, settings.model, items.tolist())
        return dict(sets_of(classes, [str(item) for item in items], len(items)))
    words = vocabulary.read(of.checkpoint)
    of_genes = known.read(folder, settings.gene_sets, words.synonyms)
    return dict(sets_of(of_genes, [words.names[item] for item in items], LARGEST))


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    params: Annotate = settings.annotate
    traced = tables.read(args.traced, TRACED)
    files = subject.files(args, devices(args.device)[0])
    of = files.subject()
    layer = source_layer(settings.autoencoders, of.architecture.n_layers)
    made = autoencoder.load(args.autoencoders / name_of(layer, 0)).to(of.device)
    features = traced["feature"].str.removeprefix("f").to_numpy(dtype=np.int64)
    with matmul_precision("float32"):
        by_item, counts, by_sequence = shares(of, made, layer, features, params.cells)
    background = np.flatnonzero(counts >= params.min_count)
    background = background[~np.isin(background, of.special)]
    chosen = top(by_item[:, background], params.top)
    found = [
        (name, chosen, sets) for name, sets in _known(settings, of, args.known, background).items()
    ]
    found += [
        (name, top(by_sequence, params.top), sets)
        for name, sets in _labels(of, args.sequences, by_sequence.shape[1], params).items()
    ]
    rows: list[Row] = []
    summary: list[Row] = []
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
    parser = subject.parser_of(__doc__)
    parser.add_argument("--known", type=Path, required=True, help="folder of what was planted")
    parser.add_argument("--traced", type=Path, required=True, help="table of traced features")
    parser.add_argument("--out", type=Path, required=True, help="folder of two tables")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
