"""Keep the residual stream of a model while it reads cells or text: by position, item or cell.

Resumable: what is finished lies in the scratch folder, and stays there for the next run.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from stages.base import cli
from stages.base.errors import RepresentationError
from stages.base.files import atomic_folder
from stages.compute.run import is_spread, kept, where_it_runs
from stages.compute.shards import Arrays
from stages.models.architectures import architecture_of
from stages.models.architectures.base import Architecture
from stages.models.devices import devices, matmul_precision
from stages.models.load import fingerprint, load_model
from stages.models.text import MASK_SEED
from stages.representations import arrays, disk, gather
from stages.representations.arrays import DTYPES, EMBEDDING, EMBEDDING_NAME, KINDS, Kind
from stages.representations.sequences import MASK_BLOCK, Reading, Sequences, of_cells, of_tokens
from stages.representations.shards import Shards
from stages.representations.streams import Batch, streams, width_of

VERSION = 2
"""Raised when a change makes other numbers, so that finished shards are not mixed with new ones."""
SHARD_POSITIONS = 1 << 18
SHARD_BYTES = 1 << 28
"""What is lost at most when a run is killed, and what is held in memory: 128 cells of 2,048 genes,
and of their positions no more than 256 MiB."""
KEPT_STATES = 2
"""Sums of items grow: the last is what a run goes on from, the one before stands in if it is
damaged."""


@dataclass(frozen=True)
class Wanted:
    """What is to be kept of the residual stream."""

    kind: Kind
    layers: tuple[int, ...]
    """Ascending; -1: the embedding."""
    dtype: str
    parts: int = 1
    """Sequence i belongs to part i mod `parts`; items have a mean in each part where they occur."""


@dataclass(frozen=True)
class Source:
    """A model that reads sequences."""

    architecture: Architecture
    sequences: Sequences
    device: torch.device
    weights: str
    """sha256 over the weights."""
    positions: int | None = None
    """In one forward pass; none: fitted to the device."""

    @property
    def width(self) -> int:
        """Return how wide the residual stream is."""
        return width_of(self.architecture)

    def batches(
        self, part: slice, layers: Sequence[int], told: Callable[[int], Any]
    ) -> Iterator[Batch]:
        """Run some sequences, and tell how many positions are done."""
        text = self.sequences.text(part)
        lengths = self.sequences.lengths[part]
        for batch in streams(
            self.architecture, text, layers, device=self.device, positions=self.positions
        ):
            yield batch
            told(int(lengths[batch.sequences.numpy()].sum()))


@dataclass(frozen=True)
class Place:
    """The files that a source is opened from, in any process."""

    checkpoint: Path
    read: Path
    """Encoded cells, or the text of a language model."""
    of_cells: bool
    reading: Reading
    limit: int | None
    skip: int
    positions: int | None

    def opened(self, device: str) -> Source:
        """Return the source on a device."""
        architecture = architecture_of(load_model(self.checkpoint, device=device))
        read = of_cells if self.of_cells else of_tokens
        sequences = read(
            self.read,
            self.checkpoint,
            architecture,
            reading=self.reading,
            limit=self.limit,
            skip=self.skip,
        )
        weights = fingerprint(self.checkpoint)
        return Source(architecture, sequences, torch.device(device), weights, self.positions)


_opened = partial(kept, only_last=True)(Place.opened)


def _elsewhere(place: Place, wanted: Wanted, part: slice, *, device: str) -> Arrays:
    with matmul_precision("float32"):
        return {"states": _made(_opened(place, device), wanted, part, lambda _: None)}


def wanted_layers(text: str, n_layers: int) -> tuple[int, ...]:
    """Return the layers that ``all`` or a list as ``embedding,0,3`` names, ascending.

    >>> wanted_layers("all", 3)
    (-1, 0, 1, 2)
    >>> wanted_layers("2,embedding", 3)
    (-1, 2)

    Raises
    ------
    RepresentationError
        A layer does not exist or is named twice.
    """
    if text == "all":
        return (EMBEDDING, *range(n_layers))
    known = {EMBEDDING_NAME: EMBEDDING} | {str(layer): layer for layer in range(n_layers)}
    names = [name.strip() for name in text.split(",")]
    if bad := [name for name in names if name not in known or names.count(name) > 1]:
        msg = (
            f"--layers names {bad[0]!r}, which is no layer of this model or comes twice. It has "
            f"embedding and the blocks 0 to {n_layers - 1}; write all, or some, as embedding,0,1."
        )
        raise RepresentationError(msg)
    return tuple(sorted(known[name] for name in names))


def plan(lengths: npt.NDArray[np.int64], room: int) -> list[slice]:
    """Cut sequences into shards of at most `room` positions, or one sequence.

    None reaches over a block of sequences whose masks are drawn together.

    >>> plan(np.array([3, 3, 3, 9, 1]), 6)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None), slice(4, 5, None)]
    """
    cuts, held = [0], 0
    for number, length in enumerate(lengths.tolist()):
        if number > cuts[-1] and (held + length > room or number % MASK_BLOCK == 0):
            cuts.append(number)
            held = 0
        held += length
    return [slice(start, stop) for start, stop in zip(cuts, [*cuts[1:], len(lengths)], strict=True)]


def harvest(
    source: Source,
    wanted: Wanted,
    *,
    scratch: Path,
    out: Path,
    place: Place | None = None,
    on: Sequence[str] = (),
) -> None:
    """Run all sequences through the model and write what is kept, but for what was finished before.

    The sizes are said before anything is run.

    Parameters
    ----------
    source, wanted
        What is run, and what is kept of it.
    scratch
        Folder of finished shards.
    out
        Folder of arrays (:mod:`stages.representations.arrays`); replaced.
    place, on
        Where other processes open the source, and the devices, if they are to do the work. Means of
        items are sums in one order, and are made here.

    Raises
    ------
    RepresentationError
        The disk is too small, a state does not fit the number format, or a cell has nothing to
        keep.
    """
    sequences, n_layers = source.sequences, len(wanted.layers)
    row_bytes = source.width * np.dtype(wanted.dtype).itemsize
    room = SHARD_POSITIONS
    if wanted.kind == "positions":
        room = min(room, SHARD_BYTES // (n_layers * row_bytes))
    parts = plan(sequences.lengths, room)
    kept, items = _counted(sequences, parts)
    _check_cells(wanted.kind, sequences, kept)
    shards = Shards(scratch, _decides(source, wanted))
    n_rows = {"positions": int(kept.sum()), "item_mean": len(items) * wanted.parts}.get(
        wanted.kind, len(kept)
    )
    with shards.alone():
        left = [part for part in parts if not shards.store.has(shards.shard(part))]
        if wanted.kind == "item_mean":
            there = len(parts) - len(left)
            finished = (KEPT_STATES + 1 - there) * n_layers * n_rows * source.width * 8
        else:
            rows = kept if wanted.kind == "positions" else np.ones_like(kept)
            finished = n_layers * row_bytes * sum(int(rows[part].sum()) for part in left)
        columns = sum(np.dtype(kept_as).itemsize for kept_as in arrays.ROWS[wanted.kind].values())
        whole = n_rows * (n_layers * row_bytes + columns)
        cli.log.info(
            "%s of %s sequences: %s rows of %d numbers (%s), %s a layer, %d layers, %s in all; and "
            "up to %s more of finished work in %s",
            wanted.kind,
            f"{len(kept):,}",
            f"{n_rows:,}",
            source.width,
            wanted.dtype,
            disk.gigabytes(n_rows * row_bytes),
            n_layers,
            disk.gigabytes(whole),
            disk.gigabytes(finished),
            scratch,
        )
        disk.check({out: whole, scratch: finished})
        if place is not None and wanted.kind != "item_mean" and is_spread(on):
            missing = [shards.shard(part) for part in parts if shards.read(part) is None]
            label = f"{place.checkpoint.name} on {', '.join(on)}"
            shards.store.fill(missing, partial(_elsewhere, place, wanted), on=on, label=label)
        with (
            matmul_precision("float32"),
            atomic_folder(out) as fresh,
            tqdm(total=int(sequences.lengths.sum()), unit=" positions", unit_scale=True) as bar,
        ):
            if wanted.kind == "item_mean":
                _items(source, wanted, shards, parts, items, fresh, bar.update)
            else:
                _rows(source, wanted, shards, parts, n_rows, fresh, bar.update)
            statement = _statement(source, wanted)
            arrays.describe(fresh, wanted.kind, wanted.layers, statement, sequences.names)


def _rows(
    source: Source,
    wanted: Wanted,
    shards: Shards,
    parts: list[slice],
    n_rows: int,
    folder: Path,
    told: Callable[[int], Any],
) -> None:
    """Fill the arrays of positions or cells, shard after shard."""
    layers, sequences = wanted.layers, source.sequences
    states, rows = arrays.create(folder, wanted.kind, layers, n_rows, source.width, wanted.dtype)
    done = 0
    for part in parts:
        finished = shards.read(part)
        if finished is None:
            finished = {"states": _made(source, wanted, part, told)}
            shards.write(part, finished)
        else:
            told(int(sequences.lengths[part].sum()))
        found = finished["states"]
        at = slice(done, done + found.shape[1])
        for state, row in zip(states.values(), found, strict=True):
            state[at] = row
        for name, column in _columns(sequences, wanted.kind, part).items():
            rows[name][at] = column
        done = at.stop
        # Or the next shard is made while this one is still held.
        del finished, found, row


def _made(source: Source, wanted: Wanted, part: slice, told: Callable[[int], Any]) -> Any:
    """Return what is kept of some sequences: (layers, rows, width)."""
    batches = source.batches(part, wanted.layers, told)
    kept = source.sequences.kept(part)
    if wanted.kind == "positions":
        found = gather.positions(batches, kept, wanted.layers, source.width, wanted.dtype)
    elif wanted.kind == "cls":
        found = gather.firsts(batches, len(kept), wanted.layers, source.width)
    else:
        found = gather.means(batches, kept, wanted.layers, source.width)
    return _stored(found, wanted)


def _columns(sequences: Sequences, kind: Kind, part: slice) -> Arrays:
    """Return what the rows of some sequences are."""
    if kind != "positions":
        return {"cell": np.arange(part.start, part.stop)}
    kept = sequences.kept(part)
    cell, position = kept.nonzero()
    return {
        "cell": cell + part.start,
        "position": position,
        "token": sequences.ids[part][kept],
        "masked": sequences.masked(part)[kept],
    }


def _items(
    source: Source,
    wanted: Wanted,
    shards: Shards,
    parts: list[slice],
    items: npt.NDArray[np.int64],
    folder: Path,
    told: Callable[[int], Any],
) -> None:
    """Sum over all shards by item, going on from the last sums that are whole, and write means."""
    sequences = source.sequences
    number = np.full(len(sequences.ordinary), -1)
    number[items] = np.arange(len(items))
    of_part = np.arange(len(sequences))[:, np.newaxis] % wanted.parts * len(items)
    n_sums = wanted.parts * len(items)
    sums = np.zeros((len(wanted.layers), n_sums, source.width))
    counts = np.zeros(n_sums, dtype=np.int64)
    first = 0
    for index in range(len(parts) - 1, -1, -1):
        finished = shards.read(parts[index])
        if finished is not None:
            sums, counts, first = finished["sums"], finished["counts"], index + 1
            told(int(sequences.lengths[: parts[index].stop].sum()))
            break
    for index, part in enumerate(parts[first:], start=first):
        # Where a gene is hidden, the stream is that of the mask, not of the gene.
        visible = sequences.kept(part) & ~sequences.masked(part)
        batches = source.batches(part, wanted.layers, told)
        gather.add_items(
            batches, visible, number[sequences.ids[part]] + of_part[part], sums, counts
        )
        shards.write(part, {"sums": sums, "counts": counts})
        if index >= KEPT_STATES:
            shards.forget(parts[index - KEPT_STATES])
    seen = counts > 0
    states, rows = arrays.create(
        folder, wanted.kind, wanted.layers, int(seen.sum()), source.width, wanted.dtype
    )
    for state, total in zip(states.values(), sums, strict=True):
        state[:] = _stored(total[seen] / counts[seen, None], wanted)
    in_part, item = np.divmod(seen.nonzero()[0], len(items))
    rows["part"][:], rows["token"][:], rows["count"][:] = in_part, items[item], counts[seen]


def _counted(
    sequences: Sequences, parts: list[slice]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return how many positions of each sequence are kept, and which ids occur there."""
    seen = np.zeros(len(sequences.ordinary), dtype=np.bool_)
    kept = np.empty(len(sequences), dtype=np.int64)
    for part in parts:
        inside = sequences.kept(part)
        kept[part] = inside.sum(axis=1)
        seen[sequences.ids[part][inside]] = True
    return kept, seen.nonzero()[0]


