"""The estimate: its arithmetic by hand, its measurement against a real cohort."""

import time

import pytest

from kdlib import Lab, Params, estimate, grid
from kdlib.config import Recipe
from kdlib.plan import Job, Part, Plan

COST = estimate.Cost(
    first=3.0, setup=1.0, step=0.1, probed=0.3, teachers=0.05, look=0.2, end=2.0,
    shared=300.0, own=10.0, steps_an_epoch=7,
)  # fmt: skip
TINY = {"kd_methods": ["kd"], "teacher_losses": ["ce"], "mixup": [False], "batch_size": 32}


@pytest.fixture
def students():
    return grid.student_runs(Params(**TINY, epochs=4, student_losses=["ce", "bs"]))


def test_the_time_of_a_run(students):
    # Of 4 x 7 steps 2 x 5 are probed; validation is looked at in each of the 4 epochs.
    run = students[0]
    run = run.model_copy(update={"recipe": run.recipe.model_copy(update={"eval_every": 1})})
    assert COST.alone(run) == pytest.approx(1 + 10 * 0.3 + 18 * 0.1 + 4 * 0.2 + 2)
    assert COST.watched(run) == pytest.approx(28 * 0.05)
    once = run.model_copy(update={"recipe": Recipe(epochs=1, batch_size=32, eval_every=5)})
    assert COST.alone(once) == pytest.approx(1 + 5 * 0.3 + 2 * 0.1 + 0.2 + 2)


def test_runs_of_a_kind_share_a_measurement(students):
    ce, bs = students
    assert estimate.kind(ce) == estimate.kind(bs)  # the label loss costs nothing
    (mixed,) = grid.student_runs(Params(**TINY | {"mixup": [True]}, student_losses=["ce"]))
    assert estimate.kind(ce) != estimate.kind(mixed)


def test_the_wall_time_respects_needs_and_cores():
    jobs = [
        Job("a", "n", {}, (), ()),
        Job("b", "n", {}, (), ()),
        Job("c", "n", {}, ("a", "b"), ()),
    ]
    seconds = {"a": 5.0, "b": 3.0, "c": 2.0}
    assert estimate.wall_seconds(jobs, seconds, 1) == 10
    assert estimate.wall_seconds(jobs, seconds, 2) == 7
    assert estimate.wall_seconds(jobs, seconds, 9) == 7


def test_the_table(students, monkeypatch):
    params = Params(**TINY, epochs=4, student_losses=["ce", "bs"])
    teacher, ids = students[0].teachers[0], tuple(run.id for run in students)
    jobs = (
        Job("01_teachers/t", "01_teachers", {}, (), (teacher.id,)),
        Job("02_students/s", "02_students", {}, ("01_teachers/t",), ids),
        Job("03_calibration_study", "03_calibration_study", {}, ("02_students/s",), ()),
    )
    parts = (
        Part("01_teachers", params, (teacher,)),
        Part("02_students", params, tuple(students)),
    )
    whole, measured = Plan("mine", None, jobs, parts), []

    def measure(kinds, cores):
        measured.append((len(kinds), cores))
        return dict.fromkeys(kinds, COST)

    monkeypatch.setattr(estimate, "measure", measure)
    monkeypatch.setattr(estimate, "notebook_start", lambda: 10.0)
    names = [job.name for job in jobs]
    lines = estimate.table(whole, names, {teacher.id}, 2).splitlines()
    assert measured == [(1, 2)]  # the teacher is stored already
    alone = COST.alone(students[0])
    expected = 10 + 3 + 2 * alone + COST.watched(students[0])
    assert f"{expected:.0f} s of work" in lines[2]
    assert "0.3 GB a job" in lines[2]
    assert lines[-1].startswith(f"  in all, 2 at once: about {10 + expected + 10:.0f} s")
    assert estimate.table(whole, [], ids, 2) == ""


def test_a_set_that_is_not_here_is_noise_of_its_shape(tmp_path):
    params = Params(**TINY, epochs=1, student_losses=["ce"], data="mnist", data_dir=str(tmp_path))
    (run,) = grid.student_runs(params)
    lab = Lab.of(params, tmp_path)
    lab.record = lambda run: (_ for _ in ()).throw(OSError("no network"))
    record, selection = estimate._data(lab, run)
    assert record.train_images.shape == (60_000, 28, 28, 1)
    assert sum(selection.class_counts) == 54_000
    with pytest.raises(OSError, match="no network"):
        estimate._data(lab, run.model_copy(update={"data": "mine"}))


@pytest.mark.slow
def test_measured_against_a_real_cohort(tmp_path):
    """Within the factor that a busy machine allows; a quiet one gives 1.5."""
    params = Params(**TINY, epochs=30, student_losses=["ce", "bs"], eval_every=5)
    students = grid.student_runs(params)
    costs = estimate.measure({estimate.kind(students[0]): (students[0], params)}, 1)
    (cost,) = costs.values()
    foreseen = cost.watched(students[0]) + sum(cost.alone(run) for run in students)
    lab, teacher = Lab.of(params, tmp_path), students[0].teachers[0]
    lab.complete([teacher])
    started = time.perf_counter()
    lab.complete(students)
    took = time.perf_counter() - started
    assert took / 2 < foreseen < took * 2
    assert 0 <= cost.own < cost.shared
