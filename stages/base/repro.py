"""Run ``dvc repro``, systems side by side, writing of ``dvc.lock`` only what a stage changed.

What one system's stages need of another's is nothing (docs/architecture.md), so each has a ``dvc
repro`` of its own, as many at once as there are processors, what took longest first; before it, one
for the inputs that some share, and after them all what joins them.

DVC itself is hastened (:mod:`stages.base.hasten`), and lanes are forked from what has parsed its
files. The lock that results is the same, byte for byte, and so is everything else: a person may as
well type ``dvc repro``.
"""

import json
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import networkx as nx
from dvc.cli import main as dvc
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.graph import get_subgraph_of_nodes

from stages.base import warm
from stages.base.hasten import hasten, looking, matching, named

FIRST = "study"
"""The stage that all others depend on."""
JOINING = ("plane", "report", "audit")
"""Rooms whose stages may need several systems."""
TRAINED = ("trained", "cell_trained", "autoencoders")
"""Stages whose outputs are fetched, since another processor would train others."""
INPUTS = "inputs"
"""The room whose stages several systems may share."""
WEIGHTS, ALLOW_MISSING = "--weights", "--allow-missing"
PROVENANCE = Path("reports/provenance.json")


@dataclass(frozen=True)
class Lane:
    """Stages that one ``dvc repro`` makes, and those that can be made side by side after them."""

    names: list[str]
    """In order."""
    then: tuple["Lane", ...] = ()

    def seconds(self, taken: Mapping[str, float]) -> float:
        """Return what it and all after it took; a stage of which that is not known counts 1."""
        own = sum(taken.get(name, 1.0) for name in self.names)
        return own + sum(lane.seconds(taken) for lane in self.then)


def lanes(graph: "nx.DiGraph[Any]") -> list[Lane]:
    """Return the stages that can be made side by side: inputs, then what is made of them.

    Parameters
    ----------
    graph
        Stages, each with an edge to those that it depends on.
    """
    apart = graph.subgraph(stage for stage in graph if _belongs_to_one_system(stage))
    inputs = {stage for stage in apart if _room(stage) == INPUTS}
    found = []
    for part in nx.weakly_connected_components(apart):
        then = [Lane(names) for names in _parts(apart.subgraph(part - inputs))]
        shared = _ordered(apart.subgraph(part & inputs))
        found += [Lane(shared, tuple(then))] if shared else then
    return found


def _parts(graph: "nx.DiGraph[Any]") -> Iterator[list[str]]:
    for part in nx.weakly_connected_components(graph):
        yield _ordered(graph.subgraph(part))


def _ordered(graph: "nx.DiGraph[Any]") -> list[str]:
    return [stage.addressing for stage in nx.dfs_postorder_nodes(graph)]


def _room(stage: Any) -> str:
    found = re.search(r"-m stages\.(\w+)", stage.cmd or "")
    return found[1] if found else ""


def _belongs_to_one_system(stage: Any) -> bool:
    return _room(stage) not in ("", *JOINING) and stage.name != FIRST


