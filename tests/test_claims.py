"""Published claims: the file, readings of published tables, the rule of verdicts, the section."""

import copy
import dataclasses
import glob
import itertools
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic import TypeAdapter
from scipy import stats

from kdlib import config, grid, plan, plots, registry, report
from kdlib.plots.claims import REVERSED, forest
from kdlib.registry import STUDIES
from kdlib.report import answers, audit, literature
from kdlib.report import claims as judging
from kdlib.report import pairs as pairing
from kdlib.report.claims import FAILS, HOLDS, ILLUSTRATION, NOT_RUN, UNDECIDED
from kdlib.report.demonstrations import DEMONSTRATIONS
from kdlib.report.pairs import Entry
from kdlib.store import DamagedError
from kdlib.studies import published_claims
from kdlib.studies.published_claims import (
    CLAIMS,
    Analysis,
    Claims,
    Comparison,
    PublishedClaims,
    load_claims,
)

ROOT = Path(__file__).parents[1]
STUDY_OF = {
    "02_students": "kd_calibration",
    "04_self_distillation": "self_distillation",
    "05_multi_teacher_fidelity": "multi_teacher",
    "06_overlapping_teachers": "overlapping_teachers",
}


@pytest.fixture(scope="module")
def claims():
    return load_claims()


# --- the file --------------------------------------------------------------------------------


def test_there_are_enough_claims_of_each_study(claims):
    assert len(claims.claims) >= 20
    for study in STUDY_OF.values():
        assert len(claims.of(study)) >= 4


def test_every_claim_is_complete(claims):
    for claim in claims.claims:
        judged = claim.judged_by
        assert STUDY_OF[judged.notebook] == claim.study, claim.id
        assert set(judged.profiles) <= set(plan.profiles()), claim.id
        assert set(claim.rests_on) <= set(DEMONSTRATIONS), claim.id
        assert judged.level != judged.versus, claim.id
        for analysis in claim.published.analyses:
            assert len(literature.paired(analysis)), claim.id


def test_nothing_is_a_mistake_that_no_claim_rests_on(claims):
    used = {name for claim in claims.claims for name in claim.rests_on}
    assert set(DEMONSTRATIONS) - used == {"footprint"}  # a claim that needs no run


@pytest.fixture(scope="module")
def planned():
    """The runs that the profiles plan, as entries without numbers."""
    found = []
    for profile in ("cifar_small", "fashion", "paper"):
        runs = plan.plan(profile).runs
        for run in runs:
            row = {"run": run.identity(), "labels": run.labels, "folder": run.folder}
            teachers = tuple({teacher.model for teacher in run.teachers})
            found.append(Entry(pairing.facts(row, profile), teachers, row))
    return found


def test_every_comparison_finds_pairs_among_the_planned_runs(claims, planned):
    for claim in claims.claims:
        profiles = {one.facts["profile"] for one, _ in pairing.pairs(planned, claim.judged_by)}
        assert profiles & set(claim.judged_by.profiles), f"{claim.id}: no profile plans its runs"


def test_the_small_profiles_judge_every_claim(claims, planned):
    """At as many seeds as a verdict takes."""
    undecidable = set()
    for claim in claims.claims:
        seeds = [
            {one.facts["seed"] for one, _ in group}
            for group in pairing.by_scale(planned, claim.judged_by)
            if group[0][0].facts["profile"] in set(claim.judged_by.profiles) - {"paper"}
        ]
        if max(map(len, seeds), default=0) < claims.seeds:
            undecidable.add(claim.id)
    assert not undecidable


def test_every_level_exists_in_its_study(claims, planned):
    """Each named value is one that some planned run has, so a typo cannot leave a claim not run."""
    values = {}
    for entry in planned:
        for key, value in entry.facts.items():
            values.setdefault((entry.facts["notebook"], key), set()).add(value)
    for claim in claims.claims:
        judged = claim.judged_by
        for side in (judged.level, judged.versus, judged.where or {}):
            for key, wanted in side.items():
                for value in wanted if isinstance(wanted, tuple) else (wanted,):
                    assert value in values[judged.notebook, key], f"{claim.id}: {key} {value!r}"
        for key in judged.free:
            assert (judged.notebook, key) in values, f"{claim.id}: {key}"


VALID = yaml.safe_load(CLAIMS.read_text(encoding="utf-8"))


def broken(tmp_path, **changes):
    """The repository's file with its first claim alone, changed at dotted keys."""
    first = yaml.safe_load(yaml.safe_dump(VALID["claims"][0]))
    content = {**VALID, "claims": [first]}
    for key, value in changes.items():
        *path, last = key.split(".")
        place = content if path and path[0] == "top" else first
        for part in path[1:] if path and path[0] == "top" else path:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"sorce": "x"}, ["crd_accuracy", "'sorce'", "'source'"]),
        ({"source": None}, ["crd_accuracy", "source"]),
        ({"study": "kd"}, ["crd_accuracy", "study", "'kd'", "known: kd_calibration"]),
        ({"id": "No Name"}, ["id", "No Name"]),
        ({"judged_by.side": "up"}, ["crd_accuracy", "judged_by.side", "'up'"]),
        ({"judged_by.level": {}}, ["crd_accuracy", "judged_by.level"]),
        ({"judged_by.profile": "x"}, ["crd_accuracy", "judged_by.profile"]),
        ({"judged_by.metric": "acu"}, ["crd_accuracy", "'acu'", "'acc'"]),
        ({"published.says": None}, ["crd_accuracy", "published.says"]),
        ({"top.seeds": 0}, ["seeds", "0"]),
        ({"top.studies": {"a": {"name": "x", "source": "y"}}}, ["unknown study", "kd_calibration"]),
        ({"top.claims": {}}, ["claims", "dict"]),
        ({"top.claims": [3]}, ["claim 1", "3"]),
        ({"top.claims": []}, ["claims"]),
        ({"top.margin": 1}, ["'margin'", "'margins'"]),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path, changes, parts):
    path = broken(tmp_path, **changes)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        load_claims(path)
    for part in parts:
        assert part in str(caught.value)


