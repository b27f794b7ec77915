"""From runs to rows: whatever is not stored yet is trained, evaluated and stored, teachers first.

Notebooks, batch jobs and tests all go through `Lab.complete`, so a notebook that runs alone trains
what it lacks, and a batch job that is started again does only what is left.
"""

import functools
import logging
import os
import platform
import resource
import subprocess
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdlib import _compat, evaluate, models, objectives, train
from kdlib.config import Execution, Params, Run, by_stream
from kdlib.data import ImageSet, Selection, load, select
from kdlib.store import DamagedError, Row, Store, read_given, read_tensors

LOW_SHARE, HIGH_SHARE = 0.01, 50.0

log = logging.getLogger("kdlib")


class FailedRuns(RuntimeError):
    """Some runs did not end well; all others are stored."""


@functools.lru_cache(maxsize=2)
def image_set(name: str, data_dir: str | None, image_size: int | None, trust: bool) -> ImageSet:
    """`kdlib.data.load`, kept: a job reads a set once."""
    return load(name, data_dir, trust, image_size=image_size)


@functools.lru_cache(maxsize=64)
def image_selection(
    name: str,
    data_dir: str | None,
    image_size: int | None,
    trust: bool,
    imbalance_factor: float | None,
    val_fraction: float | None,
    seed: int,
) -> Selection:
    """`kdlib.data.select`, kept: the runs of a seed share it."""
    record = image_set(name, data_dir, image_size, trust)
    return select(record, imbalance_factor, val_fraction, seed)


