"""Rows, checkpoints and predictions: done once, verified before use, rebuilt when damaged."""

import json
import math

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy import optimize, special

from kdlib import (
    Lab,
    Params,
    data,
    evaluate,
    grid,
    load_student,
    metrics,
    models,
    notices,
    pipeline,
    provenance,
    train,
)
from kdlib import registry as parts
from kdlib.config import fingerprint
from kdlib.files import write_atomic
from kdlib.given import network as load_given
from kdlib.given import read_state
from kdlib.quantities import QUANTITIES
from kdlib.store import DamagedError, Store, outdated, read_row, read_tensors
from kdlib.verify import mixtures

BASE = {
    "imbalance_factor": 20, "batch_size": 16, "epochs": 1, "mixup": [False], "warmup_epochs": 0,
    "teacher_losses": ["ce"], "student_losses": ["ce"], "teacher_model": "resnet8_half",
    "kd_methods": ["kd"], "options": {"crd": {"negatives": 8}},
}  # fmt: skip


def lab_and_runs(folder, **changes):
    params = Params.of(**BASE | changes)
    return Lab.of(params, folder), grid.student_runs(params)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with one finished student and its teacher."""
    folder = tmp_path_factory.mktemp("results")
    lab, runs = lab_and_runs(folder)
    return folder, lab.complete(runs)[0], runs[0]


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of it that a test may damage."""
    import shutil

    folder, row, run = finished
    shutil.copytree(folder, tmp_path / "results")
    return tmp_path / "results", row, run


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_student_brings_its_teacher(finished):
    folder, row, run = finished
    found = {path.parent.name for path in folder.rglob("*") if path.is_file()}
    assert found == {"rows", "checkpoints", "predictions", "timings"}
    assert len(list(folder.rglob("rows/*.json"))) == 2
    assert row["run"]["teachers"] == [run.teachers[0].id]
    assert row["labels"] == run.labels


def test_the_second_time_nothing_is_done(finished, monkeypatch):
    folder, row, run = finished
    before = contents(folder)
    monkeypatch.setattr(train, "fit", None)
    assert Lab(folder).complete([run]) == [row]
    assert contents(folder) == before


def test_one_changed_option_retrains_just_its_run(copy):
    folder, _, _ = copy
    before = contents(folder)
    lab, runs = lab_and_runs(
        folder, kd_methods=["kd", "rkd"], options={"rkd": {"angle": 10}, "crd": {"negatives": 8}}
    )
    lab.complete(runs)
    after = contents(folder)
    assert {path: after[path] for path in before} == before
    assert {path.stem for path in after.keys() - before.keys()} == {runs[1].id}


def test_a_raised_version_makes_rows_stale(finished, monkeypatch):
    folder, _, run = finished
    assert Store(folder).row(run) is not None
    entry = parts.TERMS["kd"]
    raised = parts.Entry(entry.name, entry.build, entry.version + 1, entry.facts)
    monkeypatch.setitem(parts.TERMS._entries, "kd", raised)
    assert Store(folder).row(run) is None
    assert Store(folder).row(run.teachers[0]) is not None


def test_a_raised_version_of_the_teachers_parts_reaches_the_student(finished, monkeypatch):
    folder, _, run = finished
    entry = parts.LABEL_LOSSES["ce"]
    raised = parts.Entry(entry.name, entry.build, entry.version + 1, entry.facts)
    monkeypatch.setitem(parts.LABEL_LOSSES._entries, "ce", raised)
    assert Store(folder).row(run) is None
    assert Store(folder).row(run.teachers[0]) is None


def test_metrics_can_be_recomputed_exactly(finished):
    folder, row, run = finished
    store = Store(folder)
    found = read_tensors(store.path(run, "predictions"), row["files"]["predictions"])
    arrays = {name: tensor.numpy() for name, tensor in found.items()}
    assert arrays["test_logits"].dtype == np.float16
    again = evaluate.measure(arrays, row["data"]["class_counts"])
    assert json.loads(json.dumps(again)) == row["metrics"]
    record = pipeline.image_set("digits", None, None, False)
    assert np.array_equal(arrays["test_labels"], record.test_labels)
    # The stored network gives the stored logits.
    logits = train.predict(store.network(run), record.test_images).half().numpy()
    assert np.array_equal(logits, arrays["test_logits"])


