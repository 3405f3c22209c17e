"""The columns that are asked for: each must be there, once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.base.errors import AtlasError

COLUMNS_SHOWN = 40


class Listed(Exception):
    """The names of a table's columns, which a reader came upon."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)


@dataclass(frozen=True)
class Wanted:
    """The columns to read, and what a person can change if one is not there."""

    columns: list[str]
    change: str
    modality: str | None = None
    """Whose `obs` of a MuData; None: that of the whole, or there is but one."""

    def require(self, path: Path, present: Sequence[str]) -> None:
        """Stop if a column is missing or there twice.

        Raises
        ------
        AtlasError
            With the columns that there are.
        """
        if missing := [column for column in self.columns if column not in present]:
            more = ", ..." if len(present) > COLUMNS_SHOWN else ""
            shown = ", ".join(present[:COLUMNS_SHOWN]) + more
            msg = (
                f"column {', '.join(missing)} is not in {path}. Its columns are: "
                f"{shown or '(none)'}. Change {self.change}."
            )
            raise AtlasError(msg)
        if twice := [column for column in self.columns if present.count(column) > 1]:
            msg = f"{path} has more than one column {twice[0]}. Rename all but one."
            raise AtlasError(msg)


class Names(Wanted):
    """Nothing but the names of the columns."""

    def require(self, path: Path, present: Sequence[str]) -> None:
        """End the reading with the names.

        Raises
        ------
        Listed
            Always.
        """
        del path
        raise Listed(present)
