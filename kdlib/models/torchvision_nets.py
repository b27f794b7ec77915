"""torchvision's small classifiers, cut into the stages that share a resolution.

The cuts are those of timm's feature extractors. torchvision is imported when one is built.
"""

from collections.abc import Sequence

from torch import nn

from kdlib.models.network import Network, global_pool, kaiming_
from kdlib.registry import MODELS


def _cut(features: nn.Sequential, in_channels: int, cuts: Sequence[int]) -> list[nn.Sequential]:
    """[stem, stage, stage, ...] between the cuts, for images of `in_channels` channels."""
    first = features[0][0]
    features[0][0] = kaiming_(
        nn.Conv2d(in_channels, first.out_channels, 3, stride=2, padding=1, bias=False)
    )
    return [features[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]


@MODELS.register(
    "mobilenet_v3_small", version=1, pretrained="MobileNet_V3_Small_Weights.IMAGENET1K_V1"
)
def _mobilenet_v3_small(num_classes: int, in_channels: int, image_size: int) -> Network:
    """With the 576-wide hidden layer of the overlapping-teachers study, not torchvision's 1024."""
    from torchvision.models import mobilenet_v3_small

    features = mobilenet_v3_small(weights=None).features
    stem, *stages = _cut(features, in_channels, [1, 2, 4, 9])
    neck = nn.Sequential(global_pool(), nn.Linear(576, 576), nn.Hardswish(inplace=True))
    head = nn.Sequential(nn.Dropout(0.2), nn.Linear(576, num_classes))
    return Network(stages, neck, head, stem)


@MODELS.register("efficientnet_b0", version=1, pretrained="EfficientNet_B0_Weights.IMAGENET1K_V1")
def _efficientnet_b0(num_classes: int, in_channels: int, image_size: int) -> Network:
    """Its last 1x1 convolution, to 1280 channels, belongs to the neck."""
    from torchvision.models import efficientnet_b0

    network = efficientnet_b0(weights=None, num_classes=num_classes)
    stem, *stages, last = _cut(network.features, in_channels, [1, 2, 3, 4, 6, 8])
    neck = nn.Sequential(last, global_pool())
    return Network(stages, neck, network.classifier, stem)
