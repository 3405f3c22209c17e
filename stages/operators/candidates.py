"""What is held against the gates: operators, and what needs no operator."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stages.measurement.streams import stream
from stages.operators.maps import THIRDS, Kind, Maps, drift
from stages.operators.panel import Inputs

Floats = NDArray[np.float64]
Source = Literal["expression", "embedding", "residual", "attn_mean", "ov_weight", "random"]


@dataclass(frozen=True)
class Candidate:
    """Something that makes features of cells, or of their means."""

    source: Source
    name: str
    state: str
    """Of the model; empty where none is needed."""
    of: Callable[[Inputs], Floats]
    """Features, (rows, width); linear in its inputs."""
    n_parameters: int
    """Numbers that have to be kept to make them."""

    @property
    def n_bytes(self) -> int:
        """What these take in float32."""
        return 4 * self.n_parameters


def plain(cells: Inputs, components: list[int]) -> Iterator[Candidate]:
    """Yield expression as it is, and its principal components (of all cells, without labels)."""
    n = cells.x.shape[1]
    yield Candidate("expression", "raw", "", lambda inputs: inputs.x, 0)
    centred = cells.x - cells.x.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(-values, kind="stable")
    for count in sorted({min(count, n) for count in components}):
        yield _by("expression", f"PCA-{count}", "", vectors[:, order[:count]])


def of_model(maps: Maps, state: str, *, residual: bool = False) -> Iterator[Candidate]:
    """Yield what a state of the model gives without an operator, and its pooled operators."""
    n, hidden = maps.embedding.shape
    by = maps.embedding.astype(float)
    yield Candidate("embedding", "gene embedding", state, lambda inputs: inputs.x @ by, n * hidden)
    if residual:
        yield Candidate("residual", "last block", state, _residual, 0)
    for kind in maps.kinds:
        pooled = maps.pooled(kind)
        yield _by(kind, "drift", state, drift(pooled))
        for name, matrix in zip(THIRDS, pooled, strict=True):
            yield _by(kind, name, state, matrix)


def _by(source: Source, name: str, state: str, matrix: Floats) -> Candidate:
    return Candidate(source, name, state, lambda inputs: inputs.x @ matrix, matrix.size)


def single(maps: Maps, state: str, kind: Kind) -> list[Candidate]:
    """Return every head alone."""
    return [
        Candidate(
            kind,
            f"L{layer}H{head}",
            state,
            partial(_alone, maps, kind, layer, head),
            maps.n_bytes(kind) // 4,
        )
        for layer, head in maps.heads
    ]


def _residual(inputs: Inputs) -> Floats:
    if inputs.residual is None:
        msg = "the residual stream was not kept"
        raise ValueError(msg)
    return inputs.residual


def _alone(maps: Maps, kind: Kind, layer: int, head: int, inputs: Inputs) -> Floats:
    """Return features of a head in as few dimensions as it has: distances are those of x A."""
    if kind == "attn_mean":
        return np.asarray(inputs.x @ maps.matrix(kind, layer, head))
    writes = np.asarray(np.linalg.qr(maps.writes[layer, head].astype(float), mode="r"))
    return np.asarray((inputs.x @ maps.reads[layer, head]) @ writes.T)


def same_spectrum(
    maps: Maps, state: str, kind: Kind, rows: Inputs, *, draws: int, seed: int
) -> list[Candidate]:
    """Return random operators with the singular values of the drift operator of a kind.

    Both bases are random. Only what they make of `rows` is drawn, and in the basis that is written,
    which no distance depends on: the rows span few of the directions of a random basis.
    """
    whole = drift(maps.pooled(kind))
    sigma = np.sqrt(np.clip(np.linalg.eigvalsh(whole @ whole.T), 0, None))
    _, _, span = np.linalg.svd(rows.x, full_matrices=False)
    found = []
    for draw in range(draws):
        gaussian = stream(seed, "spectrum", kind, draw).standard_normal((len(sigma), len(span)))
        frame, _ = np.linalg.qr(gaussian)
        found.append(_by("random", f"{kind} {draw}", state, span.T @ (frame.T * sigma)))
    return found
