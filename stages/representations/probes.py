"""Ask what a model of cells knows: of hidden genes, of a cell's label, of its place in an order.

By the last layer of some states of the model, by all of the first and of the last, and beside what
needs no model: genes guessed by their frequency at a rank, with and without those that are seen
already; and probes of principal components of expression. Probes are linear (discriminant analysis
with shrinkage, ridge regression), fitted on the cells that the model learnt from and judged on
others, or on halves where none are held out.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from stages.base import cli, tables
from stages.base.errors import SettingsError
from stages.base.settings import load
from stages.inputs.encoders import encoded, expression, vocabulary
from stages.inputs.encoders.encoded import Encoded
from stages.inputs.encoders.measured import chosen, held_out, text
from stages.inputs.settings import CellInput, MiniCellModel
from stages.measurement import effects, resampling
from stages.measurement.streams import stream
from stages.models.architectures import architecture_of
from stages.models.devices import devices, matmul_precision
from stages.models.load import load_model
from stages.representations import gather
from stages.representations.arrays import EMBEDDING, layer_name
from stages.representations.frequency import by_rank, losses
from stages.representations.sequences import ordinary, whole_cells
from stages.representations.settings import Probes
from stages.representations.streams import streams, width_of
from stages.representations.tables.probes import PROBES

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

RIDGE = tuple(10.0 ** np.arange(-2, 5))
CELLS_WITH_LABEL = 5
"""A label that fewer cells of the fit have is left out."""


def judged(cells: pd.DataFrame, asked: CellInput, seed: int) -> Mask:
    """Return which cells probes are judged on: those held out, or a random half."""
    if asked.held_out:
        return held_out(cells, asked)
    return np.asarray(stream(seed, "halves").permutation(len(cells)) % 2 == 0)


def of_label(vectors: Floats, labels: NDArray[np.str_], test: Mask) -> Floats:
    """Return for each judged cell whether a linear probe finds its label: 0 or 1.

    Cells whose label is too rare among those of the fit are not judged.
    """
    names, counts = np.unique(labels[~test], return_counts=True)
    known = np.isin(labels, names[counts >= CELLS_WITH_LABEL])
    fit, judge = ~test & known, test & known
    scaled = StandardScaler().fit(vectors[fit])
    probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    probe.fit(scaled.transform(vectors[fit]), labels[fit])
    return np.asarray(probe.predict(scaled.transform(vectors[judge])) == labels[judge], dtype=float)


def of_order(vectors: Floats, order: Floats, test: Mask) -> tuple[Floats, Floats]:
    """Return squared errors of a linear probe of `order` on judged cells, and of their mean."""
    scaled = StandardScaler().fit(vectors[~test])
    probe = RidgeCV(alphas=RIDGE).fit(scaled.transform(vectors[~test]), order[~test])
    error = (probe.predict(scaled.transform(vectors[test])) - order[test]) ** 2
    return error, (order[test] - order[test].mean()) ** 2


def means(
    cells: Encoded, checkpoint: Path, device: str, *, last: bool = False
) -> dict[int, Floats]:
    """Return the mean over genes of each cell, (n_cells, width), by layer, or of the last alone."""
    on = torch.device(devices(device)[0])
    architecture = architecture_of(load_model(checkpoint, device=on))
    every = (EMBEDDING, *range(architecture.n_layers))
    layers = every[-1:] if last else every
    ids, lengths = np.asarray(cells.ids), cells.cells["length"].to_numpy(dtype=np.int64)
    inside = np.arange(ids.shape[1]) < lengths[:, np.newaxis]
    with matmul_precision("float32"):
        batches = streams(
            architecture,
            whole_cells(ids, lengths, cells.values, architecture),
            layers,
            device=on,
        )
        genes = ordinary(vocabulary.read(checkpoint))[ids]
        found = gather.means(batches, inside & genes, layers, width_of(architecture))
    return dict(zip(layers, found, strict=True))


class _Rows:
    """Collects the rows of the table, with intervals over cells."""

    def __init__(self, params: Probes) -> None:
        self.params = params
        self.found: list[dict[str, object]] = []

    def add(
        self, measure: str, of: Mapping[str, object], values: Floats, total: Floats | None = None
    ) -> None:
        """Add the mean over cells, or 1 less the ratio of means to those of `total`."""
        params = self.params
        rng = stream(params.seed, measure)
        weights = resampling.group_weights(len(values), params.draws, rng)
        value, drawn = values.mean(), weights @ values
        if total is not None:
            value, drawn = 1 - value / total.mean(), 1 - drawn / (weights @ total)
        low, high = resampling.percentile_interval(drawn, confidence=params.confidence)
        self.found.append(
            {"position": np.nan, "layer": None, **of}
            | {"measure": measure, "value": value, "low": low, "high": high}
            | {"n_cells": len(values)}
        )

    def probed(
        self, of: Mapping[str, object], vectors: Floats, cells: pd.DataFrame, test: Mask
    ) -> None:
        """Add what probes of some vectors find, of what the cells have."""
        label, order = self.params.label, self.params.order
        if label in cells:
            self.add("label", of, of_label(vectors, cells[label].astype(str).to_numpy(), test))
        if order in cells:
            self.add("order", of, *of_order(vectors, cells[order].to_numpy(float), test))


def _guesses(
    cells: Encoded, checkpoint: Path, asked: CellInput, test: Mask
) -> Iterator[tuple[str, Floats]]:
    """Yield what frequencies cost on the measured cells; nothing where values are hidden."""
    architecture = architecture_of(load_model(checkpoint))
    if architecture.mask_value is not None:
        return
    known = vocabulary.read(checkpoint)
    frequencies = by_rank(np.asarray(cells.ids[~test]), ordinary(known))
    rows, _ = chosen(cells.cells, asked)
    read = text(cells, known, architecture, rows, seed=asked.seed)
    scored = np.zeros(read.inputs.shape, bool) if read.scored is None else read.scored.numpy()
    for name, repeats in (("rank", True), ("rank, no gene twice", False)):
        of = losses(frequencies, read.inputs.numpy(), read.targets.numpy(), scored, repeats=repeats)
        yield name, of


def states_of(model: MiniCellModel, params: Probes) -> list[str]:
    """Return the states that are probed, in order: the first, the last, and those that are named.

    Raises
    ------
    SettingsError
        One that is named is none of the model's checkpoints.
    """
    if unknown := [name for name in params.states if name not in model.checkpoints]:
        msg = (
            f"probes.states names {unknown[0]}, which is no checkpoint of {model.name}: "
            f"{', '.join(model.checkpoints)}. Change it in conf/config.yaml."
        )
        raise SettingsError(msg)
    kept = {model.checkpoints[0], model.checkpoints[-1], *params.states}
    return [state for state in model.checkpoints if state in kept]


def _of_model(model: MiniCellModel, state: str) -> dict[str, object]:
    return {"source": "model", "name": state, "position": model.position(state)}


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    model, params = settings.cellmodel, settings.probes
    cells, asked = encoded.read(args.cells), model.cells
    test = judged(cells.cells, asked, params.seed)
    rows = _Rows(params)
    stated = {
        part.state.name: part.baseline
        for part in effects.read_states(args.effects, model.checkpoints)
    }
    for state, baseline in stated.items():
        if baseline is not None:
            rows.add("loss", _of_model(model, state), baseline)
    for name, guessed in _guesses(cells, args.checkpoints / model.checkpoints[-1], asked, test):
        rows.add("loss", {"source": "frequency", "name": name}, guessed)
    in_file = cells.cells["row"].to_numpy()
    chunks = expression.logs(Path(str(asked.h5ad)), asked.encoding, in_file)
    logs = np.concatenate([chunk.astype(np.float32) for chunk in chunks])
    # No more of them than there are.
    most = min(*logs.shape, int((~test).sum()))
    for count in sorted({min(count, most) for count in params.components}):
        pca = PCA(count, random_state=0, svd_solver="covariance_eigh").fit(logs[~test])
        of: dict[str, object] = {"source": "expression", "name": f"PCA-{count}"}
        rows.probed(of, pca.transform(logs), cells.cells, test)
    ends = (model.checkpoints[0], model.checkpoints[-1])
    for state in states_of(model, params):
        # Every layer where training begins and ends, the last along the way.
        found = means(cells, args.checkpoints / state, args.device, last=state not in ends)
        for layer, vectors in found.items():
            of = _of_model(model, state) | {"layer": layer_name(layer)}
            rows.probed(of, vectors, cells.cells, test)
    table = pd.DataFrame(rows.found, columns=list(PROBES.columns))
    tables.write(table, PROBES, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of <state>/")
    parser.add_argument("--cells", type=Path, required=True, help="folder of encoded cells")
    parser.add_argument("--effects", type=Path, required=True, help="folder of <state>.parquet")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:0")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
