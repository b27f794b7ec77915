"""Teachers with overlapping class sets: tasks, losses, ensembles, tables, refusals."""

import copy
import dataclasses
import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kdlib import Lab, data, grid, losses, models, notices, objectives, plots, train
from kdlib.augment import Stream
from kdlib.config import load_settings
from kdlib.known_sets import KNOWN_SETS
from kdlib.losses.multi_teacher import RULES
from kdlib.plots import overlapping as figures
from kdlib.report import overlapping as report
from kdlib.report import overlapping_text
from kdlib.studies import overlapping as study
from kdlib.teachers import FrozenTeachers
from kdlib.train import build_network, loop
from kdlib.types import Batch, Clock, Forward, Mix, View

ROOT = Path(__file__).parents[1]
SETS = {"low": (0, 1, 2, 3, 4), "middle": (4, 5, 6, 7), "high": (0, 7, 8, 9)}
SMALL = {
    "teacher_model": "resnet8_half", "student_models": ["resnet8_half"], "epochs": 1,
    "batch_size": 32, "optimizer": "adam", "lr": 0.004, "alpha": 0.5, "temperature": 4.0,
}  # fmt: skip


def params(**changes):
    return study.OverlappingTeachers.of(**SMALL | changes)


def settings(profile):
    return load_settings(ROOT / "params" / profile / f"{study.STEM}.yaml")


# Tasks as data


def test_the_maps_are_derived_as_published():
    task = settings("cifar_small")["task_a"]
    assert [KNOWN_SETS["cifar100"].class_names.index(name) for name in study.union(task)] == [
        0, 47, 51, 52, 53, 54, 56, 57, 59, 62, 70, 82, 83, 92, 96,
    ]  # fmt: skip
    run = next(run for run in study.student_runs(task) if run.teachers)
    assert objectives.class_sets(run, run.classes) == (
        (1, 3, 6, 8, 14), (5, 9, 10, 11, 13), (0, 2, 4, 7, 12),
    )  # fmt: skip


def test_the_published_task_b_by_id_from_a_set_of_ones_own():
    ids = (24, 34, 80, 124, 125, 130, 135, 137, 159, 173, 201, 202)
    teachers = {
        "mammal": [34, 137, 159, 173, 201],
        "african": [24, 34, 80, 135, 202],
        "canidae": [124, 125, 130, 173, 202],
    }
    task = params(data="animals", class_names=[str(one) for one in ids], teachers=teachers)
    assert study.union(task) == tuple(map(str, ids))
    run = next(run for run in study.student_runs(task) if run.teachers)
    assert objectives.class_sets(run, run.classes) == (
        (1, 7, 8, 9, 10), (0, 1, 2, 6, 11), (3, 4, 5, 9, 11),
    )  # fmt: skip


@pytest.mark.parametrize("profile", ["cifar_small", "paper"])
def test_the_twin_has_the_shape_of_task_b(profile):
    sets = [set(known) for known in study.class_sets(settings(profile)["task_b_twin"]).values()]
    assert [len(known) for known in sets] == [5, 5, 5]
    assert len(set.union(*sets)) == 12
    assert all(len(one & other) == 1 for one, other in zip(sets, sets[1:] + sets[:1], strict=True))
    assert not set.intersection(*sets)


def test_names_and_ids_say_the_same():
    by_id = params(data="cifar100", teachers={"trees": [47, 96, 52], "fruit": [0, 57]})
    by_name = params(
        data="cifar100",
        teachers={"trees": ["willow_tree", "oak_tree", "maple_tree"], "fruit": ["pear", "apple"]},
    )
    assert [run.id for run in study.runs(by_id)] == [run.id for run in study.runs(by_name)]


def test_what_is_known_of_the_sets_is_true_of_them(digits):
    check_known(digits)


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(set(KNOWN_SETS) - {"digits", "tiny_imagenet"}))
def test_what_is_known_of_the_real_sets_is_true_of_them(name):
    check_known(data.load(name))


