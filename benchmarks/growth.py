"""How time and memory grow with the training images and with the students of a cohort.

`python -m benchmarks.growth`: KD, resnet20 -> resnet8 on images of noise in the shape of CIFAR-10,
each line in a process of its own. From its peak memory that of a process that only imported kdlib
is taken off.
"""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch

from benchmarks import common
from kdlib.data import ImageSet
from kdlib.known_sets import KNOWN_SETS
from kdlib.provenance import peak_memory_mb
from kdlib.train import Cohort
from kdlib.tune import step_seconds

TEACHER, STUDENT = "resnet20", "resnet8"
LINES = ((12_500, 1), (50_000, 1), (200_000, 1), (50_000, 4), (50_000, 16))  # images, students


def noise(images: int) -> ImageSet:
    """So many training images of CIFAR-10's shape, evenly of its classes, and few of test."""
    draws, arrays = np.random.default_rng(0), []
    for size in (images, 100):
        arrays += [draws.integers(0, 256, (size, 32, 32, 3), np.uint8), np.arange(size) % 10]
    return ImageSet(
        "cifar10", *arrays, KNOWN_SETS["cifar10"].class_names, {"train": "", "test": ""}
    )


def measured(options: Any, images: int, students: int) -> dict[str, float]:
    """Of a cohort in this process; of none, the memory alone."""
    torch.set_num_threads(options.threads)
    if not students:
        return {"peak memory (MB)": peak_memory_mb(options.device)}
    variants = {f"kd_{place}": {"of": "kd"} for place in range(students)}
    runs = common.students(
        data="cifar10", val_fraction=0.0, kd_methods=list(variants), options=variants,
        teacher_model=TEACHER, student_model=STUDENT, precision=options.precision,
    )  # fmt: skip
    record, watch = noise(images), common.CLOCKS[options.clock]
    selection, started = common.whole(record), watch()
    where = options.device, options.cuda_graphs
    cohort = Cohort(runs, record, selection, common.networks(runs, record), *where)
    preparing = watch() - started
    seconds = step_seconds(cohort, options.steps, common.watch(options)) / students
    return {
        "preparing (s)": preparing,
        "ms a student and step": 1000 * seconds,
        "an epoch of all (s)": seconds * students * cohort.stream.steps,
        "peak memory (MB)": peak_memory_mb(options.device),
    }


def row(options: argparse.Namespace, images: int, students: int) -> dict[str, Any]:
    """One line, measured in a fresh process."""
    # A spawned process would start with the peak of the one that spawned it.
    fork_server = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, mp_context=fork_server, max_tasks_per_child=1) as pool:
        empty = pool.submit(measured, options, 0, 0).result()
        found = pool.submit(measured, options, images, students).result()
    found["peak memory (MB)"] -= empty["peak memory (MB)"]
    return {"training images": images, "students": students, "precision": options.precision} | found


def main() -> None:
    """All lines."""
    parser = common.parser(__doc__, repeats=1, steps=10)
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    options = common.parsed(parser)
    common.save("growth", [row(options, *line) for line in LINES], options)


if __name__ == "__main__":
    main()
