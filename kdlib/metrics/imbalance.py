"""Class-balanced weights and the many-, medium- and few-shot classes of a long tail."""

import numpy as np
from numpy.typing import ArrayLike

from kdlib.metrics.checks import check_counts, check_labels, check_whole

# Number of classes -> where the medium and the few begin, by class index (Zhong et al. 2021).
GROUP_STARTS = {10: (3, 7), 100: (36, 71)}


def class_weights(labels: ArrayLike, num_classes: int) -> np.ndarray:
    """(N,) weights 1 / (C n_y) that give each class the same total, for labels (N,).

    They sum to the share of the classes that have images; which have none is the caller's to say.

    >>> class_weights([0, 0, 1], num_classes=2)
    array([0.25, 0.25, 0.5 ])
    """
    num_classes = check_whole(num_classes, "num_classes")
    labels = check_labels(labels, num_classes)
    return 1 / (num_classes * np.bincount(labels)[labels])


def frequency_groups(
    num_classes: int, class_counts: ArrayLike | None = None
) -> dict[str, np.ndarray]:
    """Class indices of the "many", "medium" and "few" groups, ascending in each.

    10 and 100 classes are cut by class index as in MiSLAS (Zhong et al. 2021) where `class_counts`
    (K,) fall with it, are of one size (the largest under twice the smallest) or not given. All else
    (at least 3 classes) is cut into thirds of the counts, equal ones in the order of the classes;
    without counts a ValueError.

    >>> frequency_groups(10)["few"]
    array([7, 8, 9])
    >>> frequency_groups(3, [5, 50, 20])["many"]
    array([1])
    """
    num_classes = check_whole(num_classes, "num_classes", low=3)
    counts = None if class_counts is None else check_counts(class_counts, num_classes)
    by_index = counts is None or (np.diff(counts) <= 0).all() or counts.max() < 2 * counts.min()
    if num_classes in GROUP_STARTS and by_index:
        parts = np.split(np.arange(num_classes), GROUP_STARTS[num_classes])
    elif counts is None:
        raise ValueError(f"class_counts is None, but {num_classes} classes are grouped by count")
    else:
        parts = [np.sort(part) for part in np.array_split(np.argsort(-counts, kind="stable"), 3)]
    return dict(zip(("many", "medium", "few"), parts, strict=True))
