"""Losses against one teacher: knowledge distillation, attention transfer, relational KD."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.losses import checks


def kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)) (Hinton et al. 2015, sec. 2).

    Both (B, K). T^2 keeps the gradient's size about the same over T.

    >>> kd(torch.zeros(1, 2), torch.tensor([[4.0, 0.0]]), temperature=2.0)
    tensor(1.3113)
    """
    student = checks.floats("student_logits", student_logits, "B", "K")
    teacher = checks.teacher("teacher_logits", teacher_logits, student, *student.shape)
    checks.positive("temperature", temperature)
    log_q, log_p = (student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def kd_probs(student_logits: Tensor, teacher_probs: Tensor, temperature: float) -> Tensor:
    """`kd` against probabilities (B, K) that are already tempered; rows sum to 1, 0 log 0 = 0.

    For targets that are no softmax of logits: a probability mean of teachers, a consensus.
    """
    student = checks.floats("student_logits", student_logits, "B", "K")
    teacher = checks.teacher("teacher_probs", teacher_probs, student, *student.shape)
    checks.positive("temperature", temperature)
    log_q = (student / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(log_q, teacher, reduction="batchmean")


def attention_transfer(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Attention transfer (Zagoruyko & Komodakis 2017, sec. 3.1) over lists of (B, C, H, W).

    A map is the mean over channels of the squares, flattened and L2-normalised; a stage's loss is
    the mean squared difference of the maps over batch and pixels; stages are summed. Channels may
    differ; where H or W differ, the larger feature is average-pooled before it is squared.
    """
    checks.sequence("student_maps", student_maps)
    checks.sequence("teacher_maps", teacher_maps, len(student_maps))
    total = 0.0
    for i, (student, teacher) in enumerate(zip(student_maps, teacher_maps, strict=True)):
        student = checks.floats(f"student_maps[{i}]", student, "B", "C", "H", "W")
        shape = (len(student), "C", "H", "W")
        teacher = checks.teacher(f"teacher_maps[{i}]", teacher, student, *shape)
        size = tuple(map(min, student.shape[2:], teacher.shape[2:]))
        difference = _attention(student, size) - _attention(teacher, size)
        total = total + difference.square().mean()
    return total


def _attention(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, H, W) -> (B, h * w), rows of unit norm."""
    if features.shape[2:] != size:
        features = F.adaptive_avg_pool2d(features, size)
    return F.normalize(features.square().mean(1).flatten(1))


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Distance-wise relational KD (Park et al., CVPR 2019, sec. 3.2.1) of (B, D) embeddings.

    Smooth-L1 (delta 1) over all B^2 pairs of distances, each network's divided by the mean of its
    non-zero ones. Widths may differ; B = 1 gives 0. A row's distance to itself, or to an identical
    row, is exactly 0, has gradient 0 and does not count in the mean; common code clamps squared
    distances at a small epsilon instead.
    """
    student, teacher = _embeddings(student, teacher)
    return F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Angle-wise relational KD (Park et al., CVPR 2019, sec. 3.2.2) of (B, D) embeddings.

    Smooth-L1 (delta 1) over the cosines at j of all B^3 triplets (i, j, k); a triplet with a side
    of length 0 has cosine 0 and gradient 0 (common code divides by an epsilon there). Widths may
    differ; B = 1 gives 0.
    """
    student, teacher = _embeddings(student, teacher)
    return F.smooth_l1_loss(_cosines(student), _cosines(teacher))


def _embeddings(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student = checks.floats("student", student, "B", "D")
    return student, checks.teacher("teacher", teacher, student, len(student), "D")


def _distances(embedding: Tensor) -> Tensor:
    """(B, D) -> (B, B). Without matrix products, which leave noise where a distance is 0."""
    return torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist")


def _relative_distances(embedding: Tensor) -> Tensor:
    distances = _distances(embedding)
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / mean.masked_fill(mean == 0, math.inf)


def _cosines(embedding: Tensor) -> Tensor:
    """(B, D) -> (B, B, B): [i, j, k] = cosine at vertex j of the triangle i, j, k.

    From the three sides (law of cosines): B^3 numbers instead of the B^2 * D of the difference
    vectors, and as accurate, because the sides are exact to rounding.
    """
    sides = _distances(embedding)
    squares = sides.square()
    inverse = sides.masked_fill(sides == 0, math.inf).reciprocal()
    twice = squares[:, :, None] + squares[None] - squares[:, None]
    return twice * inverse[:, :, None] * inverse[None] / 2
