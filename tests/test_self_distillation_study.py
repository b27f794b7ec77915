"""The self-distillation study: its runs, who teaches whom, its tables against plain loops."""

import dataclasses
import functools
import math
import statistics
import time

import numpy as np
import pandas as pd
import pytest
import torch
from report_helpers import ORIGIN
from safetensors.numpy import load_file

from kdlib import Lab, data, losses, metrics, models, objectives, plots, train
from kdlib.augment import Stream
from kdlib.config import by_stream
from kdlib.plan import plan
from kdlib.plots import self_distillation as drawings
from kdlib.report import self_distillation as report
from kdlib.report.self_distillation import conclusion, published, tables
from kdlib.studies.self_distillation import STEM, SUBSETS, SelfDistillation, runs
from kdlib.teachers import FrozenTeachers
from kdlib.train import loop
from kdlib.verify import verify

HEADS = {"byot_from2": {"of": "byot", "first_head": 2}}
BASE = {
    "models": ["resnet8_half"], "imbalance_factor": 20, "batch_size": 16, "epochs": 1,
    "warmup_epochs": 0, "options": HEADS,
}  # fmt: skip
T975 = {2: 4.302652729911275}


def params_of(**changes):
    return SelfDistillation.of(**BASE | changes)


@pytest.fixture(scope="module")
def digits():
    record = data.load("digits")
    return record, data.select(record, 20, None, 0)


# --- runs and jobs


def test_the_runs_are_the_eight_subsets():
    made = runs(params_of())
    assert [run.labels["method"] for run in made] == [
        "none", "pskd", "byot", "dmfl", "pskd+byot", "pskd+dmfl", "byot+dmfl", "pskd+byot+dmfl",
    ]  # fmt: skip
    assert len({run.id for run in made}) == 8
    for run in made:
        parts = set(run.labels["method"].split("+"))
        assert set(run.objective) == {"label"} | (parts & {"byot", "dmfl"})
        assert set(run.targets) == parts & {"pskd"}
        assert run.objective["label"]["weight"] == 1.0  # the main cross-entropy counts once
        assert run.teachers == ()
    assert by_stream(made) == [made]  # the same batches for all


def test_the_published_double_count_is_an_option():
    changed = runs(params_of(methods=["byot"], options={"byot": {"label_weight": 1.9}}))
    assert changed[0].objective["label"]["weight"] == 1.9


def test_grids_stand_beside_and_no_run_twice():
    grids = {
        "heads": {"methods": ["byot", "byot_from2"]},
        "depth": {"models": ["resnet8_half_2stages"], "methods": ["none"]},
        "seeds": {"methods": ["none"], "seeds": [0, 1]},
    }
    found = [
        (run.seed, run.labels["model"], run.labels["method"])
        for run in runs(params_of(grids=grids))
    ]
    main = [(0, "resnet8_half", method) for method in SUBSETS]
    assert found[:8] == main
    assert found[8:] == [
        (0, "resnet8_half", "byot_from2"),
        (0, "resnet8_half_2stages", "none"),
        (1, "resnet8_half", "none"),
    ]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"methods": ["kd+byot"]}, ValueError, "'kd.byot' takes a teacher.* 02_students"),
        ({"methods": ["byott"]}, LookupError, "unknown KD method 'byott', did you mean 'byot'"),
        ({"methods": ["byot+byot_from2"]}, ValueError, "names the term 'byot' twice"),
        ({"options": {"byott": {}}}, ValueError, "unknown method or loss 'byott'"),
        ({"grids": {"a": {"modls": ["resnet8"]}}}, ValueError, "grids.a.modls: extra inputs"),
    ],
)
def test_what_cannot_be_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        runs(params_of(**changes))


def test_a_head_that_is_not_there_is_refused_before_training(tmp_path):
    options = {"byot": {"first_head": 3}}
    params = params_of(methods=["byot"], options=options)
    with pytest.raises(ValueError, match=r"first_head 3, but the side heads are .*'stage2'"):
        Lab.of(params, tmp_path).complete(runs(params))


@functools.cache
def jobs_of(profile):
    return [job for job in plan(profile, "out").jobs if job.notebook == STEM]


def test_the_jobs_are_seeds_and_a_conclusion():
    jobs = jobs_of("cifar_small")
    # All eight subsets and BYOT from its second head once, then five of the subsets.
    assert [len(job.runs) for job in jobs] == [8 + 1, *[5] * 4, 0]
    assert set(jobs[-1].needs) == {job.name for job in jobs[:-1]}
    settings = {job.params["extra"]["setting"] for job in jobs_of("paper")}
    assert settings == {"cifar100", "tiny_imagenet"}


# --- who teaches whom


def student_of(method, digits, **changes):
    """One student of a method, and a batch."""
    (run,) = runs(params_of(methods=[method], **changes))
    record, selection = digits
    labels = torch.from_numpy(record.train_labels[selection.train_indices])
    images = torch.from_numpy(record.train_images[selection.train_indices])
    stream = Stream(images, labels, 10, 16, 0, run.augment, run.mixup_alpha)
    counts = torch.as_tensor(selection.class_counts)
    (student,) = loop._students([run], record, labels, counts, FrozenTeachers([]), "cpu")
    return student, next(stream.epoch(0, 1))


