r"""A TopK autoencoder on rows of a residual stream: its loss, its training, its file.

A row :math:`x` has the codes :math:`z = \mathrm{ReLU}(\mathrm{TopK}_k(E (x - b) + e))` and the
reconstruction :math:`D z + b`, with a decoder :math:`D` whose columns, the directions of features,
have length 1 [1]_. The step on :math:`D` is taken along the sphere: what its gradient has along a
column is removed, and the column is brought back to length 1. Features that have not fired for many
rows are dead, and are trained to reconstruct what the others leave (the auxiliary loss of [1]_).

References
----------
.. [1] Gao, L. et al. (2024). Scaling and evaluating sparse autoencoders. arXiv:2406.04093.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.base.errors import FeatureError
from stages.features.settings import Training

Floats = NDArray[np.float32]
Kind = Literal["trained", "frozen_decoder", "soft_frozen_decoder", "frozen_encoder"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SOFT_COSINE = 0.8
"""How near a softly frozen direction stays to where it began (arXiv:2602.14111)."""
WEIGHTS_FILE, CONFIG_FILE = "autoencoder.safetensors", "autoencoder.json"
_SHAPES = {
    "encoder": ("n_features", "width"),
    "encoder_bias": ("n_features",),
    "decoder": ("width", "n_features"),
    "before": ("width",),
    "after": ("width",),
}


@dataclass(frozen=True)
class Autoencoder:
    """A dictionary of directions in one residual stream, and how rows are coded in it."""

    encoder: Tensor
    """(n_features, width)"""
    encoder_bias: Tensor
    """(n_features,)"""
    decoder: Tensor
    """(width, n_features); a column is the direction of a feature."""
    before: Tensor
    """Taken from a row before it is coded: (width,)."""
    after: Tensor
    """Added to what is decoded: (width,)."""
    k: int
    """Codes of a row that may be above 0."""
    means: Tensor | None = None
    """Mean of the stream by the id that is read there, (n_ids, width), taken from a row first."""

    @property
    def n_features(self) -> int:
        """Return the number of features."""
        return int(self.encoder.shape[0])

    def centred(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Return rows less the mean of what is read there.

        Parameters
        ----------
        rows
            (..., width)
        ids
            What the model reads at each: (...).
        """
        return rows if self.means is None else rows - self.means[ids]

    def encode(self, rows: Tensor) -> Tensor:
        """Return the codes of centred rows: (..., width) -> (..., n_features)."""
        codes = torch.addmm(
            self.encoder_bias, (rows - self.before).flatten(0, -2), self.encoder.T
        ).view(*rows.shape[:-1], self.n_features)
        return top(codes, self.k)

    def decode(self, codes: Tensor) -> Tensor:
        """Return centred rows from codes: (..., n_features) -> (..., width)."""
        return codes @ self.decoder.T + self.after

    def to(self, device: torch.device) -> "Autoencoder":
        """Return it on a device."""
        moved = {name: getattr(self, name).to(device) for name in _SHAPES}
        means = None if self.means is None else self.means.to(device)
        return replace(self, **moved, means=means)


def top(codes: Tensor, k: int) -> Tensor:
    """Return codes of which all but the k largest, and those below 0, are 0: (..., n_features)."""
    largest, at = codes.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(codes).scatter_(-1, at, largest.clamp_(min=0))


@dataclass(frozen=True)
class Start:
    """What a training starts from."""

    encoder: Tensor
    decoder: Tensor
    centre: Tensor
    scale: float


def _start(rows: Tensor, params: Training, generator: torch.Generator) -> Start:
    """Draw unit directions, the encoder their transpose; centre and scale are those of the rows."""
    width = rows.shape[1]
    decoder = torch.randn(width, params.features, generator=generator)
    decoder /= decoder.norm(dim=0)
    centre = rows.mean(dim=0)
    scale = float((rows - centre).norm(dim=1).mean())
    return Start(decoder.T.clone(), decoder, centre / scale, scale)


