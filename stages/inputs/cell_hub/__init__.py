"""Bring published models of cells in, Geneformer and scGPT, and believe no byte unchecked.

`files` says which files make a model and fetches them, `verify` what must be true of them. The
command line is ``python -m stages.inputs.cell_hub``.
"""
