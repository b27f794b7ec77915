"""Temperature and logit adjustment against general optimisers, at the bounds and where flat."""

import math

import numpy as np
import pytest
from scipy import optimize

from kdlib.metrics import (
    TEMPERATURE_BOUNDS,
    adjusted_softmax,
    class_weights,
    fit_logit_adjustment,
    fit_temperature,
    nll,
    softmax,
)

COLDEST, HOTTEST = math.exp(-5), math.exp(5)


def draw_labels(probs, seed):
    uniform = np.random.default_rng(seed).random((len(probs), 1))
    return (uniform > probs.cumsum(axis=1)).sum(axis=1).clip(max=probs.shape[1] - 1)


def task(n=400, k=5, scale=2.5, seed=0):
    logits = np.random.default_rng(seed).normal(size=(n, k)) * 2
    return logits * scale, draw_labels(softmax(logits), seed + 1)


def test_softmax_and_adjusted_softmax_equal_loops():
    logits, counts = np.array([[3.0, -1.0, 0.5], [900.0, 0.0, -800.0]]), [50, 5, 1]
    for tau, probs in (
        (0.0, softmax(logits, 2.5)),
        (0.0, adjusted_softmax(logits, counts, 2.5, tau=0.0)),
        (1.0, adjusted_softmax(logits, counts, 2.5)),
    ):
        for row, found in zip(logits, probs, strict=True):
            odds = [math.exp((z - max(row)) / 2.5) * (n / 56) ** -tau
                    for z, n in zip(row, counts, strict=True)]  # fmt: skip
            np.testing.assert_allclose(found, np.array(odds) / sum(odds), rtol=1e-12)


@pytest.mark.parametrize("weights", [None, np.linspace(0, 2, 400)])
def test_temperature_equals_a_bounded_search(weights):
    logits, labels = task()
    found = optimize.minimize_scalar(
        lambda log_t: nll(softmax(logits, math.exp(log_t)), labels, weights),
        bounds=(-5, 5),
        method="bounded",
        options={"xatol": 1e-10},
    )
    temperature = fit_temperature(logits, labels, weights)
    assert temperature == pytest.approx(math.exp(found.x), rel=1e-6)
    assert nll(softmax(logits, temperature), labels, weights) <= found.fun + 1e-14


def test_temperature_follows_the_scale_and_recovers_the_truth():
    logits, labels = task(n=20_000)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(2.5, rel=0.03)
    assert fit_temperature(8 * logits + 100, labels) == pytest.approx(8 * temperature, rel=1e-9)


def test_whole_weights_are_repetitions():
    logits, labels = task(n=60)
    weights = np.random.default_rng(3).integers(0, 4, 60)
    repeated = fit_temperature(np.repeat(logits, weights, axis=0), np.repeat(labels, weights))
    assert fit_temperature(logits, labels, weights / 9) == pytest.approx(repeated, rel=1e-9)


def test_temperature_is_never_worse_than_one():
    rng = np.random.default_rng(0)
    for _ in range(300):
        shape = rng.integers(1, 12), rng.integers(2, 6)
        logits = rng.normal(size=shape) * 10 ** rng.uniform(-6, 4)
        labels = rng.integers(shape[1], size=shape[0])
        temperature = fit_temperature(logits, labels)
        assert COLDEST <= temperature <= HOTTEST
        assert nll(softmax(logits, temperature), labels) <= nll(softmax(logits), labels) + 1e-12


@pytest.mark.parametrize(
    ("logits", "labels", "expected"),
    [
        ([[3.0, 0.0], [0.0, 3.0]], [0, 1], COLDEST),  # all right: ever sharper
        ([[99.0, 0.0], [0.0, 99.0]], [0, 1], COLDEST),  # the same, underflowing
        ([[3.0, 0.0], [0.0, 3.0]], [1, 0], HOTTEST),  # all wrong: ever flatter
        ([[1e4, 0.0], [1e4, 0.0]], [0, 1], HOTTEST),
        ([[1e-9, 0.0]] * 3, [0, 0, 1], COLDEST),
        ([[2.0, 2.0], [7.0, 7.0]], [0, 1], 1.0),  # every T is as good
        ([[math.log(4.0), 0.0]] * 5, [0, 0, 0, 0, 1], pytest.approx(1.0, abs=1e-12)),
    ],
)
def test_temperature_at_the_bounds_and_where_nothing_can_be_learnt(logits, labels, expected):
    temperature = fit_temperature(logits, labels)
    assert temperature == expected
    assert (temperature in TEMPERATURE_BOUNDS) == (expected in (COLDEST, HOTTEST))


COUNTS = np.array([500, 160, 50, 16, 5])


@pytest.mark.parametrize("balance", [False, True])
def test_logit_adjustment_equals_a_general_optimiser(balance):
    logits, labels = task(n=300, seed=4)
    weights = class_weights(labels, 5) if balance else None

    def loss(x):
        return nll(adjusted_softmax(logits, COUNTS, math.exp(x[0]), x[1]), labels, weights)

    options = {"xatol": 1e-9, "fatol": 1e-15}
    found = optimize.minimize(loss, [0, 0], method="Nelder-Mead", options=options)
    temperature, tau = fit_logit_adjustment(logits, labels, COUNTS, weights)
    np.testing.assert_allclose([math.log(temperature), tau], found.x, atol=1e-6)
    assert loss([math.log(temperature), tau]) <= found.fun + 1e-14
    assert loss([math.log(temperature), tau]) < loss(
        [math.log(fit_temperature(logits, labels, weights)), 0.0]
    )


def test_logit_adjustment_recovers_the_prior_that_training_added():
    balanced = np.random.default_rng(5).normal(size=(20_000, 5)) * 2
    labels = draw_labels(softmax(balanced), 6)
    trained = 3 * (balanced + 0.8 * np.log(COUNTS / COUNTS.sum()))
    temperature, tau = fit_logit_adjustment(trained, labels, COUNTS)
    assert temperature == pytest.approx(3, rel=0.03)
    assert tau == pytest.approx(0.8, abs=0.03)


def test_logit_adjustment_with_equal_counts_is_temperature_scaling():
    logits, labels = task()
    assert fit_logit_adjustment(logits, labels, [7] * 5) == (fit_temperature(logits, labels), 0.0)


@pytest.mark.parametrize(("rare", "expected"), [(True, 2.0), (False, -1.0)])
def test_tau_at_its_bounds(rare, expected):
    logits, _ = task(n=50)
    labels = np.full(50, 4 if rare else 0)
    assert fit_logit_adjustment(logits, labels, COUNTS)[1] == expected
