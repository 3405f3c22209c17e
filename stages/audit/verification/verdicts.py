"""What can be said of an output, and the evidence for it."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from stages.base.errors import StageError


class VerificationError(StageError):
    """Committed and recomputed results cannot be brought side by side."""


class Status(Enum):
    """How a recomputed output relates to the committed one, the worst first."""

    DIFFERS = "differs"
    """A number is beyond its tolerance, or something without a tolerance is not the same."""
    MISSING = "missing"
    """The commit has it and the recomputation does not."""
    NOT_STORED = "not stored"
    """Its bytes are not those of the commit, which nobody kept: they cannot be compared."""
    WITHIN = "within tolerance"
    """Every number is within the tolerance of its column."""
    SAME_CONTENT = "identical in content"
    """Other bytes (order of rows, metadata, compression), the same numbers, pixels or text."""
    IDENTICAL = "identical"
    """The same bytes."""

    @property
    def severity(self) -> int:
        """Return 0 for the worst."""
        return list(Status).index(self)

    @property
    def fails(self) -> bool:
        """Return whether this alone is a reason to say no."""
        return self in (Status.DIFFERS, Status.MISSING)


@dataclass(frozen=True)
class Deviation:
    """The largest difference of one column, array or picture."""

    column: str
    row: str
    committed: Any
    recomputed: Any
    size: float
    """Absolute difference; infinite where one value is no number and where texts differ."""
    tolerance: float
    n_differ: int
    n: int

    @property
    def exceeds(self) -> bool:
        """Return whether it is beyond its tolerance."""
        return self.size > self.tolerance

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Return what the worst deviation has most of."""
        if self.tolerance > 0:
            ratio = self.size / self.tolerance
        else:
            ratio = float("inf") if self.size > 0 else 0.0
        return self.exceeds, ratio, self.size

    def sentence(self) -> str:
        """Say in one line where the two differ, and by how much."""
        place = " ".join(filter(None, [self.column, f"in row {self.row}" if self.row else ""]))
        both = f"{show(self.committed)} committed, {show(self.recomputed)} recomputed"
        if self.size == float("inf"):
            return f"{place}: {both} ({self.n_differ} of {self.n} differ)"
        return (
            f"{place}: {both}, off by {self.size:.3g}, tolerance {self.tolerance:.3g} "
            f"({self.n_differ} of {self.n} differ)"
        )


@dataclass(frozen=True)
class Finding:
    """What a comparison of two files found."""

    status: Status
    detail: str = ""
    deviations: tuple[Deviation, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What is said of one file of the committed results."""

    output: str
    """As ``dvc.lock`` names it."""
    file: str
    """The same, or a file in that folder."""
    stage: str
    finding: Finding = field(default_factory=lambda: Finding(Status.IDENTICAL))

    @property
    def status(self) -> Status:
        """Return the status of the finding."""
        return self.finding.status


def show(value: Any) -> str:
    """Return a value with every digit it has."""
    item = value.item() if hasattr(value, "item") else value
    return repr(item)


def judged(deviations: list[Deviation], *, note: str = "") -> Finding:
    """Return the finding that these deviations, one a column, amount to."""
    found = sorted((d for d in deviations if d.size > 0), key=lambda d: d.rank, reverse=True)
    if not found:
        return Finding(Status.SAME_CONTENT, note)
    status = Status.DIFFERS if found[0].exceeds else Status.WITHIN
    others = sum(d.exceeds == found[0].exceeds for d in found) - 1
    more = f"; {others} more column{'s' if others > 1 else ''} likewise" if others else ""
    detail = found[0].sentence() + more
    return Finding(status, "; ".join(filter(None, [detail, note])), tuple(found))
