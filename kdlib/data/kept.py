"""Sets and selections as runs name them, read once a process (and again where the file changed)."""

import functools

from kdlib.data.records import ImageSet
from kdlib.data.selection import Selection, select
from kdlib.data.sets import load, stamp
from kdlib.data.subsets import subset, subset_selection

Classes = tuple[str, ...] | None


def image_set(
    name: str, data_dir: str | None, image_size: int | None, trust: bool, classes: Classes = None
) -> ImageSet:
    """`kdlib.data.load`, kept: a job reads a set once. classes: of these only, None for all."""
    return _image_set(stamp(name, data_dir), name, data_dir, image_size, trust, classes)


@functools.lru_cache(maxsize=8)
def _image_set(
    seen: object,
    name: str,
    data_dir: str | None,
    image_size: int | None,
    trust: bool,
    classes: Classes,
) -> ImageSet:
    if classes is None:
        return load(name, data_dir, trust=trust, image_size=image_size)
    return subset(image_set(name, data_dir, image_size, trust), classes)


def image_selection(
    name: str,
    data_dir: str | None,
    image_size: int | None,
    trust: bool,
    imbalance_factor: float | None,
    val_fraction: float | None,
    seed: int,
    classes: Classes = None,
) -> Selection:
    """`kdlib.data.select`, kept: the runs of a seed share it. Some classes are split as the whole
    set is, so that no teacher is trained on an image its student validates on."""
    place = (name, data_dir, image_size, trust)
    how = (imbalance_factor, val_fraction, seed)
    return _image_selection(stamp(name, data_dir), place, how, classes)


@functools.lru_cache(maxsize=64)
def _image_selection(seen: object, place: tuple, how: tuple, classes: Classes) -> Selection:
    record = image_set(*place)
    if classes is None:
        return select(record, *how)
    return subset_selection(record, image_selection(*place, *how), classes)
