"""Look up in the tables what a claim is about, by the rule that it names.

``where`` of a claim chooses the rows; numbers are those of all cells, not of equal numbers of
cells.

========== ===========================================================================
change     ``contrast.csv`` (types) or ``granularity_replication.csv`` (each resolution): the change
           of both metrics in a tissue, within tolerance, or its signs.
flip       Coarse signs in ``contrast.csv``, fine in ``granularity_curve.csv`` at one resolution.
substates  ``substates.csv``: the signs within a cell type, and its Mann-Whitney p at most as given.
heads      ``head_importance.csv``: both metrics over the named heads, last step minus first; of
           ``changes/companion.csv`` where the model of this run is another.
value      Columns of a table where this run measures what the claim is about; else what follows
           from the figures of its study's own result files (``RESULTS``), if it has any.
========== ===========================================================================

What was published, and what is our reading of it:

* To crystallize is a rise of Gini with a fall of the effective number, to disperse the opposite.
  Changes are differences of medians over animals (published convention).
* The directions of kidney, limb muscle, lung and spleen over cell types were given without a
  platform. Read: on each platform there is.
* The resolutions in Kimmel were five; which ones is not known. Read: all in the table.
* Where coarse becomes fine in the kidney was not stated. Read: annotated types are coarse, clusters
  at the finest of the five resolutions fine.
* The p of substates (0.016 on both metrics for podocytes, 0.004 for macrophages) came without arm,
  resolution or adjustment. Read: unadjusted, at the reference resolution, on each platform with
  animals enough to reach that p (the others are noted); for macrophages on one metric at least. A
  smaller p upholds the claim.
* Whether the rat's libraries were averaged or pooled is not known. Read: averaged.
* The heads were every third of each layer (144 of 384), set to zero, from the mean loss of 100
  sequences. The change over all heads is noted beside it and not judged.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from stages.base import tables
from stages.base.study import Study
from stages.measurement.metrics import REGISTRY, measure
from stages.report import reading, text
from stages.report.claims import published as claimed
from stages.report.claims.published import MODELS, PLANE, Claim, ClaimError, Tissue, ValueClaim
from stages.report.tables import RESULTS

_CHANGE = ("change", "change_low", "change_high")

_OF_CELLS = ("contrast", "kimmel", "kidney", "substates", "restriction")
_OF_HEADS = ("head_importance", "head_change", "companion_change", "epistasis", "cell_spectrum")
SCHEMAS = {
    reading.FILES.get(name, f"{name}.csv"): reading.SCHEMAS[name]
    for name in (*_OF_CELLS, *_OF_HEADS)
}
"""The tables that a rule may read."""


class Ours(NamedTuple):
    """A number of ours with the interval it has, if any."""

    ours: float
    ours_low: float = nan
    ours_high: float = nan


Numbers = dict[str, Ours]
"""By name of a quantity."""
Tables = Mapping[str, pd.DataFrame]
"""By file name."""
Models = Mapping[str, Study]
"""The models of this run, by ``MODELS``."""
RESULTS_FILE = "published_results.csv"
"""The figures of published result files, among the tables of all claims."""


@dataclass
class Found:
    """What the tables hold on a claim."""

    cases: dict[str, Numbers] = field(default_factory=dict)
    noted: dict[str, Numbers] = field(default_factory=dict)
    """Shown and not judged."""
    missing: str = ""
    """What the claim is about and the tables lack; empty: nothing."""
    remark: str = ""
    """What must be said where everything agrees."""
    table: str = ""
    """Where the numbers stand, if not in the claim's own table."""
    of_results: bool = False
    """Whether the numbers are what the study itself published beside the claim."""


