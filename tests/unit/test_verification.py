"""Two files side by side: what is the same, what is near, and which number moved."""

import gzip
import json
from fnmatch import fnmatch

import h5py
import numpy as np
import pandas as pd
import pytest
from dvc.repo import Repo
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin
from safetensors.numpy import save_file

from stages.audit import verdicts
from stages.audit.compare import KINDS, SCHEMAS, compare, tables_side_by_side
from stages.audit.lock import LockError, Output, Stage, Store, files_below, read
from stages.audit.verdicts import (
    Allowed,
    Finding,
    Group,
    Status,
    Tolerances,
    Verdict,
    VerificationError,
)
from stages.audit.verification import verify
from stages.base import tables
from stages.base.files import folder_hash
from stages.cells.tables.recovery import RECOVERY
from stages.heads.tables.attribution import ATTRIBUTION

NONE = Allowed()


def _recovery(**changes):
    """Return a table of two rows; `changes` replace columns."""
    content = {
        "cohort": ["tms", "tms"],
        "platform": ["facs", "facs"],
        "tissue": ["Kidney", "Lung"],
        "metric": ["gini", "gini"],
        "truth": [0.25, -0.5],
        "change": [0.125, -0.75],
        "change_low": [0.0, -1.0],
        "change_high": [0.5, 0.0],
        "covered": [True, False],
        "same_sign": [True, True],
    }
    return pd.DataFrame(content | changes)


@pytest.fixture
def both(tmp_path):
    """Return what writes two tables as the study does and compares the files."""

    def go(committed, recomputed, allowed=NONE):
        for name, table in (("a", committed), ("b", recomputed)):
            tables.write(table, RECOVERY, tmp_path / name)
        return compare(tmp_path / "a", tmp_path / "b", allowed, suffix=".csv")

    return go


def test_a_number_that_moved_is_named_with_row_both_values_and_tolerance(both):
    found = both(_recovery(), _recovery(change=[0.125, -0.7499]))
    assert found.status is Status.DIFFERS
    assert found.detail == (
        "change/gini in row cohort=tms, platform=facs, tissue=Lung, metric=gini: "
        "-0.75 committed, -0.7499 recomputed, off by 0.0001, tolerance 0 (1 of 2 differ)"
    )


def test_a_number_within_its_tolerance_is_within_and_one_beyond_is_not(both):
    moved = _recovery(change=[0.125, -0.75 + 2**-10], truth=[0.25 + 2**-20, -0.5])
    # Of the largest of each column, which is 0.75 and 0.5.
    wide = Allowed(columns={"change": 2**-10 / 0.75, "truth": 2**-19})
    found = both(_recovery(), moved, wide)
    assert found.status is Status.WITHIN
    sizes = {d.column: d.difference for d in found.deviations}
    assert sizes == {"change/gini": 2**-10, "truth/gini": 2**-20}
    narrow = Allowed(columns={"change": 2**-11 / 0.75, "truth": 2**-19})
    assert both(_recovery(), moved, narrow).status is Status.DIFFERS
    # A tolerance is of its column alone.
    assert both(_recovery(), moved, Allowed(columns={"change": 1.0})).status is Status.DIFFERS
    assert both(_recovery(), moved, Allowed(columns={"*": 2**-9})).status is Status.WITHIN


def test_the_last_digit_counts(both):
    found = both(_recovery(), _recovery(truth=[np.nextafter(0.25, 1), -0.5]))
    assert found.status is Status.DIFFERS
    assert found.deviations[0].difference == 2**-54


def test_a_flag_has_no_tolerance(both):
    found = both(_recovery(), _recovery(covered=[True, True]), Allowed(columns={"covered": 9.0}))
    assert found.status is Status.DIFFERS
    assert "covered/gini in row" in found.detail
    assert "False committed, True recomputed" in found.detail


def test_rows_in_another_order_are_the_same_content(both):
    found = both(_recovery(), _recovery().iloc[::-1])
    assert found.status is Status.SAME_CONTENT
    assert found.detail == "rows in another order"


