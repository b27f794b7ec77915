"""Several teachers at once: their logits pooled, their maps as hints, each with a weighting.

A weighting says what each teacher counts: (teachers' logits (M, B, K), labels) -> (M,) or (M, B),
summing to 1 over the teachers. A pool says what of the teachers is averaged with these weights
(`kdlib.losses.multi_teacher.pooled_kd`). A method of the literature is a pool with a weighting, or
a sum of two terms: CAMKD is `multi_kd` + `hints`, see `kdlib.studies.multi_teacher`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib.config import Count, Positive
from kdlib.losses import camkd_weights
from kdlib.losses.label import cross_entropies
from kdlib.losses.multi_teacher import POOLS, confidence, hint, pooled_kd, ranked_weights
from kdlib.models import conv_norm
from kdlib.objectives.base import Context, term
from kdlib.types import Clock, Forward, View

LAST, EMBEDDING = "last", "embedding"
Weigh = Callable[[Tensor, Tensor], Tensor]
Reduction = Literal["sum", "mean"]


def _mean(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.new_full((len(logits),), 1 / len(logits))


def _median(logits: Tensor, targets: Tensor) -> Tensor:
    return ranked_weights(logits, targets, len(logits) // 2)


# By cross-entropy on the training batch: the best, the (upper) median, confidences as in CA-MKD.
WEIGHTINGS: dict[str, Weigh] = {
    "mean": _mean,
    "best": partial(ranked_weights, place=0),
    "median": _median,
    "batch_confidence": partial(camkd_weights, per_sample=False),
    "sample_confidence": camkd_weights,
}
ON_VALIDATION = "val_confidence"
Weighting = Literal[*WEIGHTINGS, ON_VALIDATION]


def weigher(context: Context, name: str) -> Weigh:
    """The rule of that name. `ON_VALIDATION` is `batch_confidence` on the validation images, once
    and for all: what a teacher has learnt by heart gives it no weight there."""
    if name != ON_VALIDATION:
        return WEIGHTINGS[name]
    if context.validation is None:  # nothing to weigh on
        return _mean
    logits, labels = context.validation()
    if not len(labels):
        raise ValueError(f"weighting {ON_VALIDATION!r} needs validation images, got val_fraction 0")
    fixed = camkd_weights(logits.to(context.labels.device), labels.to(context.labels.device), False)
    return lambda logits, targets: fixed


class Weights(nn.Module):
    """What the teachers counted since the last note: the mean over batches and images."""

    total: Tensor
    batches: Tensor

    def __init__(self, teachers: int):
        super().__init__()
        self.register_buffer("total", torch.zeros(teachers))
        self.register_buffer("batches", torch.zeros(()))

    @torch.no_grad()
    def observe(self, weights: Tensor) -> None:
        """Add a batch's weights, (M,) or (M, B)."""
        self.total += weights.detach().reshape(len(weights), -1).mean(1)
        self.batches += 1

    def note(self) -> list[float]:
        """The mean weight of each teacher, and start anew."""
        means = (self.total / self.batches).tolist()
        self.total.zero_()
        self.batches.zero_()
        return means


def _share(reduction: Reduction, teachers: int) -> float:
    """What the weights sum to: published code divides by M once more ("mean")."""
    return 1 / teachers if reduction == "mean" else 1.0


@term("multi_kd", weight=0.7, teachers=None, logits_only=True)
class MultiTeacherKD(nn.Module):
    """Distillation from several teachers at once: what is pooled, and how they are weighted.

    reduction "sum": the weights sum to 1; "mean": to 1 / M, as in CA-MKD's published code.
    """

    def __init__(
        self,
        context: Context,
        temperature: Positive = 4.0,
        pool: Literal[*POOLS] = "logits",
        weighting: Weighting = "mean",
        reduction: Reduction = "sum",
    ):
        super().__init__()
        self.temperature, self.pool = temperature, pool
        self.weigh = weigher(context, weighting)
        self.share = _share(reduction, len(context.teachers))
        self.weights = Weights(len(context.teachers))

    def forward(self, forward: Forward) -> Tensor:
        """The loss of a batch."""
        teachers = torch.stack([view.logits for view in forward.teachers])
        weights = self.weigh(teachers, forward.batch.targets)
        self.weights.observe(weights)
        student = forward.student.logits
        return self.share * pooled_kd(student, teachers, weights, self.temperature, self.pool)

    def note(self) -> dict[str, list[float]]:
        """For the history: what the teachers counted since the last time."""
        return {"teacher_weights": self.weights.note()}


class Regressor(nn.Sequential):
    """A student's map to a teacher's shape: 1x1 convolution where the channels differ, adaptive
    average pooling where the sizes do (it also enlarges, by copies). norm: BatchNorm and ReLU after
    a convolution that is always there, as in CA-MKD."""

    def __init__(self, ours: Tensor, theirs: Tensor, norm: bool):
        before, width = ours.shape[1], theirs.shape[1]
        layers: list[nn.Module] = []
        if norm:
            layers.append(conv_norm(before, width, 1))
        elif before != width:
            layers.append(nn.Conv2d(before, width, 1))
        if ours.shape[2:] != theirs.shape[2:]:
            layers.append(nn.AdaptiveAvgPool2d(tuple(theirs.shape[2:])))
        super().__init__(*layers)


