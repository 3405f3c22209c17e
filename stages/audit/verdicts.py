"""What can be said of an output, the evidence for it, and how far a number may be off."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, ValidationError

from stages.base.errors import StageError

TOLERANCES = Path(__file__).with_name("tolerances.yaml")


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
    difference: float
    """Absolute; infinite where one value is no number and where texts differ."""
    tolerance: float
    scale: float
    """The largest committed number among those compared, in absolute value."""
    n_differ: int
    n: int

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Return what the worst deviation has most of; first, whether it exceeds its tolerance."""
        ratio = self.difference / self.tolerance if self.tolerance else math.inf
        return self.difference > self.tolerance, ratio, self.difference

    def sentence(self) -> str:
        """Say in one line where the two differ, and by how much."""
        place = self.column + f" in row {self.row}" * bool(self.row)
        off = f", off by {self.difference:.3g}, tolerance {self.tolerance:.3g}"
        return (
            f"{place}: {_shown(self.committed)} committed, {_shown(self.recomputed)} recomputed"
            f"{off * math.isfinite(self.difference)} ({self.n_differ} of {self.n} differ)"
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
    finding: Finding

    @property
    def status(self) -> Status:
        """Return the status of the finding."""
        return self.finding.status


def judged(deviations: Sequence[Deviation], *, note: str = "") -> Finding:
    """Return the finding that these deviations, one a column, amount to."""
    found = sorted((d for d in deviations if d.difference > 0), key=lambda d: d.rank, reverse=True)
    if not found:
        return Finding(Status.SAME_CONTENT, note)
    exceeds = found[0].rank[0]
    others = sum(d.rank[0] == exceeds for d in found) - 1
    more = f"; {others} more column{'s' if others > 1 else ''} likewise" if others else ""
    detail = "; ".join(filter(None, [found[0].sentence() + more, note]))
    return Finding(Status.DIFFERS if exceeds else Status.WITHIN, detail, tuple(found))


def worst_first(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts in the order of a report."""
    return sorted(verdicts, key=lambda verdict: (list(Status).index(verdict.status), verdict.file))


def table(verdicts: Sequence[Verdict]) -> str:
    """Return one line a file, the worst first, and a line that counts."""
    lines = []
    width = max(len(status.value) for status in Status)
    for verdict in worst_first(verdicts):
        lines.append(f"{verdict.status.value:<{width}}  {verdict.file}")
        if verdict.finding.detail:
            lines.append(f"{'':<{width}}    {verdict.finding.detail}")
    counts = Counter(verdict.status for verdict in verdicts)
    counted = ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status])
    return "\n".join([*lines, f"{len(verdicts)} outputs: {counted}"])


def as_json(verdicts: Sequence[Verdict], *, about: Mapping[str, Any]) -> str:
    """Return everything that was found; numbers that JSON lacks stand as text."""
    counts = Counter(verdict.status for verdict in verdicts)
    outputs = [
        {
            "file": verdict.file,
            "output": verdict.output,
            "stage": verdict.stage,
            "status": verdict.status.value,
            "detail": verdict.finding.detail,
            "columns": [
                {name: _plain(value) for name, value in vars(found).items()}
                for found in verdict.finding.deviations
            ],
        }
        for verdict in worst_first(verdicts)
    ]
    content = {**about, "counts": {s.value: counts[s] for s in Status}, "outputs": outputs}
    return json.dumps(content, indent=2, allow_nan=False)


def _item(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _shown(value: Any) -> str:
    """Return a value with every digit it has."""
    return repr(_item(value))


def _plain(value: Any) -> Any:
    item = _item(value)
    if isinstance(item, float) and not math.isfinite(item):
        return str(item)
    return item if isinstance(item, bool | int | float | str | None) else repr(item)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Allowed(_Strict):
    """The tolerances of one output, each a share of the largest number of its column."""

    columns: dict[str, float] = Field(default_factory=dict)
    rests_on: str = ""

    def column(self, name: str) -> float:
        """Return the tolerance of a column, or of its rows of a kind, as ``change/gini``.

        It is 0, bit for bit, unless a deviation was observed.
        """
        known = (one for one in (name, name.partition("/")[0], "*") if one in self.columns)
        return self.columns.get(next(known, ""), 0.0)


class Group(_Strict):
    """Outputs that depend on the processor in one way."""

    rests_on: str
    """What makes them depend on it; said of an output of the group that differs."""
    model: str = ""
    """The model whose deviations they are; empty: they do not depend on it."""
    outputs: dict[str, NonNegativeFloat | dict[str, NonNegativeFloat]]
    """The largest deviation observed, as a share of the largest number of its column (of its kind
    of row, of its array), by pattern of the output's path: of all columns, or by column, which may
    name a kind of row (``change/gini``), where ``*`` stands for those that are not named."""


class Tolerances(_Strict):
    """The content of ``tolerances.yaml``."""

    factor: float = Field(ge=1)
    """A tolerance is this many times the largest deviation that was observed."""
    groups: list[Group]

    def for_models(self, *names: str) -> "Tolerances":
        """Return what was observed of these models and of what rests on none."""
        kept = [group for group in self.groups if group.model in ("", *names)]
        return Tolerances(factor=self.factor, groups=kept)

    def of(self, file: str) -> Allowed:
        """Return what is allowed in one output, named relative to the repository."""
        columns: dict[str, float] = {}
        rests_on = ""
        for group in self.groups:
            for pattern, observed in group.outputs.items():
                if fnmatchcase(file, pattern):
                    rests_on = group.rests_on
                    by_column = observed if isinstance(observed, dict) else {"*": observed}
                    columns |= {name: self.factor * share for name, share in by_column.items()}
        return Allowed(columns=columns, rests_on=rests_on)


def load_tolerances(path: Path = TOLERANCES) -> Tolerances:
    """Read the tolerances.

    Raises
    ------
    VerificationError
        The file does not say what it must.
    """
    try:
        return Tolerances.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        reason = " ".join(str(error).split())
        msg = f"{path} does not state tolerances: {reason}. Mend the file."
        raise VerificationError(msg) from None
