"""Run a profile: every notebook job that is not up to date, several at once, with Snakemake.

All state lies in the results folder's `.batch`: plan.json (the jobs), done/ (a marker for each
finished job), notebooks/ (as executed), logs/ and snakemake.log. A start after a kill, a crash or
an edit does what is left to do.
"""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from kdlib.config import fingerprint
from kdlib.pipeline import Lab, resolve_device
from kdlib.plan import ROOT, Job, Plan, plan
from kdlib.store import DamagedError, Store, write_atomic

FAILED, BUSY, INTERRUPTED = 1, 75, 130  # 75: EX_TEMPFAIL of sysexits.h; 130: as after Ctrl-C


def run(
    profile: str,
    *,
    out_dir: str | Path | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> int:
    """Do what is left of a profile; the exit code is 0, 1 (some job failed), 75 (busy) or 130.

    out_dir: default results/<profile>. jobs: notebooks at once, default the cores, on a GPU one.
    dry_run: print what would be done. changes: other values of keys of the params files.
    LookupError for an unknown profile, ValueError for wrong params.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    whole = plan(profile, out_dir, **changes or {})
    if jobs is None and any(resolve_device(one.device) == "cuda" for one, _ in whole.parts):
        jobs = 1  # a GPU has one memory for all
    return execute(
        whole.jobs, whole.out_dir, lambda: _stored(whole, dry_run), cores=jobs, dry_run=dry_run
    )


def _stored(whole: Plan, dry_run: bool) -> set[str]:
    """The ids of the runs whose rows verify, a damaged row is named; all others are checked."""
    store, found = Store(whole.out_dir), set()
    for one in whole.runs:
        try:
            if store.row(one) is not None:
                found.add(one.id)
        except DamagedError as error:
            print(f"{error}; the run is done again", file=sys.stderr)
    try:
        for params, runs in whole.parts:
            Lab.of(params, whole.out_dir).check([one for one in runs if one.id not in found])
    except OSError as error:  # the data are not here: enough for a plan, not for training
        if not dry_run:
            raise
        print(f"{error}; what depends on the data is not checked", file=sys.stderr)
    return found


def execute(
    jobs: Sequence[Job],
    out_dir: Path,
    survey: Callable[[], Collection[str]],
    *,
    cores: int | None = None,
    dry_run: bool = False,
    notebooks: Path = ROOT / "notebooks",
) -> int:
    """The same for any jobs. survey: tells the ids of the runs that are stored already."""
    home = out_dir / ".batch"
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "lock", "w") as lock:
        if not _locked(lock):
            print(f"another batch is at work in {out_dir}", file=sys.stderr)
            return BUSY
        stored = survey()
        _write_plan(jobs, home, notebooks, stored)
        progress = Progress(jobs, _pending(home), stored)
        if dry_run:
            print(*map(progress.state, jobs), sep="\n")
        print(f"{_count(len(jobs), 'job')}, to do: {progress.rest()}", flush=True)
        if dry_run:
            return 0
        code = _work(home, cores, lock, progress) if progress.left else 0
    report = out_dir / "report"
    for path in (report / "summary.txt", report / "index.html"):
        if code == 0 and path.exists():
            print(path.read_text(encoding="utf-8").rstrip() if path.suffix == ".txt" else path)
    return code


def _locked(lock: IO[str]) -> bool:
    """Take the lock; a killed batch may hold it until its memory is freed, so wait a moment."""
    for _ in range(10):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
    return False


def _write_plan(jobs: Sequence[Job], home: Path, notebooks: Path, stored: Collection[str]) -> None:
    """Write plan.json, and take the marker from jobs some of whose runs are not stored (any more).

    Rows are guarded by the versions of what made them. Tables and figures are not, and are cheap:
    the key of a job without runs holds the library's source.
    """
    source = fingerprint([path.read_text() for path in sorted((ROOT / "kdlib").rglob("*.py"))])
    entries = []
    for job in jobs:
        key = fingerprint([job.params, job.runs or source])[:16]
        notebook = str(notebooks / f"{job.notebook}.ipynb")
        threads = (job.params.get("extra", {}) | job.params).get("threads", 1)
        entries.append(asdict(job) | {"notebook": notebook, "key": key, "threads": threads})
        if not set(job.runs) <= set(stored):
            (home / "done" / f"{job.name}.json").unlink(missing_ok=True)
    write_atomic(home / "plan.json", json.dumps(entries, indent=1).encode())


def _snakemake(home: Path, *arguments: str) -> dict[str, Any]:
    """Snakemake's command and environment, in which kdlib can be imported, for `subprocess`."""
    workflow = ROOT / "workflow"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(workflow / "Snakefile")]
    command += ["--profile", str(workflow / "profiles" / "local"), "--directory", str(home)]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    data = str(Path(os.environ.get("KDLIB_DATA") or "data").resolve())  # notebooks run elsewhere
    environment = os.environ | {"PYTHONPATH": paths, "KDLIB_DATA": data}
    return {"args": [*command, *arguments], "env": environment}


