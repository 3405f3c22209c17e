"""Give the cells of an h5ad the vectors that a model of cells has for them, in a copy of the file.

The copy has the vectors in ``obsm`` (float32, nan for cells that were dropped), what became of each
cell in ``obs``, and how they were made in ``uns``. The file is never whole in memory.
"""

import argparse
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from anndata.io import write_elem
from tqdm import tqdm

from stages.base import cli
from stages.base.errors import RepresentationError
from stages.base.files import atomic_path, file_hash
from stages.inputs.encoders import vocabulary
from stages.inputs.encoders.encoded import Encoded
from stages.inputs.encoders.encoding import EMPTY, KEPT, NO_GENE, Tally, encode
from stages.inputs.encoders.matrix import opened
from stages.inputs.encoders.presets import PRESETS
from stages.inputs.encoders.settings import Encoding, encoding_of
from stages.inputs.encoders.vocabulary import CLS, Vocabulary
from stages.models.architectures import architecture_of
from stages.models.architectures.base import Architecture
from stages.models.devices import devices, matmul_precision
from stages.models.load import fingerprint, load_model
from stages.representations import disk, gather
from stages.representations.arrays import EMBEDDING, EMBEDDING_NAME, layer_name
from stages.representations.sequences import check_vocabulary, ordinary, whole_cells
from stages.representations.streams import streams, width_of

Pool = Literal["mean", "cls"]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Reading:
    """How a cell's vector is read off a model."""

    layer: int
    """The block behind which, counted from 0; -1: the embedding."""
    pool: Pool
    normalised: bool
    """Whether vectors are divided by their lengths."""

    def statement(self, n_layers: int) -> dict[str, Any]:
        """Return it in words, under every convention in use."""
        index = self.layer + 1
        from_end = self.layer - n_layers
        block = f"block {self.layer}" if self.layer != EMBEDDING else "what enters block 0"
        return {
            "layer": layer_name(self.layer),
            "layer_says": (
                f"the output of {block} of the blocks 0 to {n_layers - 1}; hidden_states[{index}] "
                f"of transformers; {from_end} from the end, which Geneformer's own extractor calls "
                f"emb_layer {from_end + 1} and helical {from_end}"
            ).replace("the output of what", "what"),
            "hidden_states_index": index,
            "n_blocks": n_layers,
            "pool": self.pool,
            "pool_says": {
                "mean": "mean over the genes of the cell; special tokens excluded",
                "cls": "the state of <cls>",
            }[self.pool],
            "l2_normalised": self.normalised,
        }


def layer_of(text: str, n_layers: int) -> int:
    """Return the block that is meant: its number, or from the end; -1 is what enters block 0.

    >>> layer_of("-2", 6), layer_of("0", 6), layer_of("embedding", 6)
    (4, 0, -1)

    Raises
    ------
    RepresentationError
        The model has none such.
    """
    if text == EMBEDDING_NAME:
        return EMBEDDING
    known = {str(layer): layer % n_layers for layer in range(-n_layers, n_layers)}
    if text not in known:
        msg = (
            f"--layer {text} does not exist: the model has the blocks 0 to {n_layers - 1}, or from "
            f"the end -1 to -{n_layers}, and embedding. Name one of these."
        )
        raise RepresentationError(msg)
    return known[text]


def reading_of(
    architecture: Architecture, known: Vocabulary, *, layer: str | None, pool: Pool | None
) -> Reading:
    """Return how vectors are read, where nothing is said as the model's own code does.

    Geneformer: behind the second-to-last block, mean over genes (its extractor's default). scGPT:
    ``<cls>`` behind the last, divided by its length (its ``embed_data``).

    Raises
    ------
    RepresentationError
        The model has no such layer.
    """
    values = architecture.mask_value is not None
    if layer is None:
        layer = "-1" if values or architecture.n_layers == 1 else "-2"
    chosen: Pool = pool or ("cls" if values else "mean")
    if chosen == "cls" and CLS not in known.special:
        msg = f"the model has no {CLS} (Geneformer V1 has none). Take --pool mean."
        raise RepresentationError(msg)
    return Reading(layer_of(layer, architecture.n_layers), chosen, values and chosen == "cls")


def preset_of(known: Vocabulary) -> str:
    """Return how a model's own code encodes cells, by its vocabulary."""
    if known.medians is None:
        return "scgpt"
    return "geneformer-v2" if CLS in known.special else "geneformer-v1"


