"""What anchors should be apart: steps on a graph of kinds of cells, and rulers that are wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base.errors import AtlasError

Floats = NDArray[np.float64]

GRAPH_FILE = Path(__file__).with_name("haematopoiesis.csv")
PLANTED_FILE = "nodes.csv"
TIE = 1e-9
"""Relative difference below which two eigenvalues are one."""
"""In the folder of what is known, where a tree of cells was planted."""


@dataclass(frozen=True)
class Ruler:
    """A tree of kinds."""

    parents: Mapping[str, str]
    """What each kind comes from; of the root ''."""
    names: Mapping[str, str]
    """The kind that each label of cells stands for."""

    @property
    def kinds(self) -> list[str]:
        """All kinds, in the order of the file."""
        return list(self.parents)

    def ancestors(self, kind: str) -> list[str]:
        """Return a kind and what it comes from, up to the root."""
        found = [kind]
        while parent := self.parents[found[-1]]:
            found.append(parent)
        return found

    def hops(self) -> Floats:
        """Return the steps between every two kinds, in the order of :attr:`kinds`."""
        ways = [self.ancestors(kind) for kind in self.kinds]
        return np.array(
            [
                [len(one) + len(other) - 2 * len(set(one) & set(other)) for other in ways]
                for one in ways
            ],
            dtype=float,
        )

    def branches(self, present: set[str], least: int) -> dict[str, set[str]]:
        """Return what descends from each kind but the root, with the kind, by its name.

        Parameters
        ----------
        present
            The kinds that there are.
        least
            Only branches of so many of these, that leave as many outside; of two that are the same
            the one nearer to the root.
        """
        found: dict[str, set[str]] = {}
        for root in self.kinds:
            branch = {kind for kind in present if root in self.ancestors(kind)}
            if self.parents[root] and min(len(branch), len(present - branch)) >= least:
                found |= {} if branch in found.values() else {root: branch}
        return found


def read(path: Path) -> Ruler:
    """Read a tree from a CSV.

    Columns are ``node``, ``parent`` (empty for the root) and, if labels of cells are called
    otherwise, ``names`` with these, separated by ``;``.

    Raises
    ------
    AtlasError
        The file is missing or no tree.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        parents = dict(zip(table["node"], table["parent"], strict=True))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"{path} is no ruler ({reason}). Give a CSV with the columns node and parent."
        raise AtlasError(msg) from None
    roots = [kind for kind, parent in parents.items() if not parent]
    unknown = [parent for parent in parents.values() if parent and parent not in parents]
    if len(roots) != 1 or unknown or len(parents) != len(table) or _circles(parents):
        msg = (
            f"{path} is no tree: {len(roots)} kinds have no parent (one is allowed), "
            f"{len(unknown)} parents are no kinds, or kinds repeat or come from themselves. "
            "Correct it."
        )
        raise AtlasError(msg)
    names = {kind: kind for kind in parents}
    for kind, listed in zip(table["node"], table.get("names", [""] * len(table)), strict=True):
        names |= {name.strip(): kind for name in listed.split(";") if name.strip()}
    return Ruler(parents, names)


def _circles(parents: Mapping[str, str]) -> bool:
    for start in parents:
        kind, steps = start, 0
        while kind := parents.get(kind, ""):
            steps += 1
            if steps > len(parents):
                return True
    return False


def of_cells(known: Path) -> Ruler:
    """Return the tree that was planted, by the folder of it, or that of human haematopoiesis."""
    planted = known / PLANTED_FILE
    return read(planted if planted.exists() else GRAPH_FILE)


def wrong(distances: Floats, rng: np.random.Generator) -> Floats:
    """Return a ruler that is as good as the right one and wrong: its kinds change names."""
    order = rng.permutation(len(distances))
    return distances[np.ix_(order, order)]


def coordinates(distances: Floats, dimensions: int) -> Floats:
    """Return points whose distances are those given, as far as so many dimensions allow.

    Classical multidimensional scaling (Torgerson 1952); dimensions that a ruler does not have are
    0, and so are the last ones where they tie with the next: which of them come first, and either
    end of each, would be an accident of the processor. Shape (n, dimensions).
    """
    n = len(distances)
    centring = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centring @ distances**2 @ centring)
    every = np.argsort(-values, kind="stable")
    order, left = every[:dimensions], values[every[dimensions:]]
    if len(left):
        order = order[values[order] > left[0] + TIE * values[every[0]]]
    largest = np.abs(vectors).max(axis=0)
    first = (np.abs(vectors) > largest - TIE).argmax(axis=0)
    vectors = vectors * np.sign(vectors[first, np.arange(n)])
    found = np.zeros((n, dimensions))
    found[:, : len(order)] = vectors[:, order] * np.sqrt(np.clip(values[order], 0, None))
    return found
