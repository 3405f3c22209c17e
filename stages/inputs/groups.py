"""Who is compared with whom: two groups, by ages or by labels of a condition.

In a module of its own and not among the settings, since it decides of what group a sample is.
"""

import math
from typing import Annotated, Self

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from stages.base.sections import Section
from stages.inputs import ages


def _age(text: object) -> object:
    if not isinstance(text, str) or ages.parse(text) is None:
        msg = f"{text!r} is no age with a unit; write 3 months, 10 weeks or 65 years"
        raise ValueError(msg)
    return text


AgeText = Annotated[str, BeforeValidator(_age)]
"""An age as a person writes it, with its unit."""


class AgeRange(Section):
    """Animals up to an age, from an age on, or both."""

    model_config = ConfigDict(serialize_by_alias=True)

    up_to: AgeText | None = None
    from_: Annotated[AgeText | None, Field(alias="from")] = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        low, high = self.months
        if (low, high) == (0.0, math.inf) or low > high:
            msg = "it holds every age or none; give up_to, from, or both in this order of ages"
            raise ValueError(msg)
        return self

    @property
    def months(self) -> tuple[float, float]:
        """The youngest and the oldest age in it."""
        low = None if self.from_ is None else ages.parse(self.from_)
        high = None if self.up_to is None else ages.parse(self.up_to)
        return low or 0.0, math.inf if high is None else high


AGE_TOLERANCE = 1e-6
"""Months: 52 weeks are a year but for this."""
Label = Annotated[str, BeforeValidator(lambda label: str(label) if _is_number(label) else label)]
"""What a column of conditions says; YAML reads some as numbers."""


def _is_number(label: object) -> bool:
    return isinstance(label, int | float) and not isinstance(label, bool)


Labels = Annotated[list[Label], Field(min_length=1)]
Group = Annotated[
    Annotated[Labels, Tag("(labels)")] | Annotated[AgeRange, Tag("(ages)")],
    Discriminator(lambda group: "(labels)" if isinstance(group, list) else "(ages)"),
]


class Names(Section):
    """What two groups are called in text and figures."""

    reference: Annotated[str, Field(min_length=1)]
    compared: Annotated[str, Field(min_length=1)]


class Groups(Section):
    """Which animals are compared with which: by labels of a condition, or by ages."""

    reference: Group
    compared: Group
    names: Names | None = None
    """Without, labels name themselves, and ages are young and old."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        match self.reference, self.compared:
            case AgeRange() as one, AgeRange() as other:
                (low, high), (low_other, high_other) = one.months, other.months
                if max(low, low_other) <= min(high, high_other):
                    msg = "reference and compared share an age; no animal may be in both groups"
                    raise ValueError(msg)
            case [*one], [*other]:
                if both := [label for label in one if label in other]:
                    msg = f"{both[0]!r} is in both reference and compared; name it in one"
                    raise ValueError(msg)
            case _:
                msg = "one group is of ages and one of labels; give both alike"
                raise ValueError(msg)
        return self

    @property
    def by_age(self) -> bool:
        """Whether ages make the groups; else labels of a condition do."""
        return isinstance(self.reference, AgeRange)

    @property
    def called(self) -> Names:
        """What the groups are called."""
        if self.names is not None:
            return self.names
        match self.reference, self.compared:
            case AgeRange() as one, AgeRange() as other:
                rises = one.months < other.months
                young, old = ("young", "old") if rises else ("old", "young")
                return Names(reference=young, compared=old)
            case [*one], [*other]:
                return Names(reference=" or ".join(one), compared=" or ".join(other))
        raise AssertionError


def group_of(groups: Groups, months: float, condition: str | None) -> str:
    """Return the group of a sample: ``reference``, ``compared``, or ``other`` for neither.

    Parameters
    ----------
    months
        Its age; however its unit was rounded, 52 weeks are a year.
    condition
        Its label, where labels make the groups.

    Examples
    --------
    >>> by_age = Groups(reference={"up_to": "3 months"}, compared={"from": "2 years"})
    >>> [group_of(by_age, months, None) for months in (3, 18, 30)]
    ['reference', 'other', 'compared']
    >>> group_of(Groups(reference=["ctrl"], compared=["stim"]), math.nan, "stim")
    'compared'
    """
    for name, members in (("reference", groups.reference), ("compared", groups.compared)):
        if isinstance(members, AgeRange):
            low, high = members.months
            inside = low - AGE_TOLERANCE <= months <= high + AGE_TOLERANCE
        else:
            inside = condition in members
        if inside:
            return name
    return "other"
