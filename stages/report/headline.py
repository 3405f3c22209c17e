"""Gather the few numbers and curves that a person looks at first, for DVC's metrics and plots.

The paper and the tables hold every number. These files hold what changes when a setting or a model
does, small enough to be compared between commits and experiments by DVC itself.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from stages.base import cli, study
from stages.base.files import atomic_folder, write_text
from stages.base.settings import Settings, load
from stages.heads.components import perturbation
from stages.measurement.concentration import QUADRANTS
from stages.report import heads, text
from stages.report import tables as schemas
from stages.report.comparisons import Row, all_cells, directions, records, spread
from stages.report.reading import Tables, along_training

_SHORT = (
    *("reproduced", "differ", "agree_reconstructed", "disagree_reconstructed"),
    *("agree_results", "disagree_results", "not_testable"),
)
VERDICTS = dict(zip(_SHORT, schemas.VERDICTS, strict=True))

# What the plots say of themselves where an input is simulated.
SIMULATED = "Simulated demo inputs: no finding."

Headline = dict[str, dict[str, float | int]]


def headline(found: Tables, settings: Settings, cells: study.Study, model: study.Study) -> Headline:
    """Return the numbers by topic; a topic that the inputs have nothing of is left out.

    Parameters
    ----------
    found
        The tables.
    settings
        All settings: at which resolution the rescue is quoted.
    cells, model
        The inputs.

    Returns
    -------
    dict
        Unrounded numbers. ``inputs``: whether any input is simulated; ``cells``, ``simulated``:
        comparisons by quadrant, of real and of simulated arms; ``heads``: Gini coefficient and
        effective number in the first and the last state, and the share of noise in the sum of
        effects in the last; ``plane``: tissues that point within a right angle of the heads;
        ``restriction``: rescue fractions; ``truth``: known changes of simulated cohorts whose sign
        and value the pipeline found; ``claims``: published claims by verdict.
    """
    full = directions(found.contrast)
    evidence = cells.evidence_of(full)
    quadrants = {
        topic: full.loc[(evidence == study.SIMULATED) == simulated, "quadrant"]
        for topic, simulated in (("cells", False), ("simulated", True))
    }
    judged = found.claims.drop_duplicates("id")["verdict"]
    made: Headline = {
        "inputs": {"simulated": cells.simulated or model.simulated},
        **{
            topic: {name: int((of == name).sum()) for name in QUADRANTS}
            for topic, of in quadrants.items()
            if len(of)
        },
        "heads": _heads(along_training(found)),
        "plane": _plane(heads.plane(found)),
        "restriction": _restriction(found.restriction, settings.clusters.reference),
        "truth": _truth(found.recovery),
        "claims": {short: int((judged == name).sum()) for short, name in VERDICTS.items()},
    }
    return {
        topic: {name: value for name, value in numbers.items() if not math.isnan(value)}
        for topic, numbers in made.items()
        if numbers
    }


def _heads(along: pd.DataFrame) -> dict[str, float | int]:
    states = spread(along, ["position"])
    # One that is alone is the last: there is no change to show.
    shown = {"first": states[0], "last": states[-1]} if len(states) > 1 else {"last": states[-1]}
    numbers: dict[str, float | int] = {
        f"{metric}_{when}": row[metric]["value"]
        for metric in text.CHANGES
        for when, row in shown.items()
    }
    return numbers | {"noise_share_last": states[-1]["gini"]["noise_share"]}


def _plane(found: Row) -> dict[str, float | int]:
    return {"tissues": found["n_tissues"], "within_right_angle": found["n_close"]} if found else {}


def _restriction(table: pd.DataFrame, resolution: float) -> dict[str, float | int]:
    rows = all_cells(table[(table["resolution"] == resolution) & (table["libraries"] == "mean")])
    return {f"rescue_{row.metric}": float(row.rescue_fraction) for row in rows.itertuples()}


def _truth(recovery: pd.DataFrame) -> dict[str, float | int]:
    if recovery.empty:
        return {}
    return {
        "changes": len(recovery),
        "signs_found": int(recovery["same_sign"].sum()),
        "intervals_hold": int(recovery["covered"].sum()),
    }


def curves(found: Tables, cells: study.Study, model: study.Study) -> dict[str, pd.DataFrame]:
    """Return the data of DVC's plots by name, tidy, one mark a row.

    Parameters
    ----------
    found
        The tables.
    cells, model
        The inputs: a row says so where it rests on simulated ones.

    Returns
    -------
    dict of pandas.DataFrame
        ``trajectory``: each metric of the heads in each state with its interval over
        sequences and what noise alone would give; ``changes``: each tissue's change of each metric
        with its interval; ``plane``: tissues and states on the corrected scales.
    """
    along = along_training(found)
    along = along[along["metric"].isin(text.CHANGES)]
    names = {"value": "value", "sequences_low": "low", "sequences_high": "high", "floor": "noise"}
    trajectory = along.rename(columns=names)[["state", "position", "metric", *names.values()]]
    names = {"change_low": "low", "change_high": "high"}
    aged = all_cells(found.contrast).rename(columns=names)
    notices = _notices(aged, cells)
    aged["tissue"] = [_tissue(row) for row in records(aged)]
    changes = aged[["tissue", "metric", "change", "low", "high", "quadrant"]]
    of_model = SIMULATED if model.simulated else ""
    points = _points(found.plane, cells, of_model)
    return {
        "trajectory": trajectory.assign(notice=of_model),
        "changes": changes.assign(notice=notices),
        "plane": points,
    }


def _notices(rows: pd.DataFrame, cells: study.Study) -> pd.Series:
    return cells.evidence_of(rows).map(lambda one: SIMULATED if one == study.SIMULATED else "")


def _tissue(row: Row) -> str:
    return f"{text.tissue_name(row['tissue'])} ({text.arm(row['cohort'], row['platform'])})"


def _points(plane: pd.DataFrame, cells: study.Study, of_model: str) -> pd.DataFrame:
    columns = ["system", "name", "position", "d_gini", "d_effective", "quadrant", "notice"]
    if plane.empty:
        return pd.DataFrame(columns=columns)
    rows = plane[(plane["scale"] == "corrected") & (plane["bootstrap"] != "heads")]
    of_heads = rows["system"] == "heads"
    shown = perturbation(rows[of_heads]) if of_heads.any() else ""
    rows = rows[~of_heads | (rows["perturbation"] == shown)]
    is_cells = rows["system"] == "cells"
    notices = pd.Series(of_model, rows.index)
    notices[is_cells] = _notices(rows[is_cells], cells)
    named = [
        text.state(row["state"]) if row["system"] == "heads" else _tissue(row)
        for row in records(rows)
    ]
    return rows.assign(name=named, notice=notices)[columns]


def _run(args: argparse.Namespace) -> None:
    settings, found = load(args.params), Tables(args.tables)
    inputs = study.read(args.cells), study.read(args.heads)
    numbers = json.dumps(headline(found, settings, *inputs), indent=2)
    with atomic_folder(args.plots) as folder:
        for name, table in curves(found, *inputs).items():
            write_text(folder / f"{name}.csv", table.to_csv(index=False))
    write_text(args.metrics, numbers + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    study.add_arguments(parser)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True, help="JSON for `dvc metrics`")
    parser.add_argument("--plots", type=Path, required=True, help="folder of CSV for `dvc plots`")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
