"""The benchmarks measure what they say: same networks, same steps; pages match the files."""

import argparse
import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from benchmarks import cached, cohorts, common, grid_hours, growth, plain, precision, readme
from kdlib import data, models, train, tune
from kdlib.config import Augment
from kdlib.plan import ROOT
from kdlib.store import Store

KINDS = {
    "teacher, no mixup": 4, "teacher, mixup": 4, "plain students, no mixup": 4,
    "students, no mixup": 64, "plain students, mixup": 4, "students, mixup": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    found = common.parser("").parse_args(["--steps", "1", "--repeats", "2"])
    return argparse.Namespace(**vars(found) | {"out": tmp_path_factory.mktemp("results")})


def test_a_stopwatch_counts_the_step_and_the_next_batch_but_not_the_warm_up():
    clock = itertools.accumulate([0, 100, 100, 7, 9, 8])  # two slow steps first
    watch = tune.Stopwatch("cpu", lambda: next(clock))
    assert list(watch.batches(range(100), steps=3)) == list(range(tune.WARM + 4))
    assert watch.seconds == 8


def test_a_ratio_is_taken_inside_each_repeat():
    found = common.ratio([10.0, 40.0, 30.0], [5.0, 10.0, 10.0])
    assert found == {"median": 3.0, "min": 2.0, "max": 4.0}


def test_timers_take_turns():
    order = []
    timers = {name: lambda name=name: order.append(name) or 1.0 for name in "ab"}
    assert common.interleaved(timers, 2) == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
    assert order == ["a", "b", "a", "b"]


def test_the_plain_loop_and_ours_start_from_the_same_loss(options):
    """What is compared is the same training: same networks, same images, same objective."""
    record = data.load("digits")
    settings = {"data": "digits", "val_fraction": 0.0, "kd_methods": "kd", "augment": Augment()}
    runs = common.students(**settings, teacher_model="resnet8_half", batch_size=32)
    shared, selection = common.networks(runs, record), common.whole(record)
    cohort = train.Cohort(runs, record, selection, shared, "cpu")
    (student,) = cohort.students
    student.views = "live"
    draw = next(cohort.stream.draws(1, 3))
    batch = cohort.stream.batch(draw)
    initial = {name: value.clone() for name, value in student.network.state_dict().items()}
    cohort.step(draw)
    ours = student.trained.network.state_dict()

    network = train.build_network(runs[0], record)
    network.load_state_dict(initial)
    rate = torch.optim.SGD
    torch.optim.SGD = lambda weights, **given: rate(
        weights, **given | {"lr": cohort.lr.item(), "nesterov": True}
    )
    try:
        plain.loop(network, shared, [(batch.images, batch.targets)], "cpu")
    finally:
        torch.optim.SGD = rate
    for name, value in network.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


def test_images_of_the_plain_loader_are_those_of_the_set():
    record = data.load("digits")
    image, label = plain.Images(record, Augment())[3]
    assert label == record.train_labels[3]
    expected = torch.from_numpy(record.train_images[3]).permute(2, 0, 1) / 255
    torch.testing.assert_close(image, expected)


def test_cohorts_and_cached_teachers_give_rows_of_a_table(options):
    record = data.load("digits")
    options = argparse.Namespace(**vars(options) | {"sizes": [1, 2], "precision": "fp32"})
    cohorts.PAIRS["digits"] = ("resnet8_half", "resnet8_half")
    rows = cohorts.rows(options, "digits", record)
    del cohorts.PAIRS["digits"]
    assert [row["cohort"] for row in rows] == [1, 2]
    assert rows[0]["gain over one"] == {"median": 1.0, "min": 1.0, "max": 1.0}

    run = cached.taught("digits", "resnet8_half", ("resnet8_half", "resnet8"))
    row = cached.row(run, record, common.whole(record), options)
    assert row["teachers"] == 2
    live = cached.taught("digits", "resnet8_half", ("resnet8_half", "resnet8"), method="camkd")
    hints = cached.row(live, record, common.whole(record), options)
    assert list(hints) == list(row) == list(cached.HEAD)
    assert (hints["method"], hints["cached (ms)"], hints["live / cached"]) == ("camkd", "", "")
    assert hints["plain (ms)"] > 0
    common.save("cached", [row, hints], options)
    result = json.loads((options.out / "cached.json").read_text())
    assert result["rows"] == [row, hints]
    assert result["machine"]["torch"] == torch.__version__
    assert common.table([row, hints]) in readme.block("cached.json", options.out)


def test_the_hours_of_a_grid_are_those_of_its_epochs(options, monkeypatch):
    """An epoch takes 2 s and everything else 3 s."""
    shape = {"profile": "digits", "setting": "", "epochs": 4, "precision": None}
    options = argparse.Namespace(**vars(options) | shape | {"cohort_size": None})
    monkeypatch.setattr(
        grid_hours, "seconds", lambda options, epochs: dict.fromkeys(KINDS, 3 + 2 * epochs)
    )
    *found, total = grid_hours.rows(options)
    assert {row["kind"]: row["networks"] for row in found} == KINDS
    for row in found:
        cohorts = 4 if row["kind"].startswith("students") else 1
        assert row["epochs"] > 2 * options.epochs
        assert row["hours"] == pytest.approx(cohorts * (3 + 2 * row["epochs"]) / 3600)
    assert total["networks"] == 144
    assert total["hours"] == pytest.approx(sum(row["hours"] for row in found))


def test_the_hours_are_measured_on_real_cohorts(options):
    shape = {"profile": "digits", "setting": "", "epochs": 1, "precision": None}
    options = argparse.Namespace(**vars(options) | shape | {"cohort_size": None})
    small = {"teacher_losses": ["ce"], "student_losses": ["ce"], "kd_methods": ["kd"]}
    small |= {"mixup": [False], "controls": {}, "warmup_epochs": 0}
    found = grid_hours.seconds(options, 1, **small)
    assert list(found) == ["teacher, no mixup", "students, no mixup"]
    assert all(0 < one < 60 for one in found.values())


def test_the_matmul_rate_is_a_rate():
    assert 1e8 < common.matmul_rate(torch.float32, "cpu", size=256) < 1e15


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.parent.name)
def test_a_page_is_what_the_results_say(page):
    text = page.read_text(encoding="utf-8")
    assert readme.render(text) == text, "run `python -m benchmarks.readme`"
    assert readme.BLOCK.search(text)


