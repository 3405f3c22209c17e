"""Write numbers, lists and tables as the paper does: one place for digits, signs and plurals."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stages.base.study import UNSTATED
from stages.measurement.states import step_of

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
NBSP = "\N{NO-BREAK SPACE}"
# The field's abbreviations as a reader would write them.
PLATFORMS = {"facs": "FACS", "droplet": "droplet"}
COHORTS = {"tms": "TMS", "tms-simulated": "simulated TMS", "kimmel": "Kimmel", "rat": "rat"}
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
    r"""Return a p-value with two significant digits, never as zero.

    Examples
    --------
    >>> p_value(0.01587), p_value(0.00002), p_value(1.0)
    ('0.016', '<\xa00.001', '1.0')
    """
    if math.isnan(p):
        return DASH
    if p < 0.001:
        return f"<{NBSP}0.001"
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


def listed(items: Iterable[object]) -> str:
    """Return names as a sentence lists them.

    Examples
    --------
    >>> listed(["lung"]), listed(["lung", "spleen"]), listed(["a", "b", "c"]), listed([])
    ('lung', 'lung and spleen', 'a, b and c', 'none')
    """
    names = [str(item) for item in items]
    if len(names) < 2:
        return names[0] if names else "none"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def percent(share: float, digits: int | None = None) -> str:
    """Return a share in percent, with as many digits as it has unless they are given.

    Examples
    --------
    >>> percent(0.95), percent(0.0005), percent(0.1878, 0)
    ('95%', '0.05%', '19%')
    """
    if math.isnan(share):
        return DASH
    return f"{100 * share:g}%" if digits is None else f"{100 * share:.{digits}f}%"


def general(value: float) -> str:
    """Return a setting with the digits that it has.

    Examples
    --------
    >>> general(0.80), general(3.0)
    ('0.8', '3')
    """
    return f"{value:g}"


def p_equals(p: float) -> str:
    r"""Return a p-value with its relation, which no line break parts.

    Examples
    --------
    >>> p_equals(0.01587), p_equals(0.00002)
    ('p\xa0=\xa00.016', 'p\xa0<\xa00.001')
    """
    shown = p_value(p)
    return f"p{NBSP}{shown}" if shown.startswith("<") else f"p{NBSP}={NBSP}{shown}"


def probability(share: float) -> str:
    r"""Return a probability with its relation: a share of draws is never certain.

    Examples
    --------
    >>> probability(1.0), probability(0.998)
    ('>\xa00.999', '=\xa00.998')
    """
    if share >= 0.9995:
        return f">{NBSP}0.999"
    return f"<{NBSP}0.001" if share < 0.0005 else f"={NBSP}{share:.3f}"


def duration(seconds: float) -> str:
    """Return a time as a person says it, in two units at most.

    Examples
    --------
    >>> [duration(value).replace(NBSP, " ") for value in (0.42, 9.96, 59.7, 3599.9, 40000)]
    ['0.4 s', '10 s', '1 min', '1 h', '11 h 7 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f}{NBSP}s"
    whole = round(seconds) if seconds < 3600 else 60 * round(seconds / 60)
    values = {"h": whole // 3600, "min": whole // 60 % 60, "s": whole % 60}
    parts = [f"{value}{NBSP}{unit}" for unit, value in values.items() if value]
    return NBSP.join(parts[:2])


def between(ends: Sequence[float], digits: int) -> str:
    """Return the smallest and the largest of several values, or the one that both are.

    Examples
    --------
    >>> between((0.39, 0.62), 2), between((3, 3), 0)
    ('0.39 to 0.62', '3')
    """
    low, high = (number(float(end), digits) for end in ends)
    return low if low == high else f"{low} to {high}"


def between_percent(ends: Sequence[float]) -> str:
    """Return the smallest and the largest of several shares, or the one that both are.

    Examples
    --------
    >>> between_percent((0.011, 0.07)), between_percent((0.5, 0.5))
    ('1% to 7%', '50%')
    """
    low, high = (percent(share, 0) for share in ends)
    return low if low == high else f"{low} to {high}"


def change(row: Mapping[str, Any], column: str = "change", digits: int | None = None) -> str:
    """Return a change with its interval, with the digits of the row's metric if none are given.

    The ends of the interval are the columns ``<column>_low`` and ``<column>_high``. Groups may be
    too small for any interval.

    Examples
    --------
    >>> row = {"metric": "gini", "change": 0.1, "change_low": -0.1, "change_high": 0.25}
    >>> change(row).replace(NBSP, " "), change(row | {"change_low": math.nan})
    ('+0.100 [−0.100, +0.250]', '+0.100')
    """  # noqa: RUF002
    digits = digits_of(row["metric"]) if digits is None else digits
    value, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
    return signed(value, digits) + ("" if math.isnan(low) else f" {interval(low, high, digits)}")


def estimate(row: Mapping[str, Any], column: str, digits: int) -> str:
    """Return a value that is no change, with its interval as far as there is one."""
    value, low, high = (number(row[f"{column}{end}"], digits) for end in ("", "_low", "_high"))
    return value if DASH in (value, low) else f"{value} [{low},{NBSP}{high}]"


def metric_name(metric: str) -> str:
    """Return how a change of a metric is named."""
    return CHANGES.get(metric, (metric, 0))[0]


def digits_of(metric: str) -> int:
    """Return the digits of a change of a metric."""
    return CHANGES.get(metric, (metric, 3))[1]


def does(quadrant: str, count: int = 1) -> str:
    """Return what one, or several, do in a quadrant of the plane.

    Examples
    --------
    >>> does("disperse"), does("mixed", 2)
    ('disperses', 'are mixed')
    """
    return (DOES if count == 1 else DO)[quadrant]


def cohort_name(cohort: str) -> str:
    """Return a cohort's name as a reader would write it."""
    return COHORTS.get(cohort, cohort)


def arm(cohort: str, platform: str) -> str:
    """Return the name of one arm of the study: a cohort on a platform."""
    if platform == UNSTATED:
        return cohort_name(cohort)
    return f"{cohort_name(cohort)} {PLATFORMS.get(platform, platform)}"


def tissue_name(tissue: str) -> str:
    """Return a tissue's name without underscores."""
    return tissue.replace("_", " ")


def lowered(name: str) -> str:
    """Return a name as it stands within a sentence; one of capitals alone keeps them.

    Examples
    --------
    >>> lowered("Limb Muscle"), lowered("GAT")
    ('limb muscle', 'GAT')
    """
    return name if name.isupper() else name.lower()


def state(name: str) -> str:
    """Return a state as a sentence says it: a step with its number, another by its name.

    Examples
    --------
    >>> state("step143000"), state("main")
    ('step 143,000', 'main')
    """
    step = step_of(name)
    return name if step is None else f"step {integer(step)}"


def unbroken(words: str) -> str:
    """Return words that no line break parts."""
    return words.replace(" ", NBSP)


def escaped(cell: str) -> str:
    r"""Return a text in which no bar ends the cell of a table; what is escaped stays as it is.

    Examples
    --------
    >>> print(escaped(r"x|y"), escaped(r"x\|y"))
    x\|y x\|y
    """
    return re.sub(r"(?<!\\)\|", r"\|", cell)


def cells(line: str) -> list[str]:
    r"""Return the cells of a line whose bars part them, but for escaped ones.

    Examples
    --------
    >>> cells(r"a | x\|y")
    ['a', 'x\\|y']
    """
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]


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
    lines += ["| " + " | ".join(escaped(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
