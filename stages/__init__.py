"""Ask whether function concentrates alike in ageing tissue and in a training transformer.

One package, one room a question.
"""

__version__ = "0.1.0"
