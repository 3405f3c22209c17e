"""Settings of the removal of pairs of heads and of what is asked of their epistasis."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.base.sections import Confidence, Count, Section
from stages.measurement.states import STATE


class Pairs(Section):
    """Which pairs of heads are removed, in which states, on how much text."""

    states: list[Annotated[str, Field(pattern=STATE)]]
    """Of the checkpoints of the model; none without a model."""
    perturbations: Annotated[
        list[Literal["zero", "mean", "mean_positional", "resample"]], Field(min_length=1)
    ] = ["mean"]
    resamplings: Count = 1
    """Draws of a head's activations from other sequences."""
    which: Literal["all", "published", "published_reranked"] = "all"
    """All pairs; or, for models with too many, those of the heads with the largest effects and
    some random ones, as published (see :mod:`stages.pairs.choice`)."""
    top: Annotated[int, Field(ge=2)] = 30
    """Heads of the largest effects; a quarter of all heads, if that is fewer."""
    random: Count = 50
    """Random pairs."""
    n_sequences: Annotated[int, Field(ge=2)] | None = None
    """Sequences (cells) that losses are measured on at most, the first of those evaluated; none:
    all."""
    seq_len: Annotated[int, Field(ge=2)] | None = None
    """First tokens of each sequence that are read; none: all. Of cells always all genes."""
    cumulative: Annotated[int, Field(ge=0)] = 8
    """Heads that are removed one after another, each the one that adds most to those before."""
    precision: Literal["float32", "float64"] = "float32"
    """Of the passes. Single precision moves the loss of a sequence by 1e-7 nats, of which the
    effects of pairs may be no more before training; double precision takes twice as long."""
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        for name in ("states", "perturbations"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                msg = f"{name} names one of its entries twice; name each once"
                raise ValueError(msg)
        return self


class Epistasis(Section):
    """Intervals, floors and nulls of what pairs do beyond the sum of their heads."""

    confidence: Confidence
    draws: Annotated[int, Field(ge=20)]
    """Resamplings of the sequences."""
    permutations: Annotated[int, Field(ge=20)]
    """Of the pairs' effects over pairs, for rank and communities."""
    min_z: Annotated[float, Field(gt=0)]
    """Standard errors beyond which an effect is told from 0."""
    seed: Annotated[int, Field(ge=0)]


SECTIONS = {"pairs": Pairs, "cell_pairs": Pairs, "epistasis": Epistasis}
