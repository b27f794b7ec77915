"""Networks that start from torchvision's ImageNet weights; no test downloads any."""

from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models
from torchvision.models import WeightsEnum

from kdlib import Lab, data, models, notices
from kdlib.registry import MODELS
from kdlib.report.overlapping_tables import Overlap
from kdlib.report.overlapping_text import leaks
from kdlib.store import Store
from kdlib.studies import overlapping as study
from kdlib.train import build_network

FROM_IMAGENET = [name for name in MODELS.names() if MODELS[name].facts.pretrained]
BUILDERS = {
    "torchvision_resnet18": torchvision_models.resnet18,
    "mobilenet_v3_small": torchvision_models.mobilenet_v3_small,
    "efficientnet_b0": torchvision_models.efficientnet_b0,
}


def in_use(name):
    """torchvision's own network with weights and statistics as if it had been trained."""
    torch.manual_seed(1)
    network = BUILDERS[name](weights=None)
    for norm in (one for one in network.modules() if isinstance(one, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        norm.momentum = 1.0
    with torch.no_grad():
        network(torch.rand(4, 3, 64, 64))
    return network.eval()


@pytest.fixture
def downloads(monkeypatch):
    """What torchvision would download: file name -> tensors."""
    files = {}

    def load(weights, **options):
        assert options["check_hash"]
        return files[weights.url.rsplit("/", 1)[1].split("-")[0].removesuffix("_rwightman")]

    monkeypatch.setattr(WeightsEnum, "get_state_dict", load)
    return files


@pytest.fixture
def colours(tmp_path_factory):
    """The folder of a set of four classes of 32-px noise in colour."""
    draw, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data")
    images = draw.integers(0, 256, (80, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(80) % 4
    record = data.from_arrays(
        "colours", images[:60], labels[:60], images[60:], labels[60:], list("0123")
    )
    data.save_npz(record, folder)
    return folder


def test_the_published_students_can_start_from_imagenet():
    assert sorted(FROM_IMAGENET) == sorted(BUILDERS)


@pytest.mark.parametrize("name", FROM_IMAGENET)
def test_the_backbone_computes_what_torchvisions_does(name, downloads):
    source = in_use(name)
    downloads[BUILDERS[name].__name__] = source.state_dict()
    network = models.build(name, 7, 3, 64)
    head = {key: value.clone() for key, value in network.head.state_dict().items()}
    models.start_from_pretrained(network, MODELS[name].facts.pretrained)
    assert network.preprocess.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert network.preprocess.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    images = torch.rand(2, 3, 64, 64)
    layers = list(source.children())
    backbone = nn.Sequential(*(layers[:-2] if len(layers) == 10 else layers[:1]))
    with torch.no_grad():
        theirs = backbone(network.preprocess(images)).mean((2, 3))
        view = network.eval()(images)
    ours = view.embedding
    if name == "mobilenet_v3_small":  # a layer of the study's own stands before its head
        ours = list(view.features.values())[-1].mean((2, 3))
    assert theirs.std() > 0.01
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert all(torch.equal(network.head.state_dict()[key], head[key]) for key in head)


def test_weights_that_do_not_fit_are_refused(downloads):
    downloads["resnet18"] = in_use("efficientnet_b0").state_dict()
    weights = MODELS["torchvision_resnet18"].facts.pretrained
    with pytest.raises(ValueError, match=r"ResNet18_Weights.* are weights of another network"):
        models.start_from_pretrained(models.build("torchvision_resnet18", 7, 3, 64), weights)
    with pytest.raises(ValueError, match="take images of 3 channels, these have 1"):
        models.start_from_pretrained(models.build("torchvision_resnet18", 7, 1, 64), weights)


def test_without_a_network_the_error_names_the_file_and_the_way_out(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = models.build("torchvision_resnet18", 7, 3, 64)
    with pytest.raises(OSError, match=r"no route to host.*put https://.*/resnet18-f37072fd.pth "):
        models.start_from_pretrained(network, MODELS["torchvision_resnet18"].facts.pretrained)


def test_the_warning_names_the_classes_that_the_weights_know():
    weights = MODELS["efficientnet_b0"].facts.pretrained
    assert "among them: bear, golden_retriever. What" in models.leak(
        weights, ["bear", "oak_tree", "golden_retriever"]
    )
    assert "no class is among them by name" in models.leak(weights, ["24", "34"])


def test_a_run_starts_from_them_and_is_stored_without_them(downloads, caplog, tmp_path, colours):
    notices.warn_once.cache_clear()
    source = in_use("mobilenet_v3_small")
    downloads["mobilenet_v3_small"] = source.state_dict()
    params = study.OverlappingTeachers.of(
        data="colours", data_dir=str(colours), class_names=["0", "1", "2", "3"],
        teachers={"a": [0, 1, 2], "b": [2, 3]}, methods=["none"], pretrained=[False, True],
        student_models=["mobilenet_v3_small"], image_size=32, epochs=1, warmup_epochs=0,
        batch_size=8, optimizer="adam", lr=0.001,
    )  # fmt: skip
    plain, pretrained = study.student_runs(params)
    assert (plain.pretrained, pretrained.pretrained) == (
        "",
        "MobileNet_V3_Small_Weights.IMAGENET1K_V1",
    )
    assert plain.id.startswith("student-mobilenet_v3_small-none-seed0")
    assert pretrained.id.startswith("student-mobilenet_v3_small-pretrained-none-seed0")
    lab = Lab.of(params, tmp_path)
    started = build_network(pretrained, lab.record(pretrained)).state_dict()
    assert torch.equal(started["stem.0.0.weight"], source.state_dict()["features.0.0.weight"])
    rows = lab.complete([plain, pretrained])
    assert [row["flags"] for row in rows] == [[], ["ImageNet weights"]]
    assert len([text for text in caplog.messages if "trained with labels on ImageNet" in text]) == 1
    found = Overlap.of(rows, params)
    assert list(found.cells["cell"]) == [
        "mobilenet_v3_small no KD", "mobilenet_v3_small (ImageNet) no KD",
    ]  # fmt: skip
    assert found.effects.empty  # each is the control of its own kind
    assert [text[:26] for text in leaks(found)] == ["MobileNet_V3_Small_Weights"]
    downloads.clear()  # a stored network asks for no weights
    network = Store(tmp_path).network(pretrained)
    assert network.preprocess.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_a_model_without_them_is_refused_by_name():
    asked = study.OverlappingTeachers.of(pretrained=[True], optimizer="adam", lr=0.001)
    with pytest.raises(ValueError, match="'resnet8' has no ImageNet weights, these have: torchv"):
        study.student_runs(asked)
