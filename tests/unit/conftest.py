"""What unit tests share: tables of a study, made by the stages, and what is asked of a figure."""

import contextlib
import copy
import itertools
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.text import Text

from stages.base import study, tables
from stages.cells import (
    calibration,
    comparators,
    concordance,
    contrast,
    counts,
    describe,
    medians,
    metrics,
    multiverse,
    over_clusters,
    proportions,
    restriction,
    stability,
    trend,
)
from stages.cells import truth as truth_stage
from stages.cells.recovery import recovery
from stages.cells.settings import Metrics
from stages.cells.tables.clusters import ALL_TYPES, CLUSTER_METRICS
from stages.cells.tables.metrics import METRICS
from stages.cells.tables.proportions import PROPORTIONS
from stages.cells.tables.restriction import RESTRICTION, RESTRICTION_TESTS
from stages.cells.tables.stability import STABILITY_RUNS
from stages.cells.tables.substates import SUBSTATES_NOT_COMPARED
from stages.cells.tables.truth import PLANTED, TRUTH
from stages.drawing import style
from stages.heads import (
    classes,
    companion,
    control_variate,
    covariates,
    distribution,
    importance,
    removal_kinds,
    screen,
    seeds,
)
from stages.heads.components import components
from stages.heads.tables.attribution import ATTRIBUTION, HEAD_CONTROL_VARIATE
from stages.heads.tables.companion import COMPANION_AGREEMENT
from stages.heads.tables.importance import HEAD_IMPORTANCE
from stages.inputs import cells, training
from stages.inputs.obs import read_obs
from stages.inputs.tables import COUNTS
from stages.measurement import effects, measured
from stages.measurement.states import step_of
from stages.measurement.tables import CHANGES, MEASURED
from stages.plane import axes, maturing, plane, splits
from stages.plane.tables import MATURING
from stages.report.claims import __main__ as claims
from stages.report.reading import FILES, SCHEMAS
from tests import made_spectra

EVEN, UNEVEN = (0.25, 0.25, 0.25, 0.25), (0.7, 0.1, 0.1, 0.1)
CRYSTALLIZE, DISPERSE = (EVEN, UNEVEN), (UNEVEN, EVEN)
N_CELLS = 200


class ClusterTables(NamedTuple):
    """The tables about clusters; each may be empty."""

    kidney: pd.DataFrame
    kimmel: pd.DataFrame
    stability: pd.DataFrame
    substates: pd.DataFrame
    substates_not_compared: pd.DataFrame
    restriction: pd.DataFrame
    restriction_tests: pd.DataFrame


def _samples(place, cell_type, resolution, shares, rules):
    """Three young and three old animals whose cells lie in four clusters by `shares`."""
    obs, labels = [], []
    for group, months, of_group in (("reference", 3.0, shares[0]), ("compared", 24.0, shares[1])):
        for i in range(3):
            cells = np.round(np.array(of_group) * N_CELLS).astype(int)
            cells[0] += i
            who = [*place, f"{group}{i}", "male", None, months, None, group]
            obs += [who] * int(cells.sum())
            labels += list(np.repeat(np.arange(4), cells))
    frame = pd.DataFrame(obs, columns=counts.SAMPLE)
    counted = over_clusters.clusters_as_types(frame, np.array(labels))
    measured = metrics.metrics(counted, rules)
    named = measured.assign(cell_type=cell_type, resolution=resolution, n_clusters=4)
    return named[list(CLUSTER_METRICS.columns)]


def _compared(rows, settings, family):
    """Compare what :func:`_samples` makes of rows of place, cell type, resolution and shares."""
    rules = _rules(settings)
    table = pd.concat([_samples(*row, rules) for row in rows], ignore_index=True)
    return over_clusters.compare(table, settings.clusters.contrast, family=family)


def _rules(settings):
    equal = settings.clusters.equal_cells.model_copy(update={"draws": 20})
    return Metrics(category_set="present", fixed_categories=[], rarefaction=equal)


