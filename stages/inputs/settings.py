"""Settings of the inputs: which cells, which model, which text."""

import math
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from stages.base.sections import Address, Count, Key, Section
from stages.inputs.encoders.presets import PRESETS
from stages.inputs.encoders.settings import Encoding
from stages.inputs.groups import Groups
from stages.measurement.states import STATE, step_of

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


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
    filename: FileName
    urls: list[Address] = []
    """Addresses, tried in this order, after those that `figshare` gives."""
    figshare: FigshareFile | None = None
    format: Literal["h5ad", "csv", "tar", "zip"]
    size_bytes: Count | None = None
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    sha256: Sha256 | None = None
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
    """An animal or a donor: what was sampled independently."""
    cell_type: str
    age: str | None = None
    condition: str | None = None
    """What was done to it, or what it has."""
    tissue: str | None = None
    sex: str | None = None
    block: str | None = None
    """What animals must share to be exchanged in a test: a batch, a litter, a pair."""
    n_cells: str | None = None
    """How many cells a row stands for; None: one."""


class Constants(Section):
    """What a table of cells does not say because it is the same for all of them."""

    tissue: str | None = None
    sex: str | None = None


Evidence = Literal["annotation", "reconstructed", "simulated"]
"""What names the animal of each cell: the atlas itself, an inference from other public tables, or
the demo's model, which made the animals too."""


def _pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        msg = f"it is not a regular expression ({error})"
        raise ValueError(msg) from None
    return pattern


