"""Take the place of DVC's slower parts in a process: the results are the same, byte for byte.

After every stage, DVC 3.67 reads and writes the whole of ``dvc.lock`` in pure Python: 9 s for the
580 kB of this study, which is more than most of its stages take. Here the lines of the stage are
put in the place of its old ones, and what was parsed once is not parsed again while its text stays
the same. For every stage DVC reads ``params.yaml`` and goes through all of it for each setting;
here it is read once, and asked by name. To look what has changed, DVC locks and releases the files
of a stage seven times, one stage after another; here all are held at once. And stages are started
from a process that has imported their libraries (:mod:`stages.base.warm`).
"""

import importlib
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from dvc import rwlock
from dvc.dependency import param
from dvc.dvcfile import PROJECT_FILE, Lockfile, ProjectFile
from dvc.repo import Repo
from dvc.stage import run as running_stages
from dvc.stage import serialize
from dvc.stage.exceptions import StageCmdFailedError
from dvc.utils import strictyaml
from dvc.utils.serialize import YAMLFileCorruptedError, dumps_yaml, parse_yaml

from stages.base import warm
from stages.base.files import write_text

reproduction = importlib.import_module("dvc.repo.reproduce")
HEAD = "schema: '2.0'\nstages:\n"
_by_dvc = Lockfile.dump_stages
_run_by_dvc = running_stages._run
_load_by_dvc = param.load_path
_read_by_dvc = param.read_param_file
_params: dict[tuple[str, int, int], Any] = {}


def hasten(fd: int | None) -> None:
    """Do so from now on; `fd` is that of the warm process, if there is one."""
    Lockfile.dump_stages = _dump_stages
    param.load_path, param.read_param_file = _load_params, _read_params
    strictyaml.parse_yaml = _parse
    reproduction.collect_stages = named  # type: ignore[attr-defined]
    if fd is not None:
        _start_from(fd)


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


def _load_params(path: str, fs: Any, **options: Any) -> Any:
    state = Path(path).stat()
    key = path, state.st_mtime_ns, state.st_size
    if key not in _params:
        _params[key] = _load_by_dvc(path, fs, **options)
    return _params[key]


def _read_params(
    fs: Any,
    path: str,
    names: list[str] | None = None,
    flatten: bool = False,  # noqa: FBT001, FBT002 - as DVC calls it
    **options: Any,
) -> Any:
    if not (names and flatten):
        return _read_by_dvc(fs, path, names, flatten, **options)
    whole, found = _load_params(path, fs, **options), {}
    for name in names:
        value = whole
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                # A list, a pattern, or nothing.
                return _read_by_dvc(fs, path, names, flatten, **options)
            value = value[part]
        found[name] = value
    return found


_parsed = cache(parse_yaml)


def _parse(text: str, path: str, typ: str = "safe") -> Any:
    """Parse a file of DVC's; of a lock file, only the entries that are new."""
    if typ != "safe":
        return parse_yaml(text, path, typ)
    if not text.startswith(HEAD):
        return deepcopy(_parsed(text, path))
    entries = re.split(r"^(?=  \S)", text.removeprefix(HEAD), flags=re.MULTILINE)
    try:
        each = [_parsed(entry, path) for entry in entries if entry]
    except YAMLFileCorruptedError:
        # Something else stands among them.
        return parse_yaml(text, path)
    return {"schema": "2.0", "stages": {k: deepcopy(v) for of in each for k, v in of.items()}}


@contextmanager
def looking(repo: Repo, stages: Iterable[Any]) -> Iterator[None]:
    """Hold all files of some stages at once; DVC would, one by one, seven times a stage."""
    paths = {item.fs_path for stage in stages for item in (*stage.deps, *stage.outs)}
    hardlink = repo.config["core"].get("hardlink_lock", False)
    each = rwlock.rwlock
    with repo.lock, each(repo.tmp_dir, repo.fs, " ".join(sys.argv), [*paths], [], hardlink):
        rwlock.rwlock = lambda *_: nullcontext()
        try:
            yield
        finally:
            rwlock.rwlock = each


def matching(names: Iterable[str], targets: Iterable[str]) -> list[str]:
    """Return the names of stages that are targets, or one item of them."""
    wanted = set(targets)
    return [name for name in names if not wanted.isdisjoint((name, name.partition("@")[0]))]


def named(repo: Repo, targets: Sequence[str], **_: Any) -> list[Any]:
    """Return stages by their names, or of all items: DVC would read the graph again for each."""
    every = ProjectFile(repo, PROJECT_FILE).stages
    of = {name: matching(every, [name]) for name in targets}
    # DVC says what is wrong with another target, or knows what it is.
    return [
        stage
        for name, keys in of.items()
        for stage in ([every[key] for key in keys] or repo.stage.collect(name))
    ]


def _start_from(fd: int) -> None:
    """Have DVC start stages from the warm process that is asked here, where that can be."""

    def run(executable: str | None, cmd: str, **options: Any) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            status = warm.run(fd, cmd, options["cwd"], options["env"])
        finally:
            signal.signal(signal.SIGINT, before)
        if status is None:
            _run_by_dvc(executable, cmd, **options)
        elif status:
            raise StageCmdFailedError(cmd, status)

    running_stages._run = run