def tap(view: View, stage: str) -> Tensor:
    """(B, C, H, W): the map of a stage by its name, of the "last" one, or the "embedding" as a map
    of one pixel. ValueError for a stage that the network does not have."""
    if stage == EMBEDDING:
        return view.embedding[:, :, None, None]
    stages = list(view.features)
    name = stages[-1] if stage == LAST else stage
    if name not in stages:
        known = ", ".join([*stages, LAST, EMBEDDING])
        raise ValueError(f"hints.stage: no stage {stage!r}, the network has {known}")
    return view.features[name]


@dataclass(frozen=True)
class PooledMap:
    """What pooled hints read of a teacher, small enough to be kept of every training image: the map
    of a stage, average-pooled to at most `size` (H, W). A map that is smaller stays as it is."""

    stage: str
    size: tuple[int, int]

    @property
    def name(self) -> str:
        """Under which a kept map stands among a view's `features`."""
        return f"{self.stage}, at most {self.size[0]}x{self.size[1]}"

    def __call__(self, view: View) -> Tensor:
        """(B, C, h, w), in the dtype of the map."""
        if self.name in view.features:
            return view.features[self.name]
        whole = tap(view, self.stage)
        size = tuple(min(pair) for pair in zip(whole.shape[2:], self.size, strict=True))
        if size == tuple(whole.shape[2:]):
            return whole
        return F.adaptive_avg_pool2d(whole.float(), size).to(whole.dtype)


class Hints(nn.Module):
    """Feature maps of several teachers as hints, through regressors that train with the student.

    read: a teacher's view -> its map (B, C, H, W). weigh None: CA-MKD's weights, by the
    cross-entropy of each teacher's own classifier on the regressed embedding, with its gradient.
    """

    counts: Tensor

    def __init__(
        self,
        context: Context,
        stage: str,
        read: Callable[[View], Tensor],
        weigh: Weigh | None,
        reduction: Reduction,
        norm: bool,
        first_epoch: int,
    ):
        super().__init__()
        self.stage, self.read, self.weigh, self.first_epoch = stage, read, weigh, first_epoch
        self.keeps = (read,) if isinstance(read, PooledMap) else ()
        self.register_buffer("counts", torch.ones(()), persistent=False)
        self.share = _share(reduction, len(context.teachers))
        ours = tap(context.student, stage)
        self.regressors = nn.ModuleList(
            Regressor(ours, read(teacher), norm) for teacher in context.teachers
        )
        self.weights = Weights(len(context.teachers))

    def tick(self, clock: Clock) -> None:
        """Whether the loss counts in this epoch."""
        self.counts.fill_(clock.epoch + 1 >= self.first_epoch)

    def forward(self, forward: Forward) -> Tensor:
        """The loss of a batch, 0 before its first epoch."""
        ours = tap(forward.student, self.stage).float()
        mapped = [regressor(ours) for regressor in self.regressors]
        weights = self._confidence(forward, mapped) if self.weigh is None else self._given(forward)
        self.weights.observe(weights)
        loss = hint(mapped, [self.read(view) for view in forward.teachers], weights)
        return self.share * loss * self.counts

    def _given(self, forward: Forward) -> Tensor:
        teachers = torch.stack([view.logits for view in forward.teachers])
        return self.weigh(teachers, forward.batch.targets)

    def _confidence(self, forward: Forward, mapped: list[Tensor]) -> Tensor:
        losses = [
            cross_entropies(view.classify(one.flatten(1)).log_softmax(1), forward.batch.targets)
            for view, one in zip(forward.teachers, mapped, strict=True)
        ]
        return confidence(torch.stack(losses))

    def note(self) -> dict[str, list[float]]:
        """For the history: what the teachers counted since the last time."""
        return {"teacher_weights": self.weights.note()}


@term("hints", weight=100.0, teachers=None)
def hints(
    context: Context,
    stage: str = LAST,
    weighting: Weighting | Literal["feature_confidence"] = "batch_confidence",
    reduction: Reduction = "mean",
    norm: bool = False,
    first_epoch: Count = 1,
) -> Hints:
    """Hints from the teachers' maps as they are, so from live teachers.

    stage: whose map, of student and teachers alike: a stage's name, "last" or "embedding".
    weighting: as for `multi_kd`, or "feature_confidence", CA-MKD's (stage "embedding").
    reduction: as for `multi_kd`; the published weight of 100 goes with "mean". first_epoch: the
    loss counts from this epoch on, 1 is the first.
    """
    if weighting == "feature_confidence" and stage != EMBEDDING:
        raise ValueError(
            f"hints: weighting {weighting!r} reads the teachers' classifiers, so stage must be "
            f"{EMBEDDING!r}, got {stage!r}"
        )
    weigh = None if weighting == "feature_confidence" else weigher(context, weighting)
    return Hints(context, stage, partial(tap, stage=stage), weigh, reduction, norm, first_epoch)


@term("pooled_hints", weight=100.0, teachers=None, keeps_maps=True)
def pooled_hints(
    context: Context,
    stage: str = LAST,
    weighting: Weighting = "batch_confidence",
    reduction: Reduction = "mean",
    norm: bool = False,
    first_epoch: Count = 1,
) -> Hints:
    """Hints from the teachers' maps pooled to the student's size, where they are larger: another
    loss than that of `hints` wherever one is, and one whose maps may be computed once.

    Options as for `hints`. All maps of the training images take n_train * C * h * w numbers a
    teacher (`PooledMap`), 2 bytes each in bf16.
    """
    if stage == EMBEDDING:
        raise ValueError(f"pooled_hints.stage: {EMBEDDING!r} is no map to be pooled, use `hints`")
    read = PooledMap(stage, tuple(tap(context.student, stage).shape[2:]))
    weigh = weigher(context, weighting)
    return Hints(context, stage, read, weigh, reduction, norm, first_epoch)
