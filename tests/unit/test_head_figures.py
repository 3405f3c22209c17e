"""Hold the figures of heads to what print needs, for a small model and for one of Pythia's size."""

import importlib
import itertools

import numpy as np
import pandas as pd
import pytest

from stages.base import tables
from stages.base.errors import FigureError
from stages.base.study import Study
from stages.heads import distribution, seeds
from stages.heads.components import components, head_name
from stages.heads.figures import head_effects, head_heatmap, head_trajectories, heads
from stages.heads.importance import importance
from stages.heads.settings import Distribution, Seeds
from stages.heads.tables.distribution import HEAD_DISTRIBUTION
from stages.heads.tables.importance import HEAD_IMPORTANCE
from stages.heads.tables.seeds import HEAD_OVER_SEEDS, HEAD_SEEDS
from stages.measurement.effects import Effects, State
from stages.measurement.settings import Measured

DEMO = Study(
    name="demo",
    source="demo",
    simulated=True,
    notice="Demo model: trained here for a few minutes.",
)

PUBLISHED_STEPS = (512, 1000, 2000, 4000, 8000, 16000, 64000, 143000)
CASES = {
    "mini": (6, 8, tuple(2**k for k in range(4, 12))),
    "published": (24, 16, PUBLISHED_STEPS),
    "single": (2, 2, (0,)),
    "alone": (3, 4, ("main",)),
    "named": (3, 4, ("warm_up", "stage1-end-of-schedule", "a", "merged_and_annealed")),
    "many": (3, 4, (0, *(2**k for k in range(10)), *range(1000, 20000, 1000))),
}


def name_of(state):
    return state if isinstance(state, str) else f"step{state}"


def head_parts(n_layers, n_heads, steps, seed=0):
    """Simulate heads that wake at different times; one becomes far larger than all others."""
    rng = np.random.default_rng(seed)
    n = n_layers * n_heads
    size = np.exp(rng.normal(-6.5, 1.3, n)) * np.where(rng.random(n) < 0.85, 1, -1)
    size[rng.integers(n)] = 0.3
    wake = rng.uniform(0.1, 0.9, n)
    keys = components("head", [(*divmod(i, n_heads), 0) for i in range(n)])
    parts = []
    for step, time in zip(steps, np.linspace(0, 1, len(steps)), strict=True):
        mean = size / (1 + np.exp(-12 * (time - wake)))
        delta = mean + (0.002 + 0.5 * np.abs(mean)) * rng.normal(size=(16, n))
        base = np.full(16, 4.0)
        at = float(steps.index(step) if isinstance(step, str) else step)
        state = State("heads", name_of(step), at, "nats per token")
        drawn = delta[np.newaxis]
        parts.append(Effects(state, "head", "zero", keys, np.arange(16), drawn, base))
    return parts


class Inputs:
    """The tables of one case, made once."""

    def __init__(self, case):
        parts = head_parts(*CASES[case])
        self.importance = HEAD_IMPORTANCE.validate(importance(parts))
        trained = {0: parts}
        if case == "mini":
            trained |= {seed: head_parts(*CASES[case], seed=seed) for seed in (1, 2)}
        params = Measured(confidence=0.95, draws=50, seed=1)
        own = Seeds(others=[1, 2], halvings=40, draws=20, seed=2)
        each, over, _ = seeds.seeds(trained, params, own)
        self.seeds, self.over = HEAD_SEEDS.validate(each), HEAD_OVER_SEEDS.validate(over)
        fits = Distribution(confidence=0.95, draws=20, seed=3, tail_min_relative=1e-4)
        fitted = distribution.distribution(self.importance, fits)
        self.distribution = HEAD_DISTRIBUTION.validate(fitted)


DRAW = {
    "head_trajectories": lambda t: head_trajectories.draw(t.importance, t.seeds, t.over),
    "head_effects": lambda t: head_effects.draw(t.importance, t.distribution),
    "head_heatmap": lambda t: head_heatmap.draw(t.importance),
}
OPTIONS = {
    "head_trajectories": ["importance", "seeds", "over"],
    "head_effects": ["importance", "distribution"],
    "head_heatmap": ["importance"],
}
SCHEMAS = {
    "importance": HEAD_IMPORTANCE,
    "seeds": HEAD_SEEDS,
    "over": HEAD_OVER_SEEDS,
    "distribution": HEAD_DISTRIBUTION,
}


@pytest.fixture(scope="module")
def inputs():
    made = {}

    def of(case):
        if case not in made:
            made[case] = Inputs(case)
        return made[case]

    return of


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", DRAW)
def test_all_text_is_legible_inside_the_page_and_clear_of_other_text(name, case, inputs, legible):
    legible(DRAW[name](inputs(case)), "Demo model", slanted=True)


