"""Turn counts into proportions per sample, and list every cell that was left out, by rule.

Original step 01. The rules, in the order in which they apply:

* ``unannotated``: cells without a cell type are dropped and counted; they are no component.
* ``unknown_animal``: cells whose animal is not stated belong to no replicate.
* ``pooled_label``: a label such as ``3-M-5/6`` names several animals in one library, and some
  animals are in several such labels: no independent replicate.
* ``too_few_cells``: fewer annotated cells than ``proportions.min_cells``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from stages.base import cli, tables
from stages.base.errors import AtlasError
from stages.base.settings import load
from stages.cells import counts
from stages.cells.settings import Proportions
from stages.cells.tables.proportions import EXCLUSIONS, PROPORTIONS
from stages.inputs.tables import UNKNOWN_ANIMAL

KEY = ["cohort", "platform", "tissue", "animal"]


def proportions(cells: pd.DataFrame, rules: Proportions) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the share of each cell type in each sample, and what was excluded.

    Parameters
    ----------
    cells
        Counts by sample and cell type (``COUNTS``).
    rules
        The minimum number of cells and the pattern of pooled labels.

    Returns
    -------
    proportions, exclusions
        ``PROPORTIONS`` and ``EXCLUSIONS``; together they hold every cell exactly
        once.

    Raises
    ------
    AtlasError
        No sample is left.
    """
    unannotated = cells["cell_type"].isna()
    left_out = [_listed(cells[unannotated], "unannotated", "cells without a cell type")]
    annotated = cells[~unannotated]

    unknown = annotated["animal"] == UNKNOWN_ANIMAL
    left_out.append(_listed(annotated[unknown], "unknown_animal", "the animal is not stated"))
    pooled = ~unknown & counts.is_pooled(annotated["animal"], rules.pooled_pattern)
    why = f"the label matches {rules.pooled_pattern}: several animals in one library"
    left_out.append(_listed(annotated[pooled], "pooled_label", why))
    kept = annotated[~unknown & ~pooled]

    total = kept.groupby(KEY)["n_cells"].transform("sum")
    few = total < rules.min_cells
    why = f"fewer than {rules.min_cells} annotated cells"
    left_out.append(_listed(kept[few], "too_few_cells", why))
    kept = kept[~few]
    if kept.empty:
        msg = (
            f"no sample is left of {cells['n_cells'].sum()} cells: {_summary(left_out)}. "
            "Check the column map of the atlas, proportions.min_cells and "
            "proportions.pooled_pattern."
        )
        raise AtlasError(msg)
    table = kept.assign(proportion=kept["n_cells"] / total[~few])
    table = table.sort_values([*KEY, "cell_type"], ignore_index=True)
    excluded = pd.concat(left_out, ignore_index=True)
    return table, excluded.sort_values([*KEY, "rule"], ignore_index=True)


def _listed(rows: pd.DataFrame, rule: str, detail: str) -> pd.DataFrame:
    listed = rows.groupby(KEY, as_index=False)["n_cells"].sum()
    return listed.assign(rule=rule, detail=detail)[list(EXCLUSIONS.columns)]


def _summary(left_out: list[pd.DataFrame]) -> str:
    parts = [f"{part['n_cells'].sum()} {part['rule'].iloc[0]}" for part in left_out if len(part)]
    return ", ".join(parts) or "there were no cells"


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    cells = counts.read_all(args.cells, list(settings.atlas.cells))
    table, excluded = proportions(cells, settings.proportions)
    tables.write(table, PROPORTIONS, args.out)
    tables.write(excluded, EXCLUSIONS, args.exclusions)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--cells", type=Path, required=True, help="folder of counts by file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--exclusions", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