def test_a_row_says_where_it_comes_from(finished):
    _, row, run = finished
    assert row["data"]["class_counts"] == [86, 63, 45, 32, 24, 16, 12, 8, 6, 4]
    assert set(row["data"]["fingerprint"]) == {"train", "test"}
    assert len(row["data"]["split_hash"]) == 64
    assert row["versions"]["KD method kd"] == 1
    assert row["versions"]["teacher's label loss ce"] == 1
    assert row["provenance"]["versions"]["torch"] == torch.__version__
    assert row["run"]["objective"]["kd"]["temperature"] == 4.0
    assert row["run"]["recipe"]["lr"] == pytest.approx(0.1 * 16 / 128)
    assert row["weights"] == {"label": 0.1, "kd": 0.9}
    assert set(row["kd_share"]) == {"first"}  # of one epoch, the first is the last
    assert run.id == row["id"]


def test_kd_that_does_nothing_is_flagged(tmp_path):
    options = {
        "kd": {"weight": 1e-6, "label_weight": 1.0},
        "kd_alone": {"of": "kd", "label_weight": 0},
    }
    lab, runs = lab_and_runs(tmp_path, kd_methods=["kd", "kd_alone"], options=options)
    off, alone = lab.complete(runs)
    assert off["flags"] == ["KD is off (first epoch)"]
    assert alone["flags"] == ["no label loss"]


