"""The pilot: its runs, its differences against plain loops, where they settle, its section."""

import itertools
import math

import pytest
from report_helpers import fake_row

from kdlib import grid
from kdlib.plan import plan
from kdlib.report import csv, of
from kdlib.report import training_length as report
from kdlib.studies import published_claims
from kdlib.studies.training_length import STEM, TrainingLength, runs

BASE = {
    "data": "cifar10", "imbalance_factor": 100, "kd_methods": ["none", "kd", "crd"],
    "teacher_losses": ["ce"], "student_losses": ["ce", "bs"], "mixup": [False],
    "options": {"kd_adjusted": {"of": "kd", "space": "adjusted"}},
    "controls": {"adjusted": {"kd_methods": ["kd_adjusted"], "student_losses": ["bs"]}},
    "lengths": [10, 20, 40],
}  # fmt: skip


def params_of(**changes):
    return TrainingLength.of(**BASE | changes)


@pytest.fixture(scope="module")
def pilot():
    params = params_of(seeds=[0, 1])
    return params, [fake_row(run) for run in runs(params)]


def test_each_length_has_teachers_of_its_own():
    made = runs(params_of())
    assert len(made) == 3 * (1 + 6 + 1)
    for run in made:
        assert run.folder == STEM
        assert run.labels["epochs"] == run.recipe.epochs
        assert {teacher.recipe.epochs for teacher in run.teachers} <= {run.recipe.epochs}
    teachers = {teacher.id for run in made for teacher in run.teachers}
    assert teachers == {run.id for run in made if run.labels.get("role") == "teacher"}
    assert len(teachers) == 3


def test_a_network_that_is_given_has_no_length():
    given = {"model": "resnet8", "checkpoint": "mine.pth"}
    with pytest.raises(ValueError, match="given_students: mine has no length of training"):
        runs(params_of(given_students={"mine": given}))
    with pytest.raises(ValueError, match="teacher_model: a given teacher has no length"):
        runs(params_of(teacher_model=given))


def test_a_sign_counts_beyond_the_margin_of_claims_where_their_file_is_not_at_hand(
    pilot, monkeypatch, tmp_path
):
    """It is not packaged: an installed kdlib has none."""
    assert report.MARGINS.items() <= published_claims.load_claims().margins.items()
    monkeypatch.setattr(published_claims, "CLAIMS", tmp_path / "claims.yaml")
    params, rows = pilot
    found = report.tables(rows, params)
    assert report.answer(found, params)


def test_its_runs_are_those_of_the_grid_but_for_their_place():
    """What the pilot says of a length is true of a grid of that length."""
    params = params_of(lengths=[20], controls={})
    values = {key: value for key, value in BASE.items() if key != "lengths"}
    whole = grid.Params.of(**values | {"epochs": 20, "controls": {}})
    wanted = grid.teacher_runs(whole) + grid.student_runs(whole)
    found = runs(params)
    assert [run.identity() | {"teachers": ()} for run in found] == [
        run.identity() | {"teachers": ()} for run in wanted
    ]