def train(
    rows: Floats,
    params: Training,
    *,
    seed: int,
    kind: Kind = "trained",
    device: torch.device | None = None,
) -> Autoencoder:
    """Train an autoencoder on rows; the same rows and seed give the same weights.

    Parameters
    ----------
    rows
        Centred rows of the stream, (n_rows, width), finite.
    params
        Number of features, k, and how it is trained.
    seed
        Draws the start and the order of the rows.
    kind
        ``trained``; or a baseline in which a part stays as drawn: the decoder, the decoder but for
        turns up to a cosine of :data:`SOFT_COSINE`, or the encoder.
    device
        Where it is trained; it comes back to the CPU.

    Raises
    ------
    FeatureError
        There are fewer rows than in one batch, or more features are to fire than there are.
    """
    if len(rows) < params.batch or params.k > params.features:
        msg = (
            f"an autoencoder of {params.features} features, {params.k} of them at a time, cannot "
            f"be trained on {len(rows)} rows in batches of {params.batch}. Lower "
            "autoencoders.training, or harvest more rows (autoencoders.positions)."
        )
        raise FeatureError(msg)
    generator = torch.Generator().manual_seed(seed)
    whole = torch.from_numpy(rows)
    start = _start(whole, params, generator)
    on = device or torch.device("cpu")
    whole, first_decoder = whole.to(on), start.decoder.to(on)
    encoder, decoder = start.encoder.to(on), first_decoder.clone()
    encoder_bias = torch.zeros(params.features, device=on)
    centre = start.centre.to(on)
    learnt = {"encoder": encoder, "encoder_bias": encoder_bias, "centre": centre}
    learnt["decoder"] = decoder
    if kind == "frozen_decoder":
        del learnt["decoder"]
    if kind == "frozen_encoder":
        del learnt["encoder"]
    step = _Adam(learnt, params)
    since = torch.zeros(params.features, dtype=torch.long, device=on)
    n_steps = params.epochs * (len(rows) // params.batch)
    number = 0
    for _ in range(params.epochs):
        order = torch.randperm(len(rows), generator=generator).to(on)
        for first in range(0, len(rows) - params.batch + 1, params.batch):
            x = whole[order[first : first + params.batch]] / start.scale
            slopes, fired = _slopes(
                x, encoder, encoder_bias, decoder, centre, params, since > params.dead_after
            )
            since += params.batch
            since[fired] = 0
            if "decoder" in learnt:
                along = (slopes["decoder"] * decoder).sum(dim=0)
                slopes["decoder"] -= decoder * along
            # Linear to zero over the last fifth.
            left = (n_steps - number) / max(1, n_steps // 5)
            step(slopes, min(1.0, left))
            number += 1
            if "decoder" in learnt:
                decoder /= decoder.norm(dim=0)
                if kind == "soft_frozen_decoder":
                    _within_cone(decoder, first_decoder)
    after = (centre * start.scale).cpu()
    bias = (encoder_bias * start.scale).cpu()
    return Autoencoder(encoder.cpu(), bias, decoder.cpu(), after, after.clone(), params.k)


def _slopes(
    x: Tensor,
    encoder: Tensor,
    encoder_bias: Tensor,
    decoder: Tensor,
    centre: Tensor,
    params: Training,
    dead: Tensor,
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the slopes of the loss, and which features fired, from a batch.

    The loss is the squared error over the variance of the batch, plus
    ``params.auxiliary`` times the same of what dead features make of the error.
    """
    inside = x - centre
    before = torch.addmm(encoder_bias, inside, encoder.T)
    codes = top(before, params.k)
    error = torch.addmm(inside, codes, decoder.T, alpha=-1)
    total = (x - x.mean(dim=0)).square().sum()
    slope = error * (-2 / total)  # of the reconstruction
    back = (slope @ decoder) * (codes > 0)
    slopes = {"decoder": slope.T @ codes, "centre": slope.sum(dim=0)}
    if bool(dead.any()):
        k = min(params.dead_k, int(dead.sum()))
        revived = top(before.masked_fill(~dead, -torch.inf), k)
        left = torch.addmm(error, revived, decoder.T, alpha=-1)
        aux = left * (-2 * params.auxiliary / error.square().sum())
        back += (aux @ decoder) * (revived > 0)
        slopes["decoder"] += aux.T @ revived
    slopes["encoder"] = back.T @ inside
    slopes["encoder_bias"] = back.sum(dim=0)
    slopes["centre"] -= back.sum(dim=0) @ encoder
    return slopes, (codes > 0).any(dim=0)


class _Adam:
    """Adam [Kingma and Ba 2015] on a few tensors, in place."""

    def __init__(self, values: dict[str, Tensor], params: Training) -> None:
        self._values, self._rate = values, params.learning_rate
        self._first = {name: torch.zeros_like(value) for name, value in values.items()}
        self._second = {name: torch.zeros_like(value) for name, value in values.items()}
        self._steps = 0

    def __call__(self, slopes: dict[str, Tensor], share: float) -> None:
        self._steps += 1
        for name, value in self._values.items():
            first, second = self._first[name], self._second[name]
            first.lerp_(slopes[name], 0.1)
            second.mul_(0.999).addcmul_(slopes[name], slopes[name], value=0.001)
            size = (second / (1 - 0.999**self._steps)).sqrt_().add_(1e-8)
            rate = self._rate * share / (1 - 0.9**self._steps)
            value.addcdiv_(first, size, value=-rate)


def _within_cone(decoder: Tensor, start: Tensor) -> None:
    """Turn columns back, in place, to a cosine of at least SOFT_COSINE with where they began."""
    cosine = (decoder * start).sum(dim=0)
    across = decoder - start * cosine
    across /= across.norm(dim=0).clamp(min=1e-12)
    nearest = SOFT_COSINE * start + (1 - SOFT_COSINE**2) ** 0.5 * across
    decoder[:, cosine < SOFT_COSINE] = nearest[:, cosine < SOFT_COSINE]


def explained(autoencoder: Autoencoder, rows: Tensor) -> float:
    """Return the share of the variance of centred rows that their reconstruction explains.

    1 - sum |x - x'|^2 / sum |x - mean|^2, the sums over rows and dimensions.
    """
    error = total = 0.0
    mean = rows.mean(dim=0)
    for part in torch.split(rows, 8192):
        found = autoencoder.decode(autoencoder.encode(part))
        error += float((part - found).double().square().sum())
        total += float((part - mean).double().square().sum())
    return 1 - error / total


def frequencies(autoencoder: Autoencoder, rows: Tensor) -> NDArray[np.float64]:
    """Return in which share of centred rows each feature fires: (n_features,)."""
    fired = torch.zeros(autoencoder.n_features, dtype=torch.float64)
    for part in torch.split(rows, 8192):
        fired += (autoencoder.encode(part) > 0).sum(dim=0).cpu()
    return np.asarray(fired / len(rows))


def best_cosines(directions: Tensor, others: Tensor) -> NDArray[np.float64]:
    """Return of each column of `directions` the largest cosine with a column of `others`: (n,).

    (width, n) and (width, m); columns of length 0 have none, and give 0.
    """
    one, two = (
        of.double() / of.double().norm(dim=0).clamp(min=1e-12) for of in (directions, others)
    )
    return np.asarray((one.T @ two).max(dim=1).values)


def tensors_of(autoencoder: Autoencoder) -> dict[str, Tensor]:
    """Return its tensors by name; ``k`` is what they do not say."""
    tensors = {name: getattr(autoencoder, name).contiguous() for name in _SHAPES}
    if autoencoder.means is not None:
        tensors["means"] = autoencoder.means.contiguous()
    return tensors


def save(autoencoder: Autoencoder, folder: Path, statement: dict[str, Any]) -> None:
    """Write weights (safetensors) and what they are (JSON) into a folder that exists."""
    save_file(tensors_of(autoencoder), folder / WEIGHTS_FILE)
    content = statement | {
        "k": autoencoder.k,
        "n_features": autoencoder.n_features,
        "width": int(autoencoder.decoder.shape[0]),
    }
    text = json.dumps(content, indent=1, sort_keys=True)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def load(folder: Path) -> Autoencoder:
    """Read an autoencoder.

    Raises
    ------
    FeatureError
        It is missing or damaged, or its arrays do not fit one another.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS_FILE)
        found = Autoencoder(
            **{name: tensors[name] for name in _SHAPES},
            k=int(config["k"]),
            means=tensors.get("means"),
        )
        sizes = {name: int(config[name]) for name in ("n_features", "width")}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"{folder} holds no autoencoder ({reason}). Remove it and run dvc repro autoencoders."
        raise FeatureError(msg) from None
    _check(found, sizes, folder)
    return found


def _check(found: Autoencoder, sizes: dict[str, int], where: Path) -> None:
    for name, shape in _SHAPES.items():
        expected = tuple(sizes[part] for part in shape)
        actual = tuple(getattr(found, name).shape)
        if actual != expected:
            msg = (
                f"{where}: {name} has the shape {actual}, where {expected} is needed. "
                "It is damaged, or of another layout."
            )
            raise FeatureError(msg)
        if not bool(torch.isfinite(getattr(found, name)).all()):
            msg = f"{where}: {name} holds values that are nan or infinite. Train it again."
            raise FeatureError(msg)
