"""Settings of the model and its text, of the sweep over its heads, and of their analysis."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from stages.settings.base import Address, Confidence, Count, Section


class Text(Section):
    """Which text a model is measured on, and how it becomes tokens."""

    protocol: Literal["wikitext", "file", "corpus"]
    """wikitext: the published one; file: the same on a local text; corpus: pythia-mini's own."""
    n_sequences: Count
    reference_sequences: Count
    """How many sequences of other text, over which a head's mean is taken."""
    seq_len: Annotated[int, Field(ge=2)]
    min_characters: Annotated[int, Field(ge=0)] = 0
    """Lines that are shorter without surrounding white space are dropped."""
    path: Path | None = None
    """A local file: any text (file), or the Parquet shard put there by hand (wikitext)."""
    repo: str | None = None
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    file: str | None = None

    @model_validator(mode="after")
    def _has_source(self) -> Self:
        if self.protocol == "file" and self.path is None:
            msg = "protocol is file but text.path is not given; name the text file"
            raise ValueError(msg)
        remote = (self.repo, self.revision, self.file)
        if self.protocol == "wikitext" and self.path is None and None in remote:
            msg = "protocol wikitext needs repo, revision and file, or the path of a local shard"
            raise ValueError(msg)
        return self


class MiniCorpus(Section):
    """The text that pythia-mini learns from: docstrings of packages at pinned versions."""

    packages: Annotated[dict[str, str], Field(min_length=1)]
    """Name of the package: the version in requirements.txt."""
    min_characters: Annotated[int, Field(ge=0)]
    heldout_share: Annotated[float, Field(gt=0, lt=0.5)]
    reference_share: Annotated[float, Field(gt=0, lt=0.5)]


class MiniTraining(Section):
    """The architecture of pythia-mini and the recipe of its training."""

    seed: int
    n_layers: Count
    n_heads: Count
    hidden_size: Count
    intermediate_size: Count
    vocab_size: Annotated[int, Field(ge=257)]
    seq_len: Annotated[int, Field(ge=2)]
    steps: Count
    """Length of the learning-rate schedule; training ends at the last checkpoint."""
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0)]
    final_fraction: Annotated[float, Field(ge=0, le=1)]
    """The cosine ends at this fraction of the learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)]
    betas: Annotated[list[float], Field(min_length=2, max_length=2)]
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Annotated[float, Field(gt=0)]
    threads: Count
    """Fixed, since sums over another number of threads round differently."""
    save_every: Count
    """Steps between two saved states, from which a killed training goes on."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden_size % self.n_heads:
            msg = (
                f"hidden_size {self.hidden_size} is no multiple of n_heads {self.n_heads}; "
                "every head has the same width"
            )
            raise ValueError(msg)
        return self


class Revision(Section):
    """What pins one checkpoint on the Hub: its branch is ``step<N>``, which may move."""

    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    bin_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    safetensors_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class _Model(Section):
    name: Annotated[str, Field(pattern=r"^[a-z0-9_.-]+$")]
    demo: bool
    notice: str | None
    """What every page, figure and table made from this model must say."""
    folder: Path
    """Holds one folder a checkpoint, ``step<N>``, in the Hub's layout."""
    checkpoints: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    text: Text

    @field_validator("folder")
    @classmethod
    def _plain_word(cls, folder: Path) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_./][A-Za-z0-9_./-]*", folder.as_posix()):
            msg = "dvc.yaml puts it into commands; use letters, digits, dots, - _ and / only"
            raise ValueError(msg)
        return folder

    @field_validator("checkpoints")
    @classmethod
    def _ascending(cls, checkpoints: list[int]) -> list[int]:
        if checkpoints != sorted(set(checkpoints)):
            msg = "the steps must ascend, each once"
            raise ValueError(msg)
        return checkpoints


class MiniModel(_Model):
    """A small model of Pythia's architecture, trained here."""

    source: Literal["mini"]
    corpus: MiniCorpus
    train: MiniTraining

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.text.seq_len > self.train.seq_len:
            msg = (
                f"text.seq_len {self.text.seq_len} is above train.seq_len {self.train.seq_len}; "
                "the model has never seen so late a position"
            )
            raise ValueError(msg)
        if self.checkpoints[-1] > self.train.steps:
            msg = (
                f"checkpoint {self.checkpoints[-1]} is beyond train.steps {self.train.steps}; "
                "drop it or train for longer"
            )
            raise ValueError(msg)
        return self


class HubModel(_Model):
    """A published model, from the Hugging Face Hub or from a folder in its layout."""

    source: Literal["hub"]
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revisions: dict[Annotated[str, Field(pattern=r"^step\d+$")], Revision] = {}
    """By branch; a checkpoint that is not listed is taken from its branch."""
    local: Path | None = None
    """A folder that holds ``step<N>`` folders, used instead of the Hub."""
    max_drift_drop: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """By how much the embedding may come back towards the first checkpoint from one to the next."""

    @model_validator(mode="after")
    def _text_is_elsewhere(self) -> Self:
        if self.text.protocol == "corpus":
            msg = "protocol corpus is pythia-mini's; choose wikitext or file"
            raise ValueError(msg)
        return self


Model = Annotated[MiniModel | HubModel, Field(discriminator="source")]


class PublishedEffects(Section):
    """A published table of effects: where it lies and what must be true of its bytes."""

    filename: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
    urls: Annotated[list[Address], Field(min_length=1)]
    """Addresses, tried in this order."""
    size_bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class NoiseFloor(Section):
    """What the metrics of heads would be if no head had an effect."""

    confidence: Confidence
    draws: Count
    seed: int


class Trajectory(Section):
    """The metrics of heads along training."""

    confidence: Confidence
    draws: Count
    seed: int


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


class Sweep(Section):
    """What is removed from each checkpoint, and how exactly it is computed."""

    perturbations: Annotated[
        list[Literal["zero", "mean", "mean_positional", "resample"]], Field(min_length=1)
    ] = ["zero"]
    heads: Literal["all", "companion"] | list[tuple[int, int]] = "all"
    """All; the companion's 0, 3, 6, 9, 12, 15 of every layer; or pairs of layer and head."""
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
