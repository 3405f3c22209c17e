"""Ask which known relations of genes a model holds, and which co-expression alone explains.

Most questions are of pairs of genes and answered by how alike two genes are: as the cosine of their
centred vectors, in every layer of the first state and the last, in co-expression, and in how
frequent they are. Graded strength is held against as the number that it is, never by quantiles.
Targets of a regulator are compared with any other targets and, since regulators sit in the
programme that they drive, with genes of that programme that it does not regulate. Whether a gene
regulates or is regulated is asked of the leading directions, twice: as genes are, and with every
regulator beside a target of its own frequency.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import linear_sum_assignment

from stages.base import cli, tables
from stages.base.settings import load
from stages.inputs import known
from stages.inputs.encoders import encoded, expression, vocabulary
from stages.inputs.known import REPRESSES, Known
from stages.measurement import resampling
from stages.measurement.ranks import auroc_of_ranks
from stages.measurement.streams import stream
from stages.representations.arrays import layer_name
from stages.spectra import matrices
from stages.spectra.matrices import Items
from stages.spectra.sampling import drawn
from stages.spectra.settings import Structures
from stages.spectra.spectrum import directions
from stages.spectra.statistics import (
    permutation_p,
    residual,
    shuffled_within,
    weighted_auroc,
)
from stages.spectra.tables.structures import STRUCTURES

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

FOLDS = 5
RIDGE = 1e-3
"""Share of the variance of the features that is added to it, so that the fit exists."""


@dataclass(frozen=True)
class Question:
    """Units (pairs of genes, or genes) with what is known of them."""

    name: str
    genes: Numbers
    """Numbers of the genes of each unit: (n, 2) or (n, 1)."""
    label: Floats
    """Whether a unit is in the relation (0, 1), or how strong it is: (n,)."""
    shuffled: Floats
    """The labels, permuted as far as they might be: (n_permutations, n)."""
    graded: bool = False

    @property
    def n_positive(self) -> int:
        """Units in the relation."""
        return int((self.label > 0).sum())

    @property
    def statistic(self) -> str:
        """How the answer is given."""
        return "rho" if self.graded else "auroc"

    def measured(self, values: Floats, labels: Floats) -> Floats:
        """Return the answer of values, (n,), under several labels, (n_labels, n)."""
        ranks = stats.rankdata(values)
        if self.graded:
            return _correlations(ranks, stats.rankdata(labels, axis=1), np.ones_like(labels))
        return auroc_of_ranks(ranks, labels)

    def resampled(self, values: Floats, weights: Floats) -> Floats:
        """Return the answer of values under several weights of the units, (n_draws, n)."""
        if self.graded:
            ranks = np.broadcast_to(stats.rankdata(self.label), weights.shape)
            return _correlations(stats.rankdata(values), ranks, weights)
        return weighted_auroc(np.argsort(values, kind="stable"), self.label > 0, weights)


def _correlations(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Return weighted correlations of x, (n,), with each row of y, (n_draws, n)."""
    total = weights.sum(axis=1)
    mean_x, mean_y = weights @ x / total, (weights * y).sum(axis=1) / total
    covariance = (weights * y) @ x / total - mean_x * mean_y
    spread_x = weights @ x**2 / total - mean_x**2
    spread_y = (weights * y**2).sum(axis=1) / total - mean_y**2
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = covariance / np.sqrt(spread_x * spread_y)
    return found


