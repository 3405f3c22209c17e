"""Read place and kind off operators and their baselines, and make operators small, step by step.

Anchors of the donors of the fit lead features onto the ruler; linear probes of the coordinates read
the cells of donors that were held out. Beside them a small network on frozen embeddings,
diffusion pseudotime and, where they are asked for, Palantir and scVI. Maps and probes are fitted
anew at every step of the compression; differences are tested over donors, who are few, and not over
cells or splits, which are many.
"""

import argparse
import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from stages.base import cli, tables
from stages.base.errors import SettingsError
from stages.base.settings import Settings, load
from stages.measurement import resampling
from stages.measurement.streams import stream
from stages.operators import candidates, rulers
from stages.operators.adaptors import Ridge
from stages.operators.candidates import Candidate
from stages.operators.endpoints import Endpoints, donor_groups
from stages.operators.maps import THIRDS, Kind, Maps, factors
from stages.operators.panel import Inputs, Prepared, add_arguments, counts, maps_of, prepare
from stages.operators.settings import OperatorReadouts
from stages.operators.tables.readouts import OPERATOR_READOUTS

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
EPOCHS = 40
NEIGHBOURS = 15
COMPONENTS = 50
SPANNED = 1e-9
"""Of the largest variance of the anchors: directions with less are none."""


@dataclass
class _Found:
    """Endpoints of one candidate by donor."""

    source: str
    name: str
    state: str
    n_parameters: int
    reference: str = ""
    """The candidate whose compression it is."""
    by_donor: dict[str, dict[str, Floats]] = field(default_factory=dict)
    """By what is read: coordinates on the ruler, or features."""


class Readouts:
    """Cells, anchors and endpoints; every candidate is read in the same way."""

    def __init__(
        self, prepared: Prepared, inputs: Inputs, params: OperatorReadouts, dimensions: int
    ) -> None:
        self.params, self.dimensions = params, dimensions
        self.prepared, self.inputs = prepared, inputs
        self.cells, self.panel = prepared.cells, prepared.panel
        self.anchors = prepared.panel.inputs(inputs)
        self.endpoints = Endpoints.of(self.cells, prepared.ruler.kinds, params.pairs)
        self.groups = donor_groups(self.cells.donor, params.donor_folds)
        there = np.unique(self.panel.kind)
        known = prepared.ruler.hops()[np.ix_(there, there)]
        places = rulers.coordinates(known, dimensions)
        self.wanted = places[np.searchsorted(there, self.panel.kind)]
        # Of kinds without an anchor no place is known.
        self.known = np.isin(self.cells.kind, there)
        at = np.searchsorted(there, self.cells.kind)
        self.places = places[np.minimum(at, len(there) - 1)]

    def fitted(self, group: set[str]) -> NDArray[np.int64]:
        """Return the anchors of donors outside a group."""
        return np.flatnonzero(~np.isin(self.panel.donor, list(group)))

    def error(self, features: Floats, group: set[str]) -> float:
        """Return the error of anchors left out by donor, inside the fit."""
        rows = self.fitted(group)
        fit = Ridge.fit(features @ features.T, rows, self.panel.donor[rows])
        return float(fit.errors(self.wanted[rows]).min())

    def made(self, of: Callable[[Inputs], Floats]) -> tuple[Floats, Floats]:
        """Return features of anchors, (anchors, width), and their products with those of cells."""
        anchors = of(self.anchors)
        return anchors, of(self.inputs) @ anchors.T

    def read(self, into: _Found, made: tuple[Floats, Floats], group: set[str]) -> None:
        """Lead cells onto the ruler by features, and read a group of donors off it.

        Cells that probes are fitted on lie where the anchors of other donors put them: their own
        anchors are means of themselves. The strength is that with which they lie best. Without the
        ruler, probes read the features in the span of the anchors of the fit.
        """
        (anchors, products), rows = made, self.fitted(group)
        kernel = np.concatenate([anchors @ anchors.T, products])
        donors = np.concatenate([self.panel.donor, self.cells.donor])
        fit = Ridge.fit(kernel, rows, self.panel.donor[rows])
        every = fit.outside(self.wanted[rows], donors)
        every = every[:, len(self.panel) :]
        fitted = ~np.isin(self.cells.donor, list(group)) & self.known
        errors = ((every[:, fitted] - self.places[fitted]) ** 2).sum(axis=(1, 2))
        centred = anchors[rows] - anchors[rows].mean(axis=0)
        values, vectors = np.linalg.eigh(centred @ centred.T)
        kept = values > values[-1] * SPANNED
        along = vectors[:, kept] / np.sqrt(values[kept])
        span = (products[:, rows] - products[:, rows].mean(axis=1, keepdims=True)) @ along
        for through, features in (("ruler", every[int(errors.argmin())]), ("features", span)):
            weights, offset = self.endpoints.probes(features, fitted)
            self.keep(into, through, features @ weights + offset, group)

    def keep(self, into: _Found, through: str, scores: Floats, group: set[str]) -> None:
        """Keep what scores say of each donor of a group."""
        of = into.by_donor.setdefault(through, {})
        for donor in sorted(group):
            some = np.flatnonzero(self.cells.donor == donor)
            of[donor] = self.endpoints.values(scores[some], some)


