"""Hold operators, and what needs no operator, against the gates of the study and harder ones.

Anchors are led onto the ruler from the features of each candidate, and judged where they were held
out: at random, by donor, by branch of the tree. The published gates are passed by a ruler that is
wrong in all donors alike, since what tells kinds apart can be led onto any points; a branch that
was held out cannot. So both are shown, for the right ruler, wrong ones and shuffled labels.

The gates are for cells alone: tokens have no ruler that was known before they were looked at.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.manifold import trustworthiness

from stages.base import cli, tables
from stages.base.settings import Settings, load
from stages.measurement import resampling
from stages.measurement.streams import stream
from stages.operators import candidates, rulers
from stages.operators.adaptors import Ridge, search
from stages.operators.candidates import Candidate
from stages.operators.maps import THIRDS, Maps
from stages.operators.panel import Inputs, Panel, Prepared, add_arguments, maps_of, prepare
from stages.operators.settings import OperatorGates
from stages.operators.tables.gates import OPERATOR_GATES

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Scores = list[tuple[str, Floats]]
"""What was held out, and how well it was told: (labellings, donors); in any order."""
HOLDOUTS = ("random", "donor", "branch", "within")
RANDOM_FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """Anchors that are held out together."""

    holdout: str
    test: Mask
    kinds: NDArray[np.int64]
    """The kinds whose place on the ruler the fit may know."""
    groups: NDArray[np.generic]
    """What is left out in turn to choose the strength, of all anchors."""

    @property
    def fitted(self) -> NDArray[np.int64]:
        """Rows of the fit."""
        return np.flatnonzero(~self.test)


@dataclass(frozen=True)
class Labelling:
    """Some labellings of the anchors and rulers, judged in one go."""

    kinds: NDArray[np.int64]
    """(n, n_anchors)"""
    distances: Floats
    """(n, n_kinds, n_kinds), or (1, n_kinds, n_kinds) for all."""

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.kinds)


def folds_of(panel: Panel, prepared_branches: Mapping[str, set[int]], seed: int) -> list[Fold]:
    """Return all folds: random anchors, one donor each, one branch each.

    Parameters
    ----------
    prepared_branches
        Numbers of the kinds of each branch.
    """
    everything = np.unique(panel.kind)
    drawn = stream(seed, "random holdout").permutation(len(panel)) % RANDOM_FOLDS
    found = [Fold("random", drawn == at, everything, panel.donor) for at in range(RANDOM_FOLDS)]
    for donor in np.unique(panel.donor):
        found.append(Fold("donor", panel.donor == donor, everything, panel.donor))
    for branch in prepared_branches.values():
        out = np.isin(panel.kind, list(branch))
        kinds = np.setdiff1d(everything, list(branch))
        found.append(Fold("branch", out, kinds, panel.kind))
    return found


def targets(fold: Fold, of: Labelling, dimensions: int) -> Floats:
    """Return where the rows of a fit should be: (labellings, fitted, dimensions).

    Kinds keep the places that each ruler gives them among those that the fit may know.
    """
    inner = of.distances[:, fold.kinds][:, :, fold.kinds]
    places = np.stack([rulers.coordinates(ruler, dimensions) for ruler in inner])
    which = np.arange(len(of.distances)) if len(of.distances) > 1 else np.zeros(1, dtype=int)
    at = np.searchsorted(fold.kinds, of.kinds[:, fold.fitted])
    return np.asarray(places[which[:, np.newaxis], at])


def led(ridge: Ridge, wanted: Floats, strength: int | None = None) -> tuple[Floats, Floats, int]:
    """Return coordinates of all anchors for each labelling, the errors inside, and the strength.

    Parameters
    ----------
    wanted
        (labellings, fitted, dimensions)
    strength
        Number of the strength; none: each labelling has its own best.
    """
    n, fitted, dimensions = wanted.shape
    flat = wanted.transpose(1, 0, 2).reshape(fitted, n * dimensions)
    if strength is not None:
        found = ridge.told(flat, strength).reshape(-1, n, dimensions).transpose(1, 0, 2)
        return found, np.full(n, np.nan), strength
    errors = ridge.left_out(flat) ** 2
    variance = ((wanted - wanted.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 2))
    errors = errors.sum(axis=1).reshape(len(errors), n, dimensions).sum(axis=2) / variance
    best = errors.argmin(axis=0)
    chosen = np.empty((n, len(ridge.turned), dimensions))
    for which in np.unique(best):
        own = np.flatnonzero(best == which)
        told = ridge.told(wanted[own].transpose(1, 0, 2).reshape(fitted, -1), int(which))
        chosen[own] = told.reshape(-1, len(own), dimensions).transpose(1, 0, 2)
    return chosen, errors[best, np.arange(n)], int(best[0])


@dataclass(frozen=True)
class Pairs:
    """Pairs of anchors of one donor whose distances are held against those of some labellings."""

    donor: int
    """Number of the donor."""
    i: NDArray[np.int64]
    j: NDArray[np.int64]
    ruled: Floats
    """Ranks of the distances that the labellings say: (1 or labellings, pairs)."""


def pairs_of(panel: Panel, fold: Fold, of: Labelling) -> dict[str, list[Pairs]]:
    """Return the pairs of a fold: those of which one anchor at least was held out.

    Where branches were, those that both were, too (``within``). Donors with fewer than three have
    none.
    """
    found: dict[str, list[Pairs]] = {fold.holdout: []}
    if fold.holdout == "branch":
        found["within"] = []
    for number, donor in enumerate(np.unique(panel.donor)):
        rows = np.flatnonzero(panel.donor == donor)
        i, j = (rows[at] for at in np.triu_indices(len(rows), 1))
        for name, chosen in found.items():
            both = name == "within"
            kept = fold.test[i] & fold.test[j] if both else fold.test[i] | fold.test[j]
            if kept.sum() < 3:
                continue
            one, other = i[kept], j[kept]
            which = np.arange(len(of))[:, np.newaxis] if len(of.distances) > 1 else 0
            ruled = of.distances[which, of.kinds[:, one], of.kinds[:, other]]
            chosen.append(Pairs(number, one, other, rankdata(ruled, axis=1)))
    return found


def agreement(of: Mapping[str, list[Pairs]], points: Floats, n_donors: int) -> Scores:
    """Return the Spearman correlation of distances by labelling and donor: (labellings, donors).

    Parameters
    ----------
    of
        As of :func:`pairs_of`.
    points
        Of all anchors: (labellings, anchors, dimensions).
    """
    found = []
    for name, every in of.items():
        scores = np.full((len(points), n_donors), np.nan)
        for pairs in every:
            apart = np.sqrt(((points[:, pairs.i] - points[:, pairs.j]) ** 2).sum(axis=2))
            scores[:, pairs.donor] = _correlation(rankdata(apart, axis=1), pairs.ruled)
        found.append((name, scores))
    return found


def _correlation(found: Floats, wanted: Floats) -> Floats:
    """Return correlations of rows: 0 of what is found alike, nan where all should be alike."""
    found, wanted = (each - each.mean(axis=1, keepdims=True) for each in (found, wanted))
    size = np.sqrt((found**2).sum(axis=1) * (wanted**2).sum(axis=1))
    none = np.where((wanted**2).sum(axis=1) > 0, 0.0, np.nan)
    return np.where(size > 0, (found * wanted).sum(axis=1) / np.where(size > 0, size, 1), none)


class Judge:
    """Everything that one panel and ruler decide, whatever the candidate."""

    def __init__(self, panel: Panel, ruler: rulers.Ruler, params: OperatorGates) -> None:
        self.panel, self.params = panel, params
        number = {kind: at for at, kind in enumerate(ruler.kinds)}
        present = {ruler.kinds[at] for at in np.unique(panel.kind)}
        self.branches = {
            name: {number[kind] for kind in kinds}
            for name, kinds in ruler.branches(present, params.branch_kinds).items()
        }
        self.folds = folds_of(panel, self.branches, params.seed)
        distances = ruler.hops()
        self.right = Labelling(panel.kind[np.newaxis], distances[np.newaxis])
        self.wrong = self._wrong(distances)
        self.shuffled = self._shuffled(distances)
        self.n_donors, most = len(np.unique(panel.donor)), params.dimensions[-1]
        self.wanted: list[dict[str, Floats]] = []
        """Of each fold the targets under the labellings that it is judged by."""
        self.pairs: list[dict[str, dict[str, list[Pairs]]]] = []
        """And the pairs that they rank."""
        for fold in self.folds:
            of = {"right": self.right}
            of |= {} if fold.holdout == "random" else {"wrong": self.wrong}
            of |= {"shuffled": self.shuffled} if fold.holdout == "donor" else {}
            self.wanted.append({name: targets(fold, one, most) for name, one in of.items()})
            self.pairs.append({name: pairs_of(panel, fold, one) for name, one in of.items()})

    def scores(self, fold: int, name: str, points: Floats) -> Scores:
        """Return how well points agree with a labelling on a fold, by its number."""
        return agreement(self.pairs[fold][name], points, self.n_donors)

    def _wrong(self, distances: Floats) -> Labelling:
        """Return rulers whose kinds, of those that there are, change names."""
        there = np.unique(self.panel.kind)
        found = []
        for draw in range(self.params.wrong_rulers):
            changed = distances.copy()
            rng = stream(self.params.seed, "wrong ruler", draw)
            changed[np.ix_(there, there)] = rulers.wrong(distances[np.ix_(there, there)], rng)
            found.append(changed)
        return Labelling(np.tile(self.panel.kind, (len(found), 1)), np.stack(found))

    def _shuffled(self, distances: Floats) -> Labelling:
        rng = stream(self.params.seed, "shuffled")
        kinds = np.tile(self.panel.kind, (self.params.permutations, 1))
        for block in np.unique(self.panel.block):
            at = np.flatnonzero(self.panel.block == block)
            kinds[:, at] = rng.permuted(kinds[:, at], axis=1)
        return Labelling(kinds, distances[np.newaxis])

    def of_donors(self, scores: Scores) -> dict[str, Floats]:
        """Average scores of folds by donor: by holdout, (labellings, donors)."""
        found = {}
        for holdout in HOLDOUTS:
            parts = [score for name, score in scores if name == holdout]
            if parts:
                stacked = np.stack(parts)
                known = np.isfinite(stacked)
                total = np.where(known, stacked, 0).sum(axis=0)
                times = known.sum(axis=0)
                found[holdout] = np.where(times > 0, total / np.maximum(times, 1), np.nan)
        return found


@dataclass
class Judged:
    """What was found of a candidate: by holdout, (labellings, donors)."""

    candidate: Candidate
    right: dict[int, dict[str, Floats]]
    """By number of dimensions."""
    wrong: dict[str, Floats]
    shuffled: dict[str, Floats]
    latent: Floats | None = None
    """Coordinates of anchors whose donor was held out."""
    adaptor: str = "ridge"
    branches: dict[str, Floats] = field(default_factory=dict)
    """Of the right ruler in all dimensions, what each branch says: (branches, donors)."""


def judge(
    by: Judge, kernels: Sequence[Floats], candidate: Candidate, *, nulls: bool = True
) -> Judged:
    """Judge a candidate; of several kernels, in each fold the one that does best inside it.

    Parameters
    ----------
    kernels
        Products of the anchors' features, of the candidate; or of all heads, one of which is chosen
        without what is held out.
    nulls
        Whether wrong rulers and shuffled labels are judged too.
    """
    params, panel = by.params, by.panel
    most = params.dimensions[-1]
    right: dict[int, Scores] = {count: [] for count in params.dimensions}
    wrong: Scores = []
    shuffled: Scores = []
    latent = np.zeros((len(panel), most))
    for number, (fold, wanted) in enumerate(zip(by.folds, by.wanted, strict=True)):
        if fold.holdout == "random" and len(kernels) > 1:
            continue
        fits = [Ridge.fit(kernel, fold.fitted, fold.groups[fold.fitted]) for kernel in kernels]
        found = [led(fit, wanted["right"]) for fit in fits]
        best = int(np.argmin([errors[0] for _, errors, _ in found]))
        points, _, strength = found[best]
        for count in params.dimensions:
            right[count] += by.scores(number, "right", points[:, :, :count])
        if fold.holdout == "donor":
            latent[fold.test] = points[0][fold.test]
        if not nulls:
            continue
        if "wrong" in wanted:
            others = [led(fit, wanted["wrong"]) for fit in fits]
            which = np.argmin([errors for _, errors, _ in others], axis=0)
            chosen = np.stack([others[at][0][place] for place, at in enumerate(which)])
            wrong += by.scores(number, "wrong", chosen)
        if "shuffled" in wanted and len(kernels) == 1:
            moved, _, _ = led(fits[0], wanted["shuffled"], strength)
            shuffled += by.scores(number, "shuffled", moved)
    return Judged(
        candidate,
        {count: by.of_donors(scores) for count, scores in right.items()},
        by.of_donors(wrong),
        by.of_donors(shuffled),
        latent,
        branches=_by_branch(right[most]),
    )


def _by_branch(scores: Scores) -> dict[str, Floats]:
    """Return what each branch that was held out says: (branches, donors)."""
    found = {
        name: [score[0] for holdout, score in scores if holdout == name]
        for name in ("branch", "within")
    }
    return {name: np.stack(parts) for name, parts in found.items() if parts}


def judge_arccos(by: Judge, features: Floats, candidate: Candidate) -> Judged:
    """Judge a candidate by the published adaptor, on the right ruler, by donor and branch."""
    most = by.params.dimensions[-1]
    scores: Scores = []
    latent = np.zeros((len(by.panel), most))
    for number, fold in enumerate(by.folds):
        if fold.holdout == "random":
            continue
        kinds = by.panel.kind[fold.fitted]
        apart = by.right.distances[0][np.ix_(kinds, kinds)]
        points = search(features, fold.fitted, apart, by.params.arccos, dimensions=most)
        if fold.holdout == "donor":
            latent[fold.test] = points[fold.test]
        scores += by.scores(number, "right", points[np.newaxis])
    of = by.of_donors(scores)
    return Judged(candidate, {most: of}, {}, {}, latent, "arccos", _by_branch(scores))


class _Rows:
    """Collects the rows of the table."""

    def __init__(self, by: Judge, anchors: Inputs, untrained: str | None) -> None:
        self.by, self.x, self.untrained = by, anchors.x, untrained
        self.params = by.params
        n_donors, draws, seed = len(np.unique(by.panel.donor)), self.params.draws, self.params.seed
        self.weights = resampling.group_weights(n_donors, draws, stream(seed, "donors"))
        n_branches = max(1, len(by.branches))
        self.of_branches = resampling.group_weights(n_branches, draws, stream(seed, "branches"))
        self.found: list[dict[str, object]] = []
        self.within: dict[tuple[str, str, str], Floats] = {}

    def interval(self, scores: Floats) -> tuple[float, float, float]:
        """Return the mean over donors (and branches), and its interval over both.

        Donors see the same arrangement of the kinds of a branch: branches are resampled too.

        Parameters
        ----------
        scores
            (donors,), or (branches, donors); nan where there is none.
        """
        known = np.isfinite(scores)
        table, there = np.atleast_2d(np.where(known, scores, 0.0)), np.atleast_2d(known)
        outer = self.of_branches if len(table) > 1 else np.ones((len(self.weights), 1))
        total = ((outer @ there) * self.weights).sum(axis=1)
        drawn = ((outer @ table) * self.weights).sum(axis=1)
        drawn = drawn[total > 0] / total[total > 0]
        low, high = resampling.percentile_interval(drawn, confidence=self.params.confidence)
        return float(scores[known].mean()), float(low), float(high)

    def add(self, one: Judged) -> None:
        """Add all rows of a candidate."""
        limits, most = self.params.thresholds, self.params.dimensions[-1]
        self._one(one, "trustworthiness", self._trust(one), None, None, limits.trustworthiness)
        by_holdout = dict.fromkeys(("random", "donor"), limits.donor)
        by_holdout |= dict.fromkeys(("branch", "within"), limits.branch)
        for count, found in one.right.items():
            for holdout, scores in found.items():
                if not np.isfinite(scores[0]).any():
                    continue
                in_all = holdout in one.branches and count == most
                of = self.interval(one.branches[holdout] if in_all else scores[0])
                self._one(one, holdout, *of, by_holdout[holdout], dimensions=count)
        for name, nulls in (("wrong", one.wrong), ("shuffled", one.shuffled)):
            for holdout, scores in nulls.items():
                drawn = np.nanmean(scores, axis=1)
                of = drawn.mean(), *np.quantile(drawn, [0.025, 0.975])
                self._one(one, holdout, *of, by_holdout[holdout], ruler=name)
        for gate, holdout, nulls, limit in (
            ("p", "donor", one.shuffled, limits.p),
            ("p_kinds", "within", one.wrong, limits.p_kinds),
        ):
            if holdout in nulls:
                drawn = np.nanmean(nulls[holdout], axis=1)
                as_good = (drawn >= np.nanmean(one.right[most][holdout][0])).sum()
                smallest = 1 / (1 + len(drawn))
                value = (1 + as_good) * smallest
                self._one(one, gate, value, smallest, None, limit, below=True)
        if "within" in one.branches and one.adaptor == "ridge":
            self._beyond(one, one.branches["within"])

    def _beyond(self, one: Judged, scores: Floats) -> None:
        of = one.candidate
        self.within[of.source, of.name, of.state] = scores
        others = {
            "beyond_expression": ("expression", "raw", ""),
            "beyond_embedding": ("embedding", "gene embedding", of.state),
            "beyond_untrained": (of.source, of.name, self.untrained or ""),
        }
        for gate, key in others.items():
            itself = key == (of.source, of.name, of.state)
            if key in self.within and not itself and (of.state or gate != "beyond_untrained"):
                value, low, high = self.interval(scores - self.within[key])
                self._one(one, gate, value, low, high, 0.0, passed=low > 0)

    def _trust(self, one: Judged) -> float:
        at_most = (len(self.x) - 1) // 2
        neighbours = max(1, min(self.params.neighbours, at_most))
        return float(trustworthiness(self.x, one.latent, n_neighbors=neighbours))

    def _one(
        self,
        one: Judged,
        gate: str,
        value: float,
        low: float | None,
        high: float | None,
        threshold: float,
        *,
        ruler: str = "right",
        dimensions: int | None = None,
        below: bool = False,
        passed: bool | None = None,
    ) -> None:
        reached = value <= threshold if below else value >= threshold
        self.found.append(
            {
                "source": one.candidate.source,
                "name": one.candidate.name,
                "state": one.candidate.state or None,
                "adaptor": one.adaptor,
                "ruler": ruler,
                "gate": gate,
                "dimensions": dimensions or self.params.dimensions[-1],
                "value": float(value),
                "low": np.nan if low is None else float(low),
                "high": np.nan if high is None else float(high),
                "threshold": threshold,
                "passed": float(reached if passed is None else passed),
                "n_anchors": len(self.by.panel),
                "n_donors": len(np.unique(self.by.panel.donor)),
            }
        )

    def table(self) -> pd.DataFrame:
        """Return all rows."""
        return pd.DataFrame(self.found, columns=list(OPERATOR_GATES.columns))


def gates(
    prepared: Prepared,
    inputs: Inputs,
    maps_of: Mapping[str, Maps],
    params: OperatorGates,
) -> pd.DataFrame:
    """Return the table of all candidates.

    Parameters
    ----------
    inputs
        Of all labelled cells.
    maps_of
        Of the untrained state, if there is one, and of the last.
    """
    untrained = next(iter(maps_of)) if len(maps_of) > 1 else None
    by = Judge(prepared.panel, prepared.ruler, params)
    anchors = prepared.panel.inputs(inputs)
    rows, drifted = _Rows(by, anchors, untrained), None
    for candidate in candidates.plain(inputs, params.components):
        rows.add(judge(by, _kernels([candidate], anchors), candidate))
    for state, of in maps_of.items():
        for candidate in candidates.of_model(of, state, residual=inputs.residual is not None):
            pooled = candidate.name in THIRDS
            drifted = candidate if candidate.name == "drift" else drifted
            if state != untrained or not (pooled or candidate.source == "residual"):
                rows.add(judge(by, _kernels([candidate], anchors), candidate, nulls=not pooled))
    last = list(maps_of)[-1]
    for kind in maps_of[last].kinds:
        heads = candidates.single(maps_of[last], last, kind)
        best = Candidate(kind, "best head", last, heads[0].of, heads[0].n_parameters)
        rows.add(judge(by, _kernels(heads, anchors), best, nulls=False))
        random = candidates.same_spectrum(
            maps_of[last], last, kind, anchors, draws=params.spectra, seed=params.seed
        )
        for candidate in random:
            rows.add(judge(by, _kernels([candidate], anchors), candidate, nulls=False))
    if drifted is not None:
        rows.add(judge_arccos(by, drifted.of(anchors), drifted))
    return rows.table()


def _kernels(of: Iterable[Candidate], anchors: Inputs) -> list[Floats]:
    found = []
    for candidate in of:
        features = candidate.of(anchors)
        found.append(features @ features.T)
    return found


def _run(args: argparse.Namespace) -> None:
    settings: Settings = load(args.params)
    of = maps_of(args, settings)
    prepared = prepare(args, settings, next(iter(of.values())))
    table = tables.empty(OPERATOR_GATES)
    if prepared is not None:
        table = gates(prepared, prepared.inputs(args.maps), of, settings.operator_gates)
    tables.write(table, OPERATOR_GATES, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    add_arguments(parser)
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