def _runs(place, resolution, signs):
    """One run a sign of the change of Gini, three seeds a part."""
    rows = [
        [
            *place,
            resolution,
            number // 3,
            number % 3,
            4,
            number,
            0.1 * sign,
            -1.0 * sign,
            "crystallize" if sign > 0 else "disperse",
        ]
        for number, sign in enumerate(signs)
    ]
    return pd.DataFrame(rows, columns=list(STABILITY_RUNS.columns))


def _stability(settings, runs):
    ari = pd.DataFrame(
        [[r, value] for r in settings.clusters.resolutions for value in (0.8, 0.9, 1.0)],
        columns=["resolution", "ari"],
    )
    parts = [stability.summary(run, ari, settings.stability) for run in runs]
    return pd.concat(parts, ignore_index=True)


def _restriction(settings):
    """Compare the six libraries of the rat, restriction half way, at one resolution."""
    shares = {"Y": EVEN, "O": UNEVEN, "CR": tuple(np.mean(DISPERSE, axis=0))}
    names = {"Y": "young", "O": "old", "CR": "restricted"}
    rows, condition = [], {}
    for code, of_condition in shares.items():
        for sex in ("male", "female"):
            animal = f"BM-{sex[0].upper()}-{code}"
            condition[animal] = names[code]
            cells = np.round(np.array(of_condition) * N_CELLS)
            cells[1] += 2 * (sex == "male")
            group = "reference" if code == "Y" else "compared"
            months = 5.0 if code == "Y" else 27.0
            key = ["rat", "droplet", "Marrow", animal, sex, None, months, names[code], group]
            rows += [[*key, str(i), int(n), n / cells.sum()] for i, n in enumerate(cells)]
    table = pd.DataFrame(rows, columns=list(PROPORTIONS.columns))
    _, compared, tested = restriction.compare(
        table,
        pd.Series(condition),
        rules=_rules(settings),
        settings=settings.restriction.model_copy(update={"draws": 200}),
        rng=np.random.default_rng(0),
    )
    known = {
        "cohort": "rat",
        "platform": "droplet",
        "tissue": "Marrow",
        "resolution": settings.clusters.reference,
        "n_clusters": 4,
    }
    return (
        compared.assign(**known)[list(RESTRICTION.columns)],
        tested.assign(**known)[list(RESTRICTION_TESTS.columns)],
    )


@pytest.fixture(scope="session")
def cluster_tables(settings):
    """Return `empty` and `filled` tables about clusters.

    Filled: the kidney of TMS droplet turns at 0.8, that of FACS disperses throughout; in Kimmel the
    kidney crystallizes, unstably at 0.8, and the spleen disperses; podocytes crystallize and
    macrophages disperse.
    """
    facs, droplet = ("tms", "facs", "Kidney"), ("tms", "droplet", "Kidney")
    kimmel, spleen = ("kimmel", "droplet", "Kidney"), ("kimmel", "droplet", "Spleen")
    all_cells = ALL_TYPES
    curve = [(0.2, CRYSTALLIZE), (0.8, DISPERSE), (1.6, DISPERSE)]
    kidney = [(droplet, all_cells, at, shares) for at, shares in curve]
    kidney += [(facs, all_cells, at, DISPERSE) for at, _ in curve]
    validation = [(kimmel, all_cells, at, CRYSTALLIZE) for at, _ in curve]
    validation += [(spleen, all_cells, at, DISPERSE) for at, _ in curve]
    types = [
        (droplet, "podocyte", 0.3, CRYSTALLIZE),
        (droplet, "podocyte", 0.8, CRYSTALLIZE),
        (droplet, "macrophage", 0.3, CRYSTALLIZE),
        (droplet, "macrophage", 0.8, DISPERSE),
        (droplet, "fenestrated|cell", 0.8, DISPERSE),
    ]
    arms = ["cohort", "platform"]
    rescue, tests = _restriction(settings)
    runs = [
        _runs(kimmel, 0.2, [1] * 9),
        _runs(kimmel, 0.8, [1] * 6 + [-1] * 3),
        _runs(spleen, 0.8, [-1] * 9),
        _runs(droplet, 0.8, [-1] * 9),
    ]
    left_out = pd.DataFrame(
        [[*facs, "podocyte", 20, 1, 2, "needs 2 young and 2 old animals with 10 cells"]],
        columns=list(SUBSTATES_NOT_COMPARED.columns),
    )
    filled = ClusterTables(
        kidney=_compared(kidney, settings, arms),
        kimmel=_compared(validation, settings, [*arms, "resolution"]),
        stability=_stability(settings, runs),
        substates=_compared(types, settings, [*arms, "tissue", "resolution"]),
        substates_not_compared=left_out,
        restriction=rescue,
        restriction_tests=tests,
    )
    empty = ClusterTables(**{name: tables.empty(SCHEMAS[name]) for name in ClusterTables._fields})

    def write(folder, found):
        for name, table in found._asdict().items():
            tables.write(table, SCHEMAS[name], folder / FILES.get(name, f"{name}.csv"))

    return SimpleNamespace(empty=empty, filled=filled, write=write)