def reached(student, batch, term):
    """The parts of the network that a term's gradient reaches."""
    student.loss(batch, (), torch.autocast("cpu", enabled=False))
    named = dict(student.trained.network.named_parameters())
    pulls = torch.autograd.grad(student.losses[term], named.values(), allow_unused=True)
    return {
        ".".join(name.split(".")[: 1 + name.startswith(("stages", "side"))])
        for name, pull in zip(named, pulls, strict=True)
        if pull is not None and pull.abs().sum() > 0
    }


SIDE = {"side_necks.stage1", "side_necks.stage2"}
CLASSIFIERS = {"side_heads.stage1", "side_heads.stage2"}
EARLY = {"stem", "stages.stage1", "stages.stage2"}


@pytest.mark.parametrize(
    ("method", "term", "expected"),
    [
        # BYOT: side heads and what they stand on; the final stage and head are their teacher.
        ("byot", "byot", SIDE | CLASSIFIERS | EARLY),
        ("pskd+byot+dmfl", "byot", SIDE | CLASSIFIERS | EARLY),
        # A head that does not take part is left alone.
        ("byot_from2", "byot", {"side_necks.stage2", "side_heads.stage2"} | EARLY),
        # DMFL: features on both sides, no classifier.
        ("dmfl", "dmfl", SIDE | EARLY | {"stages.stage3"}),
        ("byot+dmfl", "dmfl", SIDE | EARLY | {"stages.stage3"}),
        # The label loss: the network without side heads.
        ("byot+dmfl", "label", EARLY | {"stages.stage3", "head"}),
    ],
)
def test_a_term_reaches_what_it_should_and_nothing_else(method, term, expected, digits):
    assert reached(*student_of(method, digits), term) == expected


@pytest.mark.parametrize("mixup_alpha", [0.0, 1.0])
def test_side_heads_read_the_softened_targets(digits, mixup_alpha):
    student, batch = student_of("pskd+byot", digits, mixup_alpha=mixup_alpha)
    noise = torch.rand(student.source.memory.shape, generator=torch.Generator().manual_seed(0))
    student.source.memory.copy_(noise.softmax(1))
    student.tick(batch.clock)
    targets, network = student.source(batch), student.trained.network.eval()
    for head in network.side_heads.values():
        head.weight.data *= 20  # a new head says the same of every class
    view = network(batch.images)
    student.source.observe = lambda *seen: None
    student.loss(batch, (), torch.autocast("cpu", enabled=False))

    def byot(labels):
        sides = list(view.side_logits.values()), view.embedding, list(view.side_features.values())
        return losses.byot(view.logits, *sides, labels)

    assert student.losses["byot"].item() == pytest.approx(byot(targets).item())
    assert student.losses["byot"].item() != pytest.approx(byot(batch.targets).item(), rel=1e-3)
    plain = losses.soft_cross_entropy(view.logits, targets)
    assert student.losses["label"].item() == pytest.approx(plain.item())


def test_taught_heads():
    stages = ["stage1", "stage2", "stage3"]
    expected = {"none": [], "pskd": [], "dmfl": [], "byot+dmfl": stages, "byot_from2": stages[1:]}
    for run in runs(params_of(methods=list(expected))):
        assert objectives.taught_heads(run, stages) == expected[run.labels["method"]]


# --- networks

BIG = ["resnet50", "resnext50"]


@pytest.mark.parametrize("name", ["resnet18", *BIG])
def test_the_backbones_take_tiny_imagenet(name):
    with torch.device("meta"):
        network = models.build(name, 200, 3, 64, side_heads=True).eval()
        view = network(torch.empty(2, 3, 64, 64))
    assert view.logits.shape == (2, 200)
    assert list(view.side_logits) == ["stage1", "stage2", "stage3"]
    for stage, logits in view.side_logits.items():
        assert logits.shape == (2, 200)
        assert view.side_features[stage].shape == view.embedding.shape


