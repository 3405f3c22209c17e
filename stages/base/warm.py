"""Start stages from a process that has imported their libraries, which takes seconds each time.

That process imports libraries alone, none of this project's modules, so that a stage runs the code
that lies there when it starts; and it computes nothing, so that it may be forked. A stage is a
process of its own as ever, with the arguments, folder, environment, output and exit status of
``python -m``; ``top`` shows it by its room and name. What it shares its work with is forked from a
copy of it that was made before it did anything. Outside Linux every stage starts by itself.
"""

import atexit
import gc
import importlib
import json
import mmap
import os
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, util
from pathlib import Path
from typing import Any

import stages

LIBRARIES = (
    "torch",
    "pandera.pandas",
    "pandera.strategies.pandas_strategies",
    "pyarrow.parquet",
    "scipy.stats",
    "scipy.optimize",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "sklearn.linear_model",
    "anndata",
    "transformers.models.gpt_neox.modeling_gpt_neox",
    "transformers.models.bert.modeling_bert",
)
SOMETIMES = ("scanpy", "umap.umap_")
"""What few stages need: imported once one of them did, for those that come after it."""
_NEEDED = mmap.mmap(-1, len(SOMETIMES))
"""A byte of each, which all processes that are forked from here share."""
FEW = 3
"""Stages that start by themselves at first: to import what they do not need takes longer."""
_ASKED = mmap.mmap(-1, 1)
"""How many were asked for, up to `FEW`; all processes of a run share it."""
LONGEST = 1 << 17
"""Bytes of a request."""
SHELL = frozenset(";&|<>$`*?~#(){}[]!\\\n=")
"""What a shell would read otherwise than word by word."""


@contextmanager
def started() -> Iterator[int | None]:
    """Keep such a process; yield the file descriptor on which it is asked, None if there is none.

    It imports when there are more than a few stages (`FEW`), or told (:func:`prepare`), and ends
    with the last process that may ask it.
    """
    _ASKED[0] = 0
    if sys.platform != "linux":
        yield None
        return
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words = [sys.executable, "-m", "stages.base.warm", str(theirs.fileno())]
    with subprocess.Popen(words, pass_fds=[theirs.fileno()]), ours:
        theirs.close()
        ours.set_inheritable(True)
        yield ours.fileno()


def prepare(fd: int | None) -> None:
    """Have it import now, where it is known that more than a few stages will run."""
    _ASKED[0] = FEW
    if fd is not None:
        with suppress(OSError), socket.socket(fileno=os.dup(fd)) as asked:
            asked.send(b".")


def run(fd: int, cmd: str, cwd: str, env: Mapping[str, str]) -> int | None:
    """Run a stage's command line as DVC would in a shell.

    Returns
    -------
    int or None
        Its exit status, that of :class:`subprocess.Popen`; None if it has to start by itself, as
        the first few do (`FEW`).
    """
    if not SHELL.isdisjoint(cmd) or not Path(cwd).samefile(Path.cwd()):
        return None
    python, *words = shlex.split(cmd)
    found = shutil.which(python, path=env.get("PATH")) or ""
    if Path(found).parent != Path(sys.executable).parent or words[:1] != ["-m"]:
        return None
    request = json.dumps({"words": words[1:], "env": dict(env)}).encode()
    if len(request) > LONGEST:
        return None
    if _ASKED[0] < FEW:
        _ASKED[0] += 1
        return None
    answer, theirs = os.pipe()
    with os.fdopen(answer, "rb") as ended:
        try:
            with socket.socket(fileno=os.dup(fd)) as asked:
                socket.send_fds(asked, [request], [0, 1, 2, theirs])
        except OSError:
            return None
        finally:
            os.close(theirs)
        status = ended.read()
    # Nothing is said where whoever was to say it was killed as well.
    return int(status or -signal.SIGKILL)


def _serve(asked: socket.socket) -> list[str]:
    """Fork a process for each request, and return the words of its command line there."""
    # Whoever asks ignores an interrupt while a stage runs, as DVC does: it is for the stage.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    warnings.filterwarnings("ignore", "Tensorflow not installed")  # says umap
    forked = False
    while not forked:
        request, fds, _, _ = socket.recv_fds(asked, LONGEST, 4)
        if not request:
            os._exit(0)
        needed = [name for name, known in zip(SOMETIMES, _NEEDED[:], strict=True) if known]
        for name in (*LIBRARIES, *needed):
            importlib.import_module(name)
        gc.freeze()
        if not fds:
            continue
        forked = os.fork() == 0
        if not forked:
            for fd in fds:
                os.close(fd)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked.close()
    *standard, answer = fds
    for to, fd in enumerate(standard):
        os.dup2(fd, to)
        os.close(fd)
    stage = os.fork()
    if stage:
        # Stays to say how it ended, whatever ends it.
        status = os.waitstatus_to_exitcode(os.waitpid(stage, 0)[1])
        os.write(answer, str(status).encode())
        os._exit(0)
    os.close(answer)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    given = json.loads(request)
    os.environ.clear()
    os.environ.update(given["env"])
    module, *arguments = given["words"]
    Path("/proc/self/comm").write_text(module.removeprefix("stages."), encoding="utf-8")
    return [module, *arguments]


def _fork_workers() -> None:
    """Have ``multiprocessing`` fork this stage's workers from a copy of what it is now.

    The copy waits, and becomes the fork server that `multiprocessing` would start and have import
    everything anew. It ends with the stage.
    """
    ours, theirs = socket.socketpair()
    if not (copy := os.fork()):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        Path("/proc/self/comm").write_text("workers", encoding="utf-8")
        ours.close()
        _, fds, _, _ = socket.recv_fds(theirs, 1, 2)
        if fds:
            theirs.close()
            # Ignores it, and gives its children what was there.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            listener, alive = fds
            forkserver.main(listener, alive, [])
        os._exit(0)
    theirs.close()
    otherwise = util.spawnv_passfds

    def asked(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        if forkserver.__name__ not in str(args[-1]) or ours.fileno() < 0:
            return otherwise(path, args, passfds)
        with ours:
            socket.send_fds(ours, [b"."], passfds)
        return copy

    util.spawnv_passfds = asked
    stages.WORKERS = "forkserver"


def _be(module: str) -> None:
    """Run a module as ``python -m`` does and end as that ends, but leave the memory to the system.

    To take apart all that was imported would take as long as a small stage.
    """
    status: object = None
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001 - said as Python says it
        sys.excepthook(*sys.exc_info())
        status = 1
    for place, name in enumerate(SOMETIMES):
        _NEEDED[place] |= name in sys.modules
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if not isinstance(status, int | None):
        sys.stderr.write(f"{status}\n")
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def main() -> None:
    """Serve; in each process that was forked, be a stage."""
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        module, *sys.argv[1:] = _serve(asked)
    stages.STARTED = time.time()
    _fork_workers()
    _be(module)


if __name__ == "__main__":
    main()
