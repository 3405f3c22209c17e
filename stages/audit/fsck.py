"""Hash every object of DVC's cache and of the store inside the repository again.

DVC trusts what lies in its cache: a byte that flipped there is checked out into the workspace and
no command of DVC notices. ``dvc pull --allow-missing`` takes an object that was damaged in a
remote, or a remote that refused or did not answer, for one that was never pushed, and ends with
status 0. This command notices all of them::

    python -m stages.audit.fsck             every object has the md5 of its name
    python -m stages.audit.fsck --outputs   and every pushed output is as dvc.lock has it
"""

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stages.audit import lock
from stages.base import cli
from stages.base.errors import StageError
from stages.base.files import FOLDER_MARK, file_hash

STORE = Path("artifacts")


class StoreError(StageError):
    """Objects are damaged, or outputs are not as ``dvc.lock`` has them."""


def damaged(objects: Mapping[Path, str]) -> dict[Path, str]:
    """Return the md5 of the objects whose bytes do not have the one they are named after."""
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(lambda path: file_hash(path, "md5"), objects)
        seen = dict(zip(objects, hashes, strict=True))
    return {p: md5 for p, md5 in seen.items() if md5 != objects[p].removesuffix(FOLDER_MARK)}


def tracked(caches: Sequence[Path]) -> dict[lock.Output, dict[str, str]]:
    """Return the outputs that ``dvc.lock`` has a hash for, each with the md5 of its files by path.

    Of a folder whose list is in none of the caches, only its own hash is known.
    """
    store = lock.Store(Path(), lambda: caches)
    outputs = [output for stage in lock.read(Path()) for output in stage.outputs if output.md5]
    found = {output: store.files(output) for output in sorted(outputs, key=lambda o: o.path)}
    return {o: {o.path: o.md5} if files is None else files for o, files in found.items()}


def _refuse_damaged(
    bad: Mapping[Path, str],
    objects: Mapping[Path, str],
    outputs: Mapping[lock.Output, Mapping[str, str]],
) -> None:
    for path, md5 in bad.items():
        made = {
            name
            for output, files in outputs.items()
            for name, wanted in {output.path: output.md5, **files}.items()
            if wanted == objects[path]
        }
        users = ", ".join(sorted(made)) or "nothing in dvc.lock"
        cli.log.error("damaged: %s has the md5 %s. Made from it: %s", path, md5, users)
    if bad:
        msg = (
            f"{len(bad)} of {len(objects)} objects are damaged. Restore those of {STORE} by "
            f"`git checkout {STORE}`. Delete those of the cache and what was made from them, then "
            "run dvc pull; what is not pushed comes back by dvc repro."
        )
        raise StoreError(msg)
    cli.log.info("%d objects have the md5 they are named after.", len(objects))


def _refuse_others(pushed: Mapping[lock.Output, Mapping[str, str]]) -> None:
    if not pushed:
        msg = "dvc.lock has no output that is pushed: nothing was checked. Run dvc repro first."
        raise StoreError(msg)
    absent = [
        output
        for output, files in pushed.items()
        if not all(lock.is_true(Path(name), md5) for name, md5 in files.items())
    ]
    for output in absent:
        cli.log.error("not as in dvc.lock: %s (md5 %s)", output.path, output.md5)
    if absent:
        msg = (
            f"{len(absent)} of {len(pushed)} pushed outputs are not here as dvc.lock has them. If "
            "you changed them, run dvc repro; if not, the remote lacks them, holds them damaged or "
            "refused: check its address and password, and run dvc pull."
        )
        raise StoreError(msg)
    cli.log.info("%d pushed outputs are here as dvc.lock has them.", len(pushed))


def _run(args: argparse.Namespace) -> None:
    asked = args.folders or [lock.cache_of(Path()), STORE]
    found = {folder: lock.objects(folder) for folder in asked}
    for folder in args.folders:
        if not found[folder]:
            msg = (
                f"{folder} holds no object below {lock.OBJECTS}. Name a cache or a store of DVC 3."
            )
            raise StoreError(msg)
    objects = {path: md5 for named in found.values() for path, md5 in named.items()}
    if not objects:
        where = " or ".join(map(str, asked))
        msg = f"no object in {where}: nothing was checked. Run dvc pull first."
        raise StoreError(msg)
    bad = damaged(objects)
    outputs = tracked(asked) if bad or args.outputs else {}
    _refuse_damaged(bad, objects, outputs)
    if args.outputs:
        _refuse_others({output: files for output, files in outputs.items() if output.is_pushed})


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
