"""How long an epoch of each run takes alone, all of them measured side by side.

The runs of a cohort share their time, so a comparison of methods takes steps of its own: a round
gives every run a few steps in turn, so that a machine that slows down slows them all.
"""

import time
from collections.abc import Sequence
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
) -> dict[str, float]:
    """Seconds of an epoch by run id: the fastest of `rounds` (what else the machine does can only
    slow a round down) of the mean of `steps` steps, times the steps of an epoch. Validation is not
    in it, nor the probe of the first and last epoch.

    runs: of one stream, as in `kdlib.train.fit`. ValueError for rounds or steps below 1.
    """
    for name, value in (("rounds", rounds), ("steps", steps)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    with kept_threads(threads):
        every = len(selection.train_indices) // runs[0].recipe.batch_size
        lanes = {run.id: _Lane(run, record, selection, teachers, device, steps) for run in runs}
        for lane in lanes.values():
            lane.round()  # warms up
        times = [{name: lane.round() for name, lane in lanes.items()} for _ in range(rounds)]
    return {name: every * min(found[name] for found in times) for name in lanes}


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

    def round(self) -> float:
        """Seconds of a step. Epoch 1 of 0, 1, 2, ...: the first and the last are probed."""
        started = time.perf_counter()
        for batch in self.cohort.stream.epoch(1, self.run.recipe.epochs):
            self.cohort.step(batch)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / self.cohort.stream.steps
