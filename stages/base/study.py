"""What every figure and page must know about the inputs.

The first stage of the graph, :mod:`stages.inputs.study`, states it: of the cells and of the heads
in files of their own, so that a change of one leaves alone what rests on the other.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from stages.base.errors import TableError

ANNOTATION, RECONSTRUCTED, SIMULATED = EVIDENCE = ("annotation", "reconstructed", "simulated")
"""What names the animals of an arm; the classes of settings say more."""
UNSTATED = "unstated"
"""The platform of an atlas that does not say it: an arm then goes by its cohort."""
ARM = ("cohort", "platform", "tissue")
"""The columns of a table that say of which arm a row is."""


@dataclass(frozen=True)
class Arm:
    """A cohort on one platform, or one tissue of it, and what names its animals."""

    cohort: str
    platform: str
    tissue: str | None
    """None: every tissue that no other arm of the cohort and platform names."""
    evidence: str
    """One of ``EVIDENCE``."""
    basis: str = ""
    """How the animals were found, where the file itself does not say it."""
    reference: str = "young"
    compared: str = "old"
    """What its groups are called."""
    by_age: bool = True
    """Whether ages make them; else a condition does."""


class Groups(NamedTuple):
    """What two groups are called, and whether ages make them."""

    reference: str
    compared: str
    by_age: bool

    def minus(self, sign: str = "minus") -> str:
        """Return what a change is: the compared less the reference."""
        return f"{self.compared} {sign} {self.reference}"


@dataclass(frozen=True)
class Study:
    """What every figure and page must know about the inputs: an atlas, a model, or both."""

    name: str
    source: str
    simulated: bool
    """Whether any input was made here to exercise the pipeline: cohorts or a demo model."""
    notice: str
    """What every page made from those must say; empty where there are none."""
    seed: int | None = None
    """From which simulated cohorts are drawn; None for inputs that are not."""
    arms: tuple[Arm, ...] = ()
    """What the cells are of."""

    def arm(self, cohort: str, platform: str, tissue: str) -> Arm:
        """Return the arm that a tissue is of; annotated, if the study states no arms.

        Raises
        ------
        TableError
            The study states arms, and this is of none.
        """
        if found := self.arms_of(cohort, platform, tissue):
            return found[0]
        msg = (
            f"the study {self.name} has no arm {cohort} {platform} {tissue}: the table is of other "
            "settings. Run dvc repro."
        )
        raise TableError(msg)

    def arms_of(self, cohort: str, platform: str | None, tissue: str) -> list[Arm]:
        """Return the arms that a tissue is of, one a platform or on the one named; none, perhaps.

        A study that states no arms is taken to have the tissue.
        """
        if not self.arms:
            evidence = SIMULATED if self.simulated else ANNOTATION
            return [Arm(cohort, platform or "", tissue, evidence)]
        found: dict[str, Arm] = {}
        # An arm that names the tissue comes before one of the others.
        for named in (tissue, None):
            for arm in self.arms:
                if (arm.cohort, arm.tissue) == (cohort, named) and platform in {None, arm.platform}:
                    found.setdefault(arm.platform, arm)
        return [found[name] for name in sorted(found)]

    def evidence(self, cohort: str, platform: str, tissue: str) -> str:
        """Return what names the animals of a tissue (one of ``EVIDENCE``); see :meth:`arm`."""
        return self.arm(cohort, platform, tissue).evidence

    def evidence_of(self, table: pd.DataFrame) -> "pd.Series[str]":
        """Return what names the animals of each row of a table of tissues."""
        keys = list(zip(*(table[name] for name in ARM), strict=True))
        known = {key: self.evidence(*key) for key in set(keys)}
        return pd.Series([known[key] for key in keys], table.index, dtype="object")

    def groups(self, table: pd.DataFrame | None = None) -> Groups:
        """Return what the groups of all arms, or those of a table's rows, are called.

        Arms that call them otherwise have them called by what they are.
        """
        arms = set(self.arms)
        if table is not None and self.arms:
            keys = table[list(ARM)].drop_duplicates().itertuples(index=False, name=None)
            arms = {self.arm(*key) for key in keys}
        names = {(arm.reference, arm.compared) for arm in arms or {Arm("", "", None, ANNOTATION)}}
        by_age = all(arm.by_age for arm in arms)
        return Groups(*(names.pop() if len(names) == 1 else ("reference", "compared")), by_age)

    def real(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of arms that are not simulated; all rows if every one is."""
        kept = self.evidence_of(table) != SIMULATED
        return table[kept] if kept.any() else table

    def about(self, tissues: Iterable[tuple[str, str, str]]) -> "Study":
        """Return the study of some tissues (cohort, platform, tissue) alone.

        It is simulated, and has a notice, only if one of them is.
        """
        if any(self.evidence(*tissue) == SIMULATED for tissue in tissues):
            return self
        return replace(self, simulated=False, notice="", seed=None)


def read(path: Path) -> Study:
    """Read what this stage wrote."""
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        arms = tuple(Arm(**arm) for arm in stated.pop("arms", ()))
        return Study(**stated, arms=arms)
    except (FileNotFoundError, ValueError, TypeError) as error:
        msg = f"{path} does not state a study ({error}). Run dvc repro study."
        raise TableError(msg) from None


def joined(*studies: Study) -> Study:
    """Return the study of what rests on several inputs.

    Examples
    --------
    >>> data = Study("a", "demo", True, "Simulated data: no finding.")
    >>> text, cells = (Study(x, "mini", True, f"Demo model: {x} is small.") for x in "bc")
    >>> joined(data, text).notice
    'Simulated data and demo model: no finding. b is small.'
    >>> joined(data, text, cells).notice
    'Simulated data and demo models: no finding. b is small. c is small.'
    """
    stated = [one.notice.partition(":") for one in studies if one.notice]
    labels: dict[str, int] = {}
    for label, _, _ in stated:
        labels[label] = labels.get(label, 0) + 1
    # "Simulated data: ..." and "Demo model: ..." become "Simulated data and demo model: ... ...".
    said = [f"{label}s" if count > 1 else label for label, count in labels.items()]
    said = said[:1] + [label[:1].lower() + label[1:] for label in said[1:]]
    rest = " ".join(text.strip() for _, _, text in stated)
    return Study(
        name=" and ".join(one.name for one in studies),
        source=" and ".join(one.source for one in studies),
        simulated=any(one.simulated for one in studies),
        notice=f"{' and '.join(said)}: {rest}" if stated else "",
        arms=tuple(arm for one in studies for arm in one.arms),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--cells`` and ``--heads``, what this stage wrote of each, for a stage on both."""
    parser.add_argument("--cells", type=Path, required=True, help="what the atlas is")
    parser.add_argument("--heads", type=Path, required=True, help="what the model is")
