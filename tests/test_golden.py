"""Golden runs: one tiny run a method; a number that moves needs a raised version.

After a change that is meant to move numbers: raise the `version` of the part that moved, then
``python tests/test_golden.py`` writes tests/golden.json anew.
"""

import hashlib
import itertools
import json
import platform
from pathlib import Path

import pytest
import torch

from kdlib import data, grid, registry, store, train
from kdlib.config import Params

GOLDEN = Path(__file__).with_name("golden.json")
BASE = {
    "imbalance_factor": 20, "batch_size": 16, "epochs": 2, "warmup_epochs": 1,
    "augment": {"crop": 1}, "teacher_losses": ["ce"], "teacher_model": "resnet8_half",
    "options": {"crd": {"negatives": 8}},
}  # fmt: skip
# By name, not in turn: a new method must not move the others' runs.
MIXED = {"hints-ce", "restricted_kd-ce", "dmfl-ce", "rkd-ce", "crd-ce", "none-cp", "none-bs"}


# What a method does by an option of its own: the method, the option; those of several teachers have
# two.
VARIANTS = {
    "kd": [{"space": "adjusted"}, {"calibrated": True}],
    "multi_kd": [
        {"pool": "probs"}, {"pool": "losses"}, {"reduction": "mean"},
        *({"weighting": name} for name in (
            "best", "median", "batch_confidence", "sample_confidence", "val_confidence")),
    ],
    "hints": [
        {"norm": True}, {"first_epoch": 2},
        {"stage": "embedding", "weighting": "feature_confidence"},
    ],
    "consensus": [
        {"rule": name}
        for name in ("per_class", "confidence", "label_free", "confidence_free", "published")
    ],
}  # fmt: skip
RECIPES = {
    "adam": {"optimizer": "adam", "lr": 0.01},
    "step": {"schedule": "step", "milestones": [1]},
}
TEMPERATURE = 2.0  # of the teachers, as if fitted


def runs():
    """Every KD method and label loss once, some with mixup; what options change; recipes."""
    cases = [
        [(method, "ce") for method in registry.TERMS.names()],
        [(method, "ce") for method in registry.TARGETS.names()],
        [(grid.NO_KD, loss) for loss in registry.LABEL_LOSSES.names()],
    ]
    found = {}
    for method, loss in itertools.chain(*cases):
        name = f"{method}-{loss}"
        params = Params.of(**BASE, kd_methods=[method], student_losses=[loss], mixup=name in MIXED)
        found[name] = grid.student_runs(params)[0]
    for method, variants in VARIANTS.items():
        for options in variants:
            name = "-".join([method, *(f"{key}={value}" for key, value in options.items())])
            params = Params.of(**BASE | {"options": {method: options}}, kd_methods=[method],
                               student_losses=["ce"], mixup=False)  # fmt: skip
            (run,), teachers = grid.student_runs(params), ()
            if method != "kd":
                other = run.teachers[0].model_copy(update={"model": "resnet8"})
                teachers = (*run.teachers, other)
            found[name] = run.model_copy(update={"teachers": teachers or run.teachers})
    for name, recipe in RECIPES.items():
        params = Params.of(**BASE | recipe, kd_methods=["none"], student_losses=["ce"], mixup=False)
        found[name] = grid.student_runs(params)[0]
    return found


def machine():
    """What bitwise equality hangs on."""
    model = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ] if Path("/proc/cpuinfo").exists() else [platform.processor()]  # fmt: skip
    return [torch.__version__, torch.backends.cpu.get_cpu_capability(), *model[:1]]


def measure(run):
    """A few numbers that any change of the run would move, and the hash of all its weights."""
    record = data.load("digits")
    selection = data.select(record, run.imbalance_factor, run.val_fraction, run.seed)
    teachers = [train.build_network(teacher, record) for teacher in run.teachers]
    for teacher in teachers:
        teacher.temperature = TEMPERATURE
    (trained,) = train.fit([run], record, selection, teachers)
    state = trained.network.state_dict()
    weights = b"".join(value.numpy().tobytes() for value in state.values())
    return {
        "versions": store.versions(run),
        "losses": [entry["train"] for entry in trained.history],
        "weights": {name: value.double().norm().item() for name, value in list(state.items())[:9]},
        "sha256": hashlib.sha256(weights).hexdigest(),
    }


@pytest.mark.parametrize("name", runs())
def test_golden(name):
    golden = json.loads(GOLDEN.read_text())
    expected, found = golden["runs"][name], measure(runs()[name])
    advice = f"{name} moved: raise a version, then run python tests/test_golden.py"
    assert found["versions"] == expected["versions"], "versions changed: write golden.json anew"
    if golden["machine"] == machine():
        assert found["sha256"] == expected["sha256"], advice
    for ours, theirs in zip(found["losses"], expected["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3), advice
    assert found["weights"] == pytest.approx(expected["weights"], rel=1e-3, abs=1e-6), advice


def test_every_golden_run_is_one_of_today():
    assert set(json.loads(GOLDEN.read_text())["runs"]) == set(runs())


if __name__ == "__main__":
    torch.set_num_threads(1)
    content = {"machine": machine(), "runs": {name: measure(run) for name, run in runs().items()}}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
