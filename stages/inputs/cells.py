"""Count the cells of a file by sample and cell type.

Only the table of cells is read, never the expression matrix. A sample is the cells of one tissue of
one animal. Cells without an annotation are counted too, in rows without a cell type, so that later
stages can say how many were left out.
"""

import argparse
import math
import re
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stages.base import cli, settings, tables
from stages.base.errors import AtlasError
from stages.inputs.obs import read_obs
from stages.inputs.settings import CellsFile
from stages.inputs.tables import COUNTS, UNKNOWN_ANIMAL

UNANNOTATED = frozenset({"", "nan", "NaN", "NA", "None"})
"""Cell types that say nothing. The published atlases write "nan" where a cell has no annotation."""

# The column that counts the cells of a distinct row; no atlas has one of this name.
N_CELLS = "(number of cells)"
WHOLE = re.compile(r"0*[1-9]\d*")
AGE = re.compile(r"(\d+(?:\.\d+)?)m?")
SHOWN = 5


def count(obs: pd.DataFrame, spec: CellsFile, *, name: str, atlas: str) -> pd.DataFrame:
    """Count cells by sample and cell type.

    Parameters
    ----------
    obs
        One row a cell, or as many cells as its column ``n_cells`` says, with the columns that
        `spec` names.
    spec
        What the columns mean, and what counts as young and old.
    name, atlas
        The file's key in ``conf/atlas/<atlas>.yaml``; errors name them.

    Returns
    -------
    DataFrame
        A ``counts`` table, sorted by sample and cell type; the order of the rows of `obs` does not
        matter.

    Raises
    ------
    AtlasError
        No cell is left or annotated, an age or a number of cells is not understood, a tissue is
        missing, or an animal has two ages or sexes in one tissue.
    """
    obs = _keep(_weighted(_distinct(obs), spec), spec, name, atlas)
    columns = spec.columns
    cells = pd.DataFrame({"n_cells": obs[N_CELLS]}, index=obs.index)
    cells["tissue"] = (
        _tissues(obs, columns.tissue, spec) if columns.tissue else spec.constants.tissue
    )
    cells["animal"] = as_text(obs[columns.animal]).fillna(UNKNOWN_ANIMAL)
    sex = (
        as_text(obs[columns.sex])
        if columns.sex
        else pd.Series(spec.constants.sex, obs.index, "object")
    )
    cells["sex"] = sex.str.lower() if sex.notna().any() else sex
    cells["age_months"] = _months(obs, columns.age, spec, name, atlas)
    cells["cell_type"] = as_text(obs[columns.cell_type])
    if cells["cell_type"].isna().all():
        msg = (
            f"none of the {cells['n_cells'].sum()} cells of {spec.raw} has a cell type in column "
            f"{columns.cell_type}. "
            f"Name an annotated column in conf/atlas/{atlas}.yaml: cells.{name}.columns.cell_type."
        )
        raise AtlasError(msg)
    cells = _settle(cells, spec)

    key = ["tissue", "animal", "sex", "age_months", "cell_type"]
    counted = cells.groupby(key, dropna=False)["n_cells"].sum().reset_index()
    counted = counted.astype({"sex": "object", "cell_type": "object"})
    counted[["sex", "cell_type"]] = counted[["sex", "cell_type"]].where(
        counted[["sex", "cell_type"]].notna(), None
    )
    counted["cohort"] = spec.cohort
    counted["platform"] = spec.platform
    counted["age_group"] = [age_group(months, spec) for months in counted["age_months"]]
    keys = zip(counted["tissue"], counted["animal"], counted["cell_type"], strict=True)
    ranked = sorted((tuple(_natural(part) for part in key), row) for row, key in enumerate(keys))
    rows = counted.iloc[[row for _, row in ranked]]
    return rows[list(COUNTS.columns)].reset_index(drop=True)


def age_group(months: float, spec: CellsFile) -> str:
    """Return young, middle or old, by the limits of the cohort."""
    if months <= spec.young_max_months:
        return "young"
    return "old" if months >= spec.old_min_months else "middle"


