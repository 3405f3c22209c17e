"""Read the published claims: what was said, where our number stands, how the two are compared."""

from math import nan
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import yaml
from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError, model_validator

from stages.base.errors import StageError
from stages.base.sections import Section

PLANE = ("gini", "effective_number")
_SIGNS, _VALUES = "signs", "values"
SIGNS = {"crystallize": (1, -1), "disperse": (-1, 1)}
"""Of the change of Gini and of the effective number."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Tolerance = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Direction = Literal["crystallize", "disperse"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
MODELS = ("model", "cellmodel")
"""Which model of a run a claim may be about: of language, or of cells."""


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


class Heads(Section):
    """Heads of every layer of a model, `n_heads` in all, at two steps."""

    model: str
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


class Computed(Section):
    """How a number follows from the figures of a study: one of these, of figures by name."""

    value: str | None = None
    """The only one of that name."""
    ends: str | None = None
    """The first and the last."""
    sum: str | None = None
    mean: str | None = None
    median: str | None = None
    largest: str | None = None
    trend: str | None = None
    """Rank correlation with their order."""
    ratio: tuple[str, str] | None = None
    """The sum of the first over the sum of the second."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1:
            msg = f"it needs one of {', '.join(type(self).model_fields)}"
            raise ValueError(msg)
        return self


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


class _OfTissue(_Claim):
    """A claim on the cells of a tissue."""

    where: Tissue

    @property
    def tissue(self) -> Tissue | None:
        """The tissue that the claim is about."""
        return self.where


class ChangeClaim(_OfTissue):
    """The changes of both metrics of a tissue, or their signs alone, over types or clusters."""

    rule: Literal["change"]
    table: Literal["contrast.csv", "granularity_replication.csv"]
    where: Resolutions
    published: Annotated[
        Annotated[Direction, Tag(_SIGNS)] | Annotated[Plane, Tag(_VALUES)],
        Discriminator(lambda stated: _VALUES if isinstance(stated, dict | Plane) else _SIGNS),
    ]
    tolerance: PlaneTolerance | None = None

    @model_validator(mode="after")
    def _values_have_tolerances(self) -> Self:
        if isinstance(self.published, Plane) != (self.tolerance is not None):
            msg = "values need a tolerance and signs have none"
            raise ValueError(msg)
        return self

    @property
    def quantities(self) -> list[Quantity]:
        """The numbers that the claim states."""
        if isinstance(self.published, str):
            return _signs(self.published)
        return _changes(self.published, self.tolerance)


class FlipClaim(_OfTissue):
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


class SubstatesClaim(_OfTissue):
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


class HeadsClaim(_Claim):
    """The change of both metrics over heads along training."""

    rule: Literal["heads"]
    table: Literal["head_importance.csv"]
    where: Heads
    published: Plane
    tolerance: PlaneTolerance
    tissue: ClassVar[None] = None
    beside = ("changes/heads.csv", "changes/companion.csv")

    @property
    def quantities(self) -> list[Quantity]:
        """The numbers that the claim states."""
        return _changes(self.published, self.tolerance)


class ValueClaim(_Claim):
    """Numbers of a measured system: of this run if it measures that, else as its study has them.

    `where` names the model (``model`` of language, ``cellmodel`` of cells), or the cohort and
    tissue, and the values of columns of `table` that choose the row; a pair of published numbers
    is of the first and the last of the rows.
    """

    rule: Literal["value"]
    table: Literal["restriction.csv", "pairs/epistasis.csv", "cell_model/spectrum.csv"] | None = (
        None
    )
    where: dict[Name, Number | str]
    published: Annotated[dict[Name, Number | tuple[Number, Number]], Field(min_length=1)]
    tolerance: dict[Name, Tolerance]
    results: dict[Name, Computed] = Field(default_factory=dict)
    """How figures of the study's own result files (``RESULTS``) give each number."""
    note: str = ""
    """What must be said with the verdict, or why there is none."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        of = {name for name in ("cohort", "tissue", *MODELS) if name in self.where}
        if of not in ({"model"}, {"cellmodel"}, {"cohort", "tissue"}):
            msg = f"where needs one of {', '.join(MODELS)}, or cohort and tissue"
            raise ValueError(msg)
        for key, named in (("tolerance", self.tolerance), ("results", self.results)):
            if named and set(named) != set(self.published):
                msg = f"{key} names {', '.join(named)}, published {', '.join(self.published)}"
                raise ValueError(msg)
        if not self.table and (self.tissue or not (self.results or self.note)):
            msg = "without table it needs results, or a note of why it cannot be tested"
            raise ValueError(msg)
        return self

    @property
    def model(self) -> tuple[str, str] | None:
        """The kind and the name of the model that the claim is about, if it is about one."""
        named = [(kind, str(self.where[kind])) for kind in MODELS if kind in self.where]
        return named[0] if named else None

    @property
    def case(self) -> str:
        """Where numbers of the claim stand, but for the arms of a tissue."""
        return self.model[1] if self.model else ""

    @property
    def tissue(self) -> Tissue | None:
        """The tissue that the claim is about, if it is about one."""
        at = {name: of for name, of in self.where.items() if name in Tissue.model_fields}
        return Tissue.model_validate(at) if at else None

    @property
    def quantities(self) -> list[Quantity]:
        """The numbers that the claim states."""
        return [
            Quantity(key, "value", value, self.tolerance[name])
            for name, stated in self.published.items()
            for key, value in ends(name, stated).items()
        ]


def ends(name: str, values: float | tuple[float, ...]) -> dict[str, float]:
    """Return a number by its name, or two by its name with the end that each is of."""
    if isinstance(values, tuple):
        return {f"{name}_{end}": of for end, of in zip(("first", "last"), values, strict=True)}
    return {name: values}


Claim = ChangeClaim | FlipClaim | SubstatesClaim | HeadsClaim | ValueClaim
_CLAIM: TypeAdapter[Claim] = TypeAdapter(Annotated[Claim, Field(discriminator="rule")])


def _changes(stated: Plane, allowed: PlaneTolerance | None) -> list[Quantity]:
    return [
        Quantity(f"{name}_change", "value", getattr(stated, name), getattr(allowed, name))
        for name in PLANE
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
    # The first part names the rule once that is known, and others a kind: no keys of the file.
    key = ".".join(str(part) for part in first["loc"][1:] if part not in {_SIGNS, _VALUES})
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
            reason = f"{reason[0].lower()}{reason[1:]}"
            # Of a claim as a whole, what it holds would fill the line.
            what = f"{key} = {value!r}: {reason}" if key else reason
    return f"{path}, claim {name}: {what}. Mend it."