@pytest.mark.parametrize("kind", ["rows", "checkpoints", "predictions"])
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damage_is_named_and_never_loaded(copy, kind, damage):
    folder, row, run = copy
    store = Store(folder)
    path, sha256 = store.path(run, kind), row["files"].get(kind)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content) if damage == "flip" else bytes(content[: len(content) // 2]))
    read = (lambda: read_row(path)) if kind == "rows" else (lambda: read_tensors(path, sha256))
    with pytest.raises(DamagedError, match=path.name):
        read()


def test_a_damaged_row_is_done_again(copy, caplog):
    folder, row, run = copy
    path = Store(folder).path(run, "rows")
    before = path.read_bytes()
    path.write_bytes(before[:-10])
    assert Lab(folder).complete([run]) == [row]
    assert path.name in caplog.text
    assert path.read_bytes() == before


def test_a_missing_teacher_is_rebuilt_alone(copy, caplog):
    folder, _, run = copy
    store, (teacher,) = Store(folder), run.teachers
    state = store.network(teacher).state_dict()
    store.path(teacher, "checkpoints").unlink()
    untouched = store.path(run, "rows").stat().st_mtime_ns
    rebuilt = Lab(folder).network(teacher).state_dict()
    assert all(torch.equal(value, rebuilt[name]) for name, value in state.items())
    assert store.path(run, "rows").stat().st_mtime_ns == untouched
    assert "differs" not in caplog.text


def test_a_rebuilt_teacher_that_differs_is_named(copy, caplog, monkeypatch):
    folder, _, run = copy
    store, (teacher,) = Store(folder), run.teachers
    store.path(teacher, "checkpoints").unlink()
    measure = evaluate.measure

    def other(found, counts):
        measured = measure(found, counts)
        return measured | {"test": measured["test"] | {"acc": 0.125}}

    monkeypatch.setattr(evaluate, "measure", other)
    Lab(folder).network(teacher)
    assert f"{teacher.id} was rebuilt and differs: test accuracy 0.1250, was 0." in caplog.text


def test_rows_of_other_data_under_the_same_name_are_done_again(copy, monkeypatch, caplog):
    folder, _, run = copy
    lab, runs = lab_and_runs(folder, kd_methods=["kd", "rkd"])
    facts = pipeline.data_facts

    def other(record, selection):
        return facts(record, selection) | {"split_hash": "other"}

    monkeypatch.setattr(pipeline, "data_facts", other)
    again, _ = lab.complete(runs)
    assert again["data"]["split_hash"] == "other"
    assert f"{run.id} was made with other data" in caplog.text


def test_another_file_under_the_name_of_a_set_is_seen_in_the_same_process(tmp_path, caplog):
    """Saved anew: neither the set that was read before nor a row of it is taken for the new one."""
    digits = data.load("digits")

    def save(first):
        arrays = {key: getattr(digits, key) for key in ("train_images", "train_labels")}
        train, labels = (arrays[key][first:] for key in ("train_images", "train_labels"))
        test = {"test_images": digits.test_images, "test_labels": digits.test_labels}
        record = data.from_arrays("mine", train, labels, *test.values(), digits.classes)
        data.save_npz(record, tmp_path)

    save(0)
    params = Params.of(data="mine", data_dir=str(tmp_path), epochs=1, kd_methods=["none"],
                       student_losses=["ce"], mixup=[False])  # fmt: skip
    lab, runs = Lab.of(params, tmp_path / "out"), grid.student_runs(params)
    (before,) = lab.complete(runs)
    assert lab.complete(runs) == [before]
    save(1)
    assert lab.evaluate(runs[0]) is None  # no metrics of these beside the facts of those
    (after,) = lab.complete(runs)
    assert f"{runs[0].id} was made with other data" in caplog.text
    assert before["data"]["fingerprint"] != after["data"]["fingerprint"]
    (tmp_path / "mine.npz").unlink()
    assert lab.complete(runs) == [after]  # nothing lies here to compare with


def test_twins_are_named(tmp_path, caplog):
    notices.warn_once.cache_clear()
    for model, told in (("resnet8", False), ("resnet8_half", True)):
        lab, runs = lab_and_runs(tmp_path, student_model=model)
        lab.check(runs)
        assert ("teacher and student are both resnet8_half" in caplog.text) == told


def test_without_git_a_row_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    provenance._git.cache_clear()
    found = provenance.provenance("cpu", pipeline.Execution())
    provenance._git.cache_clear()
    assert (found["commit"], found["dirty"]) == ("unknown", None)


def test_a_given_teacher_must_know_the_same_classes(finished, tmp_path):
    folder, _, run = finished
    path = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(Store(folder).network(run.teachers[0]).state_dict(), path)
    model = {"model": "resnet8_half", "checkpoint": str(path), "classes": list("9876543210")}
    lab, runs = lab_and_runs(tmp_path / "out", teacher_model=model, teacher_losses=["given"])
    with pytest.raises(ValueError, match=r"mine.safetensors has the classes \['9', .*digits has"):
        lab.complete(runs)


def test_a_given_teacher_keeps_its_own_size_and_statistics(tmp_path):
    state = models.build("resnet8_half", 10, 1, 16).state_dict()
    state = {name: value for name, value in state.items() if "preprocess" not in name}
    safetensors.torch.save_file(state, tmp_path / "mine.safetensors")
    own = {"mean": [0.3], "std": [0.4], "image_size": 16}
    model = {"model": "resnet8_half", "checkpoint": str(tmp_path / "mine.safetensors")}
    lab, runs = lab_and_runs(
        tmp_path / "out", teacher_model=model | {"preprocess": own}, teacher_losses=["given"]
    )
    lab.complete(runs)
    network = lab.store.network(runs[0].teachers[0])
    assert network.preprocess.image_size == 16
    assert network.preprocess.mean.flatten().tolist() == pytest.approx([0.3])


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            {"mean": [0.3] * 3, "std": [0.4] * 3},
            "3 means and 3 stds, the images of digits have 1",
        ),
        ({"mean": [0.3], "std": [0.4, 0.4]}, "1 means and 2 stds"),
        ({"mean": [76.5], "std": [0.4]}, r"preprocess\.mean\.0: .* less than or equal to 1"),
        ({"mean": [0.3], "std": [102]}, r"preprocess\.std\.0: .* less than or equal to 1"),
    ],
)
def test_statistics_that_cannot_be_the_networks_are_refused(finished, tmp_path, own, message):
    folder, _, run = finished
    path = tmp_path / "mine.pth"
    torch.save(Store(folder).network(run.teachers[0]).state_dict(), path)
    changes = given(path)
    changes["teacher_model"]["preprocess"] = own

    def check():
        lab, runs = lab_and_runs(tmp_path / "out", **changes)
        lab.check(runs[0].teachers)

    with pytest.raises(ValueError, match=message):
        check()


