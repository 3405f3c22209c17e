"""The ledger of published claims: real inputs uphold theirs, simulated ones uphold none."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from stages.base import compose, tables
from stages.base.errors import TableError
from stages.base.study import Arm, Study
from stages.cells import contrast, metrics, proportions
from stages.cells.tables.clusters import ALL_TYPES
from stages.cells.tables.restriction import RESTRICTION
from stages.heads import companion
from stages.heads.components import head_name
from stages.heads.tables.importance import HEAD_IMPORTANCE
from stages.inputs import cells
from stages.measurement import concentration, measured
from stages.measurement.tables import CHANGES
from stages.pairs.tables.epistasis import EPISTASIS
from stages.report import claims, text
from stages.report import tables as schemas
from stages.report.claims import __main__ as command
from stages.report.claims.rules import computed
from stages.report.writing import Templates
from stages.spectra.tables.spectrum import SPECTRUM

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
CLAIMS = claims.read(ROOT / "reports" / "claims.yaml")
OF_MODELS = [claim.id for claim in CLAIMS if claim.rule == "value" and claim.model]
"""Claims on models that no made run has."""
RESULTS = ROOT / "data" / "embedded" / "published_results.csv"
UNTESTED = "not testable on these inputs"
AS_PUBLISHED = "agrees with its published results"
NOT_AS_PUBLISHED = "does not agree with its published results"
CELLS = Study("published", "published", simulated=False, notice="")
HEADS = Study("pythia-410m-deduped", "hub", simulated=False, notice="")
DEMO_CELLS = Study("demo", "demo", simulated=True, notice="Simulated demo data: none is real.")
DEMO_HEADS = Study("pythia-mini", "mini", simulated=True, notice="Demo model: made here.")
NO_CELLMODEL = Study("none", "none", simulated=False, notice="")
ARMS = {"facs": (5, 4), "droplet": (5, 8)}
RESOLUTIONS = (0.2, 0.4, 0.8, 1.2, 1.6)


def changed(cohort, platform, tissue, gini, effective_number, *, p=0.5, smallest=0.001, **more):
    """Return rows of CONTRAST, or of CLUSTER_CONTRAST with a `resolution`: one a metric."""
    n_reference, n_compared = ARMS[platform]
    clustering = {}
    if "resolution" in more:
        clustering = {"cell_type": ALL_TYPES, "resolution": 0.0, "n_clusters": 9} | more
    quadrant = "crystallize" if gini > 0 else "disperse"
    return [
        {
            **{"cohort": cohort, "platform": platform, "tissue": tissue},
            **clustering,
            **{
                "cells": "all",
                "metric": metric,
                "n_reference": n_reference,
                "n_compared": n_compared,
                "paired": False,
            },
            **{"reference_median": 0.5, "compared_median": 0.5 + change, "change": change},
            **{"change_low": change - 0.02, "change_high": change + 0.02},
            **{"shift": change, "shift_low": np.nan, "shift_high": np.nan},
            **{"shift_confidence": np.nan, "rank_statistic": 1.0, "rank_p": p},
            **{"rank_p_smallest": smallest, "rank_q": p},
            **{"within_block_p": np.nan, "within_block_p_smallest": np.nan, "within_block_n": 0},
            **{"within_block_exact": True, "quadrant": quadrant, "emphasised": False},
        }
        for metric, change in (("gini", gini), ("effective_number", effective_number))
    ]


def rescued(metric, fraction, probability):
    ends = {f"rescue_fraction{end}": fraction for end in ("", "_low", "_high")}
    numbers = {"young": 0.5, "old": 0.7, "restricted": 0.6}
    numbers |= {
        f"{name}{end}": 0.1 for name in ("drift", "rescue") for end in ("", "_low", "_high")
    }
    numbers |= ends | {"rescue_probability": probability, "interval_resamples": "cells"}
    clustered = {"cohort": "rat", "platform": "droplet", "tissue": "Marrow", "resolution": 0.8}
    clustered |= {"n_clusters": 9, "cells": "all", "metric": metric, "libraries": "mean"}
    row = clustered | {"n_libraries": 2, "n_cells": 100} | numbers
    return {name: row[name] for name in RESTRICTION.columns}


def heads(n_layers, n_per_layer, *, of_last):
    """Return effects at the published steps: equal ones first, those of `of_last` at the end."""
    n = n_layers * n_per_layer
    parts = []
    for step, effects in ((512, np.ones(n)), (143000, of_last(np.arange(n)))):
        where = {"state": f"step{step}", "position": step, "unit": "head", "perturbation": "zero"}
        part = pd.DataFrame(where, index=range(n))
        layer, head = np.divmod(np.arange(n), n_per_layer)
        part["component"] = [head_name(*each) for each in zip(layer, head, strict=True)]
        part["layer"], part["head"], part["delta_loss_nats"] = layer, head, effects
        part["standard_error_nats"] = part["standard_error_draws_nats"] = np.nan
        part["n_sequences"], part["n_draws"], part["loss_base"] = 100, 1, 3.0
        parts.append(part.assign(rank=1))
    return pd.concat(parts, ignore_index=True)


def change_of_all(gini, effective_number, n_heads):
    rows = []
    for metric, change in (("gini", gini), ("effective_number", effective_number)):
        ends = {f"{kind}_low": change - 0.1 for kind in ("replicates", "percentile", "components")}
        ends |= {name.replace("low", "high"): change + 0.1 for name in ends}
        row = {"system": "heads", "group": "pythia", "series": "head", "condition": "zero"}
        row |= {"metric": metric, "state_first": "step512", "state_last": "step143000"}
        row |= {"position_first": 512.0, "position_last": 143000.0}
        row |= {"value_first": 1.0, "value_last": 1.0, "change": change} | ends
        row |= {"n_components": n_heads, "n_first": 100, "n_last": 100}
        rows.append({name: row[name] for name in CHANGES.columns})
    return pd.DataFrame(rows)


def as_published(**signs):
    """Return tables in which every claim on cells holds; a sign of -1 turns one round.

    `signs`: by name of what is turned round.
    """
    turn = {"kidney": 1, "lung": 1, "kimmel_spleen": 1, "kidney_fine": 1, "podocytes": 1} | signs
    types, clusters, kidney, within = [], [], [], []
    for platform, marrow in (("facs", (0.088, -2.19)), ("droplet", (0.038, -0.54))):
        types += changed("tms", platform, "Marrow", *marrow)
        types += changed("tms", platform, "Kidney", 0.1 * turn["kidney"], -1 * turn["kidney"])
        types += changed("tms", platform, "Limb_Muscle", 0.1, -1)
        types += changed("tms", platform, "Lung", -0.1 * turn["lung"], 1 * turn["lung"])
        types += changed("tms", platform, "Spleen", -0.1, 1)
        fine = turn["kidney_fine"]
        kidney += changed("tms", platform, "Kidney", -0.1 * fine, fine, resolution=1.6)
    types += changed("kimmel", "droplet", "Kidney", 0.1, -1)
    kidney += changed("kimmel", "droplet", "Kidney", -0.1, 1, resolution=1.6)
    # A coarser resolution does not count as fine.
    kidney += changed("kimmel", "droplet", "Kidney", 0.1, -1, resolution=0.2)
    for resolution in RESOLUTIONS:
        at = turn["kimmel_spleen"] if resolution == 1.2 else 1
        clusters += changed("kimmel", "droplet", "Lung", -0.1, 1, resolution=resolution)
        clusters += changed("kimmel", "droplet", "Spleen", -0.1 * at, at, resolution=resolution)
    for name, gini, p in (("podocyte", 0.1, 2 / 126), ("macrophage", -0.1, 0.004)):
        size = gini * (turn["podocytes"] if name == "podocyte" else 1)
        named = {"cell_type": name, "resolution": 0.8}
        within += changed("tms", "droplet", "Kidney", size, -10 * size, p=p, **named)
    # p = 0.1 is the smallest that this arm can reach: it neither upholds nor refutes.
    few = {"cell_type": "kidney macrophage", "resolution": 0.8, "smallest": 0.1, "p": 0.1}
    within += changed("tms", "facs", "Kidney", 0.1, -1, **few)
    rescue = [rescued("gini", 0.66, 1.0), rescued("effective_number", 0.55, 1.0)]
    made = {
        "contrast.csv": types,
        "granularity_replication.csv": clusters,
        "granularity_curve.csv": kidney,
        "substates.csv": within,
        "restriction.csv": rescue,
    }
    found = {name: pd.DataFrame(rows) for name, rows in made.items()}
    found["head_importance.csv"] = tables.empty(HEAD_IMPORTANCE)
    found["changes/heads.csv"] = tables.empty(CHANGES)
    found["changes/companion.csv"] = tables.empty(CHANGES)
    found["pairs/epistasis.csv"] = tables.empty(EPISTASIS)
    found["cell_model/spectrum.csv"] = tables.empty(SPECTRUM)
    made = {name: claims.SCHEMAS[name].validate(table) for name, table in found.items()}
    return made | {"published_results.csv": tables.read(RESULTS, schemas.RESULTS)}


def judged(of, *, cells=CELLS, heads=HEADS, cellmodel=NO_CELLMODEL, listed=CLAIMS):
    models = {"model": heads, "cellmodel": cellmodel}
    return schemas.CLAIMS.validate(claims.evaluate(listed, of, cells=cells, models=models))


def verdicts(table):
    return table.drop_duplicates("id").set_index("id")["verdict"].to_dict()


def reasons(table):
    return table.drop_duplicates("id").set_index("id")["reason"].to_dict()


# The published inputs


@pytest.fixture(scope="module")
def companion_changes(settings):
    """Return the changes of the embedded published effects of Pythia-410M."""
    parts = companion.published(ROOT / "data" / "embedded" / "spiro2026_heads.csv")
    system = settings.systems["companion"]
    few = settings.measured.model_copy(update={"draws": 50})
    _, changes, _ = measured.measured(parts, system, measured.metrics_of("heads"), few)
    return changes


def test_embedded_effects_are_those_that_were_published():
    path = SHARED / "reference" / "companion" / "all_ablations.csv"
    if not path.exists():
        pytest.skip(f"{path.name} of the companion study does not travel with the project")
    theirs = pd.read_csv(path, float_precision="round_trip")
    theirs = theirs[theirs["perturbation_type"] == "head"]
    parts = companion.published(ROOT / "data" / "embedded" / "spiro2026_heads.csv")
    assert [part.state.position for part in parts] == sorted(set(theirs["checkpoint"]))
    for part in parts:
        rows = theirs[theirs["checkpoint"] == part.state.position]
        rows = rows.sort_values(["layer_idx", "head_idx"])
        expected = (rows["perturbed_loss"] - rows["baseline_loss"]).to_numpy()
        np.testing.assert_array_equal(part.values[0], expected)


def test_published_effects_reproduce_the_claim_on_pythia(companion_changes):
    of = as_published() | {"changes/companion.csv": companion_changes}
    table = judged(of, heads=DEMO_HEADS)
    rows = table[table["id"] == "pythia-410m"].set_index("quantity")
    assert set(rows["verdict"]) == {"reproduced"}
    assert round(rows.loc["gini_change", "ours"], 3) == 0.145
    assert round(rows.loc["effective_number_change", "ours"], 1) == -45.5
    assert set(rows["case"]) == {"144 heads"}
    assert set(rows["table"]) == {"reports/tables/changes/companion.csv"}
    assert "which this run does not measure" in reasons(table)["pythia-410m"]
    # One mean loss a head says nothing about other sequences.
    assert companion_changes[["replicates_low", "percentile_high"]].isna().all(axis=None)
    assert companion_changes["components_low"].notna().all()


def test_published_effects_turned_round_differ(companion_changes):
    backwards = companion_changes.assign(change=-companion_changes["change"])
    table = judged(as_published() | {"changes/companion.csv": backwards}, heads=DEMO_HEADS)
    assert verdicts(table)["pythia-410m"] == "differs"
    assert f"ΔGini {text.signed(-0.145, 3)}" in reasons(table)["pythia-410m"]


def test_published_effects_do_not_stand_in_for_a_run_of_the_same_model(companion_changes):
    of = as_published() | {"changes/companion.csv": companion_changes}
    assert verdicts(judged(of))["pythia-410m"] == "not testable on these inputs"


def test_real_marrow_cells_reproduce_the_claim_on_facs_alone(
    marrow_cells, repository, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ["--conf", str(repository / "conf"), "--atlas", "local", "--set"]
    words += [
        f"atlas.cells.mine.raw='{marrow_cells}'",
        "atlas.cells.mine.cohort=tms",
        "platform=facs",
    ]
    assert compose.main(words) == 0
    assert cells.main(["--file", "mine", "--out", "cells/mine.csv"]) == 0
    words = "--cells cells --out proportions.csv --exclusions exclusions.csv"
    assert proportions.main(words.split()) == 0
    assert metrics.main("--proportions proportions.csv --out metrics.csv".split()) == 0
    words = "--metrics metrics.csv --out tables/contrast.csv --not-compared not.csv"
    assert contrast.main(words.split()) == 0
    for name, schema in claims.SCHEMAS.items():
        if name != "contrast.csv":
            tables.write(tables.empty(schema), schema, Path("tables") / name)
    local = {"name": "local", "source": "local", "simulated": False, "notice": ""}
    mini = {"name": "pythia-mini", "source": "mini", "simulated": True, "notice": "Demo model: x"}
    Path("cells.json").write_text(json.dumps(local), encoding="utf-8")
    Path("heads.json").write_text(json.dumps(mini), encoding="utf-8")
    none = {"name": "none", "source": "none", "simulated": False, "notice": ""}
    Path("cellmodel.json").write_text(json.dumps(none), encoding="utf-8")
    words = ["--claims", str(repository / "reports" / "claims.yaml"), "--results", str(RESULTS)]
    words += "--cells cells.json --heads heads.json --cellmodel cellmodel.json".split()
    assert command.main([*words, *"--tables tables --out claims.csv".split()]) == 0

    table = tables.read(Path("claims.csv"), schemas.CLAIMS)
    rows = table[table["id"] == "marrow-facs"].set_index("quantity")
    # Published: +0.088 and -2.19. Observed: 0.08750 and -2.1864.
    assert rows.loc["gini_change", "ours"] == pytest.approx(0.0875, abs=5e-5)
    assert rows.loc["effective_number_change", "ours"] == pytest.approx(-2.186, abs=5e-4)
    assert rows.loc["gini_change", "ours_low"] < 0.0875 < rows.loc["gini_change", "ours_high"]
    found = verdicts(table)
    assert found.pop("marrow-facs") == "reproduced"
    assert {found[claim.id] for claim in CLAIMS[:15] if claim.id in found} == {UNTESTED}
    assert set(found.values()) == {UNTESTED, AS_PUBLISHED, NOT_AS_PUBLISHED}
    assert (
        reasons(table)["marrow-droplet"] == "contrast.csv has no comparison of TMS droplet marrow"
    )


# Made inputs


def test_tables_as_published_reproduce_every_claim_on_cells():
    table = judged(as_published())
    found = verdicts(table)
    assert found.pop("pythia-410m") == UNTESTED
    assert {found.pop(name) for name in OF_MODELS} == {UNTESTED, AS_PUBLISHED, NOT_AS_PUBLISHED}
    assert len(found) == len(CLAIMS) - 1 - len(OF_MODELS)
    assert set(found.values()) == {"reproduced"}


def test_simulated_inputs_reproduce_none():
    """The same tables, which would uphold every claim, were they not simulated."""
    last = heads(24, 16, of_last=lambda n: np.exp(-n / 20))
    of = as_published() | {"head_importance.csv": last}
    table = judged(of, cells=DEMO_CELLS, heads=DEMO_HEADS)
    assert set(table["id"]) == {claim.id for claim in CLAIMS}
    of_run = table[~table["id"].isin(OF_MODELS)]
    assert set(of_run["verdict"]) == {UNTESTED}
    assert of_run["ours"].isna().all()
    assert reasons(table)["marrow-facs"] == "the TMS cells are simulated"
    assert reasons(table)["pythia-410m"] == "changes/companion.csv lacks its steps"


@pytest.mark.parametrize(
    ("turned", "differing"),
    [
        ("kidney", {"kidney-types", "kidney-flip-tms"}),
        ("lung", {"lung-types"}),
        ("kimmel_spleen", {"kimmel-spleen"}),
        ("kidney_fine", {"kidney-flip-tms"}),
        ("podocytes", {"podocytes"}),
    ],
)
def test_a_changed_sign_differs_and_touches_no_other_claim(turned, differing):
    table = judged(as_published(**{turned: -1}))
    assert {name for name, verdict in verdicts(table).items() if verdict == "differs"} == differing
    for name in differing:
        assert re.match(r"\d+ of \d+ numbers differ: ", reasons(table)[name])


def test_one_resolution_against_it_refutes_a_claim_on_all():
    table = judged(as_published(kimmel_spleen=-1))
    rows = table[(table["id"] == "kimmel-spleen") & (table["agrees"] == "no")]
    assert rows["case"].tolist() == ["Kimmel droplet, resolution 1.2"] * 2
    assert "2 of 10 numbers differ" in reasons(table)["kimmel-spleen"]


def test_fewer_resolutions_than_claimed_do_not_uphold_it():
    of = as_published()
    found = of["granularity_replication.csv"]
    of["granularity_replication.csv"] = found[found["resolution"] < 1.6]
    found, why = verdicts(judged(of)), reasons(judged(of))
    assert found["kimmel-lung"] == "not testable on these inputs"
    assert (
        why["kimmel-lung"] == "granularity_replication.csv has 4 of 5 resolutions on Kimmel droplet"
    )


def test_a_flip_needs_both_ends():
    of = as_published()
    of["granularity_curve.csv"] = of["granularity_curve.csv"][
        of["granularity_curve.csv"]["resolution"] < 1
    ]
    table = judged(of)
    assert verdicts(table)["kidney-flip-kimmel"] == "not testable on these inputs"
    assert reasons(table)["kidney-flip-kimmel"] == (
        "there is no fine ΔGini on Kimmel droplet and fine ΔN~eff~ on Kimmel droplet"
    )


def test_partial_inputs_are_judged_by_what_is_there():
    of = as_published()
    of["contrast.csv"] = of["contrast.csv"][of["contrast.csv"]["platform"] == "facs"]
    of["granularity_curve.csv"] = of["granularity_curve.csv"][:0]
    found = verdicts(judged(of))
    assert found["kidney-types"] == found["marrow-facs"] == "reproduced"
    assert found["marrow-droplet"] == "not testable on these inputs"
    assert found["kidney-flip-tms"] == "not testable on these inputs"


ANIMALS = "breaks within a run"


def arms_of(evidence, platforms=("facs", "droplet")):
    """Return a study whose cohort tms is of one evidence but for marrow, which is annotated."""
    arms = [Arm("tms", platform, None, evidence, ANIMALS) for platform in platforms]
    arms += [Arm("tms", platform, "Marrow", "annotation") for platform in platforms]
    arms += [Arm("kimmel", "droplet", None, "simulated"), Arm("rat", "droplet", None, "simulated")]
    return replace(DEMO_CELLS, arms=tuple(arms))


@pytest.mark.parametrize(
    ("kidney", "verdict"),
    [(1, "agrees on reconstructed animals"), (-1, "does not agree on reconstructed animals")],
)
def test_reconstructed_animals_have_verdicts_of_their_own(kidney, verdict):
    table = judged(as_published(kidney=kidney), cells=arms_of("reconstructed"))
    found = verdicts(table)
    assert found["kidney-types"] == verdict
    assert reasons(table)["kidney-types"].count(ANIMALS) == 2
    assert found["marrow-facs"] == found["marrow-droplet"] == "reproduced"
    others = {name for name in found if name.startswith(("kimmel", "restriction"))}
    assert {found[name] for name in others} == {"not testable on these inputs"}
    assert reasons(table)["kimmel-lung"] == "the Kimmel cells are simulated"


def test_one_simulated_platform_bars_a_claim_on_both():
    mixed = replace(
        DEMO_CELLS,
        arms=(Arm("tms", "facs", None, "annotation"), Arm("tms", "droplet", None, "simulated")),
    )
    found = verdicts(judged(as_published(), cells=mixed))
    assert found["kidney-types"] == found["marrow-droplet"] == "not testable on these inputs"
    assert found["marrow-facs"] == "reproduced"


@pytest.mark.parametrize(
    ("gini", "expected"), [(0.0871, "reproduced"), (0.0889, "reproduced"), (0.0868, "differs")]
)
def test_a_value_agrees_within_its_tolerance(gini, expected):
    of = as_published()
    rows = of["contrast.csv"]
    marrow = (rows["tissue"] == "Marrow") & (rows["platform"] == "facs")
    rows.loc[marrow & (rows["metric"] == "gini"), "change"] = gini
    assert verdicts(judged(of))["marrow-facs"] == expected


@pytest.mark.parametrize(
    ("p", "podocytes", "macrophages"),
    [
        ((0.0001, 0.0001), "reproduced", "reproduced"),
        ((0.0159, 0.5), "differs", "differs"),
        ((0.0041, 0.5), "differs", "reproduced"),
        ((0.5, 0.0041), "differs", "reproduced"),
        ((0.0159, 0.0159), "reproduced", "differs"),
    ],
)
def test_p_must_be_reached_on_both_metrics_or_on_one(p, podocytes, macrophages):
    of = as_published()
    rows = of["substates.csv"]
    droplet = rows["platform"] == "droplet"
    for metric, value in zip(claims.published.PLANE, p, strict=True):
        rows.loc[droplet & (rows["metric"] == metric), "rank_p"] = value
    found = verdicts(judged(of))
    assert (found["podocytes"], found["macrophages"]) == (podocytes, macrophages)


def test_an_arm_that_cannot_reach_the_published_p_is_noted():
    table = judged(as_published())
    rows = table[(table["id"] == "macrophages") & (table["case"].str.startswith("TMS FACS"))]
    assert set(rows["agrees"]) == {"noted"}
    of = as_published()
    of["substates.csv"] = of["substates.csv"][of["substates.csv"]["platform"] == "facs"]
    assert reasons(judged(of))["macrophages"] == (
        "too few animals for the published p on TMS FACS (smallest p 0.1)"
    )


def test_the_rescue_must_reach_fraction_and_probability():
    of = as_published()
    of["restriction.csv"] = pd.DataFrame(
        [rescued("gini", 0.64, 0.998), rescued("effective_number", 0.46, 1.0)]
    )
    table = judged(of)
    assert "P(rescue > 0) 0.998" in reasons(table)["restriction-gini"]
    assert "rescue fraction 0.46" in reasons(table)["restriction-effective-number"]
    of["restriction.csv"] = pd.DataFrame([rescued("gini", np.nan, 1.0)])
    assert verdicts(judged(of))["restriction-gini"] == "not testable on these inputs"


def test_only_the_published_heads_are_judged_and_all_are_noted():
    """Every third head has an effect of 1; the others' effects must not count."""
    last = heads(24, 16, of_last=lambda n: np.where(n % 16 % 3 == 0, np.exp(-n / 30), 50.0))
    of = as_published() | {
        "head_importance.csv": last,
        "changes/heads.csv": change_of_all(0.2, -120.0, 384),
    }
    table = judged(of)
    rows = table[table["id"] == "pythia-410m"].set_index(["case", "quantity"])
    mine = last[(last["state"] == "step143000") & (last["head"] % 3 == 0)]["delta_loss_nats"]
    expected = concentration.gini(mine.abs())
    assert len(mine) == 144
    assert rows.loc[("144 heads", "gini_change"), "ours"] == pytest.approx(expected, abs=1e-12)
    noted = rows.loc["all 384 heads"]
    assert set(noted["agrees"]) == {"noted"}
    assert noted["ours"].tolist() == [0.2, -120.0]
    assert "(all 384 heads: ΔGini +0.200 [+0.100" in ledger(table)


