"""Hold every published claim against the tables, and say of each what became of it.

``reports/claims.yaml`` states the claims as data. A claim is *reproduced* if everything that it
states agrees, *differs* if one number does not, and is *not testable on these inputs* if they are
simulated, are not those that it is about, or lack a part of it. A statement about several cases
(all resolutions, coarse and fine) is refuted by one of them and upheld only by all. Each claim is
judged by itself: partial inputs leave the others untouched.

The rules, where ``where`` of a claim chooses the rows; numbers are those of all cells, not of equal
numbers of cells.

========== ===========================================================================
change     ``aging.csv``: the change of both metrics in a tissue on an arm, within the tolerance.
direction  ``aging.csv`` (annotated types) or ``kimmel.csv`` (each resolution): the signs of both.
flip       Coarse signs in ``aging.csv``, fine ones in ``kidney.csv`` at one resolution.
substates  ``substates.csv``: the signs within a cell type, and its Mann-Whitney p at most as given.
rescue     ``caloric_restriction.csv``: the fraction of the drift, and the probability of a rescue.
heads      ``head_importance.csv``: both metrics over the named heads, last step minus first.
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

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import pandas as pd
import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from stages import cli, tables
from stages.ablation.measures import measure
from stages.errors import StageError
from stages.manuscript import text
from stages.settings import Section
from stages.study import Study
from stages.study import read as read_study

PLANE = ("gini", "effective_number")
SIGNS = {"crystallize": (1, -1), "disperse": (-1, 1)}
"""Of the change of Gini and of the effective number."""
REPRODUCED, DIFFERS, NOT_TESTABLE = tables.VERDICTS
# Numbers that a reason names; the table has them all.
_N_SHOWN = 2
_CHANGE = ("change", "change_low", "change_high")
NOWHERE = "(none)"
"""The case of a claim that could be looked at nowhere."""

SCHEMAS = {
    "aging.csv": tables.AGING,
    "kimmel.csv": tables.CLUSTER_AGING,
    "kidney.csv": tables.CLUSTER_AGING,
    "substates.csv": tables.CLUSTER_AGING,
    "caloric_restriction.csv": tables.CALORIC_RESTRICTION,
    "head_importance.csv": tables.HEAD_IMPORTANCE,
    "head_change.csv": tables.HEAD_CHANGE,
}
"""The tables that a rule may read."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Tolerance = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Direction = Literal["crystallize", "disperse"]
Metric = Literal["gini", "effective_number"]


class ClaimError(StageError):
    """``reports/claims.yaml`` cannot be read, or a claim's table is missing."""


class Inputs(Section):
    """The atlases, or the models, whose names can judge a claim."""

    cells: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if bool(self.cells) == bool(self.heads):
            msg = "name the atlases (cells) or the models (heads) that can judge the claim"
            raise ValueError(msg)
        return self


class Evidence(Section):
    """What shows a claim and what computes it."""

    figure: str
    stage: str
    file: str


class Plane(Section):
    """A number for each metric."""

    gini: Number
    effective_number: Number


class PlaneTolerance(Section):
    """How far each metric may be off."""

    gini: Tolerance
    effective_number: Tolerance


class Tissue(Section):
    """A tissue of a cohort, on one platform or on each there is."""

    cohort: str
    platform: str | None = None
    tissue: str


class Arm(Tissue):
    """A tissue of a cohort on one platform."""

    platform: str


class Resolutions(Tissue):
    """A tissue over annotated types, or over the clusters of so many resolutions."""

    n_resolutions: Annotated[int, Field(ge=1)] | None = None


class Fine(Tissue):
    """A tissue over annotated types and over the clusters of one resolution."""

    fine_resolution: Number


class CellType(Tissue):
    """The substates of a cell type; `significant`: on both metrics, or on one at least."""

    cell_type: str
    resolution: Number
    significant: Literal["both", "one"]


class Libraries(Tissue):
    """One metric over the clusters of a tissue's libraries."""

    metric: Metric
    resolution: Number
    libraries: Literal["mean", "pooled", "male", "female"]


class Heads(Section):
    """Heads of every layer, `n_heads` in all, at two steps."""

    step_first: int
    step_last: int
    heads: list[int]
    n_heads: Annotated[int, Field(ge=2)]


class FlipDirections(Section):
    """The directions over coarse and over fine components."""

    coarse: Direction
    fine: Direction


