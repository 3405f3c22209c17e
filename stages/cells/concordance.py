"""Ask whether two platforms see the same change in the same tissue.

Original step 05. The platforms name some tissues differently (droplet ``Heart_and_Aorta`` is FACS
``Heart`` and ``Aorta``): the cells of the parts are put together animal by animal before they are
measured.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from stages.base import cli, tables
from stages.base.settings import Settings, load
from stages.cells import counts
from stages.cells.contrast import contrast
from stages.cells.metrics import metrics
from stages.cells.settings import Concordance
from stages.cells.tables.concordance import CONCORDANCE, CONCORDANCE_SUMMARY
from stages.cells.tables.contrast import CONTRAST
from stages.cells.tables.proportions import PROPORTIONS
from stages.measurement import resampling

# Fewer points than this have no rank correlation worth a number.
MIN_TISSUES = 3


def merge_tissues(proportions: pd.DataFrame, tissue_map: dict[str, list[str]]) -> pd.DataFrame:
    """Return the samples of the mapped tissues with their parts put together under the common name.

    Shares are recomputed from the cells. Only names that `tissue_map` knows are returned, and of a
    cohort and platform only those of which it has the whole or every part: an aorta is no heart
    and aorta. An animal that has not all of the parts is counted with those it has.
    """
    kept = [
        of.assign(tissue=whole)
        for _, arm in proportions.groupby(["cohort", "platform"])
        for whole, parts in tissue_map.items()
        if {whole} <= set(arm["tissue"]) or set(parts) <= set(arm["tissue"])
        for of in [arm[arm["tissue"].isin([whole, *parts])]]
    ]
    mapped = pd.concat(kept) if kept else proportions.iloc[:0]
    key = [*counts.SAMPLE, "cell_type"]
    merged = mapped.groupby(key, dropna=False, as_index=False)["n_cells"].sum()
    total = merged.groupby(counts.SAMPLE, dropna=False)["n_cells"].transform("sum")
    return merged.assign(proportion=merged["n_cells"] / total)


def concordance(changes: pd.DataFrame, settings: Concordance) -> pd.DataFrame:
    """Return ``CONCORDANCE``: the changes of tissues on both platforms, side by side."""
    first, second = settings.platforms
    columns = ["tissue", "metric", "change", "change_low", "change_high"]
    wanted = changes[
        (changes["cohort"] == settings.cohort)
        & (changes["cells"] == "all")
        & changes["metric"].isin(settings.metrics)
    ]
    sides = [wanted.loc[wanted["platform"] == name, columns] for name in (first, second)]
    both = sides[0].merge(sides[1], on=["tissue", "metric"], suffixes=("_first", "_second"))
    renamed = both.rename(
        columns={
            f"change_{bound}_{side}": f"change_{side}_{bound}"
            for bound in ("low", "high")
            for side in ("first", "second")
        }
    )
    renamed["same_sign"] = np.sign(renamed["change_first"]) == np.sign(renamed["change_second"])
    renamed["cohort"] = settings.cohort
    return renamed.sort_values(["metric", "tissue"], ignore_index=True)[list(CONCORDANCE.columns)]


def summary(
    table: pd.DataFrame, settings: Concordance, *, rng: np.random.Generator
) -> pd.DataFrame:
    """Return, for each metric, how far the signs and the ranks of the changes agree.

    Signs are put to the exact sign test, ranks (Spearman) to a permutation test.
    """
    rows = []
    for metric in settings.metrics:
        changes = table[table["metric"] == metric]
        n, same = len(changes), int(changes["same_sign"].sum())
        first = changes["change_first"].to_numpy(float)
        second = changes["change_second"].to_numpy(float)
        ranks = resampling.Test(math.nan, math.nan, math.nan, exact=True)
        if n >= MIN_TISSUES and np.ptp(first) > 0 and np.ptp(second) > 0:
            ranks = resampling.paired_permutation(
                _spearman, first, second, max_permutations=settings.max_permutations, rng=rng
            )
        rows.append(
            {
                "metric": metric,
                "first": settings.platforms[0],
                "second": settings.platforms[1],
                "n_tissues": n,
                "n_same_sign": same,
                "same_sign_p": stats.binomtest(same, n).pvalue if n else math.nan,
                "spearman": ranks.statistic,
                "spearman_p": ranks.p,
                "spearman_p_smallest": ranks.p_smallest,
                "spearman_exact": ranks.exact,
            }
        )
    return pd.DataFrame(rows)


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(np.corrcoef(stats.rankdata(first), stats.rankdata(second))[0, 1])


def changes_on_common_tissues(
    proportions: pd.DataFrame, aged: pd.DataFrame, settings: Settings
) -> pd.DataFrame:
    """Return the comparison table, the mapped tissues measured again under their common names."""
    wanted = settings.concordance
    merged = merge_tissues(proportions[proportions["cohort"] == wanted.cohort], wanted.tissue_map)
    if merged.empty:
        return aged
    again, _ = contrast(metrics(merged, settings.metrics), settings.contrast)
    kept = aged[~aged["tissue"].isin(set(wanted.tissue_map))]
    return pd.concat([kept, again], ignore_index=True)


def of_atlas(settings: Settings) -> Settings:
    """Return the settings with a cohort that the atlas has, and two platforms that it is on."""
    wanted, on = settings.concordance, dict[str, list[str]]()
    for file in settings.atlas.cells.values():
        platforms = on.setdefault(file.cohort, [])
        platforms += [file.platform] * (file.platform not in platforms)
    found = [(cohort, platforms) for cohort, platforms in on.items() if len(platforms) > 1]
    if wanted.cohort in on or not found:
        return settings
    own = {"cohort": found[0][0], "platforms": found[0][1][:2]}
    return settings.model_copy(update={"concordance": wanted.model_copy(update=own)})


def _run(args: argparse.Namespace) -> None:
    settings = of_atlas(load(args.params))
    proportions = tables.read(args.proportions, PROPORTIONS)
    aged = tables.read(args.contrast, CONTRAST)
    changes = changes_on_common_tissues(proportions, aged, settings)
    table = concordance(changes, settings.concordance)
    rng = np.random.default_rng(settings.concordance.seed)
    if table.empty:
        cli.log.info(
            "no tissue was compared on both %s", " and ".join(settings.concordance.platforms)
        )
    tables.write(table, CONCORDANCE, args.out)
    tables.write(summary(table, settings.concordance, rng=rng), CONCORDANCE_SUMMARY, args.summary)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--proportions", type=Path, required=True)
    parser.add_argument("--contrast", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--summary", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
