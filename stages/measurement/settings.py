"""Settings of what is measured of component effects."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from stages.base.sections import Confidence, Key, Section
from stages.measurement.states import STATE


class System(Section):
    """A system whose component effects are measured."""

    room: Key
    """The folder of ``stages/`` whose ``metrics`` it is measured by."""
    group: str
    """What its series are of: the name of a model, say."""
    effects: Path
    """Folder of one file a state, ``<state>.parquet``."""
    states: Annotated[list[Annotated[str, Field(pattern=STATE)]], Field(min_length=1)]
    kinds: list[str] = []
    """Kinds of components that are measured; empty: all."""
    drawn: list[str] = []
    """Conditions whose bootstrap draws are kept for the plane; empty: all."""
    untrained: str | None = None
    """The state that has learnt nothing, if it is among them."""


class Measured(Section):
    """Bootstrap and floors of what is measured."""

    confidence: Confidence
    draws: Annotated[int, Field(ge=20)]
    seed: Annotated[int, Field(ge=0)]


SECTIONS = {"systems": dict[Key, System], "measured": Measured}