KINDS = ["B cell", "T cell", "a|b cell"]


def _cells(platforms, tissue="Limb_Muscle"):
    rows = []
    for platform in platforms:
        for group, months, weights in (
            ("reference", 3.0, (40, 35, 25)),
            ("compared", 24.0, (70, 20, 10)),
        ):
            for i in range(3):
                for kind, n in zip(KINDS, weights, strict=True):
                    sample = ["tms", platform, tissue, f"{group}{i}", "male", None, months, None]
                    rows.append([*sample, group, kind, n + i])
    return pd.DataFrame(rows, columns=list(COUNTS.columns))


def _argued(settings, counted, shares, measured, aged):
    """Return the tables of what chance, other choices and other methods would have said."""
    few = settings.calibration.model_copy(
        update={"studies": 20, "designs": [(4, 4)], "gini_shifts": [0.1]}
    )
    simulated = calibration.calibration(
        settings.model_copy(update={"calibration": few}), calibration.arms(shares, ["tms"])
    )
    quick = settings.comparators.model_copy(update={"max_permutations": 20})
    return {
        "calibration": pd.DataFrame(simulated, columns=list(SCHEMAS["calibration"].columns)),
        "multiverse": multiverse.multiverse(counted, settings)[0],
        "trend": trend.trend(measured, settings.trend),
        "comparators": comparators.comparators(shares, aged, quick),
        "reconstruction": tables.empty(SCHEMAS["reconstruction"]),
    }


def _write_seeds(folder, settings, states, trainings):
    """Measure as many trainings, the others being the first with other noise."""
    first = effects.series(effects.read_states(Path("effects"), list(states)), ["head"])
    first = first[("head", "zero")]
    rng = np.random.default_rng(1)
    others = {
        seed: [
            replace(part, draws=part.draws + rng.normal(0, 0.01, part.draws.shape))
            for part in first
        ]
        for seed in range(1, trainings)
    }
    few = settings.seeds.model_copy(update={"halvings": 20, "draws": 20})
    quick = settings.measured.model_copy(update={"draws": 50})
    _, over, baselines = seeds.seeds({0: first} | others, quick, few)
    for name, table in (("head_over_seeds", over), ("head_baselines", baselines)):
        tables.write(table, SCHEMAS[name], folder / f"{name}.csv")


def _removals(settings, states):
    """Set the heads of the last state, removed in two ways, side by side."""
    [part] = effects.read_states(Path("effects"), list(states))[-1:]
    other = replace(part, condition="mean", draws=part.draws[:, ::-1])
    few = settings.removal_kinds.model_copy(update={"draws": 20})
    return removal_kinds.removal_kinds([part, other], few, last=part.state.name)


def _measured_words(folder, system):
    """Return the options of a stage that measures a system."""
    words = ["--out", f"{folder}/measured/{system}.csv"]
    words += ["--changes", f"{folder}/changes/{system}.csv"]
    return [*words, "--draws", f"draws/{system}.parquet"]


