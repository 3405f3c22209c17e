"""Ask whether function concentrates alike in ageing tissue and in a training transformer.

One package, one room a question.
"""

import ctypes
import os
import time
from contextlib import suppress
from pathlib import Path

__version__ = "0.1.0"


def _has_avx2() -> bool:
    with suppress(OSError):
        return " avx2 " in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return False


def _keep_freed_memory() -> None:
    """Have glibc use freed memory again, where it would return it and be given empty pages."""
    m_trim_threshold, m_mmap_threshold = -1, -3  # of <malloc.h>
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(m_mmap_threshold, 64 << 20)
        mallopt(m_trim_threshold, 256 << 20)


# When this process began to import the project: what a stage imports is part of its wall time.
STARTED = time.time()
WORKERS = "spawn"
"""How `multiprocessing` starts what this process shares its work with."""

# Read by numpy and torch when they are imported. Several threads are slow on small matrices, many
# times so beside other work, and last digits would depend on how many there are; threads that spin
# while they wait take the processor from that work.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Read by huggingface_hub when it is imported, whichever stage imports it: nothing is reported home.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

# What is computed has the same bytes on every processor that has AVX2, with or without AVX-512 (of
# PyTorch on one maker's: its products come from MKL, which differs between makers). Read by numba,
# NumPy, OpenBLAS, PyTorch and oneDNN when they are imported. No sweep was seen to take longer.
os.environ.setdefault("NUMBA_CPU_NAME", "generic")
if _has_avx2():
    os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", "X86_V4 AVX512_ICL AVX512_SPR")
    os.environ.setdefault("OPENBLAS_CORETYPE", "Haswell")
    os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

# A sweep allocates the same arrays again and again (measured: docs/scale.md).
_keep_freed_memory()
