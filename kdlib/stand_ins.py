"""What a run is measured on: its data, or noise of the same shape where a known set is not here."""

import numpy as np

from kdlib.config import Run, StudyParams
from kdlib.data import (
    ImageSet,
    Selection,
    UnknownSetError,
    names,
    select,
    subset,
    subset_selection,
)
from kdlib.pipeline import Lab
from kdlib.studies.class_names import CLASS_NAMES

# (classes, side, channels, training images, test images), where a set's file is not here
SHAPES = {
    "mnist": (10, 28, 1, 60_000, 10_000),
    "fashion_mnist": (10, 28, 1, 60_000, 10_000),
    "cifar10": (10, 32, 3, 50_000, 10_000),
    "cifar100": (100, 32, 3, 50_000, 10_000),
    "tiny_imagenet": (200, 64, 3, 100_000, 10_000),
}


def measurable(run: Run, params: StudyParams) -> bool:
    """Whether the run's data are here or of a known shape."""
    return run.data in SHAPES or run.data in names(params.data_dir)


def data_of(lab: Lab, run: Run) -> tuple[ImageSet, Selection]:
    """The run's data; noise of the same shape where a known set is not here."""
    try:
        return lab.record(run), lab.selection(run)
    except (OSError, UnknownSetError):
        if run.data not in SHAPES:
            raise
    classes, side, channels, *sizes = SHAPES[run.data]
    known, side = CLASS_NAMES.get(run.data, range(classes)), run.image_size or side
    draws, arrays = np.random.default_rng(0), []
    for size in sizes:
        shape = (size, side, side, channels)
        arrays += [draws.integers(0, 256, shape, np.uint8), np.arange(size) % classes]
    record = ImageSet(run.data, *arrays, tuple(map(str, known)), {"train": "", "test": ""})
    selection = select(record, run.imbalance_factor, run.val_fraction, run.seed)
    if run.classes is None:
        return record, selection
    return subset(record, run.classes), subset_selection(record, selection, run.classes)
