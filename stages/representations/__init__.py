"""What flows through a model: its residual stream, kept as arrays, by position, item or cell.

`arrays` is the format, `sequences` what a model reads, `streams` runs it, `harvest` and `embed` are
the stages. Other rooms read through `arrays`.
"""