class Questions:
    """Makes the questions that what is known of some genes allows."""

    def __init__(self, of: Known, names: Sequence[str], params: Structures) -> None:
        self.of = of
        self.params = params
        self.place = {name: number for number, name in enumerate(names)}

    def all(self, log_frequency: Floats) -> list[Question]:
        """Return all questions that have units on both sides, (n_genes,) log frequencies given."""
        found = [self.same_set(name, sets) for name, sets in self.of.families.items()]
        found += [
            self.edges("edges", near=False),
            self.edges("edges within a programme", near=True),
        ]
        found += [self.repression(), self.strength()]
        found += [self.regulators(), self.matched(log_frequency)]
        return [
            one
            for one in found
            if len(one.label) > one.n_positive * (not one.graded) and one.n_positive > 1
        ]

    def _rng(self, name: str) -> np.random.Generator:
        return stream(self.params.seed, name)

    def _numbers(self, genes: Sequence[str] | frozenset[str] | set[str]) -> list[int]:
        return sorted(self.place[gene] for gene in genes if gene in self.place)

    def _question(
        self, name: str, rows: Sequence[tuple[int, int, float, int]], *, graded: bool = False
    ) -> Question:
        """Return a question of pairs with labels that may be exchanged within groups."""
        rng = self._rng(name)
        rows = list(rows)
        if len(rows) > self.params.most_pairs:
            chosen = np.sort(rng.permutation(len(rows))[: self.params.most_pairs])
            rows = [rows[number] for number in chosen]
        table = np.array(rows, dtype=np.float64).reshape(len(rows), 4)
        group = table[:, 3].astype(np.int64)
        shuffled = (
            self._of_blocks(table[:, 2], group, rng)
            if graded
            else shuffled_within(table[:, 2], group, self.params.permutations, rng)
        )
        return Question(name, table[:, :2].astype(np.int64), table[:, 2], shuffled, graded)

    def _of_blocks(self, label: Floats, block: Numbers, rng: np.random.Generator) -> Floats:
        """Return labels that are exchanged between blocks, which share one each."""
        _, first, member = np.unique(block, return_index=True, return_inverse=True)
        each = label[first]
        drawn_labels = np.empty((self.params.permutations, len(label)))
        for row in drawn_labels:
            row[:] = rng.permutation(each)[member]
        return drawn_labels

    def same_set(self, family: str, sets: Mapping[str, frozenset[str]]) -> Question:
        """Ask whether two genes share a set of a family; labels are exchanged between genes."""
        name = f"same {family}"
        rng = self._rng(name)
        numbers = {label: self._numbers(genes) for label, genes in sets.items()}
        smallest, largest = self.params.smallest_set, self.params.largest_set
        kept = [of for of in numbers.values() if smallest <= len(of) <= largest]
        genes = np.array(sorted(set().union(*kept)), dtype=np.int64)
        inside = np.array([np.isin(genes, of) for of in kept]).reshape(len(kept), len(genes))
        share = inside.T.astype(np.float64) @ inside > 0
        first, second = np.triu_indices(len(genes), k=1)
        if len(first) > self.params.most_pairs:
            chosen = np.sort(rng.permutation(len(first))[: self.params.most_pairs])
            first, second = first[chosen], second[chosen]
        shuffled = np.empty((self.params.permutations, len(first)))
        for row in shuffled:
            order = rng.permutation(len(genes))
            row[:] = share[order[first], order[second]]
        pairs = np.stack([genes[first], genes[second]], axis=1)
        return Question(name, pairs, share[first, second].astype(np.float64), shuffled)

    def _edges(self) -> dict[tuple[int, int], str]:
        edges = self.of.edges
        return {
            (self.place[factor], self.place[target]): sign
            for factor, target, sign in zip(
                edges["factor"], edges["target"], edges["sign"], strict=True
            )
            if factor in self.place and target in self.place
        }

    def _near(self) -> dict[int, set[int]]:
        """Return of each gene those that share a set with it."""
        found: dict[int, set[int]] = {}
        for of in self.of.near.values():
            numbers = set(self._numbers(of))
            for number in numbers:
                found.setdefault(number, set()).update(numbers)
        return found

    def edges(self, name: str, *, near: bool) -> Question:
        """Ask which genes a regulator activates (or regulates, where no sign is known)."""
        edges, around = self._edges(), self._near()
        factors, targets = sorted({pair[0] for pair in edges}), {pair[1] for pair in edges}
        rows = []
        for factor in factors:
            candidates = targets - set(factors)
            if near:
                candidates &= around.get(factor, set())
            for gene in sorted(candidates):
                sign = edges.get((factor, gene))
                if sign != REPRESSES:
                    rows.append((factor, gene, float(sign is not None), factor))
        return self._question(name, rows)

    def repression(self) -> Question:
        """Ask which genes a regulator represses, of those that share a set with one of these."""
        edges, around = self._edges(), self._near()
        factors = {pair[0] for pair in edges}
        rows = []
        for factor in sorted(factors):
            repressed = {b for (a, b), sign in edges.items() if a == factor and sign == REPRESSES}
            beside = set().union(*(around.get(gene, {gene}) for gene in repressed))
            for gene in sorted(beside - factors - around.get(factor, set())):
                if edges.get((factor, gene)) in {None, REPRESSES}:
                    rows.append((factor, gene, float(gene in repressed), factor))
        return self._question("repression", rows)

    def strength(self) -> Question:
        """Ask how strongly two genes are bound, of pairs whose strength is known."""
        columns = ("first", "second", "score", "block")
        rows = [
            (self.place[first], self.place[second], float(score), int(block))
            for first, second, score, block in zip(
                *(self.of.graded[name] for name in columns), strict=True
            )
            if first in self.place and second in self.place
        ]
        return self._question("graded strength", rows, graded=True)

    def _regulators(self) -> tuple[list[int], list[int]]:
        edges = self._edges()
        factors = sorted({pair[0] for pair in edges})
        return factors, sorted({pair[1] for pair in edges} - set(factors))

    def regulators(self) -> Question:
        """Ask which genes regulate, of these and of those that are regulated."""
        factors, targets = self._regulators()
        rows = [(gene, gene, 1.0, 0) for gene in factors] + [
            (gene, gene, 0.0, 0) for gene in targets
        ]
        return _of_genes(self._question("regulator", rows))

    def matched(self, log_frequency: Floats) -> Question:
        """Ask the same of regulators beside targets of their own frequency, one each.

        Pairs are those of the least sum of differences in log frequency; labels are exchanged
        within pairs.
        """
        factors, targets = self._regulators()
        rows = []
        if factors and targets:
            apart = np.abs(log_frequency[factors][:, np.newaxis] - log_frequency[targets])
            # What is too far apart is matched last, and then left out.
            cost = np.where(apart <= self.params.caliper, apart, 1e3)
            for number, (one, other) in enumerate(zip(*linear_sum_assignment(cost), strict=True)):
                if apart[one, other] <= self.params.caliper:
                    rows += [(factors[one], factors[one], 1.0, number)]
                    rows += [(targets[other], targets[other], 0.0, number)]
        return _of_genes(self._question("regulator, frequencies matched", rows))


