"""State which study these settings make, and stop if they are stale.

The first stage of the graph. The later ones depend on what it writes, so nothing runs on settings
that no longer follow from ``conf/``. The inputs of the cells and of the heads are stated in files
of their own, and what a single run overrides in a third: a change of one leaves alone what rests on
the others.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from stages.base import cli
from stages.base.compose import overridden
from stages.base.files import write_text
from stages.base.settings import load
from stages.base.study import SIMULATED, Arm, Study, add_arguments
from stages.inputs.settings import DemoAtlas, NoCellModel


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    # Which papers are made changes nothing that stands in one.
    changed = overridden(yaml.safe_load(args.params.read_text(encoding="utf-8")), args.conf)
    changed = {key: of for key, of in changed.items() if not key.startswith("alone.")}
    for key, (value, default) in changed.items():
        cli.log.info("%s is %r for this run; conf/ says %r", key, value, default)
    atlas, model = settings.atlas, settings.model
    seed = atlas.seed if isinstance(atlas, DemoAtlas) else None
    arms = [
        Arm(
            spec.cohort,
            spec.platform,
            spec.constants.tissue,
            spec.evidence,
            spec.basis,
            *(spec.groups.called.reference, spec.groups.called.compared, spec.groups.by_age),
        )
        for spec in (*atlas.cells.values(), *atlas.datasets.values())
    ]
    arms += [Arm(of.cohort, of.platform, of.tissue, of.evidence) for of in atlas.libraries.values()]
    simulated = any(arm.evidence == SIMULATED for arm in arms)
    cells = Study(atlas.name, atlas.source, simulated, atlas.notice or "", seed, tuple(arms))
    heads = Study(model.name, model.source, model.demo, model.notice or "")
    of = settings.cellmodel
    cellmodel = (
        Study(of.name, of.source, simulated=False, notice="")
        if isinstance(of, NoCellModel)
        else Study(of.name, of.source, of.demo, of.notice or "")
    )
    for path, content in (
        (args.cells, asdict(cells)),
        (args.heads, asdict(heads)),
        (args.cellmodel, asdict(cellmodel)),
        (args.overrides, {key: repr(value) for key, (value, _) in changed.items()}),
    ):
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--conf", type=Path, required=True)
    add_arguments(parser)
    parser.add_argument("--cellmodel", type=Path, required=True)
    parser.add_argument("--overrides", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
