"""Training: cohorts of students that share the data stream and the teachers.

`fit` trains a cohort: one teacher forward, one summed backward, one optimiser step. A student of a
cohort ends as it would alone, and one that was interrupted as if it had not been.
"""

from kdlib.train.graphs import check_replay
from kdlib.train.loop import (
    VERSION,
    Cohort,
    fit,
    kept_threads,
    probed_steps,
    with_unprobed,
)
from kdlib.train.networks import FINAL, build_network, network_shape, predict, predict_heads
from kdlib.train.recipes import learning_rate
from kdlib.train.student import Progress, Trained
from kdlib.train.timing import clock_of, latency_ms, seconds_an_epoch

__all__ = [
    "FINAL",
    "VERSION",
    "Cohort",
    "Progress",
    "Trained",
    "build_network",
    "check_replay",
    "clock_of",
    "fit",
    "kept_threads",
    "latency_ms",
    "learning_rate",
    "network_shape",
    "predict",
    "predict_heads",
    "probed_steps",
    "seconds_an_epoch",
    "with_unprobed",
]