def test_a_failed_run_is_named_and_the_others_are_stored(tmp_path):
    lab, runs = lab_and_runs(tmp_path, kd_methods=["kd", "rkd"])
    bad = runs[0].model_copy(
        update={"objective": runs[0].objective | {"kd": {"weight": 1e38, "temperature": 4.0}}}
    )
    with pytest.raises(pipeline.FailedRuns, match=bad.id):
        lab.complete([bad, runs[1]])
    assert lab.stored(runs[1]) is not None
    assert lab.stored(bad) is None


def test_a_given_student_that_goes_wrong_does_not_keep_the_others_from_their_rows(
    finished, tmp_path
):
    folder, _, run = finished
    state = Store(folder).network(run.teachers[0]).state_dict()
    state = {name: value * 1e6 if "weight" in name else value for name, value in state.items()}
    safetensors.torch.save_file(state, tmp_path / "huge.safetensors")
    huge = {"model": "resnet8_half", "checkpoint": str(tmp_path / "huge.safetensors")}
    params = Params.of(**BASE | {"kd_methods": ["none"]}, given_students={"huge": huge})
    lab = Lab.of(params, tmp_path / "out")
    trained, given = grid.student_runs(params) + grid.control_runs(params)
    with pytest.raises(pipeline.FailedRuns, match=rf"^{given.id}: .*beyond float16$"):
        lab.complete([given, trained])
    assert lab.stored(trained) is not None
    assert lab.stored(given) is None


def test_load_student_takes_the_folder_with_the_checkpoint_and_no_fit_at_its_bound(copy):
    folder, row, run = copy
    twin = folder / "before" / run.folder / "rows"
    twin.mkdir(parents=True)  # another profile's row, committed without its checkpoint
    own = Store(folder).path(run, "rows")
    for at_bound, expected in ((True, None), (False, 2.0)):
        fit = {"temperature": {"T": 2.0, "at_bound": at_bound}}
        changed = row | {"metrics": row["metrics"] | fit}
        own.write_text(json.dumps(changed | {"sha256": fingerprint(changed)}))
        (twin / own.name).write_text(own.read_text())
        assert load_student(row["id"], folder).temperature == expected
    together = row | {"network": None}
    own.write_text(json.dumps(together | {"sha256": fingerprint(together)}))
    with pytest.raises(ValueError, match=f"{row['id']} is its teachers put together, no network"):
        load_student(row["id"], folder)
    own.unlink()
    with pytest.raises(FileNotFoundError, match=r"before.*is not there: run its profile again"):
        load_student(row["id"], folder)


def test_load_student_predicts_in_five_lines(finished):
    folder, row, _ = finished
    network = load_student(row["id"], folder)
    probs = network(torch.rand(2, 1, 8, 8)).logits.softmax(1)
    assert [network.classes[i] for i in probs.argmax(1)]
    assert not network.training
    with pytest.raises(LookupError, match=f"did you mean {row['id']!r}"):
        load_student(row["id"][:-1], folder)
    with pytest.raises(LookupError, match="no rows at all"):
        load_student(row["id"], folder / "nowhere")


def given(path, model="resnet8_half"):
    return {"teacher_model": {"model": model, "checkpoint": str(path)}, "teacher_losses": ["given"]}


