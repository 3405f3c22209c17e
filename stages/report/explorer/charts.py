"""The charts of the explorer as Vega-Lite, whose own controls move them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from stages.drawing import style
from stages.report.explorer.data import EVIDENCE, Rows

Spec = dict[str, Any]

_SHAPES = dict(zip(EVIDENCE.values(), ("circle", "diamond", "triangle-up", "square"), strict=True))
SIGNS = {"absolute": "|δ|", "positive": "max(δ, 0)"}
"""As the page names which effects count."""
_ALL = "all"
_TITLES = {"gini": "change of Gini", "effective_number": "change of the effective number"}
_INK, _HEADS = "currentColor", "var(--heads)"
"""The page's, so that they are light at night."""
_NEUTRAL = style.GREY
_SCALES = {
    "corrected": "corrected for the number of parts",
    "raw": "raw",
    "shape": "shape: N_eff beyond a lognormal of the same Gini",
}
_DASHES = {"-": [1, 0], "--": [6, 3], "-.": [6, 2, 1, 2], ":": [2, 2]}


def lorenz() -> Spec:
    """Return the Lorenz curve of `curve`, over that of the sample it began as, `sample`."""
    percent, whole = alt.Axis(format="%", tickCount=5), alt.Scale(domain=[0, 1])
    x = alt.X("share:Q", title="Share of cell types, rarest first", axis=percent, scale=whole)
    y = alt.Y("held:Q", title="Share of cells", axis=percent, scale=whole)
    even = (
        alt.Chart(_data([{"share": 0, "held": 0}, {"share": 1, "held": 1}]))
        .mark_line(strokeDash=[4, 4], color=_NEUTRAL)
        .encode(x, y)
    )
    before = alt.Chart(alt.NamedData("sample")).mark_line(color=_NEUTRAL, strokeWidth=1.5)
    now = alt.Chart(alt.NamedData("curve")).mark_line(
        color=_INK, strokeWidth=2.5, point=alt.OverlayMarkDef(size=28, color=_INK)
    )
    return _finished(even + before.encode(x, y) + now.encode(x, y), height=260)


