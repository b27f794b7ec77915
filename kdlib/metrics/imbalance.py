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

    10 and 100 classes are cut by class index as in MiSLAS (Zhong et al. 2021), whatever the counts:
    the long tails here fall with the index. Other numbers (at least 3) are cut into thirds of
    `class_counts` (K,), equal counts in the order of the classes; without counts a ValueError.

    >>> frequency_groups(10)["few"]
    array([7, 8, 9])
    >>> frequency_groups(3, [5, 50, 20])["many"]
    array([1])
    """
    num_classes = check_whole(num_classes, "num_classes", low=3)
    if num_classes in GROUP_STARTS:
        parts = np.split(np.arange(num_classes), GROUP_STARTS[num_classes])
    elif class_counts is None:
        raise ValueError(f"class_counts is None, but {num_classes} classes are grouped by count")
    else:
        order = np.argsort(-check_counts(class_counts, num_classes), kind="stable")
        parts = [np.sort(part) for part in np.array_split(order, 3)]
    return dict(zip(("many", "medium", "few"), parts, strict=True))