def test_a_row_more_and_a_row_less_are_told(both):
    less = both(_recovery(), _recovery().iloc[:1])
    assert less.status is Status.DIFFERS
    assert less.detail.startswith("1 rows only committed, cohort=tms")
    assert "tissue=Lung" in less.detail
    assert both(_recovery().iloc[:1], _recovery()).detail.startswith("1 rows only recomputed")


def test_a_missing_column_and_a_changed_text_are_told_in_any_table(tmp_path):
    (tmp_path / "a").write_text("name,x\nleft,1\nright,2\n", encoding="utf-8")
    for content, said in (
        ("name\nleft\nright\n", "1 columns only committed, x the first"),
        ("name,x\nleft,1\nup,2\n", "name in row 2: 'right' committed, 'up' recomputed"),
        ("name,x\nleft,1\n", "1 rows only committed"),
    ):
        (tmp_path / "b").write_text(content, encoding="utf-8")
        found = compare(tmp_path / "a", tmp_path / "b", NONE, suffix=".csv")
        assert found.status is Status.DIFFERS
        assert found.detail.startswith(said)


def test_nan_is_nan_infinite_is_infinite_and_neither_is_a_number():
    table = pd.DataFrame({"x": [np.nan, np.inf, -np.inf, 1.0]})
    wide = Allowed(columns={"x": 1e300})
    assert tables_side_by_side(table, table, wide, key=[]).status is Status.SAME_CONTENT
    for at, value in ((0, 0.0), (1, 1e308), (1, -np.inf), (2, np.nan), (3, np.nan), (3, np.inf)):
        changed = table.copy()
        changed.loc[at, "x"] = value
        found = tables_side_by_side(table, changed, wide, key=[])
        assert found.status is Status.DIFFERS, (at, value)
        assert found.deviations[0].difference == np.inf
        assert found.deviations[0].row == str(at + 1)


def test_a_key_may_be_empty():
    table = pd.DataFrame({"cohort": ["tms", None], "step": [np.nan, 16.0], "x": [1.0, 2.0]})
    found = tables_side_by_side(table, table.iloc[::-1], NONE, key=["cohort", "step"])
    assert found.status is Status.SAME_CONTENT
    moved = table.assign(x=[1.0, 3.0])
    found = tables_side_by_side(table, moved, NONE, key=["cohort", "step"])
    assert found.deviations[0].row == "step=16.0"


def test_a_column_has_a_scale_for_each_kind_of_row():
    table = pd.DataFrame({"step": [1, 1], "metric": ["gini", "hill_1"], "value": [0.5, 40.0]})
    allowed = Allowed(columns={"value": 0.02})

    def compared(gini, hill):
        moved = table.assign(value=[gini, hill])
        return tables_side_by_side(table, moved, allowed, key=["step", "metric"])

    assert compared(0.505, 40.75).status is Status.WITHIN
    assert compared(0.5, 42.0).status is Status.DIFFERS
    found = compared(0.75, 40.75)
    assert found.status is Status.DIFFERS
    assert found.detail.startswith("value/gini in row step=1, metric=gini: 0.5 committed, 0.75")
    assert [d.scale for d in found.deviations] == [0.5, 40.0]


def test_a_table_is_known_by_its_columns():
    columns = [tuple(schema.columns) for schema in SCHEMAS]
    assert len(columns) > 30
    assert len(set(columns)) == len(columns)


def test_parquet_is_compared_by_its_rows(tmp_path):
    columns = {"state": "step16", "layer": 0, "head": [0, 1], "sequence": 0, "loss_base": 2.0}
    table = pd.DataFrame(columns | {"first_order_nats": [0.5, 1.0], "fisher": 0.0, "size": 1.0})
    tables.write_parquet(table, ATTRIBUTION, tmp_path / "a", metadata={"made": "here"})
    tables.write_parquet(table, ATTRIBUTION, tmp_path / "b", metadata={"made": "there"})
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()
    found = compare(tmp_path / "a", tmp_path / "b", NONE, suffix=".parquet")
    assert found.status is Status.SAME_CONTENT
    moved = table.assign(first_order_nats=[0.5, 1.5])
    tables.write_parquet(moved, ATTRIBUTION, tmp_path / "b", metadata={})
    found = compare(tmp_path / "a", tmp_path / "b", NONE, suffix=".parquet")
    assert found.status is Status.DIFFERS
    assert (
        "state=step16, layer=0, head=1, sequence=0: 1.0 committed, 1.5 recomputed" in found.detail
    )


