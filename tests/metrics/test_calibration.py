"""Calibration errors against loops, torchmetrics and relplot; bins, edges and the noise floor."""

import numpy as np
import pytest

from kdlib.metrics import (
    adaptive_ece,
    classwise_ece,
    ece,
    ece_floor,
    reliability_bins,
    smooth_ece,
)


def binned_error(confidences, hits, bins):
    """ECE of (confidence, hit) pairs by its definition; bins are (lo, hi], the first [0, hi]."""
    error = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = [
            (c, h)
            for c, h in zip(confidences, hits, strict=True)
            if low < c <= high or (b == 0 and c == 0)
        ]
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            rate = sum(h for _, h in inside) / len(inside)
            error += len(inside) / len(confidences) * abs(rate - confidence)
    return error


@pytest.mark.parametrize("bins", [1, 4, 10, 15])
def test_ece_and_classwise_ece_equal_loops(predictions, bins):
    probs, labels = predictions
    hits = [row.argmax() == y for row, y in zip(probs, labels, strict=True)]
    expected = binned_error([max(row) for row in probs], hits, bins)
    assert ece(probs, labels, bins) == pytest.approx(expected, abs=1e-12)
    each = [binned_error(probs[:, c], labels == c, bins) for c in range(probs.shape[1])]
    assert classwise_ece(probs, labels, bins) == pytest.approx(np.mean(each), abs=1e-12)


@pytest.mark.parametrize("bins", [1, 4, 15, 200])
def test_adaptive_ece_equals_a_loop(predictions, bins):
    probs, labels = predictions
    order = sorted(range(len(probs)), key=lambda i: max(probs[i]))  # stable
    error, start = 0.0, 0
    for b in range(bins):  # the first N mod bins parts hold one row more
        size = len(order) // bins + (b < len(order) % bins)
        part, start = order[start : start + size], start + size
        if part:
            rate = np.mean([probs[i].argmax() == labels[i] for i in part])
            error += size / len(order) * abs(rate - np.mean([max(probs[i]) for i in part]))
    assert adaptive_ece(probs, labels, bins) == pytest.approx(error, abs=1e-12)


@pytest.mark.parametrize("bins", [10, 15, 20])
def test_bins_are_right_closed_and_the_ends_belong_to_the_outer_bins(bins):
    edges = np.arange(2, bins + 1) / bins  # confidence exactly on an edge, 1.0 included
    rest = 4 * bins
    probs = np.column_stack([edges, np.repeat(((1 - edges) / rest)[:, None], rest, axis=1)])
    found = reliability_bins(probs, np.zeros(len(edges), int), bins)
    np.testing.assert_array_equal(found.count, [0] + [1] * (bins - 1))
    np.testing.assert_allclose(found.confidence[1:], edges)
    above = probs.copy()
    above[:, 0] = np.nextafter(edges, 2)  # 1 + 2e-16 is a rounding error, not a bin of its own
    np.testing.assert_array_equal(
        reliability_bins(above, np.zeros(len(edges), int), bins).count,
        [0, 0] + [1] * (bins - 3) + [2],
    )


def test_probability_zero_belongs_to_the_first_bin():
    # Bins [0, .5] and (.5, 1]: the zeros are counted with the .4s, in every class.
    probs, labels = [[1.0, 0.0], [0.6, 0.4]], [1, 0]
    assert classwise_ece(probs, labels, 2) == pytest.approx((0.6 / 2 + 0.6 / 2) / 2)


def test_reliability_bins_describe_the_ece(predictions):
    probs, labels = predictions
    found = reliability_bins(probs, labels, 15)
    assert found.count.sum() == len(labels)
    np.testing.assert_allclose(found.share, found.count / len(labels))
    np.testing.assert_array_equal(np.isnan(found.accuracy), found.count == 0)
    hits = np.nansum(found.count * found.accuracy)
    assert hits == pytest.approx(np.sum(probs.argmax(axis=1) == labels))


def test_whole_weights_are_repetitions(weighted):
    probs, labels, weights, repeated, repeated_labels = weighted
    assert ece(probs, labels, weights=weights / 3) == pytest.approx(ece(repeated, repeated_labels))
    ours = reliability_bins(probs, labels, 5, weights)
    for field in ("share", "confidence", "accuracy"):
        expected = getattr(reliability_bins(repeated, repeated_labels, 5), field)
        np.testing.assert_allclose(getattr(ours, field), expected)


@pytest.mark.parametrize("predictions", [(2000, 10, 9)], indirect=True)
@pytest.mark.parametrize("bins", [10, 15])
def test_torchmetrics_agrees_inside_the_bins(predictions, bins):
    functional = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    probs, labels = map(torch.from_numpy, predictions)
    theirs = functional.multiclass_calibration_error(probs, labels, 10, n_bins=bins)
    assert ece(probs, labels, bins) == pytest.approx(float(theirs), abs=1e-6)