@pytest.mark.parametrize(
    "name", ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in BIG)]
)
def test_the_backbones_train_on_tiny_imagenet(name):
    """A step of all three parts at 64 px and 200 classes reaches every weight."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(200), 2)
    images = rng.integers(0, 256, (400, 64, 64, 3), np.uint8)
    names = [f"n{label:03}" for label in range(200)]
    record = data.from_arrays("tiny", images, labels, images[::2], labels[::2], names)
    changes = {"data": "tiny", "image_size": 64, "imbalance_factor": None, "batch_size": 2}
    (run,) = runs(params_of(models=[name], methods=["pskd+byot+dmfl"], epochs=3, **changes))
    few = dataclasses.replace(
        data.select(record, None, None, 0),
        train_indices=np.array([0, 100]),
        val_indices=np.array([], int),
    )
    cohort = train.Cohort([run], record, few, [], "cpu")
    (student,) = cohort.students
    network = student.trained.network
    before = {key: value.clone() for key, value in network.named_parameters()}
    (draw,) = cohort.stream.draws(1, 3)  # neither the first nor the last, which are probed
    assert cohort.stream.batch(draw).images.shape == (2, 3, 64, 64)
    cohort.step(draw)
    assert all(loss.isfinite() for loss in student.losses.values())
    same = [key for key, value in network.named_parameters() if torch.equal(value, before[key])]
    assert same == []
    assert student.source.memory.shape == (2, 200)


@pytest.mark.parametrize(
    ("name", "stages"),
    [("resnet18", 3), ("resnet18", 2), ("resnet20", 2), ("resnet8", 2), ("resnet8_half", 2)],
)
def test_networks_without_their_last_stages(name, stages):
    whole, less = (models.build(one, 10) for one in (name, f"{name}_{stages}stages"))
    assert (
        list(models.build(f"{name}_{stages}stages", 10, side_heads=True).side_heads)
        == list(less.stages)[:-1]
    )
    assert list(less.stages) == list(whole.stages)[:stages]
    for name, stage in less.stages.items():
        assert str(stage) == str(whole.stages[name])
    assert str(less.stem) == str(whole.stem)


def test_parameters_with_and_without_heads():
    shapes = {"in_channels": 3, "image_size": 32, "num_classes": 100}
    names = {"resnet18": True, "resnet50": False, "resnext50": True, "student": False}
    rows = [
        {"network": {"name": name, **shapes} | ({"side_heads": True} if heads else {})}
        for name, heads in names.items()
    ]
    table = tables.parameters(rows).set_index("model")
    assert list(table["parameters"])[:3] == [11_220_132, 23_705_252, 23_177_124]
    assert list(table["parameters_with_heads"])[:2] == [13_011_152, 50_430_928]
    assert table["MFLOP"]["resnet18"] == pytest.approx(1110, rel=0.01)  # 0.56 G multiply-adds
    assert (table["MFLOP_with_heads"] > table["MFLOP"])[:3].all()
    for name in ("parameters_with_heads", "MFLOP_with_heads"):
        assert table[name].isna().tolist() == [False, False, False, True]


# --- evaluation


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    params = params_of(methods=["none", "dmfl", "byot", "pskd+byot_from2+dmfl"])
    lab = Lab.of(params, folder)
    return lab, params, lab.complete(runs(params))


def test_every_taught_head_is_measured(finished):
    lab, _, rows = finished
    record = data.load("digits")
    expected = {"byot": ["stage1", "stage2"], "pskd+byot_from2+dmfl": ["stage2"]}
    images = torch.from_numpy(record.test_images).permute(0, 3, 1, 2) / 255
    for run, row in zip(runs(finished[1]), rows, strict=True):
        sides = expected.get(run.labels["method"])
        if sides is None:
            assert "heads" not in row["metrics"]
            continue
        with torch.no_grad():
            view = lab.store.network(run)(images)
        logits = {name: view.side_logits[name] for name in sides} | {"final": view.logits}
        probs = {name: metrics.softmax(one.half()) for name, one in logits.items()}
        probs["ensemble"] = sum(probs.values()) / len(probs)
        assert row["metrics"]["heads"].keys() == probs.keys()
        for name, found in row["metrics"]["heads"].items():
            hits = probs[name].argmax(1) == record.test_labels
            assert found["acc"] == pytest.approx(hits.mean(), abs=3e-3)
            assert found["nll"] == pytest.approx(metrics.nll(probs[name], record.test_labels), 1e-3)
            assert found["ece"] == pytest.approx(metrics.ece(probs[name], record.test_labels), 0.02)
        brief = row["metrics"]["heads"]["final"]
        assert brief == {name: row["metrics"]["test"][name] for name in brief}


def test_without_side_heads_nothing_is_new(finished):
    predictions = finished[0].store.path(runs(finished[1])[0], "predictions")
    names = {"test_labels", "test_logits", "val_labels", "val_logits", "balanced_labels"}
    assert set(load_file(predictions)) == names | {"balanced_logits"}
    assert finished[2][0]["evaluation"] == 1


def test_heads_are_verified_and_measured_again(finished):
    lab, params, rows = finished
    findings = verify(lab.store.root)
    assert (findings.wrong, findings.recomputed) == ([], 4)
    run = runs(params)[2]
    assert lab.evaluate(run)["metrics"] == rows[2]["metrics"]


def test_seconds_an_epoch(digits):
    made = runs(params_of(methods=["none", "pskd+byot"]))
    found = train.seconds_an_epoch(made, *digits, rounds=2, steps=1)
    assert found.keys() == {run.id for run in made}
    assert all(len(seconds) == 2 for seconds in found.values())
    assert all(0 < one < 60 for seconds in found.values() for one in seconds)
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        train.seconds_an_epoch(made, *digits, rounds=0)


def test_waiting_for_a_core_is_no_cost_of_a_method(digits, monkeypatch):
    """One thread on a CPU is timed by what it computed: sleep, as a busy core makes it, is free."""
    made = runs(params_of(methods=["none"]))
    step = train.Cohort.step

    def slow(cohort, batch):
        time.sleep(0.5)
        step(cohort, batch)

    monkeypatch.setattr(train.Cohort, "step", slow)
    steps = len(digits[1].train_indices) // made[0].recipe.batch_size
    for threads, waits in ((1, False), (2, True)):
        found = train.seconds_an_epoch(made, *digits, threads=threads, rounds=1, steps=1)
        assert (found[made[0].id][0] > 0.5 * steps) == waits


# --- tables


def fake_row(run, number=None, ece=None, T=1.3):
    """A row whose numbers are a function of the run; number(method, seed): its error; ece(...):
    its ECE, a third of which one temperature leaves."""
    noise = np.random.default_rng(int(run.id[-8:], 16))
    method = run.labels["method"]
    error = number(method, run.seed) if number else 0.3 + 0.02 * noise.normal()
    drawn, nll = noise.uniform(0.02, 0.1), noise.uniform(0.8, 1.2)
    ece = ece(method, run.seed) if ece else drawn
    test = {"acc": 1 - error, "top5_error": error / 4, "nll": nll, "ece": ece, "ece_10": 0.9 * ece}
    test |= {"aurc": 100 * error, "e_aurc": 40 * error, "ece_floor": 0.01}
    row = {"test": test, "temperature": {"T": T, "nll": 0.9 * nll, "ece": ece / 3}}
    if "byot" in method:
        brief = {"nll": nll, "ece": ece, "ece_floor": 0.01}
        gaps = {"ensemble": -0.01 - run.seed / 1000, "final": 0.0, "stage1": 0.1, "stage2": 0.05}
        row["heads"] = {name: brief | {"acc": 1 - error - gap} for name, gap in gaps.items()}
    taught = method not in ("none", "pskd")
    shape = {"name": run.model, "num_classes": 100, "in_channels": 3, "image_size": 32}
    return {
        "id": run.id, "folder": run.folder, "labels": run.labels, "run": run.identity(),
        "network": shape, "metrics": row, "flags": ["KD is off (first epoch)"] if taught else [],
        "kd_share": {"first": 1.0, "last": 2.0} if taught else {}, "files": {},
        **ORIGIN,
        "data": ORIGIN["data"] | {"name": "cifar100"}
        | {"class_counts": [450] * 100, "val_counts": [50] * 100, "test_counts": [100] * 100},
    }  # fmt: skip


CIFAR = {"data": "cifar100", "models": ["resnet20"], "imbalance_factor": None, "seeds": [0, 1, 2]}
MORE = {
    "depth": {"models": ["resnet20_2stages"], "methods": ["none", "byot"], "seeds": [0]},
    "seeds": {"methods": ["none", "pskd"], "seeds": [3]},
}


@pytest.fixture(scope="module")
def study():
    params = params_of(**CIFAR, grids=MORE)
    return params, [fake_row(run) for run in runs(params)]


def interval(values):
    if len(values) == 1:
        return values[0], math.nan
    half = T975[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), half


def error(rows, model, method, seed):
    (row,) = (
        row
        for row in rows
        if row["labels"] == {"model": model, "method": method} and row["run"]["seed"] == seed
    )
    return 1 - row["metrics"]["test"]["acc"]


def line(table, **labels):
    for name, value in labels.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_cells_and_differences_against_loops(study):
    params, rows = study
    found = report.deterministic_tables(rows, params)
    assert len(found["cells"]) == 8 + 2
    assert len(found["versus_baseline"]) == 7 + 1
    for method in ("byot", "pskd+dmfl"):
        values = [error(rows, "resnet20", method, seed) for seed in range(3)]
        gaps = [value - error(rows, "resnet20", "none", at) for at, value in enumerate(values)]
        cell = line(found["cells"], model="resnet20", method=method)
        gap = line(found["versus_baseline"], model="resnet20", method=method)
        expected = pytest.approx(interval(values))
        assert (cell["top1_error"], cell["top1_error_ci95"]) == expected
        expected = pytest.approx(interval(gaps))
        assert (gap["top1_error_effect"], gap["top1_error_effect_ci95"]) == expected
        assert (cell["seeds"], gap["seeds"], cell["T"]) == (3, 3, 1.3)
        assert cell["ece_after"] == pytest.approx(cell["ece"] / 3)
    gap = line(found["versus_baseline"], model="resnet20", method="byot")
    tests = {
        (row["labels"]["method"], row["run"]["seed"]): row["metrics"]
        for row in rows
        if row["labels"]["model"] == "resnet20"
    }
    values = [
        tests["byot", at]["test"]["ece"] - tests["none", at]["temperature"]["ece"]
        for at in range(3)
    ]
    expected = pytest.approx(interval(values))
    assert (gap["ece_versus_scaled"], gap["ece_versus_scaled_ci95"]) == expected
    alone = line(found["versus_baseline"], model="resnet20_2stages")
    assert (alone["seeds"], math.isnan(alone["top1_error_effect_ci95"])) == (1, True)
    assert line(found["versus_baseline"], model="resnet20", method="pskd")["seeds"] == 4


def test_ablations_stand_against_what_they_vary():
    grids = {
        "heads": {"methods": ["pskd+byot", "pskd+byot_from2"]},
        "depth": {"models": ["resnet20_2stages"], "methods": ["byot"]},
        "seeds": {"methods": ["none"], "seeds": [3, 4]},
    }
    params = params_of(**CIFAR, grids=grids)
    rows = [fake_row(run) for run in runs(params)]
    found = report.deterministic_tables(rows, params)["ablations"]
    pairs = {
        "heads": (("resnet20", "pskd+byot_from2"), ("resnet20", "pskd+byot")),
        "depth": (("resnet20_2stages", "byot"), ("resnet20", "byot")),
    }
    assert list(found["ablation"]) == list(pairs)
    for name, (one, other) in pairs.items():
        gaps = [error(rows, *one, seed) - error(rows, *other, seed) for seed in range(3)]
        at = line(found, ablation=name)
        ends = at["top1_error_effect"], at["top1_error_effect_ci95"]
        assert ends == pytest.approx(interval(gaps))


def test_effects_against_pairs(study):
    params, rows = study
    found = report.deterministic_tables(rows, params)["effects"]
    assert list(found["model"].unique()) == ["resnet20"]  # two stages have no factorial

    def value(seed, *parts):
        method = "+".join(part for part in ("pskd", "byot", "dmfl") if part in parts) or "none"
        return error(rows, "resnet20", method, seed)

    main, two, three = [], [], []
    for s in range(3):  # seed 3 has not all eight
        others = [(), ("byot",), ("dmfl",), ("byot", "dmfl")]
        main.append(statistics.mean(value(s, "pskd", *o) - value(s, *o) for o in others))
        slopes = {
            dmfl: value(s, "pskd", "byot", *dmfl) - value(s, "byot", *dmfl)
            - value(s, "pskd", *dmfl) + value(s, *dmfl)
            for dmfl in ((), ("dmfl",))
        }  # fmt: skip
        two.append(statistics.mean(slopes.values()))
        three.append(slopes["dmfl",] - slopes[()])
    for name, values in (
        ("pskd", main), ("pskd x byot", two), ("pskd x byot x dmfl", three),
    ):  # fmt: skip
        one = line(found, effect=name)
        ends = one["top1_error_effect"], one["top1_error_effect_ci95"]
        assert ends == pytest.approx(interval(values))
        assert one["seeds"] == 3


def test_effects_that_were_put_in_are_found():
    """error = 0.3 + a pskd + b byot + c dmfl + d pskd byot + e pskd byot dmfl, + the seed's."""

    def number(method, seed):
        p, b, d = (part in method.split("+") for part in ("pskd", "byot", "dmfl"))
        return 0.3 - 0.02 * p + 0.01 * b + 0.005 * d - 0.004 * p * b + 0.002 * p * b * d + seed / 50

    params = params_of(**CIFAR)
    rows = [fake_row(run, number) for run in runs(params)]
    found = report.deterministic_tables(rows, params)["effects"].set_index("effect")
    effects = found["top1_error_effect"]
    assert effects["pskd"] == pytest.approx(-0.02 - 0.004 / 2 + 0.002 / 4)
    assert effects["dmfl"] == pytest.approx(0.005 + 0.002 / 4)
    assert effects["pskd x byot"] == pytest.approx(-0.004 + 0.002 / 2)
    assert effects["pskd x byot x dmfl"] == pytest.approx(0.002)
    assert np.allclose(found["top1_error_effect_ci95"], 0, atol=1e-12)  # the seed's part is paired


