"""Encode the cells of an h5ad for a model of cells: Geneformer's ranks or scGPT's bins.

What is written is a folder of arrays (:mod:`stages.inputs.encoders.encoded`) with a statement of
how cells were encoded, from which file, by which vocabulary, and which cells and genes were left
out, by reason.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.base import cli
from stages.base.errors import AtlasError, SettingsError
from stages.base.files import file_hash
from stages.base.settings import load
from stages.inputs.encoders import encoded, vocabulary
from stages.inputs.encoders.encoding import Tally, encode
from stages.inputs.encoders.matrix import n_cells_of
from stages.inputs.encoders.presets import PRESETS
from stages.inputs.encoders.settings import Encoding, encoding_of
from stages.inputs.settings import CellInput
from stages.measurement.streams import stream


def encode_file(
    h5ad: Path,
    model: Path,
    encoding: Encoding,
    out: Path,
    *,
    cells: Sequence[str] | None = None,
    rows: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Encode a file into a folder, whole or not at all.

    Parameters
    ----------
    model
        The folder with ``vocabulary.json``.
    cells, rows
        The cells to encode, by name or by number; None: all.

    Returns
    -------
    dict
        The statement that lies in the folder.

    Raises
    ------
    AtlasError, CheckpointError
        As :func:`stages.inputs.encoders.encoding.encode`; or no cell is left.
    """
    genes = vocabulary.read(model)
    preset = PRESETS[encoding.preset]
    tally = Tally()

    def statement() -> dict[str, Any]:
        return {
            "encoding": encoding.model_dump(mode="json"),
            "says": preset.statement,
            "deviates_from_the_model": preset.deviates,
            "width": encoding.width,
            "source": {"file": h5ad.name, "size_bytes": h5ad.stat().st_size},
            "vocabulary": {
                "size": len(genes),
                "sha256": file_hash(model / vocabulary.VOCABULARY_FILE),
            },
            "numpy": version("numpy"),
            **tally.statement(),
        }

    encoded.write(
        out,
        encode(h5ad, genes, encoding, rows=rows, cells=cells, tally=tally),
        statement,
        n_cells=next((len(some) for some in (cells, rows) if some is not None), n_cells_of(h5ad)),
        width=encoding.width,
        pad=genes.pad,
        pad_value=preset.pad_value,
    )
    return statement()


def names_in(path: Path) -> list[str]:
    """Read the names of cells, one a line.

    Raises
    ------
    AtlasError
        The file is missing, no UTF-8, empty, or has a name twice.
    """
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        msg = f"{path} does not exist. Correct --rows."
        raise AtlasError(msg) from None
    except UnicodeDecodeError as error:
        msg = f"{path} is no UTF-8 ({error.reason} at byte {error.start}). Convert it."
        raise AtlasError(msg) from None
    names = [name for name in names if name]
    if not names or len(set(names)) < len(names):
        often = Counter(names).most_common(1)
        what = f"has {often[0][0]!r} more than once" if often else "names no cell"
        msg = f"{path} {what}. Name the cells to encode, one a line, each once."
        raise AtlasError(msg)
    return names


def drawn(h5ad: Path, asked: CellInput) -> NDArray[np.int64] | None:
    """Return numbers of cells that are drawn from a file, ascending; None: all are wanted."""
    n_cells = n_cells_of(h5ad)
    if asked.n_encoded is None or asked.n_encoded >= n_cells:
        return None
    rng = stream(asked.seed, "encoded")
    return np.sort(rng.choice(n_cells, size=asked.n_encoded, replace=False))


def _run(args: argparse.Namespace) -> None:
    if args.params is not None:
        asked: CellInput = load(args.params).cellmodel.cells
        h5ad = Path(args.h5ad or str(asked.h5ad))
        said = encode_file(h5ad, args.vocabulary, asked.encoding, args.out, rows=drawn(h5ad, asked))
    elif args.h5ad is None:
        msg = "no cells are given; name an h5ad with raw counts: --h5ad"
        raise SettingsError(msg)
    else:
        cells = None if args.rows is None else names_in(args.rows)
        said = encode_file(
            args.h5ad,
            args.vocabulary,
            encoding_of(**{name: getattr(args, name) for name in Encoding.model_fields}),
            args.out,
            cells=cells,
        )
    cli.log.info("%s: %s", args.out, ", ".join(f"{n} {what}" for what, n in said["cells"].items()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--h5ad", type=Path, help="the file with raw counts (default: that of --params)")
    add("--vocabulary", type=Path, required=True, help="the folder with vocabulary.json")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--params", type=Path, help="as cellmodel.cells of these settings says")
    how.add_argument("--preset", help=", ".join(PRESETS))
    add("--counts", default="X", help="X (default), raw, layer:NAME or auto")
    add("--genes", help="what the file names genes by: ids or symbols; default: as the model does")
    add("--gene-column", help="the column of var with the names of genes (default: its index)")
    add("--columns", type=_listed, default=(), help="columns of obs to keep, with commas")
    add("--max-length", type=int, help="tokens of a cell (default: the preset's)")
    add("--seed", type=int, default=0, help="of what scGPT draws (default: 0)")
    add("--rows", type=Path, help="names of the cells to encode, one a line (default: all)")
    add("--out", type=Path, required=True, help="the folder to write")
    return cli.run(parser, _run, argv)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


if __name__ == "__main__":
    raise SystemExit(main())
