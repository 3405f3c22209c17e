"""The schema of every table that passes from room to room, checked on write and on read.

Tables are tidy: one observation a row, units in the column's name, written as CSV with full float
precision so that a reader and a stage see the same digits. A column that a schema does not name is
an error.
"""

from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import pyarrow
import pyarrow.parquet as pq
from pandera.errors import SchemaError, SchemaErrors

from stages.errors import TableError
from stages.files import atomic_path

AGE_GROUPS = ("young", "middle", "old")
QUADRANTS = ("crystallize", "disperse", "mixed")
RULES = ("unannotated", "unknown_animal", "pooled_label", "too_few_cells")
CELLS = ("all", "rarefied")
# The row of a tissue's drivers that is no cell type: types that appeared or vanished.
NUMBER_OF_TYPES = "(number of types)"
# The label of cells whose animal is not stated; the proportions stage leaves them out.
UNKNOWN_ANIMAL = "(unknown)"


def _text(*, nullable: bool = False, isin: tuple[str, ...] | None = None) -> pa.Column:
    return pa.Column(str, pa.Check.isin(isin) if isin else None, nullable=nullable, coerce=True)


def _number(
    low: float | None = None, high: float | None = None, *, nullable: bool = False
) -> pa.Column:
    checks = []
    if low is not None:
        checks.append(pa.Check.ge(low))
    if high is not None:
        checks.append(pa.Check.le(high))
    return pa.Column(float, checks, nullable=nullable, coerce=True)


def _count(low: int = 0) -> pa.Column:
    return pa.Column(int, pa.Check.ge(low), coerce=True)


def _flag() -> pa.Column:
    return pa.Column(bool, coerce=True)


def _schema(name: str, columns: dict[str, pa.Column], unique: list[str]) -> pa.DataFrameSchema:
    return pa.DataFrameSchema(columns, name=name, strict=True, ordered=True, unique=unique)


_SAMPLE_KEY = ["cohort", "platform", "tissue", "animal"]
_SAMPLE = {
    "cohort": _text(),
    "platform": _text(),
    "tissue": _text(),
    "animal": _text(),
    "sex": _text(nullable=True),
    "age_months": _number(0),
    "age_group": _text(isin=AGE_GROUPS),
}
_TISSUE = {"cohort": _text(), "platform": _text(), "tissue": _text()}

COUNTS = _schema(
    "counts",
    _SAMPLE | {"cell_type": _text(nullable=True), "n_cells": _count(1)},
    [*_SAMPLE_KEY, "cell_type"],
)
"""Annotated cells of every sample; an empty cell type counts the cells without an annotation."""

TRUTH = _schema(
    "truth",
    _TISSUE
    | {
        "metric": _text(),
        "change_of_mean_composition": _number(),
        "change_of_medians": _number(),
    },
    ["cohort", "platform", "tissue", "metric"],
)
"""Known truth of simulated cohorts: the change between the two mean compositions, and the
difference of the medians over a very large population of animals with as many cells as the
simulated ones. Empty for real inputs."""

SAMPLES = _schema(
    "samples",
    _SAMPLE
    | {"n_cells": _count(1), "n_unannotated": _count(), "n_types": _count(), "pooled": _flag()},
    _SAMPLE_KEY,
)
"""What each file holds: one row a sample (an animal's cells of one tissue)."""

CONFOUNDING = _schema(
    "confounding",
    _TISSUE
    | {
        "age_group": _text(isin=AGE_GROUPS),
        "n_female": _count(),
        "n_male": _count(),
        "n_unknown_sex": _count(),
        "n_pooled": _count(),
        "sex_confounded": _flag(),
    },
    ["cohort", "platform", "tissue", "age_group"],
)
"""Animals by age group and sex; confounded: no sex has both a young and an old animal (pooled
labels left out)."""

