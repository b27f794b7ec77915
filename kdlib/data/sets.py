"""Sets by name: which are known, where they are looked for and what proves them."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from kdlib.data import sources
from kdlib.data.records import ImageSet, check_name, from_arrays
from kdlib.data.torch_files import from_torch_files
from kdlib.files import replacing
from kdlib.known_sets import KNOWN_SETS
from kdlib.registry import suggest

KNOWN = tuple(name for name, one in KNOWN_SETS.items() if name == "digits" or one.torchvision)


class UnknownSetError(LookupError):
    """A set of a name that is neither known nor in the folder."""


def load(
    name: str,
    data_dir: str | Path | None = None,
    *,
    trust: bool = False,
    image_size: int | None = None,
) -> ImageSet:
    """The set `name`: `digits` from scikit-learn, else the first found of `data_dir/name.npz`, the
    tree `data_dir/name/{train,test}/<class>/*.png` (jpg, bmp, webp), torch files
    `data_dir/name/*_train.pth` (`kdlib.data.torch_files`) and, for the four known sets,
    torchvision's download, which is kept as that npz file.

    data_dir: default the environment variable KDLIB_DATA, else ./data. trust: take a known name
    whose content has another fingerprint. image_size: resize to so many pixels; a tree needs it.

    Raises UnknownSetError (with the closest name and the folder), ValueError (damaged file, other
    fingerprint) or OSError (known set, neither in the folder nor to be downloaded).

    >>> digits = load("digits")
    >>> digits.train_images.shape, digits.num_classes, load("digits", image_size=28).image_size
    ((1078, 8, 8, 1), 10, 28)
    """
    check_name(name)
    if image_size is not None and not (isinstance(image_size, int) and image_size > 0):
        raise ValueError(f"image_size must be a positive int, got {image_size!r}")
    folder = _folder(data_dir)
    record = _read(name, folder, image_size)
    if not trust:
        _verify(record, folder)
    return record if image_size in (None, record.image_size) else _resized(record, image_size)


def stamp(name: str, data_dir: str | Path | None = None) -> tuple[str, int, int] | None:
    """What tells a set from the next under its name, without reading it: path, latest time and
    size of its npz file, or of its folder, what lies in it and the class folders below (so an image
    that comes or goes is seen, one that is painted over is not); None for any other."""
    path = _folder(data_dir) / f"{name}.npz"
    places = [path]
    if not path.is_file():
        path = path.with_suffix("")
        places = [path, *path.glob("*"), *path.glob("*/*/")]
        if not path.is_dir():
            return None
    facts = [place.stat() for place in places]
    newest = max(one.st_mtime_ns for one in facts)
    return str(path.resolve()), newest, sum(one.st_size for one in facts)


def at_hand(name: str, data_dir: str | Path | None = None) -> bool:
    """Whether the set can be read without a download."""
    return _reader(name, _folder(data_dir)) is not None


def names(data_dir: str | Path | None = None) -> list[str]:
    """The known sets, then one's own in `data_dir`: npz files, trees and torch files."""
    folder = _folder(data_dir)
    own = {path.stem for path in folder.glob("*.npz")}
    own |= {path.parent.name for path in folder.glob("*/train") if path.is_dir()}
    own |= {path.parent.name for path in folder.glob("*/*_train.pth")}
    return [*KNOWN, *sorted(own.difference(KNOWN))]


def save_npz(record: ImageSet, data_dir: str | Path | None = None) -> Path:
    """Write `record` to `data_dir/name.npz`, where `load` finds it. An earlier file is replaced in
    one step: a reader sees that one or this one, never half of it."""
    if record.name == "digits":
        raise ValueError("name 'digits' is always read from scikit-learn, take another one")
    path = _folder(data_dir) / f"{record.name}.npz"
    arrays = {key: getattr(record, key) for key in sources.KEYS}
    if record.in_channels == 1:  # the layout has gray images as (N, H, W)
        arrays |= {key: arrays[key][..., 0] for key in ("train_images", "test_images")}
    with replacing(path) as file:
        np.savez(file, **arrays)
    return path


def _folder(data_dir: str | Path | None) -> Path:
    return Path(data_dir or os.environ.get("KDLIB_DATA") or "data").expanduser()


def _reader(
    name: str, folder: Path, image_size: int | None = None
) -> Callable[[], ImageSet] | None:
    """What reads the set, at native size but for trees; None where it does not lie here."""
    own = folder / name
    if name == "digits":
        return sources.digits
    if (folder / f"{name}.npz").is_file():
        return partial(sources.from_npz, name, folder / f"{name}.npz")
    if (own / "train").is_dir():
        return partial(sources.from_tree, name, own, image_size)
    return partial(from_torch_files, name, own) if any(own.glob("*_train.pth")) else None


def _read(name: str, folder: Path, image_size: int | None) -> ImageSet:
    """The set as its first source has it, not yet verified."""
    if reader := _reader(name, folder, image_size):
        return reader()
    if name in KNOWN:
        record = sources.download(name, folder)
        save_npz(record, folder)
        return record
    raise UnknownSetError(
        f"unknown set {name!r}: no {name}.npz, {name}/train or {name}/*_train.pth in "
        f"{folder.absolute()}, "
        f"{suggest(name, names(folder))}"
    )


def _verify(record: ImageSet, folder: Path) -> None:
    known = KNOWN_SETS[record.name].fingerprints if record.name in KNOWN_SETS else {}
    for split, found in record.fingerprint.items():
        expected = known.get(split, found)
        if found != expected:
            raise ValueError(
                f"{record.name!r} in {folder.absolute()}: the {split} fingerprint is {found}, "
                f"expected {expected} (computed from lossless copies, not from the original "
                "archives); to use this copy: trust=True or --trust-data"
            )


def _resized(record: ImageSet, size: int) -> ImageSet:
    arrays = {key: getattr(record, key) for key in sources.KEYS}
    for key in ("train_images", "test_images"):
        arrays[key] = np.stack([sources.resize(image, size) for image in arrays[key]])
    return from_arrays(record.name, **arrays)
