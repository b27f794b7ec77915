"""What a batch will cost on this machine, from a few real steps of each kind of run.

A kind is what decides the time of a step: data, networks, the terms of the objective, batch size,
precision. One run of each kind takes a few steps in a process of its own, as many at once as jobs
will run, so that cores and memory are shared as they will be.
"""

import functools
import heapq
import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import torch

from kdlib import evaluate, runnb, train
from kdlib.config import Run, StudyParams, by_stream
from kdlib.data import ImageSet, Selection, select, subset, subset_selection
from kdlib.pipeline import Lab
from kdlib.plan import Job, Plan
from kdlib.provenance import peak_memory_mb
from kdlib.studies.class_names import CLASS_NAMES

Kind = tuple[Any, ...]

TIMED_STEPS, BUDGET_SECONDS = 5, 30.0
PROBED_EPOCHS, PROBED_STEPS = 2, 5  # the first and last epoch also measure how strongly KD pulls
# (side, channels, training images, test images), where a set's file is not here
SHAPES = {
    "mnist": (28, 1, 60_000, 10_000),
    "fashion_mnist": (28, 1, 60_000, 10_000),
    "cifar10": (32, 3, 50_000, 10_000),
    "cifar100": (32, 3, 50_000, 10_000),
}


@dataclass(frozen=True)
class Cost:
    """Seconds of one run of a kind, and megabytes: `own` of each run of a cohort, `shared` by all.

    first: once a process. setup: once a run. step, probed: a step of the student, the second where
    the pull of KD is measured too. teachers: their forward of a batch. look: a pass over
    validation. end: predictions and metrics.
    """

    first: float
    setup: float
    step: float
    probed: float
    teachers: float
    look: float
    end: float
    shared: float
    own: float
    steps_an_epoch: int

    def alone(self, run: Run) -> float:
        """Seconds of a run's own work."""
        recipe = run.recipe
        steps = recipe.epochs * self.steps_an_epoch
        probed = min(recipe.epochs, PROBED_EPOCHS) * min(PROBED_STEPS, self.steps_an_epoch)
        looks = -(-recipe.epochs // recipe.eval_every)
        training = self.setup + probed * self.probed + (steps - probed) * self.step
        return training + looks * self.look + self.end

    def watched(self, run: Run) -> float:
        """Seconds of its teachers, which a cohort needs once."""
        return run.recipe.epochs * self.steps_an_epoch * self.teachers


def table(whole: Plan, left: Collection[str], stored: Collection[str], cores: int) -> str:
    """The time and memory that the jobs named in `left` will take, a line a notebook and a total;
    empty where nothing is left. stored: ids of runs that are done. cores: jobs at once."""
    jobs = [job for job in whole.jobs if job.name in left]
    if not jobs:
        return ""
    asked = {run.id: (run, params) for _, params, made in whole.parts for run in made}
    todo = {job.name: [asked[one][0] for one in job.runs if one not in stored] for job in jobs}
    trained = [run for made in todo.values() for run in made if run.recipe]
    try:
        costs = measure({kind(run): asked[run.id] for run in reversed(trained)}, cores)
    except (OSError, LookupError, BrokenProcessPool) as error:
        return f"no estimate: {error}\n"
    start, seconds, memory = notebook_start(), {}, {}
    for job in jobs:
        groups = list(_cohorts(todo[job.name], asked))
        once = max((costs[kind(group[0])].first for group in groups), default=0.0)
        seconds[job.name] = start + once + sum(_seconds(group, costs) for group in groups)
        memory[job.name] = max((_megabytes(group, costs) for group in groups), default=0.0)
    return "\n".join(_lines(jobs, todo, seconds, memory, cores)) + "\n"


def kind(run: Run) -> Kind:
    """What decides the time of a step."""
    return (
        run.data, run.image_size, run.imbalance_factor, len(run.classes or ()), run.model,
        tuple(teacher.model for teacher in run.teachers), tuple(run.objective), tuple(run.targets),
        run.recipe.batch_size, bool(run.mixup_alpha), run.precision, run.compile,
    )  # fmt: skip


def measure(kinds: Mapping[Kind, tuple[Run, StudyParams]], cores: int) -> dict[Kind, Cost]:
    """The cost of each kind, of which one run and its params are given, `cores` at once.

    LookupError or OSError where its data are neither here nor of a known shape, BrokenProcessPool
    where the system killed a process (out of memory?).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kdlib.estimate", "kdlib.report"])  # torch is imported once

    def alone(asked: tuple[Run, StudyParams]) -> Cost:  # max_tasks_per_child=1 may hang: gh-115634
        with ProcessPoolExecutor(1, context) as process:
            return process.submit(_cost, *asked).result()

    with ThreadPoolExecutor(cores) as threads:
        return dict(zip(kinds, threads.map(alone, kinds.values()), strict=True))


def _cost(run: Run, params: StudyParams) -> Cost:
    """A few steps, a prediction and a measurement of one run, in a process of its own."""
    torch.set_num_threads(params.threads)
    lab = Lab.of(params)
    record, selection = _data(lab, run)
    long_enough = run.recipe.model_copy(update={"epochs": max(3, run.recipe.epochs)})
    run = run.model_copy(update={"recipe": long_enough})
    teachers = [train.build_network(one, _data(lab, one)[0]) for one in run.teachers]
    started = time.perf_counter()
    cohort = train.Cohort([run], record, selection, teachers, lab.device)
    first = time.perf_counter() - started
    step, watched = _step_seconds(cohort, 1), _teacher_seconds(cohort)
    probed, steps = _step_seconds(cohort, 0), cohort.stream.steps
    look, end = _evaluation_seconds(run, cohort, record, selection)
    alone, started = _peak_mb(lab.device), time.perf_counter()
    cohort = train.Cohort([run, run], record, selection, teachers, lab.device)
    setup = (time.perf_counter() - started) / 2
    _step_seconds(cohort, 1)
    own = _peak_mb(lab.device) - alone
    return Cost(
        first - setup, setup, step - watched, probed - watched, watched, look, end,
        alone - own, own, steps,
    )  # fmt: skip


def _peak_mb(device: str) -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else peak_memory_mb()


def _data(lab: Lab, run: Run) -> tuple[ImageSet, Selection]:
    """The run's data; noise of the same shape where a known set is not here."""
    try:
        return lab.record(run), lab.selection(run)
    except OSError:
        if run.data not in SHAPES:
            raise
    side, channels, *sizes = SHAPES[run.data]
    names = CLASS_NAMES[run.data]
    draws, arrays = np.random.default_rng(0), []
    for size in sizes:
        shape = (size, side, side, channels)
        arrays += [draws.integers(0, 256, shape, np.uint8), np.arange(size) % len(names)]
    record = ImageSet(run.data, *arrays, names, {"train": "", "test": ""})
    selection = select(record, run.imbalance_factor, run.val_fraction, run.seed)
    if run.classes is None:
        return record, selection
    return subset(record, run.classes), subset_selection(record, selection, run.classes)


def _median_seconds(calls: Iterable[Callable[[], Any]]) -> float:
    """Of one call, the first not counted; ends early where calls are slow."""
    times: list[float] = []
    for call in calls:
        started = time.perf_counter()
        call()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
        if sum(times) > BUDGET_SECONDS:
            break
    return statistics.median(times[1:] or times)


def _step_seconds(cohort: train.Cohort, epoch: int) -> float:
    batches = itertools.islice(cohort.stream.epoch(epoch, cohort.recipe.epochs), TIMED_STEPS)
    return _median_seconds(functools.partial(cohort.step, batch) for batch in batches)


def _teacher_seconds(cohort: train.Cohort) -> float:
    """Of the teachers' forward on a batch; 0 where their logits are cached."""
    if not cohort.live.networks or all(student.cached for student in cohort.students):
        return 0.0
    batch = next(cohort.stream.epoch(1, cohort.recipe.epochs))
    return _median_seconds([functools.partial(cohort.live, batch)] * TIMED_STEPS)


def _evaluation_seconds(
    run: Run, cohort: train.Cohort, record: ImageSet, selection: Selection
) -> tuple[float, float]:
    """Of a look at validation, and of the predictions and metrics at the end."""
    network = cohort.students[0].trained.network
    images = record.test_images[:500]
    predict = functools.partial(train.predict, network, images)
    an_image = _median_seconds([predict] * 3) / len(images)
    draws, found = np.random.default_rng(0), {}
    labels = {
        "test": record.test_labels,
        "val": record.train_labels[selection.val_indices],
        "balanced": record.train_labels[evaluate.balanced_indices(record, selection, run.seed)],
    }
    for split, own in labels.items():
        if len(own):
            logits = draws.normal(size=(len(own), record.num_classes)).astype(np.float16)
            found |= {f"{split}_labels": own, f"{split}_logits": logits}
    counts = list(selection.class_counts)
    metrics = _median_seconds([functools.partial(evaluate.measure, found, counts)] * 2)
    return an_image * len(labels["val"]), an_image * sum(map(len, labels.values())) + metrics


def _cohorts(
    made: Sequence[Run], asked: Mapping[str, tuple[Run, StudyParams]]
) -> Iterator[list[Run]]:
    """The runs of a job that are trained, side by side as they will be."""
    for stream in by_stream(run for run in made if run.recipe):
        size = 1 if stream[0].precision == "fp16" else asked[stream[0].id][1].cohort_size
        yield from (stream[start : start + size] for start in range(0, len(stream), size))


def _seconds(cohort: Sequence[Run], costs: Mapping[Kind, Cost]) -> float:
    watched = max(costs[kind(run)].watched(run) for run in cohort)
    return watched + sum(costs[kind(run)].alone(run) for run in cohort)


def _megabytes(cohort: Sequence[Run], costs: Mapping[Kind, Cost]) -> float:
    return costs[kind(cohort[0])].shared + sum(costs[kind(run)].own for run in cohort)


def notebook_start() -> float:
    """Seconds from the start of a job to the first run of its notebook, measured with one that
    imports what notebooks import."""
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    cells = [
        nbformat.v4.new_code_cell("unused: int = 0", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("import kdlib\nfrom kdlib import plots, report"),
    ]
    with tempfile.TemporaryDirectory(prefix="kdlib-") as folder:
        path, started = Path(folder) / "start.ipynb", time.perf_counter()
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
        runnb.execute(str(path), Path(folder) / "executed.ipynb", {}, threads=1)
        return time.perf_counter() - started


def wall_seconds(jobs: Sequence[Job], seconds: Mapping[str, float], cores: int) -> float:
    """When the last job ends, where each starts once its needs are there and a core is free."""
    free, ended = [0.0] * cores, {}
    for job in jobs:
        ready = max((ended.get(need, 0.0) for need in job.needs), default=0.0)
        ended[job.name] = max(ready, heapq.heappop(free)) + seconds[job.name]
        heapq.heappush(free, ended[job.name])
    return max(ended.values(), default=0.0)


def _lines(
    jobs: Sequence[Job],
    todo: Mapping[str, Sequence[Run]],
    seconds: Mapping[str, float],
    memory: Mapping[str, float],
    cores: int,
) -> Iterator[str]:
    yield "estimate, from a few steps of each kind of run on this machine:"
    for stem in dict.fromkeys(job.notebook for job in jobs):
        own = [job.name for job in jobs if job.notebook == stem]
        runs, most = sum(len(todo[name]) for name in own), max(memory[name] for name in own)
        total = duration(sum(seconds[name] for name in own))
        size = f"  {most / 1024:.1f} GB a job" if most else ""
        yield f"  {stem:24}{len(own):5} jobs{runs:6} runs  {total:>8} of work{size}"
    most = sum(sorted(memory.values())[-cores:]) / 1024
    wall = duration(wall_seconds(jobs, seconds, cores))
    yield f"  in all, {cores} at once: about {wall}, {most:.1f} GB of memory"


def duration(seconds: float) -> str:
    """For people: seconds, minutes or hours, whichever is short."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