class CellsFile(Section):
    """A table of annotated cells: its file, its columns, and what is compared in it.

    Two entries of one file, with other groups and another name of the cohort, are two contrasts.
    """

    raw: Path
    cohort: Annotated[str, Field(pattern=r"^\S+$")]
    platform: Annotated[str, Field(pattern=r"^\S+$")]
    columns: Columns
    groups: Groups
    constants: Constants = Constants()
    animal_pattern: Annotated[str, AfterValidator(_pattern)] | None = None
    """A regular expression: what it finds in the column of animals is the animal (``[0-9]+`` makes
    101 of both ctrl101 and stim101)."""
    age_unit: Literal["days", "weeks", "months", "years"] | None = None
    """Of ages that are plain numbers."""
    age_months: dict[str, float] = {}
    """Of labels that are no ages: in months."""
    where: dict[str, str] = {}
    """Keep only the cells whose column has this value; empty: all of them."""
    unannotated: list[str] = []
    """Labels of cell types that are none, beside an empty one."""
    modality: str | None = None
    """Whose table of cells a MuData gives; None: that of the whole."""
    evidence: Evidence = "annotation"
    basis: str = ""
    """How the animals were found, where the file itself does not say it."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        columns = self.columns
        if columns.tissue is None and self.constants.tissue is None:
            msg = (
                "neither columns.tissue nor constants.tissue is given; "
                "name the column or state the tissue"
            )
            raise ValueError(msg)
        if self.groups.by_age and columns.age is None:
            msg = "groups are of ages but columns.age is not given; name the column of ages"
            raise ValueError(msg)
        if not self.groups.by_age and columns.condition is None:
            msg = (
                "groups are labels but columns.condition is not given; name the column that holds "
                "them"
            )
            raise ValueError(msg)
        return self


class DatasetColumns(Columns):
    """Which column says what in a table of many datasets."""

    dataset: str | None = None
    """What was annotated and published together; None: all of it is one."""


class Datasets(CellsFile):
    """A table of the cells of many datasets, each compared by itself (``atlas.datasets``)."""

    columns: DatasetColumns


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
    evidence: Evidence = "annotation"

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
    notice: str | None
    """What every page, figure and table made from simulated arms must say."""
    cells: dict[Key, CellsFile]
    datasets: dict[Key, Datasets] = {}
    """Tables of many datasets, which are pooled and not shown one by one."""
    graphs: dict[Key, Graph] = {}
    """Tissues whose cells are clustered; their files hold counts."""
    libraries: dict[Key, Libraries] = {}
    """Libraries of the rat atlas, which has no annotated cells."""

    @model_validator(mode="after")
    def _has_cells(self) -> Self:
        if not self.cells and not self.datasets:
            msg = "cells or datasets must have at least 1 item"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _notice_where_simulated(self) -> Self:
        evidence = {spec.evidence for spec in (*self.cells.values(), *self.datasets.values())}
        evidence |= {of.evidence for of in self.libraries.values()}
        simulated = "simulated" in evidence
        if simulated != bool(self.notice):
            msg = (
                "some cells are simulated; give the notice that pages made from them must bear"
                if simulated
                else "a notice says what is simulated, and no evidence is; drop it"
            )
            raise ValueError(msg)
        return self

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
    """Cells that the repository holds, and simulated cohorts with known truth."""

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


class Recipe(Section):
    """The size of a small transformer that is trained here, and how it is trained."""

    seed: int
    n_layers: Count
    n_heads: Count
    hidden_size: Count
    intermediate_size: Count
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


class MiniTraining(Recipe):
    """The recipe of pythia-mini."""

    vocab_size: Annotated[int, Field(ge=257)]
    seq_len: Annotated[int, Field(ge=2)]


class Revision(Section):
    """What pins one checkpoint on the Hub: its branch, whose name it bears, may move."""

    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    sha256: dict[str, Sha256] = {}
    """Of its files of weights, by name."""


def _ascending(values: list[float]) -> list[float]:
    if values != sorted(set(values)):
        msg = "the resolutions must ascend, each once"
        raise ValueError(msg)
    return values


def _named(name: object) -> object:
    if isinstance(name, int | float):
        msg = f"a state has a name; write step{name}"
        raise ValueError(msg)  # noqa: TRY004 - pydantic tells only these as faults of a value
    return name


StateName = Annotated[str, BeforeValidator(_named), Field(pattern=STATE)]
"""A revision on the Hub (branch, tag), and the folder of its files; ``step<N>`` is a step."""


def _plain(path: Path) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9_./][A-Za-z0-9_./-]*", path.as_posix()):
        msg = "dvc.yaml puts it into commands; use letters, digits, dots, - _ and / only"
        raise ValueError(msg)
    return path


Word = Annotated[Path, AfterValidator(_plain)]
"""A path that stands in a command."""


class _States(Section):
    """A model in several states."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_.-]+$")]
    demo: bool
    notice: str | None
    """What every page, figure and table made from this model must say."""
    folder: Word
    """Holds one folder a state, by its name, in the Hub's layout."""
    checkpoints: Annotated[list[StateName], Field(min_length=1)]
    """Names of the states, in order."""
    positions: dict[StateName, Annotated[float, Field(ge=0)]] = {}
    """Where states stand that are not called ``step<N>``; without, their order alone counts."""

    @field_validator("checkpoints")
    @classmethod
    def _each_once(cls, checkpoints: list[str]) -> list[str]:
        if len(set(checkpoints)) < len(checkpoints):
            msg = "a state is named twice; name each once"
            raise ValueError(msg)
        return checkpoints

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        if unknown := [name for name in self.positions if name not in self.checkpoints]:
            msg = f"positions names {unknown[0]}, which is not among checkpoints; add or drop it"
            raise ValueError(msg)
        known = [at for at in map(self.position, self.checkpoints) if not math.isnan(at)]
        if known != sorted(set(known)):
            msg = "the positions of checkpoints must ascend, each at another"
            raise ValueError(msg)
        return self

    def position(self, state: str) -> float:
        """Return where a state stands: as given, or N of ``step<N>``; nan if neither says it."""
        step = step_of(state)
        return self.positions.get(state, math.nan if step is None else float(step))


class _Model(_States):
    text: Text


