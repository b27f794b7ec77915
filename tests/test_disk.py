"""A disk that is full or read-only: a clear message, nothing half done, on once there is room.

On a small disk of their own (tmpfs), which root alone may mount; elsewhere these tests skip.
"""

import contextlib
import os
import subprocess
import sys

import pytest

from kdlib import Lab, Params, grid
from kdlib.__main__ import main
from kdlib.plan import ROOT
from kdlib.verify import verify

TINY = {
    "kd_methods": ["none"], "student_losses": ["ce", "bs"], "mixup": [False], "epochs": 1,
    "batch_size": 32,
}  # fmt: skip


def mount(*arguments):
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip()


@pytest.fixture
def disk(tmp_path):
    """A disk of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if refused := mount("-t", "tmpfs", "-o", "size=16m", "tmpfs", folder):
        pytest.skip(f"a small disk cannot be mounted here: {refused}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk, left):
    """A file that leaves so many bytes, or none where a batch at work takes room meanwhile."""
    space = os.statvfs(disk)
    ballast = disk / "ballast"
    with contextlib.suppress(OSError):
        ballast.write_bytes(bytes(max(0, space.f_bavail * space.f_frsize - left)))
    return ballast


def files(folder):
    """What lies there under a final name and is no log."""
    kinds = ("rows", "checkpoints", "predictions", "progress")
    return [path for kind in kinds for path in folder.rglob(f"{kind}/*")]


@pytest.mark.parametrize(("share", "more"), [(0, 0), (0.5, 0), (1, 12_000)])
def test_a_run_on_a_full_disk_names_the_file_and_goes_on_when_there_is_room(disk, share, more):
    """Room for nothing, for less than the checkpoint, for the checkpoint alone."""
    params, out = Params(**TINY), disk / "results"
    runs = grid.student_runs(params)
    Lab.of(params, out).complete(runs[:1])
    (checkpoint,) = out.rglob("*/checkpoints/*")
    done, ballast = files(out), fill(disk, int(share * checkpoint.stat().st_size) + more)
    with pytest.raises(OSError, match=rf"No space left on device: '{out}.*{runs[1].id}"):
        Lab.of(params, out).complete(runs)
    assert not list(out.rglob(".*"))  # no partial file of any name
    new = [path.parent.name for path in files(out) if path not in done]
    assert new == ["checkpoints"] * bool(more)
    ballast.unlink()
    Lab.of(params, out).complete(runs)
    assert verify(out).summary() == "2 rows, 2 recomputed from their predictions, 0 wrong"


def test_a_folder_that_may_only_be_read(disk, capsys):
    params, out = Params(**TINY), disk / "results"
    Lab.of(params, out).complete(grid.student_runs(params))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    mount("-o", "remount,ro", disk)
    assert main(["run", "digits", "--out", str(out)]) == 2
    assert capsys.readouterr().err == f"kdlib: [Errno 30] Read-only file system: '{out}/.batch'\n"
    assert main(["verify", str(out)]) == 0  # reading goes on
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.slow
def test_a_batch_on_a_full_disk_says_so_and_goes_on_when_there_is_room(disk):
    own = TINY | {"epochs": 300, "checkpoint_seconds": 0}
    command = [sys.executable, "-m", "kdlib", "run", "digits", "--only", "02", "--jobs", "1"]
    command += [*(f"--set={key}={value}" for key, value in own.items()), "--out", str(disk)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as batch:
        while not list(disk.rglob("*.progress")):  # in the middle of training
            assert batch.poll() is None
        ballast = fill(disk, 0)
        told = batch.stderr.read()
    assert batch.returncode == 1
    assert "no space is left on the disk" in told
    assert not list(disk.rglob("[!.]*/.*.partial"))
    ballast.unlink()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "damaged" not in done.stderr
    assert verify(disk).wrong == []