def test_torchmetrics_gives_confidence_one_a_bin_of_its_own():
    functional = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    probs, labels = torch.tensor([[0.95, 0.05], [1.0, 0.0]]), torch.tensor([0, 1])
    theirs = functional.multiclass_calibration_error(probs, labels, 2, n_bins=10)
    assert float(theirs) == pytest.approx(0.525)  # Lightning-AI/torchmetrics#3510
    assert ece(probs, labels, bins=10) == pytest.approx(0.475)


def calibrated(n, seed=0, classes=10):
    """Predictions whose labels are drawn from them, right about 80 % of the time."""
    rng = np.random.default_rng(seed)
    top = rng.beta(3.2, 0.8, n).clip(0.2)
    probs = np.full((n, classes), ((1 - top) / (classes - 1))[:, None])
    probs[:, 0] = top
    return probs, (rng.random((n, 1)) > probs.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)


def test_an_ece_averaged_over_batches_measures_the_batch_size():
    probs, labels = calibrated(10_000)
    batches = [ece(probs[i : i + 128], labels[i : i + 128]) for i in range(0, len(labels), 128)]
    assert ece(probs, labels) < 0.02
    assert 0.07 < np.mean(batches) < 0.11


def test_the_floor_is_the_ece_of_labels_drawn_from_the_predictions():
    probs, _ = calibrated(60, seed=1)
    rng = np.random.default_rng(2)
    drawn = [ece(probs, [rng.choice(10, p=row) for row in probs]) for _ in range(400)]
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert ece_floor(probs, draws=2000) == pytest.approx(np.mean(drawn), abs=4 * error)


def test_the_floor_of_one_row_is_known_and_needs_no_more_than_its_seed():
    probs = [[0.7, 0.3]]  # E|hit - c| = 2 c (1 - c)
    assert ece_floor(probs, draws=20_000) == pytest.approx(2 * 0.7 * 0.3, abs=0.005)
    assert ece_floor(probs, seed=3) == ece_floor(probs, seed=3) != ece_floor(probs, seed=4)
    assert ece_floor([[1.0, 0.0], [0.0, 1.0]]) == 0


def test_the_floor_takes_the_weights_of_the_ece():
    probs, _ = calibrated(50, seed=3)
    floor = ece_floor(probs)
    assert ece_floor(probs, weights=np.full(50, 0.3)) == pytest.approx(floor)
    only = ece_floor(probs, draws=20_000, weights=np.arange(50) == 7)
    assert only == pytest.approx(2 * probs[7, 0] * (1 - probs[7, 0]), abs=0.01)


def smoothed_error(confidence, gap, width):
    """Integral over t of |mean of gap K(t, confidence)|, K a Gaussian reflected at 0 and 1."""
    t = np.linspace(0, 1, 4001)[:, None]
    kernel = sum(
        np.exp(-((t - image) ** 2) / (2 * width**2)) / (width * np.sqrt(2 * np.pi))
        for image in (confidence, -confidence, 2 - confidence)
    )
    return np.trapezoid(np.abs((kernel * gap).mean(axis=1)), t[:, 0])


@pytest.mark.parametrize("sharpen", [0.7, 1.0, 3.0])
def test_smooth_ece_is_the_error_that_equals_its_kernel_width(sharpen):
    probs, labels = calibrated(2000, seed=4)
    probs = probs**sharpen / (probs**sharpen).sum(axis=1, keepdims=True)
    value = smooth_ece(probs, labels)
    confidence, hit = probs.max(axis=1), probs.argmax(axis=1) == labels
    assert smoothed_error(confidence, hit - confidence, value) == pytest.approx(value, abs=1e-3)


def test_smooth_ece_is_relplots_but_for_confidences_next_to_one():
    relplot = pytest.importorskip("relplot")
    probs, labels = calibrated(300, seed=5)
    below = probs.max(axis=1) <= 0.999
    pairs = relplot.multiclass_logits_to_confidences(probs[below], labels[below], probs=True)
    assert smooth_ece(probs[below], labels[below]) == float(relplot.smECE(*pairs))
    # Half is certain and right, half 70 % sure and wrong: the error is .7 / 2 at any kernel width.
    half = np.repeat([[1.0, 0.0], [0.7, 0.3]], 500, axis=0)
    assert smooth_ece(half, np.repeat([0, 1], 500)) == pytest.approx(0.35, abs=1e-3)
    assert float(relplot.smECE(half[:, 0], np.repeat([1.0, 0.0], 500))) > 0.46


@pytest.mark.parametrize("error", [ece, adaptive_ece, classwise_ece, smooth_ece])
def test_extremes(error):
    certain = np.eye(3)[[0, 1, 2, 2]]
    assert error(certain, [0, 1, 2, 2]) == pytest.approx(0, abs=1e-9)
    # One class of three is right in no row: per class, 2 of 3 columns are wrong by 1 throughout.
    wrong = error(np.eye(3)[[0] * 50], np.ones(50, int))
    assert wrong == pytest.approx(2 / 3 if error is classwise_ece else 1, abs=1e-4)
