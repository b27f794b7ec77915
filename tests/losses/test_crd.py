"""CRD against a loop over the paper's formula, over several steps, and its state."""

import copy

import numpy as np
import pytest
import torch

from kdlib.losses import CRD

N, DIM_S, DIM_T, WIDTH = 40, 6, 9, 5
LABELS = torch.arange(N) % 4


@pytest.fixture
def crd():
    torch.manual_seed(0)
    return CRD(DIM_S, DIM_T, N, WIDTH, num_negatives=8, temperature=0.2, labels=LABELS).double()


def batch(seed=0, size=6, width=7):
    g = torch.Generator().manual_seed(seed)
    s, t = (torch.randn(size, d, generator=g, dtype=torch.float64) for d in (DIM_S, DIM_T))
    negatives = torch.randint(N, (size, width), generator=g)
    return s, t, torch.randperm(N, generator=g)[:size], negatives


def numbers(tensor):
    return tensor.detach().numpy().copy()


class Literal:
    """The same, one product at a time, in numpy: Z, loss, then the banks."""

    def __init__(self, crd):
        self.state = {k: numbers(v) for k, v in crd.state_dict().items()}
        self.banks = {n: self.state[f"{n}_bank"] for n in ("student", "teacher")}
        self.z = {"student": None, "teacher": None}
        self.temperature, self.momentum = crd.temperature, crd.momentum

    def embed(self, name, x):
        weight, bias = (self.state[f"project_{name}.{part}"] for part in ("weight", "bias"))
        v = numbers(x) @ weight.T + bias
        return v / np.linalg.norm(v, axis=1, keepdims=True)

    def loss(self, v, name, positives, negatives):
        bank = self.banks["teacher" if name == "student" else "student"]
        e = np.array([[np.exp(v[i] @ bank[r] / self.temperature) for r in [p, *negatives[i]]]
                      for i, p in enumerate(positives)])  # fmt: skip
        if self.z[name] is None:
            self.z[name] = N * e.mean()
        p, c = e / self.z[name], negatives.shape[1] / N
        return np.mean(-np.log(p[:, 0] / (p[:, 0] + c)) - np.log(c / (p[:, 1:] + c)).sum(1))

    def step(self, s, t, indices, negatives, mix=None):
        v = {"student": self.embed("student", s), "teacher": self.embed("teacher", t)}
        indices, negatives = indices.numpy(), negatives.numpy()
        other, lam = (indices, 1.0) if mix is None else (indices[mix[0].numpy()], float(mix[1]))
        total = 0
        for name in v:
            total += lam * self.loss(v[name], name, indices, negatives)
            total += (1 - lam) * self.loss(v[name], name, other, negatives)
        step = (1 - self.momentum) * max(lam, 1 - lam)
        for name in v:
            for i, row in enumerate(indices if lam >= 0.5 else other):
                new = (1 - step) * self.banks[name][row] + step * v[name][i]
                self.banks[name][row] = new / np.linalg.norm(new)
        return total


def same_state(crd, slow):
    np.testing.assert_allclose(crd.student_bank, slow.banks["student"], rtol=1e-10)
    np.testing.assert_allclose(crd.teacher_bank, slow.banks["teacher"], rtol=1e-10)
    np.testing.assert_allclose(crd.log_z.exp(), list(slow.z.values()), rtol=1e-10)


def test_equals_the_formula_over_steps_and_mixtures(crd):
    slow = Literal(crd)
    swap = torch.tensor([1, 0, 3, 2, 5, 4])
    for seed, mix in enumerate([None, None, (swap, 0.7), (swap, torch.tensor(0.2)), (swap, 0.5)]):
        s, t, indices, negatives = batch(seed, width=7 + seed)  # N may change, Z stays
        value = crd(s, t, indices, negatives, mix=mix)
        assert value.item() == pytest.approx(slow.step(s, t, indices, negatives, mix), rel=1e-10)
        same_state(crd, slow)


