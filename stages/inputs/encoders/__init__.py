"""Turn counts of cells into what models of cells read.

`vocabulary` names a model's genes, `dictionaries` reads the published ones, `matrix` streams counts
of an h5ad, `geneformer` and `scgpt` encode them, `encoded` is what comes out.
"""
