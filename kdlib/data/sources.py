"""Where a set is read from: scikit-learn, an npz file, a tree of class folders, torchvision."""

from pathlib import Path

import numpy as np

from kdlib.data.records import ImageSet, canonical, from_arrays
from kdlib.known_sets import KNOWN_SETS
from kdlib.notices import warn_once

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
SPLITS = ("train", "test")
KEYS = ("train_images", "train_labels", "test_images", "test_labels", "classes")


def digits() -> ImageSet:
    """scikit-learn's 1,797 images of 8 x 8, one stratified 60/40 split in canonical order."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images, labels = canonical(np.round(data.images * 255 / 16).astype(np.uint8), data.target)
    rows = np.arange(len(labels))
    split = train_test_split(rows, test_size=0.4, stratify=labels, random_state=0)
    train, test = np.sort(split[0]), np.sort(split[1])
    classes = [str(digit) for digit in range(10)]
    return from_arrays("digits", images[train], labels[train], images[test], labels[test], classes)


def from_npz(name: str, path: Path) -> ImageSet:
    """The set in an npz file with the arrays `KEYS`; others are ignored. Nothing is unpickled."""
    with open(path, "rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in KEYS if key in archive.files}
                there = ", ".join(archive.files)
        except Exception as error:  # a damaged zip or array raises a dozen kinds
            if "Object arrays" in str(error):
                raise ValueError(
                    f"{path} holds Python objects, which are not loaded: classes are an array of "
                    "str (np.array(names, dtype=str)), images uint8, labels integers"
                ) from error
            raise ValueError(f"{path} is damaged or no npz file: {error}") from error
    if missing := [key for key in KEYS if key not in arrays]:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}, it has: {there} (classes: their names, in the "
            "order of the labels)"
        )
    try:
        return from_arrays(name, **arrays)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def from_tree(name: str, folder: Path, image_size: int | None) -> ImageSet:
    """The set in `folder/{train,test}/<class>/*`, resized, in canonical order. Classes are
    the sorted folder names; the set is gray where no pixel has a color."""
    if image_size is None:
        raise ValueError(
            f"image_size must be given for {folder}, got None: files have any size (image_size: 32)"
        )
    if missing := [split for split in SPLITS if not (folder / split).is_dir()]:
        there = ", ".join(sorted(path.name for path in folder.iterdir()))
        raise ValueError(f"{folder} has no folder {' and '.join(missing)}, it has: {there}")
    splits = [_image_files(folder / split) for split in SPLITS]
    classes, others = (sorted({path.parent.name for path in paths}) for paths in splits)
    if not classes or classes != others:
        raise ValueError(f"{folder}: train has images of the classes {classes}, test of {others}")
    images = [np.stack([read_image(path, image_size) for path in paths]) for paths in splits]
    if all((pixels == pixels[..., :1]).all() for pixels in images):
        images = [pixels[..., :1] for pixels in images]
    arrays = []
    for pixels, paths in zip(images, splits, strict=True):
        labels = np.array([classes.index(path.parent.name) for path in paths])
        arrays += canonical(pixels, labels)
    return from_arrays(name, *arrays, classes)


def download(name: str, folder: Path) -> ImageSet:
    """A known set through torchvision (its archives stay in `folder`), in canonical order."""
    try:
        from torchvision import datasets

        build = getattr(datasets, KNOWN_SETS[name].torchvision)
        splits = [build(folder, train=train, download=True) for train in (True, False)]
    except (ImportError, OSError, RuntimeError) as error:
        raise OSError(
            f"{name!r} is not in {folder.absolute()} and cannot be downloaded ({error}). Put "
            f"{name}.npz there, set data_dir or the environment variable KDLIB_DATA to the folder "
            "that has it, or load the set once with network access"
        ) from error
    arrays = []
    for split in splits:
        arrays += canonical(np.asarray(split.data), np.asarray(split.targets))
    classes = [title.split(" - ")[0] for title in splits[0].classes]  # MNIST's are "0 - zero"
    return from_arrays(name, *arrays, classes)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, C) uint8 -> (size, size, C), bilinear, antialiased where it shrinks. Pillow computes
    it in integers: alike on any machine."""
    from PIL import Image

    planes = [
        Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR)
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack(planes, axis=-1)


def _image_files(folder: Path) -> list[Path]:
    """The images of a split; the log says what else lies there."""
    hidden = list(folder.glob(".*"))  # .ipynb_checkpoints
    inside = [path for path in folder.glob("*/*") if path.name[0] != "."]  # ._copies
    inside = [path for path in inside if path.parent not in hidden]
    images = [path for path in inside if path.suffix.lower() in IMAGES]
    loose = [path for path in folder.glob("*") if path.is_file() and path not in hidden]
    if others := sorted({*inside, *loose} - {*images}):
        warn_once(
            f"{folder}: {len(others)} left out that are no {', '.join(IMAGES)} in a class's own "
            f"folder: {', '.join(str(path.relative_to(folder)) for path in others[:3])}"
        )
    return images


def read_image(path: Path, size: int) -> np.ndarray:
    """A file's image, (size, size, 3) uint8; ValueError naming the file where it is none."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":  # Pillow's conversion would clip them
                raise ValueError(f"more than 8 bits a channel (mode {image.mode})")
            return resize(np.asarray(image.convert("RGB")), size)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is no readable 8-bit image: {error}") from error
