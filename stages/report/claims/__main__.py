"""Hold every published claim against the tables, and say of each what became of it."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from stages.base import cli, study, tables
from stages.report.claims.published import read
from stages.report.claims.rules import read_tables
from stages.report.claims.verdict import evaluate
from stages.report.tables import CLAIMS, VERDICTS


def _run(args: argparse.Namespace) -> None:
    claims = read(args.claims)
    models = {"model": study.read(args.heads), "cellmodel": study.read(args.cellmodel)}
    of = read_tables(claims, args.tables, args.results, models)
    table = evaluate(claims, of, cells=study.read(args.cells), models=models)
    tables.write(table, CLAIMS, args.out)
    verdicts = table.drop_duplicates("id")["verdict"].value_counts()
    summary = ", ".join(f"{verdicts.get(name, 0)} {name}" for name in VERDICTS)
    cli.log.info("%d claims: %s", len(claims), summary)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    parser.add_argument("--claims", type=Path, required=True, help="the published claims")
    study.add_arguments(parser)
    parser.add_argument("--cellmodel", type=Path, required=True, help="what the model of cells is")
    parser.add_argument("--results", type=Path, required=True, help="published figures")
    parser.add_argument("--tables", type=Path, required=True, help="the folder of the tables")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
