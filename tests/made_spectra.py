"""Items of planted spectra in the layout of a harvest, and the tables that are made of them."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from stages.base import tables
from stages.inputs.known import Known
from stages.measurement import effects, measured
from stages.measurement.effects import State
from stages.measurement.states import step_of
from stages.measurement.tables import CHANGES, MEASURED
from stages.representations import arrays
from stages.spectra import matrices, separation, spectrum, structures
from stages.spectra.structures import Questions
from stages.spectra.tables.separation import SEPARATION
from stages.spectra.tables.spectrum import SPECTRUM
from stages.spectra.tables.structures import STRUCTURES

N_TOKENS = 400


def planted(rng, n, squares, *, mean=0.0):
    """Rows whose centred matrix has exactly these squared singular values, about a mean vector."""
    width = len(squares)
    rows = rng.normal(size=(n, width))
    left = np.linalg.qr(rows - rows.mean(axis=0))[0]
    right = np.linalg.qr(rng.normal(size=(width, width)))[0]
    return left * np.sqrt(squares) @ right + mean


def harvested(folder, rng, matrix, counts, *, parts=4, noise=0.0, n_items=N_TOKENS):
    """Write the harvest of items whose means over all parts are a matrix.

    Every item is met `counts` times, which are dealt out to the parts at random; its means in the
    parts deviate by `noise`, and have the mean of the matrix.
    """
    n, width = matrix.shape
    met = np.array([rng.multinomial(count, np.full(parts, 1 / parts)) for count in counts])
    by_part = matrix + noise * rng.normal(size=(parts, n, width))
    weights = met.T[:, :, np.newaxis]
    by_part += matrix - (weights * by_part).sum(axis=0) / counts[:, np.newaxis]
    part, item = np.nonzero(met.T)
    folder.mkdir(parents=True)
    states, rows = arrays.create(folder, "item_mean", (-1, 0), len(part), width, "float32")
    for state in states.values():
        state[:] = by_part[part, item]
    rows["part"][:], rows["token"][:], rows["count"][:] = part, item, met.T[part, item]
    arrays.describe(folder, "item_mean", (-1, 0), {"parts": parts, "n_items": n_items})
    return folder


def write(folder: Path, scratch: Path, settings, name, states, *, genes=False):
    """Write the tables of spectra of a study, as the stages make them of small matrices.

    Parameters
    ----------
    folder
        Of the tables.
    scratch
        Of the harvests and effects.
    name
        Of the system.
    states
        Names. From one to the next the first direction grows.
    genes
        Whether the tables of a model of cells are made, with relations of genes.
    """
    # A test may make its study twice.
    shutil.rmtree(scratch / name, ignore_errors=True)
    rng = np.random.default_rng(1)
    params = settings.spectrum.model_copy(update={"shuffles": 20, "min_count": 2})
    made, parts, kept = [], [], {}
    for number, state in enumerate(states):
        matrix = planted(rng, 60, np.array([4.0 + 40 * number, 4, 3, 2, 1, 1]), mean=2.0)
        counts = rng.integers(4, 90, 60)
        items = matrices.read(
            harvested(scratch / name / state, rng, matrix, counts, noise=0.05), min_count=2
        )
        position = step_of(state)
        of = State(name, state, np.nan if position is None else float(position), spectrum.UNIT)
        found, table = spectrum.spectra(items, of, params)
        parts += found
        made.append(table)
        kept[state] = items
    for state in states:
        some = [part for part in parts if part.state.name == state]
        effects.write(scratch / "effects" / name / f"{state}.parquet", some)
    system = settings.systems["spectra"].model_copy(update={"states": list(states)})
    few = settings.measured.model_copy(update={"draws": 50})
    read = effects.read_states(scratch / "effects" / name, list(states))
    of_system = measured.measured(read, system, measured.metrics_of("spectra"), few)
    for place, table, schema in zip(
        ("measured", "changes"), of_system, (MEASURED, CHANGES), strict=False
    ):
        tables.write(table, schema, folder / place / f"{name}.csv")
    measured.write_draws(of_system[2], scratch.parent / "draws" / f"{name}.parquet")
    place = folder / "cell_model" if genes else folder
    tables.write(pd.concat(made, ignore_index=True), SPECTRUM, place / "spectrum.csv")
    ends = dict.fromkeys((states[0], states[-1]))
    (_write_genes if genes else _write_separation)(place, settings, kept, ends)


def known(names):
    """Return sets, edges and strengths of genes that are named so, 60 of them."""
    sets = {f"s{k}": frozenset(names[k:40:4]) for k in range(4)}
    edges = [(names[40 + i], names[4 * k + i % 4], "activates") for i in range(8) for k in range(4)]
    edges += [
        (names[40 + i], names[4 * k + (i + 1) % 4], "represses") for i in range(8) for k in (5, 7)
    ]
    graded = [(names[2 * i], names[2 * i + 1], float(i), i) for i in range(20)]
    return Known(
        {"markers": sets},
        pd.DataFrame(edges, columns=["factor", "target", "sign"]),
        pd.DataFrame(graded, columns=["first", "second", "score", "block"]),
        near={name: of | {names[40 + k]} for k, (name, of) in enumerate(sets.items())},
    )


def _write_separation(place, settings, kept, ends):
    few = settings.separation.model_copy(update={"permutations": 20, "n_axes": 4})
    of = known(kept[next(iter(ends))].names)
    made = pd.concat(
        [
            separation.separation(kept[state], of, state, float(number), few)
            for number, state in enumerate(ends)
        ]
    )
    made["q"], made["n_tests"] = made["p"], len(made)
    made = made.reindex(columns=list(SEPARATION.columns))
    tables.write(made, SEPARATION, place / "separation.csv")
    return of


def _write_genes(place, settings, kept, ends):
    of = _write_separation(place, settings, kept, ends)
    few = settings.structures.model_copy(
        update={"permutations": 20, "draws": 20, "smallest_set": 3, "caliper": 2.0, "first_axis": 1}
    )
    logs = kept[next(iter(ends))].log_frequency
    questions = Questions(of, kept[next(iter(ends))].names, few).all(logs)
    noise = np.random.default_rng(2).normal(size=(len(logs), len(logs)))
    every = np.arange(len(logs))

    def sources():
        yield structures.of_coexpression(noise + noise.T, few)
        yield structures.of_frequency(logs)
        for state in ends:
            for layer in kept[state].found.layers:
                yield structures.of_model(kept[state], layer, state, every, few)

    table = structures.structures(sources(), questions, logs, few)
    tables.write(table, STRUCTURES, place / "structures.csv")
