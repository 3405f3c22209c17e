"""Ask whether function concentrates alike in ageing tissue and in a training transformer.

One package, one room a question.
"""

import os
import time

__version__ = "0.1.0"

# When this process began to import the project: what a stage imports is part of its wall time.
STARTED = time.time()

# Read by numpy and torch when they are imported. Several threads are slow on small matrices, many
# times so beside other work, and last digits would depend on how many there are; threads that spin
# while they wait take the processor from that work.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Read by huggingface_hub when it is imported, whichever stage imports it: nothing is reported home.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Read by numba when it is imported: it would compile for this processor, and sums of a graph of
# neighbours would have other last digits on another.
os.environ.setdefault("NUMBA_CPU_NAME", "generic")
