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
from stages.inputs import ages
from stages.inputs.groups import AgeRange, group_of
from stages.inputs.obs import N_CELLS, count_obs, distinct
from stages.inputs.settings import CellsFile
from stages.inputs.tables import COUNTS, UNKNOWN_ANIMAL

UNANNOTATED = frozenset({"", "nan", "NaN", "NA", "None"})
"""Cell types that say nothing. The published atlases write "nan" where a cell has no annotation."""

# Labels of types that are often none.
NO_TYPE = re.compile(
    r"(unknown|unassigned|unannotated|undefined|unclassified|unidentified|ambiguous|doublets?|"
    r"low[ _-]?quality|other|n/?a|null|mixed)( cells?)?",
    re.IGNORECASE,
)
WHOLE = re.compile(r"0*[1-9]\d*")
SHOWN = 5


def count(obs: pd.DataFrame, spec: CellsFile, *, name: str, atlas: str) -> pd.DataFrame:
    """Count cells by sample and cell type.

    Parameters
    ----------
    obs
        One row a cell, or as many cells as its column ``n_cells`` says, with the columns that
        `spec` names; or what :func:`stages.inputs.obs.count_obs` made of these rows.
    spec
        What the columns mean, and who is compared with whom.
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
        No cell is left or annotated, an age or a number of cells is not understood, a tissue, an
        age or a condition is missing, no cell is of a group, or an animal has two ages or sexes in
        one tissue.
    """
    if N_CELLS not in obs:
        obs = distinct(obs)
    obs = _keep(_weighted(obs, spec), spec, name, atlas)
    columns = spec.columns
    cells = pd.DataFrame({"n_cells": obs[N_CELLS]}, index=obs.index)
    cells["tissue"] = (
        _required(obs, columns.tissue, "tissue", spec) if columns.tissue else spec.constants.tissue
    )
    cells["animal"] = animals(obs, spec)
    sex = _texts(obs, columns.sex, spec.constants.sex)
    cells["sex"] = sex.str.lower() if sex.notna().any() else sex
    cells["block"] = _texts(obs, columns.block)
    cells["age_months"] = math.nan
    if columns.age is not None:
        cells["age_months"] = _months(obs, columns.age, spec, name, atlas)
    cells["condition"] = _conditions(obs, spec, name, atlas)
    cells["cell_type"] = _cell_types(obs, spec, name, atlas)
    if cells["cell_type"].isna().all():
        msg = (
            f"none of the {cells['n_cells'].sum()} cells of {spec.raw} has a cell type in column "
            f"{columns.cell_type}. "
            f"Name an annotated column in conf/atlas/{atlas}.yaml: cells.{name}.columns.cell_type."
        )
        raise AtlasError(msg)
    cells = _settle(cells, spec)

    texts = ["sex", "block", "condition", "cell_type"]
    key = ["tissue", "animal", "age_months", *texts]
    counted = cells.groupby(key, dropna=False)["n_cells"].sum().reset_index()
    counted = counted.astype(dict.fromkeys(texts, "object"))
    counted[texts] = counted[texts].where(counted[texts].notna(), None)
    counted["cohort"] = spec.cohort
    counted["platform"] = spec.platform
    of_sample = zip(counted["age_months"], counted["condition"], strict=True)
    counted["group"] = [group_of(spec.groups, *sample) for sample in of_sample]
    keys = zip(counted["tissue"], counted["animal"], counted["cell_type"], strict=True)
    ranked = sorted((tuple(_natural(part) for part in key), row) for row, key in enumerate(keys))
    rows = counted.iloc[[row for _, row in ranked]]
    return rows[list(COUNTS.columns)].reset_index(drop=True)


def animals(obs: pd.DataFrame, spec: CellsFile) -> pd.Series:
    """Return the animal of each row, ``UNKNOWN_ANIMAL`` where it is not stated.

    Raises
    ------
    AtlasError
        The pattern of animals finds nothing in a name.
    """
    names = as_text(obs[spec.columns.animal])
    if spec.animal_pattern is not None:
        parts = {name: re.search(spec.animal_pattern, name) for name in names.dropna().unique()}
        if lost := [name for name, part in parts.items() if part is None]:
            msg = (
                f"animal_pattern {spec.animal_pattern!r} finds nothing in {lost[0]!r} of column "
                f"{spec.columns.animal} of {spec.raw}. Correct the pattern, or leave it out."
            )
            raise AtlasError(msg)
        found = {name: part[part.re.groups and 1] for name, part in parts.items() if part}
        names = names.map(found)
    return names.astype(object).where(names.notna(), UNKNOWN_ANIMAL)


def named(cells: pd.DataFrame) -> pd.Series:
    """Return the name of the sample of each row: its animal, and of several its condition too.

    Parameters
    ----------
    cells
        With `tissue`, `animal` and `condition`.
    """
    of_animal = cells.groupby(["tissue", "animal"])["condition"]
    several = (of_animal.transform("nunique") > 1) & (cells["animal"] != UNKNOWN_ANIMAL)
    both = cells["animal"] + " (" + cells["condition"].fillna("") + ")"
    return cells["animal"].where(~several, both)


def wanted_columns(spec: CellsFile) -> list[str]:
    """Return the columns of the file that this stage needs."""
    named = spec.columns
    columns = [named.animal, named.tissue, named.age, named.condition, named.sex, named.block]
    columns += [named.cell_type, named.n_cells, *spec.where]
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
    if (twice := obs[N_CELLS] > 1).any():
        cli.log.warning(
            "%s: %d rows stand there more than once, and their cells count each time",
            spec.raw,
            int(twice.sum()),
        )
    return obs.assign(**{N_CELLS: obs[N_CELLS] * texts.astype(int)})


