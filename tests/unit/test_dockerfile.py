"""The Dockerfile: what keeps it pinned, buildable by older builders, and free of secrets."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml

from tools import check_image

SHA256 = re.compile(r"[0-9a-f]{64}")


@pytest.fixture(scope="module")
def text(repository):
    return (repository / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def instructions(text):
    """Return (keyword, rest) of each instruction, continued lines joined and comments dropped."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    words = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(keyword.upper(), rest) for keyword, rest in words]


def _of(keyword, instructions):
    return [rest for name, rest in instructions if name == keyword]


def test_builders_without_buildkit_understand_it(text, instructions):
    # Those of Debian 12: buildah 1.28 and podman 4.3.
    assert not re.search(r"^#\s*(syntax|check|escape)\s*=", text, re.MULTILINE | re.IGNORECASE)
    assert not any("<<" in rest for _, rest in instructions)
    assert not any(
        re.search(r"(^|\s)--(link|checksum|parents)\b", rest) for _, rest in instructions
    )
    assert not any(rest.startswith("--") for rest in _of("RUN", instructions))
    # The OCI format does not know these, and buildah leaves them out with a warning.
    assert not {"SHELL", "HEALTHCHECK", "ONBUILD"} & {keyword for keyword, _ in instructions}


def test_what_comes_from_elsewhere_is_pinned_by_its_content(instructions):
    arguments = dict(rest.split("=", 1) for rest in _of("ARG", instructions))
    froms = [rest.split() for rest in _of("FROM", instructions)]
    stages = {words[2] for words in froms if len(words) == 3}
    assert {words[0] for words in froms} - stages == {"${BASE}"}
    image, _, digest = arguments["BASE"].partition("@sha256:")
    assert re.search(r"python:3\.11\.\d+-slim-bookworm$", image)
    assert SHA256.fullmatch(digest)
    sums = [value for name, value in arguments.items() if "SHA256" in name]
    assert len(sums) == 2
    assert all(SHA256.fullmatch(value) for value in sums)
    # Whatever is downloaded is compared with its checksum in the same breath.
    loading = [
        run for run in _of("RUN", instructions) if re.search(r"\b(curl|wget)\b.*https?", run)
    ]
    loading += [run for run in _of("RUN", instructions) if "curl --" in run]
    assert loading
    assert all("sha256sum --check" in run for run in loading)
    assert "ADD" not in dict(instructions)


def test_packages_come_from_the_pinned_requirements_alone(repository, instructions):
    installs = [run for run in _of("RUN", instructions) if "pip install" in run]
    assert len(installs) == 3
    for run in installs:
        assert run.count("pip install") == run.count("--requirement")
        assert not re.search(r"==\d", run)
    # The targets differ in this one line, which they take out and put in again by its name.
    pins = (repository / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("torch==") for line in pins) == 1


def test_the_context_holds_what_is_copied_and_nothing_else(repository, instructions):
    ignored = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    copies = [rest.split() for rest in _of("COPY", instructions)]
    named = {name for words in copies if not words[0].startswith("--from") for name in words[:-1]}
    assert {rule.removeprefix("!") for rule in rules[1:]} == named
    assert all((repository / name).is_file() for name in named)


def test_every_target_ends_as_an_ordinary_user(instructions):
    users: dict[str, str] = {"${BASE}": "root"}
    stage = ""
    for keyword, rest in instructions:
        if keyword == "FROM":
            words = rest.split()
            stage = words[2] if len(words) == 3 else "default"
            users[stage] = users[words[0]]
        elif keyword == "USER":
            users[stage] = rest
    assert users["cpu"] == users["cuda"] == users["default"] == "${USER_UID}:${USER_GID}"
    assert _of("FROM", instructions)[-1] == "cpu"


