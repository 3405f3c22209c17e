"""``params.yaml`` as typed, validated objects.

Every room keeps the classes of its own sections in a module ``settings``, whose ``SECTIONS`` names
them; the whole file is validated against the sections of all rooms, whichever there are. An
unknown key or a value that is not allowed stops with one line that names the key, the value, what
is allowed and the file to change.
"""

import difflib
import importlib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError, create_model

from stages.base.errors import SettingsError
from stages.base.sections import Section

PARAMS_FILE = "params.yaml"
S = TypeVar("S", bound=Section)


class Settings(Section):
    """What ``params.yaml`` holds beside the sections of the rooms."""

    conf_digest: str

    def __getattr__(self, name: str) -> Any:
        """Return a section, whose class only its room knows."""
        return super().__getattr__(name)  # type: ignore[misc]


@cache
def sections() -> dict[str, Any]:
    """Return the class of every section of every room, by name."""
    return _of_rooms("SECTIONS")


@cache
def machine() -> dict[str, Any]:
    """Return the class of every section that is a machine's own and decides no number, by name.

    Rooms name theirs as ``MACHINE``; they lie in files of their own beside ``params.yaml``.
    """
    return _of_rooms("MACHINE")


@cache
def short_keys() -> dict[str, str]:
    """Return what may stand at the head of a key, by what it begins, and where that lies.

    A ``*`` at the end stands for the only entry there. Rooms name theirs as ``SHORT_KEYS``.
    """
    return _of_rooms("SHORT_KEYS")


def _of_rooms(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(Path(__file__).parents[1].glob("*/settings.py")):
        if path.parent.name != "base":
            module = importlib.import_module(f"stages.{path.parent.name}.settings")
            found |= getattr(module, name, {})
    return found


def load(path: Path) -> Settings:
    """Read and validate ``params.yaml``.

    Raises
    ------
    SettingsError
        The file is missing or is no YAML, a key is unknown or missing, or a value is not allowed.
    """
    return parse(_read(path), source=str(path))


def needed(section: Any, kind: type[S], *, source: Path, does: str, instead: str) -> S:
    """Return a model of the kind that a stage works on.

    Parameters
    ----------
    source
        The file that says which model it is.
    does
        What this one does, as a person is told of another.
    instead
        Words that compose one of the kind.

    Raises
    ------
    SettingsError
        It is of another kind.
    """
    if isinstance(section, kind):
        return section
    msg = (
        f"{source} is composed for model {section.name} (source {section.source}), which {does}. "
        f"Compose another: python -m stages.base.compose {instead}."
    )
    raise SettingsError(msg)


def _read(path: Path) -> dict[str, Any]:
    try:
        # By libyaml, ten times as fast: every stage reads this.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)  # noqa: TID251
    except FileNotFoundError:
        msg = (
            f"{path} does not exist. "
            "Compose it: make reproduce, or python -m stages.base.compose --atlas demo."
        )
        raise SettingsError(msg) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        msg = (
            f"{path} is not YAML ({reason}). "
            "Compose it again: python -m stages.base.compose --atlas demo."
        )
        raise SettingsError(msg) from None
    if not isinstance(content, dict):
        msg = (
            f"{path} holds {type(content).__name__}, not settings. "
            "Compose it again: python -m stages.base.compose --atlas demo."
        )
        raise SettingsError(msg)
    return content


def parse(content: dict[str, Any], *, source: str = PARAMS_FILE) -> Settings:
    """Validate settings that were already read; `source` names them in errors."""
    return _validated(_everything(), content, source)


def of_machine(name: str, path: Path) -> Any:
    """Read and validate a section that is this machine's own; without the file, its defaults.

    Raises
    ------
    SettingsError
        The file is no YAML, a key is unknown, or a value is not allowed.
    """
    content = _read(path) if path.exists() else {}
    return _validated(_of_machine(name), {name: content}, str(path)).__getattribute__(name)


def check_machine(name: str, content: dict[str, Any]) -> None:
    """Stop where a section that is this machine's own is not allowed."""
    _validated(_of_machine(name), {name: content}, name)


def _validated(kind: type[S], content: dict[str, Any], source: str) -> S:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise SettingsError(_one_line(error, content, source, kind)) from None


@cache
def _everything() -> type[Settings]:
    fields: dict[str, Any] = {name: (kind, ...) for name, kind in sections().items()}
    return create_model("Everything", __base__=Settings, **fields)


@cache
def _of_machine(name: str) -> type[Section]:
    fields: dict[str, Any] = {name: (machine()[name], ...)}
    return create_model("Machine", __base__=Section, **fields)


def _one_line(
    error: ValidationError, content: dict[str, Any], source: str, kind: type[Section]
) -> str:
    """Say the first fault as one line: where, what, what is allowed, where to change it."""
    faults = error.errors(include_url=False)
    first = faults[0]
    location = [str(part) for part in first["loc"]]
    group = location[0] if location else ""
    # The tag of a union stands in the location after its group; it is no key of the file.
    by_source = _by_source(sections().get(group))
    if len(location) > 1 and location[1] in by_source:
        location.pop(1)
    # So does that of a value of one kind or another, in brackets.
    location = [part for part in location if not part.startswith("(")]
    key = ".".join(location)
    of_group = by_source or group in machine()
    home = f"conf/{group}/{_name(content, group)}.yaml" if of_group else "conf/config.yaml"
    more = f" ({len(faults) - 1} more after this one)" if len(faults) > 1 else ""
    match first["type"]:
        case "extra_forbidden":
            allowed = _allowed_keys(location[:-1], content, kind)
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


def _by_source(kind: Any) -> dict[str, type[Section]]:
    """Return the classes of a section that is one file of a folder of ``conf/``, by their source.

    Such a section is a union that is told apart by its field ``source``; others give nothing.
    """
    if get_origin(kind) is not Annotated:
        return {}
    return {
        get_args(one.model_fields["source"].annotation)[0]: one
        for one in get_args(get_args(kind)[0])
    }


def _name(content: dict[str, Any], group: str) -> str:
    chosen = content.get(group)
    return str(chosen.get("name", "<name>")) if isinstance(chosen, dict) else "<name>"


def _allowed_keys(location: list[str], content: dict[str, Any], kind: Any) -> list[str]:
    """List the keys that the section at `location` may have."""
    node: Any = content
    for part in location:
        node = node.get(part, {}) if isinstance(node, dict) else {}
        if isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
            kind = kind.model_fields[part].annotation
            if by_source := _by_source(sections().get(part)) if location[0] == part else {}:
                kind = by_source.get(str(node.get("source")), next(iter(by_source.values())))
        else:
            # One level of dict[str, Section]: the annotation's value type.
            arguments = getattr(kind, "__args__", ())
            kind = arguments[-1] if arguments else kind
    return (
        sorted(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
    )