def test_the_interval_of_the_same_heads_is_that_of_the_claim():
    last = heads(24, 16, of_last=lambda n: np.exp(-n / 30))
    last = last[last["head"] % 3 == 0]
    of = as_published() | {
        "head_importance.csv": last,
        "changes/heads.csv": change_of_all(0.2, -50.0, 144),
    }
    table = judged(of)
    rows = table[table["id"] == "pythia-410m"].set_index("quantity")
    assert set(rows["agrees"]) <= {"yes", "no"}
    assert rows.loc["gini_change", ["ours_low", "ours_high"]].tolist() == pytest.approx([0.1, 0.3])


def test_heads_that_were_not_removed_leave_the_claim_open():
    last = heads(24, 4, of_last=lambda n: np.exp(-n / 30))
    table = judged(as_published() | {"head_importance.csv": last})
    assert reasons(table)["pythia-410m"] == (
        "head_importance.csv has 48 of the 144 heads, set to zero, at step 512"
    )


def spectra(first, last, *, heads="pythia-410m-deduped", cellmodel="none"):
    """Return the verdicts on spectra where genes have these ranks in the first and last layer."""
    row = dict.fromkeys(SPECTRUM.columns, 1.0) | {"matrix": "items", "state": "main"}
    ends = [
        row | {"layer": layer, "effective_rank": rank, "two_nn": 20.0}
        for layer, rank in (("L0", first), ("L11", last))
    ]
    of = as_published() | {"cell_model/spectrum.csv": SPECTRUM.validate(pd.DataFrame(ends))}
    models = [Study(name, "hub", simulated=False, notice="") for name in (heads, cellmodel)]
    table = judged(of, heads=models[0], cellmodel=models[1])
    return verdicts(table), reasons(table), table