def test_controls_of_trained_teachers_leave_a_given_one_alone(finished, tmp_path):
    folder, _, run = finished
    path = tmp_path / "mine.pth"
    torch.save(Store(folder).network(run.teachers[0]).state_dict(), path)
    controls = {
        "hot": {"kd_methods": ["hot"], "teacher_losses": ["ce", "als"]},
        "own": {"kd_methods": ["none", "hot"], "teacher_losses": ["given"]},
    }
    options = {"hot": {"of": "kd", "temperature": 8}}
    params = Params.of(**BASE | given(path) | {"options": options, "controls": controls})
    found = {run.labels["kd_method"]: run for run in grid.control_runs(params)}
    assert found.keys() == {"none", "hot"}
    assert found["hot"].labels["teacher_loss"] == "given"
    alone = params.model_copy(update={"controls": {"hot": params.controls["hot"]}})
    assert grid.control_runs(alone) == []


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_given_teacher_teaches(finished, tmp_path, suffix):
    folder, _, run = finished
    state = Store(folder).network(run.teachers[0]).state_dict()
    path = tmp_path / f"mine{suffix}"
    save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    save(state, path)
    lab, runs = lab_and_runs(tmp_path / "out", **given(path))
    (row,) = lab.complete(runs)
    assert row["labels"]["teacher_loss"] == "given"
    network = Store(tmp_path / "out").network(runs[0].teachers[0])
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("entry", [None, "state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "module._orig_mod."])
def test_checkpoints_of_other_projects_are_read(finished, tmp_path, entry, prefix):
    folder, _, run = finished
    state = Store(folder).network(run.teachers[0]).state_dict()
    saved = {f"{prefix}{name}": value for name, value in state.items()}
    path = tmp_path / "theirs.pth"
    torch.save({entry: saved, "epoch": 240, "best_acc": 0.7} if entry else saved, path)
    lab, runs = lab_and_runs(tmp_path / "out", **given(path))
    (teacher,) = runs[0].teachers
    found = load_given(teacher, lab.record(teacher)).state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_statistics_in_the_file_and_in_the_params_must_agree(finished, tmp_path):
    folder, _, run = finished
    path = tmp_path / "mine.pth"
    torch.save(Store(folder).network(run.teachers[0]).state_dict(), path)
    changes = given(path)
    changes["teacher_model"]["preprocess"] = {"mean": [0.123], "std": [0.25]}
    lab, runs = lab_and_runs(tmp_path / "out", **changes)
    with pytest.raises(ValueError, match=r"mine.pth has another preprocess.mean than its params"):
        lab.check(runs[0].teachers)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"weights": {"fc": torch.zeros(1)}, "epoch": 3}, r"has \['weights', 'epoch'\] beside ten"),
        ([torch.zeros(1)], "holds a list, needs a state dict"),
        ({0: torch.zeros(1)}, r"has \[0\] beside tensors"),
    ],
)
def test_a_file_without_a_state_dict_says_what_it_has(tmp_path, content, said):
    path = tmp_path / "theirs.pth"
    torch.save(content, path)
    _, runs = lab_and_runs(tmp_path / "out", **given(path))
    with pytest.raises(ValueError, match=rf"theirs.pth {said}"):
        read_state(runs[0].teachers[0].given)


def test_a_given_teacher_without_statistics_is_told_which_it_gets(finished, tmp_path, caplog):
    folder, _, run = finished
    state = Store(folder).network(run.teachers[0]).state_dict()
    path = tmp_path / "mine.pth"
    torch.save({name: part for name, part in state.items() if "preprocess" not in name}, path)
    lab, runs = lab_and_runs(tmp_path / "out", **given(path))
    lab.check(runs[0].teachers)
    assert f"{path} has no preprocess: it gets the statistics of digits" in caplog.text


def test_a_given_teacher_of_another_architecture_is_refused(finished, tmp_path):
    folder, _, run = finished
    path = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(Store(folder).network(run.teachers[0]).state_dict(), path)
    lab, runs = lab_and_runs(tmp_path / "out", **given(path, "resnet8"))
    with pytest.raises(ValueError, match=r"mine.safetensors does not fit resnet8: .*expected"):
        lab.complete(runs)
    assert not list((tmp_path / "out").rglob("*.json"))


def test_every_metric_of_a_row_is_described(finished):
    _, row, _ = finished
    names = {name for name in row["metrics"]["test"] if "floor" not in name}
    assert names <= set(QUANTITIES)


def test_a_hostile_checkpoint_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code in a checkpoint was run",))

    path = tmp_path / "bomb.pth"
    torch.save({"weight": Bomb()}, path)
    _, runs = lab_and_runs(tmp_path / "out", **given(path))
    with pytest.raises(ValueError, match=r"bomb.pth is no torch file, or not of tensors alone"):
        read_state(runs[0].teachers[0].given)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(b"\x10\x00")
    _, runs = lab_and_runs(tmp_path / "out", **given(cut))
    with pytest.raises(ValueError, match=r"cut.safetensors is no readable checkpoint"):
        read_state(runs[0].teachers[0].given)


def test_a_failed_write_leaves_nothing_under_the_final_name(tmp_path, monkeypatch):
    import os

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "row.json", b"content")
    assert list(tmp_path.iterdir()) == []


