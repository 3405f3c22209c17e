"""Recompute the study of a commit and compare it with the committed results, number by number.

Without ``--recomputed``, the commit's whole graph runs in a temporary clone with an empty cache.

DVC's hashes say whether bytes are the same. This says what a reader wants to know when they are
not: which number moved, by how much, and whether that is what another processor does.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from stages.audit import commit, compare, lock, verdicts
from stages.audit.lock import Stage, Store
from stages.audit.verdicts import Finding, Status, Tolerances, Verdict, VerificationError
from stages.base import cli
from stages.base.files import FOLDER_MARK, file_hash, folder_hash, write_text

LOST = (
    "other bytes than dvc.lock names, and neither the remote nor the cache has those: "
    "cannot be compared"
)


def verify(
    stages: Sequence[Stage], store: Store, recomputed: Path, tolerances: Tolerances
) -> list[Verdict]:
    """Compare every output and return a verdict a file, in the order of the stages.

    An output whose bytes have the committed hash is identical whether or not anybody kept the
    committed bytes. Of a folder that is identical there is one verdict, on the folder.

    Parameters
    ----------
    stages
        What the commit names.
    store
        Where the committed bytes are.
    recomputed
        The folder in which the study was computed again.
    tolerances
        What may differ, and how far.

    Raises
    ------
    VerificationError
        Nothing could be compared: that is no verification.
    """
    found = [
        Verdict(output.path, file, stage.name, finding)
        for stage in stages
        for output in stage.outputs
        for file, finding in _findings(output, store, recomputed, tolerances)
    ]
    if all(verdict.status is Status.NOT_STORED for verdict in found):
        msg = (
            f"none of the {len(found)} committed outputs can be compared: neither the remote nor "
            "the cache has them. Run dvc push where they were computed, then verify again."
        )
        raise VerificationError(msg)
    return _followed(found, {stage.name: tuple(stage.inputs) for stage in stages})


def _findings(
    output: lock.Output, store: Store, recomputed: Path, tolerances: Tolerances
) -> Iterator[tuple[str, Finding]]:
    """Give what is found of an output: of the whole of it, or of each file of a folder."""
    path, here = output.path, recomputed / output.path
    missing, identical = Finding(Status.MISSING, "not recomputed"), Finding(Status.IDENTICAL)
    if not output.md5:
        yield path, Finding(Status.NOT_STORED, f"{lock.FILE} of the commit does not know it")
        return
    is_folder = output.md5.endswith(FOLDER_MARK)
    if not (here.is_dir() if is_folder else here.is_file()):
        yield path, missing
        return
    inside = lock.files_below(here) if is_folder else {}
    whole = folder_hash(inside) if is_folder else file_hash(here, "md5")
    if whole == output.md5:
        yield path, identical
        return
    ours = {f"{path}/{name}": md5 for name, md5 in inside.items()} if is_folder else {path: whole}
    theirs = store.files(output)
    if theirs is None:
        yield path, Finding(Status.NOT_STORED, LOST)
        return
    for file in sorted(theirs | ours):
        if file not in theirs:
            yield file, Finding(Status.DIFFERS, "recomputed, and not in the commit")
        elif file not in ours:
            yield file, missing
        elif ours[file] == theirs[file]:
            yield file, identical
        else:
            committed = store.find(theirs[file], file)
            yield file, _compared(file, committed, recomputed / file, tolerances)


def _compared(
    file: str, committed: Path | None, recomputed: Path, tolerances: Tolerances
) -> Finding:
    if committed is None:
        return Finding(Status.NOT_STORED, LOST)
    allowed, suffix = tolerances.of(file), PurePosixPath(file).suffix.lower()
    finding = compare.compare(committed, recomputed, allowed, suffix=suffix)
    if finding.status is Status.DIFFERS and allowed.rests_on:
        return replace(finding, detail=f"{finding.detail}; it rests on {allowed.rests_on}")
    return finding


def _followed(found: Sequence[Verdict], inputs_of: dict[str, tuple[str, ...]]) -> list[Verdict]:
    """Judge pictures and pages by the numbers that they show.

    One that differs while every input of its stage is identical differs. One that was made from
    numbers within their tolerance, none of them beyond it, shows those numbers and follows them.
    """
    settled: dict[str, Verdict] = {}

    def settle(verdict: Verdict) -> Verdict:
        if verdict.file in settled:
            return settled[verdict.file]
        settled[verdict.file] = verdict
        if verdict.status is Status.DIFFERS and verdict.file.endswith(compare.FOLLOWS):
            deps = inputs_of[verdict.stage]
            inputs = [
                settle(v) for v in found if any(f"{v.file}/".startswith(f"{d}/") for d in deps)
            ]
            moved = [other.file for other in inputs if other.status is Status.WITHIN]
            if moved and not any(other.status.fails for other in inputs):
                detail = (
                    f"shows what is within tolerance in {_some(moved, 2)}; {verdict.finding.detail}"
                )
                verdict = replace(verdict, finding=Finding(Status.WITHIN, detail))
        settled[verdict.file] = verdict
        return verdict

    return [settle(verdict) for verdict in found]


def _some(names: Sequence[str], n: int) -> str:
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" * (len(names) > n))


def _verdicts(args: argparse.Namespace, temporary: Path) -> list[Verdict]:
    """Compute and compare, and write the report that was asked for."""
    repository = Path.cwd()
    if args.recomputed and not args.recomputed.is_dir():
        msg = f"{args.recomputed} is no folder. Name one with results, or leave --recomputed out."
        raise VerificationError(msg)
    stated = verdicts.load_tolerances()
    committed = commit.clone(repository, args.against, temporary / "committed")
    allowed = stated.for_models(*committed.models())
    cli.log.info("comparing with the results of commit %s", committed.revision[:12])
    if changed := committed.changed_files(repository):
        shown = _some(changed, 3)
        cli.log.info("the commit is what is verified; the working tree differs in %s", shown)
    stages = committed.stages()
    if args.only:
        named = sorted({stage.name.partition("@")[0] for stage in stages})
        if args.only not in named:
            msg = f"the commit has no stage {args.only!r}. Its stages are {', '.join(named)}."
            raise VerificationError(msg)
        stages = [stage for stage in stages if stage.name.partition("@")[0] == args.only]
    recomputed = args.recomputed
    if not recomputed:
        recomputed = args.keep or temporary / "recomputed"
        if recomputed.exists():
            msg = f"{recomputed} exists. Name a new folder: --keep FOLDER."
            raise VerificationError(msg)
        commit.clone(repository, committed.revision, recomputed).reproduce(args.only)
    found = verify(stages, committed.store(repository), recomputed, allowed)
    if args.json:
        about = {"commit": committed.revision, "factor": allowed.factor}
        write_text(args.json, verdicts.as_json(found, about=about) + "\n")
    return found


def _run(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="verify-") as temporary:
        found = _verdicts(args, Path(temporary))
    sys.stdout.write(verdicts.table(found) + "\n")
    if failed := [verdict.file for verdict in verdicts.worst_first(found) if verdict.status.fails]:
        msg = f"{_some(failed, 1)} cannot be confirmed: see the first lines of the table."
        raise VerificationError(msg)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--recomputed", type=Path, help="a folder that holds results already: nothing is computed"
    )
    parser.add_argument(
        "--against", default="HEAD", metavar="REVISION", help="the commit (default: %(default)s)"
    )
    parser.add_argument("--only", default="", metavar="STAGE", help="compute and compare it alone")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="compute there and keep it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
