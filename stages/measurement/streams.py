"""Streams of random numbers that hang on names and on nothing else.

A stream that is drawn for the third tissue, or for the kind of removal that a tuple lists second,
moves published digits as soon as another comes before it. Here a stream is derived from the seed of
a setting and the names of what is drawn: no other tissue, kind or checkpoint decides it.
"""

import hashlib

import numpy as np


def stream(seed: int, *names: str | float) -> np.random.Generator:
    """Return the generator of `names` under `seed`.

    Parameters
    ----------
    seed
        At least 0.
    names
        What is drawn, from the general to the particular. Their order counts, and where one ends
        and the next begins.

    Examples
    --------
    >>> first, again, other = (stream(7, *names) for names in (("a", "b"), ("a", "b"), ("ab",)))
    >>> draws = [int(rng.integers(1 << 30)) for rng in (first, again, other)]
    >>> draws[0] == draws[1], draws[0] == draws[2]
    (True, False)
    """
    digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, len(digest), 4)]
    return np.random.default_rng([seed, *words])
