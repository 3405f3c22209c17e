"""Residual streams in a folder of arrays that are read without loading them.

``L<l>.npy`` holds what leaves block l, counted from 0, and ``embedding.npy`` what enters block 0:
(n_rows, width), float32 or float16. What a row is, the arrays of :data:`ROWS` say; ``harvest.json``
states the model, the text and how they were made; ``names.json`` lists the names of tokens by id,
where the model's vocabulary has names (genes).
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from stages.base.errors import RepresentationError
from stages.base.files import write_text

STATEMENT_FILE, NAMES_FILE = "harvest.json", "names.json"
EMBEDDING = -1
"""The layer that is no block: what enters block 0."""
EMBEDDING_NAME = "embedding"
CONVENTION = (
    "layer l is what leaves block l, counted from 0: hidden_states[l + 1] of transformers, but for "
    "the final norm that it applies to the last of some families; embedding is what enters block 0"
)

Kind = Literal["positions", "item_mean", "cell_mean", "cls"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ROWS: dict[Kind, dict[str, type[np.generic]]] = {
    "positions": {
        "cell": np.int32,
        "token": np.int32,
        "position": np.int32,
        "masked": np.bool_,
    },
    "item_mean": {"part": np.int32, "token": np.int32, "count": np.int64},
    "cell_mean": {"cell": np.int32},
    "cls": {"cell": np.int32},
}
"""What is known of each row, one array a column. ``cell`` counts the encoded cells (windows of
text) from 0; ``token`` is the id that stands there, also where the model read its mask token
instead (``masked``); ``position`` is that in the cell; ``count`` is of how many positions a mean
is, and ``part`` over which of the parts that the cells were dealt into. Special tokens are in no
row but those of ``cls``, and items that never occur have none."""

Array = npt.NDArray[Any]
DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class Representations:
    """Rows of the residual stream behind some layers."""

    kind: Kind
    states: Mapping[int, Array]
    """By layer, ascending, :data:`EMBEDDING` first: (n_rows, width) each, mapped."""
    rows: Mapping[str, Array]
    """The columns of :data:`ROWS`, (n_rows,) each, mapped."""
    statement: Mapping[str, Any]
    """What ``harvest.json`` says."""
    names: Sequence[str] | None = None
    """What each token id stands for; none: no vocabulary says."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.states.values())))

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers there are, ascending."""
        return tuple(self.states)

    def layer(self, number: int) -> Array:
        """Return the rows of a layer: (n_rows, width), mapped.

        Raises
        ------
        RepresentationError
            It was not harvested.
        """
        if number not in self.states:
            msg = (
                f"layer {layer_name(number)} was not harvested; there are "
                f"{', '.join(map(layer_name, self.layers))}. Harvest it: --layers all."
            )
            raise RepresentationError(msg)
        return self.states[number]


def layer_name(layer: int) -> str:
    """Return what a layer's file is called.

    >>> layer_name(3), layer_name(EMBEDDING)
    ('L3', 'embedding')
    """
    return EMBEDDING_NAME if layer == EMBEDDING else f"L{layer}"


def create(
    folder: Path, kind: Kind, layers: Sequence[int], n_rows: int, width: int, dtype: str
) -> tuple[dict[int, Array], dict[str, Array]]:
    """Make the arrays of a folder, to be filled, mapped.

    Returns
    -------
    states, rows
        By layer, (n_rows, width); by column of :data:`ROWS`, (n_rows,).

    Raises
    ------
    OSError
        The disk is full.
    """

    def reserved(name: str, kept_as: npt.DTypeLike, shape: tuple[int, ...]) -> Array:
        path = folder / f"{name}.npy"
        made = np.lib.format.open_memmap(path, mode="w+", dtype=kept_as, shape=shape)
        # Who fills a mapped file on a full disk is killed without a word: what it takes is
        # reserved, where the system can.
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return made

    return (
        {layer: reserved(layer_name(layer), dtype, (n_rows, width)) for layer in sorted(layers)},
        {name: reserved(name, kept_as, (n_rows,)) for name, kept_as in ROWS[kind].items()},
    )


def describe(
    folder: Path,
    kind: Kind,
    layers: Sequence[int],
    statement: Mapping[str, Any],
    token_names: Sequence[str] | None = None,
) -> None:
    """State what the arrays of a folder are, and how they were made."""
    names = [layer_name(layer) for layer in sorted(layers)]
    content = dict(statement) | {"kind": kind, "layers": names, "layer_convention": CONVENTION}
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
    write_text(folder / STATEMENT_FILE, text + "\n")
    if token_names is not None:
        listed = json.dumps(list(token_names), ensure_ascii=False, indent=0)
        write_text(folder / NAMES_FILE, listed + "\n")


def read(folder: Path) -> Representations:
    """Map a folder of residual streams.

    Raises
    ------
    RepresentationError
        A file is missing, is no array, or does not fit the others.
    """
    try:
        statement = json.loads((folder / STATEMENT_FILE).read_text(encoding="utf-8"))
        kind: Kind = statement["kind"]
        columns = ROWS[kind]
        layers = sorted(_layer(name) for name in statement["layers"])
        states = {layer: _mapped(folder, layer_name(layer)) for layer in layers}
        rows = {name: _mapped(folder, name) for name in columns}
        path = folder / NAMES_FILE
        listed = path.read_text(encoding="utf-8") if path.exists() else "null"
        names: list[str] | None = json.loads(listed)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"{folder} holds no residual streams ({reason}). Remove it and harvest again."
        raise RepresentationError(msg) from None
    if fault := _fault(states, rows, columns):
        msg = f"{folder}: {fault}. Remove it and harvest again."
        raise RepresentationError(msg)
    return Representations(kind, states, rows, statement, names)


def _fault(
    states: Mapping[int, Array],
    rows: Mapping[str, Array],
    columns: Mapping[str, type[np.generic]],
) -> str | None:
    if not states:
        return "it names no layer"
    first = next(iter(states.values()))
    for layer, state in states.items():
        if state.ndim != 2 or state.shape != first.shape or state.dtype.name not in DTYPES:
            return (
                f"{layer_name(layer)}.npy holds {state.dtype} of the shape {state.shape}, where "
                f"float16 or float32 as (rows, width), the same in all layers, is needed"
            )
    for name, column in rows.items():
        if column.shape != first.shape[:1] or column.dtype != columns[name]:
            return (
                f"{name}.npy holds {column.dtype} of the shape {column.shape}, where "
                f"{np.dtype(columns[name])} of the shape {first.shape[:1]} is needed"
            )
    return None


def _layer(name: str) -> int:
    return EMBEDDING if name == EMBEDDING_NAME else int(name.removeprefix("L"))


def _mapped(folder: Path, name: str) -> Array:
    return np.asanyarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
