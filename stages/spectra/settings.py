"""Settings of the spectra of items."""

from typing import Annotated

from pydantic import Field

from stages.base.sections import Confidence, Count, Section

Seed = Annotated[int, Field(ge=0)]
Draws = Annotated[int, Field(ge=20)]


class ItemMeans(Section):
    """Of how much text, and in how many parts of it, items have their means."""

    n_cells: Count
    """Cells that a model of cells reads, drawn from the encoded ones; text is read whole."""
    parts: Annotated[int, Field(ge=2)]
    """Parts that sequences are dealt into: the replicates. Sums of all parts are held in memory:
    8 bytes x parts x items x width x layers."""
    seed: Seed


class Spectrum(Section):
    """Which items have a spectrum, and what stands beside it."""

    min_count: Count
    """An item that was met less often is left out, and counted."""
    shuffles: Draws
    """Draws of the column shuffle."""
    zero_share: Annotated[float, Field(gt=0, lt=1)]
    """Share of all-zero rows that is planted: that of the published matrix."""
    neighbours_among: Annotated[int, Field(ge=20)]
    """Items, drawn at random, whose neighbours give the intrinsic dimension."""
    confidence: Confidence
    seed: Seed


class Separation(Section):
    """What the leading directions are held against."""

    n_axes: Count
    pole_share: Annotated[float, Field(gt=0, lt=0.5)]
    """Share of the items that is one pole of an axis (published: 52 of 195)."""
    permutations: Draws
    seed: Seed


class Structures(Section):
    """What is known of genes, and how the model is asked for it."""

    smallest_set: Annotated[int, Field(ge=2)]
    largest_set: Annotated[int, Field(ge=2)]
    """Sets with fewer or more of the model's genes are left out."""
    most_genes: Annotated[int, Field(ge=20)]
    """Of the genes of which something is known: of more, some are drawn."""
    most_pairs: Annotated[int, Field(ge=20)]
    """Pairs of a question: of more, some are drawn."""
    first_axis: Count
    last_axis: Count
    """Axes, counted from 1, on which regulators are told from targets (published: 2 to 7)."""
    caliper: Annotated[float, Field(gt=0)]
    """Regulator and target are matched if their log frequencies differ by no more."""
    confidence: Confidence
    draws: Draws
    permutations: Draws
    seed: Seed


SECTIONS = {
    "items": ItemMeans,
    "spectrum": Spectrum,
    "separation": Separation,
    "structures": Structures,
}
