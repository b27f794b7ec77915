"""What may be asked for: runs and params files, checked before anything is trained."""

from kdlib.config.fields import Count, Fraction, NonNegative, Positive, Share
from kdlib.config.loading import load_params, load_settings, merge
from kdlib.config.options import resolve_options
from kdlib.config.plugins import load_plugins
from kdlib.config.recipe import Augment, Recipe
from kdlib.config.schema import (
    Control,
    Execution,
    Given,
    Params,
    Run,
    StudyParams,
    by_stream,
    cohort_size,
    fingerprint,
    validate,
)

__all__ = [
    "Augment",
    "Control",
    "Count",
    "Execution",
    "Fraction",
    "Given",
    "NonNegative",
    "Params",
    "Positive",
    "Recipe",
    "Run",
    "Share",
    "StudyParams",
    "by_stream",
    "cohort_size",
    "fingerprint",
    "load_params",
    "load_plugins",
    "load_settings",
    "merge",
    "resolve_options",
    "validate",
]
