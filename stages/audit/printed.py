"""What the paper prints of the provenance, as rows and counts: the templates have the words.

The table has a row a stage; the sentences above it say what it does not show: how long all took, on
what, and from which checkout.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from stages.base import record

DIGITS = 7
"""Of a hash, where a person reads it."""

Entry = Mapping[str, Any]
Row = dict[str, Any]


def context(entries: Mapping[str, Entry]) -> Row:
    """Return what the templates need on all stages together, and the rows of the table.

    Parameters
    ----------
    entries
        By stage, what :func:`stages.audit.provenance.provenance` says of it.

    Returns
    -------
    dict
        ``rows``, one a stage, the members of a group together; ``n_stages``, and of their ``runs``
        when they ``started``, in order, and the ``seconds`` they took; ``machines``, the runs of
        each; ``cards``, runs by graphics card; in how many the commit is unknown (``n_unknown``) or
        tracked files differed from it (``n_changed``), and these ``files``; of a hash, ``digits``
        are shown.
    """
    groups: dict[str, dict[str, Entry]] = {}
    for name, entry in entries.items():
        groups.setdefault(name.partition("@")[0], {})[name] = entry
    made = _runs(entries.values())
    machines: dict[str, list[Row]] = {}
    for run in made["runs"]:
        machines.setdefault(record.short_hash(run["environment"]), []).append(run)
    changed = [run["changed"] for run in made["runs"] if run["changed"]]
    return made | {
        "digits": DIGITS,
        "rows": [_row(group, members) for group, members in groups.items()],
        "machines": list(machines.values()),
        "cards": Counter(run["gpu"] for run in made["runs"] if run["gpu"]),
        "n_unknown": sum(run["commit"] is None for run in made["runs"]),
        "n_changed": len(changed),
        "files": sorted(set().union(*changed)),
    }


def _runs(entries: Iterable[Entry]) -> Row:
    found = [entry["run"] for entry in entries]
    runs = [run for run in found if run is not None]
    return {
        "n_stages": len(found),
        "runs": runs,
        "started": sorted(datetime.fromisoformat(run["started"]) for run in runs),
        "seconds": sum(run["wall_seconds"] for run in runs),
        "commits": list({run and (run["commit"], bool(run["changed"])) for run in found}),
    }


def _row(group: str, members: Mapping[str, Entry]) -> Row:
    """Return what is said of a stage, or of all of its group."""
    inputs = {
        name: record.short_hash(entry["inputs"]) if entry["inputs"] else None
        for name, entry in members.items()
    }
    values = {
        key: sorted({str(value) for entry in members.values() for value in entry[key].values()})
        for key in ("seeds", "precision")
    }
    return _runs(members.values()) | {
        "stage": group,
        "is_group": group not in members,
        "code": _hash({name: entry["code"] for name, entry in members.items()}),
        "params": _hash({name: entry["params"] for name, entry in members.items()}),
        "inputs": _hash(inputs),
        **values,
    }


def _hash(of: Mapping[str, str | None]) -> str | None:
    """Return the hash that all members have, or else one over theirs."""
    different = set(of.values())
    return different.pop() if len(different) == 1 else record.short_hash(dict(of))
