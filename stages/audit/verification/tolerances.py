"""How far a number may be from the committed one: what was observed, times a stated factor."""

from fnmatch import fnmatchcase
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, ValidationError

from stages.audit.verification.verdicts import VerificationError

FILE = Path(__file__).with_name("tolerances.yaml")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Group(_Strict):
    """Outputs that depend on the processor in one way."""

    rests_on: str
    """What makes them depend on it; said of an output of the group that differs."""
    model: str = ""
    """The model whose deviations they are; empty: they do not depend on it."""
    outputs: dict[str, dict[str, NonNegativeFloat]]
    """The largest deviation observed, by column (or ``column/metric``), by pattern of the output's
    path. The column ``*`` stands for those that are not named, and for all arrays of a file."""


class Tolerances(_Strict):
    """The content of ``tolerances.yaml``."""

    factor: float = Field(ge=1)
    """A tolerance is this many times the largest deviation that was observed."""
    groups: list[Group]

    def for_model(self, name: str) -> "Tolerances":
        """Return what was observed of this model and of what rests on none."""
        kept = [group for group in self.groups if group.model in ("", name)]
        return Tolerances(factor=self.factor, groups=kept)

    def of(self, file: str) -> "Allowed":
        """Return what is allowed in one output, named relative to the repository."""
        columns: dict[str, float] = {}
        rests_on = ""
        for group in self.groups:
            for pattern, observed in group.outputs.items():
                if fnmatchcase(file, pattern):
                    rests_on = group.rests_on
                    columns |= {name: self.factor * value for name, value in observed.items()}
        return Allowed(columns=columns, rests_on=rests_on)


class Allowed(_Strict):
    """The tolerances of one output."""

    columns: dict[str, float] = Field(default_factory=dict)
    rests_on: str = ""

    def column(self, name: str) -> float:
        """Return the tolerance of a column: 0, bit for bit, unless another was observed."""
        return self.columns.get(name, self.columns.get("*", 0.0))


def load(path: Path = FILE) -> Tolerances:
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
