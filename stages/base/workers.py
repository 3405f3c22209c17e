"""Share independent work out among the processors; what comes of it does not depend on how many."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from typing import Any, TypeVar

from stages.base.errors import StageError

Result = TypeVar("Result")

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
"""Each worker has a processor: further threads would stand in each other's way."""


def n_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def each(work: Callable[..., Result], tasks: Sequence[tuple[Any, ...]]) -> list[Result]:
    """Return ``work(*task)`` of every task, in their order.

    Parameters
    ----------
    work
        A function of a module, which other processes find by its name.
    tasks
        Its arguments, one tuple a call.

    Raises
    ------
    StageError
        A worker was killed; or what `work` raises.
    """
    n = min(n_processors(), len(tasks))
    if n < 2:
        return [work(*task) for task in tasks]
    try:
        running = [_pool(n).submit(work, *task) for task in tasks]
        return [one.result() for one in running]
    except BrokenProcessPool:
        msg = (
            f"one of {n} worker processes was killed; the memory may be too small for all of them. "
            "Free some, or allow fewer processors: taskset -c 0 make reproduce."
        )
        raise StageError(msg) from None


@cache
def _pool(n: int) -> ProcessPoolExecutor:
    # Not forked: a process whose libraries have started threads cannot be, safely.
    context = multiprocessing.get_context("spawn")
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        pool = ProcessPoolExecutor(n, mp_context=context, initializer=_end_with_the_parent)
        # A worker starts when there is work for it, and reads the variables then.
        pool.map(abs, range(n))
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return pool


def _end_with_the_parent() -> None:
    """Leave no worker behind where the parent is killed: it would wait for work for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