def test_an_id_stands_once(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({**VALID, "claims": VALID["claims"][:1] * 2}), encoding="utf-8")
    with pytest.raises(ValueError, match="'crd_accuracy' stands twice"):
        load_claims(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [", "is no YAML"), (b"- a", "is no mapping"), (b"a: \xff", "is no YAML: 'utf-8' codec")],
)
def test_what_is_no_claims_file(tmp_path, content, message):
    path = tmp_path / "claims.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"claims\.yaml {message}"):
        load_claims(path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_claims(tmp_path / "nowhere.yaml")


# --- what the published tables say -----------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "sentence"),
    [
        ("crd_accuracy", "cifar10 IF 50: +1.57 ± 0.09 (28 of 28 pairs), in favour"),
        ("crd_accuracy", "cifar10 IF 100: +1.67 ± 0.075 (28 of 28 pairs), in favour"),
        ("rkd_accuracy", "cifar10 IF 50: -0.124 ± 0.14 (13 of 28 pairs), no clear difference"),
        ("rkd_accuracy", "cifar10 IF 100: -0.0814 ± 0.094 (12 of 28 pairs), no clear difference"),
        ("at_accuracy", "cifar10 IF 50: -0.00571 ± 0.089 (14 of 28 pairs), no clear difference"),
        ("pskd_accuracy", "-1.16 ± 0.16 (12 of 12 pairs), in favour"),
        ("pskd_likelihood", "-0.133 ± 0.022 (12 of 12 pairs), in favour"),
        ("pskd_calibration", "-2.45 ± 0.72 (9 of 12 pairs), in favour"),
        ("byot_accuracy", "resnet18: +0.198 ± 0.26 (1 of 4 pairs), no clear difference"),
        ("byot_accuracy", "resnet50: -1.81 ± 0.53 (4 of 4 pairs), in favour"),
        ("camkd_accuracy", "+0.16 (repeats span 0.43), within the range of repeats"),
        ("crd_balanced_softmax_cell", "cifar10 IF 50: +0.45, one pair, in favour"),
    ],
)
def test_published_tables_in_pairs(claims, claim, sentence):
    (found,) = (one for one in claims.claims if one.id == claim)
    assert sentence in literature.sentences(found.published.analyses)


def test_balanced_softmax_is_nowhere_clearly_more_accurate_in_its_own_tables(claims):
    (found,) = (one for one in claims.claims if one.id == "balanced_softmax_accuracy")
    for analysis in found.published.analyses:
        for line in literature.paired(analysis).to_dict("records"):
            assert literature.reading(line, "higher") == "no clear difference"
            assert abs(line["difference"]) <= 0.15


def test_pairs_against_loops():
    """CRD minus vanilla KD, line by line."""
    lines = pd.read_csv(literature.FOLDER / "kd_calibration.csv").to_dict("records")
    analysis = Analysis(
        table="kd_calibration", metric="acc_percent", side="higher", level={"kd_method": "crd"},
        versus={"kd_method": "kd"}, where={"data": "cifar10", "imbalance_factor": 50},
        without={"student_loss": "als", "mixup": True},
    )  # fmt: skip
    differences = []
    for one, other in itertools.product(lines, lines):
        if not (one["kd_method"] == "crd" and other["kd_method"] == "kd"):
            continue
        if one["data"] != "cifar10" or one["imbalance_factor"] != 50:
            continue
        if one["student_loss"] == "als" and one["mixup"]:
            continue
        rest = ("data", "imbalance_factor", "teacher_loss", "student_loss", "mixup")
        if all(one[key] == other[key] for key in rest):
            differences.append(one["acc_percent"] - other["acc_percent"])
    (found,) = literature.paired(analysis).to_dict("records")
    assert found["pairs"] == len(differences) == 28
    assert found["difference"] == pytest.approx(np.mean(differences))
    assert found["se"] == pytest.approx(np.std(differences, ddof=1) / math.sqrt(28))
    assert found["size"] == pytest.approx(np.mean(np.abs(differences)))


def test_lines_that_no_label_tells_apart_are_no_pairs():
    """The lambdas of a sweep are numbers with a point, as what is measured is."""
    sweep = {
        "table": "multi_teacher", "metric": "value", "side": "higher",
        "level": {"student": "student"}, "versus": {"student": "tiny_student"},
    }  # fmt: skip
    one = {"method": "logit_centroid", "metric": "test_acc_final"}
    with pytest.raises(LookupError, match=r"several lines for one \{'student': 'student'\}"):
        literature.paired(Analysis(**sweep, where=one))
    assert literature.paired(Analysis(**sweep, where=one | {"lambda": 1}))["pairs"].sum() >= 1


def test_a_table_or_column_that_is_not_there_is_named():
    analysis = {
        "table": "kd_calibration", "metric": "ece", "side": "lower",
        "level": {"kd_method": "crd"}, "versus": {"kd_method": "kd"},
    }  # fmt: skip
    for changes, error, message in (
        ({"table": "kd_calibraton"}, FileNotFoundError, "'kd_calibration'"),
        ({"by": ("mixpu",)}, LookupError, "'mixpu', did you mean 'mixup'"),
        ({"level": {"kd_methods": "crd"}}, LookupError, "did you mean 'kd_method'"),
        ({"level": {"kd_method": "crdd"}}, LookupError, "no pair"),
    ):
        wrong = Analysis(**analysis | changes)
        with pytest.raises(error, match=message):
            literature.paired(wrong)


# --- the verdict -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effect", "half", "seeds", "margin", "expected"),
    [
        (0.020, 0.010, 5, 0.005, HOLDS),
        (0.015, 0.010, 5, 0.005, UNDECIDED),  # the end of the interval is the margin
        (-0.005, 0.010, 5, 0.005, UNDECIDED),
        (-0.006, 0.010, 5, 0.005, FAILS),
        (0.000, 0.004, 5, 0.005, FAILS),  # clearly smaller than claimed, be it above 0
        (0.004, 0.000, 5, 0.005, FAILS),
        (0.006, 0.010, 5, 0.005, UNDECIDED),
        (0.000, 0.004, 5, -0.005, HOLDS),  # not worse by more than that
        (-0.010, 0.004, 5, -0.005, FAILS),
        (0.020, 0.001, 4, 0.005, "4 seeds: no verdict"),
        (0.020, math.nan, 1, 0.005, "1 seed: no verdict"),
    ],
)
def test_verdict(effect, half, seeds, margin, expected):
    assert judging.verdict(effect, half, seeds, margin, needed=5) == expected


