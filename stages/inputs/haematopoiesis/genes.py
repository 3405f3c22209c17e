"""What is planted among genes: programmes, regulators with their targets, complexes, classes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.inputs.haematopoiesis.tree import NODES, PARENTS
from stages.measurement.streams import stream

Floats = npt.NDArray[np.float64]

PROGRAMME_GENES = 36
"""Of each kind of cell; the first are its transcription factors."""
FACTORS = 4
ACTIVATED, REPRESSED = 14, 4
"""Targets of each factor: in its own programme, and in those of the kinds beside its own."""
COMPLEXES, COMPLEX_GENES = 40, 8
HOUSEKEEPING = 296
CLASSES = ("ribosomal", "mitochondrial", "secreted", "membrane", "nuclear", "cytosolic")
CLASS_STRENGTH = 0.5
"""Standard deviation, in log expression, of what all genes of a class share in a cell."""
STRENGTHS = (0.1, 0.9)
"""Weakest and strongest complex: the same of what the genes of a complex share."""


@dataclass(frozen=True)
class Genes:
    """The planted structure."""

    table: pd.DataFrame
    """One row a gene: ``gene``, ``symbol``, ``programme``, ``is_factor``, ``complex``, ``class``,
    ``base`` (log expression where nothing is on), ``loading`` (what its programme adds)."""
    edges: pd.DataFrame
    """One row an edge: ``factor``, ``target`` (genes), ``sign``, ``weight``."""
    complexes: pd.DataFrame
    """One row a complex: ``complex``, ``strength``."""

    def __len__(self) -> int:
        """Return the number of genes."""
        return len(self.table)

    def loadings(self) -> Floats:
        """Return what each programme adds to each gene: (kinds, genes)."""
        found = np.zeros((len(NODES), len(self)))
        programme = self.table["programme"]
        for number, node in enumerate(NODES):
            of = (programme == node).to_numpy()
            found[number, of] = self.table["loading"].to_numpy()[of]
        return found

    def weights(self) -> tuple[npt.NDArray[np.int64], Floats]:
        """Return the numbers of the factors, and how each moves every gene: (factors, genes)."""
        factors = np.flatnonzero(self.table["is_factor"])
        place = {name: number for number, name in enumerate(self.table["gene"])}
        row = {int(number): at for at, number in enumerate(factors)}
        found = np.zeros((len(factors), len(self)))
        for factor, target, weight in zip(
            self.edges["factor"], self.edges["target"], self.edges["weight"], strict=True
        ):
            found[row[place[factor]], place[target]] = weight
        return factors, found

    def shared(self) -> tuple[Floats, Floats]:
        """Return how strongly genes follow their complex and their class.

        Returns
        -------
        ndarray, ndarray
            (complexes, genes) and (classes, genes).
        """
        strength = self.complexes["strength"].to_numpy()
        complexes = np.zeros((COMPLEXES, len(self)))
        number = self.table["complex"].to_numpy()
        of = np.flatnonzero(number >= 0)
        complexes[number[of], of] = strength[number[of]]
        classes = np.stack([(self.table["class"] == name).to_numpy() for name in CLASSES])
        return complexes, classes * CLASS_STRENGTH


def plant(seed: int) -> Genes:
    """Draw the structure that a seed stands for."""
    rng = stream(seed, "genes")
    rows: list[dict[str, object]] = []
    for node in NODES:
        short = node.replace(" ", "").replace("-", "")
        rows += [
            {
                "symbol": f"{short}-{'TF' if number < FACTORS else 'G'}{number:02d}",
                "programme": node,
                "is_factor": number < FACTORS,
                "complex": -1,
            }
            for number in range(PROGRAMME_GENES)
        ]
    rows += [
        {"symbol": f"Cx{of:02d}-{number}", "programme": "", "is_factor": False, "complex": of}
        for of in range(COMPLEXES)
        for number in range(COMPLEX_GENES)
    ]
    rows += [
        {"symbol": f"Keep{number:03d}", "programme": "", "is_factor": False, "complex": -1}
        for number in range(HOUSEKEEPING)
    ]
    table = pd.DataFrame(rows)
    n = len(table)
    # Ids say nothing: their order is not that of programmes.
    table.insert(0, "gene", [f"SIMG{number:08d}" for number in rng.permutation(n)])
    table["class"] = rng.choice(CLASSES, size=n)
    programmed = (table["programme"] != "").to_numpy()
    table["base"] = np.where(programmed, -1.3, 0.4) + 1.1 * rng.standard_normal(n)
    table["loading"] = np.where(programmed, rng.uniform(3.2, 5.0, n), 0.0)
    complexes = pd.DataFrame(
        {"complex": range(COMPLEXES), "strength": np.linspace(*STRENGTHS, COMPLEXES)}
    )
    return Genes(table, _edges(table, rng), complexes)


def _edges(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Draw the targets of every factor."""
    by_programme = {node: table[table["programme"] == node] for node in NODES}
    rows = []
    for node in NODES:
        own = by_programme[node]
        # Kinds beside it: of the same parent; of the stem cell, its children.
        beside = [name for name in NODES if name != node and PARENTS[name] == PARENTS[node]]
        beside = beside or [name for name in NODES if PARENTS[name] == node]
        beside = beside or [str(PARENTS[node])]
        others = pd.concat([by_programme[name] for name in beside])
        for factor in own.loc[own["is_factor"], "gene"]:
            for sign, targets, count in ((1, own, ACTIVATED), (-1, others, REPRESSED)):
                allowed = targets.loc[~targets["is_factor"], "gene"].to_numpy()
                for target in rng.choice(allowed, size=count, replace=False):
                    weight = sign * rng.uniform(0.45, 0.9)
                    rows.append((factor, target, "activates" if sign > 0 else "represses", weight))
    return pd.DataFrame(rows, columns=["factor", "target", "sign", "weight"])
