"""kdlib's loop against RepDistiller's own: `python -m benchmarks.peer --peer PATH`.

PATH is a checkout of https://github.com/HobbitLong/RepDistiller. Its `train_distill`, losses,
models, data sets and loaders run as they are; what is bent at the boundary stands in `Peer`.
"""

import argparse
import contextlib
import importlib
import io
import itertools
import multiprocessing
import statistics
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from benchmarks import common
from kdlib import data, tune
from kdlib.provenance import peak_memory_mb

# kdlib's name -> RepDistiller's, and its weights of label, KL and other loss, from its scripts
METHODS = {
    "kd": ("kd", 0.1, 0.9, 0.0),
    "at": ("attention", 1.0, 0.0, 1000.0),
    "rkd": ("rkd", 1.0, 0.0, 1.0),
    "crd": ("crd", 1.0, 0.0, 0.8),
}
PAIRS = {
    "resnet20-resnet8": ("resnet20", "resnet8"),
    "resnet32x4-resnet8x4": ("resnet32x4", "resnet8x4"),
    "resnet50-resnet18": ("resnet50", "resnet18"),
}
NEGATIVES = 16384  # of CRD, its default


class Numpy(SimpleNamespace):
    """numpy with an `asarray` that takes lists of unequal length, as old versions did."""

    def __init__(self):
        super().__init__(random=np.random, hstack=np.hstack)

    @staticmethod
    def asarray(values: list) -> np.ndarray:
        if len({np.shape(one) for one in values}) <= 1:
            return np.asarray(values)
        ragged = np.empty(len(values), dtype=object)
        ragged[:] = values
        return ragged


class Peer:
    """RepDistiller on arrays and on any device.

    Bent: `.cuda()` does nothing where there is no GPU, CIFAR-100 is filled from our arrays instead
    of a download, and its sampler's class lists may differ in length.
    """

    def __init__(self, path: Path, device: str = "cpu"):
        sys.path.insert(0, str(path))
        named = ("models", "models.resnetv2", "dataset.cifar100", "helper.loops", "distiller_zoo")
        modules = [importlib.import_module(name) for name in (*named, "crd.criterion")]
        self.models, self.resnets, self.data, self.loops, self.zoo, self.crd = modules
        self.data.np, self.data.get_data_folder = Numpy(), lambda: ""
        self.device = device
        if device == "cpu":
            torch.Tensor.cuda = lambda tensor: tensor
            nn.Module.cuda = lambda module: module

    def loaders(
        self, record: data.ImageSet, rows: np.ndarray, batch: int, negatives: int
    ) -> tuple[Any, Any]:
        """Its loaders of training batches, on these rows of our arrays, and of the test set."""
        images, labels = record.train_images[rows], record.train_labels[rows].tolist()

        def fill(dataset: Any, root: str, train: bool = True, **options: Any) -> None:
            own = (images, labels) if train else (record.test_images, record.test_labels.tolist())
            dataset.data, dataset.targets = own
            prefix = "train" if train else "test"
            setattr(dataset, f"{prefix}_data", own[0])
            setattr(dataset, f"{prefix}_labels", own[1])
            dataset.train, dataset.transform = train, options.get("transform")
            dataset.target_transform = None

        with patch.object(self.data.datasets.CIFAR100, "__init__", fill):
            options = {"batch_size": batch, "num_workers": 0}
            if negatives:
                return self.data.get_cifar100_dataloaders_sample(k=negatives, **options)[:2]
            return self.data.get_cifar100_dataloaders(is_instance=True, **options)[:2]

    def network(self, name: str, num_classes: int) -> nn.Module:
        """One of its models; ResNet-18 is built from the parts it has."""
        known = self.models.model_dict | {
            "resnet18": self.resnets.ResNet18,
            "resnet50": self.resnets.ResNet50,
        }
        return known[name](num_classes=num_classes)


