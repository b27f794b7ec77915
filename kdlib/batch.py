"""Run a profile: every notebook job that is not up to date, several at once, with Snakemake.

All state lies in the results folder's `.batch`: plan.json (the jobs), done/ (a marker for each
finished job), notebooks/ (as executed), logs/ and snakemake.log. A start after a kill, a crash or
an edit does what is left to do.
"""

import contextlib
import functools
import glob
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from kdlib import estimate, interrupt, lock, runnb
from kdlib.config import fingerprint
from kdlib.device import resolve_device
from kdlib.files import write_atomic
from kdlib.plan import ROOT, Job, Plan, plan
from kdlib.registry import suggest
from kdlib.store import REASONS
from kdlib.survey import Survey, closing_words, stored_rows, survey

FAILED, INTERRUPTED = 1, 130  # 130: as after Ctrl-C
FULL = 2**20  # bytes: a disk with less is full
PROFILES = ROOT / "workflow" / "profiles"


def run(
    profile: str,
    *,
    out_dir: str | Path | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
    changes: Mapping[str, Any] | None = None,
    notebooks: Sequence[str] = (),
    workflow_profile: str = "local",
    held: IO[str] | None = None,
) -> int:
    """Do what is left of a profile; the exit code is 0, 1 (some job failed), 75 (busy) or 130.

    out_dir: default results/<profile>. jobs: notebooks at once, default the cores, on a GPU one.
    dry_run: print what would be done, with an estimate of time and memory. changes: other values of
    keys of the params files. notebooks: the only ones to run. workflow_profile: where jobs run, a
    folder of workflow/profiles or one of your own. held: the lock of out_dir, where the caller has
    taken it (`kdlib.lock.take`).
    LookupError for an unknown profile, ValueError for wrong params.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    whole = plan(profile, out_dir, notebooks, **changes or {})
    settings = workflow_folder(workflow_profile)
    remote = settings != PROFILES / "local"
    devices = {resolve_device(part.params.device) for part in whole.parts if not remote}
    if "cuda" in devices:
        jobs = jobs or 1  # a GPU has one memory for all
    threads = max((job.threads for job in whole.jobs), default=1)
    at_once = jobs or max(1, (os.cpu_count() or 1) // threads)
    seen = Survey({}, {})

    def look() -> Collection[str]:
        nonlocal seen
        if not (dry_run or notebooks):  # the lock is held here
            _drop_sections(whole)
        print(f"{whole.profile}: checking what is asked for and what is stored", flush=True)
        seen = survey(whole, dry_run=dry_run, check_on="cpu" if remote else None)
        return seen.stored

    def foresee(left: Collection[str]) -> str:
        return estimate.table(whole, left, seen.stored, at_once)

    code = execute(
        whole.jobs, whole.out_dir, look, settings=settings, held=held,
        cores=jobs and (jobs if remote else jobs * threads),
        foresee=foresee if dry_run else None, conclude=functools.partial(_draw, whole),
    )  # fmt: skip
    if not dry_run:
        for line in closing_words(whole, seen):
            print(line, file=sys.stderr)
    return code


def _drop_sections(whole: Plan) -> None:
    """Take sections of settings that the profile no longer has off the page."""
    has, stems = {part.key for part in whole.parts}, {part.stem for part in whole.parts}
    found = [path.parent for path in whole.out_dir.glob("[0-9]*/**/summary.txt")]
    there = [folder.relative_to(whole.out_dir).as_posix() for folder in found]
    if gone := [key for key in there if key not in has and key.partition("/")[0] in stems]:
        from kdlib.report import compose  # seconds, and seldom needed

        compose.drop(whole.out_dir, gone)
        print(f"off the page, of no setting of params/{whole.profile}: {', '.join(gone)}",
              file=sys.stderr)  # fmt: skip


def _draw(whole: Plan, names: Collection[str]) -> None:
    """Draw the sections of analyses that were not started from the rows there are, marked as
    incomplete. Their jobs lose their markers: once the rows are there they run."""
    from kdlib import report  # seconds, and seldom needed

    parts = {part.key: part for part in whole.parts}
    rows = stored_rows(whole)
    for name in names:
        stem, params, _ = parts[name]
        if writer := report.of(stem):
            (whole.out_dir / ".batch" / "done" / f"{name}.json").unlink(missing_ok=True)
            try:
                page = writer.write(rows, params, whole.out_dir)
                print(f"{name}: incomplete, see {page}", file=sys.stderr)
            except (ValueError, OSError) as error:  # nothing of it is there, or no disk
                print(f"{name}: not drawn, {error}", file=sys.stderr)


def workflow_folder(name: str) -> Path:
    """The folder of a Snakemake profile: one of workflow/profiles, or a path of your own.

    LookupError where it has no config.yaml."""
    known = {path.parent.name: path.parent for path in PROFILES.glob("*/config.yaml")}
    folder = known.get(name, Path(name).resolve())
    if not (folder / "config.yaml").is_file():
        hint = suggest(name, known)
        raise LookupError(f"unknown workflow profile {name!r} (no config.yaml), {hint}")
    return folder


def execute(
    jobs: Sequence[Job],
    out_dir: Path,
    look: Callable[[], Collection[str]],
    *,
    cores: int | None = None,
    settings: Path = PROFILES / "local",
    notebooks: Path = ROOT / "notebooks",
    held: IO[str] | None = None,
    foresee: Callable[[Collection[str]], str] | None = None,
    conclude: Callable[[Collection[str]], None] | None = None,
) -> int:
    """Let Snakemake do what is left of these jobs; the exit code, as of `run`. look: tells the ids
    of the runs that are stored already. cores: for all jobs at once, of a cluster the jobs.
    foresee: what it says about the names of the jobs that are left is printed, nothing is started.
    conclude: called with the names of the jobs without runs that wait, for others failed.
    """
    lock_file = held or lock.take(out_dir)
    if lock_file is None:
        return lock.BUSY
    with lock_file:
        home = out_dir / ".batch"
        stored = look()
        _write_plan(jobs, home, notebooks, stored)
        progress = Progress(jobs, _pending(home), stored)
        if foresee:
            print(*map(progress.state, jobs), sep="\n")
        print(f"{_count(len(jobs), 'job')}, to do: {progress.rest()}", flush=True)
        if foresee:
            print(foresee(progress.left), end="")
            return 0
        code = _work(home, settings, cores, lock_file, progress) if progress.left else 0
        if conclude and code == FAILED:
            waiting = progress.left.keys() - progress.failed
            conclude([job.name for job in jobs if job.name in waiting and not job.runs])
    page = out_dir / "report"
    for path in (page / "summary.txt", page / "index.html"):
        if code == 0 and path.exists():
            print(path.read_text(encoding="utf-8").rstrip() if path.suffix == ".txt" else path)
    return code


def _write_plan(jobs: Sequence[Job], home: Path, notebooks: Path, stored: Collection[str]) -> None:
    """Write plan.json, and bring the markers in line with what is stored: a job some of whose runs
    are not stored (any more), or whose tables and figures are not those it left, has none; a job
    all of whose runs are stored (a fresh clone) needs no kernel to find that out.

    Of the jobs that can start, the first does. The key of a job is its runs: their ids hold what
    changes numbers, and rows are guarded by the versions of what made them. Tables and figures are
    not, and are cheap: the key of a job without runs is its params, the library's source and what
    else it reads.
    """
    source = fingerprint([path.read_text() for path in sorted((ROOT / "kdlib").rglob("*.py"))])
    rows, entries = runnb.row_files(home), []
    for place, job in enumerate(jobs):
        key = fingerprint(job.runs or [job.params, source, _contents(job.reads)])[:16]
        notebook = str(notebooks / f"{job.notebook}.ipynb")
        needed = {"threads": job.threads, "gpu": int(job.settings.get("device") == "cuda")}
        own = {"notebook": notebook, "key": key, "priority": len(jobs) - place}
        entries.append(asdict(job) | own | needed)
        marker = home / "done" / f"{job.name}.json"
        same = runnb.marked(marker) == runnb.results(home, entries[-1], rows)
        if not set(job.runs) <= set(stored) or not (job.runs or same):
            marker.unlink(missing_ok=True)
        elif not same:
            runnb.mark(home, entries[-1], rows, runnb.sha256(Path(notebook)))
    write_atomic(home / "plan.json", json.dumps(entries, indent=1).encode())


def _contents(patterns: Sequence[str]) -> dict[str, str]:
    """File -> its sha256, of all that match."""
    found = {path for pattern in patterns for path in glob.glob(pattern, recursive=True)}
    return {path: runnb.sha256(Path(path)) for path in sorted(found)}


def _snakemake(home: Path, settings: Path, *arguments: str) -> dict[str, Any]:
    """Snakemake's command and environment, in which kdlib can be imported, for `subprocess`."""
    snakefile = ROOT / "workflow" / "Snakefile"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile)]
    command += ["--profile", str(settings), "--directory", str(home)]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    data = str(Path(os.environ.get("KDLIB_DATA") or "data").resolve())  # notebooks run elsewhere
    environment = os.environ | {"PYTHONPATH": paths, "KDLIB_DATA": data}
    return {"args": [*command, *arguments], "env": environment}


