"""Two files of one output side by side, each kind by what it holds."""

import gzip
import json
import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from itertools import zip_longest
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa
import yaml
from matplotlib.image import imread
from pypdf import PdfReader
from pypdf.errors import PyPdfError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from stages.audit.verdicts import Allowed, Deviation, Finding, Status, judged
from stages.base import tables
from stages.base.errors import TableError

SCHEMAS = tables.schemas()
"""A table is known by its columns: no two schemas have the same."""
KINDS_OF_ROWS = ("metric", "scale", "quantity", "what", "statistic", "measure", "readout")
"""Keys that say what a row's numbers are: a column has a scale of its own among rows of a kind."""
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    SyntaxError,  # pillow's word for a PNG that is none
    TableError,
    ElementTree.ParseError,
    PyPdfError,
    SafetensorError,
    yaml.YAMLError,
)
"""How the readers of the kinds of files say that one is not of its kind."""
_SHOWN = 40

Comparison = Callable[[Path, Path, Allowed], Finding]


def compare(committed: Path, recomputed: Path, allowed: Allowed, *, suffix: str) -> Finding:
    """Compare two files that do not have the same bytes.

    Parameters
    ----------
    committed, recomputed
        The files. A store names them by hash, so their own suffix says nothing.
    allowed
        The tolerances of this output.
    suffix
        The kind of file, as ``.csv``; an unknown kind is compared by its bytes alone.

    Returns
    -------
    Finding
        Never :attr:`Status.IDENTICAL`. A file that cannot be read as its kind differs.
    """
    if suffix not in KINDS:
        return _differs("other bytes; files of this kind are compared by bytes alone")
    try:
        return KINDS[suffix](committed, recomputed, allowed)
    except UNREADABLE as error:
        return _differs(f"other bytes, and not readable: {' '.join(str(error).split())[:200]}")


def _differs(detail: str) -> Finding:
    return Finding(Status.DIFFERS, detail)


def tables_side_by_side(
    committed: pd.DataFrame, recomputed: pd.DataFrame, allowed: Allowed, *, key: list[str]
) -> Finding:
    """Compare two tables: the same columns and keys, and in every row the same, or near, values.

    Parameters
    ----------
    committed, recomputed
        The tables.
    allowed
        The tolerance of each column of numbers; flags and texts have none.
    key
        The columns that name a row. Without any, a row is known by its number.

    Returns
    -------
    Finding
        nan equals nan, and an infinite number itself; rows in another order are the same content.
    """
    if fault := _different("column", list(committed.columns), list(recomputed.columns)):
        return _differs(fault)
    left, right = _names_of_rows(committed, key), _names_of_rows(recomputed, key)
    if fault := _different("row", left, right):
        return _differs(fault)
    note = ""
    recomputed = recomputed[list(committed.columns)]
    if left != right:
        place = {name: at for at, name in enumerate(right)}
        recomputed = recomputed.iloc[[place[name] for name in left]]
        note = "rows in another order"
    found = []
    for kind, at in _kinds_of_rows(committed, key).items():
        for column in committed.columns:
            if column in key:
                continue
            name = f"{column}/{kind}" if kind else column
            found.append(
                deviation(
                    name,
                    committed[column].to_numpy()[at],
                    recomputed[column].to_numpy()[at],
                    allowed.column(name),
                    [left[i] for i in at].__getitem__,
                )
            )
    return judged(found, note=note)


def deviation(
    column: str,
    committed: npt.NDArray[Any],
    recomputed: npt.NDArray[Any],
    share: float,
    name: Callable[[int], str],
) -> Deviation:
    """Return the largest difference between two arrays of one shape.

    Values that are no numbers, and a nan or infinite number beside another value, differ without
    bound.

    Parameters
    ----------
    column
        What the arrays are called.
    committed, recomputed
        Any dtype, the same shape.
    share
        What the difference is held to, as a share of the largest committed number.
    name
        Names a place in the flattened arrays.
    """
    a, b = committed.ravel(), recomputed.ravel()
    same = (a == b) | (pd.isna(a) & pd.isna(b))
    scale = 0.0
    if all(x.dtype.kind in "iuf" for x in (a, b)):
        with np.errstate(invalid="ignore", over="ignore"):
            sizes = np.abs(a.astype(float) - b.astype(float))
        scale = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
        sizes = np.where(same, 0.0, np.where(np.isfinite(sizes), sizes, np.inf))
    else:
        sizes = np.where(same, 0.0, np.inf)
    at = int(sizes.argmax()) if len(sizes) else 0
    largest = float(sizes[at]) if len(sizes) else 0.0
    if largest == 0:
        return Deviation(column, "", None, None, 0.0, 0.0, scale, 0, len(a))
    n_differ = int((~same).sum())
    return Deviation(
        column, name(at), a[at], b[at], largest, share * scale, scale, n_differ, len(a)
    )


