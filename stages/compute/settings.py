"""Where shards are run: a fact about a machine, which decides no number.

Hence these settings are in no ``params.yaml``: ``make reproduce COMPUTE=dask`` composes them from
``conf/compute/`` into ``compute.yaml`` beside it, which git and DVC do not look at.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from stages.base.sections import Count, Section
from stages.base.settings import of_machine

COMPUTE_FILE = "compute.yaml"


class Tls(Section):
    """Files of certificates in PEM: of the authority, and this client's own."""

    ca_file: str
    cert: str
    key: str


class Compute(Section):
    """How a sweep is spread out."""

    name: str = "local"
    scheduler: Literal["local", "dask"] = "local"
    """Processes of this machine, or of a Dask cluster."""
    cluster: Literal["processes", "address", "slurm", "pbs", "cuda"] = "processes"
    """Of dask: processes of this machine, one that runs, or one that is started for each stage."""
    workers: Count | None = None
    """Of a cluster that is started; null: as many as there are processors or devices."""
    address: str | None = None
    """Of a scheduler that runs: ``tcp://host:8786``, ``tls://host:8786``."""
    tls: Tls | None = None
    store: str | None = None
    """Where finished shards lie: a folder or ``s3://bucket/prefix`` that all workers reach; null:
    the folder of scratch data that the stage was given."""
    options: dict[str, Any] = {}
    """Passed on to ``dask_jobqueue.SLURMCluster``, ``PBSCluster``, ``dask_cuda.LocalCUDACluster``
    or ``distributed.LocalCluster``."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        address = self.address or ""
        if (self.cluster == "address") != bool(address):
            msg = "address is of cluster address, which needs one such as tcp://host:8786"
            raise ValueError(msg)
        if address and not address.startswith(("tcp://", "tls://")):
            msg = f"address {address} is neither tcp://host:port nor tls://host:port"
            raise ValueError(msg)
        if address.startswith("tls://") != (self.tls is not None):
            msg = "tls (ca_file, cert, key) goes with an address tls://host:port, and with no other"
            raise ValueError(msg)
        return self


MACHINE = {"compute": Compute}
"""Sections of the settings that are this machine's own."""


@cache
def chosen() -> Compute:
    """Return the settings in ``compute.yaml`` of the working folder; without one, those of local.

    ``COMPUTE_FILE`` of the environment names another file.
    """
    path = Path(os.environ.get("COMPUTE_FILE", COMPUTE_FILE))
    found: Compute = of_machine("compute", path)
    return found