STATES = {"step1": 0.0, "step8": 0.3}
"""Of the heads, with the effect of the one that grows."""


def _write_head_tables(folder, states):
    """Run the analysis of heads on effects in which head L1H2 grows and all else is noise."""
    rng = np.random.default_rng(0)
    for name, size in states.items():
        step = step_of(name)
        heads = [(layer, head, 0) for layer in range(2) for head in range(4)]
        delta = np.stack(
            [rng.normal(0, 0.01, 12) + size * (head == (1, 2, 0)) for head in heads], axis=-1
        )
        part = effects.Effects(
            effects.State("heads", name, np.nan if step is None else float(step), "nats per token"),
            "head",
            "zero",
            components("head", heads),
            np.arange(12),
            delta[np.newaxis],
            np.full(12, 3.0),
        )
        effects.write(Path(f"effects/{name}.parquet"), [part])
        first_order = np.random.default_rng(step or 0).normal(0, 0.01, (12, 2, 4))
        features = covariates.Features(
            first_order, first_order**2, np.ones((12, 2, 4)), np.full(12, 3.0)
        )
        out = Path(f"attribution/{name}.parquet")
        made_table = covariates.to_table(features, name)
        tables.write_parquet(made_table, ATTRIBUTION, out, metadata={})
    found, made = "--effects effects".split(), f"{folder}/head_"
    assert importance.main([*found, "--out", f"{made}importance.csv"]) == 0
    assert measured.main(["--system", "heads", *_measured_words(folder, "heads")]) == 0
    words = ["--importance", f"{made}importance.csv", "--out"]
    assert classes.main([*words, f"{made}classes.csv"]) == 0
    fits = [f"{made}distribution.csv", "--granularity", f"{made}granularity.csv"]
    assert distribution.main([*words, *fits]) == 0
    found = [*found, "--attribution", "attribution", "--out"]
    assert screen.main([*found, f"{made}screen.csv"]) == 0
    words = [*found, "estimates", "--summary", f"{made}control_variate.csv"]
    assert control_variate.main(words) == 0


def _published_effects(folder, moved):
    """Return published effects of half of the heads of `_write_head_tables`, one of them moved."""
    ours = tables.read(folder / "head_importance.csv", HEAD_IMPORTANCE)
    theirs = ours[ours["head"] < 2].copy()
    at = (theirs["state"] == "step8") & (theirs["layer"] == 1) & (theirs["head"] == 1)
    theirs.loc[at, "delta_loss_nats"] += moved
    parts = [
        effects.Effects(
            effects.State("companion", name, rows["position"].iloc[0], "nats per token"),
            "head",
            "zero",
            rows.set_index("component")[["layer", "head"]],
            np.zeros(1, np.int64),
            rows["delta_loss_nats"].to_numpy()[None, None],
            rows["loss_base"].to_numpy()[:1] - 0.25,
        )
        for name, rows in theirs[theirs["unit"] == "head"].groupby("state")
    ]
    return companion.agreement(ours, parts)


@pytest.fixture(scope="session")
def few_draws(settings):
    """Return the settings with a rarefaction that is quickly done."""
    few = settings.metrics.rarefaction.model_copy(update={"draws": 20})
    metrics_ = settings.metrics.model_copy(update={"rarefaction": few})
    return settings.model_copy(update={"metrics": metrics_})


@pytest.fixture(scope="session")
def tms_counts(settings, repository):
    """Return the real counts of Tabula Muris Senis that the project holds."""
    parts = []
    for name, spec in settings.atlas.cells.items():
        if spec.cohort == "tms":
            obs = read_obs(repository / spec.raw, cells.wanted_columns(spec))
            parts.append(cells.count(obs, spec, name=name, atlas=settings.atlas.name))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="session")
