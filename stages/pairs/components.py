"""Name what is removed: a head, a pair, all heads of a layer, the first of a ranking."""

from collections.abc import Sequence

import pandas as pd

from stages.base.errors import AblationError

Head = tuple[int, int]
"""Layer and head, both counted from 0."""
Pair = tuple[Head, Head]
"""Two heads, in the order of layers and heads."""
KINDS = ("head", "pair", "attention", "cumulative")
"""A head; two heads, of which the effect beyond the sum is kept; all heads of a layer together; the
heads of the largest effects together, more and more of them."""
CONDITIONS = ("mean", "zero", "mean_positional", "resample")
"""Ways of removal, in the order in which one is chosen to be shown."""


def head_name(head: Head) -> str:
    """Return the name of a head.

    Examples
    --------
    >>> head_name((8, 9))
    'L8H9'
    """
    return f"L{head[0]}H{head[1]}"


def pair(first: Head, second: Head) -> Pair:
    """Return two heads as a pair, whichever is named first.

    Raises
    ------
    AblationError
        They are one head.

    Examples
    --------
    >>> pair((3, 2), (0, 1))
    ((0, 1), (3, 2))
    """
    if first == second:
        name = head_name(first)
        msg = (
            f"{name}+{name} is a pair of one head, and to remove it twice is to remove it once. "
            "Name two heads."
        )
        raise AblationError(msg)
    return (first, second) if first < second else (second, first)


def pair_name(of: Pair) -> str:
    """Return the name of a pair.

    Examples
    --------
    >>> pair_name(((0, 1), (3, 2)))
    'L0H1+L3H2'
    """
    return "+".join(map(head_name, of))


def of_heads(heads: Sequence[Head]) -> pd.DataFrame:
    """Return heads as components."""
    return pd.DataFrame(
        {"layer": [layer for layer, _ in heads], "head": [head for _, head in heads]},
        index=pd.Index(map(head_name, heads), name="component"),
    )


def of_pairs(pairs: Sequence[Pair], products: Sequence[float]) -> pd.DataFrame:
    """Return pairs as components, each with the absolute product of its heads' effects."""
    return pd.DataFrame(
        {
            "layer_a": [a[0] for a, _ in pairs],
            "head_a": [a[1] for a, _ in pairs],
            "layer_b": [b[0] for _, b in pairs],
            "head_b": [b[1] for _, b in pairs],
            "distance": [b[0] - a[0] for a, b in pairs],
            "product": list(products),
        },
        index=pd.Index(map(pair_name, pairs), name="component"),
    )


def of_layers(n_layers: int) -> pd.DataFrame:
    """Return all heads of each layer as a component."""
    names = [f"L{layer}" for layer in range(n_layers)]
    return pd.DataFrame({"layer": range(n_layers)}, index=pd.Index(names, name="component"))


def in_order(ordered: Sequence[Head]) -> pd.DataFrame:
    """Return the first one, two, ... heads of some as components; `joined` is the last."""
    numbers = range(1, len(ordered) + 1)
    return pd.DataFrame(
        {"n_heads": numbers, "joined": list(map(head_name, ordered))},
        index=pd.Index([f"first{n}" for n in numbers], name="component"),
    )
