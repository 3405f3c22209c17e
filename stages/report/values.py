"""Write every number, list and table of the paper from the tables of the study.

``reports/_variables.yml`` holds the values that the text names through ``{{< var >}}``;
``reports/_includes/`` holds the tables and those passages that depend on the inputs: simulated
inputs get a text about the simulation and its known truth, real ones a text about the data. The
passages themselves are written by hand in ``reports/sections/``.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.base import cli, study, tables
from stages.base.errors import RenderError
from stages.base.files import atomic_folder, write_text
from stages.base.settings import Settings, load
from stages.cells.tables.truth import PLANTED
from stages.report import abstract, cells, claims, clusters, heads, plane, planted, text
from stages.report.tables import CLAIMS


def _study(settings: Settings, overrides: dict[str, str]) -> dict[str, str]:
    return {
        "atlas": settings.atlas.name,
        "model": settings.model.name,
        "overrides": _overrides(overrides),
    }


def _overrides(overrides: dict[str, str]) -> str:
    if not overrides:
        return "All settings are those of the repository."
    changed = text.listed([f"`{key}` = `{value}`" for key, value in overrides.items()])
    return f"Settings that differ from the repository's in this run: {changed}."


def sections(
    folder: Path,
    found: cells.CellTables,
    found_clusters: clusters.ClusterTables,
    found_heads: heads.HeadTables,
    found_plane: plane.PlaneTables,
    settings: Settings,
) -> dict[str, str]:
    """Return the passages that fit the inputs, from those written by hand in `folder`."""
    shared = not found.concordance.empty
    chosen = {
        "inputs": f"inputs_{settings.atlas.source}",
        "model": f"model_{settings.model.source}",
        "concordance": "concordance" if shared else "concordance_none",
        "recovery": "recovery" if len(found.recovery) else "recovery_none",
        "companion": "companion" if len(found_heads.companion_agreement) else "companion_none",
        "plane": plane.section(found_plane),
    } | clusters.sections(found_clusters, settings)
    passages = {}
    for name, file in chosen.items():
        path = folder / f"{file}.md"
        if not path.exists():
            msg = (
                f"the passage {path} does not exist. Write it, or restore it: git checkout {path}."
            )
            raise RenderError(msg)
        passages[f"section_{name}"] = path.read_text(encoding="utf-8").strip()
    return passages


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    overrides = json.loads(args.overrides.read_text(encoding="utf-8"))
    found, found_heads = cells.read_tables(args.tables), heads.read_tables(args.tables)
    found_clusters = clusters.read_tables(args.tables)
    found_plane = plane.read_tables(args.tables)
    found_claims = tables.read(args.tables / "claims.csv", CLAIMS)
    of_cells = (found_clusters, found.aging, found.proportions, settings)
    tables_made = cells.includes(found) | clusters.includes(*of_cells) | heads.includes(found_heads)
    tables_made["claims"] = claims.ledger(found_claims)
    made = {f"table_{name}": table for name, table in tables_made.items()}
    made |= sections(args.sections, found, found_clusters, found_heads, found_plane, settings)
    values: dict[str, Any] = {"notice": study.of(args).notice, "study": _study(settings, overrides)}
    values |= cells.variables(found, settings) | clusters.variables(*of_cells)
    values["planted"] = planted.variables(
        tables.read(args.planted, PLANTED), found_clusters, found.aging, settings
    )
    values["heads"] = heads.variables(found_heads, settings)
    values["screen"] = heads.screen(found_heads)
    values["companion"] = heads.companion(found_heads.companion_agreement)
    values["plane"] = plane.variables(found_plane, found_heads.head_importance)
    values["claims"] = claims.counts(found_claims)
    values["abstract"] = abstract.variables(found_clusters, values)
    with atomic_folder(args.includes) as folder:
        for name, markdown in made.items():
            write_text(folder / f"{name}.md", markdown + "\n")
    header = "# Written by stages/report/values.py; every number of the paper stands here.\n"
    write_text(args.variables, header + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    study.add_arguments(parser)
    parser.add_argument("--overrides", type=Path, required=True)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--planted", type=Path, required=True)
    parser.add_argument("--sections", type=Path, required=True)
    parser.add_argument("--variables", type=Path, required=True)
    parser.add_argument("--includes", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
