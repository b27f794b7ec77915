"""How long an epoch of each run, or a forward of each network, takes alone, side by side.

The runs of a cohort share their time, so a comparison of methods takes steps of its own: a round
gives every run a few steps in turn, so that a machine that slows down slows them all. Of one thread
on a CPU the time is what it computed, not what it waited for a core that other work had too; caches
and memory it shares with that work all the same.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from kdlib.config import Run
from kdlib.data import ImageSet, Selection
from kdlib.train.loop import Cohort, kept_threads, with_unprobed


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


def latency_ms(
    networks: Mapping[str, nn.Module],
    device: str = "cpu",
    threads: int = 1,
    batch_sizes: Sequence[int] = (1, 128),
    rounds: int = 9,
) -> dict[str, dict[int, float]]:
    """Milliseconds of one forward by name and batch size, fp32, eval mode, as predictions are made:
    the fastest of `rounds`, in which the networks take turns, by the clock of `clock_of`.

    networks: `kdlib.models.Network`s; what they learnt costs no time. ValueError for no round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    _, clock = clock_of(device, threads)
    found: dict[str, dict[int, float]] = {name: {} for name in networks}
    with kept_threads(threads), torch.no_grad():
        moved = {name: network.to(device).eval() for name, network in networks.items()}
        for size in batch_sizes:
            times: dict[str, list[float]] = {name: [] for name in networks}
            for _ in range(rounds + 1):  # the first warms up
                for name, network in moved.items():
                    times[name].append(_forward_seconds(network, size, device, clock))
            for name, seconds in times.items():
                found[name][size] = 1000 * min(seconds[1:])
    return found


def _forward_seconds(
    network: nn.Module, size: int, device: str, clock: Callable[[], float]
) -> float:
    side = network.preprocess.image_size
    images = torch.zeros(size, side, side, len(network.preprocess.mean), device=device)
    started = clock()
    network(images.permute(0, 3, 1, 2)).logits.cpu()  # which waits for a GPU
    return clock() - started


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
        self.run = with_unprobed(run)
        indices, wanted = selection.train_indices, steps * run.recipe.batch_size
        spread = indices[:: max(1, len(indices) // wanted)][:wanted]  # of all classes
        few = replace(selection, train_indices=spread)
        self.cohort = Cohort([self.run], record, few, teachers, device)

    def round(self, clock: Callable[[], float]) -> float:
        """Seconds of a step, of the second epoch."""
        started = clock()
        for draw in self.cohort.stream.draws(1, self.run.recipe.epochs):
            self.cohort.step(draw)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return (clock() - started) / self.cohort.stream.steps
