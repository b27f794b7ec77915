"""Hours of the whole grid at paper scale, from a slice of it: `python -m benchmarks.grid_hours`.

For each mixup setting all teachers and one teacher's students are trained, evaluated and stored as
a batch would, twice: for a few epochs and for twice as many. The difference is what an epoch takes;
all else happens once. Extrapolated to the epochs of the params file and to all teachers.
"""

import tempfile
import time
from typing import Any

from benchmarks import common
from kdlib.config import by_stream
from kdlib.pipeline import Lab
from kdlib.plan import Plan, plan

NOTEBOOKS = ("01", "02")


def planned(options: Any, folder: str, **changes: Any) -> Plan:
    """The grid with the keys of the command line."""
    keys = ("device", "cuda_graphs", "threads", "precision", "cohort_size", "data_dir")
    own = {key: value for key in keys if (value := getattr(options, key)) is not None}
    return plan(options.profile, folder, NOTEBOOKS, **own | changes)


def kinds(options: Any, whole: Plan) -> dict[str, list[list]]:
    """Name -> the cohorts of that kind, which take equally long."""
    found: dict[str, list[list]] = {}
    for part in whole.parts:
        if part.params.setting != options.setting:
            continue
        for runs in by_stream(part.runs):
            role = "students" if runs[0].teachers else runs[0].labels.get("role", "plain students")
            mixup = "mixup" if runs[0].mixup_alpha else "no mixup"
            found.setdefault(f"{role}, {mixup}", []).append(runs)
    return found


def seconds(options: Any, epochs: int, **changes: Any) -> dict[str, float]:
    """Wall seconds of the first cohort of each kind; teachers come before their students."""
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        whole = planned(options, folder, epochs=epochs, **changes)
        lab = Lab.of(whole.parts[0].params, folder)
        for kind, cohorts in kinds(options, whole).items():
            started = time.perf_counter()
            lab.complete(cohorts[0])
            times[kind] = time.perf_counter() - started
    return times


def rows(options: Any, **changes: Any) -> list[dict[str, Any]]:
    """One row a kind, and their sum."""
    few, many = (seconds(options, n * options.epochs, **changes) for n in (1, 2))
    whole = planned(options, "unused", **changes)
    found = []
    for kind, cohorts in kinds(options, whole).items():
        epoch = (many[kind] - few[kind]) / options.epochs
        wanted = cohorts[0][0].recipe.epochs
        alone = few[kind] + (wanted - options.epochs) * epoch
        found.append(
            {
                "kind": kind,
                "networks": sum(map(len, cohorts)),
                "epochs": wanted,
                "seconds an epoch and cohort": epoch,
                "hours": len(cohorts) * alone / 3600,
            }
        )
    total = {"kind": "in all", "epochs": "", "seconds an epoch and cohort": ""}
    sums = {key: sum(row[key] for row in found) for key in ("networks", "hours")}
    return [*found, total | sums]


def main() -> None:
    """CIFAR-10-LT, imbalance factor 100, ResNet-50 teachers, ResNet-18 students."""
    parser = common.parser(__doc__, repeats=1)
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--setting", default="cifar10_if100")
    parser.add_argument("--epochs", type=int, default=3, help="of the shorter of the two slices")
    parser.add_argument("--precision", choices=["fp32", "bf16"])
    parser.add_argument("--cohort-size", type=int)
    options = common.parsed(parser)
    common.save(f"grid_hours_{options.setting}", rows(options), options)


if __name__ == "__main__":
    main()
