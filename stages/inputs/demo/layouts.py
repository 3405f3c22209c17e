"""Write simulated cells with the columns, values and expression of the published h5ad files.

Three layouts: Tabula Muris Senis FACS (15 columns of obs; here in the current anndata layout),
droplet (15 columns; in the legacy layout, as published) and Kimmel et al. 2019 (10 columns, X of
counts).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from stages.inputs.demo import expression, legacy, model
from stages.inputs.demo.model import Sample

UNNAMED = "nan"
"""What the published files write where a cell has no annotation, ontology identifier or sorting
gate."""

ONTOLOGY = {
    "B cell": "CL:0000236",
    "NK cell": "CL:0000623",
    "T cell": "CL:0000084",
    "endothelial cell": "CL:0000115",
    "macrophage": "CL:0000235",
    "podocyte": "CL:0000653",
}
"""Identifiers of a few types; the others have none here, as many in the published files."""

FACS_COLUMNS = (
    "FACS.selection age cell cell_ontology_class cell_ontology_id free_annotation method mouse.id "
    "sex subtissue tissue "
    "n_genes n_counts louvain leiden"
).split()
DROPLET_COLUMNS = (
    "age cell cell_ontology_class cell_ontology_id free_annotation method mouse.id n_genes sex "
    "subtissue tissue "
    "tissue_free_annotation n_counts louvain leiden"
).split()
KIMMEL_COLUMNS = (
    "age cell_type subtype animal replicate batch percent_mito percent_Rn45s n_counts n_genes"
).split()

TARGET_COUNTS = 1e4
CLIP = 10.0
DECIMALS = 9
ROUNDING = 1024.0
"""X is rounded to multiples of 1/1024, far below the noise of counts, so that it packs well."""


def draw_cells(
    of: model.Cohort, tissues: Iterable[str], generator: np.random.Generator
) -> tuple[pd.DataFrame, sparse.csr_matrix]:
    """Draw all cells of a cohort in some tissues: what is true of each, and its counts.

    Returns
    -------
    DataFrame, csr_matrix
        One row a cell: `tissue`, `animal`, `age`, `sex`, `library`, `cell_type`, `substate`,
        `annotated`, `barcode`.
    """
    compositions = model.compositions(of)
    frames, counts = [], []
    library = 0
    for tissue in tissues:
        for sample in model.samples(of, tissue, compositions[tissue], generator):
            frames.append(_truth_of(sample, library, generator))
            counts.append(
                expression.draw(
                    sample.composition.cell_types,
                    sample.cell_type,
                    sample.substate,
                    of,
                    generator,
                )
            )
            library += 1
    return pd.concat(frames, ignore_index=True), sparse.vstack(counts, format="csr")


def write_tms(path: Path, of: model.Cohort, generator: np.random.Generator, *, layout: str) -> None:
    """Write one platform of Tabula Muris Senis: X scaled, counts in raw.X."""
    cells, counts = draw_cells(of, model.compositions(of), generator)
    facs = of.platform == "facs"
    obs = _tms_obs(cells, counts, facs=facs, generator=generator)
    x, var = processed(counts)
    raw_var = var[["n_cells"]]
    if layout == "legacy":
        legacy.write(path, x=x, obs=obs, var=var, raw_x=counts, raw_var=raw_var)
        return
    data = ad.AnnData(X=x, obs=obs, var=var)
    data.raw = ad.AnnData(X=counts, obs=obs, var=raw_var)
    _write_anndata(path, data)


def write_kimmel(path: Path, of: model.Cohort, tissue: str, generator: np.random.Generator) -> None:
    """Write one tissue of Kimmel et al. 2019: X holds the counts."""
    cells, counts = draw_cells(of, [tissue], generator)
    totals = _sums(counts)
    genes = list(expression.GENES)
    mitochondrial = [genes.index(gene) for gene in expression.MITOCHONDRIAL]
    of_type = cells["cell_type"].astype(str)
    obs = pd.DataFrame(
        {
            "age": pd.Categorical(cells["age"]),
            "cell_type": pd.Categorical(of_type),
            "subtype": pd.Categorical(of_type + " " + cells["substate"]),
            "animal": pd.Categorical(cells["animal"]),
            "replicate": pd.Categorical(cells["animal"].str[1:]),
            "batch": pd.Categorical(cells["library"].astype(str)),
            "percent_mito": _sums(counts[:, mitochondrial]) / totals,
            "percent_Rn45s": _sums(counts[:, [genes.index(expression.RIBOSOMAL)]]) / totals,
            "n_counts": totals,
            "n_genes": np.diff(counts.indptr).astype(np.int64),
        }
    )[KIMMEL_COLUMNS]
    obs.index = pd.Index(cells["barcode"] + "-1-" + cells["library"].astype(str), name="index")
    var = pd.DataFrame({"n_cells": _detected(counts)}, index=pd.Index(genes, name="index"))
    _write_anndata(path, ad.AnnData(X=counts, obs=obs, var=var))


def processed(counts: sparse.csr_matrix) -> tuple[sparse.csr_matrix, pd.DataFrame]:
    """Return X and var as the processed files hold them.

    X is each cell normalised to 10,000 counts, log1p, each gene divided by its standard deviation
    without centring, clipped at 10. `means` and `dispersions` are those of the normalised counts
    (logarithms of the mean, and of the variance over the mean); `highly_variable` marks the third
    of the genes with the largest standardised dispersion.
    """
    totals = _sums(counts)
    n = counts.shape[0]
    normalised = counts.astype(np.float64)
    normalised.data *= np.repeat(TARGET_COUNTS / totals, np.diff(counts.indptr))
    mean, variance = _moments(normalised, n)
    dispersion = np.log(np.where(variance > 0, variance, mean) / mean)
    standardised = (dispersion - dispersion.mean()) / dispersion.std()
    var = pd.DataFrame(
        {
            "n_cells": _detected(counts),
            # The last digits of a logarithm are the processor's.
            "means": np.log1p(mean).round(DECIMALS),
            "dispersions": dispersion.round(DECIMALS),
            "dispersions_norm": standardised.round(DECIMALS),
            "highly_variable": standardised >= np.quantile(standardised, 2 / 3),
        },
        index=pd.Index(expression.GENES, name="index"),
    )
    logged = normalised
    logged.data = np.log1p(logged.data)
    spread = np.sqrt(_moments(logged, n)[1])
    scaled = np.minimum(logged.data / spread[logged.indices], CLIP)
    # At least one step: rounding must not make a cell lose a gene that it expresses.
    rounded = np.maximum(np.rint(scaled * ROUNDING), 1.0) / ROUNDING
    x = sparse.csr_matrix(
        (rounded.astype(np.float32), logged.indices, logged.indptr), shape=counts.shape
    )
    return x, var


def _truth_of(sample: Sample, library: int, generator: np.random.Generator) -> pd.DataFrame:
    n = len(sample.cell_type)
    names = np.array(sample.composition.cell_types, dtype=object)
    letters = np.array(list("abcdefgh"), dtype=object)
    return pd.DataFrame(
        {
            "tissue": sample.tissue,
            "animal": sample.animal.animal,
            "age": sample.animal.age,
            "sex": sample.animal.sex,
            "library": library,
            "cell_type": names[sample.cell_type],
            "substate": letters[sample.substate],
            "annotated": sample.annotated,
            "barcode": barcodes(n, generator),
        }
    )


def barcodes(n: int, generator: np.random.Generator) -> list[str]:
    """Return `n` different cell barcodes of 16 bases."""
    found: dict[str, None] = {}
    while len(found) < n:
        drawn = generator.integers(0, 4, size=(n, 16))
        found.update(dict.fromkeys("".join(row) for row in np.array(list("ACGT"))[drawn]))
    return list(found)[:n]


def _tms_obs(
    cells: pd.DataFrame,
    counts: sparse.csr_matrix,
    *,
    facs: bool,
    generator: np.random.Generator,
) -> pd.DataFrame:
    library = cells["library"].astype(str)
    of_type = cells["cell_type"].astype(str)
    annotated = cells["annotated"].to_numpy()
    label = of_type.where(annotated, UNNAMED).astype(object)
    if facs:
        # The current layout can leave a value out altogether: readers must understand both ways of
        # saying nothing.
        label[~annotated & (generator.random(len(cells)) < 0.5)] = None
    fine = of_type + " " + cells["substate"]
    well = [f"{row}{column}" for row in "ABCDEFGHIJKLMNOP" for column in range(1, 25)]
    wells = pd.Series([well[i % len(well)] for i in range(len(cells))])
    plates = "B" + (100000 + cells.index // len(well)).astype(str)
    cell = (
        wells + "." + plates + "." + cells["animal"]
        if facs
        else "10X_P" + library + "_0_" + cells["barcode"]
    )
    obs = pd.DataFrame(
        {
            "FACS.selection": pd.Categorical(np.where(cells["age"] == "3m", UNNAMED, "Viable")),
            # Categories of strings sort as text: 18m before 1m before 3m. The published files have
            # them so.
            "age": pd.Categorical(cells["age"]),
            "cell": cell.to_numpy(dtype=object),
            "cell_ontology_class": pd.Categorical(label),
            "cell_ontology_id": pd.Categorical(label.map(ONTOLOGY).fillna(UNNAMED)),
            "free_annotation": pd.Categorical(fine.where(annotated, UNNAMED)),
            "method": pd.Categorical([of_platform(facs=facs)] * len(cells)),
            "mouse.id": pd.Categorical(cells["animal"]),
            "sex": pd.Categorical(cells["sex"]),
            "subtissue": pd.Categorical([UNNAMED] * len(cells)),
            "tissue": pd.Categorical(cells["tissue"]),
            "tissue_free_annotation": pd.Categorical(cells["tissue"]),
            "n_genes": np.diff(counts.indptr).astype(np.int64),
            "n_counts": _sums(counts),
            "louvain": pd.Categorical(_numbered(of_type)),
            "leiden": pd.Categorical(_numbered(fine)),
        }
    )[FACS_COLUMNS if facs else DROPLET_COLUMNS]
    names = (
        wells + "_" + plates + "_" + cells["animal"] + ".mm10-plus-0-0"
        if facs
        else cells["barcode"] + "-1-" + library + "-0-0"
    )
    obs.index = pd.Index(names, name="index")
    return obs


def of_platform(*, facs: bool) -> str:
    """Return how the column `method` names the platform."""
    return "facs" if facs else "droplet"


def _numbered(labels: pd.Series) -> list[str]:
    """Return labels as cluster numbers, 0 the most frequent, as clustering tools write them."""
    counted = labels.value_counts().reset_index()
    counted.columns = pd.Index(["label", "n"])
    ranked = counted.sort_values(["n", "label"], ascending=[False, True])["label"]
    number = {label: str(i) for i, label in enumerate(ranked)}
    return [number[label] for label in labels]


def _sums(counts: sparse.csr_matrix) -> NDArray[np.float32]:
    return np.asarray(counts.sum(axis=1)).ravel().astype(np.float32)


def _detected(counts: sparse.csr_matrix) -> NDArray[np.int64]:
    return np.bincount(counts.indices, minlength=counts.shape[1]).astype(np.int64)


def _moments(matrix: sparse.csr_matrix, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance (n - 1) of every column, zeros included."""
    size = matrix.shape[1]
    total = np.bincount(matrix.indices, weights=matrix.data, minlength=size)
    squares = np.bincount(matrix.indices, weights=matrix.data**2, minlength=size)
    mean = total / n
    return mean, (squares - n * mean**2) / (n - 1)


def _write_anndata(path: Path, data: ad.AnnData) -> None:
    packing: dict[str, Any] = {"compression": "gzip"}
    data.write_h5ad(path, **packing)
