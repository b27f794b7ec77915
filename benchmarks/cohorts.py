"""Time a student and step, the teacher's share included, for cohorts of 1, 4, 8 and 16.

`python -m benchmarks.cohorts`: KD on CIFAR-100 from one frozen teacher. With `--cuda-graphs` each
size twice, as it is and replayed; gains are over one student as it is.
"""

import argparse
import functools
import itertools
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

    def one(replayed: bool, size: int) -> float:
        how = argparse.Namespace(**vars(options) | {"cuda_graphs": replayed})
        return common.cohort_step(runs[:size], record, selection, shared, options=how) / size

    replayed = (False, True) if options.cuda_graphs else (False,)
    cases = itertools.product(replayed, options.sizes)
    seconds = common.interleaved(
        {case: functools.partial(one, *case) for case in cases}, options.repeats
    )
    return [
        {
            "pair": pair,
            "precision": options.precision,
            "cohort": size,
            **({"cuda_graphs": str(replayed).lower()} if options.cuda_graphs else {}),
            "ms a student and step": 1000 * statistics.median(times),
            "gain over one": common.ratio(seconds[False, 1], times),
        }
        for (replayed, size), times in seconds.items()
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
