"""``params.yaml`` as typed, validated objects.

Every section bears the name of the stage that reads it. An unknown key or a value that is not
allowed stops with one line that names the key, the value, what is allowed and the file to change.
"""

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from stages.errors import SettingsError
from stages.settings.base import (
    Confidence,
    Count,
    Metric,
    Section,
)
from stages.settings.cells import (
    NOT_THE_RAT_ATLAS,
    RAT_ATLAS,
    Aging,
    Atlas,
    CellsFile,
    Columns,
    Concordance,
    Constants,
    DemoAtlas,
    Drivers,
    FigshareFile,
    Graph,
    Libraries,
    LocalAtlas,
    Metrics,
    Proportions,
    PublishedAtlas,
    Rarefaction,
    RemoteFile,
    SimulatedFile,
)
from stages.settings.clusters import (
    CaloricRestriction,
    Clusters,
    Kidney,
    Kimmel,
    Leiden,
    Neighbours,
    Resolution,
    Stability,
    Substates,
)
from stages.settings.heads import (
    Classes,
    Distribution,
    HubModel,
    MiniCorpus,
    MiniModel,
    MiniTraining,
    Model,
    NoiseFloor,
    PublishedEffects,
    Revision,
    Screen,
    Sweep,
    SweepControlVariate,
    SweepNoise,
    SweepResample,
    Text,
    Trajectory,
)
from stages.settings.plane import Plane

__all__ = [
    "NOT_THE_RAT_ATLAS",
    "PARAMS_FILE",
    "RAT_ATLAS",
    "UNIONS",
    "Aging",
    "Atlas",
    "CaloricRestriction",
    "CellsFile",
    "Classes",
    "Clusters",
    "Columns",
    "Concordance",
    "Confidence",
    "Constants",
    "Count",
    "DemoAtlas",
    "Distribution",
    "Drivers",
    "FigshareFile",
    "Graph",
    "HubModel",
    "Kidney",
    "Kimmel",
    "Leiden",
    "Libraries",
    "LocalAtlas",
    "Metric",
    "Metrics",
    "MiniCorpus",
    "MiniModel",
    "MiniTraining",
    "Model",
    "Neighbours",
    "NoiseFloor",
    "Plane",
    "Proportions",
    "PublishedAtlas",
    "PublishedEffects",
    "Rarefaction",
    "RemoteFile",
    "Resolution",
    "Revision",
    "Screen",
    "Section",
    "Settings",
    "SimulatedFile",
    "Stability",
    "Substates",
    "Sweep",
    "SweepControlVariate",
    "SweepNoise",
    "SweepResample",
    "Text",
    "Trajectory",
    "load",
    "parse",
]

PARAMS_FILE = "params.yaml"


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
    neighbours: Neighbours
    leiden: Leiden
    clusters: Clusters
    kimmel: Kimmel
    kidney: Kidney
    substates: Substates
    stability: Stability
    caloric_restriction: CaloricRestriction
    plane: Plane


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
    said = f"{source}: {what} Change {home} and run make reproduce.{more}"
    # A key or name may hold a line break, and is then what is wrong.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in said)


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