def companion_tables(settings, repository, tmp_path_factory):
    """Return a folder with what is measured of the published effects of heads."""
    folder = tmp_path_factory.mktemp("companion")
    parts = companion.published(repository / "data" / "embedded" / "spiro2026_heads.csv")
    few = settings.measured.model_copy(update={"draws": 50})
    made = measured.measured(
        parts, settings.systems["companion"], measured.metrics_of("heads"), few
    )
    for name, table, schema in zip(
        ("measured", "changes"), made, (MEASURED, CHANGES), strict=False
    ):
        tables.write(table, schema, folder / "tables" / name / "companion.csv")
    measured.write_draws(made[2], folder / "draws" / "companion.parquet")
    for part in parts:
        effects.write(folder / f"data/interim/companion/{part.state.name}.parquet", [part])
    return folder


@pytest.fixture(scope="session")
def made_studies():
    """Return the studies that were made: their folder and tables by what they are of."""
    return {}


@pytest.fixture
def study_folder(
    settings,
    few_draws,
    params,
    repository,
    tmp_path,
    tmp_path_factory,
    monkeypatch,
    cluster_tables,
    companion_tables,
    made_studies,
):
    """Return what writes all that the last stages read of a study, and works there.

    The same study is made once, and then copied.
    """

    def go(platforms, **options):
        parts = {key: value for key, value in options.items() if key not in ("clusters", "states")}
        filled = options.get("clusters", cluster_tables.empty)
        known = {id(cluster_tables.empty): "empty", id(cluster_tables.filled): "filled"}
        key = repr((platforms, sorted(parts.items()), options.get("states"), known.get(id(filled))))
        if "summary" in parts or id(filled) not in known:
            return make(platforms, **options)
        if key not in made_studies:
            made = make(platforms, **options)
            kept = tmp_path_factory.mktemp("study")
            shutil.copytree(tmp_path, kept, dirs_exist_ok=True)
            made_studies[key] = kept, made
            return made
        kept, made = made_studies[key]
        shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
        monkeypatch.chdir(tmp_path)
        return {name: table.copy() for name, table in made.items()}

    def of_cells(platforms, tissue, simulated):
        """Return the measured samples, and all tables on annotated types."""
        key = "cells", platforms, tissue, simulated
        if key not in made_studies:
            counted = _cells(platforms, tissue)
            shares, excluded = proportions.proportions(counted, settings.proportions)
            measured = metrics.metrics(shares, settings.metrics)
            aged, left_out = contrast.contrast(measured, settings.contrast)
            described = describe.samples(counted, pooled_pattern="/")
            both = concordance.concordance(aged, settings.concordance)
            truth = tables.empty(TRUTH)
            if simulated:
                row = aged[(aged["metric"] == "gini") & (aged["cells"] == "all")].iloc[0]
                who = [row.cohort, row.platform, row.tissue, "gini"]
                truth = pd.DataFrame([[*who, row.change, row.change]], columns=list(truth.columns))
            made_studies[key] = (
                measured,
                {
                    "samples": described,
                    "confounding": describe.confounding(described),
                    "proportions": shares,
                    "exclusions": excluded,
                    "contrast": aged,
                    "not_compared": left_out,
                    "concordance": both,
                    "concordance_summary": concordance.summary(
                        both, settings.concordance, rng=None
                    ),
                    "recovery": recovery(truth, aged),
                    **_argued(few_draws, counted, shares, measured, aged),
                },
            )
        measured, made = made_studies[key]
        return measured.copy(), {name: table.copy() for name, table in made.items()}

    def write_heads(changed, states, trainings):
        """Write all tables on heads and on directions of tokens."""
        key = "heads", tuple(states.items()), trainings
        if key not in made_studies:
            place = tmp_path_factory.mktemp("heads")
            (place / "params.yaml").write_text(yaml.safe_dump(changed))
            monkeypatch.chdir(place)
            folder = Path("tables")
            _write_head_tables(folder, states)
            shutil.copytree(companion_tables, place, dirs_exist_ok=True)
            made_spectra.write(folder, place / "spectra", settings, "spectra", list(states))
            _write_seeds(folder, settings, states, trainings)
            name = "head_removals"
            tables.write(_removals(settings, states), SCHEMAS[name], folder / f"{name}.csv")
            (place / "params.yaml").unlink()
            made_studies[key] = place
        shutil.copytree(made_studies[key], tmp_path, dirs_exist_ok=True)

    def make(
        platforms,
        *,
        simulated,
        published=False,
        summary=None,
        clusters=cluster_tables.empty,
        tissue="Limb_Muscle",
        states=STATES,
        trainings=1,
    ):
        folder = tmp_path / "tables"
        measured, made = of_cells(tuple(platforms), tissue, simulated)
        for name, table in made.items():
            tables.write(table, SCHEMAS[name], folder / f"{name}.csv")
        cluster_tables.write(folder, clusters)
        planted = truth_stage.planted(settings.atlas) if simulated else tables.empty(PLANTED)
        planted = planted.replace({"cohort": {"tms-simulated": "tms"}})
        tables.write(planted, PLANTED, tmp_path / "planted.csv")
        notice = "Simulated demo data: no finding." if simulated else ""
        cells = study.Study("x", "demo", simulated, notice)
        heads = study.Study("y", "mini", simulated, "Demo model: no finding." if simulated else "")
        for name, content in (
            ("cells", asdict(cells)),
            ("heads", asdict(heads)),
            ("cellmodel", asdict(study.Study("none", "none", simulated=False, notice=""))),
            ("overrides", {}),
        ):
            (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        changed = copy.deepcopy(params)
        if not simulated:
            changed["atlas"] |= {"source": "local", "acquire": {}, "notice": None}
            del changed["atlas"]["seed"]
            for spec in (
                *changed["atlas"]["cells"].values(),
                *changed["atlas"]["libraries"].values(),
            ):
                spec["evidence"] = "annotation"
        if not all(map(step_of, states)):
            local = repository / "conf" / "model" / "local.yaml"
            changed["model"] = yaml.safe_load(local.read_text(encoding="utf-8")) | {"local": "."}
            changed["model"]["text"]["path"] = "text.txt"
        changed["model"]["checkpoints"] = list(states)
        none = (repository / "conf" / "cellmodel" / "none.yaml").read_text(encoding="utf-8")
        changed["cellmodel"] = yaml.safe_load(none)
        # Systems of the model of cells go with it.
        own = {"heads", "companion", "spectra"}
        changed["systems"] = {name: of for name, of in changed["systems"].items() if name in own}
        for name in ("pairs", "cell_pairs"):
            changed[name]["states"] = []
        changed["systems"]["spectra"] |= {"states": list(states)}
        changed["systems"]["spectra"] |= {"effects": "spectra/effects/spectra"}
        changed["systems"]["heads"] |= {"effects": "effects", "states": list(states)}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed))
        write_heads(changed, states, trainings)
        monkeypatch.chdir(tmp_path)
        if summary is not None:
            out = folder / "head_control_variate.csv"
            tables.write(summary, HEAD_CONTROL_VARIATE, out)
        agreement = tables.empty(COMPANION_AGREEMENT)
        if published:
            agreement = _published_effects(folder, moved=-0.125)
        tables.write(agreement, COMPANION_AGREEMENT, folder / "companion_agreement.csv")
        made["companion_agreement"] = agreement
        tables.write(measured, METRICS, folder / "metrics.csv")
        if clusters is cluster_tables.empty:
            names = ("plane", "plane_directions", "splits", "axes")
            tables.write(tables.empty(MATURING), MATURING, folder / "maturing.csv")
            for name in (*names, "maturing_answers"):
                tables.write(
                    tables.empty(SCHEMAS[name]),
                    SCHEMAS[name],
                    folder / f"{name}.csv",
                )
        else:
            words = ["--metrics", f"{folder}/metrics.csv"]
            assert medians.main([*words, *_measured_words(folder, "cells")]) == 0
            words = ["--measured", f"{folder}/measured", "--changes", f"{folder}/changes"]
            words += ["--draws", "draws", "--out", f"{folder}/plane.csv"]
            directions = f"{folder}/plane_directions.csv"
            assert plane.main([*words, "--directions", directions]) == 0
            words = ["--study", "cells.json", "--out"]
            assert splits.main([*words, f"{folder}/splits.csv", "--directions", directions]) == 0
            words += [f"{folder}/axes.csv", "--proportions", f"{folder}/proportions.csv"]
            assert axes.main(words) == 0
            words = ["--measured", f"{folder}/measured", "--study", "cells.json"]
            words += ["--proportions", f"{folder}/proportions.csv", "--seeds", "none"]
            words += ["--out", f"{folder}/maturing.csv", "--lorenz", f"{folder}/lorenz_curves.csv"]
            words += ["--answers", f"{folder}/maturing_answers.csv"]
            assert maturing.main(words) == 0
        words = ["--claims", str(repository / "reports/claims.yaml"), "--tables", str(folder)]
        words += ["--cells", "cells.json", "--heads", "heads.json", "--cellmodel", "cellmodel.json"]
        words += ["--results", str(repository / "data/embedded/published_results.csv")]
        assert claims.main([*words, "--out", f"{folder}/claims.csv"]) == 0
        return made

    return go


