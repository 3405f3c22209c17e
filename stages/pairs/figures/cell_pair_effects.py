"""Draw what pairs of heads of a model of cells do beyond the sum of their heads."""

from collections.abc import Sequence

from stages.drawing import command
from stages.pairs.figures.pair_effects import draw
from stages.pairs.tables.epistasis import EPISTASIS, EPISTASIS_PAIRS

NAME = "cell_pairs"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    inputs = {"epistasis": EPISTASIS, "pairs": EPISTASIS_PAIRS}
    return command.run(__doc__, draw, NAME, argv, inputs=inputs, arms=None)


if __name__ == "__main__":
    raise SystemExit(main())
