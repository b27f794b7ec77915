"""Sets by name: folders, fingerprints, resizing and files written."""

import numpy as np
import pytest
import torch

from kdlib import data
from tests.data.set_helpers import draw, write_images


def test_a_known_set_with_other_content_needs_trust(tmp_path):
    record = data.from_arrays("cifar10", **draw((4, 4, 3)))
    data.save_npz(record, tmp_path)
    both = f"{record.fingerprint['train']}, expected a81e268a.*lossless.*trust=True or --trust-data"
    with pytest.raises(ValueError, match=both):
        data.load("cifar10", tmp_path)
    assert data.load("cifar10", tmp_path, trust=True).fingerprint == record.fingerprint


def test_the_folder_is_the_argument_then_the_variable_then_data(tmp_path, monkeypatch):
    for i, folder in enumerate(("argument", "variable", "data")):
        data.save_npz(data.from_arrays("mine", **draw(seed=i)), tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDLIB_DATA", "variable")
    found = [data.load("mine", "argument"), data.load("mine")]
    monkeypatch.delenv("KDLIB_DATA")
    found.append(data.load("mine"))
    for i, record in enumerate(found):
        assert np.array_equal(record.train_labels, draw(seed=i)["train_labels"])


def test_unknown_names_come_with_the_closest_one_and_the_folder(tmp_path):
    data.save_npz(data.from_arrays("flowers", **draw()), tmp_path)
    for name, close in (("cifar11", "cifar10"), ("flower", "flowers")):
        with pytest.raises(LookupError, match=f"{name!r}.*{tmp_path}, did you mean '{close}'"):
            data.load(name, tmp_path)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"name must .* '\.\./mine'", {"name": "../mine"}),
        (ValueError, "name must .* ''", {"name": ""}),
        (TypeError, "name must be a str, got 3", {"name": 3}),
        (ValueError, "image_size must .* 0", {"name": "digits", "image_size": 0}),
        (ValueError, "image_size must .* '32'", {"name": "digits", "image_size": "32"}),
    ],
)
def test_bad_arguments_of_load(error, message, arguments):
    with pytest.raises(error, match=message):
        data.load(**arguments)


def test_names_are_the_known_sets_and_those_in_the_folder(tmp_path):
    known = ["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"]
    assert data.names(tmp_path / "missing") == known
    data.save_npz(data.from_arrays("zebras", **draw()), tmp_path)
    data.save_npz(data.from_arrays("mnist", **draw()), tmp_path)
    write_images(tmp_path / "apes", draw())
    assert data.names(tmp_path) == [*known, "apes", "zebras"]


@pytest.mark.parametrize("size", [28, 32, 5])
def test_image_size_is_a_bilinear_resize_of_the_same_images(size, digits):
    resized = data.load("digits", image_size=size)
    pixels = torch.from_numpy(digits.test_images).permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.interpolate(
        pixels, size=(size, size), mode="bilinear", antialias=True
    )
    difference = torch.from_numpy(resized.test_images).permute(0, 3, 1, 2) - expected
    assert difference.abs().max() <= 1.5  # 8-bit rounding, once an axis
    assert np.array_equal(resized.train_labels, digits.train_labels)
    assert resized.fingerprint["test"] != digits.fingerprint["test"]
    assert data.load("digits", image_size=8).fingerprint == digits.fingerprint


def test_digits_cannot_be_saved_over(digits, tmp_path):
    with pytest.raises(ValueError, match="'digits' is always read from scikit-learn"):
        data.save_npz(digits, tmp_path)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)])
def test_save_npz_and_load_round_trip(shape, tmp_path):
    record = data.from_arrays("my-set.v2", **draw(shape))
    path = data.save_npz(record, tmp_path / "new")
    with np.load(path) as archive:
        assert archive["train_images"].shape == (12, *shape)  # gray: (N, H, W)
        assert archive["test_labels"].dtype == np.int64
    again = data.load("my-set.v2", tmp_path / "new")
    assert again.fingerprint == record.fingerprint
    assert again.classes == record.classes
    assert np.array_equal(again.train_images, record.train_images)
    assert list(path.parent.iterdir()) == [path]


def test_save_npz_replaces_a_file_at_once_or_not_at_all(tmp_path, monkeypatch):
    first, second = (data.from_arrays("mine", **draw(seed=seed)) for seed in (0, 1))
    path = data.save_npz(first, tmp_path)
    before = path.read_bytes()
    with open(path, "rb") as reader:  # keeps the earlier file to the end
        data.save_npz(second, tmp_path)
        assert reader.read() == before
    assert data.load("mine", tmp_path).fingerprint == second.fingerprint

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        data.save_npz(first, tmp_path)
    assert data.load("mine", tmp_path).fingerprint == second.fingerprint
    assert list(tmp_path.iterdir()) == [path]


REAL = {
    "mnist": ((60000, 28, 28, 1), [0.1307], [0.3081], "0", "9"),
    "fashion_mnist": ((60000, 28, 28, 1), [0.2860], [0.3530], "T-shirt/top", "Ankle boot"),
    "cifar10": (
        *((50000, 32, 32, 3), [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
        *("airplane", "truck"),
    ),
    "cifar100": (
        *((50000, 32, 32, 3), [0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
        *("apple", "worm"),
    ),
}


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_real_sets(name):
    shape, mean, std, first, last = REAL[name]
    record = data.load(name)
    assert record.train_images.shape == shape
    assert record.test_images.shape == (10000, *shape[1:])
    assert record.mean == pytest.approx(mean, abs=5.1e-5)
    assert record.std == pytest.approx(std, abs=5.1e-5)
    assert (record.classes[0], record.classes[-1]) == (first, last)
