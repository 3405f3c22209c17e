"""Tutorials are tried word for word: files are written, commands run, in an empty folder.

A block of Python bears in its first line the name of its file. In a block of console, each line
that begins with ``$`` is a command, and the lines below it are what it must say, in this order;
more may stand between them.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clones import copy_of

BLOCKS = re.compile(r"^```(python|console)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def follow(page: Path, folder: Path, study: Path) -> int:
    """Do what a page says in a folder; return how many promised lines were found.

    Parameters
    ----------
    study
        What the page calls a clone.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_", "PYTHON"))}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    kept |= {"PYTHONPATH": str(study), "STUDY": str(study)}
    n_found = 0
    for language, text in BLOCKS.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            name = text.partition("\n")[0].removeprefix("# ")
            (folder / name).write_text(text, encoding="utf-8")
            continue
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, *promised = part.replace("\\\n", "").splitlines()
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=folder,
                env=kept,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}"
            said = iter(done.stdout.splitlines())
            for line in promised:
                assert any(line.rstrip() == other.rstrip() for other in said), (
                    f"{command} does not say {line!r}:\n{done.stdout[-3000:]}"
                )
                n_found += 1
    return n_found


@pytest.fixture(scope="module")
def study(repository, tmp_path_factory):
    """Return a clone after `make setup`, which both tutorials may use."""
    return copy_of(repository, tmp_path_factory.mktemp("study") / "clone")


@pytest.mark.parametrize(("name", "n_promised"), [("your_cells", 12), ("your_checkpoint", 5)])
def test_data_of_ones_own(name, n_promised, repository, study, tmp_path):
    page = repository / "docs" / "tutorials" / f"{name}.md"
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 100
    assert follow(page, tmp_path, study) == n_promised


def test_a_new_kind_of_component(repository, tmp_path):
    page = repository / "docs" / "tutorials" / "new_component.md"
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 90
    assert follow(page, tmp_path, repository) == 7
