"""Losses against several teachers: weights, consensus targets, partly overlapping class sets."""

from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from kdlib.losses import checks
from kdlib.losses.distill import kd, kd_probs
from kdlib.losses.label import cross_entropies
from kdlib.registry import suggest

ClassSet = Sequence[int] | Tensor  # a teacher's classes, in the order of its logits


def camkd_weights(teacher_logits: Tensor, targets: Tensor, per_sample: bool = True) -> Tensor:
    """Weights of M teachers by their cross-entropy (CA-MKD, Zhang et al., ICASSP 2022, sec. 2.1).

    (1 - softmax over the teachers of CE) / (M - 1), without gradient: they sum to 1, and the better
    teacher weighs more. teacher_logits (M, B, K) -> (M, B), or (M,) from the batch means where
    `per_sample` is false. One teacher weighs 1.

    >>> camkd_weights(torch.tensor([[[3.0, 0.0]], [[0.0, 3.0]]]), torch.tensor([0]))
    tensor([[0.9526],
            [0.0474]])
    """
    logits = checks.floats("teacher_logits", teacher_logits, "M", "B", "K").detach()
    targets = checks.labels(targets, logits)
    losses = torch.stack(
        [cross_entropies(log_probs, targets) for log_probs in logits.log_softmax(2)]
    )
    return confidence(losses if per_sample else losses.mean(1))


def confidence(losses: Tensor) -> Tensor:
    """Losses of M teachers, (M, ...), to weights over them: (1 - softmax) / (M - 1), ones for one
    teacher (CA-MKD, eq. 3). The gradient passes: CA-MKD's feature weights have one."""
    if len(losses) == 1:
        return torch.ones_like(losses)
    return (1 - losses.softmax(0)) / (len(losses) - 1)


def ranked_weights(teacher_logits: Tensor, targets: Tensor, place: int) -> Tensor:
    """(M,), 1 for one teacher and 0 for the others, without gradient: the one at `place` when the
    teachers are sorted by the batch mean of their cross-entropy, 0 the best.

    teacher_logits: (M, B, K); place: 0..M-1.

    >>> ranked_weights(torch.tensor([[[3.0, 0.0]], [[0.0, 3.0]]]), torch.tensor([0]), place=0)
    tensor([1., 0.])
    """
    logits = checks.floats("teacher_logits", teacher_logits, "M", "B", "K").detach()
    if not 0 <= place < len(logits):
        raise ValueError(f"place must be in 0..{len(logits) - 1}, got {place}")
    targets = checks.labels(targets, logits)
    losses = torch.stack([cross_entropies(one.log_softmax(1), targets).mean() for one in logits])
    # Compared, not indexed with a number: that would stall a GPU.
    order = losses.argsort(stable=True)
    return (torch.arange(len(logits), device=logits.device) == order[place]).to(logits.dtype)


POOLS = ("logits", "probs", "losses")


def pooled_kd(
    student_logits: Tensor,
    teachers_logits: Tensor,
    weights: Tensor,
    temperature: float,
    pool: str = "logits",
) -> Tensor:
    """`kd` from M weighted teachers: T^2 times the batch mean of a KL to the student.

    student_logits (B, K), teachers_logits (M, B, K), weights (M, B) or (M,) that sum to 1 over the
    teachers. pool says what is averaged: "logits", one teacher whose logits are the weighted mean
    (the normalised geometric mean of their distributions); "probs", their tempered probabilities;
    "losses", their KLs to the student, as CA-MKD does (Zhang et al., ICASSP 2022, eq. 4). "losses"
    exceeds "probs" by what the teachers disagree, so the student's gradient is the same.
    """
    if pool not in POOLS:
        raise LookupError(f"unknown pool {pool!r}, {suggest(pool, POOLS)}")
    student = checks.floats("student_logits", student_logits, "B", "K")
    teachers = checks.teacher("teachers_logits", teachers_logits, student, "M", *student.shape)
    weights = _over_batch(weights, teachers)
    if pool == "logits":
        return kd(student, torch.einsum("mb,mbk->bk", weights, teachers), temperature)
    checks.positive("temperature", temperature)
    log_probs = (teachers / temperature).log_softmax(2)
    if pool == "probs":
        pooled = torch.einsum("mb,mbk->bk", weights, log_probs.exp())
        return kd_probs(student, pooled, temperature)
    gap = log_probs - (student / temperature).log_softmax(1)
    divergence = (log_probs.exp() * gap).sum(2)
    return temperature**2 * (weights * divergence).sum(0).mean()


