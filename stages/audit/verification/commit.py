"""A commit in a temporary clone: what its results are, and what is left of them.

Neither the user's workspace nor DVC's cache there is written to; both clones have caches of their
own, and what is not committed is not in them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from configparser import RawConfigParser
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from stages.audit.verification.verdicts import VerificationError
from stages.base.files import FOLDER_MARK, file_hash
from stages.base.settings import PARAMS_FILE

LOCK = "dvc.lock"
LOCAL_SETTINGS = "config.local"
STANDARD_ERROR = 2


@dataclass(frozen=True)
class Output:
    """One output as ``dvc.lock`` names it."""

    path: str
    stage: str
    md5: str
    inputs: tuple[str, ...]
    """What its stage depends on."""


@dataclass(frozen=True)
class Commit:
    """A clone of one commit."""

    folder: Path
    revision: str
    """Its full hash."""

    def outputs(self) -> tuple[list[Output], list[str]]:
        """Return the outputs of all stages, and the stages that ``dvc.lock`` does not know.

        Stages that only an earlier choice of atlas or model had are no longer the study's.

        Raises
        ------
        VerificationError
            There is no ``dvc.lock``, or DVC cannot read the graph.
        """
        names = run(self.folder, "dvc", "stage", "list", "--name-only").split()
        locked = locked_stages(self.folder / LOCK)
        found = [
            Output(
                path=str(out["path"]),
                stage=name,
                md5=str(out["md5"]),
                inputs=tuple(str(dep["path"]) for dep in locked[name].get("deps", [])),
            )
            for name in names
            if name in locked
            for out in locked[name].get("outs", [])
        ]
        return found, [name for name in names if name not in locked]

    def model(self) -> str:
        """Return the name of the model that the commit studies, or nothing."""
        path = self.folder / PARAMS_FILE
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
        return str(((content or {}).get("model") or {}).get("name", ""))


def locked_stages(path: Path) -> dict[str, Any]:
    """Return the stages of a ``dvc.lock`` by name.

    Raises
    ------
    VerificationError
        It is missing or not what DVC writes.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return dict(content["stages"])
    except FileNotFoundError:
        msg = f"{path.name} is not committed: no result was. Run make reproduce and commit it."
        raise VerificationError(msg) from None
    except (yaml.YAMLError, TypeError, KeyError):
        msg = f"{path} is not what DVC writes. Restore it: git checkout {LOCK}."
        raise VerificationError(msg) from None


class Store:
    """Where committed bytes may still be; nothing is believed without its hash.

    Parameters
    ----------
    checkout
        The clone: small results may be in git itself.
    caches
        Gives the other places, laid out as DVC's cache; asked once, when something is first sought.
    """

    def __init__(self, checkout: Path, caches: Callable[[], tuple[Path, ...]]) -> None:
        self._checkout = checkout
        self._caches = cache(caches)

    def find(self, md5: str, path: str) -> Path | None:
        """Return a file with these bytes, or None if nobody kept a true copy.

        Parameters
        ----------
        md5
            Its hash; a flipped byte in a cache goes unnoticed by DVC, not here.
        path
            Its name in the repository.
        """

        def candidates() -> Iterator[Path]:
            yield self._checkout / path
            yield from (c / "files" / "md5" / md5[:2] / md5[2:] for c in self._caches())

        for candidate in candidates():
            if not candidate.is_file():
                continue
            if file_hash(candidate, "md5") == md5.removesuffix(FOLDER_MARK):
                return candidate
        return None

    def files(self, output: Output) -> dict[str, str] | None:
        """Return the hash of each file of a folder by its name there; None if its list is lost."""
        found = self.find(output.md5, output.path)
        if found is None:
            return None
        listed = json.loads(found.read_text(encoding="utf-8"))
        return {str(entry["relpath"]): str(entry["md5"]) for entry in listed}


