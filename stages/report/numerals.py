"""Find numbers that were typed into the text: they would stay when the results change.

Digits are looked for, not words; a name such as Pythia-410M, code, a page of a citation and the
constants of a formula are no results.
"""

import re
from collections.abc import Iterator

from stages.base.errors import RenderError

# A number that stands by itself: no part of a name such as Pythia-410M, L3H2 or 10x.
NUMBER = re.compile(
    r"(?<![\w.\N{HYPHEN-MINUS}])[+\N{MINUS SIGN}]?\d+(?:[.,]\d+)*%?(?![\w\N{HYPHEN-MINUS}])"
)
# What may hold digits that are no result: code, addresses, attributes, citations with their pages,
# references, footnote marks.
NO_PROSE = re.compile(
    r"^[^{]*\}|`[^`]*`|\]\([^)]*\)|<[^>]*>|\{[^}]*\}?|\[[^\]]*@[^\]]*\]|@[\w.:-]+|\[\^[^\]]*\]"
    r"|^\s*\d+[.)]\s"
)
DECIMAL = re.compile(r"\d+\.\d+")
INLINE_MATH = re.compile(r"\$[^$]+\$")


def check_numbers(name: str, text: str) -> None:
    """Refuse a number that was typed into the text.

    Parameters
    ----------
    name
        Of the template, for the message.
    text
        The template, less all that computes.

    Raises
    ------
    RenderError
        At the first such number, with its file and line.
    """
    for number, prose in _prose(text):
        found = NUMBER.search(prose)
        if found is not None:
            msg = (
                f"{name}, line {number}: the number {found.group()} stands in the text by hand. "
                "Put in a value of a table, or write a constant of a formula as mathematics, "
                f"${found.group()}$."
            )
            raise RenderError(msg)


def _prose(text: str) -> Iterator[tuple[int, str]]:
    """Give every line with its number, less what is no prose.

    Of mathematics only decimals are left: a formula has constants, but no measured digits.
    """
    fence = head = display = False
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped == "---" and (number == 1 or head):
            head = not head
        elif stripped.startswith(("```", "~~~")):
            fence = not fence
        elif stripped.count("$$") == 1:
            display = not display
        elif not (
            fence or display or stripped.startswith("$$") or (head and not line.startswith(" "))
        ):
            own = INLINE_MATH.sub(lambda math: " ".join(DECIMAL.findall(math.group())), line)
            yield number, NO_PROSE.sub(" ", own)
