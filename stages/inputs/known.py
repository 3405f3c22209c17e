"""What is known of genes: sets, edges from regulators to targets, and pairs of graded strength.

It was planted where the cells are simulated, and stands in files of gene sets where they are not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli
from stages.base.errors import AtlasError
from stages.inputs import gene_sets
from stages.inputs.settings import GeneSets

PLANTED_FILE = "genes.csv"
MARKERS, CLASS, REGULATOR = "markers", "class", "regulator"
ACTIVATES, REPRESSES, UNSIGNED = "activates", "represses", ""


@dataclass(frozen=True)
class Known:
    """What is known of some genes, by their names in the model."""

    families: Mapping[str, Mapping[str, frozenset[str]]]
    """Families of sets: by name of the family, by name of the set, genes."""
    edges: pd.DataFrame
    """``factor``, ``target``, ``sign``; each once."""
    graded: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["first", "second", "score", "block"])
    )
    """Pairs of genes with the strength of what binds them; pairs of one ``block`` share it."""
    near: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Sets of genes that belong together, regulators among them."""

    @property
    def factors(self) -> set[str]:
        """Genes that regulate."""
        return set(self.edges["factor"])


def membership(
    sets: Mapping[str, frozenset[str]], names: Sequence[str]
) -> tuple[list[str], NDArray[np.bool_]]:
    """Return the names of sets, and which of the genes are in each: (n_sets, n_genes)."""
    inside = np.array([[name in of for name in names] for of in sets.values()], dtype=bool)
    return list(sets), inside.reshape(len(sets), len(names))


def read(folder: Path, files: Mapping[str, GeneSets], synonyms: Mapping[str, str] | None) -> Known:
    """Return what was planted among simulated genes, or what the files of the settings say.

    Parameters
    ----------
    folder
        Of what was planted; one that holds nothing planted leaves it to the settings.
    synonyms
        Other names of genes, in capitals, to those of the model.

    Raises
    ------
    AtlasError
        A file is missing or is not what it should be.
    """
    if (folder / PLANTED_FILE).exists():
        return planted(folder)
    return gene_sets_of(files, synonyms or {})


def planted(folder: Path) -> Known:
    """Return what was planted (:mod:`stages.inputs.haematopoiesis`)."""
    try:
        genes = pd.read_csv(folder / PLANTED_FILE, keep_default_na=False)
        edges = pd.read_csv(folder / "edges.csv")
        complexes = pd.read_csv(folder / "complexes.csv")
    except (OSError, ValueError) as error:
        msg = f"{folder} states nothing planted ({' '.join(str(error).split())}). Run dvc repro."
        raise AtlasError(msg) from None
    strength = complexes.set_index("complex")["strength"]
    pairs = [
        (first, second, strength[number], number)
        for number, of in genes[genes["complex"] >= 0].groupby("complex")["gene"]
        for place, first in enumerate(of)
        for second in list(of)[place + 1 :]
    ]
    # Regulators are no markers: what they are near to is asked by their edges.
    markers = genes[(genes["programme"] != "") & ~genes["is_factor"]]
    return Known(
        families={
            MARKERS: _sets(markers, "programme"),
            CLASS: _sets(genes[genes["programme"] == ""], "class"),
        },
        edges=edges[["factor", "target", "sign"]],
        graded=pd.DataFrame(pairs, columns=["first", "second", "score", "block"]),
        near=_sets(genes[genes["programme"] != ""], "programme"),
    )


def _sets(genes: pd.DataFrame, column: str) -> dict[str, frozenset[str]]:
    return {str(name): frozenset(of) for name, of in genes.groupby(column)["gene"]}


def gene_sets_of(files: Mapping[str, GeneSets], synonyms: Mapping[str, str]) -> Known:
    """Return what files say, in the names of the model; what it does not know is counted aloud."""

    def named(gene: str) -> str:
        return synonyms.get(gene.upper(), gene)

    families: dict[str, dict[str, frozenset[str]]] = {}
    edges, graded = [], []
    for name, of in files.items():
        found = gene_sets.read(of)
        cli.log.info("%s: %s", of.path, found.said)
        if found.sets:
            families[name] = {
                label: frozenset(map(named, genes)) for label, genes in found.sets.items()
            }
        if found.edges is not None:
            edges.append(found.edges)
        if found.graded is not None:
            graded.append(found.graded)
    together = pd.concat(edges) if edges else pd.DataFrame(columns=["factor", "target", "sign"])
    pairs = pd.concat(graded) if graded else pd.DataFrame(columns=["first", "second", "score"])
    for table in (together, pairs):
        for column in ("factor", "target", "first", "second"):
            if column in table:
                table[column] = table[column].map(named)
    pairs = pairs.reset_index(drop=True)
    return Known(
        families=families,
        edges=together.drop_duplicates().reset_index(drop=True),
        graded=pairs.assign(block=np.arange(len(pairs))),
        near=next(iter(families.values()), {}),
    )
