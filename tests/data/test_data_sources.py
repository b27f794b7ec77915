"""Sources: scikit-learn, npz files, trees and torchvision, each whole and broken."""

import struct
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from kdlib import data
from kdlib.data import kept
from tests.data.set_helpers import (
    CLASSES,
    draw,
    is_canonical,
    literal_fingerprint,
    put,
    without,
    write_images,
)


def test_digits_are_scikit_learns_in_canonical_order(digits):
    from sklearn.datasets import load_digits

    assert (len(digits.train_labels), len(digits.test_labels)) == (1078, 719)
    assert digits.train_images.shape[1:] == (8, 8, 1)
    assert digits.classes == tuple("0123456789")
    for split in ("train", "test"):
        images, labels = getattr(digits, f"{split}_images"), getattr(digits, f"{split}_labels")
        assert is_canonical(images, labels)
        assert digits.fingerprint[split] == literal_fingerprint(images, labels)
    source = load_digits()
    level = {x: round(Fraction(x * 255, 16)) for x in range(17)}  # half to even: 8 -> 128
    expected = sorted(
        (y, bytes(level[int(v)] for v in x))
        for x, y in zip(source.data, source.target, strict=True)
    )
    images = np.concatenate([digits.train_images, digits.test_images])
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    assert sorted((y, x.tobytes()) for x, y in zip(images, labels, strict=True)) == expected
    shares = np.bincount(digits.test_labels) / np.bincount(labels)
    assert np.abs(shares - 0.4).max() < 0.005  # stratified


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (without("classes"), "mine.npz lacks classes"),
        (without("test_labels"), "mine.npz lacks test_labels, it has: .*train_labels"),
        (
            put("classes", lambda c: c.astype(object)),
            "npz holds Python objects, .* dtype=str",
        ),
    ],
)
def test_npz_with_wrong_keys_is_refused(breaks, message, tmp_path):
    arrays = draw()
    breaks(arrays)
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data.load("mine", tmp_path)


def flip(content):
    middle = len(content) // 4
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-40], lambda c: c[: len(c) // 2], flip, lambda c: b"", lambda c: b"no"]
)
def test_a_damaged_npz_is_refused_by_path(damage, tmp_path):
    path = data.save_npz(data.from_arrays("mine", **draw((16, 16))), tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"mine\.npz is damaged or no npz file: "):
        data.load("mine", tmp_path)


