"""A commit in a temporary clone: what its results are, and what is left of them.

Neither the user's workspace nor DVC's cache there is written to; both clones have caches of their
own, and what is not committed is not in them.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from stages.audit import lock
from stages.audit.verdicts import VerificationError
from stages.base.repro import TRAINED
from stages.base.settings import PARAMS_FILE

LOCAL_SETTINGS = Path(".dvc/config.local")
STANDARD_ERROR = 2


@dataclass(frozen=True)
class Commit:
    """A clone of one commit."""

    folder: Path
    revision: str
    """Its full hash."""

    def stages(self) -> list[lock.Stage]:
        """Return the stages of its graph with their results.

        Stages that only an earlier choice of atlas or model had are no longer the study's.

        Raises
        ------
        VerificationError
            There is no ``dvc.lock``.
        """
        if not (self.folder / lock.FILE).exists():
            msg = f"{lock.FILE} is not committed: no result was. Run make reproduce and commit it."
            raise VerificationError(msg)
        return lock.read(self.folder)

    def models(self) -> tuple[str, ...]:
        """Return the names of the models, of text and of cells, that the commit studies."""
        path = self.folder / PARAMS_FILE
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
        of = [(content or {}).get(section) or {} for section in ("model", "cellmodel")]
        return tuple(str(section["name"]) for section in of if "name" in section)

    def changed_files(self, repository: Path) -> list[str]:
        """Name its files that are not the same in the working tree."""
        words = ("diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--diff-filter=a")
        return run(repository, "git", *words, self.revision).split("\0")[:-1]

    def store(self, repository: Path) -> lock.Store:
        """Return the store of its results: the default remote, then the user's cache.

        Both are asked only when something is sought. What cannot be had, or arrives damaged, is
        missing from the store: no error here.
        """

        def caches() -> tuple[Path, ...]:
            _start(self.folder, "dvc", "fetch", "--quiet")
            theirs = repository / lock.cache_of(repository)
            return self.folder / ".dvc" / "cache", theirs

        return lock.Store(self.folder, caches)

    def reproduce(self, only: str = "") -> None:
        """Run its graph, or one stage and what it needs; what that prints goes to standard error.

        Weights that were trained are taken from the remote, as `make reproduce` does, unless they
        are what is asked for.

        Raises
        ------
        VerificationError
            A stage failed.
        """
        for stage in TRAINED:
            if stage != only:
                _start(self.folder, "dvc", "pull", "--quiet", "--allow-missing", stage)
        # No remote to ask and nothing else in the cache: what was computed before cannot slip in.
        run(self.folder, "dvc", "config", "--local", "core.remote", "none-while-verifying")
        self.run_graph([only] if only else [])

    def run_graph(self, stages: Sequence[str] = ()) -> None:
        """Run its graph, or these stages and what they need.

        Raises
        ------
        VerificationError
            A stage failed.
        """
        quick = (self.folder / "stages" / "base" / "repro.py").exists()
        words = ["python", "-m", "stages.base.repro"] if quick else ["dvc", "repro"]
        if _start(self.folder, *words, *stages, output=STANDARD_ERROR).returncode != 0:
            msg = (
                f"dvc repro failed in a clone of {self.revision[:12]} (see above). "
                "Use --keep FOLDER to look into the clone afterwards."
            )
            raise VerificationError(msg)


def clone(repository: Path, revision: str, folder: Path) -> Commit:
    """Clone one commit into `folder`, with an empty cache and the user's own settings of DVC.

    Raises
    ------
    VerificationError
        `repository` is no git repository with DVC, or has no such commit.
    """
    if not (repository / ".git").exists() or not (repository / ".dvc").is_dir():
        msg = f"{repository} is not the top folder of a repository with git and DVC. Go there."
        raise VerificationError(msg)
    words = ("rev-parse", "--quiet", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    found = _start(repository, "git", *words).stdout.strip()
    if not found:
        msg = f"{revision} is no commit, branch or tag here. Name one: --against REVISION."
        raise VerificationError(msg)
    folder.parent.mkdir(parents=True, exist_ok=True)
    source = str(repository.resolve())
    run(folder.parent, "git", "clone", "-q", "--shared", "--no-checkout", source, folder.name)
    run(folder, "git", "checkout", "-q", "--detach", found)
    if (repository / LOCAL_SETTINGS).exists():
        # Credentials, for example.
        shutil.copy(repository / LOCAL_SETTINGS, folder / LOCAL_SETTINGS)
    cache = folder.resolve() / ".dvc" / "cache"
    run(folder, "dvc", "config", "--local", "cache.dir", str(cache))
    return Commit(folder, found)


def run(folder: Path, *words: str) -> str:
    """Run a command of git or DVC in `folder` and return what it prints.

    Raises
    ------
    VerificationError
        It failed.
    """
    done = _start(folder, *words)
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[:300]
        msg = f"{' '.join(words[:3])} failed in {folder}: {said}. Mend this and verify again."
        raise VerificationError(msg)
    return done.stdout


def _start(
    folder: Path, *words: str, output: int = subprocess.PIPE
) -> "subprocess.CompletedProcess[str]":
    """Run a command with the tools of this environment and no settings of another repository.

    DVC keeps its locks and caches in the clone: elsewhere all users may write, or none.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_"))}
    tools = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([tools, environment.get("PATH", os.defpath)])
    environment |= {"DVC_NO_ANALYTICS": "1", "GIT_OPTIONAL_LOCKS": "0", "PYTHONHASHSEED": "0"}
    environment["DVC_SITE_CACHE_DIR"] = str(folder.resolve() / ".dvc" / "tmp" / "site")
    try:
        return subprocess.run(
            words,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        msg = f"{words[0]} is not installed. Install it, and verify again."
        raise VerificationError(msg) from None
