"""Read the tables of the study: the one place where the report knows their files."""

from pathlib import Path

import pandas as pd

from stages.base import tables
from stages.cells.tables.calibration import CALIBRATION
from stages.cells.tables.clusters import CLUSTER_CONTRAST
from stages.cells.tables.comparators import COMPARATORS
from stages.cells.tables.concordance import CONCORDANCE, CONCORDANCE_SUMMARY
from stages.cells.tables.contrast import CONTRAST, NOT_COMPARED
from stages.cells.tables.describe import CONFOUNDING, SAMPLES
from stages.cells.tables.multiverse import MULTIVERSE
from stages.cells.tables.proportions import EXCLUSIONS, PROPORTIONS
from stages.cells.tables.reconstruction import RECONSTRUCTION
from stages.cells.tables.recovery import RECOVERY
from stages.cells.tables.restriction import RESTRICTION, RESTRICTION_TESTS
from stages.cells.tables.stability import STABILITY
from stages.cells.tables.substates import SUBSTATES_NOT_COMPARED
from stages.cells.tables.trend import TREND
from stages.cells.tables.truth import PLANTED
from stages.features.tables.annotate import ANNOTATED
from stages.features.tables.autoencoders import AUTOENCODERS
from stages.features.tables.combine import COMBINATIONS
from stages.features.tables.steer import STEERING
from stages.features.tables.trace import STATISTICS, TRACED, TRACING
from stages.heads.components import perturbation
from stages.heads.tables.attribution import HEAD_CONTROL_VARIATE, HEAD_SCREEN
from stages.heads.tables.classes import HEAD_CLASSES
from stages.heads.tables.companion import COMPANION_AGREEMENT
from stages.heads.tables.distribution import HEAD_DISTRIBUTION, HEAD_GRANULARITY
from stages.heads.tables.importance import HEAD_IMPORTANCE
from stages.heads.tables.joint_removal import JOINT_REMOVAL
from stages.heads.tables.removal_kinds import HEAD_REMOVALS
from stages.heads.tables.seeds import HEAD_BASELINES, HEAD_OVER_SEEDS
from stages.measurement.tables import CHANGES, MEASURED
from stages.operators.tables.edges import OPERATOR_EDGES
from stages.operators.tables.factors import OPERATOR_FACTORS
from stages.operators.tables.gates import OPERATOR_GATES
from stages.operators.tables.readouts import OPERATOR_READOUTS
from stages.pairs.tables.epistasis import EPISTASIS, EPISTASIS_HEADS, EPISTASIS_SETS
from stages.plane.tables import AXES, MATURING, MATURING_ANSWERS, PLANE, PLANE_DIRECTIONS, SPLITS
from stages.report.tables import CLAIMS
from stages.representations.tables.probes import PROBES
from stages.spectra.tables.separation import SEPARATION
from stages.spectra.tables.spectrum import SPECTRUM
from stages.spectra.tables.structures import STRUCTURES