def readouts(
    prepared: Prepared,
    inputs: Inputs,
    maps_of: Mapping[str, Maps],
    params: OperatorReadouts,
    *,
    dimensions: int,
    components: list[int],
    counts: Floats | None = None,
) -> pd.DataFrame:
    """Return the table of all candidates; arguments as of `operator_gates.gates`.

    Parameters
    ----------
    counts
        Of the cells, for scVI: (n_cells, n_items).
    """
    by = Readouts(prepared, inputs, params, dimensions)
    found: list[_Found] = []
    for candidate in _plain(inputs, maps_of, components):
        one = _Found(candidate.source, candidate.name, candidate.state, candidate.n_parameters)
        made = by.made(candidate.of)
        for group in by.groups:
            by.read(one, made, group)
        found.append(one)
    last = list(maps_of)[-1]
    for kind in maps_of[last].kinds:
        found += _compressed(by, maps_of[last], last, kind)
    if inputs.residual is not None:
        found.append(_network(by, inputs.residual, last))
    if counts is not None:
        found.append(_latent(by, counts))
    if by.endpoints.order is not None:
        found += _pseudotimes(by)
    return _table(by, found)


def _plain(
    inputs: Inputs, maps_of: Mapping[str, Maps], components: list[int]
) -> Iterator[Candidate]:
    yield from candidates.plain(inputs, components)
    for state, of in maps_of.items():
        with_stream = inputs.residual is not None and state == list(maps_of)[-1]
        for candidate in candidates.of_model(of, state, residual=with_stream):
            if candidate.name not in THIRDS:
                yield candidate


def _compressed(by: Readouts, maps: Maps, state: str, kind: Kind) -> list[_Found]:
    """Return the best head, chosen inside each fold, and what is left of it at every step."""
    heads = candidates.single(maps, state, kind)
    features = [head.of(by.anchors) for head in heads]
    steps: dict[str, _Found] = {}
    for group in by.groups:
        best = int(np.argmin([by.error(one, group) for one in features]))
        for name, of, size in _steps(maps, kind, heads[best], *maps.heads[best], by.params):
            one = steps.setdefault(name, _Found(kind, name, state, size, "drift"))
            by.read(one, by.made(of), group)
    return list(steps.values())


def _steps(
    maps: Maps,
    kind: Kind,
    whole: Candidate,
    layer: int,
    head: int,
    params: OperatorReadouts,
) -> Iterator[tuple[str, Callable[[Inputs], Floats], int]]:
    """Yield a head, its truncated decompositions and the hard-sparse one, with their sizes.

    Of `ov_weight` only ranks below the head's own, which is that of the whole.
    """
    yield "best head", whole.of, whole.n_parameters
    if kind != "ov_weight":
        return
    u, sigma, v = factors(maps.reads[layer, head], maps.writes[layer, head])
    n, d_head = u.shape
    for rank in sorted({rank for rank in params.ranks if rank < d_head}, reverse=True):
        by = u[:, :rank] * sigma[:rank]
        yield f"rank {rank}", partial(_along, by), rank * 2 * n
    kept = min(params.sparse_factors, d_head)
    read, wrote = _largest(u[:, :kept], params.read), _largest(v[:, :kept], params.write)
    by = read * sigma[:kept] @ np.asarray(np.linalg.qr(wrote, mode="r")).T
    # A kept entry is a number and its place.
    size = 2 * kept * (min(params.read, n) + min(params.write, n))
    yield f"sparse {kept}", partial(_along, by), size