def test_a_missing_row_is_never_averaged_away(study):
    params, rows = study
    gone = next(row for row in rows if row["labels"]["method"] == "byot+dmfl")
    found = report.deterministic_tables([row for row in rows if row is not gone], params)
    assert (found["effects"]["seeds"] == 2).all()
    cell = line(found["cells"], model="resnet20", method="byot+dmfl")
    assert (cell["seeds"], cell["flags"]) == (2, "a row is missing; KD is off (first epoch)")
    # Without a seed that has all eight the factorial is empty, and no figure is drawn of it.
    few = [row for row in rows if row["labels"]["method"] in ("none", "pskd")]
    assert (report.deterministic_tables(few, params)["effects"]["seeds"] == 0).all()
    assert set(report.figures(few, params, "")) == {"versus_baseline"}
    with pytest.raises(ValueError, match="none of the 0 is a run of these params"):
        report.deterministic_tables([], params)


def test_heads_stand_from_input_to_output(study):
    params, rows = study
    table = report.deterministic_tables(rows, params)["heads"]
    part = table[(table["model"] == "resnet20") & (table["method"] == "byot")]
    assert list(part["head"]) == ["stage1", "stage2", "final", "ensemble"]
    values = [1 - error(rows, "resnet20", "byot", seed) - 0.1 for seed in range(3)]
    one = part.iloc[0]
    assert (one["acc"], one["acc_ci95"]) == pytest.approx(interval(values))
    assert set(table["method"]) == {method for method in SUBSETS if "byot" in method}
    gap = part.iloc[-1]  # of the ensemble, from the final head of the same seed
    assert (gap["acc_effect"], gap["acc_effect_ci95"]) == pytest.approx(
        interval([0.01, 0.011, 0.012])
    )
    assert math.isnan(part.iloc[2]["acc_effect"])