PROPORTIONS = _schema(
    "proportions",
    _SAMPLE | {"cell_type": _text(), "n_cells": _count(1), "proportion": _number(0, 1)},
    [*_SAMPLE_KEY, "cell_type"],
)
"""Share of each cell type in each sample; absent types have no row."""

EXCLUSIONS = _schema(
    "exclusions",
    {
        "cohort": _text(),
        "platform": _text(),
        "tissue": _text(),
        "animal": _text(),
        "rule": _text(isin=RULES),
        "n_cells": _count(1),
        "detail": _text(),
    },
    [*_SAMPLE_KEY, "rule"],
)
"""Every cell that does not count, by the rule that left it out."""

METRICS = _schema(
    "metrics",
    _SAMPLE
    | {
        "cells": _text(isin=CELLS),
        "n_cells": _count(1),
        "gini": _number(0, 1),
        "gini_corrected": _number(0, 1 + 1e-12, nullable=True),
        "effective_number": _number(1 - 1e-12),
        "effective_number_miller_madow": _number(1 - 1e-12),
        "effective_number_chao_shen": _number(1 - 1e-12),
        "richness": _number(1),
        "evenness": _number(0, 1 + 1e-12, nullable=True),
        "hill_0": _number(1),
        "hill_0_5": _number(1 - 1e-12),
        "hill_1": _number(1 - 1e-12),
        "hill_2": _number(1 - 1e-12),
    },
    [*_SAMPLE_KEY, "cells"],
)
"""The numbers of each sample, from all its cells and from equal numbers of cells (mean over the
draws)."""

AGING = _schema(
    "aging",
    _TISSUE
    | {
        "cells": _text(isin=CELLS),
        "metric": _text(),
        "n_young": _count(1),
        "n_old": _count(1),
        "young_median": _number(),
        "old_median": _number(),
        "change": _number(),
        "change_low": _number(),
        "change_high": _number(),
        "shift": _number(),
        "shift_low": _number(nullable=True),
        "shift_high": _number(nullable=True),
        "shift_confidence": _number(0, 1, nullable=True),
        "mann_whitney_u": _number(0),
        "mann_whitney_p": _number(0, 1),
        "mann_whitney_p_smallest": _number(0, 1),
        "mann_whitney_q": _number(0, 1),
        "within_sex_p": _number(0, 1, nullable=True),
        "within_sex_p_smallest": _number(0, 1, nullable=True),
        "within_sex_n": _count(),
        "within_sex_exact": _flag(),
        "quadrant": _text(isin=QUADRANTS),
    },
    ["cohort", "platform", "tissue", "cells", "metric"],
)
"""Old minus young. `change` is the difference of the medians with its exact-bootstrap interval;
`shift` the Hodges-Lehmann estimate with its exact rank interval (empty where the groups are too
small for one)."""

NOT_COMPARED = _schema(
    "not_compared",
    _TISSUE | {"n_young": _count(), "n_old": _count(), "reason": _text()},
    ["cohort", "platform", "tissue"],
)
"""Tissues without enough animals in both groups."""

CONCORDANCE = _schema(
    "concordance",
    {
        "tissue": _text(),
        "metric": _text(),
        "change_first": _number(),
        "change_first_low": _number(),
        "change_first_high": _number(),
        "change_second": _number(),
        "change_second_low": _number(),
        "change_second_high": _number(),
        "same_sign": _flag(),
    },
    ["tissue", "metric"],
)
"""The change of each tissue on the two platforms, first and second as the settings name them."""

CONCORDANCE_SUMMARY = _schema(
    "concordance_summary",
    {
        "metric": _text(),
        "first": _text(),
        "second": _text(),
        "n_tissues": _count(),
        "n_same_sign": _count(),
        "same_sign_p": _number(0, 1, nullable=True),
        "spearman": _number(-1, 1, nullable=True),
        "spearman_p": _number(0, 1, nullable=True),
        "spearman_p_smallest": _number(0, 1, nullable=True),
        "spearman_exact": _flag(),
    },
    ["metric"],
)
"""How far the two platforms agree over tissues, with permutation p-values."""

