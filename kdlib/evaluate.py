"""What a trained network is worth: predictions on validation and test, and the numbers from them.

The test split is read here and nowhere else, once a run, when training is over. Every number comes
from the float16 logits as they are stored, so that it can be recomputed exactly.
"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdlib import metrics, seeding
from kdlib.data import ImageSet, Selection
from kdlib.train import Trained, predict

VERSION = 1  # of `measure`, noted in each row; `python -m kdlib evaluate` brings old rows up to it
CALIBRATION_IMAGES = 500  # a class, at most

Predictions = dict[str, np.ndarray]


def evaluate(
    trained: Trained, record: ImageSet, selection: Selection
) -> tuple[dict[str, dict[str, Any]], Predictions]:
    """A trained network's metrics (`measure`) and the predictions they come from."""
    found = predictions(trained, record, selection)
    return measure(found, list(selection.class_counts)), found


def predictions(trained: Trained, record: ImageSet, selection: Selection) -> Predictions:
    """float16 logits and labels: `test_*`, `val_*`, `balanced_*` (`balanced_indices`), and
    `selected_test_logits` where the epoch that validation chose is not the last. ValueError when a
    logit does not fit into float16."""
    found = {
        "test_labels": record.test_labels.astype(np.int16),
        "test_logits": predict(trained.network, record.test_images),
    }
    balanced = balanced_indices(record, selection, trained.run.seed)
    for name, rows in (("val", selection.val_indices), ("balanced", balanced)):
        if len(rows):
            found[f"{name}_labels"] = record.train_labels[rows].astype(np.int16)
            found[f"{name}_logits"] = predict(trained.network, record.train_images[rows])
    if trained.history and trained.selected_epoch != trained.history[-1]["epoch"]:
        chosen = copy.deepcopy(trained.network)
        chosen.load_state_dict(trained.selected)
        found["selected_test_logits"] = predict(chosen, record.test_images)
    for name, values in found.items():
        if name.endswith("logits"):
            found[name] = np.asarray(values, dtype=np.float16)
            if not np.isfinite(found[name]).all():
                raise ValueError(f"{trained.run.id}: {name} hold a value beyond float16")
    return found


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
    `selected` is the test row of the epoch that validation chose; the rest are `controls`.
    """
    labels = found["test_labels"]
    measured = {"test": _test_metrics(found["test_logits"], labels, class_counts)}
    if "val_logits" in found:
        measured["val"] = _val_metrics(found["val_logits"], found["val_labels"])
    if "selected_test_logits" in found:
        measured["selected"] = _brief(metrics.softmax(found["selected_test_logits"]), labels)
    return measured | controls(found, class_counts)


def controls(found: Mapping[str, np.ndarray], class_counts: list[int]) -> dict[str, dict[str, Any]]:
    """The test row after post-hoc calibration, each with what was fitted.

    `temperature`: T on validation (Guo et al. 2017), reweighted as `val` is. On a long tail also
    `logit_adjustment`: softmax(z / T - tau log prior), T and tau fitted alike; and `menon`: T = 1,
    tau = 1 (Menon et al. 2021), nothing fitted. `balanced_temperature` and
    `balanced_logit_adjustment` are fitted on images a long-tailed set would not have: optimistic
    bounds. `at_bound` flags a fit that ended at the end of its interval.
    """
    long_tailed, done = len(set(class_counts)) > 1, {}
    for split, prefix in (("val", ""), ("balanced", "balanced_")):
        if f"{split}_logits" not in found:
            continue
        logits, labels = found[f"{split}_logits"], found[f"{split}_labels"]
        weights = metrics.class_weights(labels, logits.shape[1])
        temperature = metrics.fit_temperature(logits, labels, weights)
        done[f"{prefix}temperature"] = _adjusted(found, class_counts, temperature, 0.0)
        if long_tailed:
            fitted = metrics.fit_logit_adjustment(logits, labels, class_counts, weights)
            done[f"{prefix}logit_adjustment"] = _adjusted(found, class_counts, *fitted)
    if long_tailed:
        done["menon"] = _adjusted(found, class_counts, 1.0, 1.0)
    return done


def _adjusted(
    found: Mapping[str, np.ndarray], class_counts: list[int], temperature: float, tau: float
) -> dict[str, Any]:
    probs = metrics.adjusted_softmax(found["test_logits"], class_counts, temperature, tau)
    bounds = (*metrics.TEMPERATURE_BOUNDS, *metrics.TAU_BOUNDS)
    row = {"T": temperature, "tau": tau, "at_bound": temperature in bounds or tau in bounds}
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
