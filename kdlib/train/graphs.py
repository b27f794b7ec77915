"""A step that the GPU replays: one CUDA graph a cohort, so that no kernel waits for Python.

A replay does what one step did, on the memory that step had. What differs from step to step is
written into this memory before (the draw, the learning rate, what a term's `tick` sets), and what
the step leaves behind it changes in place. Nothing is drawn but from a term's own generator.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdlib import models
from kdlib.config import Run
from kdlib.data import ImageSet
from kdlib.train.networks import network_shape
from kdlib.types import Draw

WARM_STEPS = 3  # before a capture: optimiser states, cuDNN's and cuBLAS's handles and workspaces


class GlobalDraws(TorchDispatchMode):
    """Notes the operations that draw from torch's global generators, as dropout does."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None:
            self.names.append(str(func))
        return func(*args, **kwargs)


def check_replay(run: Run, record: ImageSet, device: str) -> None:
    """ValueError naming what of a run cannot be replayed: the device, a network that draws.

    A graph has one state of the global generator, so that the students of a cohort could not all
    draw what each draws alone.
    """
    if device != "cuda":
        raise ValueError(f"cuda_graphs needs a CUDA device, got {device}: set cuda_graphs=false")
    if run.augment.transform:
        raise ValueError(
            f"cuda_graphs: the augmentation {run.augment.transform!r} draws in each step, which a "
            "replay cannot: set cuda_graphs=false"
        )
    if names := _drawn(record.image_size, **network_shape(run, record)):
        raise ValueError(
            f"cuda_graphs: the model {run.model!r} draws in each step (dropout? {names[0]}), which "
            "a replay cannot: set cuda_graphs=false"
        )


@functools.lru_cache
def _drawn(side: int, **shape: Any) -> tuple[str, ...]:
    """The operations by which a network in training draws, found without numbers."""
    with torch.device("meta"), GlobalDraws() as drawn:
        network = models.build(**shape)
        drawn.names.clear()  # the initial weights
        network(torch.empty(2, shape["in_channels"], side, side))
    return tuple(drawn.names)


class Gpu:
    """The stream of the captures; the steps before a capture run on it, too."""

    def __init__(self):
        self.stream = torch.cuda.Stream()

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """After all that was asked for on the current stream, before what will be."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    def capture(
        self, step: Callable[[], None], generators: Sequence[torch.Generator]
    ) -> Callable[[], None]:
        """What replays the step, which is not carried out now."""
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=self.stream):
            step()
        return graph.replay


class Replayed:
    """A cohort's `step(draw, probed)`: the first ones and the probed ones as they are, all others
    as replays of one.

    storage: the addresses of what a step changes, by name. generators: all it draws from.
    """

    def __init__(
        self,
        step: Callable[[Draw, bool], None],
        storage: Callable[[], dict[str, int]],
        generators: Sequence[torch.Generator],
        gpu: Gpu,
    ):
        self.step, self.storage, self.generators, self.gpu = step, storage, generators, gpu
        self.reset()

    def reset(self) -> None:
        """Warm up and capture again."""
        self.taken, self.draw, self.replay = 0, None, None

    def __call__(self, draw: Draw, probed: bool) -> None:
        """One step."""
        if probed or self.taken < WARM_STEPS:
            with self.gpu.beside(), GlobalDraws() as drawn:
                self.step(draw._replace(clock=None), probed)
            if drawn.names:
                raise ValueError(f"cuda_graphs: a term draws without a generator: {drawn.names[0]}")
            self.taken += 1
            return
        if self.replay is None:
            self._capture(draw)
        for kept, new in zip(self.draw, draw, strict=True):
            if kept is not None:
                kept.copy_(new)
        self.replay()

    def _capture(self, draw: Draw) -> None:
        self.draw = Draw(*(part.clone() if isinstance(part, Tensor) else None for part in draw))
        before = self.storage()
        self.replay = self.gpu.capture(lambda: self.step(self.draw, False), self.generators)
        moved = [name for name, place in self.storage().items() if before[name] != place]
        if moved:
            raise ValueError(
                f"cuda_graphs: a step replaces {moved[0]}, so a replay would read the old one: "
                "change it in place"
            )
