"""A set's images of some of its classes, split as the whole set is.

A teacher that knows five classes and a student that learns fifteen then agree on which images of a
class are for training, so no teacher is trained on an image its student validates on.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kdlib.data.records import ImageSet
from kdlib.data.selection import Selection, selection_of
from kdlib.registry import suggest


def subset(record: ImageSet, classes: Sequence[str]) -> ImageSet:
    """The images of these classes, in the set's order, labelled anew from 0.

    The set keeps its name and its fingerprint, which names the content it was cut from. LookupError
    for a class that the set does not have, ValueError where the classes are not in its order.

    >>> from kdlib.data import load
    >>> odd = subset(load("digits"), ["1", "3", "5"])
    >>> odd.classes, sorted(set(odd.train_labels.tolist()))
    (('1', '3', '5'), [0, 1, 2])
    """
    places = _places(record, classes)
    arrays = {}
    for split in ("train", "test"):
        labels = getattr(record, f"{split}_labels")
        rows = np.flatnonzero(np.isin(labels, places))
        arrays[f"{split}_images"] = getattr(record, f"{split}_images")[rows]
        arrays[f"{split}_labels"] = np.searchsorted(places, labels[rows])
    return replace(record, **arrays, classes=tuple(classes))


def subset_selection(record: ImageSet, selection: Selection, classes: Sequence[str]) -> Selection:
    """What a selection of the whole set leaves of these classes; its indices name images of
    `subset(record, classes)`."""
    places = _places(record, classes)
    kept = np.isin(record.train_labels, places)
    position = np.cumsum(kept) - 1
    parts = (selection.train_indices, selection.val_indices, selection.left_out_indices)
    train, val, left_out = (position[rows[kept[rows]]] for rows in parts)
    short = tuple(name for name in selection.short_classes if name in classes)
    labels = np.searchsorted(places, record.train_labels[kept])
    return selection_of(labels, len(places), train, val, left_out, short)


def _places(record: ImageSet, classes: Sequence[str]) -> list[int]:
    """The classes' labels in the whole set, ascending."""
    known = {name: place for place, name in enumerate(record.classes)}
    for name in classes:
        if name not in known:
            raise LookupError(f"{record.name!r} has no class {name!r}, {suggest(name, known)}")
    places = [known[name] for name in classes]
    if places != sorted(set(places)):
        ordered = [record.classes[place] for place in sorted(set(places))]
        raise ValueError(
            f"classes must be distinct and in the set's order, {ordered}, got {list(classes)}"
        )
    return places
