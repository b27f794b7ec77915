"""What is done to a finished network: folding its BatchNorms, counting its parameters and FLOPs."""

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from kdlib.models.network import Plain


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A frozen copy in eval mode, without gradients, BatchNorms folded into their convolutions.

    Pairs are found as neighbours in an `nn.Sequential`; a BatchNorm elsewhere, and in a `Plain`
    module, which may read what lies between the two, stays as it is. The folded BatchNorms become
    identities, so names and taps keep their places; outputs are those of `model.eval()` but for
    rounding.
    """
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    for block in () if isinstance(model, Plain) else folded.modules():
        if getattr(type(block), "forward", None) is not nn.Sequential.forward:
            continue  # no sequence, or one that may call its parts in another order
        for index, (conv, norm) in enumerate(pairwise(list(block))):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                block[index] = fuse_conv_bn_eval(conv, norm)
                block[index + 1] = nn.Identity().eval()
    return folded


def num_parameters(model: nn.Module) -> int:
    """Trainable parameters, side heads included where the model has them."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def flops(model: nn.Module, image_shape: Sequence[int]) -> int:
    """Floating-point operations of one forward pass of one image (C, H, W), on no device.

    Two a multiply-add; convolutions and matrix products count, elementwise work and pooling do not.
    """
    if len(image_shape) != 3:
        raise ValueError(f"image_shape must be (C, H, W), got {tuple(image_shape)}")
    ghost = copy.deepcopy(model).eval().to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ghost(torch.empty(1, *image_shape, device="meta"))
    return counter.get_total_flops()
