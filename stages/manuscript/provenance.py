"""Say of every output which code, settings, inputs, machine and moment it comes from.

The provenance of an output is that of the run that first wrote these bytes. A later run that
writes them again, here or in another copy of the repository, changes nothing: so
``reports/provenance.json``, which git keeps, comes out the same wherever the outputs do. A stage
whose outputs were fetched, and that nobody described, has no run.

What every stage has read and written is in ``dvc.lock``; what it ran from and on it noted itself at
its start (:mod:`stages.record`). Code or settings on which the two differ were changed while the
stage ran, and no one can say which of them its outputs come from: that is an error.
"""

import argparse
import functools
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml

from stages import cli, record
from stages.errors import ProvenanceError
from stages.files import atomic_folder, write_text
from stages.manuscript import text
from stages.settings import PARAMS_FILE

log = logging.getLogger("stages")

# They come after what is described here, or are it.
NOT_DESCRIBED = ("provenance", "render")
# All that this stage ever described on this machine: another study's outputs may come back.
MEMORY = record.FOLDER / ".described.json"
CODE_FOLDER = "stages/"
# Named in the text; the whole list is in the file.
PACKAGES_SHOWN = ("numpy", "scipy", "pandas", "scanpy", "leidenalg", "torch", "matplotlib", "dvc")
N_FILES_SHOWN = 5
DIGITS = 7
CHANGED_MARK = "+"
FETCHED = "fetched"

KEYS = {"code", "command", "inputs", "outputs", "params", "precision", "run", "seeds"}

Entry = dict[str, Any]


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


def table(stages: Sequence[Stage], found: Described) -> str:
    """Return the table of the paper: a row a stage, the members of a group together.

    The hash over several members is one over theirs.
    """
    groups: dict[str, list[tuple[str, Entry]]] = {}
    for stage in stages:
        groups.setdefault(stage.group, []).append((stage.name, found.stages[stage.name][0]))
    rows = [_row(group, members) for group, members in groups.items()]
    header = ["Stage", "Commit", "Code", "Settings", "Inputs", "Seed", "Start", "Time"]
    return text.pipe_table(header, rows, align="llllllrr")


def _row(group: str, members: Sequence[tuple[str, Entry]]) -> list[str]:
    runs = [entry["run"] for _, entry in members if entry["run"] is not None]
    commits = {_commit(entry["run"]) for _, entry in members}
    started = min((run["started"] for run in runs), default=None)
    return [
        f"`{group}`" + (f" ({len(members)})" if members[0][0] != group else ""),
        commits.pop() if len(commits) == 1 else "several",
        _together({name: entry["code"] for name, entry in members}),
        _together({name: entry["params"] for name, entry in members}),
        _together({name: _inputs(entry) for name, entry in members}),
        _seed([entry for _, entry in members]),
        text.DASH if started is None else _moment(started),
        _duration(sum(run["wall_seconds"] for run in runs)) if runs else text.DASH,
    ]


