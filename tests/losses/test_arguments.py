"""Wrong arguments are named and shown, by every loss; the public names are those of the design."""

from contextlib import nullcontext

import pytest
import torch

from kdlib import losses
from kdlib.losses import checks

Z, Y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
MAPS = [torch.zeros(4, 2, 3, 3)]
GOOD = {
    "soft_cross_entropy": {"logits": Z, "targets": Y},
    "balanced_softmax": {"logits": Z, "targets": Y, "class_counts": [3, 2, 1]},
    "confidence_penalty": {"logits": Z, "targets": Y},
    "label_aware_smoothing": {"logits": Z, "targets": Y, "class_counts": [3, 2, 1]},
    "kd": {"student_logits": Z, "teacher_logits": Z, "temperature": 1},
    "kd_probs": {"student_logits": Z, "teacher_probs": Z, "temperature": 1},
    "attention_transfer": {"student_maps": MAPS, "teacher_maps": MAPS},
    "rkd_distance": {"student": Z, "teacher": Z},
    "rkd_angle": {"student": Z, "teacher": Z},
    "pskd_targets": {"one_hot": Z, "previous_probs": Z, "alpha": 0},
    "byot": {"logits": Z, "side_logits": [Z], "feature": Z, "side_features": [Z], "targets": Y},
    "mutual_feature": {"side_features": [Z], "final_feature": Z},
    "camkd_weights": {"teacher_logits": Z[None], "targets": Y},
    "consensus_targets": {"teacher_logits": [Z], "class_sets": [[0, 1, 2]], "num_classes": 3},
    "published_consensus": {
        "teacher_logits": [Z], "class_sets": [[0, 1, 2]], "num_classes": 3, "labels": Y,
    },
    "restricted_kd": {
        "student_logits": Z, "teacher_logits": [Z], "class_sets": [[0, 1, 2]], "temperature": 1,
    },
}  # fmt: skip


def test_public_names():
    assert set(losses.__all__) == {*GOOD, "CRD"}
    assert all(hasattr(losses, name) for name in losses.__all__)


@pytest.mark.parametrize("name", GOOD)
def test_good_arguments_pass_and_each_tensor_is_checked(name):
    loss, good = getattr(losses, name), GOOD[name]
    assert isinstance(loss(**good), torch.Tensor)
    for key, value in good.items():
        if not isinstance(value, torch.Tensor | list) or key in ("class_sets", "class_counts"):
            continue
        pack = (lambda x: x) if isinstance(value, torch.Tensor) else lambda x: [x]
        tensor = value if isinstance(value, torch.Tensor) else value[0]
        empty = tensor[:0]
        with pytest.raises(ValueError, match=rf"{key}.*\(0,"):
            loss(**good | {key: pack(empty)})
        with pytest.raises(ValueError, match=rf"{key}.*\(1, {', '.join(map(str, tensor.shape))}"):
            loss(**good | {key: pack(tensor[None])})
        with pytest.raises(TypeError, match=f"{key}.*tensor.*None"):
            loss(**good | {key: pack(None)})
        if key != "one_hot":  # of any dtype
            with pytest.raises(TypeError, match=rf"{key}.*(floating|integers).*torch\."):
                loss(**good | {key: pack(tensor.bool())})


