"""Settings of the plane that systems share."""

from typing import Annotated, Literal

from pydantic import Field

from stages.base.sections import Confidence, Count, Section


class Plane(Section):
    """Vectors of tissues and heads in one plane, and the test of their direction."""

    cells: Literal["all", "rarefied"]
    """Metrics of all cells of a sample, or of equal numbers of cells."""
    confidence: Confidence
    draws: Annotated[int, Field(ge=2)]
    max_permutations: Count
    """Arrangements of ages are counted up to this many, drawn at random beyond it."""
    seed: Annotated[int, Field(ge=0)]


SECTIONS = {"plane": Plane}
