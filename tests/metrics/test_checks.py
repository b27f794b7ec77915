"""Arguments: what is accepted, and what is refused by name and value."""

import numpy as np
import pytest
import torch

from kdlib import metrics as m

P, Y = [[0.5, 0.5], [0.25, 0.75]], [0, 1]
Z = np.array([[1.0, -2.0], [0.5, 3.0]])

SCORES = {
    "accuracy": (P, Y),
    "topk_error": (P, Y, 1),
    "nll": (P, Y),
    "brier": (P, Y),
    "ece": (P, Y),
    "adaptive_ece": (P, Y),
    "classwise_ece": (P, Y),
    "smooth_ece": (P, Y),
    "aurc": (P, Y),
    "e_aurc": (P, Y),
    "ece_floor": (P,),
    "fit_temperature": (Z, [0, 0]),
    "individual_fidelity": (Z, Z[::-1]),
    "centroid_fidelity": (Z, [Z, Z[::-1]]),
    "top1_agreement": (Z, Z[::-1]),
}
ARRAYS = {
    "reliability_bins": (P, Y),
    "risk_coverage": (P, Y),
    "class_weights": (Y, 2),
    "harmonic_score": ([0.5, 0.75], [0.25, 0.5]),
    "teacher_diversity": ([Z, Z[::-1]],),
    "pairwise_diversity": ([Z, Z[::-1]],),
    "softmax": (Z,),
    "adjusted_softmax": (Z, [5, 1]),
    "fit_logit_adjustment": (Z, [0, 0], [5, 1]),
}


def as_tensor(value):
    if isinstance(value, int):
        return value
    tensor = torch.tensor(np.array(value))
    # Every value above is exact in bf16, so the results are the same to the last bit.
    return tensor.bfloat16().requires_grad_() if tensor.is_floating_point() else tensor.int()


@pytest.mark.parametrize("name", [*SCORES, *ARRAYS])
def test_lists_arrays_and_bf16_tensors_give_the_same(name):
    metric, arguments = getattr(m, name), (SCORES | ARRAYS)[name]
    value = metric(*arguments)
    assert type(value) is float or name in ARRAYS
    tensors = [as_tensor(argument) for argument in arguments]
    np.testing.assert_array_equal(metric(*tensors), value)


def test_a_list_of_tensors_is_a_stack_and_float32_is_raised_to_float64():
    teachers = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    np.testing.assert_array_equal(
        m.pairwise_diversity(list(teachers)), m.pairwise_diversity(teachers)
    )
    np.testing.assert_array_equal(m.softmax(teachers[0]), m.softmax(teachers[0].double()))


ON_PAIRS = [
    "accuracy", "nll", "brier", "ece", "adaptive_ece", "classwise_ece", "smooth_ece", "aurc",
    "e_aurc", "reliability_bins", "risk_coverage",
]  # fmt: skip


