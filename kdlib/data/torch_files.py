"""Sets in torch files, one pair a teacher: the layout of published code.

`<folder>/*_train.pth` and `<folder>/*_test.pth` (or `*_val.pth`), each a dict with `data`
(N, H, W, C) of 0..255 and `labels` (N,), any integers; other keys are ignored. Images that stand in
several files count once. Classes are the labels in ascending order; `<folder>/classes.txt` may name
them, a line each: `24 African_elephant`. Files are read with `weights_only`: no code in them runs.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from kdlib.data.records import ImageSet, canonical, from_arrays

SPLITS = {"train": ("*_train.pth",), "test": ("*_test.pth", "*_val.pth")}
_ARRAYS = [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("u1", "i4", "i8", "f4", "f8"))]


def from_torch_files(name: str, folder: Path) -> ImageSet:
    """The set of a folder's files, in canonical order.

    ValueError naming the file that is damaged or of another layout, or how many images stand in
    train and in test: a student would be tested on what some teacher has learnt.
    """
    found = {split: _read_split(folder, patterns) for split, patterns in SPLITS.items()}
    keys = [{(one.tobytes(), int(label)) for one, label in zip(*found[split], strict=True)}
            for split in SPLITS]  # fmt: skip
    if shared := len(keys[0] & keys[1]):
        raise ValueError(f"{folder}: {shared} images stand in both train and test files")
    ids = sorted({*found["train"][1].tolist(), *found["test"][1].tolist()})
    arrays = []
    for images, labels in found.values():
        arrays += canonical(images, np.searchsorted(ids, labels))
    return from_arrays(name, *arrays, _class_names(folder, ids))


def _read_split(folder: Path, patterns: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of all files of a split, copies left out."""
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
    if not paths:
        raise ValueError(f"{folder} has no file {' or '.join(patterns)}")
    parts = [_read(path) for path in paths]
    if len({images.shape[1:] for images, _ in parts}) > 1:
        shapes = {
            path.name: images.shape[1:] for path, (images, _) in zip(paths, parts, strict=True)
        }
        raise ValueError(f"{folder}: images differ in shape: {shapes}")
    images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    first = {}
    for row, (one, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        first.setdefault((one.tobytes(), label), row)
    kept = list(first.values())
    return images[kept], labels[kept]


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    reconstruct = np.zeros(1).__reduce__()[0]  # numpy's own, under whatever name it has today
    try:
        with torch.serialization.safe_globals([*_ARRAYS, reconstruct]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle's own errors for a file that is not one
        raise ValueError(f"{path} is no file of arrays alone: {error}") from None
    if not isinstance(content, dict) or {"data", "labels"} - content.keys():
        raise ValueError(f"{path} must be a dict with data and labels")
    images, labels = (np.asarray(content[key]) for key in ("data", "labels"))
    pixels = images.astype(np.uint8)
    if images.ndim != 4 or not np.array_equal(pixels, images):
        raise ValueError(f"{path}: data must be (N, H, W, C) of integers 0..255, got "
                         f"{images.dtype} of shape {images.shape}")  # fmt: skip
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        shape = f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(f"{path}: labels must be ({len(images)},) integers, got {shape}")
    return pixels, labels.astype(np.int64)


def _class_names(folder: Path, ids: Sequence[int]) -> list[str]:
    path = folder / "classes.txt"
    if not path.exists():
        return [str(one) for one in ids]
    lines = (
        line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line
    )
    names = {number: name.strip() for number, name in lines}
    if lacking := [one for one in ids if str(one) not in names]:
        raise ValueError(f"{path} names no class {lacking[0]}")
    return [names[str(one)] for one in ids]
