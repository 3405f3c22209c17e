"""The thin command line that every stage shares.

A stage module ends with::

    def main(argv: Sequence[str] | None = None) -> int:
        parser = cli.parser(__doc__)
        parser.add_argument("--out", type=Path, required=True)
        return cli.run(parser, _run, argv)

where ``_run(args)`` reads its inputs, calls pure functions and writes its outputs.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from stages.base import record
from stages.base.errors import StageError
from stages.base.files import disk_full
from stages.base.settings import PARAMS_FILE

log = logging.getLogger("stages")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose description is the first paragraph of the stage's docstring."""
    summary = (doc or "").strip().split("\n\n")[0]
    return argparse.ArgumentParser(description=summary)


def add_params(arguments: argparse.ArgumentParser) -> None:
    """Add ``--params``, the composed settings file (default: ``params.yaml`` here)."""
    arguments.add_argument(
        "--params", type=Path, default=Path(PARAMS_FILE), help="settings (default: %(default)s)"
    )


def run(
    arguments: argparse.ArgumentParser,
    stage: Callable[[argparse.Namespace], None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, run the stage, and turn an expected error into one line and exit status 1.

    What DVC runs leaves a note of what it ran from and on, if it ends well.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    args = arguments.parse_args(argv)
    running = record.begin()
    with _said_once():
        try:
            stage(args)
        except StageError as error:
            # A person wants the one line, not the traceback.
            log.error("error: %s", error)  # noqa: TRY400
            return 1
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            log.error(  # noqa: TRY400 - as above
                "error: %s%s. Check the path, its permissions and free disk space.",
                where,
                error.strerror or error,
            )
            return 1
    if running is not None:
        record.end(running)
    return 0


@contextmanager
def _said_once() -> Iterator[None]:
    """Keep quiet what h5py prints on a full disk for each object that it can then not close.

    The error itself is raised, and said by :func:`run`.
    """
    raised, unraisable = sys.excepthook, sys.unraisablehook

    def on_raised(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if disk_full(error) is None:
            raised(kind, error, trace)

    def on_unraisable(told: "sys.UnraisableHookArgs") -> None:
        if disk_full(told.exc_value) is None:
            unraisable(told)

    sys.excepthook, sys.unraisablehook = on_raised, on_unraisable
    try:
        yield
    finally:
        sys.excepthook, sys.unraisablehook = raised, unraisable
