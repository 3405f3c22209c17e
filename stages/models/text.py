"""What a model is measured on: what it reads, what it has to predict, what counts, what is padding.

A causal model predicts the next token at every position. A masked one predicts tokens that were
replaced by its mask token, at positions that are drawn once and stay the same for every state and
intervention, so that effects are differences on the same text.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.base.errors import AblationError
from stages.models.architectures.base import Architecture

MASKED_SHARE = 0.15
"""Of the tokens, as in the training of BERT (Devlin et al. 2019, section 3.1)."""
MASK_SEED = 45_000


@dataclass(frozen=True)
class Text:
    """Sequences of tokens, each array (n_sequences, seq)."""

    inputs: Tensor
    """What the model reads: token ids."""
    targets: Tensor
    """What is to be predicted at each position: token ids."""
    scored: Tensor | None = None
    """Which positions count; none: all. At least one in each sequence."""
    attended: Tensor | None = None
    """Which positions are no padding; none: all. Padding stands on the right."""

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.inputs)

    @property
    def n_positions(self) -> int:
        """Positions of a sequence."""
        return int(self.inputs.shape[1])

    def __getitem__(self, which: slice | Tensor) -> "Text":
        """Return some of the sequences."""
        return self._each(lambda array: array[which])

    def to(self, device: torch.device) -> "Text":
        """Return the text on a device."""
        return self._each(lambda array: array.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Text":
        return Text(
            change(self.inputs),
            change(self.targets),
            None if self.scored is None else change(self.scored),
            None if self.attended is None else change(self.attended),
        )


def next_tokens(tokens: Tensor, attended: Tensor | None = None) -> Text:
    """Return a text for a causal model: each position predicts the next token.

    The last position predicts nothing that is scored and, attention being causal, changes nothing
    before it: it is left out.

    Parameters
    ----------
    tokens
        Token ids: (n_sequences, seq), at least two a sequence.
    attended
        Which are no padding, (n_sequences, seq); none: all.
    """
    whole = tokens.long()
    _check_rows(whole, attended, least=2)
    return Text(
        inputs=whole[:, :-1],
        targets=whole[:, 1:],
        scored=None if attended is None else attended[:, 1:],
        attended=None if attended is None else attended[:, :-1],
    )


def masked_tokens(
    tokens: Tensor,
    mask_token: int,
    *,
    attended: Tensor | None = None,
    share: float = MASKED_SHARE,
    seed: int = MASK_SEED,
) -> Text:
    """Return a text for a masked model: a share of the tokens is hidden and to be predicted.

    Parameters
    ----------
    tokens
        Token ids: (n_sequences, seq).
    mask_token
        Id of the token that stands in for a hidden one. Positions that hold it are not drawn.
    attended
        Which positions are no padding, (n_sequences, seq); none: all.
    share
        Of each sequence's tokens, at least one.
    seed
        Draws the positions, on the CPU.
    """
    whole = tokens.long()
    _check_rows(whole, attended, least=1)
    allowed = whole != mask_token
    if attended is not None:
        allowed &= attended
    order = torch.rand(whole.shape, generator=torch.Generator().manual_seed(seed))
    rank = order.masked_fill(~allowed, 2.0).argsort(dim=1, stable=True).argsort(dim=1)
    wanted = (allowed.sum(dim=1, keepdim=True) * share).round().clamp(min=1)
    scored = (rank < wanted) & allowed
    if not bool(scored.any(dim=1).all()):
        row = int((~scored.any(dim=1)).nonzero()[0, 0])
        msg = (
            f"sequence {row} holds nothing but mask tokens, so nothing can be predicted in it. "
            "Leave it out."
        )
        raise AblationError(msg)
    return Text(whole.masked_fill(scored, mask_token), whole, scored, attended)


def _check_rows(tokens: Tensor, attended: Tensor | None, *, least: int) -> None:
    if tokens.ndim != 2 or tokens.shape[0] == 0 or tokens.shape[1] < least:
        msg = (
            f"the tokens have the shape {tuple(tokens.shape)}: at least one sequence of {least} "
            "is needed, as (sequences, tokens). Take a longer text or shorter sequences."
        )
        raise AblationError(msg)
    if attended is None:
        return
    if attended.shape != tokens.shape:
        msg = (
            f"the padding is marked in the shape {tuple(attended.shape)}, the tokens have the "
            f"shape {tuple(tokens.shape)}. Make both the same."
        )
        raise AblationError(msg)
    lengths = attended.sum(dim=1)
    if bool((lengths < least).any()):
        row = int((lengths < least).nonzero()[0, 0])
        msg = (
            f"sequence {row} has {int(lengths[row])} tokens beside its padding; at least {least} "
            "are needed. Leave it out."
        )
        raise AblationError(msg)
    if bool((attended[:, 1:] & ~attended[:, :-1]).any()):
        row = int((attended[:, 1:] & ~attended[:, :-1]).any(dim=1).nonzero()[0, 0])
        msg = f"sequence {row} is padded before its last token. Pad on the right."
        raise AblationError(msg)


def check_text(text: Text, architecture: Architecture, name: str) -> None:
    """Stop at a text that the model cannot read.

    Raises
    ------
    AblationError
        Sequences are too long for the model, or a token is not in its vocabulary.
    """
    if text.n_positions > architecture.max_positions:
        msg = (
            f"the {name} text comes in sequences of {text.n_positions}, the model has "
            f"{architecture.max_positions} positions. Cut the text into shorter sequences."
        )
        raise AblationError(msg)
    for tokens in (text.inputs, text.targets):
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= architecture.vocab_size:
            msg = (
                f"the {name} text holds the token {low if low < 0 else high}, the model's "
                f"vocabulary ends at {architecture.vocab_size - 1}: the tokenizer does not fit it. "
                "Make the tokens with the tokenizer that lies beside the checkpoint."
            )
            raise AblationError(msg)


def text_of(tokens: Tensor, architecture: Architecture, checkpoint: Path) -> Text:
    """Return the text that a model of this architecture is measured on.

    Parameters
    ----------
    tokens
        Token ids without padding: (n_sequences, seq).
    architecture
        Says whether the model is causal.
    checkpoint
        Folder of the model, whose tokenizer names the mask token of a masked one.

    Raises
    ------
    AblationError
        The tokens are none for it, or the tokenizer has no mask token.
    """
    if architecture.causal:
        return next_tokens(tokens)
    return masked_tokens(tokens, _mask_token(checkpoint))


def _mask_token(checkpoint: Path) -> int:
    """Return the id of the mask token, as ``tokenizer.json`` and its config name it."""
    try:
        known = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
        named = json.loads((checkpoint / "tokenizer_config.json").read_text(encoding="utf-8"))
        word = named["mask_token"]
        word = word if isinstance(word, str) else word["content"]
        ids = {part["content"]: part["id"] for part in known["added_tokens"]}
        return int((known["model"]["vocab"] | ids)[word])
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = (
            f"{checkpoint} does not say which token hides another one ({error!r}): a masked model "
            "needs tokenizer.json and, in tokenizer_config.json, mask_token. Put both there."
        )
        raise AblationError(msg) from None


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
