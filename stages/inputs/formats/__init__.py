"""Tables of cells in whatever layout they come, in pieces of rows: one file a layout.

Each module has a generator ``pieces`` that yields the wanted columns as data frames, in the order
of the file and at least once; `stages.inputs.obs` tells by the bytes which one reads a file.
`refused` says of everything else what to do with it.
"""
