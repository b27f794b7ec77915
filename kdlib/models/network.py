"""What every network is made of: preprocessing, the usual blocks, the frame that shows its taps.

Two habits matter to the rest of kdlib. A convolution and its BatchNorm are neighbours in an
`nn.Sequential`, which is how `fold_batchnorm` finds them. ReLUs work in place, so none of them may
be the first layer after a tap (`features`, `embedding`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib.types import View


class Preprocess(nn.Module):
    """A network's first layer: its image size and its statistics.

    Maps (B, C, H, W) float images in [0, 1] to (images - mean) / std. mean, std: C numbers, kept as
    (C, 1, 1) buffers of the state dict. With `image_size` S images of another size are resized to
    (S, S) first, bilinear and antialiased.

    >>> Preprocess(mean=[0.5], std=[0.25])(torch.tensor([0.25, 1.0]).reshape(1, 1, 1, 2)).flatten()
    tensor([-1.,  2.])
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], image_size: int | None = None):
        super().__init__()
        if len(mean) != len(std) or len(mean) == 0:
            raise ValueError(f"mean and std need one number a channel, got {mean} and {std}")
        if not all(value > 0 for value in std):
            raise ValueError(f"std must be positive, got {std}")
        self.image_size = image_size
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            # one channel would otherwise broadcast against three means without a word
            shape = tuple(images.shape)
            raise ValueError(f"images must be (B, {len(self.mean)}, H, W), got {shape}")
        if not images.is_floating_point():
            raise TypeError(f"images must be floats in [0, 1], got {images.dtype}")
        size = (self.image_size, self.image_size)
        if self.image_size is not None and images.shape[2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return (images - self.mean) / self.std


class Network(nn.Module):
    """preprocess -> stem -> stages -> neck -> head, returning what it computes on the way.

    stages: modules from map to map; their outputs are the view's `features`, named "stage1",
    "stage2", ... (the stem's output is not one of them). neck: last map (B, C, H, W) to embedding
    (B, D). head: embedding to logits (B, K), also the view's `classify`; its dropout, if it has
    any, is active in training mode. side_necks and side_heads are the same pair for a stage, by the
    stage's name, empty unless asked for.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        neck: nn.Module,
        head: nn.Module,
        stem: nn.Module | None = None,
    ):
        super().__init__()
        self.preprocess: nn.Module = nn.Identity()  # `build` puts the Preprocess here
        self.stem = nn.Identity() if stem is None else stem
        self.stages = nn.ModuleDict({f"stage{i}": stage for i, stage in enumerate(stages, 1)})
        self.neck = neck
        self.head = head
        self.side_necks = nn.ModuleDict()
        self.side_heads = nn.ModuleDict()

    def forward(self, images: Tensor) -> View:
        maps = self.stem(self.preprocess(images))
        features = {}
        for name, stage in self.stages.items():
            features[name] = maps = stage(maps)
        embedding = self.neck(maps)
        side_features = {name: neck(features[name]) for name, neck in self.side_necks.items()}
        return View(
            logits=self.head(embedding),
            embedding=embedding,
            features=features,
            side_logits={name: head(side_features[name]) for name, head in self.side_heads.items()},
            side_features=side_features,
            classify=self.head,
        )


class Plain(nn.Module):
    """A module that returns logits (B, K), or a `View`, behind preprocessing of its own."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.preprocess: nn.Module = nn.Identity()  # `build` puts the Preprocess here
        self.module = module

    def forward(self, images: Tensor) -> View:
        shown = self.module(self.preprocess(images))
        return shown if isinstance(shown, View) else View(shown)


class Residual(nn.Module):
    """body(x) + shortcut(x), the shortcut the identity unless given; a ReLU after it on request."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, relu: bool = False):
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        self.activation = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


class _Thinned(nn.Conv2d):
    """A 1 x 1 convolution with a stride, bit for bit: it convolves the pixels that the stride
    leaves. For few channels, where oneDNN's own ends the process in the backward pass on maps of 56
    px and more (float32, channels_last, torch 2.13)."""

    NARROW = 8

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(x[..., ::rows, ::columns], self.weight, self.bias, groups=self.groups)


def conv_norm(
    in_width: int,
    width: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    padding: int | None = None,
    groups: int = 1,
    bias: bool = False,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution, BatchNorm and, unless told otherwise, ReLU; padding kernel // 2 by default."""
    padding = kernel // 2 if padding is None else padding
    narrow = kernel == 1 and stride > 1 and in_width <= _Thinned.NARROW
    conv = _Thinned if narrow else nn.Conv2d
    layers = [
        conv(in_width, width, kernel, stride, padding, groups=groups, bias=bias),
        nn.BatchNorm2d(width),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def global_pool() -> nn.Sequential:
    """Global average pooling, (B, C, H, W) -> (B, C)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def kaiming_(module: nn.Module) -> nn.Module:
    """Draw every convolution anew, normal with std sqrt(2 / fan_out) (He et al. 2015, eq. 14)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return module
