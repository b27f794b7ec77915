"""What users feel: wall time to 16 finished, evaluated students, start-up included.

`python -m benchmarks.slice --peer PATH`: CIFAR-10-LT (IF 100), KD, CRD, RKD and AT with four label
losses each, resnet8 from one given resnet20. kdlib does all 16 as a user would, in a fresh process.
RepDistiller trains one student at a time and has no label losses, so its four methods are trained
and evaluated once each, and the part after its start-up counts four times: an extrapolation.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from benchmarks import common
from kdlib import data, grid, models
from kdlib.config import Params
from kdlib.pipeline import Lab

TEACHER, STUDENT = "resnet20", "resnet8"
METHODS, LOSSES, BATCH = ("kd", "crd", "rkd", "at"), ("ce", "als", "cp", "bs"), 128


def params(options: Any, checkpoint: Path) -> Params:
    """The slice as a params file would say it; validation is looked at once, at the end."""
    return Params(
        data="cifar10", imbalance_factor=100, data_dir=options.data_dir, device=options.device,
        teacher_model={"model": TEACHER, "checkpoint": str(checkpoint)}, student_model=STUDENT,
        kd_methods=METHODS, student_losses=LOSSES, mixup=False, batch_size=BATCH,
        epochs=options.epochs, eval_every=options.epochs, precision=options.precision,
        threads=options.threads, cohort_size=16, cuda_graphs=options.cuda_graphs,
    )  # fmt: skip


def ours(options: Any) -> None:
    """The whole slice: trained, evaluated, stored."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "teacher.safetensors"
        save_file(models.build(TEACHER, 10).state_dict(), checkpoint)
        wanted = params(options, checkpoint)
        rows = Lab.of(wanted, folder).complete(grid.student_runs(wanted))
    print(len(rows))


def theirs(options: Any) -> None:
    """One training a method, each evaluated on the test set after each epoch, as its main() does;
    prints the seconds they took together."""
    from benchmarks import peer

    record = data.load("cifar10", options.data_dir)
    rows = data.select(record, 100, None, 0).train_indices
    there, started = peer.Peer(options.peer, options.device), time.perf_counter()
    for method in METHODS:
        negatives = 2048 * (method == "crd")
        loader, test = there.loaders(record, rows, BATCH, negatives)
        sizes = {"num_classes": 10, "negatives": negatives}
        trainer = peer.Trainer(there, method, TEACHER, STUDENT, len(rows), **sizes)
        with peer.as_shipped():
            for epoch in range(1, options.epochs + 1):
                trainer.epoch(loader, epoch)
                trainer.validate(test)
    print(time.perf_counter() - started)


def child(side: str) -> tuple[float, str]:
    """Wall seconds of a fresh process that does one side, and the last line it prints."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.slice", *sys.argv[1:], "--side", side]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, answer.stdout.splitlines()[-1]


def main() -> None:
    """Both sides in turns."""
    parser = common.parser(__doc__, repeats=1)
    parser.add_argument("--peer", type=Path, required=True, help="a checkout of RepDistiller")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--side", choices=["ours", "theirs"], help="do one, in this process")
    options = common.parsed(parser)
    if options.side:
        return {"ours": ours, "theirs": theirs}[options.side](options)
    seconds: dict[str, list[float]] = {"peer": [], "kdlib": []}
    for _ in range(options.repeats):
        wall, trained = child("theirs")
        seconds["peer"].append(wall + (len(LOSSES) - 1) * float(trained))
        seconds["kdlib"].append(child("ours")[0])
    row = {"students": len(METHODS) * len(LOSSES), "epochs": options.epochs}
    row |= {"precision": options.precision}
    row |= {f"{name} (s)": min(times) for name, times in seconds.items()}
    ratio = {"peer / kdlib": common.ratio(seconds["peer"], seconds["kdlib"])}
    return common.save(f"slice_{options.precision}", [row | ratio], options)


if __name__ == "__main__":
    main()
