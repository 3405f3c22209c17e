"""A sweep of heads whose work takes its time and says so, in whatever process it is done."""

import os
import sys
import time

from stages.heads import ablate

REMOVED = ablate.removed


def removed(job, task, *, device):
    """Do what a sweep does, slowly; a line before and one after in the file SAID."""
    said(f"begin {task.label}")
    time.sleep(float(os.environ["SECONDS_EACH"]))
    arrays = REMOVED(job, task, device=device)
    said(f"end {task.label}")
    return arrays


def said(line):
    """Add a line to a file, at once."""
    file = os.open(os.environ["SAID"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line} {os.getpid()}\n".encode())
    os.close(file)


if __name__ == "__main__":
    from tests.unit import slow_sweep

    ablate.removed = slow_sweep.removed
    raise SystemExit(ablate.main(sys.argv[1:]))
