"""Share independent work out among processes; what comes of it does not depend on how many.

Processes of this machine, one a processor or a device, or the workers of a Dask cluster
(:mod:`stages.compute.cluster`): ``conf/compute/`` says which.
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits
from tqdm import tqdm

import stages
from stages.base.errors import StageError
from stages.base.record import n_processors
from stages.compute import settings

Result = TypeVar("Result")

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
"""Each worker has a processor: further threads would stand in each other's way."""


def run(
    work: Callable[..., Result],
    tasks: Sequence[tuple[Any, ...]],
    *,
    on: Sequence[str] | None = None,
    label: str = "",
) -> list[Result]:
    """Return ``work(*task)`` of every task, in their order.

    Parameters
    ----------
    work
        A function of a module, which other processes find by its name, or a partial of one.
    tasks
        Its arguments, one tuple a call.
    on
        Devices, each of which gets a process; the work is then told its own, ``device=``. None:
        a process a processor. One alone needs no further process.
    label
        Names the progress bar; without one there is none.

    Raises
    ------
    StageError
        A worker was killed, a cluster is lost or cannot be had; or what `work` raises.
    """
    chosen = settings.chosen()
    with tqdm(total=len(tasks), desc=label, disable=not label or not tasks) as bar:
        if not tasks:
            return []
        if chosen.scheduler == "dask":
            from stages.compute import cluster

            return cluster.run(chosen, work, tasks, device=on[0] if on else None, told=bar.update)
        devices: Sequence[str | None] = on or [None] * n_processors()
        if min(len(devices), len(tasks)) < 2:
            return list(_here(work, tasks, devices[0], bar.update))
        pool = _pool(tuple(devices[: len(tasks)]))
        try:
            futures = [pool.submit(_on_mine, work, task) for task in tasks]
            return gathered(futures, bar.update)
        except BrokenProcessPool:
            _pool.cache_clear()
            msg = (
                f"one of {len(devices)} worker processes was killed; the memory may be too small "
                "for all of them. Free some, or allow fewer processors: taskset -c 0 make "
                "reproduce."
            )
            raise StageError(msg) from None


def where_it_runs(ask: Callable[..., Result], *words: Any) -> Result:
    """Return ``ask(*words)`` of whoever will do the work, such as which devices there are.

    Raises
    ------
    StageError
        Workers of a cluster do not agree; or what `ask` raises.
    """
    chosen = settings.chosen()
    if chosen.scheduler == "dask":
        from stages.compute import cluster

        return cluster.agreed(chosen, ask, words)
    return ask(*words)


def is_spread(on: Sequence[str]) -> bool:
    """Return whether work is done by other processes than this one."""
    return len(on) > 1 or settings.chosen().scheduler == "dask"


def a_process_each(devices: Sequence[str]) -> list[str]:
    """Return the devices, the CPU once for each processor: for work that uses one thread."""
    return ["cpu"] * n_processors() if list(devices) == ["cpu"] else list(devices)


_kept: list[dict[Any, Any]] = []


def kept(opened: Callable[..., Result], *, only_last: bool = False) -> Callable[..., Result]:
    """Keep what a function returned, such as a model, for further pieces of work of one run.

    Parameters
    ----------
    only_last
        Whether to let go of it before something else is opened.
    """
    mine: dict[Any, Result] = {}
    _kept.append(mine)

    @wraps(opened)
    def once(*words: Any) -> Result:
        if words not in mine:
            if only_last:
                mine.clear()
            mine[words] = opened(*words)
        return mine[words]

    return once


def let_go() -> None:
    """Forget what is kept: a worker that outlives a run would take old files for new ones."""
    for of_one in _kept:
        of_one.clear()


def gathered(
    futures: Sequence[Any], told: Callable[[int], Any], done: Any = as_completed
) -> list[Any]:
    """Return the results of futures in their order; with the first error, cancel what is left."""
    try:
        for future in done(futures):
            future.result()
            told(1)
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return [future.result() for future in futures]


def called(work: Callable[..., Result], task: tuple[Any, ...], device: str | None) -> Result:
    """Return ``work(*task)`` on a device, if it is on one."""
    return work(*task) if device is None else work(*task, device=device)


def _here(
    work: Callable[..., Result],
    tasks: Sequence[tuple[Any, ...]],
    device: str | None,
    told: Callable[[int], Any],
) -> Iterator[Result]:
    for task in tasks:
        yield called(work, task, device)
        told(1)


_mine: list[str | None] = []


def _on_mine(work: Callable[..., Result], task: tuple[Any, ...]) -> Result:
    return called(work, task, _mine[0])


@cache
def _pool(devices: tuple[str | None, ...]) -> ProcessPoolExecutor:
    # Not forked from here: a process whose libraries have started threads cannot be, safely.
    context: Any = multiprocessing.get_context(stages.WORKERS)
    free = context.SimpleQueue()
    for device in devices:
        free.put(device)
    with one_thread():
        pool = ProcessPoolExecutor(
            len(devices), mp_context=context, initializer=_begin, initargs=(free,)
        )
        # A worker starts when there is work for it, and reads the variables then.
        pool.map(abs, range(len(devices)))
    return pool


@contextmanager
def one_thread() -> Iterator[None]:
    """Have processes that start meanwhile use one thread each."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin(free: Any) -> None:
    """Take a device and one thread, and end where the parent is killed.

    A worker that is left behind would wait for work for ever.
    """
    _mine.append(free.get())
    # One that was forked has libraries that did not read the variables.
    os.environ.update(ONE_THREAD)
    threadpool_limits(1)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
