"""Settings of the maps that heads are taken out as, and of what they are held against."""

from typing import Annotated, Literal

from pydantic import Field

from stages.base.sections import Confidence, Count, Section

Seed = Annotated[int, Field(ge=0)]
Correlation = Annotated[float, Field(ge=-1, le=1)]


class OperatorMaps(Section):
    """How maps are made."""

    items: Count
    """Genes (token types) at most, those that most sequences hold."""
    sequences: Count
    """Cells (windows of text) that attention is averaged over."""
    cells: Count
    """Cells, at most, that maps are judged on."""
    seed: Seed


class Labels(Section):
    """Columns of the encoded cells."""

    donor: str
    kind: str
    """A name that the ruler knows."""
    order: str
    """Numbers: how far each cell is."""
    blocks: list[str] = []
    """What else, beside the donor, labels are shuffled within, and anchors are of one value of."""


class Arccos(Section):
    """The published adaptor; its text leaves alpha and beta open."""

    alpha: Annotated[float, Field(ge=0)]
    """Weight of what is kept of the features."""
    beta: Annotated[float, Field(gt=0)]
    """Length of an angle of one radian; the largest distance is 1."""
    steps: Count
    learning_rate: Annotated[float, Field(gt=0)]


class Thresholds(Section):
    """What a candidate must reach, fixed before it is looked at."""

    trustworthiness: Annotated[float, Field(ge=0, le=1)]
    donor: Correlation
    branch: Correlation
    p: Annotated[float, Field(gt=0, lt=1)]
    """Of labels shuffled within blocks (published)."""
    p_kinds: Annotated[float, Field(gt=0, lt=1)]
    """Of distances within a branch that was held out, among rulers whose kinds change names."""


class OperatorGates(Section):
    """Which anchors there are, how they are led onto the ruler, and what they must reach."""

    labels: Labels
    fewest_cells: Count
    """Of an anchor."""
    dimensions: Annotated[list[Count], Field(min_length=1)]
    """Of the adaptor; judged by the last."""
    neighbours: Count
    """Of trustworthiness."""
    branch_kinds: Annotated[int, Field(ge=2)]
    """Kinds that a branch has at least to be held out."""
    thresholds: Thresholds
    arccos: Arccos
    permutations: Count
    wrong_rulers: Count
    spectra: Count
    """Random operators of the same spectrum."""
    components: list[Count]
    """Principal components of expression that stand beside."""
    confidence: Confidence
    draws: Annotated[int, Field(ge=20)]
    seed: Seed


class OperatorReadouts(Section):
    """What is read off, and how the operator is made small."""

    pairs: list[tuple[str, str]]
    """Kinds that are told from one another."""
    donor_folds: Annotated[int, Field(ge=2)]
    """Groups of donors that are held out in turn."""
    ranks: list[Count]
    read: Count
    write: Count
    """Entries that a hard-sparse factor keeps of what it reads and of what it writes."""
    sparse_factors: Count
    hidden: Count
    """Units of the network that reads frozen embeddings."""
    extras: list[Literal["palantir", "scvi"]] = []
    """Baselines that need packages of their own: ``pip install palantir scvi-tools``."""
    confidence: Confidence
    draws: Annotated[int, Field(ge=20)]
    seed: Seed


class OperatorFactors(Section):
    """Factors of one head, and their null."""

    rank: Annotated[int, Field(ge=2)]
    core: Annotated[int, Field(ge=1, le=5)]
    """Factors of the core, all subsets of which are kept alone."""
    rotations: Annotated[int, Field(ge=2)]
    top_genes: Count
    """Of a factor, that are asked for programmes."""
    blocks: Annotated[int, Field(ge=2)]
    """Replicates where cells have no donors."""
    confidence: Confidence
    draws: Annotated[int, Field(ge=20)]
    seed: Seed


class OperatorEdges(Section):
    """What attention knows of edges."""

    confidence: Confidence
    draws: Annotated[int, Field(ge=20)]
    seed: Seed


SECTIONS = {
    "operator_maps": OperatorMaps,
    "operator_gates": OperatorGates,
    "operator_readouts": OperatorReadouts,
    "operator_factors": OperatorFactors,
    "operator_edges": OperatorEdges,
}
