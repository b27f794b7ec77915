"""The network of a run, and what it predicts."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdlib import models, objectives, seeding
from kdlib.config import Run
from kdlib.data import ImageSet


def build_network(run: Run, record: ImageSet) -> nn.Module:
    """A run's network with its initial weights, a function of (seed, model), and its preprocessing:
    the set's own statistics."""
    seeding.seed_global(run.seed, f"init {run.model}")
    network = models.build(**network_shape(run, record))
    size = network.preprocess.image_size
    network.preprocess = models.Preprocess(record.mean, record.std, size)
    return network


def network_shape(run: Run, record: ImageSet) -> dict[str, Any]:
    """The arguments of `models.build` that make a run's network again."""
    own = run.given.preprocess if run.given else None
    shape = {
        "name": run.model,
        "num_classes": record.num_classes,
        "in_channels": record.in_channels,
        "image_size": (own and own.image_size) or record.image_size,
    }
    return shape | ({"side_heads": True} if objectives.needs_side_heads(run) else {})


@torch.no_grad()
def predict(network: nn.Module, images: np.ndarray | Tensor, batch_size: int = 500) -> Tensor:
    """Logits (N, K) float32 on the CPU for uint8 images (N, H, W, C), in eval mode."""
    device = next(network.parameters()).device
    training, logits = network.training, []
    network.eval()
    for chunk in torch.as_tensor(images).split(batch_size):
        inputs = chunk.to(device).permute(0, 3, 1, 2).float() / 255
        logits.append(network(inputs).logits.float().cpu())
    network.train(training)
    return torch.cat(logits)
