"""Figures of tables, rows and predictions; a function returns a figure, `save` writes it."""

from kdlib.plots.canvas import BLUE, RED, save, spread
from kdlib.plots.cells import (
    acc_vs_ece,
    before_after,
    class_frequency,
    effects,
    harmonic_heatmap,
    learning_curves,
    teacher_student_means,
)
from kdlib.plots.images import batch_ece, rank_stability, reliability, risk_coverage

__all__ = [
    "BLUE",
    "RED",
    "acc_vs_ece",
    "batch_ece",
    "before_after",
    "class_frequency",
    "effects",
    "harmonic_heatmap",
    "learning_curves",
    "rank_stability",
    "reliability",
    "risk_coverage",
    "save",
    "spread",
    "teacher_student_means",
]
