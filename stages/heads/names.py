"""How a head is named, and which perturbation is shown where a table has several."""

import pandas as pd

from stages.heads.tables.effects import PERTURBATIONS


def head_name(layer: int, head: int) -> str:
    """Return a head's name as people write it.

    >>> head_name(8, 9)
    'L8H9'
    """
    return f"L{layer}H{head}"


def perturbation(table: pd.DataFrame) -> str:
    """Return the first perturbation, in the order of ``PERTURBATIONS``, that a table has."""
    return str(min(table["perturbation"].unique(), key=PERTURBATIONS.index))
