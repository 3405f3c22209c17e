"""Hold dvc.yaml and the rooms to their rules: complete dependencies, one direction, one name."""

import ast
import itertools
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from stages.report import reading

REPOSITORY = Path(__file__).parents[2]


def _read(name: str) -> dict:
    return yaml.load((REPOSITORY / name).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)


GRAPH, PARAMS = _read("dvc.yaml")["stages"], _read("params.yaml")
STAGES = {name: stage.get("do", stage) for name, stage in GRAPH.items()}

# Decides no result: how a command line is read, an error is said, a table is checked, a file is
# moved into place, where it is run. Nor do classes of settings: their values stand under params.
PLUMBING = {"base", "compute"}
# A room may import from itself and from rooms before it.
ROOMS = [
    "base",
    "measurement",
    "models",
    "compute",
    "drawing",
    "inputs",
    "representations",
    "cells",
    "heads",
    "pairs",
    "spectra",
    "features",
    "operators",
    "plane",
    "report",
    "audit",
]
# No system imports another: what they share lies before them, what joins them after.
SYSTEMS = {"cells", "heads", "pairs", "spectra", "features", "operators"}
# The atlas decides which package brings the raw files in, the model which stage brings the weights.
SOURCES = {"${atlas.source}": ["demo", "published"]}
WEIGHTS = {"trained": "mini", "downloaded": "hub", "cell_trained": "cell_mini"}
WEIGHTS |= {"cell_downloaded": "cell_hub"}
# Of stages that have another name.
MODULES = WEIGHTS | {
    "cells_alone": "manuscript",
    "heads_alone": "manuscript",
    "cell_seeds": "seeds",
    "cell_pairs": "pairs",
    "cell_epistasis": "epistasis",
    "cell_items": "items",
    "cell_spectrum": "spectrum",
    "cell_separation": "separation",
}


def _module_file(module: str) -> Path | None:
    path = REPOSITORY / Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__main__.py", path / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


