"""What kdlib asks of every network, whatever it is."""

import pytest
import torch
from torch import nn

from kdlib import models
from kdlib.registry import MODELS

WITH_HEADS = [name for name in models.names() if MODELS[name].facts.side_heads_min_size]
DEEP = {"resnet14", "resnet32", "resnet44", "resnet56", "resnet110"}  # only longer resnet20s
BIG = {"resnet50", "resnext50", "resnet110", "resnet32x4"}
SMALL = [name for name in models.names() if name not in BIG]
every_model = pytest.mark.parametrize("name", models.names())


def outputs(view):
    """Everything a view holds, as one dict of tensors."""
    groups = {
        "feature": view.features,
        "side_logits": view.side_logits,
        "side_feature": view.side_features,
    }
    flat = {
        f"{group} {key}": value for group, items in groups.items() for key, value in items.items()
    }
    return {"logits": view.logits, "embedding": view.embedding, **flat}


def assert_same(view, reference, tolerance=1e-9):
    ours, theirs = outputs(view), outputs(reference)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        scale = theirs[key].abs().max().clamp(min=1)
        torch.testing.assert_close(
            value / scale, theirs[key] / scale, rtol=0, atol=tolerance, msg=key
        )


@every_model
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (64, 3)])
def test_takes_the_study_sizes_or_says_no(name, size, channels):
    smallest = MODELS[name].facts.min_size
    with torch.device("meta"):
        if size < smallest:
            with pytest.raises(ValueError, match=f"{name!r} cannot take {size} px.* {smallest}"):
                models.build(name, 5, channels, size)
            return
        network = models.build(name, 5, channels, size)
        view = network(torch.empty(4, channels, size, size))
    assert view.logits.shape == (4, 5)
    assert view.embedding.ndim == 2
    assert list(view.features) == [f"stage{i + 1}" for i in range(len(view.features))]
    assert all(maps.ndim == 4 for maps in view.features.values())
    assert view.side_logits == view.side_features == {}


@every_model
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_the_smallest_size_is_the_smallest(name):
    """At min_size it runs; one pixel less is refused by name, and truly cannot run."""
    entry = MODELS[name]
    smallest = entry.facts.min_size
    with torch.device("meta"):
        network = models.build(name, 2, 1, smallest).eval()
        assert network(torch.empty(1, 1, smallest, smallest)).logits.shape == (1, 2)
        if smallest > 1:
            images = torch.empty(1, 1, smallest - 1, smallest - 1)
            with pytest.raises(RuntimeError):
                entry.build(2, 1, smallest - 1).eval()(images)


@pytest.mark.parametrize("name", [name for name in WITH_HEADS if name not in DEEP])
def test_the_smallest_size_with_side_heads(name):
    smallest = MODELS[name].facts.side_heads_min_size
    with torch.device("meta"):
        network = models.build(name, 200, 3, smallest, side_heads=True).eval()
        view = network(torch.empty(1, 3, smallest, smallest))
        bigger = network.stem(torch.empty(1, 3, 64, 64))  # Tiny ImageNet: past preprocess
        for key, stage in list(network.stages.items())[:-1]:
            bigger = stage(bigger)
            assert network.side_necks[key](bigger).shape == view.embedding.shape
        side = smallest - 1
        with pytest.raises(RuntimeError):
            MODELS[name].build(2, 3, side, side_heads=True)(torch.empty(2, 3, side, side))
    assert list(view.side_logits) == list(view.side_features) == list(view.features)[:-1]
    assert all(logits.shape == (1, 200) for logits in view.side_logits.values())
    assert all(feature.shape == view.embedding.shape for feature in view.side_features.values())
    with pytest.raises(ValueError, match=f"{name!r} with side heads cannot take {side} px"):
        models.build(name, 200, 3, side, side_heads=True)


@every_model
def test_classify_takes_the_embedding_to_the_logits(name, settled):
    network, images = settled(name)
    with torch.no_grad():
        view = network(images)
        before = view.embedding.clone()
        assert torch.equal(view.classify(view.embedding), view.logits)
    assert torch.equal(view.embedding, before)


@every_model
def test_taps_are_what_the_layers_gave(name, settled):
    """No later layer works in place on an exported map or embedding."""
    network, images = settled(name)
    given = {}
    hooks = [
        layer.register_forward_hook(lambda _, __, out, key=key: given.update({key: out.clone()}))
        for key, layer in [*network.stages.items(), ("neck", network.neck)]
    ]
    with torch.no_grad():
        view = network(images)
    for hook in hooks:
        hook.remove()
    assert torch.equal(given.pop("neck"), view.embedding)
    assert given.keys() == view.features.keys()
    assert all(torch.equal(maps, given[key]) for key, maps in view.features.items())


@every_model
def test_folding_changes_nothing_but_the_batchnorms(name, settled):
    network, images = settled(name)
    folded = models.fold_batchnorm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not any(module.training for module in folded.modules())
    assert models.num_parameters(folded) == 0 < models.num_parameters(network)
    with torch.no_grad():
        assert_same(folded(images), network(images))


@every_model
def test_channels_last_gives_the_same(name, settled):
    network, images = settled(name)
    with torch.no_grad():
        reference = network(images)
        network.to(memory_format=torch.channels_last)
        view = network(images.contiguous(memory_format=torch.channels_last))
        network.to(memory_format=torch.contiguous_format)
    assert_same(view, reference)


@every_model
def test_gradient_reaches_every_parameter(name, settled):
    network, images = settled(name)
    view = network(images)
    loss = sum(logits.square().sum() for logits in (view.logits, *view.side_logits.values()))
    named = dict(network.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()))
    dead = [key for key, grad in zip(named, gradients, strict=True) if not grad.any()]
    assert dead == []


@pytest.mark.parametrize("name", SMALL)
def test_the_seed_decides_the_weights(name):
    def state(seed, **options):
        torch.manual_seed(seed)
        return models.build(name, 3, 1, 32, **options).state_dict()

    first, again, other = state(0), state(0), state(1)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not all(torch.equal(value, other[key]) for key, value in first.items())
    if name in WITH_HEADS:  # the backbone is the same with side heads: runs can be paired
        more = state(0, side_heads=True)
        assert all(torch.equal(value, more[key]) for key, value in first.items())
        assert len(more) > len(first)


def test_compiles_as_one_graph(settled):
    network, images = settled("resnet8_half")
    with torch.no_grad():
        view = torch.compile(network, backend="eager", fullgraph=True)(images)
        assert_same(view, network(images), tolerance=0)
        assert torch.equal(view.classify(view.embedding), view.logits)
