"""Known relations: frequency matched, co-expression taken out, strength as a number."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from stages.inputs.known import ACTIVATES, REPRESSES, Known, planted
from stages.measurement.ranks import auroc, auroc_of_ranks
from stages.spectra import structures
from stages.spectra.settings import Structures
from stages.spectra.statistics import (
    permutation_p,
    residual,
    shuffled_within,
    weighted_auroc,
)
from stages.spectra.structures import Question, Questions, Source
from stages.spectra.tables.structures import STRUCTURES

PARAMS = Structures(
    smallest_set=3,
    largest_set=100,
    most_genes=1000,
    most_pairs=20000,
    first_axis=1,
    last_axis=4,
    caliper=0.1,
    confidence=0.95,
    draws=50,
    permutations=99,
    seed=1,
)
EMPTY = pd.DataFrame(columns=["factor", "target", "sign"])


@pytest.fixture
def rng():
    return np.random.default_rng(20260602)


def asked(params=PARAMS, **changes):
    return params.model_copy(update=changes)


# Statistics


def test_auroc_is_that_of_scikit_learn(rng):
    values, member = rng.integers(0, 9, 80).astype(float), rng.random(80) < 0.3
    expected = roc_auc_score(member, values)
    assert auroc(values, member) == pytest.approx(expected, abs=1e-12)
    ranks = stats.rankdata(np.column_stack([values, -values]), axis=0)
    assert auroc_of_ranks(ranks, member[np.newaxis])[0] == pytest.approx([expected, 1 - expected])


def test_weighted_auroc_is_that_of_repeated_units(rng):
    values, member = rng.permutation(60).astype(float), rng.random(60) < 0.4
    weights = rng.integers(0, 4, size=(5, 60)).astype(float)
    found = weighted_auroc(np.argsort(values), member, weights)
    for one, of in zip(found, weights.astype(int), strict=True):
        expected = roc_auc_score(np.repeat(member, of), np.repeat(values, of))
        # Copies of one unit tie with themselves alone, never with one of the other kind.
        assert one == pytest.approx(expected, abs=1e-12)


def test_labels_are_exchanged_within_groups_alone(rng):
    labels, group = np.array([1.0, 0, 0, 1, 1, 0, 0]), np.array([4, 4, 4, 9, 9, 9, 2])
    drawn = shuffled_within(labels, group, 400, rng)
    assert (drawn[:, group == 4].sum(axis=1) == 1).all()
    assert (drawn[:, group == 9].sum(axis=1) == 2).all()
    assert (drawn[:, 6] == 0).all()
    # Each place of the first group has the one as often: 400 / 3, four errors of 9.4.
    assert np.abs(drawn[:, :3].sum(axis=0) - 400 / 3).max() < 38


def test_permutation_p_by_hand():
    drawn = np.array([0.4, 0.5, 0.6, 0.5])
    assert permutation_p(0.9, drawn) == 1 / 5
    assert permutation_p(0.6, drawn) == 3 / 5
    assert np.isnan(permutation_p(np.nan, drawn))


def test_residual_is_uncorrelated_with_what_was_taken_out(rng):
    x = rng.normal(size=(300, 2))
    left = residual(np.exp(x @ [1.0, -2.0]) + rng.normal(size=300), x)
    for column in x.T:
        assert abs(np.corrcoef(left, stats.rankdata(column))[0, 1]) < 1e-12


# Pairs of genes


def similar(matrix):
    """Return a source of the given similarities of genes."""
    return lambda name: Source(
        name, lambda pairs: matrix[pairs[:, 0], pairs[:, 1]], np.zeros((len(matrix), 1))
    )


def answered(of, names, log_frequency, sources, params=PARAMS):
    questions = Questions(of, names, params).all(log_frequency)
    table = structures.structures(iter(sources), questions, log_frequency, params)
    return STRUCTURES.validate(table).set_index(["structure", "source"])


def test_what_is_only_coexpression_is_nothing_beyond_it(rng):
    """Genes of one set go together; the model's similarity is co-expression with noise."""
    n = 60
    names = [f"g{i}" for i in range(n)]
    sets = {f"s{k}": frozenset(names[k::6]) for k in range(6)}
    together = np.equal.outer(np.arange(n) % 6, np.arange(n) % 6) * 0.5
    noise = rng.normal(size=(n, n)) * 0.2
    together = together + noise + noise.T
    of_model = together + rng.normal(size=(n, n)) * 0.1
    own = rng.normal(size=n)
    sources = [similar(together)("co-expression"), similar(of_model)("model")]
    table = answered(Known({"markers": sets}, EMPTY), names, own, sources)
    row = table.loc[("same markers", "model")]
    assert row["value"] > 0.85
    assert row["low"] < row["value"] < row["high"]
    assert row["p"] == 0.01
    assert row["q"] >= row["p"]
    assert row["n_positive"] == 6 * 45
    assert abs(row["beyond"] - 0.5) < 0.12
    # What the model has of its own survives.
    second = np.equal.outer(np.arange(n) % 6, np.arange(n) % 6) + rng.normal(size=(n, n)) * 0.3
    sources = [similar(rng.normal(size=(n, n)))("co-expression"), similar(second)("model")]
    table = answered(Known({"markers": sets}, EMPTY), names, own, sources)
    row = table.loc[("same markers", "model")]
    assert row["beyond"] == pytest.approx(row["value"], abs=0.02)


