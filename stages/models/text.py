"""What a model is measured on: what it reads, what it has to predict, what counts, what is padding.

A causal model predicts the next token at every position. A masked one predicts tokens that were
replaced by its mask token, at positions that are drawn once and stay the same for every state and
intervention, so that effects are differences on the same text. A model of cells may read a value
beside each token; then some values are hidden instead and predicted.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
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
    values: Tensor | None = None
    """What the model reads beside each token, for a model that does: float."""
    target_values: Tensor | None = None
    """What is to be predicted instead of `targets`, for a model that predicts values: float."""

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
            *(
                None if array is None else change(array)
                for array in (self.scored, self.attended, self.values, self.target_values)
            ),
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
    special: Sequence[int] = (),
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
    special
        Ids of other tokens that are never hidden.
    share
        Of each sequence's tokens that may be hidden, at least one.
    seed
        Draws the positions, on the CPU.
    """
    whole = tokens.long()
    _check_rows(whole, attended, least=1)
    scored = _drawn(whole, attended, (mask_token, *special), share=share, seed=seed)
    return Text(whole.masked_fill(scored, mask_token), whole, scored, attended)


def masked_values(
    tokens: Tensor,
    values: Tensor,
    mask_value: float,
    *,
    attended: Tensor | None = None,
    special: Sequence[int] = (),
    share: float = MASKED_SHARE,
    seed: int = MASK_SEED,
) -> Text:
    """Return a text for a model that predicts values: a share of them is hidden.

    The positions are those that :func:`masked_tokens` draws. Tokens stay as they are.

    Parameters
    ----------
    tokens
        Token ids: (n_sequences, seq).
    values
        The value beside each, in bins: (n_sequences, seq).
    mask_value
        Stands in for a hidden value.
    attended, special, share, seed
        As in :func:`masked_tokens`.
    """
    whole, true = tokens.long(), values.float()
    _check_rows(whole, attended, least=1)
    if true.shape != whole.shape:
        msg = (
            f"the values have the shape {tuple(true.shape)}, the tokens have the shape "
            f"{tuple(whole.shape)}. Give one value for each token."
        )
        raise AblationError(msg)
    scored = _drawn(whole, attended, special, share=share, seed=seed)
    return Text(whole, whole, scored, attended, true.masked_fill(scored, mask_value), true)


def _drawn(
    tokens: Tensor, attended: Tensor | None, special: Sequence[int], *, share: float, seed: int
) -> Tensor:
    """Draw which positions are hidden: a share of each sequence, no padding, no `special` id."""
    allowed = ~torch.isin(tokens, torch.tensor(special, dtype=tokens.dtype))
    if attended is not None:
        allowed &= attended
    order = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed))
    rank = order.masked_fill(~allowed, 2.0).argsort(dim=1, stable=True).argsort(dim=1)
    wanted = (allowed.sum(dim=1, keepdim=True) * share).round().clamp(min=1)
    scored = (rank < wanted) & allowed
    if not bool(scored.any(dim=1).all()):
        row = int((~scored.any(dim=1)).nonzero()[0, 0])
        msg = (
            f"sequence {row} holds nothing but mask tokens or other special ones, so nothing can "
            "be predicted in it. Leave it out."
        )
        raise AblationError(msg)
    return scored


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
        Sequences are too long for the model, a token is not in its vocabulary, or there are no
        values where it reads them, or values where it reads none.
    """
    _check_values(text, architecture, name)
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


def _check_values(text: Text, architecture: Architecture, name: str) -> None:
    if architecture.mask_value is None:
        if text.values is not None:
            msg = (
                f"the {name} text holds values beside its tokens, which this model does not read. "
                "Leave them out."
            )
            raise AblationError(msg)
        return
    for values in (text.values, text.target_values):
        if values is None or values.shape != text.inputs.shape:
            found = "none" if values is None else f"values of the shape {tuple(values.shape)}"
            msg = (
                f"the model reads and predicts a value beside each token; the {name} text of the "
                f"shape {tuple(text.inputs.shape)} has {found}. Make it with cell_text, and give "
                "the values of the encoded cells."
            )
            raise AblationError(msg)
        if n_bad := int((~torch.isfinite(values)).sum()):
            msg = (
                f"the {name} text holds {n_bad} values that are nan or infinite. "
                "Encode the cells again."
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
    if architecture.mask_value is not None:
        msg = (
            f"the model in {checkpoint} reads a value beside each token, and token ids are all "
            "that was given. Make its text with cell_text, from encoded cells."
        )
        raise AblationError(msg)
    return masked_tokens(tokens, _mask_token(checkpoint))


def cell_text(
    ids: npt.ArrayLike,
    *,
    architecture: Architecture,
    pad: int,
    special: Sequence[int],
    mask: int | None,
    values: npt.ArrayLike | None = None,
    share: float = MASKED_SHARE,
    seed: int = MASK_SEED,
) -> Text:
    """Return the text that a model of cells is measured on: a share of each cell's genes hidden.

    Geneformer (Theodoris et al. 2023) predicts which gene stands there, scGPT (Cui et al. 2024)
    the value of a gene that it sees.

    Parameters
    ----------
    ids
        Token ids of encoded cells, padded on the right: (n_cells, width).
    architecture
        Says whether the model predicts tokens or values.
    pad
        Id of the padding, which is neither seen nor scored.
    special
        Ids that are never hidden: ``<cls>``, ``<eos>``. May name `pad` and `mask`.
    mask
        Id that stands in for a hidden token; none where values are hidden.
    values
        The value beside each id, (n_cells, width), for a model that reads one.
    share, seed
        As in :func:`masked_tokens`.

    Raises
    ------
    AblationError
        The arrays are none of cells, or are not what this model reads.
    """
    if architecture.causal:
        msg = "a causal model hides nothing. Make its text with next_tokens."
        raise AblationError(msg)
    hidden = "tokens" if architecture.mask_value is None else "values"
    if [mask is None, values is None] != [hidden == "values", hidden == "tokens"]:
        msg = (
            f"this model predicts hidden {hidden}, and mask is {mask} and values are "
            f"{'missing' if values is None else 'given'}. For hidden tokens give the id of <mask> "
            "and no values, for hidden values give values and mask=None."
        )
        raise AblationError(msg)
    tokens = torch.tensor(np.asarray(ids))
    attended = tokens != pad
    drawn: dict[str, Any] = {
        "attended": None if bool(attended.all()) else attended,
        "special": special,
        "share": share,
        "seed": seed,
    }
    if architecture.mask_value is None or values is None:
        return masked_tokens(tokens, cast("int", mask), **drawn)
    beside = torch.tensor(np.asarray(values))
    return masked_values(tokens, beside, architecture.mask_value, **drawn)


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
