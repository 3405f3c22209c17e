"""The values, tables and passages of the paper that are about clusters of cells.

`inputs` are the tables they rest on, `words` how changes are written; `rules` states how clusters
are made, and `kidney`, `kimmel`, `substates` and `restriction` have a module each.
"""

from typing import Any

import pandas as pd

from stages.base.settings import Settings
from stages.report.clusters import inputs, kidney, kimmel, restriction, rules, substates
from stages.report.clusters.inputs import (
    TISSUE,
    ClusterTables,
    over_types,
    read_tables,
    stable_both,
)

__all__ = [
    "TISSUE",
    "ClusterTables",
    "includes",
    "over_types",
    "read_tables",
    "sections",
    "stable_both",
    "variables",
]


def variables(
    found: ClusterTables, aging: pd.DataFrame, proportions: pd.DataFrame, settings: Settings
) -> dict[str, Any]:
    """Return the values of the clusters by topic, all as text; a topic without inputs has none.

    Parameters
    ----------
    found
        The tables on clusters.
    aging, proportions
        The change over annotated cell types, and their shares.
    settings
        All settings.
    """
    return {
        "clusters": rules.variables(settings),
        "kidney": kidney.variables(found, aging, proportions, settings),
        "kimmel": kimmel.variables(found, settings),
        "substates": substates.variables(found, settings),
        "restriction": restriction.variables(found, settings),
    }


def includes(
    found: ClusterTables, aging: pd.DataFrame, proportions: pd.DataFrame, settings: Settings
) -> dict[str, str]:
    """Return the Markdown tables on clusters by name; the arguments are those of the values."""
    return {
        "kidney": kidney.table(found.kidney, aging, proportions, settings),
        "kimmel": kimmel.table(found.kimmel, found.stability),
        "substates": substates.table(inputs.at_shown(found.substates, settings)),
        "restriction": restriction.table(found.restriction, settings),
        "restriction_tests": restriction.tests_table(found.restriction_tests, settings),
    }


def sections(found: ClusterTables, settings: Settings) -> dict[str, str]:
    """Return which of the passages written by hand fits the inputs, by name."""
    there = {
        "kidney": not found.kidney.empty,
        "kimmel": not found.kimmel.empty,
        "substates": not found.substates.empty,
        "restriction": not found.restriction.empty,
    }
    there["clusters"] = any(there.values())
    there["planted"] = there["clusters"] and settings.atlas.source == "demo"
    return {name: name if filled else f"{name}_none" for name, filled in there.items()}