def test_a_claim_on_a_model_of_cells_is_not_judged_by_one_of_language():
    """The table of the model of language once judged scGPT's genes."""
    found, why, table = spectra(1.0, 1.0, heads="scgpt-human")
    assert found["spectra-rank"] == AS_PUBLISHED
    assert "; computed from what its study published; 2902 of its 4941 rows" in why["spectra-rank"]
    rows = table[table["id"] == "spectra-rank"]
    assert rows["ours"].tolist() == pytest.approx([23.6105, 1.6442], abs=5e-5)
    assert set(rows["table"]) == {"data/embedded/published_results.csv"}


@pytest.mark.parametrize(
    ("ends", "rank"), [((23.612, 1.641), "reproduced"), ((236.3, 48.4), "differs")]
)
def test_the_model_of_cells_of_a_run_judges_what_is_said_of_it(ends, rank):
    found, why, table = spectra(*ends, cellmodel="scgpt-human")
    assert (found["spectra-rank"], found["spectra-dimension"]) == (rank, "differs")
    assert ("; 2902 of its 4941 rows were zero" in why["spectra-rank"]) == (rank == "reproduced")
    rows = table[table["id"] == "spectra-rank"]
    assert rows["ours"].tolist() == list(ends)
    assert set(rows["table"]) == {"reports/tables/cell_model/spectrum.csv"}
    # What has no table here is judged by its results still.
    assert found["spectra-edges"] == AS_PUBLISHED


