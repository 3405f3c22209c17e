"""English text that every installation has: the docstrings of the pinned packages.

The packages' sources are parsed, never imported. What is collected depends on the versions of the
packages alone: names of files are those that the package itself records, and are sorted; files that
an installation or a platform writes are left out.
"""

import ast
import hashlib
import importlib.metadata
import inspect
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt

from stages.base.errors import CheckpointError
from stages.inputs.settings import MiniCorpus

Split = Literal["train", "heldout", "reference"]
Tokens = npt.NDArray[np.int32]
SPLITS: tuple[Split, ...] = ("train", "heldout", "reference")

SEPARATOR = "<|endoftext|>"
"""Stands between two documents, as in Pythia's training text; the tokenizer gives it id 0."""

# Written by the build or the platform: not the same in every wheel of one version.
_BUILD_FILES = {"__config__.py", "_distributor_init.py", "_version.py", "version.py"}
_TESTS = {"test", "tests", "testing", "conftest.py", "_testing"}
_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Document:
    """The docstrings of one source file."""

    name: str
    """Path of the file below the site packages."""
    text: str


@dataclass(frozen=True)
class Corpus:
    """Three disjoint collections of documents, and where they come from."""

    documents: Mapping[Split, tuple[Document, ...]]
    versions: Mapping[str, str]

    def text(self, split: Split) -> str:
        """Return all documents of a split, with the separator between them."""
        return SEPARATOR.join(document.text for document in self.documents[split])

    def statement(self) -> dict[str, object]:
        """Return versions, sizes and sha256 of the text, for the record."""
        return {
            "packages": dict(self.versions),
            "splits": {
                split: {
                    "n_files": len(self.documents[split]),
                    "n_characters": sum(len(one.text) for one in self.documents[split]),
                    "sha256": hashlib.sha256(self.text(split).encode()).hexdigest(),
                }
                for split in SPLITS
            },
        }


def split_of(name: str, *, heldout_share: float, reference_share: float) -> Split:
    """Return the split of a source file, decided by the sha256 of its name.

    >>> split_of("numpy/linalg/_linalg.py", heldout_share=0.04, reference_share=0.02)
    'train'
    """
    place = int(hashlib.sha256(name.encode()).hexdigest()[:13], 16) / 16**13
    if place < heldout_share:
        return "heldout"
    return "reference" if place < heldout_share + reference_share else "train"


def docstrings(source: bytes) -> list[str]:
    """Return the docstrings of a Python source in its order, with their indentation taken away.

    A source that does not parse (a template, another Python) has none.
    """
    with warnings.catch_warnings():
        # Invalid escapes in other people's strings are theirs.
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return []
    return list(_found(tree))


def _found(node: ast.AST) -> Iterator[str]:
    """Walk through statements only: no docstring stands in an expression."""
    body = getattr(node, "body", None)
    if not isinstance(body, list):
        return
    if isinstance(node, _DOCUMENTED) and body and isinstance(body[0], ast.Expr):
        first = body[0].value
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield inspect.cleandoc(first.value)
    for block in ("body", "handlers", "orelse", "finalbody", "cases"):
        for statement in getattr(node, block, None) or ():
            yield from _found(statement)


def sources(package: str) -> list[tuple[str, bytes]]:
    """Return name and content of the Python files that a package installed, but for its tests.

    Raises
    ------
    CheckpointError
        The package is not installed, or does not record its files.
    """
    try:
        files = importlib.metadata.distribution(package).files
    except importlib.metadata.PackageNotFoundError:
        files = None
    found = []
    for file in files or ():
        name = PurePosixPath(file.as_posix())
        parts = set(name.parts)
        if (
            name.suffix != ".py"
            or ".." in parts
            or parts & _TESTS
            or name.name in _BUILD_FILES
            or name.name.startswith("test_")
        ):
            continue
        try:
            found.append((name.as_posix(), file.locate().read_bytes()))  # type: ignore[attr-defined]
        except FileNotFoundError:
            continue
    if not found:
        msg = (
            f"package {package} has no Python files here, and pythia-mini learns from its "
            "docstrings. Install it: pip install -r requirements.txt."
        )
        raise CheckpointError(msg)
    return sorted(found)


def build(named: Mapping[str, bytes], settings: MiniCorpus) -> dict[Split, tuple[Document, ...]]:
    """Make documents of sources by name, drop repeated paragraphs and split by file.

    A paragraph is kept where it first occurs, in the order of the names, so that none stands in two
    splits.
    """
    seen: set[bytes] = set()
    documents: dict[Split, list[Document]] = {split: [] for split in SPLITS}
    for name in sorted(named):
        kept = []
        for docstring in docstrings(named[name]):
            if len(docstring) < settings.min_characters:
                continue
            fresh = []
            for paragraph in docstring.replace(SEPARATOR, "").split("\n\n"):
                key = hashlib.sha256(" ".join(paragraph.split()).encode("utf-8", "replace"))
                if paragraph.strip() and key.digest() not in seen:
                    seen.add(key.digest())
                    fresh.append(paragraph.rstrip())
            if fresh:
                kept.append("\n\n".join(fresh))
        if kept:
            # Lone surrogates, which a docstring may hold, are no text.
            text = "\n\n\n".join(kept).encode("utf-8", "replace").decode()
            split = split_of(
                name,
                heldout_share=settings.heldout_share,
                reference_share=settings.reference_share,
            )
            documents[split].append(Document(name=name, text=text))
    return {split: tuple(documents[split]) for split in SPLITS}


def collect(settings: MiniCorpus) -> Corpus:
    """Return the corpus that the installed packages give.

    Raises
    ------
    CheckpointError
        A package is missing, or a split is empty.
    """
    named: dict[str, bytes] = {}
    versions = {}
    for package in sorted(settings.packages):
        named |= sources(package)
        versions[package] = importlib.metadata.version(package)
    documents = build(named, settings)
    for split in SPLITS:
        if not documents[split]:
            msg = (
                f"no source file of {', '.join(versions)} falls into the {split} split. "
                "Name more packages or raise its share in conf/model/pythia-mini.yaml."
            )
            raise CheckpointError(msg)
    return Corpus(documents=documents, versions=versions)


def other_versions(corpus: Corpus, settings: MiniCorpus) -> list[str]:
    """Return the packages that are not at the version that the settings name."""
    return [
        f"{name} {corpus.versions[name]} instead of {version}"
        for name, version in sorted(settings.packages.items())
        if corpus.versions[name] != version
    ]


def spread(tokens: Tokens, n_sequences: int, seq_len: int) -> Tokens:
    """Return sequences that lie evenly over a text, so that a few speak for all of it.

    Parameters
    ----------
    tokens
        Token ids. shape (n_tokens,)
    n_sequences
        How many; as many as fit at most.
    seq_len
        Tokens of each.

    Returns
    -------
    ndarray
        shape (n_sequences, seq_len)

    Raises
    ------
    CheckpointError
        The text is too short.

    >>> spread(np.arange(10, dtype=np.int32), 2, 2)
    array([[0, 1],
           [4, 5]], dtype=int32)
    """
    available = len(tokens) // seq_len
    if n_sequences > available:
        msg = (
            f"the text has {len(tokens)} tokens, {n_sequences} sequences of {seq_len} need "
            f"{n_sequences * seq_len}. Ask for fewer, or name more packages in model.corpus."
        )
        raise CheckpointError(msg)
    chosen = np.arange(n_sequences) * available // n_sequences
    return tokens[: available * seq_len].reshape(available, seq_len)[chosen]
