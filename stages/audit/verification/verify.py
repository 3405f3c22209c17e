"""Hold every committed output against the recomputed one."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from stages.audit.verification import compare
from stages.audit.verification.commit import Output, Store, files_below
from stages.audit.verification.tolerances import Tolerances
from stages.audit.verification.verdicts import Finding, Status, Verdict, VerificationError
from stages.base.files import FOLDER_MARK, file_hash, folder_hash

LOST = (
    "other bytes than dvc.lock names, and neither the remote nor the cache has those: "
    "cannot be compared"
)


def verify(
    outputs: list[Output], store: Store, recomputed: Path, tolerances: Tolerances
) -> list[Verdict]:
    """Compare every output and return a verdict a file, in the order of `outputs`.

    An output whose bytes have the committed hash is identical whether or not anybody kept the
    committed bytes. Of a folder that is identical there is one verdict, on the folder.

    Parameters
    ----------
    outputs
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
    found = [v for output in outputs for v in _verdicts(output, store, recomputed, tolerances)]
    if all(verdict.status is Status.NOT_STORED for verdict in found):
        msg = (
            f"none of the {len(found)} committed outputs can be compared: neither the remote nor "
            "the cache has them. Run dvc push where they were computed, then verify again."
        )
        raise VerificationError(msg)
    return _followed(found, outputs)


def _verdicts(
    output: Output, store: Store, recomputed: Path, tolerances: Tolerances
) -> Iterable[Verdict]:
    path = recomputed / output.path

    def verdict(file: str, finding: Finding) -> Verdict:
        return Verdict(output.path, file, output.stage, finding)

    identical, missing = Finding(Status.IDENTICAL), Finding(Status.MISSING, "not recomputed")
    if not output.md5.endswith(FOLDER_MARK):
        if not path.is_file():
            yield verdict(output.path, missing)
        elif file_hash(path, "md5") == output.md5:
            yield verdict(output.path, identical)
        else:
            yield verdict(output.path, _compared(output.path, output.md5, store, path, tolerances))
        return
    if not path.is_dir():
        yield verdict(output.path, missing)
        return
    ours = files_below(path)
    if folder_hash(ours) == output.md5:
        yield verdict(output.path, identical)
        return
    theirs = store.files(output)
    if theirs is None:
        yield verdict(output.path, Finding(Status.NOT_STORED, LOST))
        return
    for name in sorted(theirs | ours):
        file = f"{output.path}/{name}"
        if name not in theirs:
            yield verdict(file, Finding(Status.DIFFERS, "recomputed, and not in the commit"))
        elif name not in ours:
            yield verdict(file, missing)
        elif ours[name] == theirs[name]:
            yield verdict(file, identical)
        else:
            yield verdict(file, _compared(file, theirs[name], store, path / name, tolerances))


def _compared(
    file: str, md5: str, store: Store, recomputed: Path, tolerances: Tolerances
) -> Finding:
    committed = store.find(md5, file)
    if committed is None:
        return Finding(Status.NOT_STORED, LOST)
    allowed = tolerances.of(file)
    finding = compare.compare(
        committed, recomputed, allowed, suffix=PurePosixPath(file).suffix.lower()
    )
    if finding.status is Status.DIFFERS and allowed.rests_on:
        return replace(finding, detail=f"{finding.detail}; it rests on {allowed.rests_on}")
    return finding


def _followed(verdicts: list[Verdict], outputs: list[Output]) -> list[Verdict]:
    """Judge pictures and pages by the numbers that they show.

    One that differs while every input of its stage is identical differs. One that was made from
    numbers within their tolerance, none of them beyond it, shows those numbers and follows them.
    """
    of_stage = {output.stage: output.inputs for output in outputs}
    settled: dict[str, Verdict] = {}

    def settle(verdict: Verdict) -> Verdict:
        if verdict.file in settled:
            return settled[verdict.file]
        settled[verdict.file] = verdict
        if verdict.status is Status.DIFFERS and verdict.file.endswith(compare.FOLLOWS):
            inputs = [
                settle(other)
                for other in verdicts
                if any(_covers(dep, other.file) for dep in of_stage.get(verdict.stage, ()))
            ]
            moved = [other.file for other in inputs if other.status is Status.WITHIN]
            if moved and not any(other.status.fails for other in inputs):
                shown = ", ".join(moved[:2]) + (f" and {len(moved) - 2} more" * (len(moved) > 2))
                detail = f"shows what is within tolerance in {shown}; {verdict.finding.detail}"
                verdict = replace(verdict, finding=Finding(Status.WITHIN, detail))
        settled[verdict.file] = verdict
        return verdict

    return [settle(verdict) for verdict in verdicts]


def _covers(dependency: str, file: str) -> bool:
    return file == dependency or PurePosixPath(dependency) in PurePosixPath(file).parents