def test_a_block_without_results_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no file step_\*.json"):
        readme.render("<!-- results: step_*.json -->\n<!-- end -->", tmp_path)


def rows(cells, seeds, shift, seed=0):
    """Rows as stored, whose bf16 metrics are the fp32 ones plus `shift` and some noise."""
    draws, made = np.random.default_rng(seed), []
    for cell, number in itertools.product(cells, seeds):
        fp32 = draws.random(3)
        bf16 = fp32 + shift + 0.01 * draws.standard_normal(3)
        for name, values in (("fp32", fp32), ("bf16", bf16)):
            test = dict(zip(precision.METRICS, values, strict=True))
            one = {"id": f"{cell}{number}{name}", "labels": {"kd_method": cell}}
            one |= {"run": {"seed": number, "precision": name}, "metrics": {"test": test}}
            made.append(one)
    return made


def test_precision_pairs_inside_a_seed():
    made = rows(["kd", "none"], range(5), 0.1)
    seconds = {one["id"]: 4.0 if "fp32" in one["id"] else 2.0 for one in made}
    found = precision.differences(precision.table(made, seconds)).set_index("cell")
    change = [
        bf16["metrics"]["test"]["nll"] - fp32["metrics"]["test"]["nll"]
        for fp32, bf16 in zip(made[::2], made[1::2], strict=True)
    ]
    low, high = stats.t.interval(0.95, 4, np.mean(change[:5]), stats.sem(change[:5]))
    assert found.loc["KD", "nll"] == pytest.approx(np.mean(change[:5]))
    assert found.loc["KD", "nll_ci95"] == pytest.approx((high - low) / 2)
    by_seed = np.mean([change[:5], change[5:]], axis=0)
    assert found.loc["all cells", "nll"] == pytest.approx(by_seed.mean())
    width = stats.t.ppf(0.975, 4) * stats.sem(by_seed)
    assert found.loc["all cells", "nll_ci95"] == pytest.approx(width)
    assert (found["n"] == 5).all()
    assert (found["seconds_fp32_over_bf16"] == 2).all()


