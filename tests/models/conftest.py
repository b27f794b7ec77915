"""Networks in a realistic state, each made once for the whole session."""

from functools import cache

import pytest
import torch
from torch import nn

from kdlib import models
from kdlib.registry import MODELS


@cache
def settle(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network and a batch: eval mode, 7 classes, side heads where it has them, BatchNorms with
    weights and statistics of their own (fresh ones would make folding trivial). In float64, so
    that two ways of computing the same agree to 1e-9 however deep the network is."""
    needs_32 = {"torchvision_resnet18", "mobilenet_v3_small", "efficientnet_b0"}
    size = 32 if name in needs_32 else max(8, MODELS[name].facts.min_size)
    torch.manual_seed(0)
    heads = MODELS[name].facts.side_heads_min_size is not None
    network = models.build(name, 7, 3, size, side_heads=heads)
    network.preprocess = models.Preprocess([0.5, 0.4, 0.3], [0.2, 0.25, 0.3], size)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = 1.0
    with torch.no_grad():
        network.double()(torch.rand(8, 3, size, size).double())
    return network.eval(), torch.rand(2, 3, size, size).double()


@pytest.fixture
def settled():
    return settle
