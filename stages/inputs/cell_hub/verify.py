"""Say what must be true of a published model of cells: one version throughout, and whole.

Geneformer's V1 and V2 do not mix: id 2 is a gene in one and ``<cls>`` in the other, and nothing
would fail. scGPT's own loader leaves weights of another shape at random.
"""

import json
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from stages.base.errors import AblationError, CheckpointError
from stages.base.files import file_hash
from stages.inputs.cell_hub.files import Begun, conf_of
from stages.inputs.encoders import dictionaries, vocabulary
from stages.inputs.encoders import scgpt as bins
from stages.inputs.encoders.presets import PRESETS
from stages.inputs.encoders.vocabulary import Vocabulary
from stages.inputs.hub import verify
from stages.inputs.hub.download import Weights
from stages.inputs.settings import HubCellModel, KnownFile
from stages.models import scgpt
from stages.models.architectures import family
from stages.models.load import require_whole

FAMILY = "bert"
"""Geneformer's, in ``config.json``."""


def check_known(path: Path, known: KnownFile, *, model: HubCellModel) -> dict[str, object]:
    """Compare a file with what the settings know of it; return its name, size and sha256.

    Raises
    ------
    CheckpointError
        It differs.
    """
    said = {"size_bytes": path.stat().st_size, "sha256": file_hash(path)}
    for key, value in said.items():
        if getattr(known, key) not in {None, value}:
            msg = (
                f"{path.name} ({path}) has the {key} {value}, {conf_of(model)} says "
                f"{getattr(known, key)}. Delete it and fetch it again; or pin the commit that has "
                "it, or correct the settings if it has truly changed."
            )
            raise CheckpointError(msg)
    return {"name": path.name, **said}


def check_pins_were_met(names: Set[str], *, model: HubCellModel) -> None:
    """Check that every file which the settings know came: else nothing was compared with it.

    Raises
    ------
    CheckpointError
        One did not.
    """
    if missed := sorted(model.files.keys() - names):
        msg = (
            f"{conf_of(model)} pins {missed[0]}, and what came is {', '.join(sorted(names))}. Give "
            "the pinned file, or correct cellmodel.files."
        )
        raise CheckpointError(msg)


def vocabulary_of(model: HubCellModel, begun: Begun) -> tuple[Vocabulary, int]:
    """Return the genes that a state knows, and how many other names were of none of them.

    Raises
    ------
    CheckpointError
        A dictionary is damaged or would run code; they are of two versions, or of another than the
        model or the preset; or the model pads with another id.
    """
    config, paths, dropped = begun.config, begun.dictionaries, 0
    said = _json(config)
    if begun.vocabulary is not None:
        known = vocabulary.read(begun.vocabulary.parent)
    elif model.is_geneformer:
        known, dropped = dictionaries.geneformer(
            paths["tokens"],
            paths["medians"],
            names=paths.get("names"),
            mapping=paths.get("mapping"),
            config=config,
        )
    else:
        known, _ = dictionaries.scgpt(paths["vocab"])
    if model.is_geneformer:
        dictionaries.require_size(config, len(known), "the vocabulary has")
    # BERT's default.
    pad = said.get("pad_token_id", 0 if model.is_geneformer else known.pad)
    if pad != known.pad:
        msg = (
            f"{config} says pad_token_id {pad!r}, and the dictionary gives <pad> the id "
            f"{known.pad}: padding would be read as a gene. Fetch both from one commit, or correct "
            "pad_token_id."
        )
        raise CheckpointError(msg)
    PRESETS[model.cells.encoding.preset].require(known, model.cells.encoding.preset)
    return known, dropped


def expected(model: HubCellModel, begun: Begun, known: Vocabulary) -> Any:
    """Return what a state's config says of its weights, before they are fetched.

    Raises
    ------
    CheckpointError
        The config describes no such model, or one that cannot read what the preset writes.
    """
    config, encoding = begun.config, model.cells.encoding
    if model.is_geneformer:
        found = verify.expected(config)
        if (named := _json(config)["model_type"]) != FAMILY:
            msg = (
                f"{config} is of the family {named!r}; a Geneformer is {FAMILY!r}. "
                f"Correct cellmodel.repo or local in {conf_of(model)}."
            )
            raise CheckpointError(msg)
        verify.check_positions(
            found, encoding.width, config=config, key="cellmodel.cells.encoding.max_length"
        )
        return found
    with _as_checkpoint_error():
        made = scgpt.config_of(_json(config), asdict(known), str(config.parent))
    preset = PRESETS[encoding.preset]
    if preset.order == "binned":
        read = {"n_bins": made.n_bins, "pad_value": made.pad_value}
        written = {"n_bins": bins.N_EDGES + 1, "pad_value": preset.pad_value}
        for key, value in read.items():
            if value != written[key]:
                msg = (
                    f"{config} says {key} {value:g}; the preset {encoding.preset} writes "
                    f"{written[key]:g}. Choose a model that was trained on such values."
                )
                raise CheckpointError(msg)
    return made


def check_weights(state: str, config: Path, said: Any, weights: Weights) -> None:
    """Check names, shapes and values of all weights against what `expected` returned.

    Raises
    ------
    CheckpointError
        One is missing, unknown, of another shape or not finite; or a file is damaged.
    """
    files, index = weights
    if isinstance(said, verify.Expected):
        verify.check_weights(files, said, state=state, index=index)
        return
    if index is not None:
        msg = f"checkpoint {state}: an scGPT in parts ({index}) is not read. Join them."
        raise CheckpointError(msg)
    where = str(config.parent)
    with verify.opened(files[0], state=state) as tensors, _as_checkpoint_error():
        built, report = scgpt.build(said, tensors, torch.float32, where)
        require_whole(
            built,
            report,
            where,
            described=config.name,
            unused=family(said.model_type, where).unused,
        )


@contextmanager
def _as_checkpoint_error() -> Iterator[None]:
    """Say what is wrong with a model as one says it of a file that was fetched."""
    try:
        yield
    except AblationError as error:
        raise CheckpointError(str(error)) from None


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is no JSON ({' '.join(str(error).split())[:200]}). Fetch it again."
        raise CheckpointError(msg) from None
    if not isinstance(content, dict):
        msg = f"{path} holds no JSON object. Fetch it again."
        raise CheckpointError(msg)
    return content
