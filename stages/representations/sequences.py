"""What a model reads to be harvested: encoded cells, or windows of tokens."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from stages.base.errors import RepresentationError
from stages.base.files import file_hash
from stages.inputs.encoders import encoded, vocabulary
from stages.inputs.encoders.encoded import Encoded
from stages.inputs.encoders.vocabulary import CLS, MASK, Vocabulary
from stages.models.architectures.base import Architecture
from stages.models.text import MASK_SEED, Text, cell_text, check_text, read_tokens, text_of

Reading = Literal["masked", "whole"]

MASK_BLOCK = 1024
"""Sequences whose masks are drawn together, in block b of a text by the seed MASK_SEED + b: those
of the first block are the masks that are drawn when the cells are measured, and no text is so long
that drawing them fills the memory."""


@dataclass(frozen=True)
class Sequences:
    """Sequences of ids, any number of them, and what the model reads of them."""

    ids: npt.NDArray[np.int32]
    """(n, width), mapped, padded on the right."""
    lengths: npt.NDArray[np.int64]
    """Without padding: (n,)."""
    ordinary: npt.NDArray[np.bool_]
    """Which ids are genes or tokens, and not special: (n_ids,)."""
    cls: int | None
    """The id in front of each sequence whose state stands for it; none: there is none."""
    block: Callable[[int], Text]
    """Returns what is read of the sequences from b * MASK_BLOCK on, MASK_BLOCK of them at most."""
    sha256: str
    """Over the files they come from."""
    statement: dict[str, Any]
    """How they were made, as far as known."""
    reading: Reading
    skip: int = 0
    """Positions at the start of each that are in no row and no mean."""
    names: Sequence[str] | None = None
    """What each id stands for, where a vocabulary says so."""

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.ids)

    def text(self, part: slice) -> Text:
        """Return what is read of some sequences that follow each other in one block.

        Raises
        ------
        ValueError
            They reach over a block.
        """
        index = part.start // MASK_BLOCK
        first = index * MASK_BLOCK
        if part.stop > first + MASK_BLOCK:
            msg = f"sequences {part.start} to {part.stop} are of more than one block."
            raise ValueError(msg)
        return self.block(index)[part.start - first : part.stop - first]

    def masked(self, part: slice) -> npt.NDArray[np.bool_]:
        """Return which positions are hidden from the model: (n, width)."""
        scored = self.text(part).scored if self.reading == "masked" else None
        if scored is None:
            return np.zeros((part.stop - part.start, self.ids.shape[1]), dtype=np.bool_)
        return scored.numpy()

    def kept(self, part: slice) -> npt.NDArray[np.bool_]:
        """Return which positions are harvested, (n, width): no padding, nothing special."""
        ids, at = self.ids[part], np.arange(self.ids.shape[1])
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= len(self.ordinary):
            msg = (
                f"there is an id {low if low < 0 else high}, the model's end at "
                f"{len(self.ordinary) - 1}: what is read was made for another model. Encode it "
                "with the vocabulary (tokenizer) beside the weights."
            )
            raise RepresentationError(msg)
        inside = (at < self.lengths[part, None]) & (at >= self.skip)
        return np.asarray(inside & self.ordinary[ids])


def of_cells(
    folder: Path,
    model: Path,
    architecture: Architecture,
    *,
    reading: Reading,
    limit: int | None = None,
    skip: int = 0,
    rows: npt.NDArray[np.int64] | None = None,
) -> Sequences:
    """Return encoded cells as a model with a vocabulary reads them.

    Parameters
    ----------
    folder
        Encoded cells.
    model
        Folder of the model, with its vocabulary.
    architecture
        The model.
    reading
        ``masked``: with a share of the genes hidden, as when it is measured; ``whole``.
    limit
        Only so many, from the first on.
    skip
        Positions at the start of each that are left out.
    rows
        Only these of the encoded cells, which are then in memory; None: all.

    Raises
    ------
    AtlasError, CheckpointError, RepresentationError, AblationError
        Cells, vocabulary and model do not fit one another.
    """
    cells, known = encoded.read(folder), vocabulary.read(model)
    if rows is not None:
        cells = Encoded(
            cells.ids[rows],
            cells.cells.iloc[rows],
            None if cells.values is None else cells.values[rows],
        )
    n = _limited(len(cells), limit)
    statement = _statement(folder)
    check_vocabulary(known, architecture, model)
    made_with = statement.get("vocabulary", {}).get("sha256")
    if made_with != file_hash(model / vocabulary.VOCABULARY_FILE):
        msg = (
            f"the cells in {folder} were encoded with another vocabulary than that in {model}. "
            "Encode them again with this one."
        )
        raise RepresentationError(msg)
    ids = cells.ids[:n]
    lengths = cells.cells["length"].to_numpy(dtype=np.int64)[:n]

    @lru_cache(maxsize=1)
    def block(index: int) -> Text:
        part = slice(index * MASK_BLOCK, min((index + 1) * MASK_BLOCK, n))
        values = None if cells.values is None else cells.values[part]
        if reading == "whole":
            return whole_cells(ids[part], lengths[part], values, architecture)
        text = cell_text(
            ids[part],
            architecture=architecture,
            pad=known.pad,
            special=list(known.special.values()),
            mask=known.special.get(MASK) if architecture.mask_value is None else None,
            values=values,
            seed=MASK_SEED + index,
        )
        check_text(text, architecture, "cells'")
        return text

    files = [folder / encoded.IDS_FILE]
    files += [folder / encoded.VALUES_FILE] if cells.values is not None else []
    return Sequences(
        ids=ids,
        lengths=lengths,
        ordinary=ordinary(known),
        cls=known.special.get(CLS),
        block=block,
        sha256=_sha256(files, rows),
        statement=statement,
        reading=reading,
        skip=skip,
        names=known.names,
    )


def whole_cells(
    ids: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int64],
    values: npt.NDArray[np.float32] | None,
    architecture: Architecture,
) -> Text:
    """Return the text of encoded cells with nothing hidden.

    Parameters
    ----------
    ids, values
        (n, width), padded on the right.
    lengths
        Without padding: (n,).
    architecture
        The model that is to read it.

    Raises
    ------
    AblationError
        The model cannot.
    """
    tokens = torch.from_numpy(ids.astype(np.int64))
    attended = torch.arange(tokens.shape[1]) < torch.from_numpy(lengths)[:, None]
    beside = None if values is None else torch.from_numpy(np.array(values))
    text = Text(tokens, tokens, attended=attended, values=beside, target_values=beside)
    check_text(text, architecture, "cells'")
    return text


def check_vocabulary(known: Vocabulary, architecture: Architecture, model: Path) -> None:
    """Stop if a vocabulary is not that of the model beside it.

    Raises
    ------
    RepresentationError
        It has another number of ids.
    """
    if len(known) != architecture.vocab_size:
        msg = (
            f"the vocabulary in {model} has {len(known)} ids, its model {architecture.vocab_size}: "
            "they are of two versions. Bring the model in again."
        )
        raise RepresentationError(msg)


def ordinary(known: Vocabulary) -> npt.NDArray[np.bool_]:
    """Return which ids are genes, and not special: (n_ids,)."""
    genes = np.ones(len(known), dtype=np.bool_)
    genes[list(known.special.values())] = False
    return genes


def of_tokens(
    path: Path,
    model: Path,
    architecture: Architecture,
    *,
    reading: Reading,
    limit: int | None = None,
    skip: int = 0,
) -> Sequences:
    """Return windows of text as a language model reads them; all tokens of it are ordinary.

    As :func:`of_cells`, with a file of tokens, (windows, tokens). A causal model reads text whole.
    """
    tokens = read_tokens(path, "harvested")
    n = _limited(len(tokens), limit)
    if reading == "masked" and architecture.causal:
        msg = (
            f"{model} predicts the next token and hides none, so that it reads no masked text. "
            "Take --inputs whole."
        )
        raise RepresentationError(msg)

    tokens = tokens[:n]
    whole = text_of(tokens, architecture, model) if reading == "masked" else Text(tokens, tokens)
    check_text(whole, architecture, "harvested")
    ids = tokens.numpy().astype(np.int32)
    return Sequences(
        ids=ids,
        lengths=np.full(n, ids.shape[1], dtype=np.int64),
        ordinary=np.ones(architecture.vocab_size, dtype=np.bool_),
        cls=None,
        block=lambda index: whole[index * MASK_BLOCK : (index + 1) * MASK_BLOCK],
        sha256=_sha256([path]),
        statement={},
        reading=reading,
        skip=skip,
    )


def _limited(n: int, limit: int | None) -> int:
    if limit is not None and limit < 1:
        msg = f"--limit {limit} leaves no cell. Give 1 or more, or none for all."
        raise RepresentationError(msg)
    return n if limit is None else min(n, limit)


def _sha256(files: list[Path], rows: npt.NDArray[np.int64] | None = None) -> str:
    listed = "".join(f"{file.name} {file_hash(file)}\n" for file in files)
    listed += "" if rows is None else " ".join(map(str, rows.tolist()))
    return hashlib.sha256(listed.encode()).hexdigest()


def _statement(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / encoded.STATEMENT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"{folder} does not state how its cells were encoded ({reason}). Encode them again."
        raise RepresentationError(msg) from None
    return dict(content)