def read_tables(
    claims: Iterable[Claim], folder: Path, results: Path, models: Models
) -> dict[str, pd.DataFrame]:
    """Read and check the tables that the claims rest on.

    Parameters
    ----------
    claims
        See :func:`stages.report.claims.published.read`.
    folder
        Of this run's tables; one that could only speak of a model that is not of this run is left
        alone.
    results
        ``RESULTS``.
    models
        Of this run.

    Raises
    ------
    ClaimError
        A claim's table does not exist.
    TableError
        One does not follow its schema.
    """
    found = {RESULTS_FILE: tables.read(results, RESULTS)}
    for claim in claims:
        own = [claim.table] if claim.table and _of_run(claim, models) else []
        for name in (*own, *claim.beside):
            path = folder / name
            if not path.exists():
                msg = (
                    f"the claim {claim.id} rests on {path}, which does not exist. "
                    "Run the stage that writes it: dvc repro."
                )
                raise ClaimError(msg)
            if name not in found:
                found[name] = tables.read(path, SCHEMAS[name])
    return found


def _of_tissue(table: pd.DataFrame, where: Tissue) -> pd.DataFrame:
    """Return the rows of a tissue, from all cells."""
    at = (table["cohort"] == where.cohort) & (table["tissue"] == where.tissue)
    if where.platform is not None:
        at &= table["platform"] == where.platform
    rows: pd.DataFrame = table[at & (table["cells"] == "all")]
    return rows


def _by_platform(rows: pd.DataFrame, where: Tissue) -> Iterator[tuple[str, pd.DataFrame]]:
    """Give each platform's rows with the name of its arm."""
    for platform, part in rows.groupby("platform"):
        yield text.arm(where.cohort, str(platform)), part


def _changes(rows: pd.DataFrame) -> Numbers:
    """Return the changes of the plane from rows of ``CONTRAST``, one a metric."""
    by = rows.set_index("metric")
    return {
        f"{metric}_change": Ours(*(float(by.loc[metric, end]) for end in _CHANGE))
        for metric in PLANE
        if metric in by.index
    }


def _nothing(claim: Claim, where: Tissue, *, what: str = "comparison") -> str:
    cohort = text.cohort_name(where.cohort)
    arm = cohort if where.platform is None else text.arm(where.cohort, where.platform)
    return f"{claim.table} has no {what} of {arm} {text.tissue_name(where.tissue).lower()}"


def _change(claim: claimed.ChangeClaim, of: Tables) -> Found:
    where, expected = claim.where, claim.where.n_resolutions
    found = Found()
    for arm, part in _by_platform(_of_tissue(of[claim.table], where), where):
        if "resolution" not in part:
            found.cases[arm] = _changes(part)
            continue
        at = {float(resolution): rows for resolution, rows in part.groupby("resolution")}
        for resolution, rows in at.items():
            found.cases[f"{arm}, resolution {resolution:g}"] = _changes(rows)
        if expected is not None and len(at) < expected:
            found.missing = f"{claim.table} has {len(at)} of {expected} resolutions on {arm}"
    return found


def _flip(claim: claimed.FlipClaim, of: Tables) -> Found:
    where = claim.where
    fine = _of_tissue(of[claim.table], where)
    fine = fine[fine["resolution"] == where.fine_resolution]
    found = Found()
    for name, rows in (("coarse", _of_tissue(of["contrast.csv"], where)), ("fine", fine)):
        for arm, part in _by_platform(rows, where):
            numbers = {f"{name}_{key}": value for key, value in _changes(part).items()}
            found.cases[arm] = found.cases.get(arm, {}) | numbers
    return found


def _substates(claim: claimed.SubstatesClaim, of: Tables) -> Found:
    where = claim.where
    rows = _of_tissue(of[claim.table], where)
    named = [where.cell_type.lower() in str(name).lower().split() for name in rows["cell_type"]]
    rows = rows[pd.Series(named, index=rows.index, dtype=bool)]
    at = rows[rows["resolution"] == where.resolution]
    limit = claim.published.p + claim.tolerance.p
    found, too_few = Found(), []
    for arm, of_arm in _by_platform(at, where):
        for cell_type, part in of_arm.groupby("cell_type"):
            case, numbers = f"{arm}, {cell_type}", _changes(part)
            by = part.set_index("metric").reindex(list(PLANE))
            smallest = by["rank_p_smallest"]
            reachable = float(smallest.max() if where.significant == "both" else smallest.min())
            if reachable > limit:
                found.noted[case] = numbers
                too_few.append(f"{arm} (smallest p {text.attainable_p(reachable)})")
                continue
            p = by["rank_p"]
            numbers |= {f"{metric}_p": Ours(float(p[metric])) for metric in PLANE}
            found.cases[case] = numbers | {"smaller_p": Ours(float(p.min()))}
    if not found.cases:
        what = f"{where.cell_type} substates at resolution {where.resolution:g}"
        found.missing = _nothing(claim, where, what=what)
        if too_few:
            found.missing = f"too few animals for the published p on {text.listed(too_few)}"
    return found