def networked(rng):
    """Five programmes with two regulators each; edges to half of their own programme's genes."""
    names, near, edges = [], {}, []
    for k in range(5):
        of = [f"p{k}g{i}" for i in range(22)]
        near[f"p{k}"] = frozenset(of)
        names += of
        for factor in of[:2]:
            edges += [(factor, target, ACTIVATES) for target in rng.permutation(of[2:])[:10]]
            beside = [f"p{(k + 1) % 5}g{i}" for i in range(2, 22)]
            edges += [(factor, target, REPRESSES) for target in rng.permutation(beside)[:5]]
    table = pd.DataFrame(edges, columns=["factor", "target", "sign"])
    return Known({}, table, near=near), names, table


def test_edges_are_not_told_by_programmes_alone(rng):
    """A similarity of programmes finds edges among all genes and none within a programme."""
    of, names, edges = networked(rng)
    programme = np.array([name[:2] for name in names])
    alike = np.equal.outer(programme, programme) + rng.normal(size=(len(names),) * 2) * 0.1
    sources = [similar(alike)("co-expression"), similar(alike)("model")]
    table = answered(of, names, rng.normal(size=len(names)), sources)
    assert table.loc[("edges", "model"), "value"] > 0.85
    within = table.loc[("edges within a programme", "model")]
    # Each gene that anything regulates stands beside both regulators of its programme.
    assert (within["n_positive"], within["n"]) == (100, 2 * edges["target"].nunique())
    # Four standard deviations of 0.055, over 60 such networks.
    assert abs(within["value"] - 0.5) < 0.22


def test_edges_and_their_signs_are_told_where_they_are_there(rng):
    of, names, edges = networked(rng)
    place = {name: i for i, name in enumerate(names)}
    alike = rng.normal(size=(len(names),) * 2) * 0.1
    for factor, target, sign in edges.itertuples(index=False):
        alike[place[factor], place[target]] += 1 if sign == ACTIVATES else -1
    table = answered(of, names, rng.normal(size=len(names)), [similar(alike)("co-expression")])
    assert table.loc[("edges within a programme", "co-expression"), "value"] > 0.99
    repressed = table.loc[("repression", "co-expression")]
    assert repressed["value"] < 0.01
    # Of each of ten regulators five targets among the twenty that share their programme.
    assert (repressed["n_positive"], repressed["n"]) == (50, 200)
    assert repressed["p"] == 0.01


def test_graded_strength_is_a_correlation_with_the_number_itself(rng):
    """Blocks of pairs of one strength; a planted relation is found, and a permuted one is not."""
    strength = rng.permutation(np.linspace(0.1, 0.9, 30))
    names = [f"c{block}g{i}" for block in range(30) for i in range(4)]
    pairs = [
        (f"c{block}g{i}", f"c{block}g{j}", strength[block], block)
        for block in range(30)
        for i in range(4)
        for j in range(i + 1, 4)
    ]
    graded = pd.DataFrame(pairs, columns=["first", "second", "score", "block"])
    of_gene = np.repeat(strength, 4)
    noise = rng.normal(size=(120, 120)) * 0.1
    own = rng.normal(size=120)
    by_strength = np.add.outer(of_gene, of_gene) / 2 + noise
    permuted = np.repeat(rng.permutation(strength), 4)
    other = np.add.outer(permuted, permuted) / 2 + noise
    table = answered(
        Known({}, EMPTY, graded),
        names,
        own,
        [similar(by_strength)("co-expression"), similar(other)("frequency")],
    )
    found = table.loc[("graded strength", "co-expression")]
    assert (found["statistic"], found["n"]) == ("rho", 180)
    values = [
        by_strength[4 * b + i, 4 * b + j]
        for b in range(30)
        for i in range(4)
        for j in range(i + 1, 4)
    ]
    assert found["value"] == pytest.approx(stats.spearmanr(values, graded["score"]).statistic)
    assert found["value"] > 0.85
    assert found["p"] == 0.01
    nothing = table.loc[("graded strength", "frequency")]
    assert abs(nothing["value"]) < 0.6
    assert nothing["p"] > 0.01


# Regulators and targets


