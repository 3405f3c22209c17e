"""What tests of remotes share: real servers on loopback, and DVC apart from its user's settings."""

import getpass
import grp
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SERVER_FOLDERS = os.pathsep.join(["/usr/sbin", "/usr/local/sbin", os.environ["PATH"]])
# Compiled into sshd, which a start as root wants to find.
PRIVILEGE_SEPARATION = Path("/run/sshd")
USER, PASSWORD = "study", "a secret"  # the one account of the web server, on loopback only

SSHD = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
ForceCommand internal-sftp
"""
NGINX = """\
{modules}
{user}
daemon off;
pid pid;
error_log stderr info;
events {{}}
http {{
  access_log /dev/stdout;
  client_body_temp_path temporary/body;
  proxy_temp_path temporary/proxy;
  fastcgi_temp_path temporary/fastcgi;
  uwsgi_temp_path temporary/uwsgi;
  scgi_temp_path temporary/scgi;
  client_max_body_size 0;
  server {{
    listen 127.0.0.1:{port};
    root {root};
    location /public/ {{ alias {root}/store/; }}
    location /store/ {{
      auth_basic study;
      auth_basic_user_file accounts;
      dav_methods PUT DELETE;
      create_full_put_path on;
    }}
    {webdav}
  }}
}}
"""
WEBDAV = """\
location /dav/ {
      auth_basic study;
      auth_basic_user_file accounts;
      dav_methods PUT DELETE MKCOL MOVE COPY;
      dav_ext_methods PROPFIND OPTIONS;
    }
"""


@dataclass(frozen=True)
class SshServer:
    """An SSH server that lets one key in, and only to move files."""

    url: str
    store: Path
    key: Path
    unknown_key: Path


@dataclass(frozen=True)
class WebServer:
    """A web server over `root`: store/ takes PUT from one account, public/ is the same to read."""

    address: str
    root: Path
    speaks_webdav: bool
    user: str = USER
    password: str = PASSWORD

    @property
    def store(self) -> Path:
        return self.root / "store"


@pytest.fixture(scope="session")
def alone(tmp_path_factory) -> dict[str, str]:
    """Return an environment in which DVC knows no settings, keys, proxies or caches of its user."""
    folder = tmp_path_factory.mktemp("alone")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_", "SSH_"))}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(folder / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(folder / "system"),
        "DVC_SITE_CACHE_DIR": str(folder / "site"),
        "no_proxy": "127.0.0.1",
        "NO_PROXY": "127.0.0.1",
    }


@pytest.fixture(scope="session")
def call(alone, tmp_path_factory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a command in a folder and gives its status and all it said."""
    home = str(tmp_path_factory.mktemp("home"))

    def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
        # git is to know whose checkouts its user trusts; for DVC, ~/.ssh shall be empty.
        environment = alone if command[0] == "git" else alone | {"HOME": home}
        return subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def must(call) -> Callable[..., str]:
    """Return a function that runs a command that must succeed and gives what it said."""

    def run(folder: Path, *command: str) -> str:
        done = call(folder, *command)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-3000:]}"
        return done.stdout

    return run


def _installed(name: str, package: str) -> str:
    path = shutil.which(name, path=SERVER_FOLDERS)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {package})")
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def _serving(command: list[str], port: int, log: Path) -> Iterator[None]:
    """Run a server until the block ends; pytest shows its log beside a test that failed."""
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 30
        while not _answers(port):
            assert server.poll() is None, f"{command[0]} ended with status {server.returncode}"
            assert time.monotonic() < deadline, f"{command[0]} does not answer on port {port}"
            time.sleep(0.02)
        yield
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        sys.stdout.write(f"log of {command[0]}:\n{log.read_text(errors='replace')}")


@pytest.fixture
def ssh_server(tmp_path) -> Iterator[SshServer]:
    """Start OpenSSH's own server on loopback as the present user."""
    sshd = _installed("sshd", "openssh-server")
    keygen = _installed("ssh-keygen", "openssh-client")
    folder = tmp_path / "sshd"
    (folder / "store").mkdir(parents=True)
    for name in ("host", "key", "unknown"):
        words = [keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    shutil.copy(folder / "key.pub", folder / "authorized")
    port = _free_port()
    (folder / "config").write_text(SSHD.format(port=port, folder=folder), encoding="utf-8")
    made = os.geteuid() == 0 and not PRIVILEGE_SEPARATION.exists()
    if made:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755)
    try:
        with _serving([sshd, "-D", "-e", "-f", str(folder / "config")], port, folder / "log"):
            yield SshServer(
                url=f"ssh://{getpass.getuser()}@127.0.0.1:{port}{folder / 'store'}",
                store=folder / "store",
                key=folder / "key",
                unknown_key=folder / "unknown",
            )
    finally:
        if made:
            PRIVILEGE_SEPARATION.rmdir()


@pytest.fixture
def web_server(tmp_path) -> Iterator[WebServer]:
    """Start nginx on loopback as the present user, with WebDAV where its module is installed."""
    nginx = _installed("nginx", "nginx-light")
    said = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=True).stderr
    if "--with-http_dav_module" not in said:
        pytest.skip("this nginx was built without PUT (http_dav_module)")
    folder, root = tmp_path / "nginx", tmp_path / "nginx" / "root"
    for path in (folder / "temporary", root / "store", root / "dav"):
        path.mkdir(parents=True)
    # A scheme that RFC 2307 names and nginx reads; the password guards nothing but a test.
    (folder / "accounts").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n", encoding="utf-8")
    options = dict(word.partition("=")[::2] for word in said.split() if word.startswith("--"))
    module = Path(options.get("--modules-path", "")) / "ngx_http_dav_ext_module.so"
    as_root = os.geteuid() == 0
    port = _free_port()
    config = NGINX.format(
        modules=f"load_module {module};" if module.is_file() else "",
        # As root, nginx would give its workers to a user who may not read the test's folder.
        user=f"user {getpass.getuser()} {grp.getgrgid(os.getegid()).gr_name};" if as_root else "",
        port=port,
        root=root,
        webdav=WEBDAV if module.is_file() else "",
    )
    (folder / "config").write_text(config, encoding="utf-8")
    command = [nginx, "-p", f"{folder}/", "-e", "stderr", "-c", str(folder / "config")]
    with _serving(command, port, folder / "log"):
        yield WebServer(f"127.0.0.1:{port}", root, speaks_webdav=module.is_file())