def _along(by: Floats, inputs: Inputs) -> Floats:
    return np.asarray(inputs.x @ by)


def _largest(columns: Floats, count: int) -> Floats:
    """Return columns with all but their largest entries set to 0."""
    rank = (-np.abs(columns)).argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    return np.where(rank < count, columns, 0.0)


def _network(by: Readouts, residual: Floats, state: str) -> _Found:
    """Return what a network with one hidden layer reads off frozen embeddings, without a ruler."""
    hidden, ends_of = by.params.hidden, by.endpoints
    n_kinds = len(ends_of.kinds)
    size = (residual.shape[1] + 1) * hidden + (hidden + 1) * ends_of.n_scores
    one = _Found("residual", f"network of {hidden}", state, size)
    options = {"hidden_layer_sizes": (hidden,), "max_iter": EPOCHS, "learning_rate_init": 3e-3}
    options |= {"random_state": 0}
    for group in by.groups:
        fit = ~np.isin(by.cells.donor, list(group))
        scaled = (residual - residual[fit].mean(axis=0)) / (residual[fit].std(axis=0) + 1e-12)
        scores = np.full((len(residual), ends_of.n_scores), np.log(1e-12))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            kinds = MLPClassifier(**options).fit(scaled[fit], ends_of.place[fit])
            scores[:, kinds.classes_] = np.log(kinds.predict_proba(scaled) + 1e-12)
            if ends_of.order is not None:
                wanted = (ends_of.order - ends_of.order.mean()) / ends_of.order.std()
                order = MLPRegressor(**options).fit(scaled[fit], wanted[fit])
                scores[:, n_kinds] = order.predict(scaled)
        for number, (low, high) in enumerate(reversed(ends_of.pairs), start=1):
            scores[:, -number] = scores[:, high] - scores[:, low]
        by.keep(one, "features", scores, group)
    return one


def _pseudotimes(by: Readouts) -> Iterator[_Found]:
    """Yield pseudotimes from the middle of the root's cells, which need no donor to fit on.

    By diffusion (Haghverdi et al. 2016) and, if it is asked for, Palantir (Setty et al. 2019), with
    the settings of their authors.
    """
    logs = by.prepared.logs - by.prepared.logs.mean(axis=0)
    values, vectors = np.linalg.eigh(logs.T @ logs)
    components = logs @ vectors[:, np.argsort(-values, kind="stable")[:COMPONENTS]]
    root = np.flatnonzero(by.cells.kind == by.cells.kind.min())
    middle = components[root].mean(axis=0)
    start = int(root[((components[root] - middle) ** 2).sum(axis=1).argmin()])
    times = {"diffusion pseudotime": _diffusion}
    times |= {"Palantir": _palantir} if "palantir" in by.params.extras else {}
    for name, of in times.items():
        scores = np.zeros((len(logs), by.endpoints.n_scores))
        scores[:, len(by.endpoints.kinds)] = of(components, start)
        one = _Found("expression", name, "", 0)
        for group in by.groups:
            by.keep(one, "features", scores, group)
            for donor in group:
                one.by_donor["features"][donor][1:] = np.nan
        yield one


def _diffusion(components: Floats, start: int) -> Floats:
    import scanpy as sc
    from anndata import AnnData

    data = AnnData(components)
    sc.pp.neighbors(data, n_neighbors=NEIGHBOURS, use_rep="X", method="gauss")
    sc.tl.diffmap(data, n_comps=15, random_state=0)
    data.uns["iroot"] = start
    sc.tl.dpt(data)
    return np.asarray(np.nan_to_num(data.obs["dpt_pseudotime"].to_numpy(), posinf=1.0))


def _palantir(components: Floats, start: int) -> Floats:
    palantir = _extra("palantir", "palantir")
    table = pd.DataFrame(components, index=[str(cell) for cell in range(len(components))])
    # It prints what it does.
    with contextlib.redirect_stdout(io.StringIO()):
        maps = palantir.utils.run_diffusion_maps(table, seed=0)
        space = palantir.utils.determine_multiscale_space(maps)
        found = palantir.core.run_palantir(
            space, str(start), use_early_cell_as_start=True, n_jobs=1, seed=0
        )
    return np.asarray(found.pseudotime.reindex(table.index), dtype=float)


