"""What is known of public image sets before any data are read; one's own set needs none of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class KnownSet:
    """A set: how many classes, side and channels of its images, how many of training and of test.

    class_names: in the order of their ids, empty where they come with the data. crop, flip: its
    augmentation unless a params file says otherwise. torchvision: its class there, empty for none.
    fingerprints: split -> `kdlib.data.fingerprint` at its own size, in canonical order, by (label,
    sha256 of the pixels).
    """

    classes: int
    side: int
    channels: int
    train: int
    test: int
    class_names: tuple[str, ...] = ()
    crop: int = 4
    flip: bool = True
    torchvision: str = ""
    fingerprints: Mapping[str, str] = field(default_factory=dict)


_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_FASHION = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag"
_DIGITS = tuple(map(str, range(10)))

# Digits are not mirrored.
KNOWN_SETS = {
    "digits": KnownSet(
        classes=10,
        side=8,
        channels=1,
        train=1_078,
        test=719,
        class_names=_DIGITS,
        crop=1,
        flip=False,
        fingerprints={
            "train": "c5799f8494de67e6a882ff2b8e1b013be311d0bc9492b77a7bdcba86a0e8a939",
            "test": "922d7645483d8754b61cd3129389e926eff40a725a350285e68a355645c52448",
        },
    ),
    "mnist": KnownSet(
        classes=10,
        side=28,
        channels=1,
        train=60_000,
        test=10_000,
        class_names=_DIGITS,
        crop=2,
        flip=False,
        torchvision="MNIST",
        fingerprints={
            "train": "b6de67243e940fa9f2327219c655bb424baddb4362e6fa55a826bac7447a9051",
            "test": "5e5cfb3a0f4c65879ed7758e025a1eb81971037711813cbefc739866cfd43286",
        },
    ),
    "fashion_mnist": KnownSet(
        classes=10,
        side=28,
        channels=1,
        train=60_000,
        test=10_000,
        class_names=(*_FASHION.split(), "Ankle boot"),
        torchvision="FashionMNIST",
        fingerprints={
            "train": "47e44f434492e8eb026e749de2d54dd4a5345c2010a98e7d78be5b71a142f0fc",
            "test": "1e6d0a6b4683083eb27fffb91481ce947a3862871e4d798b0e4c72a5b9a7186a",
        },
    ),
    "cifar10": KnownSet(
        classes=10,
        side=32,
        channels=3,
        train=50_000,
        test=10_000,
        class_names=tuple(_CIFAR10.split()),
        torchvision="CIFAR10",
        fingerprints={
            "train": "a81e268a1ca3ccf1cfbfa1bed691cc010f64afed1d85b1cb4e13dcee23612c68",
            "test": "da95e18d3ada689686285abc38a974a560f158b44aa07bba7c8db040142fbf6c",
        },
    ),
    "cifar100": KnownSet(
        classes=100,
        side=32,
        channels=3,
        train=50_000,
        test=10_000,
        class_names=tuple(_CIFAR100.split()),
        torchvision="CIFAR100",
        fingerprints={
            "train": "5145baf39cc1961884ebb54b614087025525b001611f205ae6ec0dffbc8edbfd",
            "test": "29d1e938bb73abed72fb1b71e3de513928b024669445a2461395e1a66264ff16",
        },
    ),
    "tiny_imagenet": KnownSet(
        classes=200,
        side=64,
        channels=3,
        train=100_000,
        test=10_000,
    ),
}
