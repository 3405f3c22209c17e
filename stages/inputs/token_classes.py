"""Classes of tokens by how they are written: what is known of the items of a language model.

Kinds: a word (letters, and what may join them in one), a number, punctuation, white space, each
with the white space before it. Beside them, of what is no white space alone: whether it begins a
word or goes on in one, and of words whether they begin with a capital.
"""

import keyword
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from tokenizers import Tokenizer

from stages.inputs.known import Known
from stages.inputs.settings import HubModel, MiniModel
from stages.inputs.tokenizer import tokenizer_of

KIND, PLACE, CASE, KEYWORD = "kind", "place", "case", "keyword"
SPACE, MARKED = " \t\r\n", ("\u0120", "\u2581")
"""White space, and how tokenizers write the space before a word (byte-level; SentencePiece)."""


def written(tokenizer: Tokenizer, token: int) -> str:
    """Return what a token stands for, with the space before it; empty if it is special."""
    text = tokenizer.decode([token], skip_special_tokens=True)
    raw = tokenizer.id_to_token(token) or ""
    # SentencePiece's decoder leaves the space before the first word out.
    return f" {text}" if raw.startswith(MARKED) and not text.startswith(tuple(SPACE)) else text


def classes_of(text: str, *, code: bool) -> dict[str, str]:
    r"""Return the class of a token in every family that it belongs to.

    Parameters
    ----------
    code
        Whether the text is Python, of whose words some are keywords.

    >>> classes_of(" return", code=True)
    {'kind': 'word', 'place': 'begins', 'case': 'small', 'keyword': 'keyword'}
    >>> classes_of("\n    ", code=True)
    {'kind': 'white space'}
    >>> classes_of("'re", code=False)
    {'kind': 'mixed', 'place': 'goes on'}
    """
    core = text.strip(SPACE)
    # Part of a character is nothing that is written.
    if "\N{REPLACEMENT CHARACTER}" in core:
        return {}
    if not core:
        return {KIND: "white space"} if text else {}
    place = {PLACE: "begins" if text[0] in SPACE else "goes on"}
    if core.isdecimal():
        return {KIND: "number", **place}
    if not any(one.isalnum() for one in core):
        return {KIND: "punctuation", **place}
    if not core.replace("_", "").isalpha():
        return {KIND: "mixed", **place}
    first = core.lstrip("_")[0]
    of_word = {CASE: "capital" if first.isupper() else "small"}
    if code:
        of_word[KEYWORD] = "keyword" if keyword.iskeyword(core) else "other word"
    return {KIND: "word", **place, **of_word}


def classes(tokenizer: Tokenizer, tokens: Iterable[int], *, code: bool) -> Known:
    """Return the classes of tokens, by their ids as names."""
    families: dict[str, dict[str, set[str]]] = {}
    for token in tokens:
        for family, label in classes_of(written(tokenizer, int(token)), code=code).items():
            families.setdefault(family, {}).setdefault(label, set()).add(str(token))
    return Known(
        families={
            family: {label: frozenset(of) for label, of in sorted(sets.items())}
            for family, sets in families.items()
        },
        edges=pd.DataFrame(columns=["factor", "target", "sign"]),
    )


def read(checkpoints: Path, model: MiniModel | HubModel, tokens: Iterable[int]) -> Known:
    """Return the classes of a model's tokens, by their ids as names.

    Raises
    ------
    CheckpointError
        There is no tokenizer of the model beside its checkpoints.
    """
    return classes(tokenizer_of(checkpoints)[0], tokens, code=isinstance(model, MiniModel))
