"""Selective prediction: the risk when only the most confident rows are answered."""

import numpy as np
from numpy.typing import ArrayLike

from kdlib.metrics.scores import top_label


def _ranked_errors(probs: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """(N,) bool, wrong or not, from the most confident row to the least; ties keep input order."""
    confidence, hit = top_label(probs, labels)
    return ~hit[np.argsort(-confidence, kind="stable")]


def _risks(wrong: np.ndarray) -> np.ndarray:
    return np.cumsum(wrong) / np.arange(1, len(wrong) + 1)


def risk_coverage(probs: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Coverages k / N and the error rates among the k most confident rows, (N,) each.

    probs (N, K), labels (N,); the confidence is a row's largest probability.
    """
    risks = _risks(_ranked_errors(probs, labels))
    return np.arange(1, len(risks) + 1) / len(risks), risks


def aurc(probs: ArrayLike, labels: ArrayLike) -> float:
    """Area under the risk-coverage curve, x1000: the mean risk over the coverages 1/N .. 1.

    probs (N, K), labels (N,); Geifman et al. 2019.

    >>> aurc([[0.9, 0.1], [0.2, 0.8]], [0, 0])
    250.0
    """
    return float(1000 * _risks(_ranked_errors(probs, labels)).mean())


def e_aurc(probs: ArrayLike, labels: ArrayLike) -> float:
    """AURC above that of the best ranking with as many errors, x1000: 0 if all errors come last.

    probs (N, K), labels (N,). The optimum is the discrete one, not the logarithmic approximation
    of Geifman et al. 2019, which is off by the order of 1/N.

    >>> e_aurc([[0.9, 0.1], [0.2, 0.8]], [0, 0])
    0.0
    """
    wrong = _ranked_errors(probs, labels)
    return float(1000 * (_risks(wrong).mean() - _risks(np.sort(wrong)).mean()))
