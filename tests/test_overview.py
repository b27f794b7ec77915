"""The first screen and the pages of results: every number against the rows, whatever was run."""

import itertools
import json
import math
import re
import statistics
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_claims import SEEDS, entries, grid_rows, row

from kdlib import estimate, evaluate, overview, prices, registry
from kdlib.config import fingerprint
from kdlib.costs import Cost
from kdlib.plan import ROOT, plan
from kdlib.report import answers, practice
from kdlib.report import pairs as pairing
from kdlib.report.claims import FAILS, HOLDS, ILLUSTRATION, NOT_RUN, UNDECIDED
from kdlib.report.taught import teachers as teachers_ahead
from kdlib.studies.published_claims import Claims, load_claims

T975 = {5: 2.7764451051977987}
ROWS = ROOT / "results"
sys.path.insert(0, str(ROOT / "scripts"))


def interval(values):
    half = T975[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), half


def committed(folder, **recipe):
    """(labels..., seed) -> the metrics of the test split, straight from the files; of runs with
    this recipe."""
    found = {}
    for path in (ROWS / folder / "rows").glob("*.json"):
        content = json.loads(path.read_text())
        if not recipe.items() <= content["run"]["recipe"].items():
            continue
        labels = tuple(sorted(content["labels"].items()))
        found[labels, content["run"]["seed"]] = content["metrics"]["test"]
    return found


@pytest.fixture(scope="module")
def whole():
    return overview.Overview.of()


# --- what is committed -----------------------------------------------------------------------


def test_every_generated_text_is_what_the_committed_rows_give(whole):
    """After rows were added: python scripts/showcase.py."""
    import showcase

    texts = showcase.files(whole)
    assert len(texts) >= 5
    for path, text in texts.items():
        assert path.read_text() == text, path.name
    names = {match[2] for match in showcase.BLOCK.finditer((ROOT / "README.md").read_text())}
    assert names == {"answer", "cells", "runs"}
    for picture in (overview.AFTER, overview.CELLS):
        assert (ROOT / picture).is_file()
        assert picture in (ROOT / "README.md").read_text()
    assert (ROOT / overview.CLAIMS).is_file()
    assert f"](../{Path(overview.CLAIMS).name})" in overview.audit_page(whole)


def test_the_readme_has_no_measured_number_outside_its_generated_blocks():
    import showcase

    text = showcase.BLOCK.sub("", (ROOT / "README.md").read_text())
    text = re.sub(r"<!-- results: .*?<!-- end -->", "", text, flags=re.DOTALL)
    assert not re.search(r"\d ?(±|\+-) ?\d", text)


def test_the_readmes_count_of_networks_is_that_of_the_default_profile():
    made = plan("digits")
    assert (
        f"analyses the default profile: {sum(bool(run.recipe) for run in made.runs)} networks"
        in (ROOT / "README.md").read_text()
    )


def test_the_cells_of_the_readme_are_means_of_rows(whole):
    rows = committed("cifar_small/02_students", epochs=20)
    text = overview.cells(whole, ROWS)
    lines = re.findall(r"^\| (?!cell|---)(.*) \|$", text, re.MULTILINE)
    assert len(lines) == 7  # five cells, the student of their loss without KD, the plain one
    for line in lines:
        cell, acc, gain, nll, ece, _ = line.split(" | ")
        method, *rest = cell.replace("no KD", "none").split()
        losses = dict(part.split(":") for part in rest if ":" in part)
        wanted = {
            "kd_method": method.lower(), "teacher_loss": losses.get("T", "none").lower(),
            "student_loss": losses["S"].lower(), "mixup": "+mixup" in rest,
        }  # fmt: skip
        own = [rows[tuple(sorted(wanted.items())), seed] for seed in SEEDS]
        control = wanted | {"kd_method": "none", "teacher_loss": "none"}
        beside = [rows[tuple(sorted(control.items())), seed] for seed in SEEDS]
        gaps = [100 * (a["acc"] - b["acc"]) for a, b in zip(own, beside, strict=True)]
        told = "{:+.2f} ± {:.2f} points".format(*interval(gaps))
        assert gain == ("" if wanted["kd_method"] == "none" else told)
        for shown, metric, form in ((acc, "acc", 100), (nll, "nll", 1), (ece, "ece", 1)):
            expected = [form * value for value in interval([one[metric] for one in own])]
            digits = len(shown.split()[0].split(".")[1])
            told = [float(value) for value in shown.split(" ± ")]
            assert told == pytest.approx(expected, abs=0.51 * 10**-digits)  # tables are rounded
    for method in ("kd", "crd", "rkd", "at"):
        by_seed = []
        for seed in SEEDS:
            gains = [
                test["acc"] - rows[tuple(sorted({**dict(labels), "kd_method": "none",
                                                 "teacher_loss": "none"}.items())), seed]["acc"]
                for (labels, own), test in rows.items()
                if own == seed and dict(labels)["kd_method"] == method
                and not dict(labels)["mixup"]
                and {dict(labels)["teacher_loss"], dict(labels)["student_loss"]} <= {"ce", "bs"}
            ]  # fmt: skip
            by_seed.append(100 * statistics.mean(gains))
        mean, half = interval(by_seed)
        assert f"{method.upper()} {mean:+.2f} ± {half:.2f}" in text


