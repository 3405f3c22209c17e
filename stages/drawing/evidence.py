"""Show on what each arm rests: real arms where there are any, reconstructed ones with a dagger."""

from collections.abc import Callable, Iterable

import pandas as pd
from matplotlib.figure import Figure

from stages.base.study import ARM, RECONSTRUCTED, Study
from stages.drawing import style

DAGGER = "\N{DAGGER}"
MEANING = f"{DAGGER} animals reconstructed"

Arms = Iterable[tuple[str, str, str]]
ArmsOf = Callable[..., Arms]


def arms(table: pd.DataFrame, *_: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return the arms of the first of some tables (cohort, platform, tissue), if it is of any."""
    if not set(ARM) <= set(table.columns):
        return []
    return list(table[list(ARM)].drop_duplicates().itertuples(index=False, name=None))


def real(table: pd.DataFrame, about: Study) -> pd.DataFrame:
    """Return the rows of real arms, if there are any (:meth:`Study.real`); a table without arms."""
    return about.real(table) if set(ARM) <= set(table.columns) else table


def label(tissue: str, shown: Arms, about: Study) -> str:
    """Return the name of a tissue, with a dagger where its animals are reconstructed.

    If they are in some of the arms that are shown only, the platforms of these are named.
    """
    of_tissue = [arm for arm in shown if arm[2] == tissue]
    found = [arm for arm in of_tissue if about.evidence(*arm) == RECONSTRUCTED]
    name = style.name(tissue)
    if not found:
        return name
    if len(found) == len(of_tissue):
        return f"{name}{DAGGER}"
    return f"{name} ({', '.join(style.name(platform) + DAGGER for _, platform, _ in found)})"


def explain(drawn: Figure, shown: Arms, about: Study) -> None:
    """Say at the foot of a figure, left of the notice, what the dagger means, if it has one."""
    if any(about.evidence(*arm) == RECONSTRUCTED for arm in shown):
        style.footnote(drawn, MEANING)
