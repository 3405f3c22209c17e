"""What DVC has locked of the stages, and whether what they started from was just that."""

import functools
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml

from stages.base import record
from stages.base.errors import ProvenanceError
from stages.base.settings import PARAMS_FILE

log = logging.getLogger("stages")

# They come after what is described here, or are it.
NOT_DESCRIBED = ("provenance", "render")
CODE_FOLDER = "stages/"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What DVC has locked of one stage."""

    name: str
    command: str
    inputs: Mapping[str, str]
    """md5 by path, code among them."""
    outputs: Mapping[str, Mapping[str, Any]]
    """md5 and size in bytes by path."""
    params: Mapping[str, Any]
    """Values by dotted key."""

    @property
    def group(self) -> str:
        """The name that the members of a ``foreach`` or ``matrix`` share."""
        return self.name.partition("@")[0]

    @property
    def code(self) -> dict[str, str]:
        """Its inputs that are code of this project."""
        return {path: md5 for path, md5 in self.inputs.items() if path.startswith(CODE_FOLDER)}

    @property
    def data(self) -> dict[str, str]:
        """Its other inputs."""
        return {path: md5 for path, md5 in self.inputs.items() if path not in self.code}


def read_stages(root: Path) -> list[Stage]:
    """Return what ``dvc.yaml`` and ``dvc.lock`` say of the stages, in the former's order.

    Raises
    ------
    ProvenanceError
        A stage has not run with its present outputs.
    """
    with Repo(str(root)) as repo:
        stages = [_stage(found) for found in repo.index.stages]
    return [stage for stage in stages if stage.group not in NOT_DESCRIBED]


def _stage(found: Any) -> Stage:
    outputs = {
        out.def_path: {"md5": out.hash_info.value, "size": out.meta.size} for out in found.outs
    }
    inputs: dict[str, str] = {}
    params: dict[str, Any] = {}
    for dep in found.deps:
        if isinstance(dep, ParamsDependency):
            params |= dep.hash_info.value or {}
        else:
            inputs[dep.def_path] = dep.hash_info.value
    unknown = [path for path, known in outputs.items() if known["md5"] is None]
    if unknown and found.name not in NOT_DESCRIBED:
        msg = (
            f"dvc.lock does not have {unknown[0]}, an output of the stage {found.name}. "
            "Run dvc repro, which runs that stage before this one."
        )
        raise ProvenanceError(msg)
    return Stage(name=found.name, command=found.cmd, inputs=inputs, outputs=outputs, params=params)


def read_notes(stages: Iterable[Stage]) -> dict[str, dict[str, Any]]:
    """Return by stage what it noted when it last ran here, if it did and the note can be read."""
    notes = {}
    for stage in stages:
        try:
            note = json.loads(record.note_path(stage.name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            log.warning("warning: %s is passed over: %s", record.note_path(stage.name), error)
            continue
        notes[stage.name] = note
    return notes


def check_unchanged(stage: Stage, note: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Check that the code and the settings that a stage started from are those that DVC locked.

    Raises
    ------
    ProvenanceError
        One is not.
    """
    for path, md5 in stage.inputs.items():
        if record.md5_of(path, note["files"]) not in (None, md5):
            raise _changed(stage, _first_difference(path, note["files"], now))
    settings = _parsed(note["params"])
    for key, value in stage.params.items():
        if _value(settings, key) != value:
            raise _changed(stage, f"{key} in {PARAMS_FILE}")


def _changed(stage: Stage, what: str) -> ProvenanceError:
    msg = (
        f"{what} changed while the stage {stage.name} ran, so it cannot be said what its outputs "
        f"come from. Run it again: dvc repro -f {stage.name}."
    )
    return ProvenanceError(msg)


def _first_difference(path: str, then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Name the file below `path` that is another one now; `path` itself if it was put back."""
    for name in sorted({*then, *now}):
        inside = name == path or name.startswith(f"{path}/")
        if inside and then.get(name) != now.get(name):
            return name
    return path


@functools.lru_cache
def _parsed(params: str) -> Any:
    """Read settings as DVC does: YAML 1.1 and 1.2 differ on some numbers."""
    try:
        return parse_yaml(params, PARAMS_FILE)
    except YAMLFileCorruptedError:
        return {}


def _value(settings: Any, key: str) -> Any:
    for name in key.split("."):
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings
