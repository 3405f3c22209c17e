"""Run ``dvc repro``, systems side by side, writing of ``dvc.lock`` only what a stage changed.

What one system's stages need of another's is nothing (docs/architecture.md), so each has a ``dvc
repro`` of its own, as many at once as there are processors; what joins them is made last.

After every stage, DVC 3.67 reads and writes the whole file in pure Python: 4 s for the 280 kB of
this study, which is more than most of its stages take. Here the lines of the stage are put in the
place of its old ones. The file that results is the same, byte for byte, and so is everything else:
a person may as well type ``dvc repro``.
"""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import networkx as nx
from dvc.cli import main as dvc
from dvc.dvcfile import Lockfile
from dvc.repo import Repo
from dvc.repo.graph import get_subgraph_of_nodes
from dvc.stage import serialize
from dvc.utils.serialize import dumps_yaml

from stages.base.files import write_text

reproduction = importlib.import_module("dvc.repo.reproduce")
FIRST = "study"
"""The stage that all others depend on."""
JOINING = ("plane", "report", "audit")
"""Rooms whose stages may need several systems."""
TRAINED = ("trained", "cell_trained")
"""Stages whose outputs are fetched, since another processor would make others."""
ALONE, WEIGHTS = "--lane", "--weights"
HEAD = "schema: '2.0'\nstages:\n"
_by_dvc = Lockfile.dump_stages


def spliced(text: str, entries: Mapping[str, Any]) -> str:
    """Return the text of a lock file in which these stages have these entries.

    A stage that it does not have comes last, as DVC puts it.
    """
    for name, entry in entries.items():
        lines = dumps_yaml({"stages": {name: entry}}).partition("\n")[2]
        key = re.escape(lines.partition("\n")[0])
        # Up to the next line that is indented no further.
        found = re.search(rf"^{key}\n(?: {{3,}}.*\n|\n)*", text, flags=re.MULTILINE)
        start, end = found.span() if found else (len(text), len(text))
        text = text[:start] + lines + text[end:]
    return text


def _dump_stages(lock: Any, stages: Sequence[Any], **options: Any) -> None:
    path = Path(lock.path)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if not before.startswith(HEAD):
        _by_dvc(lock, stages, **options)
        return
    entries = {k: v for s in stages for k, v in serialize.to_lockfile(s, **options).items()}
    after = spliced(before, entries)
    if after != before:
        write_text(path, after)
        lock.repo.scm_context.track_file(lock.relpath)


def lanes(graph: "nx.DiGraph[Any]") -> list[list[str]]:
    """Return the stages that can be made side by side, in order, the longest list first.

    Parameters
    ----------
    graph
        Stages, each with an edge to those that it depends on.
    """
    apart = graph.subgraph(stage for stage in graph if _belongs_to_one_system(stage))
    parts = sorted(nx.weakly_connected_components(apart), key=len, reverse=True)
    return [
        [stage.addressing for stage in nx.dfs_postorder_nodes(apart.subgraph(part))]
        for part in parts
    ]


def _belongs_to_one_system(stage: Any) -> bool:
    found = re.search(r"-m stages\.(\w+)", stage.cmd or "")
    return found is not None and found[1] not in JOINING and stage.name != FIRST


def _side_by_side(targets: Sequence[str], options: Sequence[str]) -> int:
    """Make what lies in lanes; return the first status that is not 0."""
    with Repo() as repo:
        graph = repo.index.graph
        wanted = [stage for name in targets for stage in repo.stage.collect(name)]
        found = lanes(get_subgraph_of_nodes(graph, wanted) if wanted else graph)
    if len(found) < 2:
        return 0
    # Alone: what all rest on is made, and is busy for a lane that looks at it while others read it.
    words = [sys.executable, "-m", "stages.base.repro", ALONE, "--single-item", *options]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return max(pool.map(_status, ([*words, *names] for names in found)), key=abs)


def _fetch_weights() -> int:
    """Fetch the weights of the models that these settings have trained."""
    with Repo() as repo:
        names = [one.addressing for one in repo.index.stages if one.name.split("@")[0] in TRAINED]
    return int(dvc(["pull", "--quiet", "--allow-missing", *names])) if names else 0


def _of_index(repo: Repo, targets: Sequence[str], **_: Any) -> list[Any]:
    """Return stages by their names: DVC would read the whole graph again for each."""
    by_name = {stage.addressing: stage for stage in repo.index.stages}
    return [by_name[name] for name in targets]


def _status(words: Sequence[str]) -> int:
    return subprocess.run(words, check=False).returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dvc repro`` with these words; with ``--weights``, fetch those alone."""
    Lockfile.dump_stages = _dump_stages
    # Threads that wait must sleep: spinning, they take the processor from the other lanes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == [ALONE]:
        reproduction.collect_stages = _of_index  # type: ignore[attr-defined]
        return int(dvc(["--wait-for-lock", "repro", *words[1:]]))
    if words == [WEIGHTS]:
        return _fetch_weights()
    options = [word for word in words if word.startswith("-")]
    targets = [word for word in words if not word.startswith("-")]
    return (
        int(dvc(["repro", *options, FIRST]))
        or _side_by_side(targets, options)
        or int(dvc(["repro", *words]))
    )


if __name__ == "__main__":
    raise SystemExit(main())