def _check_cells(kind: Kind, sequences: Sequences, kept: npt.NDArray[np.int64]) -> None:
    if not kept.all():
        row = int((kept == 0).nonzero()[0][0])
        msg = (
            f"sequence {row} has no position that is kept: it is empty, all special tokens, or "
            f"not longer than --skip {sequences.skip}. Leave it out, or skip less."
        )
        raise RepresentationError(msg)
    if kind == "cls":
        first = np.asarray(sequences.ids[:, 0])
        if sequences.cls is None or not (first == sequences.cls).all():
            msg = (
                "the sequences do not begin with <cls>: the model has none (Geneformer V1, language"
                " models), or they were encoded without it. Take --kind cell_mean."
            )
            raise RepresentationError(msg)


def _stored(states: npt.NDArray[Any], wanted: Wanted) -> npt.NDArray[Any]:
    """Return states in the number format in which they are kept, none of them nan or infinite."""
    with np.errstate(over="ignore"):
        stored = states.astype(wanted.dtype, copy=False)
    if not np.isfinite(stored).all():
        msg = (
            f"some states are nan, infinite or too large for {wanted.dtype}, which ends at "
            f"{np.finfo(wanted.dtype).max:.3g}. Take --dtype float32; if it was that, the weights "
            "are broken."
        )
        raise RepresentationError(msg)
    return stored


