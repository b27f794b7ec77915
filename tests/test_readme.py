"""The README's Python is run, block after block, as a newcomer would; each is 15 lines at most."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdlib import Lab, Params, grid, registry
from kdlib.plan import ROOT, plan

TINY = {
    "imbalance_factor": 2, "batch_size": 8, "epochs": 1, "mixup": False, "seeds": 0,
    "teacher_losses": ["ce"], "student_losses": ["focal"], "kd_methods": ["logit_mse+hint"],
    "teacher_model": "two_stages", "student_model": "two_stages", "data": "stripes",
    "optimizer": "adamw", "lr": 0.01, "augment": {"transform": "brightness"},
}  # fmt: skip


def blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.fixture
def registries(monkeypatch):
    for name in ("TERMS", "LABEL_LOSSES", "MODELS", "OPTIMIZERS", "AUGMENTATIONS"):
        part = getattr(registry, name)
        monkeypatch.setattr(part, "_entries", dict(part._entries))


def test_every_block_is_short():
    assert len(blocks()) == 8
    assert max(len(block.splitlines()) for block in blocks()) <= 15


def test_what_the_readme_adds_makes_a_grid_of_its_own(registries, tmp_path):
    names = {"folder": tmp_path}
    for block in blocks()[2:]:
        exec(compile(block, "README.md", "exec"), names)
    params = Params.of(**TINY, data_dir=str(tmp_path))
    (row,) = Lab.of(params, tmp_path / "out").complete(grid.student_runs(params))
    assert row["data"]["name"] == "stripes"
    assert set(row["weights"]) == {"label", "logit_mse", "hint"}
    assert row["versions"]["optimizer adamw"]


def test_one_student_without_notebooks(tmp_path):
    names = {"out_dir": tmp_path}
    exec(compile(blocks()[1].replace("epochs=20", "epochs=1"), "README.md", "exec"), names)
    assert names["test"] == names["row"]["metrics"]["test"]
    assert names["network"].classes == tuple(names["row"]["classes"])


def test_a_folder_a_class_makes_a_long_tailed_grid(tmp_path):
    """The README's command, as far as its settings go."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 2, 40, 12, 12, 3), dtype=np.uint8)
    for split, of_split in zip(("train", "test"), noise, strict=True):
        for name, images in zip(("cat", "dog"), of_split, strict=True):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number, image in enumerate(images):
                Image.fromarray(image).save(folder / f"{number}.png")
    readme = (ROOT / "README.md").read_text()
    (command,) = re.findall(r"--set data=photos .*?```", readme, re.DOTALL)
    changes = dict(pair.split("=") for pair in re.findall(r"--set (\S+)", command))
    assert (changes["kd_methods"], changes["seeds"], changes["student_losses"]) == ("kd", "0", "bs")
    (few,) = re.findall(r"`--set (options.crd.negatives)=64`", readme)
    changes |= {few: 64, "epochs": 1, "batch_size": 8, "kd_methods": "none"}
    changes |= {"student_model": "resnet8", "mixup": False, "data_dir": str(tmp_path), "seeds": 0}
    (part,) = plan(
        "cifar_small", tmp_path / "out", ["02/verdicts"], plain_losses=None, **changes
    ).parts
    params = part.params
    assert int(params.options["crd"]["negatives"]) == 64
    (row,) = Lab.of(params, tmp_path / "out").complete(grid.student_runs(params))
    assert row["classes"] == ["cat", "dog"]
    assert row["data"]["class_counts"] == [
        32,
        2,
    ]  # of 40 and 2, without 20 % (floor) for validation


def test_a_student_is_taken_home(tmp_path, capsys):
    params = Params(
        kd_methods=["none"], student_losses=["ce"], mixup=[False], epochs=1, batch_size=32
    )
    (row,) = Lab.of(params, tmp_path).complete(grid.student_runs(params))
    exec(compile(blocks()[0], "README.md", "exec"), {"run_id": row["id"], "results": tmp_path})
    assert re.match(r"\['\d', '\d'\]", capsys.readouterr().out)


def test_every_link_into_the_project_leads_somewhere():
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert all((ROOT / link).exists() for link in links)
    assert Path(ROOT / "run_all.sh").stat().st_mode & 0o100


def test_the_colab_quickstart_runs_and_resumes(tmp_path, monkeypatch):
    """Its cells, on a faked Drive, with one epoch."""
    mounted = []
    drive = types.SimpleNamespace(mount=mounted.append)
    for name, module in {
        "google": types.ModuleType("google"),
        "google.colab": types.SimpleNamespace(drive=drive),
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    text = (ROOT / "COLAB_QUICKSTART.md").read_text()
    cells = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(cells) == 5
    assert all(line.startswith("%pip install") for line in cells[0].splitlines())
    code = "\n".join(cells[1:]).replace("/content/drive/MyDrive", str(tmp_path))
    code = code.replace("epochs=100", "epochs=1")
    first: dict = {}
    exec(compile(code, "COLAB_QUICKSTART.md", "exec"), first)
    assert mounted == ["/content/drive"]
    assert first["page"].exists()
    assert len(first["students"]) == 6
    monkeypatch.setattr("kdlib.train.fit", None)  # after a disconnect nothing is trained again
    second: dict = {}
    exec(compile(code, "COLAB_QUICKSTART.md", "exec"), second)
    assert second["students"] == first["students"]
