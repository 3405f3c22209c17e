"""Remotes for real: the store inside the repository, servers on loopback, and their faults."""

import hashlib
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from dvc.cli import main as dvc_main
from dvc.repo import Repo

NAME_OF_OBJECT = re.compile(r"[0-9a-f]{2}/[0-9a-f]{30}(\.dir)?")
# A study in little: an output that is rebuilt rather than pushed, a directory, and a table.
TABLE, NOTE = "gini,0.375\n", "Kidney crystallizes.\n"
GRAPH = """\
stages:
  heavy:
    cmd: printf 'counts' > cells.h5ad
    outs: [cells.h5ad: {push: false}]
  light:
    cmd: mkdir notes; printf 'Kidney crystallizes.\\n' > notes/kidney.md;
      printf 'Lung disperses.\\n' > notes/lung.md; printf 'gini,0.375\\n' > table.csv
    outs: [notes, table.csv]
"""
N_PUSHED = 4  # the table, two notes and the list of them


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _object(store: Path, content: str) -> Path:
    md5 = _md5(content.encode())
    return store / "files" / "md5" / md5[:2] / md5[2:]


def _objects(store: Path) -> list[Path]:
    return [path for path in store.rglob("*") if path.is_file()]


def _flip_a_byte(path: Path) -> None:
    """Change one byte and nothing else: as a disk does that fails."""
    mode = path.stat().st_mode
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(mode)


def _bytes_of(folder: Path) -> dict[str, bytes]:
    """Return all files of a clone but those that git and DVC keep for themselves."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path for path in files}
    hidden = (".git/", ".dvc/", "artifacts/")
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith(hidden)}


@pytest.fixture(scope="module")
def published(repository, must, tmp_path_factory):
    """Return a plain clone of this repository's last commit, after ``dvc pull``."""
    if not (repository / ".git").exists():
        pytest.skip("needs a git checkout: an archive has no commit to clone")
    folder = tmp_path_factory.mktemp("published") / "clone"
    must(repository, "git", "clone", "--quiet", str(repository), str(folder))
    must(folder, "dvc", "pull", "--allow-missing")
    return folder


