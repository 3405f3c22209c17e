"""Measure samples, compare groups of them, and measure the effects of components.

Given an ``AnnData``, a function writes its tables to ``adata.uns["clonal"]`` and returns nothing;
with `copy` it returns them and writes nothing. Given a ``DataFrame`` it returns them. Nothing else
of the input is changed.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from stages.base.errors import AtlasError
from stages.base.sections import Section
from stages.cells import counts
from stages.cells.contrast import contrast
from stages.cells.metrics import metrics as metrics_of_samples
from stages.cells.proportions import proportions
from stages.cells.settings import Contrast, Metrics, Proportions
from stages.inputs.tables import TWO_GROUPS, UNKNOWN_ANIMAL
from stages.measurement.concentration import Components
from stages.measurement.effects import Effects, State
from stages.measurement.measured import measured as measured_series
from stages.measurement.metrics import OF_EFFECTS, REGISTRY
from stages.measurement.settings import Measured, System

if TYPE_CHECKING:
    from anndata import AnnData

S = TypeVar("S", bound=Section)

UNS = "clonal"
"""The key of ``adata.uns`` under which all tables lie."""
COMPARED = (
    "gini",
    "gini_corrected",
    "effective_number",
    "effective_number_chao_shen",
    "richness",
    "evenness",
)
"""What is compared, unless other metrics are named."""
EFFECTS_BY = tuple(metric.name for metric in OF_EFFECTS)
"""What effects are measured by, unless other metrics are named."""

_CATEGORIES = {"present": "present", "all": "tissue"}
_SAMPLE = ["tissue", "animal"]
# Of the tables of measured systems: what a caller who names one series does not need.
_OF_SYSTEMS = [
    *("system", "group", "series", "condition", "exposure", "untrained", "baseline"),
    *("position", "position_first", "position_last"),
]
_NEVER = r"(?!)"
_SHOWN = 5


def composition(
    cells: "AnnData | pd.DataFrame",
    *,
    sample: str,
    cell_type: str,
    tissue: str | None = None,
    covariates: Sequence[str] = (),
    components: Components = "present",
    min_cells: int = 50,
    pooled_pattern: str | None = None,
    draws: int = 500,
    seed: int = 0,
    key_added: str = "composition",
    copy: bool = False,
) -> pd.DataFrame | None:
    """Measure how concentrated each sample is over its cell types.

    Every number is taken from all cells of the sample and, as the mean over draws without
    replacement, from as many cells as the smallest sample of the tissue has: the number of cells
    moves all of them. Cells without a type or a sample (missing, ``""``, ``"nan"``, ``"NA"``,
    ``"None"``) and samples of too few cells are left out, and one warning says how many.

    Parameters
    ----------
    cells
        One row of ``obs`` or of the table is a cell.
    sample, cell_type
        Columns. A sample is what was sampled independently: an animal, a donor.
    tissue
        A column; each of its values is measured by itself. None: there is one tissue.
    covariates
        Columns that say one thing of each sample, such as age or sex, to be kept beside it.
    components
        Which cell types are components of a sample: those ``"present"`` in it, or ``"all"`` that
        any sample of its tissue has.
    min_cells
        The least number of cells of a sample.
    pooled_pattern
        A regular expression; a sample whose label it matches holds several animals and is left out.
        The study's is ``[/|+]``.
    draws, seed
        Of the draws of equal numbers of cells.
    key_added, copy
        Where in ``adata.uns["clonal"]`` the table goes; whether it is returned instead.

    Returns
    -------
    DataFrame or None
        Two rows a sample, with `cells` ``all`` and ``rarefied``: `tissue` (if there is one),
        `sample`, the covariates, `cells`, `n_cells`, `gini`, `gini_corrected`, `effective_number`
        and its estimates `_miller_madow` and `_chao_shen`, `richness`, `evenness`, and the Hill
        numbers of orders 0, 0.5, 1 and 2. A single type has no corrected Gini and no evenness: nan.

    Raises
    ------
    ValueError
        A column is missing or named like one of the result, a sample has two values of a covariate,
        no sample is left, or an argument is not allowed.

    See Also
    --------
    stages.cells.metrics : where the numbers come from.

    Examples
    --------
    >>> obs = pd.DataFrame({"mouse": list("aaaabbbb"), "type": list("BBTTBBBT")})
    >>> table = composition(obs, sample="mouse", cell_type="type", min_cells=4)
    >>> table.query("cells == 'all'")[["sample", "n_cells", "gini", "effective_number"]].round(3)
      sample  n_cells  gini  effective_number
    0      a        4  0.00             2.000
    1      b        4  0.25             1.755
    """
    if components not in _CATEGORIES:
        msg = f"components {components!r} is unknown: allowed are {', '.join(_CATEGORIES)}"
        raise ValueError(msg)
    rules = _settings(Proportions, min_cells=min_cells, pooled_pattern=pooled_pattern or _NEVER)
    settings = _settings(
        Metrics,
        category_set=_CATEGORIES[components],
        fixed_categories=[],
        rarefaction={"draws": draws, "depth": None, "seed": seed},
    )
    obs = cells if isinstance(cells, pd.DataFrame) else _anndata(cells).obs
    wanted = [sample, cell_type, *([] if tissue is None else [tissue]), *covariates]
    _require(obs, wanted, "the table of cells")
    names = _names(obs, sample, cell_type, tissue)
    counted = names.value_counts(dropna=False).reset_index(name="n_cells")
    counted = counted.assign(cohort="", platform="")
    try:
        shares, left_out = proportions(
            counted.reindex(columns=[*counts.SAMPLE, "cell_type", "n_cells"]), rules
        )
    except AtlasError:
        n_typed = int(names["cell_type"].notna().sum())
        msg = (
            f"no sample in column {sample} has {min_cells} cells: of {len(obs)} cells {n_typed} "
            f"have a type in column {cell_type}. Lower min_cells, or name other columns."
        )
        raise ValueError(msg) from None
    measured_ = metrics_of_samples(shares, settings)
    others = [name for name in counts.SAMPLE if name not in _SAMPLE]
    table = _beside(names, obs, covariates, measured_.drop(columns=others))
    if tissue is None:
        table = table.drop(columns="tissue")
    _say_left_out(left_out)
    return None if _written(cells, table, key_added, copy=copy) else table


def compare(
    cells: "AnnData | pd.DataFrame",
    *,
    group: str,
    reference: object,
    compared: object,
    pair: str | None = None,
    block: str | None = None,
    metrics: Sequence[str] = COMPARED,
    confidence: float = 0.95,
    max_permutations: int = 200_000,
    seed: int = 0,
    key: str = "composition",
    key_added: str = "compare",
    copy: bool = False,
) -> pd.DataFrame | None:
    """Compare two groups of samples, tissue by tissue: change, intervals, exact tests, direction.

    Parameters
    ----------
    cells
        An ``AnnData`` measured by :func:`composition`, or the table that it returned.
    group
        A covariate of that table.
    reference, compared
        The two of its values that are compared; a change is `compared` minus `reference`. Samples
        of other values are left out.
    pair
        A covariate that one sample of each group shares, such as a donor before and after: the
        change is then that within pairs, and samples without a partner are left out.
    block
        A covariate within whose values samples are exchanged in a further test, such as sex.
    metrics
        Columns of the table; `gini` and `effective_number`, which make the direction, among them.
    confidence
        Of the intervals.
    max_permutations, seed
        Arrangements within blocks are counted up to this many, drawn at random beyond it.
    key, key_added, copy
        Where in ``adata.uns["clonal"]`` the samples are and the result goes; whether that is
        returned instead.

    Returns
    -------
    DataFrame or None
        A row for each tissue, all or rarefied cells, and metric. `change` is the difference of the
        medians, or in pairs the median of the differences, with the interval of its exact
        bootstrap; `shift` the Hodges-Lehmann estimate with its exact rank interval and the
        confidence attained, nan where the groups are too small; `rank_*` the exact test of Mann and
        Whitney, or in pairs of Wilcoxon, with the smallest p that these sizes allow, and over
        several tissues `rank_q` (Benjamini-Hochberg); `within_block_*` the permutations within
        blocks, if there are any. `quadrant` is ``crystallize`` (Gini up, effective number down),
        ``disperse`` or ``mixed``; it is `emphasised` if the intervals of both changes leave out
        zero and both ranks have p of at most 0.05. A metric that is undefined for too many samples
        has no row.

    Raises
    ------
    ValueError
        The samples were not measured, a column or value is missing, a sample occurs twice, no
        tissue has two samples of each group, or an argument is not allowed.

    See Also
    --------
    stages.measurement.resampling : the methods and their sources.

    Examples
    --------
    >>> obs = pd.DataFrame(
    ...     {
    ...         "mouse": np.repeat(list("abcdef"), 6),
    ...         "age": np.repeat(["young", "old"], 18),
    ...         "type": list("BBBTTT" "BBTTTT" "BBBTTM" "BBBBBT" "BBBBBM" "BBBBTM"),
    ...     }
    ... )
    >>> table = composition(
    ...     obs, sample="mouse", cell_type="type", covariates=["age"], min_cells=6
    ... )
    >>> found = compare(table, group="age", reference="young", compared="old")
    >>> found = found.query("cells == 'all' and metric == 'gini'")
    >>> found[["reference_median", "compared_median", "rank_p", "quadrant"]].round(3)
       reference_median  compared_median  rank_p     quadrant
    0             0.167            0.333     0.1  crystallize
    """
    settings = _settings(
        Contrast,
        metrics=list(metrics),
        confidence=confidence,
        max_permutations=max_permutations,
        seed=seed,
    )
    table = cells if isinstance(cells, pd.DataFrame) else _stored(_anndata(cells), key)
    named = [name for name in (pair, block) if name is not None]
    wanted = [group, *named, "sample", "cells", *settings.metrics]
    _require(table, wanted, "the table of samples; name covariates in composition")
    by_tissue = "tissue" in table
    samples = table[["cells", *settings.metrics]].assign(
        cohort="",
        platform="",
        tissue=table["tissue"].astype(str) if by_tissue else "",
        animal=table["sample"],
        group=_labelled(table[group], reference, compared),
        # The stage permutes within sexes, and looks for pairs in its blocks.
        sex=None if block is None else table[block].astype(object),
        block=None if pair is None else table[pair].astype(object),
    )
    twice = samples.duplicated(["tissue", "animal", "cells"])
    if twice.any():
        name = samples.loc[twice, "animal"].iloc[0]
        msg = (
            f"sample {name!r} occurs twice in the table of samples; each may occur once. "
            "Name what tells them apart as sample or tissue of composition."
        )
        raise ValueError(msg)
    if pair is not None:
        _refuse_no_pairs(samples[samples["group"] != ""], pair)
    found, few = contrast(samples, settings)
    _say_not_compared(few, samples["tissue"].nunique())
    found.insert(found.columns.get_loc("metric") + 1, "reference", str(reference))
    found.insert(found.columns.get_loc("metric") + 2, "compared", str(compared))
    unneeded = ["cohort", "platform", *([] if by_tissue else ["tissue", "rank_q"])]
    if block is None:
        unneeded += [name for name in found if name.startswith("within_block")]
    found = found.drop(columns=unneeded)
    return None if _written(cells, found, key_added, copy=copy) else found


def measured(
    effects: "AnnData | pd.DataFrame | Mapping[str, ArrayLike | pd.DataFrame]",
    *,
    layers: Sequence[str] = (),
    exposure: ArrayLike | None = None,
    metrics: Sequence[str] = EFFECTS_BY,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    key_added: str = "measured",
    copy: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Measure the effects of the components of any system, in one state or several.

    An effect is what happens to a replicate when a component is removed, signed. Its components are
    measured by the absolute values of their mean effects over replicates.

    Parameters
    ----------
    effects
        The effects of each state, by its name and in order: tables or arrays of shape
        (n_replicates, n_components), with the same replicates and components in all. A single
        ``DataFrame`` is one state. Of an ``AnnData``, replicates are ``obs``, components ``var``.
    layers
        The states of an ``AnnData``; empty: ``X`` is the only one.
    exposure : shape (n_components,)
        What alone could explain a large effect, at least 0: how often a feature fires, say.
    metrics
        Names of the metrics of :data:`stages.measurement.metrics.REGISTRY`.
    confidence, draws, seed
        Of the bootstrap and of the floors; at least 20 draws.
    key_added, copy
        Where in ``adata.uns["clonal"]`` the tables go, as `values` and `changes`; whether they are
        returned instead.

    Returns
    -------
    values, changes : DataFrames, or None
        A row for each state and metric, and one for each pair of states and metric; `changes` of
        one state is empty. `replicates_*`: the interval over replicates that allows for the bias of
        absolute values, to be believed while `noise_share` is below about 0.4; `percentile_*`: the
        plain one; `components_*`: over components. `floor`, `p`: what noise alone would give, and
        how often it gives what was observed. `exposure_alone`, `exposure_removed`: the metric of
        what the exposure predicts, and of the effects over their prediction. One replicate has no
        interval over replicates and no floor: nan.

    Raises
    ------
    ValueError
        The states differ in replicates or components, an effect is not finite, or an argument is
        not allowed.

    See Also
    --------
    stages.measurement.measured : the intervals, and how often they hold the truth.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> even = rng.normal(1.0, 0.1, size=(30, 8))
    >>> values, changes = measured({"before": even, "after": even * np.arange(8)}, draws=200)
    >>> gini = changes.set_index("metric").loc["gini"]
    >>> bool(gini["replicates_low"] < gini["change"] < gini["replicates_high"])
    True
    >>> values.query("metric == 'gini'")[["state", "value", "floor"]].round(1)
        state  value  floor
    0  before    0.0    0.4
    6   after    0.4    0.5
    """
    settings = _settings(Measured, confidence=confidence, draws=draws, seed=seed)
    if unknown := [name for name in metrics if name not in REGISTRY]:
        msg = f"metric {unknown[0]!r} is unknown: allowed are {', '.join(REGISTRY)}"
        raise ValueError(msg)
    states = _states(effects, layers)
    system = _settings(System, room=UNS, group="", effects=Path(), states=list(states))
    values, changes, _ = measured_series(
        _effects(states, exposure), system, [REGISTRY[name] for name in metrics], settings
    )
    values, changes = (
        table.drop(columns=_OF_SYSTEMS, errors="ignore") for table in (values, changes)
    )
    if exposure is None:
        values = values.drop(columns=["exposure_alone", "exposure_removed"])
    tables = {"values": values, "changes": changes}
    return None if _written(effects, tables, key_added, copy=copy) else (values, changes)


