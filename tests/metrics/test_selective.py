"""Risk-coverage curves against loops and against every possible ranking."""

from itertools import permutations

import numpy as np
import pytest

from kdlib.metrics import aurc, e_aurc, risk_coverage


def literal_aurc(wrong):
    """Mean over k of the error rate among the first k."""
    return 1000 * sum(sum(wrong[:k]) / k for k in range(1, len(wrong) + 1)) / len(wrong)


def test_aurc_equals_the_loop(predictions):
    probs, labels = predictions
    order = sorted(range(len(probs)), key=lambda i: -max(probs[i]))  # stable: ties in input order
    wrong = [probs[i].argmax() != labels[i] for i in order]
    assert aurc(probs, labels) == pytest.approx(literal_aurc(wrong))
    n, errors = len(wrong), sum(wrong)
    optimum = 1000 * sum(i / (n - errors + i) for i in range(1, errors + 1)) / n
    assert e_aurc(probs, labels) == pytest.approx(literal_aurc(wrong) - optimum, abs=1e-9)
    coverage, risk = risk_coverage(probs, labels)
    np.testing.assert_allclose(coverage, [k / n for k in range(1, n + 1)])
    np.testing.assert_allclose(risk, [sum(wrong[:k]) / k for k in range(1, n + 1)])


@pytest.mark.parametrize("errors", range(7))
def test_the_optimum_is_the_best_of_all_rankings(errors):
    wrong = np.arange(6) < errors  # the most confident are wrong: the worst ranking
    top = np.linspace(0.9, 0.6, 6)
    probs = np.column_stack([top, 1 - top])
    best = min(literal_aurc(order) for order in permutations(wrong))
    assert e_aurc(probs, wrong.astype(int)) == pytest.approx(aurc(probs, wrong * 1) - best)
    assert e_aurc(probs, wrong[::-1].astype(int)) == 0


def test_ties_keep_the_input_order():
    probs = [[0.8, 0.2], [0.8, 0.2]]
    assert aurc(probs, [1, 0]) == 750
    assert aurc(probs, [0, 1]) == 250
