"""What stored predictions say image by image."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize

from kdlib import metrics, seeding
from kdlib.metrics.calibration import bin_index
from kdlib.metrics.scores import top_label
from kdlib.store import Row, read_tensors

TOP = 5
Predictions = Mapping[str, Mapping[str, np.ndarray]]


def predictions(rows: Sequence[Row], out_dir: str | Path) -> dict[str, dict[str, np.ndarray]]:
    """Run id -> what is stored of its predictions, of the runs where the file is there."""
    found = {}
    for row in rows:
        path = Path(out_dir) / row["folder"] / "predictions" / f"{row['id']}.safetensors"
        if path.exists():
            tensors = read_tensors(path, row["files"]["predictions"])
            found[row["id"]] = {name: tensor.numpy() for name, tensor in tensors.items()}
    return found


def binned_gaps(logits: ArrayLike, labels: ArrayLike, bins: int = 15) -> tuple:
    """Correctness (N,) of logits (N, K), and (N, bins): correctness - confidence in its bin.

    The ECE of any multiset of images is then |counts @ gaps| summed over bins, over the images.
    """
    confidence, hit = top_label(metrics.softmax(logits), labels)
    gaps = np.zeros((len(hit), bins))
    gaps[np.arange(len(hit)), bin_index(confidence, bins)] = hit - confidence
    return hit, gaps


def rank_stability(
    cells: pd.DataFrame, found: Predictions, draws: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """How stable the top 5 by Harmonic score is, one line a cell that has a score.

    cells: of `kdlib.report.cells`; found: `predictions` of all their runs (KeyError otherwise).
    top5_images: share of `draws` bootstraps of the test images (the same for all cells and seeds)
    in which the cell is among the five; rank_low, rank_high: its 95 % range of ranks in them.
    top5_seeds: the share of seeds in which it is, each seed alone.
    """
    scored = cells[cells["harmonic"].notna()]
    runs = [ids.split("; ") for ids in scored["runs"]]
    images = len(found[runs[0][0]]["test_labels"])
    drawn = seeding.numpy_generator(seed, "bootstrap").multinomial(
        images, np.full(images, 1 / images), draws
    )
    counts = np.vstack([np.ones(images), drawn])  # the first line: the images as they are
    acc, ece = _redrawn(runs, found, "test", [counts] * len(runs[0]))
    ranks = _ranks(acc.mean(axis=0)[1:], ece.mean(axis=0)[1:])
    low, high = middle(ranks)
    alone = _ranks(acc[:, 0], ece[:, 0])
    return scored[["cell", "harmonic", "seeds"]].assign(
        top5_images=(ranks <= TOP).mean(axis=0), rank_low=low, rank_high=high,
        top5_seeds=(alone <= TOP).mean(axis=0),
    ).sort_values("top5_images", ascending=False, kind="stable")  # fmt: skip


def choices(
    cells: pd.DataFrame, found: Predictions, draws: int = 1000, seed: int = 0
) -> np.ndarray:
    """(draws,) positions, among the cells with a score, of the cell that validation would choose.

    Each draw is a bootstrap of the validation images of each seed inside each class, so that the
    weights 1 / (C n_c) hold; the choice is that of the Harmonic score of the seeds' means. cells,
    found: as in `rank_stability`.
    """
    runs = [ids.split("; ") for ids in cells.loc[cells["harmonic"].notna(), "runs"]]
    weights = []
    for at, run in enumerate(runs[0]):
        labels = found[run]["val_labels"]
        classes, counts = np.unique(labels, return_counts=True)
        generator = seeding.numpy_generator(seed, "bootstrap", at)
        drawn = np.zeros((draws, len(labels)))
        for label, count in zip(classes, counts, strict=True):
            equal = np.full(count, 1 / count)
            drawn[:, labels == label] = generator.multinomial(count, equal, draws) / count
        weights.append(drawn)
    acc, ece = _redrawn(runs, found, "val", weights)
    return _ranks(acc.mean(axis=0), ece.mean(axis=0)).argmin(axis=1)


def middle(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the middle 95 % of ranks (draws, ...), observed ones."""
    return tuple(np.quantile(ranks, [0.025, 0.975], axis=0, method="closest_observation"))


def _redrawn(
    runs: Sequence[Sequence[str]], found: Predictions, split: str, weights: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and ECE, (seeds, draws, cells), for each seed's weights (draws, images) of any
    total; runs: the ids of each cell, seed by seed."""
    totals = [part.sum(axis=1) for part in weights]  # divided by at the end: counts stay exact
    acc = np.empty((len(runs[0]), len(weights[0]), len(runs)))
    ece = np.empty_like(acc)
    for cell, ids in enumerate(runs):
        for at, run in enumerate(ids):
            hit, gaps = binned_gaps(found[run][f"{split}_logits"], found[run][f"{split}_labels"])
            acc[at, :, cell] = weights[at] @ hit / totals[at]
            ece[at, :, cell] = np.abs(weights[at] @ gaps).sum(axis=1) / totals[at]
    return acc, ece


def _ranks(acc: np.ndarray, ece: np.ndarray) -> np.ndarray:
    """(R, cells) -> the rank of each cell by Harmonic score in each of R grids, 1 the best."""
    scores = np.array([metrics.harmonic_score(*pair) for pair in zip(acc, ece, strict=True)])
    order = np.argsort(-scores, axis=1, kind="stable")
    return 1 + np.argsort(order, axis=1)


def batch_ece(
    accuracies: Sequence[float] = (0.4, 0.6, 0.8), images: int = 10_000, batch: int = 128,
    classes: int = 10, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """What a mean of ECEs over mini-batches says of a perfectly calibrated predictor.

    Its probabilities are softmaxes of normal logits, as wide as the accuracy asks for, and labels
    are drawn from them; so its true calibration error is 0. One line an accuracy: `accuracy` as
    drawn, `ece_batches` (mean over batches, the last one smaller), `ece` of all images, and both
    their floors, `ece_floor_batch` and `ece_floor`.
    """
    lines = []
    for accuracy in accuracies:
        generator = seeding.numpy_generator(seed, "batch_ece")
        normal = generator.normal(size=(images, classes))

        def excess(width: float, normal: np.ndarray = normal, wanted: float = accuracy) -> float:
            return metrics.softmax(width * normal).max(axis=1).mean() - wanted

        probs = metrics.softmax(optimize.brentq(excess, 0, 100) * normal)
        labels = (probs.cumsum(axis=1) < generator.random((images, 1))).sum(axis=1)
        labels = labels.clip(max=classes - 1)
        parts = [slice(start, start + batch) for start in range(0, images, batch)]
        lines.append({
            "accuracy": metrics.accuracy(probs, labels),
            "ece_batches": np.mean([metrics.ece(probs[part], labels[part]) for part in parts]),
            "ece_floor_batch": np.mean([metrics.ece_floor(probs[at], draws=20) for at in parts]),
            "ece": metrics.ece(probs, labels),
            "ece_floor": metrics.ece_floor(probs),
        })  # fmt: skip
    return pd.DataFrame(lines)