def plane(tissues: Rows, states: Rows) -> Spec:
    """Return the plane: tissues with their animals, and models from a baseline on.

    Parameters
    ----------
    tissues, states
        What is drawn, for the options of the controls.
    """
    tissue = _select("tissue", [_ALL, *_unique(tissues, "tissue")])
    arm = _select("arm", [_ALL, *_unique(tissues, "arm")])
    scale = _radio("scale", _SCALES)
    sign = _radio("sign", SIGNS, title="effects of components")
    baselines = {
        model: _select(
            f"baseline_{i}",
            _unique([row for row in states if row["model"] == model], "state"),
            title=f"{model} from",
        )
        for i, model in enumerate(_unique(states, "model"))
    }
    picked = alt.selection_point(
        name="picked", fields=["arm", "tissue"], on="pointerover", clear="dblclick"
    )
    cohorts = _radio("cohorts", {"real": "real", "all": "and simulated"})
    kept = (
        "datum.scale == scale && (tissue == 'all' || datum.tissue == tissue)"
        " && (arm == 'all' ? cohorts == 'all' || datum.evidence != 'simulated' : datum.arm == arm)"
    )
    x = alt.X("d_gini:Q", title="Change of Gini")
    y = alt.Y("d_effective:Q", title="Change of N_eff (but for raw: over n)")
    hues = {name: style.COLOURS[name] for name in style.MEANINGS} | {"a model": _HEADS}
    colour = alt.Color(
        "direction:N",
        scale=alt.Scale(domain=list(hues), range=list(hues.values())),
        title=None,
    )
    shape = _evidence([*tissues, *states])
    of_tissues = (
        alt.Chart(alt.NamedData("tissues"))
        .transform_filter(kept)
        .transform_joinaggregate(n="count()")
        .transform_calculate(direction="datum.quadrant")
        .encode(x, y, colour)
    )
    clear = alt.when(picked, empty=False).then(alt.value(0.9)).otherwise(alt.value(0.25))
    whiskers = of_tissues.mark_rule().encode(opacity=clear)
    intervals = [
        whiskers.encode(x="d_gini_low:Q", x2="d_gini_high:Q"),
        whiskers.encode(y="d_effective_low:Q", y2="d_effective_high:Q"),
    ]
    points = (
        of_tissues.mark_point(filled=True, size=110, opacity=0.95, cursor="pointer")
        .encode(
            shape,
            tooltip=[
                alt.Tooltip("tissue:N"),
                alt.Tooltip("arm:N"),
                alt.Tooltip("evidence:N"),
                alt.Tooltip("d_gini:Q", format="+.3f", title="change of Gini"),
                alt.Tooltip("d_effective:Q", format="+.3f", title="change of N_eff"),
                alt.Tooltip("n_first:Q", title="reference animals"),
                alt.Tooltip("n_last:Q", title="compared animals"),
                alt.Tooltip("quadrant:N"),
            ],
        )
        .add_params(picked)
    )
    names = of_tissues.mark_text(dx=8, align="left", fontSize=10).encode(
        text="tissue:N",
        color=alt.value(_INK),
        # Where there are many, only the one that is pointed at.
        opacity=alt.when(picked, empty=False)
        .then(alt.value(1))
        .when("datum.n <= 16")
        .then(alt.value(1))
        .otherwise(alt.value(0)),
    )
    of_animals = (
        alt.Chart(alt.NamedData("animals"))
        .transform_filter(kept)
        .transform_filter(picked, empty=False)
        .mark_point(filled=False, strokeWidth=1.5, size=45, color=_INK)
        .encode(
            x,
            y,
            strokeDash=alt.StrokeDash(
                "group:N",
                scale=alt.Scale(domain=["compared", "reference"], range=[[1, 0], [2, 2]]),
                legend=None,
            ),
            tooltip=[
                alt.Tooltip("animal:N"),
                alt.Tooltip("age_months:Q", title="months"),
                alt.Tooltip("sex:N"),
                alt.Tooltip("n_cells:Q", title="cells", format=","),
                alt.Tooltip("d_gini:Q", format="+.3f", title="Gini less the reference median"),
                alt.Tooltip(
                    "d_effective:Q", format="+.3f", title="N_eff less the reference median"
                ),
            ],
        )
    )
    is_first = " || ".join(
        f"(datum.model == {model!r} && datum.state == {param.name})"
        for model, param in baselines.items()
    )
    of_models = (
        alt.Chart(alt.NamedData("states"))
        .transform_filter("datum.scale == scale && datum.sign == sign")
        .transform_calculate(
            first_gini=f"{is_first or 'false'} ? datum.gini : null",
            first_effective=f"{is_first or 'false'} ? datum.effective : null",
            first_index=f"{is_first or 'false'} ? datum.index : null",
        )
        .transform_joinaggregate(
            base_gini="max(first_gini)",
            base_effective="max(first_effective)",
            base_index="max(first_index)",
            groupby=["model"],
        )
        .transform_filter("datum.index >= datum.base_index && arm == 'all'")
        .transform_calculate(
            d_gini="datum.gini - datum.base_gini",
            d_effective="datum.effective - datum.base_effective",
            direction="'a model'",
        )
        .encode(x, y, colour)
    )
    lines = of_models.mark_line(strokeWidth=1.5).encode(order="index:Q", detail="model:N")
    steps = of_models.mark_point(filled=True, size=45).encode(
        shape,
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("evidence:N"),
            alt.Tooltip("state:N"),
            alt.Tooltip("d_gini:Q", format="+.3f", title="change of Gini"),
            alt.Tooltip("d_effective:Q", format="+.3f", title="change of N_eff"),
            alt.Tooltip("gini:Q", format=".3f", title="Gini"),
            alt.Tooltip("effective:Q", format=".3f", title="N_eff"),
        ],
    )
    axes = [
        alt.Chart(_data([{}])).mark_rule(color=_NEUTRAL).encode(x=alt.datum(0)),
        alt.Chart(_data([{}])).mark_rule(color=_NEUTRAL).encode(y=alt.datum(0)),
    ]
    layers = alt.layer(*axes, *intervals, lines, steps, of_animals, points, names)
    return _finished(
        layers.add_params(cohorts, arm, tissue, scale, sign, *baselines.values()), height=440
    )


