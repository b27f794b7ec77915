"""Profiles become jobs: split by stream, parameters that rebuild just the job's runs."""

import pytest

from kdlib import grid, studies
from kdlib.config import Params
from kdlib.plan import parameter_names, plan, profiles
from kdlib.registry import STUDIES


@pytest.fixture(scope="module")
def digits():
    return plan("digits", "out")


def rebuilt(job):
    """The runs a notebook makes of a job's parameters."""
    values = {key: value for key, value in job.params.items() if key not in ("extra", "out_dir")}
    params = STUDIES[job.notebook].facts.params.of(**values, **job.params["extra"])
    return studies.runs(job.notebook, params)


def of_the_grid(jobs):
    return [job for job in jobs if job.notebook in (grid.TEACHERS, grid.STUDENTS, grid.STUDY)]


def test_the_default_profile(digits):
    assert [job.name for job in digits.jobs[:4]] == [
        "01_teachers/teacher-no_mixup-seed0",
        "01_teachers/teacher-mixup-seed0",
        "02_students/none-no_mixup-seed0",
        "02_students/ce-no_mixup-seed0",
    ]
    jobs = of_the_grid(digits.jobs)
    assert [len(job.runs) for job in jobs] == [4, 4, *([4] + [16] * 4) * 2, 0]
    assert digits.jobs[2].needs == ()
    assert digits.jobs[3].needs == ("01_teachers/teacher-no_mixup-seed0",)
    assert len(jobs[-1].needs) == 12


def test_a_study_that_concludes_waits_for_all_its_runs(digits):
    for stem in ("04_self_distillation", "05_multi_teacher_fidelity", "06_overlapping_teachers"):
        *parts, last = [job for job in digits.jobs if job.notebook == stem]
        assert parts
        assert all(job.runs for job in parts)
        assert (last.runs, set(last.needs)) == ((), {job.name for job in parts})


def test_the_claims_wait_for_everything(digits):
    assert set(digits.jobs[-1].needs) == {job.name for job in digits.jobs[:-1]}
    assert digits.jobs[-1].notebook == "07_published_claims"
    assert digits.jobs[-1].params["extra"]["profile"] == "digits"  # though it is kept in `out`


@pytest.mark.parametrize(
    ("profile", "changes"),
    [*((name, {}) for name in profiles()), ("digits5", {"kd_methods": ["none"]})],
)
def test_a_jobs_parameters_make_exactly_its_runs(profile, changes):
    for job in plan(profile, "out", **changes).jobs:
        if job.runs or not STUDIES[job.notebook].facts.concludes:
            assert tuple(run.id for run in rebuilt(job)) == job.runs
        assert bool(job.params["extra"]["only"]) == bool(job.runs)
        assert set(job.params) == set(parameter_names_of(job))


def test_a_run_that_the_params_do_not_make_is_named():
    params = Params.of(only=["nothing"])
    with pytest.raises(ValueError, match="only: 'nothing' is no run of these params"):
        studies.runs(grid.STUDENTS, params)


def parameter_names_of(job):
    from kdlib.plan import ROOT

    return parameter_names(ROOT / "notebooks" / f"{job.notebook}.ipynb")


def test_settings_do_not_mix():
    made = plan("paper", "out")
    names = {job.name: job for job in made.jobs}
    job = names["02_students/cifar100_if50/bs-mixup-seed0"]
    assert job.needs == ("01_teachers/cifar100_if50/teacher-mixup-seed0",)
    study = names["03_calibration_study/cifar10_if100"]
    assert all("cifar10_if100" in need for need in study.needs)


def test_seeds_are_jobs_of_their_own():
    made = plan("digits", "out", seeds=[0, 1])
    jobs = of_the_grid(made.jobs)
    assert len(jobs) == 2 * 12 + 1
    assert sum(len(job.runs) for job in jobs) == 2 * 144


def test_one_changed_method_changes_one_run_of_each_job(digits):
    changed = plan("digits", "out", **{"options.rkd.angle": 1.0})
    for before, after in zip(digits.jobs, changed.jobs, strict=True):
        assert before.name == after.name
        moved = set(before.runs) ^ set(after.runs)
        assert all(run.startswith("rkd-") for run in moved)
        assert bool(moved) == (before.notebook == grid.STUDENTS and "none" not in before.name)


def test_a_change_replaces_a_mapping_and_a_dotted_one_a_value_inside():
    two = {"even": [0, 2, 4], "odd": [1, 3, 5]}
    (part,) = plan("digits", "out", notebooks=["06"], teachers=two, controls={}).parts
    assert list(part.params.teachers) == ["even", "odd"]
    assert part.params.controls == {}
    (part,) = plan("digits", "out", notebooks=["02"], **{"options.crd.negatives": 32}).parts
    assert part.params.options["crd"]["negatives"] == 32
    with pytest.raises(ValueError, match="unknown key 'profile'"):
        plan("cifar_small", "out", notebooks=["07"], **{"profile": "mine"})
    with pytest.raises(ValueError, match="unknown key 'option', did you mean 'options'"):
        plan("digits", "out", **{"option.crd.negatives": 32})
    with pytest.raises(ValueError, match=r"'data' is 'digits', it has no 'name'"):
        plan("digits", "out", **{"data.name": "x"})


def test_paths_of_params_do_not_hang_on_where_a_job_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.pth").write_bytes(b"any")
    given = {"mine": {"model": "resnet8", "checkpoint": "mine.pth"}}
    made = plan("digits", "out", notebooks=["02"], given_students=given, data_dir="data")
    assert made.parts[0].params.given_students["mine"].checkpoint == str(tmp_path / "mine.pth")
    assert made.parts[0].params.data_dir == str(tmp_path / "data")