# --- what was published


def test_the_published_table_in_pairs():
    """The reading that the specification gives: 12 pairs a part."""
    theirs = published.published_cells()
    assert len(theirs) == 24
    table = published.pairs(theirs)
    assert (table["pairs"] == 12).all()
    top1, ece = "top-1 error, points", "ECE, points"
    lower = {(one["part"], one["metric"]): one["lower"] for one in table.to_dict("records")}
    assert (lower["pskd", top1], lower["pskd", "NLL"], lower["pskd", ece]) == (12, 12, 9)
    assert (lower["byot", top1], lower["byot", ece]) == (9, 1)
    assert line(table, part="byot", metric=ece)["mean_gap"] == pytest.approx(3.8, abs=0.05)
    noise = line(table, part="dmfl", metric=top1)
    assert noise["gap_size"] == pytest.approx(0.54, abs=0.005)
    assert noise["largest_gap"] == pytest.approx(1.83)


def test_ours_stand_beside_the_published(study):
    params, rows = study
    table = report.deterministic_tables(rows, params)["published"]
    one = line(table, model="resnet20", method="byot")
    assert one["published model"] == "resnet18"  # the smallest there is
    assert one["top1_error_published"] == pytest.approx(0.2189)
    assert one["top1_error_effect_published"] == pytest.approx(0.2189 - 0.2141)
    assert one["ece_10_effect_published"] == pytest.approx(0.1124 - 0.0514)
    # Inside seeds: the plain network's fourth seed has no partner and does not count.
    gaps = [
        error(rows, "resnet20", "byot", seed) - error(rows, "resnet20", "none", seed)
        for seed in range(3)
    ]
    ends = one["top1_error_effect"], one["top1_error_effect_ci95"]
    assert ends == pytest.approx(interval(gaps))
    assert one["seeds"] == 3
    same = pd.DataFrame({"model": "resnet50", "method": ["none", "byot"], "seeds": 1})
    same = same.assign(**dict.fromkeys(published.THEIRS, 0.5))
    theirs = published.published_cells()
    beside = published.beside(same, pd.DataFrame(), theirs, "cifar100")
    assert list(beside["published model"]) == ["resnet50"] * 2
    assert beside["top1_error_effect"].isna().all()
    assert published.beside(same, pd.DataFrame(), theirs, "digits").empty


