"""Calibration errors of the top label and of every class, and their noise floor.

All are computed once over the whole split: an ECE averaged over mini-batches measures their size.
Bins are equal-width and right-closed, (lo, hi] (Guo et al. 2017, section 2).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kdlib.metrics.checks import check_pair, check_probs, check_weights, check_whole
from kdlib.metrics.scores import residuals, top_label
from kdlib.seeding import numpy_generator


class ReliabilityBins(NamedTuple):
    """A reliability diagram; (bins,) arrays, bin b covers (b / bins, (b + 1) / bins].

    count: images. share: their part of the total weight (of N without weights). confidence,
    accuracy: weighted means, nan in a bin without weight.
    """

    count: np.ndarray
    share: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def bin_index(values: np.ndarray, bins: int) -> np.ndarray:
    """The right-closed bin of each probability; 0 belongs to the first, 1 to the last."""
    # i / bins is the double nearest to the edge; linspace(0, 1, 11) misses 3/10 by a bit.
    edges = np.arange(1, bins) / bins
    return np.searchsorted(edges, values, side="left")


def reliability_bins(
    probs: ArrayLike, labels: ArrayLike, bins: int = 15, weights: ArrayLike | None = None
) -> ReliabilityBins:
    """Count, share of the weight, mean confidence and accuracy in each bin of the confidence.

    probs (N, K), labels (N,), weights (N,). The confidence is a row's largest probability.

    >>> reliability_bins([[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]], [0, 0, 0], bins=2).accuracy
    array([1. , 0.5])
    """
    confidence, hit = top_label(probs, labels)
    bins, weights = check_whole(bins, "bins"), check_weights(weights, labels=hit)
    index = bin_index(confidence, bins)
    total = np.bincount(index, weights, bins)
    mass = np.where(total > 0, total, np.nan)
    return ReliabilityBins(
        count=np.bincount(index, minlength=bins),
        share=total / total.sum(),
        confidence=np.bincount(index, weights * confidence, bins) / mass,
        accuracy=np.bincount(index, weights * hit, bins) / mass,
    )


def ece(
    probs: ArrayLike, labels: ArrayLike, bins: int = 15, weights: ArrayLike | None = None
) -> float:
    """Expected calibration error: sum over bins of share * |accuracy - confidence|.

    probs (N, K), labels (N,), weights (N,); Guo et al. 2017, equation 3. Never 0 in a finite
    sample: compare it with `ece_floor`.

    >>> ece([[0.95, 0.05], [1.0, 0.0]], [0, 1], bins=10)
    0.475
    """
    filled = reliability_bins(probs, labels, bins, weights)
    return float(np.nansum(filled.share * np.abs(filled.accuracy - filled.confidence)))


def ece_floor(
    probs: ArrayLike,
    bins: int = 15,
    draws: int = 200,
    seed: int = 0,
    weights: ArrayLike | None = None,
) -> float:
    """The mean ECE if the predictions were true: labels drawn from probs (N, K), `draws` times.

    The ECE sees only whether the top label was drawn, which happens with the row's largest
    probability; so one Bernoulli draw a row replaces the label, with the same law.
    """
    probs, bins = check_probs(probs), check_whole(bins, "bins")
    draws, weights = check_whole(draws, "draws"), check_weights(weights, probs=probs)
    confidence, generator = probs.max(axis=1), numpy_generator(seed, "ece_floor")
    index = bin_index(confidence, bins)
    gap = 0.0
    for _ in range(draws):
        hit = generator.random(len(confidence)) < confidence
        gap += np.abs(np.bincount(index, weights * (hit - confidence), bins)).sum()
    return float(gap / draws / weights.sum())


def adaptive_ece(probs: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """ECE over bins of equal mass: rows sorted by confidence, cut by `np.array_split`.

    probs (N, K), labels (N,); Nguyen & O'Connor 2015. Equal confidences keep their input order.
    """
    confidence, hit = top_label(probs, labels)
    gaps = (hit - confidence)[np.argsort(confidence, kind="stable")]
    parts = np.array_split(gaps, check_whole(bins, "bins"))
    return float(sum(abs(part.sum()) for part in parts) / len(gaps))


def classwise_ece(probs: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Mean over classes of the ECE of p(class) against the class's one-hot label.

    probs (N, K), labels (N,); Kull et al. 2019, section 2. Bins are equal-width, and every row
    counts in every class: a probability of 0 belongs to the first bin.
    """
    probs, labels = check_pair(probs, labels)
    bins, classes = check_whole(bins, "bins"), probs.shape[1]
    index = bin_index(probs, bins) + bins * np.arange(classes)
    gaps = np.bincount(index.ravel(), residuals(probs, labels).ravel())
    return float(np.abs(gaps).sum() / probs.size)


def smooth_ece(probs: ArrayLike, labels: ArrayLike) -> float:
    """Kernel-smoothed calibration error of the top label (Blasiok & Nakkiran 2023), by relplot.

    probs (N, K), labels (N,). It has no bins: the kernel's width is chosen so that it equals the
    error found with it (bisected to 1/1024). Equal to relplot's where no confidence exceeds 0.999;
    relplot 1.0.3 gives those, most rows of an over-confident network, down to half their weight.
    """
    from relplot.metrics import smECE  # draws in matplotlib: seconds that most runs need not pay

    confidence, hit = top_label(probs, labels)
    # relplot reflects its grid of 1001 points at 1 but not the point 1 itself, so the weight there
    # loses its mirror image. Place it one point lower, with its own gap.
    place = np.minimum(confidence, 0.999)
    return float(smECE(place, hit - (confidence - place)))
