"""Fetch the effects of heads that others published, which ours are compared with.

No result rests on them. A model without published effects gets a table of the same columns without
rows.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from stages.base import cli
from stages.base.files import write_text
from stages.base.settings import load
from stages.inputs.published.fetch import Places, add_places, fetch
from stages.inputs.settings import PublishedEffects, RemoteFile

HEADER = (
    "checkpoint,perturbation_type,subtype,layer_idx,head_idx,seed,baseline_loss,perturbed_loss,"
    "delta,elapsed_sec\n"
)
"""First line of the companion study's file (Spiro 2026), the only one that is known."""


def bring(file: PublishedEffects | None, *, out: Path, places: Places) -> None:
    """Make `out`: the published file, verified, or its header alone.

    Parameters
    ----------
    file
        Where it lies and its size and sha256; None if nothing was published of the model.
    out
        The CSV to write.
    places
        Where unfinished downloads and learned checksums lie.

    Raises
    ------
    DownloadError
        No address gave the pinned bytes, or `out` cannot be written.
    AtlasError
        A file put into the downloads by hand is not the pinned one, or checksums disagree.
    """
    if file is None:
        write_text(out, HEADER)
        return
    fetch(
        RemoteFile(
            out=out,
            filename=file.filename,
            urls=file.urls,
            format="csv",
            size_bytes=file.size_bytes,
            sha256=file.sha256,
        ),
        places,
    )


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    places = Places(
        downloads=args.downloads,
        checksums=args.checksums,
        catalogue="conf/config.yaml",
        change_out="name another with --out",
    )
    bring(settings.published_effects.get(settings.model.name), out=args.out, places=places)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--out", type=Path, required=True)
    add_places(parser)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
