"""The same on a GPU: every method takes its steps there, alone or in company, cut or whole."""

import hashlib
import os

import pytest
import torch

from kdlib import data, device, grid, registry, train
from kdlib.config import Augment, Params

pytestmark = pytest.mark.gpu
BASE = {
    "imbalance_factor": 20, "batch_size": 16, "epochs": 2, "warmup_epochs": 1, "mixup": [True],
    "teacher_losses": ["ce"], "student_losses": ["bs"], "teacher_model": "resnet8_half",
    "options": {"crd": {"negatives": 8}},
}  # fmt: skip
METHODS = [grid.NO_KD, *registry.TERMS.names(), *registry.TARGETS.names()]
JOINED = "kd+pskd+byot+dmfl"


@pytest.fixture(scope="module", autouse=True)
def gpu():
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before the first product
    device.set_up_device("cuda")


@pytest.fixture
def deterministic():
    device.set_up_device("cuda", deterministic=True)
    yield
    device.set_up_device("cuda")


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


@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("optimizer", [{}, {"optimizer": "adam", "lr": 1e-3}], ids=["sgd", "adam"])
@pytest.mark.parametrize("method", ["crd", JOINED])
def test_going_on_after_an_epoch(method, optimizer, cuda_graphs, digits):
    (run,) = grid.student_runs(Params(**BASE | optimizer, kd_methods=[method]))
    kept, how = [], {"cuda_graphs": cuda_graphs}
    (whole,) = fit([run], digits, keep=lambda run, progress: kept.append(progress), **how)
    (again,) = fit([run], digits, resume=kept[:1], **how)
    close(whole.network.state_dict(), again.network.state_dict(), 1e-4)


def test_cached_teachers(digits):
    fixed = {"mixup": [False], "augment": Augment(), "epochs": 1}
    (run,) = grid.student_runs(Params(**BASE | fixed, kd_methods=["kd"]))
    (trained,) = fit([run], digits)
    assert trained.teacher_views == "cached"


@pytest.mark.parametrize("optimizer", [{}, {"optimizer": "adam", "lr": 1e-3}], ids=["sgd", "adam"])
@pytest.mark.parametrize("mixup", [False, True])
@pytest.mark.parametrize("method", [*METHODS, JOINED])
def test_a_replayed_step_is_the_step(method, mixup, optimizer, digits, deterministic):
    """Weights to 1e-5, losses to 1e-4 of their size: same kernels, same memory order."""
    (run,) = grid.student_runs(Params(**BASE | optimizer | {"mixup": [mixup]}, kd_methods=[method]))
    (plain,), (replayed,) = fit([run], digits), fit([run], digits, cuda_graphs=True)
    close(plain.network.state_dict(), replayed.network.state_dict(), 1e-5)
    for one, other in zip(plain.history, replayed.history, strict=True):
        assert other["train"] == pytest.approx(one["train"], rel=1e-4)
    assert plain.failure is None
    assert replayed.failure is None


def test_a_replayed_cohort_of_16_ends_as_lone_runs(digits):
    """To 1e-4: a cohort's fused optimiser may round in another order."""
    losses = {"student_losses": ["ce", "als", "cp", "bs"], "precision": "fp32"}
    runs = grid.student_runs(Params(**BASE | losses, kd_methods=["kd", "rkd", "at", "crd"]))
    assert len(runs) == 16
    for one in fit(runs, digits, cuda_graphs=True):
        (alone,) = fit([one.run], digits)
        close(one.network.state_dict(), alone.network.state_dict(), 1e-4)


def test_a_replayed_step_in_bf16_stays_near(digits):
    (run,) = grid.student_runs(Params(**BASE, precision="bf16", kd_methods=["crd"]))
    (plain,), (replayed,) = fit([run], digits), fit([run], digits, cuda_graphs=True)
    for name, value in plain.history[-1]["train"].items():
        assert replayed.history[-1]["train"][name] == pytest.approx(value, rel=0.02), name


def test_a_loss_that_is_not_finite_is_noted_in_a_replay(digits):
    runs = grid.student_runs(Params(**BASE, kd_methods=["kd", "rkd"]))
    label = runs[0].objective["label"] | {"weight": float("nan")}
    broken = runs[0].model_copy(update={"objective": runs[0].objective | {"label": label}})
    ill, well = fit([broken, runs[1]], digits, cuda_graphs=True)
    assert "was not finite in epoch 1" in ill.failure
    assert well.failure is None


@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("method", ["kd", "rkd", "at", "crd", JOINED])
def test_deterministic_runs_have_the_same_bits(method, cuda_graphs, digits, deterministic):
    (run,) = grid.student_runs(Params(**BASE, kd_methods=[method]))
    hashes = set()
    for _ in range(2):
        (trained,) = fit([run], digits, cuda_graphs=cuda_graphs)
        state = trained.network.state_dict().values()
        weights = b"".join(value.cpu().numpy().tobytes() for value in state)
        hashes.add(hashlib.sha256(weights).hexdigest())
    assert len(hashes) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_gpu(method, precision, digits):
    (run,) = grid.student_runs(Params(**BASE, precision=precision, kd_methods=[method]))
    teachers = [train.build_network(teacher, digits[0]) for teacher in run.teachers]
    cohort = train.Cohort([run], *digits, teachers, "cuda")
    *draws, last = cohort.stream.draws(1, 3)
    cohort.step(draws[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        cohort.step(last)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_is_fast_is_in_use(digits):
    (run,) = grid.student_runs(Params(**BASE, precision="bf16", kd_methods=["kd"]))
    teachers = [train.build_network(teacher, digits[0]) for teacher in run.teachers]
    cohort = train.Cohort([run], *digits, teachers, "cuda")
    assert (cohort.stream.padded.dtype, cohort.stream.padded.device.type) == (torch.uint8, "cuda")
    assert all(part.device.type == "cuda" for part in next(cohort.stream.draws(0, 2))[:5])
    assert cohort.optimizer.defaults["fused"]
    batch = next(cohort.stream.epoch(0, 2))
    for network in (cohort.students[0].network, *cohort.live.networks):
        kernel = next(one for one in network.parameters() if one.ndim == 4 and one.shape[1] > 1)
        assert kernel.is_contiguous(memory_format=torch.channels_last)
        with cohort.autocast:
            view = network(batch.images)
        assert view.logits.dtype == torch.bfloat16
        assert view.features["stage1"].is_contiguous(memory_format=torch.channels_last)
    assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.fp32_precision != "tf32"
    assert not torch.backends.cudnn.benchmark
