"""State which study these settings make, and stop if they are stale.

The first stage of the graph. The later ones depend on what it writes, so nothing runs on settings
that no longer follow from ``conf/``. The inputs of the cells and of the heads are stated in files
of their own, and what a single run overrides in a third: a change of one leaves alone what rests on
the others.
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
from stages.settings import DemoAtlas, load


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


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    changed = overridden(yaml.safe_load(args.params.read_text(encoding="utf-8")), args.conf)
    for key, (value, default) in changed.items():
        cli.log.info("%s is %r for this run; conf/ says %r", key, value, default)
    atlas, model = settings.atlas, settings.model
    seed = atlas.seed if isinstance(atlas, DemoAtlas) else None
    cells = Study(atlas.name, atlas.source, atlas.simulated, atlas.notice or "", seed)
    heads = Study(model.name, model.source, model.demo, model.notice or "")
    for path, content in (
        (args.cells, asdict(cells)),
        (args.heads, asdict(heads)),
        (args.overrides, {key: repr(value) for key, (value, _) in changed.items()}),
    ):
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--conf", type=Path, required=True)
    add_arguments(parser)
    parser.add_argument("--overrides", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
