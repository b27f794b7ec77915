"""The device of a process: which one, and how it computes."""

import os

import torch


def set_up_device(name: str, deterministic: bool = False) -> str:
    """The device of this process, ready: on a GPU fp32 is fp32, not TF32, and only with
    `deterministic` are all algorithms such that repeat themselves. ValueError: `resolve_device`."""
    device = resolve_device(name)
    if device == "cuda":
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # matrix products are it by default
        if deterministic:  # cuBLAS reads it when it starts
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        if deterministic != torch.are_deterministic_algorithms_enabled():
            torch.use_deterministic_algorithms(deterministic)
    return device


def resolve_device(name: str) -> str:
    """cuda or cpu, "auto" the better one that is here; another or an absent one is a ValueError."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"device must be auto, cpu or cuda and exist here, got {name!r}")
    return name


def check_precision(precision: str, device: str) -> None:
    """bf16 on a GPU that only emulates it is slow (pytorch#148322): ValueError naming fp16."""
    if precision == "bf16" and device == "cuda":
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ValueError("precision bf16 is only emulated by this GPU, use fp16 or fp32")