def files_below(folder: Path) -> dict[str, str]:
    """Return the md5 of each file below `folder` by its name there."""
    return {
        path.relative_to(folder).as_posix(): file_hash(path, "md5")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def clone(repository: Path, revision: str, folder: Path) -> Commit:
    """Clone one commit into `folder`, with an empty cache.

    Raises
    ------
    VerificationError
        `repository` is no git repository with DVC, or has no such commit.
    """
    if not (repository / ".git").exists() or not (repository / ".dvc").is_dir():
        msg = f"{repository} is not the top folder of a repository with git and DVC. Go there."
        raise VerificationError(msg)
    folder.parent.mkdir(parents=True, exist_ok=True)
    source = str(repository.resolve())
    run(folder.parent, "git", "clone", "-q", "--shared", "--no-checkout", source, folder.name)
    found = ""
    for name in (revision, f"origin/{revision}"):
        words = [
            "git",
            "rev-parse",
            "--quiet",
            "--verify",
            "--end-of-options",
            f"{name}^{{commit}}",
        ]
        done = _start(folder, words, capture=True)
        if done.returncode == 0:
            found = done.stdout.strip()
            break
    if not found:
        msg = f"{revision} is no commit, branch or tag here. Name one: --against REVISION."
        raise VerificationError(msg)
    run(folder, "git", "checkout", "-q", "--detach", found)
    _configure(folder, repository)
    return Commit(folder, found)


def _configure(folder: Path, repository: Path) -> None:
    """Give a clone the user's own settings of DVC (credentials), and a cache of its own."""
    settings = RawConfigParser()
    settings.read(repository / ".dvc" / LOCAL_SETTINGS, encoding="utf-8")
    if not settings.has_section("cache"):
        settings.add_section("cache")
    settings.set("cache", "dir", str(folder.resolve() / ".dvc" / "cache"))
    with (folder / ".dvc" / LOCAL_SETTINGS).open("w", encoding="utf-8") as file:
        settings.write(file)


def store_of(commit: Commit, repository: Path) -> Store:
    """Return the store of a commit's results: the default remote, then the user's cache.

    Both are asked only when something is sought. What cannot be had, or arrives damaged, is
    missing from the store: no error here.
    """

    def caches() -> tuple[Path, ...]:
        _start(commit.folder, ["dvc", "fetch", "--quiet"], capture=True)
        theirs = run(repository, "dvc", "cache", "dir").strip()
        return commit.folder / ".dvc" / "cache", Path(theirs)

    return Store(commit.folder, caches)


def reproduce(commit: Commit) -> None:
    """Run the whole graph of a clone; what it prints goes to standard error.

    Raises
    ------
    VerificationError
        A stage failed.
    """
    # No remote to ask and nothing in the cache: what was computed before cannot slip in.
    run(commit.folder, "dvc", "config", "--local", "core.remote", "none-while-verifying")
    done = _start(commit.folder, ["dvc", "repro"], capture=False)
    if done.returncode != 0:
        msg = (
            f"dvc repro failed in a clone of {commit.revision[:12]} (see above). "
            "Use --keep FOLDER to look into the clone afterwards."
        )
        raise VerificationError(msg)


def changed_files(commit: Commit, repository: Path) -> list[str]:
    """Name the files of a commit that are not the same in the working tree."""
    listed = run(commit.folder, "git", "ls-files", "-z").split("\0")
    return [
        name
        for name in filter(None, listed)
        if _bytes(commit.folder / name) != _bytes(repository / name)
    ]


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def run(folder: Path, *words: str) -> str:
    """Run a command of git or DVC in `folder` and return what it prints.

    Raises
    ------
    VerificationError
        It failed.
    """
    done = _start(folder, list(words), capture=True)
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[:300]
        msg = f"{' '.join(words[:3])} failed in {folder}: {said}. Mend this and verify again."
        raise VerificationError(msg)
    return done.stdout


def _start(
    folder: Path, words: Sequence[str], *, capture: bool
) -> "subprocess.CompletedProcess[str]":
    """Run a command with the tools of this environment and no settings of another repository."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_"))}
    tools = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([tools, environment.get("PATH", os.defpath)])
    environment |= {"DVC_NO_ANALYTICS": "1", "PYTHONHASHSEED": "0"}
    try:
        return subprocess.run(
            words,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if capture else STANDARD_ERROR,
            stderr=subprocess.PIPE if capture else STANDARD_ERROR,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        msg = f"{words[0]} is not installed. Install it, and verify again."
        raise VerificationError(msg) from None
