"""ResNets (He et al. 2016) and ResNeXt (Xie et al. 2017), post-activation, one row a network.

resnet8 .. resnet110, resnet8x4 and resnet32x4 are the CIFAR networks of the KD literature with 1x1
projection shortcuts (Tian et al. 2020, RepDistiller); resnet8_half has half their widths, for 8x8
digits. resnet18, resnet50 and resnext50 (32x4d) have the self-distillation study's CIFAR stem,
torchvision_resnet18 the ImageNet stem: it is torchvision's network, to the order of its weights.
resnet18_3stages, resnet20_2stages and the like are those networks without their last stages.

All have side heads on request (Zhang et al. 2019, "Be your own teacher"), of the one form that the
self-distillation study gives its ResNets. Its ResNeXt had an attention form that only fits 32 px;
here resnext50 has the same heads as the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from torch import nn

from kdlib.models.network import Network, Residual, conv_norm, global_pool, kaiming_
from kdlib.registry import MODELS


def _residual(body: nn.Sequential, in_width: int, width: int, stride: int) -> Residual:
    same = in_width == width and stride == 1
    shortcut = None if same else conv_norm(in_width, width, 1, stride, relu=False)
    return Residual(body, shortcut, relu=True)


def _basic(in_width: int, width: int, stride: int) -> Residual:
    body = nn.Sequential(
        conv_norm(in_width, width, stride=stride), conv_norm(width, width, relu=False)
    )
    return _residual(body, in_width, width, stride)


def _bottleneck(
    in_width: int, width: int, stride: int, squeeze: int = 4, groups: int = 1
) -> Residual:
    inner = width // squeeze
    body = nn.Sequential(
        conv_norm(in_width, inner, 1),
        conv_norm(inner, inner, stride=stride, groups=groups),
        conv_norm(inner, width, 1, relu=False),
    )
    return _residual(body, in_width, width, stride)


def _imagenet_stem(in_channels: int, width: int) -> nn.Module:
    return nn.Sequential(
        conv_norm(in_channels, width, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1)
    )


@dataclass(frozen=True)
class _ResNet:
    """widths: channels leaving the stem and each stage. Stages after the first halve the map."""

    block: Callable[[int, int, int], Residual]
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    stem: Callable[[int, int], nn.Module] = conv_norm
    stem_stride: int = 1
    pretrained: str = ""

    @property
    def side_heads_min_size(self) -> int:
        """The first side head's kernel, 2^(stages - 1), must fit into the first stage's map."""
        return self.stem_stride * (2 ** (len(self.blocks) - 1) - 1) + 1


_CIFAR, _X4 = (16, 16, 32, 64), (32, 64, 128, 256)
_BASIC, _BOTTLENECK = (64, 64, 128, 256, 512), (64, 256, 512, 1024, 2048)
_RESNEXT = partial(_bottleneck, squeeze=2, groups=32)
_IMAGENET: dict[str, Any] = {
    "stem": _imagenet_stem, "stem_stride": 4, "pretrained": "ResNet18_Weights.IMAGENET1K_V1",
}  # fmt: skip
_HALF = (8, 8, 16, 32)
_RESNETS = {
    "resnet8_half": _ResNet(_basic, (1, 1, 1), _HALF),
    "resnet8_half_2stages": _ResNet(_basic, (1, 1), _HALF[:3]),
    **{
        f"resnet{depth}": _ResNet(_basic, ((depth - 2) // 6,) * 3, _CIFAR)
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    "resnet8_2stages": _ResNet(_basic, (1, 1), _CIFAR[:3]),
    "resnet20_2stages": _ResNet(_basic, (3, 3), _CIFAR[:3]),
    "resnet8x4": _ResNet(_basic, (1, 1, 1), _X4),
    "resnet32x4": _ResNet(_basic, (5, 5, 5), _X4),
    "resnet18": _ResNet(_basic, (2, 2, 2, 2), _BASIC),
    "resnet18_3stages": _ResNet(_basic, (2, 2, 2), _BASIC[:4]),
    "resnet18_2stages": _ResNet(_basic, (2, 2), _BASIC[:3]),
    "resnet50": _ResNet(_bottleneck, (3, 4, 6, 3), _BOTTLENECK),
    "resnext50": _ResNet(_RESNEXT, (3, 4, 6, 3), _BOTTLENECK),
    "torchvision_resnet18": _ResNet(_basic, (2, 2, 2, 2), _BASIC, **_IMAGENET),
}


def _resnet(
    spec: _ResNet, num_classes: int, in_channels: int, image_size: int, side_heads: bool = False
) -> Network:
    stages = []
    for index, (in_width, width) in enumerate(pairwise(spec.widths)):
        first = spec.block(in_width, width, 2 if index else 1)
        rest = [spec.block(width, width, 1) for _ in range(spec.blocks[index] - 1)]
        stages.append(nn.Sequential(first, *rest))
    head = nn.Linear(spec.widths[-1], num_classes)
    network = Network(stages, global_pool(), head, spec.stem(in_channels, spec.widths[0]))
    kaiming_(network)
    if side_heads:  # after the backbone's weights are drawn, so that they do not depend on it
        _add_side_heads(network, spec.widths[1:], num_classes)
    return network


def _add_side_heads(network: Network, widths: tuple[int, ...], num_classes: int) -> None:
    """After every stage but the last; a kernel of 8, 4, 2 spans what later stages would halve."""
    halvings = range(len(widths) - 1, 0, -1)
    for name, width, left in zip(network.stages, widths[:-1], halvings, strict=False):
        network.side_necks[name] = _side_neck(width, widths[-1], 2**left)
        network.side_heads[name] = nn.Linear(widths[-1], num_classes)
    kaiming_(network.side_necks)


def _side_neck(in_width: int, width: int, kernel: int) -> nn.Sequential:
    inner = width // 4
    return nn.Sequential(
        conv_norm(in_width, inner, 1, bias=True),
        conv_norm(inner, inner, kernel, stride=kernel, padding=0, bias=True),
        conv_norm(inner, width, 1, bias=True),
        global_pool(),
    )


for _name, _spec in _RESNETS.items():
    MODELS.register(
        _name, version=1, side_heads_min_size=_spec.side_heads_min_size, pretrained=_spec.pretrained
    )(partial(_resnet, _spec))
