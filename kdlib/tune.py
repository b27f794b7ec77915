"""How fast the alternatives are: `python -m kdlib tune PROFILE` times and prints, and that is all.

Nothing is written, and no run ever times anything to decide: the keys of the params file do.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, count, islice, pairwise
from typing import Any

import torch
from torch import nn

from kdlib.config import Execution, Run, by_stream, cohort_size, load_plugins
from kdlib.data import ImageSet, Selection, subset
from kdlib.device import check_precision
from kdlib.pipeline import Lab
from kdlib.plan import plan
from kdlib.train import Cohort, build_network, check_replay, kept_threads, with_unprobed

WARM = 2  # steps at the start of a measurement that do not count: memory, and what compiles
COHORTS = (1, 4, 8, 16)
START_SECONDS = 300  # a process that has not started timing by then never will
WORTH = 1.05  # what gains less is not worth a line


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


class Stopwatch:
    """Seconds a step of any loop over batches, from one batch to the next: the step itself and the
    making of the next batch. clock: `time.process_time` where others share the machine."""

    def __init__(self, device: str, clock: Callable[[], float] = time.perf_counter):
        self.device, self.clock = device, clock
        self.ticks: list[float] = []

    def batches(self, batches: Iterable, steps: int) -> Iterator:
        """As many batches as timing `steps` of them takes."""
        for batch in islice(batches, WARM + steps + 1):
            synchronize(self.device)
            self.ticks.append(self.clock())
            yield batch

    @property
    def seconds(self) -> float:
        """The median, without the first WARM steps."""
        return statistics.median(later - one for one, later in pairwise(self.ticks[WARM:]))


def step_seconds(cohort: Cohort, steps: int, watch: Stopwatch) -> float:
    """Seconds a step of a cohort, in epochs without probes. ValueError for an epoch of no step."""
    if not cohort.stream.steps:
        raise ValueError(f"batch_size {cohort.recipe.batch_size} exceeds the training images")
    epochs = (cohort.stream.draws(1, cohort.recipe.epochs) for _ in count())
    draws = chain.from_iterable(epochs)
    for draw in islice(draws, cohort.lead):
        cohort.step(draw)
    for draw in watch.batches(draws, steps):
        cohort.step(draw)
    return watch.seconds


class Case:
    """A stream of a profile's runs: what one job trains, on networks that need no training.

    Picklable: a measurement may happen in processes of its own.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        record: ImageSet,
        selection: Selection,
        device: str,
        execution: Execution,
        steps: int,
        plugins: Sequence[str] = (),
    ):
        self.runs = list(map(with_unprobed, runs))
        self.record, self.selection, self.device = record, selection, device
        self.execution, self.steps, self.plugins = execution, steps, plugins

    @property
    def title(self) -> str:
        """Which networks, batch and device."""
        run = self.runs[0]
        teachers = "+".join(teacher.model for teacher in run.teachers)
        models = f"{teachers} -> {run.model}" if teachers else run.model
        return f"{models}, {run.data}, batch {run.recipe.batch_size}, {self.device}"

    def teachers(self) -> list[nn.Module]:
        """Networks of the teachers' shape: their weights cost no time."""
        return [build_network(one, self._known_to(one)).eval() for one in self.runs[0].teachers]

    def _known_to(self, teacher: Run) -> ImageSet:
        return subset(self.record, teacher.classes) if teacher.classes else self.record

    def alternatives(self) -> dict[str, dict[str, Any]]:
        """What may be compared with the file's own choice: name -> keys that differ."""
        own = self.execution
        found: dict[str, dict[str, Any]] = {"as it is": {}}
        for precision in {"fp32", "bf16"} - {own.precision}:
            found[f"precision: {precision}"] = {"precision": precision}
        if not own.cuda_graphs:
            found[f"compile: {str(not own.compile).lower()}"] = {"compile": not own.compile}
        if self._replayable():
            other = not own.cuda_graphs
            found[f"cuda_graphs: {str(other).lower()}"] = {"cuda_graphs": other}
        if os.cpu_count() > 1:
            other = 2 if own.threads == 1 else 1
            found[f"threads: {other}"] = {"threads": other}
            found["jobs: 2 of threads: 1"] = {"threads": 1, "jobs": 2}
        most = cohort_size(self.runs[0], len(self.runs))
        for size in COHORTS:
            if size <= most and size != min(own.cohort_size, most):
                found[f"cohort_size: {size}"] = {"cohort_size": size}
        return found

    def _replayable(self) -> bool:
        try:
            Execution(**self.execution.model_dump() | {"cuda_graphs": True})
            for run in self.runs:
                check_replay(run, self.record, self.device)
        except ValueError:
            return False
        return True

    def seconds(self, keys: Mapping[str, Any], meet: Callable[[], Any] = lambda: None) -> float:
        """Seconds a student and step; `meet` is called when the timing is about to begin."""
        options = self.execution.model_dump() | keys
        runs = self.runs[: cohort_size(self.runs[0], options["cohort_size"])]
        same = {key: options[key] for key in ("precision", "compile")}
        runs = [run.model_copy(update=same) for run in runs]
        check_precision(options["precision"], self.device)
        with kept_threads(options["threads"]):
            cohort = Cohort(
                runs, self.record, self.selection, self.teachers(), self.device,
                options["cuda_graphs"],
            )  # fmt: skip
            meet()
            return step_seconds(cohort, self.steps, Stopwatch(self.device)) / len(runs)

    def measure(self, keys: Mapping[str, Any]) -> float:
        """The same, side by side in several processes where `keys` has "jobs"."""
        keys = dict(keys)
        jobs = keys.pop("jobs", 1)
        return self.seconds(keys) if jobs == 1 else _side_by_side(self, keys, jobs)


