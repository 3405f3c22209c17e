"""Settings of composition and of clustering."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from stages.base.sections import Confidence, Count, Key, Metric, Section


class Proportions(Section):
    """Which samples count."""

    min_cells: Count
    pooled_pattern: str

    @field_validator("pooled_pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            msg = f"{pattern!r} is not a regular expression ({error})"
            raise ValueError(msg) from None
        return pattern


class Rarefaction(Section):
    """Equal numbers of cells in every sample of a tissue."""

    draws: Count
    depth: Count | None
    seed: int


class Metrics(Section):
    """How the two numbers are taken."""

    category_set: Literal["present", "tissue", "fixed"]
    fixed_categories: list[str]
    rarefaction: Rarefaction

    @model_validator(mode="after")
    def _fixed_has_categories(self) -> Self:
        if self.category_set == "fixed" and not self.fixed_categories:
            msg = "category_set is fixed but fixed_categories is empty; list the cell types"
            raise ValueError(msg)
        return self


class Contrast(Section):
    """How young and old are compared."""

    metrics: Annotated[list[Metric], Field(min_length=1)]
    confidence: Confidence
    max_permutations: Count
    seed: int

    @field_validator("metrics")
    @classmethod
    def _plane(cls, metrics: list[str]) -> list[str]:
        if missing := {"gini", "effective_number"} - set(metrics):
            msg = f"{sorted(missing)} missing: the quadrant needs gini and effective_number"
            raise ValueError(msg)
        return metrics


class Medians(Section):
    """The medians of both age groups as a measured system: intervals and draws over animals."""

    confidence: Confidence
    draws: Annotated[int, Field(ge=20)]
    max_permutations: Count
    """Arrangements of ages are counted up to this many, drawn at random beyond it."""
    seed: Annotated[int, Field(ge=0)]


class Multiverse(Section):
    """Choices of analysis that the study could have made otherwise, beside those that it has."""

    min_cells: list[Count]
    """Least numbers of cells of an animal, beside that of `proportions`."""


class Trend(Section):
    """The trend over all ages."""

    confidence: Confidence
    max_permutations: Count
    """Arrangements of ages are enumerated up to this many, drawn at random beyond it."""
    seed: Annotated[int, Field(ge=0)]


class Comparators(Section):
    """Other methods of the field."""

    pseudo_count: Annotated[float, Field(gt=0)]
    """Added to every count before the log-ratio."""
    max_permutations: Count
    seed: Annotated[int, Field(ge=0)]


class Reconstruction(Section):
    """Faults that a reconstruction of animals could have made."""

    exchanged_shares: list[Annotated[float, Field(gt=0, le=0.5)]]
    """Of the cells of two animals that are exchanged; at 0.5 both are the same mixture."""
    exchanges: Count
    """Times that each exchange is drawn."""
    draws: Count
    """Sets of several faults."""
    seed: Annotated[int, Field(ge=0)]


class Concordance(Section):
    """Which two platforms are compared, over which tissues.

    Of an atlas without this cohort, the first one on two platforms and the first two of these.
    """

    cohort: str
    platforms: Annotated[list[str], Field(min_length=2, max_length=2)]
    metrics: Annotated[list[Metric], Field(min_length=1)]
    tissue_map: dict[str, list[str]]
    max_permutations: Count
    seed: int


class Drivers(Section):
    """How a change is shared out over cell types."""

    confidence: Confidence
    draws: Count
    pseudo_count: Annotated[float, Field(gt=0)]
    seed: int


Resolution = Annotated[float, Field(gt=0)]
GroupSize = Annotated[int, Field(ge=2, le=20)]
"""Animals of one age: an interval needs two, and exact counting allows about twenty."""


class Neighbours(Section):
    """How counts become a graph of neighbours: the part of clustering that is least stable."""

    target_sum: Annotated[float, Field(gt=0)]
    """Every cell is normalised to this many counts, before log1p."""
    min_cells_per_gene: Count
    """Genes that fewer cells express are left out."""
    hvg_flavor: Literal["seurat", "cell_ranger"]
    n_top_genes: Count
    """Highly variable genes; all, if there are fewer."""
    n_comps: Count
    """Principal components; fewer, where cells or genes are too few."""
    svd_solver: Literal["arpack", "covariance_eigh", "full"]
    n_neighbors: Annotated[int, Field(ge=2)]
    metric: Literal["euclidean", "cosine"]
    seed: Annotated[int, Field(ge=0)]


class Leiden(Section):
    """Which Leiden algorithm, and how it is run; nothing is left to a default."""

    flavor: Literal["leidenalg", "igraph"]
    """The study's is leidenalg."""
    n_iterations: Annotated[int, Field(ge=-1)]
    """-1: until nothing improves."""
    directed: bool
    seed: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.flavor == "igraph" and self.directed:
            msg = "flavor igraph has no directed graphs; set directed to false"
            raise ValueError(msg)
        if self.n_iterations == 0:
            msg = "n_iterations 0 would leave every cell a cluster; give -1 or at least 1"
            raise ValueError(msg)
        return self


