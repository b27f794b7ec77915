"""A run's objective tried before any training, on made-up numbers of the right shapes."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib import models
from kdlib.augment import mixup
from kdlib.config import Run
from kdlib.data import ImageSet
from kdlib.notices import warn_once
from kdlib.objectives.assemble import (
    build,
    build_targets,
    caches,
    class_sets,
    explained,
    needs_side_heads,
)
from kdlib.objectives.base import LABEL, Context, Term, hook
from kdlib.registry import LABEL_LOSSES, MODELS, TARGETS, TERMS
from kdlib.types import Batch, Clock, Forward, Mix, View

IMAGES = 16  # of the made-up batch, at most


def dry_view(
    model: str, num_classes: int, in_channels: int, image_size: int, side_heads: bool = False
) -> View:
    """A view with shapes and no numbers, from a network on the meta device."""
    shape = (num_classes, in_channels, image_size, side_heads)
    return _dry_view(MODELS[model].build, model, *shape)


@lru_cache
def _dry_view(
    build: Callable,  # of the model: a plugin may bring another one under its name
    model: str,
    num_classes: int,
    in_channels: int,
    image_size: int,
    side_heads: bool,
) -> View:
    what = f"model {model!r} on {in_channels} x {image_size} x {image_size} pixels"
    try:
        with torch.device("meta"), torch.no_grad():
            network = models.build(model, num_classes, in_channels, image_size, side_heads).eval()
            view = network(torch.empty(2, in_channels, image_size, image_size))
    except (LookupError, TypeError, ValueError):
        raise
    except Exception as error:  # of a plugin: whatever it is
        raise ValueError(f"{what}: {type(error).__name__}: {error}") from error
    if not isinstance(view.logits, Tensor):
        got = type(view.logits).__name__
        raise ValueError(f"{what} must return logits or a kdlib.types.View, not a {got}")
    return view


def check(run: Run, record: ImageSet, labels: Tensor, counts: Tensor) -> None:
    """Build a run's objective from made-up views, and compute its terms once on a made-up batch, so
    that what is impossible or fails is refused before any training: ValueError or
    LookupError naming the term, model or size."""
    for name, options in run.objective.items():
        if name != LABEL:
            TERMS[name].facts.check(options, counts, run.mixup_alpha > 0)
    if run.recipe and run.recipe.batch_size > len(labels):
        factor = run.imbalance_factor
        tail = f" and a long tail of factor {factor:g}" * bool(factor)
        raise ValueError(
            f"batch_size {run.recipe.batch_size} exceeds the {len(labels)} training images that "
            f"validation{tail} leave of {len(record.train_labels)}"
        )
    if 0 in record.std:
        place = record.std.index(0)
        raise ValueError(f"{run.data}: channel {place} of the training images has one value alone")
    channels, size, sets = record.in_channels, record.image_size, class_sets(run, record.classes)
    own_size = run.input_size(size)
    own = dry_view(run.model, len(counts), channels, own_size, needs_side_heads(run))
    if own.logits.shape != (2, len(counts)):
        raise ValueError(
            f"model {run.model!r} gives logits of shape {tuple(own.logits.shape)} for 2 images, "
            f"needs (2, {len(counts)})"
        )
    views = [
        dry_view(teacher.model, len(known), channels, teacher.input_size(size))
        for teacher, known in zip(run.teachers, sets, strict=True)
    ]
    dry = _Dry(run, own, views, record, labels)
    context = Context(
        dry.student()[0], dry.teachers, labels, counts, run.seed, sets, dry.validation()
    )
    dry.context = context
    terms, source = build(run, context), build_targets(run, context)
    if run.kind != "trained":
        return
    for name, term in terms.items():
        dry.compute(name, term, source, [*terms.values()])


class _Dry:
    """Made-up numbers with the shapes and dtypes that a run's batches and views have."""

    def __init__(
        self, run: Run, own: View, views: Sequence[View], record: ImageSet, labels: Tensor
    ):
        self.run, self.own, self.record = run, own, record
        self.drawn = torch.Generator().manual_seed(0)  # one, for no two views are alike
        size = run.recipe.batch_size if run.recipe else IMAGES
        count = min(IMAGES, size, len(labels))
        self.rows = torch.linspace(0, len(labels) - 1, count).long()  # of all classes
        self.labels = labels[self.rows]
        self.dtype = torch.bfloat16 if run.precision == "bf16" else torch.float32
        self.teachers = tuple(self._numbers(view)[0] for view in views)
        self.context: Context | None = None

    def student(self) -> tuple[View, list[Tensor]]:
        """A view of the student, and the tensors of it that may have a gradient."""
        return self._numbers(self.own, gradient=True)

    def validation(self) -> Callable[[], tuple[Tensor, Tensor]] | None:
        """As `Context.validation`; no images where a run keeps none."""
        logits = [view.logits.float() for view in self.teachers]
        if len({one.shape for one in logits}) != 1:
            return None
        count = 0 if self.run.val_fraction == 0 else len(self.rows)
        return lambda: (torch.stack(logits)[:, :count], self.labels[:count])

    def compute(
        self, name: str, term: Term, source: Callable[[Batch], Tensor] | None, terms: list[Term]
    ) -> None:
        """ValueError where a term's loss fails, forward or backward, is not one number, or teaches
        the student nothing, neither in the first epoch nor in the last."""
        run, kind = self.run, f"{TERMS.kind} {name!r}"
        if name == LABEL:
            kind = f"{LABEL_LOSSES.kind} {run.objective[LABEL]['loss']!r}"
        what = self._tried(kind)
        teachers = self._cached(terms) if caches(run) else self.teachers
        for epoch in dict.fromkeys([0, run.recipe.epochs - 1]):
            view, leaves = self.student()
            batch = self._batch(epoch)
            for part in (term.loss, source):
                hook(part, "tick", batch.clock)
            targets = self._targets(batch, source)
            before = _unsaved(term)
            try:
                loss = term.loss(Forward(batch, targets, view, teachers))
                taught = _has_gradient(loss, leaves)
            except Exception as error:  # as above
                raise ValueError(f"{what}: {self._explained(error)}") from error
            if not isinstance(loss, Tensor) or loss.shape != ():
                shape = getattr(loss, "shape", None)
                got = type(loss).__name__ if shape is None else f"shape {tuple(shape)}"
                raise ValueError(f"{what}, must give their mean loss, a () tensor; got {got}")
            if strangers := _weights(loss) - {id(one) for one in (*leaves, *term.parameters())}:
                raise ValueError(
                    f"{what}, has {len(strangers)} weights that nothing trains: give an nn.Module "
                    "that holds them, as a class or returned by the function"
                )
            after = _unsaved(term)
            if moved := [one for one in after if before.get(one) != after[one]]:
                warn_once(
                    f"{kind} changes its {', '.join(sorted(moved))} in a step: no buffer, so a "
                    "resumed run begins it anew (`register_buffer` keeps it)"
                )
            if taught or not term.weight:
                return
        raise ValueError(f"{what}, has no gradient in what the student shows")

    def _explained(self, error: Exception) -> str:
        return explained(error, self.run, self.context)

    def _tried(self, kind: str) -> str:
        images = "mixed images" if self.run.mixup_alpha else "images"
        return f"{kind}, tried on {len(self.rows)} {images}"

    def _targets(self, batch: Batch, source: Callable[[Batch], Tensor] | None) -> Tensor:
        if source is None:
            return batch.targets
        what = self._tried(f"{TARGETS.kind} {next(iter(self.run.targets))!r}")
        try:
            targets = source(batch)
            source.observe(batch, _Shown(self), self.student()[0])
        except Exception as error:  # as above
            raise ValueError(f"{what}: {self._explained(error)}") from error
        shape, needed = tuple(targets.shape), (len(self.rows), self.own.logits.shape[1])
        if shape not in (needed, needed[:1]):
            raise ValueError(f"{what}, gives targets of shape {shape}, needs {needed}")
        return targets

    def _batch(self, epoch: int) -> Batch:
        record, rows, targets = self.record, self.rows, self.labels
        images = torch.zeros(len(rows), record.in_channels, record.image_size, record.image_size)
        clock = Clock(epoch, self.run.recipe.epochs, 0)
        if not self.run.mixup_alpha:
            return Batch(images, targets, rows, clock)
        mix = Mix(torch.arange(len(rows)).flip(0), torch.tensor(0.7))
        mixed = mixup(F.one_hot(targets, record.num_classes).float(), mix)
        return Batch(images, mixed, rows, clock, mix, images)

    def _cached(self, terms: list[Term]) -> tuple[View, ...]:
        """What `kdlib.teachers.CachedTeachers` shows of the teachers."""
        keeps = [keep for term in terms for keep in hook(term.loss, "keeps") or ()]
        return tuple(
            View(view.logits, features={keep.name: keep(view) for keep in keeps})
            for view in self.teachers
        )

    def _numbers(self, view: View, gradient: bool = False) -> tuple[View, list[Tensor]]:
        """A view with the shapes of a dry one, and the tensors it is made of."""
        drawn, leaves = self.drawn, []

        def draw(like: Tensor | None) -> Tensor | None:
            if like is None:
                return None
            numbers = torch.rand(len(self.rows), *like.shape[1:], generator=drawn)
            leaves.append(numbers.to(self.dtype).requires_grad_(gradient))
            return leaves[-1].clone()  # in which a loss may write

        def draw_all(parts: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: draw(part) for name, part in parts.items()}

        head = None
        if view.classify and view.embedding is not None:
            weight = torch.rand(view.logits.shape[1], view.embedding.shape[1], generator=drawn)
            head = partial(F.linear, weight=weight)
        numbers = View(
            draw(view.logits), draw(view.embedding), draw_all(view.features),
            draw_all(view.side_logits), draw_all(view.side_features), head,
        )  # fmt: skip
        return numbers, leaves


