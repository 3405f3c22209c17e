"""Settings of sparse autoencoders and of what is asked of their features."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from stages.base.sections import Confidence, Count, Section


def _plain(path: Path) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9_./][A-Za-z0-9_./-]*", path.as_posix()):
        msg = "dvc.yaml puts it into commands; use letters, digits, dots, - _ and / only"
        raise ValueError(msg)
    return path


PlainPath = Annotated[Path, AfterValidator(_plain)]


class Features(Section):
    """Of which model the features are."""

    of: Literal["cellmodel", "model"]
    """The model of cells, or the language model; in its last state."""
    names: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]]
    """Its name, for ``dvc.yaml``; empty where there is none."""
    checkpoints: PlainPath
    """Folder of its states."""
    states: list[str]
    """The last of them."""
    reads: Literal["cells", "tokens"]
    """What it reads, as the folder of that is called."""
    study: Literal["cellmodel", "heads"]
    """Which statement is about it."""
    kinds: dict[Literal["cellmodel", "model"], dict[str, str]]
    """What the last two are for either."""
    known: PlainPath
    """Folder of what is known of its genes."""
    tables: Path
    """What the paper reads of it."""
    without: dict[str, Path]
    """What it reads instead, by the source of the model."""


class Training(Section):
    """Size of an autoencoder and how it is trained."""

    features: Annotated[int, Field(ge=2)]
    k: Count
    """Features that fire at a position, at most."""
    epochs: Count
    batch: Count
    """Rows a step."""
    learning_rate: Annotated[float, Field(gt=0)]
    auxiliary: Annotated[float, Field(ge=0)]
    """Weight of what dead features make of the error."""
    dead_k: Count
    """Of which so many fire at a position."""
    dead_after: Count
    """Rows without firing that make a feature dead."""
    seed: Annotated[int, Field(ge=0)]


class Autoencoders(Section):
    """Which autoencoders are trained, and on what."""

    training: Training
    layers: list[Annotated[int, Field(ge=0)]] | None
    """Those that get one, counted from 0; none: all."""
    source: Annotated[int, Field(ge=0)] | None
    """The layer whose features are traced: what leaves that block; none: a third of the way."""
    seeds: Count
    """Trainings of each layer that differ in their seed."""
    mean: Literal["token", "all"]
    """What is taken from the stream first: the mean by what is read there, or one mean."""
    positions: Count
    """Rows that are trained on, from cells (text) that nothing is traced on."""
    judged: Count
    """Sequences on which autoencoders are judged."""
    min_frequency: Annotated[float, Field(ge=0, lt=1)]
    """A feature that fires at a smaller share of positions is not alive."""


class Trace(Section):
    """How features are traced, and what counts as an edge."""

    sequences: Annotated[int, Field(ge=8)]
    """Cells (texts) that features are switched off in."""
    min_sequences: Annotated[int, Field(ge=5)]
    """A feature that fires in fewer of them has no edges."""
    min_d: Annotated[float, Field(gt=0)]
    """Published rule: an edge has a mean effect above so many standard deviations over cells,"""
    min_consistency: Annotated[float, Field(gt=0.5, le=1)]
    """and this share of the cells on one side."""
    flips: Annotated[int, Field(ge=99)]
    """Of the signs of cells, for the null of no effect."""
    max_q: Annotated[float, Field(gt=0, lt=1)]
    """Calibrated rule: and a share of false discoveries below this."""
    moved: Annotated[float, Field(gt=0)]
    """A later feature is moved in a cell by more than this share of its usual code."""
    nulls: Annotated[int, Field(ge=3)]
    """Features of each seed whose direction is replaced by others."""
    seeds: Count
    """Autoencoders that are traced; after the first, on the features of `nulls` alone."""
    draws: Count
    confidence: Confidence
    seed: Annotated[int, Field(ge=0)]


class Combine(Section):
    """Sets of features that are switched off together."""

    sets: Count
    sequences: Annotated[int, Field(ge=8)]
    min_sequences: Annotated[int, Field(ge=5)]
    """In which a set fires together."""
    draws: Annotated[int, Field(ge=20)]
    confidence: Confidence
    seed: Annotated[int, Field(ge=0)]


class Steer(Section):
    """Features that are amplified in early cells."""

    order: str
    """A column of the encoded cells: where each stands along an order."""
    groups: str
    """A column: the donors, half of which choose features, the other half of which are steered."""
    features: Count
    """Those that rise with the order, and as many that fall."""
    doses: Annotated[list[Annotated[float, Field(gt=1)]], Field(min_length=1)]
    sequences: Annotated[int, Field(ge=4)]
    """Early cells that are steered."""
    min_sequences: Count
    """Of these, in which a feature fires."""
    fitted: Annotated[int, Field(ge=60)]
    """Cells that readouts are fitted on."""
    markers: Count
    """Items that are more common late, and as many early."""
    draws: Annotated[int, Field(ge=20)]
    confidence: Confidence
    seed: Annotated[int, Field(ge=0)]


class Annotate(Section):
    """How features are named by what is known of genes, cells or tokens."""

    label: str
    """A column of the encoded cells: what kind each is."""
    cells: Annotated[int, Field(ge=30)]
    """Cells in which the top genes and the top cells of a feature are found."""
    top: Annotated[int, Field(ge=5)]
    """Genes, and cells."""
    min_count: Count
    """A gene that is read less often is not in the background."""
    hubs: Count
    """Features with the most edges."""
    max_q: Annotated[float, Field(gt=0, lt=1)]
    seed: Annotated[int, Field(ge=0)]


SECTIONS: dict[str, type[Section]] = {
    "features": Features,
    "autoencoders": Autoencoders,
    "trace": Trace,
    "combine": Combine,
    "steer": Steer,
    "annotate": Annotate,
}