def _side_by_side(case: Case, keys: dict[str, Any], jobs: int) -> float:
    """Seconds a student and step of all jobs together; they start timing at the same moment."""
    context = multiprocessing.get_context("spawn")
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(
            jobs, context, initializer=load_plugins, initargs=(case.plugins,)
        ) as pool,
    ):
        start = manager.Barrier(jobs, timeout=START_SECONDS)
        answers = [pool.submit(case.seconds, keys, start.wait) for _ in range(jobs)]
        return statistics.mean(answer.result() for answer in answers) / jobs


def cases(profile: str, steps: int, /, **changes: Any) -> list[Case]:
    """The largest stream of a profile for each pair of teachers and student, batch and device."""
    whole = plan(profile, **changes)
    found: dict[str, Case] = {}
    for part in whole.parts:
        lab = Lab.of(part.params, whole.out_dir)
        for runs in by_stream(run for run in part.runs if run.recipe):
            one = Case(
                runs, lab.record(runs[0]), lab.selection(runs[0]), lab.device, lab.execution, steps,
                part.params.plugins,
            )  # fmt: skip
            if one.title not in found or len(found[one.title].runs) < len(runs):
                found[one.title] = one
    return list(found.values())


def tune(profile: str, steps: int = 5, repeats: int = 3, /, **changes: Any) -> Iterator[str]:
    """The lines of the answer; changes as for `kdlib.plan.plan`. Alternatives take turns, repeat by
    repeat, because neighbours on a machine disturb all times; gains are medians of ratios inside a
    repeat. ValueError for fewer than one step or repeat."""
    if min(steps, repeats) < 1:
        raise ValueError(f"steps and repeats must be at least 1, got {steps} and {repeats}")
    for case in cases(profile, steps, **changes):
        yield f"# {case.title}: ms a student and step, gain over the file's own keys"
        times: dict[str, list[float]] = {name: [] for name in case.alternatives()}
        for _ in range(repeats):
            for name, keys in case.alternatives().items():
                times[name].append(case.measure(keys))
        own = times["as it is"]
        for name, seconds in times.items():
            gain = statistics.median(a / b for a, b in zip(own, seconds, strict=True))
            # What could be pasted stands without a "#"; another precision gives other numbers.
            paste = gain >= WORTH and name.split(":")[0] not in ("as it is", "jobs", "precision")
            mark = "" if paste else "# "
            yield f"{mark}{name:24}  # {1000 * statistics.median(seconds):8.2f} ms  {gain:.2f}x"