def epistasis(*rows):
    """Return EPISTASIS of quantities of the last published step: name, source, value."""
    known = {"state": "step143000", "position": 143000.0, "perturbation": "mean", "p": np.nan}
    known |= {"n_heads": 30, "n_pairs": 485, "n_sequences": 8, "unit": ""}
    made = [
        known | {"quantity": name, "source": source, "value": value, "low": value - 1, "high": 99}
        for name, source, value in rows
    ]
    return EPISTASIS.validate(pd.DataFrame(made)[list(EPISTASIS.columns)])


def test_pairs_of_the_published_model_are_judged_by_this_run():
    shown = (("tier_ratio", "measured", 30.0), ("tier_ratio", "additive", 1.0))
    of = as_published() | {
        "pairs/epistasis.csv": epistasis(*shown, ("share_positive", "measured", 0.5))
    }
    table = judged(of)
    found = verdicts(table)
    assert (found["pairs-ratio"], found["pairs-positive"]) == ("reproduced", "differs")
    row = table[table["id"] == "pairs-ratio"].iloc[0]
    assert row[["ours", "ours_low", "ours_high"]].tolist() == [30.0, 29.0, 99.0]
    assert found["pairs-ratio-first"] == UNTESTED
    assert reasons(table)["pairs-ratio-first"] == "there is no tier ratio on pythia-410m-deduped"
    assert reasons(judged(of, heads=DEMO_HEADS))["pairs-ratio"] == (
        "pairs/epistasis.csv is not of pythia-410m-deduped"
    )


