"""The records that travel between the rooms. Tensor shapes are documented here, once.

B is the batch size, K the number of classes, C, H, W the shape of an image or a map, D the width of
an embedding. All records are frozen: a room hands on a new record, it never edits one it was given.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Clock:
    """Where training stands: `epoch` in 0..epochs-1, `step` in 0..steps_per_epoch-1."""

    epoch: int
    epochs: int
    step: int


class Draw(NamedTuple):
    """What was drawn for a batch before its step, all of it on the device.

    rows: (B,) int64, as in `Batch`. offsets: (B, 2) int64, top and left of each crop. flips: (B,)
    bool. partners, lam: of its `Mix`, None without one.
    """

    rows: Tensor
    offsets: Tensor
    flips: Tensor
    partners: Tensor | None
    lam: Tensor | None
    clock: Clock | None


@dataclass(frozen=True)
class Mix:
    """A mixup of a batch with its own permutation: lam * x + (1 - lam) * x[permutation].

    permutation: (B,) int64. lam: () float tensor in [0, 1], one for the batch.
    """

    permutation: Tensor
    lam: Tensor


@dataclass(frozen=True)
class Batch:
    """What every network of a cohort sees in one step.

    images: (B, C, H, W) float in [0, 1], augmented and mixed, not normalised: each network owns
        its preprocessing.
    targets: (B,) int64 class indices, or (B, K) probabilities when the batch was mixed.
    rows: (B,) int64 positions 0..n_train-1 in the training set used, never positions in the
        original data set.
    clock: None in a step that a GPU will replay (`kdlib.train.graphs`); what depends on it belongs
        into a term's `tick`.
    mix, unmixed: how the batch was mixed and the images before that, None where it was not.
    """

    images: Tensor
    targets: Tensor
    rows: Tensor
    clock: Clock | None
    mix: Mix | None = None
    unmixed: Tensor | None = None


@dataclass(frozen=True)
class View:
    """What one network shows of one batch.

    logits: (B, K). embedding: (B, D), the input of the classifier, None where no more was
    kept than `kdlib.teachers.CachedTeachers` does. features: stage name -> (B, C, H, W), in order
    from input to output, or what was kept. side_logits, side_features: stage name -> (B, K)
    and (B, D) of the side heads, empty without them. classify: the head, (B, D) -> (B, K).
    temperature: what validation fitted to divide the logits by, None where nothing was fitted.
    """

    logits: Tensor
    embedding: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)
    side_logits: dict[str, Tensor] = field(default_factory=dict)
    side_features: dict[str, Tensor] = field(default_factory=dict)
    classify: Callable[[Tensor], Tensor] | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class Forward:
    """All that a term of a student's objective may read.

    targets: what the label terms read: the batch's targets, or a softened version of them, (B,) or
    (B, K). teachers: one view a teacher, without gradient.
    """

    batch: Batch
    targets: Tensor
    student: View
    teachers: tuple[View, ...] = ()

    @property
    def teacher(self) -> View:
        """The view of the only teacher; ValueError where there is none or more than one."""
        if len(self.teachers) != 1:
            raise ValueError(f"this term takes exactly one teacher, got {len(self.teachers)}")
        return self.teachers[0]
