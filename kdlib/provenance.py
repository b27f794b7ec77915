"""Which data, which code, on what, with which versions: the facts that go into every row."""

import functools
import os
import platform
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdlib import _compat
from kdlib.config import Execution
from kdlib.data import ImageSet, Selection


def data_facts(record: ImageSet, selection: Selection) -> dict[str, Any]:
    """The data as really used."""
    return {
        "name": record.name,
        "fingerprint": record.fingerprint,
        "split_hash": selection.split_hash,
        "class_counts": [int(count) for count in selection.class_counts],
        "val_counts": [int(count) for count in selection.val_counts],
        "test_counts": np.bincount(record.test_labels, minlength=record.num_classes).tolist(),
        "short_classes": list(selection.short_classes),
    }


def peak_memory_mb(device: str = "cpu") -> float:
    """The largest resident size of this process so far, or what it held at most on a GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@functools.cache
def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    try:
        command = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    except OSError:  # no git here
        return ""
    return command.stdout.strip()


def provenance(device: str, execution: Execution) -> dict[str, Any]:
    """Which code, on what, with which versions."""
    own = _git("rev-parse", "--show-toplevel") == str(Path(__file__).resolve().parent.parent)
    keys = ("threads", "cuda_graphs", "deterministic") if device == "cuda" else ("threads",)
    return {
        "commit": _git("rev-parse", "HEAD") if own else "unknown",
        "dirty": bool(_git("status", "--porcelain", "--", ".")) if own else None,
        "device": torch.cuda.get_device_name() if device == "cuda" else _cpu(),
        **{key: getattr(execution, key) for key in keys},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "torchvision": _compat.TORCHVISION,
        },
    }


def machine(device: str, threads: int) -> dict[str, Any]:
    """What the numbers were measured on."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "cpu": facts.get("model name", platform.processor()),
        "flags": [flag for flag in wanted if flag in facts.get("flags", "").split()],
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 1),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


@functools.cache
def _cpu() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {capability}, {os.cpu_count()} cores"
