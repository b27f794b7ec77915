"""Where the teachers' views come from: frozen networks, run once a step for a cohort, or once."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from kdlib import models
from kdlib.types import Batch, View

LOGITS = "logits"


class FrozenTeachers:
    """Trained networks, or modules of logits, that only look: eval mode, BatchNorm folded, no
    gradient.

    Folding changes logits by rounding only; the teachers see the students' (mixed) images through
    their own preprocessing. A network's attribute `temperature`, where it has one, goes into its
    view. No teachers at all is fine: no views.
    """

    def __init__(self, networks: Sequence[nn.Module] = (), device: str = "cpu"):
        self.device = device
        # cuDNN would bring the weights into this format in each step; a CPU does not care.
        layout = torch.preserve_format if device == "cpu" else torch.channels_last
        shown = [one if isinstance(one, models.Network | models.Plain) else models.Plain(one)
                 for one in networks]  # fmt: skip
        folded = [models.fold_batchnorm(network) for network in shown]
        self.networks = [network.to(device, memory_format=layout) for network in folded]

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[View, ...]:
        """One view a teacher, in the order given."""
        return tuple(
            replace(network(batch.images), temperature=getattr(network, "temperature", None))
            for network in self.networks
        )


class Keep(Protocol):
    """What is kept of a view beside its logits, under its name: (B, ...), image by image."""

    name: str

    def __call__(self, view: View) -> Tensor:
        """Of one batch."""


class CachedTeachers:
    """The logits of frozen teachers on every training image, computed once, and what `keeps` make
    of their views.

    Right where a row's image never changes: no augmentation, no mixup. images: (N, H, W, C) uint8,
    row by row; the views of a batch hold what is kept of its rows (as `features`), nothing else.
    """

    def __init__(
        self,
        teachers: FrozenTeachers,
        images: Tensor,
        keeps: Iterable[Keep] = (),
        batch_size: int = 500,
    ):
        self.kept: list[dict[str, Tensor]] = [{} for _ in teachers.networks]
        self.temperatures: list[float | None] = [None] * len(self.kept)
        readers = {LOGITS: lambda view: view.logits} | {keep.name: keep for keep in keeps}
        for start in range(0, len(images), batch_size):
            chunk = images[start : start + batch_size].to(teachers.device)
            rows = torch.empty(len(chunk), dtype=torch.int64, device=teachers.device)
            batch = Batch(chunk.permute(0, 3, 1, 2).float() / 255, rows, rows, clock=None)
            for place, view in enumerate(teachers(batch)):
                self.temperatures[place] = view.temperature
                for name, read in readers.items():
                    part = read(view)
                    if not start:  # room for all: parts to be joined would take it twice
                        room = part.new_empty(len(images), *part.shape[1:])
                        self.kept[place][name] = room
                    self.kept[place][name][start : start + len(part)] = part

    def __call__(self, batch: Batch) -> tuple[View, ...]:
        """One view a teacher, in the order given."""
        views = []
        for kept, temperature in zip(self.kept, self.temperatures, strict=True):
            found = {name: values[batch.rows] for name, values in kept.items()}
            views.append(View(found.pop(LOGITS), features=found, temperature=temperature))
        return tuple(views)
