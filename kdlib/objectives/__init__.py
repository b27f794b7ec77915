"""A student's loss: a weighted sum of named terms, built from the run's `objective`.

A term is made by a registered factory `(context, **options) -> loss`, where `loss(forward)` is a
function or a module (its parameters join the optimiser). To add a KD method, write one factory
here and one row in tests/test_objectives.py.

A GPU may replay a step on the memory that one step had (`kdlib.train.graphs`). So what a loss or
target source carries from step to step are buffers, changed in place; what waits for the backward
pass it does in `settle()`; if it draws, then from its `generator`. The batch of a replayed step has
no clock: what depends on it, the generator's seed too, `tick(clock)` writes before each step.

What softens the targets of the label terms (`Run.targets`) is a module of its own registry:
`(batch) -> (B, K) targets`, and `observe(batch, network, view)` after each forward.
"""

from kdlib.objectives import (  # noqa: F401 (these register terms)
    multi_teacher,
    overlapping,
    self_distillation,
    single_teacher,
)
from kdlib.objectives.assemble import (
    build,
    build_targets,
    caches,
    class_sets,
    needs_live,
    needs_side_heads,
    taught_heads,
    versions,
)
from kdlib.objectives.base import LABEL, Context, Term, term
from kdlib.objectives.dry import check, dry_view
from kdlib.objectives.overlapping import consensus

__all__ = [
    "LABEL",
    "Context",
    "Term",
    "build",
    "build_targets",
    "caches",
    "check",
    "class_sets",
    "consensus",
    "dry_view",
    "needs_live",
    "needs_side_heads",
    "taught_heads",
    "term",
    "versions",
]
