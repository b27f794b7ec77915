"""Losses: pure functions of tensors, each with its paper; only `CRD` keeps a state.

Everywhere: B is the batch, K the number of classes. `targets` are class indices (B,) or
probabilities (B, K), treated as data. `class_counts` is a (K,) list, array or tensor, every entry
>= 1. A loss is a () tensor, the mean over the batch, in natural logarithms, computed in the input's
dtype, bf16 and fp16 raised to float32. Arguments named after a teacher are detached.

Errors: TypeError for what is no tensor or number of the right kind, ValueError for a shape or a
parameter that does not fit; both name the argument and show what was given. Values of tensors are
not checked (a class index outside 0..K-1 is torch's own error), but for consensus targets.
"""

from kdlib.losses.crd import CRD
from kdlib.losses.distill import attention_transfer, kd, kd_probs, rkd_angle, rkd_distance
from kdlib.losses.label import (
    balanced_softmax,
    confidence_penalty,
    label_aware_smoothing,
    soft_cross_entropy,
)
from kdlib.losses.multi_teacher import (
    camkd_weights,
    consensus_targets,
    published_consensus,
    restricted_kd,
)
from kdlib.losses.self_distillation import byot, mutual_feature, pskd_targets

__all__ = [
    "CRD",
    "attention_transfer",
    "balanced_softmax",
    "byot",
    "camkd_weights",
    "confidence_penalty",
    "consensus_targets",
    "kd",
    "kd_probs",
    "label_aware_smoothing",
    "mutual_feature",
    "pskd_targets",
    "published_consensus",
    "restricted_kd",
    "rkd_angle",
    "rkd_distance",
    "soft_cross_entropy",
]
