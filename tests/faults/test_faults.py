"""Faults survived: the real pipeline, hurt in the ways that machines and people hurt one.

One run of the demo, on settings smaller still than those of the other tests, says what is right;
its copy lies in a folder with spaces and letters outside ASCII. Each test takes some outputs away,
hurts the run that makes them again, and lets a person run it again and do nothing else.

``make faults`` runs these.
"""

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from stages.base.files import PARTIAL
from tests.clones import FEW, call, copy_of, environment, must, stages_run

PROC = Path("/proc")
pytestmark = pytest.mark.skipif(
    not (PROC / "self/fd").exists(), reason="needs /proc to see what a stage is doing"
)

# Real in every respect; nothing here asks what the numbers are, only that they stay the same.
SMALLEST = f"""{FEW}
    cellmodel.train.steps=16 cellmodel.checkpoints=[step0,step16]
    model.train.steps=64 model.checkpoints=[step16,step64] model.train.save_every=8
    model.text.n_sequences=16 model.text.reference_sequences=16 metrics.rarefaction.draws=50
"""
EFFECTS = "data/interim/pythia-mini/effects/step64.parquet"
SHARDS = "data/scratch/pythia-mini/step64"
TRAINING = "data/scratch/training"
# What `make reproduce` runs.
DVC = "stages.base.repro"
REPRO = ("python", "-m", DVC)
TRAINED = "trained@pythia-mini"
MIB = 1 << 20
PATIENCE_S = 300