def _ascending(values: list[float]) -> list[float]:
    if values != sorted(set(values)):
        msg = "the resolutions must ascend, each once"
        raise ValueError(msg)
    return values


class Clusters(Section):
    """At which resolutions clusters are made, and how they are measured and compared."""

    resolutions: Annotated[list[Resolution], Field(min_length=1)]
    reference: Resolution
    """The resolution that a figure of a single one shows."""
    category_set: Literal["present", "tissue"]
    """Clusters that count as components: present in the animal's sample, or in any animal."""
    equal_cells: Rarefaction
    """The same number of cells of every animal; results from all cells stand beside it."""
    contrast: Contrast

    _order = field_validator("resolutions")(_ascending)

    @model_validator(mode="after")
    def _has_reference(self) -> Self:
        if self.reference not in self.resolutions:
            msg = f"reference {self.reference:g} is not one of the resolutions; add it to them"
            raise ValueError(msg)
        return self


Otherwise = Literal["all", "first tissue", "later cohorts"]


class Granularity(Section):
    """Which tissues of which cohorts are followed from coarse to fine clusters."""

    cohorts: Annotated[list[str], Field(min_length=1)]
    tissues: Annotated[list[str], Field(min_length=1)]
    otherwise: Otherwise
    """Which graphs of an atlas that has none of these cohorts."""
    resolutions: list[Resolution]
    """Beside those of `clusters`."""
    adjusted_over: Literal["tissues", "resolutions"]
    """What the p-values of a cohort and platform are adjusted over: the tissues at one resolution,
    or the resolutions of one tissue."""

    _order = field_validator("resolutions")(_ascending)


class Substates(Section):
    """Clusters within each cell type."""

    cohorts: Annotated[list[str], Field(min_length=1)]
    tissues: Annotated[list[str], Field(min_length=1)]
    resolutions: Annotated[list[Resolution], Field(min_length=1)]
    min_cells: Count
    """An animal with fewer cells of a type is left out for that type."""
    min_animals: Annotated[int, Field(ge=2)]
    """A type needs this many young and this many old animals."""

    _order = field_validator("resolutions")(_ascending)


class Stability(Section):
    """How often a direction holds when the seed and the cells change."""

    seeds: Annotated[int, Field(ge=2)]
    subsamples: Annotated[int, Field(ge=0)]
    """Beside all cells: random parts of each animal's cells, each clustered with every seed."""
    cells_share: Annotated[float, Field(gt=0, lt=1)]
    min_share: Annotated[float, Field(gt=0.5, le=1)]
    """A direction is stable if it holds in at least this share of the different clusterings."""
    confidence: Confidence
    """Of the interval of that share."""
    seed: Annotated[int, Field(ge=0)]


class Calibration(Section):
    """Studies simulated as the real ones vary, without a change and with planted ones."""

    cohorts: Annotated[list[str], Field(min_length=1)]
    """Whose arms say how compositions, animals and numbers of cells vary; those that are there."""
    studies: Count
    """Of each design, at least: they are spread evenly over the arms of a cohort."""
    designs: Annotated[list[tuple[GroupSize, GroupSize]], Field(min_length=1)]
    """Young and old animals, beside the sizes that the arms themselves have."""
    gini_shifts: list[Annotated[float, Field(gt=0, lt=1)]]
    """Planted changes of the Gini coefficient of the mean composition."""
    seed: Annotated[int, Field(ge=0)]


class Restriction(Section):
    """How sure a rescue is, as far as the number of cells goes."""

    confidence: Confidence
    draws: Count
    seed: Annotated[int, Field(ge=0)]


SECTIONS = {
    "proportions": Proportions,
    "metrics": Metrics,
    "contrast": Contrast,
    "medians": Medians,
    "multiverse": Multiverse,
    "trend": Trend,
    "comparators": Comparators,
    "reconstruction": Reconstruction,
    "concordance": Concordance,
    "drivers": Drivers,
    "neighbours": Neighbours,
    "leiden": Leiden,
    "clusters": Clusters,
    "granularity": dict[Key, Granularity],
    "substates": Substates,
    "stability": Stability,
    "calibration": Calibration,
    "restriction": Restriction,
}