# Published results


def test_embedded_figures_are_those_that_were_published():
    if not (SHARED / "reference" / "spectra").exists():
        pytest.skip("the published result files do not travel with the project")
    table = tables.read(RESULTS, schemas.RESULTS)
    for row in table.itertuples():
        # The copies bear the path below the folder that its study's results lie in.
        folder = {"kendiukhov2026geometry": "spectra", "kendiukhov2026features": "feature_tracing"}
        name = row.file.split("/", 1)[1].removeprefix("revision/").replace("/", "_")
        renamed = {
            "exhaustive_tracing_exhaustive_summary.json": "exhaustive_summary.json",
            "higher_order_ablation_summary.json": "higher_order_summary.json",
        }
        path = SHARED / "reference" / folder[row.source] / renamed.get(name, name)
        if path.suffix == ".json":
            theirs = json.loads(path.read_text(encoding="utf-8"))
            for part in row.key.split("/"):
                theirs = theirs[int(part) if isinstance(theirs, list) else part]
        else:
            rows = pd.read_csv(path, float_precision="round_trip")
            *subspace, column = row.key.split("/")
            if subspace:
                rows = rows[rows["subspace"] == subspace[0]]
            (theirs,) = rows.loc[rows["layer"] == int(row.at), column]
        assert row.value == float(theirs)
    assert len(table) > 100