def test_what_teachers_are_ahead_is_a_mean_of_rows(whole):
    table = teachers_ahead("kd_calibration", whole.found)
    line = table[(table["teacher"] == "balanced softmax") & table["students"].str.contains(" 20 ")]
    teachers = committed("cifar_small/01_teachers", epochs=20)
    students = committed("cifar_small/02_students", epochs=20)
    loss = {"mixup": False, "teacher_loss": "bs"}
    key = tuple(sorted((loss | {"role": "teacher"}).items()))
    alone = {"mixup": False, "kd_method": "none", "teacher_loss": "none", "student_loss": "bs"}
    own = [100 * teachers[key, seed]["acc"] for seed in SEEDS]
    plain = [100 * students[tuple(sorted(alone.items())), seed]["acc"] for seed in SEEDS]
    gaps = [one - other for one, other in zip(own, plain, strict=True)]
    assert line["ACC %"].item() == "{:.2f} ± {:.2f}".format(*interval(own))
    assert line["its student without KD, ACC %"].item() == "{:.2f} ± {:.2f}".format(
        *interval(plain)
    )
    assert line["lead"].item() == "{:+.2f} ± {:.2f} points".format(*interval(gaps))


def test_teachers_of_some_classes_have_no_lead(whole):
    table = teachers_ahead("overlapping_teachers", whole.found)
    assert {"trees", "woodland"} <= set(table["teacher"])
    assert not {"lead", "students"} & {*table}
    assert len(table) == table["teacher"].nunique()
    assert teachers_ahead("self_distillation", whole.found).empty


def test_advice_on_long_tailed_data_is_a_mean_of_rows(whole):
    """Of the rows of profile precision, in bf16."""
    table = practice.options("kd_calibration", whole.found)
    rows = committed("precision/02_students/bf16")

    def cell(method, loss, seed):
        labels = {"kd_method": method, "teacher_loss": "none" if method == "none" else "ce",
                  "student_loss": loss, "mixup": False}  # fmt: skip
        return rows[tuple(sorted(labels.items())), seed]

    def gain(seed, metric, one, other):
        return cell(*one, seed)[metric] - cell(*other, seed)[metric]

    from_ce = "KD from teachers of cross-entropy to students"
    wanted = {
        f"{from_ce} of balanced softmax": (("kd", "bs"), ("none", "bs")),
        f"{from_ce} of cross-entropy": (("kd", "ce"), ("none", "ce")),
        "balanced softmax with KD": (("kd", "bs"), ("kd", "ce")),
        "balanced softmax with no KD": (("none", "bs"), ("none", "ce")),
    }
    for option, pair in wanted.items():
        own = (table["option"] == option) & (table["profile"] == "precision")
        (line,) = table[own & table["scale"].str.contains("bf16")].to_dict("records")
        for metric, name in (("acc", "Δ accuracy"), ("ece", "Δ ECE")):
            mean, half = interval([gain(seed, metric, *pair) for seed in SEEDS])
            assert line[name] == pytest.approx(mean)
            assert line[f"{name}_ci95"] == pytest.approx(half)
            level = statistics.mean(cell(*pair[0], seed)[metric] for seed in SEEDS)
            assert line[metric] == pytest.approx(level)


def test_hours_are_sums_of_stored_timings(whole):
    lines = [line for line in whole.ledger["kd_calibration"] if line.profile == "precision"]
    for line in lines:
        paths = ROWS.glob(f"precision/0[12]*/{line.part}/timings/*.json")
        seconds = [json.loads(path.read_text())["seconds"] for path in paths]
        assert (line.runs, line.done, line.missing) == (25, 25, 0)
        assert line.spent == pytest.approx(sum(seconds) / 3600)
        assert line.left == 0
    assert len(lines) == 2


# --- where some studies have rows ------------------------------------------------------------

