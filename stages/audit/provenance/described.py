"""Describe every stage by the run that first wrote its outputs, and keep that."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.audit.provenance.locked import Stage, check_unchanged
from stages.base import record
from stages.base.errors import ProvenanceError
from stages.base.files import write_text

log = logging.getLogger("stages")

DIGITS = 7
"""Of a hash, where a person reads it."""
KEYS = {"code", "command", "inputs", "outputs", "params", "precision", "run", "seeds"}

Entry = dict[str, Any]


@dataclass(frozen=True)
class Described:
    """Descriptions of stages, each by the run that first wrote its outputs."""

    environments: dict[str, Any] = field(default_factory=dict)
    """Machines with their packages, by a short hash, which the runs refer to."""
    stages: dict[str, list[Entry]] = field(default_factory=dict)
    """By stage one entry for each of the outputs it is known to have had."""

    def add(self, name: str, entry: Entry, environments: Mapping[str, Any]) -> None:
        """Add the entry of a stage with the environment that it refers to."""
        entries = self.stages.setdefault(name, [])
        if entry not in entries:
            entries.append(entry)
        if entry["run"] is not None:
            key = entry["run"]["environment"]
            self.environments[key] = environments[key]

    def update(self, other: "Described") -> None:
        """Add all entries of another that tell of a run."""
        for name, entries in other.stages.items():
            for entry in entries:
                if entry["run"] is not None:
                    self.add(name, entry, other.environments)

    def find(self, stage: Stage) -> Entry | None:
        """Return the entry of these very outputs, if there is one that tells of a run."""
        for entry in self.stages.get(stage.name, []):
            if entry["run"] is not None and entry["outputs"] == stage.outputs:
                return entry
        return None


def provenance(
    stages: Sequence[Stage],
    notes: Mapping[str, Mapping[str, Any]],
    described: Described,
    now: Mapping[str, str],
    *,
    own: str,
) -> Described:
    """Describe every stage by the run that first wrote the bytes of its outputs.

    Parameters
    ----------
    stages
        What DVC has locked.
    notes
        By stage, what it noted when it last ran here.
    described
        What is known of outputs that were written before.
    now
        md5 of the files of code and settings as they are now, by path.
    own
        The file that this stage writes and git keeps.

    Returns
    -------
    Described
        One entry a stage.

    Raises
    ------
    ProvenanceError
        The code or the settings of a stage changed while it ran.
    """
    found = Described()
    # What a run of the graph changes among the files that git tracks is no change of what runs.
    written = {"dvc.lock", own}.union(*(stage.outputs for stage in stages))
    for stage in stages:
        entry, note = described.find(stage), notes.get(stage.name)
        if entry is not None:
            found.add(stage.name, entry, described.environments)
        elif note is not None and _wrote(note, stage):
            check_unchanged(stage, note, now)
            run = _run_of(note, written)
            environments = {run["environment"]: note["environment"]}
            found.add(stage.name, _entry(stage, run), environments)
        else:
            found.add(stage.name, _entry(stage, None), {})
    return found


def _wrote(note: Mapping[str, Any], stage: Stage) -> bool:
    """Say whether a noted run wrote the outputs that are locked, and not others in their place.

    They may come from a later run whose note is elsewhere, by way of DVC's cache.
    """
    return all(
        path in note["outputs"] and _same(note["outputs"][path], locked)
        for path, locked in stage.outputs.items()
    )


def _same(noted: Mapping[str, Any], locked: Mapping[str, Any]) -> bool:
    return noted["size"] == locked["size"] and noted["md5"] in (None, locked["md5"])


def _leaves(settings: Any, prefix: str) -> dict[str, Any]:
    if isinstance(settings, dict):
        return {
            key: value
            for name, inner in settings.items()
            for key, value in _leaves(inner, f"{prefix}.{name}").items()
        }
    return {prefix: settings}


def _entry(stage: Stage, run: dict[str, Any] | None) -> Entry:
    leaves: dict[str, Any] = {}
    for key, value in stage.params.items():
        leaves |= _leaves(value, key)
    named = {key: key.rpartition(".")[2] for key in leaves}
    return {
        "code": record.short_hash(stage.code),
        "command": stage.command,
        "inputs": stage.data,
        "outputs": {path: dict(known) for path, known in stage.outputs.items()},
        "params": record.short_hash(stage.params) if stage.params else None,
        "precision": {key: leaves[key] for key, name in named.items() if name == "precision"},
        "run": run,
        "seeds": {key: leaves[key] for key, name in named.items() if name == "seed"},
    }


def _run_of(note: Mapping[str, Any], written: set[str]) -> dict[str, Any]:
    keys = ("commit", "gpu", "peak_memory_mib", "started", "wall_seconds")
    changed = note["changed"]
    return {
        "changed": None if changed is None else [path for path in changed if path not in written],
        "environment": record.short_hash(note["environment"], DIGITS),
    } | {key: note[key] for key in keys}


def read(path: Path) -> Described:
    """Read what :func:`write` or :func:`remember` wrote; nothing, if there is no such file.

    Raises
    ------
    ProvenanceError
        The file is damaged, for example by a merge.
    """
    found = Described()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, entries in content["stages"].items():
            for entry in entries if isinstance(entries, list) else [entries]:
                found.add(name, {key: entry[key] for key in KEYS}, content["environments"])
    except FileNotFoundError:
        return found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = (
            f"{path} is damaged ({type(error).__name__}: {error}). If git keeps it, take the "
            f"version of the last commit (git checkout -- {path}); else remove it."
        )
        raise ProvenanceError(msg) from None
    return found


def write(found: Described, path: Path) -> None:
    """Write the one entry of each stage, atomically, keys sorted, as git keeps it."""
    stages = {name: entry for name, (entry,) in found.stages.items()}
    _write_json({"environments": found.environments, "stages": stages}, path)


def remember(found: Described, path: Path) -> None:
    """Write all entries of each stage; that it cannot is a warning."""
    try:
        _write_json({"environments": found.environments, "stages": found.stages}, path)
    except OSError as error:
        log.warning("warning: cannot write %s (%s). Make it writable.", path, error.strerror)


def _write_json(content: dict[str, Any], path: Path) -> None:
    made = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
    write_text(path, made + "\n")