def test_holm_against_its_definition():
    p = [0.04, 0.001, 0.3, 0.02]
    size, order = 7, np.argsort(p)
    slow, largest = {}, 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (size - rank) * p[place]))
        slow[place] = largest
    np.testing.assert_allclose(judging.holm(p, size), [slow[place] for place in range(len(p))])


def test_seeds_to_decide_are_the_fewest():
    t = {4: 2.7764, 5: 2.5706, 6: 2.4469}  # 97.5 % quantiles by degrees of freedom
    gap, spread = 0.005, 0.005
    needed = judging.seeds_to_decide(0.010, spread, 0.005)
    assert t[needed - 1] * spread / math.sqrt(needed) < gap
    assert t[needed - 2] * spread / math.sqrt(needed - 1) >= gap
    assert judging.seeds_to_decide(0.005, spread, 0.005) == math.inf


SEEDS = range(5)
METHODS, LOSSES = ("kd", "crd"), ("ce", "bs")


def row(method, student, seed, acc, data="cifar10"):
    labels = {
        "kd_method": method, "teacher_loss": "ce", "student_loss": student, "mixup": False,
    }  # fmt: skip
    run = {
        "data": data, "imbalance_factor": 100.0, "image_size": None, "model": "resnet8",
        "precision": "fp32", "seed": seed, "teachers": ["t0"], "recipe": {"epochs": 40},
    }  # fmt: skip
    metrics = {"test": {"acc": acc, "ece": 1 - acc}, "fidelity": {"centroid_probs": 2 * acc}}
    origin = {"commit": "c0ffee", "dirty": False, "device": "cpu", "versions": {"torch": "2"}}
    made_with = {"versions": {"train": 1}, "evaluation": 1, "provenance": origin}
    read = {"data": {"fingerprint": {"train": data}, "split_hash": f"{seed}"}}
    told = {"run": run, "labels": labels, "folder": "02_students", "metrics": metrics}
    return told | made_with | read


def entries(rows, profile="cifar_small"):
    return [Entry(pairing.facts(one, profile), ("resnet20",), one) for one in rows]


def one_claim(**judged):
    """A claim on accuracy, CRD against KD, and the claims it stands in."""
    values = {
        "notebook": "02_students", "profiles": ["cifar_small"], "metric": "acc", "side": "higher",
        "level": {"kd_method": "crd"}, "versus": {"kd_method": "kd"},
    } | judged  # fmt: skip
    claim = {"id": "crd", "short": "c", "study": "kd_calibration", "source": "s", "claim": "c",
             "published": {"says": "nothing"}, "judged_by": values}  # fmt: skip
    claims = TypeAdapter(Claims).validate_python({
        "margins": {"acc": 0.005, "ece": 0.005, "fidelity.centroid_probs": 0.0}, "seeds": 5,
        "studies": {"kd_calibration": {"name": "KD x calibration", "source": "x"}},
        "claims": [claim],
    })  # fmt: skip
    return claims.claims[0], claims


def grid_rows(effect, spread, seeds=SEEDS, **options):
    """KD and CRD x two student losses; CRD gains `effect`, and `spread` more or less by seed."""
    noise = np.random.default_rng(1).normal(size=(len(seeds), len(LOSSES)))
    offsets = np.linspace(-1, 1, len(seeds))  # their standard deviation is known
    rows = []
    for (i, seed), (j, loss) in itertools.product(enumerate(seeds), enumerate(LOSSES)):
        base = 0.7 + 0.02 * noise[i, j]
        gain = effect + spread * offsets[i]
        rows += [
            row("kd", loss, seed, base, **options),
            row("crd", loss, seed, base + gain, **options),
        ]
    return rows


@pytest.mark.parametrize(
    ("effect", "spread", "expected"),
    [(0.03, 0.005, HOLDS), (0.0, 0.002, FAILS), (-0.03, 0.005, FAILS), (0.008, 0.02, UNDECIDED)],
)
def test_judged_against_loops(effect, spread, expected):
    rows = grid_rows(effect, spread)
    claim, claims = one_claim()
    (line,) = judging.judge(claim, claims, entries(rows))
    by_seed = []
    for seed in SEEDS:
        differences = []
        for loss in LOSSES:
            acc = {
                one["labels"]["kd_method"]: one["metrics"]["test"]["acc"]
                for one in rows
                if one["run"]["seed"] == seed and one["labels"]["student_loss"] == loss
            }
            differences.append(acc["crd"] - acc["kd"])
        by_seed.append(sum(differences) / len(differences))
    mean = sum(by_seed) / 5
    deviation = math.sqrt(sum((value - mean) ** 2 for value in by_seed) / 4)
    half = 2.776445105 * deviation / math.sqrt(5)
    assert line["effect"] == pytest.approx(mean)
    assert line["effect_ci95"] == pytest.approx(half)
    kd = [one["metrics"]["test"]["acc"] for one in rows if one["labels"]["kd_method"] == "kd"]
    assert line["versus"] == pytest.approx(sum(kd) / len(kd))
    assert (line["pairs"], line["seeds"], line["verdict"]) == (2, 5, expected)
    assert (line["p"] < 0.05) == (abs(mean - 0.005) > half)
    assert ("seeds_to_decide" in line) == (expected == UNDECIDED)
    assert line["scale"] == "cifar10 IF 100, resnet20 -> resnet8, 40 epochs"


def test_a_lower_side_turns_the_sign():
    found = entries(grid_rows(0.03, 0.005))  # ECE is 1 - acc, so it falls
    for metric, side, expected in (("ece", "lower", HOLDS), ("ece", "higher", FAILS)):
        claim, claims = one_claim(metric=metric, side=side)
        (line,) = judging.judge(claim, claims, found)
        assert line["verdict"] == expected
        assert line["effect"] == pytest.approx(-0.03)
        assert line["margin"] == {"lower": -0.005, "higher": 0.005}[side]


