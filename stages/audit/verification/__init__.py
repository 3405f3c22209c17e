"""Compare recomputed results with the committed ones, number by number.

DVC's hashes say whether bytes are the same. This says what a reader wants to know when they are
not: which number moved, by how much, and whether that is what another processor does.
"""
