"""Where the teachers' views come from: frozen networks, run once a step for a cohort, or once."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdlib import models
from kdlib.types import Batch, View


class FrozenTeachers:
    """Trained networks that only look: eval mode, BatchNorm folded, no gradient.

    Folding changes logits by rounding only; the teachers see the students' (mixed) images through
    their own preprocessing. A network's attribute `temperature`, where it has one, goes into its
    view. No teachers at all is fine: no views.
    """

    def __init__(self, networks: Sequence[nn.Module] = (), device: str = "cpu"):
        self.device = device
        self.networks = [models.fold_batchnorm(network).to(device) for network in networks]

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[View, ...]:
        """One view a teacher, in the order given."""
        return tuple(
            replace(network(batch.images), temperature=getattr(network, "temperature", None) or 1.0)
            for network in self.networks
        )


class CachedTeachers:
    """The logits of frozen teachers on every training image, computed once.

    Right where a row's image never changes: no augmentation, no mixup. images: (N, H, W, C) uint8,
    row by row; the views of a batch hold the logits of its rows and nothing else.
    """

    def __init__(self, teachers: FrozenTeachers, images: Tensor, batch_size: int = 500):
        parts: list[list[Tensor]] = [[] for _ in teachers.networks]
        self.temperatures = [1.0] * len(parts)
        for chunk in images.split(batch_size):
            inputs = chunk.to(teachers.device).permute(0, 3, 1, 2).float() / 255
            rows = torch.empty(len(chunk), dtype=torch.int64, device=teachers.device)
            for place, view in enumerate(teachers(Batch(inputs, rows, rows, clock=None))):
                parts[place].append(view.logits)
                self.temperatures[place] = view.temperature
        self.logits = [torch.cat(part) for part in parts]

    def __call__(self, batch: Batch) -> tuple[View, ...]:
        """One view a teacher, in the order given."""
        return tuple(
            View(logits[batch.rows], temperature=temperature)
            for logits, temperature in zip(self.logits, self.temperatures, strict=True)
        )
