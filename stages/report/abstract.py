"""The sentences of the abstract that not every run has something to say in.

A sentence is empty where the inputs hold nothing of its subject, so that one abstract fits all.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from stages.report import text
from stages.report.clusters import ClusterTables, stable_both


def variables(found: ClusterTables, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the sentences.

    Parameters
    ----------
    found
        The tables on clusters.
    values
        All other values of the paper, by topic.

    Returns
    -------
    dict
        ``clusters``, ``restriction`` and ``plane``: a sentence each, or nothing.
    """
    return {
        "clusters": _clusters(found, values),
        "restriction": _restriction(values["restriction"]),
        "plane": _plane(values["plane"]),
    }


def _clusters(found: ClusterTables, values: Mapping[str, Any]) -> str:
    if found.kidney.empty:
        return ""
    turning = text.listed(
        [
            text.arm(str(cohort), str(platform))
            for (cohort, platform), rows in found.kidney.groupby(["cohort", "platform"])
            if _turns(rows[rows["cells"] == "all"])
        ]
    )
    where = "in no arm" if turning == "none" else f"in {turning}"
    sentence = (
        "Where Leiden clusters take the place of annotated types, the direction of the "
        f"{values['kidney']['tissue']} turns with granularity {where}"
    )
    if found.stability.empty:
        return f"{sentence}."
    stable = stable_both(found.stability)
    return (
        f"{sentence}, and {text.integer(int(stable['stable'].sum()))} of "
        f"{text.plural(len(stable), 'direction')} over clusters hold whatever the seed and the "
        "part of the cells."
    )


def _turns(rows: pd.DataFrame) -> bool:
    return {"crystallize", "disperse"} <= set(rows["quadrant"])


def _restriction(values: Mapping[str, str]) -> str:
    if not values:
        return ""
    return (
        f"In the {values['tissue']} of rats, caloric restriction takes back "
        f"{values['gini_fraction']} of the drift of Gini and {values['effective_number_fraction']} "
        "of that of the effective number, with intervals over cells and not over animals."
    )


def _plane(values: Mapping[str, str]) -> str:
    if not values:
        return ""
    return (
        f"Of {values['n_tissues']}, {values['n_close']} point less than a right angle away from "
        f"the heads in the plane of both changes, {values['n_significant']} of them beyond chance "
        f"(p below {values['significant']}); a shared direction is an analogy and no mechanism."
    )
