"""Train cell-mini: Geneformer's architecture, small, on simulated cells of known truth.

`learnt` makes the vocabulary of the cells that it learns from, `train` the checkpoints in the
layout of the Hub. The command line is ``python -m stages.inputs.cell_mini``.
"""
