"""Accuracy and proper scores against loops and scikit-learn; the harmonic score's traps."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from kdlib.metrics import accuracy, brier, class_weights, harmonic_score, nll, topk_error


def rank_of_label(row, label):
    """0 for the top class; of equal probabilities the lower class comes first."""
    order = sorted(range(len(row)), key=lambda c: (-row[c], c))
    return order.index(label)


def test_accuracy_and_topk_error_rank_like_a_stable_sort(predictions):
    probs, labels = predictions
    ranks = [rank_of_label(row, label) for row, label in zip(probs, labels, strict=True)]
    assert accuracy(probs, labels) == pytest.approx(sum(r == 0 for r in ranks) / len(ranks))
    for k in range(1, probs.shape[1] + 1):
        assert topk_error(probs, labels, k) == pytest.approx(
            sum(r >= k for r in ranks) / len(ranks), abs=1e-15
        )


def test_nll_and_brier_equal_loops(predictions):
    probs, labels = predictions
    losses = [
        -math.log(row[y]) if row[y] else math.inf for row, y in zip(probs, labels, strict=True)
    ]
    assert nll(probs, labels) == pytest.approx(sum(losses) / len(losses))
    squares = [
        sum((p - (c == y)) ** 2 for c, p in enumerate(row))
        for row, y in zip(probs, labels, strict=True)
    ]
    assert brier(probs, labels) == pytest.approx(sum(squares) / len(squares))


@pytest.mark.parametrize("predictions", [(500, 6, 8)], indirect=True)
def test_scikit_learn_agrees(predictions):
    probs, labels = predictions
    classes = range(6)
    assert nll(probs, labels) == pytest.approx(sk.log_loss(labels, probs, labels=classes))
    assert brier(probs, labels) == pytest.approx(
        sum(sk.brier_score_loss(labels == c, probs[:, c]) for c in classes)
    )
    assert 1 - topk_error(probs, labels, 3) == pytest.approx(
        sk.top_k_accuracy_score(labels, probs, k=3, labels=classes)
    )
    balanced = sk.balanced_accuracy_score(labels, probs.argmax(axis=1))
    assert accuracy(probs, labels, class_weights(labels, 6)) == pytest.approx(balanced)


def test_whole_weights_are_repetitions(weighted):
    probs, labels, weights, repeated, repeated_labels = weighted
    for score in (accuracy, nll):
        expected = score(repeated, repeated_labels)
        assert score(probs, labels, weights) == pytest.approx(expected)
        assert score(probs, labels, weights / 7) == pytest.approx(expected)


def test_nll_is_inf_only_where_an_impossible_label_counts():
    probs, labels = [[1.0, 0.0], [0.5, 0.5]], [1, 0]
    assert nll(probs, labels) == math.inf
    assert nll(probs, labels, weights=[0, 1]) == pytest.approx(math.log(2))
    assert nll([[1.0, 0.0]], [0]) == 0


def literal_harmonic(acc, ece):
    scores = []
    for a, e in zip(acc, ece, strict=True):
        gain = (a - min(acc)) / (max(acc) - min(acc)) if max(acc) > min(acc) else 0
        calm = 1 - (e - min(ece)) / (max(ece) - min(ece)) if max(ece) > min(ece) else 1
        scores.append(0 if gain + calm == 0 else 2 * gain * calm / (gain + calm))
    return scores


def test_harmonic_score_equals_the_loop_and_ignores_the_unit():
    rng = np.random.default_rng(0)
    acc, ece = rng.uniform(0.3, 0.9, 128), rng.uniform(0.01, 0.3, 128)
    scores = harmonic_score(acc, ece)
    np.testing.assert_allclose(scores, literal_harmonic(acc, ece))
    np.testing.assert_allclose(harmonic_score(100 * acc, 100 * ece), scores)
    # The published figure put raw percent into 2 a (1 - e) / (a + 1 - e): up to 2, blind to a.
    raw = 200 * acc * (1 - ece) / (100 * acc + 1 - ece)
    assert raw.min() > 1 >= scores.max()
    assert np.corrcoef(raw, ece)[0, 1] < -0.99 < np.corrcoef(scores, ece)[0, 1]


def test_harmonic_score_reproduces_a_published_cell():
    # CIFAR-10, IF 50: the grid's extremes, then the cell published as .9914.
    scores = harmonic_score([79.60, 70.42, 79.46], [0.0819, 0.2948, 0.0823])
    np.testing.assert_allclose(scores, [1, 0, 0.991390], atol=5e-7)


def test_harmonic_score_belongs_to_one_grid():
    acc, ece = np.array([0.70, 0.75, 0.80]), np.array([0.20, 0.12, 0.10])
    alone = harmonic_score(acc, ece)
    pooled = harmonic_score([*acc, 0.40, 0.44], [*ece, 0.12, 0.15])[:3]
    assert abs(pooled - alone).max() > 0.1


@pytest.mark.parametrize(
    ("acc", "ece", "expected"),
    [
        ([0.7, 0.7], [0.1, 0.2], [0, 0]),
        ([0.7, 0.8], [0.1, 0.1], [0, 1]),
        ([0.6, 0.7, 0.8], [0.1, 0.1, 0.1], [0, 2 / 3, 1]),
        ([0.7, 0.8], [0.2, 0.1], [0, 1]),  # the first is worst on both: 0 / 0 counts as 0
        ([0.7], [0.1], [0]),
    ],
)
def test_harmonic_score_without_spread(acc, ece, expected):
    np.testing.assert_allclose(harmonic_score(acc, ece), expected, rtol=1e-12)
