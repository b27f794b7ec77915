"""Long tails and validation splits: exact counts, and indices that name real images."""

import math

import numpy as np
import pytest
import torch

from kdlib import data

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [40, 25, 60, 9]))


@pytest.mark.parametrize(
    ("n_max", "num_classes", "factor", "total", "after_validation"),
    [  # published sizes of the long-tailed CIFAR sets
        (5000, 10, 50, 13996, 11201),
        (5000, 10, 100, 12406, 9928),
        (500, 100, 50, 12608, None),
        (500, 100, 100, 10847, None),
    ],
)
def test_long_tail_counts_are_the_published_ones(
    n_max, num_classes, factor, total, after_validation
):
    counts = data.long_tail_counts(n_max, num_classes, factor)
    assert counts == [
        math.floor(n_max * math.exp(-math.log(factor) * c / (num_classes - 1)) + 1e-9)
        for c in range(num_classes)
    ]
    assert (counts[0], counts[-1], sum(counts)) == (n_max, n_max // factor, total)
    if after_validation:
        assert sum(n - n // 5 for n in counts) == after_validation


def test_an_imbalance_factor_of_one_is_no_tail():
    assert data.long_tail_counts(7, 3, 1) == [7, 7, 7]
    assert np.array_equal(data.long_tail(LABELS, 1, seed=0), np.arange(len(LABELS)))


def test_long_tail_keeps_each_classs_share_or_all_that_it_has():
    tail = data.long_tail(LABELS, 10, seed=0)
    # largest class 60, shares 60, 27, 12, 6: classes 0 and 1 have fewer and keep all
    assert np.bincount(LABELS[tail]).tolist() == [40, 25, 12, 6]
    assert tail.dtype == np.int64
    assert (np.diff(tail) > 0).all()


def test_tails_depend_on_the_seed_only_and_are_nested():
    tails = {factor: data.long_tail(LABELS, factor, seed=0) for factor in (2, 5, 9)}
    assert set(tails[9]) < set(tails[5]) < set(tails[2])
    assert np.array_equal(tails[5], data.long_tail(torch.from_numpy(LABELS), 5, seed=0))
    assert not np.array_equal(tails[5], data.long_tail(LABELS, 5, seed=1))
    drawn = np.zeros(len(LABELS))
    for seed in range(300):
        drawn[data.long_tail(LABELS, 5, seed)] += 1 / 300
    share = drawn[LABELS == 2]  # 20 of 60, each image alike: sd of a frequency is 0.027
    assert share.mean() == pytest.approx(1 / 3)
    assert np.abs(share - 1 / 3).max() < 0.11


@pytest.mark.parametrize("fraction", [0, 0.1, 0.25, 0.9])
def test_split_validation_takes_the_floor_of_each_class(fraction):
    train, val = data.split_validation(LABELS, fraction, seed=0)
    assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(len(LABELS)))
    expected = [math.floor(fraction * n) for n in (40, 25, 60, 9)]
    assert np.bincount(LABELS[val], minlength=4).tolist() == expected
    again, other = (data.split_validation(LABELS, fraction, seed)[1] for seed in (0, 1))
    assert np.array_equal(val, again)
    assert np.array_equal(val, other) == (fraction == 0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: data.long_tail_counts(0, 10, 100), ValueError, "n_max must be at least 1, got 0"),
        (lambda: data.long_tail_counts(9.5, 10, 100), TypeError, "n_max must be an int, got 9.5"),
        (lambda: data.long_tail_counts(9, 1, 100), ValueError, "num_classes must .* 2, got 1"),
        (lambda: data.long_tail_counts(9, 3, 0.5), ValueError, "imbalance_factor must .* got 0.5"),
        (lambda: data.long_tail_counts(9, 3, math.nan), ValueError, "imbalance_factor .* got nan"),
        (lambda: data.long_tail_counts(9, 3, math.inf), ValueError, "imbalance_factor .* got inf"),
        (lambda: data.long_tail_counts(9, 3, "9"), TypeError, "imbalance_factor must .* got '9'"),
        (lambda: data.long_tail(LABELS, 100, 0), ValueError, "=100 leaves class 3 without.* is 0"),
        (lambda: data.long_tail([0, 0, 2], 2, 0), ValueError, "leaves class 1 .* it has 0"),
        (lambda: data.long_tail([], 2, 0), ValueError, r"labels must .* got shape \(0,\)"),
        (lambda: data.long_tail([0.0, 1.0], 2, 0), TypeError, "labels must .* got float64"),
        (lambda: data.long_tail([0, -1], 2, 0), ValueError, "labels must lie in .* got -1"),
        (lambda: data.split_validation(LABELS, 1, 0), ValueError, "fraction must .* got 1"),
        (lambda: data.split_validation(LABELS, -0.1, 0), ValueError, "fraction must .* got -0.1"),
        (lambda: data.split_validation(LABELS, True, 0), TypeError, "fraction must .* got True"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("factor", "fraction", "default"),
    [(None, 0.1, True), (1, 0.1, True), (10, 0.2, True), (100, 0.5, False), (None, 0.0, False)],
)
def test_select_partitions_the_real_training_images(factor, fraction, default, digits):
    chosen = data.select(digits, factor, None if default else fraction, seed=3)
    parts = chosen.train_indices, chosen.val_indices, chosen.left_out_indices
    labels = digits.train_labels
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    sizes = np.bincount(labels)
    tail = [min(n, int(sizes.max() * (factor or 1) ** (-c / 9))) for c, n in enumerate(sizes)]
    val = [math.floor(fraction * n) for n in tail]
    # counts are those of the images that the indices name, not of positions in the tail
    assert np.bincount(labels[parts[0]]).tolist() == [n - v for n, v in zip(tail, val, strict=True)]
    assert chosen.class_counts == tuple(np.bincount(labels[parts[0]]).tolist())
    assert chosen.val_counts == tuple(val)


def test_select_names_the_classes_that_are_short_of_their_share(digits):
    sizes = np.bincount(digits.train_labels)
    shares = data.long_tail_counts(int(sizes.max()), 10, 1.05)
    expected = tuple(str(c) for c in range(10) if sizes[c] < shares[c])
    assert 0 < len(expected) < 10
    assert data.select(digits, 1.05).short_classes == expected
    assert data.select(digits).short_classes == ()


def test_split_hash_names_the_split(digits):
    chosen = [
        data.select(digits, 10),
        data.select(digits, 10, seed=1),
        data.select(digits, 20),
        data.select(digits, 10, 0.1),
        data.select(digits),
    ]
    assert len({selection.split_hash for selection in chosen}) == 5
    # A seed draws the same split for ever; if this moves, every committed row is of other data.
    recorded = "f9a454fbb1a0d9c3b3cf222423297ce6a79c9fb5efc83fc94b89beed592663a2"
    assert chosen[0].split_hash == recorded


def test_select_refuses_a_class_without_training_images():
    images, labels = np.zeros((4, 2, 2), np.uint8), np.array([0, 0, 2, 2])
    record = data.from_arrays("mine", images, labels, images, labels, ("ant", "bee", "cow"))
    with pytest.raises(ValueError, match="class 'bee' has no training image"):
        data.select(record)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "factor", "before", "after"),
    [
        ("cifar10", 50, 13996, 11201),
        ("cifar10", 100, 12406, 9928),
        ("cifar100", 50, 12608, None),
        ("cifar100", 100, 10847, None),
    ],
)
def test_long_tailed_cifar_is_really_long_tailed(name, factor, before, after):
    record = data.load(name)
    chosen = data.select(record, factor)
    counts = np.bincount(record.train_labels[chosen.train_indices])
    assert counts.tolist() == list(chosen.class_counts)
    assert sum(chosen.class_counts) + sum(chosen.val_counts) == before
    assert chosen.short_classes == ()
    if after:
        assert sum(chosen.class_counts) == after
        assert (counts[0], counts[-1]) == (4000, 4000 // factor)


@pytest.mark.data
def test_unequal_mnist_follows_the_rule():
    record = data.load("mnist")
    chosen = data.select(record, 100)
    assert chosen.short_classes == ("0",)  # its share is the 6742 of class 1, it has 5923
    assert chosen.class_counts[:2] == (5923 - 1184, 4041 - 808)