def check_known(record):
    known = KNOWN_SETS[record.name]
    assert known.class_names == record.classes
    assert known.classes == record.num_classes
    assert known.fingerprints == record.fingerprint
    for split in ("train", "test"):
        size = (getattr(known, split), known.side, known.side, known.channels)
        assert getattr(record, f"{split}_images").shape == size


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"alpha": 1.2}, ValueError, "alpha: .*less than or equal to 1, got 1.2"),
        ({"temperature": 0}, ValueError, "temperature: .*greater than 0, got 0"),
        ({"teachers": {"a": [0, 1], "b": [1, 0]}}, ValueError, "'a' and 'b' know the same classes"),
        ({"teachers": {"a": [0, 1], "b": [1, 12]}}, LookupError, "teachers.b: unknown class 12"),
        ({"teachers": {"a": [0, 1], "b": [1, 1]}}, ValueError, "teachers.b: a class stands twice"),
        (
            {"data": "cifar100", "teachers": {"a": ["maple_tre", 1], "b": [1, 0]}},
            LookupError, "teachers.a: unknown class 'maple_tre', did you mean 'maple_tree'",
        ),
        (
            {"teachers": {"a": [0, 1], "b": [1, 2]}, "student_classes": [0, 1, 2, 5]},
            ValueError, "student_classes: no teacher knows 5",
        ),
        (
            {"teachers": {"a": [0, 1], "b": [1, 2]}, "student_classes": [0, 1]},
            ValueError, "student_classes lack 2, which 'b' knows",
        ),
        (
            {"teachers": {"a": [0, 1], "b": {
                "model": "resnet8", "checkpoint": "nowhere.pth", "classes": ["1", "2"]}}},
            OSError, r"teachers.b: no checkpoint .*nowhere.pth",
        ),
        (
            {"options": {"mean": {"of": "consensus", "temperature": 3}}},
            ValueError, "options.mean: temperature: alpha, temperature and the method's name say",
        ),
        (
            {"options": {"consensus": {"rule": "mean", "weight": 1}}},
            ValueError, "options.consensus: rule, weight: alpha, temperature",
        ),
        (
            {"scheduler_step": 5, "schedule": "step", "milestones": [3]},
            ValueError, "scheduler_step and milestones say the same",
        ),
        ({"methods": ["mea"]}, LookupError, "unknown method 'mea', did you mean 'mean'"),
        ({"data": "own"}, ValueError, "class_names: 'own' is not here, so the names of its"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(changes, error, message):
    with pytest.raises(error, match=message):
        study.runs(params(**changes))


def test_untypical_values_are_named_once(caplog):
    notices.warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "kdlib"):
        for _ in range(2):
            study.runs(params(data="cifar100", epochs=100, lr=1e-3, alpha=0.98))
        study.runs(params(alpha=0.98))  # digits: nothing is typical
        study.runs(params(data="cifar100", epochs=100, lr=1e-3, alpha=1.0))
    assert caplog.messages == ["alpha 0.98 lies outside its typical range, 0.1 to 0.7"]


# Runs


def test_alpha_0_is_the_student_without_teachers():
    asked = params(methods=["none", "mean", "restricted_kd"], alpha=0)
    (run,) = study.student_runs(asked)
    assert (run.teachers, run.labels["method"]) == ((), "none")
    assert run.objective == {"label": {"weight": 1.0, "loss": "ce"}}


def test_alpha_weighs_the_two_losses_exactly():
    for alpha, label in ((0.7, 0.3), (0.98, 0.02), (1.0, 0.0)):
        (run,) = study.student_runs(params(methods=["mean"], alpha=alpha))
        assert run.objective["label"]["weight"] == label
        expected = {"weight": alpha, "rule": "mean", "temperature": 4.0}
        assert run.objective["consensus"] == expected


def test_students_may_have_another_size_and_precision_than_their_teachers(digits):
    asked = params(methods=["mean"], students={"network_size": 12, "precision": "bf16"})
    (run,) = study.student_runs(asked)
    (same,) = study.student_runs(params(methods=["mean"]))
    assert (run.image_size, run.network_size, run.precision) == (None, 12, "bf16")
    assert run.teachers == same.teachers  # who are trained once for both
    assert (run.teachers[0].network_size, run.teachers[0].precision) == (None, "fp32")
    networks = [build_network(one, digits) for one in (run, *run.teachers)]
    sizes = [network.preprocess.image_size for network in networks]
    assert sizes == [12, 8, 8, 8]
    with pytest.raises(ValueError, match=r"students\.precision"):
        params(students={"precision": "int8"})


def test_controls_add_runs_and_repeat_none():
    one = params(seeds=[0, 1])
    more = params(
        seeds=[0, 1],
        controls={
            "same": {"methods": ["mean"]},
            "scan": {"methods": ["mean"], "alphas": [0.5, 1], "temperatures": [1, 4], "seeds": [1]},
        },
    )
    extra = [run for run in study.runs(more) if run.id not in {run.id for run in study.runs(one)}]
    cells = [(run.seed, run.labels["alpha"], run.labels["temperature"]) for run in extra]
    assert cells == [(1, 0.5, 1.0), (1, 1.0, 1.0), (1, 1.0, 4.0)]