@pytest.mark.parametrize(("lam", "same"), [(1.0, None), (0.0, "permuted")])
def test_pure_mixtures_are_no_mixtures_also_in_z(crd, lam, same):
    s, t, indices, negatives = batch()
    permutation = torch.tensor([2, 0, 1, 5, 3, 4])
    plain = copy.deepcopy(crd)
    value = crd(s, t, indices, negatives, mix=(permutation, lam))
    rows = indices if same is None else indices[permutation]
    torch.testing.assert_close(value, plain(s, t, rows, negatives))
    for a, b in zip(crd.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_reach_student_and_both_projections_but_no_teacher(crd):
    s, t, indices, negatives = batch()
    s.requires_grad_()
    t.requires_grad_()
    # two steps before backward: an update in place would break the first graph
    (crd(s, t, indices, negatives) + crd(s, t, indices, negatives)).backward()
    assert s.grad.norm() > 1e-3
    assert t.grad is None
    assert len(list(crd.parameters())) == 4
    assert all(p.grad.norm() > 1e-3 for p in crd.parameters())


def test_gradient_is_right(crd):
    s, t, indices, negatives = batch()
    crd(s, t, indices, negatives)
    crd.eval()  # so that the finite differences see one bank
    assert torch.autograd.gradcheck(lambda x: crd(x, t, indices, negatives), (s.requires_grad_(),))


def test_eval_changes_nothing_and_training_moves_the_rows_of_the_batch(crd):
    s, t, indices, negatives = batch()
    before = copy.deepcopy(crd.state_dict())
    value = crd.eval()(s, t, indices, negatives)
    assert all(torch.equal(v, before[k]) for k, v in crd.state_dict().items())
    torch.testing.assert_close(crd.train()(s, t, indices, negatives), value)
    for name in ("student_bank", "teacher_bank"):
        bank = getattr(crd, name)
        moved = (bank != before[name]).any(1).nonzero().flatten()
        assert sorted(moved.tolist()) == sorted(indices.tolist())
        torch.testing.assert_close(bank.norm(dim=1), torch.ones(N, dtype=torch.float64))


@pytest.mark.parametrize("mix", [None, (torch.tensor([1, 2, 3, 4, 5, 0]), torch.tensor(0.4))])
def test_banks_that_move_later_move_alike_and_in_place(crd, mix):
    twin, places = copy.deepcopy(crd), [buffer.data_ptr() for buffer in crd.buffers()]
    for seed in (0, 1):
        s, t, indices, negatives = batch(seed)
        before = crd.student_bank.clone()
        value = crd(s, t, indices, negatives, mix=mix, later=True)
        assert torch.equal(crd.student_bank, before)
        value.backward()
        crd.settle()
        twin(s, t, indices, negatives, mix=mix).backward()
        assert not torch.equal(crd.student_bank, before)
    for name, buffer in crd.state_dict().items():
        assert torch.equal(buffer, twin.state_dict()[name]), name
    for one, other in zip(crd.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert places == [buffer.data_ptr() for buffer in crd.buffers()]


def test_state_dict_resumes(crd):
    s, t, indices, negatives = batch()
    crd(s, t, indices, negatives)
    torch.manual_seed(9)
    other = CRD(DIM_S, DIM_T, N, WIDTH, num_negatives=8, temperature=0.2).double()
    other.load_state_dict(crd.state_dict())
    assert set(crd.state_dict()) >= {"student_bank", "teacher_bank", "log_z"}
    later = batch(1)
    assert other(*later) == crd(*later)


def test_draws_other_classes_from_the_generator(crd):
    s, t, indices, _ = batch()
    for mix in (None, (torch.tensor([1, 2, 3, 4, 5, 0]), 0.4)):
        anchors = indices[:, None] if mix is None else torch.stack([indices, indices[mix[0]]], 1)
        negatives = crd.sampler(anchors, 8, torch.Generator().manual_seed(3))
        twin = copy.deepcopy(crd)
        drawn = crd(s, t, indices, mix=mix, generator=torch.Generator().manual_seed(3))
        assert drawn == twin(s, t, indices, negatives, mix=mix)


def test_construction_follows_the_global_seed_and_keeps_the_precision_of_its_weights():
    torch.manual_seed(1)
    a = CRD(DIM_S, DIM_T, N, num_negatives=39)
    torch.manual_seed(1)
    b = CRD(DIM_S, DIM_T, N, num_negatives=39)
    assert torch.equal(a.student_bank, b.student_bank)
    assert not torch.equal(a.student_bank, a.teacher_bank)
    torch.testing.assert_close(a.student_bank.norm(dim=1), torch.ones(N))
    s, t, indices, negatives = batch()
    plain = a(s.bfloat16(), t.bfloat16(), indices, negatives)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = b(s.bfloat16(), t.bfloat16(), indices, negatives)
    assert cast == plain
    assert cast.dtype == torch.float32
    assert torch.equal(a.student_bank, b.student_bank)
    assert a(s, t, indices).isfinite()  # all the other rows, without labels


def test_extreme_temperature_is_finite():
    crd = CRD(DIM_S, DIM_T, N, temperature=1e-3)
    s, t, indices, negatives = batch()
    value = crd(s.requires_grad_(), t, indices, negatives)
    value.backward()
    assert value.isfinite()
    assert s.grad.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"student": torch.zeros(6, 5)}, ValueError, r"student .*\(B, 6\).*\(6, 5\)"),
        ({"teacher": torch.zeros(5, DIM_T)}, ValueError, r"teacher .*\(6, 9\).*\(5, 9\)"),
        ({"indices": torch.zeros(5, dtype=int)}, ValueError, r"indices .*\(6,\).*\(5,\)"),
        ({"indices": torch.zeros(6)}, TypeError, "indices must hold integers, got torch.float32"),
        ({"negatives": torch.zeros(6, 0, dtype=int)}, ValueError, r"negatives .*\(6, 0\)"),
        ({"mix": torch.arange(6)}, TypeError, "mix must be a list"),
        ({"mix": (torch.arange(5), 0.5)}, ValueError, r"mix\[0\].*\(6,\).*\(5,\)"),
        ({"mix": (torch.arange(6), 1.5)}, ValueError, r"mix\[1\] .*1\.5"),
        ({"mix": (torch.arange(6), torch.ones(2))}, ValueError, r"mix\[1\] .*\(2,\)"),
    ],
)
def test_call_errors(crd, changes, error, match):
    given = dict(zip(("student", "teacher", "indices", "negatives"), batch(), strict=True))
    with pytest.raises(error, match=match):
        crd(**given | changes)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"student_dim": 0}, ValueError, "student_dim must be >= 1, got 0"),
        ({"num_negatives": 2.5}, TypeError, "num_negatives must be an integer, got 2.5"),
        ({"temperature": 0.0}, ValueError, "temperature must be > 0, got 0.0"),
        ({"momentum": 1.1}, ValueError, r"momentum must be in \[0, 1\], got 1.1"),
        ({"labels": torch.zeros(3, dtype=int)}, ValueError, r"labels .*\(40,\).*\(3,\)"),
        ({"labels": torch.zeros(40)}, TypeError, "labels must hold integers"),
        ({"labels": "cat"}, TypeError, "labels must be numbers, got 'cat'"),
    ],
)
def test_constructor_errors(changes, error, match):
    with pytest.raises(error, match=match):
        CRD(**{"student_dim": DIM_S, "teacher_dim": DIM_T, "num_train": N} | changes)


def test_too_many_negatives_are_refused_only_where_they_are_drawn():
    crd = CRD(DIM_S, DIM_T, N, labels=LABELS)  # 16384, as in the paper
    s, t, indices, negatives = batch()
    crd(s, t, indices, negatives)
    with pytest.raises(ValueError, match=r"num_negatives=16384 .* 30$"):
        crd(s, t, indices)
    with pytest.raises(ValueError, match=r"num_negatives=16384 .* 20$"):
        crd(s, t, indices, mix=(torch.arange(6), 0.5))
