"""torchvision can be imported after kdlib, whatever build of it is installed."""

import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest
import torch

from kdlib import _compat

STUBBED = """
import runpy, sys, torch
sys.path.insert(0, sys.argv[1])
compat = runpy.run_path(sys.argv[2])
print(compat["TORCHVISION"])
boxes, scores = torch.zeros(1, 4), torch.zeros(1)
try:
    torch.ops.torchvision.nms(boxes, scores, 0.5)
except NotImplementedError:
    print("declared, not implemented")
"""


def torchvision_at(folder, monkeypatch):
    spec = ModuleSpec("torchvision", None, origin=str(folder / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)


def test_installed_torchvision_works():
    torchvision = pytest.importorskip("torchvision")
    assert _compat.TORCHVISION in ("native", "stubbed")
    network = torchvision.models.resnet18(num_classes=3).eval()
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_absent(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert _compat.ensure_torchvision_importable() == "absent"


def test_native_declares_nothing(tmp_path, monkeypatch):
    (tmp_path / "_C.so").touch()
    loaded, declared = [], list(_compat._declared)
    torchvision_at(tmp_path, monkeypatch)
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    assert _compat.ensure_torchvision_importable() == "native"
    assert loaded == [str(tmp_path / "_C.so")]
    assert _compat._declared == declared


@pytest.mark.parametrize("compiled", [True, False])
def test_part_that_does_not_load_is_stubbed(tmp_path, compiled):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").touch()
    if compiled:
        (package / "_C.so").write_bytes(b"made for another torch")
    command = [sys.executable, "-c", STUBBED, str(tmp_path), _compat.__file__]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout == "stubbed\ndeclared, not implemented\n"


@pytest.mark.parametrize(
    ("version", "installed", "command"),
    [
        (
            "2.13.0+cpu",
            True,
            "pip uninstall -y torchvision && pip install torch==2.13.0 torchvision "
            "--index-url https://download.pytorch.org/whl/cpu",
        ),
        ("2.11.0", False, "pip install torch==2.11.0 torchvision"),
    ],
)
def test_pair_command(version, installed, command):
    assert _compat.pair_command(version, installed) == command


@pytest.mark.parametrize(
    ("word", "end"),
    [("native", ": native"), ("stubbed", f"{_compat.pair_command()})"), ("absent", "torchvision")],
)
def test_line_names_what_was_found_and_how_to_mend_it(word, end, monkeypatch):
    monkeypatch.setattr(_compat, "TORCHVISION", word)
    monkeypatch.setattr(_compat, "version", lambda name: "0.28.0")
    line = _compat.torchvision_line()
    assert line.startswith(f"torch {torch.__version__}, ")
    assert end in line