def _settings(kind: type[S], **values: object) -> S:
    """Return the arguments as the settings of a stage, or say in one line what is wrong."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]).removeprefix("rarefaction.")
        reason = first["msg"].removeprefix("Value error, ")
        msg = f"{name} {first['input']!r} is not allowed: {reason[0].lower()}{reason[1:]}"
        raise ValueError(msg) from None


def _anndata(given: object) -> "AnnData":
    # Only whoever has one has loaded it already.
    from anndata import AnnData

    if isinstance(given, AnnData):
        return given
    msg = f"a {type(given).__name__} is no table: give an AnnData or a DataFrame"
    raise TypeError(msg)


def _stored(adata: "AnnData", key: str) -> pd.DataFrame:
    try:
        return adata.uns[UNS][key]
    except KeyError:
        msg = (
            f"adata.uns[{UNS!r}] has no {key!r}: call clonal.tl.composition first, or name its key"
        )
        raise ValueError(msg) from None


def _written(given: object, found: object, key: str, *, copy: bool) -> bool:
    """Write what was found to ``uns``, if it goes there."""
    if copy or isinstance(given, pd.DataFrame | Mapping):
        return False
    uns = _anndata(given).uns
    # One assignment: a view becomes an AnnData of its own by it.
    uns[UNS] = {**uns.get(UNS, {}), key: found}
    return True


def _require(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    if missing := [name for name in columns if name not in table.columns]:
        shown = ", ".join(map(str, table.columns)) or "(none)"
        msg = f"column {missing[0]!r} is not in {what}. Its columns are: {shown}"
        raise ValueError(msg)


def _names(obs: pd.DataFrame, sample: str, cell_type: str, tissue: str | None) -> pd.DataFrame:
    """Return tissue, sample and type of every cell as text, None where they say nothing."""
    # Reads every layout of h5ad: a second that an import need not take.
    from stages.inputs.cells import as_text

    names = pd.DataFrame(
        {
            "tissue": "" if tissue is None else as_text(obs[tissue]).to_numpy(),
            "animal": as_text(obs[sample]).fillna(UNKNOWN_ANIMAL).to_numpy(),
            "cell_type": as_text(obs[cell_type]).to_numpy(),
        },
        index=range(len(obs)),
    )
    if n_missing := int(names["tissue"].isna().sum()):
        msg = (
            f"{n_missing} of {len(obs)} cells have no tissue in column {tissue}. "
            "Leave them out, or name another column."
        )
        raise ValueError(msg)
    return names


def _beside(
    names: pd.DataFrame, obs: pd.DataFrame, covariates: Sequence[str], table: pd.DataFrame
) -> pd.DataFrame:
    """Return the table of samples with the covariates behind the names of the samples."""
    named = table.rename(columns={"animal": "sample"})
    if taken := [name for name in covariates if name in named]:
        msg = (
            f"covariate {taken[0]!r} has the name of a column of the result; rename it in the table"
        )
        raise ValueError(msg)
    said = pd.concat([names[_SAMPLE], obs[list(covariates)].reset_index(drop=True)], axis=1)
    said = table[_SAMPLE].drop_duplicates().merge(said.drop_duplicates(), on=_SAMPLE)
    twice = said[said.duplicated(_SAMPLE, keep=False)]
    if not twice.empty:
        first = twice[(twice[_SAMPLE] == twice[_SAMPLE].iloc[0]).all(axis=1)]
        name = next(name for name in covariates if first[name].nunique(dropna=False) > 1)
        values = ", ".join(map(repr, first[name].unique()[:_SHOWN]))
        msg = (
            f"sample {first['animal'].iloc[0]!r} has more than one {name}: {values}. "
            "Correct the table, or name the column that tells the samples apart."
        )
        raise ValueError(msg)
    # An h5ad takes missing text among categories alone.
    text = [name for name in covariates if said[name].dtype == object]
    said = said.astype(dict.fromkeys(text, "category"))
    order = [*_SAMPLE, *covariates, *(name for name in table if name not in _SAMPLE)]
    return table.merge(said, on=_SAMPLE)[order].rename(columns={"animal": "sample"})


def _say_left_out(left_out: pd.DataFrame) -> None:
    if left_out.empty:
        return
    parts = [
        f"{part['n_cells'].sum()} cells of {len(part)} samples ({detail})"
        for detail, part in left_out.groupby("detail", sort=False)
    ]
    warnings.warn(f"left out: {'; '.join(parts)}", stacklevel=3)


def _labelled(values: pd.Series, reference: object, compared: object) -> NDArray[np.str_]:
    """Say of each sample which of the two groups it belongs to."""
    there = values.dropna().unique().tolist()
    for wanted in (reference, compared):
        if wanted not in there:
            shown = ", ".join(map(repr, there[:_SHOWN]))
            msg = f"no sample has {wanted!r} in column {values.name}; values there are: {shown}"
            raise ValueError(msg)
    if reference == compared:
        msg = f"reference and compared are both {reference!r}: give two values of {values.name}"
        raise ValueError(msg)
    return np.select([values == reference, values == compared], TWO_GROUPS, "")


def _refuse_no_pairs(samples: pd.DataFrame, pair: str) -> None:
    """Stop where a sample of either group has no pair to be in, or a pair two samples of one."""
    unknown = samples["block"].isna()
    if unknown.any():
        name = samples.loc[unknown, "animal"].iloc[0]
        msg = f"sample {name!r} has no {pair}: every sample of either group needs one for pairs"
        raise ValueError(msg)
    twice = samples.duplicated(["tissue", "cells", "block", "group"])
    if twice.any():
        name = samples.loc[twice, "block"].iloc[0]
        msg = (
            f"{pair} {name!r} has two samples of one group; a pair has one of each. "
            "Name it as block instead, or leave one out."
        )
        raise ValueError(msg)


def _say_not_compared(few: pd.DataFrame, n_tissues: int) -> None:
    """Say which tissues have too few samples; some tissue must have enough."""
    if few.empty:
        return
    where = "; ".join(
        f"{row.tissue} has {row.n_reference} and {row.n_compared}, {row.reason}".lstrip()
        for row in few[:_SHOWN].itertuples()
    )
    msg = f"{len(few)} of {n_tissues} tissues are not compared: {where}"
    if len(few) == n_tissues:
        raise ValueError(msg)
    warnings.warn(msg, stacklevel=3)


def _states(
    effects: "AnnData | pd.DataFrame | Mapping[str, ArrayLike | pd.DataFrame]",
    layers: Sequence[str],
) -> dict[str, pd.DataFrame]:
    """Return the table of effects of each state, all of one shape and finite."""
    if isinstance(effects, pd.DataFrame):
        given: dict[str, Any] = {"state": effects}
    elif isinstance(effects, Mapping):
        given = dict(effects)
    else:
        adata = _anndata(effects)
        if missing := [name for name in layers if name not in adata.layers]:
            there = ", ".join(adata.layers) or "(none)"
            msg = f"layer {missing[0]!r} is not in the AnnData; its layers are: {there}"
            raise ValueError(msg)
        given = {name: adata.to_df(layer=name) for name in layers} or {"X": adata.to_df()}
    tables = {}
    for name, values in given.items():
        try:
            table = pd.DataFrame(values).astype(float)
        except (TypeError, ValueError) as error:
            msg = (
                f"the effects of {name} are no table of numbers ({' '.join(str(error).split())}): "
                "give one row a replicate and one column a component"
            )
            raise ValueError(msg) from None
        bad = table.to_numpy()[~np.isfinite(table.to_numpy())]
        if table.empty or bad.size:
            what = f"hold {bad[0]}" if bad.size else f"have the shape {table.shape}"
            msg = f"the effects of {name} {what}: at least one is needed, and only finite ones"
            raise ValueError(msg)
        tables[name] = table
    if not tables:
        msg = "effects hold no state: give at least one table of effects, by the name of its state"
        raise ValueError(msg)
    (first, reference), *others = tables.items()
    for name, table in others:
        same = table.index.equals(reference.index) and table.columns.equals(reference.columns)
        if not same:
            msg = (
                f"the effects of {name}, of shape {table.shape}, have other replicates or "
                f"components than those of {first}, of shape {reference.shape}: give the same "
                "rows and columns, in the same order"
            )
            raise ValueError(msg)
    return tables


def _effects(states: Mapping[str, pd.DataFrame], exposure: ArrayLike | None) -> list[Effects]:
    parts = []
    for name, table in states.items():
        components = pd.DataFrame(index=table.columns.astype(str))
        if exposure is not None:
            known = np.asarray(exposure, dtype=float)
            if known.shape != (len(components),) or not (np.isfinite(known) & (known >= 0)).all():
                msg = (
                    f"exposure of shape {known.shape} is not allowed: give a number of at least 0 "
                    f"for each of the {len(components)} components"
                )
                raise ValueError(msg)
            components["exposure"] = known
        parts.append(
            Effects(
                state=State(UNS, name, math.nan, "", "exposure"),
                kind="component",
                condition="",
                components=components,
                replicates=np.arange(len(table)),
                draws=table.to_numpy()[np.newaxis],
            )
        )
    return parts
