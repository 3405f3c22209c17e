"""What every figure and page must know about the inputs.

The first stage of the graph, :mod:`stages.inputs.study`, states it: of the cells and of the heads
in files of their own, so that a change of one leaves alone what rests on the other.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from stages.base.errors import TableError


@dataclass(frozen=True)
class Study:
    """What every figure and page must know about the inputs: an atlas, a model, or both."""

    name: str
    source: str
    simulated: bool
    """Whether the inputs were made here to exercise the pipeline: cohorts or a demo model."""
    notice: str
    """What every page made from them must say; empty for published and local inputs."""
    seed: int | None = None
    """From which simulated cohorts are drawn; None for inputs that are not."""


def read(path: Path) -> Study:
    """Read what this stage wrote."""
    try:
        return Study(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError) as error:
        msg = f"{path} does not state a study ({error}). Run dvc repro study."
        raise TableError(msg) from None


def joined(first: Study, second: Study) -> Study:
    """Return the study of what rests on both inputs."""
    stated = [part.notice.partition(":") for part in (first, second) if part.notice]
    # "Simulated data: ..." and "Demo model: ..." become "Simulated data and demo model: ... ...".
    labels = [
        label if i == 0 else label[:1].lower() + label[1:] for i, (label, _, _) in enumerate(stated)
    ]
    rest = " ".join(text.strip() for _, _, text in stated)
    return Study(
        name=f"{first.name} and {second.name}",
        source=f"{first.source} and {second.source}",
        simulated=first.simulated or second.simulated,
        notice=f"{' and '.join(labels)}: {rest}" if stated else "",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--cells`` and ``--heads``, what this stage wrote of each, for a stage on both."""
    parser.add_argument("--cells", type=Path, required=True, help="what the atlas is")
    parser.add_argument("--heads", type=Path, required=True, help="what the model is")


def of(args: argparse.Namespace) -> Study:
    """Return the study of cells and heads together that :func:`add_arguments` asked for."""
    return joined(read(args.cells), read(args.heads))
