"""Pooling teachers and weighting them, against loops over teachers and samples."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from kdlib.losses import camkd_weights, kd
from kdlib.losses.multi_teacher import POOLS, confidence, hint, pooled_kd, ranked_weights

TARGETS = torch.tensor([0, 4, 2, 2, 1])


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHERS = randn(5, 6), 3 * randn(4, 5, 6, seed=1)
WEIGHTS = randn(4, 5, seed=2).softmax(0)


def kl(p, q):
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def literal(pool, weights, temperature):
    """One image at a time."""
    s, t = STUDENT.numpy() / temperature, TEACHERS.numpy()
    total = 0.0
    for b in range(5):
        q, w = softmax(s[b]), weights[:, b].numpy()
        each = [softmax(t[i, b] / temperature) for i in range(4)]
        if pool == "logits":
            mean = sum(w[i] * t[i, b] for i in range(4))
            total += kl(softmax(mean / temperature), q)
        elif pool == "probs":
            total += kl(sum(w[i] * each[i] for i in range(4)), q)
        else:
            total += sum(w[i] * kl(each[i], q) for i in range(4))
    return temperature**2 * total / 5


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("pool", POOLS)
def test_pooled_kd_equals_the_loop(pool, temperature):
    found = pooled_kd(STUDENT, TEACHERS, WEIGHTS, temperature, pool)
    assert found.item() == pytest.approx(literal(pool, WEIGHTS, temperature), rel=1e-10)
    equal = torch.full((4,), 0.25, dtype=torch.float64)
    found = pooled_kd(STUDENT, TEACHERS, equal, temperature, pool)
    assert found.item() == pytest.approx(
        literal(pool, equal[:, None].expand(4, 5), temperature), rel=1e-10
    )


@pytest.mark.parametrize("pool", POOLS)
def test_a_weight_of_one_is_that_teacher_alone(pool):
    only = torch.tensor([0.0, 0, 1, 0]).double()
    found = pooled_kd(STUDENT, TEACHERS, only, 4.0, pool)
    assert found.item() == pytest.approx(kd(STUDENT, TEACHERS[2], 4.0).item(), rel=1e-10)


def test_the_mean_of_the_losses_pulls_as_the_mean_of_the_probabilities_does():
    pulls = []
    for pool in ("probs", "losses"):
        student = STUDENT.clone().requires_grad_()
        pooled_kd(student, TEACHERS, WEIGHTS, 4.0, pool).backward()
        pulls.append(student.grad)
    assert torch.allclose(*pulls, rtol=1e-10)


def test_ranked_weights_choose_by_the_mean_cross_entropy():
    losses = [
        -np.mean([log_softmax(TEACHERS[i, b].numpy())[TARGETS[b]] for b in range(5)])
        for i in range(4)
    ]
    for place, teacher in enumerate(np.argsort(losses)):
        found = ranked_weights(TEACHERS, TARGETS, place)
        assert found.tolist() == [float(i == teacher) for i in range(4)]
    with pytest.raises(ValueError, match=r"place must be in 0..3, got 4"):
        ranked_weights(TEACHERS, TARGETS, 4)


def test_confidence_is_what_camkd_weighs_with_and_has_a_gradient():
    values = randn(3, 5)
    losses = values.clone().requires_grad_()
    found = confidence(losses)
    literal = [
        [(1 - math.exp(values[i, b]) / sum(math.exp(values[j, b]) for j in range(3))) / 2
         for b in range(5)]
        for i in range(3)
    ]  # fmt: skip
    assert torch.allclose(found, torch.tensor(literal, dtype=torch.float64))
    assert torch.allclose(found.sum(0), torch.ones(5, dtype=torch.float64))
    (found**2).sum().backward()
    assert losses.grad.abs().sum() > 0
    assert confidence(losses[:1]).tolist() == [[1.0] * 5]
    own = camkd_weights(TEACHERS, TARGETS)
    ce = -TEACHERS.log_softmax(2)[:, range(5), TARGETS]
    assert torch.allclose(own, confidence(ce))


def test_hint_equals_the_loop_and_spares_the_teachers():
    ours = [randn(5, 2, 3, 3, seed=i).requires_grad_() for i in range(4)]
    theirs = [randn(5, 2, 3, 3, seed=10 + i).requires_grad_() for i in range(4)]
    found = hint(ours, theirs, WEIGHTS)
    total = 0.0
    for b in range(5):
        for i in range(4):
            gaps = (ours[i][b] - theirs[i][b]).detach().numpy().ravel()
            total += WEIGHTS[i, b].item() * sum(gap**2 for gap in gaps) / len(gaps)
    assert found.item() == pytest.approx(total / 5, rel=1e-12)
    found.backward()
    assert all(one.grad is None for one in theirs)
    assert all(one.grad.abs().sum() > 0 for one in ours)


def test_what_does_not_fit_is_named():
    with pytest.raises(LookupError, match=r"unknown pool 'prob', did you mean 'probs'"):
        pooled_kd(STUDENT, TEACHERS, WEIGHTS, 4.0, "prob")
    with pytest.raises(ValueError, match=r"teachers_logits must be .*got shape \(4, 4, 6\)"):
        pooled_kd(STUDENT, TEACHERS[:, :4], WEIGHTS, 4.0)
    with pytest.raises(ValueError, match=r"weights must be .*\(4, 5\).*got shape \(4, 3\)"):
        pooled_kd(STUDENT, TEACHERS, WEIGHTS[:, :3], 4.0)
    with pytest.raises(ValueError, match=r"temperature must be > 0, got 0"):
        pooled_kd(STUDENT, TEACHERS, WEIGHTS, 0, "probs")
    with pytest.raises(ValueError, match=r"student_maps must have 1 entries, got 2"):
        hint([STUDENT] * 2, [TEACHERS], WEIGHTS)
