"""kdlib's loop against a plain one: fp32, PIL images one by one, live teachers, KD.

`python -m benchmarks.plain`: for readers without a checkout of a peer. The plain loop is the one
that most tutorials have, on the same networks and the same arrays.
"""

import copy
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import common
from kdlib import data, train
from kdlib.config import Augment
from kdlib.objectives.multi_teacher import Regressor


class Images(Dataset):
    """One image at a time, as a PIL image through torchvision's transforms."""

    def __init__(self, record: data.ImageSet, augment: Augment):
        from torchvision import transforms  # after kdlib, which makes it importable anywhere

        steps = [transforms.RandomCrop(record.image_size, padding=augment.crop)] * (
            augment.crop > 0
        )
        steps += [transforms.RandomHorizontalFlip()] * augment.flip
        self.transform = transforms.Compose([*steps, transforms.ToTensor()])
        self.images, self.labels = record.train_images, record.train_labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(np.squeeze(self.images[index]))
        return self.transform(image), int(self.labels[index])


def loop(
    student: nn.Module,
    teachers: Sequence[nn.Module],
    batches: Iterable,
    device: str,
    regressors: Sequence[nn.Module] = (),
    stage: str = "",
) -> None:
    """Plain KD: teachers' mean probabilities at T = 4, 0.1 label + 0.9 KD; with regressors, one a
    teacher, also hints from the maps of a stage, weighted alike."""
    weights = [*student.parameters(), *(w for one in regressors for w in one.parameters())]
    optimizer = torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=5e-4)
    for images, targets in batches:
        images, targets = images.to(device), targets.to(device)
        own = student(images)
        loss = 0.1 * F.cross_entropy(own.logits, targets)
        with torch.no_grad():
            views = [one(images) for one in teachers]
            soft = torch.stack([F.softmax(view.logits / 4, 1) for view in views]).mean(0)
        log_probs = F.log_softmax(own.logits / 4, 1)
        loss = loss + 0.9 * 16 * F.kl_div(log_probs, soft, reduction="batchmean")
        for regressor, view in zip(regressors, views, strict=False):
            gap = F.mse_loss(regressor(own.features[stage]), view.features[stage])
            loss = loss + 100 * gap / len(views) ** 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()


def step(
    runs: Any,
    record: data.ImageSet,
    teachers: Sequence[nn.Module],
    options: Any,
    hints: str = "",
) -> float:
    """Seconds a step of the plain loop on a run's networks; hints: of which stage, "" for none."""
    run = runs[0]
    student = train.build_network(run, record).to(options.device)
    frozen = [copy.deepcopy(one).to(options.device).eval() for one in teachers]
    images = Images(record, run.augment)
    regressors: list[nn.Module] = []
    if hints:
        shown = images[0][0][None].to(options.device)
        ours, *theirs = (one(shown).features[hints] for one in (student, *frozen))
        regressors = [Regressor(ours, one, norm=False).to(options.device) for one in theirs]
    loader = DataLoader(images, run.recipe.batch_size, shuffle=True, drop_last=True)
    watch = common.watch(options)
    batches = watch.batches(loader, options.steps)
    loop(student, frozen, batches, options.device, regressors, hints)
    return watch.seconds


def main() -> None:
    """CIFAR-100, KD, two pairs of networks, in both precisions."""
    options = common.parsed(common.parser(__doc__))
    record, rows = data.load("cifar100", options.data_dir), []
    selection = common.whole(record)
    for teacher, student in (("resnet20", "resnet8"), ("resnet32x4", "resnet8x4")):
        both = {
            precision: common.students(
                data="cifar100", val_fraction=0.0, kd_methods="kd", precision=precision,
                teacher_model=teacher, student_model=student,
            )
            for precision in ("fp32", "bf16")
        }  # fmt: skip
        shared = common.networks(both["fp32"], record)
        timers: dict[str, common.Timer] = {
            "plain": lambda runs=both["fp32"], nets=shared: step(runs, record, nets, options)
        }
        for precision, runs in both.items():
            timers[precision] = lambda runs=runs, nets=shared: common.cohort_step(
                runs, record, selection, nets, options=options
            )
        seconds = common.interleaved(timers, options.repeats)
        rows.append(
            {"pair": f"{teacher} -> {student}", "method": "kd"}
            | {f"{name} (ms)": 1000 * statistics.median(one) for name, one in seconds.items()}
            | {f"plain / {name}": common.ratio(seconds["plain"], seconds[name]) for name in both}
        )
    common.save("plain", rows, options)


if __name__ == "__main__":
    main()
