"""Records: fingerprints, statistics and what is refused."""

import numpy as np
import pytest
import torch

from kdlib import data
from tests.data.set_helpers import CLASSES, draw, literal_fingerprint, put


@pytest.mark.parametrize(("shape", "top", "code"), [((4, 4), 9, "<B"), ((3, 3, 3), 300, "<H")])
def test_fingerprint_is_the_literal_one(shape, top, code):
    images = np.random.default_rng(0).integers(0, 256, (6, *shape), np.uint8)
    labels = np.array([0, 1, 2, 255, 3, top])
    expected = literal_fingerprint(images, labels, code if top > 255 else "<B")
    assert data.fingerprint(images, labels) == expected
    assert data.fingerprint(torch.from_numpy(images), labels.tolist()) == expected
    assert data.fingerprint(np.asfortranarray(images), labels) == expected


def test_fingerprint_sees_pixels_labels_and_order_but_not_the_gray_axis():
    arrays = draw()
    images, labels = arrays["train_images"], arrays["train_labels"]
    original = data.fingerprint(images, labels)
    assert data.fingerprint(images[..., None], labels) == original
    other = images.copy()
    other[3, 2, 1] ^= 1
    changed = {
        data.fingerprint(other, labels),
        data.fingerprint(images, (labels + 1) % 3),
        data.fingerprint(images[::-1], labels[::-1]),
    }
    assert len(changed | {original}) == 4


@pytest.mark.parametrize("shape", [(4, 4), (5, 5, 3)])
def test_from_arrays_keeps_content_and_order(shape):
    arrays = draw(shape)
    record = data.from_arrays("mine", **arrays)
    assert record.classes == CLASSES
    assert record.num_classes == 3
    assert (record.image_size, record.in_channels) == (shape[0], (*shape, 1)[2])
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        held = getattr(record, f"{split}_images")
        assert held.ndim == 4
        assert held.dtype == np.uint8
        assert np.array_equal(held.reshape(images.shape), images)
        assert np.array_equal(getattr(record, f"{split}_labels"), labels)
        assert record.fingerprint[split] == literal_fingerprint(images, labels)


def test_mean_and_std_are_those_of_the_training_pixels():
    arrays = draw((4, 4, 3))
    arrays["train_images"][..., 2] = 77
    record = data.from_arrays("mine", **arrays)
    pixels = arrays["train_images"].astype(np.float64) / 255
    assert record.mean == pytest.approx(pixels.mean((0, 1, 2)), rel=1e-14)
    assert record.std == pytest.approx(pixels.std((0, 1, 2)), rel=1e-12, abs=1e-14)
    assert record.std[2] == 0.0  # exactly: no rounding makes a constant channel vary


BROKEN = [
    (
        put("train_images", lambda x: x.astype(np.float32)),
        "train_images must be uint8, got float32: .* as uint8",
    ),
    (put("test_images", lambda x: x[0]), r"test_images must be .* got shape \(4, 4\)"),
    (
        put("test_images", lambda x: np.zeros((6, 3, 4, 4), np.uint8)),
        r"got shape \(6, 3, 4, 4\): channels come last, transpose",
    ),
    (put("test_images", lambda x: x[:0]), r"test_images must be .* got shape \(0, 4, 4, 1\)"),
    (put("train_images", lambda x: x[:, :3]), r"H = W.* got shape \(12, 3, 4, 1\)"),
    (put("test_images", lambda x: x[:, 1:, 1:]), r"differ in shape: \(4, 4, 1\), \(3, 3, 1\)"),
    (put("train_labels", lambda y: y[1:]), r"differ in length, .*\(12, 4, 4, 1\) and \(11,\)"),
    (put("train_labels", lambda y: y[:, None]), r"train_labels must be .* got shape \(12, 1\)"),
    (
        put("test_labels", lambda y: y + 1),
        r"test_labels must .* 0..2 \(they count from 0\), got 3",
    ),
    (put("test_labels", lambda y: y - 1), "test_labels must lie in .* got -1"),
    (put("train_labels", lambda y: y * np.nan), "train_labels must be integers, got float64"),
    (put("classes", lambda c: np.arange(3)), r"classes must be names \(str\), got"),
    (put("classes", lambda c: c[:0]), r"classes must be .* at least one, got \(\)"),
    (put("classes", lambda c: c[[0, 0, 1]]), "classes must be distinct .*'cat', 'cat', 'dog'"),
]


@pytest.mark.parametrize(("breaks", "message"), BROKEN)
def test_broken_arrays_are_refused_with_the_name_and_in_a_file_with_its_path(
    breaks, message, tmp_path
):
    arrays = draw()
    breaks(arrays)
    with pytest.raises((ValueError, TypeError), match=message):
        data.from_arrays("mine", **arrays)
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(ValueError, match=f"mine.npz: .*{message}"):
        data.load("mine", tmp_path)
