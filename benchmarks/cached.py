"""Cached against live views of one and of five frozen teachers: `python -m benchmarks.cached`.

Fashion-MNIST without augmentation, the small CNN student, batch 128; KD from logits, CAMKD, whose
teachers stay live for their maps, and camkd_pooled, whose pooled maps are cached, too. "plain" is
the loop of `benchmarks.plain`, always fp32. Making the cache is no part of a step: it stands
beside, in live epochs; both grow with the data, so a tenth of the images is enough here.
"""

import statistics
from typing import Any

from benchmarks import common, plain
from kdlib import data, train, tune
from kdlib.config import Augment, Run

TEACHERS = (
    "teacher_cnn1", "teacher_cnn2", "teacher_resnet", "teacher_vgg", "teacher_densenet",
)  # fmt: skip
KD = {
    "label": {"weight": 0.1, "loss": "ce"},
    "multi_kd": {"weight": 0.9, "temperature": 4.0, "pool": "probs"},
}
HEAD = (
    "method", "teachers", "precision", "plain (ms)", "live (ms)", "cached (ms)", "plain / live",
    "live / cached", "plain / cached", "making the cache (live epochs)",
)  # fmt: skip
STAGE = "stage2"
HINTS = {"weight": 100.0, "stage": STAGE}
OBJECTIVES = {
    "logits": KD,
    "camkd": KD | {"hints": HINTS},
    "camkd_pooled": KD | {"pooled_hints": HINTS},
}


def taught(
    data_name: str,
    student: str,
    teachers: tuple[str, ...],
    precision: str = "fp32",
    method: str = "logits",
) -> Run:
    """A student of these teachers, whose images never change."""
    (run,) = common.students(
        data=data_name, val_fraction=0.0, kd_methods="kd", student_model=student, batch_size=128,
        augment=Augment(), precision=precision,
    )  # fmt: skip
    (teacher,) = run.teachers
    several = tuple(teacher.model_copy(update={"model": name}) for name in teachers)
    changes = {"teachers": several, "objective": OBJECTIVES[method], "labels": {"method": method}}
    return run.model_copy(update=changes)


def row(run: Run, record: data.ImageSet, selection: data.Selection, options: Any) -> dict[str, Any]:
    """Times and ratios with the teachers of a run; nothing where its teachers cannot be cached."""
    shared, clock = common.networks([run], record), common.CLOCKS[options.clock]
    started = clock()
    where = options.device, options.cuda_graphs
    cohort = train.Cohort([run], record, selection, shared, *where)
    making = clock() - started
    (student,) = cohort.students
    hints = STAGE if len(run.objective) > len(KD) else ""

    def ours(cached: bool) -> float:
        student.views = "cached" if cached else "live"
        return tune.step_seconds(cohort, options.steps, common.watch(options))

    timers: dict[str, common.Timer] = {
        "plain": lambda: plain.step([run], record, shared, options, hints),
        "live": lambda: ours(False),
    }
    if cacheable := student.views == "cached":
        timers["cached"] = lambda: ours(True)
    seconds = common.interleaved(timers, options.repeats)
    live_epoch = statistics.median(seconds["live"]) * cohort.stream.steps
    found = {
        "method": run.labels["method"],
        "teachers": len(run.teachers),
        "precision": run.precision,
        **{f"{name} (ms)": 1000 * statistics.median(times) for name, times in seconds.items()},
        "plain / live": common.ratio(seconds["plain"], seconds["live"]),
    }
    if not cacheable:
        return dict.fromkeys(HEAD, "") | found
    return dict.fromkeys(HEAD) | found | {
        "live / cached": common.ratio(seconds["live"], seconds["cached"]),
        "plain / cached": common.ratio(seconds["plain"], seconds["cached"]),
        "making the cache (live epochs)": making / live_epoch,
    }  # fmt: skip


def main() -> None:
    """One teacher, five teachers, five with their maps, in both precisions."""
    options = common.parsed(common.parser(__doc__, repeats=3))
    record = data.load("fashion_mnist", options.data_dir)
    selection = data.select(record, None, 0.9)
    runs = [
        taught("fashion_mnist", "student", TEACHERS[:count], precision, method)
        for precision in ("fp32", "bf16")
        for method, count in (("logits", 1), ("logits", 5), ("camkd", 5), ("camkd_pooled", 5))
    ]
    common.save("cached", [row(run, record, selection, options) for run in runs], options)


if __name__ == "__main__":
    main()