def _csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, float_precision="round_trip", keep_default_na=False, na_values=[""])


def _rows(
    read: Callable[[Path], pd.DataFrame],
    check: Callable[[Path, pa.DataFrameSchema], pd.DataFrame] | None = None,
) -> Comparison:
    """Return what compares two tables; a schema that is theirs is checked and names the rows."""

    def comparison(committed: Path, recomputed: Path, allowed: Allowed) -> Finding:
        paths = (committed, recomputed)
        left, right = (read(path) for path in paths)
        columns = [list(left.columns), list(right.columns)]
        schema = next((s for s in SCHEMAS if [list(s.columns)] * 2 == columns), None)
        if schema and check:
            left, right = (check(path, schema) for path in paths)
        key = [str(name) for name in schema.unique or []] if schema else []
        return tables_side_by_side(left, right, allowed, key=key)

    return comparison


def _names_of_rows(table: pd.DataFrame, key: list[str]) -> list[str]:
    if not key:
        return [str(number) for number in range(1, len(table) + 1)]
    columns = [["" if pd.isna(value) else str(value) for value in table[name]] for name in key]
    return [
        ", ".join(f"{name}={value}" for name, value in zip(key, row, strict=True) if value)
        for row in zip(*columns, strict=True)
    ]


def _kinds_of_rows(table: pd.DataFrame, key: list[str]) -> dict[str, npt.NDArray[np.intp]]:
    """Return the places of the rows that hold one kind of number each, such as ``gini``."""
    kinds = [column for column in KINDS_OF_ROWS if column in key]
    if not kinds or table.empty:
        return {"": np.arange(len(table))}
    return {
        "/".join(str(value) for value in (name if isinstance(name, tuple) else (name,))): at
        for name, at in table.reset_index(drop=True).groupby(kinds).indices.items()
    }


def _different(what: str, committed: list[str], recomputed: list[str]) -> str:
    """Name what only one of two lists has."""
    missing = sorted(set(committed) - set(recomputed))
    extra = sorted(set(recomputed) - set(committed))
    if not (missing or extra or len(committed) != len(recomputed)):
        return ""
    parts = [
        f"{len(names)} {what}s only {where}, {names[0]} the first"
        for names, where in ((missing, "committed"), (extra, "recomputed"))
        if names
    ]
    return "; ".join(parts) or f"{len(committed)} {what}s committed, {len(recomputed)} recomputed"


def _named(what: str, read: Callable[[Path], Mapping[str, npt.NDArray[Any]]]) -> Comparison:
    """Return what compares two files of named arrays, or of values of shape ()."""

    def comparison(committed: Path, recomputed: Path, allowed: Allowed) -> Finding:
        left, right = read(committed), read(recomputed)
        if fault := _different(what, list(left), list(right)):
            return _differs(fault)
        found = []
        for name, a in left.items():
            b = right[name]
            if a.shape != b.shape or (what == "array" and a.dtype.kind != b.dtype.kind):
                both = f"{a.dtype} {a.shape} committed, {b.dtype} {b.shape} recomputed"
                return _differs(f"{what} {name} is {both}")
            found.append(deviation(name, a, b, allowed.column(name), _place(a.shape)))
        return judged(found)

    return comparison


def _place(shape: tuple[int, ...]) -> Callable[[int], str]:
    return lambda at: str(tuple(int(i) for i in np.unravel_index(at, shape))) if shape else ""