def _commit(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return FETCHED
    if run["commit"] is None:
        return text.DASH
    return str(run["commit"])[:DIGITS] + (CHANGED_MARK if run["changed"] else "")


def _inputs(entry: Entry) -> str | None:
    return record.short_hash(entry["inputs"]) if entry["inputs"] else None


def _together(hashes: Mapping[str, str | None]) -> str:
    different = set(hashes.values())
    only = different.pop() if len(different) == 1 else record.short_hash(dict(hashes))
    return text.DASH if only is None else only[:DIGITS]


def _seed(entries: Sequence[Entry]) -> str:
    seeds = sorted({str(seed) for entry in entries for seed in entry["seeds"].values()})
    precisions = sorted({str(name) for entry in entries for name in entry["precision"].values()})
    shown = [f"{len(seeds)} seeds"] if len(seeds) > 1 else seeds
    return ", ".join([*shown, *precisions]) or text.DASH


def _moment(started: str) -> str:
    """Return day and time without the year, which the sentence above the table has."""
    return datetime.fromisoformat(started).strftime(f"%d{text.NBSP}%b{text.NBSP}%H:%M")


def _days(runs: Iterable[Mapping[str, Any]]) -> str:
    moments = sorted(datetime.fromisoformat(run["started"]) for run in runs)
    days = [f"{moment:%d %B %Y}" for moment in (moments[0], moments[-1])]
    return f"on {days[0]}" if days[0] == days[1] else f"from {days[0]} to {days[1]}"


def _duration(seconds: float) -> str:
    """Return a time as a person says it, in two units at most.

    >>> [_duration(value).replace(text.NBSP, " ") for value in (0.42, 9.96, 59.7, 3599.9, 40000)]
    ['0.4 s', '10 s', '1 min', '1 h', '11 h 7 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f}{text.NBSP}s"
    units = ("h", "min", "s")
    whole = round(seconds) if seconds < 3600 else 60 * round(seconds / 60)
    values = (whole // 3600, whole // 60 % 60, whole % 60)
    parts = [
        f"{value}{text.NBSP}{unit}" for value, unit in zip(values, units, strict=True) if value
    ]
    return text.NBSP.join(parts[:2])


def sentences(found: Described) -> str:
    """Return what the table does not show: how long, on what, from which checkout."""
    entries = [entry for of_stage in found.stages.values() for entry in of_stage]
    runs = [entry["run"] for entry in entries if entry["run"] is not None]
    if not runs:
        return f"None of the {text.plural(len(entries), 'stage')} ran where this was written."
    wall = _duration(sum(run["wall_seconds"] for run in runs))
    counted = Counter(run["environment"] for run in runs)
    machines = _machines(counted, found.environments)
    what = f"The {text.plural(len(runs), 'run')}, begun {_days(runs)},"
    parts = [f"{what} took {wall}, imports included, on {machines}.", *_checkouts(runs)]
    if used := Counter(run["gpu"] for run in runs if run["gpu"]):
        cards = text.listed([f"{name} ({count})" for name, count in used.items()])
        parts.append(f"Stages that computed on a graphics card: {cards}.")
    if len(runs) < len(entries):
        n_fetched = text.plural(len(entries) - len(runs), "stage")
        parts.append(
            f"The outputs of {n_fetched} were fetched from where they had been computed before, "
            "and nothing is known of these runs."
        )
    return " ".join(parts)


def _machines(counted: Mapping[str, int], environments: Mapping[str, Any]) -> str:
    described = {key: _machine(environments[key]) for key in counted}
    if len(described) == 1:
        return f"one machine: {next(iter(described.values()))}"
    each = [f"{described[key]} ({text.plural(n, 'run')})" for key, n in counted.items()]
    return f"{len(each)} machines or sets of packages: {'; '.join(each)}"


def _machine(environment: Mapping[str, Any]) -> str:
    packages = environment["packages"]
    shown = [f"{name} {packages[name]}" for name in PACKAGES_SHOWN if packages.get(name)]
    memory = environment["memory_gib"]
    parts = [
        f"{environment['cpu'] or 'processor unknown'}, {text.plural(environment['cores'], 'core')}",
        f"{memory:g} GiB of memory" if memory else "",
        text.listed(environment["gpus"]) if environment["gpus"] else "no graphics card",
        environment["system"],
        f"Python {environment['python']} with {text.listed(shown)}",
    ]
    return ", ".join(filter(None, parts))


def _checkouts(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    unknown = sum(run["commit"] is None for run in runs)
    changed = [run for run in runs if run["changed"]]
    said = []
    if unknown:
        said.append(f"Of {text.plural(unknown, 'run')} the commit is not known.")
    if changed:
        files = sorted({path for run in changed for path in run["changed"]})
        named = [f"`{path}`" for path in files[:N_FILES_SHOWN]]
        if len(files) > N_FILES_SHOWN:
            named.append(text.plural(len(files) - N_FILES_SHOWN, "other"))
        said.append(
            f"In {text.plural(len(changed), 'run')} (marked {CHANGED_MARK}) tracked files differed "
            f"from the commit: {text.listed(named)}."
        )
    if not said:
        said.append("All ran on the files of their commit.")
    return said


def _run(args: argparse.Namespace) -> None:
    root = Path.cwd()
    stages = read_stages(root)
    described = Described()
    for path in (args.record, MEMORY):
        described.update(read(path))
    notes, now = read_notes(stages), record.code_hashes(root)
    found = provenance(stages, notes, described, now, own=args.record.as_posix())
    described.update(found)
    remember(described, MEMORY)
    with atomic_folder(args.out) as folder:
        write_text(folder / "table.md", table(stages, found) + "\n")
        write_text(folder / "runs.md", sentences(found) + "\n")
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
