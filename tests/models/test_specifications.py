"""Each network against its paper or study: counts, shapes, and a second, literal implementation."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdlib import models

# parameters for 10 classes at 28x28x1 and at 32x32x3, and the exported maps at 28x28x1
MULTI_TEACHER = {
    "teacher_cnn1": (275_850, 374_730, [(32, 14), (64, 7), (128, 3), (128, 1)], 256),
    "teacher_cnn2": (1_687_050, 2_607_754, [(64, 14), (128, 7), (256, 3)], 512),
    "teacher_resnet": (140_778, 141_354, [(32, 28), (64, 14), (128, 7)], 128),
    "teacher_vgg": (584_170, 814_122, [(32, 14), (64, 7), (128, 3)], 256),
    "teacher_densenet": (106_786, 107_362, [(96, 28), (144, 14)], 72),
    "student": (206_922, 268_650, [(16, 14), (32, 7)], 128),
    "tiny_student": (149_418, 202_810, [(16, 12)], 64),
    "micro_student": (50_874, 66_306, [(8, 14)], 32),
}
# parameters at 100 classes, with side heads where published; stage widths; the stem's stride
RESNETS = {
    "resnet8_half": (22_924, None, [8, 16, 32], 1),
    "resnet8": (83_892, None, [16, 32, 64], 1),
    "resnet14": (181_108, None, [16, 32, 64], 1),
    "resnet20": (278_324, None, [16, 32, 64], 1),
    "resnet32": (472_756, None, [16, 32, 64], 1),
    "resnet44": (667_188, None, [16, 32, 64], 1),
    "resnet56": (861_620, None, [16, 32, 64], 1),
    "resnet110": (1_736_564, None, [16, 32, 64], 1),
    "resnet8x4": (1_233_540, None, [64, 128, 256], 1),
    "resnet32x4": (7_433_860, None, [64, 128, 256], 1),
    "resnet18": (11_220_132, 13_011_152, [64, 128, 256, 512], 1),
    "resnet50": (23_705_252, 50_430_928, [256, 512, 1024, 2048], 1),
    "resnext50": (23_177_124, None, [256, 512, 1024, 2048], 1),
    "torchvision_resnet18": (11_227_812, None, [64, 128, 256, 512], 4),
}


def on_meta(name, num_classes, channels, size, **options):
    with torch.device("meta"):
        network = models.build(name, num_classes, channels, size, **options).eval()
        return models.num_parameters(network), network(torch.empty(2, channels, size, size))


def map_shapes(view):
    return [tuple(maps.shape[1:]) for maps in view.features.values()]


@pytest.mark.parametrize(("name", "expected"), MULTI_TEACHER.items())
def test_multi_teacher_networks(name, expected):
    grey, colour, maps, width = expected
    count, view = on_meta(name, 10, 1, 28)
    assert (count, on_meta(name, 10, 3, 32)[0]) == (grey, colour)
    assert map_shapes(view) == [(channels, side, side) for channels, side in maps]
    assert view.embedding.shape == (2, width)


@pytest.mark.parametrize(("name", "expected"), RESNETS.items())
def test_resnets(name, expected):
    size = 29  # odd: halving rounds up
    plain, with_heads, widths, stride = expected
    count, view = on_meta(name, 100, 3, size)
    assert count == plain
    sides = [math.ceil(size / stride / 2**i) for i in range(len(widths))]
    assert map_shapes(view) == [(w, s, s) for w, s in zip(widths, sides, strict=True)]
    assert view.embedding.shape == (2, widths[-1])
    if with_heads is not None:
        assert on_meta(name, 100, 3, size, side_heads=True)[0] == with_heads


@pytest.mark.parametrize(
    ("name", "count", "num_classes", "maps"),
    [
        ("teacher_overlap", 1_404_997, 5, [(128, 64), (256, 32), (512, 16)]),
        ("mobilenet_v3_small", 1_266_284, 12, [(16, 16), (24, 8), (48, 4), (576, 2)]),
        ("efficientnet_b0", 4_022_920, 12, [(16, 32), (24, 16), (40, 8), (112, 4), (320, 2)]),
    ],
)
def test_overlapping_teachers_networks(name, count, num_classes, maps):
    parameters, view = on_meta(name, num_classes, 3, 64)
    assert parameters == count
    assert map_shapes(view) == [(channels, side, side) for channels, side in maps]


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("mobilenet_v3_small", [1, 2, 5, 4]), ("efficientnet_b0", [1, 1, 1, 2, 2])],
)
def test_torchvision_stages_end_where_the_resolution_does(name, blocks):
    with torch.device("meta"):
        stages = models.build(name, 10).stages
    assert [len(stage) for stage in stages.values()] == blocks


class Literal:
    """The layers of a published network, written out; weights are taken in the order of use."""

    def __init__(self, network):
        skip = ("preprocess", "side_")
        state = network.state_dict().items()
        values = [v for key, v in state if not key.startswith(skip) and v.ndim > 0]
        self.weights = iter(values)
        self.network = network

    def start(self, images):
        mean, std = self.network.preprocess.mean.flatten(), self.network.preprocess.std.flatten()
        return torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(len(mean))], dim=1)

    def conv(self, x, bias=True, **options):
        weight = next(self.weights)
        return F.conv2d(x, weight, next(self.weights) if bias else None, **options)

    def cbr(self, x, bias=True, **options):
        x = self.conv(x, bias, **options)
        weight, bias, mean, variance = (next(self.weights)[:, None, None] for _ in range(4))
        return ((x - mean) / (variance + 1e-5).sqrt() * weight + bias).clamp(min=0)

    def linear(self, x):
        weight = next(self.weights)
        return x @ weight.T + next(self.weights)

    def finish(self, embedding):
        logits = self.linear(embedding)
        assert next(self.weights, None) is None, "weights are left over"
        return embedding, logits


def literal_teacher_resnet(net, x):
    x = net.cbr(x, padding=1)
    x = x + net.cbr(x, padding=1)
    x = net.cbr(x, padding=1, stride=2)
    x = x + net.cbr(x, padding=1)
    x = net.cbr(x, padding=1, stride=2)
    return net.finish(x.mean(dim=(2, 3)))


def literal_teacher_densenet(net, x):
    x = net.cbr(x, padding=1)
    for _ in range(2):
        for _ in range(2):
            x = torch.cat([x, net.cbr(x, padding=1)], dim=1)
        x = F.max_pool2d(net.cbr(x), 2)
    return net.finish(x.mean(dim=(2, 3)))


def literal_teacher_overlap(net, x):
    x = net.cbr(x, bias=False, padding=1)
    x = net.cbr(x, bias=False, padding=1) + net.conv(x, bias=False)
    x = F.max_pool2d(x, 2)
    body = net.cbr(net.cbr(x, bias=False, padding=1), bias=False, padding=1)
    x = F.max_pool2d(body + net.conv(x, bias=False), 2)
    x = net.cbr(x, bias=False)
    x = net.cbr(net.conv(x, bias=False, padding=1, groups=512), bias=False)
    return net.finish(x.mean(dim=(2, 3)))


def literal_cnn(net, x, layers, padded=True):
    for layer in layers.split():
        kernel = 5 if layer.endswith("k5") else 3
        padding = kernel // 2 if padded else 0
        x = F.max_pool2d(x, 2) if layer == "P" else net.conv(x, padding=padding).clamp(min=0)
    hidden = net.linear(x.flatten(1))
    embedding = hidden if not padded else hidden.clamp(min=0)  # tiny_student's is before the ReLU
    return embedding, net.finish(hidden.clamp(min=0))[1]


LITERAL = {
    "teacher_resnet": literal_teacher_resnet,
    "teacher_densenet": literal_teacher_densenet,
    "teacher_overlap": literal_teacher_overlap,
    "teacher_cnn1": lambda net, x: literal_cnn(net, x, "32 P 64 P 128 P 128 P"),
    "teacher_cnn2": lambda net, x: literal_cnn(net, x, "64k5 P 128k5 P 256 P"),
    "teacher_vgg": lambda net, x: literal_cnn(net, x, "32 32 P 64 64 P 128 128 P"),
    "student": lambda net, x: literal_cnn(net, x, "16 P 32 P"),
    "tiny_student": lambda net, x: literal_cnn(net, x, "8 16 P", padded=False),
    "micro_student": lambda net, x: literal_cnn(net, x, "4 8 P"),
}


@pytest.mark.parametrize(("name", "literal"), LITERAL.items())
@torch.no_grad()
def test_against_the_layers_written_out(name, literal, settled):
    network, images = settled(name)
    net = Literal(network)
    embedding, logits = literal(net, net.start(images))
    view = network(images)
    torch.testing.assert_close(view.embedding, embedding, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(view.logits, logits, rtol=1e-9, atol=1e-9)


def torchvision_twin(name):
    """torchvision's network of the same layers, 7 classes."""
    from torchvision import models as zoo

    kinds = {
        "resnet18": zoo.resnet18,
        "torchvision_resnet18": zoo.resnet18,
        "resnet50": zoo.resnet50,
        "resnext50": zoo.resnext50_32x4d,
        "efficientnet_b0": zoo.efficientnet_b0,
        "mobilenet_v3_small": zoo.mobilenet_v3_small,
    }
    twin = kinds[name](weights=None, num_classes=7)
    if name in {"resnet18", "resnet50", "resnext50"}:  # the CIFAR stem
        twin.conv1, twin.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    if name == "mobilenet_v3_small":  # the study's head
        hidden, last = nn.Linear(576, 576), nn.Linear(576, 7)
        twin.classifier = nn.Sequential(hidden, nn.Hardswish(), nn.Dropout(0.2), last)
    return twin.double().eval()


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "torchvision_resnet18",
        "resnet50",
        "resnext50",
        "efficientnet_b0",
        "mobilenet_v3_small",
    ],
)
@torch.no_grad()
def test_against_torchvision_with_the_same_weights(name, settled):
    network, images = settled(name)
    twin = torchvision_twin(name)
    skip = ("preprocess", "side_")
    values = [v for key, v in network.state_dict().items() if not key.startswith(skip)]
    twin.load_state_dict(dict(zip(twin.state_dict(), values, strict=True)))
    expected = twin(network.preprocess(images))
    torch.testing.assert_close(network(images).logits, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_side_head_layer_by_layer(settled):
    network, images = settled("resnet18")
    view = network(images)
    for name, kernel in {"stage1": 8, "stage2": 4, "stage3": 2}.items():
        state = network.side_necks[name].state_dict()
        net = Literal(network)
        net.weights = iter([value for value in state.values() if value.ndim > 0])
        x = net.cbr(view.features[name])
        x = net.cbr(net.cbr(x, stride=kernel))
        feature = x.mean(dim=(2, 3))
        torch.testing.assert_close(view.side_features[name], feature, rtol=1e-9, atol=1e-9)
        head = network.side_heads[name]
        torch.testing.assert_close(view.side_logits[name], head(feature), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["resnet56", "resnet8x4", "teacher_overlap"])
def test_convolutions_start_with_fan_out_variance(name):
    torch.manual_seed(0)
    network = models.build(name, 50)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            width, _, height, breadth = layer.weight.shape
            expected = math.sqrt(2 / (width * height * breadth))
            spread = 5 / math.sqrt(2 * layer.weight.numel())  # five standard errors of a std
            assert layer.weight.std().item() == pytest.approx(expected, rel=spread)
    if name == "teacher_overlap":
        classifier = network.head[-1]
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not classifier.bias.any()


@pytest.mark.parametrize("name", ["teacher_cnn1", "teacher_cnn2", "teacher_vgg", "student"])
def test_dropout_comes_after_the_exported_embedding(name):
    network = models.build(name, 10)
    images = torch.rand(4, 3, 32, 32)
    first, second = network(images), network(images)
    assert torch.equal(first.embedding, second.embedding)
    assert not torch.equal(first.logits, second.logits)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("teacher_cnn1", [0, 0.5]),
        ("teacher_cnn2", [0, 0.5]),
        ("teacher_vgg", [0, 0.5]),
        ("student", [0, 0.25]),
        ("tiny_student", [0.25, 0.5]),
        ("micro_student", [0.25, 0.5]),
        ("teacher_overlap", [0.5, 0.5]),
    ],
)
def test_dropout_rates(name, rates):
    network = models.build(name, 10)
    assert [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)] == rates


def test_tiny_student_exports_before_the_relu(settled):
    tiny, images = settled("tiny_student")
    assert tiny(images).embedding.min() < 0
    student, images = settled("student")
    assert student(images).embedding.min() >= 0


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_narrow_strided_shortcut_is_the_convolution_bit_for_bit(precision):
    """oneDNN's own ended the process on larger maps: `resnet8_half` from 56 px on."""
    narrow = models.build("resnet8_half", 10).stages["stage2"][0].shortcut[0]
    plain = nn.Conv2d(8, 16, 1, stride=2, bias=False)
    plain.load_state_dict(narrow.state_dict())
    images = torch.randn(64, 8, 32, 32).to(memory_format=torch.channels_last)
    found = []
    for layer in (narrow, plain):
        layer.to(memory_format=torch.channels_last)
        own = images.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
            logits = layer(own)
        logits.float().square().sum().backward()
        found.append((logits.detach(), own.grad, layer.weight.grad))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    assert type(narrow) is not type(plain)


def test_a_narrow_resnet_learns_from_64_pixels():
    network = models.build("resnet8_half", 10, image_size=64).to(memory_format=torch.channels_last)
    images = torch.randn(32, 3, 64, 64).to(memory_format=torch.channels_last)
    network(images).logits.sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())