def vectors(
    parts: Iterator[Encoded],
    architecture: Architecture,
    known: Vocabulary,
    reading: Reading,
    *,
    device: torch.device,
    positions: int | None = None,
) -> Iterator[tuple[npt.NDArray[np.int64], Vectors]]:
    """Yield row numbers in the file, ascending, and the vectors of these cells: (n, width)."""
    genes, layers = ordinary(known), (reading.layer,)
    width = width_of(architecture)
    for part in parts:
        lengths = part.cells["length"].to_numpy(dtype=np.int64)
        text = whole_cells(part.ids, lengths, part.values, architecture)
        batches = streams(architecture, text, layers, device=device, positions=positions)
        if reading.pool == "cls":
            (found,) = gather.firsts(batches, len(part), layers, width)
        else:
            inside = np.arange(part.ids.shape[1]) < lengths[:, None]
            (found,) = gather.means(batches, inside & genes[part.ids], layers, width)
        if reading.normalised:
            found = found / np.linalg.norm(found, axis=1, keepdims=True)
        yield part.cells["row"].to_numpy(dtype=np.int64), found.astype(np.float32)


def embed(
    h5ad: Path,
    out: Path,
    parts: Iterator[tuple[npt.NDArray[np.int64], Vectors]],
    *,
    n_cells: int,
    width: int,
    key: str,
    dropped: Callable[[npt.NDArray[np.int64]], Sequence[str]],
    statement: Callable[[], dict[str, Any]],
) -> int:
    """Write a file again with the vectors of its cells, whole or not at all.

    Parameters
    ----------
    h5ad, out
        The file, and its copy.
    parts
        Numbers of cells, ascending, and their vectors.
    n_cells, width
        Of the file, and of a vector.
    key
        Name in ``obsm`` and ``uns``.
    dropped
        Says of cells that did not come why, by their numbers.
    statement
        How the vectors were made; asked at the end.

    Returns
    -------
    int
        How many cells have a vector.

    Raises
    ------
    RepresentationError
        The file has such a key already, or is in the layout of anndata before 0.7; no cell has a
        vector; or the disk is too small.
    """
    status = status_column(key)
    disk.check({out: h5ad.stat().st_size + n_cells * (width * 4 + 1)})
    with atomic_path(out) as fresh:
        shutil.copyfile(h5ad, fresh)
        with h5py.File(fresh, "r+") as file:
            _check_free(file, h5ad, key, status)
            array = file.require_group("obsm").create_dataset(
                key, shape=(n_cells, width), dtype=np.float32, fillvalue=np.nan, chunks=True
            )
            array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            there = np.zeros(n_cells, dtype=np.bool_)
            for rows, found in parts:
                first, last = rows[0], rows[-1] + 1
                block = np.full((last - first, width), np.nan, dtype=np.float32)
                block[rows - first] = found
                array[first:last] = block
                there[rows] = True
            if not there.any():
                msg = (
                    f"no cell of {h5ad} has a gene that the model knows. Check that the file's "
                    "genes are named as --genes says."
                )
                raise RepresentationError(msg)
            said = np.full(n_cells, KEPT, dtype=object)
            if len(left := (~there).nonzero()[0]):
                said[left] = dropped(left)
            obs, columns = file["obs"], "column-order"
            names = [*map(_text, obs.attrs.get(columns, ())), status]
            write_elem(obs, status, pd.Categorical(said))
            obs.attrs[columns] = np.array(names, dtype=h5py.string_dtype())
            write_elem(file.require_group("uns"), key, statement())
    return int(there.sum())


def status_column(key: str) -> str:
    """Return the column of ``obs`` that says what became of each cell.

    >>> status_column("X_geneformer")
    'geneformer_status'
    """
    return f"{key.removeprefix('X_')}_status"


def _check_free(file: Any, path: Path, key: str, status: str) -> None:
    for place in ("obs", "obsm", "uns"):
        if place in file and not isinstance(file[place], h5py.Group):
            msg = (
                f"{path} keeps {place} as anndata before 0.7 did, where nothing can be added. "
                "Write it again first: anndata.read_h5ad(...).write_h5ad(...)."
            )
            raise RepresentationError(msg)
        name = status if place == "obs" else key
        if place in file and name in file[place]:
            msg = f"{path} has {place}[{name!r}] already. Give another --key."
            raise RepresentationError(msg)


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def why_dropped(h5ad: Path, encoding: Encoding, rows: npt.NDArray[np.int64]) -> list[str]:
    """Return why some cells of a file have no tokens: no counts, or no gene that is known."""
    whole = PRESETS[encoding.preset].counts
    with opened(h5ad, counts=encoding.counts, gene_column=encoding.gene_column) as source:
        totals = [chunk.totals for chunk in source.chunks(rows, whole=whole)]
    return [EMPTY if total == 0 else NO_GENE for total in np.concatenate(totals)]