@pytest.mark.parametrize(
    ("user", "group", "said"),
    [
        ("501", "20", ""),
        ("", "1000", "USER_UID='' is not the number of an ordinary user"),
        ("me", "1000", "USER_UID='me' is not"),
        ("00", "1000", "USER_UID='00' is not"),
        ("0", "1000", "USER_UID='0' is not"),
        ("1000", "", "USER_GID='' is not the number of a group"),
        ("1000", "staff", "USER_GID='staff' is not"),
    ],
)
def test_a_user_that_is_no_ordinary_one_is_refused_in_one_line(instructions, user, group, said):
    (run,) = [run for run in _of("RUN", instructions) if "USER_UID=" in run]
    checks = run.partition("&& groupadd")[0]
    done = subprocess.run(
        ["sh", "-c", checks + "&& true"],
        env={"USER_UID": user, "USER_GID": group, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (1 if said else 0)
    assert done.stderr.startswith(f"error: {said}" if said else "")
    assert done.stderr.count("\n") == (1 if said else 0)


def _enter(instructions, folder, *words):
    """Run a command as the image's entry point does, as somebody who is not root."""
    (entry,) = _of("ENTRYPOINT", instructions)
    ordinary = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
    return subprocess.run(
        [*json.loads(entry), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        **ordinary,
    )


def test_a_tree_that_cannot_be_written_is_one_line(instructions, tmp_path):
    # pytest's own folder is closed to others.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        assert _enter(instructions, folder, "echo", "a b", "c").stdout == "a b c\n"
        (folder / ".dvc").mkdir(mode=0o555)
        done = _enter(instructions, folder, "echo", "a")
    assert (done.returncode, done.stdout) == (1, "")
    owner = os.getuid()
    assert done.stderr.startswith(f"error: {folder} belongs to user {owner} and this is user ")
    assert done.stderr.endswith(f"run with --user {owner}:{os.getgid()}\n")
    assert done.stderr.count("\n") == 1


def test_the_image_is_built_for_whatever_it_is_made_of(repository, instructions):
    text = (repository / ".github" / "workflows" / "image.yml").read_text(encoding="utf-8")
    # PyYAML reads the key `on` as true.
    workflow = yaml.safe_load(text)
    copies = [rest.split() for rest in _of("COPY", instructions)]
    copied = {name for words in copies if not words[0].startswith("--from") for name in words[:-1]}
    made_of = {".dockerignore", ".github/workflows/image.yml", "Dockerfile", "Makefile"}
    assert set(workflow[True]["pull_request"]["paths"]) == made_of | copied
    (job,) = workflow["jobs"].values()
    assert job["strategy"]["matrix"]["target"] == ["cpu", "cuda"]


def test_the_image_says_what_it_is(instructions):
    labels = " ".join(_of("LABEL", instructions))
    for name in ("title", "description", "licenses"):
        assert f'org.opencontainers.image.{name}="' in labels


def _setup(folder, venv):
    return subprocess.run(
        ["make", "setup", f"VENV={venv}"], cwd=folder, capture_output=True, text=True, check=False
    )


def test_make_takes_the_environment_of_an_image_as_it_is_or_says_that_it_is_stale(
    repository, tmp_path
):
    shutil.copy2(repository / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    pins, venv = tmp_path / "requirements.txt", tmp_path / "opt" / "venv"
    venv.mkdir(parents=True)
    (venv / "requirements.txt").write_text("numpy==2.4.6\n")
    # Newer than the environment, as each checkout is, but the same.
    pins.write_text("numpy==2.4.6\n")
    assert _setup(tmp_path, venv).returncode == 0
    pins.write_text("numpy==2.4.7\n")
    done = _setup(tmp_path, venv)
    assert done.returncode != 0
    assert f"error: {venv} was not made from this requirements.txt" in done.stderr
    assert [path.name for path in venv.iterdir()] == ["requirements.txt"]
    assert not (tmp_path / ".venv").exists()


def test_the_check_of_an_image_knows_what_the_project_needs(repository):
    needs = check_image.direct_needs(repository / "pyproject.toml")
    assert {"numpy", "torch", "huggingface-hub", "pypandoc-binary"} <= set(needs)
    assert "pytest" not in needs


def test_the_check_of_an_image_names_what_is_missing_or_does_not_load(tmp_path, monkeypatch):
    info = tmp_path / "broken_thing-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken.thing\nVersion: 1\n")
    (info / "top_level.txt").write_text("broken_thing\n")
    (tmp_path / "broken_thing.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert check_image.faults(["pyyaml", "broken-thing", "no-such-package"]) == [
        "no-such-package is not installed",
        "broken_thing does not load: No module named 'no_such_library'",
    ]


@pytest.mark.parametrize("asked", ["cpu", "cuda"])
def test_the_check_of_an_image_tells_the_builds_of_torch_apart(
    asked, repository, tmp_path, monkeypatch, capsys
):
    import torch

    file = tmp_path / "pyproject.toml"
    file.write_text("[project]\ndependencies = ['torch>=2']\n")
    monkeypatch.setattr(check_image, "PYPROJECT", file)
    monkeypatch.setenv("PATH", str(tmp_path))
    built_for = "cpu" if torch.version.cuda is None else "cuda"
    assert check_image.main(["--torch", asked]) == int(asked != built_for)
    said = capsys.readouterr().out
    assert "no Quarto" in said
    assert (f"is the {built_for} build, not {asked}" in said) == (asked != built_for)