@cache
def _imports(file: Path) -> frozenset[str]:
    """Name the modules of this project that a file imports itself."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if _module_file(inner) else node.module)
    return frozenset(name for name in found if name.startswith("stages.") and _module_file(name))


def _needed(module: str) -> set[Path]:
    """Return the files of `module` and all it imports, but for the plumbing."""
    todo, files = [module], set()
    while todo:
        file = _module_file(todo.pop())
        if file is None or file in files:
            continue
        files.add(file)
        todo += [name for name in _imports(file) if not _is_plumbing(name)]
    return files


def _is_plumbing(module: str) -> bool:
    return module.split(".")[1] in PLUMBING or module.endswith(".settings")


def _modules(stage: dict) -> list[str]:
    words = stage["cmd"].split()
    modules = [module for option, module in itertools.pairwise(words) if option == "-m"]
    for variable, values in SOURCES.items():
        if variable in modules[0]:
            return [modules[0].replace(variable, value) for value in values]
    return modules


def _deps(stage: dict, module: str) -> list[Path]:
    source = module.rsplit(".", maxsplit=1)[-1]
    deps = [str(dep) for dep in stage["deps"]]
    for variable in SOURCES:
        deps = [dep.replace(variable, source) for dep in deps]
    return [REPOSITORY / dep for dep in deps]


@pytest.mark.parametrize("name", STAGES)
def test_stage_says_what_it_does_and_names_its_module(name):
    stage = STAGES[name]
    assert stage["desc"].endswith(".")
    if not any(variable in stage["cmd"] for variable in SOURCES):
        assert _modules(stage)[0].rsplit(".", maxsplit=1)[-1] == MODULES.get(name, name)


@pytest.mark.parametrize("name", [name for name in STAGES if name != "study"])
def test_stage_depends_on_every_module_that_decides_its_result(name):
    stage = STAGES[name]
    n_checked = 0
    for module in _modules(stage):
        deps = _deps(stage, module)
        for file in _needed(module):
            covered = any(file == dep or dep in file.parents for dep in deps)
            assert covered, (
                f"{name} runs {file.relative_to(REPOSITORY)}, which is not among its deps"
            )
            n_checked += 1
    assert n_checked > 0


@pytest.mark.parametrize("name", STAGES)
def test_named_dependencies_of_code_exist(name):
    for dep in STAGES[name]["deps"]:
        if str(dep).startswith("stages/") and "${" not in str(dep):
            assert (REPOSITORY / dep).exists(), f"{name} depends on {dep}, which does not exist"


def test_a_new_file_of_a_room_runs_no_stage_again():
    """A table, a metric or a figure that is added is a dependency of nothing but its own stage.

    Whole folders are named only where everything in them decides the same: what a source of raw
    files consists of, which layouts a table of cells may have, what a page is rendered with, and
    the templates of the text.
    """
    packages = itertools.chain(*SOURCES.values(), WEIGHTS.values())
    whole = {"stages/inputs/" + package for package in packages}
    whole |= {"stages/inputs/formats", "stages/inputs/haematopoiesis"}
    whole |= {"stages/report/filters", "stages/report/assets", "stages/report/templates"}
    n_checked = 0
    for name, stage in STAGES.items():
        for module in _modules(stage):
            for dep in _deps(stage, module):
                path = dep.relative_to(REPOSITORY).as_posix()
                if path.startswith("stages/") and "${" not in path:
                    assert dep.is_file() or path in whole, f"{name} depends on all of {path}"
                    n_checked += 1
    assert n_checked > 100


def test_no_room_imports_from_a_later_one():
    n_checked = 0
    for file in sorted((REPOSITORY / "stages").rglob("*.py")):
        room = file.relative_to(REPOSITORY / "stages").parts[0]
        if room == "__init__.py":
            assert not _imports(file)
            continue
        for name in _imports(file):
            other = name.split(".")[1]
            assert ROOMS.index(other) <= ROOMS.index(room), f"{file} imports {name}"
            assert other == room or not {room, other} <= SYSTEMS, f"{file} imports {name}"
            n_checked += 1
    assert n_checked > 100


def test_settings_sections_are_named_by_stages():
    sections = set(yaml.safe_load((REPOSITORY / "conf" / "config.yaml").read_text())) - {
        "defaults",
        "conf_digest",
    }
    # What `ablate` does over all checkpoints is a sweep; its settings go by that name. How clusters
    # are made and measured is one thing for all stages of the room.
    # What is measured, and of which systems, are two sections of one stage.
    # Papers on one system alone are for whoever asks for them. Several stages read gene sets, and
    # further trainings are no stage; what a person gave is watched by several.
    named = {"sweep", "leiden", "clusters", "systems", "alone", "gene_sets", "room_seeds", "given"}
    assert sections - named <= set(STAGES)


def _keys(stage: dict) -> list[str]:
    """Return what a stage is repeated for; once, under no name, if it is not."""
    if "foreach" not in stage:
        return [""]
    section = PARAMS
    for name in stage["foreach"].strip("${}").split("."):
        section = section[name]
    return list(section)


def test_the_text_depends_on_every_setting_that_it_reads():
    report = REPOSITORY / "stages" / "report"
    manuscript = [REPOSITORY / dep for dep in STAGES["manuscript"]["deps"] if ".py" in str(dep)]
    files = [*report.rglob("*.j2"), *(path for path in manuscript if report in path.parents)]
    texts = [path.read_text(encoding="utf-8") for path in files]
    read = {name for text in texts for name in re.findall(r"(?<![.\w])settings\.(\w+)", text)}
    assert len(read) > 10
    assert read == set(STAGES["manuscript"]["params"])


def test_the_text_depends_on_every_table_that_it_reads():
    report = REPOSITORY / "stages" / "report"
    modules = [REPOSITORY / dep for dep in STAGES["manuscript"]["deps"] if ".py" in str(dep)]
    code = "".join(path.read_text(encoding="utf-8") for path in modules if report in path.parents)
    named = {name for name in re.findall(r"found\.(\w+)", code) if name in reading.SCHEMAS}
    # What a loop asks for by name, and what two functions take.
    named |= {"head_change", "head_trajectory"}
    files = {f"reports/tables/{reading.FILES.get(name, f'{name}.csv')}" for name in named}
    files = {
        name.replace("reports/tables/planted.csv", "data/interim/planted.csv") for name in files
    }
    # Of these, which there are depends on the models that the settings name.
    folders = {"measured": "reports/tables/measured", "changes": "reports/tables/changes"}
    folders |= {"cell_model": "${cellmodel.tables}", "features": "${features.tables}"}
    files = {folders.get(Path(name).parent.name, name) for name in files}
    deps = {dep for dep in map(str, STAGES["manuscript"]["deps"]) if "tables" in dep}
    deps = {dep for dep in deps if not dep.startswith("stages/")} | {"data/interim/planted.csv"}
    assert files == deps


def test_the_paper_lists_every_table_that_comes_with_it():
    outs = {
        Path(str(out if isinstance(out, str) else next(iter(out))).replace("${key}", key))
        for name, stage in STAGES.items()
        for out in stage.get("outs", [])
        for key in _keys(GRAPH[name])
    }
    tables = [out.relative_to("reports/tables") for out in outs if "tables" in out.parts]
    written = {Path(out.parts[0]).stem for out in tables}
    sections = REPOSITORY / "stages" / "report" / "templates" / "sections"
    paper = (sections / "tables.md.j2").read_text(encoding="utf-8")
    listed = paper.partition("| Table |")[2].partition("{#tbl-tables}")[0]
    first_column = [row.split("|")[1] for row in listed.splitlines() if row.startswith("| ")]
    named = [name for cell in first_column for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted(written)