def _latent(by: Readouts, counts: Floats) -> _Found:
    """Return what is read off the latent space of scVI (Lopez et al. 2018), of its defaults.

    It learns from all cells, without their kinds; donors are its batches.
    """
    latent, size = _scvi(counts, by.cells.donor)
    one = _Found("expression", "scVI", "", size)
    anchors = by.panel.mean(latent)
    for group in by.groups:
        by.read(one, (anchors, latent @ anchors.T), group)
    return one


def _scvi(counts: Floats, batch: NDArray[np.str_], epochs: int | None = None) -> tuple[Floats, int]:
    """Return latent vectors of cells, (n_cells, 10), and how many numbers their encoder has."""
    scvi = _extra("scvi", "scvi-tools")
    from anndata import AnnData

    data = AnnData(counts.astype(np.float32))
    data.obs["batch"] = batch
    # It says on both what it does, and warns of the number of processors.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scvi.settings.seed = 0
        scvi.settings.verbosity = logging.ERROR
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        scvi.model.SCVI.setup_anndata(data, batch_key="batch")
        model = scvi.model.SCVI(data)
        model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, logger=False)
        latent = model.get_latent_representation()
    encoder = model.module.z_encoder.parameters()
    return np.asarray(latent, dtype=float), sum(part.numel() for part in encoder)


def _extra(name: str, package: str) -> Any:
    """Import a package that is not among the requirements; its types are not known."""
    try:
        return importlib.import_module(name)
    except ImportError:
        msg = (
            f"operator_readouts.extras names {name}, which is not installed. "
            f"pip install {package}, or take it out."
        )
        raise SettingsError(msg) from None


def _table(by: Readouts, found: list[_Found]) -> pd.DataFrame:
    """Return rows of all candidates and endpoints, with losses against the reference."""
    donors = sorted(found[0].by_donor["ruler"])
    rng = stream(by.params.seed, "donors")
    weights = resampling.group_weights(len(donors), by.params.draws, rng)
    every = {
        (one.source, one.name, one.state, through): np.stack([of[donor] for donor in donors])
        for one in found
        for through, of in one.by_donor.items()
    }
    rows: list[dict[str, object]] = []
    for one in found:
        for through in one.by_donor:
            values = every[one.source, one.name, one.state, through]
            reference = every.get((one.source, one.reference, one.state, through))
            for at, endpoint in enumerate(by.endpoints.names):
                known = np.isfinite(values[:, at])
                if not known.any():
                    continue
                shares = weights * known
                drawn = shares @ np.where(known, values[:, at], 0) / shares.sum(axis=1)
                low, high = resampling.percentile_interval(drawn, confidence=by.params.confidence)
                loss, p = np.nan, np.nan
                if reference is not None:
                    lost = (reference - values)[known, at]
                    loss = float(lost.mean())
                    p = resampling.signed_rank(lost).p if lost.any() else 1.0
                rows.append(
                    {
                        "source": one.source,
                        "name": one.name,
                        "state": one.state or None,
                        "through": through,
                        "endpoint": endpoint,
                        "value": float(values[known, at].mean()),
                        "low": float(low),
                        "high": float(high),
                        "loss": loss,
                        "p": p,
                        "q": np.nan,
                        "n_parameters": one.n_parameters,
                        "n_bytes": 4 * one.n_parameters,
                        "n_donors": int(known.sum()),
                    }
                )
    table = pd.DataFrame(rows, columns=list(OPERATOR_READOUTS.columns))
    table["q"] = resampling.benjamini_hochberg(table["p"])
    return table


def _run(args: argparse.Namespace) -> None:
    settings: Settings = load(args.params)
    of = maps_of(args, settings)
    prepared = prepare(args, settings, next(iter(of.values())))
    table = tables.empty(OPERATOR_READOUTS)
    if prepared is not None:
        params, maps = settings.operator_readouts, next(iter(of.values()))
        with_counts = "scvi" in params.extras
        table = readouts(
            prepared,
            prepared.inputs(args.maps),
            of,
            params,
            dimensions=settings.operator_gates.dimensions[-1],
            components=settings.operator_gates.components,
            counts=counts(args, settings, maps, prepared.cells) if with_counts else None,
        )
    tables.write(table, OPERATOR_READOUTS, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    add_arguments(parser)
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
