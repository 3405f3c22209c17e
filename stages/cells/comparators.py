r"""Ask whether what this field uses sees the same tissues change: three other methods beside ours.

* ``clr_linear``, propeller's way [1]_: a linear model of the centred log-ratio of each type (a
  two-sample t, or that of pairs), adjusted over types. A tissue's p is Simes' [2]_: its smallest
  adjusted one.
* ``dirichlet_multinomial``: regression of the counts on the group [3]_, every :math:`\alpha_k` free
  in both groups, so that shares and overdispersion may change; the likelihood ratio is put to a
  permutation test, since with few animals its limit is far.
* ``permanova`` of Aitchison distances [4]_, with a permutation test.

None of them asks what we ask. They see any change of composition, also one that leaves it as
concentrated as it was; ours only sees a change of concentration, also one in which no single type
stands out.

References
----------
.. [1] Phipson, B. et al. (2022). propeller: testing for differences in cell type proportions in
   single cell data. Bioinformatics 38:4720-4726.
.. [2] Simes, R. J. (1986). An improved Bonferroni procedure for multiple tests of significance.
   Biometrika 73:751-754.
.. [3] Chen, J. and Li, H. (2013). Variable selection for sparse Dirichlet-multinomial regression.
   Annals of Applied Statistics 7:418-442.
.. [4] Anderson, M. J. (2001). A new method for non-parametric multivariate analysis of variance.
   Austral Ecology 26:32-46.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special, stats

from stages.base import cli, tables
from stages.base.settings import load
from stages.cells import counts
from stages.cells.design import Design, Places, design
from stages.cells.settings import Comparators
from stages.cells.tables.comparators import COMPARATORS, METHODS
from stages.cells.tables.contrast import CONTRAST
from stages.cells.tables.proportions import PROPORTIONS
from stages.inputs.tables import TWO_GROUPS
from stages.measurement import resampling
from stages.measurement.streams import stream

Floats = NDArray[np.float64]

OURS = ("gini", "effective_number")
# The likelihood ratio is known to this many digits once no fit gains more than `GAIN` in a step.
DIGITS = 4
GAIN = 1e-8
MOST_STEPS = 500
LARGEST_SUM = 1e7
"""Of alpha: beyond it the counts are multinomial for all that can be seen of them."""


def comparators(
    proportions: pd.DataFrame, contrast: pd.DataFrame, settings: Comparators
) -> pd.DataFrame:
    """Return what each method says of every tissue that was compared (``COMPARATORS``).

    Parameters
    ----------
    proportions
        ``PROPORTIONS``.
    contrast
        ``CONTRAST``; the tissues are those that it compares.
    """
    whole = contrast[(contrast["cells"] == "all") & contrast["metric"].isin(OURS)]
    names = {
        "metric": "method",
        "rank_statistic": "statistic",
        "rank_p": "p",
        "rank_p_smallest": "p_smallest",
    }
    ours = whole.rename(columns=names)[[*counts.TISSUE, *names.values()]]
    rows = []
    samples = dict(list(proportions.groupby(counts.TISSUE)))
    for key in ours[counts.TISSUE].drop_duplicates().itertuples(index=False, name=None):
        place = dict(zip(counts.TISSUE, key, strict=True))
        rows += [place | row for row in compare(samples[key], settings, stream_of=key)]
    if not rows:
        return tables.empty(COMPARATORS)
    table = pd.concat([ours, pd.DataFrame(rows)], ignore_index=True)
    family = table.groupby(["cohort", "platform", "method"])["p"]
    table["q"] = family.transform(resampling.benjamini_hochberg)
    table["method"] = pd.Categorical(table["method"], METHODS, ordered=True)
    table = table.sort_values([*counts.TISSUE, "method"], ignore_index=True)
    return table.reindex(columns=list(COMPARATORS.columns)).astype({"method": str})


def compare(
    proportions: pd.DataFrame, settings: Comparators, *, stream_of: Sequence[str]
) -> list[dict[str, object]]:
    """Compare both groups of the samples of one tissue by the three other methods."""
    ends = proportions[proportions["group"].isin(TWO_GROUPS)]
    table = counts.matrix(ends)
    found = design(table.samples)
    ratios = centred_log_ratios(table.counts + settings.pseudo_count)
    reference, compared = found.split(ratios)
    tests = (
        stats.ttest_rel(compared, reference)
        if found.paired
        else stats.ttest_ind(compared, reference)
    )
    # Of a type that varies in no sample nothing is known.
    p = np.where(np.isnan(tests.pvalue), 1.0, tests.pvalue)
    surest = int(np.argmin(p))
    rows: list[dict[str, object]] = [
        {
            "method": "clr_linear",
            "statistic": float(np.abs(np.nan_to_num(np.asarray(tests.statistic)[surest]))),
            "p": float(resampling.benjamini_hochberg(p).min()),
            "cell_type": table.types[surest],
        }
    ]
    methods: dict[str, Callable[[Places, Places], Floats]] = {
        "dirichlet_multinomial": lambda x, y: likelihood_ratio(table.counts[x], table.counts[y]),
        "permanova": lambda x, y: pseudo_f(ratios[x], ratios[y]),
    }
    for method, statistic in methods.items():
        test = permuted(
            statistic,
            found,
            max_permutations=settings.max_permutations,
            rng=stream(settings.seed, *stream_of, method),
        )
        rows.append(
            {
                "method": method,
                "statistic": test.statistic,
                "p": test.p,
                "p_smallest": test.p_smallest,
            }
        )
    return rows


def permuted(
    statistic: Callable[[Places, Places], Floats],
    found: Design,
    *,
    max_permutations: int,
    rng: np.random.Generator,
) -> resampling.Test:
    """Test whether a statistic is larger than samples exchanged between the groups make it.

    Parameters
    ----------
    statistic
        Of the places of both groups, each of shape (..., n); one number for each.
    found
        In pairs, samples are exchanged within them.
    """
    test = stats.permutation_test(
        (found.reference, found.compared),
        lambda x, y, axis: statistic(x, y),
        permutation_type="samples" if found.paired else "independent",
        vectorized=True,
        n_resamples=max_permutations,
        batch=1000,
        alternative="greater",
        rng=rng,
    )
    n, m = found.n
    n_all = 2**n if found.paired else math.comb(n + m, m)
    exact = n_all <= max_permutations
    # Where both groups are as large, exchanging them wholly gives the same statistic.
    smallest = (1 + (n == m)) / n_all if exact else 1 / (max_permutations + 1)
    return resampling.Test(float(test.statistic), float(test.pvalue), smallest, exact)


def centred_log_ratios(weights: Floats) -> Floats:
    """Return the centred log-ratios of positive weights along the last axis; they sum to 0.

    Examples
    --------
    >>> centred_log_ratios(np.array([1.0, np.e**3])).round(9).tolist()
    [-1.5, 1.5]
    """
    logs = np.log(weights)
    centred: Floats = logs - logs.mean(axis=-1, keepdims=True)
    return centred


def pseudo_f(reference: Floats, compared: Floats) -> Floats:
    """Return the pseudo-F of a permutational analysis of variance over Euclidean distances.

    Parameters
    ----------
    reference, compared : shape (..., n_animals, n_types)
        Centred log-ratios, whose Euclidean distances are Aitchison's.
    """
    both = np.concatenate([reference, compared], axis=-2)
    total, within = _scatter(both), _scatter(reference) + _scatter(compared)
    ratio: Floats = (total - within) / (within / (both.shape[-2] - 2))
    return ratio


def _scatter(values: Floats) -> Floats:
    around = values - values.mean(axis=-2, keepdims=True)
    total: Floats = (around**2).sum(axis=(-2, -1))
    return total


def likelihood_ratio(reference: Floats, compared: Floats) -> Floats:
    """Return twice the gain in log-likelihood of two Dirichlet-multinomials over one.

    Parameters
    ----------
    reference, compared : shape (..., n_animals, n_types)
        Counts.
    """
    both = np.concatenate([reference, compared], axis=-2)
    # Whatever the arrangement, all animals together are the same: fitted once.
    pooled = dirichlet_multinomial(both.reshape(-1, *both.shape[-2:])[:1])[0]
    gain = dirichlet_multinomial(reference) + dirichlet_multinomial(compared) - pooled
    ratio: Floats = np.round(2 * gain, DIGITS)
    return ratio


def dirichlet_multinomial(x: Floats) -> Floats:
    r"""Return the largest log-likelihood of counts under a Dirichlet-multinomial.

    Up to the multinomial coefficients, which do not depend on :math:`\alpha`. Minka's fixed-point
    iteration [1]_, which never loses likelihood, accelerated by extrapolation [2]_. A type without
    a cell has :math:`\alpha_k = 0`.

    Parameters
    ----------
    x : shape (..., n_animals, n_types)
        Counts; every animal has some.

    References
    ----------
    .. [1] Minka, T. P. (2000). Estimating a Dirichlet distribution. Technical report, MIT.
    .. [2] Varadhan, R. and Roland, C. (2008). Simple and globally convergent methods for
       accelerating the convergence of any EM algorithm. Scandinavian Journal of Statistics
       35:335-353.
    """
    counted = x.reshape(-1, *x.shape[-2:])
    found = np.full(len(counted), -np.inf)
    todo = np.arange(len(counted))
    seen = counted.sum(axis=-2)
    # (n_fits, n_types)
    alpha = 10 * seen / seen.sum(axis=-1, keepdims=True)
    for _ in range(MOST_STEPS):
        of = counted[todo]
        once = _fixed_point(alpha, of)
        twice = _fixed_point(once, of)
        further = _fixed_point(_extrapolated(alpha, once, twice), of)
        plain, fast = _log_likelihood(twice, of), _log_likelihood(further, of)
        better = fast > plain
        alpha = np.where(better[:, np.newaxis], further, twice)
        reached = np.where(better, fast, plain)
        # The step before gained less: each fit ends by itself, whatever is fitted beside it.
        going = reached - found[todo] > GAIN
        found[todo] = np.maximum(found[todo], reached)
        todo, alpha = todo[going], alpha[going]
        if not todo.size:
            break
    return found.reshape(x.shape[:-2])


def _fixed_point(alpha: Floats, x: Floats) -> Floats:
    some = alpha > 0
    safe = np.where(some, alpha, 1.0)[:, np.newaxis]
    total = alpha.sum(axis=-1)[:, np.newaxis]
    each = (special.digamma(x + safe) - special.digamma(safe)).sum(axis=1)
    whole = (special.digamma(x.sum(axis=-1) + total) - special.digamma(total)).sum(axis=1)
    return _bounded(np.where(some, alpha * each / whole[:, np.newaxis], 0.0))


def _extrapolated(start: Floats, once: Floats, twice: Floats) -> Floats:
    some = start > 0
    logs = [np.log(a, out=np.zeros_like(a), where=some) for a in (start, once, twice)]
    first = logs[1] - logs[0]
    bend = logs[2] - logs[1] - first
    size, curve = (np.sqrt((d**2).sum(axis=-1, keepdims=True)) for d in (first, bend))
    step = np.divide(size, curve, out=np.ones_like(size), where=curve > 0)
    ahead = logs[0] + 2 * step * first + step**2 * bend
    # Far enough for any fit, and no overflow.
    ahead = np.clip(ahead, -50, 50)
    return _bounded(np.where(some, np.exp(ahead), 0.0))


def _bounded(alpha: Floats) -> Floats:
    total = alpha.sum(axis=-1, keepdims=True)
    bounded: Floats = alpha * np.minimum(1, LARGEST_SUM / total)
    return bounded


def _log_likelihood(alpha: Floats, x: Floats) -> Floats:
    some = alpha > 0
    safe = np.where(some, alpha, 1.0)[:, np.newaxis]
    each = np.where(
        some[:, np.newaxis], special.gammaln(x + safe) - special.gammaln(safe), 0.0
    ).sum(axis=(-2, -1))
    total = alpha.sum(axis=-1)[:, np.newaxis]
    whole = (special.gammaln(total) - special.gammaln(x.sum(axis=-1) + total)).sum(axis=-1)
    likelihood: Floats = each + whole
    return likelihood


def _run(args: argparse.Namespace) -> None:
    table = comparators(
        tables.read(args.proportions, PROPORTIONS),
        tables.read(args.contrast, CONTRAST),
        load(args.params).comparators,
    )
    tables.write(table, COMPARATORS, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--proportions", type=Path, required=True)
    parser.add_argument("--contrast", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