@pytest.fixture
def killed_training(monkeypatch):
    """Return what runs a training that is killed before some steps, until its output is there.

    ``go(make, out, places)``: `places` are pairs of how often it was killed before, and the step;
    it returns the steps at which it was killed, and all steps that were made.
    """

    class Killed(BaseException):
        pass

    def go(make, out, places):
        real, made, deaths = training._step, [], []

        def dies(what, network, optimizer, step):
            if (len(deaths), step) in places:
                deaths.append(step)
                raise Killed
            made.append(step)
            return real(what, network, optimizer, step)

        monkeypatch.setattr(training, "_step", dies)
        while not out.exists():
            with contextlib.suppress(Killed):
                make()
        monkeypatch.setattr(training, "_step", real)
        return deaths, made

    return go


@pytest.fixture
def drawn_texts(monkeypatch):
    """Return a function that gives the texts of a figure that reach the page, with their boxes."""

    def drawn(figure):
        seen = []
        original = Text.draw

        def draw(self, renderer, *args, **kwargs):
            original(self, renderer, *args, **kwargs)
            if self.get_visible() and self.get_text().strip():
                # The box of an annotation would hold its line as well.
                seen.append((self, Text.get_window_extent(self, renderer)))

        style.freeze(figure)
        with monkeypatch.context() as patch:
            patch.setattr(Text, "draw", draw)
            figure.draw_without_rendering()
        assert seen
        return seen

    return drawn


