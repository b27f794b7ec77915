"""What may be asked for: runs and params files, checked before anything is trained."""

from kdlib.config.loading import load_params, load_settings, merge
from kdlib.config.schema import (
    DEFAULT_AUGMENT,
    Augment,
    Control,
    Count,
    Execution,
    Fraction,
    Given,
    Params,
    Positive,
    Recipe,
    Run,
    by_stream,
    fingerprint,
    resolve_options,
    validate,
)

__all__ = [
    "DEFAULT_AUGMENT",
    "Augment",
    "Control",
    "Count",
    "Execution",
    "Fraction",
    "Given",
    "Params",
    "Positive",
    "Recipe",
    "Run",
    "by_stream",
    "fingerprint",
    "load_params",
    "load_settings",
    "merge",
    "resolve_options",
    "validate",
]
