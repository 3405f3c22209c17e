"""Hash every object of DVC's cache and of the store inside the repository again.

DVC trusts what lies in its cache: a byte that flipped there is checked out into the workspace and
no command of DVC notices. ``dvc pull --allow-missing`` takes an object that was damaged in a
remote, or a remote that refused or did not answer, for one that was never pushed, and ends with
status 0. This command notices all of them::

    python -m stages.audit.fsck             every object has the md5 of its name
    python -m stages.audit.fsck --outputs   and every pushed output is as dvc.lock has it
"""

import argparse
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from stages.base import cli
from stages.base.errors import StageError
from stages.base.files import FOLDER_MARK, file_hash

log = logging.getLogger("tools")

STORE = Path("artifacts")
# Where DVC 3 keeps objects below a cache or remote, and what it names them.
OBJECTS = Path("files/md5")
_NAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{30}(\.dir)?")


class StoreError(StageError):
    """Objects are damaged, or outputs are not as ``dvc.lock`` has them."""


@dataclass(frozen=True)
class Output:
    """One output that DVC tracks by hash.

    Attributes
    ----------
    path
        Where it lies in the workspace, relative to the repository.
    oid
        The md5 that ``dvc.lock`` has for it; that of a directory ends in ``.dir``.
    is_pushed
        Whether ``dvc push`` sends it (no ``push: false``).
    """

    path: Path
    oid: str
    is_pushed: bool


def cache(repository: Path) -> Path:
    """Return the folder of DVC's cache, relative to the repository if it lies there.

    Raises
    ------
    StoreError
        The folder is no DVC repository.
    """
    try:
        with Repo(str(repository)) as repo:
            folder = Path(repo.cache.local.path).parents[1]
            inside = folder.is_relative_to(repo.root_dir)
            return folder.relative_to(repo.root_dir) if inside else folder
    except DvcException as error:
        msg = f"{error}. Run this in the root of the repository."
        raise StoreError(msg) from error


def objects(folder: Path) -> dict[str, Path]:
    """Return the objects below a cache or store by the hash they are named after."""
    root = folder / OBJECTS
    paths = [path for path in root.glob("*/*") if path.is_file()]
    named = {path.relative_to(root).as_posix(): path for path in sorted(paths)}
    return {name.replace("/", ""): path for name, path in named.items() if _NAME.fullmatch(name)}


def damaged(found: Mapping[str, Path]) -> dict[str, str]:
    """Return the md5 of the objects whose bytes do not have the one they are named after."""
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(lambda path: file_hash(path, "md5"), found.values())
        seen = dict(zip(found, hashes, strict=True))
    return {oid: md5 for oid, md5 in seen.items() if md5 != oid.removesuffix(FOLDER_MARK)}


def outputs(repository: Path) -> list[Output]:
    """Return the outputs of ``dvc.yaml`` that ``dvc.lock`` has a hash for, in the order of paths.

    Raises
    ------
    StoreError
        ``dvc.yaml`` or ``dvc.lock`` cannot be read.
    """
    try:
        with Repo(str(repository)) as repo:
            tracked = {
                Path(out.fs_path): Output(
                    Path(out.fs_path).relative_to(repo.root_dir), out.hash_info.value, out.can_push
                )
                for out in repo.index.outs
                if out.use_cache and out.hash_info
            }
    except DvcException as error:
        msg = f"{error}. Correct dvc.yaml, or restore dvc.lock by `git checkout dvc.lock`."
        raise StoreError(msg) from error
    return [tracked[path] for path in sorted(tracked)]


def files_of(output: Output, folders: Iterable[Mapping[str, Path]]) -> Iterator[tuple[Path, str]]:
    """Give the path and md5 of each file of an output.

    Parameters
    ----------
    output
        A file or a directory.
    folders
        Objects of the caches and stores in which the list of a directory may lie.

    Yields
    ------
    tuple[Path, str]
        For a directory whose list is in none of them, the directory itself and its hash.
    """
    lists = [found[output.oid] for found in folders if output.oid in found]
    if output.oid.endswith(FOLDER_MARK) and lists:
        for entry in json.loads(lists[0].read_text(encoding="utf-8")):
            yield output.path / entry["relpath"], entry["md5"]
    else:
        yield output.path, output.oid


