"""Turn text into the tokens that models are measured on, and other text into reference tokens.

The published protocol: lines of WikiText-103-raw whose ``len(line.strip())`` is below 50 are
dropped, each of the others is tokenised by itself without special tokens, and the tokens are joined
and cut into sequences; what follows, never the same tokens, is the reference over which a head's
mean is taken.
"""

import argparse
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import httpx2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.errors import EntryNotFoundError
from tokenizers import Tokenizer

from stages.base import cli
from stages.base.errors import CheckpointError
from stages.base.files import atomic_path, file_hash, write_text
from stages.base.settings import load
from stages.inputs.hub.download import hub_file, reason_of
from stages.inputs.mini.corpus import SEPARATOR, spread
from stages.inputs.mini.tokenizer import encode
from stages.inputs.settings import HubModel, MiniModel, Text
from stages.inputs.tokenizer import tokenizer_of

TOKENS_FILE = "tokens.npy"
REFERENCE_FILE = "reference_tokens.npy"
STATEMENT_FILE = "tokens.json"

_LINES_AT_ONCE = 1024

Tokens = npt.NDArray[np.int32]


def kept_lines(lines: Iterable[str], *, min_characters: int) -> Iterator[str]:
    r"""Drop lines that are too short; those that stay are not changed.

    >>> list(kept_lines([" = Title = \n", " A sentence of some length . \n"], min_characters=20))
    [' A sentence of some length . \n']
    """
    return (line for line in lines if len(line.strip()) >= min_characters)


def take(lines: Iterable[str], tokenizer: Tokenizer, n_tokens: int) -> Tokens:
    """Tokenise line by line, each by itself and without special tokens, until there are enough.

    Returns
    -------
    ndarray
        The first `n_tokens`, or all there are. shape (n,)
    """
    ids: list[int] = []
    source = iter(lines)
    while len(ids) < n_tokens and (some := list(itertools.islice(source, _LINES_AT_ONCE))):
        for encoding in tokenizer.encode_batch(some, add_special_tokens=False):
            ids += encoding.ids
    return np.asarray(ids[:n_tokens], dtype=np.int32)


def cut(tokens: Tokens, text: Text, *, source: str) -> tuple[Tokens, Tokens]:
    """Cut a stream of tokens into the sequences and, from what follows, the reference.

    Returns
    -------
    tuple of ndarray
        shapes (n_sequences, seq_len) and (reference_sequences, seq_len)

    Raises
    ------
    CheckpointError
        There are too few tokens.
    """
    n_first = text.n_sequences * text.seq_len
    n_needed = n_first + text.reference_sequences * text.seq_len
    if len(tokens) < n_needed:
        msg = (
            f"{source} gives {len(tokens)} tokens, {n_needed} are needed: "
            f"{text.n_sequences} sequences and {text.reference_sequences} of reference, of "
            f"{text.seq_len} each. Give a longer text, or lower model.text.n_sequences, "
            "reference_sequences or seq_len."
        )
        raise CheckpointError(msg)
    return (
        tokens[:n_first].reshape(text.n_sequences, text.seq_len),
        tokens[n_first:n_needed].reshape(text.reference_sequences, text.seq_len),
    )


