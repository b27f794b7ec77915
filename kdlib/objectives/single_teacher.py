"""The label losses, and the terms of one teacher: KD, RKD, AT, CRD."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdlib import losses, seeding
from kdlib.config import Count, Fraction, Positive
from kdlib.objectives.base import Context, term
from kdlib.registry import LABEL_LOSSES
from kdlib.types import Clock, Forward


@LABEL_LOSSES.register("ce")
def ce(logits: Tensor, targets: Tensor, class_counts: Tensor) -> Tensor:
    """Cross-entropy."""
    return losses.soft_cross_entropy(logits, targets)


@LABEL_LOSSES.register("cp")
def cp(logits: Tensor, targets: Tensor, class_counts: Tensor, beta: float = 0.1) -> Tensor:
    """Confidence penalty."""
    return losses.confidence_penalty(logits, targets, beta)


LABEL_LOSSES.register("als")(losses.label_aware_smoothing)
LABEL_LOSSES.register("bs", holds_prior=True)(losses.balanced_softmax)


@term("kd", weight=0.9, label_weight=0.1, logits_only=True)
def kd(
    context: Context,
    temperature: Positive = 4.0,
    space: Literal["plain", "adjusted"] = "plain",
    calibrated: bool = False,
) -> Callable:
    """Distillation of tempered probabilities (Hinton et al. 2015).

    space "adjusted": the student's logits are matched with log n_c added, so that a student trained
    with balanced softmax does not take over the prior of its teacher. calibrated: the teacher's
    logits are divided by its fitted temperature first; ValueError where there are no validation
    images to fit one on. Where the fit ended at its bound there is none, and the row is flagged.
    """
    if calibrated and context.validation and not len(context.validation()[1]):
        raise ValueError("kd: calibrated takes a temperature fitted on validation: val_fraction 0")
    prior = context.class_counts.log() if space == "adjusted" else 0.0

    def loss(forward: Forward) -> Tensor:
        teacher = forward.teacher
        fitted = teacher.temperature if calibrated else None
        cooled = teacher.logits if fitted is None else teacher.logits / fitted
        return losses.kd(forward.student.logits + prior, cooled, temperature)

    return loss


@term("rkd", weight=1.0)
def rkd(context: Context, distance: float = 25.0, angle: float = 50.0) -> Callable:
    """Relations between the embeddings of a batch (Park et al. 2019)."""

    def loss(forward: Forward) -> Tensor:
        student, teacher = forward.student.embedding, forward.teacher.embedding
        return distance * losses.rkd_distance(student, teacher) + angle * losses.rkd_angle(
            student, teacher
        )

    return loss


def _map_scale(context: Context) -> float:
    """AT sums over stages of mean squared differences of unit vectors, each of the order 1 / HW of
    the smaller map."""
    usual = sum(1 / size**2 for size in (32, 16, 8))
    theirs = context.teacher.features
    compared = [
        math.prod(map(min, maps.shape[2:], theirs.get(name, maps).shape[2:]))
        for name, maps in context.student.features.items()
    ]
    return usual / sum(1 / pixels for pixels in compared)


@term("at", weight=1000.0, scale=_map_scale)
def at(context: Context) -> Callable:
    """Attention transfer over the stages both networks have (Zagoruyko & Komodakis 2017)."""
    ours, theirs = list(context.student.features), list(context.teacher.features)
    if ours != theirs:
        raise ValueError(f"at pairs stages by name: the student has {ours}, the teacher {theirs}")
    return lambda forward: losses.attention_transfer(
        list(forward.student.features.values()), list(forward.teacher.features.values())
    )


def _check_negatives(options: Mapping[str, Any], class_counts: Tensor, mixup: bool) -> None:
    counts = sorted(class_counts.tolist(), reverse=True)
    pool = sum(counts) - sum(counts[: 2 if mixup else 1])
    if options["negatives"] > pool:
        excluded = "two largest classes (mixup)" if mixup else "largest class"
        raise ValueError(
            f"crd: {options['negatives']} negatives an anchor, but only {pool} training images "
            f"are left without the {excluded}; set options.crd.negatives to {pool} or less"
        )


@term("crd", weight=0.8, check=_check_negatives)
class ContrastiveTerm(nn.Module):
    """Contrastive representation distillation with memory banks (Tian et al. 2020)."""

    def __init__(
        self,
        context: Context,
        negatives: Count = 2048,
        feature_dim: Count = 128,
        temperature: Positive = 0.07,
        momentum: Fraction = 0.5,
    ):
        super().__init__()
        self.seed = context.seed
        self.generator = torch.Generator(context.labels.device)
        self.crd = losses.CRD(
            context.student.embedding.shape[1],
            context.teacher.embedding.shape[1],
            num_train=len(context.labels),
            feature_dim=feature_dim,
            num_negatives=negatives,
            temperature=temperature,
            momentum=momentum,
            labels=context.labels,
        )

    def tick(self, clock: Clock) -> None:
        """Seed the negatives of a step."""
        self.generator.manual_seed(seeding.derive(self.seed, "negatives", clock.epoch, clock.step))

    def settle(self) -> None:
        """Move the banks on."""
        self.crd.settle()

    def forward(self, forward: Forward) -> Tensor:
        """The loss of a batch."""
        batch = forward.batch
        return self.crd(
            forward.student.embedding,
            forward.teacher.embedding,
            batch.rows,
            mix=(batch.mix.permutation, batch.mix.lam) if batch.mix else None,
            generator=self.generator,
            later=True,
        )
