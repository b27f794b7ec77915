"""Accuracy, proper scores, and the harmonic score of a grid."""

import numpy as np
from numpy.typing import ArrayLike

from kdlib.metrics.checks import (
    check_finite,
    check_match,
    check_pair,
    check_weights,
    check_whole,
)


def top_label(probs: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and correctness (bool) of each row's largest probability, (N,) each."""
    probs, labels = check_pair(probs, labels)
    return probs.max(axis=1), probs.argmax(axis=1) == labels


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """sum w v / sum w; a value of weight 0 does not count, even where it is infinite."""
    counted = weights > 0
    return float(np.average(values[counted], weights=weights[counted]))


def accuracy(probs: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Share of rows whose largest probability is the label's; ties go to the lower class.

    probs (N, K), labels (N,), weights (N,). With `class_weights` it is the class-balanced accuracy.

    >>> accuracy([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]], [0, 1, 1, 0])
    0.75
    """
    _, hit = top_label(probs, labels)
    return weighted_mean(hit, check_weights(weights, labels=hit))


def topk_error(probs: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Share of rows whose label is not among the k largest probabilities, k in 1..K.

    probs (N, K), labels (N,). Of equal probabilities the lower class comes first.

    >>> topk_error([[0.5, 0.3, 0.2], [0.4, 0.3, 0.3]], [1, 2], k=2)
    0.5
    """
    probs, labels = check_pair(probs, labels)
    k = check_whole(k, "k", high=probs.shape[1])
    true = np.take_along_axis(probs, labels[:, None], axis=1)
    lower = np.arange(probs.shape[1]) < labels[:, None]
    ahead = (probs > true) | ((probs == true) & lower)
    return float(np.mean(ahead.sum(axis=1) >= k))


def nll(probs: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean negative log-likelihood of the labels in nats, not clipped: p(y) = 0 gives inf.

    probs (N, K), labels (N,), weights (N,).

    >>> nll([[0.5, 0.5], [1.0, 0.0]], [1, 1])
    inf
    """
    probs, labels = check_pair(probs, labels)
    with np.errstate(divide="ignore"):
        losses = -np.log(probs[np.arange(len(labels)), labels])
    return weighted_mean(losses, check_weights(weights, labels=labels))


def residuals(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One-hot labels minus probabilities, (N, K), of checked arguments."""
    residual = -probs
    residual[np.arange(len(labels)), labels] += 1
    return residual


def brier(probs: ArrayLike, labels: ArrayLike) -> float:
    """Squared distance to the one-hot label, summed over classes, mean over rows: in [0, 2].

    probs (N, K), labels (N,) (Brier 1950, the original sum over all classes).

    >>> brier([[0.75, 0.25]], [0])
    0.125
    """
    probs, labels = check_pair(probs, labels)
    return float(np.square(residuals(probs, labels)).sum(axis=1).mean())


def harmonic_score(acc: ArrayLike, ece: ArrayLike) -> np.ndarray:
    """Harmonic mean of accuracy and 1 - ECE, each scaled to [0, 1] over the runs of one grid.

    acc and ece (R,), one entry a cell of the grid (its mean over seeds). A score is relative to its
    grid: one more cell moves them all, and scores of two grids do not compare. The scaling makes
    the unit (percent or fraction) irrelevant. A cell that is worst on either axis scores 0; without
    spread in accuracy all do; without spread in ECE every cell counts as the best calibrated.

    >>> harmonic_score([0.70, 0.75, 0.80], [0.20, 0.10, 0.10])
    array([0.        , 0.66666667, 1.        ])
    """
    acc, ece = check_finite(acc, "acc", 1), check_finite(ece, "ece", 1)
    check_match(len(acc) == len(ece), acc=acc, ece=ece)
    gain = (acc - acc.min()) / (np.ptp(acc) or 1)
    calm = 1 - (ece - ece.min()) / (np.ptp(ece) or 1)
    both = gain + calm
    return np.divide(2 * gain * calm, both, out=np.zeros_like(both), where=both > 0)
