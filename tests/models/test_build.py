"""The front door: names, errors, preprocessing, registration, and what is counted."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kdlib import models
from kdlib.registry import MODELS
from kdlib.types import View


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("resnet21", 10), LookupError, "unknown model 'resnet21', did you mean 'resnet"),
        (("resnet20", 10.0), TypeError, "num_classes must be an integer, got 10.0"),
        (("resnet20", 0), ValueError, "num_classes must be at least 1, got 0"),
        (("resnet20", 10, 0), ValueError, "in_channels must be at least 1, got 0"),
        (("resnet20", 10, 1, -8), ValueError, "image_size must be at least 1, got -8"),
        (("teacher_cnn1", 10, 1, 8), ValueError, "'teacher_cnn1' cannot take 8 px, it needs 16"),
        (("student", 10, 1, 28, True), ValueError, "side_heads: 'student' has none, .*resnet18"),
        (("resnet18", 10, 1, 7, True), ValueError, "'resnet18' with side heads .* 7 px.* 8"),
    ],
)
def test_build_says_what_is_wrong(arguments, error, message):
    with pytest.raises(error, match=message):
        models.build(*arguments)


def test_names_hold_every_public_name():
    promised = """teacher_cnn1 teacher_cnn2 teacher_resnet teacher_vgg teacher_densenet student
    tiny_student micro_student teacher_overlap resnet8_half resnet8 resnet14 resnet20 resnet32
    resnet44 resnet56 resnet110 resnet8x4 resnet32x4 resnet18 resnet50 resnext50
    torchvision_resnet18 mobilenet_v3_small efficientnet_b0"""
    assert set(promised.split()) <= set(models.names())


def test_a_user_adds_a_model_with_one_function(monkeypatch):
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))

    @MODELS.register("two_stages", min_size=2)
    def two_stages(num_classes, in_channels, image_size):
        stages = [models.conv_norm(in_channels, 16), models.conv_norm(16, 32, stride=2)]
        return models.Network(stages, neck=models.global_pool(), head=nn.Linear(32, num_classes))

    view = models.build("two_stages", 4, 1, 8)(torch.rand(3, 1, 8, 8))
    assert view.logits.shape == (3, 4)
    assert [tuple(maps.shape) for maps in view.features.values()] == [(3, 16, 8, 8), (3, 32, 4, 4)]


def test_preprocess_starts_as_the_identity():
    network = models.build("resnet8_half", 10, 3, 8)
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(network.preprocess(images), images)
    assert next(iter(network.named_children()))[0] == "preprocess"
    assert network.state_dict()["preprocess.mean"].shape == (3, 1, 1)


def test_preprocess_normalises_each_channel():
    images = torch.rand(2, 3, 4, 4)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    layer = models.Preprocess(mean, std)
    expected = images.numpy().copy()
    for channel in range(3):
        expected[:, channel] = (expected[:, channel] - mean[channel]) / std[channel]
    np.testing.assert_allclose(layer(images).numpy(), expected, rtol=1e-6, atol=1e-7)
    fresh = models.Preprocess([0.0] * 3, [1.0] * 3)
    fresh.load_state_dict(layer.state_dict())  # a checkpoint carries its statistics
    assert torch.equal(fresh(images), layer(images))


@pytest.mark.parametrize(("before", "after"), [(8, 28), (32, 12), (28, 28)])
def test_preprocess_resizes_as_pillow_does(before, after):
    image = np.random.default_rng(0).random((before, before), dtype=np.float32)
    resized = models.Preprocess([0.0], [1.0], after)(torch.from_numpy(image)[None, None])
    expected = Image.fromarray(image).resize((after, after), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(resized[0, 0].numpy(), np.asarray(expected), atol=1e-5)


def test_a_network_takes_images_of_another_size_through_preprocess():
    network = models.build("student", 10, 1, 28).eval()
    small = torch.rand(2, 1, 8, 8)
    large = nn.functional.interpolate(small, (28, 28), mode="bilinear", antialias=True)
    assert torch.equal(network(small).logits, network(large).logits)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.rand(2, 1, 8, 8), ValueError, r"\(B, 3, H, W\), got \(2, 1, 8, 8\)"),
        (torch.rand(3, 8, 8), ValueError, r"\(B, 3, H, W\), got \(3, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), TypeError, "floats .* got torch.uint8"),
    ],
)
def test_images_are_checked(images, error, message):
    with pytest.raises(error, match=message):
        models.build("resnet8_half", 10, 3, 8)(images)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5], [0.2, 0.2], r"one number a channel, got \[0.5\] and \[0.2, 0.2\]"),
        ([], [], r"one number a channel"),
        ([0.5], [0.0], r"std must be positive, got \[0.0\]"),
        ([0.5], [float("nan")], r"std must be positive, got \[nan\]"),
    ],
)
def test_statistics_are_checked(mean, std, message):
    with pytest.raises(ValueError, match=message):
        models.Preprocess(mean, std)


def test_flops_by_hand():
    network = models.build("student", 10, 1, 28)
    convolutions = 28 * 28 * 16 * (3 * 3 * 1) + 14 * 14 * 32 * (3 * 3 * 16)
    assert models.flops(network, (1, 28, 28)) == 2 * (convolutions + 1568 * 128 + 128 * 10)
    assert network.training
    assert next(network.parameters()).device.type == "cpu"
    with pytest.raises(ValueError, match=r"image_shape must be \(C, H, W\), got \(28, 28\)"):
        models.flops(network, (28, 28))


def test_flops_know_groups_and_side_heads():
    network = models.build("resnext50", 10)
    grouped = network.stages["stage1"][0].body[1][0]
    assert models.flops(grouped, (128, 32, 32)) == 2 * 32 * 32 * 128 * (3 * 3 * 128 // 32)
    plain, heads = (models.build("resnet20", 10, side_heads=flag) for flag in (False, True))
    assert models.flops(heads, (3, 32, 32)) > models.flops(plain, (3, 32, 32))


def test_num_parameters_counts_what_trains():
    network = models.build("resnet8", 10)
    total = models.num_parameters(network)
    network.head.requires_grad_(False)
    assert models.num_parameters(network) == total - (64 * 10 + 10)


def test_a_batchnorm_without_its_convolution_is_not_folded():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))
    folded = models.fold_batchnorm(network)
    assert all(module.training for module in network.modules())  # it works on a copy
    images = torch.rand(2, 3, 4, 4)
    assert [type(layer) for layer in folded] == [type(layer) for layer in network]
    assert torch.equal(folded(images), network.eval()(images))


def test_what_lies_before_a_batchnorm_of_a_plain_module_stays():
    class Peeking(nn.Module):
        """Shows its maps before they are normalised, as some published hints are."""

        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

        def forward(self, images):
            maps = self.block[0](images)
            return View(self.block[1](maps).mean((2, 3)), features={"stage1": maps})

    class Swapped(nn.Sequential):
        def forward(self, images):
            return self[0](self[1](images))

    images = torch.rand(8, 3, 4, 4)
    peeking, swapped = models.Plain(Peeking()), Swapped(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    for network in (peeking, swapped):
        network(images)  # statistics of their own
    seen, folded = peeking.eval()(images), models.fold_batchnorm(peeking)(images)
    assert torch.equal(seen.features["stage1"], folded.features["stage1"])
    assert torch.equal(models.fold_batchnorm(swapped)(images), swapped.eval()(images))
