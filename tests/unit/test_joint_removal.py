"""Heads of a layer together, beside the sum of what each costs alone."""

import numpy as np
import pandas as pd
import pytest

from stages.base import tables
from stages.heads.components import components
from stages.heads.joint_removal import joint_removal
from stages.heads.settings import JointRemoval
from stages.heads.tables.joint_removal import JOINT_REMOVAL
from stages.measurement.effects import Effects, State

PARAMS = JointRemoval(confidence=0.95, draws=500, seed=1)
STATE = State("cell_heads", "step1", 1.0, "nats per gene")


def _effects(kind, rows, values):
    return Effects(
        state=STATE,
        kind=kind,
        condition="zero",
        components=components(kind, rows),
        replicates=np.arange(values.shape[0]),
        draws=values[np.newaxis],
    )


@pytest.fixture
def single():
    rng = np.random.default_rng(0)
    rows = [(layer, head, 0) for layer in range(2) for head in range(3)]
    return _effects("head", rows, 0.1 + 0.05 * rng.standard_normal((40, 6)))


def test_additive_heads_have_no_excess_and_redundant_ones_have(single, tmp_path):
    sums = single.values.reshape(40, 2, 3).sum(axis=2)
    together = sums + np.array([0.0, 0.4])
    both = _effects("attention", [(0, 0, 0), (1, 0, 0)], together)
    table = joint_removal([single, both], PARAMS)
    tables.write(table, JOINT_REMOVAL, tmp_path / "joint.csv")
    wide = table.pivot(index="layer", columns="what", values="value")
    assert wide["together"].to_numpy() == pytest.approx(together.mean(axis=0))
    assert wide["singles"].to_numpy() == pytest.approx(sums.mean(axis=0))
    assert wide["excess"].to_numpy() == pytest.approx([0.0, 0.4])
    excess = table[table["what"] == "excess"].set_index("layer")
    # The same sequences are resampled for both: what is exactly additive has no spread.
    assert excess.loc[0, ["low", "high"]].to_numpy(float) == pytest.approx(0, abs=1e-12)
    assert excess.loc[1, "low"] == pytest.approx(0.4)
    assert set(table["n_heads"]) == {3}


def test_nothing_removed_together_is_an_empty_table(single):
    table = joint_removal([single], PARAMS)
    assert table.empty
    assert list(table.columns) == list(JOINT_REMOVAL.columns)
    assert isinstance(table, pd.DataFrame)