METHODS = {"none": 0.40, "pskd": 0.44, "byot": 0.38, "dmfl": 0.406, "pskd+byot+dmfl": 0.43}


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    """Five seeds of self-distillation on disk, with timings; no other study has a row."""
    results = tmp_path_factory.mktemp("results")
    made = plan("cifar_small", results / "cifar_small", notebooks=["04"])
    noise = np.random.default_rng(0)
    kept = []
    for run in made.runs:
        if run.labels["method"] not in METHODS:
            continue
        acc = METHODS[run.labels["method"]] + 0.002 * noise.normal()
        test = {"acc": acc, "ece_10": 0.1, "ece": 0.1, "nll": 2 - acc, "aurc": 100 * acc}
        content = {"id": run.id, "run": run.identity(), "labels": run.labels, "folder": run.folder,
                   "metrics": {"test": test}, "versions": {},
                   "evaluation": evaluate.VERSION}  # fmt: skip
        content = json.loads(json.dumps(content))
        for kind, facts in (
            ("rows", content | {"sha256": fingerprint(content)}),
            ("timings", {"id": run.id, "seconds": 360.0}),
        ):
            path = made.out_dir / run.folder / kind / f"{run.id}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(facts))
        kept.append(content)
    return overview.Overview.of(results), kept


def accuracies(rows, method):
    return [
        one["metrics"]["test"]["acc"]
        for seed in SEEDS
        for one in rows
        if (one["labels"]["method"], one["run"]["seed"]) == (method, seed)
    ]


def test_a_study_that_was_run_is_told_with_its_numbers_and_the_others_are_not_run(some):
    found, rows = some
    total, kd, own, several, overlapping = answers.answer(found.claims, found.verdicts)
    for text, number in ((kd, 15), (several, 8), (overlapping, 8)):
        assert f"none of {number} claims is run" in text
    gaps = [a - b for a, b in zip(accuracies(rows, "dmfl"), accuracies(rows, "none"), strict=True)]
    mean, half = interval(gaps)
    verdicts = found.verdicts.set_index("id")
    line = verdicts.loc["dmfl_accuracy"]
    assert line["effect"] == pytest.approx(mean)
    expected = HOLDS if mean - half > 0.005 else FAILS if mean + half < 0.005 else UNDECIDED
    assert line["verdict"] == expected
    counts = found.verdicts.query("study == 'self_distillation'")["verdict"].value_counts()
    assert f"{counts[HOLDS]} hold" in own
    assert f"{counts[FAILS]} do not hold" in own
    assert "Self-distillation (cifar100, resnet8, 15 epochs, bf16; 5 seeds): " in own
    assert f"{counts[HOLDS]} hold, {counts[FAILS]} do not hold" in total
    assert total.count("31 are not run") == 1
    # What is read of them: its effects are those of the claims it names.
    text = found.claims.studies["self_distillation"].reading
    for claim in ("pskd_accuracy", "all_three_accuracy"):
        method = next(one for one in found.claims.claims if one.id == claim).judged_by.level[
            "method"
        ]
        gaps = [
            100 * (a - b) for a, b in zip(accuracies(rows, method), accuracies(rows, "none"),
                                          strict=True)
        ]  # fmt: skip
        assert f"{{{claim}}}" in text
        assert "{:+.2f} ± {:.2f} points".format(*interval(gaps)) in own


def clearest(claims, verdicts):
    """A study's sentence where nobody has read its verdicts yet."""
    plain = claims.model_copy(update={"studies": {
        name: one.model_copy(update={"reading": ""}) for name, one in claims.studies.items()
    }})  # fmt: skip
    return answers.answer(plain, verdicts)


def test_without_a_reading_the_clearest_claims_are_told(some):
    found, _ = some
    own = clearest(found.claims, found.verdicts)[2]
    judged = found.verdicts[found.verdicts["verdict"] == HOLDS].sort_values("p")
    claim = next(one for one in found.claims.claims if one.id == judged.iloc[0]["id"])
    assert f"the clearest that holds: “{claim.claim.rstrip('.')}” (" in own
    assert answers.effect(judged.iloc[0]) in own
    failed = found.verdicts[found.verdicts["verdict"] == FAILS].sort_values("p")
    towards = failed["side"].map({"higher": 1, "lower": -1})
    supported = failed[failed["published_effect"] > towards * failed["margin"]]
    turned = failed[[bool(answers.reversed_effect(line)) for _, line in failed.iterrows()]]
    best = next(some for some in (supported, turned, failed) if len(some)).iloc[0]
    assert answers.effect(best) in own


def test_a_reading_names_claims_of_its_study_and_waits_for_their_verdicts(some):
    found, _ = some
    (line,) = found.verdicts[found.verdicts["id"] == "pskd_accuracy"].to_dict("records")
    told = answers.told_of("So\n  {pskd_accuracy}.", found.verdicts)
    assert told == f"So {answers.effect(line)}."
    for key, text, hint in (
        ("reading", "{pskd_acuracy}", "'pskd_acuracy', did you mean"),
        ("reading", "{crd_accuracy}", ""),
        ("headline", "{crd_accuracy}", ""),
    ):
        content = found.claims.model_dump()
        content["studies"]["self_distillation"][key] = text
        with pytest.raises(ValueError, match=f"self_distillation: unknown claim {hint}"):
            Claims(**content)
    few = found.verdicts.assign(verdict="4 seeds: no verdict")
    told = found.claims.studies["self_distillation"].reading
    assert answers.told_of(told, few) == ""


