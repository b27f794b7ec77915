"""What the benchmarks share: runs, ratios, the machine, tables. Steps are timed by `kdlib.tune`,
from one batch to the next, so that making the batch is part of it.

A and B take turns, repeat by repeat; only ratios inside a repeat are quoted.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdlib import data, grid, train, tune
from kdlib.config import Params, Run
from kdlib.data import ImageSet, Selection
from kdlib.device import set_up_device
from kdlib.provenance import machine

HERE = Path(__file__).parent
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Timer = Callable[[], float]


def parser(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """The options that all scripts have."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--repeats", type=int, default=defaults.get("repeats", 5))
    options.add_argument("--steps", type=int, default=defaults.get("steps", 5))
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options.add_argument("--cuda-graphs", action="store_true", help="kdlib's steps are replayed")
    options.add_argument(
        "--clock", default="wall", choices=CLOCKS,
        help="cpu: seconds of this process, for a machine that others use, too",
    )  # fmt: skip
    options.add_argument("--data-dir", help="folder of the image sets (default: $KDLIB_DATA)")
    options.add_argument("--out", type=Path, default=HERE / "results", help="folder of the JSON")
    return options


def parsed(options: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line; torch is told its threads, a GPU to compute fp32 in fp32."""
    found = options.parse_args()
    torch.set_num_threads(found.threads)
    set_up_device(found.device)
    return found


def watch(options: argparse.Namespace) -> tune.Stopwatch:
    """A stopwatch for one measurement."""
    return tune.Stopwatch(options.device, CLOCKS[options.clock])


def cohort_step(
    runs: Sequence[Run],
    record: ImageSet,
    selection: Selection,
    teachers: Sequence[nn.Module] = (),
    *,
    options: argparse.Namespace,
) -> float:
    """Seconds a step of a cohort in kdlib's loop."""
    where = options.device, options.cuda_graphs
    cohort = train.Cohort(runs, record, selection, teachers, *where)
    return tune.step_seconds(cohort, options.steps, watch(options))


def students(**params: Any) -> list[Run]:
    """The runs of a small grid of one seed with CE teachers, without mixup; three epochs, so that
    one is neither the first nor the last, which are probed."""
    fixed = {"teacher_losses": "ce", "student_losses": "ce", "mixup": False, "epochs": 3}
    return grid.student_runs(Params(**fixed | {"batch_size": 64} | params))


def networks(runs: Sequence[Run], record: ImageSet) -> list[nn.Module]:
    """The teachers of a run, not trained: how long they take does not depend on it."""
    return [train.build_network(teacher, record).eval() for teacher in runs[0].teachers]


def whole(record: ImageSet) -> Selection:
    """Every training image, none kept back."""
    return data.select(record, None, 0.0)


def interleaved(timers: Mapping[str, Timer], repeats: int) -> dict[str, list[float]]:
    """Seconds by name: each timer once a repeat, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(repeats):
        for name, timer in timers.items():
            seconds[name].append(timer())
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """median, min and max of slow / fast, repeat by repeat."""
    values = [one / other for one, other in zip(slow, fast, strict=True)]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def matmul_rate(
    dtype: torch.dtype, device: str, clock: Timer = time.perf_counter, size: int | None = None
) -> float:
    """FLOP/s of a square matrix product, the best of ten: what the machine can do, now."""
    size = size or {"cpu": 1024, "cuda": 8192}[device]  # a smaller one leaves a GPU idle
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(10):
        tune.synchronize(device)
        started = clock()
        a @ b
        tune.synchronize(device)
        seconds.append(clock() - started)
    return 2 * size**3 / min(seconds)


def save(name: str, rows: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> None:
    """Print the rows and write them, with the machine, to <--out>/<name>.json."""
    print(table(rows), flush=True)
    result = {
        "machine": machine(options.device, options.threads),
        "clock": options.clock,
        **({"cuda_graphs": True} if options.cuda_graphs else {}),
        "repeats": options.repeats,
        "steps": options.steps,
        "rows": list(rows),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1) + "\n"
    (options.out / f"{name}.json").write_text(text, encoding="utf-8")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of rows with the same keys; a ratio is "median (min to max)".

    >>> print(table([{"method": "kd", "ratio": {"median": 2.0, "min": 1.5, "max": 2.5}}]))
    | method | ratio |
    |---|---|
    | kd | 2.00 (1.50 to 2.50) |
    """
    head = list(rows[0])
    lines = [head, *([_cell(row[key]) for key in head] for row in rows)]
    text = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(head), *text[1:]])


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{value['median']:.2f} ({value['min']:.2f} to {value['max']:.2f})"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