def test_the_published_recipes():
    recipes = {
        name: (one.student_models[0], one.lr, one.temperature, one.alpha, one.batch_size,
               one.epochs, one.weight_decay, one.recipe().milestones[:2], one.recipe().gamma)
        for name, one in settings("paper").items() if not name.startswith("task")
    }  # fmt: skip
    steps = (30, 60), 0.5
    assert recipes == {
        "fast": ("mobilenet_v3_small", 0.005, 2, 0.3, 32, 50, 5e-4, (30,), 0.5),
        "accurate": ("torchvision_resnet18", 0.001, 4, 0.5, 64, 200, 5e-4, *steps),
        "balanced": ("efficientnet_b0", 0.002, 3, 0.4, 32, 100, 5e-4, *steps),
        "anti_overfit": ("efficientnet_b0", 0.001, 3, 0.6, 32, 100, 1e-3, *steps),
    }
    asked = [set(run.id for run in study.teacher_runs(one) if run.seed == 0)
             for name, one in settings("paper").items() if name != "task_b_twin"]  # fmt: skip
    assert all(ids == asked[0] for ids in asked)  # trained once for all of them


def test_the_teacher_has_its_published_size_and_the_student_is_smaller():
    sizes = {
        name: models.num_parameters(models.build(name, classes, 3, 32))
        for name, classes in (("teacher_overlap", 5), ("resnet8", 15), ("resnet20", 15))
    }
    assert sizes["teacher_overlap"] == 1_404_997
    assert sizes["resnet8"] < sizes["resnet20"] < sizes["teacher_overlap"] / 4


# Losses


def literal_consensus(rule, teachers, sets, classes, labels, temperature):
    """One image and one class at a time."""
    rows = []
    for image in range(len(teachers[0])):
        tempered, confidence = [], []
        for logits in teachers:
            z = [float(value) for value in logits[image]]
            for scale, found in ((temperature, tempered), (1.0, confidence)):
                powers = [math.exp(value / scale) for value in z]
                found.append([power / sum(powers) for power in powers])
        truth = int(labels[image])
        asked = [i for i, known in enumerate(sets)
                 if rule in ("label_free", "confidence_free") or truth in known]  # fmt: skip
        row = [0.0] * classes
        for k in range(classes):
            owners = [i for i in asked if k in sets[i]]
            for i in owners:
                weight = max(confidence[i]) if rule.startswith("confidence") else 1.0
                share = len(asked) if rule in ("mean", "confidence") else len(owners)
                row[k] += weight * tempered[i][sets[i].index(k)] / share
        total = 1.0 if rule == "published" else sum(row)
        rows.append([value / total for value in row])
    return torch.tensor(rows)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    sets = list(SETS.values())
    teachers = [3 * torch.randn(6, len(known), generator=generator) for known in sets]
    labels = torch.tensor([0, 4, 7, 9, 5, 2])
    student = torch.randn(6, 10, generator=generator)
    images = torch.zeros(6, 1, 8, 8)
    views = tuple(View(logits) for logits in teachers)
    return Forward(
        Batch(images, labels, torch.arange(6), Clock(0, 1, 0)), labels, View(student), views
    )


def context(batch):
    sets = tuple(tuple(known) for known in SETS.values())
    labels, counts = batch.targets, torch.ones(10, dtype=torch.int64)
    return objectives.Context(batch.student, batch.teachers, labels, counts, 0, sets)


def make(method, batch, **changes):
    """The terms of a run's objective, as training builds them."""
    (run,) = study.student_runs(params(methods=[method], **changes))
    return objectives.build(run, context(batch))


def test_the_study_has_every_rule_of_the_losses():
    assert set(study.RULES) == {*RULES, "published"}


@pytest.mark.parametrize("rule", study.RULES)
def test_a_rule_is_its_literal_version(rule, batch):
    teachers, labels = [view.logits for view in batch.teachers], batch.targets
    sets = list(SETS.values())
    q = literal_consensus(rule, teachers, sets, 10, labels, 4.0)
    found = objectives.consensus(rule, teachers, sets, 10, labels, 4.0)
    assert torch.allclose(found, q, atol=1e-6)
    sums = q.sum(1)
    shared = torch.tensor([True, True, True, False, False, False])
    assert torch.allclose(sums[~shared], torch.ones(3))
    assert ((sums[shared] > 1.01) == (rule == "published")).all()
    # T^2 KL(q || student), and its weight.
    log_p = (batch.student.logits / 4).log_softmax(1)
    terms = q * (q.clamp(min=1e-30).log() - log_p)
    loss = make(rule, batch, alpha=0.7)["consensus"](batch)
    assert loss.item() == pytest.approx(0.7 * 16 * terms.sum(1).mean().item(), rel=1e-4)


