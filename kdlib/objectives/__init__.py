"""A student's loss: a weighted sum of named terms, built from the run's `objective`.

A term is made by a registered factory `(context, **options) -> loss`, where `loss(forward)` is a
function or a module (its parameters join the optimiser). To add a KD method, write one factory
here and one row in tests/test_objectives.py.

A loss or target source that is a module may have more, and is asked for it where it does:
`tick(clock)` before each step, `settle()` after its backward pass, `note()` for the history, a
`generator` that it draws from, `keeps` of the teachers' views. A GPU may replay a step on the
memory that one step had (`kdlib.train.graphs`): what is carried from step to step are buffers,
changed in place; what is drawn comes from the `generator`; and the batch has no clock, so what
depends on it, the generator's seed too, is written by `tick`.

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
    reads_teachers,
    taught_heads,
    versions,
)
from kdlib.objectives.base import LABEL, Context, Term, hook, term
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
    "hook",
    "needs_live",
    "needs_side_heads",
    "reads_teachers",
    "taught_heads",
    "term",
    "versions",
]