def test_wrong_names_are_refused():
    with pytest.raises(LookupError, match="unknown profile 'digit', did you mean 'digits'"):
        plan("digit")
    with pytest.raises(ValueError, match=r"changes: unknown key 'lrr'.*'lr'"):
        plan("digits", lrr=1)


def test_control_grids_travel_with_the_jobs_of_their_teachers():
    controls = {
        "temperature": {"kd_methods": ["kd_T1"], "teacher_losses": ["ce"], "student_losses": "bs"}
    }
    options = {"kd_T1": {"of": "kd", "temperature": 1}}
    plain, made = (
        plan("precision", "out"),
        plan("precision", "out", controls=controls, options=options),
    )
    for before, after in zip(plain.jobs, made.jobs, strict=True):
        added = set(after.runs) - set(before.runs)
        assert len(added) == ("/kd-ce-" in before.name)
        assert tuple(run.id for run in rebuilt(after)) == after.runs
    students = [part.params for part in made.parts if part.stem == grid.STUDENTS]
    assert [len(grid.student_runs(params)) for params in students] == [5 * 4] * 2


def test_a_given_student_is_a_job_of_its_own(digits, tmp_path):
    (tmp_path / "mine.pth").write_bytes(b"any")
    given = {"mine": {"model": "resnet8", "checkpoint": str(tmp_path / "mine.pth")}}
    made = plan("digits", "out", given_students=given)
    (added,) = [job for job in made.jobs if job.name not in {job.name for job in digits.jobs}]
    assert added.name == "02_students/given-none-mine-no_mixup-seed0"
    assert (added.needs, len(added.runs)) == ((), 1)
    assert tuple(run.id for run in rebuilt(added)) == added.runs
    others = {job.name: job.runs for job in made.jobs if job is not added}
    assert others == {job.name: job.runs for job in digits.jobs}


def test_a_profile_may_be_planned_in_part(digits):
    made = plan("digits", "out", notebooks=["04", "06_overlapping_teachers"])
    stems = ("04_self_distillation", "06_overlapping_teachers")
    assert made.jobs == tuple(job for job in digits.jobs if job.notebook in stems)
    with pytest.raises(LookupError, match="no notebook '09' in the profile 'digits'"):
        plan("digits", "out", notebooks=["09"])
    with pytest.raises(LookupError, match="no notebook '04/x' in the profile 'digits'"):
        plan("digits", "out", notebooks=["04/x"])
    alone = plan("digits", "out", notebooks=["02"])  # its teachers are stored, or made by the job
    assert {job.needs for job in alone.jobs} == {()}


@pytest.fixture(scope="module")
def small():
    return plan("cifar_small", "out", notebooks=["01", "02", "03"])


def test_the_jobs_of_a_seed_come_before_those_of_the_next(small):
    order = [
        (job.params["extra"]["setting"], job.params["seeds"]) for job in small.jobs if job.runs
    ]
    halves = ("verdicts", "verdicts_mixup")
    asked = [(half, [seed]) for half in halves for seed in range(5) for _ in range(4)]
    asked += [("longer", [seed]) for seed in range(5) for _ in range(3)]
    assert order == asked + [("whole_grid", [0])] * 10
    seen = set()
    for job in small.jobs:
        assert set(job.needs) <= seen
        seen.add(job.name)


def test_settings_share_runs(small):
    """The whole grid takes from the verdicts what both have, and waits for it."""
    jobs = {job.name: job for job in small.jobs}
    whole = next(part for part in small.parts if part.params.setting == "whole_grid"
                 and part.stem == grid.STUDENTS)  # fmt: skip
    assert len(grid.student_runs(whole.params)) == 128 + 8
    assert {run.folder for run in small.runs} == {grid.TEACHERS, grid.STUDENTS}
    assert sum(len(job.runs) for job in small.jobs) == len(small.runs)
    added = jobs["02_students/whole_grid/ce-no_mixup-seed0"]
    assert {run.split("-")[2] for run in added.runs} == {"als", "cp"}
    study = jobs["03_calibration_study/whole_grid"]
    makers = {job.name for job in small.jobs for run in whole.runs if run.id in job.runs}
    assert makers <= set(study.needs)
    assert any(name.startswith("02_students/verdicts") for name in makers)
    assert not any(name.endswith("seed1") for name in study.needs)


def test_one_setting_of_a_notebook_may_be_planned(small):
    made = plan("cifar_small", "out", notebooks=["02/verdicts", "01/verdicts", "03/verdicts"])
    assert made.jobs == tuple(
        job for job in small.jobs if job.params["extra"]["setting"] == "verdicts"
    )


def test_students_without_a_method_have_losses_of_their_own(small):
    verdicts = next(part for part in small.parts if part.stem == grid.STUDENTS)
    cells = {tuple(run.labels.values()) for run in grid.student_runs(verdicts.params)}
    plain = {cell for cell in cells if cell[0] == "none"}
    assert {cell[2] for cell in plain} == {"ce", "als", "cp", "bs"}
    assert {cell[2] for cell in cells - plain} == {"ce", "bs"}
    assert (len(plain), len(cells)) == (4, 20)
    controls = grid.control_runs(verdicts.params)
    assert {run.seed for run in controls if run.labels["kd_method"] != "kd_adjusted"} == {0}
    assert {run.seed for run in controls if run.labels["kd_method"] == "kd_adjusted"} == set(
        range(5)
    )
