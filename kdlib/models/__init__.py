"""Every network of the study, by name: images in [0, 1] in, a `kdlib.types.View` out.

A model is added by registering one function of (num_classes, in_channels, image_size):

    @MODELS.register("two_stages", min_size=2)
    def two_stages(num_classes, in_channels, image_size):
        stages = [conv_norm(in_channels, 16), conv_norm(16, 32, stride=2)]
        return Network(stages, neck=global_pool(), head=nn.Linear(32, num_classes))

Any other module of logits will do as well, for methods that read no maps and no embeddings.

What `build` reads of its facts: `min_size`, the smallest image the network takes (default 1), and
`side_heads_min_size`, the smallest with side heads, for functions that also take `side_heads`. A
fact `pretrained` names the ImageNet weights of torchvision's that a network may start from.
"""

import functools
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import nn

from kdlib.models import cnns, resnets, torchvision_nets  # noqa: F401 (importing registers them)
from kdlib.models.network import Network, Plain, Preprocess, Residual, conv_norm, global_pool
from kdlib.models.pretrained import leak, start_from_pretrained
from kdlib.models.tools import flops, fold_batchnorm, num_parameters
from kdlib.registry import MODELS

__all__ = [
    "Network",
    "Plain",
    "Preprocess",
    "Residual",
    "build",
    "conv_norm",
    "flops",
    "fold_batchnorm",
    "global_pool",
    "leak",
    "names",
    "num_parameters",
    "size",
    "start_from_pretrained",
]


def names() -> list[str]:
    """Every model that `build` knows, in the order of registration."""
    return MODELS.names()


def build(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    side_heads: bool = False,
) -> nn.Module:
    """A new network with weights drawn from torch's global generator, in training mode.

    It takes (B, in_channels, H, W) images in [0, 1] and returns a `kdlib.types.View`. Its first
    layer, `preprocess`, resizes images of another size to `image_size` and normalises by mean 0 and
    std 1 until it is replaced by another `Preprocess`. Side heads are drawn last: for one seed the
    network is the same with and without them.

    Raises LookupError (unknown name), TypeError or ValueError (a count that is none, an image too
    small for the network, side heads on a network without them).

    >>> import torch
    >>> view = build("resnet8", num_classes=10)(torch.rand(2, 3, 32, 32))
    >>> view.logits.shape, view.embedding.shape, view.features["stage3"].shape
    (torch.Size([2, 10]), torch.Size([2, 64]), torch.Size([2, 64, 8, 8]))
    """
    entry = MODELS[name]
    counts = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    _check(name, counts, side_heads)
    options = {"side_heads": True} if side_heads else {}
    model = entry.build(num_classes, in_channels, image_size, **options)
    model = model if isinstance(model, Network) else Plain(model)
    model.preprocess = Preprocess((0.0,) * int(in_channels), (1.0,) * int(in_channels), image_size)
    return model


@functools.cache
def size(**shape: Any) -> tuple[int, int]:
    """Trainable parameters, and floating-point operations of one image's forward, of the network
    that `build` makes of this shape; no weights are drawn."""
    with torch.device("meta"):
        network = build(**shape)
    pixels = shape["image_size"]
    return num_parameters(network), flops(network, (shape["in_channels"], pixels, pixels))


def _check(name: str, counts: Mapping[str, int], side_heads: bool) -> None:
    """Refuse what `build` cannot make."""
    facts = MODELS[name].facts
    for argument, value in counts.items():
        if not isinstance(value, Integral):
            raise TypeError(f"{argument} must be an integer, got {value!r}")
        if value < 1:
            raise ValueError(f"{argument} must be at least 1, got {value}")
    if side_heads and facts.side_heads_min_size is None:
        known = [one for one in names() if MODELS[one].facts.side_heads_min_size is not None]
        raise ValueError(f"side_heads: {name!r} has none, these have: {', '.join(known)}")
    min_size = facts.side_heads_min_size if side_heads else facts.min_size
    if counts["image_size"] < min_size:
        with_heads = " with side heads" if side_heads else ""
        raise ValueError(
            f"image_size: {name!r}{with_heads} cannot take {counts['image_size']} px, it needs "
            f"{min_size}"
        )
