"""Draw donors, the cells of each, and their counts.

The log expression of a gene in a cell is the sum of its base, the donor's own deviation, what the
programmes that are on add, what its transcription factors' deviations move, and what its complex
and its class share in that cell. Counts are negative binomial around it, at log-normal library
sizes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from stages.inputs.haematopoiesis import tree
from stages.inputs.haematopoiesis.genes import Genes
from stages.measurement.concentration import effective_number, gini
from stages.measurement.streams import stream

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MOLECULES, MOLECULES_SPREAD = 3200.0, 0.3
"""Mean library size, and the standard deviation of its logarithm."""
DISPERSION = 6.0
"""Shape of the gamma distribution of rates: variance = mean + mean^2 / 6."""
FACTOR_NOISE = 0.8
"""Standard deviation of a factor's log expression beyond its programme; its targets follow it."""
DONOR_NOISE = 0.15
CONCENTRATION = 150.0
"""Of the Dirichlet distribution of a donor's shares around those of its age."""
TISSUE = "Bone_Marrow"

YOUNG = dict(
    zip(
        tree.NODES,
        (6, 6, 9, 4, 7, 10, 4, 11, 5, 6, 9, 3, 6, 6, 5, 3),
        strict=True,
    )
)
OLD = dict(
    zip(
        tree.NODES,
        (9, 5, 8, 4, 9, 17, 6, 19, 2, 2, 4, 3, 3, 4, 3, 2),
        strict=True,
    )
)
"""Cells of each kind of a hundred, at both ages: an old marrow holds more stem and myeloid cells
and fewer lymphoid ones."""
_CELLS_AT_ONCE = 2048


@dataclass(frozen=True)
class Donor:
    """A person."""

    name: str
    age: int
    """In years."""
    sex: str

    @property
    def is_old(self) -> bool:
        """Whether the shares are those of old age."""
        return self.age >= OLD_FROM


OLD_FROM = 60


def donors(seed: int, count: int) -> list[Donor]:
    """Return so many donors, half of them old, both sexes at both ages."""
    rng = stream(seed, "donors")
    found = []
    for number in range(count):
        old = number % 2 == 1
        age = int(rng.integers(66, 80) if old else rng.integers(24, 36))
        found.append(Donor(f"D{number + 1:02d}", age, "female" if number // 2 % 2 else "male"))
    return found


def composition() -> pd.DataFrame:
    """Return the shares of all kinds at both ages, and both numbers of each age."""
    rows = []
    for age, of in (("young", YOUNG), ("old", OLD)):
        shares = np.array([of[node] for node in tree.NODES]) / sum(of.values())
        rows += [
            {
                "age": age,
                "node": node,
                "share": share,
                "gini": gini(shares),
                "effective_number": effective_number(shares),
            }
            for node, share in zip(tree.NODES, shares, strict=True)
        ]
    return pd.DataFrame(rows)


def draw(
    genes: Genes, donor: Donor, *, seed: int, n_cells: int
) -> Iterator[tuple[pd.DataFrame, sparse.csr_matrix]]:
    """Draw the cells of a donor, some at a time.

    Yields
    ------
    obs
        One row a cell: ``cell``, ``donor``, ``age``, ``sex``, ``tissue``, ``node``, ``branch``,
        ``pseudotime``.
    counts
        (cells, genes), float32 as anndata files hold them.
    """
    rng = stream(seed, "cells", donor.name)
    of = OLD if donor.is_old else YOUNG
    expected = np.array([of[node] for node in tree.NODES], dtype=float)
    shares = rng.dirichlet(expected / expected.sum() * CONCENTRATION)
    own = DONOR_NOISE * rng.standard_normal(len(genes))
    node = rng.choice(len(tree.NODES), size=n_cells, p=shares)
    # Few cells are only just on their way.
    way = rng.beta(2.2, 1.15, n_cells)
    molecules = rng.lognormal(np.log(MOLECULES), MOLECULES_SPREAD, n_cells)
    obs = pd.DataFrame(
        {
            "cell": [f"{donor.name}-{number:05d}" for number in range(n_cells)],
            "donor": donor.name,
            "age": f"{donor.age} years",
            "sex": donor.sex,
            "tissue": TISSUE,
            "node": np.array(tree.NODES)[node],
            "branch": np.array([tree.branch(name) for name in tree.NODES])[node],
            "pseudotime": tree.pseudotime(node, way),
        }
    )
    for start in range(0, n_cells, _CELLS_AT_ONCE):
        some = slice(start, min(start + _CELLS_AT_ONCE, n_cells))
        logs = own + expression(genes, node[some], way[some], rng)
        rates = np.exp(logs - logs.max(axis=1, keepdims=True))
        rates *= (molecules[some] / rates.sum(axis=1))[:, np.newaxis]
        rates *= rng.standard_gamma(DISPERSION, rates.shape) / DISPERSION
        yield obs[some], sparse.csr_matrix(rng.poisson(rates).astype(np.float32))


def expression(genes: Genes, node: Integers, way: Floats, rng: np.random.Generator) -> Floats:
    """Return the log expression of cells, but for what is the donor's own: (cells, genes)."""
    n = len(node)
    logs = genes.table["base"].to_numpy() + tree.activities(node, way) @ genes.loadings()
    factors, weights = genes.weights()
    deviation = FACTOR_NOISE * rng.standard_normal((n, len(factors)))
    logs[:, factors] += deviation
    logs += deviation @ weights
    for strengths in genes.shared():
        logs += rng.standard_normal((n, len(strengths))) @ strengths
    return np.asarray(logs)
