"""What a reader must know of a run: flags in its row, warnings that are said once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kdlib import models, train
from kdlib.config import Run
from kdlib.data import ImageSet
from kdlib.notices import warn_once
from kdlib.store import Row, temperature

TWINS = (
    "teacher and student are both {}: of one seed, they start from the same weights and see the "
    "same batches, so they are closer than two trainings of it would be"
)
TAILED = (
    "{}: its test split has {} to {} images a class, so accuracy, NLL and ECE there weigh classes "
    "by them, while those on validation, and the temperatures fitted there, weigh all alike"
)
UNCALIBRATED = "not calibrated: no temperature could be fitted to its teacher"
LOW_SHARE, HIGH_SHARE = 0.01, 50.0


def warn(run: Run, record: ImageSet) -> None:
    """Say once what a reader of this run's numbers must know of its data and networks."""
    counts = np.bincount(record.test_labels, minlength=record.num_classes)
    for text in _tailed(record.name, counts):
        warn_once(text)
    if any(_twins(run, teacher) for teacher in run.teachers):
        warn_once(TWINS.format(run.model))
    if run.pretrained:
        warn_once(models.leak(run.pretrained, record.classes))


def _tailed(name: str, counts: Sequence[int]) -> list[str]:
    few, many = min(counts), max(counts)
    return [TAILED.format(name, few, many)] * bool(many > 2 * few)


def of_data(rows: Iterable[Row]) -> list[str]:
    """What a reader of these rows' numbers must know of their test splits, once a sentence."""
    found = (row["data"] for row in rows)
    texts = (text for data in found for text in _tailed(data["name"], data["test_counts"]))
    return list(dict.fromkeys(texts))


def _twins(run: Run, teacher: Run) -> bool:
    return not teacher.given and (teacher.model, teacher.classes) == (run.model, run.classes)


def uncalibrated(objective: Mapping[str, Mapping[str, Any]], teachers: Iterable[Row]) -> bool:
    """Whether some term of an objective asks for calibrated teachers, and one of these (their rows)
    has no fitted temperature: then it is taught as by the teacher as it is."""
    asked = any(options.get("calibrated") for options in objective.values())
    return asked and not all(map(temperature, teachers))


def flags(trained: train.Trained, teachers: Iterable[Row] = ()) -> list[str]:
    """What a reader of the table must know: KD that does nothing, KD that is everything, calibrated
    KD without a temperature, a start from weights that may know the classes. teachers: their
    rows."""
    found = ["ImageNet weights"] if trained.run.pretrained else []
    if uncalibrated(trained.run.objective, teachers):
        found.append(UNCALIBRATED)
    for moment, share in trained.kd_share.items():
        if share is None:
            found.append("no label loss")
        elif share < LOW_SHARE:
            found.append(f"KD is off ({moment} epoch)")
        elif share > HIGH_SHARE:
            found.append(f"KD drowns the label loss ({moment} epoch)")
    return sorted(set(found))
