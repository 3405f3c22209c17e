"""Set the known truth of simulated cohorts beside what the pipeline found.

The truth of a change is the difference of the medians over a very large population of animals with
as many cells as the simulated ones: that is what the difference of the medians of a few animals
estimates. Real inputs have no known truth, and the table is empty.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stages.base import cli, tables
from stages.cells.tables.contrast import CONTRAST
from stages.cells.tables.recovery import RECOVERY
from stages.cells.tables.truth import TRUTH


def recovery(truth: pd.DataFrame, contrast: pd.DataFrame) -> pd.DataFrame:
    """Return ``RECOVERY``: truth, estimate and interval of every tissue and metric."""
    key = ["cohort", "platform", "tissue", "metric"]
    found = contrast.loc[contrast["cells"] == "all", [*key, "change", "change_low", "change_high"]]
    both = truth.rename(columns={"change_of_medians": "truth"}).merge(found, on=key)
    both["covered"] = both["truth"].between(both["change_low"], both["change_high"])
    both["same_sign"] = np.sign(both["truth"]) == np.sign(both["change"])
    return both.sort_values(key, ignore_index=True)[list(RECOVERY.columns)]


def _run(args: argparse.Namespace) -> None:
    truth = tables.read(args.truth, TRUTH)
    contrast = tables.read(args.contrast, CONTRAST)
    tables.write(recovery(truth, contrast), RECOVERY, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--contrast", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
