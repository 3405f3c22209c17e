"""Published effects come from a real server on loopback, pinned, or as a header alone."""

import copy
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import yaml

from stages.base import compose, tables
from stages.base.settings import parse
from stages.heads import companion
from stages.heads.tables.companion import COMPANION_AGREEMENT
from stages.heads.tables.importance import HEAD_IMPORTANCE
from stages.inputs import published_effects as stage

MODEL = "pythia-410m-deduped"
SMALL = (
    stage.HEADER
    + "512,head,output_zeroing,0,0,-1,2.0,3.0,-0.5,1.0\n"
    + "512,head,output_zeroing,0,3,-1,2.0,2.5,-0.25,1.0\n"
).encode()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        """Say nothing."""


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Return a folder that is served, and its address."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def run(params, tmp_path):
    """Return what runs the stage on a table that is pinned for the model of the demo."""

    def go(*urls, content=SMALL, **pin):
        changed = copy.deepcopy(params)
        changed["published_effects"] = {}
        if urls:
            measured = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            entry = {"filename": "effects.csv", "urls": list(urls)} | measured | pin
            changed["published_effects"][changed["model"]["name"]] = entry
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
        words = ["--params", "params.yaml", "--out", "out/published_effects.csv"]
        words += ["--downloads", "downloads", "--checksums", "checksums.json"]
        paths = [word if word.startswith("--") else str(tmp_path / word) for word in words]
        return stage.main(paths), tmp_path / "out" / "published_effects.csv"

    return go


@pytest.fixture
def real_file(repository):
    path = repository.parent / "shared" / "reference" / "companion" / "all_ablations.csv"
    if not path.exists():
        pytest.skip(f"{path.name} of the companion study does not travel with the project")
    return path


def _compared(importance, published, folder):
    """Run the stage `companion` on files and return its table."""
    tables.write(importance, HEAD_IMPORTANCE, folder / "head_importance.csv")
    words = ["--importance", folder / "head_importance.csv", "--published", published]
    assert companion.main([str(word) for word in [*words, "--out", folder / "agreement.csv"]]) == 0
    return tables.read(folder / "agreement.csv", COMPANION_AGREEMENT)


def test_the_published_file_goes_through_both_stages(served, run, real_file, tmp_path):
    folder, address = served
    content = real_file.read_bytes()
    (folder / "all.csv").write_bytes(content)
    status, out = run(f"{address}/all.csv", content=content)
    assert status == 0
    assert out.read_bytes() == content
    # Against itself, by our own metric code; that it gives the published numbers is tested apart.
    table = _compared(companion.read_companion(out), out, tmp_path)
    assert table["position"].tolist() == [512, 1000, 2000, 4000, 8000, 16000, 64000, 143000]
    assert (table["n_heads"] == 144).all()
    assert table["spearman"].to_numpy() == pytest.approx(np.ones(8), abs=1e-12)
    differences = [name for name in table if name.endswith("difference")]
    assert len(differences) == 2
    assert (table[[*differences, "largest_difference_nats"]] == 0).all(axis=None)


def test_the_pin_is_that_of_the_published_file_and_of_its_model_alone(repository, real_file):
    published = parse(compose.compose(repository / "conf", [])).published_effects
    for path in sorted((repository / "conf" / "model").glob("*.yaml")):
        found = published.get(path.stem)
        assert (found is not None) == (path.stem == MODEL)
        if found is not None:
            content = real_file.read_bytes()
            assert found.size_bytes == len(content)
            assert found.sha256 == hashlib.sha256(content).hexdigest()
            assert all(url.endswith("/data/all_ablations.csv") for url in found.urls)


def test_a_comparison_can_be_left_out(repository):
    words = [f"model={MODEL}", f"~published_effects.{MODEL}"]
    assert parse(compose.compose(repository / "conf", words)).published_effects == {}


def test_the_second_address_serves_where_the_first_does_not(served, run):
    folder, address = served
    (folder / "b.csv").write_bytes(SMALL)
    status, out = run(f"{address}/a.csv", f"{address}/b.csv")
    assert status == 0
    assert out.read_bytes() == SMALL


@pytest.mark.parametrize(
    ("pin", "said"),
    [
        ({"sha256": "0" * 64}, f"its sha256 is {hashlib.sha256(SMALL).hexdigest()}"),
        ({"size_bytes": len(SMALL) + 1}, f"{len(SMALL)}"),
    ],
)
def test_other_bytes_than_the_pinned_are_one_line_and_nothing_is_written(
    served, run, tmp_path, caplog, pin, said
):
    folder, address = served
    (folder / "a.csv").write_bytes(SMALL)
    status, out = run(f"{address}/a.csv", **pin)
    assert status == 1
    message = caplog.records[-1].getMessage()
    assert f"could not fetch effects.csv from {address}/a.csv" in message
    assert said in message
    assert f"put it at {tmp_path}/downloads/effects.csv" in message
    assert "\n" not in message
    assert not out.exists()
    assert not (tmp_path / "checksums.json").exists()


def test_a_wrong_pin_is_looked_for_where_it_stands(served, run, caplog):
    folder, address = served
    (folder / "a.csv").write_bytes(SMALL)
    assert run(f"{address}/a.csv", sha256="0" * 64)[0] == 1
    assert f"but conf/config.yaml says {'0' * 64}" in caplog.text
    assert "conf/atlas" not in caplog.text


def test_a_file_put_there_by_hand_needs_no_network(run, tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "effects.csv").write_bytes(SMALL)
    status, out = run("http://127.0.0.1:9/a.csv")
    assert status == 0
    assert out.read_bytes() == SMALL


def test_an_output_that_is_a_folder_is_refused(served, run, tmp_path, caplog):
    folder, address = served
    (folder / "a.csv").write_bytes(SMALL)
    (tmp_path / "out" / "published_effects.csv").mkdir(parents=True)
    assert run(f"{address}/a.csv")[0] == 1
    assert "Move it away or name another with --out." in caplog.text


def test_a_model_without_published_effects_is_compared_with_nothing(run, tmp_path):
    status, out = run()
    assert status == 0
    assert out.read_text(encoding="utf-8") == stage.HEADER
    assert not (tmp_path / "checksums.json").exists()
    path = tmp_path / "small.csv"
    path.write_bytes(SMALL)
    assert _compared(companion.read_companion(path), out, tmp_path).empty
