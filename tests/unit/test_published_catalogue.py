"""The three catalogues of published files: they compose, and say what the data card says."""

import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from stages.base.compose import compose
from stages.base.settings import parse
from stages.inputs.published.checksums import addresses
from stages.inputs.settings import PublishedAtlas, RemoteFile

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
NAMES = ("published", "published-full", "published-obs")
STAGE_NAME = re.compile(r"[A-Za-z0-9_-]+")
TISSUES = 23 + 16


def atlas_of(conf: Path, name: str) -> PublishedAtlas:
    atlas = parse(compose(conf, [f"atlas={name}"])).atlas
    assert isinstance(atlas, PublishedAtlas)
    return atlas


@pytest.mark.parametrize("name", NAMES)
def test_catalogue_composes_and_its_cells_read_what_is_acquired(name: str) -> None:
    atlas = atlas_of(CONF, name)
    # stages.base.compose finds the file again by the name of the atlas.
    assert atlas.name == name
    assert {spec.evidence for spec in atlas.cells.values()} == {"annotation"}
    assert atlas.notice is None
    outs = [file.out for file in atlas.acquire.values()]
    filenames = [file.filename for file in atlas.acquire.values()]
    assert len(set(outs)) == len(outs)
    assert len(set(filenames)) == len(filenames)
    assert {cells.raw for cells in atlas.cells.values()} <= set(outs)
    # GEO has no cell types for the rat.
    assert set(outs) - {cells.raw for cells in atlas.cells.values()} == {
        Path("data/raw/published/rat-marrow")
    }
    for key in [*atlas.acquire, *atlas.cells]:
        assert STAGE_NAME.fullmatch(key)


@pytest.mark.parametrize("name", NAMES)
def test_every_address_is_https_and_none_is_the_figshare_host_that_answers_202(name: str) -> None:
    checked = 0
    for file in atlas_of(CONF, name).acquire.values():
        for url in addresses(file):
            place = urlsplit(url)
            assert place.scheme == "https"
            assert place.hostname not in {"figshare.com", "www.figshare.com"}
            assert "GSE141784" not in url
            checked += 1
    assert checked >= len(NAMES)


def test_published_takes_five_tissues_from_the_per_tissue_article() -> None:
    atlas = atlas_of(CONF, "published")
    tms = {key: file for key, file in atlas.acquire.items() if key.startswith("tms-")}
    assert sorted(tms) == sorted(
        f"tms-{platform}-{tissue}"
        for platform in ("facs", "droplet")
        for tissue in ("marrow", "kidney", "limb-muscle", "lung", "spleen")
    )
    assert {(f.figshare.article, f.figshare.version) for f in tms.values() if f.figshare} == {
        (12654728, 1)
    }
    marrow = tms["tms-facs-marrow"]
    assert marrow.filename == "tabula-muris-senis-facs-processed-official-annotations-Marrow.h5ad"
    assert addresses(marrow) == [
        "https://ndownloader.figshare.com/files/23872976",
        "https://api.figshare.com/v2/file/download/23872976",
    ]
    assert {cells.platform for cells in atlas.cells.values()} == {"facs", "droplet"}


def test_the_whole_table_of_tissues_is_ready_to_uncomment(tmp_path: Path) -> None:
    shutil.copytree(CONF, tmp_path, dirs_exist_ok=True)
    text = (CONF / "atlas" / "published.yaml").read_text(encoding="utf-8")
    # Lines to uncomment begin with `#` and two blanks; comments are indented, or have one blank.
    opened = re.sub(r"^#(?=  )", "", text, flags=re.MULTILINE)
    (tmp_path / "atlas" / "published.yaml").write_text(opened, encoding="utf-8")
    atlas = atlas_of(tmp_path, "published")
    tms = {key: file for key, file in atlas.acquire.items() if key.startswith("tms-")}
    numbers = {file.figshare.id for file in tms.values() if file.figshare}
    assert len(tms) == len(numbers) == TISSUES
    assert set(tms) == {key for key in atlas.cells if key.startswith("tms-")}
    for key, cells in atlas.cells.items():
        assert cells.raw == atlas.acquire[key].out
        if key in tms:
            assert cells.platform in tms[key].filename
    aorta = tms["tms-facs-aorta"]
    assert (aorta.size_bytes, aorta.md5) == (44_547_302, "4b1c150cf856a7406b3293ebdacd72c6")


def test_full_takes_the_other_article_and_then_s3() -> None:
    atlas = atlas_of(CONF, "published-full")
    facs, droplet = atlas.acquire["tms-facs"], atlas.acquire["tms-droplet"]
    assert facs.figshare
    assert droplet.figshare
    assert (facs.figshare.article, facs.figshare.version, facs.figshare.id) == (
        8273102,
        3,
        23937842,
    )
    # 23938934, which a well-known package links in its prose, is the raw object.
    assert droplet.figshare.id == 23936684
    assert addresses(droplet)[-1].endswith(f".amazonaws.com/Data-objects/{droplet.filename}")


def test_obs_filters_one_table_by_method() -> None:
    cells = atlas_of(CONF, "published-obs").cells
    assert cells["tms-facs"].raw == cells["tms-droplet"].raw
    assert cells["tms-facs"].where == {"method": "facs"}
    assert cells["tms-droplet"].where == {"method": "droplet"}


def test_a_file_without_an_address_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x\.h5ad has no address; give urls or figshare"):
        RemoteFile(out=Path("x"), filename="x.h5ad", format="h5ad")
