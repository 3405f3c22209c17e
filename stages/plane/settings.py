"""Settings of the plane that systems share."""

from stages.base.sections import Confidence, Key, Section


class Plane(Section):
    """Vectors of all measured systems in one plane, and the test of their direction."""

    beside: list[Key]
    """Measured systems that are not of component effects; those of `systems` are all shown."""
    reference: Key
    """The system that the others are compared with."""
    conditions: dict[Key, list[str]] = {}
    """Of a system only these conditions; of others all."""
    confidence: Confidence


SECTIONS = {"plane": Plane}