@pytest.mark.parametrize("rule", ["mean", "published"])
def test_a_label_that_no_teacher_knows_is_refused_before_training(rule, batch):
    (run,) = study.student_runs(params(methods=[rule]))
    whole = context(batch)
    few = dataclasses.replace(whole, class_sets=whole.class_sets[:1] * len(whole.class_sets))
    with pytest.raises(
        ValueError, match=r"labels must be classes in 0\.\.9 that a teacher owns, got"
    ):
        objectives.build(run, few)


def test_restricted_kd_is_its_literal_version(batch):
    total = 0.0
    for known, view in zip(SETS.values(), batch.teachers, strict=True):
        for image in range(6):
            own = batch.student.logits[image, list(known)] / 2
            q = (view.logits[image] / 2).softmax(0)
            total += (q * (q.log() - own.log_softmax(0))).sum().item() / 18
    loss = make("restricted_kd", batch, alpha=1.0, temperature=2.0)["restricted_kd"](batch)
    assert loss.item() == pytest.approx(4 * total, rel=1e-4)


def test_alpha_1_is_the_teachers_alone(batch):
    terms = make("restricted_kd", batch, alpha=1.0)
    assert terms["label"](batch) == 0
    teachers = [view.logits for view in batch.teachers]
    alone = losses.restricted_kd(batch.student.logits, teachers, list(SETS.values()), 4.0)
    assert sum(term(batch) for term in terms.values()) == alone
    relabelled = Forward(batch.batch, batch.targets.flip(0), batch.student, batch.teachers)
    assert sum(term(relabelled) for term in terms.values()) == alone  # no label is read


def test_disjoint_teachers_make_all_labelled_rules_one(batch):
    sets = [(0, 1, 2, 3, 4), (5, 6, 7), (8, 9)]
    teachers = [torch.randn(6, len(known)) for known in sets]
    found = [objectives.consensus(rule, teachers, sets, 10, batch.targets, 2.0)
             for rule in ("mean", "per_class", "confidence", "published")]  # fmt: skip
    assert all(torch.allclose(found[0], other, atol=1e-6) for other in found)
    naive = objectives.consensus("label_free", teachers, sets, 10, batch.targets, 2.0)
    assert naive.max() <= 1 / 3 + 1e-6


def test_under_mixup_a_labelled_rule_is_mixed_as_the_labels_are(batch):
    term = make("mean", batch, alpha=1.0)["consensus"]
    mix = Mix(torch.tensor([1, 0, 3, 2, 5, 4]), torch.tensor(0.75))
    mixed = Batch(batch.batch.images, batch.targets, torch.arange(6), Clock(0, 1, 0), mix)
    found = term(Forward(mixed, batch.targets, batch.student, batch.teachers))
    teachers, sets = [view.logits for view in batch.teachers], list(SETS.values())
    parts = [losses.consensus_targets(teachers, sets, 10, labels, 4.0)
             for labels in (batch.targets, batch.targets[mix.permutation])]  # fmt: skip
    q = 0.75 * parts[0] + 0.25 * parts[1]
    assert torch.equal(found, losses.kd_probs(batch.student.logits, q, 4.0))


def test_a_term_for_whole_teachers_refuses_a_partial_one(batch):
    (run,) = study.student_runs(params(methods=["mean"]))
    kd = grid.objective(params(), "ce", "kd")
    run = run.model_copy(update={"objective": kd, "teachers": run.teachers[:1]})
    lab = Lab.of(params())
    with pytest.raises(ValueError, match=r"kd takes teachers of the student's 10 classes"):
        lab.check([run])


# Training


def test_each_teacher_sees_its_own_statistics(digits):
    lab, asked = Lab.of(params()), params()
    for run in study.teacher_runs(asked):
        network = build_network(run, lab.record(run))
        pixels = lab.record(run).train_images / 255
        assert network.preprocess.mean.item() == pytest.approx(pixels.mean(), rel=1e-5)
        assert network.preprocess.mean.item() != pytest.approx(digits.mean[0], rel=1e-4)
        assert set(lab.record(run).classes) == set(run.classes)


def test_no_teacher_is_trained_on_what_the_student_validates_on():
    lab = Lab.of(params())
    student = study.student_runs(params())[0]
    record, chosen = lab.record(student), lab.selection(student)
    held_out = {record.train_images[row].tobytes() for row in chosen.val_indices}
    assert len(held_out) == len(chosen.val_indices) > 90
    for run in study.teacher_runs(params()):
        theirs, own = lab.record(run), lab.selection(run)
        trained = {theirs.train_images[row].tobytes() for row in own.train_indices}
        assert trained
        assert not trained & held_out