def _of_genes(pairs: Question) -> Question:
    return Question(pairs.name, pairs.genes[:, :1], pairs.label, pairs.shuffled)


@dataclass(frozen=True)
class Source:
    """Where similarities and coordinates of genes are taken from."""

    name: str
    alike: Callable[[Numbers], Floats]
    """From pairs of genes, (n, 2), how alike they are, (n,)."""
    coordinates: Floats
    """(n_genes, n_axes), by which single genes are told apart."""
    state: str | None = None
    layer: str | None = None


def of_model(items: Items, layer: int, state: str, chosen: Numbers, params: Structures) -> Source:
    """Return the vectors of a layer, of the chosen genes."""
    found = directions(items.matrix(layer))
    along = found.along[:, params.first_axis - 1 : params.last_axis]
    centred = found.centred[chosen]
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    return Source("model", partial_cosine(unit), along[chosen], state, layer_name(layer))


def partial_cosine(unit: Floats) -> Callable[[Numbers], Floats]:
    """Return a function from pairs of genes to the cosines of their vectors of length 1."""
    return lambda pairs: np.einsum("ij,ij->i", unit[pairs[:, 0]], unit[pairs[:, 1]])


def of_coexpression(found: Floats, params: Structures) -> Source:
    """Return correlations of genes over cells; single genes by their leading eigenvectors."""
    found = np.nan_to_num(found)
    values, vectors = np.linalg.eigh(found)
    along = (vectors * np.sqrt(values.clip(0)))[:, ::-1]
    return Source(
        "co-expression",
        lambda pairs: found[pairs[:, 0], pairs[:, 1]],
        along[:, params.first_axis - 1 : params.last_axis],
    )


def of_frequency(log_frequency: Floats) -> Source:
    """Return how near two genes are in log frequency; single genes by it."""
    return Source(
        "frequency",
        lambda pairs: -np.abs(log_frequency[pairs[:, 0]] - log_frequency[pairs[:, 1]]),
        log_frequency[:, np.newaxis],
    )