def test_a_dotted_metric_and_one_that_no_row_has():
    found = entries(grid_rows(0.03, 0.005))
    claim, claims = one_claim(metric="fidelity.centroid_probs")
    (line,) = judging.judge(claim, claims, found)
    assert line["effect"] == pytest.approx(0.06)
    claim, claims = one_claim(metric="fidelity.agreement", margin=0.0)
    assert judging.judge(claim, claims, found)[0]["verdict"] == NOT_RUN


def test_few_seeds_no_rows_other_profiles_and_digits():
    claim, claims = one_claim()
    (line,) = judging.judge(claim, claims, entries(grid_rows(0.03, 0.005, seeds=range(4))))
    assert line["verdict"] == "4 seeds: no verdict"
    assert "p" not in line
    (line,) = judging.judge(claim, claims, entries(grid_rows(0.03, 0.0, seeds=range(1))))
    assert math.isnan(line["effect_ci95"])
    assert line["verdict"] == "1 seed: no verdict"
    for rows in ([], grid_rows(0.03, 0.005)[::2]):  # nothing, or one side of every pair
        assert judging.judge(claim, claims, entries(rows)) == [
            {"id": "crd", "study": "kd_calibration", "metric": "acc", "side": "higher",
             "verdict": NOT_RUN}
        ]  # fmt: skip
    elsewhere = entries(grid_rows(0.03, 0.005), profile="precision")
    assert judging.judge(claim, claims, elsewhere)[0]["verdict"] == NOT_RUN
    digits = entries(grid_rows(0.03, 0.005, data="digits"), profile="cifar_small")
    first, shown = judging.judge(claim, claims, digits)
    assert (first["verdict"], shown["verdict"]) == (NOT_RUN, ILLUSTRATION)
    assert "p" not in shown


def test_pairs_agree_in_everything_that_is_not_named():
    rows = grid_rows(0.03, 0.005)
    claim, claims = one_claim()
    for changed in (
        {"imbalance_factor": 50.0}, {"model": "resnet20"}, {"recipe": {"epochs": 20}},
        {"precision": "bf16"}, {"data": "cifar100"},
    ):  # fmt: skip
        other = [
            {**one, "run": {**one["run"], **changed}}
            for one in rows
            if one["labels"]["kd_method"] == "crd"
        ]
        only_kd = [one for one in rows if one["labels"]["kd_method"] == "kd"]
        assert judging.judge(claim, claims, entries(other + only_kd))[0]["verdict"] == NOT_RUN
    # Both sides of another scale make a line of their own.
    twice = rows + [{**one, "run": {**one["run"], "recipe": {"epochs": 20}}} for one in rows]
    lines = judging.judge(claim, claims, entries(twice))
    assert sorted(line["scale"].split(", ")[-1] for line in lines) == ["20 epochs", "40 epochs"]


def test_students_of_teachers_of_other_lengths_are_another_scale():
    rows = grid_rows(0.03, 0.005)
    found = [
        dataclasses.replace(entry, taught_epochs=(length,))
        for length in (40, 60)
        for entry in entries(rows)
    ]
    claim, claims = one_claim()
    lines = judging.judge(claim, claims, found)
    assert sorted(line["scale"] for line in lines) == [
        "cifar10 IF 100, resnet20 (60 epochs) -> resnet8, 40 epochs",
        "cifar10 IF 100, resnet20 -> resnet8, 40 epochs",
    ]


@pytest.mark.parametrize(
    ("word", "side", "ends", "average"),
    [
        (HOLDS, "higher", (-0.02, 0.05), True), (HOLDS, "higher", (-0.004, 0.05), False),
        (HOLDS, "lower", (-0.05, 0.02), True), (FAILS, "higher", (-0.05, 0.02), True),
        (FAILS, "higher", (-0.05, 0.004), False), (HOLDS, "higher", (math.nan, math.nan), False),
    ],
)  # fmt: skip
def test_a_verdict_says_where_some_setting_says_the_contrary(word, side, ends, average):
    line = {"verdict": word, "side": side, "margin": 0.005 if side == "higher" else -0.005,
            "settings": math.nan if math.isnan(ends[0]) else 4, "lowest": ends[0],
            "highest": ends[1], "effect": 0.0, "effect_ci95": 0.001}  # fmt: skip
    assert (" on average, the contrary in some settings" in answers.verdict(line)) == average


def test_labels_that_one_side_lacks_are_free_only_where_it_is_said():
    rows = grid_rows(0.03, 0.005)
    for one in rows:
        if one["labels"]["kd_method"] == "crd":
            one["labels"]["alpha"] = 0.5
    assert judging.judge(*one_claim(), entries(rows))[0]["verdict"] == NOT_RUN
    assert judging.judge(*one_claim(free=["alpha"]), entries(rows))[0]["verdict"] == HOLDS


def test_a_verdict_shows_the_settings_it_is_a_mean_of():
    rows = []
    for seed, (loss, gain) in itertools.product(SEEDS, (("ce", 0.03), ("bs", -0.01))):
        noise = 0.001 * (seed % 2)
        rows += [row("kd", loss, seed, 0.7), row("crd", loss, seed, 0.7 + gain + noise)]
    rows += [row("kd", "als", 0, 0.7), row("crd", "als", 0, 0.9)]  # one seed: not in the mean
    claim, claims = one_claim()
    (line,) = judging.judge(claim, claims, entries(rows))
    assert (line["settings"], line["left_out"], line["pairs"]) == (2, 1, 2)
    ends = 0.0004 + np.array([-0.01, 0.03])
    assert [line["lowest"], line["highest"]] == pytest.approx(list(ends))
    table = judging.settings(claims, entries(rows)).set_index("setting")
    assert list(table.index) == ["student_loss als", "student_loss bs", "student_loss ce"]
    assert tuple(table.loc["student_loss als", ["effect", "seeds"]]) == pytest.approx((0.2, 1))
    table = table.drop(index="student_loss als")
    assert table["effect"].to_numpy() == pytest.approx(ends)
    half = stats.t.ppf(0.975, 4) * np.std([0, 0.001, 0, 0.001, 0], ddof=1) / 5**0.5
    assert table["effect_ci95"].to_numpy() == pytest.approx(half)
    assert list(table["seeds"]) == [5, 5]
    told = answers.over_settings(line)
    assert told == "-0.96 to +3.04 points over 2 settings, 1 of fewer seeds left out"
    one = [each for each in rows if each["labels"]["student_loss"] == "ce"]
    (line,) = judging.judge(claim, claims, entries(one))
    assert "settings" not in line
    assert judging.settings(claims, entries(one)).empty


