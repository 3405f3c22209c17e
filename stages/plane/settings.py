"""Settings of the plane that systems share."""

from typing import Annotated

from pydantic import Field

from stages.base.sections import Confidence, Count, Key, Section


class Plane(Section):
    """Vectors of all measured systems in one plane, and the test of their direction."""

    beside: list[Key]
    """Measured systems that are not of component effects; those of `systems` are all shown."""
    references: Annotated[list[Key], Field(min_length=1)]
    """The systems that the others are compared with."""
    trainings: Key
    """The group of a reference whose independent trainings are at hand, where they are."""
    conditions: dict[Key, list[str]] = {}
    """Of a system only these conditions; of others all."""
    components: dict[Key, str] = {}
    """What the components of a system are called; those of others by its name."""
    confidence: Confidence
    max_permutations: Count
    """Signs of steps and of trainings are all counted up to this many, and else drawn."""
    seed: Annotated[int, Field(ge=0)]


class RoomSeeds(Section):
    """Seeds of further trainings of which every room is measured (`make seeds`)."""

    model: list[Annotated[int, Field(ge=0)]]
    cellmodel: list[Annotated[int, Field(ge=0)]]


SECTIONS = {"plane": Plane, "room_seeds": RoomSeeds}
