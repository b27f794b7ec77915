"""Losses against labels: cross-entropy and its forms for calibration and long tails."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.losses import checks


def cross_entropies(log_probs: Tensor, targets: Tensor) -> Tensor:
    """(B, K) log-probabilities and checked targets -> (B,) cross-entropies."""
    if targets.ndim == 1:
        # A gather, for F.cross_entropy would skip a target of -100 without a word.
        return -log_probs.gather(1, targets[:, None]).squeeze(1)
    return -(targets * log_probs).sum(1)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of (B, K) logits with class indices (B,) or probabilities (B, K).

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    >>> soft_cross_entropy(logits, torch.tensor([0, 1]))
    tensor(0.4100)
    >>> soft_cross_entropy(logits, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor(0.4100)
    """
    logits = checks.floats("logits", logits, "B", "K")
    return cross_entropies(logits.log_softmax(1), checks.labels(targets, logits)).mean()


def balanced_softmax(
    logits: Tensor, targets: Tensor, class_counts: Sequence[float] | np.ndarray | Tensor
) -> Tensor:
    """Balanced softmax (Ren et al., NeurIPS 2020, theorem 1): cross-entropy of z + log n.

    `class_counts` are the training counts (not their inverse: frequent classes get a head start in
    training and lose it in the test, which reads plain z). No class weights belong on top.

    >>> balanced_softmax(torch.zeros(1, 2), torch.tensor([1]), [9, 1])  # -log(1 / 10)
    tensor(2.3026)
    """
    logits = checks.floats("logits", logits, "B", "K")
    return soft_cross_entropy(logits + checks.counts(class_counts, logits).log(), targets)


def confidence_penalty(logits: Tensor, targets: Tensor, beta: float = 0.1) -> Tensor:
    """Cross-entropy - beta * entropy of the prediction, in nats (Pereyra et al. 2017, sec. 3).

    A positive beta rewards uncertainty; a negative one is the reversed sign of published code.
    """
    logits = checks.floats("logits", logits, "B", "K")
    checks.finite("beta", beta)
    log_probs = logits.log_softmax(1)
    entropies = -(log_probs.exp() * log_probs).sum(1)
    return (cross_entropies(log_probs, checks.labels(targets, logits)) - beta * entropies).mean()


def label_aware_smoothing(
    logits: Tensor,
    targets: Tensor,
    class_counts: Sequence[float] | np.ndarray | Tensor,
    head: float = 0.3,
    tail: float = 0.0,
) -> Tensor:
    """Cross-entropy with smoothing that grows with the class's count (MiSLAS, Zhong et al. 2021).

    A label y becomes 1 - eps_y on y and eps_y / (K - 1) elsewhere, where (concave form, sec. 3.2)
    eps_y = tail + (head - tail) * sin(pi / 2 * (n_y - n_min) / (n_max - n_min)), all of them `head`
    for equal counts. Probability targets go through the same linear map, so that mixing after
    smoothing and smoothing after mixing agree. head, tail: in [0, 1]; K >= 2.

    >>> label_aware_smoothing(torch.tensor([[0.0, 3.0]]), torch.tensor([0]), [100, 10])
    tensor(2.1486)
    """
    logits = checks.floats("logits", logits, "B", "K")
    checks.fraction("head", head)
    checks.fraction("tail", tail)
    classes = logits.shape[1]
    if classes < 2:
        raise ValueError(f"logits must have at least 2 classes to smooth over, got {classes}")
    targets = checks.labels(targets, logits)
    if targets.ndim == 1:
        targets = F.one_hot(targets, classes).to(logits.dtype)
    n = checks.counts(class_counts, logits)
    rank = (n - n.min()) / (n.max() - n.min())
    rank = torch.where(n.max() > n.min(), rank, 1.0)
    moved = targets * (tail + (head - tail) * torch.sin(math.pi / 2 * rank))
    smooth = targets - moved + (moved.sum(1, keepdim=True) - moved) / (classes - 1)
    return soft_cross_entropy(logits, smooth)
