r"""Say what pairs of heads do beyond the sum of their heads, beside what would explain it.

Three explanations need no interaction of circuits, and stand beside every number.

*Noise.* Were all pairs the sums of their heads, measured effects would still differ from 0. The
sequences are resampled with every pair's effects centred at 0: an additive model with the noise of
these sequences.

*Products.* Heads that matter may interact more for that alone. Published, the median absolute
effect among the heads of the largest effects was 35.8 times that of random pairs; the median
product of the heads' effects was 44.7 times as large, so under effects proportional to it there is
no excess, and under the power of it that fits best there is. Ratios are therefore given raw, over
the product and over its root, beside both.

*Arrangement.* Rank and communities are those of the same effects permuted over pairs.

A standard error is that of the paired bootstrap over sequences, whose limit is :math:`s/\sqrt n` of
the effects by sequence (with the factor :math:`n/(n-1)` that a bootstrap variance lacks). Pairs
share heads and are not independent: a p-value over pairs (Mann-Whitney) describes, and does not
test, other heads.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from stages.base import cli, tables
from stages.base.settings import load
from stages.measurement import effects, nulls, resampling
from stages.measurement.effects import Effects
from stages.measurement.measured import hull
from stages.measurement.streams import stream
from stages.pairs import choice, structure
from stages.pairs.components import CONDITIONS, Head, head_name
from stages.pairs.settings import Epistasis, Pairs
from stages.pairs.tables.epistasis import (
    EPISTASIS,
    EPISTASIS_HEADS,
    EPISTASIS_PAIRS,
    EPISTASIS_SETS,
    QUANTITIES,
    WHAT,
)

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

_SHARES = ("share_beyond", "share_positive")
_SIGNED = ("product_spearman", "slope_first", "slope_second", "slope_distance", "modularity")
_COEFFICIENTS = 4


@dataclass(frozen=True)
class Sample:
    """Effects of pairs and of their heads in one state, under one way of removal."""

    pairs: Effects
    heads: Effects

    @cached_property
    def a(self) -> Indices:
        """Where the first head of each pair stands among the heads."""
        return self._places("a")

    @cached_property
    def b(self) -> Indices:
        """Where the second does."""
        return self._places("b")

    def _places(self, side: str) -> Indices:
        known = {head: i for i, head in enumerate(self.names)}
        of = self.pairs.components
        rows = zip(of[f"layer_{side}"], of[f"head_{side}"], strict=True)
        return np.array([known[head] for head in rows])

    @cached_property
    def names(self) -> list[Head]:
        """Layer and head of each head."""
        of = self.heads.components
        return [(int(x), int(y)) for x, y in zip(of["layer"], of["head"], strict=True)]

    @cached_property
    def same_layer(self) -> Mask:
        """Which pairs lie within a layer."""
        found: Mask = (self.pairs.components["distance"] == 0).to_numpy()
        return found

    @cached_property
    def error(self) -> Floats:
        """Standard error of each pair's effect over sequences."""
        spread: Floats = self.pairs.values.std(axis=0, ddof=1)
        return spread / math.sqrt(self.pairs.n_replicates)

    @cached_property
    def single(self) -> Floats:
        """Mean effect of each head."""
        mean: Floats = self.heads.values.mean(axis=0)
        return mean

    def among(self, heads: Sequence[Head]) -> Mask:
        """Return which pairs lie among some heads; none, if not all of these were measured."""
        inside = np.isin(np.arange(len(self.names)), [self.names.index(head) for head in heads])
        found: Mask = inside[self.a] & inside[self.b]
        if found.sum() < len(heads) * (len(heads) - 1) // 2:
            found[:] = False
        return found

    def ranking(self) -> dict[Head, float]:
        """Return the mean effect of each head by its name."""
        return dict(zip(self.names, self.single.tolist(), strict=True))


@dataclass(frozen=True)
class Tiers:
    """Which pairs are compared with which, and whose matrix is whole."""

    fixed: Mask
    """Among the heads of the largest effects in the last state."""
    reranked: Mask
    """In this state."""
    baseline: Mask
    """The random ones, or all, which they stand for."""
    whole: Mask
    """All pairs of some heads: of all, or of the first tier."""


def tiers(sample: Sample, last: Sample, params: Pairs) -> Tiers:
    """Return the tiers of a state."""
    n_pairs = len(sample.names) * (len(sample.names) - 1) // 2
    every = np.ones(len(sample.a), dtype=bool)
    fixed = sample.among(choice.top(last.ranking(), params.top))
    reranked = sample.among(choice.top(sample.ranking(), params.top))
    if len(every) == n_pairs:
        return Tiers(fixed, reranked, every, every)
    drawn = choice.random_pairs(sample.names, params.random, params.seed)
    named = [(sample.names[i], sample.names[j]) for i, j in zip(sample.a, sample.b, strict=True)]
    baseline = np.array([one in set(drawn) for one in named])
    return Tiers(fixed, reranked, baseline, fixed)