# --- the page


def test_the_page(study, tmp_path, monkeypatch):
    params, rows = study
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, folder, name: drawn.append(name))
    made = [run for run in runs(params) if run.seed == 0]
    assert not report.has_seconds(made, params, tmp_path)
    times = {run.id: [2.0 + at, 3.0 + at] for at, run in enumerate(made)}
    report.write_seconds(made, times, "CPU", params, tmp_path)
    assert report.has_seconds(made, params, tmp_path)
    text = report.write(rows, params, tmp_path).read_text()
    for part in ("PS-KD + BYOT + DMFL", "The three parts", "Heads", "What was published", "±"):
        assert part in text
    expected = {"effects", "versus_baseline", "error_vs_seconds", "by_head"}  # no predictions
    assert set(drawn) == expected
    assert "CPU seconds an epoch" not in text  # is the figure's
    assert "computing time of one thread" in text
    found = report.deterministic_tables(rows, params)
    stored = {path.stem: path.read_bytes() for path in (tmp_path / STEM).glob("*.csv")}
    assert stored.keys() == {name for name, table in found.items() if len(table)} | {"seconds"}
    again = report.write(rows[::-1], params, tmp_path)  # the order of the rows does not matter
    assert again.read_text() == text
    assert {path.stem: path.read_bytes() for path in (tmp_path / STEM).glob("*.csv")} == stored


def test_the_page_of_real_runs(finished):
    lab, params, rows = finished
    page = report.write(rows, params, lab.store.root)
    folder = lab.store.root / STEM
    assert (folder / "figures" / "reliability_by_head.png").exists()
    assert "BYOT" in page.read_text()
    assert not (folder / "effects.csv").exists()  # four methods are no factorial


def test_a_study_of_one_plain_network_has_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "save", lambda *figure: None)
    params = params_of(**CIFAR | {"seeds": [0]}, methods=["none"])
    page = report.write([fake_row(run) for run in runs(params)], params, tmp_path)
    assert "baseline" in page.read_text()


# --- times


def test_times_are_compared_inside_rounds(tmp_path):
    made = runs(params_of(methods=["none", "pskd", "byot"]))
    plain, pskd, byot = (run.id for run in made)
    # The second round is twice as slow for all, the third for one of them only.
    found = {plain: [1.0, 2.0, 1.1], pskd: [1.1, 2.2, 2.2], byot: [1.5, 3.0, 1.65]}
    params = params_of()
    report.write_seconds(made, found, "CPU", params, tmp_path)
    table = pd.read_csv(tmp_path / STEM / "seconds.csv").set_index("method")
    assert list(table["seconds_an_epoch"]) == [1.0, 1.1, 1.5]
    assert list(table["slower"]) == pytest.approx([1.0, 1.1, 1.5])
    assert (table["slower_low"]["pskd"], table["slower_high"]["pskd"]) == pytest.approx((1.1, 2.0))
    assert set(table["clock"]) == {"CPU"}
    assert report.has_seconds(made, params, tmp_path)
    longer = params_of(epochs=params.epochs + 1)  # other runs of the same names: not these times
    assert not report.has_seconds(runs(longer), longer, tmp_path)
    assert report.stored_seconds(longer, tmp_path).empty
    table[["model", "seconds_an_epoch"]].to_csv(tmp_path / STEM / "seconds.csv")  # an older form
    assert not report.has_seconds(made, params, tmp_path)


