"""Simulate one file of the demo atlas, in the layout of the published file it stands for."""

import argparse
from collections.abc import Sequence

from stages.base import cli, settings
from stages.base.errors import AtlasError
from stages.base.files import atomic_folder, atomic_path
from stages.inputs.demo import layouts, model, rat
from stages.inputs.settings import SimulatedFile


def simulate(name: str, spec: SimulatedFile, *, seed: int) -> None:
    """Simulate a file and put it at ``spec.out``, whole or not at all.

    Parameters
    ----------
    name
        The file's key in the settings; with the seed it determines every random number.
    spec
        What to simulate, and where to.
    seed
        The seed of the atlas.

    Raises
    ------
    AtlasError
        There is no such cohort, or it has no such layout or tissue.
    """
    of = model.cohort(spec.cohort, spec.platform)
    generator = model.rng(seed, name)
    match spec.cohort, spec.layout:
        case "rat", "mtx":
            with atomic_folder(spec.out) as folder:
                rat.write(folder, of, generator)
        case "tms", "anndata" | "legacy":
            with atomic_path(spec.out) as temporary:
                layouts.write_tms(temporary, of, generator, layout=spec.layout)
        case "kimmel", "anndata":
            tissues = model.compositions(of)
            if spec.tissue not in tissues:
                msg = (
                    f"atlas.acquire.{name}.tissue = {spec.tissue!r}: allowed for {spec.cohort} are "
                    f"{', '.join(tissues)}. Change conf/atlas/demo.yaml."
                )
                raise AtlasError(msg)
            with atomic_path(spec.out) as temporary:
                layouts.write_kimmel(temporary, of, str(spec.tissue), generator)
        case _:
            msg = (
                f"atlas.acquire.{name}: {spec.cohort} is not simulated in the layout "
                f"{spec.layout}; allowed are "
                "tms in anndata or legacy, kimmel in anndata, rat in mtx. Change "
                "conf/atlas/demo.yaml."
            )
            raise AtlasError(msg)


def _run(args: argparse.Namespace) -> None:
    atlas = settings.load(args.params).atlas
    if atlas.source != "demo":
        msg = (
            f"atlas {atlas.name} is not simulated (its source is {atlas.source}). Compose the "
            "demo: make reproduce ATLAS=demo."
        )
        raise AtlasError(msg)
    if args.file not in atlas.acquire:
        allowed = ", ".join(sorted(atlas.acquire))
        msg = f"atlas {atlas.name} has no file {args.file!r} to simulate: allowed are {allowed}."
        raise AtlasError(msg)
    simulate(args.file, atlas.acquire[args.file], seed=atlas.seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--file", required=True, help="a key of atlas.acquire in the settings")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
