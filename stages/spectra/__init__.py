"""Spectra: in how many directions a layer of a model holds its items (genes or tokens).

`items` harvests the mean vector of every item, `spectrum` takes the items apart into directions,
`separation` asks what the leading ones separate, `structures` which relations the model holds.
"""
