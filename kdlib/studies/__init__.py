"""The studies beside the KD x calibration grid: each one's params and runs, registered by stem."""

from kdlib.studies import (  # noqa: F401 (importing registers them)
    multi_teacher,
    overlapping,
    published_claims,
    self_distillation,
    training_length,
)
