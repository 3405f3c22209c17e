"""Write the explorer: one page to play with the tables, which fetches nothing.

Vega-Lite draws; its libraries come out of a Python wheel, so that the page is whole. A policy in
its head forbids the browser every request.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from stages.base import cli, study, tables
from stages.base.files import write_text
from stages.base.settings import load
from stages.base.study import Study
from stages.cells.tables.clusters import CLUSTER_CONTRAST
from stages.cells.tables.metrics import METRICS
from stages.cells.tables.proportions import PROPORTIONS
from stages.drawing import style
from stages.measurement import effects
from stages.plane.tables import MATURING, MATURING_ANSWERS, PLANE
from stages.report.explorer import charts, data
from stages.report.explorer.data import Rows

HERE = Path(__file__).parent
TABLES = {
    "proportions": PROPORTIONS,
    "metrics": METRICS,
    "plane": PLANE,
    "maturing": MATURING,
    "maturing_answers": MATURING_ANSWERS,
    "granularity_curve": CLUSTER_CONTRAST,
}
CURVE = "granularity_curve"


def page(views: Mapping[str, Any], *, notice: str, css: str) -> str:
    """Return the page.

    Parameters
    ----------
    views
        What :func:`views` returns.
    notice
        What it must say of its inputs; empty where they are real.
    css
        The paper's style sheet.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = {name: (HERE / f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    label, colon, rest = notice.partition(":")
    return environment.get_template("page.html.j2").render(
        views,
        notice=(label, colon + rest) if notice else None,
        css=_code(css + own["css"], "style"),
        script=_code(own["js"], "script"),
        bundle=_code(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed"), "script"),
    )


def _code(text: str, element: str) -> Markup:
    """Return code as it stands in an element, which it must not close."""
    if f"</{element}" in text.lower():
        msg = f"the page's code holds </{element}"
        raise ValueError(msg)
    return Markup(text)  # noqa: S704 - our own, or of the pinned wheel


def views(
    found: Mapping[str, Any], systems: data.Systems, about: Study, evidence: Mapping[str, str]
) -> dict[str, Any]:
    """Return what the page's template draws; a view that the inputs have nothing of is left out.

    Parameters
    ----------
    found
        The tables, by name.
    systems
        By the name of its model and of its components (of heads the model's alone), their effects
        in each state.
    about
        The atlas.
    evidence
        Of each system by this name, and of each model.

    Returns
    -------
    dict
        ``samples``; what ``groups`` are called; by name the ``charts`` with their data; and the
        ``evidence`` of each.
    """
    tissues, animals = data.tissues(found["plane"], about), data.animals(found["metrics"], about)
    # One state has nowhere to go.
    states = data.states({name: of for name, of in systems.items() if len(of) > 1}, evidence)
    maturing = data.maturing(found["maturing"], found["maturing_answers"], evidence)
    by_head = {name: parts for name, parts in systems.items() if data.are_heads(parts)}
    heads = data.heads(by_head, evidence)
    curve = data.resolutions(found[CURVE], about)
    arms = style.series(found[CURVE])
    steps = {model: [part.state.name for part in parts] for model, parts in by_head.items()}
    made: dict[str, Any] = {
        "lorenz": _chart(charts.lorenz(), controls=False, curve=[], sample=[]),
    }
    if tissues or states:
        made["plane"] = _chart(
            charts.plane(tissues, states), tissues=tissues, animals=animals, states=states
        )
    if maturing:
        made["maturing"] = _chart(charts.maturing(maturing), maturing=maturing)
    if heads:
        made["heads"] = _chart(charts.heatmap(heads, steps), heads=heads)
    if curve:
        made["granularity"] = _chart(charts.granularity(curve, arms), resolutions=curve)
    return {
        "samples": data.samples(found["proportions"], about),
        "groups": about.groups()._asdict(),
        "charts": made,
        "evidence": {
            "plane": _rests(tissues, "arm") | _rests(states, "model"),
            "maturing": _rests(maturing, "system"),
            "heads": _rests(heads, "model"),
            "granularity": _rests(curve, "arm"),
        },
    }


def _chart(spec: charts.Spec, *, controls: bool = True, **rows: Rows) -> dict[str, Any]:
    return {"spec": spec, "data": rows, "controls": controls}


def _rests(rows: Iterable[Mapping[str, Any]], name: str) -> dict[str, list[str]]:
    """Return by kind of evidence what rests on it."""
    found: dict[str, list[str]] = {}
    for row in rows:
        of = found.setdefault(row["evidence"], [])
        if row[name] not in of:
            of.append(row[name])
    return found


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    found = {
        name: tables.read(args.tables / f"{name}.csv", schema) for name, schema in TABLES.items()
    }
    systems, evidence = {}, {}
    about, *models = (study.read(path) for path in (args.cells, args.heads, args.cellmodel))
    made_here = {model.name for model in models if model.simulated}
    for key, system in settings.systems.items():
        kind = "simulated" if system.group in made_here else "effects"
        evidence[system.group] = data.EVIDENCE[kind]
        # Systems of many kinds, such as directions by layer, are no vectors to play with.
        if not system.kinds:
            continue
        parts = data.shown_effects(effects.read_states(system.effects, system.states), system.kinds)
        # What else is measured of a model stands beside its heads.
        components = settings.plane.components.get(key, parts[0].kind)
        name = system.group if data.are_heads(parts) else f"{components} of {system.group}"
        systems[name] = parts
        evidence[name] = evidence[system.group]
    text = page(
        views(found, systems, about, evidence),
        notice=study.joined(about, *models).notice,
        css=args.css.read_text(encoding="utf-8"),
    )
    write_text(args.out, text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    study.add_arguments(parser)
    parser.add_argument("--cellmodel", type=Path, required=True, help="what the model of cells is")
    parser.add_argument("--tables", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--css", type=Path, required=True, help="the paper's style sheet")
    parser.add_argument("--out", type=Path, required=True, help="the page")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
