"""Name what is removed: heads, whole layers, directions of noise; and order the ways of removal."""

import pandas as pd

KINDS = ("head", "attention", "layer", "noise")
"""A head; all heads of a layer together; a whole block, which then passes its input on; Gaussian
noise on a block's weights."""
CONDITIONS = ("zero", "mean", "mean_positional", "resample", "gaussian")
"""Ways of removal, in the order in which one is chosen to be shown."""
UNIT = "nats per token"


def head_name(layer: int, head: int) -> str:
    """Return the name of a head, both counted from 0.

    Examples
    --------
    >>> head_name(8, 9)
    'L8H9'
    """
    return f"L{layer}H{head}"


def components(kind: str, rows: list[tuple[int, int, int]]) -> pd.DataFrame:
    """Return the components of one kind with what is known of them.

    Parameters
    ----------
    kind
        Of ``KINDS``.
    rows
        Layer, head and direction of each; what a kind has not is ignored.

    Returns
    -------
    DataFrame
        Indexed by name. Heads have `layer` and `head`, what is of a whole layer `layer`, noise its
        `direction` and the `block` whose weights it is on.
    """
    match kind:
        case "head":
            names = [head_name(layer, head) for layer, head, _ in rows]
            known = {"layer": [row[0] for row in rows], "head": [row[1] for row in rows]}
        case "attention" | "layer":
            names = [f"L{layer}" for layer, _, _ in rows]
            known = {"layer": [row[0] for row in rows]}
        case _:
            names = [f"N{direction}" for _, _, direction in rows]
            known = {"direction": [row[2] for row in rows], "block": [row[0] for row in rows]}
    return pd.DataFrame(known, index=pd.Index(names, name="component"))


def perturbation(table: pd.DataFrame) -> str:
    """Return the way of removal that figures and text show, of those that a table has."""
    return shown(table["perturbation"])


def shown(conditions: "pd.Series[str]") -> str:
    """Return the way of removal that figures and text show: the first of ``CONDITIONS``."""
    return str(min(conditions.unique(), key=CONDITIONS.index))
