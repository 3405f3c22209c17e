"""Say of every output which code, settings, inputs, machine and moment it comes from.

The provenance of an output is that of the run that first wrote these bytes. A later run that
writes them again, here or in another copy of the repository, changes nothing: so
``reports/provenance.json``, which git keeps, comes out the same wherever the outputs do. A stage
whose outputs were fetched, and that nobody described, has no run.

What every stage has read and written is in ``dvc.lock``; what it ran from and on it noted itself
at its start (:mod:`stages.base.record`). Code or settings on which the two differ were changed
while the stage ran, and no one can say which of them its outputs come from: that is an error.
"""

import argparse
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dvc.utils.flatten import flatten
from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml

from stages.audit import lock, printed
from stages.base import cli, record
from stages.base.errors import ProvenanceError
from stages.base.files import atomic_folder, write_text
from stages.base.settings import PARAMS_FILE
from stages.report.writing import Templates

# All that this stage ever described on this machine: another study's outputs may come back.
MEMORY = record.FOLDER / ".described.json"
# They come after what is described here, or are it.
NOT_DESCRIBED = ("provenance", "explorer", "render", "cells_alone", "heads_alone")
CODE_FOLDER = "stages/"
INCLUDED = ("runs.md", "table.md")
"""What the paper includes, each from the template of its name."""
KEYS = {"code", "command", "inputs", "outputs", "params", "precision", "run", "seeds"}

Entry = dict[str, Any]
"""What is said of one stage; its run is None if nobody described it."""


def provenance(
    stages: Sequence[lock.Stage],
    notes: Mapping[str, Mapping[str, Any]],
    described: Mapping[str, Sequence[Entry]],
    now: Mapping[str, str],
    *,
    own: str,
) -> dict[str, Entry]:
    """Describe every stage by the run that first wrote the bytes of its outputs.

    Parameters
    ----------
    stages
        What DVC has locked.
    notes
        By stage, what it noted when it last ran here.
    described
        By stage the entries with a run that are known, one for each of the outputs it has had.
    now
        md5 of the files of code and settings as they are now, by path.
    own
        The file that this stage writes and git keeps.

    Returns
    -------
    dict
        The entry of each stage.

    Raises
    ------
    ProvenanceError
        The code or the settings of a stage changed while it ran.
    """
    found = {}
    # What a run of the graph changes among the files that git tracks is no change of what runs.
    written = {lock.FILE, own}.union(*(_outputs(stage) for stage in stages))
    for stage in stages:
        known = [e for e in described.get(stage.name, []) if e["outputs"] == _outputs(stage)]
        run, note = None, notes.get(stage.name)
        if not known and note is not None and _wrote(note, stage):
            _check_unchanged(stage, note, now)
            run = _run_of(note, written)
        found[stage.name] = known[0] if known else _entry(stage, run)
    return found


def _outputs(stage: lock.Stage) -> dict[str, dict[str, Any]]:
    return {output.path: {"md5": output.md5, "size": output.size} for output in stage.outputs}


def _wrote(note: Mapping[str, Any], stage: lock.Stage) -> bool:
    """Say whether a noted run wrote the outputs that are locked, and not others in their place.

    They may come from a later run whose note is elsewhere, by way of DVC's cache.
    """
    noted = [(note["outputs"].get(output.path), output) for output in stage.outputs]
    # Of a large output only the size was noted.
    return all(
        known and known["size"] == output.size and known["md5"] in (None, output.md5)
        for known, output in noted
    )