def numbers(
    effect: Floats, single: Floats, sample: Sample, of: Tiers, *, min_z: float, told: bool = True
) -> dict[str, float]:
    """Return every quantity but modularity of some effects of the pairs of a sample.

    Parameters
    ----------
    effect : (n_pairs,)
        Beyond the sum.
    single : (n_heads,)
        Effects of the heads alone.
    told
        Whether the effects have the errors of the sample; else nothing is said of what is beyond.
    """
    size = np.abs(effect)
    first, second = np.abs(single[sample.a]), np.abs(single[sample.b])
    product = first * second
    found = dict.fromkeys(QUANTITIES[:-1], math.nan)
    found["median_abs"] = float(np.median(size))
    if told:
        beyond = size > min_z * sample.error
        found["share_beyond"] = float(beyond.mean())
        if beyond.any():
            found["share_positive"] = float((effect[beyond] > 0).mean())
    same = sample.same_layer
    found["same_layer_ratio"] = _ratio(size, same, ~same)
    positive = (size > 0) & (product > 0)
    if positive.sum() > _COEFFICIENTS:
        found["product_spearman"] = _spearman(size[positive], product[positive])
        names = ("slope_first", "slope_second", "slope_distance")
        distance = sample.pairs.components["distance"].to_numpy(float)
        columns = (np.log(first[positive]), np.log(second[positive]), distance[positive])
        found |= dict(zip(names, _slopes(np.log(size[positive]), columns), strict=True))
    found["tier_ratio"] = _ratio(size, of.fixed, of.baseline)
    found["tier_ratio_reranked"] = _ratio(size, of.reranked, of.baseline)
    for name, power in (("tier_ratio_by_product", 1.0), ("tier_ratio_by_root", 0.5)):
        scaled = np.divide(size, product**power, out=np.full(size.shape, np.nan), where=product > 0)
        found[name] = _ratio(scaled, of.fixed, of.baseline)
    found["effective_rank"] = structure.effective_rank(_matrix(effect, sample, of))
    return found


def _matrix(effect: Floats, sample: Sample, of: Tiers) -> Floats:
    """Return the matrix of the heads of which all pairs are known."""
    a, b = sample.a[of.whole], sample.b[of.whole]
    heads = np.unique([a, b])
    return structure.matrix(
        effect[of.whole], np.searchsorted(heads, a), np.searchsorted(heads, b), len(heads)
    )


def _ratio(size: Floats, one: Mask, other: Mask) -> float:
    above, below = (size[mask & np.isfinite(size)] for mask in (one, other))
    if not above.size or not below.size or np.median(below) == 0:
        return math.nan
    return float(np.median(above) / np.median(below))


def _spearman(x: Floats, y: Floats) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def _slopes(y: Floats, columns: Sequence[Floats]) -> list[float]:
    """Return the slopes of a least-squares fit with an intercept; nan where there are several."""
    design = np.column_stack([np.ones(len(y)), *columns])
    slopes, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    return slopes[1:].tolist() if rank == design.shape[1] else [math.nan] * len(columns)


