"""Which gene of a model each gene of a file is, and why the others are none."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stages.base.errors import AtlasError
from stages.inputs.encoders.presets import GeneNames
from stages.inputs.encoders.vocabulary import Vocabulary

# GENCODE marks the copy on Y of a pseudoautosomal gene behind the version: another gene.
HUMAN = re.compile(r"(ENSGR?\d+)(\.\d+)?(_PAR_Y)?", re.IGNORECASE)
OTHER_SPECIES = re.compile(r"(ENS[A-Z]{3,4}G|MGP_[A-Z0-9]+_G)\d+(\.\d+)?", re.IGNORECASE)
# Mouse symbols have one capital: Actb. Human ones with small letters (C1orf112) are few.
MOUSE_SYMBOL = re.compile(r"[A-Z][a-z0-9.-]*[a-z][a-z0-9.-]*")
UNNAMED = frozenset({"", "nan", "NaN", "None", "NA"})
SHOWN = 3

KNOWN = "known"
NO_NAME, NO_ID, FOREIGN, UNKNOWN = (
    "dropped: no name",
    "dropped: no Ensembl id",
    "dropped: of another species",
    "dropped: not in the vocabulary",
)
VERSIONED, MAPPED, MERGED = "version stripped", "renamed by a synonym", "summed into another"


@dataclass(frozen=True)
class Known:
    """The genes of a file that a model knows."""

    tokens: NDArray[np.int32]
    """Id of each gene of the file, -1 where it is dropped. (n_genes,)"""
    n_ids: int
    counted: dict[str, int]
    """Genes of the file by what became of them."""

    def only(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the counts by id, (n_cells, n_ids): columns of one gene summed, rows sorted."""
        tokens = self.tokens[counts.indices]
        kept = tokens >= 0
        ends = np.concatenate([[0], np.cumsum(kept)])
        known = sparse.csr_matrix(
            (counts.data[kept], tokens[kept], ends[counts.indptr]),
            shape=(counts.shape[0], self.n_ids),
        )
        known.sum_duplicates()
        return known


def match(
    names: Sequence[str],
    vocabulary: Vocabulary,
    *,
    given: GeneNames,
    wanted: GeneNames,
    source: str,
) -> Known:
    """Find the genes of a file in a vocabulary.

    Parameters
    ----------
    names
        Of the genes, in the order of the file.
    given, wanted
        What the file names genes by, and what the vocabulary does. Ensembl ids lose their version
        and, as upstream, take their current name (``synonyms``); symbols become ids by `synonyms`,
        and are else taken as they are written.
    source
        What an error calls the file.

    Raises
    ------
    AtlasError
        The names are mostly of another kind or species, no gene is known, or symbols are to be
        mapped and the vocabulary has no synonyms.
    """
    if given == "symbols" and wanted == "ids" and not vocabulary.synonyms:
        msg = (
            "the vocabulary has no synonyms to map symbols by. Bring it in again with its "
            "dictionary of gene names, or give Ensembl ids (--gene-column)."
        )
        raise AtlasError(msg)
    named = [name for name in map(str.strip, names) if name not in UNNAMED]
    # A model of another species, or of simulated genes, knows them by names of another form.
    n_known = sum(name in vocabulary.genes for name in named)
    as_known = given == wanted and 2 * n_known > len(named)
    if not as_known and (fault := _other_kind(named, given, wanted)):
        shown = ", ".join(named[:SHOWN])
        msg = f"the genes of {source} are named {shown}, ...: {fault}"
        raise AtlasError(msg)
    find = {"ids": _by_id, "symbols": _by_symbol}[given]
    counted: Counter[str] = Counter()
    tokens = np.full(len(names), -1, dtype=np.int32)
    for column, name in enumerate(map(str.strip, names)):
        if name in UNNAMED:
            counted[NO_NAME] += 1
        elif (token := find(name, vocabulary, counted)) is not None:
            tokens[column] = token
    known = tokens[tokens >= 0]
    counted[KNOWN] = len(known)
    counted[MERGED] = len(known) - len(np.unique(known))
    if not len(known):
        msg = (
            f"no gene of {source} is in the vocabulary of {len(vocabulary)} ids: they are named "
            f"{', '.join(names[:SHOWN]) or '(none)'}. Name the column of var with {_said(wanted)} "
            "(--gene-column)."
        )
        raise AtlasError(msg)
    return Known(tokens, len(vocabulary), {key: n for key, n in sorted(counted.items()) if n})


def _said(kind: GeneNames) -> str:
    return {"ids": "Ensembl ids", "symbols": "gene symbols"}[kind]


def _other_kind(named: Sequence[str], given: GeneNames, wanted: GeneNames) -> str | None:
    """Return what to say of names that are mostly not what they were taken for."""

    def mostly(test: Callable[[str], object]) -> bool:
        return 2 * sum(test(name) is not None for name in named) > len(named)

    if mostly(OTHER_SPECIES.fullmatch):
        return (
            "ids of another species, and the model knows human genes. Map them to human "
            "orthologues first."
        )
    if given == "symbols":
        if mostly(HUMAN.fullmatch):
            do = (
                "Name the column that has symbols (--gene-column)."
                if wanted == "symbols"
                else "Say so: --genes ids."
            )
            return f"Ensembl ids, not symbols. {do}"
        if mostly(MOUSE_SYMBOL.fullmatch):
            return (
                "symbols of mouse, and the model knows human genes. Map them to human orthologues "
                "first."
            )
    elif not mostly(HUMAN.fullmatch):
        return (
            "no Ensembl ids. Name the column of var that has them (--gene-column), or have symbols "
            "mapped: --genes symbols."
        )
    return None


def _by_id(name: str, vocabulary: Vocabulary, counted: Counter[str]) -> int | None:
    if name in vocabulary.genes:
        return vocabulary.genes[name]
    found = HUMAN.fullmatch(name)
    if found is None:
        counted[FOREIGN if OTHER_SPECIES.fullmatch(name) else NO_ID] += 1
        return None
    plain = (found[1] + (found[3] or "")).upper()
    token = _current(plain, vocabulary, counted)
    counted[VERSIONED] += found[2] is not None and token is not None
    return token


def _by_symbol(name: str, vocabulary: Vocabulary, counted: Counter[str]) -> int | None:
    if not vocabulary.synonyms:
        return _current(name, vocabulary, counted)
    # Lists of symbols hold the id where a gene has no symbol.
    if HUMAN.fullmatch(name):
        return _by_id(name, vocabulary, counted)
    return _current(name.upper(), vocabulary, counted)


def _current(name: str, vocabulary: Vocabulary, counted: Counter[str]) -> int | None:
    gene = (vocabulary.synonyms or {}).get(name, name)
    token = vocabulary.genes.get(gene)
    if token is None:
        counted[UNKNOWN] += 1
    counted[MAPPED] += token is not None and gene != name
    return token
