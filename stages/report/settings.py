"""Settings of the report."""

from enum import Enum
from typing import Literal

from stages.base.sections import Section


class Renderer(Enum):
    """Who turns the checked source of the paper into pages."""

    PANDOC = "pandoc"
    """The pandoc and the typst of the pinned wheels: the same bytes wherever they are made."""
    QUARTO = "quarto"
    """The ``quarto`` on PATH, whichever version that is."""


class Render(Section):
    """The pages of the paper."""

    renderer: Renderer


class Alone(Section):
    """Papers on one system alone: of each the name of its pages, or none."""

    cells: list[Literal["cells"]]
    heads: list[Literal["heads"]]


SECTIONS = {"render": Render, "alone": Alone}