def test_the_cached_teachers_are_the_live_ones(digits):
    """The logits of a partial teacher on the student's images, and no label of its own."""
    asked = params(methods=["restricted_kd"])
    (run,) = study.student_runs(asked)
    lab = Lab.of(asked)
    record, chosen = lab.record(run), lab.selection(run)
    teachers = [build_network(one, lab.record(one)) for one in run.teachers]
    cohort = loop.Cohort([run], record, chosen, teachers, "cpu")
    assert cohort.students[0].views == "cached"
    batch = next(cohort.stream.epoch(0, 1))
    assert isinstance(cohort.stream, Stream)
    for cached, live in zip(cohort.cached(batch), FrozenTeachers(teachers)(batch), strict=True):
        assert torch.allclose(cached.logits, live.logits, atol=1e-4)
    assert [view.logits.shape[1] for view in cohort.cached(batch)] == [5, 4, 4]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overlap")
    scan = {"methods": ["restricted_kd"], "alphas": [0.5, 1], "temperatures": [1, 4]}
    asked = params(methods=["none", "mean", "restricted_kd"], controls={"scan": scan})
    lab = Lab.of(asked, folder)
    return asked, lab, lab.complete(study.runs(asked))


def test_ensembles_are_what_the_teachers_say(finished):
    asked, lab, rows = finished
    runs = [run for run in study.runs(asked) if run.labels["role"] == "ensemble"]
    record = lab.record(runs[0])
    images = torch.from_numpy(record.test_images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        teachers = [lab.network(teacher)(images).logits for teacher in runs[0].teachers]
    labels = torch.from_numpy(record.test_labels)
    by_id = {row["id"]: row for row in rows}
    for run, rule in zip(runs, ("mean", "label_free", "confidence_free"), strict=True):
        q = literal_consensus(rule, teachers, list(SETS.values()), 10, labels, 1.0)
        row = by_id[run.id]
        right = (q.argmax(1) == labels).float().mean().item()
        assert row["metrics"]["test"]["acc"] == pytest.approx(right, abs=2 / len(labels))
        nll = -q.clamp(min=1e-43)[torch.arange(len(labels)), labels].log().mean().item()
        assert row["metrics"]["test"]["nll"] == pytest.approx(nll, rel=2e-3)
        assert (row["network"], row["history"]) == (None, [])
    confusion = np.array(by_id[runs[0].id]["confusion"])
    for i, j in np.argwhere(confusion):  # whoever is routed by the label never leaves its teachers
        assert any(i in known and j in known for known in SETS.values())


def test_a_row_of_some_classes_says_which_and_its_confusions(finished):
    asked, lab, rows = finished
    run, row = study.runs(asked)[0], rows[0]
    assert row["classes"] == ["0", "1", "2", "3", "4"] == row["run"]["classes"]
    confusion = np.array(row["confusion"])
    assert confusion.sum(1).tolist() == row["data"]["test_counts"]
    right = confusion.trace() / confusion.sum()
    assert right == pytest.approx(row["metrics"]["test"]["acc"])
    whole = data.load("digits")
    assert row["data"]["fingerprint"] == whole.fingerprint
    assert row["data"]["class_counts"] == list(lab.selection(run).class_counts)


def test_an_ensemble_is_measured_again_without_training(finished, monkeypatch):
    asked, lab, rows = finished
    run = next(run for run in study.runs(asked) if run.labels["role"] == "ensemble")
    before = next(row for row in rows if row["id"] == run.id)
    assert lab.evaluate(run)["metrics"] == before["metrics"]
    path = lab.store.path(run.teachers[0], "checkpoints")
    content = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(train, "fit", None)  # it is not trained for this
    assert Lab.of(asked, lab.store.root).evaluate(run) is None
    path.write_bytes(content)


def test_the_pipeline_names_a_class_the_set_lacks(finished):
    asked, lab, _ = finished
    run = study.teacher_runs(asked)[0].model_copy(update={"classes": ("0", "eleven")})
    with pytest.raises(LookupError, match="'digits' has no class 'eleven'"):
        lab.check([run])


@pytest.fixture
def published_files(tmp_path):
    """Task B's files as they were published, of noise: a train and a val file for each teacher,
    whose shared classes stand in both of their owners' files."""
    (task,) = settings("animals").values()
    draw = np.random.default_rng(0)
    (tmp_path / "animals").mkdir()
    for split, size in (("train", 20), ("val", 4)):
        images = {
            name: draw.integers(0, 256, (size, 64, 64, 3), dtype=np.uint8)
            for name in task.class_names
        }
        for teacher, known in task.teachers.items():
            content = {
                "data": np.concatenate([images[str(name)] for name in known]).astype(np.float32),
                "labels": np.repeat(np.array(known), size),
                "indices": np.arange(size * len(known)),
            }
            torch.save(content, tmp_path / "animals" / f"{teacher}_{split}.pth")
    return tmp_path


def test_the_published_task_b_runs_from_its_files(published_files, tmp_path):
    (task,) = settings("animals").values()
    small = {
        "teacher_model": "resnet8_half", "student_models": ("resnet8_half",), "epochs": 1,
        "seeds": (0,), "methods": ("mean",), "controls": {}, "teacher_recipe": {"epochs": 1},
        "data_dir": str(published_files), "image_size": 8, "batch_size": 8,
    }  # fmt: skip
    task = study.OverlappingTeachers.of(**task.model_dump() | small)
    told = task.model_copy(update={"class_names": None})  # the set has them, too
    assert [run.id for run in study.runs(told)] == [run.id for run in study.runs(task)]
    rows = Lab.of(task, tmp_path / "out").complete(study.runs(task))
    found = report.Overlap.of(rows, task)
    assert list(found.teachers["teacher"]) == ["mammals", "african_animals", "canidae"]
    student = rows[-1]
    assert student["classes"] == list(task.class_names)
    assert student["data"]["test_counts"] == [4] * 12  # a shared class counts once
    assert np.sum(student["confusion"]) == 48
    assert found.owners("34") == ["mammals", "african_animals"]


# Tables and figures


def test_the_tables_agree_with_the_rows(finished):
    asked, _, rows = finished
    found = report.Overlap.of(rows, asked)
    by_cell = found.cells.set_index("cell")
    plain = by_cell.loc["resnet8_half no KD"]
    for row in rows:
        if row["labels"]["role"] != "student":
            continue
        line = by_cell.loc[report.cell_label(row["labels"])]
        assert line["acc"] == row["metrics"]["test"]["acc"]
        assert line["inside"] + line["between"] + line["acc"] == pytest.approx(1)
        if row["labels"]["method"] != "none":
            assert line["acc_effect"] == pytest.approx(line["acc"] - plain["acc"])
    assert math.isnan(plain["acc_effect"])
    network = models.build("resnet8_half", 10, 1, 8)
    assert plain["parameters"] == models.num_parameters(network)
    assert plain["MFLOP"] == pytest.approx(models.flops(network, (1, 8, 8)) / 1e6)
    oracle = by_cell.loc["teachers, oracle"]
    assert oracle["between"] == 0
    assert oracle["parameters"] == found.teachers["parameters"].sum()
    lacking = [row for row in rows if row["labels"].get("teacher") != "low"]
    of_two = report.Overlap.of(lacking, asked).cells.set_index("cell").loc["teachers, oracle"]
    assert math.isnan(of_two["parameters"])  # not the size of two of its three teachers
    group = found.groups[found.groups["cell"] == "resnet8_half no KD"].set_index("images of")
    (row,) = (row for row in rows if row["labels"].get("method") == "none")
    confusion = np.array(row["confusion"])
    for teacher, known in SETS.items():
        part = confusion[list(known)]
        right = sum(confusion[label, label] for label in known)
        assert group.loc[teacher, "acc"] == pytest.approx(right / part.sum())
    assert set(found.scan["alpha"]) == {0.5, 1.0}
    assert len(found.scan) == 4


def of_five_seeds(finished, shift):
    """What the rows would say at five seeds, whose students with teachers are more accurate than
    those of labels alone by `shift`, give or take 0.01."""
    asked, _, rows = finished
    asked = asked.model_copy(update={"seeds": tuple(range(5))})
    (plain,) = (row for row in rows if row["labels"].get("method") == "none")
    found = []
    for seed in range(5):
        for row in copy.deepcopy(rows):
            row["run"]["seed"] = seed
            if "alpha" in row["labels"]:
                accuracy = plain["metrics"]["test"]["acc"] + shift + 0.01 * (seed - 2) / 2
                row["metrics"]["test"]["acc"] = accuracy
            found.append(row)
    base = report.Overlap.of(rows, asked)
    return dataclasses.replace(base, rows=found)


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (0.03, "more accurate than the same student of labels alone (+3.00 ± 0.98 points, "),
        (-0.03, "less accurate than the same student of labels alone (-3.00 ± 0.98 points, "),
        (0.004, "not clearly apart in accuracy from the same student of labels alone (+0.40 ± "),
        (0.0, "not clearly apart in accuracy from the same student of labels alone (+0.00 ± "),
    ],
)
def test_the_answer_is_right_whatever_the_sign(finished, shift, words):
    found = of_five_seeds(finished, shift)
    texts = overlapping_text.answer(found)
    for start in (
        "resnet8_half mean, alpha 0.5, T 4 is ",
        "resnet8_half restricted_kd, alpha 0.5, T 4 is ",
        "Without a label in training, resnet8_half restricted_kd, alpha 1, T 4 is ",
    ):
        (text,) = (text for text in texts if text.startswith(start))
        assert words in text
        assert text.count("n = 5") == 3  # against labels alone and two ensembles
    assert texts[-1] == "5 seeds, mean ± half of the 95 % t interval."
    assert any("validation has" in text and "No student is called best" in text for text in texts)
    for row in found.rows:
        row["data"]["val_counts"] = [60] * 10
    (choice,) = (text for text in overlapping_text.answer(found) if "validation prefers" in text)
    assert "rank 1 of 5" in choice


