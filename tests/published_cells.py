"""Tiny models of cells in the layouts in which Geneformer and scGPT are published."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM

from tests.unit import test_scgpt

N_GENES, POSITIONS = 30, 40
IDS = [f"ENSG{number:011d}" for number in range(1, N_GENES + 1)]
SYMBOLS = [f"GENE{number}" for number in range(1, N_GENES + 1)]
RETIRED = "ENSG99999999999"
"""The id that the first gene had once."""
SPECIAL = {"v1": {"<pad>": 0, "<mask>": 1}, "v2": {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}}
FOLDERS = {"v1": "Geneformer-V1-10M", "v2": "Geneformer-V2-104M"}
DICTIONARIES = {
    version: {
        "tokens": f"geneformer/{folder}token_dictionary_{mark}.pkl",
        "medians": f"geneformer/{folder}gene_median_dictionary_{mark}.pkl",
        "names": f"geneformer/{folder}gene_name_id_dict_{mark}.pkl",
        "mapping": f"geneformer/{folder}ensembl_mapping_dict_{mark}.pkl",
    }
    for version, folder, mark in (("v1", "gene_dictionaries_30m/", "gc30M"), ("v2", "", "gc104M"))
}
MEDIANS = dict(zip(IDS, np.random.default_rng(3).uniform(0.5, 3, N_GENES), strict=True))


def pickled(content: Mapping[str, object]) -> bytes:
    """Return a dictionary as the published ones are written."""
    return pickle.dumps(content, protocol=4)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (str(self.folder),)


def geneformer(folder: Path, version: str = "v2", *, seed: int = 0, **config: Any) -> Path:
    """Write a clone of Geneformer's repository with one model, and return it.

    At its root lies another model, as in the published one, and beside the weights the pickle
    that nobody may read.
    """
    special = SPECIAL[version]
    sizes = {"vocab_size": N_GENES + len(special), "max_position_embeddings": POSITIONS}
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    common = {"intermediate_size": 32, "hidden_act": "relu", "pad_token_id": 0}
    # Wide, so that every head has an effect far above rounding.
    made = sizes | shape | common | {"initializer_range": 0.3} | config
    own = folder / FOLDERS[version]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertForMaskedLM(BertConfig(**made)).save_pretrained(own)
        BertForMaskedLM(BertConfig(**made | {"num_hidden_layers": 1})).save_pretrained(folder)
    (own / "training_args.bin").write_bytes(pickled({"evil": Evil(folder / "evil")}))
    ids = special | {gene: np.int16(len(special) + i) for i, gene in enumerate(IDS)}
    contents = {
        "tokens": ids,
        "medians": {gene: np.float64(median) for gene, median in MEDIANS.items()},
        "names": dict(zip(SYMBOLS, IDS, strict=True)) | {"NOVEL": "ENSG77777777777"},
        "mapping": {gene: gene for gene in IDS} | {RETIRED: IDS[0]},
    }
    for role, name in DICTIONARIES[version].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(pickled(contents[role]))
    return folder


def scgpt(folder: Path, *, vocabulary: Mapping[str, int] | None = None, **args: Any) -> Path:
    """Write a folder with scGPT's three files, and return it."""
    weights = test_scgpt.published() | test_scgpt.extras()
    known = test_scgpt.VOCABULARY if vocabulary is None else vocabulary
    return test_scgpt.write(folder, weights, vocabulary=known, **args)


def files_of(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder by their names in it, as the Hub serves them."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def changed(path: Path, **values: object) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), encoding="utf-8")
