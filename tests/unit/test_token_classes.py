"""Tokens of real tokenizers, and the classes that they are of."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from stages.inputs import token_classes
from stages.inputs.mini import tokenizer as mini

TEXT = [
    "def area(width, height):\n    return width * height  # of 12 rows\n",
    "Width and height of 345 rows, said Anna; width_of(rows) is 12.\n",
] * 40


def texts_of(tokenizer):
    return {
        token_classes.written(tokenizer, token): token for token in tokenizer.get_vocab().values()
    }


@pytest.fixture(scope="module")
def bytes_of_code():
    return mini.learn(TEXT, vocab_size=308)


def test_classes_of_a_byte_level_tokenizer(bytes_of_code):
    written = texts_of(bytes_of_code)
    found = token_classes.classes(bytes_of_code, written.values(), code=True).families
    assert str(written[" return"]) in found["keyword"]["keyword"]
    assert str(written[" width"]) in found["keyword"]["other word"]
    assert str(written[" width"]) in found["place"]["begins"]
    assert str(written["width"]) in found["place"]["goes on"]
    assert str(written[" Anna"]) in found["case"]["capital"]
    assert str(written["12"] if "12" in written else written[" 12"]) in found["kind"]["number"]
    assert str(written["*"]) in found["kind"]["punctuation"]
    assert str(written["\n"]) in found["kind"]["white space"]
    part = str(bytes_of_code.token_to_id("\u00c3"))
    assert bytes_of_code.decode([int(part)]) == "\N{REPLACEMENT CHARACTER}"
    # In one family a token is of one class, and what is no text is of none.
    for sets in found.values():
        assert sum(map(len, sets.values())) == len(frozenset.union(*sets.values()))
    special = str(bytes_of_code.token_to_id(mini.SEPARATOR))
    assert not any({special, part} & of for sets in found.values() for of in sets.values())


def test_prose_has_no_keywords(bytes_of_code):
    found = token_classes.classes(bytes_of_code, range(308), code=False).families
    assert set(found) == {"kind", "place", "case"}


def test_a_space_that_sentencepiece_marks_is_seen():
    words = {"<unk>": 0, "\u2581the": 1, "the": 2, "\u2581": 3, ",": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    assert token_classes.written(tokenizer, 1) == " the"
    assert token_classes.written(tokenizer, 2) == "the"
    found = token_classes.classes(tokenizer, [1, 2, 3, 4], code=False).families
    assert found["place"] == {"begins": frozenset({"1"}), "goes on": frozenset({"2", "4"})}
    assert found["kind"]["white space"] == frozenset({"3"})
