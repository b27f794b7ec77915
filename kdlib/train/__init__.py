"""Training: cohorts of students that share the data stream and the teachers.

`fit` trains a cohort: one teacher forward, one summed backward, one optimiser step. A student of a
cohort ends as it would alone, and one that was interrupted as if it had not been.
"""

from kdlib.train.loop import VERSION, Cohort, fit, learning_rate
from kdlib.train.networks import build_network, network_shape, predict
from kdlib.train.student import Progress, Trained

__all__ = [
    "VERSION",
    "Cohort",
    "Progress",
    "Trained",
    "build_network",
    "fit",
    "learning_rate",
    "network_shape",
    "predict",
]