FIGURES = pd.DataFrame(
    [("a", 4.0), ("a", 1.0), ("a", 3.0), ("a", 0.0), ("b", 5.0)], columns=["name", "value"]
)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"value": "b"}, [5.0]),
        ({"ends": "a"}, [4.0, 0.0]),
        ({"sum": "a"}, [8.0]),
        ({"mean": "a"}, [2.0]),
        ({"largest": "a"}, [4.0]),
        # Of 0, 1, 3, 4 the two in the middle.
        ({"median": "a"}, [2.0]),
        # Ranks 4 2 3 1 in places 1 2 3 4: 1 - 6 (9 + 0 + 0 + 9) / (4 * 15).
        ({"trend": "a"}, [-0.8]),
        ({"ratio": ("a", "b")}, [1.6]),
    ],
)
def test_numbers_follow_from_figures(how, expected):
    found = computed(claims.published.Computed(**how), FIGURES, "x")
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("how", "fault"),
    [
        ({"value": "a"}, r"claim x: the published results have 4 figures a\. Known are a, b\."),
        ({"ratio": ("b", "c")}, r"claim x: the published results have 0 figures c\."),
    ],
)
def test_a_figure_that_is_none_or_several_is_refused(how, fault):
    with pytest.raises(claims.ClaimError, match=fault):
        computed(claims.published.Computed(**how), FIGURES, "x")


def test_a_study_that_does_not_say_the_same_twice():
    """Its text has 6 targets, the three kinds of triplet in its results 1, 5 and 1."""
    table = judged(as_published())
    rows = table[table["id"] == "features-synergy-revised"].set_index("quantity")
    assert rows["ours"].to_dict() == {"superadditive": 7.0, "targets": 6925.0}
    assert set(rows["verdict"]) == {NOT_AS_PUBLISHED}
    rows = table[table["id"] == "features-edges-revised"].set_index("quantity")
    assert rows.loc["mean_degree", "ours"] == pytest.approx(1103965 / 4065)
    assert rows.loc["share_kept", "ours"] == pytest.approx(1103965 / 1393850)
    assert set(rows["verdict"]) == {AS_PUBLISHED}


# The ledger as text


def ledger(table):
    return Templates().fill("tables/claims.md.j2", {"claims": claims.context(table)})