def _check_unchanged(stage: lock.Stage, note: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Check that the code and the settings that a stage started from are those that DVC locked."""
    then = note["files"]
    for path, md5 in stage.inputs.items():
        if record.md5_of(path, then) not in (None, md5):
            differ = {name for name, _ in then.items() ^ now.items()}
            inside = sorted(name for name in differ if f"{name}/".startswith(f"{path}/"))
            # Nothing differs, if it was put back.
            raise _changed(stage, inside[0] if inside else path)
    settings = _parsed(note["params"])
    for key, value in stage.params.items():
        if _value(settings, key) != value:
            raise _changed(stage, f"{key} in {PARAMS_FILE}")


def _changed(stage: lock.Stage, what: str) -> ProvenanceError:
    msg = (
        f"{what} changed while the stage {stage.name} ran, so it cannot be said what its outputs "
        f"come from. Run it again: dvc repro -f {stage.name}."
    )
    return ProvenanceError(msg)


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


def _entry(stage: lock.Stage, run: dict[str, Any] | None) -> Entry:
    leaves = [(key, key.split(".")[-1], value) for key, value in flatten(stage.params).items()]
    code = {path: md5 for path, md5 in stage.inputs.items() if path.startswith(CODE_FOLDER)}
    return {
        "code": record.short_hash(code),
        "command": stage.command,
        "inputs": {path: md5 for path, md5 in stage.inputs.items() if path not in code},
        "outputs": _outputs(stage),
        "params": record.short_hash(stage.params) if stage.params else None,
        "precision": {key: value for key, name, value in leaves if name == "precision"},
        "run": run,
        "seeds": {key: value for key, name, value in leaves if name == "seed"},
    }


def _run_of(note: Mapping[str, Any], written: set[str]) -> dict[str, Any]:
    keys = ("commit", "environment", "gpu", "peak_memory_mib", "started", "wall_seconds")
    changed = note["changed"] and [path for path in note["changed"] if path not in written]
    return {"changed": changed} | {key: note[key] for key in keys}


def read(path: Path) -> dict[str, list[Entry]]:
    """Read the entries with a run that :func:`write` wrote, by stage; none without the file.

    Raises
    ------
    ProvenanceError
        The file is damaged, for example by a merge.
    """
    found: dict[str, list[Entry]] = {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, entries in content["stages"].items():
            for entry in entries if isinstance(entries, list) else [entries]:
                if (run := entry["run"]) is not None:
                    run = run | {"environment": content["environments"][run["environment"]]}
                    whole = {key: entry[key] for key in KEYS} | {"run": run}
                    found.setdefault(name, []).append(whole)
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = (
            f"{path} is damaged ({type(error).__name__}: {error}). If git keeps it, take the "
            f"version of the last commit (git checkout -- {path}); else remove it."
        )
        raise ProvenanceError(msg) from None
    return found


def write(found: Mapping[str, Entry | Sequence[Entry]], path: Path) -> None:
    """Write the entries of each stage, or the only one, atomically, keys sorted as git keeps them.

    Machines with their packages stand apart, by a short hash, which the runs refer to.
    """
    environments = {}

    def referring(entry: Entry) -> Entry:
        if (run := entry["run"]) is None:
            return entry
        key = record.short_hash(run["environment"], printed.DIGITS)
        environments[key] = run["environment"]
        return entry | {"run": run | {"environment": key}}

    stages = {
        name: referring(made) if isinstance(made, dict) else [referring(entry) for entry in made]
        for name, made in found.items()
    }
    content = {"environments": environments, "stages": stages}
    made = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
    write_text(path, made + "\n")


def _read_stages(root: Path) -> list[lock.Stage]:
    stages = [stage for stage in lock.read(root) if stage.name not in NOT_DESCRIBED]
    for stage in stages:
        for output in stage.outputs:
            if not output.md5:
                msg = (
                    f"{lock.FILE} does not have {output.path}, an output of the stage "
                    f"{stage.name}. Run dvc repro, which runs that stage before this one."
                )
                raise ProvenanceError(msg)
    return stages


def _read_notes(stages: Iterable[lock.Stage]) -> dict[str, dict[str, Any]]:
    """Return by stage what it noted when it last ran here, if it did and the note can be read."""
    notes = {}
    for stage in stages:
        path = record.note_path(stage.name)
        try:
            notes[stage.name] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            cli.log.warning("warning: %s is passed over: %s", path, error)
    return notes


def _run(args: argparse.Namespace) -> None:
    root = Path.cwd()
    stages = _read_stages(root)
    kept, known = read(args.record), read(MEMORY)
    for name, entries in kept.items():
        known[name] = entries + [entry for entry in known.get(name, []) if entry not in entries]
    notes, now = _read_notes(stages), record.code_hashes(root)
    found = provenance(stages, notes, known, now, own=args.record.as_posix())
    for name, entry in found.items():
        if entry["run"] is not None and entry not in known.setdefault(name, []):
            known[name].append(entry)
    try:
        write(known, MEMORY)
    except OSError as error:
        cli.log.warning("warning: cannot write %s (%s). Make it writable.", MEMORY, error.strerror)
    templates, values = Templates(), printed.context(found)
    with atomic_folder(args.out) as folder:
        for name in INCLUDED:
            write_text(folder / name, templates.fill(f"provenance/{name}.j2", values))
    write(found, args.record)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--record", type=Path, required=True, help="the file that git keeps, read and written"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of what the paper includes")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