def parse_age(label: str, labels: dict[str, float]) -> float | None:
    """Return an age in months, or None if the label is not understood.

    Understood are a label that `labels` names, whole or decimal months, and the same with an ``m``.

    Examples
    --------
    >>> [parse_age(label, {"young": 7.5}) for label in ("24m", "3.0", "young", "3 mo")]
    [24.0, 3.0, 7.5, None]
    """
    if label in labels:
        return labels[label]
    found = AGE.fullmatch(label)
    return float(found[1]) if found else None


def wanted_columns(spec: CellsFile) -> list[str]:
    """Return the columns of the file that this stage needs."""
    named = spec.columns
    columns = [named.animal, named.tissue, named.age, named.sex, named.cell_type, named.n_cells]
    columns += spec.where
    return [column for column in dict.fromkeys(columns) if column is not None]


def _keep(obs: pd.DataFrame, spec: CellsFile, name: str, atlas: str) -> pd.DataFrame:
    """Keep the rows that `where` asks for; there must be some."""
    if obs.empty:
        msg = (
            f"{spec.raw} has no cells. Fetch or write it again, or correct atlas.cells.{name}.raw."
        )
        raise AtlasError(msg)
    kept = obs
    for column, value in spec.where.items():
        texts = as_text(kept[column])
        kept = kept[texts == value]
        if kept.empty:
            there = ", ".join(sorted(texts.dropna().unique(), key=_natural)[:SHOWN])
            msg = (
                f"no cell of {spec.raw} has {value!r} in column {column}; values there are: "
                f"{there}. "
                f"Change conf/atlas/{atlas}.yaml: cells.{name}.where."
            )
            raise AtlasError(msg)
    return kept


def _distinct(obs: pd.DataFrame) -> pd.DataFrame:
    """Return each distinct row of `obs` once, with the number of cells that share it.

    Hundreds of thousands of cells are a few thousand combinations of animal, tissue and type: what
    follows looks at these.
    """
    if obs.empty:
        return obs.assign(**{N_CELLS: 0})
    combination, n_possible = np.zeros(len(obs), dtype=np.int64), 1
    for column in obs.columns:
        codes, values = pd.factorize(obs[column])
        if n_possible * (len(values) + 1) > np.iinfo(np.int64).max:
            seen, combination = np.unique(combination, return_inverse=True)
            n_possible = len(seen)
        # A missing value has code -1.
        combination = combination * (len(values) + 1) + codes + 1
        n_possible *= len(values) + 1
    _, first, n_cells = np.unique(combination, return_index=True, return_counts=True)
    return obs.iloc[first].assign(**{N_CELLS: n_cells})


def _weighted(obs: pd.DataFrame, spec: CellsFile) -> pd.DataFrame:
    """Count a row as often as its column of numbers of cells says."""
    column = spec.columns.n_cells
    if column is None or obs.empty:
        return obs
    texts = as_text(obs[column])
    wrong = np.array([text is None or not WHOLE.fullmatch(text) for text in texts], dtype=np.bool_)
    if wrong.any():
        msg = (
            f"{column} of {spec.raw} is {texts[wrong].iloc[0]!r} in {int(wrong.sum())} distinct "
            "rows or more: a row stands for a whole number of cells, at least 1. Correct the "
            "table, or leave those rows out."
        )
        raise AtlasError(msg)
    return obs.assign(**{N_CELLS: obs[N_CELLS] * texts.astype(int)})


def as_text(values: pd.Series) -> pd.Series:
    """Return values as stripped text, None where they say nothing."""
    codes, distinct = pd.factorize(values)
    texts = [None if (text := str(value).strip()) in UNANNOTATED else text for value in distinct]
    # A missing value has code -1: the last text.
    return pd.Series(np.array([*texts, None], dtype=object)[codes], values.index, dtype="object")


