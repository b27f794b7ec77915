"""What a run of each kind costs on this machine: seconds and megabytes, from a few real steps.

A kind is what decides the time of a step: data, networks, the terms of the objective, batch size,
precision. One run of each kind takes a few steps. Kinds of the same networks and data share a
process, as many of these at once as jobs will run, so that cores and memory are shared as they will
be. What a job costs beside its runs is measured by executing a notebook.
"""

import functools
import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdlib import evaluate, objectives, runnb, train
from kdlib.config import Run, StudyParams, load_plugins
from kdlib.data import Selection
from kdlib.pipeline import Lab
from kdlib.plan import ROOT
from kdlib.provenance import peak_memory_mb
from kdlib.stand_ins import data_of
from kdlib.types import Batch, View

Kind = tuple[Any, ...]
Asked = tuple[Run, StudyParams]

WINDOW, BRIEF = 0.15, 0.05  # seconds a measurement lasts, if one call is not longer
IMAGES = 500  # that a measured prediction is made of
CACHED = 2000  # training images whose teachers' logits are cached in a measurement
GROWTH = 3.3  # bytes that a cohort takes for each byte of its images (benchmarks.growth)
# What every process would import first, imported once.
PRELOAD = [
    "kdlib.costs",
    "kdlib.report",
    "relplot",
    "sklearn.datasets",
    "sklearn.model_selection",
]


