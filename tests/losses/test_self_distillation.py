"""Self-distillation: loops over the formulas; nothing counted twice or detached."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax

from kdlib.losses import byot, mutual_feature, pskd_targets


def randn(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_()


def test_pskd_targets():
    one_hot, probs = torch.eye(3, dtype=torch.int64), torch.full((3, 3), 1 / 3, requires_grad=True)
    targets = pskd_targets(one_hot, probs, 0.3)
    torch.testing.assert_close(targets, 0.7 * one_hot + 0.1)
    assert not targets.requires_grad
    assert torch.equal(pskd_targets(one_hot, probs, 0), one_hot.float())
    assert torch.equal(pskd_targets(one_hot, probs, 1), probs)
    assert pskd_targets(one_hot, probs.bfloat16(), 0.5).dtype == torch.float32
    for alpha in (0.0, 0.3, 0.8, 1.0):
        number, tensor = (pskd_targets(one_hot, probs, one) for one in (alpha, torch.tensor(alpha)))
        assert torch.equal(number, tensor)
    with pytest.raises(TypeError, match="alpha must be floating point"):
        pskd_targets(one_hot, probs, torch.tensor(1))


@pytest.fixture
def heads():
    return {
        "logits": randn(4, 5),
        "side_logits": [randn(4, 5, seed=s) for s in (1, 2)],
        "feature": randn(4, 7, seed=3),
        "side_features": [randn(4, 7, seed=s) for s in (4, 5)],
        "targets": torch.tensor([0, 4, 2, 2]),
    }


def literal_byot(heads, temperature, alpha, hint):
    z, f = heads["logits"].detach().numpy(), heads["feature"].detach().numpy()
    total = 0
    for side, feature in zip(heads["side_logits"], heads["side_features"], strict=True):
        side, feature = side.detach().numpy(), feature.detach().numpy()
        for b, label in enumerate(heads["targets"]):
            p, q = softmax(z[b] / temperature), softmax(side[b] / temperature)
            total += (1 - alpha) * -log_softmax(side[b])[label]
            total += alpha * temperature**2 * rel_entr(p, q).sum()
            total += hint * np.sum((feature[b] - f[b]) ** 2)
    return total / len(z)


@pytest.mark.parametrize("constants", [(3.0, 0.1, 1.28e-4), (1.0, 0.0, 0), (2, 1, 0.5)])
def test_byot_equals_the_formula(heads, constants):
    """Among others: the final head's cross-entropy is not in it."""
    value = byot(**heads, temperature=constants[0], alpha=constants[1], hint=constants[2])
    assert value.item() == pytest.approx(literal_byot(heads, *constants), rel=1e-12)
    if constants == (3.0, 0.1, 1.28e-4):
        assert value == byot(**heads)


def test_byot_takes_soft_targets(heads):
    soft = torch.nn.functional.one_hot(heads["targets"], 5).double()
    torch.testing.assert_close(byot(**heads), byot(**heads | {"targets": soft}))


def test_byot_teaches_the_side_heads_only(heads):
    byot(**heads).backward()
    for side in heads["side_logits"] + heads["side_features"]:
        assert side.grad.norm() > 1e-5
    assert heads["logits"].grad is None
    assert heads["feature"].grad is None


def test_mutual_feature_equals_the_formula():
    final, sides = randn(4, 6), [randn(4, 6, seed=s) for s in (1, 2, 3)]
    b = softmax(final.detach().numpy(), axis=1)
    slow = 0
    for side in sides:
        a = softmax(side.detach().numpy(), axis=1)
        slow += (rel_entr(a, b) + rel_entr(b, a)).sum(1).mean() / 3
    assert mutual_feature(sides, final).item() == pytest.approx(slow, rel=1e-12)
    assert mutual_feature([final, final], final) == 0


def test_mutual_feature_teaches_both_sides():
    final, side = randn(4, 6), randn(4, 6, seed=1)
    mutual_feature([side], final).backward()
    assert side.grad.norm() > 1e-3
    assert final.grad.norm() > 1e-3
    assert torch.autograd.gradcheck(lambda a, b: mutual_feature([a], b), (side, final))


def test_half_precision_is_raised(heads):
    half = {k: [z.bfloat16() for z in v] if isinstance(v, list) else v for k, v in heads.items()}
    half |= {"logits": heads["logits"].bfloat16(), "feature": heads["feature"].bfloat16()}
    assert byot(**half).dtype == torch.float32
    assert mutual_feature(half["side_features"], half["feature"]).dtype == torch.float32
    assert byot(**heads).dtype == mutual_feature([randn(2, 3)], randn(2, 3)).dtype == torch.float64
