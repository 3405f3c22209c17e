"""Settings of the representations."""

from typing import Annotated

from pydantic import Field

from stages.base.sections import Confidence, Count, Section
from stages.measurement.states import STATE


class Probes(Section):
    """What is asked of the vectors of cells."""

    states: list[Annotated[str, Field(pattern=STATE)]] = []
    """Of the checkpoints of the model of cells, beside the first and the last."""
    label: str
    """A column of the encoded cells: what kind of cell each is."""
    order: str
    """A column of numbers: where each stands along an order."""
    components: Annotated[list[Count], Field(min_length=1)]
    """Numbers of principal components of expression that stand beside."""
    confidence: Confidence
    draws: Annotated[int, Field(ge=20)]
    seed: Annotated[int, Field(ge=0)]


SECTIONS = {"probes": Probes}
