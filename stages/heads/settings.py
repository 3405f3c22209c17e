"""Settings of the removal of heads and of what is asked of their effects."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.base.sections import Confidence, Count, Section


class Classes(Section):
    """When a head counts as critical, and when as silent."""

    critical_relative: Annotated[float, Field(gt=0)]
    """A head is critical if its removal changes the loss by more than this share of it."""
    silent_relative: Annotated[float, Field(ge=0)]
    """A head is silent if its removal changes the loss by less than this share of it."""
    min_z: Annotated[float, Field(ge=0)]
    """A critical head's effect is also at least this many of its standard errors, if it has one."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.silent_relative > self.critical_relative:
            msg = (
                f"silent_relative {self.silent_relative:g} is above critical_relative "
                f"{self.critical_relative:g}; no head may be both silent and critical"
            )
            raise ValueError(msg)
        return self


class Distribution(Section):
    """How the distributions of effects are fitted."""

    confidence: Confidence
    draws: Count
    seed: int
    tail_min_relative: Annotated[float, Field(ge=0)]
    """The cut tail holds the effects above this share of the loss."""


class Screen(Section):
    """How first-order attribution is set beside the effects of removal."""

    confidence: Confidence
    draws: Count
    seed: int
    top_share: Annotated[float, Field(gt=0, lt=1)]
    """Share of the heads that counts as the top."""


class Seeds(Section):
    """Trainings that differ in their seed alone, and the halves of their sequences."""

    others: list[Annotated[int, Field(ge=0)]]
    """Seeds beside that of the model which `make reproduce` trains."""
    halvings: Annotated[int, Field(ge=20)]
    draws: Annotated[int, Field(ge=20)]
    """Resamplings within halves, for intervals."""
    seed: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        if len(set(self.others)) < len(self.others):
            msg = "others names a seed twice; name each once"
            raise ValueError(msg)
        return self


class SweepNoise(Section):
    """Gaussian noise over all weights of one block a draw: block i mod n_layers, seed + i."""

    alphas: list[Annotated[float, Field(gt=0)]] = []
    """Noise in units of each tensor's standard deviation; with several, draws count on."""
    draws: Annotated[int, Field(ge=0)] = 30
    seed: Annotated[int, Field(ge=0)] = 42_000


class SweepResample(Section):
    """Which reference sequences stand in for the evaluated ones."""

    draws: Count = 4
    seed: Annotated[int, Field(ge=0)] = 43_000


class SweepControlVariate(Section):
    """How the effects of most sequences are predicted from those of a few."""

    exact_sequences: Annotated[int, Field(ge=32)] = 48
    """Sequences whose effects are computed; the others' are predicted."""
    certain_share: Annotated[float, Field(ge=0, le=0.5)] = 0.25
    """Share of them that is chosen for unusual features, not at random."""
    least_r2: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Removals that the features explain less well keep the plain mean."""
    seed: Annotated[int, Field(ge=0)] = 44_000


class JointRemoval(Section):
    """Intervals of what the heads of a layer cost together and one by one."""

    confidence: Confidence
    draws: Count
    seed: Annotated[int, Field(ge=0)]


Perturbation = Literal["zero", "mean", "mean_positional", "resample"]


class RemovalKinds(Section):
    """Which ways of removal stand side by side."""

    perturbations: Annotated[list[Perturbation], Field(min_length=1)]
    resamplings: Count
    """Draws of a head's activations from other sequences."""
    confidence: Confidence
    draws: Count
    seed: Annotated[int, Field(ge=0)]


class Sweep(Section):
    """What is removed from each checkpoint, and how exactly it is computed."""

    perturbations: Annotated[list[Perturbation], Field(min_length=1)] = ["zero"]
    heads: Literal["all", "companion"] | list[tuple[int, int]] = "all"
    """All; the companion's 0, 3, 6, 9, 12, 15 of every layer; or pairs of layer and head."""
    attention: bool = False
    """All heads of a layer together, too: what single heads make up for."""
    layers: bool = False
    noise: SweepNoise = SweepNoise()
    resample: SweepResample = SweepResample()
    estimator: Literal["exact", "control_variate"] = "exact"
    """exact: every removal on every sequence; control_variate: on a few, predicted for others."""
    control_variate: SweepControlVariate = SweepControlVariate()
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    batch: Literal["auto"] | Count = "auto"
    """Sequences in one forward pass; auto fits them to cache and memory."""

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        for name, values in (("perturbations", self.perturbations), ("heads", self.heads)):
            if isinstance(values, list) and (not values or len(set(values)) < len(values)):
                msg = f"{name} is empty or names one of its entries twice; name each once"
                raise ValueError(msg)
        return self


SECTIONS = {
    "sweep": Sweep,
    "cell_heads": Sweep,
    "classes": Classes,
    "distribution": Distribution,
    "screen": Screen,
    "removal_kinds": RemovalKinds,
    "joint_removal": JointRemoval,
    "seeds": Seeds,
    "cell_seeds": Seeds,
}
