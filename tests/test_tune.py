"""`tune` times the alternatives, prints lines, and changes nothing."""

import re

import pytest
import torch

from kdlib import data, tune
from kdlib.__main__ import main
from kdlib.config import Execution, Params, load_params
from kdlib.grid import student_runs
from kdlib.studies.overlapping import OverlappingTeachers
from kdlib.studies.overlapping import student_runs as student_runs_of


def case(steps=1, **changes):
    record = data.load("digits")
    execution = Execution(device="cpu", **changes)
    params = Params(
        kd_methods=["kd"], student_losses=["ce", "als", "cp", "bs"], teacher_losses=["ce"],
        mixup=[False], batch_size=32, teacher_model="resnet8_half",
    )  # fmt: skip
    runs = student_runs(params)
    return tune.Case(runs, record, data.select(record), "cpu", execution, steps)


def test_alternatives_are_what_differs_from_the_file():
    found = case(threads=2, cohort_size=1).alternatives()
    assert found["as it is"] == {}
    assert found["precision: bf16"] == {"precision": "bf16"}
    assert found["compile: true"] == {"compile": True}
    assert "cohort_size: 4" in found
    assert not {"cohort_size: 1", "cohort_size: 8", "precision: fp32"} & set(found)
    assert "compile: false" in case(compile=True).alternatives()


def on_a_gpu(**changes):
    found = case(**changes)
    found.device = "cuda"
    return found


def test_replayed_steps_are_an_alternative_on_a_gpu_alone():
    assert on_a_gpu().alternatives()["cuda_graphs: true"] == {"cuda_graphs": True}
    assert not any("cuda_graphs" in name for name in case().alternatives())
    there = on_a_gpu(cuda_graphs=True).alternatives()
    assert there["cuda_graphs: false"] == {"cuda_graphs": False}
    assert "compile: true" not in there  # they exclude each other
    assert "cuda_graphs: true" not in on_a_gpu(compile=True).alternatives()
    dropout = on_a_gpu()
    dropout.runs = [run.model_copy(update={"model": "student"}) for run in dropout.runs]
    assert "cuda_graphs: true" not in dropout.alternatives()


@pytest.mark.parametrize("keys", [{}, {"precision": "bf16"}, {"cohort_size": 1}])
def test_a_case_is_timed_with_the_keys_it_is_given(keys):
    assert 0 < case().measure(keys) < 60


def test_timing_goes_on_into_the_next_epoch_and_never_into_a_probed_one():
    one = case(steps=40)
    cohort = tune.Cohort(one.runs[:1], one.record, one.selection, one.teachers(), "cpu")
    steps, step = [], cohort.step
    cohort.step = lambda batch: steps.append(batch.clock) or step(batch)
    assert tune.step_seconds(cohort, 40, tune.Stopwatch("cpu")) > 0
    assert len(steps) == 40 + tune.WARM + 1 > cohort.stream.steps
    assert {clock.epoch for clock in steps} == {1}
    assert cohort.students[0].shares == []


def test_a_precision_that_trains_one_student_at_a_time_has_no_cohorts():
    one, alone = case(), case()
    alone.runs = [run.model_copy(update={"precision": "fp16"}) for run in alone.runs]
    found = [
        {name for name in each.alternatives() if name.startswith("cohort")} for each in (one, alone)
    ]
    assert found[0]
    assert not found[1]


def test_a_batch_larger_than_the_set_is_refused():
    one = case()
    recipe = one.runs[0].recipe.model_copy(update={"batch_size": 5000})
    one.runs = [run.model_copy(update={"recipe": recipe}) for run in one.runs]
    with pytest.raises(ValueError, match="batch_size 5000 exceeds"):
        one.measure({})


@pytest.mark.slow
def test_two_processes_share_the_work():
    assert 0 < case().measure({"jobs": 2, "threads": 1}) < 60


def test_the_lines_that_can_be_pasted_are_yaml_of_known_keys(monkeypatch, tmp_path):
    one = case()
    gains = {"compile": 2.0, "cohort_size": 1.5, "precision": 3.0, "jobs": 4.0}
    one.measure = lambda keys: 1.0 / max([1.0, *(gains.get(key, 1.0) for key in keys)])
    asked = []
    monkeypatch.setattr(tune, "cases", lambda *known, **changes: asked.append(changes) or [one])
    lines = list(tune.tune("any", batch_size=32))
    assert asked == [{"batch_size": 32}]
    assert lines[0].startswith("# resnet8_half -> resnet8_half, digits, batch 32, cpu")
    pasted = [line for line in lines if not line.startswith("#")]
    assert [re.split(r"\s+#", line)[0] for line in pasted] == [
        "compile: true",
        "cohort_size: 1",
    ]
    (tmp_path / "02_students.yaml").write_text("\n".join(lines))
    read = load_params(tmp_path / "02_students.yaml")
    assert (read.compile, read.cohort_size) == (True, 1)


def test_a_profile_has_a_case_for_each_pair_of_networks(monkeypatch):
    found = tune.cases("digits", 1)
    assert all(", batch 16," in one.title for one in tune.cases("digits", 1, batch_size=16))
    titles = [one.title for one in found]
    assert len(set(titles)) == len(titles)
    assert any("->" in title for title in titles)
    with pytest.raises(LookupError, match="unknown profile 'digit'"):
        tune.cases("digit", 1)


def test_a_key_of_tune_itself_is_no_key_of_params(capsys):
    assert main(["tune", "digits", "--set", "steps=3"]) == 2
    assert "unknown key 'steps'" in capsys.readouterr().err


def test_teachers_of_some_classes_are_timed_as_such():
    params = OverlappingTeachers(
        teacher_model="resnet8_half", student_models=("resnet8_half",), batch_size=32, epochs=1
    )
    run = next(run for run in student_runs_of(params) if run.teachers)
    record = data.subset(data.load("digits"), run.classes)
    one = tune.Case([run], record, data.select(record), "cpu", Execution(device="cpu"), 1)
    widths = [network(torch.zeros(2, 1, 8, 8)).logits.shape[1] for network in one.teachers()]
    assert widths == [len(teacher.classes) for teacher in run.teachers] == [5, 4, 4]