class Lab:
    """Where runs are carried out: a store for the results, the data, a device.

    out_dir: the profile's folder. execution: device, threads, cohort size. data_dir, trust_data: as
    in `kdlib.data.load`.
    """

    def __init__(
        self,
        out_dir: str | Path,
        execution: Execution | None = None,
        data_dir: str | None = None,
        trust_data: bool = False,
    ):
        self.store = Store(out_dir)
        self.execution = execution or Execution()
        self.device = resolve_device(self.execution.device)
        if self.device == "cuda":
            torch.backends.cudnn.conv.fp32_precision = "ieee"  # fp32 is fp32, not TF32
        self.data_dir, self.trust_data = data_dir, trust_data

    @classmethod
    def of(cls, params: Params, out_dir: str | Path = "") -> "Lab":
        """The lab of a params file or a notebook; without `out_dir`, a temporary folder."""
        values = {key: getattr(params, key) for key in Execution.model_fields}
        folder = out_dir or tempfile.mkdtemp(prefix="kdlib-")
        return cls(folder, Execution(**values), params.data_dir, params.trust_data)

    def record(self, run: Run) -> ImageSet:
        """The data set of a run."""
        return image_set(run.data, self.data_dir, run.image_size, self.trust_data)

    def selection(self, run: Run) -> Selection:
        """The images of it that a run trains and validates on: a function of its seed."""
        key = (run.imbalance_factor, run.val_fraction, run.seed)
        return image_selection(run.data, self.data_dir, run.image_size, self.trust_data, *key)

    def check(self, runs: Collection[Run]) -> None:
        """Refuse what cannot work, by name, before anything is trained."""
        for run in runs:
            record, selection = self.record(run), self.selection(run)
            labels = torch.from_numpy(record.train_labels[selection.train_indices])
            counts = torch.as_tensor(selection.class_counts)
            objectives.check(run, record.in_channels, record.image_size, labels, counts)
            check_precision(run.precision, self.device)
            if run.given:
                self._given_network(run)

    def stored(self, run: Run) -> Row | None:
        """A run's valid row; a damaged file counts as missing and is named in the log."""
        try:
            return self.store.row(run)
        except DamagedError as error:
            log.warning("%s; the run is done again", error)
            return None

    def complete(self, runs: Sequence[Run]) -> list[Row]:
        """The rows of all runs, in order; those that are not stored yet, or were made with other
        data under the same name, are carried out first.

        FailedRuns names the runs that went wrong, after all others are stored.
        """
        found = {run.id: self.stored(run) for run in runs}
        if None in found.values():  # so the data are read anyway
            found = {run.id: self._same_data(run, found[run.id]) for run in runs}
        failures = self._carry_out({run.id: run for run in runs if found[run.id] is None}.values())
        if failures:
            raise FailedRuns("; ".join(failures))
        return [self.store.row(run) for run in runs]

    def _same_data(self, run: Run, row: Row | None) -> Row | None:
        facts = data_facts(self.record(run), self.selection(run))
        if row is None or row["data"] == facts:
            return row
        log.warning("%s was made with other data under the name %r; done again", run.id, run.data)
        return None

    def _carry_out(self, runs: Collection[Run]) -> list[str]:
        """Train (or measure, where a network was given) and store; what went wrong, in words."""
        self.check(runs)
        failures = []
        for run in runs:
            if run.given:
                self._store(train.Trained(run, self._given_network(run)))
        for cohort in by_stream(run for run in runs if not run.given):
            size = 1 if cohort[0].precision == "fp16" else self.execution.cohort_size
            for start in range(0, len(cohort), size):
                try:
                    failures += self._train(cohort[start : start + size])
                except FailedRuns as error:  # of a teacher
                    failures.append(str(error))
        return failures

    def _train(self, cohort: Sequence[Run]) -> list[str]:
        teachers = [self.network(teacher) for teacher in cohort[0].teachers]
        log.info("training %d network(s), %s ...", len(cohort), cohort[0].id)
        trained = train.fit(
            cohort,
            self.record(cohort[0]),
            self.selection(cohort[0]),
            teachers,
            self.device,
            self.execution.threads,
        )
        failures = []
        for one in trained:
            try:
                if one.failure:
                    raise ValueError(one.failure)
                self._store(one)
            except ValueError as error:
                failures.append(f"{one.run.id}: {error}")
        return failures

    def _given_network(self, run: Run) -> torch.nn.Module:
        record, given = self.record(run), run.given
        if given.classes and given.classes != record.classes:
            theirs, ours = list(given.classes), list(record.classes)
            raise ValueError(f"{given.checkpoint} has the classes {theirs}, {run.data} has {ours}")
        network = train.build_network(run, record)
        if given.preprocess:
            size = network.preprocess.image_size
            own = given.preprocess
            network.preprocess = models.Preprocess(own.mean, own.std, size)
        where = f"{run.given.checkpoint} does not fit {run.model}"
        _load_given(network, read_given(run.given), where)
        return network.eval()

    def _store(self, trained: train.Trained) -> Row:
        run, record, selection = trained.run, self.record(trained.run), self.selection(trained.run)
        metrics, found = evaluate.evaluate(trained, record, selection)
        row = {
            "labels": run.labels,
            "run": run.identity(),
            "classes": list(record.classes),
            "network": train.network_shape(run, record),
            "metrics": metrics,
            "evaluation": evaluate.VERSION,
            "history": trained.history,
            "selected_epoch": trained.selected_epoch,
            "kd_share": trained.kd_share,
            "weights": trained.weights,
            "flags": flags(trained),
            "data": data_facts(record, selection),
            "provenance": provenance(self.device, self.execution),
        }
        timing = {"seconds": trained.seconds, "peak_memory_mb": peak_memory_mb()}
        self.store.write_json(run, "timings", {"id": run.id, **timing})
        return self.store.write(run, row, trained.network.state_dict(), found)

    def evaluate(self, run: Run) -> Row | None:
        """Measure a done run again from its checkpoint, without training; None where it is not
        done or has no checkpoint. What only training can tell stays: the history, and the
        predictions of the selected epoch.
        """
        row = self.stored(run)
        if row is None or not self.store.path(run, "checkpoints").exists():
            return None
        network = self.store.network(run)
        trained = train.Trained(run, network)
        found = evaluate.predictions(trained, self.record(run), self.selection(run))
        path = self.store.path(run, "predictions")
        before = read_tensors(path, row["files"]["predictions"]) if path.exists() else {}
        if "selected_test_logits" in before:
            found["selected_test_logits"] = before["selected_test_logits"].numpy()
        metrics = evaluate.measure(found, row["data"]["class_counts"])
        row |= {"metrics": metrics, "evaluation": evaluate.VERSION}
        return self.store.write(run, row, network.state_dict(), found)

    def network(self, run: Run) -> torch.nn.Module:
        """A run's trained network; where it is not stored (any more), the run is done for it alone
        and, where a row was there, compared with that row."""
        before = self.complete([run])[0]
        try:
            return self.store.network(run)
        except (DamagedError, FileNotFoundError) as error:
            log.warning("%s; rebuilding %s", error, run.id)
        if failures := self._carry_out([run]):
            raise FailedRuns("; ".join(failures))
        after = self.store.row(run)
        if after["metrics"] != before["metrics"]:
            was, now = (row["metrics"]["test"]["acc"] for row in (before, after))
            log.warning(
                "%s was rebuilt and differs: test accuracy %.4f, was %.4f", run.id, now, was
            )
        return self.store.network(run)


def _load_given(network: torch.nn.Module, state: dict[str, Any], where: str) -> None:
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


def flags(trained: train.Trained) -> list[str]:
    """What a reader of the table must know: KD that does nothing, KD that is everything."""
    found = []
    for moment, share in trained.kd_share.items():
        if share is None:
            found.append("no label loss")
        elif share < LOW_SHARE:
            found.append(f"KD is off ({moment} epoch)")
        elif share > HIGH_SHARE:
            found.append(f"KD drowns the label loss ({moment} epoch)")
    return sorted(set(found))


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


def peak_memory_mb() -> float:
    """The largest resident size of this process so far."""
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
    return {
        "commit": _git("rev-parse", "HEAD") if own else "unknown",
        "dirty": bool(_git("status", "--porcelain", "--", ".")) if own else None,
        "device": torch.cuda.get_device_name() if device == "cuda" else _cpu(),
        "threads": execution.threads,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "torchvision": _compat.TORCHVISION,
        },
    }


@functools.cache
def _cpu() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {capability}, {os.cpu_count()} cores"
