"""Made-up rows for real runs: the shape of `kdlib.pipeline`'s rows, no training."""

import math

import numpy as np
import safetensors.numpy

from kdlib import Params, grid
from kdlib.store import write_atomic

FULL = {
    "imbalance_factor": 50,
    "options": {"crd": {"negatives": 64}},
    "epochs": 40,
    "batch_size": 32,
    "eval_every": 10,
}
SMALL = FULL | {
    "kd_methods": ["none", "kd", "crd"],
    "teacher_losses": ["ce", "bs"],
    "student_losses": ["ce", "bs"],
}
ACC = {
    "none": 0.0, "kd": 0.02, "crd": 0.04, "rkd": 0.01, "at": -0.01, "pskd": 0.03, "byot": 0.0,
}  # fmt: skip
ECE = {"none": 0.0, "ce": 0.01, "als": 0.03, "cp": 0.0, "bs": -0.01, "given": 0.0}
ADJUSTED = {
    "temperature": 0.0, "logit_adjustment": 0.5, "menon": 1.0, "balanced_temperature": 0.0,
    "balanced_logit_adjustment": 0.7,
}  # fmt: skip


ORIGIN = {  # what a row says of where it comes from
    "versions": {"row format": 1, "training core": 1},
    "evaluation": 1,
    "data": {"fingerprint": {"train": "0" * 64, "test": "1" * 64}, "split_hash": "2" * 64},
    "provenance": {
        "commit": "0" * 40, "dirty": False, "device": "x86_64", "versions": {"torch": "2.13.0"},
    },
}  # fmt: skip


def fake_row(run):
    """A row whose numbers follow the labels, with noise that is a function of the run's id."""
    noise = np.random.default_rng(int(run.id[-8:], 16))
    labels = run.labels
    mixup, loss = labels.get("mixup", False), labels.get("student_loss", labels["teacher_loss"])
    method = labels.get("kd_method", "none").split("_")[0]  # kd_T1 is a variant of kd
    acc = 0.74 + ACC[method] - 0.03 * mixup + 0.015 * noise.normal()
    ece = 0.09 + ECE[loss] + ECE[labels["teacher_loss"]] + 0.07 * mixup + 0.008 * noise.normal()
    share = float(np.exp(noise.normal()))
    taught = labels.get("kd_method", "none") != "none"
    test = {"acc": acc, "nll": 1.2 - acc + 2 * ece, "ece": ece, "ece_floor": 0.03}
    test |= {
        f"acc_{group}": acc - gap for group, gap in (("many", 0), ("medium", 0.1), ("few", 0.3))
    }
    val = {"acc": acc + 0.1, "nll": test["nll"] / 2, "ece": ece / 2}
    adjusted = {
        kind: test
        | {"acc": acc + gain * tau, "nll": 1.2 - acc + gain, "ece": 0.03 + gain}
        | {"T": 1.5, "tau": tau, "at_bound": share > 5 and kind != "menon"}
        for (kind, tau), gain in zip(ADJUSTED.items(), noise.uniform(0, 0.05, 5), strict=True)
    }
    left = {epoch: math.exp(-epoch / 10) for epoch in (10, 20, 30, 40)}
    history = [
        {"epoch": epoch, "train": {"label": 0.1 + part}, "val_acc": acc * (1 - part)}
        for epoch, part in left.items()
    ]
    return {
        "id": run.id,
        "folder": run.folder,
        "labels": labels,
        "run": run.identity(),
        "metrics": {"test": test, "val": val, **adjusted},
        "history": history,
        "kd_share": {"first": share, "last": share / 2} if taught else {},
        "flags": ["KD drowns the label loss (first epoch)"] if taught and share > 5 else [],
        "data": {
            "name": run.data,
            "class_counts": [87, 57, 37, 23, 15, 10, 6, 5, 3, 2],
            "val_counts": [21, 14, 9, 5, 3, 2, 1, 0, 0, 0],
            "test_counts": [30] * 10,
            **ORIGIN["data"],
        },
        **{key: ORIGIN[key] for key in ("versions", "evaluation", "provenance")},
    }


def runs_of(params):
    return grid.teacher_runs(params) + grid.student_runs(params) + grid.control_runs(params)


def fake_rows(params):
    """Rows of every teacher, student and control of the params."""
    return [fake_row(run) for run in runs_of(params)]


def fake_store(params, folder):
    """The same rows with their files and made-up predictions under the folder."""
    rows = fake_rows(params)
    for row in rows:
        noise = np.random.default_rng(int(row["id"][-8:], 16))
        labels = np.arange(60) % 10
        logits = (
            noise.normal(size=(60, 10)) + 3 * np.eye(10)[labels] * row["metrics"]["test"]["acc"]
        )
        tensors = {"test_labels": labels, "test_logits": logits.astype(np.float16)}
        place = folder / row["folder"]
        content = safetensors.numpy.save(tensors)
        digest = write_atomic(place / "predictions" / f"{row['id']}.safetensors", content)
        row["files"] = {"predictions": digest}
        write_atomic(place / "rows" / f"{row['id']}.json", b"{}")
    return rows


def params_of(base=SMALL, **changes):
    return Params.of(**base | changes)