def as_text(values: pd.Series) -> pd.Series:
    """Return values as stripped text, None where they say nothing."""
    codes, distinct = pd.factorize(values)
    texts = [None if (text := str(value).strip()) in UNANNOTATED else text for value in distinct]
    # A missing value has code -1: the last text.
    return pd.Series(np.array([*texts, None], dtype=object)[codes], values.index, dtype="object")


def _required(obs: pd.DataFrame, column: str, what: str, spec: CellsFile) -> pd.Series:
    """Return a column as text, of which every cell must say something."""
    values = as_text(obs[column])
    if missing := int(obs.loc[values.isna(), N_CELLS].sum()):
        msg = (
            f"{missing} of {obs[N_CELLS].sum()} cells have no {what} in column {column} of "
            f"{spec.raw}. Fill them in or leave those cells out of the file."
        )
        raise AtlasError(msg)
    return values


def _cell_types(obs: pd.DataFrame, spec: CellsFile, name: str, atlas: str) -> pd.Series:
    """Return the type of each row, None where it has none, and warn of what looks like none."""
    types = as_text(obs[spec.columns.cell_type])
    types = types.where(~types.isin(spec.unannotated), None)
    for label in sorted(types.dropna().unique()):
        if NO_TYPE.fullmatch(label):
            cli.log.warning(
                "%s: %d cells are of type %r, which counts as a type; if it is none, name it in "
                "conf/atlas/%s.yaml: cells.%s.unannotated",
                spec.raw,
                int(obs.loc[types == label, N_CELLS].sum()),
                label,
                atlas,
                name,
            )
    return types


def _texts(obs: pd.DataFrame, column: str | None, constant: str | None = None) -> pd.Series:
    if column is None:
        return pd.Series(constant, obs.index, dtype="object")
    return as_text(obs[column])


def _months(obs: pd.DataFrame, column: str, spec: CellsFile, name: str, atlas: str) -> pd.Series:
    """Parse every distinct age once."""
    labels = _required(obs, column, "age", spec)
    months: dict[Hashable, float] = {}
    for label in labels.unique():
        age = spec.age_months.get(label)
        if age is None:
            age = ages.parse(label, spec.age_unit)
        if age is None or not math.isfinite(age) or age < 0:
            where = f"conf/atlas/{atlas}.yaml: cells.{name}"
            what = f"age {label!r} in column {column} of {spec.raw}"
            msg = (
                f"{what} has no unit. Say it in {where}.age_unit: {', '.join(ages.MONTHS)}."
                if ages.is_number(label)
                else f"{what} is not understood: allowed are 3m, 10 weeks, 23y, 65-year-old and "
                f"P7, or a label with its months, at least 0. Add it to {where}.age_months."
            )
            raise AtlasError(msg)
        months[label] = age
    return labels.map(months).astype(float)


def _conditions(obs: pd.DataFrame, spec: CellsFile, name: str, atlas: str) -> pd.Series:
    """Return the label that decides the group of each cell; None where ages do."""
    if isinstance(spec.groups.reference, AgeRange) or spec.columns.condition is None:
        return pd.Series(None, obs.index, dtype="object")
    column = spec.columns.condition
    labels = _required(obs, column, "condition", spec)
    there = sorted(labels.unique(), key=_natural)
    for group, members in (
        ("reference", spec.groups.reference),
        ("compared", spec.groups.compared),
    ):
        if unknown := [label for label in members if label not in there]:
            msg = (
                f"no cell of {spec.raw} has {unknown[0]!r} in column {column}; values there are: "
                f"{', '.join(there[:SHOWN])}. "
                f"Change conf/atlas/{atlas}.yaml: cells.{name}.groups.{group}."
            )
            raise AtlasError(msg)
    return labels


def _settle(cells: pd.DataFrame, spec: CellsFile) -> pd.DataFrame:
    """Give every sample one age, sex and block, or say which animal contradicts itself.

    An animal under several conditions is a sample under each; it is what they share.
    """
    unknown = cells["animal"] == UNKNOWN_ANIMAL
    for column in ("age_months", "sex"):
        _require_one(cells[~unknown], ["tissue", "animal"], column, spec)
    sample = named(cells)
    # One animal under several conditions makes pairs of all animals of its tissue.
    paired = (sample != cells["animal"]).groupby(cells["tissue"]).transform("any") & ~unknown
    cells.loc[paired, "block"] = cells.loc[paired, "animal"]
    cells["animal"] = sample
    _require_one(cells[~unknown], ["tissue", "animal"], "block", spec)
    if unknown.any():
        # Cells of unknown animals are one excluded sample a tissue. No stage uses what is known of
        # it.
        first = cells[unknown].groupby("tissue")[["age_months", "condition"]].transform("min")
        cells.loc[unknown, ["age_months", "condition"]] = first
        cells.loc[unknown, ["sex", "block"]] = None
    return cells


def _require_one(cells: pd.DataFrame, key: list[str], column: str, spec: CellsFile) -> None:
    distinct = cells.groupby(key)[column].nunique(dropna=False)
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
    change += "; sex and tissue may be left out there, and stated under constants"
    obs = count_obs(spec.raw, wanted_columns(spec), change=change, modality=spec.modality)
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
