"""One style for every figure: sizes, fonts, colours, names, and how a figure is written.

Figures are made at the size they are printed, so a font of 7 points is 7 points on paper. Fonts are
those that come with matplotlib; text in an SVG is text. Both files of a figure are the same
bytes each time they are made with the pinned packages.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, ParamSpec

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from stages.base import study
from stages.base.errors import FigureError
from stages.base.files import atomic_path

P = ParamSpec("P")
LineStyle = Literal["-", "--", "-.", ":"]

MM_PER_INCH = 25.4
POINTS_PER_INCH = 72
SINGLE_MM = 89
"""Width of one column of a page."""
DOUBLE_MM = 183
"""Width of a page of two columns."""
PAGE_MM = 240
"""Height of a page."""
STRIP_MM = 4.5
"""Kept free at the foot of every figure for the notice of simulated inputs."""

SMALLEST_PT = 7
TITLE_PT = 8
DPI = 300

INK = "#222222"
QUIET = "#6e6e6e"
GREY = "#9A9A9A"
FAINT = "#d9d9d9"

# A hue has one meaning: which way a number goes, or that heads are shown. All else is told by
# shape, line, fill or words. No two come closer than 20 in CIEDE2000, also to eyes without red or
# without green cones (``tests/unit/test_palette.py``).
COLOURS = {
    "crystallize": "#D55E00",
    "disperse": "#2F86C6",
    "mixed": GREY,
    "heads": "#542788",
    "reference": GREY,
    "compared": INK,
}
BAR = ((-1.0, -0.5), (1.0, -0.5), (1.0, 0.5), (-1.0, 0.5), (-1.0, -0.5))
MARKERS: dict[str, Any] = {"crystallize": "D", "disperse": "o", "mixed": BAR}
"""A filled diamond, a ring, a bar: none of them points up or down."""
SIZES = {"crystallize": 14.0, "disperse": 18.0, "mixed": 22.0}
"""Of the markers, in square points: they look equally large."""
PALE = 0.42
"""How much of its colour a doubtful direction keeps."""
MEANINGS = {
    "crystallize": "Gini up, effective number down",
    "disperse": "Gini down, effective number up",
    "mixed": "both up, both down, or one unchanged",
}

METRICS = {
    "gini": "Gini coefficient",
    "gini_corrected": "Gini coefficient, corrected",
    "effective_number": "Effective number of cell types",
    "effective_number_miller_madow": "Effective number (Miller-Madow)",
    "effective_number_chao_shen": "Effective number (Chao-Shen)",
    "richness": "Number of cell types",
    "evenness": "Evenness",
    "hill_0": "Hill number of order 0",
    "hill_0_5": "Hill number of order 0.5",
    "hill_1": "Hill number of order 1",
    "hill_2": "Hill number of order 2",
}
MINUS = "\N{MINUS SIGN}"
NOTHING_COMPARED = "No tissue has two samples\nin each of two groups."

_NAMES = {
    "tms": "TMS",
    "tms-simulated": "Simulated TMS",
    "kimmel": "Kimmel",
    "facs": "FACS",
    "rat": "Rat",
}

RC: dict[str, object] = {
    "font.family": "sans-serif",
    # Verdana is nearly as wide: what shows an SVG where DejaVu is not installed.
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": SMALLEST_PT,
    "axes.titlesize": TITLE_PT,
    "axes.labelsize": SMALLEST_PT,
    "xtick.labelsize": SMALLEST_PT,
    "ytick.labelsize": SMALLEST_PT,
    "legend.fontsize": SMALLEST_PT,
    "figure.titlesize": TITLE_PT,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "svg.fonttype": "none",
    # Names inside an SVG are hashes of what they name, salted at random unless this is fixed.
    "svg.hashsalt": "clonal-crystallization",
}


@dataclass(frozen=True)
class Series:
    """One cohort on one platform: how it is named and drawn wherever it stands beside others."""

    cohort: str
    platform: str
    label: str
    colour: str
    filled: bool
    line: LineStyle


_Look = tuple[str, bool, LineStyle]
_FACS: _Look = (INK, True, "-")
_DROPLET: _Look = (QUIET, False, "--")
_KNOWN: dict[tuple[str, str], _Look] = {
    ("tms", "facs"): _FACS,
    ("tms", "droplet"): _DROPLET,
    ("tms-simulated", "facs"): _FACS,
    ("tms-simulated", "droplet"): _DROPLET,
    ("kimmel", "droplet"): (GREY, True, ":"),
}
_SPARE: tuple[_Look, ...] = (
    (INK, False, "-."),
    (GREY, False, "--"),
    (QUIET, True, ":"),
)
"""Of other cohorts."""


def series(table: pd.DataFrame) -> list[Series]:
    """Return the cohorts and platforms of a table in the order in which figures show them.

    Those of the study come first, the real before the simulated and FACS before droplet, and look
    the same whatever else is there. Others follow in alphabetical order, with the looks that are
    left, which they share if there are too many.
    """
    pairs = set(zip(table["cohort"], table["platform"], strict=True))
    known = [pair for pair in _KNOWN if pair in pairs]
    others = sorted(pairs - set(known))
    looks = [_KNOWN[pair] for pair in known]
    looks += [_SPARE[i % len(_SPARE)] for i in range(len(others))]
    return [
        Series(cohort, platform, _of_arm(cohort, platform), *look)
        for (cohort, platform), look in zip([*known, *others], looks, strict=True)
    ]


def _of_arm(cohort: str, platform: str) -> str:
    return name(cohort) + ("" if platform == study.UNSTATED else f" {name(platform)}")


def of_series(table: pd.DataFrame, which: Series) -> pd.DataFrame:
    """Return the rows of one cohort on one platform."""
    return table[(table["cohort"] == which.cohort) & (table["platform"] == which.platform)]


def tissues(table: pd.DataFrame) -> list[str]:
    """Return the tissues of a table in the order in which figures show them."""
    return sorted(table["tissue"].unique(), key=str.casefold)


def arms(table: pd.DataFrame) -> list[tuple[Series, str, pd.DataFrame]]:
    """Return each tissue of each cohort on each platform in order, with its rows."""
    found = []
    for which in series(table):
        rows = of_series(table, which)
        found += [(which, tissue, rows[rows["tissue"] == tissue]) for tissue in tissues(rows)]
    return found


def point(
    axes: Axes,
    x: float,
    y: float,
    direction: str,
    *,
    colour: str = "",
    face: str = "white",
    scale: float = 1.0,
    **looks: Any,
) -> None:
    """Draw a change as the marker of its direction.

    Parameters
    ----------
    colour
        That of the direction unless given.
    face
        What is in a ring.
    """
    colour = colour or COLOURS[direction]
    ring = direction == "disperse"
    axes.scatter(
        [x],
        [y],
        s=SIZES[direction] * scale,
        marker=MARKERS[direction],
        facecolors=face if ring else colour,
        edgecolors=colour,
        linewidths=1.4 * math.sqrt(scale) if ring else 0.4,
        **{"zorder": 4} | looks,
    )


def direction_marks(shown: Iterable[str]) -> list[Line2D]:
    """Return for a legend the directions that are shown."""
    present = set(shown)
    return [
        mark(
            direction,
            MARKERS[direction],
            colour=COLOURS[direction],
            face="white" if direction == "disperse" else None,
            size=math.sqrt(SIZES[direction]),
            width=1.4 if direction == "disperse" else 0.4,
        )
        for direction in MARKERS
        if direction in present
    ]


def pale_mark(label: str) -> Line2D:
    """Return for a legend the diamond of a direction that is doubtful."""
    return mark(label, MARKERS["crystallize"], colour=pale(QUIET), size=math.sqrt(14), width=0.4)


def pale(colour: str) -> str:
    """Return what of a colour a doubtful direction keeps."""
    red, green, blue = (1 - PALE * (1 - part) for part in to_rgb(colour))
    return to_hex((red, green, blue))


def beyond(
    axes: Axes, at: float, ends: Sequence[float], *, colour: str, upright: bool = False
) -> None:
    """Mark with a small arrowhead at the border the ends of an interval that leaves a panel."""
    edges = axes.get_ylim() if upright else axes.get_xlim()
    heads = ("v", "^") if upright else ("<", ">")
    for edge, head in zip(sorted(edges), heads, strict=True):
        if min(ends) < edge < max(ends):
            x, y = (at, edge) if upright else (edge, at)
            axes.plot([x], [y], marker=head, color=colour, markersize=3, clip_on=False, zorder=5)


def name(raw: str) -> str:
    """Return a name of the tables as people write it: no underscores, abbreviations in capitals."""
    return _NAMES.get(raw, raw.replace("_", " "))


def signed(value: float, digits: int) -> str:
    """Return a number with its sign, a true minus, and no sign where it rounds to zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def change(groups: study.Groups) -> str:
    """Return what an axis of changes is called."""
    return f"Change ({groups.minus(MINUS)})"


