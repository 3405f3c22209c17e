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


class Settings(Section):
    """All of ``params.yaml``."""

    atlas: Atlas
    conf_digest: str
    proportions: Proportions
    metrics: Metrics
    aging: Aging
    concordance: Concordance
    drivers: Drivers


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
    # The discriminator's tag stands in the location after `atlas`; it is no key of the file.
    location = [str(part) for part in first["loc"]]
    if (
        len(location) > 1
        and location[0] == "atlas"
        and location[1] in {"demo", "published", "local"}
    ):
        location.pop(1)
    key = ".".join(location)
    home = (
        f"conf/atlas/{_atlas_name(content)}.yaml"
        if location[:1] == ["atlas"]
        else "conf/config.yaml"
    )
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


def _atlas_name(content: dict[str, Any]) -> str:
    atlas = content.get("atlas")
    return str(atlas.get("name", "<name>")) if isinstance(atlas, dict) else "<name>"


def _allowed_keys(location: list[str], content: dict[str, Any]) -> list[str]:
    """List the keys that the section at `location` may have."""
    section: Any = Settings
    node: Any = content
    for part in location:
        node = node.get(part, {}) if isinstance(node, dict) else {}
        if section is Settings and part == "atlas":
            by_source = {"demo": DemoAtlas, "published": PublishedAtlas, "local": LocalAtlas}
            section = by_source.get(str(node.get("source")), DemoAtlas)
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
