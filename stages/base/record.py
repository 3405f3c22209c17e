"""Note what a stage ran from and on, for the provenance of what it writes.

:mod:`stages.base.cli` calls it around every stage that DVC runs. What can change while a stage runs
(code, settings, commit) is noted at its start: DVC itself hashes dependencies only after the
command has ended. The note, one JSON file a stage in ``.provenance/``, is this machine's own;
:mod:`stages.audit.provenance` makes of all of them what is committed and printed. A note
decides no result, and that it cannot be written is a warning and no error.
"""

import hashlib
import json
import logging
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from stages import STARTED
from stages.base.files import file_hash, folder_hash, write_text
from stages.base.settings import PARAMS_FILE

log = logging.getLogger("stages")

FOLDER = Path(".provenance")
# Whatever a stage depends on below these is hashed at its start.
CODE = ("stages", "conf")
# The packages that compute, read, draw or render.
PACKAGES = (
    "anndata",
    "dvc",
    "h5py",
    "igraph",
    "leidenalg",
    "matplotlib",
    "numba",
    "numpy",
    "pandas",
    "pyarrow",
    "pypandoc_binary",
    "scanpy",
    "scikit-learn",
    "scipy",
    "statsmodels",
    "tokenizers",
    "torch",
    "transformers",
    "typst",
    "umap-learn",
)
# A list that is not whole yet is read again so often.
READINGS, BETWEEN_S = 50, 0.02
# An output beyond this is told from another by its size alone: hashing it again would take seconds.
LARGEST_HASHED_BYTES = 32 << 20
GIT_SECONDS = 20
NVIDIA_DRIVER = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Running:
    """A stage that runs: what was noted at its start, and where its outputs will lie."""

    note: dict[str, Any]
    outputs: tuple[str, ...]


def n_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def begin() -> Running | None:
    """Note the state at the start of a stage; None if DVC does not run it."""
    stage = os.environ.get("DVC_STAGE")
    if not stage:
        return None
    # DVC runs every command of this graph in the project's folder.
    root = Path.cwd()
    try:
        commit, changed = checkout(root)
        note = {
            "stage": stage,
            "arguments": sys.argv[1:],
            "commit": commit,
            "changed": changed,
            "files": code_hashes(root),
            "params": (root / PARAMS_FILE).read_text(encoding="utf-8", errors="replace"),
            "environment": environment(),
            "started": datetime.fromtimestamp(STARTED, UTC).isoformat(timespec="seconds"),
        }
        return Running(note=note, outputs=_locked_for_writing(root))
    except OSError as error:
        _warn(stage, error)
        return None


def end(running: Running) -> None:
    """Write the note of a stage that has ended well."""
    note = running.note | {
        "outputs": {path: found for path in running.outputs if (found := _output(Path(path)))},
        "wall_seconds": round(time.time() - STARTED, 2),
        "peak_memory_mib": _peak_memory_mib(),
        "gpu": _gpu_in_use(),
    }
    try:
        write_text(note_path(note["stage"]), json.dumps(note, indent=1) + "\n")
    except OSError as error:
        _warn(note["stage"], error)


def note_path(stage: str) -> Path:
    """Return where the note of a stage lies, whatever characters its name has.

    >>> note_path("cells@tms facs").as_posix()
    '.provenance/cells@tms%20facs.json'
    """
    return FOLDER / f"{quote(stage, safe='@')}.json"


def code_hashes(root: Path) -> dict[str, str]:
    """Return the md5 of every file of code and settings, by its path from `root`."""
    found = [root / PARAMS_FILE] if (root / PARAMS_FILE).is_file() else []
    for name in CODE:
        found += [path for path in _files(root / name) if path.suffix != ".pyc"]
    return {path.relative_to(root).as_posix(): file_hash(path, "md5") for path in found}


def md5_of(path: str, files: Mapping[str, str]) -> str | None:
    """Return the md5 that DVC gives to a file, or to a folder, whose files have these md5.

    Parameters
    ----------
    path
        A file or a folder.
    files
        md5 by path.

    Returns
    -------
    str or None
        For a folder the md5 of DVC's listing of it, with ``.dir`` appended; None if no file lies
        at or below `path`.

    Examples
    --------
    >>> md5_of("a", {"a/x": "0cc175b9c0f1b6a831c399e269772661", "b": "0"})
    '1bb104d3614a4bbe3a96117b7a394b99.dir'
    """
    if path in files:
        return files[path]
    inside = {
        PurePosixPath(name).relative_to(path).as_posix(): md5
        for name, md5 in files.items()
        if PurePosixPath(path) in PurePosixPath(name).parents
    }
    if not inside:
        return None
    return folder_hash(inside)


