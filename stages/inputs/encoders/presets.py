"""How published models of cells, and published studies of them, turn a cell into tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stages.base.errors import CheckpointError
from stages.inputs.encoders.vocabulary import CLS, EOS, Vocabulary

GeneNames = Literal["ids", "symbols"]


@dataclass(frozen=True)
class Preset:
    """One way to encode a cell. What is not said follows the model's own code."""

    statement: str
    """One sentence; it says what deviates from the model's own encoding."""
    order: Literal["ranked", "binned", "top"]
    """``ranked``: Geneformer's ranks; ``binned``: scGPT's; ``top``: by expression, as values."""
    genes: GeneNames
    """How the vocabulary names genes."""
    max_length: int
    """Tokens of a cell, special ones included."""
    limit: int | None
    """Positions that the model has; None: it has none, and any length will do."""
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Special tokens in front of the genes and behind them."""
    pad_value: float = 0.0
    """Value beside padding and beside `before`."""
    counts: bool = True
    """Whether nothing but raw counts is read; else any values of at least 0."""
    logged: bool = False
    """Whether log1p is taken before the division by the medians."""
    deviates: bool = False

    @property
    def n_special(self) -> int:
        """How many tokens of a cell are no genes."""
        return len(self.before) + len(self.after)

    def require(self, vocabulary: Vocabulary, name: str) -> None:
        """Stop if a vocabulary is of another model, or of its other version.

        Raises
        ------
        CheckpointError
            A special token is missing or too many, or medians are.
        """
        ranked = self.order == "ranked"
        if missing := [
            token for token in self.before + self.after if token not in vocabulary.special
        ]:
            msg = (
                f"the preset {name} needs {missing[0]}, which the vocabulary of {len(vocabulary)} "
                f"ids has not: it is of {_kind(vocabulary)}. {_presets_for(vocabulary)}"
            )
        elif ranked and vocabulary.medians is None:
            msg = (
                f"the preset {name} divides by medians of genes, and the vocabulary has none: it "
                f"is of {_kind(vocabulary)}. {_presets_for(vocabulary)}"
            )
        elif ranked != (vocabulary.medians is not None) or (
            ranked and not self.before and CLS in vocabulary.special
        ):
            msg = (
                f"the preset {name} does not fit the vocabulary of {len(vocabulary)} ids, which is "
                f"of {_kind(vocabulary)}. {_presets_for(vocabulary)}"
            )
        else:
            return
        raise CheckpointError(msg)


def _kind(vocabulary: Vocabulary) -> str:
    if vocabulary.medians is None:
        return "scGPT"
    return "Geneformer V2" if CLS in vocabulary.special else "Geneformer V1"


def _presets_for(vocabulary: Vocabulary) -> str:
    fitting = {
        "scGPT": "scgpt or scgpt-as-mapped",
        "Geneformer V2": "geneformer-v2 or geneformer-as-traced",
        "Geneformer V1": "geneformer-v1",
    }[_kind(vocabulary)]
    return f"Take {fitting}, or the vocabulary of the other model."


PRESETS: Mapping[str, Preset] = {
    # TranscriptomeTokenizer with model_version="V1" (Theodoris et al. 2023, Nature 618:616).
    "geneformer-v1": Preset(
        statement="Geneformer V1: counts per 10,000 divided by the gene's median, ranked; the "
        "first 2,048 genes, no special tokens.",
        order="ranked",
        genes="ids",
        max_length=2048,
        limit=2048,
    ),
    # The same with its defaults since V2 (Chen et al. 2024).
    "geneformer-v2": Preset(
        statement="Geneformer V2: counts per 10,000 divided by the gene's median, ranked; the "
        "first 4,094 genes between <cls> and <eos>.",
        order="ranked",
        genes="ids",
        max_length=4096,
        limit=4096,
        before=(CLS,),
        after=(EOS,),
    ),
    # embed_data and DataCollator (Cui et al. 2024, Nature Methods 21:1470); max_seq_len, n_bins and
    # pad_value of the whole-human args.json.
    "scgpt": Preset(
        statement="scGPT whole-human: expressed genes in 50 quantile bins of the cell, ties spread "
        "at random; <cls> in front; of longer cells 1,199 genes at random.",
        order="binned",
        genes="symbols",
        max_length=1200,
        limit=None,
        before=(CLS,),
        pad_value=-2.0,
    ),
    # Biodyn-AI/sae-biological-map and its relatives: the sparse autoencoders of "K562" and their
    # tracing. 2,048 although the model has 4,096 positions.
    "geneformer-as-traced": Preset(
        statement="As in the tracing of Geneformer's sparse autoencoders, not as in Geneformer: "
        "values, there log1p of counts per 10,000 already, are scaled to 10,000 and log1p is taken "
        "again before the division by the median (1.0 where there is none), which changes ranks; "
        "2,046 genes between <cls> and <eos>.",
        order="ranked",
        genes="ids",
        max_length=2048,
        limit=4096,
        before=(CLS,),
        after=(EOS,),
        counts=False,
        logged=True,
        deviates=True,
    ),
    # topology-biomechinterp1: the geometry of scGPT's genes. 512 is the default of its scripts.
    "scgpt-as-mapped": Preset(
        statement="As in the maps of scGPT's gene geometry, not as in scGPT: the most expressed "
        "genes, values as they stand in the file instead of bins, no <cls>, padding of value 0.",
        order="top",
        genes="symbols",
        max_length=512,
        limit=None,
        counts=False,
        deviates=True,
    ),
}
