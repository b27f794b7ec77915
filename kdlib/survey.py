"""What a results folder holds before a batch starts: done, damaged, or of an old evaluation."""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kdlib import evaluate
from kdlib.config import Run, StudyParams
from kdlib.data import UnknownSetError
from kdlib.pipeline import Lab
from kdlib.plan import Plan
from kdlib.runnb import sha256
from kdlib.store import DamagedError, Row, Store
from kdlib.verify import mixtures

LITTER_SECONDS = 3600
Labs = Sequence[tuple[Lab, Sequence[Run]]]  # a part's lab and its runs

log = logging.getLogger("kdlib")


class Survey(NamedTuple):
    """Rows by run id: `stored`, those that are valid, and `lost`, whole ones whose run is done
    again because another of its files is damaged, or not there and needed."""

    stored: dict[str, Row]
    lost: dict[str, Row]


def survey(whole: Plan, *, dry_run: bool = False, check_on: str | None = None) -> Survey:
    """What is stored of a plan's runs; every other run is checked.

    A damaged file is named and never read. Where a row stays whole but the run's checkpoint or
    predictions do not, both go, and the run is done again; a damaged progress goes, and the run
    starts anew; a damaged timing goes, and nothing brings it back. So does the row of a teacher
    without a checkpoint that a run which is left learns from: its own job makes it again, once for
    all that wait for it. A row of an older evaluation is measured again, one of other data than lie
    here counts as none. dry_run: change nothing. check_on: the device to check for where jobs run
    elsewhere.
    """
    store, found, lost = Store(whole.out_dir), {}, {}
    if not dry_run:
        _sweep(whole.out_dir)
    labs = [(_lab(params, whole.out_dir, check_on), runs) for _, params, runs in whole.parts]
    for run, lab in {run.id: (run, lab) for lab, runs in labs for run in runs}.values():
        row = lab.stored(run)
        damaged = [] if row is None else _damaged(store, run, row)
        for path in damaged:
            log.warning("%s is damaged: its row states another sha256; the run is done again", path)
        if row is not None:
            (lost if damaged else found)[run.id] = row
        gone = [store.path(run, "rows"), *damaged] if damaged else []
        gone += _spoilt(store, run)
        for path in [] if dry_run else gone:
            path.unlink()
    for teacher in _networks_to_make(whole, store, found):
        lost[teacher.id] = found.pop(teacher.id)
        if not dry_run:
            store.path(teacher, "rows").unlink()
    _check(labs, found, dry_run)
    if not dry_run:
        _measure_again(labs, found)
    return Survey(found, lost)


def closing_words(whole: Plan, earlier: Survey) -> list[str]:
    """After a batch: runs that were done again, for a file of theirs was damaged or not there, and
    came out otherwise than their row had said; and what its rows do not have in common."""
    rows = {row["id"]: row for row in stored_rows(whole)}
    differing = [
        f"{run} was done again and differs: test accuracy {rows[run]['metrics']['test']['acc']:.4f}"
        f", was {before['metrics']['test']['acc']:.4f}"
        for run, before in (earlier.stored | earlier.lost).items()
        if run in rows and rows[run]["metrics"] != before["metrics"]
    ]
    return differing + mixtures(list(rows.values()))


def stored_rows(whole: Plan) -> list[Row]:
    """The valid rows of a plan's runs; a damaged one is named."""
    store = Store(whole.out_dir)
    return [row for run in whole.runs if (row := store.whole_row(run)) is not None]


def _lab(params: StudyParams, out_dir: Path, device: str | None) -> Lab:
    elsewhere = {"device": device, "cuda_graphs": False} if device else {}
    return Lab.of(params.model_copy(update=elsewhere), out_dir)


def _damaged(store: Store, run: Run, row: Row) -> list[Path]:
    """The files of a run that are there, but not as its row states."""
    stated = {store.path(run, kind): digest for kind, digest in row["files"].items()}
    return [path for path, digest in stated.items() if path.exists() and sha256(path) != digest]


def _networks_to_make(whole: Plan, store: Store, found: Mapping[str, Row]) -> list[Run]:
    """Teachers with a row and no checkpoint, of runs that are left, theirs included."""
    left, made = [run for run in whole.runs if run.id not in found], {}
    while left:
        for teacher in left.pop().teachers:
            there = store.path(teacher, "checkpoints").exists()
            if teacher.id in found and teacher.id not in made and not there:
                log.warning("%s has no checkpoint, and runs that are left need it", teacher.id)
                made[teacher.id] = teacher
                left.append(teacher)
    return list(made.values())


def _spoilt(store: Store, run: Run) -> Iterator[Path]:
    """What is damaged and not worth a run: where it stands, how long it took. Each is named."""
    try:
        store.progress(run)
    except DamagedError as error:
        log.warning("%s; the run starts anew", error)
        yield store.path(run, "progress")
    timing = store.path(run, "timings")
    try:
        json.loads(timing.read_bytes())
    except FileNotFoundError:
        pass
    except ValueError:
        log.warning("%s is damaged: it is no JSON; how long the run took is lost", timing)
        yield timing


def _check(labs: Labs, found: Mapping[str, Row], dry_run: bool) -> None:
    """Refuse what cannot work of the runs that are left; data that are not here do not keep
    anybody from planning."""
    missing = {}
    for lab, runs in labs:
        try:
            lab.check([run for run in runs if run.id not in found])
        except (OSError, UnknownSetError) as error:
            if not dry_run:
                raise
            missing[f"{error}; what depends on the data is not checked"] = None
    for line in missing:
        log.warning(line)


def _measure_again(labs: Labs, found: dict[str, Row]) -> None:
    """Bring rows up to today's evaluation, as far as their files allow."""
    done = 0
    for lab, runs in labs:
        for run in runs:
            if run.id in found and found[run.id]["evaluation"] != evaluate.VERSION:
                found[run.id] = lab.current(run)
                done += found[run.id]["evaluation"] == evaluate.VERSION
    if done:
        print(f"{done} rows of an older evaluation were measured again", flush=True)


def _sweep(out_dir: Path) -> None:
    """Remove what killed writers left behind; a young one may belong to a writer that lives."""
    for path in out_dir.rglob(".*.partial"):
        if time.time() - path.stat().st_mtime > LITTER_SECONDS:
            path.unlink(missing_ok=True)
