"""Look into a table of cells and write the settings of ``conf/atlas/local.yaml`` that it needs.

Names of columns, and what stands in them, give away what most tables mean. What they leave open
stands beside the guess as a comment, and a person decides.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import yaml

from stages.base import cli
from stages.base.errors import AtlasError
from stages.base.study import UNSTATED
from stages.inputs import ages
from stages.inputs.cells import NO_TYPE, as_text
from stages.inputs.obs import N_CELLS, columns_of, count_obs

NAMES = {
    "animal": (
        r"(mouse|animal|donor|patient|individual|subject|ind)([._ ]?id(entifier)?)?",
        r"(sample|orig|library)([._ ]?(id|ident|name))?",
    ),
    "cell_type": (
        r"cell[._ ]?(ontology[._ ]?class|types?|subtypes?)(_.*)?",
        r"(free[._ ]|cell[._ ])?annotations?",
        r"(sub)?class(_label)?|cell[._ ]?labels?",
        r"(leiden|louvain|seurat)?_?clusters?([._ ]?(id|name))?|leiden|louvain",
    ),
    "age": (r"age([._ ].*)?", r"development(al)?[._ ]stage"),
    "condition": (
        r"condition|treatment|stim(ulation|ulus)?|disease([._ ]?state)?|genotype|diet|perturbation",
        r"group([._ ]?id)?|status|label",
    ),
    "tissue": (r"tissues?|organ([._ ]part)?", r"tissue[._ ]general|subtissue|region"),
    "sex": (r"sex|gender",),
    "block": (r"batch([._ ]?id)?|litter|pool|lane|run",),
    "n_cells": (r"n[._ ]?cells|cell[._ ]?count|count",),
}
"""How tables call what is looked for, the likelier names first."""
CONTROL = re.compile(
    r"^(ctrl|control|mock|untreated|unstim|wild.?type|wt|normal|healthy|vehicle|baseline|sham)",
    re.IGNORECASE,
)
MOST_GROUPS = 30
SHOWN = 8


def candidates(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns that could be each part, the likelier first.

    Examples
    --------
    >>> found = candidates(["donor_id", "cell_type", "leiden", "sex", "sample"])
    >>> found["animal"], found["cell_type"], found["age"]
    (['donor_id', 'sample'], ['cell_type', 'leiden'], [])
    """
    return {
        part: [
            name
            for pattern in patterns
            for name in names
            if re.fullmatch(pattern, name, re.IGNORECASE)
        ]
        for part, patterns in NAMES.items()
    }


def guess(
    labels: Mapping[str, "pd.Series[int]"], parts: Mapping[str, Sequence[str]]
) -> tuple[dict[str, object], list[str]]:
    """Return the entry of a file of cells, but for its name, and what is unsure of it.

    Parameters
    ----------
    labels
        Of each column, how many cells have each label.
    parts
        The columns that could be each part (:func:`candidates`).
    """
    columns: dict[str, str | None] = {}
    unsure: list[str] = []
    for part, names in parts.items():
        fits = [name for name in names if name not in columns.values() and len(labels[name])]
        if part == "age":
            fits = [name for name in fits if _are_ages(labels[name].index)]
        if part == "condition":
            fits = [name for name in fits if 1 < len(labels[name]) <= MOST_GROUPS]
        if part == "n_cells":
            fits = [name for name in fits if all(ages.is_number(n) for n in labels[name].index)]
        if fits:
            columns[part] = fits[0]
        if len(fits) > 1:
            unsure.append(f"{part} could also be {', '.join(fits[1:])}")
    for part in ("animal", "cell_type"):
        if part not in columns:
            columns[part] = None
            unsure.append(f"no column looks like {part}: name it")
    entry: dict[str, object] = {"platform": UNSTATED, "columns": columns, "constants": {}}
    if "tissue" not in columns:
        columns["tissue"] = None
        entry["constants"] = {"tissue": "Tissue"}
        unsure.append("no column looks like the tissue: state it under constants")
    unsure.append("platform: say how the cells were caught, in one word")
    if "age" in columns:
        of_age = labels[str(columns["age"])].index
        entry |= _of_ages(of_age, unsure)
        if "condition" in columns:
            unsure.append(f"{columns.pop('condition')} could make the groups in place of ages")
    elif "condition" in columns:
        of_condition = sorted(
            labels[str(columns["condition"])].index,
            key=lambda label: (CONTROL.search(label) is None, label),
        )
        entry["groups"] = {"reference": of_condition[:1], "compared": of_condition[1:2]}
        unsure.append(f"groups: labels are {_shown(of_condition)}; say which is the reference")
    else:
        entry["groups"] = {"reference": ["?"], "compared": ["?"]}
        unsure.append("no column looks like an age or a condition: name one, and its groups")
    none = [
        label
        for label in labels[str(columns["cell_type"])].index
        if columns["cell_type"] and NO_TYPE.fullmatch(label)
    ]
    if none:
        entry["unannotated"] = none
        unsure.append("unannotated: these labels look like no cell types")
    return entry, unsure


