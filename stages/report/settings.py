"""Settings of the report."""

from enum import Enum

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


SECTIONS = {"render": Render}