def test_its_page_tells_who_has_to_choose_what_is_not_run_and_its_price(some):
    found, rows = some
    text = overview.page(found, "self_distillation")
    (told,) = re.findall(r"^On (.*)$", text, re.MULTILINE)
    assert told.startswith("cifar100, resnet8, 15 epochs, bf16 (5 seeds).")
    gaps = [
        100 * (a - b)
        for a, b in zip(accuracies(rows, "pskd"), accuracies(rows, "none"), strict=True)
    ]
    accurate = 100 * statistics.mean(accuracies(rows, "pskd"))
    (line,) = re.findall(r"^\| PS-KD \| no KD \| .*$", text, re.MULTILINE)
    assert line.startswith(f"| PS-KD | no KD | {accurate:.2f} | ")
    assert "| {:+.2f} ± {:.2f} points |".format(*interval(gaps)) in line
    names = ("PS-KD", "PS-KD + BYOT + DMFL", "DMFL")
    listed = [f"{name} (against no KD)" for name in names]
    assert told.endswith(f"worse in neither: {listed[0]}, {listed[1]} and {listed[2]}.")
    (line,) = (one for one in found.ledger["self_distillation"] if one.profile == "cifar_small")
    assert (line.runs, line.done) == (29, len(rows))
    assert line.spent == pytest.approx(0.1 * len(rows))
    assert "| cifar_small |" in text
    assert f"| 29 | {len(rows)} | 2.5 |" in text
    for study in ("kd_calibration", "multi_teacher", "overlapping_teachers"):
        assert "No run of this study is stored" in overview.page(found, study)
    assert "cifar_small 25 (2.5 h)" in overview.runs(found)


def test_the_page_of_the_pilots_study_says_what_a_longer_training_would_change(whole):
    summary = (ROWS / "cifar_small" / "00_training_length" / "summary.txt").read_text()
    page = overview.page(whole, "kd_calibration")
    for line in summary.splitlines()[1:]:
        assert f"- {line}\n" in page
    for study in ("self_distillation", "multi_teacher", "overlapping_teachers"):
        assert "a longer training" not in overview.page(whole, study)


def test_its_page_tells_what_one_choice_inside_a_method_changes(whole):
    """Weights are judged on validation, by rows of the same seeds."""
    text = overview.page(whole, "kd_calibration")
    part = text.partition("## What changes with one choice inside a method")[2].partition("##")[0]
    found = {}
    for path in (ROWS / "cifar_small" / "02_students" / "rows").glob("*-ce-ce-no_mixup-seed0-*"):
        content = json.loads(path.read_text())
        found[content["labels"]["kd_method"]] = content["metrics"]["val"]["acc"]
    for method, weight in (("crd_quarter", 0.2), ("kd_fourfold", 3.6), ("at_quarter", 250)):
        gap = 100 * (found[method] - found[method.partition("_")[0]])
        assert f"{gap:+.2f} points at {weight:g}" in part
        name = f"{method.upper()} T:CE S:CE"
        assert f"| {name} | weight {weight:g} | 1 |  |  | {100 * found[method]:.2f} |" in part
    assert "inside a method" not in overview.page(whole, "multi_teacher")


def test_another_weight_stands_beside_its_own_method_or_not_at_all():
    def line(method, change, val_acc, seeds=1):
        cell = {"kd_method": method, "teacher_loss": "ce", "student_loss": "ce", "mixup": False}
        return cell | {"cell": method, "change": change, "val_acc": val_acc, "seeds": seeds}

    lines = [
        line("kd_low", "weight 0.2", 0.5),  # the row of kd is not there
        line("crd", "none", 0.4, 5), line("crd_low", "weight 0.2", 0.46, 5),
        line("rkd", "none", 0.5), line("rkd_low", "weight 0.25", math.nan),
    ]  # fmt: skip
    options = {f"{name}_low": {"of": name} for name in ("kd", "crd", "rkd")}
    told = practice.other_weights(pd.DataFrame(lines), options)
    assert told.endswith("changes by: crd +6.00 points at 0.2 (5 seeds).")
    assert practice.other_weights(pd.DataFrame(lines[:1]), options) == ""


def test_what_helped_is_told_at_scales_of_several_seeds():
    claims = load_claims()
    found = overview.Overview(claims, entries(taught(0.1), "cifar_small"), [])
    assert "\n\nWhat helped: CRD from " in overview.page(found, "kd_calibration")
    one = [each for each in taught(0.1) if each["run"]["seed"] == 0]  # too few for a verdict
    found = overview.Overview(claims, entries(one, "cifar_small"), [])
    for study in ("kd_calibration", "multi_teacher"):
        assert "What helped" not in overview.page(found, study)


