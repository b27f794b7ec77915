"""Small fits that show what a loss does: a linear classifier of overlapping Gaussian classes.

Everything is drawn from a seed and fitted to convergence in a fraction of a second.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kdlib import metrics, seeding

CLASSES, TEST_IMAGES, SPREAD = 5, 2000, 1.0
LONG_TAIL = (1000, 316, 100, 32, 10)
Loss = Callable[[Tensor, Tensor], Tensor]


def points(counts: tuple[int, ...], purpose: str) -> tuple[Tensor, Tensor]:
    """(N, 2) points around the corners of a pentagon, counts[c] of class c, and labels (N,)."""
    generator = seeding.generator(0, f"toy {purpose}")
    labels = torch.repeat_interleave(torch.arange(CLASSES), torch.tensor(counts))
    angles = 2 * math.pi * labels / CLASSES
    corners = 2 * torch.stack([angles.cos(), angles.sin()], dim=1)
    return corners + SPREAD * torch.randn(len(labels), 2, generator=generator), labels


def fit(inputs: Tensor, targets: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """Weights (2, K) and bias (K,) of the linear classifier that minimises a loss, by L-BFGS."""
    weight = torch.zeros(2, CLASSES, requires_grad=True)
    bias = torch.zeros(CLASSES, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimizer.zero_grad()
        value = loss(inputs @ weight + bias, targets) + 1e-4 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(step)
    return weight.detach(), bias.detach()


def test_row(weight: Tensor, bias: Tensor) -> dict[str, float]:
    """Accuracy of all and of the last (rarest) class, mean confidence and ECE on a balanced test
    set."""
    inputs, labels = points((TEST_IMAGES,) * CLASSES, "test")
    probs = (inputs @ weight + bias).softmax(dim=1)
    rare = labels == CLASSES - 1
    return {
        "acc": metrics.accuracy(probs, labels),
        "acc_rarest": metrics.accuracy(probs[rare], labels[rare]),
        "confidence": float(probs.amax(dim=1).mean()),
        "ece": metrics.ece(probs, labels),
    }
