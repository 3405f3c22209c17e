"""Read what a model is measured on, and find what to measure it with."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.base.errors import AblationError


def read_tokens(path: Path, name: str) -> Tensor:
    """Read a token file: (sequences, seq), integers.

    Raises
    ------
    AblationError
        The file is missing, is no array, or does not hold sequences of integers.
    """
    try:
        tokens = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        msg = f"the {name} tokens {path} do not exist. Run the stage that writes them: dvc repro."
        raise AblationError(msg) from None
    except (ValueError, EOFError, OSError) as error:
        msg = (
            f"{path} is no array of tokens ({' '.join(str(error).split())}). "
            "Remove it and run dvc repro."
        )
        raise AblationError(msg) from None
    if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
        msg = (
            f"{path} holds {tokens.dtype} of the shape {tokens.shape}; token ids as "
            "(sequences, tokens) are needed. Remove it and run dvc repro."
        )
        raise AblationError(msg)
    return torch.from_numpy(tokens.astype(np.int64))


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
