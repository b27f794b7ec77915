"""kdlib: knowledge distillation and calibration for image classifiers, measured properly."""

from kdlib import (
    _compat,  # noqa: F401 (first of all: it makes torchvision importable)
    studies,  # noqa: F401 (importing registers them)
)
from kdlib.config import Params, Run, load_params, load_settings
from kdlib.pipeline import Lab
from kdlib.store import Store, load_student
from kdlib.train import fit

__version__ = "0.1.0"

__all__ = [
    "Lab",
    "Params",
    "Run",
    "Store",
    "fit",
    "load_params",
    "load_settings",
    "load_student",
]
