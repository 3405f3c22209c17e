"""Names that the room's tables are read by: what was published of which cell types."""

NAMED = ("podocyte", "macrophage")
"""The published cases of substates; these words in a cell type's name."""


def is_named(cell_type: str, names: tuple[str, ...] = NAMED) -> bool:
    """Say whether a cell type is one of the published cases.

    >>> is_named("kidney Macrophage"), is_named("macrophage-like cell")
    (True, False)
    """
    return any(word in cell_type.lower().split() for word in names)
