"""How changes, directions and their stability are written."""

import itertools
from collections.abc import Callable

import pandas as pd

from stages.report import text
from stages.report.clusters.inputs import TISSUE, stable_both

Describe = Callable[[tuple[str, str, str]], str]


def change(row: pd.Series, metric: str, column: str = "change") -> str:
    """Return a change with its interval."""
    digits = text.CHANGES[metric][1]
    ends = text.interval(row[f"{column}_low"], row[f"{column}_high"], digits)
    return f"{text.signed(row[column], digits)} {ends}"


def change_cells(by_metric: pd.DataFrame, *, p: str = "mann_whitney_p") -> list[str]:
    """Return change and p of both metrics, and the direction."""
    cells = []
    for metric in text.CHANGES:
        row = by_metric.loc[metric]
        cells += [change(row, metric), text.p_value(row[p])]
    return [*cells, str(by_metric["quadrant"].iloc[0])]


def p_equals(p: float) -> str:
    """Return ``p = 0.016`` or ``p < 0.001``."""
    shown = text.p_value(p)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def number_range(values: pd.Series, digits: int) -> str:
    """Return the smallest and the largest value, or the one there is."""
    low, high = (text.number(float(end), digits) for end in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def along_resolutions(rows: pd.DataFrame) -> str:
    """Say which way one tissue goes as the resolution rises.

    Examples
    --------
    >>> rows = pd.DataFrame({"resolution": [0.2, 0.8, 1.6], "quadrant": ["mixed"] + ["disperse"] * 2})
    >>> along_resolutions(rows), along_resolutions(rows[1:]), along_resolutions(rows[:1])
    ('is mixed at 0.2 and disperses from 0.8 to 1.6', 'disperses at every resolution', 'is mixed at 0.2')
    """  # noqa: E501
    ordered = rows.sort_values("resolution")
    pairs = zip(ordered["quadrant"], ordered["resolution"], strict=True)
    parts = []
    for quadrant, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
        at = [resolution for _, resolution in group]
        if len(at) == len(ordered) > 1:
            return f"{text.DOES[quadrant]} at every resolution"
        where = f"at {at[0]:g}" if len(at) == 1 else f"from {at[0]:g} to {at[-1]:g}"
        parts.append(f"{text.DOES[quadrant]} {where}")
    return text.listed(parts)


def same_with_equal_cells(table: pd.DataFrame) -> str:
    """Return `14 of 16`: how many comparisons keep their quadrant with equal numbers of cells."""
    key = [*TISSUE, "cell_type", "resolution"]
    quadrant = table[table["metric"] == "gini"].set_index(key)
    full, equal = (
        quadrant.loc[quadrant["cells"] == cells, "quadrant"] for cells in ("all", "rarefied")
    )
    same = int((full == equal.reindex(full.index)).sum())
    return f"{text.integer(same)} of {text.integer(len(full))}"


def how_stable(stability: pd.DataFrame, describe: Describe) -> dict[str, str]:
    """Say which directions are stable, and how alike the clusterings of the seeds are."""
    if stability.empty:
        return {"stable_sentence": "Stability was not asked for.", "ari": text.DASH}
    both = stable_both(stability)
    unstable: dict[str, list[str]] = {}
    for row in both[~both["stable"]].itertuples():
        where = unstable.setdefault(describe((row.cohort, row.platform, row.tissue)), [])
        where.append(f"{row.resolution:g} ({row.n_same} of {row.n_runs} runs)")
    n = len(both)
    n_stable = int(both["stable"].sum())
    if n_stable == n:
        sentence = f"All {n} directions are stable." if n > 1 else "The direction is stable."
    else:
        listed = [f"{name} at {text.listed(where)}" for name, where in unstable.items()]
        count = f"{n_stable} {'is' if n_stable == 1 else 'are'}" if n_stable else "none is"
        sentence = f"Of {n} directions {count} stable. Not stable: {'; '.join(listed)}."
    return {"stable_sentence": sentence, "ari": number_range(both["ari_median"], 2)}
