"""Ask what a wrong reconstruction of the animals could do to the changes that rest on it.

Which mouse a cell is from was found again, for some arms, from the order of the cells. What can be
wrong with that is made on purpose, one fault at a time, among the animals of one age:

* ``merge``: two animals are one;
* ``split``: one animal is two, whose compositions differ as two others of its age group do;
* ``exchange``: two animals hold a share of each other's cells, drawn at random;
* ``several``: two or more of these at once, on different animals, drawn at random.

Beside them stand what has nothing to do with it but is as much a choice: an animal is left out
(each in turn; that with the most cells), another cut-off of age, equal numbers of cells (the last
two from the multiverse). All pairs of an age are taken, neighbours in the run or not.
"""

import argparse
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.base import cli, study, tables
from stages.base.settings import load
from stages.cells import counts
from stages.cells.settings import Reconstruction
from stages.cells.tables.multiverse import MULTIVERSE_CHOICES
from stages.cells.tables.proportions import PROPORTIONS
from stages.cells.tables.reconstruction import RECONSTRUCTION
from stages.inputs.tables import TWO_GROUPS
from stages.measurement.concentration import effective_number, gini, quadrant
from stages.measurement.streams import stream

Floats = NDArray[np.float64]

SPREAD = ("min", "median", "max")


class Fault(NamedTuple):
    """Animals that are taken away, and what stands in their place in the same age group."""

    removed: tuple[int, ...]
    added: Floats  # (n_added, n_types)


class Arm(NamedTuple):
    """The young and old animals of a tissue."""

    counts: Floats  # (n_animals, n_types)
    months: Floats  # (n_animals,)
    old: NDArray[np.bool_]  # (n_animals,)


def reconstruction(
    proportions: pd.DataFrame, choices: pd.DataFrame, settings: Reconstruction
) -> pd.DataFrame:
    """Return how far faults move the change of every arm in `proportions` (``RECONSTRUCTION``).

    Parameters
    ----------
    proportions
        ``PROPORTIONS`` of reconstructed arms.
    choices
        ``MULTIVERSE_CHOICES``; the arms are those that it compares.
    """
    rows = []
    compared = dict(list(choices.groupby(counts.TISSUE)))
    for key, samples in proportions.groupby(counts.TISSUE, sort=True):
        if key not in compared:
            continue
        place = dict(zip(counts.TISSUE, key, strict=True))
        arm = _arm(samples)
        rng = stream(settings.seed, *key)
        changes = {"none": _changes(arm, [()])}
        single = faults(arm, settings, rng)
        changes |= {
            kind: _changes(arm, [(one,) for one in found]) for kind, found in single.items()
        }
        changes["several"] = _changes(arm, several(single, len(arm.old), settings.draws, rng))
        nothing = np.empty((0, arm.counts.shape[1]))
        without = [(Fault((i,), nothing),) for i in range(len(arm.old))]
        largest = int(arm.counts.sum(axis=1).argmax())
        changes["without_one"] = _changes(arm, without)
        changes["without_largest"] = _changes(arm, [without[largest]])
        of = compared[key]
        for fault, kinds in (("ages", ["reference", "compared"]), ("rarefied", ["cells"])):
            chosen = of[of["kind"].isin(kinds)]
            changes[fault] = chosen[["d_gini", "d_number"]].to_numpy(float)
        direction = quadrant(*changes["none"].T)[0]
        rows += [
            place | {"fault": fault} | _spread(found, direction)
            for fault, found in changes.items()
            if len(found)
        ]
    return pd.DataFrame(rows).reindex(columns=list(RECONSTRUCTION.columns))


def faults(arm: Arm, settings: Reconstruction, rng: np.random.Generator) -> dict[str, list[Fault]]:
    """Return every single fault by its kind; an exchange is drawn several times."""
    n_animals = range(len(arm.old))
    pairs = [
        pair
        for pair in itertools.combinations(n_animals, 2)
        if arm.months[pair[0]] == arm.months[pair[1]]
    ]
    merged = [Fault(pair, arm.counts[list(pair)].sum(axis=0)[np.newaxis]) for pair in pairs]
    halves = [
        Fault((i,), split(arm.counts[i], *arm.counts[list(like)]))
        for i in n_animals
        for like in itertools.combinations(np.flatnonzero(arm.old == arm.old[i]), 2)
        if i not in like
    ]
    # An animal whose types are all those of one of the two is not split by them.
    found = {"merge": merged, "split": [one for one in halves if one.added.any(axis=1).all()]}
    for share in settings.exchanged_shares:
        found[f"exchange_{share:g}"] = [
            Fault(pair, exchange(arm.counts[list(pair)], share, rng))
            for pair in pairs
            for _ in range(settings.exchanges)
        ]
    return found