def test_a_setting_may_be_of_what_is_compared_with():
    judged = {"level": {"student_loss": "bs"}, "versus": {"student_loss": ["ce", "als"]}}
    _, claims = one_claim(**judged)
    rows = [
        row("kd", loss, seed, acc)
        for seed in SEEDS
        for loss, acc in (("bs", 0.7), ("ce", 0.6), ("als", 0.8))
    ]
    found = judging.settings(claims, entries(rows)).set_index("setting")["effect"]
    expected = {"against student_loss als": -0.1, "against student_loss ce": 0.1}
    assert found.to_dict() == pytest.approx(expected)


def test_a_run_without_a_number_takes_its_seed_away_and_not_its_pair():
    """CRD gains with one loss and loses more with the other, which diverges in one seed."""
    rows = []
    for seed in SEEDS:
        for loss, gain in (("ce", 0.01), ("bs", -0.05)):
            crd = math.nan if (loss, seed) == ("bs", 0) else 0.7 + gain
            rows += [row("kd", loss, seed, 0.7), row("crd", loss, seed, crd)]
    claim, _ = one_claim()
    (group,) = pairing.by_scale(entries(rows), claim.judged_by)
    by_seed, pairs, versus = pairing.seed_differences(group, "acc")
    assert list(by_seed.index) == [seed for seed in SEEDS if seed]
    assert by_seed.to_numpy() == pytest.approx(-0.02)
    assert (pairs, versus) == (2, pytest.approx(0.7))
    nothing = pairing.seed_differences(group, "no such metric")
    assert (len(nothing.by_seed), nothing.pairs) == (0, 0)


def test_a_seed_counts_only_where_it_is_complete():
    rows = grid_rows(0.03, 0.005)
    alone = [row("kd", "als", 0, 0.5), row("crd", "als", 0, 0.9)]  # a cell of one seed
    claim, claims = one_claim()
    (line,) = judging.judge(claim, claims, entries(rows + alone))
    assert (line["pairs"], line["seeds"]) == (2, 5)
    assert line["effect"] == pytest.approx(0.03)
    kd = [one["metrics"]["test"]["acc"] for one in rows if one["labels"]["kd_method"] == "kd"]
    assert line["versus"] == pytest.approx(sum(kd) / len(kd))  # not of the cell of one seed
    lost = [one for one in rows if (one["run"]["seed"], one["labels"]["student_loss"]) != (4, "bs")]
    (line,) = judging.judge(claim, claims, entries(lost))  # bs has 4 seeds now, ce has 5
    assert (line["pairs"], line["seeds"]) == (1, 5)


def test_where_several_levels_stand_on_a_side():
    rows = [row(m, loss, seed, 0.7 + gain) for seed in SEEDS for loss in LOSSES
            for m, gain in (("kd", 0.0), ("rkd", 0.02), ("crd", 0.06))]  # fmt: skip
    claim, claims = one_claim(versus={"kd_method": ["kd", "rkd"]})
    (line,) = judging.judge(claim, claims, entries(rows))
    assert (line["pairs"], line["verdict"]) == (4, HOLDS)
    assert line["effect"] == pytest.approx(0.05)
    claim, claims = one_claim(where={"student_loss": "bs"})
    assert judging.judge(claim, claims, entries(rows))[0]["pairs"] == 1


def test_level_and_versus_override_where():
    rows = grid_rows(0.03, 0.005)
    for one in rows:
        if one["labels"]["kd_method"] == "kd":
            one["labels"]["teacher_loss"] = "none"
    claim, claims = one_claim(
        where={"teacher_loss": "ce"}, versus={"kd_method": "kd", "teacher_loss": "none"}
    )
    assert judging.judge(claim, claims, entries(rows))[0]["verdict"] == HOLDS


def test_verdicts_adjust_over_all_claims_of_a_study(claims):
    rows = [one for one in grid_rows(0.03, 0.005)]
    table = judging.verdicts(claims, entries(rows))
    assert set(table["id"]) == {claim.id for claim in claims.claims}
    judged = table[table["verdict"].isin([HOLDS, FAILS, UNDECIDED])].set_index("id")
    crd = judged.loc["crd_accuracy"]
    assert crd["verdict"] == HOLDS
    slow = judging.holm(judged["p"], len(claims.of("kd_calibration")))
    np.testing.assert_allclose(judged["p_holm"], slow)
    assert (table.loc[table["verdict"] == NOT_RUN, "p_holm"].isna()).all()


# --- stored rows -----------------------------------------------------------------------------

DIGITS5 = ROOT / "results" / "digits5"


def test_rows_that_no_params_ask_for_judge_nothing(caplog):
    """After a changed key its earlier rows lie beside the new ones."""
    whole = plan.plan("digits5")
    found = pairing.entries({"digits5": DIGITS5})
    assert {one.row["id"] for one in found} == {run.id for run in whole.runs}
    assert not caplog.records
    fewer = {"digits5": {"seeds": [0, 1]}}
    kept = pairing.entries({"digits5": DIGITS5}, fewer)
    asked = plan.plan("digits5", **fewer["digits5"])
    assert {one.row["id"] for one in kept} == {run.id for run in asked.runs}
    assert f"{len(found) - len(kept)} rows are left out, params/digits5" in caplog.text
    unknown = pairing.entries({"elsewhere": DIGITS5})  # no params: nothing says what is asked for
    assert len(unknown) == len(found)


def test_a_profile_whose_params_are_wrong_judges_nothing(caplog):
    """As where the checkpoint of a given network is on another machine."""
    assert pairing.entries({"digits5": DIGITS5}, {"digits5": {"epochs": 0}}) == []
    assert f"{DIGITS5} is left out" in caplog.text
    assert "epochs: input should be greater than or equal to 1" in caplog.text


