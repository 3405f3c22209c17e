"""Spectra: in how many directions a layer of a model holds its items (genes or tokens).

`items` harvests the mean vector of every item, `spectrum` takes it apart into directions, `axes`
asks what the leading ones separate, `structures` which known relations the model holds.
"""