def test_measure_names_what_validation_lacks():
    generator = np.random.default_rng(0)
    found = {
        "test_logits": generator.normal(size=(100, 10)).astype(np.float16),
        "test_labels": generator.integers(0, 10, 100),
        "val_logits": generator.normal(size=(20, 10)).astype(np.float16),
        "val_labels": generator.integers(0, 8, 20),
    }
    measured = evaluate.measure(found, [10] * 10)
    assert {8, 9} <= set(measured["val"]["classes_without_images"])
    probs = metrics.softmax(found["test_logits"])
    assert measured["test"]["acc"] == metrics.accuracy(probs, found["test_labels"])
    assert measured["test"]["acc_few"] == metrics.accuracy(
        probs[found["test_labels"] >= 7], found["test_labels"][found["test_labels"] >= 7]
    )


def test_a_stored_run_can_be_measured_again(tmp_path, monkeypatch):
    def chosen_early(*arguments, **options):
        (trained,) = fit(*arguments, **options)
        trained.selected_epoch = 1
        return [trained]

    fit, folder = train.fit, tmp_path
    monkeypatch.setattr(train, "fit", chosen_early)
    lab, (run,) = lab_and_runs(folder, epochs=2)
    (row,) = lab.complete([run])
    assert "selected" in row["metrics"]  # what only training can tell
    before = contents(folder)
    assert Lab(folder).evaluate(run) == row
    assert contents(folder) == before
    Store(folder).path(run, "checkpoints").unlink()
    assert Lab(folder).evaluate(run) is None


def test_the_controls_are_what_they_say(finished):
    folder, row, run = finished
    found = read_tensors(Store(folder).path(run, "predictions"), row["files"]["predictions"])
    logits, labels = found["test_logits"].double(), found["test_labels"].long()
    metric = row["metrics"]
    cooled = (logits / metric["temperature"]["T"]).log_softmax(1)
    nll = -cooled[torch.arange(len(labels)), labels].mean().item()
    assert metric["temperature"]["nll"] == pytest.approx(nll, abs=1e-9)
    assert metric["temperature"]["acc"] == metric["test"]["acc"]
    counts = torch.tensor(row["data"]["class_counts"], dtype=torch.float64)
    moved = (logits - (counts / counts.sum()).log()).argmax(1)
    assert metric["menon"]["acc"] == pytest.approx((moved == labels).double().mean().item())
    assert metric["balanced_logit_adjustment"]["nll"] < metric["test"]["nll"]
    # The calibration images are no training images, as many of each class.
    record, lab = pipeline.image_set("digits", None, None, False), Lab(folder)
    rows = evaluate.balanced_indices(record, lab.selection(run), run.seed)
    assert not set(rows) & set(lab.selection(run).train_indices)
    assert len(set(np.bincount(record.train_labels[rows]))) == 1
    assert len(rows) == 210


def balanced(labels):
    """1 / (C n_c) for each image, literally."""
    counts = np.bincount(labels)
    return np.array([1 / (len(counts) * counts[label]) for label in labels])


def test_what_is_fitted_and_measured_on_validation_counts_each_class_alike(tmp_path):
    """Against scipy and a loop, from the stored predictions."""
    lab, (run,) = lab_and_runs(tmp_path, kd_methods=["none"], epochs=10)
    (row,), folder = lab.complete([run]), tmp_path
    assert not row["metrics"]["temperature"]["at_bound"]
    found = read_tensors(Store(folder).path(run, "predictions"), row["files"]["predictions"])
    logits, labels = found["val_logits"].double().numpy(), found["val_labels"].numpy().astype(int)
    weights = balanced(labels)

    def nll(log_t=0.0, tau=0.0):
        counts = np.array(row["data"]["class_counts"])
        shifted = logits / np.exp(log_t) - tau * np.log(counts / counts.sum())
        own = special.log_softmax(shifted, axis=1)[np.arange(len(labels)), labels]
        return -(weights * own).sum() / weights.sum()

    fit = optimize.minimize_scalar(nll, bounds=(-5, 5), method="bounded")
    assert row["metrics"]["temperature"]["T"] == pytest.approx(math.exp(fit.x), rel=1e-3)
    both = optimize.minimize(lambda x: nll(*x), [0.0, 0.5], bounds=[(-5, 5), (-1, 2)])
    adjusted = row["metrics"]["logit_adjustment"]
    assert nll(math.log(adjusted["T"]), adjusted["tau"]) == pytest.approx(both.fun, abs=1e-5)
    hit = logits.argmax(1) == labels
    assert row["metrics"]["val"]["acc"] == pytest.approx((weights * hit).sum())
    assert row["metrics"]["val"]["acc"] != pytest.approx(hit.mean())
    assert row["metrics"]["val"]["nll"] == pytest.approx(nll())
    assert row["history"][-1]["val_acc"] == pytest.approx((weights * hit).sum(), abs=1e-6)