def parquet_lines(path: Path) -> Iterator[str]:
    """Yield the column ``text`` of a Parquet file, one row group at a time.

    Raises
    ------
    CheckpointError
        It is damaged, or has no such column.
    """
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                for value in file.read_row_group(group, columns=["text"]).column("text"):
                    yield value.as_py() or ""
    except (pa.ArrowInvalid, pa.ArrowKeyError, KeyError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        reason = (str(error).strip().splitlines() or ["?"])[0].rstrip(".")
        msg = (
            f"{path} is no whole Parquet file with a column text ({reason}). "
            "Delete it and fetch it again."
        )
        raise CheckpointError(msg) from None


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, with their ends.

    Raises
    ------
    CheckpointError
        It is missing, or no UTF-8.
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            yield from file
    except FileNotFoundError:
        msg = f"the text {path} does not exist. Correct model.text.path in conf/model/."
        raise CheckpointError(msg) from None
    except UnicodeDecodeError as error:
        msg = f"the text {path} is no UTF-8 ({error.reason} at byte {error.start}). Convert it."
        raise CheckpointError(msg) from None


def wikitext_shard(text: Text, *, endpoint: str | None = None) -> Path:
    """Return the Parquet shard: the one put there by hand, the cache's, or downloaded.

    Raises
    ------
    CheckpointError
        It is none of them; one line says how to put it there by hand.
    """
    if text.path is not None:
        if not text.path.is_file():
            msg = (
                f"the shard {text.path} does not exist. Correct model.text.path in conf/model/, "
                "or set it to null to download."
            )
            raise CheckpointError(msg)
        return text.path
    if text.repo is None or text.file is None:
        msg = "model.text has neither a path nor repo and file. Give them in conf/model/."
        raise CheckpointError(msg)
    try:
        return hub_file(
            text.repo, text.file, revision=text.revision, kind="dataset", endpoint=endpoint
        )
    except (EntryNotFoundError, httpx2.HTTPError) as error:
        msg = (
            f"cannot fetch {text.file} of the data set {text.repo} at {text.revision} "
            f"({reason_of(error)}). Run again to go on; or fetch it by hand and set "
            "model.text.path to it."
        )
        raise CheckpointError(msg) from None


def tokenise(
    model: MiniModel | HubModel, checkpoints: Path, *, endpoint: str | None = None
) -> tuple[Tokens, Tokens, dict[str, object]]:
    """Return evaluation tokens, reference tokens and a statement of what they are.

    Raises
    ------
    CheckpointError
        The text or the tokenizer is missing, too short or does not fit.
    """
    text = model.text
    tokenizer, tokenizer_path = tokenizer_of(checkpoints)
    n_needed = (text.n_sequences + text.reference_sequences) * text.seq_len
    source: dict[str, object]
    if text.protocol == "corpus":
        tokens = _own(checkpoints / "heldout.txt", tokenizer, text.n_sequences, text)
        reference = _own(checkpoints / "reference.txt", tokenizer, text.reference_sequences, text)
        source = {"corpus": json.loads((checkpoints / "corpus.json").read_text(encoding="utf-8"))}
    else:
        if text.protocol == "wikitext":
            path = wikitext_shard(text, endpoint=endpoint)
            lines = parquet_lines(path)
            source = {"repo": text.repo, "revision": text.revision, "file": text.file}
            if text.path is not None:
                source = {"file": text.path.name}
        else:
            path = text.path or Path()
            lines = text_lines(path)
            source = {"file": path.name}
        kept = kept_lines(lines, min_characters=text.min_characters)
        stream = take(kept, tokenizer, n_needed)
        tokens, reference = cut(stream, text, source=path.name)
    statement = {
        "model": model.name,
        "protocol": text.protocol,
        "source": source,
        "min_characters": text.min_characters,
        "tokenizer_sha256": hashlib.sha256(tokenizer_path.read_bytes()).hexdigest(),
    }
    return tokens, reference, statement


def _own(path: Path, tokenizer: Tokenizer, n_sequences: int, text: Text) -> Tokens:
    """Return sequences of one of pythia-mini's own texts, as its training reads text."""
    documents = "".join(text_lines(path)).split(SEPARATOR)
    return spread(encode(tokenizer, documents), n_sequences, text.seq_len)


def write(out: Path, tokens: Tokens, reference: Tokens, statement: dict[str, object]) -> None:
    """Write the three files, each whole or not at all, the statement with their hashes last."""
    files = {}
    for name, array in ((TOKENS_FILE, tokens), (REFERENCE_FILE, reference)):
        with atomic_path(out / name) as temporary:
            np.save(temporary, array.astype("<i4"), allow_pickle=False)
        files[name] = {"shape": list(array.shape), "sha256": file_hash(out / name)}
    write_text(out / STATEMENT_FILE, json.dumps(statement | files, indent=2) + "\n")


def _run(args: argparse.Namespace) -> None:
    model = load(args.params).model
    write(args.out, *tokenise(model, args.checkpoints))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument(
        "--checkpoints", type=Path, required=True, help="the folder with <state>/tokenizer.json"
    )
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
