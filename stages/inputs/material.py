"""What a model reads while its heads are removed: a text, or cells; and others, for means."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stages.base.files import file_hash
from stages.inputs.encoders import encoded, measured, vocabulary
from stages.inputs.encoders.encoded import IDS_FILE, VALUES_FILE
from stages.models.architectures.base import Architecture
from stages.models.text import Text, read_tokens, text_of

Rows = NDArray[np.int64]


class Material(ABC):
    """Sequences that effects are measured on, and a reference; files, read where they are needed.

    `sequences` below are numbers of evaluated sequences, ascending.
    """

    has_reference: bool

    @abstractmethod
    def __len__(self) -> int:
        """Return how many sequences may be evaluated."""

    @abstractmethod
    def digest(self, sequences: Rows) -> str:
        """Return a sha256 of the evaluated sequences."""

    @abstractmethod
    def source(self) -> str:
        """Return a sha256 of what the evaluated sequences are taken from."""

    @abstractmethod
    def reference_digest(self) -> str:
        """Return a sha256 of the reference; empty if there is none."""

    @abstractmethod
    def text(self, architecture: Architecture, sequences: Rows) -> Text:
        """Return the evaluated sequences as this model reads them."""

    @abstractmethod
    def reference(self, architecture: Architecture) -> Text | None:
        """Return the reference as this model reads it, of the same length."""


@dataclass(frozen=True)
class Tokens(Material):
    """Text as tokens, ``.npy``."""

    tokens: Path
    other: Path | None
    checkpoint: Path
    """Its tokenizer names the mask token of a masked model."""

    @property
    def has_reference(self) -> bool:  # type: ignore[override]
        """Whether there is other text."""
        return self.other is not None

    def __len__(self) -> int:
        """Return how many there are."""
        return len(read_tokens(self.tokens, "evaluation"))

    def source(self) -> str:
        """Return the sha256 of what they are taken from."""
        return file_hash(self.tokens)

    def digest(self, sequences: Rows) -> str:
        """Return their sha256."""
        return hashlib.sha256(self.source().encode() + sequences.tobytes()).hexdigest()

    def reference_digest(self) -> str:
        """Return the sha256 of the reference."""
        return "" if self.other is None else file_hash(self.other)

    def text(self, architecture: Architecture, sequences: Rows) -> Text:
        """Return them as this model reads them."""
        tokens = read_tokens(self.tokens, "evaluation")
        return text_of(tokens[torch.from_numpy(sequences)], architecture, self.checkpoint)

    def reference(self, architecture: Architecture) -> Text | None:
        """Return the others as this model reads them."""
        if self.other is None:
            return None
        return text_of(read_tokens(self.other, "reference"), architecture, self.checkpoint)


@dataclass(frozen=True)
class Cells(Material):
    """Some of the encoded cells of a folder; which genes are hidden is drawn once."""

    folder: Path
    checkpoint: Path
    """Holds the vocabulary."""
    rows: tuple[int, ...]
    others: tuple[int, ...]
    seed: int

    has_reference = True

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.rows)

    def source(self) -> str:
        """Return the sha256 of what they are taken from."""
        return self._digest(np.asarray(self.rows))

    def digest(self, sequences: Rows) -> str:
        """Return their sha256."""
        return self._digest(np.asarray(self.rows)[sequences])

    def reference_digest(self) -> str:
        """Return the sha256 of the reference."""
        return self._digest(np.asarray(self.others))

    def text(self, architecture: Architecture, sequences: Rows) -> Text:
        """Return them as this model reads them."""
        return self._text(architecture, np.asarray(self.rows)[sequences])

    def reference(self, architecture: Architecture) -> Text | None:
        """Return the others as this model reads them."""
        return self._text(architecture, np.asarray(self.others))

    def _digest(self, rows: Rows) -> str:
        digest = hashlib.sha256(rows.tobytes() + str(self.seed).encode())
        for name in (IDS_FILE, VALUES_FILE):
            if (self.folder / name).exists():
                digest.update(file_hash(self.folder / name).encode())
        return digest.hexdigest()

    def _text(self, architecture: Architecture, rows: Rows) -> Text:
        cells, known = encoded.read(self.folder), vocabulary.read(self.checkpoint)
        return measured.text(cells, known, architecture, rows, seed=self.seed)