_CELLS = (SAMPLES, CONFOUNDING, PROPORTIONS, EXCLUSIONS, CONTRAST, NOT_COMPARED, RECOVERY)
_ARGUED = (CALIBRATION, MULTIVERSE, TREND, COMPARATORS, RECONSTRUCTION)
_PLATFORMS = (CONCORDANCE, CONCORDANCE_SUMMARY)
_CLUSTERS = (STABILITY, SUBSTATES_NOT_COMPARED, RESTRICTION, RESTRICTION_TESTS)
_HEADS = (HEAD_IMPORTANCE, HEAD_CLASSES, HEAD_DISTRIBUTION, HEAD_OVER_SEEDS, HEAD_BASELINES)
_BESIDE_HEADS = (
    HEAD_GRANULARITY,
    HEAD_CONTROL_VARIATE,
    HEAD_SCREEN,
    HEAD_REMOVALS,
    COMPANION_AGREEMENT,
)
_FEATURES = (AUTOENCODERS, TRACED, TRACING, STATISTICS, COMBINATIONS, STEERING, ANNOTATED)
_BOTH = (PLANE, PLANE_DIRECTIONS, SPLITS, AXES, CLAIMS, MATURING, MATURING_ANSWERS)
_PAIRS = (EPISTASIS, EPISTASIS_HEADS, EPISTASIS_SETS)
_SECOND = (*_PAIRS, *_FEATURES)
_ALL = (*_CELLS, *_ARGUED, *_PLATFORMS, *_CLUSTERS, *_HEADS, *_BESIDE_HEADS, *_SECOND, *_BOTH)
SCHEMAS = {schema.name: schema for schema in _ALL} | {
    **dict.fromkeys(("kidney", "kimmel", "substates"), CLUSTER_CONTRAST),
    "head_trajectory": MEASURED,
    "head_change": CHANGES,
    "companion_trajectory": MEASURED,
    "companion_change": CHANGES,
    "cell_heads": MEASURED,
    "cell_joint_removal": JOINT_REMOVAL,
    "cell_probes": PROBES,
    **{f"cell_{schema.name}": schema for schema in _PAIRS},
    "spectrum": SPECTRUM,
    "separation": SEPARATION,
    "token_spectra": MEASURED,
    "cell_spectra": MEASURED,
    "cell_spectrum": SPECTRUM,
    "cell_separation": SEPARATION,
    "cell_structures": STRUCTURES,
    "feature_measured": MEASURED,
    "operator_gates": OPERATOR_GATES,
    "operator_readouts": OPERATOR_READOUTS,
    "operator_factors": OPERATOR_FACTORS,
    "operator_factor_effects": MEASURED,
    "operator_edges": OPERATOR_EDGES,
    "planted": PLANTED,
}
"""Of each table that the text reads, by its name there."""
FILES = {
    "kidney": "granularity_curve.csv",
    "kimmel": "granularity_replication.csv",
    "head_trajectory": "measured/heads.csv",
    "head_change": "changes/heads.csv",
    "companion_trajectory": "measured/companion.csv",
    "companion_change": "changes/companion.csv",
    "cell_heads": "measured/cell_heads.csv",
    "cell_joint_removal": "cell_model/joint_removal.csv",
    "cell_probes": "cell_model/probes.csv",
    **{schema.name: f"pairs/{schema.name}.csv" for schema in _PAIRS},
    **{f"cell_{schema.name}": f"cell_model/{schema.name}.csv" for schema in _PAIRS},
    "token_spectra": "measured/spectra.csv",
    "cell_spectra": "measured/cell_spectra.csv",
    "cell_spectrum": "cell_model/spectrum.csv",
    "cell_separation": "cell_model/separation.csv",
    "cell_structures": "cell_model/structures.csv",
    "feature_measured": "measured/features.csv",
    "traced_features": "features/traced.csv",
    "feature_statistics": "features/statistics.csv",
    **{
        name: f"features/{name}.csv"
        for name in ("autoencoders", "tracing", "combinations", "steering", "annotated")
    },
    "operator_gates": "cell_model/operator_gates.csv",
    "operator_readouts": "cell_model/operator_readouts.csv",
    "operator_factors": "cell_model/operator_factors.csv",
    "operator_factor_effects": "measured/operators.csv",
    "operator_edges": "cell_model/operator_edges.csv",
}
"""Of those that the text calls otherwise than their files."""
_OF_HEADS = {
    "condition": "perturbation",
    "n_components": "n_heads",
    "n_replicates": "n_sequences",
    "replicates_low": "sequences_low",
    "replicates_high": "sequences_high",
    "components_low": "heads_low",
    "components_high": "heads_high",
    "baseline": "loss_base",
}
"""What is general in the tables of measurement, in the words of heads: the text's own."""
_OF_REFERENCE = {
    "reference_condition": "perturbation",
    "reference_p_smallest": "states_p_smallest",
}


class Tables:
    """The tables of a folder, by the names of their files; each is read once, when it is needed.

    Raises
    ------
    TableError
        A table is missing, or not as its schema says.
    """

    def __init__(self, folder: Path, planted: Path | None = None) -> None:
        self._folder = folder
        self._planted = planted

    def __getattr__(self, name: str) -> pd.DataFrame:
        """Read and check a table."""
        if name not in SCHEMAS:
            raise AttributeError(name)
        path = self._folder / FILES.get(name, f"{name}.csv")
        if name == "planted" and self._planted is not None:
            path = self._planted
        table = _in_words_of_the_text(name, tables.read(path, SCHEMAS[name]))
        setattr(self, name, table)
        return table


def _in_words_of_the_text(name: str, table: pd.DataFrame) -> pd.DataFrame:
    match name:
        case "head_trajectory" | "companion_trajectory":
            return table[table["series"] == "head"].rename(columns=_OF_HEADS)
        case "head_change" | "companion_change":
            table = table[table["series"] == "head"]
            first, last = table["position_first"].min(), table["position_last"].max()
            ends = (table["position_first"] == first) & (table["position_last"] == last)
            return table[ends].rename(columns=_OF_HEADS)
        case "plane":
            of = {"replicates": "sequences", "components": "heads"}
            table = table.assign(bootstrap=table["bootstrap"].replace(of))
            table = table[table["system"].isin(("cells", "heads"))]
            return _with_arms(table).rename(columns=_OF_HEADS)
        case "plane_directions":
            table = table[(table["system"] == "cells") & (table["reference_system"] == "heads")]
            return _with_arms(table).rename(columns=_OF_REFERENCE)
    return table


def _with_arms(table: pd.DataFrame) -> pd.DataFrame:
    arm = table["group"].str.split(" ", n=1)
    return table.assign(cohort=arm.str[0], platform=arm.str[1], tissue=table["series"])


def along_training(found: Tables, name: str = "head_trajectory") -> pd.DataFrame:
    """Return the concentration of the heads' effects in every state, or its ``head_change``.

    A row a metric, of the way of removal that the text is about, with the ends of its interval over
    sequences (``sequences_low``, ``sequences_high``) and over heads; of a change none where there
    is one state.
    """
    table: pd.DataFrame = getattr(found, name)
    shown = perturbation(found.head_trajectory)
    rows: pd.DataFrame = table[table["perturbation"] == shown]
    return rows
