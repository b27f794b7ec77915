"""What a trained network is worth: predictions on validation and test, and the numbers from them.

The test split is read here and nowhere else, once a run, when training is over. Every number comes
from the float16 logits as they are stored, so that it can be recomputed exactly.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from kdlib import metrics, objectives, seeding
from kdlib.config import Run
from kdlib.data import ImageSet, Selection
from kdlib.train import FINAL, Trained, predict, predict_heads

VERSION = 1  # of `measure`, noted in each row; `python -m kdlib evaluate` brings old rows up to it
CALIBRATION_IMAGES = 500  # a class, at most
LOG_ZERO = -100.0  # for the logarithm of a probability of 0
ENSEMBLE = "ensemble"  # of a network's heads, beside their names
HEAD_LOGITS = "_head_test_logits"  # what follows a side head's name in the predictions
TEACHERS_LOGITS = "teachers_test_logits"  # (M, N, K), in the predictions of their student

Predictions = dict[str, np.ndarray]
TeacherViews = dict[str, list[torch.Tensor]]


def predictions(trained: Trained, record: ImageSet, selection: Selection) -> Predictions:
    """float16 logits and labels: `test_*`, `val_*`, `balanced_*` (`balanced_indices`),
    `selected_test_logits` where the epoch that validation chose is not the last, and
    `<stage>_head_test_logits` of the side heads that were taught to classify. ValueError when a
    logit does not fit into float16."""
    sides = objectives.taught_heads(trained.run, getattr(trained.network, "side_heads", ()))
    heads = predict_heads(trained.network, record.test_images, sides) if sides else {}
    found = {f"{name}{HEAD_LOGITS}": heads[name] for name in sides}
    for name, (images, labels) in _splits(record, selection, trained.run.seed).items():
        found[f"{name}_labels"] = labels.astype(np.int16)
        found[f"{name}_logits"] = predict(trained.network, images)
    if trained.history and trained.selected_epoch != trained.history[-1]["epoch"]:
        chosen = copy.deepcopy(trained.network)
        chosen.load_state_dict(trained.selected)
        found["selected_test_logits"] = predict(chosen, record.test_images)
    return _as_float16(found, trained.run)


def teacher_views(
    teachers: Sequence[torch.nn.Module], record: ImageSet, selection: Selection, seed: int
) -> TeacherViews:
    """The logits of each teacher on the images that `predictions` reads, by split."""
    return {
        name: [predict(network, images) for network in teachers]
        for name, (images, _) in _splits(record, selection, seed).items()
    }


def pooled_predictions(
    run: Run, views: TeacherViews, record: ImageSet, selection: Selection
) -> Predictions:
    """What `predictions` says of a network, of teachers put together by the run's consensus rule:
    logits are log-probabilities. A labelled rule reads the labels of the images it answers."""
    (options,) = run.objective.values()
    sets, found = objectives.class_sets(run, record.classes), {}
    for name, (_, labels) in _splits(record, selection, run.seed).items():
        args = (views[name], sets, record.num_classes, torch.from_numpy(labels))
        probs = objectives.consensus(options["rule"], *args, options["temperature"])
        found[f"{name}_labels"] = labels.astype(np.int16)
        found[f"{name}_logits"] = probs.log().clamp(min=LOG_ZERO)
    return _as_float16(found, run)


def _splits(
    record: ImageSet, selection: Selection, seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels of test and, where there are any, of `val` and `balanced`."""
    found = {"test": (record.test_images, record.test_labels)}
    balanced = balanced_indices(record, selection, seed)
    for name, rows in (("val", selection.val_indices), ("balanced", balanced)):
        if len(rows):
            found[name] = record.train_images[rows], record.train_labels[rows]
    return found


def _as_float16(found: dict[str, Any], run: Run) -> Predictions:
    for name, values in found.items():
        if name.endswith("logits"):
            found[name] = np.asarray(values, dtype=np.float16)
            if not np.isfinite(found[name]).all():
                raise ValueError(f"{run.id}: {name} hold a value beyond float16")
    return found