def hint(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Weighted squared distance of feature maps: sum over the M teachers of w_i MSE_i, batch mean.

    Lists of M maps (B, C_i, H_i, W_i) of equal shapes in pairs, the student's already mapped to
    each teacher's shape; an MSE is the mean over C, H and W. weights: (M, B) or (M,).
    """
    checks.sequence("teacher_maps", teacher_maps)
    checks.sequence("student_maps", student_maps, len(teacher_maps))
    distances = []
    for i, (student, teacher) in enumerate(zip(student_maps, teacher_maps, strict=True)):
        student = checks.floats(f"student_maps[{i}]", student, "B", "C", "H", "W")
        teacher = checks.teacher(f"teacher_maps[{i}]", teacher, student, *student.shape)
        distances.append((student - teacher).square().mean((1, 2, 3)))
    stacked = torch.stack(distances)
    return (_over_batch(weights, stacked) * stacked).sum(0).mean()


def _over_batch(weights: Tensor, like: Tensor) -> Tensor:
    """(M,) or (M, B) weights as (M, B), in the dtype of `like` (M, B, ...)."""
    teachers, batch = like.shape[:2]
    weights = checks.floats("weights", weights, teachers, *[batch] * (weights.ndim - 1))
    weights = weights[:, None] if weights.ndim == 1 else weights
    return weights.to(like.dtype).expand(teachers, batch)


class Rule(NamedTuple):
    """labelled: only teachers that own the true class speak. confident: they weigh by their largest
    probability at T = 1. per_class: a class is averaged over those of them that own it."""

    labelled: bool
    confident: bool
    per_class: bool


RULES = {
    "mean": Rule(labelled=True, confident=False, per_class=False),
    "per_class": Rule(labelled=True, confident=False, per_class=True),
    "confidence": Rule(labelled=True, confident=True, per_class=False),
    "label_free": Rule(labelled=False, confident=False, per_class=True),
    "confidence_free": Rule(labelled=False, confident=True, per_class=True),
}


def consensus_targets(
    teacher_logits: Sequence[Tensor],
    class_sets: Sequence[ClassSet],
    num_classes: int,
    labels: Tensor | None = None,
    temperature: float = 1.0,
    rule: str | None = None,
) -> Tensor:
    """One distribution over the union of classes from teachers that each know some of them.

    teacher_logits: a list of (B, K_i), column j of teacher i is class class_sets[i][j] of
    0..num_classes-1. The result is (B, num_classes), without gradient; every row sums to 1.

    With labels (B,), the teachers that own the true class speak: "mean" (default), their mean;
    "per_class", each class averaged over those that own it, renormalised; "confidence", their mean
    weighted by each one's largest probability at T = 1. Without labels all speak: "label_free"
    (default), each class averaged over its owners, renormalised (disjoint teachers thus get equal
    shares); "confidence_free", the same with p_i weighted by its largest probability at T = 1.

    Values are checked, which stalls a GPU: logits that are not finite, labels out of range or
    owned by no teacher, and classes repeated or out of range are ValueErrors; an unknown rule is a
    LookupError, a rule that does not fit the presence of labels a ValueError. Where the class sets
    are int64 tensors on the logits' device, no value is looked at.

    >>> teachers = [torch.zeros(1, 2), torch.zeros(1, 2)]
    >>> consensus_targets(teachers, [[0, 1], [1, 2]], 3, labels=torch.tensor([1]))
    tensor([[0.2500, 0.5000, 0.2500]])
    """
    if rule is None:
        rule = "label_free" if labels is None else "mean"
    if rule not in RULES:
        raise LookupError(f"unknown rule {rule!r}, {suggest(rule, RULES)}")
    if RULES[rule].labelled != (labels is not None):
        need = "needs labels, got None" if labels is None else "takes no labels, got some"
        raise ValueError(f"rule {rule!r} {need}")
    pooled = _pool(teacher_logits, class_sets, num_classes, labels, temperature, RULES[rule])
    return pooled / pooled.sum(1, keepdim=True)


def published_consensus(
    teacher_logits: Sequence[Tensor],
    class_sets: Sequence[ClassSet],
    num_classes: int,
    labels: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """The rule of published code, for the audit: "per_class" without the renormalisation.

    Where teachers share the true class a row sums to more than 1, up to the number of its owners.
    """
    return _pool(teacher_logits, class_sets, num_classes, labels, temperature, RULES["per_class"])


@torch.no_grad()
def _pool(
    teacher_logits: Sequence[Tensor],
    class_sets: Sequence[ClassSet],
    num_classes: int,
    labels: Tensor | None,
    temperature: float,
    rule: Rule,
) -> Tensor:
    """(B, num_classes): sums over the speaking teachers, or means over the owners of each class."""
    checks.count("num_classes", num_classes)
    checks.positive("temperature", temperature)
    teachers = _restricted(teacher_logits, class_sets, num_classes)
    if rule.labelled:
        labels = checks.integers("labels", labels, len(teachers[0]))
    if not isinstance(class_sets[0], Tensor):
        _check_values(teachers, class_sets, num_classes, labels)
    total = teachers[0].new_zeros(len(teachers[0]), num_classes)
    owners = torch.zeros_like(total)
    for logits, classes in zip(teachers, class_sets, strict=True):
        speaks, index = torch.ones_like(logits[:, :1]), _index(classes, total.device)
        if rule.labelled:
            speaks = logits.new_zeros(num_classes).index_fill(0, index, 1.0)[labels][:, None]
        weight = speaks * logits.softmax(1).amax(1, keepdim=True) if rule.confident else speaks
        total[:, index] += weight * (logits / temperature).softmax(1)
        owners[:, index] += speaks
    return total / owners.clamp(min=1) if rule.per_class else total


def _index(classes: ClassSet, device: torch.device) -> Tensor:
    fixed = isinstance(classes, Tensor)
    return classes if fixed else torch.tensor(list(classes), device=device)


def _check_values(
    teachers: Sequence[Tensor],
    class_sets: Sequence[Sequence[int]],
    num_classes: int,
    labels: Tensor | None,
) -> None:
    for i, logits in enumerate(teachers):
        if not logits.isfinite().all():
            wrong = logits[~logits.isfinite()][0]
            raise ValueError(f"teacher_logits[{i}] must be finite, got {wrong}")
    if labels is not None:
        check_owned(labels, class_sets, num_classes)


def _restricted(
    teacher_logits: Sequence[Tensor], class_sets: Sequence[ClassSet], num_classes: int
) -> list[Tensor]:
    """The teachers' checked logits, (B, K_i) for a set of K_i classes each, checked if a list."""
    checks.sequence("teacher_logits", teacher_logits)
    checks.sequence("class_sets", class_sets, len(teacher_logits))
    teachers: list[Tensor] = []
    for i, (logits, classes) in enumerate(zip(teacher_logits, class_sets, strict=True)):
        if not isinstance(classes, Tensor):
            checks.sequence(f"class_sets[{i}]", classes)
            known = all(isinstance(c, Integral) and 0 <= c < num_classes for c in classes)
            if not known or len(set(classes)) < len(classes):
                expected = f"distinct classes in 0..{num_classes - 1}"
                raise ValueError(f"class_sets[{i}] must hold {expected}, got {classes}")
        batch = len(teachers[0]) if teachers else "B"
        teachers.append(checks.floats(f"teacher_logits[{i}]", logits, batch, len(classes)))
    return teachers


def check_owned(labels: Tensor, class_sets: Sequence[Sequence[int]], classes: int) -> None:
    """ValueError for a label that none of the class sets has."""
    stray = sorted(set(labels.tolist()) - {c for owned in class_sets for c in owned})
    if stray:
        known = f"classes in 0..{classes - 1} that a teacher owns"
        raise ValueError(f"labels must be {known}, got {stray[0]}")


def restricted_kd(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    class_sets: Sequence[ClassSet],
    temperature: float,
) -> Tensor:
    """T^2 * mean over teachers of KL(teacher i || student among the classes of teacher i).

    student_logits: (B, K). teacher_logits: a list of (B, K_i), columns as in class_sets[i]. Label
    free, and silent about classes a teacher has not seen (cf. Vongkulbhisal et al., CVPR 2019).
    """
    student = checks.floats("student_logits", student_logits, "B", "K")
    teachers = _restricted(teacher_logits, class_sets, student.shape[1])
    losses = [
        kd(student[:, _index(classes, student.device)], logits, temperature)
        for logits, classes in zip(teachers, class_sets, strict=True)
    ]
    return torch.stack(losses).mean()
