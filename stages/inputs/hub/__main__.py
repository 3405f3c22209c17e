"""Fetch the checkpoints of a published model, verify them and put them where the settings say."""

import argparse
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from stages.base import cli
from stages.base.errors import CheckpointError
from stages.base.files import atomic_folder, file_hash, write_text
from stages.base.settings import load, needed
from stages.inputs.hub import verify
from stages.inputs.hub.download import RECORD_FILE, TOKENIZER_FILES, Fetched, alone, begin, fetch
from stages.inputs.settings import HubModel, Revision


def make(model: HubModel, *, out: Path, downloads: Path, endpoint: str | None = None) -> None:
    """Put folder `out` in place, a folder a checkpoint, whole or not at all.

    Parameters
    ----------
    model
        Which checkpoints, and what is known of them.
    out
        Gets ``<state>/`` and ``checkpoints.json``.
    downloads
        Keeps weights between runs.
    endpoint
        Address of the Hub; none: ``HF_ENDPOINT``, or the public one.

    Raises
    ------
    CheckpointError
        A checkpoint cannot be had, or is not what it is called.
    """
    # Along an axis the embedding moves away; states in an order of their own need not.
    moves = not any(math.isnan(model.position(state)) for state in model.checkpoints)
    with alone(downloads, model.name), atomic_folder(out) as fresh:
        record, drifts, all_fetched = [], [], []
        sha256: dict[str, list[str]] = {}
        first: torch.Tensor | None = None
        with tqdm(model.checkpoints, desc=model.name, unit="checkpoint") as progress:
            for state in progress:
                begun = begin(model, state, endpoint=endpoint)
                known = verify.expected(begun.config)
                # At once: no gigabyte is fetched for nothing.
                verify.check_positions(known, model.text.seq_len, config=begun.config)
                fetched = fetch(model, begun, downloads=downloads, endpoint=endpoint)
                sha256[state] = [file_hash(path) for path in fetched.weights]
                _check_known(model, fetched, sha256[state])
                verify.check_distinct(sha256)
                embedding = verify.check_weights(
                    fetched.weights, known, state=state, index=fetched.index
                )
                first = embedding if first is None else first
                if embedding.shape != first.shape:
                    msg = (
                        f"checkpoint {state} has an embedding of {tuple(embedding.shape)}, "
                        f"{model.checkpoints[0]} one of {tuple(first.shape)}: they are of two "
                        "models. Name the right repository or commit."
                    )
                    raise CheckpointError(msg)
                drifts.append(verify.drift(embedding, first))
                if moves:
                    verify.check_drift(
                        model.checkpoints[: len(drifts)], drifts, max_drop=model.max_drift_drop
                    )
                record.append(_entry(model, fetched, sha256[state], drifts[-1]))
                all_fetched.append(fetched)
        if not any(
            path.name == TOKENIZER_FILES[0] for one in all_fetched for path in one.tokenizer
        ):
            msg = (
                f"no checkpoint of {model.name} has {TOKENIZER_FILES[0]}. "
                f"Put it beside one of them and set model.local in conf/model/{model.name}.yaml."
            )
            raise CheckpointError(msg)
        for fetched in all_fetched:
            _copy(fetched, fresh / fetched.state)
        write_text(fresh / RECORD_FILE, json.dumps(record, indent=2) + "\n")


def _check_known(model: HubModel, fetched: Fetched, sha256: Sequence[str]) -> None:
    """Compare with the sha256 that the settings give, if they do."""
    pinned = model.revisions.get(fetched.state, Revision())
    for path, found in zip(fetched.weights, sha256, strict=True):
        known = pinned.sha256.get(path.name, found)
        if known != found:
            msg = (
                f"checkpoint {fetched.state}: the sha256 of {path.name} is {found}, "
                f"conf/model/{model.name}.yaml says {known}. Pin the commit that has it, or "
                "correct model.revisions if the repository has truly changed."
            )
            raise CheckpointError(msg)


def _entry(
    model: HubModel, fetched: Fetched, sha256: Sequence[str], embedding_drift: float
) -> dict[str, object]:
    return {
        "state": fetched.state,
        "repo": model.repo,
        "revision": fetched.revision,
        "commit": fetched.commit,
        "files": [
            {"name": path.name, "size_bytes": path.stat().st_size, "sha256": found}
            for path, found in zip(fetched.weights, sha256, strict=True)
        ],
        "embedding_drift": embedding_drift,
    }


def _copy(fetched: Fetched, folder: Path) -> None:
    # A link would share its bytes with a cache that may change or drop them.
    folder.mkdir()
    for path in fetched.files:
        shutil.copyfile(path, folder / path.name)


def _run(args: argparse.Namespace) -> None:
    model = needed(
        load(args.params).model,
        HubModel,
        source=args.params,
        does="downloads nothing",
        instead="--model pythia-410m-deduped",
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
        help="weights, which stay there (default: %(default)s)",
    )
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
