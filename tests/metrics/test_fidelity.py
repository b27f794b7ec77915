"""Fidelity against scipy's relative entropy, its identity, and the published slips."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy, gmean

from kdlib.metrics import (
    centroid_fidelity,
    fidelity_scores,
    individual_fidelity,
    jensen_shannon,
    pairwise_diversity,
    teacher_diversity,
    top1_agreement,
)

RNG = np.random.default_rng(0)
TEACHERS, STUDENT = RNG.normal(size=(4, 30, 6)) * 8, RNG.normal(size=(30, 6)) * 8


def mean_kl(p, q):
    return np.mean([entropy(a, b) for a, b in zip(p, q, strict=True)])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_all_equal_relative_entropies(temperature):
    p, q = softmax(TEACHERS / temperature, axis=-1), softmax(STUDENT / temperature, axis=-1)
    centroid = p.mean(axis=0)
    geometric = gmean(p, axis=0)
    geometric /= geometric.sum(axis=-1, keepdims=True)
    at = {"temperature": temperature}
    for logits, probs in zip(TEACHERS, p, strict=True):
        assert individual_fidelity(STUDENT, logits, **at) == pytest.approx(mean_kl(probs, q))
    assert centroid_fidelity(STUDENT, TEACHERS, **at) == pytest.approx(mean_kl(centroid, q))
    assert centroid_fidelity(STUDENT, TEACHERS, **at, pool="logits") == pytest.approx(
        mean_kl(geometric, q)
    )
    np.testing.assert_allclose(teacher_diversity(TEACHERS, **at), [mean_kl(a, centroid) for a in p])
    np.testing.assert_allclose(
        pairwise_diversity(TEACHERS, **at), [[mean_kl(a, b) for b in p] for a in p], atol=1e-14
    )


@pytest.mark.parametrize("members", [1, 2, 4])
def test_mean_individual_is_centroid_plus_mean_diversity(members):
    teachers = TEACHERS[:members]
    individual = [individual_fidelity(STUDENT, teacher) for teacher in teachers]
    centroid = centroid_fidelity(STUDENT, teachers)
    diversity = teacher_diversity(teachers).mean()
    assert np.mean(individual) == pytest.approx(centroid + diversity, rel=1e-12)


def test_equal_networks_are_at_distance_zero():
    same = [STUDENT, STUDENT + 3.0]  # softmax does not see a constant
    for distance in (
        individual_fidelity(*same),
        centroid_fidelity(STUDENT, same),
        centroid_fidelity(STUDENT, same, pool="logits"),
        teacher_diversity(same),
        pairwise_diversity(same),
    ):
        np.testing.assert_allclose(distance, 0, atol=1e-12)
    assert top1_agreement(*same) == 1


def test_no_epsilon_bounds_the_divergence():
    teacher, student = [[0.0, 2000.0]], [[0.0, -2000.0]]
    assert individual_fidelity(student, teacher) == pytest.approx(500)  # 2000 / T
    p, q = softmax(np.array(teacher) / 4, axis=1), softmax(np.array(student) / 4, axis=1)
    published = np.sum(p * (np.log(p + 1e-10) - np.log(q + 1e-10)))
    assert published == pytest.approx(23.03, abs=0.01)


def test_the_two_centroids_are_two_things():
    loud = np.array([TEACHERS[0] * 10, TEACHERS[1] / 10])  # one teacher with far larger logits
    logits = centroid_fidelity(TEACHERS[0] * 5, loud, pool="logits")
    assert logits < 0.1 * centroid_fidelity(TEACHERS[0] * 5, loud, pool="probs")


def test_pairwise_diversity_gives_both_directions():
    found = pairwise_diversity(TEACHERS)
    assert found[0, 1] == individual_fidelity(TEACHERS[1], TEACHERS[0])
    assert found[1, 0] == individual_fidelity(TEACHERS[0], TEACHERS[1])
    assert abs(found - found.T)[np.triu_indices(4, 1)].min() > 1e-3
    assert np.diag(found).tolist() == [0.0] * 4


def test_the_mean_is_over_samples_not_over_batches():
    parts = [individual_fidelity(STUDENT[s], TEACHERS[0, s]) for s in (slice(28), slice(28, 30))]
    whole = individual_fidelity(STUDENT, TEACHERS[0])
    assert whole == pytest.approx((28 * parts[0] + 2 * parts[1]) / 30)
    assert abs(whole - np.mean(parts)) > 0.01


def test_top1_agreement_is_a_fraction_and_ties_go_to_the_lower_class():
    assert (
        top1_agreement([[1.0, 1.0], [0.0, 1.0], [3.0, 1.0]], [[2.0, 0.0], [4, 0], [5, 0]]) == 2 / 3
    )


def test_jensen_shannon_is_symmetric_and_equals_scipys():
    found, p = jensen_shannon(TEACHERS), softmax(TEACHERS / 4, axis=-1)
    expected = [
        [np.mean([jensenshannon(a, b) ** 2 for a, b in zip(x, y, strict=True)]) for y in p]
        for x in p
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found, found.T)


def test_all_scores_of_a_student_are_those_by_name():
    found = fidelity_scores(STUDENT, TEACHERS)
    assert found["individual"] == [individual_fidelity(STUDENT, one) for one in TEACHERS]
    assert found["agreement"] == [top1_agreement(STUDENT, one) for one in TEACHERS]
    for pool in ("probs", "logits"):
        assert found[f"centroid_{pool}"] == centroid_fidelity(STUDENT, TEACHERS, pool=pool)
    identity = found["centroid_probs"] + teacher_diversity(TEACHERS).mean()
    assert found["mean_individual"] == pytest.approx(identity, abs=1e-12)
