"""Time a student and step, the teacher's share included, for cohorts of 1, 4, 8 and 16.

`python -m benchmarks.cohorts`: KD on CIFAR-100 from one frozen teacher.
"""

import statistics
from typing import Any

from benchmarks import common
from kdlib import data

SIZES = (1, 4, 8, 16)
PAIRS = {
    "resnet20-resnet8": ("resnet20", "resnet8"),
    "resnet32x4-resnet8x4": ("resnet32x4", "resnet8x4"),
}


def rows(options: Any, pair: str, record: data.ImageSet) -> list[dict[str, Any]]:
    """One row a size."""
    teacher, student = PAIRS[pair]
    variants = {f"kd_{place}": {"of": "kd"} for place in range(max(options.sizes))}
    runs = common.students(
        data=record.name, val_fraction=0.0, kd_methods=list(variants), options=variants,
        teacher_model=teacher, student_model=student, precision=options.precision,
    )  # fmt: skip
    shared, selection = common.networks(runs, record), common.whole(record)

    def one(size: int) -> float:
        return common.cohort_step(runs[:size], record, selection, shared, options=options) / size

    seconds = common.interleaved(
        {str(size): lambda size=size: one(size) for size in options.sizes}, options.repeats
    )
    return [
        {
            "pair": pair,
            "precision": options.precision,
            "cohort": int(size),
            "ms a student and step": 1000 * statistics.median(times),
            "gain over one": common.ratio(seconds["1"], times),
        }
        for size, times in seconds.items()
    ]


def main() -> None:
    """Both pairs of networks."""
    parser = common.parser(__doc__, repeats=3, steps=3)
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    options = common.parsed(parser)
    record = data.load("cifar100", options.data_dir)
    for pair in options.pairs:
        common.save(f"cohorts_{pair}", rows(options, pair, record), options)


if __name__ == "__main__":
    main()