def test_teachers_that_a_job_makes_for_its_students_are_asked_for():
    """Of a profile with students alone: no part has them, and their rows are stored."""
    whole = plan.plan("precision", None, ["02"])
    teachers = {teacher.id for run in whole.runs for teacher in run.teachers}
    assert teachers
    assert whole.rows == {run.id for run in whole.runs} | teachers


def test_claims_hang_on_the_params_of_every_profile():
    patterns = published_claims.reads(PublishedClaims())
    found = {path for pattern in patterns for path in glob.glob(pattern, recursive=True)}
    for profile in ("cifar_small", "fashion"):
        assert {str(path) for path in (ROOT / "params" / profile).glob("*.yaml")} <= found


def test_a_batch_tells_the_claims_what_was_changed():
    (part,) = plan.plan("digits", None, ["07"], seeds=[3]).parts
    assert (part.params.profile, part.params.changes) == ("digits", {"seeds": [3]})


def test_a_scale_says_how_few_images_train():
    rows = [
        {**one, "run": one["run"] | {"val_fraction": 0.9}, "data": {"class_counts": [300, 200]}}
        for one in grid_rows(0.03, 0.005)
    ]
    claim, claims = one_claim()
    (line,) = judging.judge(claim, claims, entries(rows))
    assert line["scale"] == "cifar10 IF 100, 500 images, resnet20 -> resnet8, 40 epochs"
    for one in rows:
        one["run"]["val_fraction"] = 0.0  # nothing validates
    (line,) = judging.judge(claim, claims, entries(rows))
    assert line["scale"] == "cifar10 IF 100, 500 images, resnet20 -> resnet8, 40 epochs"


def test_runs_trained_otherwise_are_no_pair():
    rows = grid_rows(0.03, 0.005)
    claim, _ = one_claim()
    assert pairing.pairs(entries(rows), claim.judged_by)
    kd = [one for one in rows if one["labels"]["kd_method"] == "kd"]
    crd = [one for one in rows if one not in kd]
    for changed in (
        [{**one, "run": one["run"] | {"augment": {"crop": 2}}} for one in kd],
        [
            {**one, "run": one["run"] | {"val_fraction": 0.3}, "data": {"class_counts": [1]}}
            for one in kd
        ],
        [{**one, "folder": f"{one['folder']}/another"} for one in kd],
    ):
        assert not pairing.pairs(entries([*changed, *crd]), claim.judged_by)


def test_effects_agree_with_the_report_of_the_study(claims):
    """The same rows through the paired effects of `kdlib.report.summary`."""
    found = pairing.entries({"digits5": DIGITS5})
    whole = config.load_params(ROOT / "params" / "digits5" / "02_students.yaml")
    levels = {"teacher_losses": ("ce", "bs"), "student_losses": ("ce", "bs"), "controls": {}}
    params = whole.model_copy(update=levels)
    summary = report.summary([entry.row for entry in found], grid.student_runs(params))
    factors = {
        "balanced_softmax_accuracy": ("student_loss", "bs", "acc"),
        "balanced_softmax_calibration": ("student_loss", "bs", "ece"),
        "mixup_accuracy": ("mixup", True, "acc"),
        "mixup_calibration": ("mixup", True, "ece"),
    }
    table = judging.verdicts(claims, found)
    shown = table[table["verdict"] == ILLUSTRATION].set_index("id")
    for claim, (factor, level, metric) in factors.items():
        same = (summary["factor"] == factor) & (summary["level"] == level)
        (line,) = summary[same].to_dict("records")
        assert shown.loc[claim, "effect"] == pytest.approx(line[f"{metric}_effect"])
        assert shown.loc[claim, "effect_ci95"] == pytest.approx(line[f"{metric}_effect_ci95"])
        assert shown.loc[claim, "pairs"] == line["pairs"]
    assert shown["scale"].str.contains("resnet8 -> resnet8_half, 100 epochs").any()


@pytest.fixture
def profile(tmp_path):
    """A small copy of a committed profile."""
    rows = DIGITS5 / "02_students" / "rows"
    for path in sorted(rows.glob("*-ce-*seed0*.json"))[:3]:
        (tmp_path / "mine" / "02_students" / "rows").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "mine" / "02_students" / "rows")
    return tmp_path / "mine"


def test_what_a_fit_leaves_and_what_stands_beside_are_paired_alike():
    """An effect after a fit counts only with the seeds and pairs of the effect itself."""
    rows = grid_rows(0.03, 0.005)
    for one in rows:
        one["metrics"]["logit_adjustment"] = {"acc": one["metrics"]["test"]["acc"] / 2}
        alone = copy.deepcopy(one)
        if one["labels"]["kd_method"] == "kd":
            alone["labels"]["kd_method"] = "none"
            alone["metrics"]["test"]["acc"] -= 0.1
            rows = [*rows, alone]
    claim, claims = one_claim(beside={"kd_method": "none"})
    (line,) = judging.judge(claim, claims, entries(rows))
    assert line["fitted"] == pytest.approx(line["effect"] / 2)
    assert line["fitted_ci95"] == pytest.approx(line["effect_ci95"] / 2)
    assert line["beside"] == pytest.approx(-0.1)
    assert line["beside_ci95"] == pytest.approx(0)
    assert answers.fitted(line).endswith(" points after a logit adjustment")
    for one in rows:
        if one["run"]["seed"] == 3:
            del one["metrics"]["logit_adjustment"]
    (line,) = judging.judge(claim, claims, entries(rows))
    assert "fitted" not in line  # of fewer seeds than the effect: no comparison


def test_rows_of_other_versions_are_not_judged(profile, monkeypatch, caplog):
    before = pairing.entries({"mine": profile})
    kept = dict(registry.LABEL_LOSSES._entries)
    kept["ce"] = dataclasses.replace(kept["ce"], number=2)
    monkeypatch.setattr(registry.LABEL_LOSSES, "_entries", kept)
    assert pairing.entries({"mine": profile}) == []  # their teacher is one of cross-entropy
    assert f"mine: {len(before)} rows are left out, other versions made them of: " in caplog.text
    assert "label loss ce" in caplog.text
    kept.pop("ce")  # a part that is not here (of a plugin) is not judged
    assert len(pairing.entries({"mine": profile})) == len(before)


