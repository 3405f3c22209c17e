"""Read the published dictionaries of models of cells: pickles of Geneformer, JSON of scGPT.

A pickle is a program. All that Geneformer's may call is what makes a NumPy number, and neither
pickle's fast reader nor NumPy makes it: a changed byte ends the one (it takes all memory, or the
process falls), and the other believes any state it is told. Any other name that a file asks for is
refused before it is called, and the file with it. What comes out is checked and becomes a
:class:`~stages.inputs.encoders.vocabulary.Vocabulary`, which is kept as JSON.
"""

import json
import math
import pickle
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.base.errors import CheckpointError
from stages.base.files import file_hash
from stages.inputs.encoders.vocabulary import CLS, EOC, EOS, MASK, PAD, Vocabulary

AGAIN = "Fetch it again."
SCGPT_SPECIALS = (PAD, CLS, EOC)


class _Kind:
    """What a pickle says of the kind of a number, as ``f8``."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.order = str(state[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The kind, if it is one of numbers."""
        order = self.order if self.order in ("<", ">") else "="
        found = np.dtype(f"{order}{self.code}")
        if found.kind not in "biuf" or found.itemsize > LARGEST:
            msg = f"{self.code[:20]!r} is no kind of number"
            raise pickle.UnpicklingError(msg)
        return found


LARGEST = 16
"""Bytes of a number."""


def _scalar(kind: _Kind, content: bytes) -> np.generic:
    number: np.generic = np.frombuffer(content, kind.dtype, count=1)[0]
    return number


# Both names of one module: NumPy 2 renamed it, and the files are older.
ALLOWED: Mapping[tuple[str, str], object] = {
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy", "dtype"): _Kind,
}


class _Refused(pickle.UnpicklingError):
    """A pickle asks for more than numbers."""