class Trainer:
    """One of its trainings: networks, losses, optimiser as in its main()."""

    def __init__(
        self,
        peer: Peer,
        method: str,
        teacher: str,
        student: str,
        num_train: int,
        num_classes: int = 100,
        negatives: int = 0,
        channels_last: bool = False,
    ):
        distill, gamma, alpha, beta = METHODS[method]
        self.peer = peer
        self.options = SimpleNamespace(
            distill=distill, gamma=gamma, alpha=alpha, beta=beta, print_freq=100, feat_dim=128,
            n_data=num_train, nce_k=negatives, nce_t=0.07, nce_m=0.5,
        )  # fmt: skip
        ours, theirs = (peer.network(name, num_classes) for name in (student, teacher))
        soft = peer.zoo.DistillKL(4)
        own, trained = soft, [ours]
        if method == "at":
            own = peer.zoo.Attention()
        elif method == "rkd":
            own = peer.zoo.RKDLoss()
        elif method == "crd":
            blank = torch.randn(2, 3, 32, 32)
            self.options.s_dim, self.options.t_dim = (
                net(blank, is_feat=True)[0][-1].shape[1] for net in (ours, theirs)
            )
            own = peer.crd.CRDLoss(self.options)
            trained += [own.embed_s, own.embed_t]
        self.criteria = nn.ModuleList([nn.CrossEntropyLoss(), soft, own]).to(peer.device)
        self.modules = nn.ModuleList([*trained, theirs]).to(peer.device)
        if channels_last:
            self.modules.to(memory_format=torch.channels_last)
        weights = [weight for module in trained for weight in module.parameters()]
        self.optimizer = torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=5e-4)

    def epoch(self, batches: Any, number: int = 1) -> None:
        """One epoch of its loop, without its prints."""
        with quiet():
            self.peer.loops.train_distill(
                number, batches, self.modules, self.criteria, self.optimizer, self.options
            )

    def validate(self, batches: Any) -> None:
        """Its evaluation of the student."""
        student, options = self.modules[0], self.options
        with quiet():
            self.peer.loops.validate(batches, student, self.criteria[0], options)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No prints and no deprecation warnings: they are the peer's."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def as_shipped() -> Iterator[None]:
    """torch's own default, which a peer does not change: on a GPU, convolutions take TF32."""
    convolutions = torch.backends.cudnn.conv
    before, convolutions.fp32_precision = convolutions.fp32_precision, "tf32"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


class Cut:
    """A loader under a stopwatch, which ends it early."""

    def __init__(self, loader: Any, steps: int, watch: tune.Stopwatch):
        self.loader, self.steps, self.watch = loader, steps, watch

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        return self.watch.batches(self.loader, self.steps)


def sides(options: Any, peer: Peer, pair: str, method: str) -> dict[str, common.Timer]:
    """What is compared: their loop as it is and in channels_last, ours in two precisions."""
    record = data.load("cifar100", options.data_dir)
    selection, negatives = common.whole(record), NEGATIVES * (method == "crd")
    rows = selection.train_indices
    loader, _ = peer.loaders(record, rows, options.batch_size, negatives)
    teacher, student = PAIRS[pair]

    def theirs(channels_last: bool) -> float:
        own = {"negatives": negatives, "channels_last": channels_last}
        watch = common.watch(options)
        trainer = Trainer(peer, method, teacher, student, len(rows), **own)
        with contextlib.nullcontext() if channels_last else as_shipped():
            trainer.epoch(Cut(loader, options.steps, watch))
        return watch.seconds

    def ours(precision: str) -> float:
        runs = common.students(
            data="cifar100", val_fraction=0.0, teacher_model=teacher, student_model=student,
            kd_methods=method, precision=precision, batch_size=options.batch_size,
            options={"crd": {"negatives": NEGATIVES}},
        )  # fmt: skip
        shared = common.networks(runs, record)
        return common.cohort_step(runs, record, selection, shared, options=options)

    return {
        "peer": lambda: theirs(False),
        "peer channels_last": lambda: theirs(True),
        "fp32": lambda: ours("fp32"),
        "bf16": lambda: ours("bf16"),
    }


def compare(options: Any, peer: Peer, pair: str, method: str) -> dict[str, Any]:
    """One row: their milliseconds a step and ours, and the ratios."""
    seconds = common.interleaved(sides(options, peer, pair, method), options.repeats)
    return {
        "pair": pair,
        "method": method,
        **{f"{name} (ms)": 1000 * statistics.median(times) for name, times in seconds.items()},
        "as shipped, bf16": common.ratio(seconds["peer"], seconds["bf16"]),
        "as shipped, fp32": common.ratio(seconds["peer"], seconds["fp32"]),
        "equal: fp32, channels_last": common.ratio(seconds["peer channels_last"], seconds["fp32"]),
    }


def peak(options: Any, pair: str, method: str, side: str) -> float:
    """MB at the peak of a process that takes a few steps on one side, the data set included."""
    one = argparse.Namespace(**vars(options) | {"steps": 1})
    sides(one, Peer(options.peer, options.device), pair, method)[side]()
    return peak_memory_mb(options.device)


def memory(options: Any, pair: str, method: str) -> dict[str, Any]:
    """One row: peak memory of a process of its own for each side."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        peaks = {
            side: pool.submit(peak, options, pair, method, side).result()
            for side in ("peer", "fp32", "bf16")
        }
    row = {"pair": pair, "method": method} | {f"{side} (MB)": mb for side, mb in peaks.items()}
    return row | {f"{side} / peer": peaks[side] / peaks["peer"] for side in ("fp32", "bf16")}


def main() -> None:
    """One row for each pair of networks and method."""
    parser = common.parser(__doc__)
    parser.add_argument("--peer", type=Path, required=True, help="a checkout of RepDistiller")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS)[:2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    options = common.parsed(parser)
    peer = None if options.memory else Peer(options.peer, options.device)
    for pair, method in itertools.product(options.pairs, options.methods):
        row = compare(options, peer, pair, method) if peer else memory(options, pair, method)
        name = f"{'step' if peer else 'memory'}_{pair}_{method}"
        common.save(name, [row], options)


if __name__ == "__main__":
    main()