def _pending(home: Path) -> set[str]:
    """The names of the jobs that are not up to date, by Snakemake's own judgement."""
    summary = _snakemake(home, PROFILES / "local", "--cores", "1", "--summary")
    answer = subprocess.run(**summary, capture_output=True, text=True)
    if answer.returncode:
        raise OSError(f"Snakemake could not read {home / 'plan.json'}:\n{answer.stderr}")
    rows = [line.split("\t") for line in answer.stdout.splitlines()]
    markers = [row[0] for row in rows if row[-1] == "update pending"]
    return {marker.removeprefix("done/").removesuffix(".json") for marker in markers}


def _work(
    home: Path, settings: Path, cores: int | None, held: IO[str], progress: "Progress"
) -> int:
    """Let Snakemake do the pending jobs and print what they tell; the exit code.

    Snakemake inherits the lock: it is held until both are gone, and by nobody once they are,
    however they ended.
    """
    events, seen, reasons = home / "events.jsonl", 0, home.parent / REASONS
    events.write_text("")
    reasons.unlink(missing_ok=True)
    with open(home / "snakemake.log", "w", encoding="utf-8") as log:
        limit = ("--cores", str(cores or "all"))
        if settings != PROFILES / "local":
            limit = ("--jobs", str(cores)) if cores else ()  # else as its profile says
        command = _snakemake(home, settings, *limit)
        child = subprocess.Popen(**command, stdout=log, stderr=log, pass_fds=[held.fileno()])
    try:
        ended = False
        while not ended:
            ended = child.poll() is not None
            lines = events.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
            for line in lines[seen:]:
                with contextlib.suppress(ValueError):  # two nodes may write into one another
                    print(progress.line(json.loads(line)), flush=True)
            seen = len(lines)
            time.sleep(0.1)
    except KeyboardInterrupt:
        interrupt.end(child, home / "snakemake.log")
        print("interrupted; start again to go on", file=sys.stderr)
        return INTERRUPTED
    if child.returncode:
        print(progress.failures(home), file=sys.stderr)
        with contextlib.suppress(OSError):  # the disk may be full, as was said
            write_atomic(reasons, json.dumps(progress.reasons(), indent=1).encode())
        return FAILED
    return 0


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


