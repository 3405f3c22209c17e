"""How clusters are made and compared, as the text states it."""

from stages.base.settings import Settings
from stages.report import text
from stages.report.clusters.inputs import shown_resolution
from stages.report.clusters.restriction import SIMULATED


def variables(settings: Settings) -> dict[str, str]:
    """Return the rules of clustering and comparison, as the settings have them."""
    graph, rules, stability = settings.neighbours, settings.clusters, settings.stability
    n_runs = (1 + stability.subsamples) * stability.seeds
    curve = sorted({*rules.resolutions, *settings.granularity["curve"].resolutions})
    n_iterations = settings.leiden.n_iterations
    return {
        "target_sum": text.integer(int(graph.target_sum)),
        "n_top_genes": text.integer(graph.n_top_genes),
        "n_comps": text.integer(graph.n_comps),
        "n_neighbors": text.integer(graph.n_neighbors),
        "iterations": (
            "until nothing improves"
            if n_iterations == -1
            else f"in {text.plural(n_iterations, 'iteration')}"
        ),
        "flavor": settings.leiden.flavor,
        "category_set": {
            "present": "the clusters present in an animal's sample",
            "tissue": "all clusters of the tissue",
        }[rules.category_set],
        "equal_draws": text.integer(rules.equal_cells.draws),
        "confidence": f"{100 * rules.comparison.confidence:g}%",
        "resolutions": text.listed([f"{value:g}" for value in rules.resolutions]),
        "n_resolutions": text.integer(len(rules.resolutions)),
        "reference": f"{rules.reference:g}",
        "n_curve": text.integer(len(curve)),
        "curve_first": f"{curve[0]:g}",
        "curve_last": f"{curve[-1]:g}",
        "substates_resolution": f"{shown_resolution(settings):g}",
        "substates_min_cells": text.integer(settings.substates.min_cells),
        "substates_min_animals": text.integer(settings.substates.min_animals),
        "seeds": text.integer(stability.seeds),
        "subsamples": text.plural(stability.subsamples, "random part"),
        "cells_share": f"{100 * stability.cells_share:g}%",
        "n_runs": text.integer(n_runs),
        "min_share": f"{100 * stability.min_share:g}%",
        "restriction_draws": text.integer(settings.restriction.draws),
        "restriction_confidence": f"{100 * settings.restriction.confidence:g}%",
    } | {f"simulated_{name}": value for name, value in SIMULATED.items()}
