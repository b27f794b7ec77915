"""Short forms of scripts/chaos.py, whose long ones are run by hand."""

import subprocess
import sys

import pytest

from kdlib.plan import ROOT
from kdlib.report import multi_teacher
from kdlib.report.self_distillation import seconds

sys.path.insert(0, str(ROOT / "scripts"))
SMALLER = {"teacher_losses": "[ce]", "kd_methods": "[none, kd]"}  # five runs


def chaos(*arguments):
    changes = [word for key, value in SMALLER.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, str(ROOT / "scripts" / "chaos.py"), *arguments, *changes]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_tables_of_times_are_not_compared():
    from chaos import TIMED

    assert {"timings.csv", seconds.FILE, multi_teacher.LATENCY} == TIMED


@pytest.mark.slow
def test_kills_leave_the_same_tables():
    told = chaos("kill", "--times", "2")
    assert told.count("kill ") == 2
    assert told.endswith(" tables: same\nall as it should be\n")


@pytest.mark.slow
def test_wounds_are_named_and_healed():
    told = chaos("damage", "--times", "5", "--at-once", "5")
    assert told.endswith(" tables: same\n5 wounds, 5 named\nall as it should be\n")
    for kind in ("data/own_digits.npz", "/progress/", "/rows/", "/checkpoints/", "/predictions/"):
        assert kind in told
