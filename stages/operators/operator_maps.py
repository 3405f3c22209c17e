"""Take the heads of a model out as maps between genes (token types), in both readings.

Of every state what its weights say; of the first and the last the averaged attention too, whose
pairs of items are many. The reference is of cells that the model learnt from, where some are held
out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.base import cli
from stages.base.files import atomic_folder
from stages.base.settings import load
from stages.inputs.encoders import encoded, vocabulary
from stages.inputs.encoders.measured import held_out
from stages.inputs.encoders.vocabulary import Vocabulary
from stages.inputs.settings import CellInput
from stages.measurement.streams import stream
from stages.models.architectures import architecture_of
from stages.models.architectures.base import Architecture
from stages.models.attention import attended_by
from stages.models.devices import devices, matmul_precision
from stages.models.load import load_model
from stages.models.text import Text, read_tokens
from stages.operators import maps
from stages.operators.maps import Maps
from stages.operators.panel import RESIDUAL_FILE, judged
from stages.operators.settings import OperatorMaps
from stages.representations.arrays import EMBEDDING
from stages.representations.disk import gigabytes
from stages.representations.probes import means
from stages.representations.sequences import ordinary, whole_cells
from stages.representations.streams import streams, width_of

STATEMENT = {
    "attn_mean": "attention of the row's item to the column's, mean over the reference",
    "ov_weight": "reads @ writes.T; norm before the values folded in, biases and means taken out",
}


def reference(cells: encoded.Encoded, asked: CellInput, params: OperatorMaps) -> NDArray[np.int64]:
    """Return the cells that attention is averaged over, ascending."""
    allowed = np.ones(len(cells), dtype=bool)
    if asked.held_out:
        allowed = ~held_out(cells.cells, asked)
    drawn = stream(params.seed, "reference").permutation(np.flatnonzero(allowed))
    return np.sort(drawn[: params.sequences])


@matmul_precision("float32")
def export(
    architecture: Architecture,
    text: Text,
    inside: NDArray[np.bool_],
    names: Sequence[str] | None,
    *,
    most: int,
    device: str,
    attention: bool,
) -> Maps:
    """Return the heads of a model as maps between items, averaged over a reference.

    One pass over the text, whatever its length; memory is that of the maps.

    Parameters
    ----------
    text
        The reference, with nothing hidden.
    inside
        Which positions may hold an item, (sequences, seq).
    names
        What ids stand for; none: ids are their names.
    most
        Items at most.
    attention
        Whether ``attn_mean`` is made; else only what the weights say.
    """
    items, seen = maps.chosen_items(text.inputs.numpy().astype(np.int32), inside, most)
    on = torch.device(device)
    n, n_layers, n_heads = len(items), architecture.n_layers, architecture.n_heads
    place = np.full(architecture.vocab_size, -1, dtype=np.int64)
    place[items] = np.arange(n)
    number = torch.from_numpy(np.where(inside, place[text.inputs.numpy()], -1))
    layers = list(range(EMBEDDING, n_layers - 1)) if attention else [EMBEDDING]
    sums = torch.zeros(n_layers if attention else 0, n_heads, n * n)
    met = torch.zeros(n * n)
    total = torch.zeros(n, width_of(architecture), dtype=torch.float64)
    times = torch.zeros(n, dtype=torch.float64)
    for batch in streams(architecture, text, layers, device=on):
        states = {layer: state.clone() for layer, state in batch.states.items()}
        at = number[batch.sequences, : states[EMBEDDING].shape[1]]
        kept = at >= 0
        total.index_add_(0, at[kept], states[EMBEDDING][kept.to(on)].double().cpu())
        times.index_add_(0, at[kept], torch.ones(int(kept.sum()), dtype=torch.float64))
        if not attention:
            continue
        attended = None if text.attended is None else text.attended[batch.sequences, : at.shape[1]]
        attended = None if attended is None else attended.to(on)
        pairs = [_pairs(row, n) for row in at]
        for each in pairs:
            met.index_add_(0, each, torch.ones(len(each)))
        for layer in range(n_layers):
            block = architecture.blocks[layer]
            weights = attended_by(architecture, block, states[layer - 1], attended).weights.cpu()
            for row, each, mask in zip(weights, pairs, kept, strict=True):
                sums[layer].index_add_(1, each, row[:, mask][:, :, mask].flatten(1))
    mean = total / times.clamp(min=1)[:, None]
    reads, writes = _ov(architecture, mean.float().to(on))
    centred = mean - mean.mean(dim=0)
    return Maps(
        items=items,
        names=[str(item) if names is None else names[item] for item in items],
        seen=seen,
        embedding=centred.float().numpy(),
        reads=reads.numpy(),
        writes=writes.numpy(),
        attention=(sums / met.clamp(min=1)).view(n_layers, n_heads, n, n).half().numpy()
        if attention
        else None,
    )


def _pairs(row: Tensor, n: int) -> Tensor:
    """Return the flat index of every pair of the items of a sequence."""
    items = row[row >= 0]
    return (items[:, None] * n + items[None, :]).flatten()


def _ov(architecture: Architecture, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return what each head reads of an item, and the items along what it writes."""
    reads, writes = [], []
    centred = mean - mean.mean(dim=0)
    for block in architecture.blocks:
        values = attended_by(architecture, block, mean[:, None]).values[:, :, 0]
        reads.append((values - values.mean(dim=0)).transpose(0, 1))
        weight, _ = architecture.projection(block)
        by_head = weight.detach().reshape(len(weight), architecture.n_heads, -1)
        writes.append(torch.einsum("nw,whd->hnd", centred, by_head.to(centred.dtype)))
    return torch.stack(reads).cpu().contiguous(), torch.stack(writes).cpu().contiguous()


