"""How long an epoch of each run takes alone, all of them measured side by side.

The runs of a cohort share their time, so a comparison of methods takes steps of its own: a round
gives every run a few steps in turn, so that a machine that slows down slows them all. Of one thread
on a CPU the time is what it computed, not what it waited for a core that other work had too; caches
and memory it shares with that work all the same.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from kdlib.config import Run
from kdlib.data import ImageSet, Selection
from kdlib.train.loop import Cohort, kept_threads


def seconds_an_epoch(
    runs: Sequence[Run],
    record: ImageSet,
    selection: Selection,
    teachers: Sequence[nn.Module] = (),
    device: str = "cpu",
    threads: int = 1,
    rounds: int = 7,
    steps: int = 2,
) -> dict[str, list[float]]:
    """Seconds of an epoch by run id, one a round: the mean of `steps` steps times the steps of an
    epoch, by the clock of `clock_of`. Validation is not in it, nor the probe of the first and last
    epoch. What else the machine does only slows a round down: the fastest is nearest to the truth,
    and two runs compare best inside a round.

    runs: of one stream, as in `kdlib.train.fit`. ValueError for rounds or steps below 1.
    """
    for name, value in (("rounds", rounds), ("steps", steps)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    with kept_threads(threads):
        every = len(selection.train_indices) // runs[0].recipe.batch_size
        lanes = {run.id: _Lane(run, record, selection, teachers, device, steps) for run in runs}
        _, clock = clock_of(device, threads)
        for lane in lanes.values():
            lane.round(clock)  # warms up
        times = [{name: lane.round(clock) for name, lane in lanes.items()} for _ in range(rounds)]
    return {name: [every * found[name] for found in times] for name in lanes}


def clock_of(device: str, threads: int) -> tuple[str, Callable[[], float]]:
    """What the seconds of `seconds_an_epoch` are, and their clock: "CPU" (this process's) for one
    thread on a CPU, else "wall".

    >>> clock_of("cpu", 1)[0], clock_of("cpu", 2)[0], clock_of("cuda", 1)[0]
    ('CPU', 'wall', 'wall')
    """
    alone = device == "cpu" and threads == 1
    return ("CPU", time.process_time) if alone else ("wall", time.perf_counter)


class _Lane:
    """One run on as many images as a round takes."""

    def __init__(
        self,
        run: Run,
        record: ImageSet,
        selection: Selection,
        teachers: Sequence[nn.Module],
        device: str,
        steps: int,
    ):
        epochs = run.recipe.model_copy(update={"epochs": max(3, run.recipe.epochs)})
        self.run = run.model_copy(update={"recipe": epochs})
        indices, wanted = selection.train_indices, steps * run.recipe.batch_size
        spread = indices[:: max(1, len(indices) // wanted)][:wanted]  # of all classes
        few = replace(selection, train_indices=spread)
        self.cohort = Cohort([self.run], record, few, teachers, device)

    def round(self, clock: Callable[[], float]) -> float:
        """Seconds of a step. Epoch 1 of 0, 1, 2, ...: the first and the last are probed."""
        started = clock()
        for draw in self.cohort.stream.draws(1, self.run.recipe.epochs):
            self.cohort.step(draw)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return (clock() - started) / self.cohort.stream.steps
