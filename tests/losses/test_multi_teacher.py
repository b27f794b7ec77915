"""Several teachers: loops over the rules; every consensus is a distribution but the published."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax

from kdlib.losses import (
    camkd_weights,
    consensus_targets,
    kd,
    published_consensus,
    restricted_kd,
)

SETS = [[3, 1, 0], [1, 2], [5, 3, 2, 4]]  # not sorted, overlapping, all of 0..5
LABELS = torch.tensor([0, 1, 2, 3, 4, 5, 3, 1])
RULES = {"mean": True, "per_class": True, "confidence": True,
         "label_free": False, "confidence_free": False}  # fmt: skip


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def teachers():
    return [3 * randn(8, len(c), seed=i) for i, c in enumerate(SETS)]


@pytest.mark.parametrize("soft", [False, True])
def test_camkd_weights_equal_the_formula(soft):
    logits, targets = 2 * randn(3, 4, 5), torch.tensor([0, 4, 2, 2])
    q = randn(4, 5).softmax(1) if soft else torch.nn.functional.one_hot(targets, 5).double()
    ce = -(q.numpy() * log_softmax(logits.numpy(), axis=2)).sum(2)
    given = q if soft else targets
    expected = (1 - softmax(ce, axis=0)) / 2
    np.testing.assert_allclose(camkd_weights(logits, given), expected, rtol=1e-12)
    expected = (1 - softmax(ce.mean(1))) / 2
    np.testing.assert_allclose(camkd_weights(logits, given, per_sample=False), expected, rtol=1e-12)


def test_camkd_weights_sum_to_one_prefer_the_better_teacher_and_carry_no_gradient():
    logits = torch.stack([4.0 * torch.eye(3), torch.zeros(3, 3), -4.0 * torch.eye(3)])
    weights = camkd_weights(logits.bfloat16().requires_grad_(), torch.arange(3))
    assert weights.dtype == torch.float32
    assert not weights.requires_grad
    torch.testing.assert_close(weights.sum(0), torch.ones(3))
    assert (weights[0] > weights[1]).all()
    assert (weights[1] > weights[2]).all()
    assert torch.equal(camkd_weights(logits[:1], torch.arange(3)), torch.ones(1, 3))
    assert torch.equal(camkd_weights(logits[:1], torch.arange(3), per_sample=False), torch.ones(1))


def literal_consensus(teachers, rule, temperature, normalise=True):
    rows = []
    for b, label in enumerate(LABELS.tolist()):
        speaking = [i for i, c in enumerate(SETS) if label in c or not RULES[rule]]
        p = {i: softmax(teachers[i][b].numpy() / temperature) for i in speaking}
        w = {i: softmax(teachers[i][b].numpy()).max() if "confid" in rule else 1 for i in speaking}
        q = np.zeros(6)
        for k in range(6):
            shares = [w[i] * p[i][SETS[i].index(k)] for i in speaking if k in SETS[i]]
            if shares and rule in ("mean", "confidence"):
                q[k] = sum(shares) / sum(w.values())
            elif shares:
                q[k] = sum(shares) / len(shares)
        rows.append(q / q.sum() if normalise else q)
    return np.array(rows)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("temperature", [1.0, 4])
def test_consensus_equals_the_rule(rule, temperature, teachers):
    labels = LABELS if RULES[rule] else None
    q = consensus_targets(teachers, SETS, 6, labels, temperature, rule)
    np.testing.assert_allclose(q, literal_consensus(teachers, rule, temperature), rtol=1e-12)
    np.testing.assert_allclose(q.sum(1), 1, rtol=1e-12)
    if rule in ("mean", "label_free"):
        assert torch.equal(q, consensus_targets(teachers, SETS, 6, labels, temperature))


@pytest.mark.parametrize("rule", RULES)
def test_class_sets_as_tensors_give_the_same_unchecked(rule, teachers):
    labels, sets = LABELS if RULES[rule] else None, [torch.tensor(one) for one in SETS]
    lists = consensus_targets(teachers, SETS, 6, labels, 2.0, rule)
    assert torch.equal(lists, consensus_targets(teachers, sets, 6, labels, 2.0, rule))
    s = randn(8, 6)
    assert torch.equal(restricted_kd(s, teachers, SETS, 2.0), restricted_kd(s, teachers, sets, 2.0))
    broken = [teachers[0] * torch.nan, *teachers[1:]]
    with pytest.raises(ValueError, match="must be finite"):
        consensus_targets(broken, SETS, 6, labels, 2.0, rule)
    assert not consensus_targets(broken, sets, 6, labels, 2.0, rule).isfinite().all()


def test_published_consensus_sums_to_more_than_one_where_teachers_share_a_class(teachers):
    q = published_consensus(teachers, SETS, 6, LABELS, 2.0)
    slow = literal_consensus(teachers, "per_class", 2.0, normalise=False)
    np.testing.assert_allclose(q, slow, rtol=1e-12)
    owners = torch.tensor([sum(label in c for c in SETS) for label in LABELS.tolist()])
    torch.testing.assert_close(q.sum(1)[owners == 1], torch.ones(3, dtype=torch.float64))
    assert (q.sum(1)[owners == 2] > 1.001).all()


@pytest.mark.parametrize("rule", RULES)
def test_equal_teachers_are_one_teacher_and_strangers_get_nothing(rule):
    z = randn(4, 3).float().requires_grad_()
    labels = torch.tensor([5, 0, 2, 0]) if RULES[rule] else None
    q = consensus_targets([z, z.bfloat16().float(), z], [(0, 2, 5)] * 3, 7, labels, rule=rule)
    assert q.dtype == torch.float32
    assert not q.requires_grad
    torch.testing.assert_close(q[:, [0, 2, 5]], z.softmax(1), atol=2e-3, rtol=0)
    assert (q[:, [1, 3, 4, 6]] == 0).all()


def test_disjoint_teachers_get_equal_shares_without_labels():
    q = consensus_targets([randn(4, 2), randn(4, 3)], [[0, 1], range(2, 5)], 5)
    np.testing.assert_allclose(q[:, :2].sum(1), 0.5, rtol=1e-12)


def test_restricted_kd_equals_the_formula(teachers):
    s, temperature = randn(8, 6, seed=9), 3.0
    slow = np.mean([
        temperature**2 * rel_entr(
            softmax(z.numpy() / temperature, axis=1), softmax(s[:, c].numpy() / temperature, axis=1)
        ).sum(1).mean()
        for z, c in zip(teachers, SETS, strict=True)
    ])  # fmt: skip
    assert restricted_kd(s, teachers, SETS, temperature).item() == pytest.approx(slow, rel=1e-12)
    torch.testing.assert_close(restricted_kd(s, [s.flip(0)], [range(6)], 2), kd(s, s.flip(0), 2))


def test_restricted_kd_says_nothing_about_classes_no_teacher_knows(teachers):
    s = randn(8, 8).requires_grad_()
    teachers[0].requires_grad_()
    restricted_kd(s, teachers, SETS, 2.0).backward()
    assert s.grad[:, :6].norm() > 1e-3
    assert torch.equal(s.grad[:, 6:], torch.zeros(8, 2, dtype=torch.float64))
    assert teachers[0].grad is None


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"rule": "per_clas"}, LookupError, "'per_clas', did you mean 'per_class'"),
        ({"rule": "label_free"}, ValueError, "'label_free' takes no labels"),
        ({"labels": None, "rule": "mean"}, ValueError, "'mean' needs labels, got None"),
        ({"labels": LABELS + 1}, ValueError, r"labels .* 0\.\.5 .* got 6"),
        ({"labels": LABELS - 1}, ValueError, r"labels .* got -1"),
        ({"labels": LABELS[:3]}, ValueError, r"labels .*\(8,\).*\(3,\)"),
        ({"labels": LABELS.float()}, TypeError, "labels must hold integers.*float32"),
        ({"class_sets": SETS[:2]}, ValueError, "class_sets must have 3 entries, got 2"),
        ({"class_sets": [*SETS[:2], [5, 3, 2, 6]]}, ValueError, r"class_sets\[2\].*5, 3, 2, 6"),
        ({"class_sets": [*SETS[:2], [5, 3, 2, 2]]}, ValueError, r"class_sets\[2\].*5, 3, 2, 2"),
        ({"class_sets": [*SETS[:2], [5, 3]]}, ValueError, r"teacher_logits\[2\].*2\).*\(8, 4\)"),
        ({"class_sets": [*SETS[:2], 4]}, TypeError, r"class_sets\[2\] must be a list, got 4"),
        ({"temperature": 0}, ValueError, "temperature must be > 0, got 0"),
        ({"num_classes": 0}, ValueError, "num_classes must be >= 1, got 0"),
        ({"teacher_logits": []}, ValueError, "teacher_logits must have at least 1 entries, got 0"),
        ({"teacher_logits": randn(3, 8, 3)}, TypeError, "teacher_logits must be a list"),
    ],
)  # fmt: skip
def test_consensus_errors(changes, error, match, teachers):
    given = {"teacher_logits": teachers, "class_sets": SETS, "num_classes": 6, "labels": LABELS}
    with pytest.raises(error, match=match):
        consensus_targets(**given | changes)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_consensus_refuses_what_is_not_finite(value, teachers):
    teachers[1][3, 1] = value
    with pytest.raises(ValueError, match=rf"teacher_logits\[1\] must be finite, got {value}"):
        consensus_targets(teachers, SETS, 6)


def test_a_label_no_teacher_owns_is_an_error():
    with pytest.raises(ValueError, match=r"labels .* owns, got 3"):
        consensus_targets([torch.zeros(2, 2)], [[0, 1]], 4, torch.tensor([1, 3]))
