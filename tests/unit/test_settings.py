"""Settings: what is wrong is said in one line that names the key, the value and the remedy."""

import copy
import json

import pandas as pd
import pytest
import yaml

from stages.base import compose
from stages.base.errors import SettingsError, TableError
from stages.base.settings import load, parse
from stages.base.study import joined, read
from stages.inputs import study


def _changed(params, key, value):
    content = copy.deepcopy(params)
    node = content
    *path, last = key.split(".")
    for part in path:
        node = node[part]
    node[last] = value
    return content


def _words(params, conf, out):
    """Return the command line of the stage `study`, its outputs in the folder `out`."""
    words = ["--params", str(params), "--conf", str(conf)]
    for name in ("cells", "heads", "cellmodel", "overrides"):
        words += [f"--{name}", str(out / f"{name}.json")]
    return words


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("contrast.confidense", 0.9, "unknown key contrast.confidense; did you mean confidence?"),
        ("metrics.rarefaction.drawz", 1, "metrics.rarefaction.drawz; did you mean draws?"),
        ("atlas.cells.tms-facs.colums", {}, "did you mean columns? Allowed here: age_months,"),
        ("atlas.acquire.tms-facs.layuot", "x", "did you mean layout?"),
        ("contrast.confidence", 1.5, "contrast.confidence = 1.5: input should be less than 1"),
        ("proportions.min_cells", 0, "proportions.min_cells = 0"),
        ("proportions.pooled_pattern", "[", "'[' is not a regular expression"),
        ("metrics.category_set", "some", "'present', 'tissue' or 'fixed'"),
        ("metrics.category_set", "fixed", "fixed_categories is empty"),
        ("contrast.metrics", ["gini"], "the quadrant needs gini and effective_number"),
        ("atlas.cells.tms-facs.groups.reference", {"up_to": "30 months"}, "share an age"),
        ("atlas.cells.tms-facs.groups.reference.up_to", 3, "3 is no age with a unit"),
        (
            "atlas.cells.tms-facs.groups.reference",
            ["ctrl"],
            "one group is of ages and one of labels",
        ),
        ("atlas.cells", {}, "at least 1 item"),
        ("nothing", 1, "unknown key nothing"),
    ],
)
def test_a_bad_setting_is_one_line_with_its_remedy(params, key, value, said):
    with pytest.raises(SettingsError) as caught:
        parse(_changed(params, key, value))
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    home = "conf/atlas/demo.yaml" if key.startswith("atlas") else "conf/config.yaml"
    assert f"Change {home} and run make reproduce." in message


def test_a_missing_section_is_named(params):
    content = copy.deepcopy(params)
    del content["drivers"]
    with pytest.raises(SettingsError, match="missing key drivers"):
        parse(content)


@pytest.mark.parametrize("text", ["a: [", "- 1", ""])
def test_a_file_that_holds_no_settings_is_named(text, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"params\.yaml"):
        load(path)


def test_an_unknown_parameter_ends_a_stage_with_one_line(params, tmp_path, caplog, repository):
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(_changed(params, "contrast.confidense", 1)), encoding="utf-8")
    assert study.main(_words(path, repository / "conf", tmp_path)) == 1
    assert "unknown key contrast.confidense" in caplog.text
    assert sorted(file.name for file in tmp_path.iterdir()) == ["params.yaml"]


