"""The converter of Tiny ImageNet's official tree, on a tree of the same form."""

import numpy as np
import pytest
from PIL import Image
from set_helpers import is_canonical

from kdlib.data import load
from kdlib.data.tiny_imagenet import convert_tiny_imagenet

CLASSES = ("n01443537", "n01629819", "n02058221")
VAL = {"val_0.JPEG": 2, "val_1.JPEG": 0, "val_2.JPEG": 2, "val_3.JPEG": 1}


def write(path, rng, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (64, 64, 3) if mode == "RGB" else (64, 64)
    Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(path, format="JPEG")


@pytest.fixture
def tree(tmp_path):
    """200 classes are three here, and 500 images four; one of them is gray, as some really are."""
    rng, folder = np.random.default_rng(0), tmp_path / "tiny-imagenet-200"
    for name in CLASSES[::-1]:
        for number in range(4):
            path = folder / "train" / name / "images" / f"{name}_{number}.JPEG"
            write(path, rng, "L" if (name, number) == (CLASSES[0], 0) else "RGB")
        (folder / "train" / name / f"{name}_boxes.txt").write_text("a box\n")
    for name in VAL:
        write(folder / "val" / "images" / name, rng)
    lines = [f"{name}\t{CLASSES[label]}\t0\t32\t44\t62\n" for name, label in VAL.items()]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    write(folder / "test" / "images" / "test_0.JPEG", rng)  # without a label: not read
    return folder


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_set_is_the_tree(tree, tmp_path):
    path = convert_tiny_imagenet(tree, tmp_path / "data")
    assert path == tmp_path / "data" / "tiny_imagenet.npz"
    record = load("tiny_imagenet", tmp_path / "data")
    assert record.classes == CLASSES
    assert (record.image_size, record.in_channels) == (64, 3)
    wanted = {
        "train": [
            (label, pixels(image))
            for label, name in enumerate(CLASSES)
            for image in (tree / "train" / name / "images").iterdir()
        ],
        "test": [(label, pixels(tree / "val" / "images" / name)) for name, label in VAL.items()],
    }
    for split, pairs in wanted.items():
        images, labels = (getattr(record, f"{split}_{part}") for part in ("images", "labels"))
        assert is_canonical(images, labels)
        found = sorted(
            (label, image.tobytes()) for label, image in zip(labels, images, strict=True)
        )
        assert found == sorted((label, image.tobytes()) for label, image in pairs)


def test_images_of_another_size(tree, tmp_path):
    convert_tiny_imagenet(tree, tmp_path, image_size=32)
    small = load("tiny_imagenet", tmp_path)
    assert small.image_size == 32
    convert_tiny_imagenet(tree, tmp_path)
    there = load("tiny_imagenet", tmp_path, image_size=32)  # the same, but for the order
    for split in ("train_images", "test_images"):
        one, other = (sorted(x.tobytes() for x in getattr(s, split)) for s in (small, there))
        assert one == other


def edit(tree, old, new):
    path = tree / "val" / "val_annotations.txt"
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (lambda tree: (tree / "train").rename(tree / "t"), OSError, r"no train/<class>/images"),
        (lambda tree: (tree / "val" / "val_annotations.txt").unlink(), OSError, "annotations.txt"),
        (lambda tree: edit(tree, "n02058221", "n0205822"), ValueError,
         r"val_0.JPEG is of the class 'n0205822', not in train; did you mean 'n02058221'"),
        (lambda tree: edit(tree, "val_1", "val_9"), ValueError, r"is not there: 1 .*val_9.JPEG"),
        (lambda tree: (tree / "val" / "images" / "val_3.JPEG").unlink(), ValueError,
         r"names what is not there: 1 image\(s\), as .*val_3.JPEG"),
        (lambda tree: write(tree / "val" / "images" / "val_4.JPEG", np.random.default_rng(1)),
         ValueError, r"does not name what is there: 1 image\(s\), as .*val_4.JPEG"),
        (lambda tree: (tree / "val" / "images" / "val_2.JPEG").write_bytes(b"no image"),
         ValueError, r"val_2.JPEG is no readable 8-bit image"),
    ],
)  # fmt: skip
def test_a_wrong_tree_is_refused_by_name(tree, tmp_path, harm, error, message):
    harm(tree)
    with pytest.raises(error, match=message):
        convert_tiny_imagenet(tree, tmp_path)
    assert not (tmp_path / "tiny_imagenet.npz").exists()


def test_an_image_size_that_is_none(tree, tmp_path):
    with pytest.raises(ValueError, match="image_size must be a positive int, got 0"):
        convert_tiny_imagenet(tree, tmp_path, image_size=0)
