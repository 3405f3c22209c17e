"""What a model of cells knows: probes and baselines on known answers."""

import numpy as np
import pandas as pd
import pytest

from stages.base.errors import SettingsError
from stages.representations.frequency import PSEUDO_COUNT, WINDOW, by_rank, losses
from stages.representations.probes import _Rows, of_label, of_order, states_of
from stages.representations.settings import Probes

PARAMS = Probes(
    label="node", order="pseudotime", components=[2], confidence=0.95, draws=200, seed=1
)


def test_states_that_are_probed(settings):
    model = settings.cellmodel.model_copy(update={"checkpoints": ["step0", "step8", "step64"]})
    assert states_of(model, PARAMS) == ["step0", "step64"]
    named = PARAMS.model_copy(update={"states": ["step8"]})
    assert states_of(model, named) == ["step0", "step8", "step64"]
    other = PARAMS.model_copy(update={"states": ["step9"]})
    with pytest.raises(SettingsError, match=r"states names step9, .*: step0, step8, step64\."):
        states_of(model, other)


class TestFrequency:
    def test_one_place_counts_what_stands_there_and_around(self):
        ids = np.array([[3, 4], [3, 5]], dtype=np.int32)
        genes = np.array([False, False, False, True, True, True])
        found = by_rank(ids, genes)
        assert ids.shape[1] <= WINDOW
        counts = np.array([2.0, 1.0, 1.0]) + PSEUDO_COUNT
        assert found[0, 3:] == pytest.approx(counts / counts.sum())
        assert (found[:, :3] == 0).all()

    def test_far_places_do_not_count(self):
        ids = np.zeros((1, 2 * WINDOW + 3), dtype=np.int32)
        ids[0, -1] = 1
        found = by_rank(ids, np.array([True, True]))
        assert found[0, 1] == pytest.approx(PSEUDO_COUNT / (WINDOW + 1 + 2 * PSEUDO_COUNT))
        assert found[-1, 1] > found[0, 1]

    def test_a_loss_by_hand_and_what_is_seen_cannot_come_again(self):
        shares = np.array([[0.0, 0.5, 0.25, 0.25]] * 3)
        seen = np.array([[1, 0, 0]], dtype=np.int32)
        true = np.array([[1, 2, 3]], dtype=np.int32)
        hidden = np.array([[False, True, True]])
        found = losses(shares, seen, true, hidden, repeats=True)
        assert found == pytest.approx([np.log(4)])
        # Without gene 1, which is seen, the two others share what is left.
        found = losses(shares, seen, true, hidden, repeats=False)
        assert found == pytest.approx([np.log(2)])

    def test_true_frequencies_cannot_be_beaten_on_average_by_others(self):
        rng = np.random.default_rng(0)
        p = rng.dirichlet(np.ones(6))
        true = rng.choice(6, size=(2000, 4), p=p).astype(np.int32)
        hidden = np.ones_like(true, dtype=bool)
        own = losses(np.tile(p, (4, 1)), true, true, hidden, repeats=True).mean()
        entropy = -(p * np.log(p)).sum()
        assert own == pytest.approx(entropy, abs=0.02)
        even = losses(np.full((4, 6), 1 / 6), true, true, hidden, repeats=True).mean()
        assert even == pytest.approx(np.log(6))
        assert own < even


class TestProbes:
    def test_labels_that_lie_apart_are_found_and_noise_is_not(self):
        rng = np.random.default_rng(1)
        labels = np.repeat(["a", "b", "c"], 100)
        test = np.arange(300) % 3 == 0
        apart = np.eye(3)[np.repeat([0, 1, 2], 100)] * 8 + rng.standard_normal((300, 3))
        assert of_label(apart, labels, test).mean() > 0.98
        noise = of_label(rng.standard_normal((300, 3)), labels, test)
        assert noise.mean() == pytest.approx(1 / 3, abs=0.12)
        assert len(noise) == 100

    def test_a_label_that_is_too_rare_is_not_judged(self):
        labels = np.array(["a"] * 50 + ["b"] * 50 + ["rare"] * 3)
        test = np.arange(103) % 2 == 0
        found = of_label(np.random.default_rng(0).standard_normal((103, 2)), labels, test)
        assert len(found) == test[:100].sum()

    def test_an_order_that_is_linear_is_found(self):
        rng = np.random.default_rng(2)
        vectors = rng.standard_normal((400, 5))
        order = vectors @ np.arange(5.0) + 0.1 * rng.standard_normal(400)
        test = np.arange(400) % 2 == 0
        error, spread = of_order(vectors, order, test)
        assert 1 - error.mean() / spread.mean() > 0.99
        error, spread = of_order(rng.standard_normal((400, 5)), order, test)
        assert 1 - error.mean() / spread.mean() < 0.1

    def test_rows_have_the_value_within_its_interval(self):
        rows = _Rows(PARAMS)
        values = np.random.default_rng(3).random(50)
        rows.add("loss", {"source": "model", "name": "step0"}, values)
        rows.add("order", {"source": "model", "name": "step0"}, values, values + 1)
        loss, order = rows.found
        assert loss["value"] == pytest.approx(values.mean())
        assert loss["low"] < loss["value"] < loss["high"]
        assert order["value"] == pytest.approx(1 - values.mean() / (values + 1).mean())

    def test_cells_without_a_label_or_an_order_have_no_such_rows(self):
        rows = _Rows(PARAMS)
        cells = pd.DataFrame({"donor": ["a"] * 20})
        rows.probed({"source": "expression", "name": "PCA-2"}, np.ones((20, 2)), cells, None)
        assert rows.found == []
