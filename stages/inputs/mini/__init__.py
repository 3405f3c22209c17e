"""Train pythia-mini: Pythia's architecture, small, on text that every installation has.

`corpus` collects the text, `tokenizer` learns its byte pairs, `train` makes the checkpoints in the
layout of the Hub. The command line is ``python -m stages.inputs.mini``.
"""
