"""Predictions that every metric is tried on: continuous, and on a grid, with ties and edges."""

import numpy as np
import pytest


def draw(n, k, seed, grid=None):
    """(n, k) probabilities and labels; `grid` makes them multiples of 1 / grid: ties, 0s and 1s."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(k, 0.4), n)
    if grid:
        probs = rng.multinomial(grid, probs) / grid
    return probs, rng.integers(k, size=n)


@pytest.fixture(
    params=[(150, 10, 0), (80, 3, 1), (90, 4, 2, 10), (60, 3, 3, 15), (30, 2, 4, 4), (1, 5, 5)],
    ids=lambda case: "-".join(map(str, case)),
)
def predictions(request):
    return draw(*request.param)


@pytest.fixture
def weighted():
    """Predictions with whole-numbered weights, and the same rows repeated that often."""
    probs, labels = draw(40, 4, seed=6)
    weights = np.random.default_rng(7).integers(0, 4, size=40)
    return probs, labels, weights, np.repeat(probs, weights, axis=0), np.repeat(labels, weights)
