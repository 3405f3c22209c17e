"""Read the published claims: what was said, where our number stands, how the two are compared."""

from math import nan
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from stages.base.errors import StageError
from stages.base.sections import Section

PLANE = ("gini", "effective_number")
SIGNS = {"crystallize": (1, -1), "disperse": (-1, 1)}
"""Of the change of Gini and of the effective number."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Tolerance = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Direction = Literal["crystallize", "disperse"]
Metric = Literal["gini", "effective_number"]


class ClaimError(StageError):
    """``reports/claims.yaml`` cannot be read, or a claim's table is missing."""


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
    """Heads of every layer of a model, `n_heads` in all, at two steps."""

    model: str
    step_first: int
    step_last: int
    heads: list[int]
    n_heads: Annotated[int, Field(ge=2)]


class Layers(Section):
    """The first and the last layer of a model.

    `caveat`: what its own later results say of the number.
    """

    model: str
    caveat: str


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

    quantity: str
    compared: Literal["value", "sign", "at most"]
    published: float
    tolerance: float = nan


class _Claim(Section):
    """What all claims have."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    text: str
    source: str
    evidence: Evidence
    beside: ClassVar[tuple[str, ...]] = ()
    """Tables that the rule reads beside the claim's own."""


class _Change(_Claim):
    """A claim of how far both metrics change."""

    published: Plane
    tolerance: PlaneTolerance

    @property
    def quantities(self) -> list[Quantity]:
        """The numbers that the claim states."""
        stated, allowed = vars(self.published), vars(self.tolerance)
        return [Quantity(f"{name}_change", "value", stated[name], allowed[name]) for name in PLANE]


class ChangeClaim(_Change):
    """The change of both metrics of a tissue on an arm."""

    rule: Literal["change"]
    table: Literal["contrast.csv"]
    where: Arm


class DirectionClaim(_Claim):
    """The signs of both changes of a tissue, over types or over clusters."""

    rule: Literal["direction"]
    table: Literal["contrast.csv", "granularity_replication.csv"]
    where: Resolutions
    published: Direction

    @property
    def quantities(self) -> list[Quantity]:
        """The numbers that the claim states."""
        return _signs(self.published)


class FlipClaim(_Claim):
    """The signs over annotated types and the other signs over fine clusters."""

    rule: Literal["flip"]
    table: Literal["granularity_curve.csv"]
    where: Fine
    published: FlipDirections
    beside = ("contrast.csv",)

    @property
    def quantities(self) -> list[Quantity]:
        """The numbers that the claim states."""
        coarse, fine = (_signs(getattr(self.published, end)) for end in ("coarse", "fine"))
        return [
            stated._replace(quantity=f"{end}_{stated.quantity}")
            for end, both in (("coarse", coarse), ("fine", fine))
            for stated in both
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
    table: Literal["restriction.csv"]
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


class HeadsClaim(_Change):
    """The change of both metrics over heads along training."""

    rule: Literal["heads"]
    table: Literal["head_importance.csv"]
    where: Heads
    beside = ("changes/heads.csv", "changes/companion.csv")


class SpectrumClaim(_Claim):
    """Numbers of the spectrum of a model's items, in its first layer and its last."""

    rule: Literal["spectrum"]
    table: Literal["spectrum.csv"]
    where: Layers
    published: dict[Literal["effective_rank", "two_nn"], tuple[Number, Number]]
    tolerance: Tolerance

    @property
    def quantities(self) -> list[Quantity]:
        """The numbers that the claim states."""
        return [
            Quantity(f"{name}_{end}", "value", value, self.tolerance)
            for name, values in self.published.items()
            for end, value in zip(("first", "last"), values, strict=True)
        ]


Claim = (
    ChangeClaim
    | DirectionClaim
    | FlipClaim
    | SubstatesClaim
    | RescueClaim
    | HeadsClaim
    | SpectrumClaim
)
_CLAIM: TypeAdapter[Claim] = TypeAdapter(Annotated[Claim, Field(discriminator="rule")])


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
