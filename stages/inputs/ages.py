"""Ages as people write them, in months."""

import re

MONTHS = {"days": 12 / 365.25, "weeks": 7 * 12 / 365.25, "months": 1.0, "years": 12.0}
"""How many months a unit has; a year has 365.25 days."""

_UNIT_OF = {"d": "days", "w": "weeks", "m": "months", "y": "years"}
_WITH_UNIT = re.compile(
    r"(\d+(?:\.\d+)?)[\s_-]*"
    r"(d|days?|w|wks?|weeks?|m|mos?|mths?|months?|y|yrs?|yo|years?)"
    r"(?:[\s_-]+(?:old|of|age|human|mouse|stage))*",
    re.IGNORECASE,
)
_POSTNATAL = re.compile(r"p(?:nd?)?[\s-]*(\d+(?:\.\d+)?)", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def parse(label: str, unit: str | None = None) -> float | None:
    """Return an age in months, or None if the label is not understood.

    Understood are a number with a unit, as atlases write it (the stages of HsapDv and MmusDv
    included), and days after birth (``P7``).

    Parameters
    ----------
    unit
        That of a plain number, one of ``MONTHS``; without it a plain number is not understood.

    Examples
    --------
    >>> [parse(age) for age in ("24m", "3 months", "23y", "59-year-old stage", "24", "adult")]
    [24.0, 3.0, 276.0, 708.0, None, None]
    >>> round(parse("P7"), 2), round(parse("8 weeks"), 2), parse("24", "months")
    (0.23, 1.84, 24.0)
    """
    text = label.strip()
    if found := _WITH_UNIT.fullmatch(text):
        return float(found[1]) * MONTHS[_UNIT_OF[found[2][0].lower()]]
    if found := _POSTNATAL.fullmatch(text):
        return float(found[1]) * MONTHS["days"]
    if unit is not None and is_number(text):
        return float(text) * MONTHS[unit]
    return None


def is_number(label: str) -> bool:
    """Say whether a label is a number without a unit."""
    return _NUMBER.fullmatch(label.strip()) is not None
