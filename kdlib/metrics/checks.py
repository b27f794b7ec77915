"""What every metric asks of its arguments: arrays or tensors in, float64 out, each fault named.

The name a check is given is the caller's argument; messages show it with the offending value.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

ROW_SUM_TOLERANCE = 1e-3
LOGITS = "; of logits, kdlib.metrics.softmax makes probabilities in float64"
RANGE_TOLERANCE = 1e-6  # a float32 mean of probabilities may exceed 1 by its rounding


def _to_cpu(values: Any) -> Any:
    """Tensors become numpy arrays, also inside lists; bf16, unknown to numpy, becomes float64."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.double() if values.is_floating_point() else values).numpy()
    return [_to_cpu(value) for value in values] if isinstance(values, list | tuple) else values


def as_numbers(values: ArrayLike, name: str, ndim: int) -> np.ndarray:
    """`values` as an array of `ndim` axes that is not empty and holds real numbers."""
    try:
        array = np.asarray(_to_cpu(values))
    except ValueError as error:
        raise ValueError(f"{name} is not a rectangular array: {error}") from None
    if array.size == 0:
        raise ValueError(f"{name} is empty: shape {array.shape}")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} needs numbers, got {array.dtype}: {array.item(0)!r}")
    if array.ndim != ndim:
        raise ValueError(f"{name} needs {ndim} dimensions, got shape {array.shape}")
    return array


def refuse(bad: np.ndarray, array: np.ndarray, name: str, fault: str) -> None:
    """Raise a ValueError that names the first entry of `array` where `bad` is true."""
    if bad.any():
        index = tuple(np.argwhere(bad)[0].tolist())
        where = str(list(index)) if index else ""
        raise ValueError(f"{name}{where} = {array[index]} {fault}")


def check_match(fits: bool, **arrays: np.ndarray) -> None:
    """Raise a ValueError with the shapes of all `arrays`, by argument name, unless `fits`."""
    if not fits:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"shapes disagree: {shapes}")


def check_finite(values: ArrayLike, name: str, ndim: int) -> np.ndarray:
    """A float64 array without NaN and infinities."""
    array = as_numbers(values, name, ndim).astype(np.float64)
    refuse(~np.isfinite(array), array, name, "is not finite")
    return array


def check_probs(values: ArrayLike) -> np.ndarray:
    """(N, K) probabilities: in [0, 1], rows that sum to 1."""
    probs = check_finite(values, "probs", 2)
    refuse(
        (probs < 0) | (probs > 1 + RANGE_TOLERANCE), probs, "probs", f"lies outside [0, 1]{LOGITS}"
    )
    sums = probs.sum(axis=1)
    refuse(np.abs(sums - 1) > ROW_SUM_TOLERANCE, sums, "the row sum of probs", f"is not 1{LOGITS}")
    return probs


def check_labels(values: ArrayLike, num_classes: int) -> np.ndarray:
    """(N,) class indices 0..num_classes - 1."""
    labels = as_numbers(values, "labels", 1)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels needs class indices, got {labels.dtype}: {labels.item(0)!r}")
    outside = (labels < 0) | (labels >= num_classes)
    refuse(outside, labels, "labels", f"lies outside 0..{num_classes - 1}")
    return labels.astype(np.intp)


def check_pair(probs: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K) and their labels (N,)."""
    probs = check_probs(probs)
    labels = check_labels(labels, probs.shape[1])
    check_match(len(labels) == len(probs), labels=labels, probs=probs)
    return probs, labels


def check_weights(values: ArrayLike | None, **beside: np.ndarray) -> np.ndarray:
    """Weights >= 0 with a positive sum, one a row of the array `beside`; None gives ones."""
    (rows,) = map(len, beside.values())
    if values is None:
        return np.ones(rows)
    weights = check_finite(values, "weights", 1)
    check_match(len(weights) == rows, weights=weights, **beside)
    refuse(weights < 0, weights, "weights", "is negative")
    if not weights.any():
        raise ValueError("weights sum to 0.0")
    return weights


def check_counts(values: ArrayLike, num_classes: int) -> np.ndarray:
    """(K,) images a class, each at least 1."""
    counts = check_finite(values, "class_counts", 1)
    if len(counts) != num_classes:
        raise ValueError(f"class_counts has shape {counts.shape}, needs ({num_classes},)")
    refuse(counts < 1, counts, "class_counts", "is below 1")
    return counts


def check_whole(value: int, name: str, low: int = 1, high: float = np.inf) -> int:
    """A whole number in low..high."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} needs a whole number, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} = {value} lies outside {low}..{high}")
    return int(value)


def check_temperature(value: float) -> float:
    """A finite number above 0."""
    temperature = float(as_numbers(value, "temperature", 0))
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature = {temperature} is not a finite number above 0")
    return temperature