def split(cells: Floats, first: Floats, second: Floats) -> Floats:
    """Return two animals of one, of each type as much as `first` and `second` have of it.

    Parameters
    ----------
    cells, first, second : shape (n_types,)
        Counts. A type that neither has is halved.

    Examples
    --------
    >>> split(np.array([10.0, 10.0]), np.array([3.0, 1.0]), np.array([1.0, 3.0])).tolist()
    [[8.0, 2.0], [2.0, 8.0]]
    """
    one, other = first / first.sum(), second / second.sum()
    both = one + other
    part = np.rint(cells * np.divide(one, both, out=np.full_like(both, 0.5), where=both > 0))
    return np.stack([part, cells - part])


def exchange(pair: Floats, share: float, rng: np.random.Generator) -> Floats:
    """Return two animals after each gave a random `share` of its cells to the other.

    Parameters
    ----------
    pair : shape (2, n_types)
        Counts.
    """
    cells = pair.astype(np.int64)
    given = np.stack([rng.multivariate_hypergeometric(x, round(share * x.sum())) for x in cells])
    exchanged: Floats = (cells - given + given[::-1]).astype(np.float64)
    return exchanged


def several(
    single: dict[str, list[Fault]], n_animals: int, draws: int, rng: np.random.Generator
) -> Iterator[tuple[Fault, ...]]:
    """Draw sets of faults, each of another animal: two, or up to half as many as animals."""
    kinds = [found for found in single.values() if found]
    for _ in range(draws if kinds else 0):
        wanted = int(rng.integers(2, max(3, n_animals // 2 + 1)))
        chosen: list[Fault] = []
        touched: set[int] = set()
        # Where few animals are left untouched a draw may find none; then there are fewer faults.
        for _ in range(4 * wanted):
            found = kinds[rng.integers(len(kinds))]
            fault = found[rng.integers(len(found))]
            if touched.isdisjoint(fault.removed):
                chosen.append(fault)
                touched.update(fault.removed)
            if len(chosen) == wanted:
                break
        yield tuple(chosen)


def _arm(samples: pd.DataFrame) -> Arm:
    ends = samples[samples["group"].isin(TWO_GROUPS)]
    table = counts.matrix(ends)
    old = (table.samples["group"] == "compared").to_numpy()
    return Arm(table.counts, table.samples["age_months"].to_numpy(float), old)


def _changes(arm: Arm, wrong: Iterable[Sequence[Fault]]) -> Floats:
    """Return old minus young of the medians of both numbers under sets of faults, (n_sets, 2).

    A set that leaves fewer than two animals of an age group compares nothing and is left out.
    """
    sets = list(wrong)
    added = np.concatenate([arm.counts, *(fault.added for faults in sets for fault in faults)])
    values = np.column_stack([gini(added, components="present"), effective_number(added)])
    at, found = len(arm.old), []
    for faults in sets:
        kept = np.ones(len(arm.old), dtype=bool)
        rows = {False: [values[:0]], True: [values[:0]]}
        for fault in faults:
            kept[list(fault.removed)] = False
            rows[bool(arm.old[fault.removed[0]])].append(values[at : at + len(fault.added)])
            at += len(fault.added)
        of = {
            old: np.concatenate([values[: len(kept)][kept & (arm.old == old)], *new])
            for old, new in rows.items()
        }
        if min(map(len, of.values())) >= counts.MIN_ANIMALS:
            found.append(np.median(of[True], axis=0) - np.median(of[False], axis=0))
    return np.array(found).reshape(-1, 2)


def _spread(changes: Floats, direction: str) -> dict[str, object]:
    spread: dict[str, object] = {"n": len(changes)}
    for name, values in zip(("d_gini", "d_number"), changes.T, strict=True):
        middle = float(np.median(values))
        spread |= {
            f"{name}_min": values.min(),
            f"{name}_median": middle,
            f"{name}_max": values.max(),
        }
    return spread | {"keeps_direction": float((quadrant(*changes.T) == direction).mean())}


def _run(args: argparse.Namespace) -> None:
    about = study.read(args.study)
    proportions = tables.read(args.proportions, PROPORTIONS)
    evidence = about.evidence_of(proportions)
    choices = tables.read(args.choices, MULTIVERSE_CHOICES)
    wanted = proportions[evidence == study.RECONSTRUCTED]
    table = reconstruction(wanted, choices, load(args.params).reconstruction)
    tables.write(table, RECONSTRUCTION, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--proportions", type=Path, required=True)
    parser.add_argument("--choices", type=Path, required=True, help="of the multiverse")
    parser.add_argument("--study", type=Path, required=True, help="what the inputs are")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