def of_cells(
    cells: encoded.Encoded, rows: NDArray[np.int64], known: Vocabulary, architecture: Architecture
) -> tuple[Text, NDArray[np.bool_]]:
    """Return some cells as a model reads them, and which positions hold a gene."""
    ids = np.asarray(cells.ids[rows])
    lengths = cells.cells["length"].to_numpy(dtype=np.int64)[rows]
    values = None if cells.values is None else np.asarray(cells.values[rows])
    inside = (np.arange(ids.shape[1]) < lengths[:, np.newaxis]) & ordinary(known)[ids]
    return whole_cells(ids, lengths, values, architecture), inside


def of_tokens(path: Path, count: int) -> tuple[Text, NDArray[np.bool_]]:
    """Return windows of text, and which positions count: not the first, where attention sinks."""
    tokens = read_tokens(path, "reference")[:count]
    inside = np.ones(tuple(tokens.shape), dtype=bool)
    inside[:, 0] = False
    return Text(tokens, tokens), inside


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    params: OperatorMaps = settings.operator_maps
    on = devices(args.device)[0]
    states = settings.model.checkpoints if args.tokens else settings.cellmodel.checkpoints
    with atomic_folder(args.out) as folder:
        for state in states:
            checkpoint = args.checkpoints / state
            architecture = architecture_of(load_model(checkpoint, device=on))
            names = None
            if args.tokens is not None:
                text, inside = of_tokens(args.tokens, params.sequences)
            else:
                cells, known = encoded.read(args.cells), vocabulary.read(checkpoint)
                rows = reference(cells, settings.cellmodel.cells, params)
                text, inside = of_cells(cells, rows, known, architecture)
                names = known.names
            found = export(
                architecture,
                text,
                inside,
                names,
                most=params.items,
                device=on,
                attention=state in {states[0], states[-1]},
            )
            path = folder / f"{state}.safetensors"
            maps.write(path, found, STATEMENT | {"state": state})
            size = gigabytes(path.stat().st_size)
            cli.log.info(
                "%s: %d items, %d heads, %s", state, len(found.items), len(found.heads), size
            )
        if args.cells is not None:
            _residual(args, states[-1], params, folder, on)


def _residual(
    args: argparse.Namespace, state: str, params: OperatorMaps, folder: Path, on: str
) -> None:
    """Keep the stream behind the last block, of the cells that maps are judged on."""
    cells = encoded.read(args.cells)
    rows = judged(len(cells), params)
    some = encoded.Encoded(
        cells.ids[rows],
        cells.cells.iloc[rows].reset_index(drop=True),
        None if cells.values is None else cells.values[rows],
    )
    (last,) = means(some, args.checkpoints / state, on, last=True).values()
    np.save(folder / RESIDUAL_FILE, last.astype(np.float32))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of <state>/")
    read = parser.add_mutually_exclusive_group(required=True)
    read.add_argument("--cells", type=Path, help="folder of encoded cells")
    read.add_argument("--tokens", type=Path, help="tokens of a language model, .npy")
    parser.add_argument("--out", type=Path, required=True, help="folder of <state>.safetensors")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:0")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