def told_apart(features: Floats, labels: Floats, fold: Numbers) -> Floats:
    """Return how far a linear discriminant puts each gene to the side of label 1.

    Least squares, which for two classes has the direction of Fisher's discriminant, fitted on the
    other folds. Predictions are centred by fold, so that folds can be ranked together.

    Parameters
    ----------
    features
        (n, d)
    labels
        One or several, (n_labels, n).
    fold
        (n,)

    Returns
    -------
    ndarray
        (n_labels, n)
    """
    found = np.empty(labels.shape)
    for number in np.unique(fold):
        test = fold == number
        mean, spread = features[~test].mean(axis=0), features[~test].std(axis=0)
        scaled = (features - mean) / np.where(spread > 0, spread, 1.0)
        fit = scaled[~test]
        gram = fit.T @ fit
        gram += RIDGE * len(fit) * np.eye(len(gram))
        aims = labels[:, ~test] - labels[:, ~test].mean(axis=1, keepdims=True)
        slopes = np.linalg.solve(gram, fit.T @ aims.T)
        predicted = scaled[test] @ slopes
        found[:, test] = (predicted - predicted.mean(axis=0)).T
    return found


def folds(question: Question, rng: np.random.Generator) -> Numbers:
    """Return the fold of each gene; those of label 1 and those of 0 are dealt out alike.

    Matched genes, which follow each other, come into one fold.
    """
    fold = np.empty(len(question.label), dtype=np.int64)
    if (question.label[::2] == 1).all() and question.n_positive * 2 == len(fold):
        fold[:] = np.repeat(rng.permutation(question.n_positive) % FOLDS, 2)
        return fold
    for label in (0.0, 1.0):
        of = np.flatnonzero(question.label == label)
        fold[of] = rng.permutation(len(of)) % FOLDS
    return fold


class _Rows:
    """Collects the answers."""

    def __init__(self, questions: Sequence[Question], n_genes: int, params: Structures) -> None:
        self.questions = questions
        self.params = params
        self.found: list[dict[str, object]] = []
        rng = stream(params.seed, "genes")
        self.of_genes = resampling.group_weights(n_genes, params.draws, rng) * n_genes
        self.beside: dict[str, Floats] = {}
        self.weights = {one.name: self.of_genes[:, one.genes].prod(axis=2) for one in questions}
        self.folds = {
            one.name: folds(one, stream(params.seed, "folds", one.name))
            for one in questions
            if one.genes.shape[1] == 1
        }

    def add(self, source: Source, log_frequency: Floats) -> None:
        """Answer every question from a source; that of co-expression comes first."""
        for one in self.questions:
            labels = np.concatenate([one.label[np.newaxis], one.shuffled])
            if one.name in self.folds:
                features = source.coordinates[one.genes[:, 0]]
                of_labels = told_apart(features, labels, self.folds[one.name])
                values = of_labels[0]
                answers = np.array(
                    [
                        one.measured(value, label[np.newaxis])[0]
                        for value, label in zip(of_labels, labels, strict=True)
                    ]
                )
            else:
                values = source.alike(one.genes)
                answers = one.measured(values, labels)
            logs = log_frequency[one.genes]
            columns = [logs.sum(axis=1)]
            if logs.shape[1] > 1:
                columns.append(np.abs(logs[:, 0] - logs[:, 1]))
            if source.name == "model":
                columns.append(self.beside[one.name])
            if source.name == "co-expression":
                self.beside[one.name] = values
            row: dict[str, object] = {
                "structure": one.name,
                "statistic": one.statistic,
                "source": source.name,
                "state": source.state,
                "layer": source.layer,
                "value": answers[0],
                "expected": answers[1:].mean(),
                "p": permutation_p(answers[0], answers[1:]),
                "n_positive": one.n_positive,
                "n": len(one.label),
            }
            row |= self._interval(one, values, "")
            if source.name != "frequency":
                left = residual(values, np.column_stack(columns))
                row["beyond"] = one.measured(left, one.label[np.newaxis])[0]
                row |= self._interval(one, left, "beyond_")
            self.found.append(row)

    def _interval(self, one: Question, values: Floats, prefix: str) -> dict[str, object]:
        drawn_values = one.resampled(values, self.weights[one.name])
        low, high = resampling.percentile_interval(
            drawn_values[np.isfinite(drawn_values)], confidence=self.params.confidence
        )
        return {f"{prefix}low": low, f"{prefix}high": high}