def test_an_npy_file_under_an_npz_name_is_refused(tmp_path):
    with open(tmp_path / "mine.npz", "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"mine\.npz is damaged or no npz file"):
        data.load("mine", tmp_path)


@pytest.mark.parametrize(("shape", "channels"), [((6, 6), 1), ((6, 6, 3), 3)])
def test_a_tree_gives_its_images_in_canonical_order(shape, channels, tmp_path, caplog):
    arrays = draw(shape)
    write_images(tmp_path / "mine", arrays)
    for stray in ("cat/._0.png", "cat/notes.txt", ".ipynb_checkpoints/0-checkpoint.png"):
        path = tmp_path / "mine" / "train" / stray
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no image")
    before = sorted(tmp_path.rglob("*"))
    record = data.load("mine", tmp_path, image_size=6)
    assert record.classes == CLASSES
    assert record.in_channels == channels
    assert "train: 1 left out that are no .png" in caplog.text
    assert "own folder: cat/notes.txt" in caplog.text
    assert is_canonical(record.train_images, record.train_labels)
    for split in ("train", "test"):
        held, labels = getattr(record, f"{split}_images"), getattr(record, f"{split}_labels")
        found = sorted((y, x.tobytes()) for x, y in zip(held, labels, strict=True))
        given = zip(arrays[f"{split}_images"], arrays[f"{split}_labels"], strict=True)
        assert found == sorted((y, x.tobytes()) for x, y in given)
    assert sorted(tmp_path.rglob("*")) == before
    assert data.load("mine", tmp_path, image_size=9).train_images.shape == (12, 9, 9, channels)


def test_a_tree_names_what_it_leaves_out(tmp_path, caplog):
    write_images(tmp_path / "mine", draw((6, 6)))
    for name in ("cat.png", "cat/deeper/0.png", "cat/0.gif"):
        path = tmp_path / "mine" / "test" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    data.load("mine", tmp_path, image_size=6)
    assert "test: 3 left out that are no .png, .jpg, .jpeg, .bmp, .webp in a class" in caplog.text
    assert "own folder: cat/0.gif, cat/deeper, cat.png" in caplog.text


def test_a_tree_takes_jpg_files_of_any_size(tmp_path):
    arrays = draw((8, 8, 3))
    write_images(tmp_path / "mine", arrays, "JPG")
    Image.new("RGB", (20, 9), "red").save(tmp_path / "mine" / "train" / "dog" / "wide.jpeg")
    record = data.load("mine", tmp_path, image_size=8)
    assert len(record.train_images) == 13
    assert (np.abs(record.train_images - np.array([254, 0, 0])).max((1, 2, 3)) < 2).sum() == 1


def test_a_tree_that_gained_an_image_is_read_again(tmp_path):
    write_images(tmp_path / "mine", draw((8, 8, 3)))
    before = kept.image_set("mine", str(tmp_path), 8, True)
    assert kept.image_set("mine", str(tmp_path), 8, True) is before
    Image.new("RGB", (8, 8), "red").save(tmp_path / "mine" / "train" / "dog" / "zz.png")
    after = kept.image_set("mine", str(tmp_path), 8, True)
    assert len(after.train_images) == len(before.train_images) + 1


def break_file(root):
    file = next((root / "test" / "cat").iterdir())
    file.write_bytes(file.read_bytes()[:50])


def deepen(root):
    Image.fromarray(np.full((6, 6), 40000, np.uint16)).save(root / "train" / "eel" / "deep.png")


@pytest.mark.parametrize(
    ("breaks", "size", "message"),
    [
        (
            lambda root: None,
            None,
            "image_size must be given for .*mine, got None",
        ),
        (lambda root: (root / "test" / "dog").rename(root / "test" / "dgo"), 6, "dog.*test.*dgo"),
        (
            lambda root: (root / "test").rename(root / "tset"),
            6,
            "no folder test, .*: train, tset",
        ),
        (break_file, 6, r"test/cat/.*\.png is no readable 8-bit image: "),
        (deepen, 6, r"deep\.png is no readable 8-bit image: more than 8 bits"),
    ],
)
def test_a_broken_tree_is_refused_by_path(breaks, size, message, tmp_path):
    write_images(tmp_path / "mine", draw((6, 6)))
    breaks(tmp_path / "mine")
    with pytest.raises(ValueError, match=message):
        data.load("mine", tmp_path, image_size=size)


def write_idx(path, array):
    header = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_torchvisions_files_are_converted_once(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    content = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):  # what a download leaves behind
        images, labels = rng.integers(0, 256, (30, 28, 28), np.uint8), rng.permutation(30) % 10
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels)
        content[split] = {(x.tobytes(), y) for x, y in zip(images, labels, strict=True)}
    with pytest.raises(ValueError, match=r"'mnist' in .*expected b6de6724"):
        data.load("mnist", tmp_path)
    assert (tmp_path / "mnist.npz").is_file()
    monkeypatch.setattr("torchvision.datasets.MNIST", None)  # the npz must do from here on
    record = data.load("mnist", tmp_path, trust=True)
    assert record.classes == tuple("0123456789")
    for split in ("train", "test"):
        images, labels = getattr(record, f"{split}_images"), getattr(record, f"{split}_labels")
        assert is_canonical(images, labels)
        assert {(x.tobytes(), y) for x, y in zip(images, labels, strict=True)} == content[split]


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("Error downloading")])
def test_offline_says_what_is_missing_where_and_how_to_get_it(error, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("torchvision.datasets.CIFAR10", fail)
    message = f"'cifar10' is not in {tmp_path} .*{error}.* cifar10.npz .*KDLIB_DATA"
    with pytest.raises(OSError, match=message):
        data.load("cifar10", tmp_path)
