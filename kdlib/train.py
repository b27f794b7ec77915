"""The one training loop. It knows no method: a run's objective does.

`fit` trains a cohort, several students that share the data stream and the teachers: one teacher
forward, one summed backward, one optimiser step. A student of a cohort ends as it would alone.
"""

import contextlib
import copy
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdlib import metrics, models, objectives, seeding
from kdlib.augment import Stream
from kdlib.config import Recipe, Run
from kdlib.data import ImageSet, Selection
from kdlib.teachers import FrozenTeachers
from kdlib.types import Batch, Forward, View

VERSION = 1  # of the loop, the stream and the recipe: raise it when a change moves numbers
PROBED_BATCHES = 5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

log = logging.getLogger("kdlib")


@dataclass
class Trained:
    """What came of a run.

    network: at the last epoch, eval mode. selected: the state dict of the epoch with the best
    class-balanced validation accuracy, number `selected_epoch` (1-based, as in history). history:
    one entry an evaluated epoch. kd_share: ||gradient of the weighted non-label terms|| /
    ||gradient of the weighted label loss||, mean of the first batches of the first and the last
    epoch (None where there is no other term or no label loss). weights: of each term as used.
    failure: None, or what went wrong.
    """

    run: Run
    network: nn.Module
    selected: dict[str, Tensor] = field(default_factory=dict)
    selected_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    kd_share: dict[str, float | None] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    failure: str | None = None


def build_network(run: Run, record: ImageSet) -> nn.Module:
    """A run's network with its initial weights, a function of (seed, model), and its preprocessing:
    the set's own statistics."""
    seeding.seed_global(run.seed, f"init {run.model}")
    network = models.build(**network_shape(run, record))
    size = network.preprocess.image_size
    network.preprocess = models.Preprocess(record.mean, record.std, size)
    return network


def network_shape(run: Run, record: ImageSet) -> dict[str, Any]:
    """The arguments of `models.build` that make a run's network again."""
    own = run.given.preprocess if run.given else None
    return {
        "name": run.model,
        "num_classes": record.num_classes,
        "in_channels": record.in_channels,
        "image_size": (own and own.image_size) or record.image_size,
    }


@torch.no_grad()
def predict(network: nn.Module, images: np.ndarray | Tensor, batch_size: int = 500) -> Tensor:
    """Logits (N, K) float32 on the CPU for uint8 images (N, H, W, C), in eval mode."""
    device = next(network.parameters()).device
    training, logits = network.training, []
    network.eval()
    for chunk in torch.as_tensor(images).split(batch_size):
        inputs = chunk.to(device).permute(0, 3, 1, 2).float() / 255
        logits.append(network(inputs).logits.float().cpu())
    network.train(training)
    return torch.cat(logits)


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """The rate at a point of training; `epoch` counts finished epochs, fractions included.

    >>> recipe = Recipe(epochs=10, warmup_epochs=2, lr=0.1)
    >>> [round(learning_rate(recipe, epoch), 3) for epoch in (0, 1, 2, 6, 10)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """
    if recipe.schedule == "step":
        return recipe.lr * recipe.gamma ** sum(epoch >= at for at in recipe.milestones)
    warmup = min(recipe.warmup_epochs, recipe.epochs / 2)
    if epoch < warmup:
        return recipe.lr * epoch / warmup
    done = (epoch - warmup) / (recipe.epochs - warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))


class _Student:
    """A network, its objective, and what is known of it so far."""

    def __init__(self, run: Run, network: nn.Module, context: objectives.Context, device: str):
        self.terms = objectives.build(run, context).to(device)
        self.trained = Trained(run, network)
        self.trained.weights = {name: term.weight for name, term in self.terms.items()}
        self.network = torch.compile(network) if run.compile else network
        self.losses: dict[str, Tensor] = {}
        self.totals: dict[str, Tensor] = {}
        self.shares: list[Tensor] = []

    def parameters(self) -> list[nn.Parameter]:
        return [*self.trained.network.parameters(), *self.terms.parameters()]

    def loss(self, batch: Batch, shared: tuple[View, ...], autocast: Any) -> Tensor:
        """The objective on one batch; its parts stay in `losses`."""
        clock = batch.clock
        seeding.seed_global(self.trained.run.seed, "dropout", clock.epoch, clock.step)
        with autocast:
            view = self.network(batch.images)
        forward = Forward(batch, batch.targets, view, shared)
        self.losses = {name: term(forward) for name, term in self.terms.items()}
        for name, value in self.losses.items():
            self.totals[name] = self.totals.get(name, 0) + value.detach()
        return sum(self.losses.values())

    def probe(self) -> None:
        """Note how strongly the other terms pull on the network, compared with the label loss."""
        label = self.losses[objectives.LABEL]
        others = [loss for name, loss in self.losses.items() if name != objectives.LABEL]
        if others:
            weights = list(self.trained.network.parameters())
            pull, label_pull = (
                torch.autograd.grad(part, weights, retain_graph=True, allow_unused=True)
                for part in (sum(others), label)
            )
            self.shares.append(_norm(pull) / _norm(label_pull))

    def end_epoch(self, epoch: int, steps: int) -> dict[str, float]:
        """The epoch's mean of each term; one that is not finite is noted as the run's failure."""
        means = {name: total.item() / steps for name, total in self.totals.items()}
        self.totals = {}
        broken = [name for name, mean in means.items() if not math.isfinite(mean)]
        if broken and not self.trained.failure:
            self.trained.failure = f"{', '.join(broken)} was not finite in epoch {epoch}"
        if self.shares:
            moment = "first" if epoch == 1 else "last"
            share = torch.stack(self.shares).mean().item()
            label_weight = self.trained.weights[objectives.LABEL]
            self.trained.kd_share[moment] = share if label_weight else None
            self.shares = []
        return means

    def look(self, epoch: int, means: dict[str, float], images: Tensor, labels: Tensor) -> None:
        """Evaluate on validation and keep the best epoch's weights."""
        trained, entry = self.trained, {"epoch": epoch, "train": means}
        if trained.failure:
            return
        if len(labels):
            logits = predict(trained.network, images)
            if not logits.isfinite().all():
                trained.failure = f"validation logits were not finite in epoch {epoch}"
                return
            probs = metrics.softmax(logits)
            weights = metrics.class_weights(labels, probs.shape[1])
            entry["val_acc"] = metrics.accuracy(probs, labels, weights=weights)
            entry["val_nll"] = metrics.nll(probs, labels, weights=weights)
        best = max((past.get("val_acc", 0.0) for past in trained.history), default=-1.0)
        if entry.get("val_acc", 0.0) > best or not len(labels):
            trained.selected = copy.deepcopy(trained.network.state_dict())
            trained.selected_epoch = epoch
        trained.history.append(entry)


