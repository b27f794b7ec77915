"""The multi-teacher study: its terms against literal formulas, its runs, rows, tables, figures."""

import itertools
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax, softmax

import kdlib
from kdlib import data, grid, metrics, models, objectives, seeding, train, verify
from kdlib.augment import Stream
from kdlib.objectives import multi_teacher as terms
from kdlib.plan import plan
from kdlib.plots import multi_teacher as plots
from kdlib.report import multi_teacher as report
from kdlib.report import multi_teacher_tables
from kdlib.report import pairs as pairing
from kdlib.store import read_tensors
from kdlib.studies import multi_teacher as study
from kdlib.studies import published_claims
from kdlib.teachers import FrozenTeachers
from kdlib.train import loop, timing
from kdlib.types import Batch, Clock, Forward

TEACHERS = ["teacher_resnet", "student", "micro_student"]  # of three widths
SMALL = {
    "teacher_models": TEACHERS, "student_models": ["tiny_student"], "batch_size": 32, "epochs": 2,
    "teacher_recipe": {"epochs": 2},
}  # fmt: skip
FIVE = ["teacher_cnn1", "teacher_cnn2", "teacher_resnet", "teacher_vgg", "teacher_densenet"]
METHODS = [*study.OPTIONS, *study.SUMS]


def params(**changes):
    return study.MultiTeacher.of(**SMALL | changes)


def student_run(method, **changes):
    (run,) = study.student_runs(params(methods=[method], **changes))
    return run


@pytest.fixture(scope="module")
def setting():
    """A batch of digits and three untrained teachers."""
    record = data.load("digits")
    selection = data.select(record, None, None, 0)
    run = student_run("centroid")
    networks = [train.build_network(teacher, record) for teacher in run.teachers]
    images = torch.from_numpy(record.train_images[selection.train_indices])
    labels = torch.from_numpy(record.train_labels[selection.train_indices])
    batch = next(Stream(images, labels, 10, 32, 0, run.augment).epoch(0, 1))
    shared = FrozenTeachers(networks)
    return record, selection, batch, shared, shared(batch)


def student_of(run, setting, validation=None):
    record, selection, _, shared, _ = setting
    labels = torch.from_numpy(record.train_labels[selection.train_indices])
    counts = torch.as_tensor(selection.class_counts)
    (student,) = loop._students([run], record, labels, counts, shared, "cpu", validation)
    return student


def losses_of(run, setting):
    """The parts of a student's loss on the batch, and its view."""
    student = student_of(run, setting, validation=lambda: VALIDATION)
    _, _, batch, _, views = setting
    student.loss(batch, views, torch.autocast("cpu", enabled=False))
    return student, {name: value.item() for name, value in student.losses.items()}


VALIDATION = (
    torch.randn(3, 40, 10, generator=torch.Generator().manual_seed(5)),
    torch.arange(40) % 10,
)


def teacher_losses(setting):
    """(M, B) cross-entropies of the teachers."""
    _, _, batch, _, views = setting
    return np.stack([
        -log_softmax(view.logits.numpy(), axis=1)[range(32), batch.targets] for view in views
    ])  # fmt: skip


def literal_weights(name, setting):
    """(M, B), one rule at a time."""
    losses = teacher_losses(setting)
    order = list(np.argsort(losses.mean(1)))
    ones = np.ones((3, 32))
    if name == "mean":
        return ones / 3
    if name in ("best", "median"):
        chosen = order[0 if name == "best" else 1]
        return ones * (np.arange(3) == chosen)[:, None]
    if name == "sample_confidence":
        return (1 - softmax(losses, axis=0)) / 2
    if name == "val_confidence":
        logits, labels = VALIDATION
        losses = np.stack([
            -log_softmax(one.numpy(), axis=1)[range(40), labels] for one in logits
        ])  # fmt: skip
    return ones * ((1 - softmax(losses.mean(1))) / 2)[:, None]