DRIVERS = _schema(
    "drivers",
    _TISSUE
    | {
        "cell_type": _text(),
        "young_proportion": _number(0, 1, nullable=True),
        "old_proportion": _number(0, 1, nullable=True),
        "gini_contribution": _number(),
        "gini_contribution_low": _number(),
        "gini_contribution_high": _number(),
        "effective_number_contribution": _number(),
        "effective_number_contribution_low": _number(),
        "effective_number_contribution_high": _number(),
        "clr_change": _number(nullable=True),
        "clr_change_low": _number(nullable=True),
        "clr_change_high": _number(nullable=True),
    },
    ["cohort", "platform", "tissue", "cell_type"],
)
"""Each cell type's share of the change of the group means; the contributions of a tissue sum to the
whole change."""

RECOVERY = _schema(
    "recovery",
    _TISSUE
    | {
        "metric": _text(),
        "truth": _number(),
        "change": _number(),
        "change_low": _number(),
        "change_high": _number(),
        "covered": _flag(),
        "same_sign": _flag(),
    },
    ["cohort", "platform", "tissue", "metric"],
)
"""Known truth of simulated cohorts beside what the pipeline found. Empty for real inputs."""


def write(table: pd.DataFrame, schema: pa.DataFrameSchema, path: Path) -> None:
    """Check `table` and write it as CSV with 17 significant digits, atomically.

    Raises
    ------
    TableError
        The table does not follow its schema.
    """
    checked = _check(table, schema, f"the {schema.name} table to be written to {path}")
    with atomic_path(path) as temporary:
        checked.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")