class SubstatesResult(Section):
    """A direction with its p."""

    direction: Direction
    p: Annotated[Number, Field(gt=0, le=1)]


class SubstatesTolerance(Section):
    """How far above the published p ours may be."""

    p: Tolerance


class RescueResult(Section):
    """Rescue over drift, and the probability that there is one."""

    fraction: Number
    probability: Annotated[Number, Field(ge=0, le=1)]


class RescueTolerance(Section):
    """How far each may be off."""

    fraction: Tolerance
    probability: Tolerance


class Quantity(NamedTuple):
    """A number that a claim states."""

    name: str
    compared: Literal["value", "sign", "at most"]
    published: float
    tolerance: float = nan


class _Claim(Section):
    """What all claims have."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    text: str
    source: str
    inputs: Inputs
    evidence: Evidence
    beside: ClassVar[tuple[str, ...]] = ()
    """Tables that the rule reads beside the claim's own."""


class ChangeClaim(_Claim):
    """The change of both metrics of a tissue on an arm."""

    rule: Literal["change"]
    table: Literal["aging.csv"]
    where: Arm
    published: Plane
    tolerance: PlaneTolerance

    @property
    def quantities(self) -> list[Quantity]:
        """The numbers that the claim states."""
        return _values(self.published, self.tolerance)


class DirectionClaim(_Claim):
    """The signs of both changes of a tissue, over types or over clusters."""

    rule: Literal["direction"]
    table: Literal["aging.csv", "kimmel.csv"]
    where: Resolutions
    published: Direction

    @property
    def quantities(self) -> list[Quantity]:
        """The numbers that the claim states."""
        return _signs(self.published)


class FlipClaim(_Claim):
    """The signs over annotated types and the other signs over fine clusters."""

    rule: Literal["flip"]
    table: Literal["kidney.csv"]
    where: Fine
    published: FlipDirections
    beside = ("aging.csv",)

    @property
    def quantities(self) -> list[Quantity]:
        """The numbers that the claim states."""
        coarse, fine = (_signs(getattr(self.published, end)) for end in ("coarse", "fine"))
        return [
            quantity._replace(name=f"{end}_{quantity.name}")
            for end, stated in (("coarse", coarse), ("fine", fine))
            for quantity in stated
        ]


class SubstatesClaim(_Claim):
    """The signs within a cell type, and how small p is."""

    rule: Literal["substates"]
    table: Literal["substates.csv"]
    where: CellType
    published: SubstatesResult
    tolerance: SubstatesTolerance

    @property
    def quantities(self) -> list[Quantity]:
        """The numbers that the claim states."""
        names = [f"{metric}_p" for metric in PLANE]
        if self.where.significant == "one":
            names = ["smaller_p"]
        limits = [Quantity(name, "at most", self.published.p, self.tolerance.p) for name in names]
        return [*_signs(self.published.direction), *limits]


class RescueClaim(_Claim):
    """The rescue fraction of one metric, and its probability."""

    rule: Literal["rescue"]
    table: Literal["caloric_restriction.csv"]
    where: Libraries
    published: RescueResult
    tolerance: RescueTolerance

    @property
    def quantities(self) -> list[Quantity]:
        """The numbers that the claim states."""
        stated, allowed = self.published, self.tolerance
        return [
            Quantity("rescue_fraction", "value", stated.fraction, allowed.fraction),
            Quantity("rescue_probability", "value", stated.probability, allowed.probability),
        ]


class HeadsClaim(_Claim):
    """The change of both metrics over heads along training."""

    rule: Literal["heads"]
    table: Literal["head_importance.csv"]
    where: Heads
    published: Plane
    tolerance: PlaneTolerance
    beside = ("head_change.csv",)

    @property
    def quantities(self) -> list[Quantity]:
        """The numbers that the claim states."""
        return _values(self.published, self.tolerance)


Claim = ChangeClaim | DirectionClaim | FlipClaim | SubstatesClaim | RescueClaim | HeadsClaim
_CLAIM: TypeAdapter[Claim] = TypeAdapter(Annotated[Claim, Field(discriminator="rule")])


def _values(published: Plane, tolerance: PlaneTolerance) -> list[Quantity]:
    return [
        Quantity(
            f"{metric}_change", "value", getattr(published, metric), getattr(tolerance, metric)
        )
        for metric in PLANE
    ]


def _signs(direction: str) -> list[Quantity]:
    return [
        Quantity(f"{metric}_change", "sign", sign)
        for metric, sign in zip(PLANE, SIGNS[direction], strict=True)
    ]


