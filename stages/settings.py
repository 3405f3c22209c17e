"""``params.yaml`` as typed, validated objects.

Every section bears the name of the stage that reads it. An unknown key or a value that is not
allowed stops with one line that names the key, the value, what is allowed and the file to change.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stages.errors import SettingsError

PARAMS_FILE = "params.yaml"

Confidence = Annotated[float, Field(gt=0.5, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
Metric = Literal[
    "gini",
    "gini_corrected",
    "effective_number",
    "effective_number_miller_madow",
    "effective_number_chao_shen",
    "richness",
    "evenness",
    "hill_0",
    "hill_0_5",
    "hill_1",
    "hill_2",
]


class Section(BaseModel):
    """A part of the settings: unknown keys are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
    urls: list[Annotated[str, Field(pattern=r"^https?://")]] = []
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


class _Atlas(Section):
    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    simulated: bool
    notice: str | None
    """What every page, figure and table made from these inputs must say."""
    cells: Annotated[dict[str, CellsFile], Field(min_length=1)]


class DemoAtlas(_Atlas):
    """Simulated cohorts with known truth."""

    source: Literal["demo"]
    seed: int
    acquire: dict[str, SimulatedFile]


class PublishedAtlas(_Atlas):
    """The published files, downloaded and verified."""

    source: Literal["published"]
    acquire: dict[str, RemoteFile]


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
    urls: Annotated[list[Annotated[str, Field(pattern=r"^https?://")]], Field(min_length=1)]
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


class Settings(Section):
    """All of ``params.yaml``."""

    atlas: Atlas
    conf_digest: str
    proportions: Proportions
    metrics: Metrics
    aging: Aging
    concordance: Concordance
    drivers: Drivers
    model: Model
    published_effects: dict[str, PublishedEffects]
    """By model; others have none to be compared with."""
    sweep: Sweep
    noise_floor: NoiseFloor
    trajectory: Trajectory
    classes: Classes
    distribution: Distribution
    screen: Screen


UNIONS: dict[str, dict[str, type[Section]]] = {
    "atlas": {"demo": DemoAtlas, "published": PublishedAtlas, "local": LocalAtlas},
    "model": {"mini": MiniModel, "hub": HubModel},
}
"""Sections that are one file of a folder of ``conf/``, by their source."""


def load(path: Path) -> Settings:
    """Read and validate ``params.yaml``.

    Raises
    ------
    SettingsError
        The file is missing or is no YAML, a key is unknown or missing, or a value is not allowed.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = (
            f"{path} does not exist. "
            "Compose it: make reproduce, or python -m stages.compose --atlas demo."
        )
        raise SettingsError(msg) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        msg = (
            f"{path} is not YAML ({reason}). "
            "Compose it again: python -m stages.compose --atlas demo."
        )
        raise SettingsError(msg) from None
    if not isinstance(content, dict):
        msg = (
            f"{path} holds {type(content).__name__}, not settings. "
            "Compose it again: python -m stages.compose --atlas demo."
        )
        raise SettingsError(msg)
    return parse(content, source=str(path))


def parse(content: dict[str, Any], *, source: str = PARAMS_FILE) -> Settings:
    """Validate settings that were already read; `source` names them in errors."""
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        raise SettingsError(_one_line(error, content, source)) from None


def _one_line(error: ValidationError, content: dict[str, Any], source: str) -> str:
    """Say the first fault as one line: where, what, what is allowed, where to change it."""
    faults = error.errors(include_url=False)
    first = faults[0]
    # The tag of a union stands in the location after its group; it is no key of the file.
    location = [str(part) for part in first["loc"]]
    group = location[0] if location else ""
    if len(location) > 1 and location[1] in UNIONS.get(group, {}):
        location.pop(1)
    key = ".".join(location)
    home = f"conf/{group}/{_name(content, group)}.yaml" if group in UNIONS else "conf/config.yaml"
    more = f" ({len(faults) - 1} more after this one)" if len(faults) > 1 else ""
    match first["type"]:
        case "extra_forbidden":
            allowed = _allowed_keys(location[:-1], content)
            close = difflib.get_close_matches(location[-1], allowed, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            what = f"unknown key {key}{hint} Allowed here: {', '.join(allowed)}."
        case "missing":
            what = f"missing key {key}."
        case _:
            reason = first["msg"].removeprefix("Value error, ")
            value = first["input"]
            shown = (
                f" = {value!r}"
                if isinstance(value, str | int | float | bool | list) or value is None
                else ""
            )
            what = f"{key}{shown}: {reason[0].lower()}{reason[1:]}."
    return f"{source}: {what} Change {home} and run make reproduce.{more}"


def _name(content: dict[str, Any], group: str) -> str:
    chosen = content.get(group)
    return str(chosen.get("name", "<name>")) if isinstance(chosen, dict) else "<name>"


def _allowed_keys(location: list[str], content: dict[str, Any]) -> list[str]:
    """List the keys that the section at `location` may have."""
    section: Any = Settings
    node: Any = content
    for part in location:
        node = node.get(part, {}) if isinstance(node, dict) else {}
        if section is Settings and part in UNIONS:
            by_source = UNIONS[part]
            section = by_source.get(str(node.get("source")), next(iter(by_source.values())))
        elif (
            isinstance(section, type)
            and issubclass(section, BaseModel)
            and part in section.model_fields
        ):
            section = section.model_fields[part].annotation
        else:
            # One level of dict[str, Section]: the annotation's value type.
            arguments = getattr(section, "__args__", ())
            section = arguments[-1] if arguments else section
    return (
        sorted(section.model_fields)
        if isinstance(section, type) and issubclass(section, BaseModel)
        else []
    )
