"""The step that a GPU replays, on a CPU: a recorder stands in for the graph.

A recorder notes every operation of a step with its tensors and repeats them on the same memory. So
whatever a replay would miss (a number of Python's, a tensor that took another's place) shows as a
difference to the steps as they are.
"""

import contextlib
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdlib import data, grid, registry, train, tune
from kdlib.config import Execution, Params
from kdlib.losses import checks, negatives
from kdlib.objectives import term
from kdlib.pipeline import Lab
from kdlib.train import graphs, loop

BASE = {
    "imbalance_factor": 50, "batch_size": 16, "epochs": 2, "warmup_epochs": 1,
    "teacher_losses": ["ce"], "student_losses": ["als"], "teacher_model": "resnet8_half",
    "options": {"crd": {"negatives": 8}, "hints": {"first_epoch": 2}},
}  # fmt: skip
ADAM = {"optimizer": "adam", "lr": 1e-3}
METHODS = [grid.NO_KD, *registry.TERMS.names(), *registry.TARGETS.names()]


@pytest.fixture(scope="module")
def digits():
    record = data.load("digits")
    selection = data.select(record, 50, None, 0)
    return record, replace(selection, train_indices=selection.train_indices[::2])  # 7 steps


def tensors(values):
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


class Recorder(TorchDispatchMode):
    """Notes operations; `replay` repeats them, but for the first time: a capture does nothing."""

    def __init__(self):
        super().__init__()
        self.calls, self.done = [], True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **kwargs or {})
        self.calls.append((func, args, kwargs or {}, made))
        return made

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, made in [] if self.done else self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tensors(made), tensors(again), strict=True):
                if old.data_ptr() != new.data_ptr():  # neither in place nor a view
                    old.copy_(new)
        self.done = False


class Recording:
    """What `kdlib.train.graphs.Gpu` is to a GPU."""

    captures = 0
    beside = contextlib.nullcontext

    def capture(self, step, generators):
        Recording.captures += 1
        recorder = Recorder()
        with recorder:
            step()
        return recorder.replay


class Off:
    """torch without `equal`, which ends a loop early where nobody waits for the answer."""

    def __getattr__(self, name):
        return (lambda *tensors: False) if name == "equal" else getattr(torch, name)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """What the losses and torch's `one_hot` look at on a CPU alone is left out."""
    monkeypatch.setattr(negatives, "torch", Off())
    monkeypatch.setattr(functional, "one_hot", lambda one, n: torch.eye(n).long()[one])
    monkeypatch.setattr(checks, "counts", lambda counts, logits: counts.to(logits.dtype))


@pytest.fixture
def recorded(monkeypatch, as_on_a_gpu):
    """`cuda_graphs` on a CPU: two probed steps, one of warm-up, then replays."""
    monkeypatch.setattr(loop, "PROBED_BATCHES", 2)
    monkeypatch.setattr(loop, "Gpu", Recording)
    monkeypatch.setattr(loop, "check_replay", lambda run, record, device: None)
    monkeypatch.setattr(Recording, "captures", 0)


def fit(runs, digits, **options):
    teachers = [train.build_network(teacher, digits[0]) for teacher in runs[0].teachers]
    kept = []
    trained = train.fit(
        runs, *digits, teachers, keep=lambda run, progress: kept.append(progress), **options
    )
    return trained, kept


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def cohorts(**changes):
    """All methods in two cohorts, without and with a teacher."""
    runs = grid.student_runs(Params.of(**BASE | changes, kd_methods=METHODS))
    return [[run for run in runs if bool(run.teachers) == taught] for taught in (False, True)]


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("changes", [{"mixup": False}, {"mixup": True, **ADAM}], ids=str)
def test_replays_are_the_steps_bit_for_bit(taught, changes, digits, recorded):
    runs = cohorts(**changes)[taught]
    plain, kept = fit(runs, digits)
    assert Recording.captures == 0
    replayed, again = fit(runs, digits, cuda_graphs=True)
    assert Recording.captures == 1
    resumed, _ = fit(runs, digits, cuda_graphs=True, resume=again[: len(runs)])
    assert Recording.captures == 2
    for one, *others in zip(plain, replayed, resumed, strict=True):
        for other in others:
            same(one.network.state_dict(), other.network.state_dict())
            assert (one.history, one.kd_share) == (other.history, other.kd_share)
    for one, other in zip(kept, again, strict=True):  # banks, memories, states of the optimiser
        same(one.tensors, other.tensors)


def test_timing_starts_after_the_capture(digits, recorded):
    run = cohorts(mixup=False)[False][0]
    cohort, captures = train.Cohort([run], *digits, (), "cpu", cuda_graphs=True), []
    watch = tune.Stopwatch("cpu", clock=lambda: captures.append(Recording.captures) or 0.0)
    assert tune.step_seconds(cohort, 3, watch) == 0
    assert set(captures) == {1}


def test_lower_precision_and_a_student_that_breaks(digits, recorded):
    first, *rest = cohorts(mixup=True, precision="bf16")[False]
    label = first.objective["label"] | {"weight": float("nan")}
    broken = first.model_copy(update={"objective": first.objective | {"label": label}})
    plain, _ = fit([broken, *rest], digits)
    replayed, _ = fit([broken, *rest], digits, cuda_graphs=True)
    assert "was not finite in epoch 1" in replayed[0].failure
    for one, other in zip(plain, replayed, strict=True):
        assert one.failure == other.failure
        assert one.history == other.history