def test_precision_counts_only_whole_pairs():
    made = rows(["kd", "none"], range(3), 0.0)
    found = precision.differences(precision.table(made[1:], {})).set_index("cell")
    assert found["n"].to_dict() == {"KD": 2, "no KD": 3, "all cells": 2}
    (alone,) = precision.differences(precision.table(made[:2], {})).to_dict("records")[:1]
    assert alone["n"] == 1
    assert pd.isna(alone["acc_ci95"])
    with pytest.raises(ValueError, match=r"found \['fp32'\]"):
        precision.differences(precision.table(made[::2], {}))


def test_nothing_of_a_peer_is_needed_to_import_the_scripts():
    from benchmarks import peer, utilisation
    from benchmarks import slice as whole_slice

    assert {*peer.METHODS} == {*whole_slice.METHODS}
    assert utilisation.Cohort is train.Cohort
    for teacher, student in peer.PAIRS.values():
        assert {teacher, student} <= {*models.names()}


def test_the_table_of_the_precision_test_is_what_its_rows_give():
    rows = Store(ROOT / "results" / "precision").rows()
    found = precision.differences(precision.table(rows, {})).set_index("cell")
    names = {
        "teacher CE": "T:CE", "no KD, CE": "no KD S:CE", "no KD, BS": "no KD S:BS",
        "KD, CE": "KD T:CE S:CE", "KD, BS": "KD T:CE S:BS", "all cells": "all cells",
    }  # fmt: skip
    text = (ROOT / "benchmarks" / "README.md").read_text()
    for name, cell in names.items():
        line = found.loc[cell]
        acc = f"{100 * line['acc']:+.2f} +- {100 * line['acc_ci95']:.2f}"
        nll = f"{line['nll']:+.3f} +- {line['nll_ci95']:.3f}"
        ece = f"{line['ece']:+.4f} +- {line['ece_ci95']:.4f}"
        assert f"| {name} | {acc} | {nll} | {ece} |" in text


def test_the_headline_of_cached_teachers_is_that_of_its_own_method():
    folder = common.HERE / "results"
    rows = json.loads((folder / "cached.json").read_text())["rows"]
    told = {line["what"]: line for line in readme.headlines(folder)}
    cacheable = [row for row in rows if row["plain / cached"]]
    assert {row["method"] for row in cacheable} == {"logits", "camkd_pooled"}
    for row in cacheable:
        count = f"{row['teachers']} teacher{'s' * (row['teachers'] > 1)}"
        line = told[f"cached {row['method']}, {count}, Fashion-MNIST"]
        assert line[row["precision"]] == f"{row['plain / cached']['median']:.1f}x"


def test_growth_is_measured_in_processes_of_their_own(options):
    options = argparse.Namespace(**vars(options) | {"precision": "fp32"})
    row = growth.row(options, 20_000, 1)
    assert [row["training images"], row["students"]] == [20_000, 1]
    assert row["peak memory (MB)"] > 20_000 * 3 * 32 * 32 / 2**20  # the images alone
    steps = row["an epoch of all (s)"] / row["ms a student and step"] * 1000
    assert steps == pytest.approx(20_000 // 64)
