"""How close to the machine: FLOP/s of a training step over the rate of a matrix product.

`python -m benchmarks.utilisation`: ResNet-18 (CIFAR stem), batch 128, no teacher. FLOPs of
convolutions and matrix products are counted by torch, forward and backward; the rate of a square
product (1024, on a GPU 8192) in the same precision is measured next to each step. Peak memory is
the process's, or the GPU's.
"""

import statistics
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import common
from kdlib import data, tune
from kdlib.provenance import peak_memory_mb
from kdlib.train import Cohort


def row(options: Any, model: str, precision: str, record: data.ImageSet) -> dict[str, Any]:
    """Step, FLOP/s, their share of the matrix product's, memory."""
    runs = common.students(
        data=record.name, val_fraction=0.0, kd_methods="none", student_model=model,
        precision=precision, batch_size=options.batch_size,
    )  # fmt: skip
    where = options.device, options.cuda_graphs
    cohort = Cohort(runs, record, common.whole(record), (), *where)
    with FlopCounterMode(display=False) as counter:
        cohort.step(next(cohort.stream.draws(1, 3)))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    steps, rates, clock = [], [], common.CLOCKS[options.clock]
    for _ in range(options.repeats):
        rates.append(common.matmul_rate(dtype, options.device, clock))
        steps.append(tune.step_seconds(cohort, options.steps, common.watch(options)))
    flops = counter.get_total_flops()
    return {
        "model": model,
        "precision": precision,
        "step (ms)": 1000 * statistics.median(steps),
        "GFLOP a step": flops / 1e9,
        "GFLOP/s": flops / statistics.median(steps) / 1e9,
        "matmul GFLOP/s": statistics.median(rates) / 1e9,
        "utilisation": common.ratio([flops / one for one in steps], rates),
        "peak memory (MB)": peak_memory_mb(options.device),
    }


def main() -> None:
    """bf16 first: the peak memory of a process only grows."""
    parser = common.parser(__doc__, repeats=3, steps=2)
    parser.add_argument("--models", nargs="+", default=["resnet18"])
    parser.add_argument("--batch-size", type=int, default=128)
    options = common.parsed(parser)
    record = data.load("cifar100", options.data_dir)
    rows = [
        row(options, model, precision, record)
        for model in options.models
        for precision in ("bf16", "fp32")
    ]
    common.save("utilisation", rows, options)


if __name__ == "__main__":
    main()