def _taken() -> dict[str, float]:
    """Return how many seconds each stage took when its committed results were made."""
    try:
        stages = json.loads(PROVENANCE.read_text(encoding="utf-8"))["stages"]
        return {name: float(of["run"]["wall_seconds"]) for name, of in stages.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def left(found: Sequence[Lane], changed: Callable[[str], bool]) -> list[Lane]:
    """Leave out lanes in which no stage has changed; what rests on one that has may change yet."""
    kept = []
    for lane in found:
        kept += [lane] if any(map(changed, lane.names)) else left(lane.then, changed)
    return kept


def absent(stages: Iterable[Any], made: Collection[str]) -> dict[str, str]:
    """Return the paths that are not there though a stage reads them, each with such a stage.

    Parameters
    ----------
    made
        The paths of all outputs, which a run makes.
    """
    found, around_made = {}, {str(folder) for path in made for folder in Path(path).parents}
    for stage in stages:
        for dep in stage.deps:
            around = {dep.fs_path, *map(str, Path(dep.fs_path).parents)}
            comes = dep.fs_path in around_made or not around.isdisjoint(made)
            if not comes and not dep.exists:
                found[str(dep)] = stage.addressing
    return found


def _reproduce(targets: Sequence[str], options: Sequence[str], fd: int | None) -> int:
    """Make what all rest on, what lies in lanes, and what joins it; return the first fault."""
    missing = ALLOW_MISSING in options
    with Repo() as repo:
        graph = repo.index.graph
        stages = {stage.addressing: stage for stage in graph}
        if not all(matching(stages, [name]) for name in targets):
            # DVC says what is wrong with one, or knows what it is.
            return int(dvc(["repro", *options, *targets]))
        ends = [stages[name] for name in matching(stages, targets)]
        asked = get_subgraph_of_nodes(graph, ends) if ends else graph
        made = {out.fs_path for stage in graph for out in stage.outs}
        if not missing and (gone := absent(asked, made)):
            path, reader = min(gone.items())
            more = f" (and {len(gone) - 1} more)" if len(gone) > 1 else ""
            sys.stderr.write(
                f"error: {path}{more} is not there; {reader} reads it, and no stage makes it. Put "
                "it there, or name another in conf/ or by SET=.\n"
            )
            return 1
        if status := int(dvc(["repro", *options, "--single-item", FIRST])):
            return status
        found = lanes(asked)
        # Where another run is at work, a lane says so.
        with suppress(DvcException), looking(repo, asked):
            changed = {s.addressing for s in asked if s.changed(allow_missing=missing)}
            found = left(found, changed.__contains__)
            if len(changed) > warm.FEW:
                warm.prepare(fd)
        joining = [name for name in _ordered(asked) if not _belongs_to_one_system(stages[name])]
    if status := _side_by_side(found, options, fd):
        return status
    # Lanes are made. Where files may be missing, DVC looks at what they come from as well.
    return int(dvc(["repro", *options, *(targets if missing else ["--single-item", *joining])]))


def _side_by_side(found: list[Lane], options: Sequence[str], fd: int | None = None) -> int:
    """Make what lies in lanes; return the first status that is not 0."""
    taken = _taken()
    statuses: list[int] = []
    running: dict[Any, tuple[Any, Lane]] = {}
    while found or running:
        found.sort(key=lambda lane: lane.seconds(taken))
        while found and len(running) < (os.cpu_count() or 1):
            lane = found.pop()
            begun = _begun([*options, *lane.names], fd)
            running[begun.sentinel] = begun, lane
        for sentinel in wait(list(running)):
            ended, lane = running.pop(sentinel)
            ended.join()
            statuses.append(ended.exitcode)
            found += lane.then if ended.exitcode == 0 else ()
    return max(statuses, key=abs, default=0)


def _begun(words: Sequence[str], fd: int | None) -> Any:
    """Begin a ``dvc repro`` of a lane's stages in a process of its own."""
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    process = context.Process(target=_make, args=(words, fd))
    sys.stdout.flush()
    process.start()
    return process


def _make(words: Sequence[str], fd: int | None) -> None:
    hasten(fd)
    # Alone: what all rest on is made, and is busy for a lane that looks at it while others read it.
    sys.exit(int(dvc(["--wait-for-lock", "repro", "--single-item", *words])))


def _fetch_weights(fd: int | None) -> None:
    """Fetch the weights that these settings have trained, of models and of autoencoders."""
    with Repo() as repo, repo.lock:
        names = [stage.addressing for stage in named(repo, TRAINED) if _is_to_fetch(stage)]
    if not names:
        return
    # What reads them has not run here.
    warm.prepare(fd)
    if dvc(["pull", "--quiet", "--allow-missing", *names]):
        sys.stderr.write(f"note: {', '.join(names)} could not be fetched, and may be made again\n")


def _is_to_fetch(stage: Any) -> bool:
    """Whether what a stage made is not here, and would not be made anew."""
    known = all(out.hash_info for out in stage.outs)
    return known and stage.changed_outs() and not stage.changed(allow_missing=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dvc repro`` with these words; with ``--weights``, fetch the kept weights first."""
    words = list(sys.argv[1:] if argv is None else argv)
    with warm.started() as fd:
        hasten(fd)
        if WEIGHTS in words:
            words.remove(WEIGHTS)
            # Where another run is at work, what follows says so.
            with suppress(DvcException):
                _fetch_weights(fd)
        options = [word for word in words if word.startswith("-")]
        targets = [word for word in words if not word.startswith("-")]
        if set(options) <= {ALLOW_MISSING}:
            return _reproduce(targets, options, fd)
        return int(dvc(["repro", *words]))


if __name__ == "__main__":
    raise SystemExit(main())
