"""Finished shards in a store that several machines share: a server of S3's own protocol."""

import numpy as np
import pytest

from stages.base.errors import StageError
from stages.compute import settings, shards
from stages.compute.settings import Compute
from stages.compute.shards import Shard, Store

SHARD = Shard("L00-head", "a" * 64, None)


@pytest.fixture
def store(monkeypatch, tmp_path):
    """Start a server on loopback, and give the store that settings name."""
    server = pytest.importorskip("moto.server", reason="needs pip install 'moto[server]'")
    s3fs = pytest.importorskip("s3fs", reason="needs requirements-dask.txt")
    boto3 = pytest.importorskip("boto3")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    address = "http://{}:{}".format(*running.get_host_and_port())
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    # One that is kept is of the server of another test.
    s3fs.S3FileSystem.clear_instance_cache()
    boto3.client("s3").create_bucket(Bucket="shards")
    chosen = Compute(store="s3://shards/study")
    monkeypatch.setattr(settings, "chosen", lambda: chosen)
    monkeypatch.chdir(tmp_path)
    yield shards.store(tmp_path / "data" / "scratch")
    running.stop()


@pytest.mark.filterwarnings("ignore")
def test_the_first_who_writes_a_shard_wins_and_damage_is_seen(store, caplog):
    assert store.place == "s3://shards/study/data/scratch"
    assert store.read(SHARD) is None
    store.write(SHARD, {"losses": np.arange(3.0)})
    store.write(SHARD, {"losses": np.arange(9.0)})
    np.testing.assert_array_equal(store.read(SHARD)["losses"], np.arange(3.0))
    path = f"{store.place}/{SHARD.name}"
    content = store._system.cat_file(path)
    local = Store("here")
    local.write(SHARD, {"losses": np.arange(3.0)})
    with local._opened(SHARD) as file:
        assert file.read() == content
    store._system.pipe_file(path, content[:-30])
    assert store.read(SHARD) is None
    assert f"{path} is damaged" in caplog.text
    # It is computed again by whoever finds it missing, and by nobody after that.
    ran = []
    work = lambda task: ran.append(task) or {"losses": np.arange(3.0)}  # noqa: E731
    assert len(store.filled([SHARD], work)) == 1
    store.filled([SHARD], work)
    assert ran == [None]
    assert store._system.cat_file(path) == content


@pytest.mark.filterwarnings("ignore")
def test_a_store_that_is_not_there_is_one_line(store, monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "chosen", lambda: Compute(store="nowhere://bucket"))
    with pytest.raises(StageError, match=r"compute\.store nowhere://bucket cannot"):
        shards.store(tmp_path)


def test_a_folder_that_all_share_takes_the_place_of_scratch(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "chosen", lambda: Compute(store=str(tmp_path / "shared")))
    monkeypatch.chdir(tmp_path)
    found = shards.store(tmp_path / "data" / "scratch")
    assert found.place == str(tmp_path / "shared" / "data" / "scratch")
