"""Sets and selections as runs name them, read once a process."""

import functools

from kdlib.data.records import ImageSet
from kdlib.data.selection import Selection, select
from kdlib.data.sets import load
from kdlib.data.subsets import subset, subset_selection

Classes = tuple[str, ...] | None


@functools.lru_cache(maxsize=8)
def image_set(
    name: str, data_dir: str | None, image_size: int | None, trust: bool, classes: Classes = None
) -> ImageSet:
    """`kdlib.data.load`, kept: a job reads a set once. classes: of these only, None for all."""
    if classes is None:
        return load(name, data_dir, trust, image_size=image_size)
    return subset(image_set(name, data_dir, image_size, trust), classes)


@functools.lru_cache(maxsize=64)
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
    record = image_set(name, data_dir, image_size, trust)
    if classes is None:
        return select(record, imbalance_factor, val_fraction, seed)
    place = (name, data_dir, image_size, trust)
    whole = image_selection(*place, imbalance_factor, val_fraction, seed)
    return subset_selection(record, whole, classes)
