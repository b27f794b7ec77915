"""The one training loop. It knows no method: a run's objective does."""

import contextlib
import functools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from kdlib import objectives
from kdlib.augment import Stream
from kdlib.config import Run
from kdlib.data import ImageSet, Selection
from kdlib.registry import OPTIMIZERS
from kdlib.teachers import CachedTeachers, FrozenTeachers
from kdlib.train.graphs import WARM_STEPS, Gpu, Replayed, check_replay
from kdlib.train.networks import build_network, predict
from kdlib.train.recipes import learning_rate
from kdlib.train.student import Progress, Student, Trained, restore, save
from kdlib.types import Batch, Draw

VERSION = 1  # of the loop, the stream and the recipe: raise it when a change moves numbers
PROBED_BATCHES = 5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

log = logging.getLogger("kdlib")
Keep = Callable[[Run, Progress], None]


def probed_steps(epochs: int, steps: int) -> int:
    """How many steps of a training of `epochs` of so many steps also measure how strongly the other
    terms pull: the first of the first and of the last epoch."""
    return min(epochs, 2) * min(PROBED_BATCHES, steps)


def with_unprobed(run: Run) -> Run:
    """The run, with an epoch that is neither its first nor its last, in which nothing is probed: to
    be timed."""
    recipe = run.recipe.model_copy(update={"epochs": max(3, run.recipe.epochs)})
    return run.model_copy(update={"recipe": recipe})