def _h5(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read every dataset and attribute of an HDF5 file, but for references between them."""
    found: dict[str, npt.NDArray[Any]] = {}

    def note(name: str, item: Any) -> None:
        held = {f"{name}@{key}": np.asarray(value) for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            value = np.asarray(item[()])
            fields = value.dtype.names
            held |= {f"{name}.{f}": value[f] for f in fields} if fields else {name: value}
        found.update({key: v for key, v in held.items() if h5py.check_ref_dtype(v.dtype) is None})

    with h5py.File(path, "r") as file:
        note("", file)
        file.visititems(note)
    return found


def _png(committed: Path, recomputed: Path, allowed: Allowed) -> Finding:
    # (height, width, channels), or without channels where there is one
    a, b = (np.atleast_3d(imread(str(path), format="png")) for path in (committed, recomputed))
    if a.shape != b.shape:
        sizes = [f"{x.shape[1]} x {x.shape[0]} pixels of {x.shape[2]} channels" for x in (a, b)]
        return _differs(f"{sizes[0]} committed, {sizes[1]} recomputed")
    differ = (a != b).any(axis=2)
    if not differ.any():
        return Finding(Status.SAME_CONTENT, "the same pixels")
    row, column = np.argwhere(differ)[0]
    return _differs(
        f"{differ.mean():.3%} of the pixels differ, the first in row {row}, column {column}"
    )


def _tree(parse: Callable[[str], Any]) -> Comparison:
    """Return what compares two files of nested mappings and lists, leaf by leaf."""
    return _named("key", lambda path: _leaves(parse(path.read_text("utf-8"))))


def _leaves(content: Any, prefix: str = "") -> dict[str, npt.NDArray[Any]]:
    inside = dict(enumerate(content)) if isinstance(content, list) else content
    if isinstance(inside, dict) and inside:
        found = (_leaves(inner, f"{prefix}.{key}".lstrip(".")) for key, inner in inside.items())
        return {key: value for leaves in found for key, value in leaves.items()}
    kind = type(inside) if type(inside) in (int, float) else object
    return {prefix: np.array(None if isinstance(inside, dict) else inside, dtype=kind)}


def _text(read: Callable[[Path], str]) -> Comparison:
    """Return what compares two texts, line by line."""

    def comparison(committed: Path, recomputed: Path, allowed: Allowed) -> Finding:
        left, right = (read(path).splitlines() for path in (committed, recomputed))
        if left == right:
            return Finding(Status.SAME_CONTENT, "the same text")
        pairs = list(zip_longest(left, right, fillvalue=""))
        differ = [number for number, (a, b) in enumerate(pairs) if a != b]
        a, b = pairs[differ[0]]
        first = next(at for at, (x, y) in enumerate(zip_longest(a, b)) if x != y)
        start = max(first - 12, 0)
        shown = [text[start : start + _SHOWN] for text in (a, b)]
        return _differs(
            f"{len(differ)} of {len(pairs)} lines differ; line {differ[0] + 1}: "
            f"{shown[0]!r} committed, {shown[1]!r} recomputed"
        )

    return comparison


class _Words(HTMLParser):
    """Collects the text of a page, without its styles, scripts and embedded pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Enter what holds no text."""
        self._silent += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        """Leave it."""
        self._silent -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        """Keep text."""
        if not self._silent and data.strip():
            self.parts.append(data.strip())


def _html(path: Path) -> str:
    words = _Words()
    words.feed(path.read_text(encoding="utf-8"))
    return "\n".join(words.parts)


def _svg(path: Path) -> str:
    """Return a drawing in canonical form, without what says who made it and when."""
    # What the study drew itself.
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314
    for parent in list(root.iter()):
        for child in [c for c in parent if str(c.tag).endswith("}metadata")]:
            parent.remove(child)
    text = ElementTree.canonicalize(ElementTree.tostring(root, encoding="unicode"), strip_text=True)
    return re.sub(r">\s*<", ">\n<", text)


def _pdf(path: Path) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(path).pages)


def _utf8(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _unzipped(path: Path) -> str:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read()


KINDS: dict[str, Comparison] = {
    ".csv": _rows(_csv, tables.read),
    ".parquet": _rows(pd.read_parquet),
    ".npy": _named("array", lambda path: {"array": np.load(path)}),
    ".safetensors": _named("array", load_file),
    ".h5ad": _named("array", _h5),
    ".png": _png,
    ".json": _tree(json.loads),
    ".yml": _tree(yaml.safe_load),
    ".yaml": _tree(yaml.safe_load),
    ".svg": _text(_svg),
    ".html": _text(_html),
    ".pdf": _text(_pdf),
    ".md": _text(_utf8),
    ".qmd": _text(_utf8),
    ".txt": _text(_utf8),
    ".gz": _text(_unzipped),
}
"""How each kind of file is compared."""

FOLLOWS = (".png", ".svg", ".html", ".pdf", ".md", ".qmd", ".yml", "/provenance.json")
"""Pictures, pages and the record of runs: they show what has a tolerance of its own."""