def _of_ages(labels: Iterable[str], unsure: list[str]) -> dict[str, object]:
    """Return the groups of ages: the youngest quarter of the labels, and the oldest."""
    entry: dict[str, object] = {}
    known = sorted(labels)
    unit = None
    if any(ages.is_number(label) for label in known):
        unit = entry["age_unit"] = "months"
        unsure.append("age_unit: ages are plain numbers; say whether they are months")
    months = {label: age for label in known if (age := ages.parse(label, unit)) is not None}
    if strange := [label for label in known if label not in months]:
        entry["age_months"] = dict.fromkeys(strange, 0)
        unsure.append(f"age_months: say how many months {_shown(strange)} are")
    ordered = sorted(months, key=lambda label: months[label])
    few = max(1, len(ordered) // 4)
    ends = [_with_unit(ordered[few - 1], unit), _with_unit(ordered[-few], unit)]
    entry["groups"] = {"reference": {"up_to": ends[0]}, "compared": {"from": ends[1]}}
    unsure.append(f"groups: ages are {_shown(ordered)}; say who is young and who is old")
    return entry


def _with_unit(label: str, unit: str | None) -> str:
    return f"{label} {unit}" if ages.is_number(label) else label


def _are_ages(labels: Iterable[str]) -> bool:
    return any(ages.is_number(label) or ages.parse(label) is not None for label in labels)


def _shown(labels: Sequence[str]) -> str:
    return ", ".join(labels[:SHOWN]) + (", ..." if len(labels) > SHOWN else "")


def describe(path: Path, *, modality: str | None = None) -> str:
    """Return the lines of ``conf/atlas/local.yaml`` that a table of cells needs.

    Raises
    ------
    AtlasError
        The file is no table of cells, or has no cells.
    """
    names = columns_of(path, modality=modality)
    parts = candidates(names)
    labels = {}
    for name in dict.fromkeys(name for fits in parts.values() for name in fits):
        counted = count_obs(path, [name], modality=modality)
        texts = as_text(counted[name])
        labels[name] = counted[N_CELLS].groupby(texts).sum().sort_values(ascending=False)
    if not labels:
        msg = (
            f"no column of {path} has a name that says what it is: they are {_shown(names)}. "
            "Name them in conf/atlas/local.yaml: cells.mine.columns."
        )
        raise AtlasError(msg)
    entry, unsure = guess(labels, parts)
    said = {"raw": str(path), "cohort": re.sub(r"\W+", "-", path.name.partition(".")[0]) or "mine"}
    said |= {"modality": modality} if modality else {}
    text = yaml.safe_dump({"cells": {"mine": said | entry}}, sort_keys=False, allow_unicode=True)
    other = [name for name in names if name not in labels]
    notes = [f"unsure: {line}" for line in unsure]
    notes += [f"columns that were not looked at: {_shown(other)}"] if other else []
    return text + "".join(f"# {line}\n" for line in notes)


def _run(args: argparse.Namespace) -> None:
    sys.stdout.write(describe(args.file, modality=args.modality))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("file", type=Path, help="a table of cells")
    parser.add_argument("--modality", help="of a MuData: whose table")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