def from_predictions(
    found: Mapping[str, np.ndarray], class_counts: list[int], classes: Sequence[str] | None
) -> dict[str, Any]:
    """What a row says that comes from its predictions: `metrics`, the version of the `evaluation`
    and, of a run that knows only some `classes`, its `confusion`."""
    row: dict[str, Any] = {"metrics": measure(found, class_counts), "evaluation": VERSION}
    return row | ({"confusion": confusion(found)} if classes else {})


def confusion(found: Mapping[str, np.ndarray]) -> list[list[int]]:
    """[i][j]: test images of class i that are taken for class j."""
    logits, labels = found["test_logits"], found["test_labels"].astype(np.int64)
    classes = logits.shape[1]
    taken = metrics.softmax(logits).argmax(axis=1)  # as accuracy reads them
    counts = np.bincount(labels * classes + taken, minlength=classes**2)
    return counts.reshape(classes, classes).tolist()


def balanced_indices(record: ImageSet, selection: Selection, seed: int) -> np.ndarray:
    """Training images that were not trained on, as many of each class: validation first, then what
    the tail left out. Empty where some class has none."""
    generator = seeding.numpy_generator(seed, "calibration")
    spare = [
        generator.permutation(rows) for rows in (selection.val_indices, selection.left_out_indices)
    ]
    rows = np.concatenate(spare)
    labels = record.train_labels[rows]
    by_class = [rows[labels == label] for label in range(record.num_classes)]
    size = min(CALIBRATION_IMAGES, *map(len, by_class))
    return np.concatenate([group[:size] for group in by_class])


def measure(found: Mapping[str, np.ndarray], class_counts: list[int]) -> dict[str, dict[str, Any]]:
    """Every metric of a run from its stored predictions, by split.

    `test` has all of them; `val` weights its images by 1 / (C n_c), because test is uniform;
    `selected` is the test row of the epoch that validation chose; `heads` has those of each head
    and of their ensemble where side heads classify; `fidelity` and `teachers` are there where
    several teachers know all classes: how it follows them on test, at temperature 4, and what they
    are together (`of_teachers`); the rest are `controls`.
    """
    labels = found["test_labels"]
    measured = {"test": _test_metrics(found["test_logits"], labels, class_counts)}
    if "val_logits" in found:
        measured["val"] = _val_metrics(found["val_logits"], found["val_labels"])
    if "selected_test_logits" in found:
        measured["selected"] = _brief(metrics.softmax(found["selected_test_logits"]), labels)
    probs = head_probs(found)
    if len(probs) > 1:
        measured["heads"] = {name: _brief(own, labels) for name, own in probs.items()}
    if TEACHERS_LOGITS in found:
        theirs = found[TEACHERS_LOGITS]
        measured["fidelity"] = metrics.fidelity_scores(found["test_logits"], theirs)
        measured["teachers"] = of_teachers(theirs, labels)
    return measured | controls(found, class_counts)