def test_ledger_has_one_row_a_claim():
    table = judged(as_published(lung=-1))
    header, rule, *rows = ledger(table).splitlines()
    assert header == "| Claim | Published | Found | Verdict |"
    assert rule.count(":--") == 4
    studies = [row for row in rows if row.startswith("| **")]
    assert len(rows) == len(CLAIMS) + len(studies)
    assert len(studies) == len({claim.source for claim in CLAIMS})
    by_claim = {row.split(" | ")[0].removeprefix("| "): row for row in rows}
    marrow = by_claim["Bone marrow crystallizes with age on FACS"]
    assert (
        f"ΔGini {text.signed(0.088, 3)} ± 0.001, ΔN~eff~ {text.signed(-2.19, 2)} ± 0.01" in marrow
    )
    assert marrow.endswith("| reproduced |")
    lung = by_claim["Lung disperses over coarse cell types"]
    assert "ΔGini < 0, ΔN~eff~ > 0 | 0 of 4 numbers agree | differs |" in lung
    assert f"| {text.DASH} | not testable |" in rows[1]
    assert (
        by_claim["Features of Geneformer have 1.39 million edges"]
        == "| Features of Geneformer have 1.39 million edges | edges 1,393,850, mean degree 343 | "
        f"1,393,850; 343 | {AS_PUBLISHED} |"
    )
    genes = by_claim["The effective rank of scGPT's genes falls over its layers"]
    assert "| effective rank from 23.61 to 1.64 | 23.61; 1.64 |" in genes
    # Zeros at the end of a number are said by its tolerance, and no tolerance that is rounding.
    assert "ρ −0.40, ρ given frequency −0.48 |" in " ".join(rows)  # noqa: RUF001
    assert "tier ratio 35.8 ± 9, " not in " ".join(rows)
    assert "| tier ratio 35.8 ± 9 |" in " ".join(rows)


def test_counts_add_up():
    found = claims.context(judged(as_published(lung=-1)))
    counts = {name: found[name] for name in ("n_reproduced", "n_differs", "n_not_testable")}
    of_run = len(CLAIMS) - len(OF_MODELS)
    closed = len(OF_MODELS) - found["n_same"] - found["n_other"]
    # Of the run's own, one differs and that on Pythia is open.
    expected = {"n_reproduced": of_run - 2, "n_differs": 1, "n_not_testable": closed + 1}
    assert counts == expected
    assert min(closed, found["n_same"], found["n_other"]) > 0
    assert len(found["rows"]) == len(CLAIMS)
    (differs,) = (row["claim"] for row in found["rows"] if row["verdict"] == "differs")
    assert differs.startswith("Lung disperses over coarse cell types")


# The file of claims


def test_evidence_of_every_claim_is_in_the_graph(params):
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    drawn = [str(out) for stage in graph.values() for out in stage.get("do", stage).get("outs", [])]
    for claim in CLAIMS:
        name, _, key = claim.evidence.stage.partition("@")
        stage = graph[name].get("do", graph[name])
        assert not key or key in params[name]
        if claim.table:
            outs = [out.replace("${key}", key) for out in stage["outs"]]
            assert f"reports/tables/{claim.table}" in outs
        assert claim.evidence.file in stage["deps"]
        module = claim.evidence.file.removesuffix(".py").replace("/", ".")
        assert f"python -m {module} " in stage["cmd"]
        assert f"reports/figures/{claim.evidence.figure}.png" in drawn
        for name in filter(None, (claim.table, *claim.beside)):
            dep = f"reports/tables/{name}"
            if name.startswith("cell_model/"):
                dep = "${cellmodel.tables}"
            assert dep in graph["claims"]["deps"]
    assert params["cellmodel"]["tables"] == "reports/tables/cell_model"


def test_sources_are_in_the_references():
    references = (ROOT / "reports" / "references.bib").read_text(encoding="utf-8")
    assert CLAIMS
    for claim in CLAIMS:
        assert f"{{{claim.source}," in references


def ledger_with(tmp_path, *, at=1, **changes):
    """Write the claims with one of them changed."""
    content = yaml.safe_load((ROOT / "reports" / "claims.yaml").read_text(encoding="utf-8"))
    content["claims"][at] |= changes
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"rule": "guess"}, r"the rule 'guess' is unknown; known are 'change', 'flip'"),
        ({"id": "pythia-410m"}, r"has two claims with the id pythia-410m\. Rename one of them\."),
        (
            {"published": {"gini": "about 0.1", "effective_number": -2.19}},
            r"claim marrow-facs: published\.gini = 'about 0\.1': input should be a valid number",
        ),
        (
            {"published": {"gini": float("nan"), "effective_number": -2.19}},
            r"published\.gini = nan: input should be a finite number",
        ),
        (
            {"tolerance": {"gini": -0.1, "effective_number": 0.1}},
            r"tolerance\.gini = -0\.1: input should be greater than or equal to 0",
        ),
        (
            {"table": "granularity_curve.csv"},
            r"table = 'granularity_curve\.csv': input should be 'contrast\.csv'",
        ),
        ({"notes": "x"}, r"the key notes is unknown"),
        ({"published": "up"}, r"claim marrow-facs: published = 'up': input should be 'crys"),
        ({"published": "disperse"}, r"marrow-facs: values need a tolerance and signs have none\."),
    ],
)
def test_bad_claims_are_refused_in_one_line(tmp_path, changes, fault):
    with pytest.raises(claims.ClaimError, match=fault) as caught:
        claims.read(ledger_with(tmp_path, **changes))
    assert "\n" not in str(caught.value)


