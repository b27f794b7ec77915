"""The small networks of the multi-teacher study and the teacher of the overlapping-teachers study.

They start from torch's default initialisation, as published, but for `teacher_overlap`.
"""

from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise

import torch
from torch import Tensor, nn

from kdlib.models.network import Network, Residual, conv_norm, global_pool, kaiming_
from kdlib.registry import MODELS


@dataclass(frozen=True)
class _Cnn:
    """Stages of convolutions with ReLU, a 2x2 max-pool closing each; one hidden layer; a head.

    stages: the widths of each stage's convolutions. embedding: width of the hidden layer. dropout:
    before the head; map_dropout: before the hidden layer. linear_embedding: the exported embedding
    is taken before the hidden layer's ReLU.
    """

    stages: tuple[tuple[int, ...], ...]
    embedding: int
    dropout: float
    kernels: tuple[int, ...] = (3, 3, 3, 3)
    padded: bool = True
    map_dropout: float = 0.0
    linear_embedding: bool = False

    def side(self, image_size: int) -> int:
        """Height of the last map; below 1 where the image is too small."""
        for widths, kernel in zip(self.stages, self.kernels, strict=False):
            shrinkage = 0 if self.padded else len(widths) * (kernel - 1)
            image_size = (image_size - shrinkage) // 2
        return image_size

    @property
    def min_size(self) -> int:
        return next(size for size in count(1) if self.side(size) >= 1)


_CNNS = {
    "teacher_cnn1": _Cnn(((32,), (64,), (128,), (128,)), 256, 0.5),
    "teacher_cnn2": _Cnn(((64,), (128,), (256,)), 512, 0.5, kernels=(5, 5, 3)),
    "teacher_vgg": _Cnn(((32, 32), (64, 64), (128, 128)), 256, 0.5),
    "student": _Cnn(((16,), (32,)), 128, 0.25),
    "tiny_student": _Cnn(
        ((8, 16),), 64, 0.5, padded=False, map_dropout=0.25, linear_embedding=True
    ),
    "micro_student": _Cnn(((4, 8),), 32, 0.5, map_dropout=0.25),
}


def _cnn(spec: _Cnn, num_classes: int, in_channels: int, image_size: int) -> Network:
    stages, in_width = [], in_channels
    for widths, kernel in zip(spec.stages, spec.kernels, strict=False):
        padding = kernel // 2 if spec.padded else 0
        layers = []
        for before, width in pairwise((in_width, *widths)):
            layers += [nn.Conv2d(before, width, kernel, padding=padding), nn.ReLU(inplace=True)]
        # ReLU and max-pool commute, and after the pool the ReLU has a quarter of the work
        layers.insert(-1, nn.MaxPool2d(2))
        stages.append(nn.Sequential(*layers))
        in_width = widths[-1]
    hidden = nn.Linear(in_width * spec.side(image_size) ** 2, spec.embedding)
    neck = [nn.Dropout(spec.map_dropout), nn.Flatten(), hidden]
    head = [nn.Dropout(spec.dropout), nn.Linear(spec.embedding, num_classes)]
    if spec.linear_embedding:
        head.insert(0, nn.ReLU())  # not in place: it reads the exported embedding
    else:
        neck.append(nn.ReLU(inplace=True))
    return Network(stages, nn.Sequential(*neck), nn.Sequential(*head))


for _name, _spec in _CNNS.items():
    MODELS.register(_name, version=1, min_size=_spec.min_size)(partial(_cnn, _spec))


@MODELS.register("teacher_resnet", version=1)
def _teacher_resnet(num_classes: int, in_channels: int, image_size: int) -> Network:
    conv = partial(conv_norm, bias=True)
    stages = [  # as published, the skip is added after the ReLU
        nn.Sequential(conv(in_channels, 32), Residual(conv(32, 32))),
        nn.Sequential(conv(32, 64, stride=2), Residual(conv(64, 64))),
        conv(64, 128, stride=2),
    ]
    return Network(stages, global_pool(), nn.Linear(128, num_classes))


class _Dense(nn.Module):
    """The input with `growth` new channels after it (Huang et al. 2017)."""

    def __init__(self, in_width: int, growth: int):
        super().__init__()
        self.body = conv_norm(in_width, growth, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], dim=1)


@MODELS.register("teacher_densenet", version=1, min_size=4)
def _teacher_densenet(num_classes: int, in_channels: int, image_size: int) -> Network:
    def transition(in_width: int) -> nn.Sequential:
        return nn.Sequential(conv_norm(in_width, in_width // 2, 1, bias=True), nn.MaxPool2d(2))

    stages = [
        nn.Sequential(_Dense(32, 32), _Dense(64, 32)),
        nn.Sequential(transition(96), _Dense(48, 48), _Dense(96, 48)),
    ]
    neck = nn.Sequential(transition(144), global_pool())
    stem = conv_norm(in_channels, 32, bias=True)
    return Network(stages, neck, nn.Linear(72, num_classes), stem)


@MODELS.register("teacher_overlap", version=1, min_size=4)
def _teacher_overlap(num_classes: int, in_channels: int, image_size: int) -> Network:
    def project(in_width: int, width: int) -> nn.Conv2d:
        return nn.Conv2d(in_width, width, 1, bias=False)

    wide = nn.Sequential(conv_norm(128, 256), conv_norm(256, 256))
    depthwise = nn.Conv2d(512, 512, 3, padding=1, groups=512, bias=False)
    stages = [
        Residual(conv_norm(64, 128), project(64, 128)),
        nn.Sequential(nn.MaxPool2d(2), Residual(wide, project(128, 256))),
        nn.Sequential(nn.MaxPool2d(2), conv_norm(256, 512, 1), depthwise, conv_norm(512, 512, 1)),
    ]
    neck = nn.Sequential(nn.Dropout(0.5), global_pool())
    classifier = nn.Linear(512, num_classes)
    head = nn.Sequential(nn.Dropout(0.5), classifier)
    network = kaiming_(Network(stages, neck, head, stem=conv_norm(in_channels, 64)))
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    return network
