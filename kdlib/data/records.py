"""What a data set is: uint8 arrays, class names and a fingerprint of the content."""

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """A named set of square images, as `load` and `from_arrays` check and return it.

    train_images, test_images: (N, H, W, C) uint8, C = 1 for gray. train_labels, test_labels: (N,)
    int64, indices into `classes`. fingerprint: {"train": hex, "test": hex} of the pixels held here.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]
    fingerprint: dict[str, str]

    def __repr__(self) -> str:
        return (
            f"<ImageSet {self.name!r}: {len(self.train_labels)} training and "
            f"{len(self.test_labels)} test images of {self.image_size} x {self.image_size} x "
            f"{self.in_channels}, {self.num_classes} classes>"
        )

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        return self.train_images.shape[-1]

    @property
    def image_size(self) -> int:
        return self.train_images.shape[1]

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the training pixels in [0, 1], one a channel."""
        return tuple(total / (255 * n) for n, total, _ in self._pixel_sums)

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation (over n) of the training pixels in [0, 1], one a channel."""
        return tuple(math.sqrt(n * sq - total**2) / (255 * n) for n, total, sq in self._pixel_sums)

    @cached_property
    def _pixel_sums(self) -> list[tuple[int, int, int]]:
        """Each channel's count, sum and sum of squares: Python's integers, as `std` passes 2^63."""
        pixels = self.train_images.reshape(-1, self.in_channels)
        sums = np.einsum("nc->c", pixels, dtype=np.int64)  # 5 times as fast as pixels.sum(0)
        squares = np.einsum("nc,nc->c", pixels, pixels, dtype=np.int64)
        return [(len(pixels), *pair) for pair in zip(sums.tolist(), squares.tolist(), strict=True)]


def from_arrays(
    name: str,
    train_images: ArrayLike,
    train_labels: ArrayLike,
    test_images: ArrayLike,
    test_labels: ArrayLike,
    classes: Sequence[str],
) -> ImageSet:
    """A set of one's own, checked; the images stay in the order given.

    Images are (N, H, W) or (N, H, W, C) uint8 with H = W, labels (N,) integers below len(classes).
    Raises TypeError or ValueError with the argument and its value.
    """
    check_name(name)
    if not all(isinstance(title, str) for title in classes):
        raise TypeError(f"classes must be names (str), got {list(classes)}")
    classes = tuple(map(str, classes))  # an npz file holds numpy's own str
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f"classes must be distinct and at least one, got {classes}")
    train = _check_split(train_images, train_labels, "train_", len(classes))
    test = _check_split(test_images, test_labels, "test_", len(classes))
    shapes = train[0].shape[1:], test[0].shape[1:]
    if shapes[0] != shapes[1]:
        raise ValueError(f"train_images and test_images differ in shape: {shapes[0]}, {shapes[1]}")
    prints = {"train": fingerprint(*train), "test": fingerprint(*test)}
    return ImageSet(name, *train, *test, classes, prints)


def fingerprint(images: ArrayLike, labels: ArrayLike) -> str:
    """The sha256 (hex) of one split in the order given: of each image the label, then the sha256 of
    its raw pixels.

    images: (N, H, W) or (N, H, W, C) uint8; gray has the same fingerprint either way. labels: (N,)
    integers, a byte each; where one of them is above 255, two bytes each, little endian.

    >>> fingerprint(np.zeros((1, 2, 2), np.uint8), [3])[:8]
    '1e005bf0'
    """
    images, labels = _check_split(images, labels)
    width = 1 if labels.max() < 256 else 2
    total = hashlib.sha256()
    for label, digest in zip(labels.tolist(), _digests(images), strict=True):
        total.update(label.to_bytes(width, "little") + digest)
    return total.hexdigest()


def canonical(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The split sorted by (label, sha256 of the pixels): an order that only the content decides."""
    keys = list(zip(labels.tolist(), _digests(images), strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return images[order], labels[order]


def check_name(name: str) -> None:
    """A set's name is part of a path: letters, digits, `_`, `-` and `.`, no dot in front."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {name!r}")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"name must be of letters, digits, '_', '-' and '.', got {name!r}")


def as_labels(labels: ArrayLike, name: str = "labels", num_classes: int = 65536) -> np.ndarray:
    """(N,) integers as int64, refused where empty or outside 0..num_classes-1 (default: all that a
    fingerprint can take)."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"{name} must be (N,) and not empty, got shape {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {labels.dtype}")
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise ValueError(
            f"{name} must lie in 0..{num_classes - 1} (they count from 0), got {wrong[0]}"
        )
    return labels.astype(np.int64, copy=False)


def _check_split(
    images: ArrayLike, labels: ArrayLike, prefix: str = "", num_classes: int = 65536
) -> tuple[np.ndarray, np.ndarray]:
    """One split as (N, H, W, C) uint8 and (N,) int64; `prefix` is how the messages name it."""
    images, name = np.asarray(images), f"{prefix}images"
    if images.dtype != np.uint8:
        hint = ": (255 * x).round() of x in 0..1, as uint8" * (images.dtype.kind == "f")
        raise TypeError(f"{name} must be uint8, got {images.dtype}{hint}")
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or not images.size or images.shape[1] != images.shape[2]:
        first = images.ndim == 4 and images.shape[2] == images.shape[3]
        hint = ": channels come last, transpose(0, 2, 3, 1)" * first
        raise ValueError(
            f"{name} must be (N, H, W[, C]), H = W, and not empty, got shape {images.shape}{hint}"
        )
    labels = as_labels(labels, f"{prefix}labels", num_classes)
    if len(images) != len(labels):
        shapes = f"shapes {images.shape} and {labels.shape}"
        raise ValueError(f"{name} and {prefix}labels differ in length, got {shapes}")
    return np.ascontiguousarray(images), labels


def _digests(images: np.ndarray) -> Iterator[bytes]:
    rows = np.ascontiguousarray(images).reshape(len(images), -1)  # hashlib takes 1-D buffers
    return (hashlib.sha256(row).digest() for row in rows)