@dataclass(frozen=True)
class Cost:
    """Seconds of one run of a kind, and megabytes: `own` of each run of a cohort, `shared` by all.

    setup: once a run. step, probed: a step of the student, the second where the pull of KD is
    measured too. look: a pass over validation. end: predictions and metrics. Of a cohort: common,
    once; batch, making one and the teachers' forward of it, once a step.
    """

    setup: float
    step: float
    probed: float
    look: float
    end: float
    common: float
    batch: float
    shared: float
    own: float
    steps_an_epoch: int

    def alone(self, run: Run) -> float:
        """Seconds of a run's own work."""
        recipe = run.recipe
        steps = recipe.epochs * self.steps_an_epoch
        probed = train.probed_steps(recipe.epochs, self.steps_an_epoch)
        looks = -(-recipe.epochs // recipe.eval_every)
        training = self.setup + probed * self.probed + (steps - probed) * self.step
        return training + looks * self.look + self.end

    def together(self, run: Run) -> float:
        """Seconds of what its cohort does once."""
        return self.common + run.recipe.epochs * self.steps_an_epoch * self.batch

    def slowed(self, factor: float) -> "Cost":
        """The same where every second takes `factor` seconds."""
        fixed = ("shared", "own", "steps_an_epoch")
        times = {name: value for name, value in vars(self).items() if name not in fixed}
        return replace(self, **{name: factor * value for name, value in times.items()})


def kind(run: Run) -> Kind:
    """What decides the time of a step: networks and data first (`PLACE`), then the terms."""
    return (
        run.data, run.image_size, run.network_size, run.imbalance_factor, len(run.classes or ()),
        run.model, tuple(teacher.model for teacher in run.teachers), run.recipe.batch_size,
        run.precision, run.compile,
        tuple(run.objective), tuple(run.targets), bool(run.mixup_alpha),
    )  # fmt: skip


PLACE = slice(0, 10)


def measure(
    kinds: Mapping[Kind, Asked], cores: int, *, crowded: bool = True
) -> tuple[dict[Kind, Cost], float]:
    """The cost of each kind, of which one run and its params are given, and the seconds a job takes
    beside its runs; `cores` measurements at once. crowded: slowed down by what else runs here now;
    else what it costs where a job has its core to itself.

    UnknownSetError or OSError where its data are neither here nor of a known shape
    (`kdlib.stand_ins.measurable`), BrokenProcessPool where the system killed a process (out of
    memory?).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    places: dict[Kind, dict[Kind, Asked]] = defaultdict(dict)
    for name, asked in kinds.items():
        places[name[PLACE]][name] = asked

    def alone(call: Callable, *arguments: Any) -> Any:  # max_tasks_per_child=1 may hang: gh-115634
        with ProcessPoolExecutor(1, context) as process:
            return process.submit(call, *arguments).result()

    with ThreadPoolExecutor(cores) as threads:
        start = threads.submit(alone, job_start)
        found = list(threads.map(functools.partial(alone, _costs), places.values()))
    return _together(found, crowded), start.result()


def _together(
    found: Sequence[tuple[dict[Kind, Cost], tuple[float, float]]], crowded: bool
) -> dict[Kind, Cost]:
    """What the processes found, slowed down by how long they waited for a core, or not."""
    passed, counted = (sum(times[i] for _, times in found) for i in (0, 1))
    slower = passed / counted if crowded and counted else 1.0
    return {name: cost.slowed(slower) for part, _ in found for name, cost in part.items()}


def _clock(device: str) -> Callable[[], float]:
    """What a measurement counts: on a CPU the time that the process had one, for neighbours disturb
    short measurements; how much they slow everything down is told by a long one."""
    return time.perf_counter if device == "cuda" else time.process_time


def _costs(asked: Mapping[Kind, Asked]) -> tuple[dict[Kind, Cost], tuple[float, float]]:
    """Of kinds that share networks and data, in a process of its own, in seconds of the clock; with
    the seconds that passed meanwhile and those that the clock counted."""
    run, params = max(asked.values(), key=lambda one: len(one[0].objective) + len(one[0].targets))
    torch.set_num_threads(params.threads)
    load_plugins(params.plugins)
    lab = Lab.of(params, ".")  # nothing is written
    clock = _clock(lab.device)
    passed, counted = time.perf_counter(), clock()
    bench = _Bench(lab, run, clock)
    alike = bench.cohorts()
    setup = alike["setup"]
    costs = {name: Cost(**alike, **bench.steps(one, setup)) for name, (one, _) in asked.items()}
    return costs, (time.perf_counter() - passed, clock() - counted)


class _Bench:
    """Where runs of the same networks and data are measured; `run` is one of them.

    Caching what teachers say takes long: it is measured on some of the images, and the rest is
    reckoned.
    """

    def __init__(self, lab: Lab, run: Run, clock: Callable[[], float]):
        self.run, self.device, self.clock = run, lab.device, clock
        self.record, self.selection = data_of(lab, run)
        few = max(CACHED, 2 * run.recipe.batch_size)
        self.few = _few(self.selection, few)
        self.teachers = [train.build_network(one, data_of(lab, one)[0]) for one in run.teachers]
        self.balanced = evaluate.balanced_indices(self.record, self.selection, run.seed)
        self.measured = functools.cache(self._measured)

    def cohort(self, run: Run, size: int = 1) -> train.Cohort:
        """So many students of a run, that has an epoch between the first and the last."""
        runs = [train.with_unprobed(run)] * size
        selection = self.few if objectives.caches(run) else self.selection
        return train.Cohort(runs, self.record, selection, self.teachers, self.device)

    def cohorts(self) -> dict[str, float]:
        """What a second student adds to the time a cohort is made in, and to its memory."""
        seconds, memory = [], []
        for size in (1, 1, 2):  # the first warms up
            started = self.clock()
            cohort = self.cohort(self.run, size)
            seconds.append(self.clock() - started)
            cohort.step(next(cohort.stream.draws(0, cohort.recipe.epochs)))
            self.measured(*self._noted(self.run, cohort))
            memory.append(peak_memory_mb(self.device))
        own = memory[2] - memory[1]
        return {
            "setup": max(0.0, seconds[2] - seconds[1]), "own": own,
            "shared": memory[1] - own + self._not_seen(self.run),
        }  # fmt: skip

    def _not_seen(self, run: Run) -> float:
        """Megabytes of the images that the measurement left out."""
        left_out = len(self.selection.train_indices) - len(self.few.train_indices)
        return (
            objectives.caches(run) * left_out * self.record.train_images[0].nbytes * GROWTH / 2**20
        )

    def steps(self, run: Run, setup: float) -> dict[str, float]:
        """Of making a cohort, a step, its batch and the looks of a kind. setup: seconds of making
        that are a run's own."""
        started = self.clock()
        cohort = self.cohort(run)
        made = max(0.0, self.clock() - started - setup)
        images = len(self.selection.train_indices)
        found = {"common": made * images / len(cohort.stream.labels)}
        found["steps_an_epoch"] = images // run.recipe.batch_size
        epochs = cohort.recipe.epochs
        batches = itertools.chain.from_iterable(
            cohort.stream.epoch(1, epochs) for _ in itertools.count()
        )
        live = any(one.views == "live" for one in cohort.students)

        def shared() -> tuple:
            with cohort.autocast:
                batch = next(batches)
                return batch, cohort.live(batch) if live else ()

        batch, views = shared()
        found["batch"] = self._mean(shared, BRIEF)
        cohort.live = _Shown(cohort.live.networks, views)  # what is left is the student's own
        cohort.stream.batch = lambda draw: batch
        first, usual = (next(cohort.stream.draws(epoch, epochs)) for epoch in (0, 1))
        found["probed"] = self._mean(lambda: cohort.step(first), BRIEF)
        found["step"] = self._mean(lambda: cohort.step(usual), WINDOW)
        return found | self._evaluation(run, cohort)

    def _evaluation(self, run: Run, cohort: train.Cohort) -> dict[str, float]:
        """Of a look at validation, and of the predictions and metrics at the end."""
        student, test = cohort.students[0], self.record.test_images
        held_out, few = len(self.selection.val_indices), test[:IMAGES]
        cohort.val_images, cohort.val_labels = (
            values[:IMAGES] for values in (cohort.val_images, cohort.val_labels)
        )
        seen = cohort.recipe.epochs, {}, cohort.val_images, cohort.val_labels
        look = self._mean(lambda: student.look(*seen), BRIEF)
        predict = self._mean(lambda: train.predict(student.trained.network, few), BRIEF)
        heads, teachers = self._noted(run, cohort)
        # Test twice: once more after the epoch that validation chose; for side heads once more.
        images = held_out + len(self.balanced) + (3 if heads else 2) * len(test)
        end = predict * images / len(few) + self.measured(heads, teachers)
        return {"look": look * max(1.0, held_out / IMAGES), "end": end}

    def _noted(self, run: Run, cohort: train.Cohort) -> tuple[int, int]:
        """Of how many side heads and teachers a run's metrics tell something."""
        network = cohort.students[0].trained.network
        heads = objectives.taught_heads(run, getattr(network, "side_heads", ()))
        same = all(one.classes == run.classes for one in run.teachers)
        return len(heads), len(run.teachers) if same and len(run.teachers) > 1 else 0

    def _measured(self, heads: int, teachers: int) -> float:
        """Seconds of all metrics of one run, from noise."""
        draws, record, found = np.random.default_rng(0), self.record, {}

        def logits(*shape: int) -> np.ndarray:
            return draws.normal(size=(*shape, record.num_classes)).astype(np.float16)

        labels = {"test": record.test_labels}
        for split, rows in (("val", self.selection.val_indices), ("balanced", self.balanced)):
            labels[split] = record.train_labels[rows]
        for split, own in labels.items():
            if len(own):
                found |= {f"{split}_labels": own, f"{split}_logits": logits(len(own))}
        size = len(record.test_labels)
        found |= {f"head{i}{evaluate.HEAD_LOGITS}": logits(size) for i in range(heads)}
        if teachers:
            found[evaluate.TEACHERS_LOGITS] = logits(teachers, size)
        counts = list(self.selection.class_counts)
        return self._mean(lambda: evaluate.measure(found, counts), BRIEF)

    def _mean(self, call: Callable[[], Any], window: float) -> float:
        """Seconds of a call, over as many as fill the window; the first does not count, if it is
        not the only one."""
        times: list[float] = []
        while sum(times) < window:
            started = self.clock()
            call()
            if self.device == "cuda":
                torch.cuda.synchronize()
            times.append(self.clock() - started)
        return statistics.mean(times[1:] or times)


@dataclass(frozen=True)
class _Shown:
    """Teachers that have the same views to any batch, for nothing."""

    networks: Sequence[torch.nn.Module]
    views: tuple[View, ...]

    def __call__(self, batch: Batch) -> tuple[View, ...]:
        return self.views


def _few(selection: Selection, count: int) -> Selection:
    """About so many of the training images, validation in proportion; counts of classes stay."""
    every = max(1, len(selection.train_indices) // count)
    parts = {name: getattr(selection, name)[::every] for name in ("train_indices", "val_indices")}
    return replace(selection, **parts)


def job_start() -> float:
    """Seconds of a job beside its runs: kernel, imports, what is done first and what is drawn last.
    Measured with the smallest real one, a teacher that learns for one epoch."""
    notebook, started = ROOT / "notebooks" / "01_teachers.ipynb", time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="kdlib-") as folder:
        params = {"teacher_losses": ["ce"], "epochs": 1, "out_dir": folder}
        runnb.execute(str(notebook), Path(folder) / "executed.ipynb", params, threads=1)
        return time.perf_counter() - started
