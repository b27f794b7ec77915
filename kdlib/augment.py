"""Batches on the device: order, crop, flip and mixup as indexing, a function of (seed, epoch)."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib import seeding
from kdlib.config import Augment
from kdlib.registry import AUGMENTATIONS
from kdlib.types import Batch, Clock, Draw, Mix


def crop_flip(
    padded: Tensor, rows: Tensor, offsets: Tensor, flips: Tensor, image_size: int
) -> Tensor:
    """Cut a window out of each padded image, mirrored or not, in one gather.

    padded: (N, H + 2c, W + 2c, C) uint8. rows: (B,). offsets: (B, 2) top and left in 0..2c.
    flips: (B,) bool. Returns (B, C, image_size, image_size) uint8 in channels_last memory.
    """
    steps = torch.arange(image_size, device=padded.device)
    across = torch.where(flips[:, None], steps.flip(0), steps)
    y = (offsets[:, :1] + steps)[:, :, None]
    x = (offsets[:, 1:] + across)[:, None, :]
    return padded[rows[:, None, None], y, x].permute(0, 3, 1, 2)


def mixup(values: Tensor, mix: Mix) -> Tensor:
    """lam * v + (1 - lam) * v[permutation] along the first dimension (Zhang et al. 2018)."""
    return mix.lam * values + (1 - mix.lam) * values[mix.permutation]


def check_transform(name: str, channels: int, size: int) -> None:
    """Try a registered augmentation on made-up images; ValueError names it where it fails, or gives
    anything but images of the same shape and dtype."""
    what = f"{AUGMENTATIONS.kind} {name!r}, tried on 4 images"
    drawn = torch.Generator().manual_seed(0)
    images = torch.rand(4, channels, size, size, generator=drawn)
    try:
        found = AUGMENTATIONS[name].build(images.clone(), drawn)
        same = (found.shape, found.dtype) == (images.shape, images.dtype)
    except Exception as error:  # of a plugin: whatever it is
        raise ValueError(f"{what}: {type(error).__name__}: {error}") from error
    if not same:
        raise ValueError(
            f"{what}, gives {tuple(found.shape)} {found.dtype} of {tuple(images.shape)} "
            f"{images.dtype}"
        )


class Stream:
    """The training batches of a cohort, all of one size, the same for any cohort of this seed.

    images: (N, H, W, C) uint8, labels: (N,) int64, both moved to `device` once. An epoch visits
    N // batch_size batches in an order of its own; the rest of that order is left out.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        num_classes: int,
        batch_size: int,
        seed: int,
        augment: Augment,
        mixup_alpha: float = 0.0,
        device: str = "cpu",
    ):
        crop = augment.crop
        if crop >= images.shape[1]:
            raise ValueError(f"augment.crop must be below the {images.shape[1]} pixels of images, "
                             f"or it may show none of it, got {crop}")  # fmt: skip
        self.padded = F.pad(images.to(device), (0, 0, crop, crop, crop, crop))
        self.labels = labels.to(device)
        self.one_hot = F.one_hot(self.labels, num_classes).float()
        self.image_size = images.shape[1]
        self.batch_size, self.seed = batch_size, seed
        self.augment, self.mixup_alpha = augment, mixup_alpha
        self.steps = len(labels) // batch_size

    def epoch(self, epoch: int, epochs: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        return map(self.batch, self.draws(epoch, epochs))

    def draws(self, epoch: int, epochs: int) -> Iterator[Draw]:
        """What makes the batches of one epoch; all of it is drawn, and on the device, before the
        first."""
        device, count = self.padded.device, self.steps * self.batch_size
        shape = (self.steps, self.batch_size)
        order = torch.randperm(len(self.labels), generator=self._draws("order", epoch))
        rows = order[:count].reshape(shape).to(device)
        draws = self._draws("augmentation", epoch)
        reach = 2 * self.augment.crop + 1
        offsets = torch.randint(reach, (*shape, 2), generator=draws).to(device)
        flips = (torch.rand(shape, generator=draws) < 0.5 * self.augment.flip).to(device)
        partners, lams = self._mixes(epoch)
        for step in range(self.steps):
            own = rows[step], offsets[step], flips[step], partners[step], lams[step]
            yield Draw(*own, Clock(epoch, epochs, step))

    def batch(self, draw: Draw) -> Batch:
        """The batch that was drawn."""
        where = draw.rows, draw.offsets, draw.flips
        images = self._transformed(
            crop_flip(self.padded, *where, self.image_size).float() / 255, draw
        )
        targets, mix, unmixed = self.labels[draw.rows], None, None
        if draw.lam is not None:
            mix = Mix(draw.partners, draw.lam)
            unmixed, images = images, mixup(images, mix)
            targets = mixup(self.one_hot[draw.rows], mix)
        return Batch(images, targets, draw.rows, draw.clock, mix, unmixed)

    def _transformed(self, images: Tensor, draw: Draw) -> Tensor:
        """After a transform of the user's own, where there is one."""
        name = self.augment.transform
        if name is None:
            return images
        draws = seeding.generator(self.seed, f"transform {name}", draw.clock.epoch, draw.clock.step)
        return AUGMENTATIONS[name].build(images, draws)

    def _draws(self, purpose: str, epoch: int) -> torch.Generator:
        return seeding.generator(self.seed, purpose, epoch)

    def _mixes(self, epoch: int) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
        """Partners (steps, B) and lams (steps,); None for each step without mixup."""
        if not self.mixup_alpha:
            return [None] * self.steps, [None] * self.steps
        device, alpha = self.padded.device, self.mixup_alpha
        shares = seeding.numpy_generator(self.seed, "mixup", epoch).beta(alpha, alpha, self.steps)
        lams = torch.tensor(shares, dtype=torch.float32, device=device)
        keys = torch.rand(self.steps, self.batch_size, generator=self._draws("partners", epoch))
        return keys.argsort(1).to(device), lams
