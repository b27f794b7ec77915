"""The device of a process."""

import os

import pytest
import torch

from kdlib import device


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="device must be auto, cpu or cuda and exist here"):
        device.resolve_device("gpu")


def test_a_gpu_is_set_up_for_fp32_and_on_request_for_repeatable_bits(monkeypatch):
    convolutions, name = torch.backends.cudnn.conv, "CUBLAS_WORKSPACE_CONFIG"
    before = convolutions.fp32_precision
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv(name, "")  # so that it is put back
    monkeypatch.delenv(name)
    convolutions.fp32_precision = "tf32"
    try:
        assert device.set_up_device("auto") == "cuda"
        assert convolutions.fp32_precision == "ieee"
        assert name not in os.environ
        assert not torch.are_deterministic_algorithms_enabled()
        assert device.set_up_device("cuda", deterministic=True) == "cuda"
        assert os.environ[name] == ":4096:8"
        assert torch.are_deterministic_algorithms_enabled()
        device.set_up_device("cuda")
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        convolutions.fp32_precision = before


def test_a_cpu_is_left_alone():
    before = torch.backends.cudnn.conv.fp32_precision
    assert device.set_up_device("cpu", deterministic=True) == "cpu"
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_emulated_bf16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(ValueError, match="precision bf16 is only emulated by this GPU, use fp16"):
        device.check_precision("bf16", "cuda")
    device.check_precision("bf16", "cpu")
