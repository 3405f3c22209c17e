"""Simulated haematopoiesis: cells of a known tree, from known programmes, edges and complexes.

`tree` is the lineage, `genes` what is planted among genes, `cells` draws donors, cells and counts.
The command line is ``python -m stages.inputs.haematopoiesis``.
"""
