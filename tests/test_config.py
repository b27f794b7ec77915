"""Params files: every key checked by name, every file of the project builds."""

import re

import pytest

from kdlib import config, grid
from kdlib.config import Params, load_params, load_settings
from kdlib.plan import ROOT, plan, profiles
from kdlib.registry import STUDIES


def write(folder, text, name="params.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_flat_file_becomes_params(tmp_path):
    params = load_params(write(tmp_path, "data: digits\nlr: 1e-3\nseeds: 3\nmixup: [true]\n"))
    assert (params.lr, params.seeds, params.mixup) == (1e-3, (3,), (True,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lrr: 1\n", "unknown key 'lrr', did you mean 'lr'?"),
        ("kd_temperature: 4\n", "'kd_temperature', an option of kd: options: {kd: {temperature"),
        ("crd_weight: 4\n", "unknown key 'crd_weight', an option of crd: options: {crd: {weight"),
        ("negatives: 4\n", "unknown key 'negatives', an option of crd: options: {crd: {negat"),
        ("kd_method: [kd]\n", "did you mean 'kd_methods'?"),
        ("lr: fast\n", "lr: .*number.*got 'fast'"),
        ("lr: 0\n", "lr: .*greater than 0.*got 0"),
        ("epochs: 2.5\n", "epochs: .*got 2.5"),
        ("imbalance_factor: 0.5\n", "imbalance_factor: .*got 0.5"),
        ("seeds: [-1]\n", "seeds.0: .*got -1"),
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n- b\n", "no mapping"),
        ("data: [unclosed\n", "is no YAML"),
        ("settings: 3\n", "settings is no mapping"),
        ("common: [1]\n", "common is no mapping"),
        ("extends: other.yaml\n", "no params file"),
        ("extends: params.yaml\n", "extends itself"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises((ValueError, OSError), match=message) as error:
        load_params(path)
    assert "params.yaml" in str(error.value) or "other.yaml" in str(error.value)


def test_a_missing_file_names_the_closest(tmp_path):
    write(tmp_path, "lr: 1\n", "01_teachers.yaml")
    with pytest.raises(FileNotFoundError, match=r"did you mean '01_teachers.yaml'"):
        load_params(tmp_path / "01_teacher.yaml")


def test_settings_lie_over_common_and_extends_lies_under_all(tmp_path):
    write(
        tmp_path,
        "common: {lr: 0.1, options: {kd: {temperature: 2}}}\n"
        "settings: {a: {epochs: 1}, b: {epochs: 2}}\n",
        "base.yaml",
    )
    child = write(
        tmp_path, "extends: base.yaml\noptions: {kd: {weight: 0.5}}\nsettings: {b: {epochs: 3}}\n"
    )
    settings = load_settings(child)
    assert {name: params.epochs for name, params in settings.items()} == {"a": 1, "b": 3}
    assert settings["b"].options == {"kd": {"temperature": 2, "weight": 0.5}}
    assert [params.setting for params in settings.values()] == ["a", "b"]
    with pytest.raises(ValueError, match=r"which setting\? its settings are a, b"):
        load_params(child)
    with pytest.raises(ValueError, match="no setting 'c', its settings are a, b"):
        load_params(child, "c")


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*/*.yaml")), ids=str)
def test_every_params_file_expands(path):
    analyses = (grid.STUDY, "07_published_claims")
    for params in load_settings(path).values():
        assert bool(STUDIES[path.stem].build(params)) == (path.stem not in analyses)


@pytest.mark.parametrize("profile", profiles())
def test_every_profile_plans(profile):
    made = plan(profile)
    names = [job.name for job in made.jobs]
    assert len(set(names)) == len(names)
    for position, job in enumerate(made.jobs):
        assert set(job.needs) <= set(names[:position])
    assert sorted(run.id for run in made.runs) == sorted(
        run for job in made.jobs for run in job.runs
    )


def test_the_grids_have_their_published_size():
    digits, paper = plan("digits"), plan("paper")
    students = [run for run in digits.runs if run.folder == grid.STUDENTS]
    assert len([run for run in students if run.teachers]) == 128
    assert len([run for run in students if not run.teachers]) == 8
    assert len([run for run in digits.runs if run.folder == grid.TEACHERS]) == 8
    taught = [run for run in paper.runs if run.teachers and run.folder.startswith(grid.STUDENTS)]
    assert len(taught) == 512
    assert len({run.id for run in digits.runs}) == len(digits.runs)


def test_an_id_is_what_decides_the_numbers_and_nothing_else():
    def ids(**changes):
        return {run.labels["kd_method"]: run.id for run in grid.student_runs(Params(**changes))}

    base = {"student_losses": ["ce"], "teacher_losses": ["ce"], "mixup": False}
    before = ids(**base)
    how = {
        "threads": 4,
        "device": "cpu",
        "cohort_size": 1,
        "cuda_graphs": True,
        "deterministic": True,
    }
    assert ids(**base, **how, setting="x") == before
    assert not set(ids(**base, weight_decay=1e-3).values()) & set(before.values())
    changed = ids(**base, options={"rkd": {"angle": 10}})
    assert {name for name in before if changed[name] != before[name]} == {"rkd"}
    teacher = ids(**base, teacher_recipe={"epochs": 3})
    assert {name for name in before if teacher[name] == before[name]} == {"none"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kd_methods": ["crdd"]}, "unknown KD method 'crdd', did you mean 'crd'"),
        ({"student_losses": ["bss"]}, "unknown label loss 'bss', did you mean 'bs'"),
        ({"options": {"kdd": {}}}, "unknown method or loss 'kdd', did you mean 'kd'"),
        ({"options": {"kd": {"temprature": 2}}}, "did you mean 'temperature'"),
        ({"options": {"kd": {"temperature": "warm"}}}, "kd.temperature: .*number.*, got 'warm'"),
        ({"options": {"kd": {"temperature": 0}}}, "kd.temperature: .*greater than 0, got 0"),
        ({"options": {"kd": {"weight": float("nan")}}}, "weight of 'kd' takes .*, got nan"),
        ({"controls": {"c": {"kd_methods": "kd", "teacher_losses": "cee"}}}, "controls.c: .*'cee'"),
        ({"seeds": [0, 0]}, "seeds: .*a value stands twice"),
        ({"student_losses": []}, "student_losses: .*at least 1 item"),
        ({"milestones": [3]}, "schedule 'cosine' takes no milestones"),
        ({"optimizer": "adam"}, "lr must be given for adam"),
        ({"options": {"kd": {"weight": -1}}}, "weight of 'kd' takes a number >= 0, got -1"),
        ({"teacher_recipe": {"epoch": 2}}, "unknown key 'epoch', did you mean 'epochs'"),
        ({"teacher_model": {"model": "resnet8", "checkpoint": "no.safetensors"}}, "no checkpoint"),
    ],
)
def test_a_bad_grid_is_refused_by_name(changes, message):
    with pytest.raises((ValueError, LookupError, OSError), match=message):
        grid.student_runs(Params.of(**changes))


def test_a_changed_copy_has_an_id_of_its_own():
    run = grid.student_runs(Params())[0]
    changed = run.model_copy(update={"seed": 7})
    assert (run.seed, changed.seed) == (0, 7)
    assert run.id != run.model_copy(update={"seed": 7}).id
    assert run.stream != run.model_copy(update={"seed": 7}).stream


def test_a_variant_is_a_method_of_its_own():
    params = Params(kd_methods=["kd", "kd_T2"], options={"kd_T2": {"of": "kd", "temperature": "2"}})
    assert grid.objective(params, "ce", "kd_T2")["kd"]["temperature"] == 2.0
    assert len({run.id for run in grid.student_runs(params)}) == 64


def test_numbers_as_yaml_1_1_reads_them(tmp_path):
    path = write(tmp_path, "weight_decay: 5e-4\noptions: {kd: {temperature: 1e1}}\n")
    params = load_params(path)
    assert params.weight_decay == 5e-4
    assert grid.objective(params, "ce", "kd")["kd"]["temperature"] == 10.0


def test_the_default_rate_follows_the_batch():
    assert Params(batch_size=64).recipe().lr == pytest.approx(0.05)
    assert Params(batch_size=64, lr=0.2).recipe(epochs=3).lr == 0.2


def test_error_messages_hold_no_pydantic_noise(tmp_path):
    with pytest.raises(ValueError, match="epochs") as error:
        load_params(write(tmp_path, "epochs: many\n"))
    assert not re.search(r"pydantic|validation error", str(error.value))
    assert config.fingerprint({"b": 1, "a": 2}) == config.fingerprint({"a": 2, "b": 1})


def test_a_run_has_its_learning_rate_as_a_number():
    run = config.Run(data="digits", seed=0, model="resnet8", recipe=config.Recipe(batch_size=64))
    assert run.recipe.lr == 0.05
    assert config.Run(data="digits", seed=0, model="resnet8").recipe is None


def test_a_variant_has_the_options_of_what_it_varies():
    options = {"crd": {"negatives": 64}, "quarter": {"of": "crd", "weight": 0.2}}
    term = grid.objective(Params(options=options), "ce", "quarter")["crd"]
    assert (term["negatives"], term["weight"]) == (64, 0.2)
    options["quarter"]["negatives"] = 8
    assert grid.objective(Params(options=options), "ce", "quarter")["crd"]["negatives"] == 8