def correlations(cells: Iterable[Floats]) -> Floats:
    """Return the correlations of genes over cells, of which only sums are held.

    Parameters
    ----------
    cells
        Some at a time: (n, n_genes) each.

    Returns
    -------
    ndarray
        (n_genes, n_genes); nan for a gene that does not vary.
    """
    first, second, n_cells = np.zeros(()), np.zeros(()), 0
    for logs in cells:
        first = first + logs.sum(axis=0)
        second = second + logs.T @ logs
        n_cells += len(logs)
    mean = first / n_cells
    covariance = second / n_cells - np.outer(mean, mean)
    spread = np.sqrt(np.diag(covariance).clip(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = covariance / np.outer(spread, spread)
    return found


def chosen_genes(of: Known, names: Sequence[str], params: Structures) -> Numbers:
    """Return the numbers of genes of which something is known, ascending; some, if too many."""
    mentioned = set(of.edges["factor"]) | set(of.edges["target"])
    mentioned |= set(of.graded["first"]) | set(of.graded["second"])
    mentioned = mentioned.union(
        *(genes for sets in of.families.values() for genes in sets.values())
    )
    found = np.array([i for i, name in enumerate(names) if name in mentioned], dtype=np.int64)
    order = stream(params.seed, "chosen").permutation(len(found))
    return np.sort(found[order[: params.most_genes]])


def structures(
    sources: Iterator[Source],
    questions: Sequence[Question],
    log_frequency: Floats,
    params: Structures,
) -> pd.DataFrame:
    """Put all questions to all sources, that of co-expression first.

    Returns
    -------
    DataFrame
        ``STRUCTURES``.
    """
    rows = _Rows(questions, len(log_frequency), params)
    for source in sources:
        rows.add(source, log_frequency)
    table = pd.DataFrame(rows.found).reindex(columns=list(STRUCTURES.columns))
    table["q"] = resampling.benjamini_hochberg(table["p"].to_numpy(float))
    table["n_tests"] = int(table["p"].notna().sum())
    return table


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    params: Structures = settings.structures
    asked = settings.cellmodel.cells
    states = settings.systems[args.system].states
    least = settings.spectrum.min_count
    words = vocabulary.read(args.vocabulary)
    of = known.read(args.known, settings.gene_sets, words.synonyms)
    last = matrices.read(args.items / states[-1], min_count=least)
    chosen = chosen_genes(of, last.names, params)
    if not len(chosen):
        tables.write(tables.empty(STRUCTURES), STRUCTURES, args.out)
        return
    log_frequency = last.log_frequency[chosen]
    questions = Questions(of, [last.names[number] for number in chosen], params).all(log_frequency)
    cells = encoded.read(args.cells).cells
    read = cells["row"].to_numpy()[drawn(len(cells), settings.items)]
    logs = expression.logs(
        Path(str(asked.h5ad)), asked.encoding, read, words, tokens=last.tokens[chosen]
    )
    together = correlations(logs)

    def sources() -> Iterator[Source]:
        yield of_coexpression(together, params)
        yield of_frequency(log_frequency)
        for state in dict.fromkeys((states[0], states[-1])):
            items = matrices.read(args.items / state, min_count=least)
            for layer in items.found.layers:
                yield of_model(items, layer, state, chosen, params)

    tables.write(structures(sources(), questions, log_frequency, params), STRUCTURES, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--system", required=True, help="a key of systems")
    parser.add_argument("--items", type=Path, required=True, help="folder of <state>/")
    parser.add_argument("--cells", type=Path, required=True, help="folder of encoded cells")
    parser.add_argument("--known", type=Path, required=True, help="folder of what was planted")
    parser.add_argument("--vocabulary", type=Path, required=True, help="folder of the model")
    parser.add_argument("--out", type=Path, required=True)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