def short_hash(content: object, digits: int = 32) -> str:
    """Return the md5 of what is JSON, its keys sorted, or the first digits of it."""
    text = json.dumps(content, sort_keys=True).encode()
    return hashlib.md5(text, usedforsecurity=False).hexdigest()[:digits]


def _files(folder: Path) -> list[Path]:
    inside = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return sorted(path for path in inside if path.is_file())


def _warn(stage: str, error: OSError) -> None:
    where = f"{error.filename}: " if error.filename else ""
    log.warning(
        "warning: no provenance of %s is kept (%s%s). Make %s/ writable to have it; "
        "the outputs are as they should be.",
        stage,
        where,
        error.strerror or error,
        FOLDER,
    )


def _locked_for_writing(root: Path) -> tuple[str, ...]:
    """Return the outputs of what DVC runs now.

    DVC tells its command no outputs, but keeps a list of all paths that are being written, by which
    a second DVC knows to stay away. Another stage's outputs among them do no harm. Where several
    run side by side, one may just be writing that list, and for a moment it is not whole.
    """
    held = None
    for _ in range(READINGS):
        try:
            held = json.loads((root / ".dvc" / "tmp" / "rwlock").read_text(encoding="utf-8"))
            break
        except FileNotFoundError:
            break
        except ValueError:
            time.sleep(BETWEEN_S)
    if held is None:
        return ()
    paths = (Path(path) for path in held.get("write", {}))
    return tuple(
        sorted(path.relative_to(root).as_posix() for path in paths if path.is_relative_to(root))
    )


def _output(path: Path) -> dict[str, Any] | None:
    """Return the size in bytes of a file or folder, and its md5 unless it is large."""
    if not path.exists():
        return None
    files = _files(path) if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files)
    if size > LARGEST_HASHED_BYTES:
        return {"md5": None, "size": size}
    hashes = {file.as_posix(): file_hash(file, "md5") for file in files}
    return {"md5": md5_of(path.as_posix(), hashes), "size": size}


def checkout(root: Path) -> tuple[str | None, list[str] | None]:
    """Return the commit and which tracked files differ from it; None for what git cannot tell."""
    if not (root / ".git").exists():
        return None, None
    words = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "-z"]
    words += ["--untracked-files=no", "--no-renames"]
    # A hook of git sets these for another index or folder.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            words, cwd=root, env=environment, capture_output=True, check=True, timeout=GIT_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    return _parse_status(done.stdout.decode("utf-8", errors="replace").split("\0"))


def _parse_status(lines: Iterable[str]) -> tuple[str | None, list[str] | None]:
    """Read ``git status --porcelain=v2 --branch -z``.

    >>> _parse_status(["# branch.oid 1a2b", "1 .M N... 100644 100644 100644 1 2 a file.py", ""])
    ('1a2b', ['a file.py'])
    >>> _parse_status(["# branch.oid (initial)", "1 A. N... 0 100644 100644 0 2 a.py"])
    (None, None)
    """
    commit, changed = None, []
    for line in lines:
        kind, _, rest = line.partition(" ")
        if rest.startswith("branch.oid "):
            oid = rest.removeprefix("branch.oid ")
            commit = None if oid == "(initial)" else oid
        elif kind in ("1", "u"):
            # The path follows seven fields; a path in conflict, nine.
            changed.append(rest.split(" ", 7 if kind == "1" else 9)[-1])
    if commit is None:
        return None, None
    return commit, sorted(changed)


def environment() -> dict[str, Any]:
    """Return the machine and the versions; nothing that names the machine or its owner."""
    return {
        "cores": n_processors(),
        "cpu": _cpu(),
        "gpus": gpus(NVIDIA_DRIVER),
        "memory_gib": _memory_gib(),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return " ".join((found.group(1) if found else platform.processor()).split())


def _memory_gib() -> float | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
    return round(size / 2**30, 1)


def gpus(driver: Path) -> list[str]:
    """Return the models of the graphics cards that the NVIDIA driver lists below `driver`."""
    found = []
    for path in sorted(driver.glob("*/information")):
        text = path.read_text(encoding="utf-8", errors="replace")
        found += re.findall(r"^Model:\s*(.+?)\s*$", text, flags=re.MULTILINE)
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _peak_memory_mib() -> int:
    """Return the largest resident set of this process or of one that it waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    largest = max(resource.getrusage(kind).ru_maxrss for kind in kinds)
    # Linux counts in KiB, macOS in bytes.
    return round(largest / (2**20 if sys.platform == "darwin" else 2**10))


def _gpu_in_use() -> str | None:
    """Return the graphics card that the stage computed on; PyTorch is not imported to ask it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return str(torch.cuda.get_device_name())