def p_value(p: float) -> str:
    """Return a p-value with its relation: ``= 0.032``, ``< 0.001``."""
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def ticks(most: int, *, integer: bool = False) -> MaxNLocator:
    """Return ticks at round numbers, at least three wherever they are."""
    return MaxNLocator(most, steps=[1, 2, 5, 10], integer=integer, min_n_ticks=3)


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Make a function draw in this style, whatever a person's matplotlibrc says."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context():
            _apply()
            return draw(*args, **kwargs)

    return wrapped


def _apply() -> None:
    mpl.rcdefaults()
    for key, value in RC.items():
        mpl.rcParams[key] = value  # type: ignore[index]


def figure(width_mm: float, height_mm: float, *, constrained: bool = False) -> Figure:
    """Return an empty figure of this size; its lowest `STRIP_MM` are kept for the notice."""
    if not constrained:
        return Figure(figsize=(width_mm / MM_PER_INCH, height_mm / MM_PER_INCH))
    strip = STRIP_MM / height_mm
    engine = ConstrainedLayoutEngine(
        rect=(0, strip, 1, 1 - strip), w_pad=0.04, h_pad=0.03, wspace=0.01, hspace=0.01
    )
    return Figure(figsize=(width_mm / MM_PER_INCH, height_mm / MM_PER_INCH), layout=engine)