def _heads(claim: claimed.HeadsClaim, of: Tables, heads: Study) -> Found:
    where = claim.where
    if heads.name != where.model:
        return _published_heads(claim, of)
    table = of[claim.table]
    removed = table[(table["unit"] == "head") & (table["perturbation"] == "zero")]
    values = []
    n_all = 0
    for step in (where.step_first, where.step_last):
        at = removed[removed["state"] == f"step{step}"]
        chosen = at[at["head"].isin(where.heads)].sort_values(["layer", "head"])
        if len(chosen) != where.n_heads:
            return Found(
                missing=f"{claim.table} has {len(chosen)} of the {where.n_heads} heads, set to "
                f"zero, at step {text.integer(step)}"
            )
        effects = chosen["delta_loss_nats"].abs().to_numpy(float)
        values.append(measure(effects, [REGISTRY[metric] for metric in PLANE]))
        n_all = max(n_all, len(at))
    moved = dict(zip(PLANE, values[1] - values[0], strict=True))
    over_all = _between(of["changes/heads.csv"], claim, over="replicates")
    numbers = {f"{metric}_change": Ours(float(moved[metric])) for metric in PLANE}
    found = Found({f"{where.n_heads} heads": numbers})
    if n_all > where.n_heads and over_all:
        found.noted = {f"all {n_all} heads": over_all}
    else:
        # The same heads: the interval of their change is that of the claim.
        for name, all_heads in over_all.items():
            numbers[name] = Ours(numbers[name].ours, *all_heads[1:])
    return found


def _of_run(claim: Claim, models: Models) -> bool:
    """Return whether this run measures what a claim is about, or could."""
    if not isinstance(claim, ValueClaim) or claim.model is None:
        return True
    kind, name = claim.model
    return models[kind].name == name


def _value(claim: ValueClaim, of: Tables, models: Models) -> Found:
    note = f"; {claim.note}" if claim.note else ""
    of_run = _of_run(claim, models)
    if claim.results and not (claim.table and of_run):
        return _results(claim, of[RESULTS_FILE], note)
    if claim.table is None:
        return Found(missing=claim.note)
    if not of_run:
        return Found(missing=f"{claim.table} is not of {claim.case}{note}")
    rows = of[claim.table]
    for column, value in claim.where.items():
        if column in rows:
            rows = rows[rows[column] == value]
        elif column not in MODELS:
            msg = (
                f"claim {claim.id}: where names {column}, which is no column of {claim.table}. "
                f"Name one of {', '.join(rows.columns)}."
            )
            raise ClaimError(msg)
    tissue = claim.tissue
    found = Found(remark=note)
    for case, part in [(claim.case, rows)] if tissue is None else _by_platform(rows, tissue):
        numbers = found.cases.setdefault(case, {})
        for name in claim.published:
            numbers |= _in_rows(claim, name, part)
    return found


def _in_rows(claim: ValueClaim, name: str, rows: pd.DataFrame) -> Numbers:
    """Return a number of a claim, or both, from a column, or where a quantity bears its name."""
    stated, around = claim.published[name], (name, f"{name}_low", f"{name}_high")
    if "quantity" in rows:
        rows, around = rows[rows["quantity"] == name], ("value", "low", "high")
    if not isinstance(stated, tuple) and len(rows) > 1:
        msg = (
            f"claim {claim.id}: where chooses {len(rows)} rows of {claim.table} for {name}. "
            "Name the columns that tell them apart."
        )
        raise ClaimError(msg)
    return {
        key: Ours(*(float(rows[column].iloc[at]) for column in around if column in rows))
        for key, at in zip(claimed.ends(name, stated), (0, -1), strict=False)
        if len(rows)
    }


