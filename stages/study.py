"""State which study these settings make; stop if ``params.yaml`` no longer follows from ``conf/``.

The first stage of the graph. Every later one depends on what it writes, so nothing runs on stale
settings.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from stages import cli
from stages.compose import overridden
from stages.errors import TableError
from stages.files import write_text
from stages.settings import load


@dataclass(frozen=True)
class Study:
    """What every figure and page must know about the inputs."""

    atlas: str
    source: str
    simulated: bool
    notice: str
    overrides: dict[str, str]
    """Settings that were changed for this run only, by dotted key: their values."""


def read(path: Path) -> Study:
    """Read what this stage wrote."""
    try:
        return Study(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError) as error:
        msg = f"{path} does not state a study ({error}). Run dvc repro study."
        raise TableError(msg) from None


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    changed = overridden(yaml.safe_load(args.params.read_text(encoding="utf-8")), args.conf)
    for key, (value, default) in changed.items():
        cli.log.info("%s is %r for this run; conf/ says %r", key, value, default)
    atlas = settings.atlas
    study = Study(
        atlas=atlas.name,
        source=atlas.source,
        simulated=atlas.simulated,
        notice=atlas.notice or "",
        overrides={key: repr(value) for key, (value, _) in changed.items()},
    )
    write_text(args.out, json.dumps(asdict(study), indent=2, ensure_ascii=False) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--conf", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