@pytest.fixture
def picture(tmp_path):
    """Return a real figure's PNG as an image."""
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [0, 1])
    figure.savefig(tmp_path / "figure.png", metadata={"Software": None})
    return tmp_path / "figure.png"


def test_a_picture_with_other_metadata_has_the_same_pixels(picture, tmp_path):
    note = PngImagePlugin.PngInfo()
    note.add_text("Software", "another day")
    Image.open(picture).save(tmp_path / "b", format="PNG", pnginfo=note)
    assert picture.read_bytes() != (tmp_path / "b").read_bytes()
    found = compare(picture, tmp_path / "b", NONE, suffix=".png")
    assert found.status is Status.SAME_CONTENT


def test_a_changed_pixel_is_counted_and_placed(picture, tmp_path):
    image = Image.open(picture)
    image.putpixel((7, 3), (255, 0, 0, 255))
    image.save(tmp_path / "b", format="PNG")
    found = compare(picture, tmp_path / "b", NONE, suffix=".png")
    assert found.status is Status.DIFFERS
    # One of 200 x 100 pixels.
    assert found.detail == "0.005% of the pixels differ, the first in row 3, column 7"
    image.resize((20, 10)).save(tmp_path / "b", format="PNG")
    found = compare(picture, tmp_path / "b", NONE, suffix=".png")
    assert found.detail == (
        "200 x 100 pixels of 4 channels committed, 20 x 10 pixels of 4 channels recomputed"
    )


def test_a_drawing_is_compared_without_its_date(tmp_path):
    def draw(name, date, height):
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot([0, 1], [0, height])
        # The identifiers of clips and markers are drawn at random unless they are salted.
        with rc_context({"svg.hashsalt": "the same"}):
            figure.savefig(tmp_path / name, format="svg", metadata={"Date": date})
        return tmp_path / name

    first, later = draw("a", "2026-01-01", 1), draw("b", "2026-01-02", 1)
    assert first.read_bytes() != later.read_bytes()
    assert compare(first, later, NONE, suffix=".svg").status is Status.SAME_CONTENT
    found = compare(first, draw("b", "2026-01-01", 2), NONE, suffix=".svg")
    assert found.status is Status.DIFFERS


def test_texts_are_compared_line_by_line(tmp_path):
    (tmp_path / "a").write_text("one\nGini rose by 0.146 in all\nthree\n", encoding="utf-8")
    (tmp_path / "b").write_text("one\nGini rose by 0.147 in all\nthree\n", encoding="utf-8")
    found = compare(tmp_path / "a", tmp_path / "b", NONE, suffix=".md")
    assert found.status is Status.DIFFERS
    assert found.detail.startswith("1 of 3 lines differ; line 2: ")
    assert "0.146" in found.detail
    assert "0.147" in found.detail


def test_a_page_is_compared_by_its_words(tmp_path):
    page = "<style>{}</style><p>Gini <img src='data:image/png;base64,{}'/> rose</p>"
    (tmp_path / "a").write_text(page.format("p {}", "AAAA"), encoding="utf-8")
    (tmp_path / "b").write_text(page.format("q {}", "BBBB"), encoding="utf-8")
    found = compare(tmp_path / "a", tmp_path / "b", NONE, suffix=".html")
    assert found.status is Status.SAME_CONTENT
    (tmp_path / "b").write_text("<p>Gini fell</p>", encoding="utf-8")
    assert compare(tmp_path / "a", tmp_path / "b", NONE, suffix=".html").status is Status.DIFFERS