def test_the_first_screen_has_a_sentence_a_study_and_its_page_the_reading(some):
    found, _ = some
    study = found.claims.studies["self_distillation"]
    headline, reading = (
        answers.told_of(text, found.verdicts) for text in (study.headline, study.reading)
    )
    screen = overview.first_screen(found)
    lines = re.findall(r"^- (.*)$", screen, re.MULTILINE)
    assert len(lines) == len(found.claims.studies)
    assert lines[1] == (
        f"**Self-distillation** (cifar100, resnet8, 15 epochs, bf16; 5 seeds). {headline}"
    )
    assert "15 claims is run" in lines[0]
    practice = " ".join(study.practice.split())  # of what was judged, and of nothing else
    assert re.findall(r"^  - (.*)$", screen, re.MULTILINE) == [f"*In practice:* {practice}"]
    page = overview.page(found, "self_distillation")
    assert reading in page
    assert reading not in screen
    for one in found.claims.studies.values():  # one sentence
        assert one.headline.strip().endswith(".")
        assert ". " not in one.headline


def test_a_run_of_the_default_profile_changes_nothing(tmp_path):
    """results/digits lies beside the committed profiles once somebody ran it."""
    (tmp_path / "digits" / "02_students" / "rows").mkdir(parents=True)
    (tmp_path / "digits" / "02_students" / "rows" / "broken.json").write_text("{}")
    found = overview.Overview.of(tmp_path)
    assert found.found == []
    assert "digits" not in {one.profile for one in found.plans}


def test_where_nothing_was_run():
    found = overview.Overview(load_claims(), [], [])
    told = answers.answer(found.claims, found.verdicts)
    assert told[0].startswith("None of 41 claims of 4 public studies is run")
    assert len(told) == 5
    assert (found.verdicts["verdict"] == NOT_RUN).all()


# --- standings and verdicts in words ---------------------------------------------------------


def table_of(*verdicts):
    """One claim's lines, one a verdict."""
    claims = load_claims()
    first = claims.claims[0]
    one = claims.model_copy(
        update={"claims": (first,), "studies": {first.study: claims.studies[first.study]}}
    )
    base = {"id": first.id, "study": first.study, "metric": "acc", "side": "higher", "p": 0.5,
            "effect": 0.02, "effect_ci95": 0.01, "margin": 0.005, "seeds": 5, "scale": "somewhere",
            "versus": 0.7, "p_holm": 0.5, "seeds_to_decide": math.nan, "fitted": math.nan,
            "fitted_ci95": math.nan}  # fmt: skip
    lines = [base | {"verdict": word, "p": 0.1 / at} for at, word in enumerate(verdicts, start=1)]
    return one, pd.DataFrame(lines)


@pytest.mark.parametrize(
    ("verdicts", "standing"),
    [
        ([HOLDS], HOLDS), ([FAILS, ILLUSTRATION], FAILS), ([HOLDS, FAILS], answers.MIXED),
        ([UNDECIDED, HOLDS], answers.HELD), ([FAILS, UNDECIDED], answers.FAILED),
        ([UNDECIDED, HOLDS, FAILS], answers.MIXED), ([UNDECIDED], UNDECIDED), ([NOT_RUN], NOT_RUN),
        (["4 seeds: no verdict"], answers.FEW), (["4 seeds: no verdict", UNDECIDED], UNDECIDED),
        ([NOT_RUN, ILLUSTRATION], NOT_RUN),
    ],
)  # fmt: skip
def test_the_standing_of_a_claim(verdicts, standing):
    claims, table = table_of(*verdicts)
    (line,) = answers.standings(claims, table).to_dict("records")
    assert line["standing"] == standing
    if standing in (HOLDS, FAILS):
        assert line["verdict"] == standing
    sentence = answers.answer(claims, table)[1]
    words = "none of 1 claims is run" if standing == NOT_RUN else answers.DO[standing][1]
    assert words in sentence


@pytest.mark.parametrize(
    ("side", "effect", "margin", "turned"),
    [
        ("higher", -0.03, 0.005, True),
        ("higher", -0.012, 0.005, False),  # its interval holds -0.005
        ("higher", 0.001, 0.005, False),
        ("lower", 0.03, -0.005, True),
        ("higher", -0.03, -0.005, False),  # "not worse by more than": worse is all there is
    ],
)
def test_a_claim_whose_reverse_is_beyond_the_margin_says_so(side, effect, margin, turned):
    line = {"verdict": FAILS, "metric": "acc", "side": side, "effect": effect, "margin": margin,
            "effect_ci95": 0.01}  # fmt: skip
    assert answers.reversed_effect(line) == turned
    assert answers.verdict(line).endswith("(the reverse is beyond the margin)") == turned
    assert not answers.reversed_effect(line | {"verdict": HOLDS})