def add_axes(
    to: Figure, *, left: float, top: float, width: float, height: float, canvas: bool = False
) -> Axes:
    """Add axes at a place in millimetres from the upper left corner.

    Parameters
    ----------
    canvas
        Without frame and ticks, and with millimetres as data, downward, from the same corner.
    """
    page_width, page_height = to.get_size_inches() * MM_PER_INCH
    bottom = page_height - top - height
    axes = to.add_axes(
        (left / page_width, bottom / page_height, width / page_width, height / page_height)
    )
    if canvas:
        axes.set_axis_off()
        axes.set_xlim(left, left + width)
        axes.set_ylim(top + height, top)
    return axes


def page(width_mm: float, height_mm: float) -> tuple[Figure, Axes]:
    """Return an empty figure, and axes of all of it (:func:`add_axes`, `canvas`)."""
    drawn = figure(width_mm, height_mm)
    return drawn, add_axes(drawn, left=0, top=0, width=width_mm, height=height_mm, canvas=True)


def mark(
    label: str,
    marker: Any,
    *,
    colour: str = QUIET,
    face: str | None = None,
    size: float = 4,
    width: float = 1,
) -> Line2D:
    """Return for a legend a marker without a line; `face` is its colour unless given."""
    looks = {"color": colour, "markerfacecolor": face or colour, "markersize": size}
    looks["markeredgewidth"] = width
    return Line2D([], [], marker=marker, linestyle="", label=label, **looks)  # type: ignore[arg-type]


def legend(drawn: Figure, handles: Sequence[Any], *, columns: int, **looks: Any) -> None:
    """Put a legend at the foot of a figure, right above the notice."""
    height = float(drawn.get_size_inches()[1]) * MM_PER_INCH
    drawn.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, STRIP_MM / height),
        ncols=columns,
        **{"handlelength": 1.6, "columnspacing": 1.3, "borderaxespad": 0} | looks,
    )


def freeze(drawn: Figure) -> None:
    """Lay the figure out once and for all: both files and every label see the same places."""
    engine = drawn.get_layout_engine()
    if engine is None:
        return
    engine.execute(drawn)
    drawn.set_layout_engine("none")
    # The solver's last bit differs from run to run, and the names and pixels of a file with it.
    for axes in drawn.axes:
        left, bottom, width, height = (
            round(value, 9) for value in axes.get_position(original=True).bounds
        )
        axes.set_position((left, bottom, width, height), which="original")


