"""The first sheet of an Excel file."""

from collections.abc import Iterator
from datetime import date, time
from pathlib import Path

import pandas as pd

from stages.base.errors import AtlasError
from stages.inputs.formats.wanted import Wanted


def pieces(path: Path, wanted: Wanted) -> Iterator[pd.DataFrame]:
    """Yield the columns as categories of text, in one piece; only an empty cell is missing.

    Raises
    ------
    AtlasError
        A column is missing or there twice, or Excel has turned its values into dates.
    """
    # calamine: no other reader that pandas knows leaves the entities of XML alone.
    sheet = pd.read_excel(
        path, header=None, dtype=object, engine="calamine", keep_default_na=False, na_values=[""]
    )
    names = ["" if pd.isna(name) else str(name) for name in sheet.iloc[0]] if len(sheet) else []
    wanted.require(path, names)
    rows = sheet.iloc[1:].set_axis(names, axis=1)[wanted.columns].reset_index(drop=True)
    for column, values in rows.items():
        if (dates := values.map(lambda value: isinstance(value, date | time))).any():
            msg = (
                f"column {column} of {path} holds the date {values[dates].iloc[0]}, into which "
                "Excel turns names like 3-8. Format the column as text and enter it again, or give "
                "a CSV."
            )
            raise AtlasError(msg)
    yield rows.map(lambda value: None if pd.isna(value) else str(value)).astype("category")
