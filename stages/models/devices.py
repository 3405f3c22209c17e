"""Find what to compute on, and in which precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from stages.base.errors import AblationError
from stages.models.architectures import architecture_of

Precision = Literal["float32", "tf32", "bf16"]


def devices(wanted: str) -> list[str]:
    """Return the devices to work on: the GPUs there are (auto), or those named, comma-separated.

    Raises
    ------
    AblationError
        A device is named that is not there.
    """
    if wanted == "auto":
        n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [f"cuda:{index}" for index in range(n_gpus)] or ["cpu"]
    named = wanted.split(",")
    for name in named:
        try:
            there = torch.device(name).type != "cuda" or torch.cuda.is_available()
        except RuntimeError:
            there = False
        if not there:
            msg = f"the device {name!r} is not there. Use --device auto or --device cpu."
            raise AblationError(msg)
    if len({torch.device(name).type for name in named}) > 1:
        msg = f"--device {wanted} mixes kinds of devices, which round differently. Name one kind."
        raise AblationError(msg)
    return named


@contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """Set how float32 products are computed, and set it back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def cast_blocks(model: nn.Module, precision: Precision) -> nn.Module:
    """Give a float32 model the weights of a precision, in place.

    In ``bf16`` the linear maps of the blocks are bfloat16; the residual stream, the norms and the
    unembedding stay float32, since a logit rounded to eight bits would drown the effects.
    """
    if precision == "bf16":
        for block in architecture_of(model).blocks:
            for part in block.modules():
                # Linear or, in GPT-2, Conv1D; norms have one axis.
                if getattr(getattr(part, "weight", None), "ndim", 0) == 2:
                    part.to(torch.bfloat16)
    return model