def epistasis(sample: Sample, of: Tiers, params: Epistasis) -> tuple[pd.DataFrame, Indices]:
    """Return the quantities of a state from every source, and the communities of the heads.

    Returns
    -------
    table, community
        Of ``EPISTASIS`` the columns from `quantity` to `p`; a number for each head of whose matrix
        all pairs are known, in the order of heads.
    """
    part = sample.pairs
    rng = stream(params.seed, part.state.system, part.state.name, part.condition)
    effect, single = part.values.mean(axis=0), sample.single

    def of_effects(values: Floats, heads: Floats, *, told: bool = True) -> Floats:
        found = numbers(values, heads, sample, of, min_z=params.min_z, told=told)
        return np.array([found[name] for name in QUANTITIES[:-1]])

    measured = of_effects(effect, single)
    weights = resampling.group_weights(part.n_replicates, params.draws, rng)
    centred = (part.values - effect) * math.sqrt(part.n_replicates / (part.n_replicates - 1))
    resampled = np.array([of_effects(w @ part.values, w @ sample.heads.values) for w in weights])
    additive = np.array([of_effects(w @ centred, single) for w in weights])
    product = part.components["product"].to_numpy(float)
    fitted, _ = nulls.by_exposure(effect, product)
    seed = int(rng.integers(2**31))
    modularity, community = structure.communities(_matrix(effect, sample, of), seed)
    permuted, rank = [], []
    for _ in range(params.permutations):
        moved = _matrix(rng.permutation(effect), sample, of)
        permuted.append(structure.communities(moved, seed)[0])
        rank.append(structure.effective_rank(moved))
    names = QUANTITIES[:-1]
    rows = [_measured(name, measured[i], resampled[:, i], params) for i, name in enumerate(names)]
    rows[names.index("same_layer_ratio")]["p"] = _mann_whitney(np.abs(effect), sample.same_layer)
    rows += [
        _null(name, "additive", measured[i], additive[:, i], params) for i, name in enumerate(names)
    ]
    for source, values in (("product", product), ("fitted", fitted)):
        if np.isfinite(values).all():
            plain = of_effects(values, single, told=False)
            rows += [_row(n, source, v) for n, v in zip(names, plain, strict=True)]
            quality = structure.communities(_matrix(values, sample, of), seed)[0]
            rows.append(_row("modularity", source, quality))
    rows.append(_row("modularity", "measured", modularity))
    rows.append(_null("modularity", "permuted", modularity, np.array(permuted), params))
    found = measured[names.index("effective_rank")]
    rows.append(_null("effective_rank", "permuted", found, np.array(rank), params))
    table = pd.DataFrame(rows).dropna(subset=["value"])
    return table, community


def _row(quantity: str, source: str, value: float, **more: float) -> dict[str, object]:
    blank = dict.fromkeys(("low", "high", "p"), math.nan)
    return {"quantity": quantity, "source": source, "value": float(value)} | blank | more


def _measured(name: str, value: float, draws: Floats, params: Epistasis) -> dict[str, object]:
    if math.isnan(value) or np.isnan(draws).all():
        return _row(name, "measured", value)
    ends = np.nanquantile(draws, _tails(params))
    low, high = (float(end) for end in hull(np.asarray(value), *ends))
    least = -math.inf if name in _SIGNED else 0.0
    most = 1.0 if name in (*_SHARES, "product_spearman") else math.inf
    least = -1.0 if name == "product_spearman" else least
    return _row(name, "measured", value, low=max(low, least), high=min(high, most))


def _null(
    name: str, source: str, value: float, draws: Floats, params: Epistasis
) -> dict[str, object]:
    draws = draws[np.isfinite(draws)]
    if not draws.size or math.isnan(value):
        return _row(name, source, math.nan)
    low, high = np.quantile(draws, _tails(params))
    above, below = (
        (1 + side.sum()) / (len(draws) + 1) for side in (draws >= value, draws <= value)
    )
    return _row(
        name,
        source,
        float(np.median(draws)),
        low=float(low),
        high=float(high),
        p=min(1.0, 2 * min(above, below)),
    )


def _tails(params: Epistasis) -> list[float]:
    tail = (1 - params.confidence) / 2
    return [tail, 1 - tail]


def _mann_whitney(size: Floats, same: Mask) -> float:
    if same.all() or not same.any():
        return math.nan
    return float(stats.mannwhitneyu(size[same], size[~same], method="asymptotic").pvalue)


def made_up(sample: Sample, params: Epistasis) -> pd.DataFrame:
    """Return of each head how much others make up for it.

    Returns
    -------
    DataFrame
        Of ``EPISTASIS_HEADS`` the columns from `component` to `n_partners`.
    """
    part = sample.pairs
    rng = stream(params.seed, "heads", part.state.system, part.state.name, part.condition)
    weights = resampling.group_weights(part.n_replicates, params.draws, rng)
    effect = part.values.mean(axis=0)
    partners = effect > params.min_z * sample.error
    centred = (part.values - effect) * math.sqrt(part.n_replicates / (part.n_replicates - 1))
    noise = weights @ centred
    noise = np.where(noise > params.min_z * sample.error, noise, 0.0)
    resampled = weights @ part.values
    rows = []
    for i, head in enumerate(sample.names):
        mine = (sample.a == i) | (sample.b == i)
        chosen = mine & partners
        low, high = resampling.percentile_interval(
            resampled[:, chosen].sum(axis=1), confidence=params.confidence
        )
        _, above = resampling.percentile_interval(
            noise[:, mine].sum(axis=1), confidence=params.confidence
        )
        rows.append(
            {
                "component": head_name(head),
                "layer": head[0],
                "head": head[1],
                "effect": sample.single[i],
                "made_up": effect[chosen].sum(),
                "made_up_low": low,
                "made_up_high": high,
                "noise_high": above,
                "n_partners": int(chosen.sum()),
            }
        )
    return pd.DataFrame(rows)


