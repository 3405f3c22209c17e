"""Write numbers, lists and tables as the paper does: one place for digits, signs and plurals."""

import math
from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
NBSP = "\N{NO-BREAK SPACE}"
# The field's abbreviations as a reader would write them.
PLATFORMS = {"facs": "FACS", "droplet": "droplet"}
COHORTS = {"tms": "TMS", "kimmel": "Kimmel", "rat": "rat"}
# What one, and what several, do in a quadrant of the plane.
DOES = {"crystallize": "crystallizes", "disperse": "disperses", "mixed": "is mixed"}
DO = {"crystallize": "crystallize", "disperse": "disperse", "mixed": "are mixed"}
CHANGES = {"gini": ("ΔGini", 3), "effective_number": ("ΔN~eff~", 2)}
"""Of the two metrics of the plane: how a change of it is named, and its digits."""


def number(value: float, digits: int) -> str:
    """Return a number with fixed digits, a true minus sign, and a dash where it is undefined.

    Examples
    --------
    >>> number(-0.0875, 3), number(float("nan"), 2)
    ('−0.087', '–')
    """  # noqa: RUF002
    if math.isnan(value):
        return DASH
    # Rounding may leave "-0.000", which has no sign.
    text = f"{value:.{digits}f}"
    return text.replace("-", "" if float(text) == 0 else MINUS)


def signed(value: float, digits: int) -> str:
    """Return a change: its sign is always written, but for zero.

    Examples
    --------
    >>> signed(0.0875, 3), signed(-2.186, 2), signed(0.0001, 2)
    ('+0.087', '−2.19', '0.00')
    """  # noqa: RUF002
    text = number(value, digits)
    return f"+{text}" if not math.isnan(value) and float(f"{value:.{digits}f}") > 0 else text


def interval(low: float, high: float, digits: int) -> str:
    r"""Return an interval of changes in brackets, which no line break divides.

    Examples
    --------
    >>> interval(-0.011, 0.164, 3)
    '[−0.011,\xa0+0.164]'
    """  # noqa: RUF002
    return f"[{signed(low, digits)},{NBSP}{signed(high, digits)}]"


def p_value(p: float) -> str:
    """Return a p-value with two significant digits, never as zero.

    Examples
    --------
    >>> p_value(0.01587), p_value(0.00002), p_value(1.0)
    ('0.016', '< 0.001', '1.0')
    """
    if math.isnan(p):
        return DASH
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}" if p < 0.995 else "1.0"


def attainable_p(p: float) -> str:
    """Return the smallest p-value that a design can reach, to two significant digits.

    Examples
    --------
    >>> attainable_p(2 / 126), attainable_p(2 / 12870)
    ('0.016', '0.00016')
    """
    return DASH if math.isnan(p) else f"{p:.2g}"


def integer(value: int) -> str:
    """Return a whole number with thin groups of three.

    Examples
    --------
    >>> integer(110824)
    '110,824'
    """
    return f"{value:,}"


def plural(count: int, singular: str, several: str | None = None) -> str:
    """Return a count with its noun.

    Examples
    --------
    >>> plural(1, "tissue"), plural(3, "tissue"), plural(0, "analysis", "analyses")
    ('1 tissue', '3 tissues', 'no analyses')
    """
    noun = singular if count == 1 else several or f"{singular}s"
    return f"{integer(count) if count else 'no'} {noun}"


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them.

    Examples
    --------
    >>> listed(["lung"]), listed(["lung", "spleen"]), listed(["a", "b", "c"]), listed([])
    ('lung', 'lung and spleen', 'a, b and c', 'none')
    """
    if len(names) < 2:
        return names[0] if names else "none"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def arm(cohort: str, platform: str) -> str:
    """Return the name of one arm of the study: a cohort on a platform."""
    return f"{COHORTS.get(cohort, cohort)} {PLATFORMS.get(platform, platform)}"


def tissue_name(tissue: str) -> str:
    """Return a tissue's name without underscores."""
    return tissue.replace("_", " ")


def pipe_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, align: str) -> str:
    r"""Return a Markdown pipe table.

    Parameters
    ----------
    header
        Names of the columns.
    rows
        Cells as text; a bar inside a cell is escaped.
    align
        One letter a column: ``l``, ``r`` or ``c``.

    Examples
    --------
    >>> print(pipe_table(["a", "b"], [["1", "x|y"]], align="rl"))
    | a | b |
    |--:|:--|
    | 1 | x\|y |
    """
    rules = {"l": ":--", "r": "--:", "c": ":-:"}
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(rules[a] for a in align) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