def _check_steps(checkpoints: list[str], recipe: Recipe) -> None:
    if other := [name for name in checkpoints if step_of(name) is None]:
        msg = f"checkpoint {other[0]} is no step of a training; write step<N>"
        raise ValueError(msg)
    if (step_of(checkpoints[-1]) or 0) > recipe.steps:
        msg = (
            f"checkpoint {checkpoints[-1]} is beyond train.steps {recipe.steps}; "
            "drop it or train for longer"
        )
        raise ValueError(msg)


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
        _check_steps(self.checkpoints, self.train)
        return self

    @property
    def steps(self) -> list[int]:
        """The steps at which its training keeps a checkpoint."""
        return [step for name in self.checkpoints if (step := step_of(name)) is not None]


class HubModel(_Model):
    """A published model, from the Hugging Face Hub or from a folder in its layout."""

    source: Literal["hub"]
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None
    revisions: dict[StateName, Revision] = {}
    """By state; one that is not listed is the branch or tag of its name."""
    local: Path | None = None
    """Used instead of the Hub: a folder of one folder a state, or that of the only state."""
    max_drift_drop: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """By how much the embedding may come back towards the first checkpoint from one to the next."""

    @model_validator(mode="after")
    def _text_is_elsewhere(self) -> Self:
        if self.text.protocol == "corpus":
            msg = "protocol corpus is pythia-mini's; choose wikitext or file"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if self.repo is None and self.local is None:
            msg = "neither repo nor local is given; name a folder: SET=model.local=/path"
            raise ValueError(msg)
        return self


Model = Annotated[MiniModel | HubModel, Field(discriminator="source")]


class CellInput(Section):
    """Which cells a model of cells is measured on, and how it reads them."""

    h5ad: Path | None
    """A file of raw counts."""
    encoding: Encoding
    held_out: dict[str, list[str]] = {}
    """Cells that the model has not learnt from, by a column of ``encoding.columns``; empty: all."""
    n_encoded: Count | None = None
    """Cells that are encoded, drawn from the file; None: all."""
    n_cells: Count
    """Cells whose loss is measured."""
    reference_cells: Count
    """Others, over which a head's mean is taken."""
    seed: Annotated[int, Field(ge=0)]
    """Draws both, and what is hidden in them."""

    @model_validator(mode="after")
    def _is_there(self) -> Self:
        if self.h5ad is None:
            msg = "no cells are given; name an h5ad with raw counts: SET=cellmodel.cells.h5ad=/path"
            raise ValueError(msg)
        if unknown := [name for name in self.held_out if name not in self.encoding.columns]:
            msg = f"held_out names {unknown[0]}, which is not among encoding.columns; add it there"
            raise ValueError(msg)
        return self


class CellTraining(Recipe):
    """The recipe of cell-mini."""

    masked_share: Annotated[float, Field(gt=0, lt=1)]
    """Of a cell's genes, hidden and to be predicted."""
    fewest_cells: Count
    """A gene that fewer cells of the training have is left out of the vocabulary."""


class _CellModel(_States):
    tables: Path
    """The folder of what the paper reads of it."""
    known: Word
    """The folder of what is known of its genes."""
    cells: CellInput


class MiniCellModel(_CellModel):
    """A small model of Geneformer's architecture, trained here on simulated cells."""

    source: Literal["mini"]
    train: CellTraining

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.cells.held_out:
            msg = "cells.held_out is empty; name the donors that are kept from training"
            raise ValueError(msg)
        _check_steps(self.checkpoints, self.train)
        return self

    @property
    def steps(self) -> list[int]:
        """The steps at which its training keeps a checkpoint."""
        return [step for name in self.checkpoints if (step := step_of(name)) is not None]


RepoPath = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$")
]
"""A file or folder of a repository: no part of it leads out."""


class KnownFile(Section):
    """What is known of a published file."""

    sha256: Sha256 | None = None
    size_bytes: Count | None = None


class DictionaryFile(KnownFile):
    """A published dictionary of genes."""

    path: RepoPath


DictionaryRole = Literal["tokens", "medians", "names", "mapping", "vocab"]
"""Geneformer: ids, medians, and other names of genes, in up to two files; scGPT: ids alone."""