class Waits(TorchDispatchMode):
    """Finds operations whose result or input goes through the CPU: a GPU's queue would run dry."""

    NAMES = frozenset(
        f"aten::{name}"
        for name in (
            "_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "isin",
            "lift_fresh",  # of what Python made: torch.tensor(...), an index [[0, 1]]
        )
    )  # fmt: skip

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        by_mask = name == "aten::index" and any(one.dtype == torch.bool for one in tensors(args[1]))
        if name in self.NAMES or by_mask:
            self.found.append(name)
        return func(*args, **kwargs or {})


class Reads(TorchFunctionMode):
    """Finds the calls that no operation shows."""

    NAMES = ("tolist", "cpu", "numpy")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in self.NAMES:
            self.found.append(func.__name__)
        return func(*args, **kwargs or {})


def waits(run, digits):
    """What waits in a step of a run that is neither the first nor probed."""
    teachers = [train.build_network(teacher, digits[0]) for teacher in run.teachers]
    cohort = train.Cohort([run], *digits, teachers, "cpu")
    first, second, *_ = cohort.stream.draws(0, 2)
    cohort._step(first, False)
    with Waits() as operations, Reads() as reads:
        cohort._step(second, False)
    return operations.found + reads.found


@pytest.mark.parametrize("mixup", [False, True])
@pytest.mark.parametrize(
    ("method", "loss"),
    [(method, "ce") for method in METHODS]
    + [(grid.NO_KD, loss) for loss in registry.LABEL_LOSSES.names()],
)
def test_nothing_in_a_step_waits(method, loss, mixup, digits, as_on_a_gpu):
    params = Params.of(**BASE | {"student_losses": [loss]}, kd_methods=[method], mixup=mixup)
    (run,) = grid.student_runs(params)
    assert waits(run, digits) == []


def toy(monkeypatch, make):
    """A run with a term of one's own."""
    monkeypatch.setattr(registry.TERMS, "_entries", dict(registry.TERMS._entries))
    term("toy", weight=1.0, teachers=0)(make)
    (run,) = grid.student_runs(Params.of(**BASE, kd_methods=["toy"], mixup=False))
    return run


@pytest.mark.parametrize(
    ("found", "loss"),
    [
        ("aten::_local_scalar_dense", lambda logits: logits.sum() * logits.max().item()),
        ("aten::lift_fresh", lambda logits: logits[:, [0, 1]].sum()),
        ("aten::lift_fresh", lambda logits: (logits * torch.ones(10).new_tensor([0.1] * 10)).sum()),
        ("aten::index", lambda logits: logits[logits > 0].sum()),
        ("tolist", lambda logits: logits.sum() * len(logits.tolist())),
    ],
)
def test_what_waits_is_found(found, loss, digits, monkeypatch):
    run = toy(monkeypatch, lambda context: lambda forward: loss(forward.student.logits))
    assert found in waits(run, digits)


def test_a_term_that_draws_without_a_generator_is_refused(digits, monkeypatch, recorded):
    def noisy(context):
        return lambda forward: (forward.student.logits * torch.rand(10)).sum()

    with pytest.raises(ValueError, match=r"a term draws without a generator: aten\.rand\."):
        fit([toy(monkeypatch, noisy)], digits, cuda_graphs=True)


class Forgetful(nn.Module):
    """A term that keeps a mean in a new tensor each time."""

    def __init__(self, context):
        super().__init__()
        self.register_buffer("mean", torch.zeros(10))

    def forward(self, forward):
        logits = forward.student.logits
        loss = (logits - self.mean).square().mean()
        self.mean = 0.9 * self.mean + 0.1 * logits.detach().mean(0)
        return loss


def test_a_term_that_replaces_its_memory_is_refused(digits, monkeypatch, recorded):
    run = toy(monkeypatch, Forgetful)
    with pytest.raises(ValueError, match=r"a step replaces .*toy.loss.mean, so a replay would"):
        fit([run], digits, cuda_graphs=True)


def test_what_cannot_be_replayed_is_refused_by_name(digits, tmp_path):
    (run,) = grid.student_runs(Params.of(**BASE, kd_methods=["none"], mixup=False))
    graphs.check_replay(run, digits[0], "cuda")
    with pytest.raises(ValueError, match="cuda_graphs needs a CUDA device, got cpu"):
        fit([run], digits, cuda_graphs=True)
    dropout = run.model_copy(update={"model": "student"})
    with pytest.raises(ValueError, match=r"the model 'student' draws .*dropout\? aten.bernoulli"):
        graphs.check_replay(dropout, data.load("digits", image_size=28), "cuda")


def test_a_lab_says_so_before_it_trains(tmp_path):
    params = Params.of(**BASE, kd_methods=["kd"], mixup=False, device="cpu", cuda_graphs=True)
    with pytest.raises(ValueError, match="cuda_graphs needs a CUDA device"):
        Lab.of(params, tmp_path).complete(grid.student_runs(params))
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("other", [{"compile": True}, {"precision": "fp16"}])
def test_keys_that_exclude_each_other(other):
    with pytest.raises(ValueError, match=f"cuda_graphs does not go with {next(iter(other))}"):
        Execution(cuda_graphs=True, **other)
    with pytest.raises(ValueError, match=f"cuda_graphs does not go with {next(iter(other))}"):
        Params.of(cuda_graphs=True, **other)
