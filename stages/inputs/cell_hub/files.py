"""Which files make a published model of cells, and where they come from.

Named files alone are fetched: what else a repository holds (``training_args.bin``, a pickle of the
trainer's settings) is never looked at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stages.base.errors import CheckpointError
from stages.inputs.encoders.vocabulary import VOCABULARY_FILE
from stages.inputs.hub.download import (
    CONFIG_FILE,
    WEIGHT_FILES,
    Local,
    Remote,
    Source,
    may_lack,
    state_folder,
)
from stages.inputs.settings import DictionaryRole, HubCellModel
from stages.models import scgpt

PATTERNS: Mapping[DictionaryRole, str] = {
    "tokens": "token_dictionary*.pkl",
    "medians": "gene_median_dictionary*.pkl",
    "names": "gene_name_id_dict*.pkl",
    "mapping": "ensembl_mapping_dict*.pkl",
    "vocab": "vocab.json",
}
"""Names of the published dictionaries, of any version."""
_OTHER_NAMES: tuple[DictionaryRole, ...] = ("names", "mapping")


@dataclass(frozen=True)
class Begun:
    """The small files of a state, which say what its weights must be."""

    source: Source
    """Gives the weights."""
    revision: str
    """What was asked for: a commit or a branch."""
    commit: str | None
    """What it resolved to; unknown of a local folder."""
    config: Path
    dictionaries: Mapping[DictionaryRole, Path]
    """By role; empty where `vocabulary` is there instead."""
    vocabulary: Path | None = None
    """A ``vocabulary.json`` that was made of them before."""


def conf_of(model: HubCellModel) -> str:
    """Return the file of settings, for messages."""
    return f"conf/cellmodel/{model.name}.yaml"


def begin(
    model: HubCellModel, state: str, *, downloads: Path, endpoint: str | None = None
) -> Begun:
    """Return the config and the dictionaries of a state.

    Parameters
    ----------
    model
        Says where from.
    downloads
        Keeps large files, finished or not.
    endpoint
        Address of the Hub; none: ``HF_ENDPOINT``, or the public one.

    Raises
    ------
    CheckpointError
        A revision or file that does not exist, or no network; one line says how to do without.
    """
    config_name = _in_folder(model, _config_file(model))
    if model.local is not None:
        local = _local(model, model.local, state)
        config = local.file(config_name)
        paths = {role: local.whole(of.path) for role, of in model.dictionaries.items()}
        made = local.present(VOCABULARY_FILE)
        if not paths and made is None:
            paths = _found(model, local)
        return Begun(local, state, None, config, paths, None if paths else made)
    revision = model.commit or state
    remote, config = _remote(model, revision, state, downloads, endpoint).resolved(config_name)
    paths = {role: remote.whole(of.path) for role, of in model.dictionaries.items()}
    return Begun(remote, revision, remote.revision, config, paths)


def weight_names(model: HubCellModel) -> tuple[str, ...]:
    """Return where its weights may lie in its repository; the first that is there is taken."""
    names = WEIGHT_FILES if model.is_geneformer else scgpt.WEIGHT_FILES
    return tuple(_in_folder(model, name) for name in names)


def _config_file(model: HubCellModel) -> str:
    return CONFIG_FILE if model.is_geneformer else scgpt.ARGS_FILE


def _in_folder(model: HubCellModel, name: str) -> str:
    return str(PurePosixPath(model.subfolder or "") / name)


def _remote(
    model: HubCellModel, revision: str, state: str, downloads: Path, endpoint: str | None
) -> Remote:
    return Remote(
        repo=str(model.repo),
        revision=revision,
        state=state,
        group="cellmodel",
        name=model.name,
        pin="cellmodel.commit",
        by_hand=f"{_config_file(model)}, the weights and the dictionaries",
        optional=may_lack(weight_names(model)),
        endpoint=endpoint,
        downloads=downloads,
        asked=revision,
    )


def _local(model: HubCellModel, root: Path, state: str) -> Local:
    name = _config_file(model)
    folder = state_folder(
        root,
        state,
        model.checkpoints,
        configs=[name, _in_folder(model, name)],
        group="cellmodel",
    )
    family = "a Geneformer" if model.is_geneformer else "an scGPT"
    wanted = f"the files of {family} (the preset {model.cells.encoding.preset} reads one)"
    if model.repo is not None:
        wanted = f"what {model.repo} has at its revision {model.commit or state}"
    return Local(folder, wanted, f"cellmodel.local of {conf_of(model)}")


def _found(model: HubCellModel, local: Local) -> dict[DictionaryRole, Path]:
    """Find dictionaries that no setting names by their published names."""
    roles = [role for role in PATTERNS if (role != "vocab") == model.is_geneformer]
    found: dict[DictionaryRole, Path] = {}
    for role in roles:
        paths = sorted(local.folder.glob(PATTERNS[role]))
        if len(paths) > 1:
            msg = (
                f"{local.folder} has {paths[0].name} and {paths[1].name}. Name the one of this "
                f"model: cellmodel.dictionaries.{role}.path, with the others, in {conf_of(model)}."
            )
            raise CheckpointError(msg)
        if paths:
            found[role] = paths[0]
        elif role not in _OTHER_NAMES:
            msg = (
                f"{local.folder} has no {PATTERNS[role]}, nor {VOCABULARY_FILE}. Put there the "
                "dictionaries that were published with these weights."
            )
            raise CheckpointError(msg)
    return found
