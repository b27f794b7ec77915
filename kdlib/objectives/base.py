"""What a term is: its context, its weight, its entry in the registry."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdlib.registry import TERMS
from kdlib.types import Forward, View

LABEL = "label"


@dataclass(frozen=True)
class Context:
    """What a term may know when it is built.

    student, teachers: views of a dry forward, for their widths. labels: (n_train,) class of each
    training row. class_counts: (K,) of the training set as really used. class_sets: for each
    teacher, the student's classes that its logits stand for, in their order. validation: gives the
    teachers' logits (M, N, K) on the validation images and their labels (N,), computed when first
    asked for; None where nothing is trained with them.
    """

    student: View
    teachers: tuple[View, ...]
    labels: Tensor
    class_counts: Tensor
    seed: int
    class_sets: tuple[tuple[int, ...], ...] = ()
    validation: Callable[[], tuple[Tensor, Tensor]] | None = None

    @property
    def teacher(self) -> View:
        """The only teacher."""
        (teacher,) = self.teachers
        return teacher


def hook(part: Any, name: str, *arguments: Any) -> Any:
    """What a loss or target source has beside its call (`kdlib.objectives` lists it): the answer of
    a method, or an attribute; None where it has none of that name."""
    found = getattr(part, name, None)
    return found(*arguments) if callable(found) else found


class Term(nn.Module):
    """One named term: its weight in the sum and its loss, `Forward` -> () tensor."""

    def __init__(self, loss: Callable[[Forward], Tensor], weight: float):
        super().__init__()
        self.loss = loss
        self.weight = weight

    def forward(self, forward: Forward) -> Tensor:
        """The weighted loss."""
        return self.weight * self.loss(forward)


def term(
    name: str,
    weight: float,
    label_weight: float = 1.0,
    teachers: int | None = 1,
    version: int = 1,
    logits_only: bool = False,
    keeps_maps: bool = False,
    side_heads: bool = False,
    taught_heads: Callable[..., Sequence[str]] = lambda heads, options: (),
    partial: bool = False,
    scale: Callable[[Context], float] = lambda context: 1.0,
    check: Callable[..., None] = lambda options, class_counts, mixup: None,
) -> Callable:
    """Register a KD method's term: its default weights, what it reads, a `scale` of the weight that
    depends on the networks, and a `check` of its options against the data.

    teachers: how many it takes, None for any number from one, 0 for a term that reads none.
    logits_only: of the teachers it reads nothing else, so they may be cached. keeps_maps: nothing
    but logits and what the `keeps` of its module (hashable, with a `name`) make of a view, so that
    may be cached, too. side_heads: it needs the student's. taught_heads: those of them, given their
    names and the term's options, that it teaches to classify. partial: its teachers may know some
    of the student's classes only.
    """
    return TERMS.register(
        name, version, weight=weight, label_weight=label_weight, teachers=teachers,
        logits_only=logits_only, keeps_maps=keeps_maps, side_heads=side_heads,
        taught_heads=taught_heads, partial=partial, scale=scale, check=check,
    )  # fmt: skip