def sets(part: Effects, heads: Effects, params: Epistasis) -> Iterator[dict[str, object]]:
    """Give what some sets of heads cost together beside the sum of their heads, as rows.

    Parameters
    ----------
    part
        Of the kind `attention` or `cumulative`.
    heads
        The heads alone, on the same sequences.
    """
    rng = stream(params.seed, "sets", part.state.system, part.state.name, part.condition)
    weights = resampling.group_weights(part.n_replicates, params.draws, rng)
    members: list[Mask] = []
    for row in part.components.itertuples():
        if part.kind == "attention":
            members.append((heads.components["layer"] == row.layer).to_numpy())
        else:
            inside = heads.components.index == row.joined
            members.append(members[-1] | inside if members else inside)
    for number, (name, inside) in enumerate(zip(part.components.index, members, strict=True)):
        together, singles = part.values[:, number], heads.values[:, inside].sum(axis=1)
        joined = part.components["joined"].iloc[number] if part.kind == "cumulative" else None
        for what, values in zip(WHAT, (together, singles, together - singles), strict=True):
            low, high = resampling.percentile_interval(
                weights @ values, confidence=params.confidence
            )
            yield {
                "kind": part.kind,
                "component": name,
                "n_heads": int(inside.sum()),
                "joined": joined,
                "what": what,
                "value": float(values.mean()),
                "low": float(low),
                "high": float(high),
                "unit": part.state.unit,
                "n_sequences": part.n_replicates,
            }


def summary(
    parts: Sequence[Effects], pairs: Pairs, params: Epistasis
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return all tables of a system.

    Parameters
    ----------
    parts
        Effects of all kinds in all states.

    Returns
    -------
    tuple of DataFrame
        ``EPISTASIS``, ``EPISTASIS_HEADS``, ``EPISTASIS_SETS``, ``EPISTASIS_PAIRS``.
    """
    found = effects.series(parts)
    tables_: list[list[pd.DataFrame]] = [[], [], [], []]
    for condition in sorted({part.condition for part in parts}, key=CONDITIONS.index):
        states = [
            Sample(*both)
            for both in zip(found["pair", condition], found["head", condition], strict=True)
        ]
        for number, sample in enumerate(states):
            part, of = sample.pairs, tiers(sample, states[-1], pairs)
            key = {
                "state": part.state.name,
                "position": part.state.position,
                "perturbation": condition,
            }
            counted = {
                "n_heads": len(sample.names),
                "n_pairs": len(sample.a),
                "n_sequences": part.n_replicates,
                "unit": part.state.unit,
            }
            table, community = epistasis(sample, of, params)
            heads = made_up(sample, params)
            whole = np.unique([sample.a[of.whole], sample.b[of.whole]])
            heads["community"] = pd.Series(community, index=whole, dtype="Int64")
            of_sets = [
                row
                for kind in ("attention", "cumulative")
                if (kind, condition) in found
                for row in sets(found[kind, condition][number], sample.heads, params)
            ]
            rows = [table.assign(**counted), heads, pd.DataFrame(of_sets)]
            if number == len(states) - 1:
                rows.append(_last(sample))
            for kept, one in zip(tables_, rows, strict=False):
                kept.append(_keyed(one, key))
    schemas = (EPISTASIS, EPISTASIS_HEADS, EPISTASIS_SETS, EPISTASIS_PAIRS)
    first, second, third, fourth = (
        pd.concat(kept, ignore_index=True)[list(schema.columns)]
        for kept, schema in zip(tables_, schemas, strict=True)
    )
    return first, second, third, fourth


def _keyed(table: pd.DataFrame, key: dict[str, object]) -> pd.DataFrame:
    for place, (name, value) in enumerate(key.items()):
        table.insert(place, name, value)
    return table


def _last(sample: Sample) -> pd.DataFrame:
    known = sample.pairs.components.reset_index()
    return known.assign(effect=sample.pairs.values.mean(axis=0), standard_error=sample.error)


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    system = settings.systems[args.system]
    parts = effects.read_states(system.effects, system.states)
    made = summary(parts, getattr(settings, args.system), settings.epistasis)
    schemas = (EPISTASIS, EPISTASIS_HEADS, EPISTASIS_SETS, EPISTASIS_PAIRS)
    for table, schema in zip(made, schemas, strict=True):
        tables.write(table, schema, args.out / f"{schema.name}.csv")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--system", required=True, choices=("pairs", "cell_pairs"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
