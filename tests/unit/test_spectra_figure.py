"""The figure of spectra: what it draws, on its page, of one state and of several."""

import pytest

from stages.base import tables
from stages.measurement.tables import MEASURED
from stages.spectra.figures import spectra as figure
from stages.spectra.tables.separation import SEPARATION
from stages.spectra.tables.spectrum import SPECTRUM
from stages.spectra.tables.structures import STRUCTURES
from tests import made_spectra


def made(folder, settings, states):
    made_spectra.write(folder, folder / "scratch", settings, "cell_spectra", states, genes=True)
    of_genes = folder / "cell_model"
    return [
        tables.read(folder / "measured" / "cell_spectra.csv", MEASURED),
        tables.read(of_genes / "spectrum.csv", SPECTRUM),
        tables.read(of_genes / "separation.csv", SEPARATION),
        tables.read(of_genes / "structures.csv", STRUCTURES),
    ]


@pytest.mark.parametrize("states", [["step0", "step64", "step4096"], ["main"]])
def test_every_panel_is_drawn_and_fits_its_page(
    settings, tmp_path, monkeypatch, drawn_texts, states
):
    monkeypatch.chdir(tmp_path)
    shown = made(tmp_path, settings, states)
    drawn = figure.draw(*shown)
    texts = drawn_texts(drawn)
    seen = {text.get_text() for text, _ in texts}
    assert {"genes as they are", "with 59% rows of zeros", "frequency", "markers"} <= seen
    assert {"same markers", "edges within\na programme", "Rank correlation", *states} <= seen
    for text, box in texts:
        assert box.x0 >= drawn.bbox.x0 - 1, text.get_text()
        assert box.x1 <= drawn.bbox.x1 + 1, text.get_text()
        assert box.y0 >= drawn.bbox.y0 - 1, text.get_text()


def test_genes_of_which_nothing_is_known_have_a_panel_that_says_so(
    settings, tmp_path, monkeypatch, drawn_texts
):
    monkeypatch.chdir(tmp_path)
    measured, spectrum, separation, structures = made(tmp_path, settings, ["step0", "step8"])
    separation = separation[separation["family"] == "frequency"]
    drawn = figure.draw(measured, spectrum, separation, structures.iloc[:0])
    assert "nothing is known\nof these genes" in [text.get_text() for text, _ in drawn_texts(drawn)]