def _norm(gradients: Sequence[Tensor | None]) -> Tensor:
    return torch.stack([part.norm() for part in gradients if part is not None]).norm()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    common = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, **common)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(parameters, momentum=recipe.momentum, nesterov=nesterov, **common)


def _students(
    runs: Sequence[Run], record: ImageSet, labels: Tensor, counts: Tensor, shared: Any, device: str
) -> list[_Student]:
    size, channels = record.image_size, record.in_channels
    blank = torch.zeros(2, channels, size, size, device=device)
    rows = torch.zeros(2, dtype=torch.int64, device=device)
    views = shared(Batch(blank, rows, rows, clock=None))
    students = []
    for run in runs:
        network = build_network(run, record).to(device, memory_format=torch.channels_last)
        with torch.no_grad():
            own = network.eval()(blank)
        context = objectives.Context(own, views, labels, counts, run.seed)
        students.append(_Student(run, network.train(), context, device))
    return students


def fit(
    runs: Sequence[Run],
    record: ImageSet,
    selection: Selection,
    teachers: Sequence[nn.Module] = (),
    device: str = "cpu",
    threads: int = 1,
) -> list[Trained]:
    """Train a cohort: runs of one stream (same data, seed, recipe, teachers), each with its own
    model and objective. `teachers` are the trained networks of the runs' teachers, in their order.

    Returns one `Trained` a run, in order; a run whose loss stopped being finite says so in
    `failure`, the others are not touched by it. ValueError when the runs do not share a stream, or
    share the gradient scaling of fp16: one student's overflow would be everyone's.
    """
    if len({run.stream for run in runs}) != 1:
        raise ValueError(f"a cohort shares one stream, these do not: {[run.id for run in runs]}")
    if runs[0].precision == "fp16" and len(runs) > 1:
        raise ValueError(f"precision fp16 trains one student at a time, got {len(runs)}")
    with _threads(threads):
        return _fit(runs, record, selection, FrozenTeachers(teachers, device), device)


def _fit(
    runs: Sequence[Run], record: ImageSet, selection: Selection, shared: Any, device: str
) -> list[Trained]:
    first, started = runs[0], time.perf_counter()
    recipe, indices = first.recipe, selection.train_indices
    labels = torch.from_numpy(record.train_labels[indices])
    images = torch.from_numpy(record.train_images[indices])
    val_images = torch.from_numpy(record.train_images[selection.val_indices]).to(device)
    val_labels = torch.from_numpy(record.train_labels[selection.val_indices])
    counts = torch.as_tensor(selection.class_counts, device=device)
    stream = Stream(
        images, labels, record.num_classes, recipe.batch_size, first.seed, first.augment,
        first.mixup_alpha, device,
    )  # fmt: skip
    students = _students(runs, record, stream.labels, counts, shared, device)
    optimizer = _optimizer(recipe, [one for student in students for one in student.parameters()])
    autocast = torch.autocast(device, DTYPES[first.precision], enabled=first.precision != "fp32")
    scaler = torch.amp.GradScaler(device, enabled=first.precision == "fp16")
    for epoch in range(recipe.epochs):
        for batch in stream.epoch(epoch, recipe.epochs):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, epoch + batch.clock.step / stream.steps)
            with autocast:
                views = shared(batch)
            loss = sum(student.loss(batch, views, autocast) for student in students)
            if batch.clock.step < PROBED_BATCHES and epoch in (0, recipe.epochs - 1):
                for student in students:
                    student.probe()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        _end_epoch(students, epoch + 1, recipe, stream.steps, val_images, val_labels)
    for student in students:
        # The plain memory format: a network read from a checkpoint has it, and each rounds its way.
        student.trained.network.eval().to(memory_format=torch.contiguous_format)
        student.trained.seconds = (time.perf_counter() - started) / len(students)
    return [student.trained for student in students]


def _end_epoch(
    students: list[_Student], epoch: int, recipe: Recipe, steps: int, images: Tensor, labels: Tensor
) -> None:
    look = epoch % recipe.eval_every == 0 or epoch == recipe.epochs
    for student in students:
        means = student.end_epoch(epoch, steps)
        if look:
            student.look(epoch, means, images, labels)
    if look:
        histories = [student.trained.history for student in students if student.trained.history]
        accuracies = [history[-1].get("val_acc", math.nan) for history in histories] or [math.nan]
        log.info(
            "epoch %d/%d  %d network(s)  validation accuracy %.3f to %.3f",
            epoch, recipe.epochs, len(students), min(accuracies), max(accuracies),
        )  # fmt: skip
