"""Losses against one teacher: loops over the formulas, invariants, degenerate batches."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import rel_entr, softmax

from kdlib.losses import attention_transfer, kd, kd_probs, rkd_angle, rkd_distance


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("temperature", [1, 2.0, 4.5])
def test_kd_equals_the_formula(temperature):
    s, t = randn(7, 5), 3 * randn(7, 5, seed=1)
    p, q = (softmax(z.numpy() / temperature, axis=1) for z in (t, s))
    slow = temperature**2 * rel_entr(p, q).sum(1).mean()
    assert kd(s, t, temperature).item() == pytest.approx(slow, rel=1e-12)
    assert kd_probs(s, torch.tensor(p), temperature).item() == pytest.approx(slow, rel=1e-12)


def test_kd_of_an_equal_teacher_is_zero_and_zero_probabilities_count_nothing():
    s = randn(4, 5, dtype=torch.float32).requires_grad_()
    assert kd(s, s, 3.0) == 0
    one_hot = torch.eye(5)[:4]
    loss = kd_probs(s, one_hot, 1.0)
    torch.testing.assert_close(loss, -s.log_softmax(1).diagonal().mean())
    loss.backward()
    assert s.grad.isfinite().all()


def test_kd_gradient_keeps_its_size_over_temperatures():
    """T^2 is there, once: a temperature that switches KD off (or T^4) would show here."""
    norms = []
    for temperature in (1, 2, 4, 8, 16):
        s = randn(64, 10).requires_grad_()
        kd(s, randn(64, 10, seed=1), temperature).backward()
        norms.append(s.grad.norm().item())
    assert max(norms) < 3 * min(norms)


def literal_attention(maps):
    """(B, C, H, W) -> (B, H * W), pixel by pixel."""
    b, _, h, w = maps.shape
    rows = np.zeros((b, h * w))
    for n in range(b):
        for y in range(h):
            for x in range(w):
                rows[n, y * w + x] = np.mean(maps[n, :, y, x] ** 2)
        rows[n] /= np.sqrt(np.sum(rows[n] ** 2))
    return rows


def halve(maps):
    b, c, h, w = maps.shape
    return maps.reshape(b, c, h // 2, 2, w // 2, 2).mean((3, 5))


def test_attention_transfer_equals_the_formula_and_pools_the_larger_feature():
    s = [randn(3, 4, 8, 8), randn(3, 6, 2, 2, seed=1), randn(3, 6, 4, 2, seed=4)]
    t = [randn(3, 5, 4, 4, seed=2), randn(3, 2, 4, 4, seed=3), randn(3, 5, 4, 2, seed=5)]
    a, b = [z.numpy() for z in s], [z.numpy() for z in t]
    pairs = [(halve(a[0]), b[0]), (a[1], halve(b[1])), (a[2], b[2])]
    slow = sum(np.mean((literal_attention(x) - literal_attention(y)) ** 2) for x, y in pairs)
    assert attention_transfer(s, t).item() == pytest.approx(slow, rel=1e-12)
    swapped = attention_transfer([z.to(memory_format=torch.channels_last) for z in t], s)
    assert swapped.item() == pytest.approx(slow, rel=1e-12)


def test_attention_transfer_ignores_scale_and_survives_dead_maps():
    s = randn(2, 3, 4, 4, dtype=torch.float32)
    assert attention_transfer([s], [7 * s]) < 1e-12
    dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention_transfer([dead], [s]).backward()
    assert dead.grad.isfinite().all()


def huber(difference):
    size = np.abs(difference)
    return np.where(size < 1, 0.5 * size**2, size - 0.5).mean()


def literal_distances(x):
    d = cdist(x, x)
    return d / d[d > 0].mean()


def literal_cosines(x):
    n = len(x)
    cosines = np.zeros((n, n, n))
    for i in range(n):
        for j in range(n):
            for k in range(n):
                a, b = x[i] - x[j], x[k] - x[j]
                if a.any() and b.any():
                    cosines[i, j, k] = a @ b / np.sqrt((a @ a) * (b @ b))
    return cosines


RELATIONS = {"distance": (rkd_distance, literal_distances), "angle": (rkd_angle, literal_cosines)}


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("repeat", [False, True])
def test_rkd_equals_the_formula(relation, repeat):
    loss, literal = RELATIONS[relation]
    s, t = randn(6, 3), 5 + randn(6, 9, seed=1)
    if repeat:
        s[4] = s[1]
        t[0] = t[5]
    slow = huber(literal(s.numpy()) - literal(t.numpy()))
    assert slow > 0.01
    assert loss(s, t).item() == pytest.approx(slow, rel=1e-9)
    assert loss(s.float(), t.float()).item() == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("relation", RELATIONS)
def test_rkd_is_invariant_to_shift_scale_and_rotation(relation):
    loss, _ = RELATIONS[relation]
    s = randn(8, 4)
    rotation, _ = torch.linalg.qr(randn(4, 4, seed=2))
    assert loss(s, 3 * s @ rotation + 2) < 1e-20


def test_rkd_angle_is_accurate_where_points_lie_close_and_far_from_0():
    s = 30 + 0.01 * randn(6, 8)
    s[0] += 1
    exact = literal_cosines(s.float().double().numpy())
    t = torch.arange(48.0).reshape(6, 8).square()
    slow = huber(exact - literal_cosines(t.double().numpy()))
    assert rkd_angle(s.float(), t).item() == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("pairs", [0, 1, 4])
def test_rkd_gradient_with_identical_rows(relation, pairs):
    """Finite, of normal size and, where a distance is 0, absent."""
    loss, _ = RELATIONS[relation]
    s = randn(8, 16, dtype=torch.float32)
    s[4 : 4 + pairs] = s[:pairs]
    s.requires_grad_()
    loss(s, randn(8, 16, seed=1)).backward()
    assert s.grad.isfinite().all()
    assert 0 < s.grad.norm() < 1


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("batch", [1, 5])
def test_rkd_of_one_row_or_a_collapsed_batch_has_a_graph_and_no_gradient(relation, batch):
    loss, _ = RELATIONS[relation]
    s = torch.ones(batch, 3, requires_grad=True)
    value = loss(s, randn(batch, 3) if batch == 1 else torch.ones(batch, 3))
    assert value == 0
    value.backward()
    assert torch.equal(s.grad, torch.zeros(batch, 3))


LOSSES = {
    "kd": (lambda s, t: kd(s, t, 4.0), (6, 5), (6, 5)),
    "kd_probs": (lambda s, t: kd_probs(s, t.softmax(1), 4.0), (6, 5), (6, 5)),
    "at": (lambda s, t: attention_transfer([s], [t]), (6, 3, 4, 4), (6, 5, 2, 2)),
    "rkd_distance": (rkd_distance, (6, 3), (6, 5)),
    "rkd_angle": (rkd_angle, (6, 3), (6, 5)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_student_learns_and_the_teacher_does_not(name):
    loss, student, teacher = LOSSES[name]
    s, t = randn(*student).requires_grad_(), randn(*teacher, seed=1).requires_grad_()
    assert loss(s, t) > 0
    loss(s, t).backward()
    assert s.grad.norm() > 1e-4
    assert t.grad is None
    assert torch.autograd.gradcheck(lambda x: loss(x, t), (s,))


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_raised_even_under_autocast(name):
    loss, student, teacher = LOSSES[name]
    s, t = randn(*student), randn(*teacher, seed=1)
    assert loss(s, t.float()).dtype == torch.float64
    for dtype in (torch.bfloat16, torch.float16):
        value = loss(s.to(dtype), t.to(dtype).float())
        assert value.dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert loss(s.to(dtype), t.to(dtype).float()) == value