def of_teachers(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """What M teachers are on test, (M, N, K) logits: diversity (M,), KLs [i][j] = KL(i || j) and
    Jensen-Shannon divergences (M, M) at temperature 4; their `ensemble` at temperature 1, by what
    is averaged."""
    logits = logits.astype(np.float64)
    pooled = {
        "probs": np.mean([metrics.softmax(one) for one in logits], axis=0),
        "logits": metrics.softmax(logits.mean(axis=0)),
    }
    return {
        "diversity": metrics.teacher_diversity(logits).tolist(),
        "kl": metrics.pairwise_diversity(logits).tolist(),
        "jensen_shannon": metrics.jensen_shannon(logits).tolist(),
        "ensemble": {pool: _brief(probs, labels) for pool, probs in pooled.items()},
    }


def head_probs(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Test probabilities (N, K) of each head from input to output, "final" after the side heads by
    their stage, and of their "ensemble", the mean of the probabilities; "final" alone without side
    heads."""
    sides = sorted(name for name in found if name.endswith(HEAD_LOGITS))
    probs = {name.removesuffix(HEAD_LOGITS): metrics.softmax(found[name]) for name in sides}
    probs[FINAL] = metrics.softmax(found["test_logits"])
    return probs | ({ENSEMBLE: np.mean(list(probs.values()), axis=0)} if sides else {})


def controls(found: Mapping[str, np.ndarray], class_counts: list[int]) -> dict[str, dict[str, Any]]:
    """The test row after post-hoc calibration, each with what was fitted.

    `temperature`: T on validation (Guo et al. 2017), reweighted as `val` is. Where classes have
    unequal counts also `logit_adjustment`: softmax(z / T - tau log prior), T and tau fitted alike;
    and `menon`: T = 1, tau = 1 (Menon et al. 2021), nothing fitted. `balanced_temperature` and
    `balanced_logit_adjustment` are fitted on images a long-tailed set would not have: optimistic
    bounds. `at_bound` flags a fit that ended at the end of its interval.
    """
    unequal, done = len(set(class_counts)) > 1, {}
    for split, prefix in (("val", ""), ("balanced", "balanced_")):
        if f"{split}_logits" not in found:
            continue
        logits, labels = found[f"{split}_logits"], found[f"{split}_labels"]
        weights = metrics.class_weights(labels, logits.shape[1])
        temperature = metrics.fit_temperature(logits, labels, weights)
        done[f"{prefix}temperature"] = _adjusted(found, class_counts, temperature, 0.0)
        if unequal:
            fitted = metrics.fit_logit_adjustment(logits, labels, class_counts, weights)
            done[f"{prefix}logit_adjustment"] = _adjusted(found, class_counts, *fitted)
    if unequal:
        done["menon"] = _adjusted(found, class_counts, 1.0, 1.0)
    return done


def _adjusted(
    found: Mapping[str, np.ndarray], class_counts: list[int], temperature: float, tau: float
) -> dict[str, Any]:
    probs = metrics.adjusted_softmax(found["test_logits"], class_counts, temperature, tau)
    at_bound = temperature in metrics.TEMPERATURE_BOUNDS or tau in metrics.TAU_BOUNDS
    row = {"T": temperature, "tau": tau, "at_bound": at_bound}
    return row | _brief(probs, found["test_labels"])


def _brief(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {
        "acc": metrics.accuracy(probs, labels),
        "nll": metrics.nll(probs, labels),
        "brier": metrics.brier(probs, labels),
        "ece": metrics.ece(probs, labels),
        "ece_floor": metrics.ece_floor(probs),
    }


def _test_metrics(logits: np.ndarray, labels: np.ndarray, class_counts: list[int]) -> dict:
    probs = metrics.softmax(logits)
    row = {
        "acc": metrics.accuracy(probs, labels),
        "top5_error": metrics.topk_error(probs, labels, min(5, probs.shape[1])),
        "nll": metrics.nll(probs, labels),
        "brier": metrics.brier(probs, labels),
        "ece": metrics.ece(probs, labels),
        "ece_floor": metrics.ece_floor(probs),
        "ece_10": metrics.ece(probs, labels, bins=10),
        "adaptive_ece": metrics.adaptive_ece(probs, labels),
        "classwise_ece": metrics.classwise_ece(probs, labels),
        "smooth_ece": metrics.smooth_ece(probs, labels),
        "aurc": metrics.aurc(probs, labels),
        "e_aurc": metrics.e_aurc(probs, labels),
    }
    groups = metrics.frequency_groups(probs.shape[1], class_counts) if probs.shape[1] > 2 else {}
    for group, classes in groups.items():
        inside = np.isin(labels, classes)
        if inside.any():
            row[f"acc_{group}"] = metrics.accuracy(probs[inside], labels[inside])
            row[f"ece_{group}"] = metrics.ece(probs[inside], labels[inside])
            row[f"ece_floor_{group}"] = metrics.ece_floor(probs[inside])
    return row


def _val_metrics(logits: np.ndarray, labels: np.ndarray) -> dict:
    probs = metrics.softmax(logits)
    weights = metrics.class_weights(labels, probs.shape[1])
    return {
        "acc": metrics.accuracy(probs, labels, weights=weights),
        "nll": metrics.nll(probs, labels, weights=weights),
        "ece": metrics.ece(probs, labels, weights=weights),
        "images": len(labels),
        "classes_without_images": sorted(set(range(probs.shape[1])) - set(labels.tolist())),
    }