def _pending(home: Path) -> set[str]:
    """The names of the jobs that are not up to date, by Snakemake's own judgement."""
    summary = _snakemake(home, "--cores", "1", "--summary")
    answer = subprocess.run(**summary, capture_output=True, text=True)
    if answer.returncode:
        raise OSError(f"Snakemake could not read {home / 'plan.json'}:\n{answer.stderr}")
    rows = [line.split("\t") for line in answer.stdout.splitlines()]
    markers = [row[0] for row in rows if row[-1] == "update pending"]
    return {marker.removeprefix("done/").removesuffix(".json") for marker in markers}


def _work(home: Path, cores: int | None, lock: IO[str], progress: "Progress") -> int:
    """Let Snakemake do the pending jobs and print what they tell; the exit code.

    Snakemake inherits the lock: it is held until both are gone, and by nobody once they are,
    however they ended.
    """
    events, seen = home / "events.jsonl", 0
    events.write_text("")
    with open(home / "snakemake.log", "w", encoding="utf-8") as log:
        command = _snakemake(home, "--cores", str(cores or "all"))
        child = subprocess.Popen(**command, stdout=log, stderr=log, pass_fds=[lock.fileno()])
    try:
        ended = False
        while not ended:
            ended = child.poll() is not None
            lines = events.read_text(encoding="utf-8").split("\n")[:-1]  # whole lines only
            for line in lines[seen:]:
                print(progress.line(json.loads(line)), flush=True)
            seen = len(lines)
            time.sleep(0.1)
    except KeyboardInterrupt:  # the terminal sent it to Snakemake and the jobs, too
        child.wait()
        print("interrupted; start again to go on", file=sys.stderr)
        return INTERRUPTED
    if child.returncode:
        print(progress.failures(home), file=sys.stderr)
        return FAILED
    return 0


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


class Progress:
    """What is done, what is left and what went wrong, in words."""

    def __init__(self, jobs: Sequence[Job], pending: Collection[str], stored: Collection[str]):
        self.total, self.since = len(jobs), time.monotonic()
        self.runs = {job.name: len(set(job.runs) - set(stored)) for job in jobs}
        self.left = {job.name: None for job in jobs if job.name in pending}  # in order
        self.started: dict[str, str] = {}  # name -> its error, should it fall silent
        self.errors: dict[str, str] = {}
        self.runs_done = 0

    def state(self, job: Job) -> str:
        """A job's line of the dry run."""
        return f"{'to do' if job.name in self.left else 'done '}  {self._title(job.name)}"

    def rest(self) -> str:
        """What is left: jobs, runs and, once some runs are done, the time they will take."""
        runs = sum(self.runs[name] for name in self.left)
        parts = [_count(len(self.left), "job")] + [_count(runs, "run")] * bool(runs)
        if runs and self.runs_done:
            pace = (time.monotonic() - self.since) / self.runs_done
            parts.append(f"about {_duration(pace * runs)}")
        return ", ".join(parts) if self.left else "nothing"

    def line(self, event: dict[str, Any]) -> str:
        """Take note of what a job tells (`kdlib.runnb.tell`); the line to print."""
        name = event["job"]
        if event["event"] == "start":
            self.started[name] = "its process died (out of memory?)"
            return f"{self._position()} {self._title(name)} ..."
        self.left.pop(name, None)
        self.started.pop(name, None)
        took = _duration(event["seconds"])
        if event["event"] == "failed":
            self.errors[name] = event["error"]
            return f"{self._position()} {name}  FAILED after {took}"
        self.runs_done += self.runs[name]
        return f"{self._position()} {self._title(name)} in {took}   left: {self.rest()}"

    def failures(self, home: Path) -> str:
        """Each failed job with its notebook and error; Snakemake's own words where none did."""
        failed = self.errors | self.started
        if not failed:
            return (home / "snakemake.log").read_text(encoding="utf-8")[-2000:]
        lines = [f"{_count(len(failed), 'job')} failed:"]
        for name, error in failed.items():
            lines += [f"  {name}: {error}", f"    {home / 'notebooks' / name}.ipynb"]
        waiting = [name for name in self.left if name not in failed]
        lines += [f"  {name}: not started, it needs a failed one" for name in waiting]
        return "\n".join(lines)

    def _title(self, name: str) -> str:
        return f"{name}  {_count(self.runs[name], 'run')}" if self.runs[name] else name

    def _position(self) -> str:
        done = self.total - len(self.left) - len(self.errors)
        return f"[{done:{len(str(self.total))}}/{self.total}]"
