"""Losses of a network that teaches itself: PS-KD's targets, BYOT, mutual feature learning."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdlib.losses import checks
from kdlib.losses.distill import kd
from kdlib.losses.label import soft_cross_entropy


def pskd_targets(one_hot: Tensor, previous_probs: Tensor, alpha: float | Tensor) -> Tensor:
    """Targets of PS-KD: (1 - alpha) * one_hot + alpha * previous_probs (Kim et al. 2021, sec. 3).

    one_hot: (B, K) of any dtype, mixed labels too. previous_probs: (B, K), what the student said
    of these images one epoch ago. alpha: in [0, 1], a number or a () tensor. No gradient flows
    back.

    >>> pskd_targets(torch.tensor([[1, 0]]), torch.tensor([[0.5, 0.5]]), alpha=0.4)
    tensor([[0.8000, 0.2000]])
    """
    previous = checks.floats("previous_probs", previous_probs, "B", "K").detach()
    labels = checks.shaped("one_hot", one_hot, *previous.shape).detach().to(previous.dtype)
    checks.share("alpha", alpha)
    return torch.lerp(labels, previous, alpha)


def byot(
    logits: Tensor,
    side_logits: Sequence[Tensor],
    feature: Tensor,
    side_features: Sequence[Tensor],
    targets: Tensor,
    temperature: float = 3.0,
    alpha: float = 0.1,
    hint: float = 1.28e-4,
) -> Tensor:
    """Be your own teacher (Zhang et al., ICCV 2019, sec. 3.2): the losses of the side heads only.

    Sum over the side heads of (1 - alpha) * CE + alpha * T^2 * KL(final || side) + hint * ||side
    feature - final feature||^2, batch means. The final head's cross-entropy is not in it (code that
    adds it here counts it twice), and its logits (B, K) and feature (B, D) receive no gradient.

    side_logits, side_features: as many (B, K) and (B, D). alpha: in [0, 1]. hint: >= 0; common code
    sums over the batch instead, with 1e-6 at batch 128.
    """
    logits = checks.floats("logits", logits, "B", "K")
    feature = checks.floats("feature", feature, len(logits), "D").detach()
    checks.sequence("side_logits", side_logits)
    checks.sequence("side_features", side_features, len(side_logits))
    checks.positive("temperature", temperature)
    checks.fraction("alpha", alpha)
    checks.finite("hint", hint)
    if hint < 0:
        raise ValueError(f"hint must be >= 0, got {hint}")
    total = 0.0
    for i, (side, side_feature) in enumerate(zip(side_logits, side_features, strict=True)):
        side = checks.floats(f"side_logits[{i}]", side, *logits.shape)
        side_feature = checks.floats(f"side_features[{i}]", side_feature, *feature.shape)
        labels = (1 - alpha) * soft_cross_entropy(side, targets)
        final = alpha * kd(side, logits, temperature)
        total = total + labels + final + hint * (side_feature - feature).square().sum(1).mean()
    return total


def mutual_feature(side_features: Sequence[Tensor], final_feature: Tensor) -> Tensor:
    """Mutual learning of pooled features: the mean over side features of KL(a || b) + KL(b || a).

    All (B, D); a, b are the softmaxes over the channels of a side and the final feature, T = 1.
    Both sides receive gradient (in published code neither does), and the KL is a true one, >= 0.
    """
    final = checks.floats("final_feature", final_feature, "B", "D")
    checks.sequence("side_features", side_features)
    log_b = final.log_softmax(1)
    total = 0.0
    for i, side in enumerate(side_features):
        log_a = checks.floats(f"side_features[{i}]", side, *final.shape).log_softmax(1)
        # KL(a || b) + KL(b || a), term by term
        total = total + ((log_a.exp() - log_b.exp()) * (log_a - log_b)).sum(1).mean()
    return total / len(side_features)