def _results(claim: ValueClaim, results: pd.DataFrame, note: str) -> Found:
    """Compute the numbers of a claim from the figures that its study published."""
    rows = results[results["source"] == claim.source]
    numbers: Numbers = {}
    for name, how in claim.results.items():
        values = computed(how, rows, claim.id)
        keys = claimed.ends(name, claim.published[name])
        if len(keys) != len(values):
            msg = (
                f"claim {claim.id}: {name} is {len(keys)} and results give {len(values)} numbers. "
                "Only ends gives two."
            )
            raise ClaimError(msg)
        numbers |= {key: Ours(value) for key, value in zip(keys, values, strict=True)}
    remark = f"; computed from what its study published{note}"
    return Found({claim.case: numbers}, remark=remark, table=RESULTS_FILE, of_results=True)


def computed(how: claimed.Computed, rows: pd.DataFrame, claim: str) -> list[float]:
    """Return what follows from the figures of a study: one number, or the first and the last.

    Raises
    ------
    ClaimError
        The study has no figure of a name that the claim gives, or several where it needs one.
    """
    (statistic,) = how.model_fields_set
    named = getattr(how, statistic)
    values = []
    for name in named if isinstance(named, tuple) else (named,):
        values.append(rows.loc[rows["name"] == name, "value"].to_numpy(float))
        if not len(values[-1]) or (statistic == "value" and len(values[-1]) > 1):
            msg = (
                f"claim {claim}: the published results have {len(values[-1])} figures {name}. "
                f"Known are {', '.join(rows['name'].unique()) or 'none of its source'}."
            )
            raise ClaimError(msg)
    first = values[0]
    match statistic:
        case "ends":
            return [float(first[0]), float(first[-1])]
        case "mean":
            return [float(first.mean())]
        case "median":
            return [float(np.median(first))]
        case "largest":
            return [float(first.max())]
        case "trend":
            return [float(stats.spearmanr(range(len(first)), first)[0])]
        case "ratio":
            return [float(first.sum() / values[1].sum())]
        case _:
            return [float(first.sum())]


def _between(changes: pd.DataFrame, claim: claimed.HeadsClaim, *, over: str) -> Numbers:
    """Return the changes between the claim's steps, with their intervals over what is named."""
    rows = changes[
        (changes["series"] == "head")
        & (changes["condition"] == "zero")
        & (changes["state_first"] == f"step{claim.where.step_first}")
        & (changes["state_last"] == f"step{claim.where.step_last}")
    ].set_index("metric")
    ends = ("change", f"{over}_low", f"{over}_high")
    return {
        f"{metric}_change": Ours(*(float(rows.loc[metric, end]) for end in ends))
        for metric in PLANE
        if metric in rows.index
    }


def _published_heads(claim: claimed.HeadsClaim, of: Tables) -> Found:
    """Recompute the claim from the effects of each head that were published with it."""
    table = "changes/companion.csv"
    numbers = _between(of[table], claim, over="components")
    if not numbers:
        return Found(missing=f"{table} lacks its steps")
    remark = "; computed from the published effects of each head, which this run does not measure"
    return Found({f"{claim.where.n_heads} heads": numbers}, remark=remark, table=table)


_RULES: dict[str, Callable[[Any, Tables], Found]] = {
    "change": _change,
    "flip": _flip,
    "substates": _substates,
}


def look_up(claim: Claim, of: Tables, models: Models) -> Found:
    """Return what the tables hold on a claim, by its rule.

    Parameters
    ----------
    of
        The tables of all claims; see :func:`read_tables`.
    models
        Of this run.

    Raises
    ------
    ClaimError
        A claim names a column or a figure that its table lacks, or more than one.
    """
    if isinstance(claim, claimed.HeadsClaim):
        return _heads(claim, of, models["model"])
    found = (
        _value(claim, of, models)
        if isinstance(claim, ValueClaim)
        else _RULES[claim.rule](claim, of)
    )
    if not found.cases and claim.tissue is not None:
        found.missing = found.missing or _nothing(claim, claim.tissue)
    return found