def test_nested_values_are_compared_leaf_by_leaf(tmp_path):
    (tmp_path / "a").write_text('{"heads": [{"n": 4, "share": 0.5}], "name": "x"}', "utf-8")
    (tmp_path / "b").write_text('{"name": "x", "heads": [{"n": 4, "share": 0.5}]}', "utf-8")
    found = compare(tmp_path / "a", tmp_path / "b", NONE, suffix=".json")
    assert found.status is Status.SAME_CONTENT
    (tmp_path / "b").write_text('{"name": "x", "heads": [{"n": 4, "share": 0.75}]}', "utf-8")
    found = compare(tmp_path / "a", tmp_path / "b", NONE, suffix=".json")
    assert found.detail.startswith("heads.0.share: 0.5 committed, 0.75 recomputed, off by 0.25")
    near = Allowed(columns={"heads.0.share": 0.5})
    assert compare(tmp_path / "a", tmp_path / "b", near, suffix=".json").status is Status.WITHIN
    (tmp_path / "b").write_text('{"name": "x", "heads": []}', "utf-8")
    found = compare(tmp_path / "a", tmp_path / "b", NONE, suffix=".json")
    assert "keys only committed" in found.detail


def _save_npy(path, value):
    with path.open("wb") as file:
        np.save(file, value)


def _save_h5(path, value):
    with h5py.File(path, "w") as file:
        file["obsp/weights"] = value
        file["obsp"].attrs["encoding"] = "csr"


@pytest.mark.parametrize(
    ("suffix", "save"),
    [
        (".npy", _save_npy),
        (".safetensors", lambda path, value: save_file({"layer": value}, path)),
        (".h5ad", _save_h5),
    ],
)
def test_arrays_are_compared_value_by_value(tmp_path, suffix, save):
    value = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    save(tmp_path / "a", value)
    save(tmp_path / "b", value)
    assert compare(tmp_path / "a", tmp_path / "b", NONE, suffix=suffix).status is (
        Status.SAME_CONTENT
    )
    moved = value.copy()
    moved[1, 0] += 0.5
    save(tmp_path / "b", moved)
    found = compare(tmp_path / "a", tmp_path / "b", NONE, suffix=suffix)
    assert found.status is Status.DIFFERS
    assert "in row (1, 0): 3.0 committed, 3.5 recomputed, off by 0.5" in found.detail
    near = Allowed(columns={"*": 0.125})
    assert compare(tmp_path / "a", tmp_path / "b", near, suffix=suffix).status is Status.WITHIN
    save(tmp_path / "b", value[:1])
    found = compare(tmp_path / "a", tmp_path / "b", near, suffix=suffix)
    assert "(2, 2) committed" in found.detail


def test_what_is_packed_is_compared_unpacked(tmp_path):
    for name, level in (("a", 1), ("b", 9)):
        with gzip.GzipFile(tmp_path / name, "wb", compresslevel=level, mtime=level) as file:
            file.write(b"gene\n" * 100)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()
    found = compare(tmp_path / "a", tmp_path / "b", NONE, suffix=".gz")
    assert found.status is Status.SAME_CONTENT


@pytest.mark.parametrize("suffix", sorted(KINDS))
def test_what_cannot_be_read_differs(tmp_path, suffix):
    (tmp_path / "a").write_bytes(b"\xff\x00 no such thing")
    (tmp_path / "b").write_bytes(b"\xff\x01 nor this")
    assert compare(tmp_path / "a", tmp_path / "b", NONE, suffix=suffix).status is Status.DIFFERS


def test_an_unknown_kind_is_compared_by_bytes(tmp_path):
    found = compare(tmp_path / "a", tmp_path / "b", NONE, suffix=".docx")
    assert found.status is Status.DIFFERS
    assert "by bytes alone" in found.detail


@pytest.fixture
def study(tmp_path):
    """Return what makes two folders of results and a store of the first, and verifies them."""

    def go(committed, recomputed, *, groups=(), lost=(), inputs=None):
        checkout = tmp_path / "commit"
        stages = []
        for root, content in ((checkout, committed), (tmp_path / "again", recomputed)):
            for name, text in content.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text, encoding="utf-8")
        for name in committed:
            stages.append(
                Stage(
                    name=f"makes {name}",
                    command="",
                    inputs=dict.fromkeys((inputs or {}).get(name, ()), ""),
                    outputs=(Output(name, files_below(checkout)[name]),),
                    params={},
                )
            )
        for name in lost:
            (checkout / name).unlink()
        rules = Tolerances(factor=2, groups=list(groups))
        return verify(stages, Store(checkout, tuple), tmp_path / "again", rules)

    return go


