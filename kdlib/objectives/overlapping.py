"""The terms of teachers that each know some of the student's classes."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from kdlib import losses
from kdlib.config import Positive
from kdlib.losses.multi_teacher import RULES, ClassSet, check_owned
from kdlib.objectives.base import Context, term
from kdlib.types import Forward

PUBLISHED = "published"
Rule = Literal[*RULES, PUBLISHED]
LABELLED = (*(name for name, rule in RULES.items() if rule.labelled), PUBLISHED)


def consensus(
    rule: str,
    teacher_logits: Sequence[Tensor],
    class_sets: Sequence[ClassSet],
    num_classes: int,
    labels: Tensor,
    temperature: float,
) -> Tensor:
    """(B, num_classes) targets by any rule of `kdlib.losses.consensus_targets`, or the "published"
    one, whose rows sum to more than 1 where teachers share the true class. labels: (B,), read by
    the rules that need them only."""
    sets = (teacher_logits, class_sets, num_classes)
    if rule == PUBLISHED:
        return losses.published_consensus(*sets, labels, temperature)
    return losses.consensus_targets(*sets, labels if rule in LABELLED else None, temperature, rule)


def _on_device(context: Context) -> list[Tensor]:
    """The class sets as tensors beside the labels: an index from the CPU makes a GPU wait."""
    return [torch.tensor(classes, device=context.labels.device) for classes in context.class_sets]


@term("consensus", 0.9, label_weight=0.1, teachers=None, logits_only=True, partial=True)
class ConsensusTerm(nn.Module):
    """Distillation of one distribution over all classes, put together from the teachers'.

    rule: of `kdlib.losses.consensus_targets`, "published" for the audit. Under mixup a labelled
    rule is mixed as the labels are.
    """

    labels: Tensor

    def __init__(self, context: Context, rule: Rule = "mean", temperature: Positive = 4.0):
        super().__init__()
        self.rule, self.temperature = rule, temperature
        self.class_sets, self.num_classes = _on_device(context), context.student.logits.shape[1]
        if rule in LABELLED:
            check_owned(context.labels, context.class_sets, self.num_classes)
        self.register_buffer("labels", context.labels, persistent=False)

    def forward(self, forward: Forward) -> Tensor:
        """T^2 KL(consensus || student), tempered."""
        batch, mix = forward.batch, forward.batch.mix
        labels = self.labels[batch.rows]
        targets = self._targets(forward, labels)
        if mix is not None and self.rule in LABELLED:
            other = self._targets(forward, labels[mix.permutation])
            targets = mix.lam * targets + (1 - mix.lam) * other
        return losses.kd_probs(forward.student.logits, targets, self.temperature)

    def _targets(self, forward: Forward, labels: Tensor) -> Tensor:
        logits = [view.logits for view in forward.teachers]
        sets = (self.class_sets, self.num_classes)
        return consensus(self.rule, logits, *sets, labels, self.temperature)


@term("restricted_kd", 0.9, label_weight=0.1, teachers=None, logits_only=True, partial=True)
def restricted_kd(context: Context, temperature: Positive = 4.0) -> Callable:
    """Each teacher is matched by the student's distribution among that teacher's classes, on every
    image and without labels (cf. Vongkulbhisal et al., CVPR 2019)."""
    class_sets = _on_device(context)

    def loss(forward: Forward) -> Tensor:
        teachers = [view.logits for view in forward.teachers]
        return losses.restricted_kd(forward.student.logits, teachers, class_sets, temperature)

    return loss