def _encoding(args: argparse.Namespace, known: Vocabulary, room: int) -> Encoding:
    """Return how cells are encoded: as the model's own code does, where nothing is said."""
    preset = args.preset or preset_of(known)
    longest = args.max_length
    if longest is None and preset in PRESETS:
        longest = min(PRESETS[preset].max_length, room)
    return encoding_of(
        preset=preset,
        counts=args.counts,
        genes=args.genes,
        gene_column=args.gene_column,
        max_length=longest,
        seed=args.seed,
    )


def _run(args: argparse.Namespace) -> None:
    if args.out.resolve() == args.h5ad.resolve():
        msg = f"--out {args.out} is the file that is read. Name another one."
        raise RepresentationError(msg)
    device = torch.device(devices(args.device)[0])
    known = vocabulary.read(args.cellmodel)
    architecture = architecture_of(load_model(args.cellmodel, device=device))
    check_vocabulary(known, architecture, args.cellmodel)
    encoding = _encoding(args, known, architecture.max_positions)
    reading = reading_of(architecture, known, layer=args.layer, pool=args.pool)
    if reading.pool == "cls" and CLS not in PRESETS[encoding.preset].before:
        msg = f"the preset {encoding.preset} puts no {CLS} in front of a cell. Take --pool mean."
        raise RepresentationError(msg)
    said = reading.statement(architecture.n_layers)
    cli.log.info("%s; %s", said["layer_says"], said["pool_says"])
    with opened(args.h5ad, counts=encoding.counts, gene_column=encoding.gene_column) as source:
        n_cells = source.n_cells
    tally = Tally()

    def statement() -> dict[str, Any]:
        return {
            **said,
            "model": args.cellmodel.name,
            "model_sha256": fingerprint(args.cellmodel),
            "vocabulary_sha256": file_hash(args.cellmodel / vocabulary.VOCABULARY_FILE),
            "preset": encoding.preset,
            "preset_says": PRESETS[encoding.preset].statement,
            "max_length": encoding.width,
            "seed": encoding.seed,
            "counts_from": tally.counts,
            "n_truncated": tally.n_truncated,
            "device": device.type,
            "torch": str(torch.__version__),
        }

    with matmul_precision("float32"), tqdm(total=n_cells, unit=" cells") as bar:

        def watched() -> Iterator[tuple[npt.NDArray[np.int64], Vectors]]:
            parts = encode(args.h5ad, known, encoding, tally=tally)
            for rows, found in vectors(
                parts, architecture, known, reading, device=device, positions=args.batch
            ):
                yield rows, found
                bar.update(int(rows[-1]) + 1 - bar.n)

        n_there = embed(
            args.h5ad,
            args.out,
            watched(),
            n_cells=n_cells,
            width=width_of(architecture),
            key=args.key,
            dropped=lambda rows: why_dropped(args.h5ad, encoding, rows),
            statement=statement,
        )
    cli.log.info(
        "%s: obsm[%r] of %d cells, %d were dropped", args.out, args.key, n_there, n_cells - n_there
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--cellmodel", type=Path, required=True, help="folder of weights and vocabulary.json")
    add("--h5ad", type=Path, required=True, help="the file with raw counts")
    add("--out", type=Path, required=True, help="its copy with vectors (.h5ad)")
    add(
        "--layer",
        help="a block, 0 the first or -1 the last, or embedding (default: as the model's own code: "
        "-2 for Geneformer, -1 for scGPT)",
    )
    add("--pool", choices=get_args(Pool), help="default: mean for Geneformer, cls for scGPT")
    add("--preset", help=f"{', '.join(PRESETS)} (default: the model's own)")
    add("--genes", help="what the file names genes by: ids or symbols; default: as the model does")
    add("--gene-column", help="the column of var with the names of genes (default: its index)")
    add("--counts", default="X", help="X (default), raw, layer:NAME or auto")
    add("--max-length", type=int, help="tokens of a cell (default: the preset's, or the model's)")
    add("--seed", type=int, default=0, help="of what scGPT draws (default: 0)")
    add("--key", default="X_cellmodel", help="name in obsm and uns (default: %(default)s)")
    add("--batch", type=int, help="positions in one pass (default: what fits)")
    add("--device", default="auto", help="auto, cpu or cuda:0")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