@contextlib.contextmanager
def kept_threads(count: int) -> Iterator[None]:
    """So many threads inside, as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit(
    runs: Sequence[Run],
    record: ImageSet,
    selection: Selection,
    teachers: Sequence[nn.Module] = (),
    device: str = "cpu",
    threads: int = 1,
    resume: Sequence[Progress] = (),
    keep: Keep | None = None,
    keep_seconds: float = 0.0,
    cuda_graphs: bool = False,
) -> list[Trained]:
    """Train a cohort: runs of one stream (same data, seed, recipe, teachers), each with its own
    model and objective. `teachers` are the trained networks of the runs' teachers, in their order.

    resume: where each run stands, all after the same epoch; it ends as if it had never been
    interrupted. keep: called with each run and its progress at the end of an epoch, at most every
    `keep_seconds`. cuda_graphs: the GPU replays the step (`kdlib.train.graphs`).

    Returns one `Trained` a run, in order; a run whose loss stopped being finite says so in
    `failure`, the others are not touched by it. ValueError when the runs do not share a stream, or
    share the gradient scaling of fp16: one student's overflow would be everyone's.
    """
    if len({run.stream for run in runs}) != 1:
        raise ValueError(f"a cohort shares one stream, these do not: {[run.id for run in runs]}")
    if runs[0].precision == "fp16" and len(runs) > 1:
        raise ValueError(f"precision fp16 trains one student at a time, got {len(runs)}")
    if len({progress.facts["epoch"] for progress in resume}) > 1:
        raise ValueError("resume: the runs of a cohort must stand after the same epoch")
    with kept_threads(threads):
        cohort = Cohort(runs, record, selection, teachers, device, cuda_graphs)
        if resume:
            cohort.restore(resume)
        cohort.train(keep, keep_seconds)
        return cohort.finish()


class Cohort:
    """Students side by side: one stream of batches, one teacher forward, one backward, one step."""

    def __init__(
        self,
        runs: Sequence[Run],
        record: ImageSet,
        selection: Selection,
        teachers: Sequence[nn.Module],
        device: str,
        cuda_graphs: bool = False,
    ):
        first, indices = runs[0], selection.train_indices
        self.recipe, self.epoch, self.started, self.before = (
            first.recipe,
            0,
            time.perf_counter(),
            0.0,
        )
        labels = torch.from_numpy(record.train_labels[indices])
        images = torch.from_numpy(record.train_images[indices])
        held_out = selection.val_indices
        self.val_images = torch.from_numpy(record.train_images[held_out]).to(device)
        self.val_labels = torch.from_numpy(record.train_labels[held_out])
        counts = torch.as_tensor(selection.class_counts, device=device)
        self.stream = Stream(
            images, labels, record.num_classes, first.recipe.batch_size, first.seed, first.augment,
            first.mixup_alpha, device,
        )  # fmt: skip
        precision = DTYPES[first.precision]
        self.autocast = torch.autocast(device, precision, enabled=first.precision != "fp32")
        self.scaler = torch.amp.GradScaler(device, enabled=first.precision == "fp16")
        self.live = FrozenTeachers(teachers, device)
        validation = functools.cache(self._validation)
        self.students = _students(
            runs, record, self.stream.labels, counts, self.live, device, validation
        )
        caching = [student for student in self.students if student.views == "cached"]
        if caching:
            keeps = dict.fromkeys(one for student in caching for one in student.keeps)
            with self.autocast:
                self.cached = CachedTeachers(self.live, images, keeps)
        weights = [one for student in self.students for one in student.parameters()]
        # A tensor, for a replayed step to read: fused CUDA kernels take floats, on a CPU doubles.
        width = torch.float64 if device == "cpu" else torch.float32
        self.lr = torch.zeros((), dtype=width, device=device)
        optimizer = OPTIMIZERS[self.recipe.optimizer].build
        self.optimizer = optimizer(self.recipe, weights, self.lr, cuda_graphs)
        self.replayed = self._replayed(record, device) if cuda_graphs else None

    @property
    def lead(self) -> int:
        """Steps that take longer than those after them: of a graph's warm-up and capture."""
        return WARM_STEPS + 1 if self.replayed else 0

    def _replayed(self, record: ImageSet, device: str) -> Replayed:
        for student in self.students:
            check_replay(student.trained.run, record, device)
        drawn = [one for student in self.students for one in student.generators()]
        return Replayed(self._step, self._storage, drawn, Gpu())

    def _storage(self) -> dict[str, int]:
        """Where in memory lies what a step changes, by name."""
        return {
            f"{student.trained.run.id}, {part}.{name}": tensor.data_ptr()
            for student in self.students
            for part, module in student.modules().items()
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        }

    def _validation(self) -> tuple[Tensor, Tensor]:
        """The teachers' logits on the validation images (M, N, K), and the labels (N,)."""
        logits = [predict(network, self.val_images) for network in self.live.networks]
        return torch.stack(logits), self.val_labels

    def train(self, keep: Keep | None = None, keep_seconds: float = 0.0) -> None:
        """The epochs that are left."""
        kept = time.perf_counter()
        while self.epoch < self.recipe.epochs:
            for draw in self.stream.draws(self.epoch, self.recipe.epochs):
                self.step(draw)
            self.epoch += 1
            self._end_epoch()
            if keep and time.perf_counter() - kept >= keep_seconds:
                for student, progress in zip(self.students, self.progress(), strict=True):
                    keep(student.trained.run, progress)
                kept = time.perf_counter()

    def step(self, draw: Draw) -> None:
        """One step of every student."""
        clock = draw.clock
        self.lr.fill_(learning_rate(self.recipe, clock.epoch + clock.step / self.stream.steps))
        if self.replayed:  # its batch has no clock
            for student in self.students:
                student.tick(clock)
        probed = clock.step < PROBED_BATCHES and clock.epoch in (0, self.recipe.epochs - 1)
        (self.replayed or self._step)(draw, probed)

    def _step(self, draw: Draw, probed: bool) -> None:
        """All of a step that happens on the device."""
        batch = self.stream.batch(draw)
        with self.autocast:
            views = {None: ()}
            for kind in {student.views for student in self.students} - {None}:
                views[kind] = self.live(batch) if kind == "live" else self.cached(batch)
        loss = sum(
            student.loss(batch, views[student.views], self.autocast) for student in self.students
        )
        if probed:
            for student in self.students:
                student.probe()
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for student in self.students:
            student.settle()

    def _end_epoch(self) -> None:
        epoch, recipe = self.epoch, self.recipe
        look = epoch % recipe.eval_every == 0 or epoch == recipe.epochs
        for student in self.students:
            means = student.end_epoch(epoch, self.stream.steps)
            if look:
                student.look(epoch, means, self.val_images, self.val_labels)
        if look:
            histories = [one.trained.history for one in self.students if one.trained.history]
            accuracies = [past[-1].get("val_acc", math.nan) for past in histories] or [math.nan]
            log.info(
                "epoch %d/%d  %d network(s)  validation accuracy %.3f to %.3f",
                epoch, recipe.epochs, len(self.students), min(accuracies), max(accuracies),
            )  # fmt: skip

    def progress(self) -> list[Progress]:
        """Where each student stands, to be stored between two epochs."""
        kept = []
        for student in self.students:
            one = save(student, self.optimizer, self.epoch, self._seconds())
            kept.append(Progress(one.tensors, one.facts | {"scaler": self.scaler.state_dict()}))
        return kept

    def restore(self, resume: Sequence[Progress]) -> None:
        """Go on from there."""
        for student, progress in zip(self.students, resume, strict=True):
            restore(student, self.optimizer, progress)
        if self.replayed:
            self.replayed.reset()
        self.scaler.load_state_dict(resume[0].facts["scaler"])
        self.epoch = resume[0].facts["epoch"]
        self.before = max(progress.facts["seconds"] for progress in resume)

    def finish(self) -> list[Trained]:
        """The trained networks in eval mode and the plain memory format: one that is read from a
        checkpoint has it, and each format rounds its way."""
        self.replayed = None  # its memory would wait for the garbage collector
        for student in self.students:
            student.trained.network.eval().to(memory_format=torch.contiguous_format)
            student.trained.seconds = self._seconds()
        return [student.trained for student in self.students]

    def _seconds(self) -> float:
        return self.before + (time.perf_counter() - self.started) / len(self.students)


def _students(
    runs: Sequence[Run], record: ImageSet, labels: Tensor, counts: Tensor, live: FrozenTeachers,
    device: str, validation: Callable[[], tuple[Tensor, Tensor]] | None = None,
) -> list[Student]:  # fmt: skip
    size, channels = record.image_size, record.in_channels
    blank = torch.zeros(2, channels, size, size, device=device)
    rows = torch.zeros(2, dtype=torch.int64, device=device)
    views = live(Batch(blank, rows, rows, clock=None))
    students = []
    for run in runs:
        network = build_network(run, record).to(device, memory_format=torch.channels_last)
        with torch.no_grad():
            own = network.eval()(blank)
        sets = objectives.class_sets(run, record.classes)
        context = objectives.Context(own, views, labels, counts, run.seed, sets, validation)
        students.append(Student(run, network.train(), context, device, objectives.caches(run)))
    return students