def maturing(rows: Rows) -> Spec:
    """Return the effective number over N of one system along its trainings, and what nulls give.

    Parameters
    ----------
    rows
        What is drawn.
    """
    system = _select("system", _unique(rows, "system"))
    verdicts = {row["system"]: row["verdict"] for row in rows}
    title = alt.TitleParams(
        text=alt.ExprRef(f"'verdict: ' + {_literal(verdicts)}[system]"),
        anchor="start",
    )
    whole = alt.Scale(domain=[0, 1])
    labels = alt.Axis(labelAngle=0, labelOverlap=True, labelExpr="replace(datum.label, 'step', '')")
    x = alt.X("state:N", sort=alt.SortField("place"), title="State", axis=labels)
    y = alt.Y("share:Q", title="N_eff / N", scale=whole)
    shown = alt.Chart(alt.NamedData("maturing")).transform_filter("datum.system == system")
    ours = shown.transform_filter("datum.training == 'this run'")
    band = ours.mark_area(color=_NEUTRAL, opacity=0.3).encode(
        x, alt.Y("share_floor_low:Q"), alt.Y2("share_floor_high:Q")
    )
    alone = ours.mark_line(color=_NEUTRAL, strokeDash=[6, 3]).encode(
        x, alt.Y("share_exposure_alone:Q")
    )
    others = shown.mark_line(color=_INK, strokeWidth=0.8, opacity=0.6).encode(
        x, y, detail="training:N"
    )
    points = ours.mark_line(
        color=_INK, strokeWidth=2.5, point=alt.OverlayMarkDef(size=45, color=_INK)
    ).encode(
        x,
        y,
        tooltip=[
            alt.Tooltip("state:N"),
            alt.Tooltip("share:Q", format=".3f", title="N_eff / N"),
            alt.Tooltip("share_exposure_alone:Q", format=".3f", title="exposure alone"),
            alt.Tooltip("share_exposure_removed:Q", format=".3f", title="left of it"),
        ],
    )
    layers = alt.layer(band, alone, others, points).properties(title=title)
    return _finished(layers.add_params(system), height=300)