def test_entries_are_read_once_and_damage_is_named(profile):
    again = profile / "02_students" / "again" / "rows"
    shutil.copytree(profile / "02_students" / "rows", again)
    found = pairing.entries({"mine": profile})
    assert len(found) == 3
    assert {entry.facts["profile"] for entry in found} == {"mine"}
    path = sorted(again.iterdir())[0]
    path.write_text(path.read_text().replace("digits", "digit5", 1), encoding="utf-8")
    with pytest.raises(DamagedError, match=path.name):
        pairing.entries({"mine": profile})


def test_which_folders_are_read(profile):
    everything = pairing.profiles()
    assert everything["digits5"] == DIGITS5
    assert "published" not in everything
    assert pairing.profiles(out_dir=profile) == everything | {"mine": profile}
    assert pairing.profiles([profile], out_dir=profile) == {"mine": profile}
    # Elsewhere than under its profile's name, its rows are judged in place of those kept there.
    assert pairing.profiles(out_dir=profile, profile="digits5") == everything | {"digits5": profile}
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pairing.profiles([profile / "nowhere"])
    (profile / "mine").mkdir()
    with pytest.raises(ValueError, match="have one name"):
        pairing.profiles([profile, profile / "mine"])


# --- the section -----------------------------------------------------------------------------


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(plots, "save", lambda figure, folder, name: folder / f"{name}.png")