def read(path: Path, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Read a CSV written by :func:`write` and check it.

    Raises
    ------
    TableError
        The file is missing, is no CSV, or does not follow its schema.
    """
    text = {name: "str" for name, column in schema.columns.items() if str(column.dtype) == "str"}
    try:
        # Only an empty field is missing: "nan" and "NA" are names that real atlases use.
        table = pd.read_csv(
            path,
            dtype=text,
            keep_default_na=False,
            na_values=[""],
            # The default parser may miss the last digit.
            float_precision="round_trip",
            encoding="utf-8",
        )
    except FileNotFoundError:
        msg = (
            f"the {schema.name} table {path} does not exist. "
            "Run the stage that writes it: dvc repro."
        )
        raise TableError(msg) from None
    except (
        pd.errors.EmptyDataError,
        pd.errors.ParserError,
        UnicodeDecodeError,
        ValueError,
    ) as error:
        msg = (
            f"{path} is not a readable CSV of the {schema.name} table "
            f"({' '.join(str(error).split())}). Remove it and run dvc repro."
        )
        raise TableError(msg) from None
    return _check(table, schema, f"the {schema.name} table {path}")


def empty(schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Return a table of `schema` without rows."""
    return pd.DataFrame(
        {name: pd.Series(dtype=str(column.dtype)) for name, column in schema.columns.items()}
    )


def _check(table: pd.DataFrame, schema: pa.DataFrameSchema, where: str) -> pd.DataFrame:
    fault = _columns_fault(list(table.columns), list(schema.columns))
    if not fault:
        try:
            return schema.validate(table)
        except SchemaError as error:
            fault = _reason(error)
        except SchemaErrors as errors:
            fault = _reason(errors.schema_errors[0])
    msg = (
        f"{where} does not follow its schema: {fault}. "
        "Mend the stage that writes it, then run dvc repro."
    )
    raise TableError(msg)


def _columns_fault(found: list[str], expected: list[str]) -> str:
    missing = [name for name in expected if name not in found]
    extra = [str(name) for name in found if name not in expected]
    if missing:
        return f"it has no column {', '.join(missing)}"
    if extra:
        return f"it has the unknown column {', '.join(extra)}"
    return "" if found == expected else f"its columns are not in the order {', '.join(expected)}"


def _reason(error: SchemaError) -> str:
    """Say in one line what is wrong, with the column and the first bad value."""
    cases = error.failure_cases
    column = getattr(error.schema, "name", None)
    if isinstance(cases, pd.DataFrame) and "failure_case" in cases and not cases.empty:
        first = cases["failure_case"].iloc[0]
        shown = first.item() if hasattr(first, "item") else first
        return f"column {column}, value {shown!r} ({error.check})"
    return " ".join(str(error).split())[:300]


UNITS = ("head", "layer", "noise")
PERTURBATIONS = ("zero", "mean", "mean_positional", "resample", "gaussian")
HEAD_METRICS = (
    "gini",
    "gini_corrected",
    "effective_number",
    "effective_share",
    "sum_abs_delta_nats",
)
HEAD_CLASS_NAMES = ("born_critical", "emergent", "growing", "transient", "never_critical")
FAMILIES = ("normal", "laplace", "student_t", "gamma_tail", "gamma_tail_cut")

_COMPONENT = {
    "step": _count(),
    "unit": _text(isin=UNITS),
    "perturbation": _text(isin=PERTURBATIONS),
    "layer": _count(-1),
    "head": _count(-1),
    "draw": _count(),
}

EFFECTS_PER_SEQUENCE = _schema(
    "effects",
    _COMPONENT
    | {
        "sequence": _count(),
        "loss_base": _number(),
        "loss_ablated": _number(),
        "delta_loss_nats": _number(),
    },
    [*_COMPONENT, "sequence"],
)
"""What each removal costs on each sequence, one Parquet file a checkpoint. `head` is -1 for layers;
`draw` counts the random draws of one head, or the directions of the distributed noise (whose layer
is -1)."""

HEAD_IMPORTANCE = _schema(
    "head_importance",
    _COMPONENT
    | {
        "delta_loss_nats": _number(),
        "standard_error_nats": _number(0, nullable=True),
        "standard_error_draws_nats": _number(0, nullable=True),
        "n_sequences": _count(1),
        "n_draws": _count(1),
        "loss_base": _number(0),
        "rank": _count(1),
    },
    list(_COMPONENT),
)
"""Mean effect of each removal, with its standard error over sequences and, for random
perturbations, over draws. `rank` 1 has the largest absolute effect of its step, unit and
perturbation; `draw` numbers the directions of the distributed noise and is 0 elsewhere."""

_HEADS_AT_STEP = {"step": _count(), "perturbation": _text(isin=PERTURBATIONS)}
_HEADS_METRIC = _HEADS_AT_STEP | {"metric": _text(isin=HEAD_METRICS)}

HEAD_NOISE_FLOOR = _schema(
    "head_noise_floor",
    _HEADS_METRIC
    | {
        "observed": _number(0, nullable=True),
        "floor": _number(0, nullable=True),
        "floor_low": _number(0, nullable=True),
        "floor_high": _number(0, nullable=True),
        "floor_independent": _number(0, nullable=True),
        "p": _number(0, 1, nullable=True),
        "p_smallest": _number(0, 1),
    },
    list(_HEADS_METRIC),
)
"""What each metric would be if no head had an effect: median and interval with the heads'
estimated covariance, and the median for independent heads. `p`: two-sided, of the observed."""

HEAD_TRAJECTORY = _schema(
    "head_trajectory",
    _HEADS_METRIC
    | {
        "value": _number(0, nullable=True),
        "sequences_low": _number(nullable=True),
        "sequences_high": _number(nullable=True),
        "percentile_low": _number(0, nullable=True),
        "percentile_high": _number(0, nullable=True),
        "heads_low": _number(0, nullable=True),
        "heads_high": _number(0, nullable=True),
        "floor": _number(0, nullable=True),
        "floor_low": _number(0, nullable=True),
        "floor_high": _number(0, nullable=True),
        "noise_share": _number(0, nullable=True),
        "n_heads": _count(1),
        "n_sequences": _count(1),
        "loss_base": _number(0),
    },
    list(_HEADS_METRIC),
)
"""The metrics along training. `sequences_*`: the interval that allows for the bias of absolute
values; `percentile_*`: the plain bootstrap over sequences; `heads_*`: the bootstrap over heads;
`noise_share`: sum of absolute effects that noise alone would give, over the observed sum."""

HEAD_CHANGE = _schema(
    "head_change",
    {
        "perturbation": _text(isin=PERTURBATIONS),
        "metric": _text(isin=HEAD_METRICS),
        "step_first": _count(),
        "step_last": _count(),
        "value_first": _number(0, nullable=True),
        "value_last": _number(0, nullable=True),
        "change": _number(nullable=True),
        "sequences_low": _number(nullable=True),
        "sequences_high": _number(nullable=True),
        "percentile_low": _number(nullable=True),
        "percentile_high": _number(nullable=True),
        "heads_low": _number(nullable=True),
        "heads_high": _number(nullable=True),
        "n_heads": _count(1),
        "n_sequences": _count(1),
    },
    ["perturbation", "metric"],
)
"""Last checkpoint minus first; the same resampled sequences (or heads) stand at both."""

HEAD_CLASSES = _schema(
    "head_classes",
    {
        "perturbation": _text(isin=PERTURBATIONS),
        "layer": _count(),
        "head": _count(),
        "head_class": _text(isin=HEAD_CLASS_NAMES),
        "n_critical_steps": _count(),
        "first_critical_step": _number(0, nullable=True),
        "relative_first": _number(),
        "relative_last": _number(),
        "relative_largest": _number(),
        "step_largest": _count(),
    },
    ["perturbation", "layer", "head"],
)
"""The class of each head along training. `relative_*`: effect over the baseline loss, positive
where removal harms; empty `first_critical_step`: never critical."""

_COMPONENTS_AT_STEP = {
    "step": _count(),
    "unit": _text(isin=UNITS),
    "perturbation": _text(isin=PERTURBATIONS),
}

HEAD_DISTRIBUTION = _schema(
    "head_distribution",
    _COMPONENTS_AT_STEP
    | {
        "family": _text(isin=FAMILIES),
        "n": _count(1),
        "location_nats": _number(nullable=True),
        "scale_nats": _number(0),
        "shape": _number(0, nullable=True),
        "shape_low": _number(0, nullable=True),
        "shape_high": _number(0, nullable=True),
        "log_likelihood": _number(),
        "aic": _number(nullable=True),
        "delta_aic": _number(0, nullable=True),
    },
    [*_COMPONENTS_AT_STEP, "family"],
)
"""Maximum-likelihood fits to the effects of a step. `shape`: degrees of freedom of Student's t,
shape of the gamma tails; `delta_aic`: above the best of the three families of all effects."""

HEAD_GRANULARITY = _schema(
    "head_granularity",
    _COMPONENTS_AT_STEP
    | {
        "n": _count(1),
        "mean_delta_nats": _number(),
        "mean_abs_delta_nats": _number(0),
        "median_abs_delta_nats": _number(0),
        "share_deleterious": _number(0, 1),
        "loss_base": _number(0),
    },
    list(_COMPONENTS_AT_STEP),
)
"""How much a removal of each size costs: distributed noise, heads, whole layers."""

ATTRIBUTION = _schema(
    "attribution",
    {
        "step": _count(),
        "layer": _count(),
        "head": _count(),
        "sequence": _count(),
        "loss_base": _number(),
        "first_order_nats": _number(),
        "fisher": _number(0),
        "size": _number(0),
    },
    ["step", "layer", "head", "sequence"],
)
"""Cheap facts about every head and sequence from one forward and backward pass: the first-order
effect of a removal, the sum over positions of its squared terms, and the head's size in the
residual stream. One Parquet file a checkpoint."""

HEAD_CONTROL_VARIATE = _schema(
    "head_control_variate",
    _COMPONENTS_AT_STEP
    | {
        "n_removals": _count(1),
        "n_fitted": _count(),
        "n_sequences": _count(2),
        "n_exact": _count(2),
        "n_certain": _count(),
        "r2_median": _number(None, 1),
        "r2_smallest": _number(None, 1),
        "equivalent_sequences": _number(0, nullable=True),
    },
    list(_COMPONENTS_AT_STEP),
)
"""How well the effects of most sequences were predicted from those of `n_exact`: out-of-fold R^2
over the removals, and the median number of exact sequences with the same standard error. Empty
where every effect is exact."""

HEAD_SCREEN = _schema(
    "head_screen",
    _HEADS_AT_STEP
    | {
        "n_heads": _count(2),
        "n_sequences": _count(2),
        "spearman": _number(-1, 1, nullable=True),
        "spearman_low": _number(-1, 1, nullable=True),
        "spearman_high": _number(-1, 1, nullable=True),
        "spearman_abs": _number(-1, 1, nullable=True),
        "spearman_abs_low": _number(-1, 1, nullable=True),
        "spearman_abs_high": _number(-1, 1, nullable=True),
        "n_top": _count(1),
        "n_top_shared": _count(),
        "gini": _number(0, 1, nullable=True),
        "gini_first_order": _number(0, 1, nullable=True),
        "sum_abs_delta_nats": _number(0),
        "sum_abs_first_order_nats": _number(0),
        "r2_median": _number(0, 1, nullable=True),
    },
    list(_HEADS_AT_STEP),
)
"""First-order attribution beside the effects of removal: rank correlation over heads with its
interval over sequences, how many of the heads with the largest effects it names, both
concentrations, and the median over heads of the squared correlation over sequences."""

COMPANION_AGREEMENT = _schema(
    "companion_agreement",
    {
        "step": _count(),
        "n_heads": _count(2),
        "spearman": _number(-1, 1, nullable=True),
        "spearman_abs": _number(-1, 1, nullable=True),
        "largest_difference_nats": _number(0),
        "largest_layer": _count(),
        "largest_head": _count(),
        "gini": _number(0, 1, nullable=True),
        "gini_companion": _number(0, 1, nullable=True),
        "gini_difference": _number(-1, 1, nullable=True),
        "effective_number": _number(0, nullable=True),
        "effective_number_companion": _number(0, nullable=True),
        "effective_number_difference": _number(nullable=True),
        "loss_base": _number(0),
        "loss_base_companion": _number(0),
    },
    ["step"],
)
"""Our effects beside those of the companion study, over the heads that both have. Empty where there
is nothing to compare with."""


def write_parquet(
    table: pd.DataFrame, schema: pa.DataFrameSchema, path: Path, *, metadata: dict[str, str]
) -> None:
    """Check `table` and write it as Parquet, atomically; the same content makes the same bytes.

    Raises
    ------
    TableError
        The table does not follow its schema.
    """
    checked = _check(table, schema, f"the {schema.name} table to be written to {path}")
    arrow = pyarrow.Table.from_pandas(checked, preserve_index=False)
    with atomic_path(path) as temporary:
        pq.write_table(arrow.replace_schema_metadata(metadata), temporary, compression="zstd")


def read_parquet(path: Path, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Read a Parquet table and check it.

    Raises
    ------
    TableError
        The file is missing, is no Parquet, or does not follow its schema.
    """
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        msg = (
            f"the {schema.name} table {path} does not exist. "
            "Run the stage that writes it: dvc repro."
        )
        raise TableError(msg) from None
    except (OSError, ValueError) as error:
        msg = (
            f"{path} is not a readable Parquet file of the {schema.name} table "
            f"({' '.join(str(error).split())}). Remove it and run dvc repro."
        )
        raise TableError(msg) from None
    return _check(table, schema, f"the {schema.name} table {path}")