def read(path: Path) -> list[Claim]:
    """Read the claims.

    Raises
    ------
    ClaimError
        The file is missing, is no YAML, or a claim is not one: it has an unknown key or rule, a
        number that is none, or the id of another.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = f"the claims {path} do not exist. Restore them: git checkout {path}."
        raise ClaimError(msg) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"{path} is not YAML ({' '.join(str(error).split())}). Mend it."
        raise ClaimError(msg) from None
    listed = content.get("claims") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed:
        msg = f"{path} has no list of claims under the key claims. Write one claim at least."
        raise ClaimError(msg)
    claims: list[Claim] = []
    for i, item in enumerate(listed):
        try:
            claim = _CLAIM.validate_python(item)
        except ValidationError as error:
            name = item.get("id") if isinstance(item, dict) else None
            raise ClaimError(_fault(error, name or f"number {i + 1}", path)) from None
        if claim.id in {other.id for other in claims}:
            msg = f"{path} has two claims with the id {claim.id}. Rename one of them."
            raise ClaimError(msg)
        claims.append(claim)
    return claims


def _fault(error: ValidationError, name: object, path: Path) -> str:
    """Say the first fault as one line."""
    first = error.errors(include_url=False)[0]
    # The first part names the rule once that is known; it is no key of the file.
    key = ".".join(str(part) for part in first["loc"][1:])
    value = first["input"]
    match first["type"]:
        case "union_tag_invalid":
            context = first["ctx"]
            what = f"the rule {context['tag']!r} is unknown; known are {context['expected_tags']}"
        case "union_tag_not_found":
            what = "it has no rule"
        case "extra_forbidden":
            what = f"the key {key} is unknown"
        case "missing":
            what = f"the key {key} is missing"
        case _:
            reason = first["msg"].removeprefix("Value error, ")
            what = f"{key} = {value!r}: {reason[0].lower()}{reason[1:]}"
    return f"{path}, claim {name}: {what}. Mend it."


class Ours(NamedTuple):
    """A number of ours with the interval it has, if any."""

    value: float
    low: float = nan
    high: float = nan


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
    chosen = (
        (table["cohort"] == where.cohort)
        & (table["tissue"] == where.tissue)
        & (table["cells"] == "all")
    )
    if where.platform is not None:
        chosen &= table["platform"] == where.platform
    rows: pd.DataFrame = table[chosen]
    return rows


def _by_platform(rows: pd.DataFrame, where: Tissue) -> Iterator[tuple[str, pd.DataFrame]]:
    """Give each platform's rows with the name of its arm."""
    for platform, part in rows.groupby("platform"):
        yield text.arm(where.cohort, str(platform)), part


def _changes(rows: pd.DataFrame) -> Numbers:
    """Return the changes of the plane from rows of ``tables.AGING``, one a metric."""
    by = rows.set_index("metric")
    return {
        f"{metric}_change": Ours(*(float(by.loc[metric, end]) for end in _CHANGE))
        for metric in PLANE
        if metric in by.index
    }


def _nothing(claim: Claim, where: Tissue, *, what: str = "comparison") -> str:
    cohort = text.COHORTS.get(where.cohort, where.cohort)
    arm = cohort if where.platform is None else text.arm(where.cohort, where.platform)
    return f"{claim.table} has no {what} of {arm} {text.tissue_name(where.tissue).lower()}"


def _change(claim: ChangeClaim, of: Tables) -> Found:
    rows = _of_tissue(of[claim.table], claim.where)
    cases = {arm: _changes(part) for arm, part in _by_platform(rows, claim.where)}
    return Found(cases, missing="" if cases else _nothing(claim, claim.where))


def _direction(claim: DirectionClaim, of: Tables) -> Found:
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
    if not found.cases:
        found.missing = _nothing(claim, where)
    return found


def _flip(claim: FlipClaim, of: Tables) -> Found:
    where = claim.where
    fine = _of_tissue(of[claim.table], where)
    fine = fine[fine["resolution"] == where.fine_resolution]
    found = Found()
    for name, rows in (("coarse", _of_tissue(of["aging.csv"], where)), ("fine", fine)):
        for arm, part in _by_platform(rows, where):
            numbers = {f"{name}_{key}": value for key, value in _changes(part).items()}
            found.cases[arm] = found.cases.get(arm, {}) | numbers
    if not found.cases:
        found.missing = _nothing(claim, where)
    return found


