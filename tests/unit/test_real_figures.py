"""Draw the arms of Tabula Muris Senis that lie in the repository, beside simulated ones."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from stages.base import study, tables
from stages.cells import concordance, contrast, drivers, metrics, proportions
from stages.cells.figures import (
    direction_heatmap,
    driver_contributions,
    metrics_vs_age,
    platform_concordance,
)
from stages.cells.tables.contrast import CONTRAST
from stages.drawing import evidence, style
from stages.inputs import cells
from stages.inputs.obs import read_obs

NOTICE = "Simulated demo data"


@pytest.fixture(scope="module")
def about(settings):
    arms = [
        study.Arm(of.cohort, of.platform, of.constants.tissue, of.evidence)
        for of in settings.atlas.cells.values()
    ]
    return study.Study(
        "demo", "demo", simulated=True, notice=f"{NOTICE}: no finding.", arms=tuple(arms)
    )


@pytest.fixture(scope="module")
def real(settings, repository):
    """Return the tables of composition of all arms that are not simulated."""
    counted = [
        cells.count(
            read_obs(repository / spec.raw, cells.wanted_columns(spec), change=""),
            spec,
            name=name,
            atlas="demo",
        )
        for name, spec in settings.atlas.cells.items()
        if spec.evidence != study.SIMULATED
    ]
    shares, _ = proportions.proportions(pd.concat(counted), settings.proportions)
    few = settings.metrics.rarefaction.model_copy(update={"draws": 5})
    quick = settings.model_copy(
        update={
            "metrics": settings.metrics.model_copy(update={"rarefaction": few}),
            "contrast": settings.contrast.model_copy(update={"max_permutations": 100}),
            "concordance": settings.concordance.model_copy(update={"max_permutations": 100}),
        }
    )
    measured = metrics.metrics(shares, quick.metrics)
    aged, _ = contrast.contrast(measured, quick.contrast)
    both = concordance.changes_on_common_tissues(shares, aged, quick)
    changes = concordance.concordance(both, quick.concordance)
    summary = concordance.summary(changes, quick.concordance, rng=np.random.default_rng(0))
    parts = settings.drivers.model_copy(update={"draws": 50})
    return {
        "metrics_vs_age": (measured,),
        "direction_heatmap": (aged,),
        "driver_contributions": (drivers.drivers(measured, shares, parts),),
        "platform_concordance": (changes, summary),
    }


FIGURES = {
    module.NAME: module
    for module in (
        metrics_vs_age,
        direction_heatmap,
        driver_contributions,
        platform_concordance,
    )
}


@pytest.mark.parametrize("name", FIGURES)
def test_real_arms_are_legible_with_their_evidence_and_without_the_notice(
    name, real, about, legible
):
    figure = FIGURES[name].draw(*real[name], about=about)
    arms = platform_concordance.arms if name == "platform_concordance" else evidence.arms
    shown = arms(*real[name])
    words = [text.get_text() for text, _ in legible(figure, about.about(shown).notice)]
    assert evidence.MEANING in words
    named = [word for word in words if word.removesuffix(evidence.DAGGER) in _tissues(shown)]
    # Only the animals of marrow are known by the atlas's own order; all others are reconstructed.
    assert {word for word in named if not word.endswith(evidence.DAGGER)} == {"Marrow"}
    assert not any(word.startswith(NOTICE) for word in words)


def _tissues(arms):
    return {style.name(tissue) for _, _, tissue in arms}


def test_there_are_22_real_arms_in_one_order(real):
    found = [(which.label, tissue) for which, tissue, _ in style.arms(real["direction_heatmap"][0])]
    assert [label for label, _ in found] == ["TMS FACS"] * 14 + ["TMS droplet"] * 8
    for label in ("TMS FACS", "TMS droplet"):
        names = [tissue for of, tissue in found if of == label]
        assert names == sorted(names, key=str.casefold)


def test_names_of_the_concordance_are_not_struck_by_the_zero_lines(real, about, drawn_texts):
    figure = platform_concordance.draw(*real["platform_concordance"], about=about)
    names = _tissues(platform_concordance.arms(*real["platform_concordance"]))
    n_seen = 0
    for text, box in drawn_texts(figure):
        if text.axes and text.get_text().removesuffix(evidence.DAGGER) in names:
            n_seen += 1
            x, y = text.axes.transData.transform((0, 0))
            assert not box.x0 < x < box.x1, text.get_text()
            assert not box.y0 < y < box.y1, text.get_text()
    assert n_seen == 2 * len(names)


@pytest.mark.parametrize("with_real", [True, False])
def test_the_notice_follows_the_arms_that_are_drawn(with_real, real, about, tmp_path):
    aged = real["direction_heatmap"][0]
    made = aged.assign(cohort="tms-simulated")
    shown = pd.concat([aged, made]) if with_real else made
    tables.write(shown, CONTRAST, tmp_path / "contrast.csv")
    stated = json.dumps(asdict(about))
    (tmp_path / "study.json").write_text(stated, encoding="utf-8")
    words = [f"--contrast={tmp_path}/contrast.csv", f"--study={tmp_path}/study.json"]
    assert direction_heatmap.main([*words, f"--out={tmp_path}"]) == 0
    svg = (tmp_path / "fig_direction_heatmap.svg").read_text(encoding="utf-8")
    assert (f">{NOTICE}<" in svg) != with_real
    assert (f">{evidence.MEANING}<" in svg) == with_real
    assert ("Simulated TMS FACS" in svg) != with_real


def test_a_tissue_that_is_reconstructed_on_one_platform_names_it():
    arms = (
        study.Arm("tms", "facs", None, study.RECONSTRUCTED),
        study.Arm("tms", "droplet", None, study.ANNOTATION),
    )
    about = study.Study("x", "local", simulated=False, notice="", arms=arms)
    shown = [("tms", "facs", "Lung"), ("tms", "droplet", "Lung"), ("tms", "facs", "Skin")]
    assert evidence.label("Lung", shown, about) == f"Lung (FACS{evidence.DAGGER})"
    assert evidence.label("Skin", shown, about) == f"Skin{evidence.DAGGER}"
    assert evidence.label("Lung", shown[1:], about) == "Lung"