def _n_missing(values: pd.Series, obs: pd.DataFrame) -> str:
    """Say how many cells lack a value; empty for none."""
    missing = int(obs.loc[values.isna(), N_CELLS].sum())
    return f"{missing} of {obs[N_CELLS].sum()} cells" if missing else ""


def _tissues(obs: pd.DataFrame, column: str, spec: CellsFile) -> pd.Series:
    tissues = as_text(obs[column])
    if missing := _n_missing(tissues, obs):
        msg = (
            f"{missing} of {spec.raw} have no tissue in column {column}. "
            "Fill them in or leave those cells out of the file."
        )
        raise AtlasError(msg)
    return tissues


def _months(obs: pd.DataFrame, column: str, spec: CellsFile, name: str, atlas: str) -> pd.Series:
    """Parse every distinct age once."""
    labels = as_text(obs[column])
    if missing := _n_missing(labels, obs):
        msg = (
            f"{missing} have no age in column {column} of {spec.raw}. "
            "Fill them in or leave those cells out of the file."
        )
        raise AtlasError(msg)
    months: dict[Hashable, float] = {}
    for label in labels.unique():
        age = parse_age(label, spec.age_months)
        if age is None or not math.isfinite(age) or age < 0:
            msg = (
                f"age {label!r} in column {column} of {spec.raw} is not understood: allowed are "
                "3m, plain months, "
                f"or a label named under atlas.cells.{name}.age_months. "
                f"Add it there (conf/atlas/{atlas}.yaml) with its months, at least 0."
            )
            raise AtlasError(msg)
        months[label] = age
    return labels.map(months).astype(float)


def _settle(cells: pd.DataFrame, spec: CellsFile) -> pd.DataFrame:
    """Give every sample one age and one sex, or say which animal contradicts itself."""
    unknown = cells["animal"] == UNKNOWN_ANIMAL
    for column in ("age_months", "sex"):
        distinct = cells[~unknown].groupby(["tissue", "animal"])[column].nunique(dropna=False)
        if (distinct > 1).any():
            tissue, animal = distinct[distinct > 1].sort_index().index[0]
            sample = cells[(cells["tissue"] == tissue) & (cells["animal"] == animal)]
            found = ", ".join(sorted({str(value) for value in sample[column]}, key=_natural))
            msg = (
                f"animal {animal} has more than one {column.removesuffix('_months')} in {tissue} "
                f"of {spec.raw}: "
                f"{found}. Correct the table, or name the column that tells the animals apart."
            )
            raise AtlasError(msg)
    if unknown.any():
        # Cells of unknown animals are one excluded sample a tissue. The table needs an age; no
        # stage uses it.
        cells.loc[unknown, "age_months"] = (
            cells[unknown].groupby("tissue")["age_months"].transform("min")
        )
        cells.loc[unknown, "sex"] = None
    return cells


def _natural(text: object) -> tuple[object, ...]:
    """Return a sort key in which 9 comes before 10 and a missing value last."""
    if not isinstance(text, str):
        return (1,)
    parts = re.split(r"(\d+)", text)
    # Text at even places, numbers at odd ones: like is compared with like. The text itself tells 3
    # from 03.
    return (0, tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), text)


def _run(args: argparse.Namespace) -> None:
    atlas = settings.load(args.params).atlas
    if args.file not in atlas.cells:
        allowed = ", ".join(sorted(atlas.cells))
        msg = f"atlas {atlas.name} has no file of cells {args.file!r}: allowed are {allowed}."
        raise AtlasError(msg)
    spec = atlas.cells[args.file]
    change = f"conf/atlas/{atlas.name}.yaml: cells.{args.file}.columns"
    obs = read_obs(spec.raw, wanted_columns(spec), change=change)
    tables.write(count(obs, spec, name=args.file, atlas=atlas.name), COUNTS, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--file", required=True, help="a key of atlas.cells in the settings")
    parser.add_argument("--out", type=Path, required=True, help="the table of counts to write")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
