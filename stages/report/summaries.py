"""Write the summaries of the study as Markdown, from its tables and never by hand.

``components.md``: what the two numbers are taken over, types and clusters, and which way each goes.
``kimmel_validation.md`` and ``substates.md``: those two analyses. ``results.md``: all findings on
one page. Each bears the notice of simulated inputs, and says so where these inputs have nothing to
summarise.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stages.base import cli, study, tables
from stages.base.files import atomic_folder, write_text
from stages.base.settings import Settings, load
from stages.cells.tables.truth import PLANTED
from stages.report import cells, clusters, heads, planted, text

NAMES = ("components", "kimmel_validation", "substates", "results")
NOTHING = "These inputs have nothing to summarise here."


def summaries(
    found: cells.CellTables,
    of_clusters: clusters.ClusterTables,
    of_heads: heads.HeadTables,
    made_to_show: pd.DataFrame,
    settings: Settings,
    what: study.Study,
) -> dict[str, str]:
    """Return the Markdown of each summary by its name.

    Parameters
    ----------
    found, of_clusters, of_heads
        The tables on cells, on clusters and on heads.
    made_to_show
        ``PLANTED``.
    settings
        All settings.
    what
        The inputs, of cells and heads together.
    """
    named = cells.variables(found, settings)
    named |= clusters.variables(of_clusters, found.aging, found.proportions, settings)
    named["planted"] = planted.variables(made_to_show, of_clusters, found.aging, settings)
    named["heads"] = heads.variables(of_heads, settings)
    made = cells.includes(found) | heads.includes(of_heads)
    made |= clusters.includes(of_clusters, found.aging, found.proportions, settings)
    parts = {
        "components": _components(found, of_clusters, made),
        "kimmel_validation": _kimmel(named, made),
        "substates": _substates(named, made, of_clusters),
        "results": _results(named, made),
    }
    return {name: _page(*parts[name], notice=what.notice) for name in NAMES}


def _page(title: str, blocks: list[str], *, notice: str) -> str:
    head = [f"# {title}", "Written by the stage `summaries` from the tables of this run."]
    if notice:
        head.append(f"**{notice}**")
    # Strikes the index through, wherever Markdown is not pandoc's.
    return "\n\n".join([*head, *blocks]).replace("~eff~", "<sub>eff</sub>") + "\n"


def _components(
    found: cells.CellTables, of_clusters: clusters.ClusterTables, made: dict[str, str]
) -> tuple[str, list[str]]:
    blocks = [
        (
            "The Gini coefficient and the effective number are taken over components. These are "
            "annotated cell types, or Leiden clusters, whose number rises with the resolution."
        ),
        "## Annotated types",
        _types_table(found),
        "## Clusters",
    ]
    both = pd.concat([of_clusters.kidney, of_clusters.kimmel])
    rows = both[(both["cells"] == "all") & (both["metric"] == "gini")]
    # The two analyses share the kidney of the validation cohort.
    rows = rows.drop_duplicates([*clusters.TISSUE, "resolution"])
    blocks.append(_clusters_table(rows) if len(rows) else NOTHING)
    blocks += [
        "## Types that move a tissue most",
        (
            "Mean share in young and old animals, contribution to the change of both numbers, and "
            "change of the centred log-ratio."
        ),
        made["drivers"],
    ]
    return "Components", blocks


def _types_table(found: cells.CellTables) -> str:
    rows = []
    for key, part in found.proportions.groupby(clusters.TISSUE):
        of_sample = part.groupby("animal")["cell_type"].nunique()
        low, high = of_sample.min(), of_sample.max()
        rows.append(
            [
                text.arm(key[0], key[1]),
                text.tissue_name(key[2]),
                text.integer(int(part["cell_type"].nunique())),
                str(low) if low == high else f"{low} to {high}",
                clusters.over_types(found.aging, key) or "not compared",
            ]
        )
    header = ["Arm", "Tissue", "Types", "in a sample", "Direction"]
    return text.pipe_table(header, rows, align="llrrl")


def _clusters_table(rows: pd.DataFrame) -> str:
    lines = [
        [
            text.arm(row.cohort, row.platform),
            text.tissue_name(row.tissue),
            f"{row.resolution:g}",
            text.integer(row.n_clusters),
            row.quadrant,
        ]
        for row in rows.sort_values([*clusters.TISSUE, "resolution"]).itertuples()
    ]
    header = ["Arm", "Tissue", "Resolution", "Clusters", "Direction"]
    return text.pipe_table(header, lines, align="llrrl")


def _kimmel(named: dict[str, Any], made: dict[str, str]) -> tuple[str, list[str]]:
    title = "Validation cohort"
    found, rules = named["kimmel"], named["clusters"]
    if not found:
        return title, [NOTHING]
    return title, [
        (
            f"Old less young over Leiden clusters, {found['animals']}, at resolutions "
            f"{rules['resolutions']}."
        ),
        (
            f"* At resolution {rules['reference']}: {found['at_reference']}.\n"
            f"* Over all resolutions: {found['along']}.\n"
            f"* Stability ({rules['n_runs']} runs a resolution over seeds and cells, at least "
            f"{rules['min_share']} of which must agree). {found['stable_sentence']}\n"
            f"* {found['n_intervals_exclude_zero']} of {found['n_tests']} intervals leave out "
            f"zero; {found['n_significant']} of {found['n_tests']} tests have q below 0.05 (no p "
            f"below {found['p_smallest']} is possible).\n"
            f"* With equal numbers of cells {found['n_same_when_rarefied']} keep their direction."
        ),
        made["kimmel"],
        (
            f"n: clusters; brackets: {rules['confidence']} intervals over animals; runs: how many "
            "have the same direction; ARI: adjusted Rand index of the clusterings of two seeds."
        ),
    ]


def _substates(
    named: dict[str, Any], made: dict[str, str], of_clusters: clusters.ClusterTables
) -> tuple[str, list[str]]:
    title = "Substates within cell types"
    found, rules = named["substates"], named["clusters"]
    if not found:
        return title, [NOTHING]
    blocks = [
        (
            f"Old less young over Leiden clusters within each annotated type, at resolution "
            f"{rules['substates_resolution']}."
        ),
        (
            f"* Of {found['n_compared']}, {found['n_crystallize']} crystallize, "
            f"{found['n_disperse']} disperse and {found['n_mixed']} are mixed. "
            f"{found['other_sentence']}\n"
            f"* {found['n_gini_significant']} changes of Gini and "
            f"{found['n_effective_number_significant']} of the effective number have q below "
            "0.05.\n"
            f"* With equal numbers of cells {found['n_same_when_rarefied']} keep their direction.\n"
            f"* {found['named_sentence']}"
        ),
        made["substates"],
        (
            f"k: substates; n: young, old animals; brackets: {rules['confidence']} intervals over "
            "animals; q: adjusted over the types of a tissue and arm."
        ),
    ]
    if len(of_clusters.substates_not_compared):
        blocks += ["## Not compared", _not_compared_table(of_clusters.substates_not_compared)]
    return title, blocks


def _not_compared_table(left_out: pd.DataFrame) -> str:
    rows = [
        [
            text.arm(row.cohort, row.platform),
            text.tissue_name(row.tissue),
            str(row.cell_type),
            text.integer(row.n_cells),
            f"{row.n_young}, {row.n_old}",
            str(row.reason),
        ]
        for row in left_out.itertuples()
    ]
    header = ["Arm", "Tissue", "Cell type", "Cells", "Young, old", "Why"]
    return text.pipe_table(header, rows, align="lllrrl")


def _results(named: dict[str, Any], made: dict[str, str]) -> tuple[str, list[str]]:
    aging = named["aging"]
    blocks = [
        "## Tissues over annotated types",
        (
            f"Of {aging['n_compared']} of old with young, {aging['n_crystallize']} crystallize: "
            f"{aging['list_crystallize']}. {aging['n_disperse']} disperse: "
            f"{aging['list_disperse']}. {aging['n_mixed']} are mixed: {aging['list_mixed']}. "
            f"{aging['n_intervals_exclude_zero']} of {aging['n_intervals']} intervals leave out "
            "zero."
        ),
        made["aging"],
        "## Finer and coarser cells",
        *_over_clusters(named, made),
        "## Attention heads",
        _of_heads(named["heads"]),
        made["heads"],
    ]
    known = [named["planted"].get(name) for name in ("kidney", "substates", "restriction")]
    recovery = named["recovery"]
    if recovery["n"] != "0":
        known.insert(
            0,
            f"{recovery['n_same_sign']} of {recovery['n']} changes over annotated types have the "
            f"true sign, and {recovery['n_covered']} of {recovery['n']} intervals hold the truth.",
        )
    if any(known):
        blocks += ["## Recovery of what was planted", " ".join(filter(None, known))]
    return "Results", blocks


def _over_clusters(named: dict[str, Any], made: dict[str, str]) -> list[str]:
    blocks = []
    if kidney := named["kidney"]:
        blocks.append(
            f"**{kidney['tissue'].capitalize()} over granularity.** {kidney['types_sentence']} "
            f"Over clusters, by resolution: {kidney['along']}. {kidney['turn_sentence']} "
            f"{kidney['stable_sentence']}"
        )
    if kimmel := named["kimmel"]:
        blocks.append(f"**Validation cohort.** {kimmel['along']}. {kimmel['stable_sentence']}")
    if substates := named["substates"]:
        blocks.append(
            f"**Substates.** Of {substates['n_compared']}, {substates['n_crystallize']} "
            f"crystallize, {substates['n_disperse']} disperse and {substates['n_mixed']} are "
            f"mixed. {substates['named_sentence']}"
        )
    if restriction := named["restriction"]:
        rules = named["clusters"]
        blocks += [
            (
                f"**Caloric restriction.** At resolution {rules['reference']} it takes back "
                f"{restriction['gini_fraction']} of the drift of Gini and "
                f"{restriction['effective_number_fraction']} of that of the effective number. "
                f"The intervals are over cells, not animals: with {restriction['n_libraries']} "
                f"libraries a condition no two-sided p below {restriction['p_smallest']} is "
                "possible, and in simulated studies of this kind whose animals differ such "
                "intervals of the effective number held the truth in "
                f"{rules['simulated_coverage']} only."
            ),
            made["restriction"],
        ]
    return blocks or [NOTHING]


def _of_heads(found: dict[str, str]) -> str:
    return (
        f"The {found['n_heads']} heads of {found['model']} {found['direction']} from step "
        f"{found['step_first']} to step {found['step_last']}: Gini {found['gini_change']} "
        f"({found['gini_change_sequences']} over sequences), effective number "
        f"{found['effective_number_change']} ({found['effective_number_change_sequences']}). "
        f"{found['noise_sentence']}"
    )


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    made = summaries(
        cells.read_tables(args.tables),
        clusters.read_tables(args.tables),
        heads.read_tables(args.tables),
        tables.read(args.planted, PLANTED),
        settings,
        study.of(args),
    )
    with atomic_folder(args.out) as folder:
        for name, markdown in made.items():
            write_text(folder / f"{name}.md", markdown)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    study.add_arguments(parser)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--planted", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the summaries")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
