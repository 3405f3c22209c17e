"""Work that is shared out among processors, by real processes."""

import json
import operator
import os
import platform
import subprocess
import sys
import time

import pytest

from stages.base.errors import StageError
from stages.compute import run as workers


@pytest.fixture(params=[1, 2])
def processors(request, monkeypatch):
    monkeypatch.setattr(workers, "n_processors", lambda: request.param)
    return request.param


def test_results_stand_in_the_order_of_the_tasks(processors):
    # The first takes longest.
    tasks = [(max, [0.3, 0.2]), (operator.mul, [6, 7]), (operator.sub, [3, 1])]
    assert workers.run(_called, tasks) == [0.3, 42, 2]


def _called(function, words):
    time.sleep(0.3 * (function is max))
    return function(*words)


def test_an_error_of_the_work_is_raised_here(processors):
    with pytest.raises(StageError, match="no such tissue"):
        workers.run(_refuses, [("a",), ("b",)])


def _refuses(name):
    msg = f"no such tissue: {name}"
    raise StageError(msg)


def test_a_worker_is_another_process_of_one_thread_and_one_processor_has_none(processors):
    here = os.getpid()
    found = dict(workers.run(_seen, [(), (), (), ()]))
    assert (here in found) == (processors == 1)
    if processors > 1:
        assert set(found.values()) == {"1"}


def _seen():
    return os.getpid(), os.environ.get("OMP_NUM_THREADS")


def test_a_worker_that_is_killed_is_one_line(monkeypatch):
    monkeypatch.setattr(workers, "n_processors", lambda: 2)
    with pytest.raises(StageError, match=r"one of 2 worker processes was killed; the memory"):
        workers.run(os._exit, [(9,), (9,)])


AGAIN = """
from resource import RUSAGE_SELF, getrusage
import stages
def filled():
    before = getrusage(RUSAGE_SELF).ru_minflt
    b"1" * (48 << 20)
    return getrusage(RUSAGE_SELF).ru_minflt - before
print([filled() for _ in range(5)])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize(
    "variables", [{}, {"MALLOC_TRIM_THRESHOLD_": "65536"}], ids=["plain", "dask"]
)
def test_memory_that_was_freed_is_used_again(variables):
    said = subprocess.run(
        [sys.executable, "-c", AGAIN],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    first, *others = json.loads(said)
    # Pages, large or small, are given once.
    assert max(others) < first / 2