@pytest.mark.parametrize(
    ("name", "changes", "error", "match"),
    [
        ("kd", {"teacher_logits": Z[:, :2]}, ValueError, r"teacher_logits .*\(4, 3\).*\(4, 2\)"),
        ("kd", {"temperature": 0}, ValueError, "temperature must be > 0, got 0"),
        ("kd", {"temperature": float("nan")}, ValueError, "temperature must be finite, got nan"),
        ("kd_probs", {"temperature": -1.5}, ValueError, "temperature must be > 0, got -1.5"),
        ("kd_probs", {"temperature": "4"}, TypeError, "temperature must be a number, got '4'"),
        ("restricted_kd", {"temperature": 0}, ValueError, "temperature must be > 0, got 0"),
        ("restricted_kd", {"class_sets": [[0, 1, 3]]}, ValueError, r"class_sets\[0\].*0, 1, 3"),
        ("soft_cross_entropy", {"targets": Y[:3]}, ValueError, r"targets .*\(4,\).*\(3,\)"),
        ("soft_cross_entropy", {"targets": Z[:, :2]}, ValueError, r"targets .*\(4, 3\).*\(4, 2\)"),
        ("soft_cross_entropy", {"targets": Z[:, 0]}, TypeError, "targets must hold integers"),
        ("soft_cross_entropy", {"targets": [0] * 4}, TypeError, r"targets must .*\[0, 0, 0, 0\]"),
        ("confidence_penalty", {"beta": None}, TypeError, "beta must be a number, got None"),
        ("confidence_penalty", {"beta": float("inf")}, ValueError, "beta must be finite, got inf"),
        ("balanced_softmax", {"class_counts": [1, 2]}, ValueError, r"class_counts.*3.*\(2,\)"),
        ("balanced_softmax", {"class_counts": [1, 0, 2]}, ValueError, "class_counts.*>= 1, got 0"),
        ("balanced_softmax", {"class_counts": ["a"] * 3}, TypeError, "class_counts.*'a'"),
        ("label_aware_smoothing", {"head": 1.2}, ValueError, r"head must be in \[0, 1\], got 1.2"),
        ("label_aware_smoothing", {"tail": -0.1}, ValueError, "tail must be .*got -0.1"),
        (
            "label_aware_smoothing",
            {"logits": Z[:, :1], "class_counts": [3]},
            ValueError,
            "at least 2 classes.*got 1",
        ),
        ("attention_transfer", {"student_maps": MAPS[0]}, TypeError, "student_maps must be a list"),
        ("attention_transfer", {"student_maps": [], "teacher_maps": []}, ValueError, "got 0"),
        ("attention_transfer", {"teacher_maps": MAPS * 2}, ValueError, "1 entries, got 2"),
        ("rkd_distance", {"teacher": Z[:2]}, ValueError, r"teacher .*\(4, D\).*\(2, 3\)"),
        ("pskd_targets", {"alpha": 1.01}, ValueError, r"alpha must be in \[0, 1\], got 1.01"),
        ("pskd_targets", {"one_hot": Z[:2]}, ValueError, r"one_hot .*\(4, 3\).*\(2, 3\)"),
        ("byot", {"alpha": -1}, ValueError, r"alpha must be in \[0, 1\], got -1"),
        ("byot", {"hint": -1}, ValueError, "hint must be >= 0, got -1"),
        ("byot", {"temperature": 0}, ValueError, "temperature must be > 0, got 0"),
        ("byot", {"side_features": [Z, Z]}, ValueError, "side_features must have 1 entries, got 2"),
        ("byot", {"side_features": [Z[:, :2]]}, ValueError, r"side_features\[0\].*\(4, 2\)"),
        ("mutual_feature", {"side_features": []}, ValueError, "side_features .*got 0"),
        ("mutual_feature", {"side_features": [Z[:, :2]]}, ValueError, r"\[0\].*\(4, 3\).*\(4, 2\)"),
    ],
)
def test_errors(name, changes, error, match):
    with pytest.raises(error, match=match):
        getattr(losses, name)(**GOOD[name] | changes)


def to_meta(value):
    if isinstance(value, list) and isinstance(value[0], torch.Tensor):
        return [tensor.to("meta") for tensor in value]
    return value.to("meta") if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("name", sorted({*GOOD} - {"consensus_targets", "published_consensus"}))
def test_values_are_never_read(name):
    """A meta tensor has none to read: what passes here never makes a GPU wait."""
    value = getattr(losses, name)(**{key: to_meta(v) for key, v in GOOD[name].items()})
    assert value.is_meta


def test_crd_reads_no_values_either(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # unknown to meta
    crd = losses.CRD(3, 3, 9, num_negatives=2, labels=torch.arange(9) % 3).to("meta")
    z, rows = torch.empty(4, 3, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    for lam in (0.3, torch.empty((), device="meta")):
        assert crd(z, z, rows, mix=(rows, lam), generator=torch.Generator()).is_meta


def test_counts_are_compared_exactly_in_the_dtype_of_the_logits():
    assert checks.counts([5001, 2, 1], Z)[0] == 5001
    assert checks.counts(torch.tensor([1, 2, 3]), Z.double()).dtype == torch.float64