@pytest.fixture(scope="module")
def outputs(published, alone):
    """Return what DVC tracks by hash in that clone, by path: (hash, whether it is pushed)."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR"):
            patch.setenv(name, alone[name])
        with Repo(str(published)) as repo:
            return {
                Path(out.fs_path).relative_to(published).as_posix(): (
                    out.hash_info.value,
                    out.can_push,
                )
                for out in repo.index.outs
                if out.use_cache
            }


@pytest.fixture(scope="module")
def study(repository, must, tmp_path_factory):
    """Return a small study with this repository's own DVC settings, run, pushed and committed."""
    folder = tmp_path_factory.mktemp("study") / "origin"
    (folder / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitattributes"):
        shutil.copy(repository / name, folder / name)
    (folder / "dvc.yaml").write_text(GRAPH, encoding="utf-8")
    (folder / ".gitignore").write_text("/cells.h5ad\n/notes\n/table.csv\n", encoding="utf-8")
    must(folder, "git", "init", "--quiet")
    must(folder, "dvc", "repro", "--quiet")
    must(folder, "dvc", "push", "--quiet")
    must(folder, "git", "add", "--all")
    who = ["-c", "user.name=A Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=no"]
    must(folder, "git", *who, "commit", "--quiet", "--message", "Study")
    return folder


@pytest.fixture
def here(study, tmp_path):
    """Return a copy of the small study with its cache and outputs, to push from."""
    return shutil.copytree(study, tmp_path / "here", symlinks=True)


@pytest.fixture
def there(must, tmp_path):
    """Return a function that makes a plain clone of a repository, with an empty cache."""

    def clone(origin: Path, name: str = "there") -> Path:
        must(tmp_path, "git", "clone", "--quiet", str(origin), name)
        return tmp_path / name

    return clone


def _fsck(call, repository, folder):
    """Run the check of objects and outputs of the tree under test in `folder`."""
    program = f"import sys; sys.path[0] = {str(repository)!r}; from stages.audit import fsck"
    return call(folder, sys.executable, "-c", f"{program}; sys.exit(fsck.main(['--outputs']))")


class TestStoreInside:
    def test_every_output_of_the_graph_was_computed_when_it_was_committed(self, outputs):
        without = [name for name, (oid, _) in outputs.items() if oid is None]
        assert not without, f"not in dvc.lock of the last commit: {without}. Commit it after a run."

    def test_a_plain_clone_gets_every_pushed_output_as_the_lock_has_it(self, published, outputs):
        pushed = {name: oid for name, (oid, is_pushed) in outputs.items() if is_pushed and oid}
        n_checked = 0
        for name, oid in pushed.items():
            path = published / name
            if oid.endswith(".dir"):
                listed = published / "artifacts/files/md5" / oid[:2] / oid[2:]
                entries = json.loads(listed.read_text(encoding="utf-8"))
                for entry in entries:
                    assert _md5((path / entry["relpath"]).read_bytes()) == entry["md5"], path
                assert len(entries) == sum(file.is_file() for file in path.rglob("*"))
            else:
                assert _md5(path.read_bytes()) == oid, name
            n_checked += 1
        assert n_checked > 50
        # What a reader comes for: the paper, the ledger, tables and figures.
        assert {"reports/_output/paper.html", "reports/_output/paper.pdf"} <= set(pushed)
        assert "reports/tables/claims.csv" in pushed
        assert any(name.startswith("reports/figures/") for name in pushed)
        # Another processor would train another model.
        assert "models/pythia-mini" in pushed

    def test_a_clone_does_not_train_the_model_again(self, published, must):
        said = must(published, "dvc", "repro", "--dry", "trained")
        assert "Stage 'trained@pythia-mini' didn't change, skipping" in said
        assert "Running stage" not in said

    def test_heavy_outputs_are_left_out(self, published, outputs):
        heavy = [name for name, (_, is_pushed) in outputs.items() if not is_pushed]
        assert any(name.startswith("data/raw/") for name in heavy)
        assert not [name for name in heavy if (published / name).is_file()]
        # An empty folder is what DVC leaves of a directory that it could not fetch.
        assert not [
            name for name in heavy if any(path.is_file() for path in (published / name).rglob("*"))
        ]

    def test_it_holds_nothing_else(self, published, outputs):
        store = published / "artifacts/files/md5"
        named = {path.relative_to(store).as_posix() for path in _objects(store)}
        assert not [name for name in named if not NAME_OF_OBJECT.fullmatch(name)]
        assert len(named) == len(_objects(published / "artifacts"))
        wanted = {oid for oid, is_pushed in outputs.values() if is_pushed and oid}
        for oid in [oid for oid in wanted if oid.endswith(".dir")]:
            listed = json.loads((store / oid[:2] / oid[2:]).read_text(encoding="utf-8"))
            wanted |= {entry["md5"] for entry in listed}
        # Anything more travels with every clone for nothing: dvc gc -w -c.
        assert {name.replace("/", "") for name in named} == wanted

    def test_every_remote_of_the_repository_verifies(self, published, must):
        settings = must(published, "dvc", "config", "--list", "--project").splitlines()
        urls = [line for line in settings if re.match(r"remote\..*\.url=", line)]
        verified = [line for line in settings if re.match(r"remote\..*\.verify=true", line)]
        assert len(urls) == len(verified) > 0

    def test_a_flipped_byte_is_noticed_and_git_restores_it(
        self, study, there, call, must, repository
    ):
        clone = there(study)
        broken = _object(clone / "artifacts", NOTE)
        _flip_a_byte(broken)
        # This is `make pull`: DVC takes the object for one that was never pushed.
        call(clone, "dvc", "pull", "--allow-missing")
        assert not (clone / "notes/kidney.md").exists()
        found = _fsck(call, repository, clone)
        assert found.returncode == 1
        assert "Traceback" not in found.stdout
        assert f"damaged: {broken.relative_to(clone)}" in found.stdout
        assert "Made from it: notes/kidney.md" in found.stdout

        must(clone, "git", "checkout", "--quiet", "artifacts")
        must(clone, "dvc", "pull", "--allow-missing")
        assert (clone / "notes/kidney.md").read_text(encoding="utf-8") == NOTE
        found = _fsck(call, repository, clone)
        assert found.returncode == 0, found.stdout
        assert "2 pushed outputs are here as dvc.lock has them" in found.stdout


class TestCache:
    def test_a_flipped_byte_is_noticed_and_a_pull_brings_it_back(
        self, here, call, must, repository
    ):
        broken = _object(here / ".dvc/cache", NOTE)
        _flip_a_byte(broken)
        (here / "notes/kidney.md").unlink()
        must(here, "dvc", "checkout", "notes")
        found = _fsck(call, repository, here)
        assert found.returncode == 1
        assert f"damaged: {broken.relative_to(here)}" in found.stdout
        assert "Made from it: notes/kidney.md" in found.stdout
        assert "1 of 9 objects are damaged" in found.stdout

        broken.unlink()
        (here / "notes/kidney.md").unlink()
        must(here, "dvc", "pull", "light")
        assert (here / "notes/kidney.md").read_text(encoding="utf-8") == NOTE
        assert _fsck(call, repository, here).returncode == 0

    def test_a_flipped_byte_of_an_output_is_noticed(self, here, call, repository):
        _flip_a_byte(here / "notes/lung.md")
        found = _fsck(call, repository, here)
        assert found.returncode == 1
        assert re.search(r"not as in dvc\.lock: notes \(md5 [0-9a-f]{32}\.dir\)", found.stdout)
        assert "1 of 2 pushed outputs" in found.stdout

    def test_a_damaged_list_of_a_directory_is_one_line(self, here, call, repository):
        (listed,) = (here / ".dvc/cache/files/md5").glob("*/*.dir")
        _flip_a_byte(listed)
        found = _fsck(call, repository, here)
        assert found.returncode == 1
        assert "Traceback" not in found.stdout
        assert f"damaged: {listed.relative_to(here)}" in found.stdout
        assert "Made from it: notes\n" in found.stdout

    def test_nothing_to_check_is_no_success(self, study, there, call, repository):
        clone = there(study)
        shutil.rmtree(clone / "artifacts")
        found = _fsck(call, repository, clone)
        assert found.returncode == 1
        assert "nothing was checked. Run dvc pull first." in found.stdout


def _use(folder, url, **options):
    """Make a remote as docs/remotes.md does, all of it in the file that git does not track."""
    options = {"url": url, "verify": "true"} | {name: str(v) for name, v in options.items()}
    lines = ["['remote \"box\"']", *(f"    {name} = {value}" for name, value in options.items())]
    (folder / ".dvc/config.local").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _not_pulled(call, folder, *said):
    """Assert that a pull of outputs that are pushed fails, says so, and writes none of them."""
    done = call(folder, "dvc", "pull", "--remote", "box", "light")
    assert done.returncode != 0
    assert "ERROR: " in done.stdout
    assert "Traceback" not in done.stdout
    for words in said:
        assert words in done.stdout
    return done.stdout


class TestSsh:
    def test_the_whole_study_comes_back_the_same(self, published, ssh_server, there, must):
        _use(published, ssh_server.url, keyfile=ssh_server.key)
        must(published, "dvc", "push", "--remote", "box")
        stored = sorted(path.name for path in _objects(ssh_server.store))
        assert stored == sorted(path.name for path in _objects(published / "artifacts"))
        clone = there(published)
        _use(clone, ssh_server.url, keyfile=ssh_server.key)
        must(clone, "dvc", "pull", "--remote", "box", "--allow-missing")
        assert _bytes_of(clone) == _bytes_of(published)

    def test_an_unknown_key_is_refused(self, here, ssh_server, there, must, call):
        _use(here, ssh_server.url, keyfile=ssh_server.key)
        must(here, "dvc", "push", "--remote", "box")
        assert len(_objects(ssh_server.store)) == N_PUSHED
        clone = there(here)
        before = _bytes_of(clone)
        _use(clone, ssh_server.url, keyfile=ssh_server.unknown_key)
        _not_pulled(call, clone, "Permission denied")
        assert _bytes_of(clone) == before
        assert not _objects(clone / ".dvc/cache")

    def test_a_flipped_byte_is_not_let_in(self, here, ssh_server, there, must, call):
        _use(here, ssh_server.url, keyfile=ssh_server.key)
        must(here, "dvc", "push", "--remote", "box")
        _flip_a_byte(_object(ssh_server.store, TABLE))
        clone = there(here)
        _use(clone, ssh_server.url, keyfile=ssh_server.key)
        _not_pulled(call, clone, "table.csv")
        assert not (clone / "table.csv").exists()
        assert not _object(clone / ".dvc/cache", TABLE).exists()
        # The rest is whole and comes.
        assert (clone / "notes/kidney.md").read_text(encoding="utf-8") == NOTE


class TestWeb:
    def _use(self, folder, server, **changed):
        account = {"user": server.user, "password": server.password} | changed
        _use(folder, f"http://{server.address}/store", method="PUT", auth="basic", **account)

    def test_what_was_put_is_read_without_an_account(self, here, web_server, there, must):
        self._use(here, web_server)
        must(here, "dvc", "push", "--remote", "box")
        assert len(_objects(web_server.store)) == N_PUSHED
        # As a reader has it: a plain clone, and the address of a static file server.
        clone = there(here)
        _use(clone, f"http://{web_server.address}/public")
        must(clone, "dvc", "pull", "--remote", "box", "light")
        assert (clone / "table.csv").read_text(encoding="utf-8") == TABLE
        assert (clone / "notes/kidney.md").read_text(encoding="utf-8") == NOTE

    def test_the_store_inside_can_be_served_as_it_is(self, published, web_server, there, must):
        web_server.store.rmdir()
        shutil.copytree(published / "artifacts", web_server.store)
        clone = there(published)
        _use(clone, f"http://{web_server.address}/public")
        must(clone, "dvc", "pull", "--remote", "box", "--allow-missing")
        assert _bytes_of(clone) == _bytes_of(published)

    def test_a_wrong_password_is_refused_both_ways(self, here, web_server, there, must, call):
        self._use(here, web_server, password="a guess")
        done = call(here, "dvc", "push", "--remote", "box")
        assert done.returncode != 0
        assert "Unauthorized" in done.stdout
        assert not _objects(web_server.store)

        self._use(here, web_server)
        must(here, "dvc", "push", "--remote", "box")
        clone = there(here)
        before = _bytes_of(clone)
        self._use(clone, web_server, password="a guess")
        _not_pulled(call, clone, "table.csv", "notes")
        assert _bytes_of(clone) == before

    def test_a_flipped_byte_is_not_let_in(self, here, web_server, there, must, call):
        self._use(here, web_server)
        must(here, "dvc", "push", "--remote", "box")
        _flip_a_byte(_object(web_server.store, TABLE))
        clone = there(here)
        self._use(clone, web_server)
        _not_pulled(call, clone, "table.csv")
        assert not (clone / "table.csv").exists()
        assert not _object(clone / ".dvc/cache", TABLE).exists()
        assert (clone / "notes/kidney.md").read_text(encoding="utf-8") == NOTE


class TestWebdav:
    def test_round_trip_and_flipped_byte(self, here, web_server, there, must, call):
        if not web_server.speaks_webdav:
            pytest.skip("nginx lacks PROPFIND (Debian: apt-get install libnginx-mod-http-dav-ext)")
        url = f"webdav://{web_server.address}/dav"
        account = {"user": web_server.user, "password": web_server.password}
        _use(here, url, **account)
        must(here, "dvc", "push", "--remote", "box")
        store = web_server.root / "dav"
        assert len(_objects(store)) == N_PUSHED
        clone, other = there(here), there(here, "other")
        _use(clone, url, **account)
        must(clone, "dvc", "pull", "--remote", "box", "light")
        assert (clone / "table.csv").read_text(encoding="utf-8") == TABLE
        assert (clone / "notes/kidney.md").read_text(encoding="utf-8") == NOTE

        _flip_a_byte(_object(store, TABLE))
        _use(other, url, **account)
        _not_pulled(call, other, "table.csv")
        assert not (other / "table.csv").exists()


class TestManual:
    def test_its_commands_make_remotes_that_verify_and_keep_secrets_out_of_git(
        self, repository, study, there, alone, must, monkeypatch
    ):
        """Every ``dvc remote`` and ``dvc config`` line of docs/remotes.md, as a person types it."""
        clone = there(study)
        monkeypatch.chdir(clone)
        for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
            monkeypatch.setenv(name, alone[name])
        manual = (repository / "docs/remotes.md").read_text(encoding="utf-8")
        lines = [line for line in manual.splitlines() if line.startswith("dvc remote ")]
        for line in lines:
            words = shlex.split(line, comments=True)
            assert dvc_main(words[1:]) == 0, line
        shared = must(clone, "dvc", "config", "--list", "--project")
        added = re.findall(r"^dvc remote add (?:-d )?(\S+)", manual, flags=re.MULTILINE)
        assert {"ssh", "http", "webdav", "s3", "folder"} <= set(added)
        for name in added:
            assert re.search(rf"^remote\.{name}\.verify=true$", shared, flags=re.MULTILINE), name
        for secret in ("password", "keyfile", "secret_access_key", "user="):
            assert secret not in shared
        ours = must(clone, "dvc", "config", "--list", "--local")
        assert "password" in ours
        assert "config.local" not in must(clone, "git", "status", "--short", "--untracked=all")
