"""Find numbers that were typed into the text: they would stay when the results change.

Digits are looked for, not words; a name such as Pythia-410M, code, a page of a citation and the
constants of a formula are no results.
"""

import re
from collections.abc import Iterator

from stages.base.errors import RenderError
from stages.report.source import VARIABLE, Line, Source

# A number that stands by itself: no part of a name such as Pythia-410M, L3H2 or 10x.
NUMBER = re.compile(
    r"(?<![\w.\N{HYPHEN-MINUS}])[+\N{MINUS SIGN}]?\d+(?:[.,]\d+)*%?(?![\w\N{HYPHEN-MINUS}])"
)
# What may hold digits that are no result: values put in by name, code, addresses, attributes,
# citations with their pages, references, footnote marks.
NO_PROSE = re.compile(
    r"^[^{]*\}|`[^`]*`|\]\([^)]*\)|<[^>]*>|\{[^}]*\}?|\[[^\]]*@[^\]]*\]|@[\w.:-]+|\[\^[^\]]*\]"
    r"|^\s*\d+[.)]\s"
)
DECIMAL = re.compile(r"\d+\.\d+")
INLINE_MATH = re.compile(r"\$[^$]+\$")
# What stages write: tables, and the record of their runs. Passages were copied as written by hand.
GENERATED = re.compile(r"_\w+/(?!section_)")


def check_numbers(source: Source) -> None:
    """Refuse a number that was typed into the text.

    Parameters
    ----------
    source
        The manuscript.

    Raises
    ------
    RenderError
        At the first such number, with its file and line.
    """
    for line, prose in _prose(source):
        found = NUMBER.search(prose)
        if found is not None:
            msg = (
                f"{line.place}: the number {found.group()} stands in the text by hand. "
                "Name a value of _variables.yml instead, or write a constant of a formula as "
                f"mathematics, ${found.group()}$."
            )
            raise RenderError(msg)


def _prose(source: Source) -> Iterator[tuple[Line, str]]:
    """Give every line that was written by hand, less what is no prose.

    Of mathematics only decimals are left: a formula has constants, but no measured digits.
    """
    fence = head = display = False
    for number, line in enumerate(source.lines):
        text = line.text.strip()
        if text == "---" and (number == 0 or head):
            head = not head
        elif text.startswith(("```", "~~~")):
            fence = not fence
        elif text.count("$$") == 1:
            display = not display
        elif not (
            fence
            or display
            or text.startswith("$$")
            or GENERATED.match(line.file)
            or (head and not line.text.startswith(" "))
        ):
            own = VARIABLE.sub(" ", line.text)
            own = INLINE_MATH.sub(lambda math: " ".join(DECIMAL.findall(math.group())), own)
            yield line, NO_PROSE.sub(" ", own)
