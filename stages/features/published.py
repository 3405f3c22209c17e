"""Read an autoencoder as the published study of Geneformer wrote it, and keep it as ours.

A folder such as ``layer05_x4_k32`` holds ``sae_final.pt``, a dictionary of ``model_state_dict``
(W_enc, W_dec with their biases), d_model, n_features and k; and ``activation_mean.npy``, what was
taken from a row first. The study's code brought the rows of the decoder to length 1, where it says
its columns: directions of features then differ in length. That is said, and changes nothing, since
scaling directions would move the k largest codes.
"""

import argparse
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.base import cli
from stages.base.errors import FeatureError
from stages.base.files import atomic_folder
from stages.features import autoencoder
from stages.features.autoencoder import Autoencoder

CHECKPOINT_FILE, MEAN_FILE = "sae_final.pt", "activation_mean.npy"
UNIT = 1e-3
"""How far from 1 a length may be that was brought to 1."""
_WEIGHTS = ("W_enc.weight", "W_enc.bias", "W_dec.weight", "W_dec.bias")


def read(folder: Path) -> Autoencoder:
    """Return the autoencoder of a published folder.

    Raises
    ------
    FeatureError
        A file is missing, holds something else than tensors and numbers, or does not fit.
    """
    try:
        content: Any = torch.load(folder / CHECKPOINT_FILE, map_location="cpu", weights_only=True)
        weights = content["model_state_dict"]
        encoder, encoder_bias, decoder, bias = (weights[name].float() for name in _WEIGHTS)
        width, n_features, k = (int(content[name]) for name in ("d_model", "n_features", "k"))
        stored = np.load(folder / MEAN_FILE, allow_pickle=False).astype(np.float32)
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        reason = " ".join(str(error).split())[:160]
        msg = (
            f"{folder} holds no published autoencoder ({type(error).__name__}: {reason}). It needs "
            f"{CHECKPOINT_FILE} (a dictionary of tensors) and {MEAN_FILE}."
        )
        raise FeatureError(msg) from None
    mean = torch.from_numpy(stored.reshape(-1))
    shapes = (tuple(encoder.shape), tuple(decoder.shape), tuple(mean.shape))
    if shapes != ((n_features, width), (width, n_features), (width,)):
        msg = (
            f"{folder}: encoder, decoder and mean have the shapes {shapes[0]}, {shapes[1]} and "
            f"{shapes[2]}, which do not fit d_model {width} and n_features {n_features}. The files "
            "are of different runs."
        )
        raise FeatureError(msg)
    return Autoencoder(encoder, encoder_bias, decoder, mean, mean + bias, k)


def unit_rows(decoder: Tensor) -> bool:
    """Return whether the rows of a decoder (width, n_features), not its columns, have length 1."""
    rows, columns = decoder.norm(dim=1), decoder.norm(dim=0)
    return bool((rows - 1).abs().max() < UNIT) and bool((columns - 1).abs().max() >= UNIT)


def _run(args: argparse.Namespace) -> None:
    found = read(args.run)
    if unit_rows(found.decoder):
        lengths = found.decoder.norm(dim=0)
        cli.log.warning(
            "%s: the rows of the decoder have length 1, not its columns: directions of features "
            "are %.3g to %.3g long, and codes of two features do not compare",
            *(args.run, float(lengths.min()), float(lengths.max())),
        )
    with atomic_folder(args.out) as folder:
        autoencoder.save(found, folder, {"published": args.run.name})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = cli.parser(__doc__)
    parser.add_argument("--run", type=Path, required=True, help="published folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of our layout")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
