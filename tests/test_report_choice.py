"""The cell that validation chooses, against plain loops over rows and images."""

import dataclasses
import statistics

import numpy as np
import pytest
from report_helpers import fake_rows, params_of

from kdlib import metrics, seeding
from kdlib.report import choice, images, kd_calibration, text
from kdlib.report.study import Study

ENOUGH = [250, 130, 60, 40, 30, 20, 10, 10, 5, 5]


def study_of(seeds, val_counts=ENOUGH, **changes):
    """A study with validation large enough, and made-up predictions of every student."""
    params = params_of(seeds=seeds, **changes)
    rows = fake_rows(params)
    for row in rows:
        row["data"]["val_counts"] = val_counts
    study = Study.of(rows, params)
    return dataclasses.replace(study, found={row["id"]: predictions(row) for row in study.students})


def predictions(row):
    """Few images: 60 of test, the same for all; 30 of validation, other ones for each seed."""
    noise = np.random.default_rng(int(row["id"][-8:], 16))
    split = np.random.default_rng(row["run"]["seed"])
    labels = {"test": np.arange(60) % 10, "val": np.sort(split.integers(0, 4, 30))}
    found = {f"{name}_labels": values for name, values in labels.items()}
    for name, values in labels.items():
        found[f"{name}_logits"] = noise.normal(size=(len(values), 10)) + 2 * np.eye(10)[values]
    return found


@pytest.fixture(scope="module", params=[[0], [0, 1, 2]], ids=["1 seed", "3 seeds"])
def study(request):
    return study_of(request.param)


def harmonic(acc, ece):
    """Of lists of numbers, from its definition."""
    a = [(one - min(acc)) / (max(acc) - min(acc)) for one in acc]
    e = [1 - (one - min(ece)) / (max(ece) - min(ece)) for one in ece]
    return [2 * x * y / (x + y) if x + y else 0.0 for x, y in zip(a, e, strict=True)]


def taught(study):
    """Labels of the cells with KD -> their rows, in the order of the grid."""
    cells = {}
    for row in study.students:
        if row["labels"]["kd_method"] != "none":
            cells.setdefault(tuple(row["labels"].values()), []).append(row)
    return cells


def means(cells, split, metric):
    return [statistics.mean(row["metrics"][split][metric] for row in rows)
            for rows in cells.values()]  # fmt: skip


def test_validation_chooses_and_test_is_told(study):
    cells = taught(study)
    on = {split: harmonic(*(means(cells, split, name) for name in ("acc", "ece")))
          for split in ("val", "test")}  # fmt: skip
    at = on["val"].index(max(on["val"]))
    (found,) = study.best.to_dict("records")
    names = ("kd_method", "teacher_loss", "student_loss", "mixup")
    assert tuple(found[name] for name in names) == list(cells)[at]
    assert found["val_harmonic"] == pytest.approx(on["val"][at])
    assert found["harmonic"] == pytest.approx(on["test"][at])
    assert found["rank"] == 1 + sum(score > on["test"][at] for score in on["test"])
    assert found["cells_ranked"] == len(cells) == 16
    for prefix, split in (("val_", "val"), ("", "test")):
        assert found[f"{prefix}acc"] == pytest.approx(means(cells, split, "acc")[at])
        assert found[f"{prefix}ece"] == pytest.approx(means(cells, split, "ece")[at])


def test_the_choice_is_not_the_best_of_test():
    """One cell is the best of validation and the worst of test."""
    rows = fake_rows(params_of(seeds=[0]))
    favourite = next(row for row in rows if row["labels"].get("kd_method") == "kd")
    favourite["metrics"]["val"] |= {"acc": 0.99, "ece": 0.0}
    for row in rows:
        row["data"]["val_counts"] = ENOUGH
    favourite["metrics"]["test"] |= {"acc": 0.1, "ece": 0.5}
    (found,) = Study.of(rows, params_of(seeds=[0])).best.to_dict("records")
    assert (found["rank"], found["val_acc"]) == (16, 0.99)


def test_the_rank_interval_is_of_redrawn_test_images(study):
    sure, stability = study.certainty.iloc[0], study.stability.set_index("cell")
    assert sure["cell"] == study.best["cell"].iloc[0]
    for end in ("rank_low", "rank_high"):  # the literal version is in test_report.py
        assert sure[end] == stability.loc[sure["cell"], end]
    assert 1 <= sure["rank_low"] <= sure["rank_high"] <= 16


