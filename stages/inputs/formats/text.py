"""Tables in text: comma, semicolon or tab, UTF-8 or UTF-16, also compressed."""

import bz2
import csv
import gzip
import lzma
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile, is_zipfile

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv

from stages.base.errors import AtlasError
from stages.inputs.formats import coded, refused
from stages.inputs.formats.wanted import Wanted

SEPARATORS = ",;\t"
HEAD_BYTES = 512
BLOCK_BYTES = 1 << 24
"""How much of a text is parsed at once; no row may be longer."""
UNPACK: Mapping[bytes, Callable[[Path, str], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
SHOWN = 5


def pieces(path: Path, wanted: Wanted) -> Iterator[pd.DataFrame]:
    """Yield the columns as categories of text; only an empty field is missing.

    Raises
    ------
    AtlasError
        The file is no text, or in another encoding; a column is missing, or a row has more or
        fewer fields than the first.
    """
    with _unpacked(path) as (file, packed):
        head = file.read(HEAD_BYTES)
        refused.beginning(path, head, packed=packed)
        encoding = "utf-16" if head.startswith(refused.UTF16) else "utf-8-sig"
        file.seek(0)
        try:
            yield from _rows(path, file, encoding, wanted)
        except (UnicodeError, pa.ArrowInvalid) as error:
            raise _fault(path, error) from None


@contextmanager
def _unpacked(path: Path) -> Iterator[tuple[IO[bytes], bool]]:
    """Open a file, decompressed; also say whether it was compressed."""
    with ExitStack() as stack:
        if is_zipfile(path):
            archive = stack.enter_context(ZipFile(path))
            yield stack.enter_context(archive.open(_member(path, archive))), True
            return
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        opens = next((opens for magic, opens in UNPACK.items() if head.startswith(magic)), None)
        if opens is None:
            yield stack.enter_context(path.open("rb")), False
        else:
            yield stack.enter_context(opens(path, "rb")), True


def _member(path: Path, archive: ZipFile) -> str:
    """Return the only file of an archive, beside those that a Mac adds."""
    names = [
        info.filename
        for info in archive.infolist()
        if not info.is_dir() and not info.filename.startswith("__MACOSX/")
    ]
    if len(names) != 1:
        shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        msg = (
            f"{path} is an archive of {len(names)} files ({shown}), and not of one. Unpack it, "
            f"find the table of cells and {refused.GIVE}."
        )
        raise AtlasError(msg)
    return names[0]


def _rows(path: Path, file: IO[bytes], encoding: str, wanted: Wanted) -> Iterator[pd.DataFrame]:
    lines = TextIOWrapper(file, encoding=encoding)
    first = lines.readline().rstrip("\n")
    lines.detach()
    headers = {mark: next(csv.reader([first], delimiter=mark), []) for mark in SEPARATORS}
    separator = max(headers, key=lambda mark: len(headers[mark]))
    wanted.require(path, headers[separator])
    file.seek(0)
    # Not pandas: it takes a row with one field too many without a word and shifts its values.
    with pa_csv.open_csv(
        file,
        read_options=pa_csv.ReadOptions(
            block_size=BLOCK_BYTES, encoding=encoding.removesuffix("-sig")
        ),
        parse_options=pa_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            include_columns=wanted.columns,
            column_types=dict.fromkeys(wanted.columns, pa.dictionary(pa.int32(), pa.string())),
            null_values=[""],
            strings_can_be_null=True,
        ),
    ) as reader:
        yield from coded.frames(reader.schema, reader)


def _fault(path: Path, error: Exception) -> AtlasError:
    reason = " ".join(str(error).split())
    if isinstance(error, UnicodeError) or "UTF8" in reason:
        return AtlasError(
            f"{path} is text in neither UTF-8 nor UTF-16. Write it again as UTF-8; if it is of "
            f"Windows: iconv -f WINDOWS-1252 -t UTF-8 {path} > cells.csv."
        )
    return AtlasError(
        f"{path} is no table of cells as text ({reason[:200]}). Every row must have as many "
        "fields as the first (a last row with fewer was cut off: fetch the file again); text with "
        "a separator or line break in it stands in double quotes. From R: write.csv(), or "
        'write.table(sep = "\\t", col.names = NA).'
    )