class HubCellModel(_CellModel):
    """A published model of cells, from the Hugging Face Hub or from a folder."""

    source: Literal["hub"]
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None
    subfolder: RepoPath | None = None
    """Of the repository, with the config and the weights; None: its root."""
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """Of the only state; None: the branch or tag of a state's name."""
    files: dict[FileName, KnownFile] = {}
    """Of the config and the weights, by name, what is known."""
    dictionaries: dict[DictionaryRole, DictionaryFile] = {}
    """By role; empty: in the folder `local`, whatever has the published names."""
    local: Path | None = None
    """Used instead of the Hub: a folder in its layout, or with all files directly in it; of several
    states, one folder each."""

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if self.repo is None and self.local is None:
            msg = "neither repo nor local is given; name a folder: SET=cellmodel.local=/path"
            raise ValueError(msg)
        if self.commit is not None and len(self.checkpoints) > 1:
            msg = "commit is of one state and checkpoints names several; name one, or drop commit"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _dictionaries_are_of_one_model(self) -> Self:
        allowed = {"tokens", "medians", "names", "mapping"} if self.is_geneformer else {"vocab"}
        needed = {"tokens", "medians"} if self.is_geneformer else allowed
        given = set(self.dictionaries)
        if (given or self.local is None) and not needed <= given <= allowed:
            msg = (
                f"dictionaries names {', '.join(sorted(given)) or 'none'}; the preset "
                f"{self.cells.encoding.preset} needs {' and '.join(sorted(needed))}"
                + (", and may have names and mapping" if self.is_geneformer else "")
            )
            raise ValueError(msg)
        return self

    @property
    def is_geneformer(self) -> bool:
        """Whether cells are ranked, as Geneformer reads them; else it is an scGPT."""
        return PRESETS[self.cells.encoding.preset].order == "ranked"


class NoCellModel(Section):
    """None: nothing of cell models is made."""

    source: Literal["none"]
    name: Literal["none"]
    checkpoints: Annotated[list[str], Field(max_length=0)] = []
    tables: Path
    """Any that the paper reads."""


CellModel = Annotated[MiniCellModel | HubCellModel | NoCellModel, Field(discriminator="source")]


class Haematopoiesis(Section):
    """How many cells of how many donors the simulated haematopoiesis has."""

    seed: Annotated[int, Field(ge=0)]
    donors: Annotated[int, Field(ge=4)]
    cells_a_donor: Count


class GeneSets(Section):
    """A file of gene sets or of a network."""

    path: Path
    format: Literal["gmt", "gaf", "trrust", "string", "panglaodb"]
    names: Path | None = None
    """Of STRING: the file of names (``protein.info`` or ``protein.aliases``)."""
    alias_source: str = "Ensembl_HGNC_symbol"
    """Of aliases of STRING; ``Ensembl_gene`` gives Ensembl ids."""
    ontology: Path | None = None
    """Of GAF: the file of the ontology (``go-basic.obo``), by which genes are carried up."""
    species: Literal["Hs", "Mm"] = "Hs"
    """Of PanglaoDB."""
    experimental: bool = False
    """Of GAF: whether annotations by computation alone (IEA and its like) are left out."""


class Given(Section):
    """What a person put there, and ``dvc.yaml`` watches; a file of the project where nothing is."""

    weights: Path
    text: Path
    cell_weights: Path


SECTIONS = {
    "atlas": Atlas,
    "model": Model,
    "cellmodel": CellModel,
    "haematopoiesis": Haematopoiesis,
    "gene_sets": dict[Key, GeneSets],
    "datasets": dict[Key, Datasets],
    "trained": list[str],
    "downloaded": list[str],
    "cell_trained": list[str],
    "cell_downloaded": list[str],
    "given": Given,
    "encode": list[str],
}
SHORT_KEYS = dict.fromkeys(CellsFile.model_fields, "atlas.cells.*") | dict.fromkeys(
    ("graphs", "libraries"), "atlas"
)
"""Keys of an atlas that may stand alone, by where they lie; those of a file, where it is the only
one."""