class TestComposition:
    @pytest.fixture
    def conf(self, repository, tmp_path):
        copied = tmp_path / "conf"
        for source in (repository / "conf").rglob("*.yaml"):
            target = copied / source.relative_to(repository / "conf")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
        return copied

    def _compose(self, conf, *words):
        params = conf.parent / "params.yaml"
        assert compose.main(["--conf", str(conf), "--params", str(params), *words]) == 0
        return yaml.safe_load(params.read_text(encoding="utf-8"))

    def test_the_committed_params_follow_from_conf_and_are_the_demo(self, params, repository):
        assert params["atlas"]["name"] == "demo"
        assert compose.overridden(params, repository / "conf") == {}

    def test_every_model_composes_and_bears_the_name_of_its_file(self, conf):
        names = sorted(path.stem for path in (conf / "model").glob("*.yaml"))
        assert {"pythia-mini", "pythia-410m-deduped"} <= set(names)
        given = {"local": ["--set", "model.local=/m", "model.text.path=/t.txt"]}
        for name in names:
            words = ["--model", name, *given.get(name, [])]
            composed = self._compose(conf, *words)
            assert composed["model"]["name"] == name
            # One of two stages brings the weights in.
            brought = {"mini": ([name], []), "hub": ([], [name])}[composed["model"]["source"]]
            assert (composed["trained"], composed["downloaded"]) == brought

    def test_a_local_model_says_what_must_be_given(self, conf, caplog):
        for given, said in (
            ([], "text.path is not given; name the text file"),
            (["model.text.path=/t.txt"], "neither repo nor local is given; name a folder: SET="),
        ):
            words = [
                "--conf",
                str(conf),
                "--params",
                str(conf.parent / "x.yaml"),
                "--model",
                "local",
            ]
            assert compose.main([*words, *(["--set", *given] if given else [])]) == 1
            assert said in caplog.messages[-1]
            assert "Change conf/model/local.yaml" in caplog.messages[-1]

    def test_a_step_that_is_no_name_says_which_name_it_has(self, conf, caplog):
        words = ["--conf", str(conf), "--params", str(conf.parent / "x.yaml")]
        assert compose.main([*words, "--set", "model.checkpoints=[512]"]) == 1
        (said,) = caplog.messages
        assert "model.checkpoints.0 = 512: a state has a name; write step512." in said
        assert "\n" not in said

    def test_every_atlas_composes_and_bears_the_name_of_its_file(self, conf):
        names = sorted(path.stem for path in (conf / "atlas").glob("*.yaml"))
        assert {"demo", "published", "local"} <= set(names)
        for name in names:
            assert self._compose(conf, "--atlas", name)["atlas"]["name"] == name

    def test_a_change_that_was_not_composed_is_noticed_and_said(self, conf, caplog):
        self._compose(conf, "--atlas", "demo")
        text = (conf / "config.yaml").read_text(encoding="utf-8")
        assert "min_cells: 50" in text
        (conf / "config.yaml").write_text(text.replace("min_cells: 50", "min_cells: 60"))
        words = _words(conf.parent / "params.yaml", conf, conf.parent)
        assert study.main(words) == 1
        assert "params.yaml does not follow from" in caplog.text
        assert not (conf.parent / "cells.json").exists()
        # A bare composition takes the change in and keeps the atlas.
        assert self._compose(conf)["proportions"]["min_cells"] == 60
        assert study.main(words) == 0

    def test_a_bare_composition_keeps_the_atlas_that_was_chosen(self, conf):
        self._compose(conf, "--atlas", "local")
        assert self._compose(conf)["atlas"]["name"] == "local"

    def test_a_setting_of_one_run_survives_and_is_recorded(self, conf):
        changed = self._compose(conf, "--atlas", "demo", "--set", "contrast.confidence=0.9")
        assert changed["contrast"]["confidence"] == 0.9
        assert self._compose(conf)["contrast"]["confidence"] == 0.9
        assert study.main(_words(conf.parent / "params.yaml", conf, conf.parent)) == 0
        overrides = json.loads((conf.parent / "overrides.json").read_text(encoding="utf-8"))
        assert overrides == {"contrast.confidence": "0.9"}

    def test_maps_lists_and_short_keys_are_taken_as_people_write_them(self, conf):
        said = (
            "raw=a.csv constants.tissue=PBMC columns={animal: donor, condition: stim, cell_type: t}"
            " groups={reference: [ctrl, mock], compared: [stim]} contrast.confidence=0.9"
            " graphs.pbmc={cells: mine, raw: a.csv, tissue: PBMC} animal_pattern='d [0-9]+'"
        )
        made = self._compose(conf, "--atlas", "local", "--set", said)
        mine = made["atlas"]["cells"]["mine"]
        assert mine["raw"] == "a.csv"
        assert mine["constants"] == {"tissue": "PBMC"}
        # A map takes the place of the one in the file, whose other columns are not there.
        assert mine["columns"] == {"animal": "donor", "condition": "stim", "cell_type": "t"}
        assert mine["groups"] == {"reference": ["ctrl", "mock"], "compared": ["stim"]}
        assert mine["animal_pattern"] == "d [0-9]+"
        assert made["atlas"]["graphs"] == {
            "pbmc": {"cells": "mine", "raw": "a.csv", "tissue": "PBMC"}
        }
        assert made["contrast"]["confidence"] == 0.9

    def test_a_paper_on_one_system_keeps_what_one_run_set(self, conf):
        self._compose(conf, "--atlas", "local", "--set", "contrast.confidence=0.9")
        made = self._compose(conf, "--alone", "cells")
        assert made["alone"] == {"cells": ["cells"], "heads": []}
        assert made["contrast"]["confidence"] == 0.9
        assert made["atlas"]["name"] == "local"

    @pytest.mark.parametrize(
        ("said", "why"),
        [
            ("columns.animal", "'columns.animal' sets nothing; write KEY=VALUE"),
            ("columns={animal: x", "'columns={animal: x' has an open bracket or quote; close it"),
            ("colums.animal=x", "unknown key colums"),
            ("groups.reference=[]", "groups.reference"),
            ("cohort='two words'", "cohort = 'two words'"),
        ],
    )
    def test_a_word_that_sets_nothing_is_one_line(self, conf, caplog, said, why):
        options = ["--conf", str(conf), "--params", str(conf.parent / "params.yaml")]
        assert compose.main([*options, "--atlas", "local", "--set", said]) == 1
        assert why in caplog.text
        assert len(caplog.records) == 1

    def test_a_short_key_of_an_atlas_of_many_files_names_the_long_one(self, conf, caplog):
        options = ["--conf", str(conf), "--params", str(conf.parent / "params.yaml")]
        assert compose.main([*options, "--atlas", "demo", "--set", "constants.sex=male"]) == 1
        assert "write it in full: atlas.cells.tms-facs-marrow.constants.sex=male" in caplog.text

    def test_demo_inputs_carry_their_notices_and_real_ones_none(self, conf):
        self._compose(conf, "--atlas", "local", "--model", "pythia-mini")
        assert study.main(_words(conf.parent / "params.yaml", conf, conf.parent)) == 0
        cells, heads = (read(conf.parent / f"{name}.json") for name in ("cells", "heads"))
        assert (cells.simulated, cells.notice) == (False, "")
        assert heads.simulated
        assert joined(cells, heads).notice == heads.notice
        self._compose(conf, "--atlas", "demo")
        assert study.main(_words(conf.parent / "params.yaml", conf, conf.parent)) == 0
        both = joined(read(conf.parent / "cells.json"), heads)
        assert both.notice.startswith("Simulated demo data and demo model: cohorts that")

    def test_the_demo_states_what_each_arm_rests_on(self, conf):
        self._compose(conf, "--atlas", "demo")
        assert study.main(_words(conf.parent / "params.yaml", conf, conf.parent)) == 0
        cells = read(conf.parent / "cells.json")
        of = {
            ("tms", "facs", "Marrow"): "annotation",
            ("tms", "facs", "Lung"): "reconstructed",
            ("tms", "droplet", "Tongue"): "reconstructed",
            ("tms-simulated", "facs", "Lung"): "simulated",
            ("kimmel", "droplet", "Lung"): "simulated",
            ("rat", "droplet", "Marrow"): "simulated",
        }
        assert {arm: cells.evidence(*arm) for arm in of} == of
        table = pd.DataFrame(list(of), columns=["cohort", "platform", "tissue"])
        assert cells.evidence_of(table).tolist() == list(of.values())
        assert set(cells.real(table)["cohort"]) == {"tms"}
        simulated = table.iloc[3:]
        pd.testing.assert_frame_equal(cells.real(simulated), simulated)
        assert cells.about(list(of)[:3]).notice == ""
        assert cells.about(list(of)).notice == cells.notice != ""
        assert [arm.tissue for arm in cells.arms_of("tms", None, "Marrow")] == ["Marrow", "Marrow"]
        assert cells.arms_of("rat", None, "Lung") == []
        with pytest.raises(TableError, match="has no arm rat droplet Lung: the table is of other"):
            cells.evidence("rat", "droplet", "Lung")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["atlas.notice=null"], "some cells are simulated; give the notice"),
            (["atlas.cells.tms-facs.evidence=guessed"], "'reconstructed' or 'simulated'"),
        ],
    )
    def test_evidence_that_is_no_evidence_is_one_line(self, conf, words, said, caplog):
        words = ["--conf", str(conf), "--params", str(conf.parent / "params.yaml"), "--set", *words]
        assert compose.main(["--atlas", "demo", *words]) == 1
        assert said in caplog.text
        assert "\n" not in caplog.records[-1].getMessage()

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--atlas", "nope"], "Atlases: census, demo, local, published"),
            (["--set", "contrast.confidense=1"], "contrast.confidense"),
            (["--set", "+contrast.confidense=1"], "did you mean confidence?"),
            (["--model", "pythia"], "Could not find 'model/pythia'"),
        ],
    )
    def test_what_does_not_compose_is_one_line_and_writes_nothing(self, conf, words, said, caplog):
        params = conf.parent / "params.yaml"
        assert compose.main(["--conf", str(conf), "--params", str(params), *words]) == 1
        assert said in caplog.text
        assert "\n" not in caplog.records[-1].getMessage()
        assert not params.exists()