def test_strongest_heads_are_named_once_and_no_name_covers_another(
    inputs, drawn_texts, overlapping
):
    t = inputs("published")
    boxes = drawn_texts(head_trajectories.draw(t.importance, t.seeds, t.over))
    size = t.importance.assign(size=t.importance["delta_loss_nats"].abs())
    largest = size.groupby(["layer", "head"])["size"].max().nlargest(head_trajectories.N_NAMED)
    expected = sorted(head_name(*index) for index in largest.index)
    shown = [(text, box) for text, box in boxes if text.get_text() in expected]
    assert sorted(text.get_text() for text, _ in shown) == expected
    assert overlapping(shown, slack=0, slanted=True) == []


def test_names_keep_the_order_of_their_lines_and_their_distance():
    rng = np.random.default_rng(1)
    for _ in range(50):
        wanted = rng.uniform(-20, 120, 10)
        placed = head_trajectories.apart(wanted, 8.0, 0.0, 100.0)
        order = np.argsort(wanted)
        assert (np.diff(placed[order]) >= 8 - 1e-9).all()
        assert placed.min() >= 4 - 1e-9
        assert placed.max() <= 96 + 1e-9
    crowded = head_trajectories.apart(np.zeros(30), 8.0, 0.0, 100.0)
    assert np.diff(crowded).min() > 0
    free = np.array([10.0, 50.0, 90.0])
    assert (head_trajectories.apart(free, 8.0, 0.0, 100.0) == free).all()


def test_every_head_has_its_line(inputs):
    t = inputs("mini")
    lines = head_trajectories.draw(t.importance, t.seeds, t.over).axes[0].lines
    wide = heads.effects(t.importance)
    drawn = {tuple(line.get_ydata()) for line in lines if len(line.get_ydata()) == wide.shape[1]}
    assert {tuple(values) for values in wide.to_numpy()} <= drawn


def test_every_training_its_mean_and_the_noise_are_drawn(inputs):
    t = inputs("mini")
    panels = head_trajectories.draw(t.importance, t.seeds, t.over).axes[1:]
    n_checked = 0
    for (metric, effects), axes in zip(
        itertools.product(head_trajectories.METRICS, head_trajectories.EFFECTS), panels, strict=True
    ):
        drawn = [tuple(line.get_ydata()) for line in axes.lines]
        each, over = (
            part[(part["metric"] == metric) & (part["effects"] == effects)]
            for part in (t.seeds, t.over)
        )
        each = each[each["estimator"] == "plug_in"]
        for _, rows in each.groupby("seed"):
            assert tuple(rows["value"]) in drawn
            n_checked += 1
        for estimator, rows in over.groupby("estimator"):
            known = rows if estimator == "plug_in" else rows[rows["n_seeds"] == 3]
            assert tuple(known["mean"]) in drawn
        assert tuple(each.groupby("position")["floor"].mean()) in drawn
        assert len(axes.collections) == 2
    assert n_checked == 12


def test_noise_is_shown_by_state(inputs):
    """One level for all states was 12 times too small at the last."""
    rows = inputs("mini").importance
    level = heads.noise_levels(rows)
    for state, part in rows.groupby("state"):
        assert level[state] == part["standard_error_nats"].median()
    band = head_trajectories.draw(rows, inputs("mini").seeds, inputs("mini").over)
    corners = band.axes[0].collections[0].get_paths()[0].vertices
    for name, at in zip(heads.States.of(rows).names, heads.States.of(rows).at, strict=True):
        ends = corners[corners[:, 0] == at, 1]
        assert [ends.min(), ends.max()] == pytest.approx([-level[name], level[name]])


def test_effects_panel_shows_every_head_once_with_its_sign(inputs):
    t = inputs("mini")
    axes = head_effects.draw(t.importance, t.distribution).axes[-1]
    harms, helps = (points.get_offsets()[:, 0] for points in axes.collections[-2:])
    last = t.importance[t.importance["state"] == "step2048"]["delta_loss_nats"]
    assert sorted(harms) == pytest.approx(sorted(last[last > 0]))
    assert sorted(helps) == pytest.approx(sorted(-last[last < 0]))


def test_noise_curve_is_that_of_the_standard_errors():
    rows = pd.DataFrame({"standard_error_nats": [1.0, 2.0]})
    # P(|N(0, 1)| > 1.96) = 0.05 and P(|N(0, 4)| > 1.96) = 0.3271.
    assert head_effects.exceedance(rows, np.array([0.0, 1.959964])) == pytest.approx(
        [1.0, (0.05 + 0.32709) / 2], abs=1e-5
    )


def test_heatmap_cells_are_the_effects(inputs):
    t = inputs("mini")
    figure = head_heatmap.draw(t.importance)
    meshes = [m for axes in figure.axes for m in axes.collections if hasattr(m, "get_coordinates")]
    wide = heads.effects(t.importance).abs()
    by_layer = wide.groupby(level="layer").sum().to_numpy()
    level = heads.noise_levels(t.importance)[list(wide)].to_numpy()
    n_heads = len(wide) / len(by_layer)
    drawn = np.where(by_layer < level * n_heads * (2 / np.pi) ** 0.5, meshes[0].norm.vmin, by_layer)
    assert np.asarray(meshes[0].get_array()) == pytest.approx(drawn)
    last = wide["step2048"].unstack("head").to_numpy()
    grid = next(m for m in reversed(meshes) if np.asarray(m.get_array()).shape == last.shape)
    drawn = np.where(last < level[-1], grid.norm.vmin, last)
    assert (drawn < level[-1]).any()
    assert np.asarray(grid.get_array()) == pytest.approx(drawn)