@pytest.mark.parametrize("weighting", [*terms.WEIGHTINGS, "val_confidence"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_every_weighting_equals_its_formula(weighting, reduction, setting):
    options = {"own": {"of": "multi_kd", "weighting": weighting, "reduction": reduction}}
    student, found = losses_of(student_run("own", options=options), setting)
    weights = literal_weights(weighting, setting)
    noted = student.terms["multi_kd"].loss.note()["teacher_weights"]
    assert noted == pytest.approx(weights.mean(1), rel=1e-5)
    *_, batch, _, views = setting
    mean = sum(w[:, None] * view.logits.numpy() for w, view in zip(weights, views, strict=True))
    pooled = torch.from_numpy(mean).float()
    own = _view(student, batch).logits
    divergence = F.kl_div((own / 4).log_softmax(1), (pooled / 4).softmax(1), reduction="batchmean")
    share = 1 / 3 if reduction == "mean" else 1
    assert found["multi_kd"] == pytest.approx(0.7 * share * 16 * divergence.item(), rel=1e-4)


def _view(student, batch):
    """The student's view of the batch with the dropout of the loss."""
    seeding.seed_global(0, "dropout", batch.clock.epoch, batch.clock.step)
    with torch.no_grad():
        return student.network(batch.images)


def test_camkd_is_what_the_study_wrote(setting):
    """CE + alpha KL(logit mean) + beta / M sum of w_i MSE(R_i(f), f_i)."""
    student, found = losses_of(student_run("camkd", options={"camkd_hints": {"stage": "stage1"}}),
                               setting)  # fmt: skip
    *_, batch, _, views = setting
    own = _view(student, batch)
    weights = literal_weights("batch_confidence", setting)[:, 0]
    total = 0.0
    for w, view, regressor in zip(
        weights, views, student.terms["hints"].loss.regressors, strict=True
    ):
        ours = own.features["stage1"]
        width, size = view.features["stage1"].shape[1], view.features["stage1"].shape[2:]
        convs = [layer for layer in regressor if isinstance(layer, torch.nn.Conv2d)]
        assert len(convs) == (width != ours.shape[1])
        mapped = F.conv2d(ours, convs[0].weight, convs[0].bias) if convs else ours
        mapped = F.adaptive_avg_pool2d(mapped, size)
        total += w * F.mse_loss(mapped, view.features["stage1"]).item()
    assert found["hints"] == pytest.approx(100 * total / 3, rel=1e-4)
    assert student.trained.weights == {"label": 1.0, "multi_kd": 0.7, "hints": 100.0}
    assert found["label"] == pytest.approx(F.cross_entropy(own.logits, batch.targets).item(), 1e-4)


def test_camkd_pooled_is_camkd_with_maps_at_most_as_large_as_the_students(setting):
    """Larger maps are pooled; a smaller one stays, and the student's is pooled to it."""
    run = student_run("camkd_pooled", student_models=["student"], hint_stage="stage1")
    student, found = losses_of(run, setting)
    *_, batch, _, views = setting
    ours = _view(student, batch).features["stage1"]
    weights = literal_weights("batch_confidence", setting)[:, 0]
    regressors, total = student.terms["pooled_hints"].loss.regressors, 0.0
    for w, view, regressor in zip(weights, views, regressors, strict=True):
        theirs = F.adaptive_avg_pool2d(view.features["stage1"], (4, 4))
        total += w * F.mse_loss(regressor(ours), theirs).item()
    assert [view.features["stage1"].shape[2] for view in views] == [8, 4, 4]
    assert found["pooled_hints"] == pytest.approx(100 * total / 3, rel=1e-4)
    assert student.trained.weights == {"label": 1.0, "multi_kd": 0.7, "pooled_hints": 100.0}
    small = terms.PooledMap("stage1", (8, 6))(views[2])
    assert small is views[2].features["stage1"]
    assert terms.PooledMap("last", (2, 6))(views[2]).shape[2:] == (2, 4)


def test_ca_mkd_is_what_the_paper_wrote(setting):
    """Per-sample weights: from the teachers' losses on logits, on features from the loss of each
    teacher's classifier on the regressed embedding; that one has a gradient, and starts late."""
    run = student_run("ca_mkd", options={"ca_mkd_hints": {"first_epoch": 1}})
    student, found = losses_of(run, setting)
    *_, batch, _, views = setting
    own = _view(student, batch)
    confident = literal_weights("sample_confidence", setting)
    kd = mse = 0.0
    mapped = [
        regressor(own.embedding[:, :, None, None]).flatten(1)
        for regressor in student.terms["hints"].loss.regressors
    ]
    heads = np.stack([
        -log_softmax(view.classify(one).detach().numpy(), axis=1)[range(32), batch.targets]
        for view, one in zip(views, mapped, strict=True)
    ])  # fmt: skip
    weights = (1 - softmax(heads, axis=0)) / 2
    for b in range(32):
        for i, view in enumerate(views):
            p = softmax(view.logits[b].numpy() / 4)
            q = softmax(own.logits[b].numpy() / 4)
            kd += confident[i, b] * 16 * np.sum(p * np.log(p / q)) / (32 * 3)
            gap = (mapped[i][b] - view.embedding[b]).detach().numpy()
            mse += weights[i, b] * np.mean(gap**2) / (32 * 3)
    assert found["multi_kd"] == pytest.approx(kd, rel=1e-4)
    assert found["hints"] == pytest.approx(50 * mse, rel=1e-4)
    late = student_of(student_run("ca_mkd"), setting)
    late.loss(batch, views, torch.autocast("cpu", enabled=False))
    assert late.losses["hints"].item() == 0
    with torch.no_grad():
        own = late.network(batch.images)
    second = Batch(batch.images, batch.targets, batch.rows, Clock(1, 2, 0))
    late.tick(second.clock)
    assert late.terms["hints"](Forward(second, batch.targets, own, views)) > 0


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_a_step_that_moves_student_and_regressors(method, setting):
    student = student_of(student_run(method), setting, lambda: VALIDATION)
    _, _, batch, _, views = setting
    later = Batch(batch.images, batch.targets, batch.rows, Clock(1, 2, 0))
    student.loss(later, views, torch.autocast("cpu", enabled=False)).backward()
    own = list(student.trained.network.parameters())
    assert all(weight.grad is not None for weight in own)
    assert all(weight.grad is not None for weight in student.terms.parameters())
    assert not any(view.logits.requires_grad for view in views)


def test_regressors_have_the_published_sizes():
    own = objectives.dry_view("student", 10, 1, 28)
    views = tuple(objectives.dry_view(name, 10, 1, 28) for name in FIVE)
    context = objectives.Context(own, views, torch.zeros(1), torch.ones(10), 0)
    found = terms.hints(context, stage="stage2")
    counts = [sum(w.numel() for w in one.parameters()) for one in found.regressors]
    # DenseNet's second stage has 144 channels; published code took the 96 before it by position.
    assert counts == [2112, 4224, 2112, 2112, 33 * 144]
    shapes = [tuple(terms.tap(view, "last").shape[1:]) for view in views[:3]]
    assert shapes == [(128, 1, 1), (256, 3, 3), (128, 7, 7)]  # of the published 2-method script
    assert tuple(terms.tap(own, "last").shape[1:]) == (32, 7, 7)


def test_what_cannot_be_is_refused_by_name(setting):
    record, selection, *_ = setting
    labels = torch.from_numpy(record.train_labels[selection.train_indices])
    counts = torch.as_tensor(selection.class_counts)

    def check(method, **changes):
        objectives.check(student_run(method, **changes), record, labels, counts)

    for method in METHODS:
        check(method)
    with pytest.raises(ValueError, match=r"hints.stage: no stage 'stage9', the network has stage1"):
        check("camkd", hint_stage="stage9")
    with pytest.raises(ValueError, match=r"'feature_confidence' reads .*'embedding', got 'last'"):
        check("ca_mkd", options={"ca_mkd_hints": {"stage": "last"}})
    with pytest.raises(ValueError, match=r"pooled_hints.stage: 'embedding' is no map"):
        check("camkd_pooled", hint_stage="embedding")
    with pytest.raises(LookupError, match="unknown KD method 'centroit'"):
        student_run("centroit")
    with pytest.raises(ValueError, match=r"multi_kd.weighting: .*'fair'"):
        student_run("own", options={"own": {"of": "multi_kd", "weighting": "fair"}})
    empty = (torch.zeros(3, 0, 10), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="'val_confidence' needs validation images"):
        student_of(student_run("val_confident"), setting, lambda: empty)


def test_alpha_and_beta_of_nothing_leave_their_terms_out():
    assert list(student_run("camkd", alpha=0).objective) == ["label", "hints"]
    assert student_run("camkd", beta=0).objective == student_run("centroid").objective
    assert student_run("camkd", alpha=0).objective == student_run("camkd_hints").objective
    sweep = study.student_runs(params(methods=["centroid"], lambdas=[0, 0.5]))
    assert [list(run.objective) for run in sweep] == [["label"], ["label", "multi_kd"]]
    assert sweep[1].objective["multi_kd"]["weight"] == 0.5
    assert {run.stream for run in sweep} == {student_run("none").stream}
    own = student_run("own", options={"own": {"of": "multi_kd", "weight": 1}}, kd_temperature=2)
    assert own.objective["multi_kd"]["weight"] == 1
    assert own.objective["multi_kd"]["temperature"] == 2
    options = {"multi_kd": {"temperature": 3}, "hints": {"weight": 7}}
    both = student_run("camkd", options=options).objective  # of the terms, so of all their methods
    assert (both["multi_kd"]["temperature"], both["hints"]["weight"]) == (3, 7)
    above = student_run("ca_mkd", options=options).objective  # whose own weight is the paper's
    assert (above["multi_kd"]["temperature"], above["hints"]["weight"]) == (3, 50)


def test_settings_share_their_teachers():
    whole = plan("fashion")
    own = [part for part in whole.parts if part.stem == study.STEM]
    by_setting = {part.params.setting: part.runs for part in own}
    taught = {
        name: {teacher.id for run in runs for teacher in run.teachers if run.seed == 0}
        for name, runs in by_setting.items()
    }
    assert taught["three_teachers"] < taught["five_teachers"] == taught["lambda_sweep"]
    assert taught["small_students"] == taught["three_teachers"]
    assert {len(ids) for ids in taught.values()} == {3, 5}
    jobs = [job for job in whole.jobs if job.notebook == study.STEM]
    jobs = {job.name.removeprefix(f"{study.STEM}/"): job for job in jobs}
    assert len(jobs["five_teachers/teacher-seed0"].runs) == 2  # the other three are there
    sweep = jobs["lambda_sweep/centroid-seed0"]
    assert len(sweep.runs) == 3 * 13
    assert set(sweep.needs) == {
        f"{study.STEM}/{name}/teacher-seed0" for name in ("three_teachers", "five_teachers")
    }


def test_one_seed_of_everything_is_a_part_of_the_whole():
    """So that the seeds after the first train nothing again."""
    whole, first = plan("fashion", notebooks=["05"]), plan("fashion", notebooks=["05"], seeds=[0])
    jobs = {job.name: job for job in whole.jobs}
    for job in first.jobs:
        if job.runs:
            assert (job.runs, job.params) == (jobs[job.name].runs, jobs[job.name].params)
    assert {part.params.setting for part in first.parts} == {
        part.params.setting for part in whole.parts
    }


def test_every_claim_of_the_study_has_five_seeds_in_the_plan():
    """With both sides of the comparison, on Fashion-MNIST."""
    claims, entries = published_claims.load_claims(), []
    for run in plan("fashion", notebooks=["05"]).runs:
        row = {"run": run.identity(), "labels": run.labels, "folder": run.folder}
        row["metrics"] = {"test": {"acc": 0.9, "nll": 0.3}, "fidelity": {"centroid_probs": 0.1}}
        entries.append(pairing.Entry(pairing.facts(row, "fashion"), (), row))
    for claim in claims.of("multi_teacher"):
        seeds = [
            len(pairing.seed_differences(group, claim.judged_by.metric)[0])
            for group in pairing.by_scale(entries, claim.judged_by)
        ]
        assert max(seeds) >= claims.seeds, claim.id


def test_the_published_networks_and_recipe_are_those_of_the_params():
    three = kdlib.load_params("params/fashion/05_multi_teacher_fidelity.yaml", "three_teachers")
    run = study.runs(three)[-1]
    assert run.recipe.epochs == 15
    assert run.teachers[0].recipe.epochs == 20
    rates = [loop.learning_rate(run.recipe, epoch) for epoch in (0, 4.99, 5, 10, 14.9)]
    assert rates == [1e-3, 1e-3, 5e-4, 2.5e-4, 2.5e-4]
    rates = [loop.learning_rate(run.teachers[0].recipe, epoch) for epoch in (6.9, 7, 14)]
    assert rates == [1e-3, 5e-4, 2.5e-4]
    assert run.augment.crop == 0
    assert not run.augment.flip
    assert run.recipe.weight_decay == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three tiny teachers and four students, two of them live; their folder, params and rows."""
    folder = tmp_path_factory.mktemp("multi_teacher")
    small = params(methods=["none", "centroid", "camkd", "val_confident"])
    return folder, small, kdlib.Lab.of(small, folder).complete(study.runs(small))


def row_of(rows, method):
    return next(row for row in rows if row["labels"].get("method") == method)


def test_rows_hold_fidelity_that_verify_recomputes(trained):
    folder, _, rows = trained
    assert verify.verify(folder).wrong == []
    assert all("fidelity" not in row["metrics"] for row in rows[:3])  # a teacher has no teachers
    for row in rows[3:]:
        found, together = row["metrics"]["fidelity"], row["metrics"]["teachers"]
        identity = found["centroid_probs"] + np.mean(together["diversity"])
        assert found["mean_individual"] == pytest.approx(identity, abs=1e-12)
        path = folder / row["folder"] / "predictions" / f"{row['id']}.safetensors"
        stored = read_tensors(path, row["files"]["predictions"])
        for place, teacher in enumerate(rows[:3]):
            theirs = folder / teacher["folder"] / "predictions" / f"{teacher['id']}.safetensors"
            logits = read_tensors(theirs, teacher["files"]["predictions"])["test_logits"]
            expected = metrics.individual_fidelity(stored["test_logits"], logits)
            assert found["individual"][place] == pytest.approx(expected, abs=1e-12)
            assert torch.equal(stored["teachers_test_logits"][place], logits)
    probs = np.mean([metrics.softmax(one) for one in stored["teachers_test_logits"]], axis=0)
    labels = stored["test_labels"]
    assert together["ensemble"]["probs"]["acc"] == metrics.accuracy(probs, labels)


def test_teachers_that_nothing_reads_say_nothing(trained, monkeypatch):
    """They are there to be compared with: neither asked in a step, nor cached."""
    folder, small, _ = trained
    lab = kdlib.Lab.of(small, folder)
    (run,) = study.student_runs(small.model_copy(update={"methods": ("none",)}))
    networks = [lab.network(teacher) for teacher in run.teachers]
    monkeypatch.setattr(train.loop, "CachedTeachers", None)
    steps, live = [], train.loop.FrozenTeachers.__call__
    monkeypatch.setattr(
        train.loop.FrozenTeachers, "__call__",
        lambda self, batch: steps.append(batch.clock) or live(self, batch),
    )  # fmt: skip
    (alone,) = train.fit([run], lab.record(run), lab.selection(run), networks)
    assert alone.teacher_views is None
    assert alone.history[-1]["fidelity"]
    assert steps == [None]  # the dry forward alone


@pytest.mark.parametrize("key", ["optimizer", "schedule"])
def test_trainings_of_ones_own_are_asked_for_by_name(key):
    with pytest.raises(ValueError, match=f"unknown {key} 'adan', "):
        study.MultiTeacher.of(**{key: "adan"})


def test_the_history_has_fidelity_on_validation_and_the_weights_used(trained):
    _, _, rows = trained
    for row in rows[3:]:
        assert [len(entry["fidelity"]["individual"]) for entry in row["history"]] == [3, 3]
    none, centroid, camkd, val = (
        row_of(rows, m) for m in ("none", "centroid", "camkd", "val_confident")
    )
    assert "notes" not in none["history"][0]
    assert none["teacher_views"] is None
    assert [row["teacher_views"] for row in (centroid, camkd, val)] == ["cached", "live", "cached"]
    used = centroid["history"][0]["notes"]["multi_kd"]["teacher_weights"]
    assert used == pytest.approx([1 / 3] * 3)
    used = camkd["history"][0]["notes"]["hints"]["teacher_weights"]
    assert sum(used) == pytest.approx(1, abs=1e-5)  # not a constant
    assert max(used) > 0.34
    used = [entry["notes"]["multi_kd"]["teacher_weights"] for entry in val["history"]]
    val_nll = [row["metrics"]["val"]["nll"] for row in rows[:3]]
    assert used[0] == pytest.approx(used[1])
    assert np.argsort(used[0]).tolist() == np.argsort(val_nll)[::-1].tolist()


@pytest.mark.parametrize("method", ["centroid", "camkd_pooled"])
def test_cached_and_live_teachers_give_the_same_training(method, trained, monkeypatch):
    folder, small, rows = trained
    lab = kdlib.Lab.of(small, folder)
    (run,) = study.student_runs(small.model_copy(update={"methods": (method,)}))
    networks = [lab.network(teacher) for teacher in run.teachers]
    data_of = lab.record(run), lab.selection(run)
    (cached,) = train.fit([run], *data_of, networks)
    monkeypatch.setattr(objectives, "caches", lambda run: False)
    (live,) = train.fit([run], *data_of, networks)
    assert (cached.teacher_views, live.teacher_views) == ("cached", "live")
    for one, other in zip(cached.history, live.history, strict=True):
        for term in run.objective:
            assert one["train"][term] == pytest.approx(other["train"][term], rel=1e-5)
            assert one["train"][term] > 0
    if method == "centroid":
        assert json.loads(json.dumps(cached.history)) == row_of(rows, "centroid")["history"]


def test_kept_maps_are_those_of_the_students_that_read_them(trained):
    """One cache serves a cohort: the logits once, a map for each stage and size asked for."""
    folder, small, _ = trained
    lab = kdlib.Lab.of(small, folder)
    changes = {"methods": ("centroid", "camkd_pooled")}
    changes["student_models"] = ("tiny_student", "micro_student")
    runs = study.student_runs(small.model_copy(update=changes))
    networks = [lab.network(teacher) for teacher in runs[0].teachers]
    cohort = train.Cohort(runs, lab.record(runs[0]), lab.selection(runs[0]), networks, "cpu")
    assert [one.views for one in cohort.students] == ["cached"] * 4
    kept = {name: tuple(maps.shape[2:]) for name, maps in cohort.cached.kept[2].items()}
    assert kept == {"logits": (), "last, at most 2x2": (2, 2), "last, at most 4x4": (4, 4)}


def test_students_of_a_comparison_start_alike_and_resume_bit_for_bit(trained):
    folder, small, rows = trained
    lab = kdlib.Lab.of(small, folder)
    run = study.runs(small)[5]
    networks = [lab.network(teacher) for teacher in run.teachers]
    data_of = lab.record(run), lab.selection(run)
    kept = []
    train.fit([run], *data_of, networks, keep=lambda run, progress: kept.append(progress))
    (resumed,) = train.fit([run], *data_of, networks, resume=kept[:1])
    assert json.loads(json.dumps(resumed.history)) == row_of(rows, "camkd")["history"]
    starts = [train.build_network(one, data_of[0]).state_dict() for one in study.runs(small)[3:]]
    for start in starts[1:]:
        assert all(torch.equal(start[name], starts[0][name]) for name in start)


def test_students_of_a_comparison_share_batches_and_dropout(trained):
    """In the first step, before any of them has moved, all have the same loss on the labels."""
    folder, small, _ = trained
    lab = kdlib.Lab.of(small, folder)
    runs = study.student_runs(small)
    networks = [lab.network(teacher) for teacher in runs[0].teachers]
    cohort = train.Cohort(runs, lab.record(runs[0]), lab.selection(runs[0]), networks, "cpu")
    network = cohort.students[0].network
    draw = next(cohort.stream.draws(0, 2))
    images = cohort.stream.batch(draw).images
    shown = [network(images).logits for _ in range(2)]
    assert not torch.equal(*shown)  # there is dropout to be shared
    cohort.step(draw)
    losses = [one.losses["label"].item() for one in cohort.students]
    assert losses == [losses[0]] * 4
    assert {run.stream for run in runs} == {runs[0].stream}


def test_a_missing_teacher_prediction_is_made_again(trained):
    folder, small, _ = trained
    lab = kdlib.Lab.of(small, folder)
    teacher = study.runs(small)[0]
    path = lab.store.path(teacher, "predictions")
    before, content = lab.predictions(teacher)["test_logits"], path.read_bytes()
    path.unlink()
    assert np.array_equal(lab.predictions(teacher)["test_logits"], before)
    path.write_bytes(content)


def test_a_student_is_measured_again_without_its_teachers(trained, monkeypatch, caplog):
    """From what it has stored of them; without, it is not, and nothing is trained."""
    folder, small, rows = trained
    lab, run = kdlib.Lab.of(small, folder), study.student_runs(small)[1]
    mine = lab.store.path(run, "predictions")
    theirs = [lab.store.path(teacher, kind) for teacher in run.teachers
              for kind in ("checkpoints", "predictions")]  # fmt: skip
    kept = {path: path.read_bytes() for path in (*theirs, mine)}
    monkeypatch.setattr(train, "fit", None)
    for path in theirs:
        path.unlink()
    row = next(row for row in rows if row["id"] == run.id)
    assert lab.evaluate(run)["metrics"] == row["metrics"]
    mine.unlink()
    assert lab.evaluate(run) is None
    assert f"what the teachers of {run.id} say is not stored; not measured again" in caplog.text
    for path, content in kept.items():
        path.write_bytes(content)


def test_tables_and_report(trained, monkeypatch):
    folder, small, rows = trained
    tables = report.deterministic_tables(rows, small)
    cells = tables["cells"].set_index("method")
    none = row_of(rows, "none")["metrics"]
    assert cells.loc["none", "acc"] == none["test"]["acc"]
    assert cells.loc["none", "agreement"] == np.mean(none["fidelity"]["agreement"])
    assert cells.loc["none", "nll_after"] == none["temperature"]["nll"]
    assert cells.loc["none", "ece_after"] == none["temperature"]["ece"] != none["test"]["ece"]
    assert "acc_published" not in cells  # theirs are of 5 teachers
    assert cells["acc_ci95"].isna().all()
    effects = tables["effects"].set_index("method")
    gain = cells.loc["camkd", "acc"] - cells.loc["none", "acc"]
    assert effects.loc["camkd", "acc_effect"] == pytest.approx(gain)
    assert "none" not in effects.index
    after = {
        method: row_of(rows, method)["metrics"]["temperature"]["ece"] - none["temperature"]["ece"]
        for method in effects.index
    }
    (said,) = [text for text in report.words.answer(tables, small) if "ECE" in text]
    low, high = (pick(after, key=after.get) for pick in (min, max))
    ends = f"each {after[low]:+.4f} ({low}) to {after[high]:+.4f} ({high})"
    assert ends in said.replace("\N{MINUS SIGN}", "-")
    contrasts = tables["contrasts"].set_index(["method", "versus"])
    gain = cells.loc["camkd", "nll"] - cells.loc["centroid", "nll"]
    assert contrasts.loc[("camkd", "centroid"), "nll_effect"] == pytest.approx(gain)
    assert list(contrasts["what"]) == ["hints and their weights"]
    sizes = tables["networks"].set_index("network")
    assert list(sizes.index) == [*TEACHERS, report.TOGETHER, "tiny_student"]
    whole = sizes.loc[TEACHERS, "parameters"].sum()
    assert sizes.loc[report.TOGETHER, "parameters"] == whole > 140_778
    assert list(tables["teachers"]["teacher"]) == [
        *TEACHERS, "ensemble of probs", "ensemble of logits",
    ]  # fmt: skip
    kl = rows[3]["metrics"]["teachers"]["kl"]
    assert tables["pairs"]["kl"].tolist() == [kl[0][1], kl[0][2], kl[1][2]]
    assert tables["pairs"]["kl_back"].tolist() == [kl[1][0], kl[2][0], kl[2][1]]
    assert len(tables["epochs"]) == 4 * 2
    assert len(tables["by_teacher"]) == 4 * 3
    drawn = []  # drawing is tested elsewhere and takes seconds
    monkeypatch.setattr("kdlib.plots.save", lambda figure, folder, name: drawn.append(name))
    assert not report.has_latency(rows, small, folder)
    latency = {name: {1: 0.5, 128: 3.0} for name in report.architectures(rows, small)}
    report.write_latency(latency, rows, small, folder)
    assert report.has_latency(rows, small, folder)
    page = report.write(rows, small, folder).read_text()
    assert re.search(r"the teachers together</td>.*1\.50</td>.*9\.0</td>", page)
    assert "Does a student of several teachers follow them" in page
    assert "cached for centroid, val_confident; live for camkd" in page
    assert sorted(drawn) == [
        "comparison_tiny_student", "fidelity_vs_generalisation",
        "method_tiny_student_camkd",
        "method_tiny_student_centroid", "method_tiny_student_none",
        "method_tiny_student_val_confident",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no row of a student of 05_multi_teacher_fidelity"):
        report.deterministic_tables(rows[:3], small)


def test_times_are_of_the_networks_of_these_params(tmp_path, monkeypatch):
    """Other params have other networks under the same names."""
    params = study.MultiTeacher()
    monkeypatch.setattr(report, "owners", lambda *_: {"student": {"id": "student-seed0-1"}})
    report.write_latency({"student": {1: 0.5}}, [], params, tmp_path)
    assert report.has_latency([], params, tmp_path)
    monkeypatch.setattr(report, "owners", lambda *_: {"student": {"id": "student-seed0-2"}})
    assert not report.has_latency([], params, tmp_path)


def test_panels_are_as_many_as_the_study_has():
    names = FIVE
    line = {"student": "student", "method": "centroid", "seed": 0, "epoch": 1, "val_acc": 0.9,
            "val_nll": 0.3, "label_loss": 0.2, "centroid_probs": 0.3, "centroid_logits": 0.1,
            "mean_individual": 0.4}  # fmt: skip
    for count, method_panels, panels in ((3, 9, 12), (5, 11, 14)):
        own = {
            f"{what}_{name}": 0.5 for what in ("individual", "agreement") for name in names[:count]
        }
        epochs = pd.DataFrame([line | own, line | own | {"epoch": 2}])
        cells = pd.DataFrame([{"student": "student", "method": "centroid", "acc": 0.9,
                               "acc_ci95": math.nan, "centroid_probs": 0.3,
                               "seeds": 1}])  # fmt: skip
        by_teacher = pd.DataFrame(
            {"student": "student", "method": "centroid", "teacher": names[:count],
             "individual": 0.4, "multi_kd_last": 1 / count}
        )  # fmt: skip
        tables = {"epochs": epochs, "cells": cells, "by_teacher": by_teacher}
        figure = plots.method_panels(epochs, names[:count], 0.1, "name")
        assert sum(ax.get_visible() for ax in figure.axes) == method_panels
        dashed = figure.axes[method_panels - 1].get_lines()[-1]
        assert set(dashed.get_ydata()) == {0.1}  # chance stands where chance is
        figure = plots.comparison(tables, "student", names[:count], 0.1, "name")
        assert sum(ax.get_visible() for ax in figure.axes) == panels
        titles = [ax.get_title() for ax in figure.axes]
        assert "top-1 agreement (chance: 0.1)" in titles
        assert "test accuracy, %, 1 seed" in titles
        assert figure.axes[0].get_lines()[0].get_ydata().tolist() == [90, 90]


def test_the_sweep_stands_on_symlog_axes_beside_the_published_points():
    changes = {"data": "fashion_mnist", "teacher_models": FIVE, "student_models": ["student"]}
    lambdas = [0, 0.01, 1, 1000]
    sweep = params(**changes, methods=["centroid"], lambdas=lambdas, seeds=[0, 1])
    rng = np.random.default_rng(0)
    rows = [fake_row(run, rng) for run in study.student_runs(sweep)]
    cells = report.cells(rows, sweep)
    assert cells["acc_published"].tolist() == pytest.approx([0.9207, 0.9228, 0.9226, 0.9215])
    assert cells["centroid_logits_published"].iloc[0] == pytest.approx(0.171, abs=1e-3)
    assert cells["nll_published"].iloc[0] == pytest.approx(0.244, abs=1e-3)
    figure = plots.lambda_sweep(cells, "name")
    assert {ax.get_xscale() for ax in figure.axes} == {"symlog"}
    assert figure.axes[0].get_xlim()[0] < 0  # so that intervals at lambda 0 show
    assert "published" in [text.get_text() for text in figure.legends[0].get_texts()]
    tables = report.deterministic_tables(rows, sweep)
    figure = plots.effects(tables["effects"], cells, "name")
    assert len(figure.axes) == 4
    words = report.words.answer(tables, sweep)
    assert words[0].startswith("From lambda 0 to 1000, of 1 students ")
    assert "(2 seeds" in words[0]


def test_each_method_of_a_sweep_stands_against_its_own_lambda_0():
    changes = {"teacher_models": FIVE, "student_models": ["student"], "lambdas": [0, 1]}
    sweep = params(**changes, methods=["centroid", "best"], seeds=[0, 1, 2])
    rng = np.random.default_rng(0)
    rows = [fake_row(run, rng) for run in study.student_runs(sweep)]
    found = report.deterministic_tables(rows, sweep)["effects"].set_index("method")
    assert found["seeds"].to_dict() == {"centroid": 3, "best": 3}
    for method in found.index:
        own = [row for row in rows if row["labels"]["method"] == method]
        mean = {
            value: np.mean([
                row["metrics"]["test"]["acc"] for row in own if row["labels"]["lambda"] == value
            ])
            for value in (0, 1)
        }  # fmt: skip
        assert found.loc[method, "acc_effect"] == pytest.approx(mean[1] - mean[0])


def sweep_effects(acc, nll, logits, half=math.nan):
    """A line a student: from lambda 0 to 1 in accuracy, NLL and KL to the centroid of logits."""
    lines = [
        {"student": f"s{place}", "method": "centroid", "lambda": 1.0, "acc_effect": a,
         "nll_effect": n, "centroid_logits_effect": c, "acc_effect_ci95": half,
         "nll_effect_ci95": half, "centroid_logits_effect_ci95": half}
        for place, (a, n, c) in enumerate(zip(acc, nll, logits, strict=True))
    ]  # fmt: skip
    return pd.DataFrame(lines)


@pytest.mark.parametrize(
    ("effects", "counts", "verdict"),
    [
        ([(0.01, 0.02), (-0.1, -0.2), (-0.3, -0.1)], (2, 2, 2), "who followed more, generalised b"),
        ([(-0.01, 0.0), (0.1, 0.2), (-0.3, -0.1)], (2, 0, 0), "who followed more, generalised no"),
        ([(0.01, -0.01), (0.1, 0.2), (-0.3, -0.1)], (2, 1, 0), "did not go together"),
        ([(0.01, 0.02), (-0.1, -0.2), (0.3, 0.1)], (0, 2, 2), "nobody followed more"),
    ],
)
def test_the_sweeps_sentence_is_right_whatever_the_sign(effects, counts, verdict):
    text = report.words._sweep(sweep_effects(*effects))
    closer, better, lower = counts
    assert f"of 2 students {closer} closer to the centroid" in text
    assert f", {better} more accurate on test (points: s0 {100 * effects[0][0]:+.2f}" in text
    assert f", {lower} lower in test NLL (by: s0 {effects[1][0]:+.3f}" in text
    assert verdict in text


def test_an_effect_inside_its_interval_counts_for_nothing():
    text = report.words._sweep(sweep_effects((0.01,), (-0.1,), (-0.3,), half=0.05))
    assert "of 1 students 1 clearly closer to" in text
    assert ", 0 clearly more accurate on test (points: s0 +1.00 ± 5.00)" in text
    assert ", 1 clearly lower in test NLL (by: s0 -0.100 ± 0.050)" in text


def test_the_methods_sentence_tells_closeness_to_the_mean_from_closeness_to_each():
    """Of four methods 3 are closer to the mean logits, 1 to each teacher, 2 more accurate."""
    effects = pd.DataFrame({
        "student": "s", "method": list("abcd"), "acc_effect": [0.03, 0.02, 0.001, -0.01],
        "centroid_logits_effect": [-0.2, 0.2, -0.2, -0.2],
        "mean_individual_effect": [-0.2, 0.2, 0.001, 0.2], "ece_after_effect": math.nan,
    })  # fmt: skip
    halves = {
        f"{name}_effect_ci95": 0.005 for name in ("acc", "centroid_logits", "mean_individual")
    }
    (text,) = report.words._methods(effects.assign(**halves))
    assert "of 4 methods 3 come clearly closer to the centroid of the teachers' logits" in text
    assert " and 1 to the teachers one by one" in text
    assert "2 are clearly more accurate, 1 of them closer, too" in text


def test_validation_chooses_the_lambda():
    effects = pd.concat([
        sweep_effects((acc,), (0.0,), (0.0,)).assign(**{"lambda": at})
        for at, acc in ((0.1, 0.05), (1.0, -0.02))
    ])  # fmt: skip
    cells = effects[["student", "method", "lambda"]].assign(val_acc=[0.8, 0.9])
    (text,) = report.words._chosen(effects, {"cells": cells})
    assert "from lambda 0 by s0 -2.00 (1) points" in text  # not the one best on test


def test_four_methods_stand_beside_the_published_ones():
    five = kdlib.load_params("params/fashion/05_multi_teacher_fidelity.yaml", "five_teachers")
    rng = np.random.default_rng(0)
    rows = [fake_row(run, rng) for run in study.student_runs(five)]
    cells = report.cells(rows, five).set_index("method")
    tables = report.deterministic_tables(rows, five)
    facts = " ".join(report.words.facts(five, tables))
    assert "Ours: the last of 20 epochs, teachers of 20," in facts
    assert "3 runs of lambda 0 ended at 92.07, 92.44, 92.50 %, up to 0.43 points apart" in facts
    own = tables["by_teacher"]
    own = own.set_index(["method", "teacher"])["individual_published"]
    assert own["camkd", "teacher_resnet"] == pytest.approx(0.989196)
    assert np.isnan(own["camkd_pooled", "teacher_resnet"])
    theirs = cells.loc[["centroid", "best", "median", "camkd"], "acc_published"]
    assert theirs.tolist() == pytest.approx([0.9206, 0.916, 0.918, 0.9222])
    assert np.isnan(cells.loc["none", "acc_published"])
    assert report.published(five, "teachers", "test_acc_best", "subject")["teacher_vgg"] == 93.07
    pairs = report.pairs(rows, five)
    assert pairs["kl_published"].iloc[7] == pytest.approx(2.04651)  # resnet || vgg
    missing = report.cells(rows[1:], five).set_index("method").loc["none"]
    assert np.isnan(missing["acc"])
    assert "no row of seed 0" in missing["flags"]


def test_the_diversity_of_a_teacher_is_that_of_its_own_seeds():
    asked = params(data="fashion_mnist", teacher_models=FIVE, student_models=["student"],
                   methods=["centroid"], seeds=[0, 1, 2])  # fmt: skip
    rng = np.random.default_rng(0)
    rows = [fake_row(run, rng) for run in study.student_runs(asked)]
    for row in rows:
        row["metrics"]["teachers"]["diversity"] = [0.1 * row["run"]["seed"]] * len(FIVE)
    rows += [rows[0] | {"id": run.id, "run": run.identity()} for run in study.teacher_runs(asked)]
    gone = next(row for row in rows if row["run"]["model"] == FIVE[0])
    assert gone["run"]["seed"] == 0
    table = report.teachers([row for row in rows if row is not gone], asked).set_index("teacher")
    assert table.loc[FIVE[0], ["seeds", "diversity"]].tolist() == pytest.approx([2, 0.15])
    assert table.loc[FIVE[1], ["seeds", "diversity"]].tolist() == pytest.approx([3, 0.1])


def fake_row(run, rng):
    """A stored row's shape, made-up numbers, one epoch."""
    count = len(run.teachers)
    test = {"acc": 0.9 + 0.01 * rng.random(), "nll": 0.3, "ece": 0.02, "ece_floor": 0.01}
    individual = rng.random(count).tolist()
    fidelity = {
        "individual": individual, "mean_individual": float(np.mean(individual)),
        "centroid_probs": 0.3, "centroid_logits": 0.1 + rng.random(), "agreement": [0.9] * count,
    }  # fmt: skip
    square = rng.random((count, count)).tolist()
    teachers = {
        "diversity": [0.1] * count, "kl": square, "jensen_shannon": square,
        "ensemble": {"probs": test, "logits": test},
    }  # fmt: skip
    entry = {"epoch": 1, "train": {"label": 0.2}, "val_acc": 0.9, "val_nll": 0.3}
    return {
        "id": run.id, "folder": run.folder, "labels": run.labels, "run": run.identity(),
        "metrics": {"test": test, "fidelity": fidelity, "teachers": teachers},
        "history": [entry | {"fidelity": fidelity}], "kd_share": {}, "flags": [],
        "weights": {"label": 1.0}, "teacher_views": "cached",
        "network": {"name": run.model, "num_classes": 10, "in_channels": 1, "image_size": 28},
    }  # fmt: skip


def test_latency_is_of_a_forward_and_the_fastest_round(monkeypatch):
    networks = {name: models.build(name, 10, 1, 28) for name in ("student", "micro_student")}
    taken = iter([9.0, 9.0, 3.0, 0.5, 2.0, 0.7] * 2)  # a round of both: the first warms up
    ticks = itertools.chain.from_iterable((0.0, one) for one in taken)
    monkeypatch.setattr(timing, "clock_of", lambda device, threads: ("CPU", lambda: next(ticks)))
    sizes = []
    networks["student"].register_forward_hook(lambda *call: sizes.append(len(call[2].logits)))
    found = train.latency_ms(networks, rounds=2)
    assert found == {"student": {1: 2000, 128: 2000}, "micro_student": {1: 500, 128: 500}}
    assert sizes == [1] * 3 + [128] * 3
    assert not networks["student"].training
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        train.latency_ms(networks, rounds=0)


def test_study_one_has_no_fidelity():
    run = grid.student_runs(kdlib.Params.of(kd_methods=["kd"]))[0]
    assert "fidelity_every" not in run.identity()
    assert "fidelity_every" in student_run("centroid").identity()


def test_a_term_of_ones_own_may_note_weights_or_something_else():
    notes = {
        "multi_kd": {"teacher_weights": [0.4, 0.6]}, "mine": {"teacher_weights": [1.0, 0.0]},
        "other": {"temperature": [2.0]},
    }  # fmt: skip
    assert multi_teacher_tables._weights({"notes": notes}) == {
        "multi_kd": [0.4, 0.6], "mine": [1.0, 0.0],
    }  # fmt: skip
    assert multi_teacher_tables._weights({}) == {}