def missing_or_other(
    tracked: Iterable[Output], folders: Sequence[Mapping[str, Path]], repository: Path
) -> list[Output]:
    """Return the outputs that are not in the workspace with the bytes that ``dvc.lock`` names."""

    def is_there(path: Path, md5: str) -> bool:
        return (repository / path).is_file() and file_hash(repository / path, "md5") == md5

    return [
        output
        for output in tracked
        if not all(is_there(path, md5) for path, md5 in files_of(output, folders))
    ]


def _check_objects(
    found: Mapping[Path, Mapping[str, Path]],
    bad: Mapping[Path, Mapping[str, str]],
    tracked: Iterable[Output],
) -> None:
    # Where the list of a directory is damaged, only the directory can be named.
    whole = [
        {oid: path for oid, path in named.items() if oid not in bad[folder]}
        for folder, named in found.items()
    ]
    users: dict[str, set[Path]] = {}
    for output in tracked:
        for path, md5 in [(output.path, output.oid), *files_of(output, whole)]:
            users.setdefault(md5, set()).add(path)
    for folder, hashes in bad.items():
        for oid, md5 in hashes.items():
            made = ", ".join(map(str, sorted(users.get(oid, ())))) or "nothing in dvc.lock"
            log.error("damaged: %s has the md5 %s. Made from it: %s", found[folder][oid], md5, made)
    n_bad, n_objects = sum(map(len, bad.values())), sum(map(len, found.values()))
    if n_bad:
        msg = (
            f"{n_bad} of {n_objects} objects are damaged. Restore those of {STORE} by "
            f"`git checkout {STORE}`. Delete those of the cache and what was made from them, then "
            "run dvc pull; what is not pushed comes back by dvc repro."
        )
        raise StoreError(msg)
    log.info("%d objects have the md5 they are named after.", n_objects)


def _check_outputs(pushed: Sequence[Output], folders: Sequence[Mapping[str, Path]]) -> None:
    if not pushed:
        msg = "dvc.lock has no output that is pushed: nothing was checked. Run dvc repro first."
        raise StoreError(msg)
    absent = missing_or_other(pushed, folders, Path())
    for output in absent:
        log.error("not as in dvc.lock: %s (md5 %s)", output.path, output.oid)
    if absent:
        msg = (
            f"{len(absent)} of {len(pushed)} pushed outputs are not here as dvc.lock has them. If "
            "you changed them, run dvc repro; if not, the remote lacks them, holds them damaged or "
            "refused: check its address and password, and run dvc pull."
        )
        raise StoreError(msg)
    log.info("%d pushed outputs are here as dvc.lock has them.", len(pushed))


def _run(args: argparse.Namespace) -> None:
    here = Path()
    asked = args.folders or [cache(here), STORE]
    found = {folder: objects(folder) for folder in asked}
    for folder in args.folders:
        if not found[folder]:
            msg = f"{folder} holds no object below {OBJECTS}. Name a cache or a store of DVC 3."
            raise StoreError(msg)
    if not any(found.values()):
        where = " or ".join(map(str, asked))
        msg = f"no object in {where}: nothing was checked. Run dvc pull first."
        raise StoreError(msg)
    bad = {folder: damaged(named) for folder, named in found.items()}
    tracked = outputs(here) if any(bad.values()) or args.outputs else []
    _check_objects(found, bad, tracked)
    if args.outputs:
        pushed = [output for output in tracked if output.is_pushed]
        _check_outputs(pushed, list(found.values()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check as a command."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        help=f"caches or stores (default: DVC's cache and {STORE})",
    )
    parser.add_argument(
        "--outputs",
        action="store_true",
        help="also compare the outputs that are pushed, as they lie here, with dvc.lock",
    )
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
