"""Settings of the atlas and of composition: which cells there are, and how they are compared."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from stages.settings.base import Address, Confidence, Count, Key, Metric, Section


class SimulatedFile(Section):
    """One file that the demo simulates, in the layout of the published file it stands for."""

    out: Path
    cohort: Literal["tms", "kimmel", "rat"]
    platform: Literal["facs", "droplet"]
    layout: Literal["anndata", "legacy", "mtx"]
    tissue: str | None = None


class FigshareFile(Section):
    """A file on figshare: the version of the article that lists it, and its own number."""

    article: Count
    version: Count
    id: Count


class RemoteFile(Section):
    """One published file: where it lies and what must be true of its bytes."""

    out: Path
    filename: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
    urls: list[Address] = []
    """Addresses, tried in this order, after those that `figshare` gives."""
    figshare: FigshareFile | None = None
    format: Literal["h5ad", "csv", "tar", "zip"]
    size_bytes: Count | None = None
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    members: list[str] = []
    """Patterns (fnmatch) of the members to unpack from an archive; empty: all of them."""

    @model_validator(mode="after")
    def _has_address(self) -> Self:
        if not self.urls and self.figshare is None:
            msg = f"{self.filename} has no address; give urls or figshare"
            raise ValueError(msg)
        return self


class Columns(Section):
    """Which column of a table of cells says what."""

    animal: str
    age: str
    cell_type: str
    tissue: str | None = None
    sex: str | None = None


class Constants(Section):
    """What a table of cells does not say because it is the same for all of them."""

    tissue: str | None = None
    sex: str | None = None


class CellsFile(Section):
    """A table of annotated cells: its file, its columns, and who is young and old in its cohort."""

    raw: Path
    cohort: str
    platform: str
    columns: Columns
    constants: Constants = Constants()
    age_months: dict[str, float] = {}
    where: dict[str, str] = {}
    """Keep only the cells whose column has this value; empty: all of them."""
    young_max_months: float
    old_min_months: float

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.columns.tissue is None and self.constants.tissue is None:
            msg = (
                "neither columns.tissue nor constants.tissue is given; "
                "name the column or state the tissue"
            )
            raise ValueError(msg)
        if self.young_max_months >= self.old_min_months:
            msg = (
                f"young_max_months {self.young_max_months:g} is not below "
                f"old_min_months {self.old_min_months:g}; "
                "no animal may be both young and old"
            )
            raise ValueError(msg)
        return self


RAT_ATLAS = "GSE137869"
NOT_THE_RAT_ATLAS = {"GSE141784": "a time course of pancreatic islets of NOD mice"}
"""Series that are cited for the rat atlas and are something else."""


class Graph(Section):
    """A tissue of a file of cells, of which a graph of neighbours is made (``atlas.graphs``)."""

    cells: str
    """A key of atlas.cells."""
    raw: Path
    """The file of these cells, as there."""
    tissue: str


class Libraries(Section):
    """A folder of the rat atlas' libraries of one tissue, as shipped (``atlas.libraries``)."""

    raw: Path
    accession: str
    """The series that the files are of."""
    cohort: str
    platform: str
    tissue: str
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z]+$")]
    """How the atlas names the tissue: BM-M-Y is the bone marrow of the young male."""
    age_months: dict[str, Annotated[float, Field(gt=0)]]
    """By the last part of a library's name: Y, O, CR."""
    min_counts: Count
    """Cells with fewer counts are left out."""

    @field_validator("accession")
    @classmethod
    def _is_the_rat_atlas(cls, accession: str) -> str:
        if accession != RAT_ATLAS:
            known = NOT_THE_RAT_ATLAS.get(accession, "another data set")
            msg = f"{accession} is {known}; the rat atlas of Ma et al. 2020 is {RAT_ATLAS}"
            raise ValueError(msg)
        return accession

    @field_validator("age_months")
    @classmethod
    def _of_every_condition(cls, months: dict[str, float]) -> dict[str, float]:
        if set(months) != {"Y", "O", "CR"}:
            msg = f"it names {', '.join(months) or 'nothing'}; give the age of Y, O and CR"
            raise ValueError(msg)
        return months


class _Atlas(Section):
    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    simulated: bool
    notice: str | None
    """What every page, figure and table made from these inputs must say."""
    cells: Annotated[dict[Key, CellsFile], Field(min_length=1)]
    graphs: dict[Key, Graph] = {}
    """Tissues whose cells are clustered; their files hold counts."""
    libraries: dict[Key, Libraries] = {}
    """Libraries of the rat atlas, which has no annotated cells."""

    @model_validator(mode="after")
    def _graphs_have_files(self) -> Self:
        for key, graph in self.graphs.items():
            if graph.cells not in self.cells:
                allowed = ", ".join(self.cells)
                msg = f"graphs.{key}.cells {graph.cells!r} is no key of cells ({allowed})"
                raise ValueError(msg)
            if graph.raw != self.cells[graph.cells].raw:
                msg = (
                    f"graphs.{key}.raw {graph.raw} is not the file of cells.{graph.cells} "
                    f"({self.cells[graph.cells].raw}); give the same"
                )
                raise ValueError(msg)
        if twice := set(self.graphs) & set(self.libraries):
            msg = f"graphs and libraries both name {min(twice)}; give one another name"
            raise ValueError(msg)
        return self


class DemoAtlas(_Atlas):
    """Simulated cohorts with known truth."""

    source: Literal["demo"]
    seed: int
    acquire: dict[Key, SimulatedFile]


class PublishedAtlas(_Atlas):
    """The published files, downloaded and verified."""

    source: Literal["published"]
    acquire: dict[Key, RemoteFile]


class LocalAtlas(_Atlas):
    """A table of cells that lies on this computer."""

    source: Literal["local"]
    acquire: Annotated[dict[str, RemoteFile], Field(max_length=0)] = {}


Atlas = Annotated[DemoAtlas | PublishedAtlas | LocalAtlas, Field(discriminator="source")]


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


class Aging(Section):
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


class Concordance(Section):
    """Which two platforms are compared, over which tissues."""

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
