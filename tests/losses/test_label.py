"""Label losses against loops over the formulas, and the mistakes of published code."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdlib.losses import (
    balanced_softmax,
    confidence_penalty,
    label_aware_smoothing,
    soft_cross_entropy,
)

COUNTS = [50, 20, 8, 3, 1]


def softmax(z):
    e = [math.exp(v) for v in z]
    return [v / sum(e) for v in e]


def ce(z, q):
    return -sum(b * math.log(a) for a, b in zip(softmax(z), q, strict=True))


def smoothed(label, counts, head, tail):
    low, high = min(counts), max(counts)
    part = math.sin(math.pi / 2 * (counts[label] - low) / (high - low)) if high > low else 1.0
    eps = tail + (head - tail) * part
    return [1 - eps if c == label else eps / (len(counts) - 1) for c in range(len(counts))]


def literal(name, z, q, counts):
    """One sample's loss, for probability targets q."""
    if name == "balanced_softmax":
        return ce([v + math.log(n) for v, n in zip(z, counts, strict=True)], q)
    if name == "confidence_penalty":
        return ce(z, q) - 0.3 * -sum(p * math.log(p) for p in softmax(z))
    if name == "label_aware_smoothing":
        rows = [smoothed(label, counts, 0.4, 0.1) for label in range(len(counts))]
        return ce(z, [sum(a * r[c] for a, r in zip(q, rows, strict=True)) for c in range(5)])
    return ce(z, q)


LOSSES = {
    "soft_cross_entropy": soft_cross_entropy,
    "balanced_softmax": lambda z, t: balanced_softmax(z, t, COUNTS),
    "confidence_penalty": lambda z, t: confidence_penalty(z, t, beta=0.3),
    "label_aware_smoothing": lambda z, t: label_aware_smoothing(z, t, COUNTS, head=0.4, tail=0.1),
}


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(6, 5, generator=g, dtype=torch.float64)
    return logits, torch.tensor([0, 1, 2, 3, 4, 4]), torch.randn(6, 5, generator=g).softmax(1)


@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_formula_for_labels_and_probabilities(name, batch):
    logits, labels, probs = batch
    for targets, q in [(labels, F.one_hot(labels, 5)), (probs, probs)]:
        rows = zip(logits.tolist(), q.double().tolist(), strict=True)
        slow = np.mean([literal(name, z, row, COUNTS) for z, row in rows])
        assert LOSSES[name](logits, targets).item() == pytest.approx(slow, rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_linear_in_the_targets(name, batch):
    """Smoothing then mixing is mixing then smoothing; a mixed label is never ignored."""
    logits, labels, _ = batch
    one, other, lam = F.one_hot(labels, 5).double(), F.one_hot(labels.flip(0), 5).double(), 0.3
    loss = LOSSES[name]
    mixed = loss(logits, lam * one + (1 - lam) * other)
    apart = lam * loss(logits, labels) + (1 - lam) * loss(logits, labels.flip(0))
    torch.testing.assert_close(mixed, apart)
    assert abs(mixed - loss(logits, labels)) > 0.01


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("dtype", "computed"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64,) * 2],
)
def test_dtype(name, dtype, computed, batch):
    logits, labels, probs = batch
    for targets in (labels, labels.int(), probs):
        loss = LOSSES[name](logits.to(dtype), targets)
        assert loss.dtype == computed
        assert loss.shape == ()
        assert loss == LOSSES[name](logits.to(dtype).to(computed), targets)


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_are_finite_and_targets_get_no_gradient(name):
    logits = torch.tensor([[1e4, 0, 0, 0, -1e4]], requires_grad=True)
    targets = torch.tensor([[0.0, 0, 0, 0, 1]], requires_grad=True)
    LOSSES[name](logits, targets).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0
    assert targets.grad is None


def test_index_outside_is_an_error_of_torch_even_minus_100():
    for label in (-100, -1, 5):
        with pytest.raises((RuntimeError, IndexError), match=r"index|out of bounds"):
            soft_cross_entropy(torch.zeros(1, 5), torch.tensor([label]))


def test_balanced_softmax_is_not_inverted(batch):
    """A frequent class gets a head start in training, so it must earn less of its own logit."""
    logits = torch.zeros(2, 2, requires_grad=True)
    balanced_softmax(logits, torch.tensor([0, 1]), [99, 1]).backward()
    assert logits.grad[1, 1] < 10 * logits.grad[0, 0] < 0
    z, labels, _ = batch
    equal = balanced_softmax(z, labels, [7] * 5)
    torch.testing.assert_close(equal, soft_cross_entropy(z, labels))


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_counts_of_any_kind(kind, batch):
    logits, labels, _ = batch
    for loss in (balanced_softmax, label_aware_smoothing):
        assert loss(logits, labels, kind(COUNTS)) == loss(logits, labels, COUNTS)


def test_confidence_penalty_rewards_uncertainty(batch):
    logits, labels, _ = batch
    plain = soft_cross_entropy(logits, labels)
    assert confidence_penalty(logits, labels) < plain < confidence_penalty(logits, labels, -0.1)
    torch.testing.assert_close(confidence_penalty(logits, labels, 0), plain)
    sure = torch.tensor([[5.0, 0.0]], requires_grad=True)
    pull = [torch.autograd.grad(f(sure, torch.tensor([0])), sure)[0][0, 0]
            for f in (soft_cross_entropy, confidence_penalty)]  # fmt: skip
    assert pull[1] > pull[0]  # the logit of the confident class is pushed down


def test_label_aware_smoothing_limits(batch):
    logits, labels, _ = batch
    uniform = label_aware_smoothing(logits, labels, [9] * 5, head=0.25, tail=0.1)
    # PyTorch's label smoothing e moves e * (K - 1) / K of the mass off the label
    theirs = F.cross_entropy(logits, labels, label_smoothing=0.25 * 5 / 4)
    torch.testing.assert_close(uniform, theirs)
    torch.testing.assert_close(
        label_aware_smoothing(logits, labels, COUNTS, head=0, tail=0),
        soft_cross_entropy(logits, labels),
    )
