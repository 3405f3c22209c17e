"""The model of the simulated cohorts: mean compositions, animals, and cells drawn from them.

Everything that is known about a simulated cohort is in five tables beside this module, read here.
An animal's drift d is 0 at the young age of its cohort (and before), 1 at the old age (and after)
and linear in between, less the part that caloric restriction rescues. Its mean composition is (1 -
d) times the young mean plus d times the old mean, and the same holds for the shares of substates
within a type.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base.errors import AtlasError

HERE = Path(__file__).parent
ANY = "*"
"""In substates.csv: every tissue, or every cell type of a tissue, that has no row of its own."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Cohort:
    """How the animals and cells of one cohort on one platform vary; a row of cohorts.csv."""

    cohort: str
    platform: str
    young_months: float
    old_months: float
    concentration: float
    """Of the Dirichlet distribution of an animal's composition around its mean: a larger one means
    more alike animals."""
    cells_young: float
    """Median number of cells a sample at drift 0."""
    cells_old: float
    cells_spread: float
    """Standard deviation of the logarithm of the number of cells."""
    cells_min: int
    cells_max: int
    cells_small: int
    """Cells of the samples that animals.csv declares too small to count."""
    unannotated: float
    """Probability that a cell has no cell type."""
    molecules: float
    """Median number of counts a cell."""
    molecules_spread: float


@dataclass(frozen=True)
class Animal:
    """One animal, or one library of a pooled label; a row of animals.csv."""

    animal: str
    age: str
    months: float
    sex: str
    drift: float
    small_in: str
    """The tissue of which it has too few cells; empty: none."""


@dataclass(frozen=True)
class Composition:
    """The mean composition of one tissue in youth and in old age; both sum to 1."""

    cell_types: tuple[str, ...]
    young: Floats
    old: Floats
    cells_factor: float

    def mean(self, drift: float | Floats) -> Floats:
        """Return the mean composition at a drift, or one row for each of several drifts."""
        d = np.asarray(drift, dtype=np.float64)[..., np.newaxis]
        return (1 - d) * self.young + d * self.old


@dataclass(frozen=True)
class Sample:
    """The cells of one tissue of one animal."""

    tissue: str
    animal: Animal
    composition: Composition
    cell_type: Integers
    """Of every cell, the number of its type in `composition`."""
    substate: Integers
    """Of every cell, the number of its substate within its type."""
    annotated: NDArray[np.bool_]


def rng(seed: int, name: str) -> np.random.Generator:
    """Return a generator that depends on the seed and a name, not on what was drawn before."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng(np.random.SeedSequence([seed, int.from_bytes(digest[:16])]))


@cache
def _table(name: str) -> pd.DataFrame:
    return pd.read_csv(HERE / f"{name}.csv", keep_default_na=False)


def composition_table() -> pd.DataFrame:
    """Return composition.csv: mean shares of cell types, with their source."""
    return _table("composition").copy()


def cohort(name: str, platform: str) -> Cohort:
    """Return how a cohort varies."""
    table = _table("cohorts")
    rows = table[(table["cohort"] == name) & (table["platform"] == platform)]
    if rows.empty:
        pairs = ", ".join(
            f"{c} on {p}" for c, p in zip(table["cohort"], table["platform"], strict=True)
        )
        msg = (
            f"the demo has no cohort {name} on {platform}: allowed are {pairs}. Change "
            "conf/atlas/demo.yaml."
        )
        raise AtlasError(msg)
    return Cohort(**rows.iloc[0].to_dict())


def animals(of: Cohort) -> list[Animal]:
    """Return the animals of a cohort in the order of animals.csv."""
    table = _table("animals")
    rows = table[(table["cohort"] == of.cohort) & (table["platform"] == of.platform)]
    aged = ((rows["months"] - of.young_months) / (of.old_months - of.young_months)).clip(0, 1)
    drift = aged * (1 - rows["rescued"])
    return [
        Animal(row.animal, row.age, row.months, row.sex, float(d), row.cells_small_in)
        for row, d in zip(rows.itertuples(), drift, strict=True)
    ]


def compositions(of: Cohort) -> dict[str, Composition]:
    """Return the mean compositions of a cohort by tissue, in the order of composition.csv."""
    table = _table("composition")
    rows = table[(table["cohort"] == of.cohort) & (table["platform"] == of.platform)]
    factors = _table("tissues")
    found = {}
    for tissue, part in rows.groupby("tissue", sort=False):
        factor = factors[
            (factors["cohort"] == of.cohort)
            & (factors["platform"] == of.platform)
            & (factors["tissue"] == tissue)
        ]["cells_factor"]
        young, old = part["young_mean"].to_numpy(), part["old_mean"].to_numpy()
        found[str(tissue)] = Composition(
            cell_types=tuple(part["cell_type"]),
            young=young / young.sum(),
            old=old / old.sum(),
            cells_factor=float(factor.iloc[0]) if len(factor) else 1.0,
        )
    return found


@cache
def substates(tissue: str, cell_type: str) -> tuple[Floats, Floats]:
    """Return young and old shares of a type's substates; the most specific rows win."""
    table = _table("substates")
    for where in ((tissue, cell_type), (tissue, ANY), (ANY, ANY)):
        rows = table[(table["tissue"] == where[0]) & (table["cell_type"] == where[1])]
        if len(rows):
            return rows["young_share"].to_numpy(float), rows["old_share"].to_numpy(float)
    msg = f"substates.csv has no rows for {cell_type} of {tissue} and none for any type."
    raise AtlasError(msg)


def n_cells(
    of: Cohort, composition: Composition, drift: Floats, generator: np.random.Generator
) -> Integers:
    """Draw how many cells the samples of animals with these drifts have."""
    median = (1 - drift) * of.cells_young + drift * of.cells_old
    drawn = median * np.exp(of.cells_spread * generator.standard_normal(drift.shape))
    clipped = np.clip(drawn, of.cells_min, of.cells_max) * composition.cells_factor
    return np.rint(clipped).astype(np.int64)


def draw_counts(
    of: Cohort,
    composition: Composition,
    drift: Floats,
    cells: Integers,
    generator: np.random.Generator,
) -> Integers:
    """Draw counts of cell types from the Dirichlet-multinomial: one row an animal."""
    gammas = generator.standard_gamma(of.concentration * composition.mean(drift))
    shares = gammas / gammas.sum(axis=-1, keepdims=True)
    return generator.multinomial(cells, shares)


def samples(
    of: Cohort, tissue: str, composition: Composition, generator: np.random.Generator
) -> Iterator[Sample]:
    """Draw the cells of one tissue of every animal of a cohort."""
    for animal in animals(of):
        drift = np.array([animal.drift])
        cells = n_cells(of, composition, drift, generator)
        if animal.small_in == tissue:
            cells = np.array([of.cells_small])
        counts = draw_counts(of, composition, drift, cells, generator)[0]
        cell_type = np.repeat(np.arange(len(counts)), counts)
        # Cells of a real file do not lie sorted by type.
        generator.shuffle(cell_type)
        substate = np.zeros_like(cell_type)
        for number, name in enumerate(composition.cell_types):
            young, old = substates(tissue, name)
            mean = (1 - animal.drift) * young + animal.drift * old
            chosen = cell_type == number
            share = generator.dirichlet(of.concentration * mean)
            substate[chosen] = generator.choice(len(mean), size=int(chosen.sum()), p=share)
        annotated = generator.random(len(cell_type)) >= of.unannotated
        yield Sample(tissue, animal, composition, cell_type, substate, annotated)