def test_one_seed_has_no_interval(finished):
    asked, _, rows = finished
    texts = overlapping_text.answer(report.Overlap.of(rows, asked))
    assert texts[-1] == "1 seed, no interval, descriptive."
    assert not any("±" in text for text in texts)
    assert any("in one seed " in text for text in texts)


def test_effects_are_paired_inside_each_seed(finished):
    """Against the teachers: told whom to ask, and not told."""
    found = of_five_seeds(finished, 0.03)
    (oracle,) = (row for row in finished[2] if row["labels"].get("method") == "oracle")
    cell = "resnet8_half mean, alpha 0.5, T 4"
    lines = found.effects[found.effects["cell"] == cell].set_index("against")
    assert list(lines.index) == ["no KD", "teachers, oracle", "teachers, label_free"]
    (plain,) = (row for row in finished[2] if row["labels"].get("method") == "none")
    gap = plain["metrics"]["test"]["acc"] + 0.03 - oracle["metrics"]["test"]["acc"]
    assert lines.loc["teachers, oracle", "acc_effect"] == pytest.approx(gap)
    # The half-width of the differences, not of the accuracies of either side.
    half = 2.776445 * np.std([-0.01, -0.005, 0, 0.005, 0.01], ddof=1) / math.sqrt(5)
    assert lines.loc["no KD", "acc_effect_ci95"] == pytest.approx(half, rel=1e-5)


