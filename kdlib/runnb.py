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


def execute(notebook: str, executed: Path, params: dict[str, Any], threads: int) -> None:
    """Execute `notebook` with `params`; `executed` is saved cell by cell, errors and all.

    LookupError for a parameter that the notebook's tagged cell lacks: papermill would only log it.
    """
    sys.modules["rfc3987_syntax"] = None  # jsonschema's URI grammar, unused: 1 s of every job
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

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
                    notebook,
                    str(executed.absolute()),
                    params,
                    kernel_name="python3",
                    cwd=str(Path(__file__).parents[1]),
                    progress_bar=False,
                    log_output=True,
                    autosave_cell_every=0,
                    config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/k"}}),
                )
            return
        except RuntimeError as error:  # the kernel never answered: worth one more try
            if attempt == 2 or isinstance(error, DeadKernelError):
                raise


def main(name: str) -> int:
    """Run the job of plan.json that has this name; 1 and one block on stderr when it fails.

    The marker it leaves is a function of what was run: a repetition with the same outcome does not
    make the jobs that need this one run again.
    """
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    jobs = json.loads(Path("plan.json").read_text(encoding="utf-8"))
    job = next(job for job in jobs if job["name"] == name)
    executed, started = Path("notebooks", f"{name}.ipynb"), time.monotonic()
    tell(name, "start")
    try:
        sha256 = hashlib.sha256(Path(job["notebook"]).read_bytes()).hexdigest()
        execute(job["notebook"], executed, job["params"], job["threads"])
    except Exception as error:  # papermill keeps the cell's own error in ename and evalue
        message = " ".join(str(getattr(error, "evalue", error)).split())[:400]
        line = f"{getattr(error, 'ename', type(error).__name__)}: {message}"
        print(f"{name} failed\n  {executed.absolute()}\n  {line}", file=sys.stderr)
        tell(name, "failed", seconds=time.monotonic() - started, error=line)
        return 1
    marker = {"name": name, "key": job["key"], "runs": job["runs"], "notebook": sha256}
    partial = Path("done", f"{name}.partial")
    partial.write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, partial.with_suffix(".json"))
    tell(name, "done", seconds=time.monotonic() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
