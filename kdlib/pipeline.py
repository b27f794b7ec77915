"""From runs to rows: whatever is not stored yet is trained, evaluated and stored, teachers first.

Notebooks, batch jobs and tests all go through `Lab.complete`, so a notebook that runs alone trains
what it lacks, and a batch job that is started again does only what is left.
"""

import functools
import logging
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from kdlib import cautions, evaluate, given, objectives, train
from kdlib.augment import check_transform
from kdlib.config import Execution, Run, StudyParams, by_stream, cohort_size
from kdlib.data import ImageSet, Selection, at_hand, image_selection, image_set
from kdlib.device import check_precision, set_up_device
from kdlib.provenance import data_facts, peak_memory_mb, provenance
from kdlib.store import DamagedError, Row, Store, read_tensors

Standing = tuple[Run, train.Progress | None]

log = logging.getLogger("kdlib")


class FailedRuns(RuntimeError):
    """Some runs did not end well; all others are stored."""


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
        self.device = set_up_device(self.execution.device, self.execution.deterministic)
        self.data_dir, self.trust_data = data_dir, trust_data
        self._views: dict[tuple, evaluate.TeacherViews] = {}  # of the last teachers pooled

    @classmethod
    def of(cls, params: StudyParams, out_dir: str | Path = "") -> "Lab":
        """The lab of a params file or a notebook; without `out_dir`, in a temporary folder, one for
        all labs of a process."""
        values = {key: getattr(params, key) for key in Execution.model_fields}
        return cls(out_dir or _temporary(), Execution(**values), params.data_dir, params.trust_data)

    def record(self, run: Run) -> ImageSet:
        """The data set of a run: the classes it knows, where it says which."""
        return image_set(run.data, self.data_dir, run.image_size, self.trust_data, run.classes)

    def selection(self, run: Run) -> Selection:
        """The images of it that a run trains and validates on: a function of its seed."""
        key = (run.imbalance_factor, run.val_fraction, run.seed, run.classes)
        return image_selection(run.data, self.data_dir, run.image_size, self.trust_data, *key)

    def check(self, runs: Collection[Run]) -> None:
        """Refuse what cannot work, by name, before anything is trained."""
        for run in runs:
            record, selection = self.record(run), self.selection(run)
            labels = torch.from_numpy(record.train_labels[selection.train_indices])
            counts = torch.as_tensor(selection.class_counts)
            objectives.check(run, record, labels, counts)
            if run.augment.transform:
                check_transform(run.augment.transform, record.in_channels, record.image_size)
            check_precision(run.precision, self.device)
            if self.execution.cuda_graphs and run.recipe:
                train.check_replay(run, record, self.device)
            if run.kind == "given":
                given.network(run, self.record(run))
            if run.pretrained:  # they may have to be fetched
                train.build_network(run, record)
            cautions.warn(run, record)

    def stored(self, run: Run) -> Row | None:
        """A run's row if it is valid: whole, made by the versions of today and, where data lie here
        under their name, with these. The log says why a row is not."""
        row = self.store.whole_row(run)
        if row is None or not at_hand(run.data, self.data_dir):
            return row
        if row["data"] == data_facts(self.record(run), self.selection(run)):
            return row
        log.warning("%s was made with other data under the name %r; done again", run.id, run.data)
        return None

    def current(self, run: Run) -> Row | None:
        """The stored row of a run, measured by today's evaluation, which may take its predictions
        or else its checkpoint, never a training. The log says where neither is there."""
        row = self.stored(run)
        if row is None or row["evaluation"] == evaluate.VERSION:
            return row
        if predictions := self._stored_predictions(run, row):
            row |= evaluate.from_predictions(predictions, row["data"]["class_counts"], run.classes)
            self.store.write_row(run, row)
            return row
        if again := self.evaluate(run):
            return again
        log.warning("%s stays at evaluation %s: no predictions, no checkpoint", run.id,
                    row["evaluation"])  # fmt: skip
        return row

    def complete(self, runs: Sequence[Run]) -> list[Row]:
        """The rows of all runs, in order; those that have no valid one are carried out first.

        FailedRuns names the runs that went wrong, after all others are stored.
        """
        left = {run.id: run for run in runs if self.stored(run) is None}
        if failures := self._carry_out(left.values()):
            raise FailedRuns("; ".join(failures))
        return [self.current(run) for run in runs]

    def _carry_out(self, runs: Collection[Run]) -> list[str]:
        """Train (or measure, where a network was given or teachers are pooled) and store; what went
        wrong, in words."""
        self.check(runs)
        failures: list[str] = []
        for run in runs:
            if run.kind == "given":
                with _noted(failures, run):
                    self._store(train.Trained(run, given.network(run, self.record(run))))
        for stream in by_stream(run for run in runs if run.kind == "trained"):
            for cohort in self._cohorts(stream, cohort_size(stream[0], self.execution.cohort_size)):
                with _noted(failures):
                    self._train(cohort, failures)
        for run in runs:
            if run.kind == "ensemble":  # last: its teachers may be among the others
                with _noted(failures, run):
                    self._store(train.Trained(run, torch.nn.Module()))
        return failures

    def _cohorts(self, stream: Sequence[Run], size: int) -> list[list[Standing]]:
        """At most `size` runs side by side each, which stand after the same epoch."""
        standing: dict[int, list[Standing]] = {}
        for run in stream:
            progress = self._progress(run)
            epoch = progress.facts["epoch"] if progress else 0
            standing.setdefault(epoch, []).append((run, progress))
        return [
            group[start : start + size]
            for group in standing.values()
            for start in range(0, len(group), size)
        ]

    def _progress(self, run: Run) -> train.Progress | None:
        """Where an interrupted run stands; what is damaged or of other data counts as nothing."""
        try:
            progress = self.store.progress(run)
        except DamagedError as error:
            log.warning("%s; the run starts anew", error)
            return None
        facts = data_facts(self.record(run), self.selection(run))
        return progress if progress and progress.facts["data"] == facts else None

    def _train(self, cohort: Sequence[Standing], failures: list[str]) -> None:
        runs, resume = [run for run, _ in cohort], [found for _, found in cohort if found]
        record, selection = self.record(runs[0]), self.selection(runs[0])
        teachers = [self.network(teacher) for teacher in runs[0].teachers]
        start = f" after epoch {resume[0].facts['epoch']}" if resume else ""
        log.info("training %d network(s)%s, %s ...", len(runs), start, runs[0].id)

        def keep(run: Run, progress: train.Progress) -> None:
            facts = progress.facts | {"data": data_facts(record, selection)}
            self.store.write_progress(run, train.Progress(progress.tensors, facts))

        trained = train.fit(
            runs, record, selection, teachers, self.device, self.execution.threads,
            resume=resume, keep=keep, keep_seconds=self.execution.checkpoint_seconds,
            cuda_graphs=self.execution.cuda_graphs,
        )  # fmt: skip
        for one in trained:
            with _noted(failures, one.run):
                if one.failure:
                    raise ValueError(one.failure)
                self._store(one)

    def _store(self, trained: train.Trained) -> Row:
        run, record, selection = trained.run, self.record(trained.run), self.selection(trained.run)
        found = self._predictions(trained)
        taught_by = [self.store.row(teacher) for teacher in run.teachers]
        row = {
            "labels": run.labels,
            "run": run.identity(),
            "classes": list(record.classes),
            "network": None if run.kind == "ensemble" else train.network_shape(run, record),
            **evaluate.from_predictions(found, list(selection.class_counts), run.classes),
            "history": trained.history,
            "selected_epoch": trained.selected_epoch,
            "kd_share": trained.kd_share,
            "weights": trained.weights,
            "teacher_views": trained.teacher_views,
            "flags": cautions.flags(trained, taught_by),
            "teachers": {one["id"]: one["files"]["checkpoints"] for one in taught_by},
            "data": data_facts(record, selection),
            "provenance": provenance(self.device, self.execution),
        }
        timing = {"seconds": trained.seconds, "peak_memory_mb": peak_memory_mb(self.device)}
        self.store.write_json(run, "timings", {"id": run.id, **timing})
        return self.store.write(run, row, trained.network.state_dict(), found)

    def _predictions(
        self, trained: train.Trained, before: evaluate.Predictions | None = None
    ) -> evaluate.Predictions:
        """before: those of a run that is measured again, without training: what its teachers say is
        taken from there, their networks from the store. FileNotFoundError or DamagedError where
        these have it not."""
        run = trained.run
        data = self.record(run), self.selection(run)
        if run.kind == "ensemble":
            network = self.network if before is None else self.store.network
            return evaluate.pooled_predictions(run, self._teacher_views(run, network), *data)
        found = evaluate.predictions(trained, *data)
        if len(run.teachers) > 1 and all(one.classes == run.classes for one in run.teachers):
            if before is None:
                theirs = [self.predictions(teacher)["test_logits"] for teacher in run.teachers]
                found[evaluate.TEACHERS_LOGITS] = np.stack(theirs)
            elif evaluate.TEACHERS_LOGITS in before:
                found[evaluate.TEACHERS_LOGITS] = before[evaluate.TEACHERS_LOGITS]
            else:
                raise FileNotFoundError(f"what the teachers of {run.id} say is not stored")
        return found

    def _teacher_views(
        self, run: Run, network: Callable[[Run], torch.nn.Module]
    ) -> evaluate.TeacherViews:
        """Its teachers' logits on its images, kept: ensembles differ in how they pool them."""
        asked = (run.classes, run.seed, *(teacher.id for teacher in run.teachers))
        if asked not in self._views:
            networks = [network(teacher) for teacher in run.teachers]
            data = self.record(run), self.selection(run)
            self._views = {asked: evaluate.teacher_views(networks, *data, run.seed)}
        return self._views[asked]

    def predictions(self, run: Run) -> dict[str, np.ndarray]:
        """What a run says of its images, by name: `test_logits` (N, K) float16 and `test_labels`,
        those of validation where it has any, ...; stored ones, or predicted once more. A run that
        is not done is done first."""
        stored = self._stored_predictions(run, self.complete([run])[0])
        return stored or self._predictions(train.Trained(run, self.network(run)))

    def _stored_predictions(self, run: Run, row: Row) -> dict[str, np.ndarray]:
        """Those of a run's file, none where it is not there or damaged, which the log says."""
        path = self.store.path(run, "predictions")
        if not path.exists():
            return {}
        try:
            stored = read_tensors(path, row["files"]["predictions"])
        except DamagedError as error:
            log.warning("%s; predicted once more", error)
            return {}
        return {name: tensor.numpy() for name, tensor in stored.items()}

    def evaluate(self, run: Run) -> Row | None:
        """Measure a done run again from its checkpoint, without training; None where it is not
        done, or what that takes is not stored whole, which the log says. What only training can
        tell stays: the history, and the predictions of the selected epoch.
        """
        row = self.stored(run)
        if row is None or not self.store.path(run, "checkpoints").exists():
            return None
        before = self._stored_predictions(run, row)
        try:
            network = torch.nn.Module() if run.kind == "ensemble" else self.store.network(run)
            found = self._predictions(train.Trained(run, network), before)
        except (DamagedError, FileNotFoundError) as error:
            log.warning("%s; not measured again", error)
            return None
        if "selected_test_logits" in before:
            found["selected_test_logits"] = before["selected_test_logits"]
        row |= evaluate.from_predictions(found, row["data"]["class_counts"], run.classes)
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


@functools.cache
def _temporary() -> str:
    folder = tempfile.mkdtemp(prefix="kdlib-")
    log.info("results in %s, which is temporary: out_dir keeps them elsewhere", folder)
    return folder


@contextmanager
def _noted(failures: list[str], run: Run | None = None) -> Iterator[None]:
    """Note what goes wrong with a run, and go on with the others; a failure of its teachers names
    them. Without a run a ValueError is nobody's own and goes through."""
    try:
        yield
    except FailedRuns as error:
        failures.append(str(error))
    except ValueError as error:
        if run is None:
            raise
        failures.append(f"{run.id}: {error}")
