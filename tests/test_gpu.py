"""The same on a GPU: every method takes its steps there, alone or in company, cut or whole."""

import pytest
import torch

from kdlib import data, grid, registry, train
from kdlib.config import Augment, Params

pytestmark = pytest.mark.gpu
BASE = {
    "imbalance_factor": 20, "batch_size": 16, "epochs": 2, "warmup_epochs": 1, "mixup": [True],
    "teacher_losses": ["ce"], "student_losses": ["bs"], "teacher_model": "resnet8_half",
    "options": {"crd": {"negatives": 8}},
}  # fmt: skip
METHODS = [grid.NO_KD, *registry.TERMS.names(), *registry.TARGETS.names()]


@pytest.fixture(scope="module")
def digits():
    record = data.load("digits")
    return record, data.select(record, 20, None, 0)


def fit(runs, digits, **options):
    teachers = [train.build_network(teacher, digits[0]) for teacher in runs[0].teachers]
    return train.fit(runs, *digits, teachers, "cuda", **options)


def close(one, other, tolerance):
    for name, value in one.items():
        torch.testing.assert_close(value.cpu(), other[name].cpu(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mixup", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_as_on_the_cpu(method, mixup, digits):
    (run,) = grid.student_runs(
        Params(**BASE | {"mixup": [mixup], "epochs": 1}, kd_methods=[method])
    )
    teachers = [train.build_network(teacher, digits[0]) for teacher in run.teachers]
    (there,) = fit([run], digits)
    (here,) = train.fit([run], *digits, teachers)
    for name, value in here.history[0]["train"].items():
        assert there.history[0]["train"][name] == pytest.approx(value, rel=0.02), name
    assert there.failure is None


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_stays_near(precision, digits):
    (run,) = grid.student_runs(Params(**BASE, precision=precision, kd_methods=["kd"]))
    (whole,) = grid.student_runs(Params(**BASE, kd_methods=["kd"]))
    (low,), (full,) = fit([run], digits), fit([whole], digits)
    for name, value in full.history[0]["train"].items():
        assert low.history[0]["train"][name] == pytest.approx(value, rel=0.1), name


def test_a_cohort_ends_as_lone_runs(digits):
    runs = grid.student_runs(Params(**BASE, kd_methods=["kd", "rkd", "at", "crd"]))
    for one in fit(runs, digits):
        (alone,) = fit([one.run], digits)
        close(one.network.state_dict(), alone.network.state_dict(), 1e-4)


@pytest.mark.parametrize("method", ["crd", "kd+pskd+byot+dmfl"])
def test_going_on_after_an_epoch(method, digits):
    (run,) = grid.student_runs(Params(**BASE, kd_methods=[method]))
    kept = []
    (whole,) = fit([run], digits, keep=lambda run, progress: kept.append(progress))
    (again,) = fit([run], digits, resume=kept[:1])
    close(whole.network.state_dict(), again.network.state_dict(), 1e-4)


def test_cached_teachers(digits):
    fixed = {"mixup": [False], "augment": Augment(), "epochs": 1}
    (run,) = grid.student_runs(Params(**BASE | fixed, kd_methods=["kd"]))
    (trained,) = fit([run], digits)
    assert trained.teacher_views == "cached"