def _decides(source: Source, wanted: Wanted) -> dict[str, Any]:
    sequences = source.sequences
    return {
        "version": VERSION,
        "torch": str(torch.__version__),
        "device": source.device.type,
        "weights": source.weights,
        "text": sequences.sha256,
        "n_sequences": len(sequences),
        "inputs": sequences.reading,
        "mask_seed": MASK_SEED,
        "skip": sequences.skip,
        "kind": wanted.kind,
        "layers": wanted.layers,
        "dtype": wanted.dtype,
        "parts": wanted.parts,
    }


def _statement(source: Source, wanted: Wanted) -> dict[str, Any]:
    sequences = source.sequences
    return {
        "model_sha256": source.weights,
        "text_sha256": sequences.sha256,
        "n_sequences": len(sequences),
        "inputs": sequences.reading,
        "skip": sequences.skip,
        "parts": wanted.parts,
        "n_items": int(sequences.ordinary.sum()),
        "n_blocks": source.architecture.n_layers,
        "width": source.width,
        "dtype": wanted.dtype,
        "device": source.device.type,
        "torch": str(torch.__version__),
        "encoding": sequences.statement,
    }


def _run(args: argparse.Namespace) -> None:
    if (args.cells is None) == (args.tokens is None):
        msg = "one of --cells (encoded cells) and --tokens (of a language model) is needed."
        raise RepresentationError(msg)
    on = where_it_runs(devices, args.device)
    place = Place(
        args.checkpoint,
        args.cells or args.tokens,
        args.cells is not None,
        args.inputs,
        args.limit,
        args.skip,
        args.batch,
    )
    source = place.opened(on[0])
    layers = wanted_layers(args.layers, source.architecture.n_layers)
    if args.parts < 1 or (args.parts > 1 and args.kind != "item_mean"):
        msg = f"--parts {args.parts} is for --kind item_mean, 1 or more. Leave it out."
        raise RepresentationError(msg)
    wanted = Wanted(args.kind, layers, args.dtype, args.parts)
    harvest(source, wanted, scratch=args.scratch, out=args.out, place=place, on=on)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of the model")
    parser.add_argument("--cells", type=Path, help="folder of encoded cells")
    parser.add_argument("--tokens", type=Path, help="text of a language model (.npy)")
    parser.add_argument("--layers", default="all", help="all, or as embedding,0,3")
    parser.add_argument("--kind", choices=KINDS, required=True, help="what a row is")
    parser.add_argument(
        "--inputs",
        choices=get_args(Reading),
        default="whole",
        help="whether a share is hidden, as when the model is measured (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of arrays")
    parser.add_argument("--scratch", type=Path, required=True, help="folder of finished shards")
    parser.add_argument("--limit", type=int, help="only so many cells, from the first on")
    parser.add_argument(
        "--skip",
        type=int,
        default=0,
        help="positions at the start that are left out; 1 keeps the attention sink of language "
        "models from owning the first direction",
    )
    parser.add_argument(
        "--parts",
        type=int,
        default=1,
        help="of item_mean: parts that the sequences are dealt into, with means of their own",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the arrays")
    parser.add_argument("--batch", type=int, help="positions in one pass (default: what fits)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:0, cuda:0,cuda:1")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
