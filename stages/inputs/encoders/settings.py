"""How cells are encoded, as a person says it."""

import re
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from stages.base.errors import SettingsError
from stages.base.sections import Count, Section
from stages.inputs.encoders.presets import PRESETS, GeneNames


def encoding_of(**given: Any) -> "Encoding":
    """Return how cells are encoded, as the words of a command say it.

    Raises
    ------
    SettingsError
        A value is not allowed; the line names its option.
    """
    try:
        return Encoding.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        option = "".join(f"--{name}".replace("_", "-") for name in first["loc"][:1])
        where = f"{option} is {first['input']!r}: " if option else ""
        msg = where + first["msg"].removeprefix("Value error, ")
        raise SettingsError(msg) from None


class Encoding(Section):
    """How the cells of a file are encoded for a model."""

    preset: str
    """A key of ``PRESETS``."""
    counts: str = "X"
    """``X``, ``raw`` or ``layer:NAME``, where counts lie; ``auto``: the first that holds such."""
    genes: GeneNames | None = None
    """What the file names genes by; None: what the model does. Symbols are mapped to ids."""
    gene_column: str | None = None
    """The column of ``var`` with the names of genes; None: its index."""
    columns: tuple[str, ...] = ()
    """Columns of ``obs`` to keep beside the cells."""
    max_length: Count | None = None
    """Tokens of a cell, special ones included; None: those of the preset."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of what scGPT draws; the name of the cell decides the rest."""

    @field_validator("preset")
    @classmethod
    def _is_known(cls, preset: str) -> str:
        if preset not in PRESETS:
            msg = f"no preset; allowed are {', '.join(PRESETS)}"
            raise ValueError(msg)
        return preset

    @field_validator("counts")
    @classmethod
    def _is_a_place(cls, counts: str) -> str:
        if counts not in {"X", "raw", "auto"} and not re.fullmatch("layer:.+", counts):
            msg = "allowed are X, raw, auto and layer:NAME"
            raise ValueError(msg)
        return counts

    @model_validator(mode="after")
    def _fits(self) -> Self:
        preset = PRESETS[self.preset]
        if preset.genes == "symbols" and self.genes == "ids":
            msg = f"{self.preset} knows genes by symbols alone; name the column that has them"
            raise ValueError(msg)
        least = preset.n_special + 1
        if self.width < least or (preset.limit is not None and self.width > preset.limit):
            upper = "" if preset.limit is None else f" and at most {preset.limit}"
            msg = f"max_length is {self.width}; for {self.preset} at least {least}{upper}"
            raise ValueError(msg)
        taken = [name for name in self.columns if name in {"cell", "row", "length"}]
        if taken or len(set(self.columns)) < len(self.columns):
            msg = (
                f"columns are {', '.join(self.columns)}; each once, and none named cell, row or "
                "length, which every table of encoded cells has"
            )
            raise ValueError(msg)
        return self

    @property
    def width(self) -> int:
        """Tokens of the longest cell that may come."""
        return self.max_length or PRESETS[self.preset].max_length