def _substates(claim: SubstatesClaim, of: Tables) -> Found:
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
            smallest = by["mann_whitney_p_smallest"]
            reachable = float(smallest.max() if where.significant == "both" else smallest.min())
            if reachable > limit:
                found.noted[case] = numbers
                too_few.append(f"{arm} (smallest p {text.attainable_p(reachable)})")
                continue
            p = by["mann_whitney_p"]
            numbers |= {f"{metric}_p": Ours(float(p[metric])) for metric in PLANE}
            found.cases[case] = numbers | {"smaller_p": Ours(float(p.min()))}
    if not found.cases:
        what = f"{where.cell_type} substates at resolution {where.resolution:g}"
        found.missing = _nothing(claim, where, what=what)
        if too_few:
            listed = text.listed(too_few)
            found.missing = f"too few animals for the published p on {listed}"
    return found


def _rescue(claim: RescueClaim, of: Tables) -> Found:
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
    if not found.cases:
        found.missing = _nothing(claim, where)
    return found


def _heads(claim: HeadsClaim, of: Tables) -> Found:
    where = claim.where
    table = of[claim.table]
    removed = table[(table["unit"] == "head") & (table["perturbation"] == "zero")]
    values = []
    n_all = 0
    for step in (where.step_first, where.step_last):
        at = removed[removed["step"] == step]
        chosen = at[at["head"].isin(where.heads)].sort_values(["layer", "head"])
        if len(chosen) != where.n_heads:
            return Found(
                missing=f"{claim.table} has {len(chosen)} of the {where.n_heads} heads, set to "
                f"zero, at step {text.integer(step)}"
            )
        values.append(measure(chosen["delta_loss_nats"].to_numpy(float)))
        n_all = max(n_all, len(at))
    moved = dict(zip(tables.HEAD_METRICS, values[1] - values[0], strict=True))
    change = of["head_change.csv"]
    change = change[
        (change["perturbation"] == "zero")
        & (change["step_first"] == where.step_first)
        & (change["step_last"] == where.step_last)
    ].set_index("metric")
    ends = ("change", "sequences_low", "sequences_high")
    over_all = {
        f"{metric}_change": Ours(*(float(change.loc[metric, end]) for end in ends))
        for metric in PLANE
        if metric in change.index
    }
    numbers = {f"{metric}_change": Ours(float(moved[metric])) for metric in PLANE}
    found = Found({f"{where.n_heads} heads": numbers})
    if n_all > where.n_heads and over_all:
        found.noted = {f"all {n_all} heads": over_all}
    else:
        # The same heads: the interval of their change is that of the claim.
        for name, all_heads in over_all.items():
            numbers[name] = numbers[name]._replace(low=all_heads.low, high=all_heads.high)
    return found


_RULES: dict[str, Callable[[Any, Tables], Found]] = {
    "change": _change,
    "direction": _direction,
    "flip": _flip,
    "substates": _substates,
    "rescue": _rescue,
    "heads": _heads,
}


def evaluate(claims: Iterable[Claim], of: Tables, *, cells: Study, heads: Study) -> pd.DataFrame:
    """Return the ledger.

    Parameters
    ----------
    claims
        See :func:`read`.
    of
        Their tables; see :func:`read_tables`.
    cells, heads
        What the atlas and the model are. Simulated ones judge nothing.

    Returns
    -------
    DataFrame
        ``tables.CLAIMS``.
    """
    rows: list[dict[str, object]] = []
    for claim in claims:
        barred = _barred(claim, cells=cells, heads=heads)
        found = Found(missing=barred) if barred else _RULES[claim.rule](claim, of)
        judged = _judged(claim.quantities, found)
        verdict, reason = _verdict(judged, found)
        known = {"id": claim.id, "claim": claim.text, "source": claim.source}
        evidence = {
            "verdict": verdict,
            "reason": reason,
            "table": f"reports/tables/{claim.table}",
            "figure": claim.evidence.figure,
            "stage": claim.evidence.stage,
            "file": claim.evidence.file,
        }
        rows += [known | row | evidence for row in judged]
    return pd.DataFrame(rows, columns=list(tables.CLAIMS.columns))