@pytest.mark.parametrize("name", ON_PAIRS)
@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        ([[0.5, 0.5], [np.nan, 1]], [0, 1], r"probs\[1, 0\] = nan is not finite"),
        ([[1.5, -0.5]], [0], r"probs\[0, 0\] = 1.5 lies outside \[0, 1\]"),
        ([[0.7, 0.2]], [0], r"the row sum of probs\[0\] = 0.89\d* is not 1"),
        ([[0.5, 0.5]], [2], r"labels\[0\] = 2 lies outside 0..1"),
        ([[0.5, 0.5]], [-1], r"labels\[0\] = -1 lies outside 0..1"),
        ([[0.5, 0.5]], [0, 1], r"shapes disagree: labels \(2,\), probs \(1, 2\)"),
        ([0.5, 0.5], [0], r"probs needs 2 dimensions, got shape \(2,\)"),
        (np.zeros((0, 3)), [], r"probs is empty: shape \(0, 3\)"),
        ([[0.5, 0.5]], [], r"labels is empty: shape \(0,\)"),
        ([[0.5, 0.5], [1]], [0, 1], "probs is not a rectangular array"),
    ],
)
def test_every_metric_of_probs_and_labels_refuses(name, probs, labels, message):
    with pytest.raises(ValueError, match=message):
        getattr(m, name)(probs, labels)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("topk_error", (P, Y, 3), r"k = 3 lies outside 1\.\.2"),
        ("ece", (P, Y, 0), "bins = 0"),
        ("adaptive_ece", (P, Y, -1), "bins = -1"),
        ("classwise_ece", (P, Y, 0), "bins = 0"),
        ("ece_floor", (P, 15, 0), "draws = 0"),
        ("ece_floor", ([[2.0, -1.0]],), r"probs\[0, 0\] = 2.0"),
        ("accuracy", (P, Y, [1.0]), r"weights \(1,\), labels \(2,\)"),
        ("nll", (P, Y, [1.0, -2.0]), r"weights\[1\] = -2.0 is negative"),
        ("ece", (P, Y, 15, [0.0, 0.0]), "weights sum to 0.0"),
        ("ece_floor", (P, 15, 1, 0, [1.0]), r"weights \(1,\), probs \(2, 2\)"),
        ("fit_temperature", (Z, [0, 2]), r"labels\[1\] = 2 lies outside 0\.\.1"),
        ("fit_temperature", (Z, [0]), r"labels \(1,\), logits \(2, 2\)"),
        ("fit_temperature", (Z * np.inf, [0, 1]), r"logits\[0, 0\] = inf is not finite"),
        ("fit_temperature", (Z, Y, [1.0, np.nan]), r"weights\[1\] = nan"),
        ("fit_logit_adjustment", (Z, Y, [3]), r"class_counts has shape \(1,\), needs \(2,\)"),
        ("fit_logit_adjustment", (Z, Y, [3, 0]), r"class_counts\[1\] = 0.0 is below 1"),
        ("softmax", (Z, 0), "temperature = 0.0"),
        ("adjusted_softmax", (Z, [1, 1], -1.0), "temperature = -1.0"),
        ("adjusted_softmax", (Z, [1, 1], 1.0, np.nan), "tau = nan"),
        ("individual_fidelity", (Z, Z, np.nan), "temperature = nan"),
        ("individual_fidelity", (Z, Z[:1]), r"student_logits \(2, 2\), teacher_logits \(1, 2\)"),
        ("individual_fidelity", (Z * np.nan, Z), r"student_logits\[0, 0\] = nan"),
        ("centroid_fidelity", (Z, Z), r"teachers_logits needs 3 dimensions, got shape \(2, 2\)"),
        ("centroid_fidelity", (Z, [Z[:1]]), r"\(2, 2\), teachers_logits \(1, 1, 2\)"),
        ("teacher_diversity", ([],), r"teachers_logits is empty: shape \(0,\)"),
        ("top1_agreement", (Z, Z[:, :1]), r"\(2, 2\), teacher_logits \(2, 1\)"),
        ("harmonic_score", ([0.5, 0.6], [0.1]), r"acc \(2,\), ece \(1,\)"),
        ("harmonic_score", ([0.5, np.nan], [0.1, 0.2]), r"acc\[1\] = nan"),
        ("class_weights", ([0, 3], 3), r"labels\[1\] = 3 lies outside 0\.\.2"),
        ("frequency_groups", (2,), "num_classes = 2"),
        ("frequency_groups", (7,), "class_counts is None, but 7 classes"),
        ("frequency_groups", (7, [1, 2]), r"class_counts has shape \(2,\), needs \(7,\)"),
    ],
)
def test_other_faults_are_named_with_their_value(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(m, name)(*arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("accuracy", (None, Y), "probs needs numbers, got object: None"),
        ("accuracy", ([["a", "b"]], [0]), "probs needs numbers, got <U1: 'a'"),
        ("accuracy", (P, [0.0, 1.5]), "labels needs class indices, got float64: 0.0"),
        ("ece", (P, Y, 1.5), "bins needs a whole number, got 1.5"),
        ("topk_error", (P, Y, True), "k needs a whole number, got True"),
        ("softmax", (Z, "4"), "temperature needs numbers, got <U1: '4'"),
    ],
)
def test_what_is_no_number_is_a_type_error(name, arguments, message):
    with pytest.raises(TypeError, match=message):
        getattr(m, name)(*arguments)


def test_the_tolerances_of_a_probability_row():
    assert m.accuracy([[0.5, 0.4991]], [0]) == 1.0
    assert m.accuracy([[1 + 2**-23, 0.0]], [0]) == 1.0  # a float32 mean may round up to this
    with pytest.raises(ValueError, match="row sum"):
        m.accuracy([[0.5, 0.4989]], [0])


def test_the_closest_pool_is_suggested():
    with pytest.raises(LookupError, match="unknown pool 'logit', did you mean 'logits'"):
        m.centroid_fidelity(Z, [Z], pool="logit")