def test_the_section_says_it_all(claims, tmp_path, no_figures):
    found = entries(grid_rows(0.03, 0.005)) + entries(
        grid_rows(0.0, 0.02, data="digits"), "digits5"
    )
    page = audit.write(claims, found, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert '<section id="07_published_claims">' in text
    for claim in claims.claims:
        assert audit.html.escape(claim.claim) in text
    for one in DEMONSTRATIONS.values():
        assert audit.html.escape(one.title) in text
    assert "<td>holds</td>" in text
    assert re.search(r"\+3\.00 ± 0\.\d\d points", text)
    assert "cifar_small: cifar10 IF 100, resnet20 -&gt; resnet8, 40 epochs" in text
    assert "the CIFAR-100 code was not seen" in text
    stored = pd.read_csv(tmp_path / "07_published_claims" / "verdicts.csv")
    table = audit.deterministic_tables(claims, found)["verdicts"]
    assert list(stored["verdict"]) == list(table["verdict"])
    again = audit.write(claims, found, tmp_path)
    assert again.read_text(encoding="utf-8") == text
    summary = page.with_name("summary.txt").read_text(encoding="utf-8")
    assert "resnet20 -> resnet8, 40 epochs; 5 seeds): of 15 claims 2 hold, " in summary


def test_an_effect_is_written_in_its_unit():
    line = {"metric": "acc", "effect": 0.0157, "effect_ci95": 0.0009}
    assert audit.effect(line) == "+1.57 ± 0.09 points"
    assert audit.effect({"metric": "ece", "effect": -0.01, "effect_ci95": math.nan}) == "-0.0100"
    assert audit.effect({"metric": "nll", "effect": math.nan, "effect_ci95": math.nan}) == ""


def test_published_effects_come_in_our_units_and_towards_the_claim(claims):
    found = {one.id: audit.published_effect(one.published.analyses) for one in claims.claims}
    assert found["crd_accuracy"] == pytest.approx(0.0162, abs=1e-4)  # points -> fractions
    assert found["pskd_accuracy"] == pytest.approx(0.0116, abs=1e-4)  # a lower error is higher
    assert found["pskd_calibration"] == pytest.approx(0.0245, abs=1e-4)
    assert found["mixup_calibration"] > 0.015
    assert math.isnan(found["temperature_four"])


def drawn_in(axes, *markers):
    """Height on the page -> place on the axis, of the points of these shapes."""
    return {line.get_ydata()[0]: line.get_xdata()[0] for line in axes.lines
            if line.get_marker() in markers and not np.isnan(line.get_xdata()[0])}  # fmt: skip


def test_the_forest_has_a_line_for_every_effect_in_margins(claims):
    found = entries(grid_rows(0.03, 0.005))
    verdicts = audit.deterministic_tables(claims, found)["verdicts"]
    lines = audit.forest_lines(claims, verdicts)
    (axes,) = forest(lines, "title").axes
    effects = verdicts.dropna(subset="effect")
    words = {claim.id: claim.short for claim in claims.claims}
    drawn = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    assert drawn == [words[name] for name in effects["id"]]
    points, places = drawn_in(axes, ">", "o", "<"), dict(zip(drawn, axes.get_yticks(), strict=True))
    assert points[places[words["crd_accuracy"]]] == pytest.approx(0.03 / 0.005)
    own = lines.set_index("label").loc[words["crd_calibration"]]
    assert own["effect"] == pytest.approx(6)  # ECE is 1 - acc there: lower is the claim
    assert own["published"] == pytest.approx(0.0048 / 0.005, abs=0.02)
    diamonds = [line.get_color() for line in axes.lines if line.get_marker() == "D"]
    rests = {claim.id: claim.rests_on for claim in claims.claims}
    assert diamonds == ["0.4" if rests[name] else "0.15" for name in effects["id"]]
    told = [text.get_text() for text in axes.texts]
    at = told.index("KD x calibration")
    assert told[at + 1] == "cifar10 IF 100, resnet20 -> resnet8, 40 epochs, n = 5"
    half = effects.set_index("id").loc["crd_accuracy", "effect_ci95"]
    assert f"accuracy +3.00 ± {100 * half:.2f} points (margin 0.50)" in told
    assert f"ECE -0.0300 ± {half:.4f} (margin 0.0050)" in told


def test_the_forest_shows_what_a_fit_leaves_and_the_ends_over_settings(claims):
    """In margins, towards the claim; the shape tells a verdict, and a reversed one."""
    line = {"id": "crd_calibration", "study": "kd_calibration", "metric": "ece", "side": "lower",
            "scale": "here", "seeds": 5.0, "effect": -0.02, "effect_ci95": 0.01, "margin": -0.005,
            "published_effect": 0.01, "verdict": HOLDS, "fitted": 0.001, "fitted_ci95": 0.002,
            "lowest": -0.04, "highest": 0.005}  # fmt: skip
    turned = line | {"id": "crd_accuracy", "metric": "acc", "side": "higher", "margin": 0.005,
                     "effect": -0.02, "verdict": FAILS, "fitted": math.nan}  # fmt: skip
    lines = audit.forest_lines(claims, pd.DataFrame([line, turned]))
    first = lines.iloc[0]
    assert first[["fitted", "fitted_half"]].tolist() == pytest.approx([-0.2, 0.4])
    assert first[["lowest", "highest", "effect"]].tolist() == pytest.approx([8, -1, 4])
    assert lines["verdict"].tolist() == [HOLDS, REVERSED]
    (axes,) = forest(lines, "title").axes
    assert list(drawn_in(axes, ">").values()) == pytest.approx([4])
    assert list(drawn_in(axes, "<").values()) == pytest.approx([-4])
    assert list(drawn_in(axes, "s").values()) == pytest.approx([-0.2])


def test_a_claim_of_not_worse_has_its_margin_on_the_other_side(claims):
    line = {"id": "kd_keeps_accuracy", "study": "kd_calibration", "metric": "acc", "side": "higher",
            "scale": "here", "seeds": 5.0, "effect": -0.02, "effect_ci95": 0.01, "margin": -0.005,
            "published_effect": math.nan, "verdict": FAILS}  # fmt: skip
    other = line | {"scale": "there", "effect_ci95": math.nan, "verdict": "1 seed: no verdict"}
    lines = audit.forest_lines(claims, pd.DataFrame([line, other]))
    assert lines[["effect", "half", "margin"]].iloc[0].tolist() == pytest.approx([-4, 2, -1])
    assert lines["label"].nunique() == 1
    assert list(lines["heading"]) == [
        f"KD x calibration\n{place}, n = 5" for place in ("here", "there")
    ]
    (axes,) = forest(lines, "title").axes
    assert len({*axes.get_yticks()}) == 2


# --- what went wrong -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown():
    return {name: one.run() for name, one in DEMONSTRATIONS.items()}


def test_every_demonstration_says_something(shown):
    for name, one in shown.items():
        assert len(one.table), name
        assert one.line.endswith("."), name
        assert DEMONSTRATIONS[name].source, name
        assert DEMONSTRATIONS[name].known, name


def test_batch_ece_floor(shown):
    line = shown["batch_ece_floor"].table.iloc[-1]
    assert line["ece_batches"] == pytest.approx(0.086, abs=0.01)  # near 79 % accuracy
    assert line["ece"] == pytest.approx(0.01, abs=0.004)


def test_positions_leave_no_long_tail(shown):
    table = shown["no_long_tail"].table
    assert table["images_by_indices"].tolist()[::9] == [4000, 40]
    assert table["images_by_positions"].between(900, 1100).all()
    assert table["images_by_indices"].sum() == table["images_by_positions"].sum() == 9928


def test_terms_without_a_gradient(shown):
    for name in ("kd_without_gradient", "detached_dmfl"):
        wrong, right = shown[name].table["gradient_norm"]
        assert wrong == 0 < right, name
    wrong, right = shown["kd_switched_off"].table["kd_share"]
    assert wrong < 1e-5 < 0.1 < right


def test_dmfl_pairs_are_a_noise_floor(shown):
    assert "12 published pairs" in shown["detached_dmfl"].line
    assert "0.54 points on average, by 1.83 at most" in shown["detached_dmfl"].line


def test_label_losses_turned_around(shown):
    table = shown["inverted_balanced_softmax"].table.set_index("loss")
    assert table.loc["balanced softmax", "acc"] > table.loc["cross-entropy", "acc"] + 0.05
    assert table.loc["inverted", "acc"] < table.loc["cross-entropy", "acc"] - 0.05
    confidence = shown["reversed_confidence_penalty"].table.set_index("loss")["confidence"]
    assert confidence["penalty"] < confidence["cross-entropy"] < confidence["reversed"]


def test_unmixed_labels_collapse_calibration(shown):
    mixed, unmixed = shown["unmixed_labels"].table["ece"]
    assert unmixed > 5 * mixed
    assert "0.237, the other losses 0.089" in shown["unmixed_labels"].line


def test_weights_of_batch_means_say_little(shown):
    table = shown["constant_weights"].table
    spread = (table["highest"] - table["lowest"]).tolist()
    assert spread[0] == 0 < spread[1] < 0.02 < spread[2]


def test_two_centroids(shown):
    table = shown["two_centroids"].table
    assert (table["kl_to_mean_logits"] < 1e-9).all()
    assert table["kl_to_mean_probs"].is_monotonic_increasing
    assert "0.046 away" in shown["two_centroids"].line


def test_targets_of_more_than_one(shown):
    table = shown["unnormalised_targets"].table
    # sum(q) = 2 - (p_1 + p_2) / 2 of the shared class
    np.testing.assert_allclose(table["weight"], 2 - table["confidence"], atol=1e-6)
    np.testing.assert_allclose(
        table["of the shared class"], table["confidence"] / (2 - table["confidence"]), atol=1e-6
    )
    np.testing.assert_allclose(table["of the shared class, mean"], table["confidence"], atol=1e-6)


def test_footprint(shown):
    table = shown["footprint"].table.set_index("network")["parameters"]
    assert table["3 teachers"] == 3 * 1_404_997
    assert table["efficientnet_b0"] == pytest.approx(4.02e6, rel=1e-3)


def test_the_notebook_is_a_study_without_runs():
    study = STUDIES["07_published_claims"]
    assert study.build(study.facts.params()) == []
    names = plan.parameter_names(ROOT / "notebooks" / "07_published_claims.ipynb")
    assert set(names) - {"extra", "out_dir"} <= set(study.facts.params.model_fields)
    assert Comparison.model_fields.keys() >= {"level", "versus", "margin"}
