"""What each view of the explorer draws: rows of the tables, with names as people write them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from stages.base.study import Study
from stages.cells.medians import effective_share
from stages.drawing import style
from stages.heads.components import CONDITIONS, shown
from stages.measurement import effects
from stages.measurement.effects import Effects, Floats
from stages.measurement.metrics import REGISTRY, lognormal_share, measure
from stages.measurement.tables import SERIES
from stages.plane.tables import SCALES

Rows = list[dict[str, Any]]
Systems = Mapping[str, Sequence[Effects]]
"""By the name of its model and of its components, their effects in each state."""

EVIDENCE = {
    "annotation": "published annotation",
    "reconstructed": "reconstructed animals",
    "simulated": "simulated",
    "effects": "measured effects",
}
"""What numbers rest on, as the page names it."""

SIGNS: dict[str, Callable[[Floats], Floats]] = {
    "absolute": np.abs,
    "positive": lambda mean: np.maximum(mean, 0.0),
}
"""Which effects of heads count: of either sign, or only those that raise the loss."""
_ENDS = ("", "_floor_low", "_floor_high", "_exposure_alone", "_exposure_removed")
_SAMPLE = ["arm", "tissue", "evidence", "animal", "sex", "age_months", "condition"]


def named(table: pd.DataFrame, about: Study) -> pd.DataFrame:
    """Return a table of tissues, its arms in the order of the figures.

    `arm` and `tissue` are names as people write them, `evidence` is what the numbers rest on.
    """
    arms = [(one.cohort, one.platform) for one in style.series(table)]
    labels = [one.label for one in style.series(table)]
    of = list(zip(table["cohort"], table["platform"], strict=True))
    place = [arms.index(arm) for arm in of]
    evidence = [
        EVIDENCE[about.evidence(*arm, tissue)]
        for arm, tissue in zip(of, table["tissue"], strict=True)
    ]
    return table.assign(
        arm=pd.Categorical.from_codes(place, labels, ordered=True),
        evidence=evidence,
        tissue=[style.name(tissue) for tissue in table["tissue"]],
    ).sort_values(["arm", "tissue"], kind="stable")


def samples(proportions: pd.DataFrame, about: Study) -> Rows:
    """Return every sample with its cell types, the most frequent first.

    Parameters
    ----------
    proportions
        ``PROPORTIONS``.

    Returns
    -------
    list of dict
        What names a sample and, in one order, its ``types`` and their ``counts`` of cells.
    """
    key = ["arm", "order", "tissue", "age_months", "animal"]
    table = named(proportions, about)
    # The tissues of an arm that rest on the firmest ground come first.
    table = table.assign(order=[list(EVIDENCE.values()).index(kind) for kind in table["evidence"]])
    table = table.sort_values(
        [*key, "n_cells", "cell_type"], ascending=[True] * len(key) + [False, True]
    )
    return [
        {
            **_plain(rows[_SAMPLE].head(1))[0],
            "types": rows["cell_type"].tolist(),
            "counts": rows["n_cells"].tolist(),
        }
        for _, rows in table.groupby(key, sort=False, observed=True, dropna=False)
    ]


def tissues(plane: pd.DataFrame, about: Study) -> Rows:
    """Return the change of every tissue with its exact intervals, on every scale.

    Parameters
    ----------
    plane
        ``PLANE``; of it the cells' rows.
    """
    cells = plane[plane["system"] == "cells"]
    arm = cells["group"].str.split(" ", n=1)
    cells = cells.assign(cohort=arm.str[0], platform=arm.str[1], tissue=cells["series"])
    ends = [f"d_{axis}{end}" for axis in ("gini", "effective") for end in ("", "_low", "_high")]
    kept = ["arm", "tissue", "evidence", "scale", "n_first", "n_last", "quadrant", *ends]
    return _plain(named(cells, about)[kept])


def animals(metrics: pd.DataFrame, about: Study) -> Rows:
    """Return the distance of every animal from the median of its reference group, on every scale.

    Parameters
    ----------
    metrics
        ``METRICS``; of it the rows from all cells.
    """
    table = metrics[(metrics["cells"] == "all") & (metrics["group"] != "other")]
    share = effective_share(table)
    excess = share - lognormal_share(table["gini"].to_numpy(float))
    table = named(table.assign(effective_share=share, effective_excess=excess), about)
    rows: Rows = []
    for scale, axes in SCALES.items():
        for _, tissue in table.groupby(["arm", "tissue"], observed=True):
            start = tissue.loc[tissue["group"] == "reference", list(axes)].median()
            away = tissue[list(axes)] - start
            one = tissue[[*_SAMPLE, "group", "n_cells"]].assign(
                scale=scale, d_gini=away[axes[0]], d_effective=away[axes[1]]
            )
            rows += _plain(one.dropna(subset=["d_gini", "d_effective"]))
    return rows


def shown_effects(folder_states: Iterable[Effects], kinds: Sequence[str]) -> list[Effects]:
    """Return of a system's effects those that figures show, a state each.

    They are of the first of its kinds, and of the way of removal that figures show, or, where its
    conditions are no ways of removal, of the first by name.
    """
    found = effects.series(folder_states, kinds)
    kind = next(iter(kinds), "") or min(found)[0]
    conditions = sorted(condition for of, condition in found if of == kind)
    ways = pd.Series([condition for condition in conditions if condition in CONDITIONS], dtype=str)
    return found[kind, conditions[0] if ways.empty else shown(ways)]


def are_heads(states: Sequence[Effects]) -> bool:
    """Return whether the components of a system are single heads, each with a layer."""
    return {"layer", "head"} <= set(states[0].components)


def heads(systems: Systems, evidence: Mapping[str, str]) -> Rows:
    """Return the mean effect of every head in every state, with its standard error.

    Parameters
    ----------
    systems
        By the name of its model, the effects of each state.
    evidence
        Of each model.

    Returns
    -------
    list of dict
        ``shown`` is the square root of the effect over the largest in any state, signed.
    """
    rows: Rows = []
    for model, states in systems.items():
        means = np.stack([state.values.mean(axis=0) for state in states])
        errors = [
            state.values.std(axis=0, ddof=1) / np.sqrt(state.n_replicates)
            if state.n_replicates > 1
            else np.full(state.values.shape[1], np.nan)
            for state in states
        ]
        scaled = np.sign(means) * np.sqrt(np.abs(means) / np.abs(means).max())
        for i, state in enumerate(states):
            table = state.components[["layer", "head"]].assign(
                effect=means[i],
                error=errors[i],
                shown=scaled[i].round(4),
                model=model,
                evidence=evidence[model],
                index=i,
                last=len(states) - 1,
            )
            rows += _plain(table.reset_index(names="component"))
    return rows


def states(systems: Systems, evidence: Mapping[str, str]) -> Rows:
    """Return the concentration of components in every state, on every scale and by both signs.

    Parameters
    ----------
    systems, evidence
        As :func:`heads` takes them.
    """
    rows: Rows = []
    for model, parts in systems.items():
        for sign, weigh in SIGNS.items():
            for i, part in enumerate(parts):
                weights = weigh(part.values.mean(axis=0))
                for scale, axes in SCALES.items():
                    gini, number = measure(weights, [REGISTRY[axis] for axis in axes])
                    rows.append(
                        {
                            "model": model,
                            "evidence": evidence[model],
                            "index": i,
                            "state": part.state.name,
                            "sign": sign,
                            "scale": scale,
                            "gini": float(gini),
                            "effective": float(number),
                        }
                    )
    return [row for row in rows if np.isfinite([row["gini"], row["effective"]]).all()]


def maturing(table: pd.DataFrame, answers: pd.DataFrame, evidence: Mapping[str, str]) -> Rows:
    """Return the effective number over N of every model's components, along every training.

    Parameters
    ----------
    table, answers
        ``MATURING``, and ``MATURING_ANSWERS``, whose shown series are returned.
    evidence
        Of each model.
    """
    rows: Rows = []
    known = answers[answers["shown"] & (answers["system"] != "cells")].drop_duplicates("system")
    for one in known.to_dict("records"):
        of = table[(table[list(SERIES)] == [one[name] for name in SERIES]).all(axis=1)]
        order = of.drop_duplicates("state").sort_values("position")["state"].tolist()
        seeds = of["seed"].astype("Float64").fillna(-1.0)
        kept = of.assign(
            label=f"{one['components']} of {one['group']}",
            verdict=one["verdict"],
            evidence=evidence[one["group"]],
            place=[order.index(state) for state in of["state"]],
            training=["this run" if ours else f"seed {int(seed)}"
                      for seed, ours in zip(seeds, seeds == seeds.iloc[0], strict=True)],
        ).rename(columns={f"effective_share{end}": f"share{end}" for end in _ENDS})  # fmt: skip
        columns = ["label", "verdict", "evidence", "place", "state", "training"]
        kept = kept[[*columns, *(f"share{end}" for end in _ENDS)]]
        rows += _plain(kept.rename(columns={"label": "system"}))
    return rows


def resolutions(curve: pd.DataFrame, about: Study) -> Rows:
    """Return the change of tissues over clusters, from coarse to fine.

    Parameters
    ----------
    curve
        ``CLUSTER_CONTRAST``; of it the rows from all cells of whole tissues.
    """
    chosen = (curve["cells"] == "all") & curve["metric"].isin(SCALES["raw"])
    kept = ["arm", "tissue", "evidence", "resolution", "n_clusters", "metric", "change"]
    kept += ["change_low", "change_high", "rank_p", "n_reference", "n_compared"]
    return _plain(named(curve[chosen], about)[kept])


def _plain(table: pd.DataFrame) -> Rows:
    """Return rows that JSON can say: what is missing is null."""
    held = table.astype(object).where(table.notna(), None)
    rows: Rows = held.to_dict(orient="records")
    return rows
