"""The explorer, driven in a real browser: controls move marks, and numbers are Python's."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Page, sync_playwright

from stages.base import study, tables
from stages.base.settings import Settings
from stages.cells import proportions
from stages.cells.tables.proportions import PROPORTIONS
from stages.heads import companion
from stages.inputs import cells, obs
from stages.inputs import study as study_stage
from stages.measurement import effects
from stages.measurement.concentration import effective_number, gini
from stages.report.explorer import __main__ as explorer
from stages.report.explorer import data

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed on this machine"
)
REAL = ("tms-facs-marrow", "tms-droplet-marrow")
MODEL = "pythia-410m-deduped"


def _real(settings: Settings, repository: Path) -> pd.DataFrame:
    """Return the real compositions of the marrow."""
    counted = []
    for name in REAL:
        spec = settings.atlas.cells[name]
        found = obs.read_obs(repository / spec.raw, cells.wanted_columns(spec), change="")
        counted.append(cells.count(found, spec, name=name, atlas="demo"))
    return proportions.proportions(pd.concat(counted), settings.proportions)[0]


@pytest.fixture
def page_file(study_folder, cluster_tables, repository, settings) -> Path:
    """Return the page of a small study, with real compositions and real effects of heads."""
    study_folder(["facs", "droplet"], simulated=True, clusters=cluster_tables.filled)
    inputs = ["--cells", "cells.json", "--heads", "heads.json"]
    conf = ["--conf", str(repository / "conf"), "--overrides", "overrides.json"]
    params = ["--params", str(repository / "params.yaml")]
    stated = [*inputs, "--cellmodel", "cellmodel.json"]
    assert study_stage.main([*conf, *stated, *params]) == 0
    tables.write(_real(settings, repository), PROPORTIONS, Path("tables/proportions.csv"))
    words = ["--importance", "tables/head_importance.csv", "--effects", "data/interim/companion"]
    published = str(repository / "data" / "embedded" / "spiro2026_heads.csv")
    assert companion.main([*words, "--published", published, "--out", "agreement.csv"]) == 0
    css = ["--css", str(repository / "reports" / "paper.css")]
    assert explorer.main([*stated, *css, "--tables", "tables", "--out", "explorer.html"]) == 0
    return Path("explorer.html").resolve()


@pytest.fixture
def page(page_file) -> Iterator[Page]:
    """Return the page on a phone."""
    with opened(page_file) as page:
        yield page


@contextmanager
def opened(page_file: Path) -> Iterator[Page]:
    """Open the page on a phone; it must ask nothing of any network, and raise no error."""
    asked, raised = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True)
        # A busy machine is no failure.
        page.set_default_timeout(300_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: raised.append(str(error)))
        page.on("console", lambda message: raised.append(message.text))
        page.goto(page_file.as_uri())
        page.wait_for_selector("[data-drawn]")
        yield page
        browser.close()
    assert raised == []
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]


def _weights(page: Page) -> list[float]:
    return page.eval_on_selector_all("#types input", "all => all.map(one => one.valueAsNumber)")


def _shown(page: Page, name: str) -> float:
    return float(page.get_attribute(f"#{name}", "value"))


def _drawn(page: Page, marks: str) -> list[str]:
    """Return where the marks of a kind are and how they look, once the chart has settled."""
    page.wait_for_timeout(300)
    how = "all => all.map(one => one.getAttribute('d') + one.getAttribute('transform') "
    return page.eval_on_selector_all(f"{marks} path", how + "+ one.getAttribute('fill'))")


@needs_browser
def test_a_dragged_composition_has_the_numbers_of_python(page):
    seen = set()
    for arm in page.eval_on_selector_all("#arm option", "all => all.map(one => one.value)"):
        page.select_option("#arm", arm)
        assert page.text_content("#evidence") == "published annotation"
        for animal in page.eval_on_selector_all("#animal option", "all => all.map(o => o.value)"):
            page.select_option("#animal", animal)
            weights = _weights(page)
            assert _shown(page, "gini") == pytest.approx(gini(weights), rel=1e-12)
            assert _shown(page, "effective") == pytest.approx(effective_number(weights), rel=1e-12)
            assert page.text_content("#gini") == f"{gini(weights):.4f}"
            seen.add((arm, animal))
    assert len(seen) > 20
    curve, before = _drawn(page, "#lorenz-chart .mark-line"), _shown(page, "gini")
    slider = page.locator("#types input").first
    slider.focus()
    for _ in range(3):
        page.keyboard.press("PageDown")
    assert _drawn(page, "#lorenz-chart .mark-line") != curve
    assert _shown(page, "gini") == pytest.approx(gini(_weights(page)), rel=1e-12) != before
    # A type without cells is none of the sample's.
    slider.fill("0")
    left = _weights(page)[1:]
    assert _shown(page, "gini") == pytest.approx(gini(left), rel=1e-12)
    assert page.text_content("#present") == str(len(left))
    page.click("#even")
    assert _shown(page, "gini") == 0
    assert _shown(page, "effective") == pytest.approx(len(left) + 1, rel=1e-12)


@needs_browser
def test_controls_move_the_marks_of_every_view(page, settings):
    points = "#plane-chart .mark-symbol.role-mark"
    for control in ("scale", "sign"):
        before = _drawn(page, points)
        page.locator(f"#plane-controls input[name={control}]").nth(1).check()
        assert _drawn(page, points) != before, control
    before = _drawn(page, points)
    states = settings.systems["companion"].states
    baseline = page.locator("#plane-controls select").filter(has_text=states[-1])
    baseline.select_option(states[3])
    # A line begins where its baseline is: three states fewer.
    assert len(_drawn(page, points)) == len(before) - 3
    # One arm has one tissue here, and models stand beside all arms only.
    page.select_option("#plane-controls select[name=arm]", "TMS FACS")
    assert len(_drawn(page, points)) == 1

    heads = "#heads-chart .mark-rect.role-mark"
    page.select_option("#heads-controls select", MODEL)
    # Of 24 layers six heads each.
    assert len(_drawn(page, heads)) == 144
    last = _drawn(page, heads)
    page.locator("#heads-controls input[type=range]").fill("0")
    assert _drawn(page, heads) != last
    assert states[0] in page.text_content("#heads-chart .role-title-text")

    before = _drawn(page, "#granularity-chart .mark-symbol.role-mark")
    page.locator("#granularity-controls input[type=range]").fill("1")
    assert _drawn(page, "#granularity-chart .mark-symbol.role-mark") != before
    assert "resolution 0.8" in page.text_content("#granularity-chart .role-title-text")
    # Nothing is wider than the phone.
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@needs_browser
def test_samples_without_an_age_go_by_their_conditions(page_file):
    rows = tables.read(Path("tables/proportions.csv"), PROPORTIONS)
    names = rows["animal"].where(rows["animal"] != "3_10_M", "3_10_M (stim)")
    rows = rows.assign(age_months=float("nan"), condition="stim", animal=names)
    tables.write(rows, PROPORTIONS, Path("tables/proportions.csv"))
    words = ["--cells", "cells.json", "--heads", "heads.json", "--cellmodel", "cellmodel.json"]
    words += ["--tables", "tables"]
    css = ["--css", str(Path(__file__).parents[2] / "reports" / "paper.css")]
    assert explorer.main([*words, *css, "--out", "explorer.html"]) == 0
    with opened(page_file) as page:
        said = page.eval_on_selector_all("#animal option", "all => all.map(one => one.text)")
    assert "3_10_M (stim), male" in said
    assert "24_58_M, male, stim" in said
    assert not any("months" in one or "null" in one for one in said)


def test_the_page_is_small_and_says_what_it_rests_on(page_file):
    text = page_file.read_text(encoding="utf-8")
    assert len(text) < 3e6
    assert "default-src 'none'" in text
    assert re.findall(r'(?:src|href)="(?!paper\.html")[^"]*"', text.split("<script")[0]) == []
    for kind in ("published annotation", "reconstructed animals", "simulated", "measured effects"):
        assert kind in text


def test_a_baseline_of_published_effects_is_their_concentration(repository):
    """The states of Pythia-410M as its companion published them: Gini +0.145 and N_eff -45.5."""
    parts = companion.published(repository / "data" / "embedded" / "spiro2026_heads.csv")
    rows = [
        row
        for row in data.states({MODEL: data.shown_effects(parts, ["head"])}, {MODEL: "published"})
        if (row["sign"], row["scale"]) == ("absolute", "raw")
    ]
    first, last = rows[0], rows[-1]
    assert (first["state"], last["state"]) == ("step512", "step143000")
    assert last["gini"] - first["gini"] == pytest.approx(0.145, abs=5e-4)
    assert last["effective"] - first["effective"] == pytest.approx(-45.5, abs=0.05)


def test_what_the_inputs_have_nothing_of_is_left_out(study_folder):
    study_folder(["facs"], simulated=False)
    found = {
        name: tables.read(Path(f"tables/{name}.csv"), schema)
        for name, schema in explorer.TABLES.items()
    }
    about = study.read(Path("cells.json"))
    parts = data.shown_effects(effects.read_states(Path("effects"), ["step1", "step8"]), ["head"])
    made = explorer.views(found, {"m": parts}, about, {"m": "measured effects"})
    assert set(made["charts"]) == {"lorenz", "plane", "heads"}
    assert made["evidence"]["plane"] == {"measured effects": ["m"]}
    found["proportions"] = tables.empty(PROPORTIONS)
    assert explorer.views(found, {"m": parts}, about, {"m": "x"})["samples"] == []