def test_confusion_between_groups_is_counted_from_the_images(finished):
    asked, _, rows = finished
    found = report.Overlap.of(rows, asked)
    row = next(row for row in rows if row["labels"].get("method") == "oracle")
    table = found.owner_confusion
    part = table[table["cell"] == "teachers, oracle"].set_index("images of")
    assert list(part.index) == ["low", "middle", "high", "low + middle", "low + high",
                                "middle + high"]  # fmt: skip
    assert np.allclose(part.drop(columns="cell").sum(axis=1), 1)
    counts = np.array(row["confusion"])
    low, both = [1, 2, 3], [4]
    assert part.loc["low", "low + middle"] == pytest.approx(
        counts[np.ix_(low, both)].sum() / counts[low].sum()
    )
    assert part.loc["low", "middle"] == 0  # who is told whom to ask stays with him


def test_a_heatmap_compares_the_same_seeds(finished):
    """One cell of the grid has a seed more, of another validation split: it does not count."""
    asked, _, rows = finished
    extra = copy.deepcopy(next(row for row in rows if row["labels"].get("alpha") == 1))
    extra["run"]["seed"], extra["metrics"]["val"]["acc"] = 1, 0.0
    before = report.Overlap.of(rows, asked)
    found = dataclasses.replace(before, rows=[*before.rows, extra])
    assert found.scan.equals(before.scan)
    assert set(found.scan["seeds"]) == {1}


def test_without_validation_images_there_is_no_heatmap(finished, tmp_path, monkeypatch):
    asked, _, rows = finished
    blind = copy.deepcopy(rows)
    for row in blind:
        row["metrics"].pop("val", None)
    monkeypatch.setattr(plots, "save", lambda figure, folder, name: None)
    assert report.Overlap.of(blind, asked).scan.empty
    seeing, unseeing = (
        report.write(one, asked, tmp_path).read_text(encoding="utf-8") for one in (rows, blind)
    )
    assert "alpha_temperature" in seeing
    assert "alpha_temperature" not in unseeing


