"""torchvision's ImageNet weights, as the start of a network instead of random ones.

A network that starts from them has seen ImageNet's classes with their labels, before any teacher
speaks: for classes among those, its accuracy says little about the teachers.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kdlib.models.network import Network, Preprocess

HEADS = ("fc.", "classifier.")  # how the tensors' names of torchvision's heads begin


def start_from_pretrained(network: Network, weights: str) -> None:
    """Copy ImageNet weights into all but the head, in place, and take over the statistics that they
    expect. The head, and a layer before it that torchvision lacks, stay as drawn.

    weights: torchvision's name, as in a model's fact `pretrained`. OSError where they are neither
    in torchvision's cache nor to be downloaded; ValueError where the images have other than 3
    channels, or where the weights are another network's.
    """
    if (channels := len(network.preprocess.mean)) != 3:
        raise ValueError(f"{weights} take images of 3 channels, these have {channels}")
    theirs = [one for name, one in _state(weights).items() if not name.startswith(HEADS)]
    own = _backbone(network)[: len(theirs)]  # the same layers in the same order
    if [one.shape for one in own] != [one.shape for one in theirs]:
        raise ValueError(f"{weights} are weights of another network")
    for ours, source in zip(own, theirs, strict=True):
        ours.copy_(source)
    expected = _named(weights).transforms()
    network.preprocess = Preprocess(expected.mean, expected.std, network.preprocess.image_size)


def leak(weights: str, classes: Sequence[str]) -> str:
    """What a reader must know about pretrained weights and a student's classes, in a sentence. A
    class counts as seen if its name, or the last word of it, is an ImageNet class's.

    >>> leak("ResNet18_Weights.IMAGENET1K_V1", ["elephant", "oak_tree"])[:60]
    'ResNet18_Weights.IMAGENET1K_V1 were trained with labels on I'
    """
    names = [name.lower() for name in _named(weights).meta["categories"]]
    known = {*names, *(name.split()[-1] for name in names)}  # "African elephant", "elephant"
    seen = [name for name in classes if name.replace("_", " ").lower() in known]
    which = f"by name these are among them: {', '.join(seen)}" if seen else (
        "no class is among them by name, which says little about classes that are numbered"
    )  # fmt: skip
    return (
        f"{weights} were trained with labels on ImageNet's 1000 classes; {which}. What such a "
        "student knows of them it need not have from its teachers: compare it with the student "
        "without KD from the same weights, and with one from random weights."
    )


def _backbone(network: Network) -> list[Tensor]:
    parts: Sequence[nn.Module] = (network.stem, network.stages, network.neck)
    return [tensor for part in parts for tensor in part.state_dict().values()]


def _named(weights: str) -> Any:
    from torchvision.models import get_weight

    return get_weight(weights)


def _state(weights: str) -> dict[str, Tensor]:
    found = _named(weights)
    try:
        return found.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network; a file that was cut short or changed
        raise OSError(
            f"{weights} cannot be had ({error}): put {found.url} into the folder checkpoints/ of "
            "torch.hub.get_dir(), or start from random weights (pretrained: [false])"
        ) from None