@pytest.mark.parametrize(
    ("side", "margin", "published", "supported"),
    [
        ("higher", 0.005, 0.01, True), ("higher", 0.005, 0.004, False),
        ("lower", -0.005, 0.01, True),  # towards the claimed side
        ("lower", -0.005, -0.01, False), ("higher", -0.005, 0.0, True),
        ("higher", 0.005, math.nan, False),
    ],
)  # fmt: skip
def test_what_published_numbers_support(side, margin, published, supported):
    line = {"side": side, "margin": margin, "published_effect": published}
    assert answers.published_supports(line) == supported


def test_the_first_sentences_count_what_published_numbers_say():
    claims, table = table_of(FAILS)
    told = {
        0.02: "1 contradict published numbers",
        -0.02: "1 fail in the published numbers, too",
        math.nan: "1 have no published number",
    }
    for published, words in told.items():
        lines = table.assign(effect=-0.03, published_effect=published)
        (total, *_) = answers.answer(claims, lines)
        wanted = f". Of the 1 that do not hold, {words}; in 1 our effect is beyond the margin"
        assert wanted in total


@pytest.mark.parametrize(
    ("side", "fitted", "margin", "still"),
    [("higher", 0.02, 0.005, 1), ("higher", 0.012, 0.005, 0), ("lower", -0.02, -0.005, 1),
     ("lower", 0.02, -0.005, 0), ("higher", 0.001, -0.02, 1)],
)  # fmt: skip
def test_the_first_sentences_say_which_claims_hold_after_a_fit(side, fitted, margin, still):
    claims, table = table_of(HOLDS)
    assert "after a fit" not in answers.answer(claims, table)[0]
    table = table.assign(side=side, fitted=fitted, fitted_ci95=0.01, margin=margin)
    (total, _) = answers.answer(claims, table)
    assert ". Of the 1 that hold, at some scale at least, and can be judged again after a " in total
    assert f", {still} still do" in total
    board = answers.scoreboard(claims, table)
    for line in ("kd_calibration", "all"):
        assert board.loc[line, ["claims", HOLDS, "fitted", "still"]].tolist() == [1, 1, 1, still]


def test_the_scoreboard_counts_every_claim_once(whole):
    board = answers.scoreboard(whole.claims, whole.verdicts)
    counts = board[list(answers.DO)].sum(axis=1)
    assert counts.tolist() == board["claims"].tolist()
    assert board.drop("all").sum().tolist() == board.loc["all"].tolist()
    assert board.loc["all", "claims"] == len(whole.claims.claims)
    assert board.loc["all", "reversed"] <= board.loc["all", FAILS]


def test_the_first_sentences_say_what_stays_after_holm():
    claims, table = table_of(FAILS)
    for adjusted, words in ((0.049, "all of 1 decided"), (0.051, "0 of 1 decided")):
        (total, *_) = answers.answer(claims, table.assign(p_holm=adjusted))
        assert f". After Holm p is below 0.05 for {words}. " in total
    assert "Holm" not in answers.answer(*table_of(UNDECIDED))[0]


def test_an_undecided_claim_says_seeds_width_and_what_would_decide():
    line = {"verdict": UNDECIDED, "metric": "acc", "seeds": 5, "effect_ci95": 0.0062}
    text = answers.verdict(line | {"seeds_to_decide": 12})
    assert text == "undecided (5 seeds, ± 0.62 points; 12 would decide)"
    text = answers.verdict(line | {"seeds_to_decide": math.inf, "metric": "ece"})
    assert text == "undecided (5 seeds, ± 0.0062; more than 1000 would decide)"
    assert answers.verdict(line | {"verdict": HOLDS}) == HOLDS


# --- options ---------------------------------------------------------------------------------


def taught(gain, **options):
    """KD, CRD and no KD; CRD gains `gain`."""
    rows = grid_rows(gain, 0.002, **options)
    for seed, loss in itertools.product(SEEDS, ("ce", "bs")):
        plain = row("none", loss, seed, 0.7 + 0.001 * seed, **options)
        plain["labels"]["teacher_loss"] = "none"
        rows.append(plain)
    return rows


def advised(study, rows, profile="cifar_small"):
    """What is said of the first scale, and its options: (option, against) -> its line."""
    told, table = practice.advice(study, entries(rows, profile), load_claims())[0]
    return told, {(line.pop("option"), line.pop("against")): line
                  for line in table.to_dict("records")}  # fmt: skip


CRD = ("CRD from teachers of cross-entropy to students of cross-entropy", "no KD")