def test_the_same_bytes_need_no_committed_copy_and_other_bytes_do(study):
    found = study({"a.csv": "x\n1\n", "b.csv": "x\n1\n"}, {"a.csv": "x\n1\n", "b.csv": "x\n2\n"},
                  lost=["a.csv", "b.csv"])  # fmt: skip
    assert [verdict.status for verdict in found] == [Status.IDENTICAL, Status.NOT_STORED]
    assert "cannot be compared" in found[1].finding.detail
    assert not found[1].status.fails


def test_nothing_to_compare_is_no_verification(study):
    with pytest.raises(VerificationError, match="none of the 1 committed outputs"):
        study({"a.csv": "x\n1\n"}, {"a.csv": "x\n2\n"}, lost=["a.csv"])


def test_what_was_not_recomputed_is_missing(study):
    found = study({"a.csv": "x\n1\n", "b.csv": "x\n1\n"}, {"a.csv": "x\n1\n"})
    assert [verdict.status for verdict in found] == [Status.IDENTICAL, Status.MISSING]
    assert found[1].status.fails


def test_a_tolerance_is_the_observed_deviation_times_the_factor(study):
    group = Group(rests_on="a throw of dice", outputs={"t/*.csv": 0.25})
    moved = {"t/a.csv": "x\n1.5\n", "t/b.csv": "x\n1.75\n", "c.csv": "x\n1.5\n"}
    found = study(dict.fromkeys(moved, "x\n1.0\n"), moved, groups=[group])
    assert [v.status for v in found] == [Status.WITHIN, Status.DIFFERS, Status.DIFFERS]
    assert found[0].finding.deviations[0].tolerance == 0.5
    assert found[1].finding.detail.endswith("it rests on a throw of dice")
    assert "tolerance 0 " in found[2].finding.detail


def test_a_page_follows_numbers_within_tolerance_and_nothing_else(study):
    group = Group(rests_on="dice", outputs={"t.csv": {"x": 0.25}})
    inputs = {"page.md": ["t.csv"], "book.md": ["page.md"], "other.md": ["u.csv"]}
    committed = {"book.md": "1.0", "page.md": "1.0", "other.md": "1.0"}
    committed |= {"t.csv": "x\n1.0\n", "u.csv": "x\n1.0\n"}
    moved = {"book.md": "1.5", "page.md": "1.5", "other.md": "1.5"}
    moved |= {"t.csv": "x\n1.5\n", "u.csv": "x\n1.0\n"}
    found = {v.file: v for v in study(committed, moved, groups=[group], inputs=inputs)}
    assert found["t.csv"].status is Status.WITHIN
    assert found["page.md"].status is Status.WITHIN
    assert "within tolerance in t.csv" in found["page.md"].finding.detail
    # The page's page follows too, in whatever order they are named.
    assert found["book.md"].status is Status.WITHIN
    # All that this one shows is identical: it has no reason to differ.
    assert found["other.md"].status is Status.DIFFERS
    moved["t.csv"] = "x\n9.0\n"
    found = {v.file: v for v in study(committed, moved, groups=[group], inputs=inputs)}
    assert found["page.md"].status is Status.DIFFERS


def test_an_output_that_the_lock_does_not_know_cannot_be_compared(tmp_path):
    (tmp_path / "a.csv").write_text("x\n1\n", encoding="utf-8")
    outputs = (Output("a.csv", files_below(tmp_path)["a.csv"]), Output("b.csv", ""))
    stage = Stage(name="a", command="", inputs={}, outputs=outputs, params={})
    found = verify([stage], Store(tmp_path, tuple), tmp_path, Tolerances(factor=2, groups=[]))
    assert [verdict.status for verdict in found] == [Status.IDENTICAL, Status.NOT_STORED]
    assert found[1].finding.detail == "dvc.lock of the commit does not know it"