def _overlapping(boxes, slack=1.0, *, slanted=False):
    pairs = []
    for (a, one), (b, two) in itertools.combinations(boxes, 2):
        wide = min(one.x1, two.x1) - max(one.x0, two.x0)
        high = min(one.y1, two.y1) - max(one.y0, two.y0)
        passed_over = slanted and (a.get_rotation() % 90 or b.get_rotation() % 90)
        if min(wide, high) > slack and not passed_over:
            pairs.append((a.get_text(), b.get_text()))
    return pairs


@pytest.fixture
def overlapping():
    """Return what finds the texts whose boxes share more than `slack` pixels both ways.

    `slanted`: pass over slanted labels, whose boxes overlap where the labels do not.
    """
    return _overlapping


@pytest.fixture
def legible(drawn_texts):
    """Return what checks the text of a figure: its size, its place on the page, no overlap.

    It gives the texts with their boxes.
    """

    def check(figure, notice, *, slanted=False):
        with mpl.rc_context():
            style._stamp(figure, notice)
            boxes = drawn_texts(figure)
        assert min(text.get_fontsize() for text, _ in boxes) >= style.SMALLEST_PT
        assert _overlapping(boxes, slanted=slanted) == []
        page = figure.bbox
        for text, box in boxes:
            inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.x1 and box.y1 <= page.y1
            assert inside, text.get_text()
        width, height = figure.get_size_inches() * style.MM_PER_INCH
        assert width <= style.DOUBLE_MM + 1e-6
        assert height <= style.PAGE_MM + 1e-6
        return boxes

    return check
