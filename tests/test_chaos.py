"""Short forms of scripts/chaos.py, whose long ones are run by hand."""

import subprocess
import sys

import pytest

from kdlib.plan import ROOT

SLICE = {
    "epochs": 3,
    "checkpoint_seconds": 0,
    "teacher_losses": "[ce]",
    "student_losses": "[ce]",
    "kd_methods": "[none, kd]",
    "mixup": "[false]",
}


def chaos(*arguments):
    changes = [word for key, value in SLICE.items() for word in ("--set", f"{key}={value}")]
    changes += ["--only", "01", "--only", "02", "--only", "03"]
    command = [sys.executable, str(ROOT / "scripts" / "chaos.py"), *arguments, *changes]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_kills_leave_the_same_tables():
    told = chaos("kill", "--times", "3")
    assert told.count("kill ") == 3
    assert told.endswith(" tables: same\nall as it should be\n")


@pytest.mark.slow
def test_wounds_are_named_and_healed():
    told = chaos("damage", "--times", "6", "--at-once", "2")
    assert "6 wounds, 6 named\n" in told
    assert told.endswith(" tables: same\nall as it should be\n")