OF_RATIO = next(i for i, claim in enumerate(CLAIMS) if claim.id == "pairs-ratio")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"where": {}}, r"where needs one of model, cellmodel, or cohort and tissue\. Mend it\."),
        ({"where": {"cohort": "rat"}}, r"where needs one of model"),
        ({"where": {"model": "a", "cellmodel": "b"}}, r"where needs one of model"),
        ({"table": "spectrum.csv"}, r"table = 'spectrum\.csv': input should be 'restriction"),
        ({"table": None}, r"without table it needs results, or a note of why"),
        ({"tolerance": {"x": 1}}, r"tolerance names x, published tier_ratio\."),
        ({"results": {"x": {"sum": "y"}}}, r"results names x, published tier_ratio\."),
        ({"results": {"tier_ratio": {}}}, r"it needs one of value, ends, sum"),
        ({"results": {"tier_ratio": {"guess": "y"}}}, r"key results\.tier_ratio\.guess is unkn"),
        ({"published": {}}, r"published = \{\}: dictionary should have at least 1 item"),
        ({"published": {"tier_ratio": "x"}}, r"published\.tier_ratio.* = 'x': input should be a"),
    ],
)
def test_bad_values_are_refused_in_one_line(tmp_path, changes, fault):
    with pytest.raises(claims.ClaimError, match=fault) as caught:
        claims.read(ledger_with(tmp_path, at=OF_RATIO, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"where": {"model": HEADS.name, "step": "x"}},
            r"claim pairs-ratio: where names step, which is no column of pairs/epistasis\.csv\.",
        ),
        (
            {"where": {"model": HEADS.name}},
            r"claim pairs-ratio: where chooses 2 rows of pairs/epistasis\.csv for tier_ratio\.",
        ),
        (
            {"table": None, "results": {"tier_ratio": {"ends": "x"}}},
            r"claim pairs-ratio: the published results have 0 figures x\. Known are none",
        ),
        (
            {"source": "kendiukhov2026geometry", "where": {"model": "x"}}
            | {"results": {"tier_ratio": {"ends": "effective_rank"}}},
            r"claim pairs-ratio: tier_ratio is 1 and results give 2 numbers",
        ),
    ],
)
def test_a_claim_that_its_tables_cannot_answer_is_refused(tmp_path, changes, fault):
    rows = (("tier_ratio", "measured", 30.0), ("tier_ratio", "additive", 1.0))
    of = as_published() | {"pairs/epistasis.csv": epistasis(*rows)}
    listed = claims.read(ledger_with(tmp_path, at=OF_RATIO, **changes))
    with pytest.raises(claims.ClaimError, match=fault):
        judged(of, listed=listed)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("claims: [", r"is not YAML"),
        ("claims: []", r"has no list of claims"),
        ("- 1", r"has no list of claims"),
        ("claims: [{id: x}]", r"claim x: it has no rule"),
        ("claims: [1]", r"claim number 1: "),
        ("claims: [{id: x, rule: change}]", r"claim x: the key text is missing"),
    ],
)
def test_a_file_that_holds_no_claims_is_refused(tmp_path, content, fault):
    path = tmp_path / "claims.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(claims.ClaimError, match=fault) as caught:
        claims.read(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(claims.ClaimError, match=r"do not exist"):
        claims.read(tmp_path / "none.yaml")


def write_tables(folder, *, but=None):
    for name, table in as_published().items():
        if name in claims.SCHEMAS and name != but:
            tables.write(table, claims.SCHEMAS[name], folder / name)


def test_a_missing_table_is_named_with_its_claim(tmp_path, caplog):
    write_tables(tmp_path, but="granularity_curve.csv")
    study = {"name": "demo", "source": "demo", "simulated": True, "notice": "x"}
    (tmp_path / "study.json").write_text(json.dumps(study), encoding="utf-8")
    words = ["--claims", str(ROOT / "reports" / "claims.yaml"), "--tables", str(tmp_path)]
    kinds = ("cells", "heads", "cellmodel")
    words += [f"--{kind}={tmp_path / 'study.json'}" for kind in kinds]
    words += ["--results", str(RESULTS)]
    assert command.main([*words, "--out", str(tmp_path / "claims.csv")]) == 1
    assert re.search(
        r"the claim kidney-flip-tms rests on \S+granularity_curve\.csv, which does not exist",
        caplog.text,
    )
    assert not (tmp_path / "claims.csv").exists()


MODELS = {"model": DEMO_HEADS, "cellmodel": NO_CELLMODEL}


def test_a_table_of_another_model_is_not_needed(tmp_path):
    """A run without a model of cells has no folder of its tables."""
    write_tables(tmp_path, but="cell_model/spectrum.csv")
    found = claims.read_tables(CLAIMS, tmp_path, RESULTS, MODELS)
    assert {"published_results.csv", "contrast.csv"} < set(found)
    assert not {"cell_model/spectrum.csv", "pairs/epistasis.csv"} & set(found)
    scgpt = Study("scgpt-human", "hub", simulated=False, notice="")
    with pytest.raises(claims.ClaimError, match=r"spectra-rank rests on \S+cell_model/spectrum\."):
        claims.read_tables(CLAIMS, tmp_path, RESULTS, MODELS | {"cellmodel": scgpt})


def test_a_table_that_is_another_is_refused(tmp_path):
    write_tables(tmp_path)
    (tmp_path / "granularity_replication.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(
        TableError, match=r"granularity_replication\.csv does not follow its schema"
    ):
        claims.read_tables(CLAIMS, tmp_path, RESULTS, MODELS)
