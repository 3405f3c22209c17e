"""Fetch the checkpoints of a published model of cells, verify them, and write what stages read."""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages.base import cli
from stages.base.files import atomic_folder, write_text
from stages.base.settings import load, needed
from stages.inputs.cell_hub import files, verify
from stages.inputs.encoders import vocabulary
from stages.inputs.hub.download import RECORD_FILE, alone
from stages.inputs.hub.verify import check_distinct
from stages.inputs.settings import HubCellModel, KnownFile


def make(model: HubCellModel, *, out: Path, downloads: Path, endpoint: str | None = None) -> None:
    """Put folder `out` in place, a folder a checkpoint, whole or not at all.

    Parameters
    ----------
    model
        Which model, and what is known of its files.
    out
        Gets ``<state>/`` with ``config.json`` or ``args.json``, weights and ``vocabulary.json``;
        and ``checkpoints.json``.
    downloads
        Keeps large files between runs.
    endpoint
        Address of the Hub; none: ``HF_ENDPOINT``, or the public one.

    Raises
    ------
    CheckpointError
        A file cannot be had, or is not what it is called.
    """
    with alone(downloads, model.name), atomic_folder(out) as fresh:
        record = []
        sha256: dict[str, list[str]] = {}
        for state in tqdm(model.checkpoints, desc=model.name, unit="checkpoint"):
            entry = _brought(model, state, fresh / state, downloads=downloads, endpoint=endpoint)
            sha256[state] = [file["sha256"] for file in entry["weights"]]
            check_distinct(sha256, key="cellmodel.checkpoints")
            record.append(entry)
        write_text(fresh / RECORD_FILE, json.dumps(record, indent=2) + "\n")


def _brought(
    model: HubCellModel, state: str, folder: Path, *, downloads: Path, endpoint: str | None
) -> dict[str, Any]:
    """Fill the folder of a state and return what is to be recorded of it."""
    begun = files.begin(model, state, downloads=downloads, endpoint=endpoint)
    pinned = model.dictionaries
    beside = [
        {"role": role, **verify.check_known(path, pinned.get(role, KnownFile()), model=model)}
        for role, path in begun.dictionaries.items()
    ]
    config = _known(model, begun.config)
    # All that the small files say is checked before a gigabyte is fetched.
    known, dropped = verify.vocabulary_of(model, begun)
    said = verify.expected(model, begun, known)
    paths, index = begun.source.weights(files.weight_names(model))
    weights = [_known(model, path) for path in paths]
    verify.check_pins_were_met({begun.config.name, *(path.name for path in paths)}, model=model)
    verify.check_weights(state, begun.config, said, (paths, index))
    folder.mkdir()
    for path in [begun.config, *paths, *([] if index is None else [index])]:
        # A link would share its bytes with a cache that may change or drop them.
        shutil.copyfile(path, folder / path.name)
    vocabulary.write(known, folder)
    return {
        "state": state,
        "repo": model.repo,
        "subfolder": model.subfolder,
        "revision": begun.revision,
        "commit": begun.commit,
        "config": config,
        "weights": weights,
        "dictionaries": beside,
        "vocabulary": {
            "size": len(known),
            "synonyms": len(known.synonyms or {}),
            "synonyms_without_a_token": dropped,
        },
    }


def _known(model: HubCellModel, path: Path) -> dict[str, object]:
    return verify.check_known(path, model.files.get(path.name, KnownFile()), model=model)


def _run(args: argparse.Namespace) -> None:
    model = needed(
        load(args.params).cellmodel,
        HubCellModel,
        source=args.params,
        does="downloads nothing",
        instead="--cellmodel geneformer-v2-104m --set cellmodel.cells.h5ad=/path/to.h5ad",
    )
    make(model, out=args.out, downloads=args.downloads)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--downloads",
        type=Path,
        default=Path("data/downloads"),
        help="large files, which stay there (default: %(default)s)",
    )
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
