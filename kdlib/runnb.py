"""Run one job of a batch: its notebook, through papermill, in a kernel of this interpreter.

``python -P kdlib/runnb.py JOB``, in the folder that holds the batch's plan.json: Snakemake does it
for every job, so nothing of kdlib (torch) is imported.
"""

import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def tell(job: str, event: str, **facts: Any) -> None:
    """Append a line for the batch to print: the event is "start", "done" or "failed"."""
    with open("events.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"job": job, "event": event, **facts}) + "\n")


def row_files(home: Path) -> dict[str, Path]:
    """Run id -> its row's file, of all that lie in the results folder of `home`."""
    return {path.stem: path for path in home.absolute().parent.rglob("rows/*.json")}


def mark(home: Path, job: dict[str, Any], rows: dict[str, Path], notebook: str) -> None:
    """Leave the marker of a finished job in `home`/done; `notebook` is the sha256 of what was run.

    It is a function of what was run and of what came of it: a repetition with the same results
    does not make the jobs that need this one run again, other results do.
    """
    marker = {
        "name": job["name"],
        "key": job["key"],
        "results": results(home, job, rows),
        "notebook": notebook,
    }
    partial = home / "done" / f"{job['name']}.partial"
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, partial.with_suffix(".json"))


def results(home: Path, job: dict[str, Any], rows: dict[str, Path]) -> dict[str, str]:
    """What there is of a job's results: run id or file name -> sha256. Those of a job with runs
    are their rows, those of an analysis the tables and figures in the folder of its name."""
    if job["runs"]:
        return {run: sha256(rows[run]) for run in job["runs"] if run in rows}
    folder = home.absolute().parent / job["name"]
    files = [*folder.glob("*"), *folder.glob("figures/*")]
    files = sorted(path for path in files if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def marked(marker: Path) -> dict[str, str] | None:
    """The results that a marker was left with, None where there is no marker."""
    if not marker.exists():
        return None
    return json.loads(marker.read_text(encoding="utf-8")).get("results")


def sha256(path: Path) -> str:
    """Of a file's content, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def execute(notebook: str, executed: Path, params: dict[str, Any], threads: int) -> None:
    """Execute `notebook` with `params`; `executed` is saved cell by cell, errors and all.

    LookupError for a parameter that the notebook's tagged cell lacks: papermill would only log it.
    """
    sys.modules["rfc3987_syntax"] = None  # jsonschema's URI grammar, unused: 1 s of every job
    import papermill
    from nbclient.exceptions import DeadKernelError

    known = papermill.inspect_notebook(notebook)
    for name in params.keys() - known:
        from kdlib.registry import suggest

        raise LookupError(f"{Path(notebook).name} has no {name!r}, {suggest(name, known)}")
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = str(threads)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # `python3` is the kernel of this interpreter
    executed.parent.mkdir(parents=True, exist_ok=True)
    for attempt in (1, 2):
        try:
            # Sockets in a folder of their own: parallel kernels race for ports, or for names.
            with tempfile.TemporaryDirectory(prefix="kdlib-") as sockets:
                papermill.execute_notebook(
                    notebook, str(executed.absolute()), params, **_settings(sockets)
                )
            return
        except RuntimeError as error:  # the kernel never answered, or died: worth one more try
            if attempt == 2 and isinstance(error, DeadKernelError):
                raise DeadKernelError("the kernel died twice (out of memory?)") from error
            if attempt == 2:
                raise
            print(f"the kernel died, starting it once more: {error}", file=sys.stderr)


def _settings(sockets: str) -> dict[str, Any]:
    """Papermill's, for a kernel whose sockets lie in a folder."""
    from traitlets.config import Config

    # A kernel is interrupted at its end, and would report that as an error.
    quiet = {"extra_arguments": ["--IPKernelApp.log_level=50"]}
    ipc = {"transport": "ipc", "ip": f"{sockets}/k"}
    return {
        "kernel_name": "python3", "cwd": str(Path(__file__).parents[1]), "progress_bar": False,
        "log_output": True, "autosave_cell_every": 0,
        "config": Config({"KernelManager": ipc, "NotebookClient": quiet}),
    }  # fmt: skip


def main(name: str) -> int:
    """Run the job of plan.json that has this name; 1 and one block on stderr when it fails."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    jobs = json.loads(Path("plan.json").read_text(encoding="utf-8"))
    job = next(job for job in jobs if job["name"] == name)
    executed, started = Path("notebooks", f"{name}.ipynb"), time.monotonic()
    tell(name, "start")
    notebook = sha256(Path(job["notebook"]))
    try:
        execute(job["notebook"], executed, job["params"], job["threads"])
    except Exception as error:  # papermill keeps the cell's own error in ename and evalue
        message = " ".join(str(getattr(error, "evalue", error)).split())[:400]
        line = f"{getattr(error, 'ename', type(error).__name__)}: {message}"
        print(f"{name} failed\n  {executed.absolute()}\n  {line}", file=sys.stderr)
        tell(name, "failed", seconds=time.monotonic() - started, error=line)
        return 1
    mark(Path(), job, row_files(Path()), notebook)
    tell(name, "done", seconds=time.monotonic() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
