"""Where the teachers' views come from: frozen networks, run once a step for the whole cohort."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from kdlib import models
from kdlib.types import Batch, View


class FrozenTeachers:
    """Trained networks that only look: eval mode, BatchNorm folded, no gradient.

    Folding changes logits by rounding only; the teachers see the students' (mixed) images through
    their own preprocessing. A network's attribute `temperature`, where it has one, goes into its
    view. No teachers at all is fine: no views.
    """

    def __init__(self, networks: Sequence[nn.Module] = (), device: str = "cpu"):
        self.networks = [models.fold_batchnorm(network).to(device) for network in networks]

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[View, ...]:
        """One view a teacher, in the order given."""
        return tuple(
            replace(network(batch.images), temperature=getattr(network, "temperature", None) or 1.0)
            for network in self.networks
        )