def test_steps_are_labelled_where_there_is_room(inputs, drawn_texts):
    t = inputs("many")
    boxes = drawn_texts(head_trajectories.draw(t.importance, t.seeds, t.over))
    words = [text.get_text() for text, _ in boxes]
    assert "0" in words
    assert "19k" in words
    assert heads.spread(list(map(str, range(100))), 8)[::7] == ["0", "99"]
    assert len(heads.spread(list(map(str, range(100))), 8)) == 8


def test_states_that_are_no_steps_stand_in_their_order_under_their_names(inputs, drawn_texts):
    t = inputs("named")
    figure = head_trajectories.draw(t.importance, t.seeds, t.over)
    side = figure.axes[-1]
    assert (side.get_xscale(), side.get_xlabel()) == ("linear", "State")
    assert side.get_xticks().tolist() == [0, 1, 2, 3]
    words = [text.get_text() for text, _ in drawn_texts(figure)]
    assert "merged_\N{HORIZONTAL ELLIPSIS}ealed" in words
    panels = head_effects.draw(t.importance, t.distribution).axes
    titles = [axes.get_title("left") for axes in panels]
    assert titles == [
        "warm_up",
        "stage1-\N{HORIZONTAL ELLIPSIS}edule",
        "a",
        "merged_\N{HORIZONTAL ELLIPSIS}ealed",
    ]


def test_a_state_alone_has_its_intervals_and_its_floor(inputs):
    t = inputs("alone")
    side = head_trajectories.draw(t.importance, t.seeds, t.over).axes[1]
    row = t.seeds[(t.seeds["metric"] == "gini") & (t.seeds["effects"] == "absolute")].iloc[0]
    bands = [band.get_datalim(side.transData) for band in side.collections]
    ends = [end for band in bands for end in band.intervaly]
    of = ("floor_low", "floor_high", "low", "high")
    assert ends == pytest.approx([row[name] for name in of])
    assert all(band.width > 0 for band in bands)


def test_figures_show_zero_ablation_where_there_is_one(inputs):
    t = inputs("mini").importance
    both = pd.concat([t.assign(perturbation="resample", delta_loss_nats=9.0), t])
    assert heads.shown(both)["delta_loss_nats"].max() < 1
    assert (heads.shown(both[both["perturbation"] == "resample"])["delta_loss_nats"] == 9).all()


def test_effects_without_standard_errors_are_drawn_without_a_floor(inputs):
    """Published effects have none."""
    t = inputs("mini")
    bare = t.importance.assign(standard_error_nats=np.nan)
    axes = head_effects.draw(bare, t.distribution).axes[0]
    assert len(axes.collections) == 2
    head_heatmap.draw(bare)
    head_trajectories.draw(bare, t.seeds, t.over)


@pytest.mark.parametrize("name", DRAW)
def test_tables_without_heads_are_refused_in_words(name, inputs):
    t = inputs("mini")
    without = Inputs.__new__(Inputs)
    without.__dict__.update(t.__dict__)
    without.importance = t.importance.assign(unit="layer")
    with pytest.raises(FigureError, match="holds no head to draw"):
        DRAW[name](without)


def test_a_model_without_any_effect_is_drawn(inputs):
    t = inputs("mini")
    nothing = t.importance.assign(delta_loss_nats=0.0, standard_error_nats=0.0)
    head_heatmap.draw(nothing)
    head_trajectories.draw(nothing, t.seeds, t.over)
    head_effects.draw(nothing, t.distribution)


@pytest.mark.parametrize("name", DRAW)
def test_command_line_writes_the_same_bytes_twice_with_the_notice(name, inputs, tmp_path):
    t = inputs("mini")
    module = importlib.import_module(f"stages.heads.figures.{name}")
    for table in OPTIONS[name]:
        tables.write(getattr(t, table), SCHEMAS[table], tmp_path / f"{table}.csv")
    (tmp_path / "study.json").write_text(
        '{"name": "d", "source": "demo", "simulated": true, "notice": "Demo model: x"}'
    )
    options = [f"--{table}={tmp_path / table}.csv" for table in OPTIONS[name]]
    for folder in ("a", "b"):
        words = [*options, f"--study={tmp_path}/study.json", f"--out={tmp_path / folder}"]
        assert module.main(words) == 0
    for suffix in ("png", "svg"):
        one, other = (tmp_path / folder / f"fig_{name}.{suffix}" for folder in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()
    svg = (tmp_path / "a" / f"fig_{name}.svg").read_text(encoding="utf-8")
    assert svg.count(">Demo model<") == 1
    assert "<dc:date>" not in svg
