"""Measures of accuracy, calibration, selective prediction and fidelity, in float64.

Arguments are numpy arrays, tensors (any dtype and device) or lists; scores are plain floats, as
fractions unless the name's docstring says otherwise. `probs` (N, K) are probabilities and `labels`
(N,) class indices; nothing is guessed: logits go through `softmax` first. `weights` (N,) turn means
over images into weighted means, see `class_weights`.

Every function raises a ValueError that names the argument and the offending value: empty arrays,
shapes that disagree, NaN, probabilities outside [0, 1], rows that do not sum to 1 within 1e-3,
labels outside 0..K-1, negative weights; a TypeError for what is no number or no class index.
"""

from kdlib.metrics.calibration import (
    ReliabilityBins,
    adaptive_ece,
    classwise_ece,
    ece,
    ece_floor,
    reliability_bins,
    smooth_ece,
)
from kdlib.metrics.fidelity import (
    centroid_fidelity,
    fidelity_scores,
    individual_fidelity,
    jensen_shannon,
    pairwise_diversity,
    teacher_diversity,
    top1_agreement,
)
from kdlib.metrics.imbalance import class_weights, frequency_groups
from kdlib.metrics.posthoc import (
    TAU_BOUNDS,
    TEMPERATURE_BOUNDS,
    adjusted_softmax,
    fit_logit_adjustment,
    fit_temperature,
    softmax,
)
from kdlib.metrics.scores import accuracy, brier, harmonic_score, nll, topk_error
from kdlib.metrics.selective import aurc, e_aurc, risk_coverage

__all__ = [
    "TAU_BOUNDS",
    "TEMPERATURE_BOUNDS",
    "ReliabilityBins",
    "accuracy",
    "adaptive_ece",
    "adjusted_softmax",
    "aurc",
    "brier",
    "centroid_fidelity",
    "class_weights",
    "classwise_ece",
    "e_aurc",
    "ece",
    "ece_floor",
    "fidelity_scores",
    "fit_logit_adjustment",
    "fit_temperature",
    "frequency_groups",
    "harmonic_score",
    "individual_fidelity",
    "jensen_shannon",
    "nll",
    "pairwise_diversity",
    "reliability_bins",
    "risk_coverage",
    "smooth_ece",
    "softmax",
    "teacher_diversity",
    "top1_agreement",
    "topk_error",
]