@dataclass(frozen=True)
class Study:
    """A copy of the repository in which all is made, and what its outputs are."""

    folder: Path
    locked: Mapping[str, Mapping[str, str]]
    """md5 by path, by stage."""

    def forget(self, *stages: str) -> None:
        """Take the outputs of stages away, here and in the cache, so that they are made again."""
        for name, md5 in (out for stage in stages for out in self.locked[stage].items()):
            _remove(self.folder / name)
            self.object(md5).unlink(missing_ok=True)

    def object(self, md5: str) -> Path:
        """Return where the cache keeps an output."""
        return self.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]

    def as_it_was(self) -> None:
        """Assert that every output is as it was first made, and that nothing was left lying."""
        assert _locked(self.folder) == self.locked
        left = [path for path in self.folder.rglob(f"*{PARTIAL}") if ".dvc" not in path.parts]
        assert left == []
        # Neither changed nor unknown to git: dvc.lock, params.yaml, the provenance, stray files.
        assert must(self.folder, "git", "status", "--porcelain") == ""

    def repairs(self, *stages: str) -> str:
        """Run again; assert that these stages run and all ends with the same outputs."""
        said = must(self.folder, *REPRO)
        assert set(stages) <= set(stages_run(said))
        self.as_it_was()
        return said


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _locked(folder: Path) -> dict[str, dict[str, str]]:
    text = (folder / "dvc.lock").read_text(encoding="utf-8")
    stages = yaml.load(text, Loader=yaml.CSafeLoader)["stages"]
    return {
        name: {out["path"]: out["md5"] for out in stage.get("outs", [])}
        for name, stage in stages.items()
    }


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture(scope="session")
def study(repository, tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("ein Ördner with spaces, 心") / "clone"
    if "PYTEST_XDIST_WORKER" in os.environ:
        # One worker makes it, the others wait for it; each hurts a copy of its own.
        made = tmp_path_factory.getbasetemp().parent / "made in Übersee"
        with (made.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                _make(repository, made.with_name("making in Übersee")).rename(made)
        shutil.copytree(made, folder, symlinks=True)
    else:
        _make(repository, folder)
    return Study(folder, _locked(folder))


def _make(repository: Path, folder: Path) -> Path:
    """Run the demo in a copy of the repository, and commit what comes of it."""
    copy_of(repository, folder)
    # All of it is made here; DVC reads what is left in seconds.
    (folder / "dvc.lock").unlink()
    must(folder, "make", "reproduce", "PYTHON=python3.11", f"SET={SMALLEST}")
    who = ["-c", "user.name=A Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=no"]
    must(folder, "git", "add", "--all")
    must(folder, "git", *who, "commit", "--quiet", "--message", "As it was made")
    return folder


@dataclass
class Repro:
    """A run as a person started it, in the foreground of a terminal of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stages(self, module: str = "stages.") -> list[int]:
        """Return the processes of the stages that it runs at this moment, one in each lane."""
        return [pid for pid, name in self._modules() if name.startswith(module) and name != DVC]

    def dvc(self) -> list[int]:
        """Return the processes of DVC: the one that was started, and one for each lane."""
        return [pid for pid, name in self._modules() if name == DVC]

    def _modules(self) -> Iterator[tuple[int, str]]:
        for path in PROC.iterdir():
            try:
                words = (path / "cmdline").read_bytes().decode().split("\0")
                # Not the shell in between, whose words are one.
                if "-m" in words and os.getpgid(int(path.name)) == self.process.pid:
                    module = words[words.index("-m") + 1]
                    if module == "stages.base.warm":
                        # What was forked from it goes by the first 15 letters of what it runs.
                        module = "stages." + (path / "comm").read_text(encoding="utf-8").strip()
                    yield int(path.name), module
            except (OSError, ValueError):
                # No process, or one that has just ended.
                continue

    def until(self, what: Callable[[], object]) -> None:
        """Wait until something is so while it runs."""
        deadline = time.monotonic() + PATIENCE_S
        while not what():
            assert self.process.poll() is None, f"it ended too early:\n{self.said[-3000:]}"
            assert time.monotonic() < deadline, f"nothing happened:\n{self.said[-3000:]}"
            time.sleep(0.005)

    def kill(self) -> None:
        """Kill DVC and its stage at once, as losing the machine does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        # A lost machine has none of them left; here they are there until someone reaps them.
        deadline = time.monotonic() + PATIENCE_S
        with suppress(ProcessLookupError):
            while True:
                os.killpg(self.process.pid, 0)
                assert time.monotonic() < deadline, "killed processes are still there"
                time.sleep(0.01)

    def ends_well(self) -> None:
        assert self.process.wait(timeout=PATIENCE_S) == 0, self.said[-3000:]


@pytest.fixture
def repro(study, tmp_path) -> Iterator[Callable[[], Repro]]:
    """Return a function that starts a run of the study and does not wait for it."""
    running: list[Repro] = []

    def start() -> Repro:
        log = tmp_path / f"repro-{len(running)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                REPRO,
                cwd=study.folder,
                env=environment(study.folder, {"TMPDIR": str(tmp_path)}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running.append(Repro(process, log))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.kill()


def _half_written(folder: Path, name: str) -> bool:
    """Return whether some of an output is on the disk and the output is not."""
    parts = folder.glob(f".{name}.*{PARTIAL}/**/*")
    return any(path.is_file() and path.stat().st_size for path in parts)


def _reads(pid: int, path: Path) -> bool:
    """Return whether a process has a file open."""
    try:
        return any(link.readlink() == path for link in (PROC / str(pid) / "fd").iterdir())
    except OSError:
        return False


class TestKilled:
    """``kill -9`` of DVC with its stage, and then another run."""

    @pytest.mark.parametrize(
        ("stage", "out"),
        [
            ("acquire@tms-facs", "data/raw/demo/tms-facs.h5ad"),
            ("neighbours@kimmel-kidney", "data/interim/demo/graphs/kimmel-kidney.h5ad"),
        ],
    )
    def test_while_it_simulates_or_makes_a_graph(self, study, repro, stage, out):
        path = study.folder / out
        study.forget(stage)
        run = repro()
        run.until(lambda: _half_written(path.parent, path.name))
        run.kill()
        assert not path.exists()
        assert _half_written(path.parent, path.name)
        study.repairs(stage)

    def test_while_it_clusters(self, study, repro):
        study.forget("granularity@curve")
        graph = study.folder / "data/interim/demo/graphs/simulated-facs-kidney.h5ad"
        run = repro()
        run.until(lambda: any(_reads(pid, graph.resolve()) for pid in run.stages()))
        run.kill()
        study.repairs("granularity@curve")

    def test_while_it_trains(self, study, repro):
        study.forget(TRAINED)
        run = repro()
        run.until(lambda: list((study.folder / TRAINING).glob("*/state.pt")))
        run.kill()
        (state,) = (study.folder / TRAINING).glob("*/state.pt")
        step = torch.load(state, weights_only=True)["step"]
        assert 0 < step < 64
        assert not (study.folder / "models/pythia-mini").exists()
        said = study.repairs(TRAINED)
        # The first that its progress shows: it went on where the saved state was.
        assert re.search(r"train pythia-mini:.*? (\d+)/64 ", said).group(1) == str(step)
        assert [path.name for path in (study.folder / TRAINING).iterdir()] == ["lock"]

    def test_while_it_sweeps(self, study, repro):
        shards = study.folder / SHARDS
        study.forget("ablate@step64")
        shutil.rmtree(shards)
        run = repro()
        run.until(lambda: len(list(shards.glob("*.npz"))) > 2)
        run.kill()
        done = {path: path.stat() for path in shards.glob("*.npz")}
        assert not (study.folder / EFFECTS).exists()
        said = study.repairs("ablate@step64")
        every = list(shards.glob("*.npz"))
        assert f"{len(done)} of {len(every)} shards were finished before" in said
        assert len(every) > len(done)
        for path, before in done.items():
            now = path.stat()
            assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    def test_while_it_renders(self, study, repro, tmp_path):
        study.forget("render")
        run = repro()
        run.until(lambda: list(tmp_path.glob("paper-*/project/paper.html")))
        run.kill()
        assert not (study.folder / "reports/_output/paper.pdf").exists()
        study.repairs("render")

    def test_dvc_alone_and_the_next_waits_for_the_stage_that_goes_on(self, study, repro):
        shards = study.folder / SHARDS
        study.forget("ablate@step64")
        shutil.rmtree(shards)
        run = repro()
        run.until(lambda: list(shards.glob("*.npz")))
        (orphan,) = run.stages("stages.heads.ablate")
        os.kill(orphan, signal.SIGSTOP)
        for pid in run.dvc():
            os.kill(pid, signal.SIGKILL)
        run.process.wait()
        try:
            second = repro()
            second.until(lambda: "another run works in" in second.said)
            assert not (study.folder / EFFECTS).exists()
        finally:
            os.kill(orphan, signal.SIGCONT)
        second.ends_well()
        assert "waiting for it to end" in second.said
        study.as_it_was()


class TestTwoAtOnce:
    """A second run says in one line that there is a first, which ends well."""

    def _refused(self, study: Study) -> str:
        second = call(study.folder, "make", "reproduce", "PYTHON=python3.11", f"SET={SMALLEST}")
        assert second.returncode != 0
        assert "Traceback" not in second.stdout
        assert stages_run(second.stdout) == []
        (line,) = re.findall(r"^ERROR: (.*)$", second.stdout, flags=re.MULTILINE)
        return line + second.stdout.partition(line)[2]

    def test_while_a_stage_runs(self, study, repro):
        study.forget(TRAINED)
        first = repro()
        first.until(lambda: list((study.folder / TRAINING).glob("*/step*")))
        # Stopped, so that it is sure to be at work while the second looks.
        (stage,) = first.stages("stages.inputs.mini")
        os.kill(stage, signal.SIGSTOP)
        try:
            said = self._refused(study)
        finally:
            os.kill(stage, signal.SIGCONT)
        assert re.search(r"^failed to reproduce .* is busy, it is being blocked by:$", said, re.M)
        assert {int(pid) for pid in re.findall(r"\(PID (\d+)\)", said)} <= set(first.dvc())
        first.ends_well()
        study.as_it_was()

    def test_while_dvc_looks_what_has_changed(self, study, repro):
        lock = (study.folder / ".dvc/tmp/lock").resolve()
        first = repro()
        first.until(lambda: _reads(first.process.pid, lock))
        os.kill(first.process.pid, signal.SIGSTOP)
        try:
            said = self._refused(study)
        finally:
            os.kill(first.process.pid, signal.SIGCONT)
        assert said.startswith("Unable to acquire lock. Most likely another DVC process is running")
        first.ends_well()
        study.as_it_was()


class TestDeleted:
    def test_a_table_and_a_figure_come_back_from_the_cache(self, study):
        must(study.folder, *REPRO)
        for name in ("reports/tables/contrast.csv", "reports/figures/fig_lorenz.png"):
            (study.folder / name).unlink()
        must(study.folder, *REPRO)
        wanted = study.locked["contrast"] | study.locked["lorenz"]
        assert {name: _md5(study.folder / name) for name in wanted} == wanted
        study.as_it_was()

    def test_with_their_objects_they_are_made_again(self, study):
        lost = study.locked["drivers"] | study.locked["direction_heatmap"]
        for name, md5 in lost.items():
            (study.folder / name).unlink()
            study.object(md5).unlink()
        study.repairs("drivers", "direction_heatmap")
        assert {name: _md5(study.folder / name) for name in lost} == lost


@contextmanager
def _small_disk(folder: Path, *, free_bytes: int, aside: Path) -> Iterator[Callable[[], None]]:
    """Put a nearly full disk in the place of a folder, with all that the folder held.

    Yields what makes room on it. Afterwards the folder is as it was on its own disk.
    """
    shutil.copytree(folder, aside)
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    words = ["mount", "-t", "tmpfs", "-o", f"size={held + 64 * MIB}", "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"only root may mount a small disk: {done.stderr.strip()}")
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        filler = folder / "filler"
        disk = os.statvfs(folder)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - free_bytes)
        yield filler.unlink
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _sizes(folder: Path) -> dict[str, int]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_size for path in paths}


class TestFullDisk:
    """A small disk in the place of a folder; as root only, who may mount one."""

    @pytest.mark.parametrize(
        ("stage", "where", "free_bytes"),
        [
            ("contrast", "reports/tables", 8192),
            ("direction_heatmap", "reports/figures", 32768),
            ("neighbours@kimmel-kidney", "data/interim/demo/graphs", 65536),
            # A saved state of 20 MB and most of a checkpoint of 7 MB.
            (TRAINED, TRAINING, 26 * MIB),
            ("ablate@step64", "data/scratch/pythia-mini", 16384),
            ("render", "reports/_output", 16384),
        ],
    )
    def test_one_clear_line_and_nothing_half_written(
        self, study, tmp_path, stage, where, free_bytes
    ):
        folder = study.folder / where
        study.forget(stage)
        if stage == "ablate@step64":
            shutil.rmtree(study.folder / SHARDS)
        with _small_disk(folder, free_bytes=free_bytes, aside=tmp_path / "aside") as make_room:
            before = _sizes(folder)
            done = call(study.folder, *REPRO)
            assert done.returncode != 0
            assert stages_run(done.stdout)[-1:] == [stage]
            assert "Traceback" not in done.stdout
            (line,) = re.findall(r"^error: .*$", done.stdout, flags=re.MULTILINE)
            assert "No space left on device" in line
            assert "ree disk space" in line
            now = _sizes(folder)
            assert not [name for name in now if PARTIAL in name]
            # What is finished of long work is kept. Else nothing came, and nothing went.
            assert before.items() <= now.items()
            assert now == before or where.startswith("data/scratch/")
            make_room()
            assert stages_run(must(study.folder, *REPRO)) == [stage]
            study.as_it_was()
        # On the disk of before, where the output is missing again.
        must(study.folder, *REPRO)
        study.as_it_was()

    def test_of_the_cache_and_the_next_run_completes(self, study, tmp_path):
        study.forget("acquire@kimmel-kidney")
        (md5,) = study.locked["acquire@kimmel-kidney"].values()
        cache = study.folder / ".dvc/cache"
        with _small_disk(cache, free_bytes=65536, aside=tmp_path / "aside") as make_room:
            done = call(study.folder, *REPRO)
            assert done.returncode != 0
            assert "Traceback" not in done.stdout
            assert "No space left on device" in done.stdout
            make_room()
            must(study.folder, *REPRO)
            study.as_it_was()
            assert _md5(study.object(md5)) == md5


# A cheap run through several rooms: a raw file in a gzip container, which holds a time; tables of
# numbers, a figure with its fonts, the numbers as text, the paper.
CHEAP = ("acquire@rat-marrow", "metrics", "contrast", "direction_heatmap", "manuscript", "render")


@pytest.fixture(scope="module")
def locales(tmp_path_factory) -> Path:
    """Return a folder with locales that write 1,5 and, in Turkish, a capital I with a dot."""
    folder = tmp_path_factory.mktemp("locales")
    for name in ("de_DE", "tr_TR"):
        command = ["localedef", "-i", name, "-f", "UTF-8", str(folder / f"{name}.UTF-8")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot make the locale {name} (Debian: apt-get install locales)")
    return folder


class TestElsewhere:
    """The same results under another clock, locale, order of hashing and path."""

    def _same(self, study: Study, **changed: str) -> None:
        study.forget(*CHEAP)
        said = must(study.folder, *REPRO, changed=changed)
        assert set(CHEAP) <= set(stages_run(said))
        study.as_it_was()

    def test_no_locale_and_the_first_time_zone(self, study):
        self._same(study, LC_ALL="C", TZ="Pacific/Kiritimati", PYTHONHASHSEED="1")

    def test_a_locale_of_decimal_commas_and_dotted_capitals(self, study, locales):
        number = subprocess.run(
            ["locale", "decimal_point"],
            env=environment(study.folder, {"LOCPATH": str(locales), "LC_ALL": "de_DE.UTF-8"}),
            capture_output=True,
            text=True,
            check=True,
        )
        assert number.stdout == ",\n"
        common = {"LOCPATH": str(locales), "LANGUAGE": "tr", "LC_NUMERIC": "de_DE.UTF-8"}
        changed = common | {"LANG": "tr_TR.UTF-8", "LC_ALL": "", "PYTHONHASHSEED": "2"}
        self._same(study, **changed)

    def test_a_clock_that_is_years_ahead(self, study):
        if shutil.which("faketime") is None:
            pytest.skip("faketime is not installed (Debian: apt-get install faketime)")
        study.forget(*CHEAP)
        said = must(study.folder, "faketime", "-f", "+1500d", *REPRO)
        assert set(CHEAP) <= set(stages_run(said))
        study.as_it_was()

    def test_a_plain_path(self, study, tmp_path):
        """All else ran under a path with spaces and letters outside ASCII."""
        assert " " in str(study.folder)
        assert not str(study.folder).isascii()
        plain = tmp_path / "plain"
        assert re.fullmatch(r"[\w/.-]+", str(plain), flags=re.ASCII)
        shutil.copytree(study.folder, plain, symlinks=True)
        self._same(Study(plain, study.locked))