# --- figures


def colours(axes):
    """The face and edge colour of each point, from top to bottom of the figure's lines."""
    points = [one.lines[0] for one in axes.containers]
    return [(point.get_markerfacecolor(), point.get_markeredgecolor()) for point in points]


def words_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_each_model_of_several_has_a_panel_with_its_name():
    table = pd.DataFrame({
        "model": ["a", "b"], "method": "BYOT", "clock": "CPU", "seconds_an_epoch": 1.0,
        "top1_error": 0.3, "top1_error_ci95": 0.01,
    })  # fmt: skip
    figure = drawings.error_vs_seconds(table, ["BYOT"], "title")
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]


def test_hollow_markers_and_thin_lines_are_seen_on_white():
    # Contrast as WCAG 2.2 defines it, at least 2 to 1; relative luminance of linear RGB.
    for colour in plots.canvas.PALETTE:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        assert 1.05 / (np.dot([0.2126, 0.7152, 0.0722], linear) + 0.05) > 2


def test_a_figure_decides_nothing_without_an_interval():
    names = ["lower", "higher", "holds 0", "one seed"]
    table = pd.DataFrame({"name": names})
    for metric in drawings.EFFECTS:
        table[f"{metric}_effect"] = [-0.2, 0.2, 0.2, -0.2]
        table[f"{metric}_effect_ci95"] = [0.1, 0.1, 0.3, math.nan]
    figure = drawings.factor_effects(table, "title")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names
    for axes in figure.axes:
        (better, _), (worse, _), (open_, _), (hollow, edge) = colours(axes)
        assert (better, worse) == (plots.BLUE, plots.RED)
        assert open_ == edge != hollow == "white"
    assert len(figure.legends[0].get_texts()) == 4
    alone = drawings.factor_effects(table.iloc[3:], "title")
    assert words_of(alone) == ["1 seed: no interval"]


def test_a_method_looks_the_same_in_every_figure():
    methods = ["baseline", "PS-KD", "BYOT"]
    table = pd.DataFrame({
        "model": "m", "method": methods, "clock": "CPU", "seconds_an_epoch": [1.0, 1.1, 1.5],
        "top1_error": [0.3, 0.28, 0.29], "top1_error_ci95": [0.01, 0.01, math.nan],
    })  # fmt: skip
    figure = drawings.error_vs_seconds(table, methods, "title")
    assert words_of(figure) == [*methods, drawings.ALONE]  # BYOT is hollow
    assert drawings.ALONE not in words_of(drawings.error_vs_seconds(table[:2], methods, "title"))
    (axes,) = figure.axes
    assert not axes.get_title()  # a single model is in the figure's title
    assert axes.get_xlabel() == "CPU seconds an epoch"
    ends = [one.lines[0].get_xydata()[0] for one in axes.containers]
    np.testing.assert_allclose(ends, [[1.0, 30.0], [1.1, 28.0], [1.5, 29.0]])
    byot = colours(axes)[2]
    heads = pd.DataFrame({"method": "BYOT", "head": ["stage1", "final", "ensemble"]})
    heads = heads.assign(acc=[0.5, 0.6, 0.7], ece=0.1, acc_ci95=0.01, ece_ci95=math.nan)
    figure = drawings.by_head(heads, {"acc": 0.55, "ece": 0.05}, methods, "title")
    accuracy, ece = figure.axes
    assert [label.get_text() for label in accuracy.get_xticklabels()] == list(heads["head"])
    points = [one.lines[0].get_xydata()[0, 1] for one in accuracy.containers]
    assert points == pytest.approx([50, 60, 70])
    assert {edge for _, edge in colours(accuracy)} == {byot[1]}
    assert {face for face, _ in colours(ece)} == {"white"}  # no interval
    assert words_of(figure) == ["BYOT", "plain network", drawings.ALONE]
    assert accuracy.lines[-1].get_ydata()[0] == pytest.approx(55)  # the plain network


# --- the conclusion


def told(number=None, ece=None, seeds=5, times=None, T=1.3, **changes):
    """The answer of a study whose rows have these numbers."""
    params = params_of(**CIFAR | {"seeds": list(range(seeds))} | changes)
    rows = [fake_row(run, number, ece, T) for run in runs(params)]
    found = report.deterministic_tables(rows, params)
    clocked = pd.DataFrame(columns=["model", "method", "slower"])
    if times:
        clocked = pd.DataFrame({"model": "resnet20", **times})
    return conclusion.answer(found, clocked, params)


GAINS = {"none": 0.0, "pskd": -0.02, "byot": 0.03, "dmfl": 0.0, "pskd+byot+dmfl": -0.03}


def gains(method, seed):
    """PS-KD and all three better, BYOT worse, DMFL neither: +1 point and -1 point in turn."""
    return 0.3 + seed / 100 + GAINS[method] + 0.01 * (-1) ** seed * (method == "dmfl")


