"""How closely a student follows its teachers, and how far the teachers are from each other.

All are KL(teacher || student) of softmax(z / T), in nats, means over samples, without the T^2 of
the loss, from log-softmax and so without an epsilon. For M teachers, exactly:
mean individual fidelity = centroid fidelity (pool "probs") + mean teacher diversity.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from kdlib.metrics.checks import check_finite, check_match, check_temperature
from kdlib.registry import suggest


def _log_probs(logits: np.ndarray, temperature: float) -> np.ndarray:
    return special.log_softmax(logits / check_temperature(temperature), axis=-1)


def _kl(log_p: np.ndarray, log_q: np.ndarray) -> float:
    """The mean over samples of KL(p || q), (N, K) each."""
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean())


def _mean_probs(teachers: np.ndarray, temperature: float) -> np.ndarray:
    log_probs = _log_probs(teachers, temperature)
    return special.logsumexp(log_probs, axis=0) - np.log(len(teachers))


def _mean_logits(teachers: np.ndarray, temperature: float) -> np.ndarray:
    return _log_probs(teachers.mean(axis=0), temperature)


POOLS = {"probs": _mean_probs, "logits": _mean_logits}


def _check_logits(student: ArrayLike, teacher: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    student = check_finite(student, "student_logits", 2)
    teacher = check_finite(teacher, "teacher_logits", 2)
    check_match(student.shape == teacher.shape, student_logits=student, teacher_logits=teacher)
    return student, teacher


def individual_fidelity(
    student_logits: ArrayLike, teacher_logits: ArrayLike, temperature: float = 4.0
) -> float:
    """KL(teacher || student) for one teacher; logits (N, K) each. Lower is closer, 0 is equal."""
    student, teacher = _check_logits(student_logits, teacher_logits)
    return _kl(_log_probs(teacher, temperature), _log_probs(student, temperature))


def centroid_fidelity(
    student_logits: ArrayLike,
    teachers_logits: ArrayLike,
    temperature: float = 4.0,
    pool: str = "probs",
) -> float:
    """KL(centroid || student); student_logits (N, K), teachers_logits (M, N, K).

    The centroid is the mean of the teachers' tempered probabilities (`pool` "probs"), or the
    softmax of their mean logits ("logits": their normalised geometric mean, led by the teacher of
    the largest logits). The two differ several-fold, so say which. LookupError for other pools.
    """
    if pool not in POOLS:
        raise LookupError(f"unknown pool {pool!r}, {suggest(pool, POOLS)}")
    student = check_finite(student_logits, "student_logits", 2)
    teachers = check_finite(teachers_logits, "teachers_logits", 3)
    fits = student.shape == teachers.shape[1:]
    check_match(fits, student_logits=student, teachers_logits=teachers)
    return _kl(POOLS[pool](teachers, temperature), _log_probs(student, temperature))


def teacher_diversity(teachers_logits: ArrayLike, temperature: float = 4.0) -> np.ndarray:
    """(M,) KL(teacher_i || mean of the teachers' probabilities), for teachers_logits (M, N, K)."""
    teachers = check_finite(teachers_logits, "teachers_logits", 3)
    centroid = _mean_probs(teachers, temperature)
    return np.array([_kl(log_p, centroid) for log_p in _log_probs(teachers, temperature)])


def pairwise_diversity(teachers_logits: ArrayLike, temperature: float = 4.0) -> np.ndarray:
    """(M, M), [i, j] = KL(teacher_i || teacher_j): both directions; teachers_logits (M, N, K)."""
    log_probs = _log_probs(check_finite(teachers_logits, "teachers_logits", 3), temperature)
    return np.array([[_kl(log_p, log_q) for log_q in log_probs] for log_p in log_probs])


def jensen_shannon(teachers_logits: ArrayLike, temperature: float = 4.0) -> np.ndarray:
    """(M, M) Jensen-Shannon divergences of the teachers, symmetric, at most log 2: the mean of both
    KLs to the pair's mean (Lin 1991); teachers_logits (M, N, K)."""
    teachers = check_finite(teachers_logits, "teachers_logits", 3)
    return np.array(
        [[teacher_diversity([p, q], temperature).mean() for q in teachers] for p in teachers]
    )


def fidelity_scores(
    student_logits: ArrayLike, teachers_logits: ArrayLike, temperature: float = 4.0
) -> dict[str, float | list[float]]:
    """All that says how closely a student follows its teachers, by name.

    `individual` and `agreement` (top-1) hold one value a teacher; `mean_individual` is exactly
    `centroid_probs` plus the teachers' mean diversity; `centroid_logits` is against their mean
    logits. student_logits (N, K), teachers_logits (M, N, K).
    """
    teachers = check_finite(teachers_logits, "teachers_logits", 3)
    individual = [individual_fidelity(student_logits, one, temperature) for one in teachers]
    row = {"individual": individual, "mean_individual": float(np.mean(individual))}
    for pool in POOLS:
        row[f"centroid_{pool}"] = centroid_fidelity(student_logits, teachers, temperature, pool)
    return row | {"agreement": [top1_agreement(student_logits, one) for one in teachers]}


def top1_agreement(student_logits: ArrayLike, teacher_logits: ArrayLike) -> float:
    """Share of samples on which both choose the same class; logits (N, K) each, chance is 1 / K.

    >>> top1_agreement([[2.0, 1.0], [0.0, 1.0]], [[3.0, 0.0], [1.0, 0.0]])
    0.5
    """
    student, teacher = _check_logits(student_logits, teacher_logits)
    return float(np.mean(student.argmax(axis=1) == teacher.argmax(axis=1)))
