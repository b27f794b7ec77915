"""Trained networks that users bring: a model that kdlib builds and a state dict for it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from kdlib import models, train
from kdlib.config import Given, Run
from kdlib.data import ImageSet
from kdlib.notices import warn_once

STATES = ("state_dict", "model_state_dict", "model", "net")  # in checkpoints of other projects
WRAPPED = ("module.", "_orig_mod.")  # by DataParallel, by torch.compile
BUFFERS = ("preprocess.mean", "preprocess.std")


def network(run: Run, record: ImageSet) -> nn.Module:
    """The network of a run whose weights are given, in eval mode.

    ValueError where its file is no state dict, does not fit the model, or knows other classes.
    """
    given = run.given
    if given.classes and given.classes != record.classes:
        theirs, ours = list(given.classes), list(record.classes)
        raise ValueError(f"{given.checkpoint} has the classes {theirs}, {run.data} has {ours}")
    channels, told = record.in_channels, given.preprocess
    if told and not len(told.mean) == len(told.std) == channels:
        raise ValueError(
            f"{given.checkpoint}: its preprocess has {len(told.mean)} means and {len(told.std)} "
            f"stds, the images of {run.data} have {channels} channels"
        )
    built, where = train.build_network(run, record), f"{given.checkpoint} does not fit {run.model}"
    state = _fitting(read_state(given), built)
    own = {name: state.pop(name) for name in BUFFERS if name in state}
    if told:
        built.preprocess = models.Preprocess(told.mean, told.std, built.preprocess.image_size)
        for name, value in own.items():
            if not torch.equal(value.float(), built.state_dict()[name]):
                raise ValueError(f"{given.checkpoint} has another {name} than its params tell")
    elif len(own) < len(BUFFERS):
        warn_once(f"{given.checkpoint} has no preprocess: it gets the statistics of {run.data}")
        own = {}
    _load(built, state | own, where)
    return built.eval()


def _fitting(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """A state dict under the names of a network: as they are, without what wraps them, and of a
    plain module with what kdlib puts before them."""
    wanted = network.state_dict().keys() - {*BUFFERS}
    tried = state
    while True:
        for one in _named(tried, network):
            if wanted <= one.keys():
                return one
        prefix = next((one for one in WRAPPED if _all_begin(tried, one)), None)
        if prefix is None:
            return next(_named(state, network))
        tried = {name.removeprefix(prefix): value for name, value in tried.items()}


def _named(state: dict[str, Tensor], network: nn.Module) -> Iterator[dict[str, Tensor]]:
    if isinstance(network, models.Plain):
        for kept in (BUFFERS, ()):
            yield {name if name in kept else f"module.{name}": state[name] for name in state}
    yield dict(state)


def _all_begin(state: dict[str, Tensor], prefix: str) -> bool:
    names = [name for name in state if name not in BUFFERS]
    return bool(names) and all(name.startswith(prefix) for name in names)


def read_state(given: Given) -> dict[str, Tensor]:
    """The state dict a user brings: safetensors, or a torch file of tensors and plain values. In a
    torch file it may be one entry of several (`STATES`).

    ValueError naming the file where it is neither, or not the file the params were read with.
    """
    path = Path(given.checkpoint).expanduser()
    if hashlib.sha256(path.read_bytes()).hexdigest() != given.sha256:
        raise ValueError(f"{path} has changed since the params were read")
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is no readable checkpoint: {error}") from None
    except Exception as error:  # torch raises pickle's own errors for a file that is not one
        told = " ".join(str(error).split())
        raise ValueError(f"{path} is no torch file, or not of tensors alone: {told}") from None
    return _state_dict(state, path)


def _state_dict(found: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, needs a state dict")
    inside = next((found[name] for name in STATES if isinstance(found.get(name), dict)), found)
    if strange := [
        name
        for name, value in inside.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]:
        raise ValueError(
            f"{path} has {strange[:5]} beside tensors: its state dict may be an entry under "
            f"{', '.join(STATES)}, or the whole file"
        )
    return inside


def _load(network: nn.Module, state: dict[str, Any], where: str) -> None:
    """Load a state dict that may lack the `BUFFERS`; ValueError naming what else does not fit."""
    own = network.state_dict()
    lacking = sorted(name for name in own if name not in state and name not in BUFFERS)
    unknown = sorted(name for name in state if name not in own)
    shapes = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if lacking or unknown or shapes:
        parts = [f"lacks {lacking[:3]}"] * bool(lacking) + [f"has {unknown[:3]}"] * bool(unknown)
        raise ValueError(f"{where}: it {' and '.join(parts + sorted(shapes)[:3])}")
    network.load_state_dict(own | state)
