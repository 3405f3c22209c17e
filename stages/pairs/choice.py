"""Choose pairs of heads: all, or those that a published study took of a model with too many.

That study [1]_ took all pairs of the 30 heads with the largest absolute effects (its first tier)
and 50 random pairs as a baseline (its second). The heads were those of the last state, in every
state: of an early one they are chosen with a look ahead. They can be ranked again in each state
instead; the pairs of all these rankings are then measured in every state, so that states have the
same ones.

References
----------
.. [1] mool32/epistasis-transformer-heads.
"""

import itertools
from collections.abc import Mapping, Sequence

from stages.measurement.streams import stream
from stages.pairs.components import Head, Pair, pair
from stages.pairs.settings import Pairs

Effect = Mapping[Head, float]
"""Mean effect of each head alone."""


def all_heads(n_layers: int, n_heads: int) -> list[Head]:
    """Return every head, in the order of layers."""
    return [(layer, head) for layer in range(n_layers) for head in range(n_heads)]


def pairs_of(heads: Sequence[Head]) -> list[Pair]:
    """Return all pairs of some heads, in order."""
    return [pair(a, b) for a, b in itertools.combinations(sorted(heads), 2)]


def ranked(effect: Effect) -> list[Head]:
    """Return heads by their absolute effects, the largest first; equal ones in order.

    Examples
    --------
    >>> ranked({(0, 0): 0.5, (0, 1): -2.0, (1, 0): 0.5})
    [(0, 1), (0, 0), (1, 0)]
    """
    return sorted(effect, key=lambda head: (-abs(effect[head]), head))


def greedy(effect: Effect, beyond: Mapping[Pair, float], most: int) -> list[Head]:
    """Return heads one after another, each the one that adds most to what was removed before it.

    What one adds is taken from what was measured: its effect alone, and what its pairs with those
    before it cost beyond the sum.

    Parameters
    ----------
    effect
        Of every head alone.
    beyond
        Of pairs, beyond the sum; of one that is not named, 0.
    most
        Number of heads, if there are so many.

    Examples
    --------
    A head that costs nothing alone makes up for the first.

    >>> effect = {(0, 0): 2.0, (0, 1): 0.5, (1, 0): 0.0}
    >>> greedy(effect, {((0, 0), (1, 0)): 1.5}, 2)
    [(0, 0), (1, 0)]
    """
    adds, found = dict(sorted(effect.items())), list[Head]()
    while adds and len(found) < most:
        first = max(adds, key=lambda head: adds[head])
        found.append(first)
        del adds[first]
        for head in adds:
            adds[head] += beyond.get(pair(first, head), 0.0)
    return found


def top(effect: Effect, most: int) -> list[Head]:
    """Return the heads of the first tier: `most`, but no more than a quarter of all."""
    return ranked(effect)[: max(2, min(most, len(effect) // 4))]


def random_pairs(heads: Sequence[Head], number: int, seed: int) -> list[Pair]:
    """Draw pairs without replacement, in order; all pairs, if there are no more.

    Pairs are drawn by their place in the list of all, which need not be made.
    """
    ordered, rng = sorted(heads), stream(seed, "random pairs")
    n = len(ordered)
    if number >= n * (n - 1) // 2:
        return pairs_of(ordered)
    drawn: set[Pair] = set()
    while len(drawn) < number:
        a, b = (ordered[i] for i in rng.integers(n, size=2))
        if a != b:
            drawn.add(pair(a, b))
    return sorted(drawn)


def chosen(singles: Sequence[Effect], params: Pairs) -> list[Pair]:
    """Return the pairs that are removed in every state, in order.

    Parameters
    ----------
    singles
        Effects of all heads alone, by state; of the last alone the first tier is taken, or of all.
    """
    heads = sorted(singles[-1])
    match params.which:
        case "all":
            return pairs_of(heads)
        case "published":
            ranking = singles[-1:]
        case _:
            ranking = list(singles)
    found = set(random_pairs(heads, params.random, params.seed))
    for effect in ranking:
        found |= set(pairs_of(top(effect, params.top)))
    return sorted(found)
