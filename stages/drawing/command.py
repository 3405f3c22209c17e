"""The command line that every figure's stage shares: read its tables, draw, write."""

import argparse
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from matplotlib.figure import Figure
from pandera.pandas import DataFrameSchema

from stages.base import cli, study, tables
from stages.drawing import evidence, style

NONE: Mapping[str, str] = MappingProxyType({})


def run(
    doc: str | None,
    draw: Callable[..., Figure],
    name: str,
    argv: Sequence[str] | None,
    *,
    inputs: Mapping[str, DataFrameSchema],
    numbers: Mapping[str, str] = NONE,
    both: bool = False,
    real: bool = False,
    arms: evidence.ArmsOf | None = evidence.arms,
) -> int:
    """Run the stage of a figure and return its exit status.

    Parameters
    ----------
    doc
        The docstring of its module.
    draw
        Takes the tables in the order of `inputs`, the numbers by their names, and, as `about`, the
        study, if it has such a parameter.
    name
        Of the figure: ``fig_<name>.png`` and ``.svg``.
    inputs
        The schema of each table, by the option that names its file.
    numbers
        What each number is that the figure takes, by its option.
    both
        Whether it shows cells and heads: ``--study-heads`` then states the heads, and the figure
        bears the notices of both.
    real
        Whether it leaves out simulated arms where there are others.
    arms
        What names the arms that the tables show, by which the notice goes: those of the first; None
        where they show no cells.
    """

    def stage(args: argparse.Namespace) -> None:
        given = vars(args)
        about = study.read(args.study)
        shown = [tables.read(given[option], schema) for option, schema in inputs.items()]
        options = {option: given[option] for option in numbers}
        if real:
            shown = [evidence.real(table, about) for table in shown]
        if "about" in inspect.signature(draw).parameters:
            options["about"] = about
        figure = draw(*shown, **options)
        if arms is not None:
            about = about.about(arms(*shown))
        if both:
            about = study.joined(about, study.read(args.study_heads))
        style.save(figure, args.out, name, about)

    parser = cli.parser(doc)
    for option in inputs:
        parser.add_argument(f"--{option}", type=Path, required=True)
    for option, meaning in numbers.items():
        parser.add_argument(f"--{option}", type=float, required=True, help=meaning)
    parser.add_argument("--study", type=Path, required=True, help="what the inputs are")
    if both:
        parser.add_argument("--study-heads", type=Path, required=True, help="what the model is")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    return cli.run(parser, stage, argv)
