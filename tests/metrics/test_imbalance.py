"""Class weights and frequency groups."""

import numpy as np
import pytest

from kdlib.metrics import class_weights, frequency_groups


def test_class_weights_give_each_present_class_the_same_total():
    labels = np.array([0, 2, 2, 2, 4, 4])
    weights = class_weights(labels, 6)
    expected = [1 / (6 * sum(labels == y)) for y in labels]
    np.testing.assert_allclose(weights, expected)
    totals = np.bincount(labels, weights, minlength=6)
    np.testing.assert_allclose(totals, [1 / 6, 0, 1 / 6, 0, 1 / 6, 0])


@pytest.mark.parametrize(("classes", "ends"), [(10, (3, 7)), (100, (36, 71))])
def test_mislas_groups_by_class_index(classes, ends):
    falling = np.arange(classes, 0, -1)
    of_one_size = np.where(np.arange(classes) % 2, 180, 175)
    for counts in (None, falling, of_one_size):
        groups = frequency_groups(classes, class_counts=counts)
        assert list(groups) == ["many", "medium", "few"]
        bounds = (0, *ends, classes)
        for group, low, high in zip(groups.values(), bounds, bounds[1:], strict=False):
            assert group.tolist() == list(range(low, high))


def test_a_tail_that_does_not_fall_with_the_index_is_cut_by_count():
    """Ten classes of a set of one's own, the frequent ones last."""
    groups = frequency_groups(10, [20, 30, 40, 50, 60, 70, 80, 500, 900, 1000])
    assert groups["many"].tolist() == [6, 7, 8, 9]
    assert groups["few"].tolist() == [0, 1, 2]


def test_other_numbers_are_cut_into_thirds_by_count():
    groups = frequency_groups(7, [5, 90, 40, 5, 70, 5, 1])
    assert {name: group.tolist() for name, group in groups.items()} == {
        "many": [1, 2, 4],
        "medium": [0, 3],  # of equal counts the lower class comes first
        "few": [5, 6],
    }
