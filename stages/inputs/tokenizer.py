"""The tokenizer of a language model, as it lies beside its checkpoints."""

import hashlib
import json
from pathlib import Path

from tokenizers import Tokenizer

from stages.base.errors import CheckpointError
from stages.inputs.mini.tokenizer import TOKENIZER_FILE


def tokenizer_of(checkpoints: Path) -> tuple[Tokenizer, Path]:
    """Return the tokenizer that lies beside the checkpoints, and its file; all have the same.

    Raises
    ------
    CheckpointError
        None of them has one, it is damaged, or it gives ids that the model has no embedding for.
    """
    found = sorted(checkpoints.glob(f"*/{TOKENIZER_FILE}"))
    if not found:
        msg = (
            f"no checkpoint in {checkpoints} has {TOKENIZER_FILE}. "
            "Run make reproduce, or put it beside one of them."
        )
        raise CheckpointError(msg)
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in found}
    if len(hashes) > 1:
        one, other = list(hashes.values())[:2]
        msg = (
            f"{one} and {other} differ, but all checkpoints must read the same tokens. "
            "Fetch the checkpoints again, or drop the odd one from model.checkpoints."
        )
        raise CheckpointError(msg)
    path = found[0]
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        msg = f"{path} is no tokenizer ({error}). Fetch it again."
        raise CheckpointError(msg) from None
    _check_fits(tokenizer, path)
    return tokenizer, path


def _check_fits(tokenizer: Tokenizer, path: Path) -> None:
    config = path.with_name("config.json")
    try:
        vocab_size = int(json.loads(config.read_text(encoding="utf-8"))["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{config} gives no vocab_size ({error}). Fetch the checkpoint again."
        raise CheckpointError(msg) from None
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if highest >= vocab_size:
        msg = (
            f"{path} gives ids up to {highest}, but the model of {config} has vocab_size "
            f"{vocab_size}: the tokenizer is of another model. Put the right one there."
        )
        raise CheckpointError(msg)
