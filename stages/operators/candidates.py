"""What is held against the gates: operators, and what needs no operator."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stages.measurement.streams import stream
from stages.operators.maps import Kind, Maps, drift
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
        kept = vectors[:, order[:count]]
        yield Candidate(
            "expression", f"PCA-{count}", "", lambda inputs, by=kept: inputs.x @ by, n * count
        )


def of_model(maps: Maps, state: str, width: int) -> Iterator[Candidate]:
    """Yield what a state of the model gives without an operator, and its pooled operators."""
    n, hidden = maps.embedding.shape
    by = maps.embedding.astype(float)
    yield Candidate("embedding", "gene embedding", state, lambda inputs: inputs.x @ by, n * hidden)
    # The stream needs the whole model.
    yield Candidate("residual", "last block", state, lambda inputs: inputs.states[state], width)
    for kind in maps.kinds:
        size = 3 * n * n
        yield Candidate(
            kind, "drift", state, lambda inputs, kind=kind: drift(maps.pooled(inputs.x, kind)), size
        )
        for place, third in enumerate(("early", "middle", "late")):
            yield Candidate(
                kind,
                third,
                state,
                lambda inputs, kind=kind, place=place: maps.pooled(inputs.x, kind)[place],
                n * n,
            )


def single(maps: Maps, state: str, kind: Kind) -> list[Candidate]:
    """Return every head alone."""
    return [
        Candidate(
            kind,
            f"L{layer}H{head}",
            state,
            lambda inputs, layer=layer, head=head: _alone(maps, inputs, kind, layer, head),
            maps.n_bytes(kind) // 4,
        )
        for layer, head in maps.heads
    ]


def _alone(maps: Maps, inputs: Inputs, kind: Kind, layer: int, head: int) -> Floats:
    """Return features of a head in as few dimensions as it has: distances are those of x A."""
    if kind == "attn_mean":
        return maps.apply(inputs.x, kind, layer, head)
    writes = np.linalg.qr(maps.writes[layer, head].astype(float), mode="r")
    return np.asarray((inputs.x @ maps.reads[layer, head]) @ writes.T)


def same_spectrum(maps: Maps, state: str, kind: Kind, *, draws: int, seed: int) -> list[Candidate]:
    """Return random operators with the singular values of the drift operator of a kind.

    Both bases are random. Features are given in the basis that is written, which no distance
    depends on.
    """
    n = len(maps.items)
    whole = drift(maps.pooled(np.eye(n), kind))
    values = np.clip(np.linalg.eigvalsh(whole @ whole.T), 0, None)[::-1]
    found = []
    for draw in range(draws):
        gaussian = stream(seed, "spectrum", kind, draw).standard_normal((n, n))
        basis, _ = np.linalg.qr(gaussian)
        by = basis * np.sqrt(values)
        found.append(
            Candidate("random", f"{kind} {draw}", state, lambda inputs, by=by: inputs.x @ by, n * n)
        )
    return found


def kernels(candidates: Mapping[str, Candidate], inputs: Inputs) -> dict[str, Floats]:
    """Return the products of the features of all rows of each candidate."""
    found = {}
    for name, candidate in candidates.items():
        features = candidate.of(inputs)
        found[name] = features @ features.T
    return found
