"""Describe what the atlas holds: samples, animals, ages, sexes and pooled labels.

Original step 00. It also says what is confounded with age.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from stages.base import cli, tables
from stages.base.settings import load
from stages.cells import counts
from stages.cells.tables.describe import CONFOUNDING, SAMPLES
from stages.inputs.tables import GROUPS, TWO_GROUPS


def samples(cells: pd.DataFrame, *, pooled_pattern: str) -> pd.DataFrame:
    """Return one row a sample: its animal, cells and types, and whether animals were pooled.

    Parameters
    ----------
    cells
        Counts by sample and cell type (``COUNTS``).
    pooled_pattern
        A label that this regular expression matches names several animals.
    """
    annotated = cells["cell_type"].notna()
    rows = cells.assign(
        n_unannotated=cells["n_cells"].where(~annotated, 0),
        n_types=annotated.astype(int),
    )
    grouped = rows.groupby(counts.SAMPLE, dropna=False, as_index=False, sort=True)
    table = grouped[["n_cells", "n_unannotated", "n_types"]].sum()
    table["pooled"] = counts.is_pooled(table["animal"], pooled_pattern)
    return table


def confounding(described: pd.DataFrame) -> pd.DataFrame:
    """Count samples by tissue, group and sex, and say where sex cannot be told from the group.

    A tissue is confounded when no sex is in both groups: then no comparison within a sex exists.
    Pooled labels are counted by themselves, since they are no animals.
    """
    rows = []
    for key, tissue in described.groupby(["cohort", "platform", "tissue"], sort=True):
        single = tissue[~tissue["pooled"]]
        by_sex = {
            group: set(single.loc[single["group"] == group, "sex"].dropna()) for group in TWO_GROUPS
        }
        confounded = not by_sex["reference"] & by_sex["compared"]
        for group in GROUPS:
            here = tissue[tissue["group"] == group]
            animals = here[~here["pooled"]]
            rows.append(
                [
                    *key,
                    group,
                    int((animals["sex"] == "female").sum()),
                    int((animals["sex"] == "male").sum()),
                    int((~animals["sex"].isin(["female", "male"])).sum()),
                    int(here["pooled"].sum()),
                    confounded,
                ]
            )
    return pd.DataFrame(rows, columns=list(CONFOUNDING.columns))


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    cells = counts.read_all(args.cells, list(settings.atlas.cells))
    described = samples(cells, pooled_pattern=settings.proportions.pooled_pattern)
    tables.write(described, SAMPLES, args.samples)
    tables.write(confounding(described), CONFOUNDING, args.confounding)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--cells", type=Path, required=True, help="folder of counts by file")
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--confounding", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
