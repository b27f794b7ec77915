"""What the command line says to bad input: one line that names the culprit, nothing lost."""

import os
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from kdlib import Lab, lock, models, registry
from kdlib.__main__ import main
from kdlib.plan import ROOT, plan


@pytest.fixture
def out(tmp_path):
    """A results folder in which something stands already."""
    (tmp_path / "out" / "02_students" / "rows").mkdir(parents=True)
    (tmp_path / "out" / "02_students" / "rows" / "earlier.json").write_text("{}")
    return tmp_path / "out"


@pytest.fixture
def own_profile(tmp_path, monkeypatch):
    """Profiles of one's own: writes params/mine/01_teachers.yaml."""
    (tmp_path / "params" / "mine").mkdir(parents=True)
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    monkeypatch.setattr("kdlib.plan.ROOT", tmp_path)

    monkeypatch.setattr("kdlib.estimate.table", lambda *_: "")  # test_estimate has the real one

    def write(text):
        (tmp_path / "params" / "mine" / "01_teachers.yaml").write_text(text)

    return write


def refused(capsys, out, *arguments):
    """The one line a wrong start ends with; earlier results are as they were."""
    assert main(["run", *arguments, "--out", str(out)]) == 2
    files = [path for path in out.rglob("*") if path.is_file() and ".batch" not in path.parts]
    assert [path.read_text() for path in files] == ["{}"]
    message = capsys.readouterr().err
    assert message.startswith("kdlib: ")
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit"], "unknown profile 'digit', did you mean 'digits'?"),
        (["digits", "--set", "lrr=0.1"], "unknown key 'lrr', did you mean 'lr'?"),
        (["digits", "--set", "lr=fast"], "got 'fast'"),
        (["digits", "--set", "lr=.inf"], "lr: input should be a finite number"),
        (["digits", "--set", "only=[x]"], "unknown key 'only'"),
        (["digits", "--set", "setting=x"], "unknown key 'setting'"),
        (["digits", "--set", "out_dir=x"], "--set out_dir: unknown key"),
        (["digits", "--set", "seeds=0", "--set", "seeds=1"], "--set seeds: given twice"),
        (["digits", "--set", "kd_methods=[]"], "kd_methods: value should have at least 1 item"),
        (["digits", "--set", "kd_methods=[crdd]"], "unknown KD method 'crdd', did you mean 'crd'?"),
        (
            ["digits", "--set", "kd_methods=[kd_T9]", "--set", "options.kd_T99={of: kd}"],
            "unknown KD method 'kd_T9', did you mean 'kd_T99'?",
        ),
        (["digits", "--set", "options.crd.negatives=200"], "200 negatives an anchor"),
        (["digits", "--set", "options.crd.negatives=110"], "two largest classes (mixup)"),
        (["digits", "--set", "student_model=resnet9"], "unknown model 'resnet9'"),
        (["digits", "--set", "batch_size=300"], "batch_size 300 exceeds the 2"),
        (["digits", "--set", "data=digit"], "'digit'"),
        (["digits", "--set", "device=gpu"], "device must be auto, cpu or cuda"),
        (["digits", "--jobs", "0"], "jobs must be at least 1, got 0"),
    ],
)
def test_a_wrong_word_is_named(arguments, message, capsys, out):
    assert message in refused(capsys, out, *arguments)


def test_a_typo_makes_no_folder(capsys, tmp_path):
    assert main(["run", "digit", "--out", str(tmp_path / "out")]) == 2
    assert "did you mean 'digits'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tune_refuses_no_steps(capsys):
    assert main(["tune", "digits", "--steps", "0"]) == 2
    assert "steps and repeats must be at least 1, got 0 and 3" in capsys.readouterr().err


def test_a_value_that_is_no_yaml(capsys):
    with pytest.raises(SystemExit):
        main(["run", "digits", "--set", "lr=[1"])
    assert "the value of 'lr=[1' is no YAML: while parsing" in capsys.readouterr().err


def test_an_empty_params_file(own_profile, capsys, out):
    own_profile("")
    assert "01_teachers.yaml is empty" in refused(capsys, out, "mine")


def test_a_float_as_yaml_1_1_does_not_read_it_is_a_number(own_profile, capsys, out):
    own_profile("lr: 1e-3\n")
    assert main(["run", "mine", "--out", str(out), "--dry-run"]) == 0
    assert "8 runs" in capsys.readouterr().out


def test_a_missing_data_set(own_profile, capsys, out, tmp_path, monkeypatch):
    import socket

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", offline)
    own_profile(f"data: cifar10\ndata_dir: {tmp_path / 'nowhere'}\n")
    message = refused(capsys, out, "mine")
    assert "cifar10.npz" in message
    assert "KDLIB_DATA" in message


