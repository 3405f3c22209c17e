"""Fetch one published file, verify it and put it where the settings say."""

import argparse
from collections.abc import Sequence

from stages.base import cli
from stages.base.errors import SettingsError
from stages.base.settings import load
from stages.inputs.published.fetch import Places, add_places, fetch
from stages.inputs.settings import PublishedAtlas


def _run(args: argparse.Namespace) -> None:
    atlas = load(args.params).atlas
    if not isinstance(atlas, PublishedAtlas):
        msg = (
            f"{args.params} is composed for atlas {atlas.name} (source {atlas.source}), which "
            "downloads nothing. Compose another: python -m stages.base.compose --atlas published."
        )
        raise SettingsError(msg)
    if args.file not in atlas.acquire:
        msg = (
            f"atlas {atlas.name} has no file {args.file!r}. "
            f"Files: {', '.join(sorted(atlas.acquire))}. "
            f"Choose one of them or add it to conf/atlas/{atlas.name}.yaml."
        )
        raise SettingsError(msg)
    fetch(atlas.acquire[args.file], Places(downloads=args.downloads, checksums=args.checksums))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    parser.add_argument("--file", required=True, help="a key of atlas.acquire")
    cli.add_params(parser)
    add_places(parser)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
