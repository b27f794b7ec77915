"""What a batch finds before it starts: damage is named, an old evaluation is measured again."""

import json
import os
from dataclasses import replace

import pytest

from kdlib import Lab, Params, evaluate, grid, survey
from kdlib.config import fingerprint
from kdlib.data import UnknownSetError
from kdlib.plan import Part, Plan
from kdlib.store import Store


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three files and the contents of all: a teacher and its two students."""
    folder = tmp_path_factory.mktemp("survey")
    params = Params(
        kd_methods=["none", "kd"], student_losses=["ce"], teacher_losses=["ce"], mixup=[False],
        epochs=1, batch_size=32, eval_every=1,
    )  # fmt: skip
    teachers, students = grid.teacher_runs(params), grid.student_runs(params)
    parts = (
        Part("01_teachers", params, tuple(teachers)),
        Part("02_students", params, tuple(students)),
    )
    Lab.of(params, folder).complete(students)
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return Plan("mine", folder, (), parts), contents


@pytest.fixture
def whole(finished):
    """The finished plan, its files as they were."""
    plan, contents = finished
    for path, content in contents.items():
        path.write_bytes(content)
    return plan


def survey_of(whole, **options):
    return survey.survey(whole, **options)


def test_all_is_well(whole, caplog):
    found = survey_of(whole)
    assert sorted(found.stored) == sorted(run.id for run in whole.runs)
    assert (found.lost, caplog.text) == ({}, "")


@pytest.mark.parametrize("kind", ["rows", "checkpoints", "predictions"])
@pytest.mark.parametrize("cut", [False, True])
def test_damage_is_named_and_the_run_done_again(whole, kind, cut, caplog):
    run, store = whole.runs[-1], Store(whole.out_dir)
    path = store.path(run, kind)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content[:100] if cut else content)
    assert run.id not in survey_of(whole, dry_run=True).stored
    assert path.exists()  # a dry run changes nothing
    found = survey_of(whole)
    assert caplog.text.count(f"{path} is damaged") == 2
    assert set(found.stored) == {one.id for one in whole.runs} - {run.id}
    Lab.of(whole.parts[-1].params, whole.out_dir).complete([run])
    assert set(survey_of(whole).stored) == {one.id for one in whole.runs}
    if kind != "rows":
        lines = survey.closing_words(whole, found)
        assert not any("differs" in line for line in lines)  # the same to the last bit
        found.lost[run.id]["metrics"]["test"]["acc"] = 0.1234
        (line,) = [one for one in survey.closing_words(whole, found) if "differs" in one]
        assert line.startswith(f"{run.id} was done again and differs: test accuracy 0.")
        assert line.endswith("was 0.1234")


def test_a_teacher_without_a_checkpoint_is_made_again_by_its_own_job_where_it_is_needed(
    whole, caplog
):
    store, (teacher, _, student) = Store(whole.out_dir), whole.runs
    assert student.teachers == (teacher,)
    store.path(teacher, "checkpoints").unlink()
    assert len(survey_of(whole).stored) == 3  # nothing is left that needs it
    store.path(student, "rows").unlink()
    assert teacher.id not in survey_of(whole, dry_run=True).stored
    assert store.path(teacher, "rows").exists()  # a dry run changes nothing
    found = survey_of(whole)
    assert caplog.text.count(f"{teacher.id} has no checkpoint, and runs that are left need it") == 2
    assert (set(found.lost), len(found.stored)) == ({teacher.id}, 1)
    Lab.of(whole.parts[0].params, whole.out_dir).complete([teacher])
    assert store.path(teacher, "checkpoints").exists()
    assert not any("differs" in line for line in survey.closing_words(whole, found))


def test_a_damaged_progress_or_timing_is_named_and_goes(whole, caplog):
    run, store = whole.runs[-1], Store(whole.out_dir)
    progress, timing = (store.path(run, kind) for kind in ("progress", "timings"))
    progress.parent.mkdir(exist_ok=True)
    progress.write_bytes(b"what a run that was killed has left, with a byte flipped")
    timing.write_text(timing.read_text()[:-9])
    assert run.id in survey_of(whole, dry_run=True).stored
    assert progress.exists()
    assert run.id in survey_of(whole).stored
    assert caplog.text.count(f"{progress} is damaged") == 2
    assert caplog.text.count(f"{timing} is damaged") == 2
    assert not progress.exists()
    assert not timing.exists()
    caplog.clear()
    survey_of(whole)
    assert caplog.text == ""


def test_a_rebuilt_teacher_that_differs_from_its_row_is_named(whole):
    """Its checkpoint was missing, its row was not."""
    teacher, store = whole.runs[0], Store(whole.out_dir)
    before = survey_of(whole)
    age(store.path(teacher, "rows"))
    (line,) = [one for one in survey.closing_words(whole, before) if "differs" in one]
    assert line.startswith(f"{teacher.id} was done again and differs: test accuracy 0.5000, was")


def test_a_missing_checkpoint_is_no_damage(whole):
    for run in whole.runs:
        Store(whole.out_dir).path(run, "checkpoints").unlink()
        Store(whole.out_dir).path(run, "predictions").unlink()
    assert len(survey_of(whole).stored) == len(whole.runs)


def age(path):
    """Make a row one of an older evaluation, with metrics of that time."""
    row = json.loads(path.read_text())
    del row["sha256"]
    row |= {"evaluation": 0, "metrics": {"test": {"acc": 0.5}}}
    path.write_text(json.dumps({**row, "sha256": fingerprint(row)}))


def test_an_old_evaluation_is_measured_again_without_training(whole, monkeypatch, capsys, caplog):
    store, (teacher, student, other) = Store(whole.out_dir), whole.runs
    expected = {run.id: store.row(run)["metrics"] for run in whole.runs}
    for run in whole.runs:
        age(store.path(run, "rows"))
    store.path(student, "predictions").unlink()  # then from its checkpoint
    for kind in ("predictions", "checkpoints"):
        store.path(other, kind).unlink()
    monkeypatch.setattr("kdlib.train.fit", None)
    survey_of(whole)
    assert capsys.readouterr().out == "2 rows of an older evaluation were measured again\n"
    assert f"{other.id} stays at evaluation 0: no predictions, no checkpoint" in caplog.text
    for run in (teacher, student):
        assert store.row(run)["metrics"] == expected[run.id]
        assert store.row(run)["evaluation"] == evaluate.VERSION
    assert store.row(other)["evaluation"] == 0


def test_missing_data_end_a_run_but_not_a_plan(whole, monkeypatch, caplog):
    def absent(*_):
        raise FileNotFoundError("no digits.npz")

    monkeypatch.setattr(Lab, "check", absent)
    survey_of(whole, dry_run=True)
    assert "no digits.npz; what depends on the data is not checked" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"no digits\.npz"):
        survey_of(whole)


def test_a_part_without_data_keeps_no_other_from_being_checked(whole, monkeypatch, caplog):
    own = whole.parts[0].params.model_copy(update={"data": "mine"})
    run = whole.runs[0].model_copy(update={"data": "mine"})
    parts = (Part("00_own", own, (run,)), Part("01_own", own, (run,)), *whole.parts)
    for path in whole.out_dir.glob("*/rows/*"):
        path.unlink()
    checked, check = [], Lab.check
    monkeypatch.setattr(Lab, "check", lambda lab, runs: (check(lab, runs), checked.append(runs)))
    survey_of(replace(whole, parts=parts), dry_run=True)
    assert caplog.text.count("unknown set 'mine'") == 1
    assert sum(map(len, checked)) == len(whole.runs)
    with pytest.raises(UnknownSetError, match="'mine'"):
        survey_of(replace(whole, parts=parts))


def test_litter_of_killed_writers_goes_when_it_is_old(whole):
    young, old = (whole.out_dir / "01_teachers" / f".{name}.partial" for name in ("a", "b"))
    for path in (young, old):
        path.touch()
    os.utime(old, (0, 0))
    survey_of(whole, dry_run=True)
    assert old.exists()
    survey_of(whole)
    assert young.exists()
    assert not old.exists()
    young.unlink()


def test_cuda_graphs_are_no_matter_of_the_machine_that_plans(whole):
    parts = [
        part._replace(params=part.params.model_copy(update={"cuda_graphs": True}))
        for part in whole.parts
    ]
    with pytest.raises(ValueError, match="cuda_graphs needs a CUDA device, got cpu"):
        survey_of(replace(whole, parts=parts, out_dir=whole.out_dir / "empty"))
    survey_of(replace(whole, parts=parts, out_dir=whole.out_dir / "empty"), check_on="cpu")