def heatmap(heads: Rows, steps: Mapping[str, Sequence[str]]) -> Spec:
    """Return the effects of all heads by layer in one state, which a slider moves.

    Parameters
    ----------
    heads
        What is drawn.
    steps
        The names of the states of every model, in order.
    """
    evidence = {row["model"]: row["evidence"] for row in heads}
    last = max((len(names) for names in steps.values()), default=1) - 1
    model = _select("model", list(steps))
    step = alt.param(
        name="step",
        value=last,
        bind=alt.binding_range(min=0, max=max(last, 1), step=1, name="state "),
    )
    named = f"{_literal(steps)}[model]"
    at = f"{named}[min(step, length({named}) - 1)]"
    title = alt.TitleParams(
        text=alt.ExprRef(f"{at} + ' (' + {_literal(evidence)}[model] + ')'"), anchor="start"
    )
    chart = (
        alt.Chart(alt.NamedData("heads"))
        .transform_filter("datum.model == model && datum.index == min(step, datum.last)")
        .mark_rect()
        .encode(
            alt.X("head:O", title="Head", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            alt.Y("layer:O", title="Layer", sort="descending"),
            alt.Color(
                "shown:Q",
                title=["Rise of the loss over the", "largest in any state (square root)"],
                scale=alt.Scale(
                    domain=[-1, 0, 1], range=[style.QUIET, "#f4f4f4", style.COLOURS["heads"]]
                ),
            ),
            tooltip=[
                alt.Tooltip("component:N", title="head"),
                alt.Tooltip("effect:Q", format="+.3g", title="rise of the loss (nats per token)"),
                alt.Tooltip("error:Q", format=".2g", title="standard error"),
            ],
        )
        .properties(title=title)
    )
    return _finished(chart.add_params(model, step), height=340)


def granularity(rows: Rows, arms: Sequence[style.Series]) -> Spec:
    """Return changes over clusters along resolutions, of which a slider picks one.

    Parameters
    ----------
    rows
        What is drawn.
    arms
        How each is drawn.
    """
    levels = sorted({row["resolution"] for row in rows})
    resolution = alt.param(
        name="level",
        value=0,
        bind=alt.binding_range(min=0, max=max(len(levels) - 1, 1), step=1, name="resolution "),
    )
    metric = _radio("metric", _TITLES)
    tissue = _select("tissue", _unique(rows, "tissue"))
    at = f"{levels}[level]"
    x = alt.X("resolution:Q", title="Resolution of the clusters", scale=_log(levels))
    there = [arm for arm in arms if arm.label in _unique(rows, "arm")]
    labels = [arm.label for arm in there]
    # The figures' ink is the text's, which is light at night.
    inks = [_INK if arm.colour == style.INK else arm.colour for arm in there]
    dashes = [_DASHES[arm.line] for arm in there]
    colour = alt.Color("arm:N", scale=alt.Scale(domain=labels, range=inks), title=None)
    dash = alt.StrokeDash("arm:N", scale=alt.Scale(domain=labels, range=dashes), title=None)
    shape = _evidence(rows)
    y = alt.Y("change:Q", title="Compared minus reference")
    rows_shown = alt.Chart(alt.NamedData("resolutions")).transform_filter(
        "datum.metric == metric && datum.tissue == tissue"
    )
    lines = rows_shown.mark_line(strokeWidth=1.5).encode(x, y, colour, dash)
    here = rows_shown.transform_filter(f"datum.resolution == {at}")
    cut = here.mark_rule(color=_NEUTRAL, strokeDash=[3, 3]).encode(x)
    intervals = here.mark_rule(strokeWidth=3, opacity=0.35).encode(
        x, alt.Y("change_low:Q"), alt.Y2("change_high:Q"), colour
    )
    points = here.mark_point(filled=True, size=120).encode(
        x,
        y,
        colour,
        shape,
        tooltip=[
            alt.Tooltip("arm:N"),
            alt.Tooltip("evidence:N"),
            alt.Tooltip("resolution:Q"),
            alt.Tooltip("n_clusters:Q", title="clusters"),
            alt.Tooltip("change:Q", format="+.3f"),
            alt.Tooltip("change_low:Q", format="+.3f", title="from"),
            alt.Tooltip("change_high:Q", format="+.3f", title="to"),
            alt.Tooltip("rank_p:Q", format=".2g", title="rank test, p"),
        ],
    )
    zero = alt.Chart(_data([{}])).mark_rule(color=_NEUTRAL).encode(y=alt.datum(0))
    title = alt.TitleParams(
        text=alt.ExprRef(f"tissue + ' at resolution ' + {at} + ': ' + {_literal(_TITLES)}[metric]"),
        anchor="start",
    )
    layers = alt.layer(zero, lines, cut, intervals, points).properties(title=title)
    return _finished(layers.add_params(tissue, metric, resolution), height=320)


def _evidence(rows: Rows) -> alt.Shape:
    there = [kind for kind in _SHAPES if kind in _unique(rows, "evidence")]
    scale = alt.Scale(domain=there, range=[_SHAPES[kind] for kind in there])
    legend = alt.Legend(orient="top")
    return alt.Shape("evidence:N", scale=scale, title=None, legend=legend)


def _data(values: Rows) -> alt.InlineData:
    return alt.InlineData(values=values)


def _literal(value: Mapping[str, Any]) -> str:
    """Return a mapping as an expression of Vega.

    Examples
    --------
    >>> _literal({"a": ["x", "y"]})
    '{"a": ["x", "y"]}'
    """
    return json.dumps(value)


def _log(levels: Sequence[float]) -> alt.Scale:
    if not levels:
        return alt.Scale(type="log")
    return alt.Scale(type="log", domain=[levels[0] * 0.8, levels[-1] * 1.25], nice=False)


def _unique(rows: Rows, name: str) -> list[Any]:
    return list(dict.fromkeys(row[name] for row in rows))


def _select(name: str, options: Sequence[str], title: str | None = None) -> alt.Parameter:
    bind = alt.binding_select(options=list(options), name=f"{title or name} ")
    return alt.param(name=name, value=next(iter(options), None), bind=bind)


def _radio(name: str, labels: Mapping[str, str], title: str | None = None) -> alt.Parameter:
    bind = alt.binding_radio(
        options=list(labels), labels=list(labels.values()), name=f"{title or name} "
    )
    return alt.param(name=name, value=next(iter(labels)), bind=bind)


def _finished(chart: alt.TopLevelMixin, *, height: int) -> Spec:
    """Return the specification of a chart as wide as its place, in the colours of the page."""
    ink = {"labelColor": _INK, "titleColor": _INK}
    spec: Spec = (
        chart.properties(width="container", height=height)
        .configure(background="transparent", font="system-ui, sans-serif")
        .configure_axis(
            **ink,
            domainColor=_INK,
            tickColor=_INK,
            gridColor=_INK,
            gridOpacity=0.13,
            labelFontSize=11,
            titleFontSize=12,
            titleFontWeight="normal",
        )
        .configure_legend(
            **ink,
            orient="bottom",
            direction="horizontal",
            columns=alt.ExprRef("width < 480 ? 2 : 5"),
            symbolOpacity=1,
            symbolBaseFillColor=_INK,
            symbolBaseStrokeColor=_INK,
            titleLimit=0,
        )
        .configure_title(color=_INK, fontSize=13, fontWeight="normal")
        .configure_view(stroke=None)
        .to_dict()
    )
    return spec
