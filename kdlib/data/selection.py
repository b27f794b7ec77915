"""Which training images a run uses: long tail, then a stratified validation split.

Every index of a `Selection` names an image of `record.train_*`. (The published code kept positions
inside the tail and read them as such indices, so it trained on an almost balanced set.)
"""

import hashlib
import math
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike

from kdlib.data.records import ImageSet, as_labels
from kdlib.seeding import numpy_generator


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """A run's share of the training images; the three index arrays are disjoint, sorted, int64 and
    together the whole of `record.train_images`.

    left_out_indices: what the tail left out. class_counts, val_counts: images a class in train and
    validation. short_classes: names of the classes that had fewer images than their share of the
    tail and kept all. split_hash: sha256 (hex) of the three arrays.
    """

    train_indices: np.ndarray
    val_indices: np.ndarray
    left_out_indices: np.ndarray
    class_counts: tuple[int, ...]
    val_counts: tuple[int, ...]
    short_classes: tuple[str, ...]
    split_hash: str

    def __repr__(self) -> str:
        return (
            f"<Selection: {len(self.train_indices)} training images ({list(self.class_counts)}), "
            f"{len(self.val_indices)} of validation, {len(self.left_out_indices)} left out>"
        )


def select(
    record: ImageSet,
    imbalance_factor: float | None = None,
    val_fraction: float | None = None,
    seed: int = 0,
) -> Selection:
    """Draw a run's training and validation images; `seed` draws the tail and the split.

    imbalance_factor: None or 1 keeps every image. val_fraction: default 0.2 on a long tail, 0.1
    elsewhere. Raises ValueError where a class would be left without a training image.

    >>> from kdlib.data import load
    >>> select(load("digits"), imbalance_factor=10).class_counts
    (86, 68, 52, 41, 32, 24, 19, 15, 12, 9)
    """
    labels, num_classes = record.train_labels, record.num_classes
    sizes = np.bincount(labels, minlength=num_classes)
    if not sizes.all():
        raise ValueError(f"class {record.classes[sizes.argmin()]!r} has no training image")
    used, shares = np.arange(len(labels)), sizes
    long_tailed = imbalance_factor not in (None, 1)
    if long_tailed:
        used = long_tail(labels, imbalance_factor, seed)
        shares = long_tail_counts(int(sizes.max()), num_classes, imbalance_factor)
    if val_fraction is None:
        val_fraction = 0.2 if long_tailed else 0.1
    train, val = (used[rows] for rows in split_validation(labels[used], val_fraction, seed))
    left_out = np.setdiff1d(np.arange(len(labels)), used)
    short = tuple(record.classes[c] for c in np.flatnonzero(sizes < shares))
    return selection_of(labels, num_classes, train, val, left_out, short)


def selection_of(
    labels: np.ndarray,
    num_classes: int,
    train: np.ndarray,
    val: np.ndarray,
    left_out: np.ndarray,
    short_classes: tuple[str, ...],
) -> Selection:
    """The selection of these sorted positions in `labels`, with its counts and its hash."""
    counts = (np.bincount(labels[rows], minlength=num_classes).tolist() for rows in (train, val))
    hashed = _hash(train, val, left_out)
    return Selection(train, val, left_out, *map(tuple, counts), short_classes, hashed)


def long_tail_counts(n_max: int, num_classes: int, imbalance_factor: float) -> list[int]:
    """Images a class of an exponential long tail (Cui et al. 2019): int(n_max * IF^(-c / (C - 1))).

    >>> long_tail_counts(5000, 10, 100)
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    for name, value, least in (("n_max", n_max, 1), ("num_classes", num_classes, 2)):
        if not isinstance(value, Integral):
            raise TypeError(f"{name} must be an int, got {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    _check_real("imbalance_factor", imbalance_factor, 1, math.inf)
    return [int(n_max * imbalance_factor ** (-c / (num_classes - 1))) for c in range(num_classes)]


def long_tail(labels: ArrayLike, imbalance_factor: float, seed: int) -> np.ndarray:
    """The sorted indices of a long tail drawn from `labels` (N,): int64.

    n_max is the largest class's size; a class that has fewer images than its share keeps all. With
    one seed a steeper tail is a subset of a flatter one. Raises ValueError where a class ends up
    without an image.
    """
    labels = as_labels(labels)
    sizes = np.bincount(labels)
    shares = long_tail_counts(int(sizes.max()), len(sizes), imbalance_factor)
    kept = np.minimum(sizes, shares)
    if not kept.all():
        c = kept.argmin()
        raise ValueError(
            f"imbalance_factor={imbalance_factor!r} leaves class {c} without an image: it has "
            f"{sizes[c]} and its share is {shares[c]}"
        )
    shuffled = _shuffled_classes(labels, seed, "tail")
    return np.sort(np.concatenate([rows[:n] for rows, n in zip(shuffled, kept, strict=True)]))


def split_validation(
    labels: ArrayLike, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted positions in `labels` (N,) for training and for validation, which takes
    floor(fraction * n_c) images of class c. fraction: in [0, 1)."""
    labels = as_labels(labels)
    _check_real("fraction", fraction, 0, 1)
    shuffled = _shuffled_classes(labels, seed, "validation")
    cuts = [int(fraction * len(rows)) for rows in shuffled]
    val = np.concatenate([rows[:n] for rows, n in zip(shuffled, cuts, strict=True)])
    train = np.concatenate([rows[n:] for rows, n in zip(shuffled, cuts, strict=True)])
    return np.sort(train), np.sort(val)


def _shuffled_classes(labels: np.ndarray, seed: int, purpose: str) -> list[np.ndarray]:
    """The positions of each class, shuffled."""
    generator = numpy_generator(seed, purpose)
    return [generator.permutation(np.flatnonzero(labels == c)) for c in range(labels.max() + 1)]


def _check_real(name: str, value: float, low: float, high: float) -> None:
    """low <= value < high, so no NaN either."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not low <= value < high:
        raise ValueError(f"{name} must lie in [{low}, {high}), got {value!r}")


def _hash(*indices: np.ndarray) -> str:
    """Lengths first, so that moving an image from one array to the next changes the hash."""
    lengths = np.array([len(part) for part in indices])
    return hashlib.sha256(np.concatenate([lengths, *indices]).astype("<i8").tobytes()).hexdigest()