def test_a_fit_that_ended_at_its_bound_is_no_temperature(copy):
    folder, row, run = copy
    row = {**row, "metrics": {**row["metrics"]}}
    row.pop("sha256", None)
    for at_bound, expected in ((True, None), (False, 2.5)):
        row["metrics"]["temperature"] = {"T": 2.5, "at_bound": at_bound}
        Store(folder).write_json(run, "rows", {**row, "sha256": fingerprint(row)})
        assert Store(folder).network(run).temperature == expected
        assert load_student(run.id, folder).temperature == expected


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_killed_run_goes_on_and_ends_as_if_undisturbed(tmp_path, monkeypatch, after):
    methods = {"kd_methods": ["crd", "kd+byot", "pskd"], "mixup": [True], "epochs": 4}
    lab, runs = lab_and_runs(tmp_path / "whole", **methods)
    whole = lab.complete(runs)
    end_epoch, done = train.Cohort._end_epoch, []

    def dies(cohort):
        if cohort.students[0].trained.run.teachers == () and len(done) == after:
            raise Killed
        end_epoch(cohort)
        done.append(cohort.epoch)

    monkeypatch.setattr(train.Cohort, "_end_epoch", dies)
    lab, _ = lab_and_runs(tmp_path / "cut", **methods, checkpoint_seconds=0)
    pskd = [run for run in runs if not run.teachers]
    with pytest.raises(Killed):
        lab.complete(pskd)
    assert lab.store.path(pskd[0], "progress").exists()
    monkeypatch.setattr(train.Cohort, "_end_epoch", end_epoch)
    cut = lab.complete(runs)
    assert [row["files"] for row in cut] == [row["files"] for row in whole]
    assert [row["history"] for row in cut] == [row["history"] for row in whole]
    assert not list((tmp_path / "cut").rglob("*.progress"))


def test_damaged_progress_is_named_and_not_used(tmp_path, monkeypatch, caplog):
    lab, (run,) = lab_and_runs(tmp_path, kd_methods=["none"], epochs=2, checkpoint_seconds=0)
    write = lab.store.write
    monkeypatch.setattr(lab.store, "write", lambda *arguments: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        lab.complete([run])
    path = lab.store.path(run, "progress")
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], b""):
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match=run.id):
            lab.store.progress(run)
    monkeypatch.setattr(lab.store, "write", write)
    lab.complete([run])
    assert f"{path} is damaged" in caplog.text


def test_what_a_run_says_of_its_images_is_at_hand(tmp_path, caplog):
    """Stored, or predicted once more; a run that is not done is done first."""
    params = Params.of(**BASE)
    lab, (run, *_) = Lab.of(params, tmp_path), grid.student_runs(params)
    found = lab.predictions(run)
    row = lab.complete([run])[0]
    hits = found["test_logits"].argmax(axis=1) == found["test_labels"]
    assert hits.mean() == pytest.approx(row["metrics"]["test"]["acc"])
    path = lab.store.path(run, "predictions")
    for harm in (lambda: path.write_bytes(path.read_bytes()[:-1]), path.unlink):
        harm()
        again = lab.predictions(run)
        np.testing.assert_array_equal(again["test_logits"], found["test_logits"])
    assert caplog.text.count(f"{path} is damaged") == 1
    assert lab.network(run).classes == tuple(row["classes"])


