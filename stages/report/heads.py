"""The values, tables and passages of the paper that are about attention heads."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from stages.base.settings import Settings
from stages.heads.components import head_name, perturbation
from stages.heads.tables.classes import HEAD_CLASS_NAMES
from stages.measurement.concentration import quadrant
from stages.report import text
from stages.report.reading import read_all

REMOVED_BY = {
    "zero": "setting its output to zero",
    "mean": "setting its output to its mean over other text",
    "mean_positional": "setting its output to its mean at each position over other text",
    "resample": "setting its output to that on other text",
}
FAMILIES = {"normal": "a normal", "laplace": "a Laplace", "student_t": "a Student's t"}
UNITS = {"noise": "noise on a block's weights", "head": "a head", "layer": "a whole block"}
# Above this share of noise in the sum of effects no interval of a concentration is to be believed.
MOSTLY_NOISE = 0.4


class HeadTables(NamedTuple):
    """The tables that the text on heads rests on."""

    head_importance: pd.DataFrame
    head_trajectory: pd.DataFrame
    head_change: pd.DataFrame
    head_classes: pd.DataFrame
    head_distribution: pd.DataFrame
    head_granularity: pd.DataFrame
    head_control_variate: pd.DataFrame
    head_screen: pd.DataFrame
    companion_agreement: pd.DataFrame


def read_tables(folder: Path) -> HeadTables:
    """Read and check all of them."""
    return HeadTables(**read_all(HeadTables._fields, folder))


def variables(found: HeadTables, settings: Settings) -> dict[str, str]:
    """Return the values of the heads, all as text."""
    shown = perturbation(found.head_importance)
    along = _shown(found.head_trajectory, shown)
    change = _shown(found.head_change, shown).set_index("metric")
    by_metric = {name: rows.set_index("step") for name, rows in along.groupby("metric")}
    gini, number = by_metric["gini"], by_metric["effective_number"]
    total = by_metric["sum_abs"]
    first, last = int(gini.index.min()), int(gini.index.max())
    share = gini["noise_share"]
    top = gini["value"].idxmax()
    classes = _shown(found.head_classes, shown)["head_class"].value_counts()
    values = {
        "model": settings.model.name,
        "n_layers": text.integer(int(found.head_importance["layer"].max()) + 1),
        "n_heads": text.integer(int(gini["n_heads"].iloc[0])),
        "n_steps": text.integer(len(gini)),
        "step_first": text.integer(first),
        "step_last": text.integer(last),
        "n_sequences": text.integer(int(gini["n_sequences"].iloc[0])),
        "seq_len": text.integer(settings.model.text.seq_len),
        "removed_by": REMOVED_BY[shown],
        "estimator_sentence": _estimator_sentence(found.head_control_variate),
        "loss_first": text.number(gini.loc[first, "loss_base"], 2),
        "loss_last": text.number(gini.loc[last, "loss_base"], 2),
        "gini_first": text.number(gini.loc[first, "value"], 3),
        "gini_last": text.number(gini.loc[last, "value"], 3),
        "gini_change": text.signed(change.loc["gini", "change"], 3),
        "effective_number_first": text.number(number.loc[first, "value"], 1),
        "effective_number_last": text.number(number.loc[last, "value"], 1),
        "effective_number_change": text.signed(change.loc["effective_number", "change"], 1),
        "direction": _direction(change),
        "gini_max": text.number(gini.loc[top, "value"], 3),
        "gini_max_step": text.integer(int(top)),
        "noise_share_first": text.number(share.loc[first], 2),
        "noise_share_last": text.number(share.loc[last], 2),
        "floor_first": text.number(gini.loc[first, "floor"], 3),
        "floor_last": text.number(gini.loc[last, "floor"], 3),
        "noise_sentence": _noise_sentence(share),
        "sum_first": text.number(total.loc[first, "value"], 3),
        "sum_last": text.number(total.loc[last, "value"], 3),
        "critical": f"{100 * settings.classes.critical_relative:g}%",
        "silent": f"{100 * settings.classes.silent_relative:g}%",
        "min_z": f"{settings.classes.min_z:g}",
    }
    for metric, digits in (("gini", 3), ("effective_number", 1)):
        row = change.loc[metric]
        for kind in ("sequences", "heads"):
            low, high = row[f"{kind}_low"], row[f"{kind}_high"]
            values[f"{metric}_change_{kind}"] = text.interval(low, high, digits)
    values |= {f"n_{name}": text.integer(int(classes.get(name, 0))) for name in HEAD_CLASS_NAMES}
    return values | _largest(found.head_importance, shown, last) | _fit(found, shown, last)


def screen(found: HeadTables) -> dict[str, str]:
    """Return the values of first-order attribution beside the effects of removal."""
    along = _shown(found.head_screen, perturbation(found.head_importance)).set_index("step")
    first, last = along.loc[along.index.min()], along.loc[along.index.max()]
    signed, size = along["spearman"], along["spearman_abs"]
    return {
        "spearman_first": text.number(first["spearman"], 2),
        "spearman_last": text.number(last["spearman"], 2),
        "spearman_last_interval": (
            f"{text.number(last['spearman_low'], 2)} to {text.number(last['spearman_high'], 2)}"
        ),
        "spearman_abs_first": text.number(first["spearman_abs"], 2),
        "spearman_abs_last": text.number(last["spearman_abs"], 2),
        "spearman_smallest": text.number(signed.min(), 2),
        "spearman_smallest_step": text.integer(int(signed.idxmin())),
        "spearman_abs_smallest": text.number(size.min(), 2),
        "n_top": text.integer(int(last["n_top"])),
        "n_top_shared_last": text.integer(int(last["n_top_shared"])),
        "gini_last": text.number(last["gini_first_order"], 3),
        "gini_exact_last": text.number(last["gini"], 3),
    }


def _estimator_sentence(summary: pd.DataFrame) -> str:
    heads = summary[summary["unit"] == "head"]
    if heads.empty:
        return "Every effect is computed on every sequence."
    row = heads.iloc[0]
    low, high = _ends(heads["r2_median"])
    return (
        f"Effects are computed on {text.integer(row.n_exact)} of the "
        f"{text.integer(row.n_sequences)} sequences of a checkpoint, of which "
        f"{text.integer(row.n_certain)} are chosen for their unusual first-order attribution and "
        "the others at random; those of the other sequences are predicted by a cross-fitted "
        "regression on features of one forward and backward pass, corrected so that the estimate "
        "is unbiased over the draw. Out of fold the features explain "
        f"{text.number(low, 2)} to {text.number(high, 2)} of the variance over sequences (the "
        "median over heads, at each checkpoint)."
    )


def companion(agreement: pd.DataFrame) -> dict[str, str]:
    """Return the values of the comparison with published effects; none without a comparison."""
    if agreement.empty:
        return {}
    along = agreement.sort_values("step", ignore_index=True)
    largest = along.loc[along["largest_difference_nats"].idxmax()]
    loss = (along["loss_base"] - along["loss_base_companion"]).abs().max()
    low, high = (text.number(value, 3) for value in _ends(along["spearman"]))
    return {
        "n_heads": text.integer(int(along["n_heads"].max())),
        "n_steps": text.plural(len(along), "checkpoint"),
        "loss_difference": text.number(loss, 4),
        "spearman": low if low == high else f"{low} to {high}",
        "largest_difference": text.number(largest["largest_difference_nats"], 4),
        "largest": head_name(int(largest["largest_layer"]), int(largest["largest_head"])),
        "largest_step": text.integer(int(largest["step"])),
        "gini_difference": text.number(along["gini_difference"].abs().max(), 3),
        "effective_number_difference": text.number(
            along["effective_number_difference"].abs().max(), 1
        ),
        "change_sentence": _change_sentence(along),
    }


def _ends(column: pd.Series) -> tuple[float, float]:
    return float(column.min()), float(column.max())


def _change_sentence(along: pd.DataFrame) -> str:
    """Say what the published claim becomes; empty where there is one step only."""
    first, last = along.iloc[0], along.iloc[-1]
    if first["step"] == last["step"]:
        return ""
    changes = {name: last[name] - first[name] for name in along.columns if name != "step"}
    gini, gini_published = (text.signed(changes[name], 3) for name in ("gini", "gini_companion"))
    number, number_published = (
        text.signed(changes[name], 1) for name in ("effective_number", "effective_number_companion")
    )
    start, end = (text.integer(int(row["step"])) for row in (first, last))
    return (
        f"From step {start} to step {end} the Gini coefficient of these heads changes by {gini} "
        f"(published effects: {gini_published}) and their effective number by {number} "
        f"({number_published})."
    )


def includes(found: HeadTables) -> dict[str, str]:
    """Return the Markdown tables on heads by name."""
    return {
        "heads": _trajectory_table(found),
        "screen": _screen_table(found),
        "granularity": _granularity_table(found),
        "companion": _companion_table(found.companion_agreement),
    }


def _shown(table: pd.DataFrame, by: str) -> pd.DataFrame:
    rows: pd.DataFrame = table[table["perturbation"] == by]
    return rows


def _direction(change: pd.DataFrame) -> str:
    gini, number = change.loc[["gini", "effective_number"], "change"]
    return text.DO[str(quadrant(gini, number))]


def _noise_sentence(share: pd.Series) -> str:
    steps = [text.integer(int(step)) for step in share.index[share > MOSTLY_NOISE]]
    if not steps:
        return "At no checkpoint is the greater part of the effects noise."
    where = "step" if len(steps) == 1 else "steps"
    return (
        f"At {where} {text.listed(steps)} more than {MOSTLY_NOISE:g} of the sum is what noise "
        "alone would give: concentrations there, and changes measured from there, describe the "
        "measurement as much as the model."
    )


def _largest(importance: pd.DataFrame, shown: str, last: int) -> dict[str, str]:
    rows = _shown(importance, shown)
    rows = rows[(rows["step"] == last) & (rows["unit"] == "head")]
    row = rows.sort_values("rank").iloc[0]
    share = abs(row.delta_loss_nats) / rows["delta_loss_nats"].abs().sum()
    return {
        "largest": head_name(int(row.layer), int(row["head"])),
        "largest_delta": text.signed(row.delta_loss_nats, 3),
        "largest_error": text.number(row.standard_error_nats, 3),
        "largest_share": f"{100 * share:.0f}%",
    }


def _fit(found: HeadTables, shown: str, last: int) -> dict[str, str]:
    rows = _shown(found.head_distribution, shown)
    rows = rows[(rows["step"] == last) & (rows["unit"] == "head")].set_index("family")
    best = rows.loc[rows.index.isin(FAMILIES), "aic"].idxmin()
    harmful = _shown(found.head_granularity, shown)
    harmful = harmful[(harmful["step"] == last) & (harmful["unit"] == "head")]
    return {
        "best_family": FAMILIES[str(best)],
        "freedom": text.number(rows.loc["student_t", "shape"], 2),
        "share_deleterious": f"{100 * harmful['share_deleterious'].iloc[0]:.0f}%",
    }


def _trajectory_table(found: HeadTables) -> str:
    along = _shown(found.head_trajectory, perturbation(found.head_importance))
    wide = along.set_index(["step", "metric"])
    rows = []
    for step in sorted(along["step"].unique()):
        gini, number, total = (
            wide.loc[(step, metric)] for metric in ("gini", "effective_number", "sum_abs")
        )
        cells = [
            text.integer(int(step)),
            text.number(gini.loss_base, 2),
            text.number(total.value, 3),
        ]
        for row, digits in ((gini, 3), (number, 1)):
            low, high = (
                text.number(row.sequences_low, digits),
                text.number(row.sequences_high, digits),
            )
            cells.append(f"{text.number(row.value, digits)} [{low},{text.NBSP}{high}]")
            cells.append(text.number(row.floor, digits))
        rows.append([*cells, text.number(gini.noise_share, 2)])
    header = ["Step", "Loss", "Sum", "Gini", "Floor", "N~eff~", "Floor", "Noise"]
    return text.pipe_table(header, rows, align="rrrrrrrr")


def _screen_table(found: HeadTables) -> str:
    rows = []
    for row in _shown(found.head_screen, perturbation(found.head_importance)).itertuples():
        low, high = text.number(row.spearman_low, 2), text.number(row.spearman_high, 2)
        rows.append(
            [
                text.integer(row.step),
                f"{text.number(row.spearman, 2)} [{low},{text.NBSP}{high}]",
                text.number(row.spearman_abs, 2),
                f"{row.n_top_shared} of {row.n_top}",
                text.number(row.gini, 3),
                text.number(row.gini_first_order, 3),
                text.number(row.sum_abs_delta_nats, 3),
                text.number(row.sum_abs_first_order_nats, 3),
            ]
        )
    header = ["Step", "Spearman", "of sizes", "Top", "Gini", "(first)", "Sum", "(first)"]
    return text.pipe_table(header, rows, align="rrrrrrrr")


def _granularity_table(found: HeadTables) -> str:
    table = found.head_granularity
    ends = (table["step"].min(), table["step"].max())
    rows = []
    for row in table[table["step"].isin(ends)].sort_values(["step", "n"]).itertuples():
        rows.append(
            [
                text.integer(row.step),
                UNITS[row.unit],
                text.integer(row.n),
                text.number(row.mean_abs_delta_nats, 4),
                f"{100 * row.share_deleterious:.0f}%",
            ]
        )
    header = ["Step", "What is removed or disturbed", "n", "Mean effect (nats)", "Harmful"]
    return text.pipe_table(header, rows, align="rlrrr")


def _companion_table(agreement: pd.DataFrame) -> str:
    rows = [
        [
            text.integer(row.step),
            text.integer(row.n_heads),
            text.signed(row.loss_base - row.loss_base_companion, 4),
            text.number(row.spearman, 3),
            text.number(row.largest_difference_nats, 4),
            head_name(row.largest_layer, row.largest_head),
            text.signed(row.gini_difference, 3),
            text.signed(row.effective_number_difference, 1),
        ]
        for row in agreement.sort_values("step").itertuples()
    ]
    header = ["Step", "Heads", "Loss", "Spearman", "Largest", "Head", "Gini", "N~eff~"]
    return text.pipe_table(header, rows, align="rrrrrlrr")
