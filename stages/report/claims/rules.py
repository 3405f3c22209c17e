"""Look up in the tables what a claim is about, by the rule that it names.

``where`` of a claim chooses the rows; numbers are those of all cells, not of equal numbers of
cells.

========== ===========================================================================
change     ``contrast.csv``: the change of both metrics in a tissue on an arm, within tolerance.
direction  ``contrast.csv`` (types) or ``granularity_replication.csv`` (each resolution): signs.
flip       Coarse signs in ``contrast.csv``, fine in ``granularity_curve.csv`` at one resolution.
substates  ``substates.csv``: the signs within a cell type, and its Mann-Whitney p at most as given.
rescue     ``restriction.csv``: the fraction of the drift, and the probability of a rescue.
spectrum   ``spectrum.csv``: the first and the last layer of the last state, of items as they are.
heads      ``head_importance.csv``: both metrics over the named heads, last step minus first; of
           ``changes/companion.csv`` where the model of this run is another.
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

import pandas as pd

from stages.base import tables
from stages.base.study import Study
from stages.measurement.metrics import REGISTRY, measure
from stages.report import reading, text
from stages.report.claims import published as claimed
from stages.report.claims.published import PLANE, Claim, ClaimError, Tissue

_CHANGE = ("change", "change_low", "change_high")

_OF_CELLS = ("contrast", "kimmel", "kidney", "substates", "restriction")
_OF_HEADS = ("head_importance", "head_change", "companion_change", "spectrum")
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


def read_tables(claims: Iterable[Claim], folder: Path) -> dict[str, pd.DataFrame]:
    """Read and check the tables that the claims rest on.

    Raises
    ------
    ClaimError
        A claim's table does not exist.
    TableError
        One does not follow its schema.
    """
    found: dict[str, pd.DataFrame] = {}
    for claim in claims:
        for name in (claim.table, *claim.beside):
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
    rows = _of_tissue(of[claim.table], claim.where)
    return Found({arm: _changes(part) for arm, part in _by_platform(rows, claim.where)})


def _direction(claim: claimed.DirectionClaim, of: Tables) -> Found:
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


def _rescue(claim: claimed.RescueClaim, of: Tables) -> Found:
    where = claim.where
    rows = _of_tissue(of[claim.table], where)
    rows = rows[
        (rows["metric"] == where.metric)
        & (rows["resolution"] == where.resolution)
        & (rows["libraries"] == where.libraries)
    ]
    found = Found()
    for arm, part in _by_platform(rows, where):
        row = part.iloc[0]
        ends = ("rescue_fraction", "rescue_fraction_low", "rescue_fraction_high")
        found.cases[arm] = {
            "rescue_fraction": Ours(*(float(row[end]) for end in ends)),
            "rescue_probability": Ours(float(row["rescue_probability"])),
        }
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


def _spectrum(claim: claimed.SpectrumClaim, of: Tables, model: Study) -> Found:
    where = claim.where
    if model.name != where.model:
        return Found(missing=f"{claim.table} is not of {where.model}; {where.caveat}")
    rows = of[claim.table]
    rows = rows[(rows["matrix"] == "items") & (rows["state"] == rows["state"].iloc[-1])]
    numbers = {
        f"{name}_{end}": Ours(float(row[name]))
        for name in claim.published
        for end, row in (("first", rows.iloc[0]), ("last", rows.iloc[-1]))
    }
    return Found({where.model: numbers}, remark=f"; {where.caveat}")


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
    "direction": _direction,
    "flip": _flip,
    "substates": _substates,
    "rescue": _rescue,
}


def look_up(claim: Claim, of: Tables, heads: Study) -> Found:
    """Return what the tables hold on a claim, by its rule.

    Parameters
    ----------
    of
        The tables of all claims; see :func:`read_tables`.
    heads
        The model of this run.
    """
    if isinstance(claim, claimed.HeadsClaim):
        return _heads(claim, of, heads)
    if isinstance(claim, claimed.SpectrumClaim):
        return _spectrum(claim, of, heads)
    found = _RULES[claim.rule](claim, of)
    if not found.cases and isinstance(claim.where, Tissue):
        found.missing = found.missing or _nothing(claim, claim.where)
    return found