class Progress:
    """What is done, what is left and what went wrong, in words."""

    def __init__(self, jobs: Sequence[Job], pending: Collection[str], stored: Collection[str]):
        self.jobs, self.total, self.since = jobs, len(jobs), time.monotonic()
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
            parts.append(f"about {estimate.duration(pace * runs)}")
        return ", ".join(parts) if self.left else "nothing"

    def line(self, event: dict[str, Any]) -> str:
        """Take note of what a job tells (`kdlib.runnb.tell`); the line to print."""
        name = event["job"]
        if event["event"] == "start":
            self.errors.pop(name, None)  # on a cluster, a failed job is tried again
            self.left[name] = None
            self.started[name] = "its process died (out of memory?)"
            return f"{self._position()} {self._title(name)} ..."
        self.left.pop(name, None)
        self.started.pop(name, None)
        took = estimate.duration(event["seconds"])
        if event["event"] == "failed":
            self.errors[name] = event["error"]
            return f"{self._position()} {name}  FAILED after {took}"
        self.runs_done += self.runs[name]
        return f"{self._position()} {self._title(name)} in {took}   left: {self.rest()}"

    @property
    def failed(self) -> dict[str, str]:
        """Job -> its error."""
        return self.errors | self.started

    def reasons(self) -> dict[str, str]:
        """Why the runs of this start that have no row have none, by run id."""
        found = {}
        for job in self.jobs:
            why = self.failed.get(job.name)
            if why is None and job.name in self.left:
                needed = [need for need in job.needs if need in self.failed or need in self.left]
                why = f"not started{', it needs ' * bool(needed)}{', '.join(needed)}"
            if why is not None:
                found |= dict.fromkeys(job.runs, f"{job.name}: {why}")
        return found

    def failures(self, home: Path) -> str:
        """Each failed job with its notebook and error; Snakemake's own words where none did."""
        failed = self.failed
        lines = [f"{_count(len(failed), 'job')} failed:"]
        if not failed:
            lines = [(home / "snakemake.log").read_text(encoding="utf-8")[-2000:]]
        for name, error in failed.items():
            lines += [f"  {name}: {error}", f"    {home / 'notebooks' / name}.ipynb"]
        waiting = [name for name in self.left if failed and name not in failed]
        lines += [f"  {name}: not started, it needs a failed one" for name in waiting]
        if shutil.disk_usage(home).free < FULL:
            lines.append(f"  no space is left on the disk of {home.parent}")
        return "\n".join(lines)

    def _title(self, name: str) -> str:
        return f"{name}  {_count(self.runs[name], 'run')}" if self.runs[name] else name

    def _position(self) -> str:
        done = self.total - len(self.left) - len(self.errors)
        return f"[{done:{len(str(self.total))}}/{self.total}]"
