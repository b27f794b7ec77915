"""Trained networks that users bring: a model that kdlib builds and a state dict for it."""

import hashlib
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
WRAPPED = ("module.", "_orig_mod.")
PREPROCESS = "preprocess."


def network(run: Run, record: ImageSet) -> nn.Module:
    """The network of a run whose weights are given, in eval mode.

    ValueError where its file is no state dict, does not fit the model, or knows other classes.
    """
    given = run.given
    if given.classes and given.classes != record.classes:
        theirs, ours = list(given.classes), list(record.classes)
        raise ValueError(f"{given.checkpoint} has the classes {theirs}, {run.data} has {ours}")
    built, state = train.build_network(run, record), read_state(given)
    own = {name: state.pop(name) for name in list(state) if name.startswith(PREPROCESS)}
    if told := given.preprocess:
        built.preprocess = models.Preprocess(told.mean, told.std, built.preprocess.image_size)
    elif own:
        state |= own
    else:
        warn_once(f"{given.checkpoint} has no preprocess: it gets the statistics of {run.data}")
    if isinstance(built, models.Plain):
        state = {
            name if name.startswith(PREPROCESS) else f"module.{name}": value
            for name, value in state.items()
        }
    _load(built, state, f"{given.checkpoint} does not fit {run.model}")
    return built.eval()


def read_state(given: Given) -> dict[str, Tensor]:
    """The state dict a user brings: safetensors, or a torch file of tensors and plain values. In a
    torch file it may be one entry of several (`STATES`), and its names may begin with what
    DataParallel or torch.compile put before them (`WRAPPED`).

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
        raise ValueError(f"{path} is no checkpoint of tensors alone: {error}") from None
    return _state_dict(state, path)


def _state_dict(found: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, needs a state dict")
    inside = next((found[name] for name in STATES if isinstance(found.get(name), dict)), found)
    if strange := [name for name, value in inside.items() if not isinstance(value, Tensor)]:
        raise ValueError(
            f"{path} has {strange[:5]} beside tensors: its state dict may be an entry under "
            f"{', '.join(STATES)}, or the whole file"
        )
    for prefix in WRAPPED:
        if all(name.startswith((prefix, "preprocess.")) for name in inside):
            inside = {name.removeprefix(prefix): value for name, value in inside.items()}
    return inside


def _load(network: nn.Module, state: dict[str, Any], where: str) -> None:
    """Load a user's state dict; its own `preprocess` buffers are welcome but not required."""
    own = network.state_dict()
    lacking = sorted(name for name in own if name not in state and "preprocess" not in name)
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
