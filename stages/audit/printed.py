"""What the paper prints of the provenance: a table of the stages, and sentences above it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from stages.base import record
from stages.report import text

DIGITS = 7
"""Of a hash, where a person reads it."""
# Named in the text; the whole list is in the file.
PACKAGES_SHOWN = ("numpy", "scipy", "pandas", "scanpy", "leidenalg", "torch", "matplotlib", "dvc")
N_FILES_SHOWN = 5
CHANGED_MARK = "+"
FETCHED = "fetched"


Entry = Mapping[str, Any]


def table(entries: Mapping[str, Entry]) -> str:
    """Return the table of the paper: a row a stage, the members of a group together.

    The hash over several members is one over theirs.
    """
    groups: dict[str, dict[str, Entry]] = {}
    for name, entry in entries.items():
        groups.setdefault(name.partition("@")[0], {})[name] = entry
    rows = [_row(group, members) for group, members in groups.items()]
    header = ["Stage", "Commit", "Code", "Settings", "Inputs", "Seed", "Start", "Time"]
    return text.pipe_table(header, rows, align="llllllrr")


def _row(group: str, members: Mapping[str, Entry]) -> list[str]:
    runs = _runs(members)
    commits = {_commit(entry["run"]) for entry in members.values()}
    inputs = {
        name: record.short_hash(entry["inputs"]) if entry["inputs"] else None
        for name, entry in members.items()
    }
    started = min((run["started"] for run in runs), default=None)
    return [
        f"`{group}`" + (f" ({len(members)})" if group not in members else ""),
        commits.pop() if len(commits) == 1 else "several",
        _together({name: entry["code"] for name, entry in members.items()}),
        _together({name: entry["params"] for name, entry in members.items()}),
        _together(inputs),
        _seed(members.values()),
        text.DASH if started is None else _moment(started),
        _duration(sum(run["wall_seconds"] for run in runs)) if runs else text.DASH,
    ]


def _runs(entries: Mapping[str, Entry]) -> list[Mapping[str, Any]]:
    return [entry["run"] for entry in entries.values() if entry["run"] is not None]


def _commit(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return FETCHED
    if run["commit"] is None:
        return text.DASH
    return str(run["commit"])[:DIGITS] + (CHANGED_MARK if run["changed"] else "")


def _together(hashes: Mapping[str, str | None]) -> str:
    different = set(hashes.values())
    only = different.pop() if len(different) == 1 else record.short_hash(dict(hashes))
    return text.DASH if only is None else only[:DIGITS]


def _seed(entries: Iterable[Entry]) -> str:
    seeds, precisions = (
        sorted({str(value) for entry in entries for value in entry[key].values()})
        for key in ("seeds", "precision")
    )
    shown = [f"{len(seeds)} seeds"] if len(seeds) > 1 else seeds
    return ", ".join([*shown, *precisions]) or text.DASH


def _moment(started: str) -> str:
    """Return day and time without the year, which the sentence above the table has."""
    return datetime.fromisoformat(started).strftime(f"%d{text.NBSP}%b{text.NBSP}%H:%M")


def _duration(seconds: float) -> str:
    """Return a time as a person says it, in two units at most.

    >>> [_duration(value).replace(text.NBSP, " ") for value in (0.42, 9.96, 59.7, 3599.9, 40000)]
    ['0.4 s', '10 s', '1 min', '1 h', '11 h 7 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f}{text.NBSP}s"
    whole = round(seconds) if seconds < 3600 else 60 * round(seconds / 60)
    values = {"h": whole // 3600, "min": whole // 60 % 60, "s": whole % 60}
    parts = [f"{value}{text.NBSP}{unit}" for unit, value in values.items() if value]
    return text.NBSP.join(parts[:2])


def sentences(entries: Mapping[str, Entry]) -> str:
    """Return what the table does not show: how long, on what, from which checkout."""
    runs = _runs(entries)
    if not runs:
        return f"None of the {text.plural(len(entries), 'stage')} ran where this was written."
    started = [datetime.fromisoformat(run["started"]) for run in runs]
    first, last = (f"{moment:%d %B %Y}" for moment in (min(started), max(started)))
    begun = f"on {first}" if first == last else f"from {first} to {last}"
    wall = _duration(sum(run["wall_seconds"] for run in runs))
    what = f"The {text.plural(len(runs), 'run')}, begun {begun},"
    parts = [f"{what} took {wall}, imports included, on {_machines(runs)}.", *_checkouts(runs)]
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


def _machines(runs: Sequence[Mapping[str, Any]]) -> str:
    counted = Counter(record.short_hash(run["environment"]) for run in runs)
    environments = {record.short_hash(run["environment"]): run["environment"] for run in runs}
    described = {key: _machine(environment) for key, environment in environments.items()}
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
    said = []
    if unknown := sum(run["commit"] is None for run in runs):
        said.append(f"Of {text.plural(unknown, 'run')} the commit is not known.")
    if changed := [run["changed"] for run in runs if run["changed"]]:
        files = sorted(set().union(*changed))
        named = [f"`{path}`" for path in files[:N_FILES_SHOWN]]
        if len(files) > N_FILES_SHOWN:
            named.append(text.plural(len(files) - N_FILES_SHOWN, "other"))
        said.append(
            f"In {text.plural(len(changed), 'run')} (marked {CHANGED_MARK}) tracked files differed "
            f"from the commit: {text.listed(named)}."
        )
    return said or ["All ran on the files of their commit."]
