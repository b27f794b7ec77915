"""A network as its own teacher: side heads (BYOT, DMFL) and its own past (PS-KD)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib import losses
from kdlib.config import Count, NonNegative, Positive, Share
from kdlib.objectives.base import Context, term
from kdlib.registry import TARGETS
from kdlib.types import Batch, Clock, Forward, View


def _from_first(heads: Sequence[str], options: Mapping[str, Any]) -> Sequence[str]:
    return list(heads)[options["first_head"] - 1 :]


@term("byot", weight=1.0, teachers=0, side_heads=True, taught_heads=_from_first)
def byot(
    context: Context,
    temperature: Positive = 3.0,
    alpha: Share = 0.1,
    hint: NonNegative = 1.28e-4,
    first_head: Count = 1,
) -> Callable:
    """Be your own teacher: side heads learn from the targets and from the final head (Zhang et al.
    2019). first_head: the heads from this one on take part, 1 is the shallowest. Published code
    counts the final head's cross-entropy twice: `label_weight: 1.9`."""
    heads = _from_first(context.student.side_logits, {"first_head": first_head})
    if not heads:
        known = list(context.student.side_logits)
        raise ValueError(f"byot: first_head {first_head}, but the side heads are {known}")

    def loss(forward: Forward) -> Tensor:
        student = forward.student
        return losses.byot(
            student.logits,
            [student.side_logits[head] for head in heads],
            student.embedding,
            [student.side_features[head] for head in heads],
            forward.targets,
            temperature,
            alpha,
            hint,
        )

    return loss


@term("dmfl", weight=1.0, teachers=0, side_heads=True)
def dmfl(context: Context) -> Callable:
    """Mutual learning of the pooled features of the side heads and the final one."""
    return lambda forward: losses.mutual_feature(
        list(forward.student.side_features.values()), forward.student.embedding
    )


@TARGETS.register("pskd")
class ProgressiveTargets(nn.Module):
    """Progressive self-distillation (Kim et al., ICCV 2021): the targets of the label terms move
    from the labels towards what the student itself said of each image one epoch ago.

    alpha: the share of the past in the last epoch; it grows linearly from alpha / epochs. An image
    that an epoch left out keeps its older memory. Under mixup the memory is of single images: one
    more forward in eval mode, so that BatchNorm's statistics do not move twice, and the targets
    are mixed as the images are.
    """

    memory: Tensor
    share: Tensor

    def __init__(self, context: Context, alpha: Share = 0.8):
        super().__init__()
        self.alpha = alpha
        classes = len(context.class_counts)
        self.register_buffer("memory", F.one_hot(context.labels, classes).float())
        self.register_buffer("share", torch.zeros(()), persistent=False)

    def tick(self, clock: Clock) -> None:
        """The share of the past in this epoch."""
        self.share.fill_(self.alpha * (clock.epoch + 1) / clock.epochs)

    def forward(self, batch: Batch) -> Tensor:
        """(B, K) targets."""
        memory, mix, targets = self.memory[batch.rows], batch.mix, batch.targets
        if mix is None:
            targets = F.one_hot(targets, memory.shape[1])
        else:
            memory = mix.lam * memory + (1 - mix.lam) * memory[mix.permutation]
        return losses.pskd_targets(targets, memory, self.share)

    @torch.no_grad()
    def observe(self, batch: Batch, network: nn.Module, view: View) -> None:
        """Remember what the network says of the batch now, before its weights move."""
        if batch.unmixed is not None:
            view = network.eval()(batch.unmixed)
            network.train()
        self.memory[batch.rows] = view.logits.float().softmax(1)