def test_the_conclusion_says_what_is_better_worse_and_undecided():
    methods = list(GAINS)
    times = {"method": methods, "slower": [1.0, 1.02, 1.5, 1.4, 1.6]}
    errors, _, ensemble = told(gains, times=times, methods=methods)
    assert errors.startswith(
        "resnet20, 1 epoch: top-1 error against the plain network's 32.00 ± 1.96 %:"
    )
    assert (
        "lower with PS-KD (-2.00 ± 0.00 points) and PS-KD + BYOT + DMFL (-3.00 ± 0.00 points), "
        "higher with BYOT (+3.00 ± 0.00 points), undecided with DMFL (+0.20 ± 1.36 points) "
        "(5 seeds, mean ± half of the 95 % t interval)."
    ) in errors
    assert errors.endswith(
        "For accuracy: PS-KD + BYOT + DMFL, 1.60 times the time of an epoch, has the lowest mean "
        "error; the cheapest that is clearly better than plain is PS-KD, 1.02 times the time of an "
        "epoch."
    )
    assert "accuracy higher with BYOT (+1.20 ± 0.20 points) and PS-KD + BYOT + DMFL" in ensemble


def test_the_conclusion_takes_nothing_where_nothing_helps():
    def number(method, seed):
        return 0.3 + 0.01 * (method != "none") + seed / 500 * ("byot" in method)

    errors = told(number, methods=["none", "pskd", "byot"])[0]
    assert "higher with PS-KD (+1.00 ± 0.00 points) and BYOT (+1.40 ± 0.39 points)" in errors
    assert "lower" not in errors
    assert errors.endswith(
        "For accuracy none of these is worth having: the plain network is clearly better than each."
    )


def test_the_conclusion_says_what_its_seeds_resolve_where_one_is_undecided():
    def number(method, seed):
        return 0.3 + (0.01 if method == "pskd" else 0.01 * (-1) ** seed * (method == "byot"))

    errors = told(number, methods=["none", "pskd", "byot"])[0]
    assert "undecided with BYOT (+0.20 ± 1.36 points)" in errors
    assert errors.endswith(
        "For accuracy none is clearly worth having: these seeds resolve ± 0.68 points (median "
        "half-width)."
    )


@pytest.mark.parametrize(
    ("shift", "T", "expected", "scaled"),
    [
        # An ECE that rises because of underconfidence is said to be that.
        (
            0.03,
            0.6,
            "higher with PS-KD (+0.0300 ± 0.0000, underconfident: T 0.60)",
            "no method has",
        ),
        (0.03, 1.6, "higher with PS-KD (+0.0300 ± 0.0000, overconfident: T 1.60)", "no method has"),
        (-0.03, 1.3, "lower with PS-KD (-0.0300 ± 0.0000)", "no method has"),  # 0.06 against 0.03
        (-0.07, 1.3, "lower with PS-KD (-0.0700 ± 0.0000)", "PS-KD has"),  # 0.02 against 0.03
    ],
)
def test_the_conclusion_weighs_calibration_against_one_temperature(shift, T, expected, scaled):
    def ece(method, seed):
        return 0.09 + seed / 1000 + shift * (method == "pskd")

    text = told(ece=ece, T=T, methods=["none", "pskd"])[1]
    assert f"ECE as trained (plain: 0.0920) {expected}; after one temperature each" in text
    assert f"As trained, {scaled} a clearly lower ECE than the plain network" in text


@pytest.mark.parametrize("seeds", [1, 3])
def test_few_seeds_decide_nothing(seeds):
    texts = told(seeds=seeds)
    assert texts[0].startswith("resnet20, 1 epoch, against the plain network: top-1 error ")
    assert "descriptive" in texts[0]
    assert texts[1].startswith("resnet20, 1 epoch, ensemble of all heads against the final head: ")
    assert not any(
        word in text for text in texts for word in ("undecided", "lower with", "clearly")
    )


def test_the_most_sure_methods_are_judged_and_no_others():
    """Eight subsets once and four of them five times: the four are judged, on their five seeds."""
    grids = {"seeds": {"methods": ["none", "pskd", "byot"], "seeds": [1, 2, 3, 4]}}
    errors, probabilities, ensemble = told(seeds=1, grids=grids)
    assert "(5 seeds, mean ± half of the 95 % t interval)" in errors
    for text in (errors, probabilities):
        assert "PS-KD" in text or "all" in text
        assert "DMFL" not in text
    assert "BYOT" in ensemble or "all" in ensemble
    # The factorial has one seed: its effects are no part of the answer.
    assert not any("averaged over the others" in text for text in (errors, probabilities, ensemble))


def test_parts_are_averaged_where_all_subsets_have_five_seeds():
    def number(method, seed):
        p, b = "pskd" in method, "byot" in method
        return 0.3 + seed / 100 - 0.02 * p - 0.01 * p * b + seed / 1000 * ("dmfl" in method)

    (text,) = (text for text in told(number) if "averaged over the others" in text)
    assert "top-1 error lower with PS-KD (-2.50 ± 0.00 points) and BYOT (-0.50 ± 0.00" in text
    assert "higher with DMFL (+0.20 ± 0.20 points)" in text
    assert "interactions beyond 0 in top-1 error: PS-KD x BYOT (-1.00 ± 0.00 points)" in text
