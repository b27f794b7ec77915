"""Ending Snakemake and what it has started, where this process alone was interrupted."""

import contextlib
import signal
import subprocess
from pathlib import Path

import psutil

GRACE = 3  # seconds in which Snakemake says that it was interrupted, too
CANCELLING = "Terminating processes on user request"


def end(child: subprocess.Popen, log: Path) -> None:
    """Wait until Snakemake and its jobs have ended: a terminal interrupts them, too; whoever
    interrupts this process alone (an IDE, `kill -INT`) means them as well. log: Snakemake's, which
    says whether it knows; a second interrupt would break off its own end."""
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        if CANCELLING not in log.read_text(encoding="utf-8", errors="replace"):
            _signal(child)
        child.wait()


def _signal(child: subprocess.Popen) -> None:
    """Interrupt it and all that it has started, as a terminal would."""
    with contextlib.suppress(psutil.NoSuchProcess):
        jobs = psutil.Process(child.pid).children(recursive=True)
        child.send_signal(signal.SIGINT)
        for job in jobs:
            with contextlib.suppress(psutil.NoSuchProcess):
                job.send_signal(signal.SIGINT)