def test_labs_without_a_folder_share_one(caplog):
    """So that what a notebook trained is there when its cells are run again."""
    params = Params.of(**BASE)
    one, other = Lab.of(params), Lab.of(params)
    assert one.store.root == other.store.root
    (run, *_) = grid.student_runs(params)
    row = one.complete([run])[0]
    assert other.stored(run) == row


def test_records_say_in_a_line_what_they_are():
    lab, (run, *_) = Lab.of(Params.of(**BASE)), grid.student_runs(Params.of(**BASE))
    record, selection = lab.record(run), lab.selection(run)
    assert repr(record).startswith("<ImageSet 'digits': ")
    assert repr(record).endswith(" test images of 8 x 8 x 1, 10 classes>")
    assert repr(selection).startswith(f"<Selection: {len(selection.train_indices)} training images")
    assert max(len(repr(record)), len(repr(selection))) < 200


def test_a_test_split_with_a_tail_is_said_once(tmp_path, caplog):
    noise = np.random.default_rng(0).integers(0, 256, (80, 8, 8), dtype=np.uint8)
    labels = np.arange(40) % 2
    for name, test in (("tailed", np.r_[np.zeros(35, int), np.ones(5, int)]), ("even", labels)):
        data.save_npz(
            data.from_arrays(name, noise[:40], labels, noise[40:], test, ["a", "b"]), tmp_path
        )
        lab, runs = lab_and_runs(tmp_path / "out", data=name, data_dir=str(tmp_path))
        lab.check(runs)
    said = [line for line in caplog.messages if "its test split" in line]
    assert said == [said[0]]
    assert said[0].startswith("tailed: its test split has 5 to 35 images a class")


CALIBRATED = {"options": {"kd": {"calibrated": True}}}


def test_calibrated_kd_without_a_temperature_says_so(tmp_path):
    """It is plain KD then, and no line of a control grid."""
    lab, (run,) = lab_and_runs(tmp_path, **CALIBRATED)
    (teacher,) = run.teachers
    lab.complete([teacher])
    row = lab.store.row(teacher)
    row["metrics"]["temperature"]["at_bound"] = True
    lab.store.write_row(teacher, row)
    (flagged,) = lab.complete([run])
    assert "not calibrated: no temperature could be fitted to its teacher" in flagged["flags"]
    row["metrics"]["temperature"] |= {"at_bound": False, "T": 2.0}
    lab.store.write_row(teacher, row)
    lab.store.path(run, "rows").unlink()
    (fine,) = lab.complete([run])
    assert not any("calibrated" in flag for flag in fine["flags"])
    assert fine["history"] != flagged["history"]


def test_calibrated_kd_needs_validation(tmp_path):
    lab, runs = lab_and_runs(tmp_path, val_fraction=0.0, **CALIBRATED)
    with pytest.raises(ValueError, match="calibrated takes a temperature fitted on validation"):
        lab.check(runs)


def test_a_row_names_the_weights_that_taught_it(tmp_path):
    """Two of them under one teacher's name are a mixture."""
    lab, runs = lab_and_runs(tmp_path, kd_methods=["kd", "at"])
    rows = lab.complete(runs)
    (teacher,) = runs[0].teachers
    taught_by = lab.store.row(teacher)
    assert all(row["teachers"] == {teacher.id: taught_by["files"]["checkpoints"]} for row in rows)
    other = taught_by | {"files": taught_by["files"] | {"checkpoints": "0" * 64}}
    (told,) = set(mixtures([other, *rows])) - set(mixtures([taught_by, *rows]))
    assert told.startswith(f"mixed rows: 2 weights of the teacher {teacher.id}: ")


def test_rows_of_an_older_evaluation_are_measured_again_without_training(copy, monkeypatch):
    folder, row, run = copy
    lab = Lab.of(Params.of(**BASE), folder)
    monkeypatch.setattr(evaluate, "VERSION", evaluate.VERSION + 1)
    assert outdated(row) == ["evaluation"]
    monkeypatch.setattr(train, "fit", lambda *given, **options: pytest.fail("trains"))
    (again,) = lab.complete([run])
    assert again["evaluation"] == evaluate.VERSION
    assert again["metrics"] == row["metrics"]
    assert read_row(lab.store.path(run, "rows"))["evaluation"] == evaluate.VERSION
