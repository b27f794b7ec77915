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
from kdlib.known_sets import KNOWN_SETS
from kdlib.pipeline import Lab


def measurable(run: Run, params: StudyParams) -> bool:
    """Whether the run's data are here or of a known shape."""
    return run.data in KNOWN_SETS or run.data in names(params.data_dir)


def data_of(lab: Lab, run: Run) -> tuple[ImageSet, Selection]:
    """The run's data; noise of the same shape where a known set is not here."""
    try:
        return lab.record(run), lab.selection(run)
    except (OSError, UnknownSetError):
        if run.data not in KNOWN_SETS:
            raise
    known = KNOWN_SETS[run.data]
    names, side = known.class_names or range(known.classes), run.image_size or known.side
    draws, arrays = np.random.default_rng(0), []
    for size in (known.train, known.test):
        shape = (size, side, side, known.channels)
        arrays += [draws.integers(0, 256, shape, np.uint8), np.arange(size) % known.classes]
    record = ImageSet(run.data, *arrays, tuple(map(str, names)), {"train": "", "test": ""})
    selection = select(record, run.imbalance_factor, run.val_fraction, run.seed)
    if run.classes is None:
        return record, selection
    return subset(record, run.classes), subset_selection(record, selection, run.classes)