def test_a_tampered_known_set(own_profile, capsys, out, tmp_path):
    images = np.zeros((20, 28, 28), np.uint8)
    labels = np.arange(20) % 10
    classes = np.array([str(digit) for digit in range(10)])
    np.savez(
        tmp_path / "mnist.npz", train_images=images, train_labels=labels, test_images=images,
        test_labels=labels, classes=classes,
    )  # fmt: skip
    own_profile(f"data: mnist\ndata_dir: {tmp_path}\n")
    message = refused(capsys, out, "mine")
    assert "fingerprint" in message
    assert "--trust-data" in message


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("another", "does not fit resnet8"),
        ("cut", "is no readable checkpoint"),
        ("gone", "no check"),
    ],
)
def test_a_given_teacher_that_cannot_be(own_profile, capsys, out, tmp_path, damage, message):
    path = tmp_path / "mine.safetensors"
    state = models.build("resnet14", 10, 1, 8).state_dict()
    safetensors.torch.save_file(state, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    if damage == "gone":
        path.unlink()
    own_profile(f"teacher_model: {{model: resnet8, checkpoint: {path}}}\n")
    assert message in refused(capsys, out, "mine")


def test_an_own_profile_is_planned(own_profile, capsys, out):
    torch.manual_seed(0)
    own_profile("seeds: [0, 1]\n")
    assert main(["run", "mine", "--out", str(out), "--dry-run"]) == 0
    assert "4 jobs, to do: 4 jobs, 16 runs" in capsys.readouterr().out


def test_a_second_start_is_refused_before_torch_is_imported(tmp_path):
    """By its path, as run_all.sh starts it: within a second on an idle machine."""
    held = lock.take(tmp_path)
    blind = "import sys; sys.modules['torch'] = None; import runpy; sys.argv = sys.argv[1:]; "
    blind += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-P", "-c", blind, str(ROOT / "kdlib" / "__main__.py")]
    second = subprocess.run(
        [*command, "run", "digits", "--out", str(tmp_path)], capture_output=True, text=True
    )
    held.close()
    assert second.returncode == lock.BUSY
    assert second.stderr == f"another batch is at work in {tmp_path}\n"


def test_a_second_start_is_refused_within_a_second_and_harms_nothing(tmp_path):
    """By run_all.sh; in seconds of a processor, for a busy machine may take longer."""
    held = lock.take(tmp_path)
    command = [str(ROOT / "run_all.sh"), "digits", "--out", str(tmp_path)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    second = subprocess.run(
        command, env=os.environ | {"KDLIB_PYTHON": sys.executable}, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    held.close()
    assert second.returncode == lock.BUSY
    assert second.stderr.endswith(f"another batch is at work in {tmp_path}\n")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [
        tmp_path / ".batch" / "lock"
    ]


def limit_files(size):
    """A process that cannot write more than `size` bytes into a file, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def test_a_full_disk_is_named_and_leaves_nothing_half_done(tmp_path):
    arguments = ["digits", "--out", str(tmp_path), "--jobs", "1", "--set", "epochs=1"]
    done = subprocess.run(
        [sys.executable, "-m", "kdlib", "run", *arguments], cwd=ROOT, capture_output=True,
        text=True, preexec_fn=lambda: limit_files(2000),
    )  # fmt: skip
    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert done.stderr.startswith("kdlib: ")
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [tmp_path / ".batch" / "lock"]


def test_every_part_is_listed_with_its_options(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from kdlib.objectives import term\n\n\n@term('gap_listed', weight=0.5)\n"
        "def gap(context, power: int = 3):\n    'The gap.\\n\\n    More.'\n"
    )
    assert main(["parts", str(tmp_path / "mine.py")]) == 0
    told = capsys.readouterr().out
    assert "  gap_listed  {weight: 0.5, label_weight: 1.0, power: 3}\n      The gap.\n" in told
    assert "  cp  {beta: 0.1}\n      Confidence penalty.\n" in told
    for kind, entries in registry.LISTED.items():
        part = told.split(f"{kind}:\n")[1]
        assert all(name in part for name in entries.names())
    registry.TERMS._entries.pop("gap_listed")
    assert main(["parts", str(tmp_path / "absent.py")]) == 2
    assert "no file" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["run", "digits", "--out", str(tmp_path / "file")]) == 2
    assert f"Not a directory: '{tmp_path / 'file'}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failing_job_leaves_tables_that_say_what_is_missing_and_why(tmp_path):
    own = {
        "epochs": 1, "teacher_losses": "[ce]", "student_losses": "[ce, bs]", "mixup": "[false]",
        "kd_methods": "[none, kd, rkd]", "options": "{kd: {weight: 1.0e+38}}",
    }  # fmt: skip
    command = [sys.executable, "-m", "kdlib", "run", "digits", "--out", str(tmp_path)]
    command += [word for name in ("01", "02", "03") for word in ("--only", name)]

    def start(**own):
        words = [word for key, value in own.items() for word in ("--set", f"{key}={value}")]
        return subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True)

    failed = start(**own)
    assert failed.returncode == 1
    job = "02_students/ce-no_mixup-seed0"
    assert f"  {job}: FailedRuns: kd-ce-ce-no_mixup-seed0-" in failed.stderr
    assert "kd was not finite in epoch 1" in failed.stderr
    assert "  03_calibration_study: not started, it needs a failed one" in failed.stderr
    folder = tmp_path / "03_calibration_study"
    lost = pd.read_csv(folder / "missing.csv")
    assert [run.split("-seed")[0] for run in lost["run"]] == [
        "kd-ce-ce-no_mixup",
        "kd-ce-bs-no_mixup",
    ]
    assert lost["why"].str.startswith(f"{job}: FailedRuns: ").all()
    cells = pd.read_csv(folder / "cells.csv")
    assert cells.loc[cells["kd_method"] == "kd", "acc"].isna().all()
    assert cells.loc[cells["kd_method"] != "kd", "acc"].notna().all()
    page = (tmp_path / "report" / "index.html").read_text()
    assert "(incomplete)</h2>" in page
    assert start(**own | {"options": "{}"}).returncode == 0
    assert not (folder / "missing.csv").exists()


@pytest.mark.slow
def test_the_default_profile_needs_no_network(tmp_path):
    without = ["unshare", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*without, "true"]).returncode:
        pytest.skip("this user may not take the network away (unshare --net)")
    own = {
        "epochs": 1, "teacher_losses": "[ce]", "student_losses": "[ce]", "mixup": "[false]",
        "kd_methods": "[none, kd]",
    }  # fmt: skip
    command = [*without, sys.executable, "-m", "kdlib", "run", "digits"]
    command += [word for name in ("01", "02", "03") for word in ("--only", name)]
    command += [word for key, value in own.items() for word in ("--set", f"{key}={value}")]
    bare = {name: value for name, value in os.environ.items() if name != "KDLIB_DATA"}
    done = subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, env=bare)
    assert done.returncode == 0
    assert len(pd.read_csv(tmp_path / "03_calibration_study" / "cells.csv")) == 2


def test_verify_and_evaluate(own_profile, capsys, tmp_path):
    own_profile(
        "kd_methods: none\nstudent_losses: ce\nteacher_losses: ce\nmixup: false\nepochs: 1\n"
    )
    folder = tmp_path / "params" / "mine"
    for stem in ("02_students", "03_calibration_study"):
        (folder / f"{stem}.yaml").write_text("extends: 01_teachers.yaml\n")
    made = plan("mine", tmp_path / "results")
    for _, params, runs in made.parts:
        Lab.of(params, made.out_dir).complete(runs)
    assert main(["verify", str(made.out_dir)]) == 0
    assert capsys.readouterr().out.endswith(
        "2 rows, 2 recomputed from their predictions, 0 wrong\n"
    )
    assert main(["evaluate", "mine", "--out", str(made.out_dir)]) == 0
    assert capsys.readouterr().out.startswith("2 of 2 runs measured again")
    assert (made.out_dir / "report" / "index.html").exists()
    with lock.take(made.out_dir):
        assert main(["evaluate", "mine", "--out", str(made.out_dir)]) == lock.BUSY
    table = made.out_dir / "03_calibration_study" / "cells.csv"
    assert main(["evaluate", "mine", "--out", str(made.out_dir), "--set", "seeds=7"]) == 2
    assert "none of the 0 is a student of these params" in capsys.readouterr().err
    assert main(["verify", str(made.out_dir)]) == 0
    assert "tables not checked: results is no profile" in capsys.readouterr().out
    other = ["--profile", "mine", "--set", "seeds=[0,7]"]
    assert main(["verify", str(made.out_dir), *other]) == 1  # the tables are of seed 0 alone
    capsys.readouterr()
    moved = made.out_dir.rename(tmp_path / "mine")  # by its profile's name, tables are checked too
    table = moved / table.relative_to(made.out_dir)
    assert main(["verify", str(moved)]) == 0
    assert "not checked" not in capsys.readouterr().out
    table.write_text(table.read_text().replace("0.", "1.", 1))
    assert main(["verify", str(moved)]) == 1
    assert f"{table} is not what the rows give" in capsys.readouterr().out
    assert main(["verify", str(moved), "--set", "lr=0.5"]) == 1
    assert "2 rows of runs that params/mine does not ask for" in capsys.readouterr().out
    path = next((moved / "02_students" / "rows").iterdir())
    path.write_text(path.read_text().replace("acc", "axx", 1))
    assert main(["verify", str(moved)]) == 1
    assert path.name in capsys.readouterr().out