def test_options_stand_beside_what_they_are_compared_with():
    told, lines = advised("kd_calibration", taught(0.2))
    assert lines[CRD]["Δ accuracy"].startswith("+")
    assert lines[CRD]["Δ ECE"].startswith("-")  # it is 1 - acc there
    assert float(lines[CRD]["ACC %"]) == pytest.approx(100 * (1 - float(lines[CRD]["ECE"])))
    assert ("balanced softmax with CRD", "cross-entropy with CRD") in lines
    assert f"clearly worse in neither: {CRD[0]} (against no KD)" in told
    told, lines = advised("kd_calibration", taught(-0.2))
    assert lines[CRD]["Δ accuracy"].startswith("-")
    assert told.endswith("clearly worse in neither: nothing.")


def test_what_a_fit_leaves_of_an_option_is_told_where_rows_have_one():
    rows = taught(0.2)
    for one in rows:
        after = {"temperature": {"ece": 0.3}, "logit_adjustment": {"acc": 0.5}}
        if one["labels"]["kd_method"] == "crd":
            after["logit_adjustment"] = {"acc": 0.6}
        one["metrics"] |= after
    _, lines = advised("kd_calibration", rows)
    assert lines[CRD]["Δ accuracy after logit adjustment"] == "+10.00 ± 0.00 points"
    assert lines[CRD]["Δ ECE after one temperature"] == "+0.0000 ± 0.0000"
    to_other = lines[CRD]["Δ ECE against the other fitted"].split()[0]
    assert float(to_other) == pytest.approx(float(lines[CRD]["ECE"]) - 0.3, abs=1e-4)
    assert "Δ NLL after one temperature" not in lines[CRD]


@pytest.mark.parametrize("fitted", [0.1, 0.3])
def test_a_gain_in_ece_that_one_temperature_gives_as_well_is_none(fitted):
    """CRD is as accurate, and its ECE is 0.2 where that of no KD is 0.4 as trained."""
    rows = taught(0.0)
    for one in rows:
        ours = one["labels"]["kd_method"] == "crd"
        one["metrics"]["test"] |= {
            "acc": 0.5 + 0.001 * (one["run"]["seed"] - 2) * ours,
            "ece": (0.2 if ours else 0.4) + 0.001 * one["run"]["seed"],
        }
        one["metrics"]["temperature"] = {"ece": fitted}
    told, _ = advised("kd_calibration", rows)
    assert (CRD[0] in told) == (fitted > 0.2)


def test_an_option_is_judged_without_mixup_where_runs_have_both():
    rows = taught(0.2)
    mixed = [{**one, "labels": one["labels"] | {"mixup": True}} for one in taught(-0.3)]
    _, lines = advised("kd_calibration", rows + mixed)
    assert lines[CRD] == advised("kd_calibration", rows)[1][CRD]
    assert lines["mixup", "no mixup"]["Δ accuracy"].startswith("-")
    _, alone = advised("kd_calibration", mixed)
    assert alone[CRD]["Δ accuracy"].startswith("-")


def test_a_registered_method_is_an_option_and_a_variant_is_not(monkeypatch):
    rows = taught(0.2)
    for one in rows:
        if one["labels"]["kd_method"] == "crd":
            one["labels"]["kd_method"] = "mine"
    _, lines = advised("kd_calibration", rows)
    assert not any("mine" in option for option, _ in lines)
    kept = dict(registry.TERMS._entries) | {"mine": registry.TERMS["kd"]}
    monkeypatch.setattr(registry.TERMS, "_entries", kept)
    _, lines = advised("kd_calibration", rows)
    assert any(option.startswith("mine from") for option, _ in lines)


def test_what_helped_names_each_scale_that_differs():
    rows = entries(taught(0.2)) + entries(taught(-0.2, data="cifar100"))
    first, second = practice.helped("kd_calibration", rows, load_claims())
    assert first.startswith("What helped (cifar10 IF 100): CRD from ")
    assert " % accurate, +" in first
    assert second == "What helped (cifar100 IF 100): nothing."
    one = [entry for entry in rows if entry.facts["seed"] == 0]
    assert practice.helped("kd_calibration", one, load_claims()) == []


def test_one_seed_is_descriptive_and_digits_come_last():
    claims = load_claims()
    told, lines = advised(
        "kd_calibration", [each for each in taught(0.2) if each["run"]["seed"] == 0]
    )
    assert told.endswith("(1 seed, descriptive).")
    assert "±" not in str(lines)
    digits = entries(taught(-0.2, data="digits"), "digits5")
    ((told, _),) = practice.advice("kd_calibration", digits, claims)
    assert "illustrates and decides nothing" in told
    other = entries(taught(0.2), "precision")
    ((told, _),) = practice.advice("kd_calibration", digits + other, claims)
    assert told.startswith("cifar10")
    judge = entries(taught(0.1), "cifar_small")
    every = digits + other + judge
    assert len(practice.advice("kd_calibration", every, claims)) == 1
    ((told, table),) = practice.elsewhere("kd_calibration", every, claims)
    assert told.startswith("cifar10")  # of precision, which judges no claim
    line = table.set_index(["option", "against"]).loc[CRD]
    assert line["Δ accuracy"].startswith("+20.")
    assert practice.elsewhere("kd_calibration", digits, claims) == []
    assert practice.advice("multi_teacher", judge, claims) == []