# Refuses every name but those of numbers; in Python, where a number is no length of memory.
class _Numbers(pickle._Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        """Return one of the few things that a dictionary of numbers needs."""
        try:
            return ALLOWED[module_name, global_name]
        except KeyError:
            raise _Refused(f"{module_name}.{global_name}"[:100]) from None


def read_pickle(path: Path, *, sha256: str | None = None) -> dict[str, Any]:
    """Read a pickled dictionary of texts and numbers, and nothing else.

    Parameters
    ----------
    sha256
        What the bytes must have; they are not looked at before.

    Raises
    ------
    CheckpointError
        The file is missing, has other bytes, is damaged, asks to run anything, or holds no
        dictionary with texts for keys.
    """
    _require_bytes(path, sha256)
    try:
        with path.open("rb") as file:
            content = _Numbers(file, encoding="ASCII").load()
    except _Refused as error:
        msg = (
            f"{path} would run {error}, which no dictionary of genes needs; nothing was run. Do "
            "not open it with other programs, and fetch the published file."
        )
        raise CheckpointError(msg) from None
    except Exception as error:  # noqa: BLE001 - a damaged pickle fails in any way
        msg = f"{path} is no pickle of a dictionary ({_short(error)}). {AGAIN}"
        raise CheckpointError(msg) from None
    if type(content) is not dict or not all(type(key) is str for key in content):
        msg = f"{path} holds no dictionary with names for keys. {AGAIN}"
        raise CheckpointError(msg)
    return content


def _require_bytes(path: Path, sha256: str | None) -> None:
    if not path.is_file():
        msg = f"{path} does not exist. Fetch it, or correct the path."
        raise CheckpointError(msg)
    if sha256 is not None and (found := file_hash(path)) != sha256:
        msg = (
            f"{path} has the sha256 {found}, not {sha256}: it is damaged, or of another version. "
            f"{AGAIN}"
        )
        raise CheckpointError(msg)


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def geneformer(
    tokens: Path,
    medians: Path,
    *,
    names: Path | None = None,
    mapping: Path | None = None,
    config: Path | None = None,
    sha256: Mapping[str, str] | None = None,
) -> tuple[Vocabulary, int]:
    """Read Geneformer's dictionaries, of V1 or V2.

    Parameters
    ----------
    tokens, medians
        ``token_dictionary_*.pkl`` and ``gene_median_dictionary_*.pkl``.
    names, mapping
        ``gene_name_id_dict_*.pkl`` and ``ensembl_mapping_dict_*.pkl``: other names of genes, kept
        in capitals. Where they disagree, the mapping holds, as it does upstream.
    config
        ``config.json`` of the model, whose ``vocab_size`` must be the number of tokens.
    sha256
        Expected of files, by their name.

    Returns
    -------
    vocabulary : Vocabulary
    n_dropped : int
        Synonyms of genes that have no token.

    Raises
    ------
    CheckpointError
        A file cannot be read, is damaged, or is of another version than the others.
    """
    expected = sha256 or {}

    def read(path: Path, as_value: Callable[[Any], Any]) -> dict[str, Any]:
        content = read_pickle(path, sha256=expected.get(path.name))
        return {key: _value(path, key, as_value, value) for key, value in content.items()}

    ids: dict[str, int] = read(tokens, _whole)
    special = {name: number for name, number in ids.items() if name.startswith("<")}
    genes = {name: number for name, number in ids.items() if name not in special}
    _require_specials(tokens, special)
    version = f"V{2 if CLS in special else 1}"
    if config is not None:
        require_size(config, len(ids), f"{tokens.name} is of {version} and has")
    of_genes: dict[str, float] = read(medians, _median)
    if lost := sorted(of_genes.keys() ^ genes.keys()):
        where = medians.name if lost[0] in of_genes else tokens.name
        msg = (
            f"{tokens.name} ({version}) and {medians.name} name other genes: {lost[0]} and "
            f"{len(lost) - 1} more are in one alone ({where}). They are of two versions (V1 and V2 "
            "do not mix); fetch both of one."
        )
        raise CheckpointError(msg)
    synonyms, n_dropped = _synonyms(
        [read(path, _text) for path in (names, mapping) if path is not None], genes
    )
    return Vocabulary(genes, special, of_genes, synonyms or None), n_dropped


def _synonyms(
    dictionaries: Sequence[Mapping[str, str]], genes: Mapping[str, int]
) -> tuple[dict[str, str], int]:
    """Join other names of genes, the last dictionary first; drop those of genes without a token."""
    joined: dict[str, str] = {}
    for names in dictionaries:
        joined |= {name.upper(): gene for name, gene in names.items()}
    kept = {name: gene for name, gene in joined.items() if gene in genes}
    return {name: gene for name, gene in kept.items() if name != gene}, len(joined) - len(kept)


def _value(path: Path, key: str, as_value: Callable[[Any], Any], value: Any) -> Any:
    try:
        return as_value(value)
    except (TypeError, ValueError) as error:
        msg = f"{path} gives {key[:40]} the value {value!r:.40}: {error}. {AGAIN}"
        raise CheckpointError(msg) from None


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        msg = "an id is a whole number"
        raise TypeError(msg)
    return int(value)


def _median(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        msg = "a median is a number"
        raise TypeError(msg)
    if not 0 < float(value) < math.inf:
        msg = "a median is above 0"
        raise ValueError(msg)
    return float(value)


def _text(value: Any) -> str:
    if type(value) is not str:
        msg = "a gene is named by text"
        raise TypeError(msg)
    return value


def _require_specials(path: Path, special: Mapping[str, int]) -> None:
    if set(special) not in ({PAD, MASK}, {PAD, MASK, CLS, EOS}):
        msg = (
            f"{path} has the special tokens {', '.join(sorted(special)) or '(none)'}: V1 has {PAD} "
            f"and {MASK}, V2 also {CLS} and {EOS}. {AGAIN}"
        )
        raise CheckpointError(msg)


def require_size(config: Path, n_ids: int, said: str) -> None:
    """Check that the model of a ``config.json`` knows so many ids.

    Raises
    ------
    CheckpointError
        It knows another number; the line begins with `said`.
    """
    size = _json(config).get("vocab_size")
    if size != n_ids:
        msg = (
            f"{said} {n_ids} ids, and the model of {config} has vocab_size {size}: they are of two "
            "versions (V1 and V2 do not mix). Fetch the dictionaries of this model."
        )
        raise CheckpointError(msg)


def scgpt(
    path: Path, *, sha256: str | None = None, config: Path | None = None
) -> tuple[Vocabulary, int]:
    """Read scGPT's ``vocab.json``, or its list of the census, which lacks the special tokens.

    To the list `<pad>`, `<cls>` and `<eoc>` are added in this order, as upstream does.

    Returns
    -------
    vocabulary : Vocabulary
        Without medians and synonyms.
    n_added : int
        How many special tokens were added.

    Raises
    ------
    CheckpointError
        The file is missing, has other bytes or names a gene twice; it is no JSON of ids; some
        special tokens are there and others not; or the model has another ``vocab_size``.
    """
    _require_bytes(path, sha256)
    ids: dict[str, int] = {
        name: _value(path, name, _whole, number) for name, number in _json(path).items()
    }
    there = [name for name in SCGPT_SPECIALS if name in ids]
    added = 0
    if not there:
        added = len(SCGPT_SPECIALS)
        ids |= {name: len(ids) + place for place, name in enumerate(SCGPT_SPECIALS)}
    elif len(there) < len(SCGPT_SPECIALS):
        msg = (
            f"{path} has {', '.join(there)} of the special tokens {', '.join(SCGPT_SPECIALS)}: all "
            f"are needed, or none. {AGAIN}"
        )
        raise CheckpointError(msg)
    if config is not None:
        require_size(config, len(ids), f"{path.name} has")
    special = {name: ids.pop(name) for name in SCGPT_SPECIALS}
    return Vocabulary(ids, special), added


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object in which no key stands twice."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except FileNotFoundError:
        msg = f"{path} does not exist. Fetch it, or correct the path."
        raise CheckpointError(msg) from None
    except (ValueError, RecursionError) as error:
        msg = f"{path} is no JSON ({_short(error)}). {AGAIN}"
        raise CheckpointError(msg) from None
    if not isinstance(content, dict):
        msg = f"{path} holds no JSON object. {AGAIN}"
        raise CheckpointError(msg)
    return content


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        msg = f"{twice[:40]!r} stands in it twice"
        raise ValueError(msg)
    return content