def _barred(claim: Claim, *, cells: Study, heads: Study) -> str:
    """Say why these inputs cannot judge a claim at all; empty where they can."""
    if claim.inputs.heads:
        study, allowed, kind = heads, claim.inputs.heads, "model"
        simulated = f"{study.name} is a demo model, trained here"
    else:
        study, allowed, kind = cells, claim.inputs.cells, "atlas"
        simulated = f"the cells of the atlas {study.name} are simulated"
    if study.simulated:
        return simulated
    if study.name not in allowed:
        return f"it needs the {kind} {_either(allowed)}; this is {study.name}"
    return ""


def _either(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _judged(quantities: Sequence[Quantity], found: Found) -> list[dict[str, Any]]:
    """Compare each stated number in each case."""
    rows = []
    for case, numbers in (found.cases or {NOWHERE: {}}).items():
        for quantity in quantities:
            ours = numbers.get(quantity.name, Ours(nan))
            agrees = "not judged"
            if not isnan(ours.value):
                agrees = "yes" if _agrees(quantity, ours.value) else "no"
            rows.append(_row(case, quantity, ours, agrees))
    for case, numbers in found.noted.items():
        rows += [
            _row(case, Quantity(name, "value", nan), ours, "noted")
            for name, ours in numbers.items()
        ]
    return rows


def _row(case: str, quantity: Quantity, ours: Ours, agrees: str) -> dict[str, Any]:
    return {
        "case": case,
        "quantity": quantity.name,
        "compared": quantity.compared,
        "published": quantity.published,
        "ours": ours.value,
        "ours_low": ours.low,
        "ours_high": ours.high,
        "tolerance": quantity.tolerance,
        "agrees": agrees,
    }


def _agrees(quantity: Quantity, ours: float) -> bool:
    match quantity.compared:
        case "sign":
            return ours * quantity.published > 0
        case "at most":
            return ours <= quantity.published + quantity.tolerance
        case "value":
            return abs(ours - quantity.published) <= quantity.tolerance


def _verdict(judged: list[dict[str, Any]], found: Found) -> tuple[str, str]:
    """Return the verdict on a claim and one sentence, without its full stop, that says why."""
    wrong = [row for row in judged if row["agrees"] == "no"]
    open_ = [row for row in judged if row["agrees"] == "not judged"]
    stated = [row for row in judged if row["agrees"] != "noted"]
    missing = found.missing
    if open_ and not missing:
        names = text.listed([f"{_NAMES[row['quantity']].name} on {row['case']}" for row in open_])
        missing = f"there is no {names}"
    if wrong:
        shown = "; ".join(f"{_ours(row)} on {row['case']}" for row in wrong[:_N_SHOWN])
        more = f"; {len(wrong) - _N_SHOWN} more" if len(wrong) > _N_SHOWN else ""
        return DIFFERS, f"{len(wrong)} of {len(stated)} numbers differ: {shown}{more}"
    if missing:
        return NOT_TESTABLE, missing
    reason = f"{len(stated)} of {len(stated)} numbers agree"
    signs = [row for row in stated if row["compared"] == "sign"]
    uncertain = sum(row["ours_low"] <= 0 <= row["ours_high"] for row in signs)
    if uncertain:
        reason += f"; the interval of {uncertain} of {len(signs)} signs holds zero"
    return REPRODUCED, reason


class _Named(NamedTuple):
    """How a quantity is written: its name, its digits, and whether it is a change."""

    name: str
    digits: int
    signed: bool = True


_PLANE = {"gini_change": _Named("ΔGini", 3), "effective_number_change": _Named("ΔN~eff~", 2)}
_NAMES = {
    **_PLANE,
    **{
        f"{end}_{key}": named._replace(name=f"{end} {named.name}")
        for end in ("coarse", "fine")
        for key, named in _PLANE.items()
    },
    "gini_p": _Named("p of Gini", 3, signed=False),
    "effective_number_p": _Named("p of N~eff~", 3, signed=False),
    "smaller_p": _Named("the smaller p", 3, signed=False),
    "rescue_fraction": _Named("rescue fraction", 2, signed=False),
    "rescue_probability": _Named("P(rescue > 0)", 3, signed=False),
}


def _ours(row: Mapping[str, Any]) -> str:
    """Return the name and our value of a number, with its interval."""
    named = _NAMES[row["quantity"]]
    if row["compared"] == "at most":
        return f"{named.name} {text.p_value(row['ours'])}"
    write = text.signed if named.signed else text.number
    shown = f"{named.name} {write(row['ours'], named.digits)}"
    if isnan(row["ours_low"]):
        return shown
    low, high = (write(row[f"ours_{end}"], named.digits) for end in ("low", "high"))
    return f"{shown} [{low},{text.NBSP}{high}]"


def _published(row: Mapping[str, Any]) -> str:
    """Return the name and the published value of a number, with its tolerance."""
    named = _NAMES[row["quantity"]]
    match row["compared"]:
        case "sign":
            return f"{named.name} {'>' if row['published'] > 0 else '<'} 0"
        case "at most":
            return f"{named.name} {text.p_value(row['published'])}"
        case _:
            allowed = f"± {row['tolerance']:g}"
            if not named.signed:
                return f"{named.name} {text.number(row['published'], named.digits)} {allowed}"
            # As many digits as were published: those that the file keeps.
            digits = len(repr(float(row["published"])).partition(".")[2])
            return f"{named.name} {text.signed(row['published'], digits)} {allowed}"


def counts(table: pd.DataFrame) -> dict[str, str]:
    """Return what the text says of the whole ledger, ready to print.

    Parameters
    ----------
    table
        ``tables.CLAIMS``.

    Returns
    -------
    dict
        ``n_claims``, ``n_reproduced``, ``n_differs``, ``n_not_testable``; and ``differs_list``, the
        claims that differ.
    """
    each = table.drop_duplicates("id")
    by_verdict = each["verdict"].value_counts()
    names = ("n_reproduced", "n_differs", "n_not_testable")
    differs = each.loc[each["verdict"] == DIFFERS, "claim"]
    return (
        {"n_claims": text.plural(len(each), "published claim")}
        | {
            name: text.integer(int(by_verdict.get(verdict, 0)))
            for name, verdict in zip(names, tables.VERDICTS, strict=True)
        }
        | {"differs_list": "; ".join(str(claim).rstrip(".") for claim in differs) or "none"}
    )


def ledger(table: pd.DataFrame) -> str:
    """Return the ledger as a Markdown table, one row a claim.

    Parameters
    ----------
    table
        ``tables.CLAIMS``.

    Returns
    -------
    str
        What was published, what was found (our numbers; how many agree where there are several
        cases; empty where the inputs can say nothing), the verdict and the stage.
    """
    rows = []
    for _, part in table.groupby("id", sort=False):
        stated = part[part["agrees"] != "noted"]
        first = part.iloc[0]
        at_first = stated[stated["case"] == first["case"]]
        published = ", ".join(_published(dict(row)) for _, row in at_first.iterrows())
        rows.append(
            [
                str(first["claim"]).rstrip("."),
                published,
                _found(part, stated),
                str(first["verdict"]).removesuffix(" on these inputs"),
                f"`{first['stage']}`",
            ]
        )
    header = ["Claim", "Published", "Found here", "Verdict", "Stage"]
    return text.pipe_table(header, rows, align="lllll")


def _found(part: pd.DataFrame, stated: pd.DataFrame) -> str:
    judged = stated[stated["agrees"] != "not judged"]
    if judged.empty:
        return text.DASH
    if stated["case"].nunique() > 1:
        n_agree = int((judged["agrees"] == "yes").sum())
        return f"{n_agree} of {len(judged)} numbers agree"
    shown = ", ".join(_ours(dict(row)) for _, row in judged.iterrows())
    noted = part[part["agrees"] == "noted"].groupby("case", sort=False)
    beside = [
        f"{case}: {', '.join(_ours(dict(row)) for _, row in rows.iterrows())}"
        for case, rows in noted
    ]
    return f"{shown} ({'; '.join(beside)})" if beside else shown


def _run(args: argparse.Namespace) -> None:
    claims = read(args.claims)
    table = evaluate(
        claims,
        read_tables(claims, args.tables),
        cells=read_study(args.cells),
        heads=read_study(args.heads),
    )
    tables.write(table, tables.CLAIMS, args.out)
    verdicts = table.drop_duplicates("id")["verdict"].value_counts()
    summary = ", ".join(f"{verdicts.get(name, 0)} {name}" for name in tables.VERDICTS)
    cli.log.info("%d claims: %s", len(claims), summary)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    parser.add_argument("--claims", type=Path, required=True, help="the published claims")
    parser.add_argument("--cells", type=Path, required=True, help="what the atlas is")
    parser.add_argument("--heads", type=Path, required=True, help="what the model is")
    parser.add_argument("--tables", type=Path, required=True, help="the folder of the tables")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
