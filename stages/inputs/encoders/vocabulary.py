"""The genes that a model of cells knows, with their ids; one JSON file beside its weights.

The published dictionaries are pickles or lists of symbols. They are read once
(:mod:`stages.inputs.encoders.dictionaries`) and kept as ``vocabulary.json``, which holds no code.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.base.errors import CheckpointError
from stages.base.files import write_text

VOCABULARY_FILE = "vocabulary.json"
PAD, MASK, CLS, EOS, EOC = "<pad>", "<mask>", "<cls>", "<eos>", "<eoc>"


@dataclass(frozen=True)
class Vocabulary:
    """What the ids of a model of cells stand for."""

    genes: Mapping[str, int]
    """Ids of genes by name: unversioned Ensembl ids (Geneformer) or symbols (scGPT)."""
    special: Mapping[str, int]
    """Ids of ``<pad>``, and of ``<mask>``, ``<cls>``, ``<eos>`` or ``<eoc>`` where there."""
    medians: Mapping[str, float] | None = None
    """Geneformer: the non-zero median of each gene over the corpus, by gene."""
    synonyms: Mapping[str, str] | None = None
    """Other names of genes (symbols, retired ids, in capitals) to a gene of `genes`."""

    def __post_init__(self) -> None:
        """Check that every id is used once.

        Raises
        ------
        CheckpointError
            Ids repeat or leave gaps, ``<pad>`` is missing, or medians are not of these genes.
        """
        ids = sorted([*self.genes.values(), *self.special.values()])
        if ids != list(range(len(ids))):
            msg = (
                f"the vocabulary has {len(ids)} names but its ids are not 0 to {len(ids) - 1}, "
                "each once. It is damaged or mixes two versions; bring it in again."
            )
            raise CheckpointError(msg)
        if PAD not in self.special:
            msg = f"the vocabulary names no {PAD}. It is damaged; bring it in again."
            raise CheckpointError(msg)
        if self.medians is not None:
            if missing := sorted(set(self.genes) - set(self.medians)):
                msg = (
                    f"the vocabulary gives no median for {missing[0]} ({len(missing)} genes in "
                    "all): tokens and medians are of two versions. Bring both in again."
                )
                raise CheckpointError(msg)
            bad = [gene for gene in self.genes if not 0 < self.medians[gene] < math.inf]
            if bad:
                msg = (
                    f"the median of {bad[0]} is {self.medians[bad[0]]}; medians are above 0. "
                    "The vocabulary is damaged; bring it in again."
                )
                raise CheckpointError(msg)

    def __len__(self) -> int:
        """Return how many ids there are, special ones included."""
        return len(self.genes) + len(self.special)

    @property
    def pad(self) -> int:
        """Id of the padding."""
        return self.special[PAD]

    @property
    def names(self) -> list[str]:
        """Names by id, special ones included."""
        named = {number: name for name, number in (*self.genes.items(), *self.special.items())}
        return [named[number] for number in range(len(named))]


def write(vocabulary: Vocabulary, folder: Path) -> None:
    """Write ``vocabulary.json`` into a folder."""
    content = {key: value for key, value in asdict(vocabulary).items() if value is not None}
    write_text(folder / VOCABULARY_FILE, json.dumps(content, indent=0, sort_keys=True) + "\n")


def read(folder: Path) -> Vocabulary:
    """Read the vocabulary of a model's folder.

    Raises
    ------
    CheckpointError
        It is missing, no JSON, or says what cannot be.
    """
    path = folder / VOCABULARY_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Vocabulary(
            genes={str(name): int(number) for name, number in content["genes"].items()},
            special={str(name): int(number) for name, number in content["special"].items()},
            medians=_floats(content.get("medians")),
            synonyms=content.get("synonyms"),
        )
    except FileNotFoundError:
        msg = f"{path} does not exist. Bring the model in again (make reproduce)."
        raise CheckpointError(msg) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{path} is no vocabulary ({' '.join(str(error).split())[:200]}). Bring it in again."
        raise CheckpointError(msg) from None


def _floats(values: Mapping[str, Any] | None) -> dict[str, float] | None:
    return None if values is None else {str(key): float(value) for key, value in values.items()}