@pytest.mark.parametrize("content", ["stages: [", "- 1\n", "stages: 3\n", ""])
def test_a_damaged_lock_is_one_line(tmp_path, content):
    Repo.init(str(tmp_path), no_scm=True).close()
    graph = "stages: {a: {cmd: echo 1 > a.txt, outs: [a.txt]}}\n"
    (tmp_path / "dvc.yaml").write_text(graph, encoding="utf-8")
    (stage,) = read(tmp_path)
    assert (stage.name, stage.outputs) == ("a", (Output("a.txt", ""),))
    (tmp_path / "dvc.lock").write_text(content, encoding="utf-8")
    with pytest.raises(LockError, match=r"restore dvc\.lock by `git checkout dvc\.lock`") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_copy_in_a_cache_is_not_believed(tmp_path):
    md5 = "900150983cd24fb0d6963f7d28e17f72"  # of "abc" (RFC 1321)
    kept = tmp_path / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    kept.parent.mkdir(parents=True)
    store = Store(tmp_path, lambda: (tmp_path / "cache",))
    kept.write_bytes(b"abc")
    assert store.find(md5, "a.csv") == kept
    kept.write_bytes(b"abd")
    assert store.find(md5, "a.csv") is None


def test_the_report_has_the_worst_first_and_survives_numbers_that_json_lacks():
    table = pd.DataFrame({"x": [np.nan, 1.0]})
    other = pd.DataFrame({"x": [2.0, 1.0]})
    bad = tables_side_by_side(table, other, NONE, key=[])
    found = [Verdict("a", "a", "s", Finding(Status.IDENTICAL)), Verdict("b", "b", "s", bad)]
    lines = verdicts.table(found[::-1]).splitlines()
    assert lines[0].split() == ["differs", "b"]
    assert lines[-1] == "2 outputs: 1 differs, 1 identical"
    content = json.loads(verdicts.as_json(found, about={"commit": "abc"}))
    assert content["commit"] == "abc"
    assert content["counts"]["differs"] == 1
    assert content["outputs"][0]["columns"][0]["committed"] == "nan"
    assert content["outputs"][0]["columns"][0]["recomputed"] == 2.0


def test_a_folder_is_named_as_dvc_names_it(tmp_path):
    # The name that DVC 3.67.1 gave an output of these two files.
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.txt").write_text("1\n", encoding="utf-8")
    (tmp_path / "out" / "y.txt").write_text("2\n", encoding="utf-8")
    assert folder_hash(files_below(tmp_path / "out")) == "e8a1887d8a63fd4571bfa392ade7e118.dir"


def test_the_stated_tolerances_are_of_outputs_and_columns_that_exist(repository):
    stated = verdicts.load_tolerances()
    known = {column for schema in SCHEMAS for column in schema.columns} | {"*"}
    known |= {"train_loss_nats", "heldout_loss_nats"}  # of the log of a training
    outputs = [out.path for stage in read(repository) for out in stage.outputs]
    for group in stated.groups:
        for pattern, observed in group.outputs.items():
            named = observed if isinstance(observed, dict) else ()
            assert {name.partition("/")[0] for name in named} <= known, pattern
            # An output, a file of one, or whatever lies in one.
            found = [fnmatch(out, pattern) or fnmatch(pattern, f"{out}/*")
                     or fnmatch(f"{out}/any", pattern) for out in outputs]  # fmt: skip
            assert any(found), pattern


def test_what_was_observed_of_one_model_says_nothing_of_another():
    group = Group(rests_on="training", model="mini", outputs={"t.csv": {"x": 0.5}})
    both = Tolerances(factor=2, groups=[group, Group(rests_on="logs", outputs={"u.csv": {"*": 1}})])
    assert both.for_models("mini").of("t.csv").column("x") == 1
    assert both.for_models("410m").of("t.csv") == Allowed()
    assert both.for_models("410m").of("u.csv").column("any") == 2


def test_columns_share_a_tolerance_and_a_named_one_has_its_own():
    allowed = Allowed(columns={"high": 3.0, "high/gini": 2.0, "*": 1.0})
    columns = ("high", "high/gini", "high/hill_1", "low/gini")
    assert [allowed.column(name) for name in columns] == [3, 2, 3, 1]
    assert Allowed().column("high") == 0


def test_a_fault_in_the_tolerances_is_one_line(tmp_path):
    (tmp_path / "t.yaml").write_text("factor: 4\ngroups: [{rests_on: x}]\n", encoding="utf-8")
    with pytest.raises(VerificationError, match=r"t\.yaml does not state tolerances"):
        verdicts.load_tolerances(tmp_path / "t.yaml")
