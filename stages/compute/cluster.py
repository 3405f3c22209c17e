"""Work on a Dask cluster: processes of this machine, one that runs, or jobs of a queue.

A worker sees the files of the study where this process does: it goes to the same folder, and
refuses work if its code or its packages are others, which would make other numbers. Who may talk to
a scheduler may run any code on its workers: over a network that others use, take ``tls://``.
"""

import asyncio
import hashlib
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from stages.base.errors import StageError
from stages.base.record import n_processors
from stages.compute.run import called, gathered, let_go, one_thread
from stages.compute.settings import Compute

Result = TypeVar("Result")

HOW = "python -m pip install -r requirements-dask.txt"
STARTED = {
    "slurm": ("dask_jobqueue", "SLURMCluster", "dask-jobqueue"),
    "pbs": ("dask_jobqueue", "PBSCluster", "dask-jobqueue"),
    "cuda": ("dask_cuda", "LocalCUDACluster", "dask-cuda"),
}
DECIDING = ("numpy", "scipy", "torch", "scanpy", "igraph", "leidenalg")
"""Packages whose versions must be those of this process."""
OWN = {
    # It looks at a worker's stack 100 times a second (measured: docs/scale.md).
    "distributed.worker.profile.enabled": False,
    # Pieces take seconds: none waits at one worker while another has nothing to do.
    "distributed.scheduler.worker-saturation": 1.0,
}
"""Settings of clusters that are started here; jobs of a queue read their own of workers."""
RUN = os.urandom(8).hex()
"""Names this process to workers that serve several, one after another."""
_served: list[str] = []


def run(
    chosen: Compute,
    work: Callable[..., Result],
    tasks: Sequence[tuple[Any, ...]],
    *,
    device: str | None,
    told: Callable[[int], Any],
) -> list[Result]:
    """Return ``work(*task)`` of every task, in their order (:func:`stages.compute.run.run`)."""
    client = _client(chosen.model_dump_json())
    distributed = _needed("distributed", "distributed")
    name = getattr(work, "func", work).__name__.strip("_")
    here = (str(Path.cwd()), _code(), RUN)
    futures = [
        client.submit(_there, here, work, task, device, key=f"{name}-{os.urandom(8).hex()}")
        for task in tasks
    ]
    try:
        return gathered(futures, told, distributed.as_completed)
    except distributed.KilledWorker as error:
        msg = f"workers were killed over one piece of work ({' '.join(str(error).split())}). "
        msg += "Give them more memory and run again: finished shards are kept."
        raise StageError(msg) from None
    except (CancelledError, asyncio.CancelledError, OSError, TimeoutError) as error:
        if isinstance(error, OSError) and client.status == "running":
            raise
        # What its client says on its way out is of the same loss.
        for name in ("distributed", "distributed.client", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        msg = f"the scheduler {_place(chosen)} is lost. Run again: finished shards are kept."
        raise StageError(msg) from None
    finally:
        for future in futures:
            future.release()


def agreed(chosen: Compute, ask: Callable[..., Result], words: tuple[Any, ...]) -> Result:
    """Return what all workers answer."""
    client = _client(chosen.model_dump_json())
    found: dict[str, Result] = client.run(ask, *words)
    answers = list(found.values())
    if any(answer != answers[0] for answer in answers):
        msg = f"workers differ: {found}. Numbers depend on the kind of device; take like workers."
        raise StageError(" ".join(msg.split()))
    return answers[0]


def _there(
    here: tuple[str, str, str],
    work: Callable[..., Result],
    task: tuple[Any, ...],
    device: str | None,
) -> Result:
    folder, code, number = here
    if _served[-1:] != [number]:
        let_go()
        _served[:] = [number]
    try:
        os.chdir(folder)
    except OSError as error:
        msg = (
            f"a worker has no folder {folder} ({error.strerror}). It needs the files of the study "
            "at the same place: a file system that all share."
        )
        raise StageError(msg) from None
    if code != _code():
        msg = (
            "a worker runs other code or other packages than this process, and would make other "
            "numbers. Start it from this folder and this environment."
        )
        raise StageError(msg)
    return called(work, task, device)


@cache
def _code() -> str:
    digest = hashlib.sha256(repr([sys.version, *map(version, DECIDING)]).encode())
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _place(chosen: Compute) -> str:
    return chosen.address or f"of the cluster ({chosen.cluster})"


def _needed(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        how = HOW if package == "distributed" else f"python -m pip install {package}"
        msg = f"these compute settings need the package {package}, which is not installed: {how}"
        raise StageError(msg) from None


@cache
def _client(described: str) -> Any:
    """Return the client of a cluster, which ends with this process if it was started for it."""
    chosen = Compute.model_validate_json(described)
    distributed = _needed("distributed", "distributed")
    # It tells of every worker that comes, goes or is slow; what matters is raised.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    security = None
    if chosen.tls is not None:
        security = distributed.Security(
            tls_ca_file=chosen.tls.ca_file,
            tls_client_cert=chosen.tls.cert,
            tls_client_key=chosen.tls.key,
            require_encryption=True,
        )
    try:
        if chosen.address:
            client = distributed.Client(chosen.address, security=security, timeout="10s")
        else:
            with _needed("dask", "distributed").config.set(OWN):
                client = distributed.Client(_started(chosen, distributed))
        _say(client)
        client.wait_for_workers(1)
    # A refused certificate, a missing file, a host that is not there: each has a kind of its own.
    except (OSError, TimeoutError, ValueError, TypeError, RuntimeError) as error:
        msg = (
            f"the Dask scheduler {_place(chosen)} cannot be had "
            f"({type(error).__name__}: {error}). Mend conf/compute/{chosen.name}.yaml."
        )
        raise StageError(" ".join(msg.split())) from None
    return client


def _started(chosen: Compute, distributed: Any) -> Any:
    if chosen.cluster == "processes":
        with one_thread():
            return distributed.LocalCluster(
                n_workers=chosen.workers or n_processors(),
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                **{"dashboard_address": "127.0.0.1:0"} | chosen.options,
            )
    module, kind, package = STARTED[chosen.cluster]
    cluster = getattr(_needed(module, package), kind)(**chosen.options)
    if chosen.cluster != "cuda" or chosen.workers:
        cluster.scale(chosen.workers or 1)
    return cluster


def _say(client: Any) -> None:
    from stages.base import cli

    cli.log.info("Dask: %s, dashboard %s", client.scheduler.address, client.dashboard_link)
