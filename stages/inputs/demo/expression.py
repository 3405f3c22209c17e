"""Draw counts from nested programmes: housekeeping, cell type, substate.

The expected share of a gene in a cell of type t and substate s is

    (1 - TYPE_SHARE - SUBSTATE_SHARE) * housekeeping + TYPE_SHARE * programme(t) + SUBSTATE_SHARE *
    programme(s of t),

each part summing to 1 over the genes. A programme depends on the name of its type alone: B cells
are alike in every tissue, cohort and file. Counts are negative binomial: Poisson around
gamma-distributed rates, with log-normal library sizes.
"""

from functools import cache

import numpy as np
from scipy import sparse

from stages.inputs.demo import model
from stages.inputs.demo.model import Floats, Integers

N_HOUSEKEEPING = 114
N_TYPE = 300
N_SUBSTATE = 180
MITOCHONDRIAL = ("mt-Atp6", "mt-Co1", "mt-Co3", "mt-Cytb", "mt-Nd1")
RIBOSOMAL = "Rn45s"

GENES = (
    *(f"Keep{i:03d}" for i in range(N_HOUSEKEEPING)),
    *(f"Type{i:03d}" for i in range(N_TYPE)),
    *(f"State{i:03d}" for i in range(N_SUBSTATE)),
    *MITOCHONDRIAL,
    RIBOSOMAL,
)
"""600 invented genes, and real names only where the loaders of the published files look for
them."""

# Strong enough that Leiden finds the substates of the frequent types at resolutions about 1 and
# more, weak enough that it finds types first: see the test of Leiden for the agreement measured.
TYPE_SHARE = 0.30
SUBSTATE_SHARE = 0.06
GENES_A_TYPE = 16
GENES_A_SUBSTATE = 7
AMBIENT = 0.15
"""Part of the housekeeping share that lies evenly on the genes of all programmes: no gene is quite
silent."""

DISPERSION = 4.0
"""Shape of the gamma distribution of rates: variance = mean + mean^2 / 4."""

PROGRAMME_SEED = 600
"""Fixed, so that programmes do not change with the cohorts' seed."""

CELLS_AT_ONCE = 4096


@cache
def housekeeping() -> Floats:
    """Return what every cell expresses: the share of each gene."""
    generator = model.rng(PROGRAMME_SEED, "housekeeping")
    profile = np.zeros(len(GENES))
    kept = np.r_[0:N_HOUSEKEEPING, len(GENES) - len(MITOCHONDRIAL) - 1 : len(GENES)]
    weights = generator.lognormal(0.0, 0.8, len(kept))
    profile[kept] = (1 - AMBIENT) * weights / weights.sum()
    programmed = slice(N_HOUSEKEEPING, N_HOUSEKEEPING + N_TYPE + N_SUBSTATE)
    profile[programmed] = AMBIENT / (N_TYPE + N_SUBSTATE)
    return profile


@cache
def programme(name: str, *, first: int, among: int, n: int) -> Floats:
    """Return a programme: `n` genes with unequal shares, chosen by the name alone."""
    generator = model.rng(PROGRAMME_SEED, name)
    profile = np.zeros(len(GENES))
    genes = first + generator.choice(among, size=n, replace=False)
    profile[genes] = generator.dirichlet(np.full(n, 5.0))
    return profile


def profile(cell_type: str, substate: int) -> Floats:
    """Return the expected share of each gene in a cell of one type and substate."""
    of_type = programme(cell_type, first=N_HOUSEKEEPING, among=N_TYPE, n=GENES_A_TYPE)
    of_substate = programme(
        f"{cell_type}/{substate}",
        first=N_HOUSEKEEPING + N_TYPE,
        among=N_SUBSTATE,
        n=GENES_A_SUBSTATE,
    )
    rest = 1 - TYPE_SHARE - SUBSTATE_SHARE
    return rest * housekeeping() + TYPE_SHARE * of_type + SUBSTATE_SHARE * of_substate


def draw(
    cell_types: tuple[str, ...],
    cell_type: Integers,
    substate: Integers,
    of: model.Cohort,
    generator: np.random.Generator,
) -> sparse.csr_matrix:
    """Draw the counts of cells x genes.

    Parameters
    ----------
    cell_types
        Names of the types.
    cell_type, substate
        Of every cell, the number of its type and of its substate within the type.
    of
        The cohort: how many counts a cell has.
    generator
        Of the random numbers.

    Returns
    -------
    csr_matrix
        Counts as float32, as anndata files hold them, with sorted indices.
    """
    kinds, kind = np.unique(np.stack([cell_type, substate]), axis=1, return_inverse=True)
    profiles = np.stack([profile(cell_types[t], int(s)) for t, s in kinds.T])
    molecules = of.molecules * np.exp(
        of.molecules_spread * generator.standard_normal(len(cell_type))
    )
    blocks = []
    for start in range(0, len(cell_type), CELLS_AT_ONCE):
        cells = slice(start, start + CELLS_AT_ONCE)
        expected = molecules[cells, np.newaxis] * profiles[kind[cells]]
        rates = expected * generator.standard_gamma(DISPERSION, expected.shape) / DISPERSION
        blocks.append(sparse.csr_matrix(generator.poisson(rates).astype(np.float32)))
    counts: sparse.csr_matrix = sparse.vstack(blocks, format="csr")
    counts.sort_indices()
    return counts
