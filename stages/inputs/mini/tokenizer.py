"""Learn a byte-level byte-pair encoding, of the kind that Pythia's tokenizer is."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from stages.base.errors import CheckpointError
from stages.base.files import write_text
from stages.inputs.mini.corpus import SEPARATOR

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"


def learn(documents: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Train on documents; the end of a text has id 0, as in Pythia.

    Raises
    ------
    CheckpointError
        The text is too small for so many tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    if (n_tokens := tokenizer.get_vocab_size()) != vocab_size:
        msg = (
            f"the corpus gives {n_tokens} different tokens, train.vocab_size asks for "
            f"{vocab_size}. Lower it or name more packages in conf/model/pythia-mini.yaml."
        )
        raise CheckpointError(msg)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the two files that `transformers` reads a tokenizer from."""
    write_text(folder / TOKENIZER_FILE, tokenizer.to_str(pretty=True) + "\n")
    config = {
        "bos_token": SEPARATOR,
        "eos_token": SEPARATOR,
        "unk_token": SEPARATOR,
        "add_prefix_space": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2, sort_keys=True) + "\n")


def encode(tokenizer: Tokenizer, documents: Iterable[str]) -> npt.NDArray[np.int32]:
    """Return the tokens of documents, with the end-of-text token between two of them."""
    end = int(tokenizer.token_to_id(SEPARATOR) or 0)
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(list(documents), add_special_tokens=False):
        if ids:
            ids.append(end)
        ids += encoding.ids
    return np.asarray(ids, dtype=np.int32)
