"""Recompute the study of a commit and compare it with the committed results, number by number.

Without ``--recomputed``, the commit's whole graph runs in a temporary clone with an empty cache.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from stages.audit.verification import report, tolerances
from stages.audit.verification.commit import LOCK, Commit, changed_files, clone, reproduce, store_of
from stages.audit.verification.verdicts import Finding, Status, Verdict, VerificationError
from stages.audit.verification.verify import verify
from stages.base import cli


def _run(args: argparse.Namespace) -> None:
    repository = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="verify-") as temporary:
        verdicts = _verdicts(args, repository, Path(temporary))
    sys.stdout.write(report.table(verdicts) + "\n")
    failed = [v.file for v in report.worst_first(verdicts) if v.status.fails]
    if failed:
        others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        msg = f"{failed[0]}{others} cannot be confirmed: see the first lines of the table."
        raise VerificationError(msg)


def _verdicts(args: argparse.Namespace, repository: Path, temporary: Path) -> list[Verdict]:
    """Compute and compare, and write the report that was asked for."""
    if args.recomputed and not args.recomputed.is_dir():
        msg = f"{args.recomputed} is no folder. Name one with results, or leave --recomputed out."
        raise VerificationError(msg)
    stated = tolerances.load()
    committed = clone(repository, args.against, temporary / "committed")
    allowed = stated.for_model(committed.model())
    cli.log.info("comparing with the results of commit %s", committed.revision[:12])
    if changed := changed_files(committed, repository):
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" * (len(changed) > 3))
        cli.log.info("the commit is what is verified; the working tree differs in %s", shown)
    outputs, unknown = committed.outputs()
    recomputed = args.recomputed or _recomputed(
        committed, repository, args.keep or temporary / "recomputed"
    )
    verdicts = verify(outputs, store_of(committed, repository), recomputed, allowed)
    lost = Finding(Status.NOT_STORED, f"{LOCK} of the commit does not know this stage")
    verdicts += [Verdict(stage, f"(all of {stage})", stage, lost) for stage in unknown]
    if args.json:
        about = {"commit": committed.revision, "factor": allowed.factor}
        report.write(verdicts, args.json, about=about)
    return verdicts


def _recomputed(committed: Commit, repository: Path, folder: Path) -> Path:
    if folder.exists():
        msg = f"{folder} exists. Name a new folder: --keep FOLDER."
        raise VerificationError(msg)
    again = clone(repository, committed.revision, folder)
    reproduce(again)
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--recomputed", type=Path, help="a folder that holds results already: nothing is computed"
    )
    parser.add_argument(
        "--against", default="HEAD", metavar="REVISION", help="the commit (default: %(default)s)"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="compute there and keep it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
