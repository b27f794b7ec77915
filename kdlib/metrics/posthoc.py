"""Post-hoc controls: temperature scaling and logit adjustment, fitted by a reweighted NLL.

The NLL of softmax(beta z - tau log prior) is convex in (beta, tau), beta = 1 / T. So its minimum is
where its slope changes sign: root finding gives it to 1e-12 whatever the machine (minimising the
value stops at 1e-8), and an optimum outside the interval as exactly the bound.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from kdlib.metrics.checks import (
    check_counts,
    check_finite,
    check_labels,
    check_match,
    check_temperature,
    check_weights,
)

LOG_TEMPERATURE_BOUNDS = (-5.0, 5.0)
TEMPERATURE_BOUNDS = (math.exp(-5), math.exp(5))
TAU_BOUNDS = (-1.0, 2.0)


def softmax(logits: ArrayLike, temperature: float = 1.0) -> np.ndarray:
    """Probabilities (N, K) of logits (N, K) divided by the temperature, in float64.

    >>> softmax([[0.0, np.log(9.0)]], temperature=2.0)
    array([[0.25, 0.75]])
    """
    logits = check_finite(logits, "logits", 2)
    return special.softmax(logits / check_temperature(temperature), axis=1)


def adjusted_softmax(
    logits: ArrayLike, class_counts: ArrayLike, temperature: float = 1.0, tau: float = 1.0
) -> np.ndarray:
    """Probabilities softmax(z / T - tau log(n_c / N)) of logits (N, K), in float64.

    class_counts (K,): training images a class. Menon et al. 2021, with tau = 1.
    """
    logits = check_finite(logits, "logits", 2)
    counts, tau = check_counts(class_counts, logits.shape[1]), check_finite(tau, "tau", 0)
    scores = logits / check_temperature(temperature) - tau * np.log(counts / counts.sum())
    return special.softmax(scores, axis=1)


def _slopes(
    logits: np.ndarray, labels: ArrayLike, weights: ArrayLike | None, log_prior: np.ndarray
) -> Callable[[float, float], tuple[float, float]]:
    """(log T, tau) -> the slopes, in beta and in tau, of the weighted NLL's sum over rows."""
    labels = check_labels(labels, logits.shape[1])
    check_match(len(labels) == len(logits), labels=labels, logits=logits)
    weights = check_weights(weights, labels=labels)
    # The largest logit becomes 0, so `odds` neither overflows nor vanishes from a whole row.
    logits = logits - logits.max(axis=1, keepdims=True)
    label_logits, label_priors = logits[np.arange(len(logits)), labels], log_prior[labels]

    def slopes(log_temperature: float, tau: float) -> tuple[float, float]:
        odds = np.exp(math.exp(-log_temperature) * logits - tau * log_prior)
        total = odds.sum(axis=1)
        mean_logits = np.einsum("nk,nk->n", odds, logits) / total
        mean_priors = odds @ log_prior / total
        return weights @ (mean_logits - label_logits), weights @ (label_priors - mean_priors)

    return slopes


def _sign_change(slope: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising slope crosses 0 in [low, high], else the bound; 0 if the slope is 0 at both.

    Both bounds at 0 means that the value is constant: the neutral 0 is as good as any.
    """
    at_low, at_high = slope(low), slope(high)
    if at_low >= 0 or at_high <= 0:
        return 0.0 if at_low == at_high == 0 else low if at_low >= 0 else high
    return optimize.brentq(slope, low, high, xtol=1e-12)


def _best_log_temperature(slopes: Callable, tau: float) -> float:
    # The NLL falls with beta where it rises with log T.
    return _sign_change(lambda log_t: -slopes(log_t, tau)[0], *LOG_TEMPERATURE_BOUNDS)


def fit_temperature(
    logits: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """T in [e^-5, e^5] that minimises the weighted NLL of softmax(z / T) (Guo et al. 2017, 4.2).

    logits (N, K), labels (N,), weights (N,) (`class_weights` where the split is long-tailed). As
    the optimum it is never worse than T = 1, which is the answer where every T is as good. An
    optimum beyond the interval gives exactly its end: flag ``T in TEMPERATURE_BOUNDS``.

    >>> logits = np.log([[0.9, 0.1]] * 4)
    >>> round(fit_temperature(logits, [0, 0, 0, 1]), 6)  # ln 9 / ln 3
    2.0
    """
    logits = check_finite(logits, "logits", 2)
    slopes = _slopes(logits, labels, weights, np.zeros(logits.shape[1]))
    return math.exp(_best_log_temperature(slopes, 0.0))


def fit_logit_adjustment(
    logits: ArrayLike,
    labels: ArrayLike,
    class_counts: ArrayLike,
    weights: ArrayLike | None = None,
) -> tuple[float, float]:
    """(T, tau) that minimises the weighted NLL of `adjusted_softmax`; tau in [-1, 2], T as above.

    logits (N, K), labels (N,), class_counts (K,) of the training set, weights (N,). Never worse
    than `fit_temperature`; with equal counts tau = 0. Bounds are met exactly (`TAU_BOUNDS`).
    """
    logits = check_finite(logits, "logits", 2)
    counts = check_counts(class_counts, logits.shape[1])
    # A constant in the prior cancels; this one makes it exactly 0 where all counts are equal.
    slopes = _slopes(logits, labels, weights, np.log(counts / counts.max()))

    def slope(tau: float) -> float:  # of the NLL minimised over T: convex, so it rises
        return slopes(_best_log_temperature(slopes, tau), tau)[1]

    tau = _sign_change(slope, *TAU_BOUNDS)
    return math.exp(_best_log_temperature(slopes, tau)), tau