class _Shown(nn.Module):
    """In the student's place, for a target source that asks it once more."""

    def __init__(self, dry: _Dry):
        super().__init__()
        self.dry = dry

    def forward(self, images: Tensor) -> View:
        return self.dry.student()[0]


def _unsaved(term: nn.Module) -> dict[str, str]:
    """The numbers that a term and its modules hold beside parameters and buffers, in words; of a
    tensor two sums."""

    def told(value: Any) -> str:
        if not isinstance(value, Tensor):
            return str(value)
        numbers = value.detach().double()
        return f"{tuple(value.shape)} {numbers.sum()} {numbers.square().sum()}"

    return {
        f"{where}.{name}".removeprefix("loss.").lstrip("."): told(value)
        for where, module in term.named_modules()
        for name, value in vars(module).items()
        if not name.startswith("_") and isinstance(value, bool | int | float | Tensor | list | dict)
    }


def _weights(loss: Tensor) -> set[int]:
    """The ids of the leaves of a loss that have a gradient."""
    found, waiting, seen = set(), [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [after for after, _ in node.next_functions]
    return found


def _has_gradient(loss: Any, leaves: Sequence[Tensor]) -> bool:
    if not isinstance(loss, Tensor) or loss.shape != () or not loss.requires_grad:
        return False
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return any(part is not None for part in found)
