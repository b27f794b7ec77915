"""Argument checks shared by all losses: types, shapes and parameters.

Values of tensors are never looked at, for that would stall a GPU.
"""

import math
import reprlib
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def shaped(name: str, tensor: Tensor, *shape: int | str) -> Tensor:
    """The tensor, if it fits `shape`: one size a dimension, a letter where any size but 0 does."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {reprlib.repr(tensor)}")
    sizes = tuple(tensor.shape)
    wanted = tuple(n if isinstance(n, int) else size for n, size in zip(shape, sizes, strict=False))
    if len(shape) != len(sizes) or wanted != sizes or 0 in sizes:
        expected = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
        raise ValueError(f"{name} must be a non-empty {expected}, got shape {sizes}")
    return tensor


def floats(name: str, tensor: Tensor, *shape: int | str) -> Tensor:
    """A floating-point tensor, bf16 and fp16 raised to float32."""
    shaped(name, tensor, *shape)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def teacher(name: str, tensor: Tensor, student: Tensor, *shape: int | str) -> Tensor:
    """The same for a teacher's tensor: without gradient, in the dtype the student's has by now."""
    return floats(name, tensor, *shape).detach().to(student.dtype)


def integers(name: str, tensor: Tensor, *shape: int | str) -> Tensor:
    """A tensor of indices, as int64."""
    shaped(name, tensor, *shape)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, got {tensor.dtype}")
    return tensor.long()


def labels(targets: Tensor, logits: Tensor) -> Tensor:
    """`targets` of logits (..., B, K): (B,) indices as int64, or (B, K) probabilities, detached."""
    batch, classes = logits.shape[-2:]
    if isinstance(targets, Tensor) and targets.ndim == 2:
        return teacher("targets", targets, logits, batch, classes)
    return integers("targets", targets, batch)


def numbers(name: str, values: Any, *shape: int) -> Tensor:
    """A list, array or tensor of numbers, as a tensor."""
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be numbers, got {reprlib.repr(values)}") from error
    return shaped(name, tensor, *shape)


def counts(class_counts: Any, logits: Tensor) -> Tensor:
    """`class_counts` of logits (B, K), as a (K,) tensor like the logits.

    Entries are compared with 1 unless they lie on an accelerator already.
    """
    n = numbers("class_counts", class_counts, logits.shape[1])
    if n.device.type == "cpu" and not (n >= 1).all():
        raise ValueError(f"class_counts must all be >= 1, got {n.min()}")
    return n.to(logits.device, logits.dtype, non_blocking=True)


def sequence(name: str, values: Sequence, length: int | None = None) -> Sequence:
    """A list, tuple or the like that is not empty, of a given length where one is given."""
    if not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a list, got {reprlib.repr(values)}")
    if not values or length not in (None, len(values)):
        raise ValueError(f"{name} must have {length or 'at least 1'} entries, got {len(values)}")
    return values


def finite(name: str, value: float) -> None:
    """A number, neither infinite nor NaN."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {reprlib.repr(value)}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def positive(name: str, value: float) -> None:
    """A finite number > 0."""
    finite(name, value)
    if value <= 0:
        raise ValueError(f"{name} must be > 0, got {value}")


def fraction(name: str, value: float) -> None:
    """A number in [0, 1]."""
    finite(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")


def share(name: str, value: float | Tensor) -> None:
    """A number in [0, 1], or a floating-point () tensor, whose value is not looked at."""
    if isinstance(value, Tensor):
        floats(name, value)
    else:
        fraction(name, value)


def count(name: str, value: int) -> None:
    """An integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {reprlib.repr(value)}")
    if value < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")