def test_the_published_best_is_outlined(finished):
    asked, _, rows = finished
    scan = report.Overlap.of(rows, asked).scan
    for claimed, number in (((0.5, 4.0), 1), ((0.98, 4.0), 0)):
        axes = figures.heatmap(scan, "title", claimed).axes[0]
        outlines = [patch for patch in axes.patches if not patch.get_fill()]
        assert len(outlines) == number
    outlined = figures.heatmap(scan, "title", (0.5, 4.0)).axes[0].patches[-1].get_xy()
    assert outlined == (1, 0)  # the second temperature, the first alpha


def test_the_report_is_written_from_rows(finished, tmp_path, monkeypatch):
    asked, lab, rows = finished
    monkeypatch.setattr(plots, "save", lambda figure, folder, name: None)
    page = report.write(rows, asked, lab.store.root)
    text = page.read_text(encoding="utf-8")
    assert "restricted_kd" in text
    assert "it decides no claim about CIFAR" in text
    tables = report.deterministic_tables(rows, asked, lab.store.root)
    for name, table in tables.items():
        assert (lab.store.root / study.STEM / f"{name}.csv").exists() == bool(len(table))
    # Elsewhere, without predictions: the page says what is missing, the tables are the same.
    page = report.write(rows[:-1], asked, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "No sample images: the predictions of" in text
    assert "Incomplete, missing runs: 1." in text
    assert rows[-1]["id"] in (tmp_path / study.STEM / "missing.csv").read_text()
    with pytest.raises(ValueError, match="none of the 0 is a run"):
        report.Overlap.of([], asked)


def test_the_samples_are_the_images_that_were_predicted(finished):
    asked, lab, rows = finished
    row = rows[-1]
    shown = report.samples(row, asked, lab)
    assert [one["true"] for one in shown] == sorted(one["true"] for one in shown)
    run = next(run for run in study.runs(asked) if run.id == row["id"])
    network = lab.network(run)
    for one in shown:
        image = torch.from_numpy(one["image"]).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            assert run.classes[network(image).logits.argmax()] == one["predicted"]
        owners = [name for name, known in SETS.items() if int(one["true"]) in known]
        assert one["teachers"] == ", ".join(owners)
    figure = figures.samples(shown, "title")
    first = figure.axes[0]
    assert np.array_equal(first.images[0].get_array(), shown[0]["image"][..., 0])
    assert shown[0]["true"] in first.get_title()
    assert report.samples(row, asked, lab)[0]["predicted"] == shown[0]["predicted"]


def test_the_confusion_matrix_is_grouped_by_owners():
    counts = np.diag([10] * 10)
    counts[1] = [0, 6, 0, 0, 4, 0, 0, 0, 0, 0]  # 4 in 10 of class 1 taken for class 4
    (axes,) = figures.confusion(
        counts, list("0123456789"), study.class_sets(params()), "title"
    ).axes
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["1", "2", "3", "5", "6", "8", "9", "4", "0", "7"]
    assert rows == [label.get_text() for label in axes.get_xticklabels()]
    drawn = {text.get_position(): text.get_text() for text in axes.texts}
    place = {name: at + 0.5 for at, name in enumerate(rows)}
    assert drawn[place["1"], place["1"]] == "60"
    assert drawn[place["4"], place["1"]] == "40"
    assert drawn[place["1"], place["4"]] == ""
    assert drawn[10.2, 7.5] == "low\n+ middle"  # beside class 4


def test_the_curves_say_where_seeds_are_fewer():
    lines = [("a", 0), ("a", 1), ("b", 0)]
    table = pd.DataFrame([
        {"cell": cell, "seed": seed, "epoch": epoch, "loss": 1.0 + seed, "val_acc": 0.5}
        for cell, seed in lines for epoch in (1, 2)
    ])  # fmt: skip
    figure = figures.learning_curves(table, "title")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["a", "b (1 of 2 seeds)"]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [1.5, 1.5]


def test_the_responsibility_matrix_is_the_task():
    asked = settings("cifar_small")["task_b_twin"]
    sets, classes = study.class_sets(asked), study.union(asked)
    (axes,) = figures.responsibility(sets, classes).axes
    drawn = np.asarray(axes.images[0].get_array())
    for row, known in enumerate(sets.values()):
        assert [classes[at] for at in np.flatnonzero(drawn[row])] == list(known)


def test_published_numbers_stand_beside_the_same_classes():
    task = settings("cifar_small")["task_a"]
    sets = study.class_sets(task)
    found = [100 * report.published("teacher", known) for known in sets.values()]
    assert found == pytest.approx([73.6, 80.6, 87.8])
    assert report.published("student", study.union(task)) == pytest.approx(0.8127)
    assert report.published("class", ["sunflower"]) == 0.96
    twin = settings("cifar_small")["task_b_twin"]
    assert math.isnan(report.published("student", study.union(twin)))
