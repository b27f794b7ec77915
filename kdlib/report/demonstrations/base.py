"""What a demonstration is, and where it is filed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor


class Shown(NamedTuple):
    """Numbers, and what they say."""

    table: pd.DataFrame
    line: str


@dataclass(frozen=True)
class Demonstration:
    """A mistake: what is published where, how that is known, and what shows its effect."""

    title: str
    source: str
    known: str
    run: Callable[[], Shown]


DEMONSTRATIONS: dict[str, Demonstration] = {}


def demonstration(title: str, source: str, known: str) -> Callable:
    """Decorator: file a function without arguments that returns `Shown`, under its own name."""

    def file(run: Callable[[], Shown]) -> Callable[[], Shown]:
        DEMONSTRATIONS[run.__name__] = Demonstration(title, source, known, cache(run))
        return run

    return file


def gradient_norm(value: Tensor, inputs: Tensor | list[Tensor]) -> float:
    """The norm of a loss's gradient; 0 where none flows."""
    if not value.requires_grad:
        return 0.0
    found = torch.autograd.grad(value, inputs, allow_unused=True, retain_graph=True)
    return float(torch.cat([one.flatten() for one in found if one is not None]).norm())