def test_an_option_may_hang_on_labels_that_the_others_lack():
    """KD with the weight and temperature it had, beside students that have neither."""
    rows = []
    for seed, (alpha, gain) in itertools.product(SEEDS, ((None, 0), (0.5, 0.1), (1.0, -0.2))):
        one = row("none" if alpha is None else "mean", "ce", seed, 0.7 + gain)
        one["labels"] = {"method": one["labels"]["kd_method"], "role": "student"}
        one["labels"] |= {} if alpha is None else {"alpha": alpha, "temperature": 4.0}
        rows.append({**one, "folder": "06_overlapping_teachers"})
    _, lines = advised("overlapping_teachers", rows)
    known = "the mean of the teachers that know the class"
    assert {option: line["Δ accuracy"] for (option, _), line in lines.items()} == {
        f"{known}, alpha 0.5, T 4": "+10.00 ± 0.00 points",
        f"{known}, alpha 1, T 4": "-20.00 ± 0.00 points",
    }


def test_readme_names_the_largest_and_no_more():
    names = [f"method{at}" for at in range(7)]
    rows = []
    for name, seed in itertools.product(["none", *names], SEEDS):
        gain = 0.0 if name == "none" else 0.1 - 0.01 * int(name[-1])
        one = row(name, "ce", seed, 0.7 + gain)
        one["labels"] = {"method": name, "role": "student"}
        rows.append({**one, "folder": "04_self_distillation"})
    (told,) = practice.helped("self_distillation", entries(rows), load_claims())
    assert told.startswith(
        "What helped: method0, against no KD (80.00 % accurate, +10.00 ± 0.00 po"
    )
    assert "method3" in told
    assert "method4" not in told


# --- what it costs ---------------------------------------------------------------------------


def test_what_is_not_run_is_priced_run_by_run(tmp_path):
    whole = plan("cifar_small", tmp_path, notebooks=["04"])
    trained = [run for run in whole.runs if run.recipe]
    prices_of = {run.id: 3600.0 * at for at, run in enumerate(trained, start=1)}
    done, unknown = trained[0], trained[1]
    for part, content in (("rows", {}), ("timings", {"seconds": 1800.0})):
        path = tmp_path / done.folder / part / f"{done.id}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    del prices_of[unknown.id]
    (line,) = prices.ledger(whole, ["04"], prices_of)
    assert (line.runs, line.done, line.missing) == (len(trained), 1, len(trained) - 1)
    assert (line.spent, line.unpriced) == (0.5, 1)
    assert line.left == pytest.approx(sum(range(3, len(trained) + 1)))
    told = overview.pages._costs([line]).iloc[0]
    assert told["runs without a price"] == 1
    assert overview.readme._by_profile([line], "missing", "left") == (
        f"cifar_small {len(trained) - 1} (> {overview.facts.in_hours(line.left)} h)"
    )


def test_every_run_of_the_profiles_on_a_processor_has_a_price():
    """After params changed: python scripts/prices.py PROFILE."""
    known = prices.stored()
    for profile in ("cifar_small", "fashion", "mnist"):
        ids = {run.id for run in plan(profile, "out").runs if run.recipe}
        assert ids <= known.keys(), profile


def test_a_run_costs_its_own_time_and_its_part_of_what_a_cohort_does_together(monkeypatch):
    parts = plan("cifar_small", "out", notebooks=["04"], seeds=[0]).parts
    asked = [(run, part.params) for part in parts for run in part.runs]
    jobs = [asked[:2], asked[2:]]
    zero = dict.fromkeys(("setup", "step", "probed", "look", "end", "shared", "own"), 0.0)
    cost = Cost(**zero | {"end": 5.0}, common=12.0, batch=0.0, steps_an_epoch=10)
    crowded = []

    def measured(kinds, cores, *, crowded: bool, told=crowded):
        told.append((cores, crowded))
        return dict.fromkeys(kinds, cost), 3.0

    monkeypatch.setattr(estimate, "measure", measured)
    found = estimate.run_seconds(jobs, 2)
    sizes = [len(cohort) for job in jobs for cohort in estimate._cohorts(job)]
    assert max(sizes) > 1
    assert sum(found.values()) == pytest.approx(5 * len(asked) + 12 * len(sizes))
    assert sorted(found.values())[0] == pytest.approx(5 + 12 / max(sizes))
    assert crowded == [(2, False)]


def test_folders_with_rows(tmp_path):
    (tmp_path / "a" / "02_students" / "rows").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    assert pairing.with_rows(tmp_path) == [tmp_path / "a"]
    assert isinstance(pairing.RESULTS, Path)
