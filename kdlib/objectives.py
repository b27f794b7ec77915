"""A student's loss: a weighted sum of named terms, built from the run's `objective`.

A term is made by a registered factory `(context, **options) -> loss`, where `loss(forward)` is a
function or a module (its parameters join the optimiser). To add a KD
method, write one factory here and one row in tests/test_objectives.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdlib import losses, models, seeding
from kdlib.config import Count, Fraction, Positive, Run
from kdlib.registry import LABEL_LOSSES, MODELS, TERMS
from kdlib.types import Forward, View

LABEL = "label"


@dataclass(frozen=True)
class Context:
    """What a term may know when it is built.

    student, teachers: views of a dry forward, for their widths. labels: (n_train,) class of each
    training row. class_counts: (K,) of the training set as really used.
    """

    student: View
    teachers: tuple[View, ...]
    labels: Tensor
    class_counts: Tensor
    seed: int

    @property
    def teacher(self) -> View:
        """The only teacher."""
        (teacher,) = self.teachers
        return teacher


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
    scale: Callable[[Context], float] = lambda context: 1.0,
    check: Callable[..., None] = lambda options, class_counts, mixup: None,
) -> Callable:
    """Register a KD method's term: its default weights, how many teachers it takes, a `scale` of
    the weight that depends on the networks, and a `check` of its options against the data.
    teachers: exactly so many, or None for a term that does not mind."""
    facts = {"weight": weight, "label_weight": label_weight, "teachers": teachers}
    return TERMS.register(name, version, **facts, scale=scale, check=check)


@LABEL_LOSSES.register("ce")
def ce(logits: Tensor, targets: Tensor, class_counts: Tensor) -> Tensor:
    """Cross-entropy."""
    return losses.soft_cross_entropy(logits, targets)


@LABEL_LOSSES.register("cp")
def cp(logits: Tensor, targets: Tensor, class_counts: Tensor, beta: float = 0.1) -> Tensor:
    """Confidence penalty."""
    return losses.confidence_penalty(logits, targets, beta)


LABEL_LOSSES.register("als")(losses.label_aware_smoothing)
LABEL_LOSSES.register("bs")(losses.balanced_softmax)


@term("kd", weight=0.9, label_weight=0.1)
def kd(
    context: Context,
    temperature: Positive = 4.0,
    space: Literal["plain", "adjusted"] = "plain",
    calibrated: bool = False,
) -> Callable:
    """Distillation of tempered probabilities (Hinton et al. 2015).

    space "adjusted": the student's logits are matched with log n_c added, so that a student trained
    with balanced softmax does not take over the prior of its teacher. calibrated: the teacher's
    logits are divided by its fitted temperature first.
    """
    prior = context.class_counts.log() if space == "adjusted" else 0.0

    def loss(forward: Forward) -> Tensor:
        teacher = forward.teacher
        cooled = teacher.logits / teacher.temperature if calibrated else teacher.logits
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
    """AT sums over stages of mean squared differences of unit vectors, each of the order 1 / HW."""
    usual = sum(1 / size**2 for size in (32, 16, 8))
    return usual / sum(1 / maps[0, 0].numel() for maps in context.student.features.values())


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

    def forward(self, forward: Forward) -> Tensor:
        """The loss of a batch; the banks move on."""
        batch = forward.batch
        clock, device = batch.clock, batch.images.device.type
        draws = seeding.generator(self.seed, "negatives", clock.epoch, clock.step, device=device)
        return self.crd(
            forward.student.embedding,
            forward.teacher.embedding,
            batch.rows,
            mix=(batch.mix.permutation, batch.mix.lam) if batch.mix else None,
            generator=draws,
        )


def _label_term(context: Context, loss: str, **options: Any) -> Callable:
    function, counts = LABEL_LOSSES[loss].build, context.class_counts
    return lambda forward: function(forward.student.logits, forward.targets, counts, **options)


def build(run: Run, context: Context) -> nn.ModuleDict:
    """The terms of a run's objective by name, in its order. ValueError names what cannot be."""
    for teacher, view in zip(run.teachers, context.teachers, strict=True):
        ours, theirs = context.student.logits.shape[1], view.logits.shape[1]
        if ours != theirs:
            raise ValueError(f"the student has {ours} classes, its teacher {teacher.id} {theirs}")
    terms = nn.ModuleDict()
    for name, options in run.objective.items():
        options = dict(options)
        weight = options.pop("weight")
        seeding.seed_global(run.seed, f"init {name}")
        if name == LABEL:
            terms[name] = Term(_label_term(context, **options), weight)
            continue
        entry = TERMS[name]
        wanted = entry.facts["teachers"]
        if wanted is not None and wanted != len(run.teachers):
            raise ValueError(f"{name} takes {wanted} teacher(s), got {len(run.teachers)}")
        weight *= entry.facts["scale"](context)
        terms[name] = Term(entry.build(context, **options), weight)
    return terms


def versions(run: Run) -> dict[str, int]:
    """The version of every part that shaped this run, its teachers' included."""
    used = {f"model {run.model}": MODELS[run.model].version}
    for name, options in run.objective.items():
        registry, part = (LABEL_LOSSES, options["loss"]) if name == LABEL else (TERMS, name)
        used[f"{registry.kind} {part}"] = registry[part].version
    for teacher in run.teachers:
        used |= {f"teacher's {part}": version for part, version in versions(teacher).items()}
    return used


@lru_cache
def dry_view(model: str, num_classes: int, in_channels: int, image_size: int) -> View:
    """A view with shapes and no numbers, from a network on the meta device."""
    with torch.device("meta"), torch.no_grad():
        network = models.build(model, num_classes, in_channels, image_size).eval()
        return network(torch.empty(2, in_channels, image_size, image_size))


def check(run: Run, in_channels: int, image_size: int, labels: Tensor, counts: Tensor) -> None:
    """Build a run's objective from views without numbers, so that what is impossible is refused
    before any training: ValueError or LookupError naming the term, model or size."""
    shape = (len(counts), in_channels, image_size)
    for name, options in run.objective.items():
        if name != LABEL:
            TERMS[name].facts["check"](options, counts, run.mixup_alpha > 0)
    if run.recipe and run.recipe.batch_size > len(labels):
        raise ValueError(
            f"batch_size {run.recipe.batch_size} exceeds the {len(labels)} training images"
        )
    label = dict(run.objective.get(LABEL, {"loss": "ce", "weight": 1.0}))
    loss = LABEL_LOSSES[label.pop("loss")].build
    label.pop("weight")
    loss(torch.zeros(2, len(counts)), torch.zeros(2, dtype=torch.int64), counts, **label)
    views = [dry_view(network.model, *shape) for network in (run, *run.teachers)]
    build(run, Context(views[0], tuple(views[1:]), labels, counts, run.seed))