def redraw(labels, generator, draws):
    """Positions drawn inside each class, (draws) lists."""
    picks = [[] for _ in range(draws)]
    for label in sorted(set(labels)):
        (members,) = np.nonzero(labels == label)
        counts = generator.multinomial(len(members), [1 / len(members)] * len(members), draws)
        for pick, line in zip(picks, counts, strict=True):
            pick += np.repeat(members, line).tolist()
    return picks


def test_a_redrawn_validation_chooses_again(study):
    draws, cells = 12, study.cells.dropna(subset="harmonic")
    seeds = range(len(study.params.seeds))
    runs = [[study.found[run] for run in ids.split("; ")] for ids in cells["runs"]]
    picks = [redraw(runs[0][at]["val_labels"], seeding.numpy_generator(5, "bootstrap", at), draws)
             for at in seeds]  # fmt: skip
    found = images.choices(study.cells, study.found, draws=draws, seed=5)
    for draw, chosen in enumerate(found):
        acc, ece = [], []
        for cell in runs:
            numbers = []
            for at in seeds:
                rows = picks[at][draw]
                labels = cell[at]["val_labels"][rows]
                probs = metrics.softmax(cell[at]["val_logits"])[rows]
                weights = [1 / (10 * np.sum(labels == label)) for label in labels]
                numbers.append([metric(probs, labels, weights=weights)
                                for metric in (metrics.accuracy, metrics.ece)])  # fmt: skip
            acc.append(statistics.mean(pair[0] for pair in numbers))
            ece.append(statistics.mean(pair[1] for pair in numbers))
        scores = harmonic(acc, ece)
        assert scores[chosen] == pytest.approx(max(scores))


def test_how_sure_the_choice_is(study):
    scored = study.cells.dropna(subset="harmonic")
    order = scored["harmonic"].sort_values(ascending=False).index.to_list()
    ranks = sorted(1 + order.index(scored.index[at])
                   for at in images.choices(study.cells, study.found))  # fmt: skip
    sure = study.certainty.iloc[0]
    assert ranks[24] <= sure["choice_low"] <= ranks[25]
    assert ranks[974] <= sure["choice_high"] <= ranks[975]
    own = study.best["rank"].iloc[0]
    assert sure["choice_same"] == pytest.approx(ranks.count(own) / 1000)


def test_the_report_says_which_and_how_sure(study):
    sentence, line, sure = text.best(study), study.best.iloc[0], study.certainty.iloc[0]
    assert sentence.startswith(f"Best by validation: {line['cell']} (Harmonic ")
    assert (
        f"rank {line['rank']} of 16, {sure['rank_low']} to {sure['rank_high']} in 95 %" in sentence
    )
    assert f"choose the same cell in {100 * sure['choice_same']:.0f} % of 1000" in sentence
    assert sentence in text.terminal(study)
    tables = kd_calibration.tables(study)
    assert list(tables["best"]["cell"]) == list(tables["best_certainty"]["cell"])


def test_without_predictions_the_choice_stands_without_its_intervals(study):
    bare = dataclasses.replace(study, found={})
    assert bare.best.equals(study.best)
    assert bare.certainty.empty
    assert text.best(bare).endswith("of 16.")
    half = {run: {name: values for name, values in tensors.items() if not name.startswith("val")}
            for run, tensors in study.found.items()}  # fmt: skip
    assert dataclasses.replace(study, found=half).certainty.empty


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([100] * 4 + [99] + [0], "validation has 499 images and none of class 5, and a choice"),
        ([50] * 9 + [49], "validation has 499 images, and a choice takes 500 images with every"),
        ([100] * 9 + [0], "No cell is called best: none of class 9, and a choice"),
    ],
)
def test_a_small_validation_chooses_nothing(counts, words):
    study = study_of([0, 1], counts)
    assert study.best.empty
    assert study.certainty.empty
    assert words in text.best(study)
    assert not {"best", "best_certainty"} & {
        name for name, table in kd_calibration.tables(study).items() if len(table)
    }
    assert choice.objections(study.students)
    assert not choice.objections(study_of([0], [50] * 10).students)


def test_one_seed_with_a_small_validation_is_enough_to_object():
    study = study_of([0, 1])
    study.students[-1]["data"] = study.students[-1]["data"] | {"val_counts": [600, 0]}
    assert choice.objections(study.students) == ["none of class 1"]


@pytest.mark.parametrize("methods", [["none"], ["none", "kd"]])
def test_a_grid_of_less_than_two_cells_with_kd_has_no_best(methods):
    study = study_of([0], kd_methods=methods, teacher_losses=["ce"], student_losses=["ce"],
                     mixup=[False])  # fmt: skip
    assert text.best(study) == "No cell is called best: no two with KD have all their seeds."
    assert "by test Harmonic" not in text.terminal(study)
