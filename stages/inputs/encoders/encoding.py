"""Encode the cells of an h5ad for a model, some at a time."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from stages.base import cli
from stages.inputs.encoders import geneformer, matrix, naming, scgpt
from stages.inputs.encoders.encoded import Encoded, Ids, Values
from stages.inputs.encoders.presets import PRESETS
from stages.inputs.encoders.settings import Encoding
from stages.inputs.encoders.vocabulary import Vocabulary
from stages.inputs.obs import read_obs

READ, KEPT, EMPTY, NO_GENE = (
    "read",
    "kept",
    "dropped: no counts",
    "dropped: no gene that the model knows",
)


@dataclass
class Tally:
    """What became of cells and genes; filled while cells are encoded, complete at the end."""

    counts: str = ""
    """The matrix that was read: its place in the file."""
    n_genes: int = 0
    """Genes of the file."""
    genes: dict[str, int] = field(default_factory=dict)
    """Of these, by what became of them (:mod:`stages.inputs.encoders.naming`)."""
    cells: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    """Cells by their number of tokens."""
    n_truncated: int = 0
    """Cells with more genes than have room."""

    def statement(self) -> dict[str, Any]:
        """Return it as a file says it."""
        lengths = np.repeat(list(self.lengths), list(self.lengths.values()))
        kept = self.cells[KEPT]
        return {
            "counts_from": self.counts,
            "genes": {"in the file": self.n_genes, **self.genes},
            "cells": {name: self.cells[name] for name in (READ, KEPT, EMPTY, NO_GENE)},
            "median_length": float(np.median(lengths)) if kept else None,
            "share_truncated": self.n_truncated / kept if kept else None,
        }


def encode(
    path: Path,
    vocabulary: Vocabulary,
    encoding: Encoding,
    *,
    rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
    cells: Sequence[str] | None = None,
    tally: Tally | None = None,
) -> Iterator[Encoded]:
    """Yield encoded cells in the order of the file, some at a time.

    What a cell becomes depends on the cell, its name and `encoding` alone. Cells without a gene
    that the model knows are left out; `cells` of what comes has the column ``row`` with their
    number in the file.

    Parameters
    ----------
    path
        An h5ad of any size.
    rows, cells
        The cells to encode, by number (ascending, each once) or by name; None: all.
    tally
        Is told what became of cells and genes.

    Raises
    ------
    AtlasError
        The file is damaged, holds no raw counts or genes of another kind, or lacks a column.
    CheckpointError
        The vocabulary is not of the preset's model.
    """
    preset = PRESETS[encoding.preset]
    preset.require(vocabulary, encoding.preset)
    tally = Tally() if tally is None else tally
    with matrix.opened(path, counts=encoding.counts, gene_column=encoding.gene_column) as source:
        wanted = rows if cells is None else source.rows_of(cells)
        known = naming.match(
            source.genes,
            vocabulary,
            given=encoding.genes or preset.genes,
            wanted=preset.genes,
            source=str(path),
        )
        tally.counts, tally.n_genes, tally.genes = source.place, len(source.genes), known.counted
        _say(path, known.counted)
        obs = read_obs(path, encoding.columns, change="--columns") if encoding.columns else None
        encoder = _Encoder(vocabulary, encoding, tally)
        for chunk in source.chunks(wanted, whole=preset.counts):
            if (part := encoder.part(chunk, known, obs)) is not None:
                yield part


def _say(path: Path, counted: dict[str, int]) -> None:
    said = ", ".join(f"{number} {what}" for what, number in counted.items())
    cli.log.info("%s: genes: %s", path, said)


class _Encoder:
    """Turns chunks of counts into parts of encoded cells."""

    def __init__(self, vocabulary: Vocabulary, encoding: Encoding, tally: Tally) -> None:
        preset = PRESETS[encoding.preset]
        self.preset, self.seed, self.tally = preset, encoding.seed, tally
        self.room = encoding.width - preset.n_special
        self.pad = vocabulary.pad
        self.before, self.after = (
            np.array([vocabulary.special[name] for name in names], dtype=np.int32)
            for names in (preset.before, preset.after)
        )
        self.medians = geneformer.medians_of(vocabulary) if preset.order == "ranked" else None

    def part(
        self, chunk: matrix.Chunk, known: naming.Known, obs: pd.DataFrame | None
    ) -> Encoded | None:
        """Encode some cells; None if no gene of theirs is known."""
        totals, counts = chunk.totals, known.only(chunk.counts)
        n_genes = np.diff(counts.indptr)
        kept = np.flatnonzero(n_genes)
        self.tally.cells.update(
            {
                READ: len(totals),
                KEPT: len(kept),
                EMPTY: int((totals == 0).sum()),
                NO_GENE: int(((totals > 0) & (n_genes == 0)).sum()),
            }
        )
        if not len(kept):
            return None
        names = [chunk.cells[row] for row in kept]
        ids, values = self._genes(counts[kept], totals[kept], names)
        lengths = np.minimum(n_genes[kept], self.room) + self.preset.n_special
        self.tally.n_truncated += int((n_genes[kept] > self.room).sum())
        self.tally.lengths.update(lengths.tolist())
        table = pd.DataFrame({"cell": names, "row": chunk.rows[kept], "length": lengths})
        if obs is not None:
            table = pd.concat([table, obs.iloc[table["row"]].reset_index(drop=True)], axis=1)
        return Encoded(self._framed(ids, lengths), table, self._framed_values(values, lengths))

    def _genes(
        self, counts: sparse.csr_matrix, totals: npt.NDArray[np.float64], names: Sequence[str]
    ) -> tuple[list[Ids], list[Values] | None]:
        """Return the genes of each cell that have room, in order, and the values beside them."""
        if self.medians is not None:
            ranked = geneformer.ranked(counts, totals, self.medians, logged=self.preset.logged)
            return [ids[: self.room] for ids in ranked], None
        ids: list[Ids] = []
        values: list[Values] = []
        for i, j, name in zip(counts.indptr[:-1], counts.indptr[1:], names, strict=True):
            expressed = counts.data[i:j]
            if self.preset.order == "binned":
                beside = scgpt.binned(expressed, seed=self.seed, cell=name)
                taken = scgpt.sampled(len(expressed), self.room, seed=self.seed, cell=name)
            else:
                beside = expressed.astype(np.float32)
                taken = np.argsort(-expressed, kind="stable")[: self.room]
            ids.append(counts.indices[i:j][taken].astype(np.int32))
            values.append(beside[taken])
        return ids, values

    def _framed(self, ids: Sequence[Ids], lengths: npt.NDArray[np.int64]) -> Ids:
        """Put special tokens around the genes, and padding behind."""
        framed = np.full((len(ids), lengths.max()), self.pad, dtype=np.int32)
        for row, (own, length) in enumerate(zip(ids, lengths, strict=True)):
            framed[row, :length] = np.concatenate([self.before, own, self.after])
        return framed

    def _framed_values(
        self, values: Sequence[Values] | None, lengths: npt.NDArray[np.int64]
    ) -> Values | None:
        if values is None:
            return None
        framed = np.full((len(values), lengths.max()), self.preset.pad_value, dtype=np.float32)
        first = len(self.before)
        for row, own in enumerate(values):
            framed[row, first : first + len(own)] = own
        return framed