def differing_in_frequency(rng):
    """Regulators are more frequent than targets, and nothing else tells them apart."""
    factors, targets = [f"f{i}" for i in range(40)], [f"t{i}" for i in range(160)]
    edges = pd.DataFrame(
        [(factors[i % 40], target, ACTIVATES) for i, target in enumerate(targets)],
        columns=["factor", "target", "sign"],
    )
    log_frequency = np.concatenate([rng.normal(5.5, 1, 40), rng.normal(4, 1, 160)])
    coordinates = np.column_stack([log_frequency, rng.normal(size=(200, 3))])
    return Known({}, edges), [*factors, *targets], log_frequency, coordinates


def test_regulators_that_differ_in_frequency_alone_are_not_told_once_matched(rng):
    of, names, log_frequency, coordinates = differing_in_frequency(rng)
    alike = similar(rng.normal(size=(200, 200)))("co-expression").alike
    sources = [
        Source("co-expression", alike, rng.normal(size=(200, 2))),
        Source("model", alike, coordinates),
    ]
    table = answered(of, names, log_frequency, sources)
    raw = table.loc[("regulator", "model")]
    assert raw["value"] > 0.75
    assert raw["p"] == 0.01
    # The axis of frequency explains it all.
    assert abs(raw["beyond"] - 0.5) < 0.15
    matched = table.loc[("regulator, frequencies matched", "model")]
    assert matched["n"] == 2 * matched["n_positive"] > 40
    assert abs(matched["value"] - matched["expected"]) < 0.15
    assert matched["p"] > 0.01


def test_regulators_that_differ_otherwise_are_told_though_matched(rng):
    of, names, log_frequency, coordinates = differing_in_frequency(rng)
    coordinates[:40, 2] += 2
    alike = similar(rng.normal(size=(200, 200)))("co-expression").alike
    sources = [
        Source("co-expression", alike, rng.normal(size=(200, 2))),
        Source("model", alike, coordinates),
    ]
    row = answered(of, names, log_frequency, sources).loc[
        ("regulator, frequencies matched", "model")
    ]
    assert row["value"] > 0.8
    assert row["p"] == 0.01


def test_matched_pairs_lie_within_the_caliper_and_each_gene_comes_once(rng):
    of, names, log_frequency, _ = differing_in_frequency(rng)
    question = Questions(of, names, PARAMS).matched(log_frequency)
    pairs = question.genes.reshape(-1, 2)
    assert (np.abs(np.diff(log_frequency[pairs], axis=1)) <= 0.1).all()
    assert len(np.unique(pairs)) == pairs.size
    assert (pairs[:, 0] < 40).all()
    assert (pairs[:, 1] >= 40).all()
    # Labels are exchanged within pairs.
    assert (question.shuffled.reshape(99, -1, 2).sum(axis=2) == 1).all()
    assert 0.3 < question.shuffled[:, ::2].mean() < 0.7


def test_told_apart_is_judged_on_other_folds(rng):
    """With more features than genes, a fit tells everything; on other folds it tells nothing."""
    features, labels = rng.normal(size=(60, 80)), np.repeat([1.0, 0.0], 30)[np.newaxis]
    fold = structures.folds(Question("x", np.arange(60)[:, np.newaxis], labels[0], labels), rng)
    assert np.bincount(fold[:30]).tolist() == np.bincount(fold[30:]).tolist() == [6] * 5
    found = structures.told_apart(features, labels, fold)
    assert 0.25 < roc_auc_score(labels[0], found[0]) < 0.75


def test_planted_truth_is_read(tmp_path):
    genes = pd.DataFrame(
        {
            "gene": ["a", "b", "c", "d", "e"],
            "programme": ["B", "B", "", "", ""],
            "is_factor": [True, False, False, False, False],
            "complex": [-1, -1, 0, 0, -1],
            "class": ["x", "x", "x", "y", "y"],
        }
    )
    genes.to_csv(tmp_path / "genes.csv", index=False)
    pd.DataFrame(
        [["a", "b", "activates", 0.5]], columns=["factor", "target", "sign", "weight"]
    ).to_csv(tmp_path / "edges.csv", index=False)
    pd.DataFrame({"complex": [0], "strength": [0.3]}).to_csv(
        tmp_path / "complexes.csv", index=False
    )
    found = planted(tmp_path)
    assert found.families == {
        "markers": {"B": frozenset("b")},
        "class": {"x": frozenset("c"), "y": frozenset("de")},
    }
    assert found.graded.values.tolist() == [["c", "d", 0.3, 0]]
    assert found.near == {"B": frozenset("ab")}
    assert found.factors == {"a"}


def test_too_many_pairs_are_drawn_from(rng):
    names = [f"g{i}" for i in range(80)]
    sets = {f"s{k}": frozenset(names[k::4]) for k in range(4)}
    question = Questions(Known({"m": sets}, EMPTY), names, asked(most_pairs=500)).same_set(
        "m", sets
    )
    assert len(question.label) == 500
    # Of all pairs 4 x 190 of 3,160 share a set: 120 of 500, five errors of 9.5.
    assert abs(question.n_positive - 120) < 48
