"""The network of a run, and what it predicts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdlib import models, objectives, seeding
from kdlib.config import Run
from kdlib.data import ImageSet

FINAL = "final"  # a network's own head, beside side heads named by their stage


def build_network(run: Run, record: ImageSet) -> nn.Module:
    """A run's network with its initial weights, a function of (seed, model), and its preprocessing:
    the set's own statistics, or those that the pretrained weights it starts from expect."""
    seeding.seed_global(run.seed, f"init {run.model}")
    network = models.build(**network_shape(run, record))
    size = network.preprocess.image_size
    network.preprocess = models.Preprocess(record.mean, record.std, size)
    if run.pretrained:
        models.start_from_pretrained(network, run.pretrained)
    return network


def network_shape(run: Run, record: ImageSet) -> dict[str, Any]:
    """The arguments of `models.build` that make a run's network again."""
    shape = {
        "name": run.model,
        "num_classes": record.num_classes,
        "in_channels": record.in_channels,
        "image_size": run.input_size(record.image_size),
    }
    return shape | ({"side_heads": True} if objectives.needs_side_heads(run) else {})


def predict(network: nn.Module, images: np.ndarray | Tensor, batch_size: int = 500) -> Tensor:
    """Logits (N, K) float32 on the CPU for uint8 images (N, H, W, C), in eval mode."""
    return predict_heads(network, images, (), batch_size)[FINAL]


@torch.no_grad()
def predict_heads(
    network: nn.Module,
    images: np.ndarray | Tensor,
    side_heads: Sequence[str],
    batch_size: int = 500,
) -> dict[str, Tensor]:
    """The same of the named side heads and, last, of the network's own head, "final"."""
    device = next(network.parameters()).device
    training = network.training
    found: dict[str, list[Tensor]] = {name: [] for name in (*side_heads, FINAL)}
    network.eval()
    for chunk in torch.as_tensor(images).split(batch_size):
        inputs = chunk.to(device).permute(0, 3, 1, 2).float() / 255
        view = network(inputs)
        for name, logits in found.items():
            shown = view.logits if name == FINAL else view.side_logits[name]
            logits.append(shown.float().cpu())
    network.train(training)
    return {name: torch.cat(logits) for name, logits in found.items()}
