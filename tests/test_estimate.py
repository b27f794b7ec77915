"""The estimate: its arithmetic by hand, its measurement against a real cohort."""

import time
from dataclasses import replace

import pytest

from kdlib import Lab, Params, costs, estimate, grid, objectives, stand_ins
from kdlib.config import Recipe
from kdlib.plan import Job, Part, Plan
from kdlib.train.loop import kept_threads

COST = costs.Cost(
    setup=1.0, step=0.1, probed=0.3, look=0.2, end=2.0, common=3.0, batch=0.05,
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
    assert COST.together(run) == pytest.approx(3 + 28 * 0.05)
    once = run.model_copy(update={"recipe": Recipe(epochs=1, batch_size=32, eval_every=5)})
    assert COST.alone(once) == pytest.approx(1 + 5 * 0.3 + 2 * 0.1 + 0.2 + 2)
    slow = COST.slowed(2)
    assert slow.alone(run) == pytest.approx(2 * COST.alone(run))
    assert (slow.shared, slow.own, slow.steps_an_epoch) == (300.0, 10.0, 7)


def test_runs_of_a_kind_share_a_measurement_and_kinds_of_a_place_a_process(students):
    ce, bs = map(costs.kind, students)
    assert ce == bs  # the label loss costs nothing
    others = [{"mixup": [True]}, {"kd_methods": ["crd"]}, {"kd_methods": ["pskd"]}]
    for changes in others[:2]:
        (run,) = grid.student_runs(Params(**TINY | changes, student_losses=["ce"]))
        assert costs.kind(run) != ce
        assert costs.kind(run)[costs.PLACE] == ce[costs.PLACE]
    (alone,) = grid.student_runs(Params(**TINY | others[2], student_losses=["ce"]))
    assert costs.kind(alone)[costs.PLACE] != ce[costs.PLACE]  # it has no teacher


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


def test_a_job_that_waits_keeps_no_core():
    jobs = [Job("a", "n", {}, (), ()), Job("b", "n", {}, ("a",), ()), Job("c", "n", {}, (), ())]
    assert estimate.wall_seconds(jobs, {"a": 5.0, "b": 5.0, "c": 8.0}, 2) == 10
    assert estimate.wall_seconds(jobs[1:], {"b": 5.0, "c": 8.0}, 2) == 8  # a is done


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
        return dict.fromkeys(kinds, COST), 10.0

    monkeypatch.setattr(estimate, "measure", measure)
    names = [job.name for job in jobs]
    _, teachers, taught, each, drawn, total = estimate.table(
        whole, names, {teacher.id}, 2
    ).splitlines()
    assert measured == [(1, 2)]  # the teacher is stored already
    alone, once = COST.alone(students[0]), COST.together(students[0])
    expected = 10 + 2 * alone + once
    assert "0 runs      10 s of work" in teachers
    assert f"2 runs  {expected:6.0f} s of work  0.3 GB a job" in taught
    assert each.split() == [
        *f"resnet8_half of resnet8 2 runs {alone + once / 2:.0f} s and 10 MB each".split()
    ]
    assert "20 s of work" in drawn  # its tables and figures take as long as its start
    assert total == f"  in all, 2 at once: about {10 + expected + 20:.0f} s, 0.3 GB of memory"
    assert estimate.table(whole, [], ids, 2) == ""
    own = tuple(run.model_copy(update={"data": "mine"}) for run in students)
    untold = replace(jobs[1], runs=tuple(run.id for run in own))
    mixed = Plan("mine", None, (jobs[0], untold), (parts[0], Part("02_students", params, own)))
    *_, total, left_out = estimate.table(mixed, names, {}, 2).splitlines()
    assert total.startswith("  in all, 2 at once:")
    assert left_out == "  without 2 runs on 'mine': how large its images are is not known here"


def test_a_set_that_is_not_here_is_noise_of_its_shape(tmp_path):
    params = Params(**TINY, epochs=1, student_losses=["ce"], data="mnist", data_dir=str(tmp_path))
    (run,) = grid.student_runs(params)
    lab = Lab.of(params, tmp_path)
    lab.record = lambda run: (_ for _ in ()).throw(OSError("no network"))
    record, selection = stand_ins.data_of(lab, run)
    assert record.train_images.shape == (60_000, 28, 28, 1)
    assert sum(selection.class_counts) == 54_000
    with pytest.raises(OSError, match="no network"):
        stand_ins.data_of(lab, run.model_copy(update={"data": "mine"}))


def test_measured_against_a_real_cohort(tmp_path):
    """In seconds of a processor, which neighbours do not disturb."""
    params = Params(
        **TINY | {"kd_methods": ["kd", "crd"]}, epochs=30, eval_every=5,
        student_losses=["ce", "bs"], options={"crd": {"negatives": 64}},
    )  # fmt: skip
    students = grid.student_runs(params)
    asked = {costs.kind(run): (run, params) for run in students}
    with kept_threads(1):
        found, (passed, counted) = costs._costs(asked)
    own = [found[costs.kind(run)] for run in students]
    foreseen = max(cost.together(run) for cost, run in zip(own, students, strict=True))
    foreseen += sum(cost.alone(run) for cost, run in zip(own, students, strict=True))
    lab = Lab.of(params, tmp_path)
    lab.complete([students[0].teachers[0]])
    started = time.process_time()
    lab.complete(students)
    took = time.process_time() - started
    assert took / 1.5 < foreseen < took * 1.5
    assert 0 < counted <= passed
    assert all(0 <= cost.own < cost.shared for cost in own)


def test_what_teachers_say_is_cached_for_some_images_and_reckoned_for_all(tmp_path, monkeypatch):
    """An epoch's steps, and the memory of the images, are those of the whole set."""
    params = Params(**TINY, epochs=4, student_losses=["ce"], augment={})
    (run,) = grid.student_runs(params)
    assert objectives.caches(run)
    assert not objectives.caches(run.teachers[0])
    monkeypatch.setattr(costs, "CACHED", 40)
    bench = costs._Bench(Lab.of(params, tmp_path), run, time.process_time)
    images, few = (len(one.train_indices) for one in (bench.selection, bench.few))
    assert few <= images / 2  # two batches are kept at least
    assert len(bench.cohort(run).stream.labels) == few
    assert bench._not_seen(run) == pytest.approx((images - few) * 64 * costs.GROWTH / 2**20)
    assert len(bench.cohort(run.teachers[0]).stream.labels) == images
    assert bench.steps(run, 0.0)["steps_an_epoch"] == images // 32
    seconds = iter([10.0, 10.5])
    bench.clock = lambda: next(seconds, 11.0)
    monkeypatch.setattr(bench, "_mean", lambda call, window: 0.0)
    monkeypatch.setattr(bench, "_evaluation", lambda run, cohort: {})
    assert bench.steps(run, 0.1)["common"] == pytest.approx(0.4 * images / few)


def test_a_crowded_machine_slows_everything_down():
    kinds = ("one",), ("other",)
    found = [({kind: COST}, (6.0, 2.0)) for kind in kinds]
    assert costs._together(found, crowded=True) == dict.fromkeys(kinds, COST.slowed(3))
    assert costs._together(found, crowded=False) == dict.fromkeys(kinds, COST)
    assert costs._together([], crowded=True) == {}  # only tables are left to draw


@pytest.mark.slow
def test_measured_in_processes_of_their_own(students):
    params = Params(**TINY, epochs=4, student_losses=["ce", "bs"])
    asked = {costs.kind(run): (run, params) for run in [*students, students[0].teachers[0]]}
    found, start = costs.measure(asked, 2)
    assert found.keys() == asked.keys()
    assert start > 1  # a kernel and torch
    assert min(cost.step for cost in found.values()) > 0
    assert costs.measure({}, 1)[0] == {}
