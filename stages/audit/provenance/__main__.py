"""Say of every output which code, settings, inputs, machine and moment it comes from."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from stages.audit.provenance.described import Described, provenance, read, remember, write
from stages.audit.provenance.locked import read_notes, read_stages
from stages.audit.provenance.printed import sentences, table
from stages.base import cli, record
from stages.base.files import atomic_folder, write_text

# All that this stage ever described on this machine: another study's outputs may come back.
MEMORY = record.FOLDER / ".described.json"


def _run(args: argparse.Namespace) -> None:
    root = Path.cwd()
    stages = read_stages(root)
    described = Described()
    for path in (args.record, MEMORY):
        described.update(read(path))
    notes, now = read_notes(stages), record.code_hashes(root)
    found = provenance(stages, notes, described, now, own=args.record.as_posix())
    described.update(found)
    remember(described, MEMORY)
    with atomic_folder(args.out) as folder:
        write_text(folder / "table.md", table(stages, found) + "\n")
        write_text(folder / "runs.md", sentences(found) + "\n")
    write(found, args.record)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--record", type=Path, required=True, help="the file that git keeps, read and written"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of what the paper includes")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