def test_the_pilot_of_cifar_small_is_one_command():
    made = plan("cifar_small", "out", notebooks=["00"])
    *parts, last = made.jobs
    assert set(last.needs) == {job.name for job in parts}
    assert sum(len(job.runs) for job in parts) == len(made.runs) == 4 * (1 + 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kd_methods": ["none"], "student_losses": ["ce"], "mixup": [False], "controls": {}},
            "no two kinds of student differ in one",
        ),
        (
            {
                "kd_methods": ["none", "kd"],
                "teacher_losses": ["ce"],
                "plain_losses": ["ce"],
                "student_losses": ["bs"],
                "mixup": [False],
                "controls": {},
            },
            "no two kinds of student differ in one",
        ),
        ({"kd_methods": ["kd"]}, "kd_methods lacks 'none'"),
        ({"teacher_model": {"model": "resnet20", "checkpoint": "x.pth"}}, "has no length"),
        ({"lengths": [10, 10]}, "lengths: a value stands twice"),
        ({"lengths": [0]}, "lengths"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        runs(params_of(**changes))


def test_differences_against_loops(pilot):
    params, rows = pilot
    students = [row for row in rows if row["labels"].get("role") != "teacher"]
    table = report.tables(rows, params)["differences"]

    def choices(row):
        labels = row["labels"]
        return (labels["kd_method"], labels["teacher_loss"]), labels["student_loss"]

    seen = 0
    for one, other in itertools.permutations(students, 2):
        if one["labels"]["epochs"] != other["labels"]["epochs"]:
            continue
        if one["run"]["seed"] != 0 or other["run"]["seed"] != 0:
            continue
        if sum(a != b for a, b in zip(choices(one), choices(other), strict=True)) != 1:
            continue
        names = [report.cell_label(row["labels"]) for row in (one, other)]
        found = table[
            (table["difference"] == " - ".join(names))
            & (table["epochs"] == one["labels"]["epochs"])
        ]
        if found.empty:  # it stands the other way round
            continue
        seen += 1
        twins = [
            next(r for r in students if r["labels"] == row["labels"] and r["run"]["seed"] == 1)
            for row in (one, other)
        ]
        for metric in ("acc", "ece"):
            gaps = [
                a["metrics"]["test"][metric] - b["metrics"]["test"][metric]
                for a, b in ((one, other), twins)
            ]
            value = found[f"{metric}_effect"].item()
            assert value == pytest.approx(sum(gaps) / 2)
            sign = 0 if abs(value) <= 0.005 else math.copysign(1, value)
            assert found[f"{metric}_sign"].item() == sign
        assert found["seeds"].item() == 2
    assert seen == len(table) == 3 * 12


def test_a_difference_settles_where_its_sign_last_turned(pilot):
    params, rows = pilot
    tables = report.tables(rows, params)
    for line in tables["settled"].to_dict("records"):
        part = tables["differences"].query("difference == @line['difference']")
        for metric in ("acc", "ece"):
            signs = part[f"{metric}_sign"].tolist()
            turned = [
                at for at in range(len(signs)) for later in signs[at:] if signs[at] * later == -1
            ]
            expected = params.lengths[max(turned) + 1] if turned else params.lengths[0]
            assert line[f"{metric}_settled"] == expected


def test_how_far_sizes_still_move_is_told(pilot):
    params, rows = pilot
    found = report.tables(rows, params)
    table = found["differences"]
    for metric, word, digits, scale in (("acc", "accuracy", 2, 100), ("ece", "ECE", 4, 1)):
        for length in (10, 20):
            gaps = []
            for name in table["difference"].unique():
                own = table[table["difference"] == name].set_index("epochs")[f"{metric}_effect"]
                gaps.append(abs(own[length] - own[40]))
            unit = " points" * (metric == "acc")
            (told,) = (
                text for text in report.answer(found, params)
                if text.startswith(f"Sizes still move: {word} until 40 epochs")
            )  # fmt: skip
            assert f"{scale * max(gaps):.{digits}f}{unit} from {length}" in told
    one = params_of(seeds=[0], lengths=[10])
    answer = report.answer(report.tables([fake_row(run) for run in runs(one)], one), one)
    assert not any("Sizes still move" in text for text in answer)


def test_what_the_section_says_is_in_its_tables(pilot, tmp_path):
    params, rows = pilot
    page = report.write(rows, params, tmp_path)
    assert of(STEM) is report
    text = page.with_name("summary.txt").read_text()
    tables = report.tables(rows, params)
    longest = max(params.lengths)
    for metric, word in (("acc", "accuracy"), ("ece", "ECE")):
        lengths = tables["settled"][f"{metric}_settled"]
        late = (lengths == longest).sum()
        told = f"In {word} none of 12" if not late else f"In {word} {late} of 12 differences still"
        assert told in text
    line = tables["differences"].query("difference == 'KD T:CE S:CE - no KD S:CE' and epochs == 20")
    assert f", {100 * line['acc_effect'].item():+.1f}, " in text
    assert "2 seeds" in text.splitlines()[-1]
    for name, table in report.deterministic_tables(rows, params).items():
        assert (tmp_path / STEM / f"{name}.csv").read_bytes() == csv(table)


def test_a_missing_run_leaves_no_difference_of_its_seed(pilot):
    params, rows = pilot
    gone = next(row for row in rows if row["labels"].get("kd_method") == "crd")
    table = report.tables([row for row in rows if row is not gone], params)["differences"]
    length = gone["labels"]["epochs"]
    own = table["difference"].str.contains("CRD T:CE S:CE") & (table["epochs"] == length)
    assert own.any()
    assert set(table.loc[own, "seeds"]) == {1}
    assert set(table.loc[~own, "seeds"]) == {2}