def text_size(text: str, size: float = SMALLEST_PT, weight: str = "normal") -> tuple[float, float]:
    """Return width and height of one line of text in points, from the font itself."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    # Height of a line with ascenders and descenders, whichever letters the text has.
    _, height, _ = text_to_path.get_text_width_height_descent("Ág", font, ismath=False)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width), float(height)


def text_width_mm(text: str, size: float = SMALLEST_PT, weight: str = "normal") -> float:
    """Return the width of one line of text in millimetres."""
    return text_size(text, size, weight)[0] / POINTS_PER_INCH * MM_PER_INCH


def shorten(text: str, width_mm: float) -> str:
    """Return `text`, its end replaced by an ellipsis if it is wider than `width_mm`."""
    if text_width_mm(text) <= width_mm:
        return text
    kept = text
    while kept and text_width_mm(f"{kept.rstrip()}…") > width_mm:
        kept = kept[:-1]
    return f"{kept.rstrip()}…"


def shorten_all(texts: Sequence[str], width_mm: float) -> list[str]:
    """Shorten each text to `width_mm`.

    Where two would read the same, they are cut in the middle; if that does not help, numbered.
    """
    short = [shorten(text, width_mm) for text in texts]
    short = [
        _middle(text, width_mm) if short.count(cut) > 1 else cut
        for text, cut in zip(texts, short, strict=True)
    ]
    return [
        f"{shorten(cut, width_mm - 5)} {short[: i + 1].count(cut)}" if short.count(cut) > 1 else cut
        for i, cut in enumerate(short)
    ]


def _middle(text: str, width_mm: float) -> str:
    """Replace the middle of a text that is too wide by an ellipsis."""
    for dropped in range(len(text)):
        kept = len(text) - dropped
        cut = f"{text[: kept - kept // 2].rstrip()}…{text[len(text) - kept // 2 :].lstrip()}"
        if dropped and text_width_mm(cut) <= width_mm:
            return cut
    return text


@styled
def message(text: str) -> Figure:
    """Return a figure that says in words why there is nothing to draw."""
    drawn = figure(SINGLE_MM, 40)
    drawn.text(0.5, 0.5, text, ha="center", va="center", size=TITLE_PT, color=INK)
    return drawn


def save(drawn: Figure, folder: Path, figure_name: str, about: study.Study) -> None:
    """Write ``fig_<name>.png`` and ``.svg``, each whole or not at all, the same bytes each time.

    A figure of simulated inputs bears the short form of the notice, one of real inputs none.
    """
    with mpl.rc_context():
        _apply()
        freeze(drawn)
        _stamp(drawn, short_notice(about))
        for suffix in ("png", "svg"):
            with atomic_path(folder / f"fig_{figure_name}.{suffix}") as path:
                drawn.savefig(path, format=suffix, dpi=DPI, metadata=_metadata(suffix))


def _metadata(suffix: str) -> dict[str, None]:
    """Leave out the day, which always changes, and the program, which the provenance names."""
    return {"Software": None} if suffix == "png" else {"Date": None, "Creator": None}


def short_notice(about: study.Study) -> str:
    """Return the notice up to its first colon or full stop; empty for real inputs.

    Raises
    ------
    FigureError
        The inputs are simulated, but the study has no notice.
    """
    if not about.simulated:
        return ""
    notice = about.notice.split(":")[0].split(".")[0].strip()
    if not notice:
        msg = (
            f"the inputs {about.name} are simulated, but their notice is empty. "
            "State it in conf/atlas/."
        )
        raise FigureError(msg)
    return notice


def _stamp(drawn: Figure, notice: str) -> None:
    if notice and not any(text.get_gid() == "notice" for text in drawn.texts):
        footnote(drawn, notice, right=True).set_gid("notice")


def footnote(drawn: Figure, words: str, *, right: bool = False) -> Text:
    """Write words at the foot of a figure, left or right, and return them."""
    width, height = drawn.get_size_inches() * MM_PER_INCH
    x, align = (1 - 1.5 / width, "right") if right else (1.5 / width, "left")
    return drawn.text(x, 1.2 / height, words, ha=align, va="bottom", color=QUIET)
