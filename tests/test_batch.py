"""The batch engine on seven tiny notebook jobs: 2 teachers -> 4 students -> 1 table."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import nbformat
import pytest

from kdlib import batch, lock
from kdlib.plan import ROOT, Job, plan
from kdlib.report.compose import Section
from kdlib.store import REASONS

PARAMETERS = """out_dir: str = ""
name: str = ""
value: int = 0
inputs: list = []
extra: dict = {}"""
CODE = """import json, os, pathlib, time
folder = pathlib.Path(out_dir)
with open(folder / "executed.txt", "a") as file:
    file.write(name + "\\n")
if value < 0:
    raise ValueError(f"value must not be negative,\\ngot {value}")
value += sum(json.loads((folder / f"{one}.json").read_text())["value"] for one in inputs)
content = {"value": value, "threads": os.environ["OMP_NUM_THREADS"], "cwd": os.getcwd()}
(folder / f"{name}.json").write_text(json.dumps(content))"""
DRIVER = """import json, pathlib, sys
from kdlib import batch
from kdlib.plan import Job
jobs = [Job(**one) for one in json.loads(sys.argv[1])]
out = pathlib.Path(sys.argv[2])
sys.exit(batch.execute(jobs, out, list, cores=2, notebooks=out / "notebooks"))"""
STUDENTS = ["s0", "s1", "s2", "s3"]


class Toy:
    """The jobs and the folder they write to; a job's one run has the job's short name."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "notebooks").mkdir()
        tagged = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
        kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
        for stem in ("make", "table"):
            notebook = nbformat.v4.new_notebook(
                cells=[tagged, nbformat.v4.new_code_cell(CODE)], metadata={"kernelspec": kernel}
            )
            nbformat.write(notebook, folder / "notebooks" / f"{stem}.ipynb")
        self.jobs = [
            *[self.job(f"t{i}", value=1) for i in (0, 1)],
            *[self.job(f"s{i}", [f"t{i // 2}"], value=10 * i) for i in range(4)],
            self.job("table", STUDENTS, extra={"threads": 2}),
        ]

    def job(self, short, inputs=(), **params):
        params |= {"out_dir": str(self.folder), "name": short, "inputs": list(inputs)}
        stem = "table" if short == "table" else "make"
        needs = tuple(f"make/{one}" for one in inputs)
        return Job(f"{stem}/{short}", stem, params, needs, runs=(short,))

    def changed(self, short, **params):
        """The same jobs, with other parameters for one, which therefore makes another run."""
        return [
            replace(job, params=job.params | params, runs=(f"{short}, changed",))
            if job.name == f"make/{short}"
            else job
            for job in self.jobs
        ]

    def stored(self):
        return {run for job in self.jobs for run in job.runs if self.result(run).exists()}

    def result(self, run):
        return self.folder / f"{run.removesuffix(', changed')}.json"

    def execute(self, jobs=None, **options):
        """The exit code and the names of the jobs that were executed."""
        (self.folder / "executed.txt").write_text("")
        if options.pop("dry_run", False):
            options["foresee"] = lambda left: f"{len(left)} left\n"
        options = {"notebooks": self.folder / "notebooks", "cores": 2} | options
        code = batch.execute(jobs or self.jobs, self.folder, self.stored, **options)
        return code, sorted((self.folder / "executed.txt").read_text().split())


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A finished batch, whose first start was killed when its first job was done."""
    toy = Toy(tmp_path_factory.mktemp("batch"))
    arguments = [json.dumps([asdict(job) for job in toy.jobs]), str(toy.folder)]
    command = [sys.executable, "-c", DRIVER, *arguments]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as child:
        toy.busy = None
        while not (toy.result("t0").exists() or toy.result("t1").exists()):
            assert child.poll() is None
            time.sleep(0.05)
            if toy.busy is None and (toy.folder / ".batch" / "snakemake.log").exists():
                toy.busy = toy.execute()
        os.killpg(child.pid, signal.SIGKILL)
    toy.before_kill = toy.stored()
    toy.code, toy.executed = toy.execute()
    return toy


def test_killed_batch_is_completed_and_a_second_start_was_refused(toy):
    assert toy.busy == (lock.BUSY, [])
    assert 1 <= len(toy.before_kill) < 6
    assert toy.code == 0
    assert {"table", *STUDENTS} - toy.before_kill <= set(toy.executed)
    table = json.loads(toy.result("table").read_text())
    assert table == {"value": 64, "threads": "2", "cwd": str(ROOT)}


def test_finished_batch_has_nothing_to_do(toy, capsys):
    report = toy.folder / "report"
    report.mkdir()
    (report / "summary.txt").write_text("ECE 3.1\n")
    (report / "index.html").touch()
    start = time.monotonic()
    assert toy.execute() == (0, [])
    assert time.monotonic() - start < 10
    assert capsys.readouterr().out == f"7 jobs, to do: nothing\nECE 3.1\n{report / 'index.html'}\n"


def test_jobs_start_in_their_order(tmp_path):
    """Of those that can start, the first one does, however many jobs have no needs."""
    toy = Toy(tmp_path)
    named = {job.name.split("/")[1]: job for job in toy.jobs}
    order = ["t1", "s3", "t0", "s0", "s2"]
    code, _ = toy.execute([named[name] for name in order], cores=1)
    assert code == 0
    assert (tmp_path / "executed.txt").read_text().split() == order


@pytest.mark.parametrize("file", ["means.json", "figures/means.json"])
def test_a_table_or_figure_that_is_gone_or_edited_is_drawn_again(tmp_path, file):
    toy = Toy(tmp_path)
    drawn = tmp_path / "table" / "two_seeds" / file
    drawn.parent.mkdir(parents=True)
    name = str(drawn.with_suffix("").relative_to(tmp_path))
    analysis = Job("table/two_seeds", "table", toy.jobs[0].params | {"name": name}, (), runs=())
    assert toy.execute([analysis]) == (0, [name])
    assert toy.execute([analysis]) == (0, [])
    content = drawn.read_bytes()
    for harm in (drawn.unlink, lambda: drawn.write_text("{}")):
        harm()
        assert toy.execute([analysis]) == (0, [name])
        assert drawn.read_bytes() == content


def test_dry_run_tells_what_an_edit_changes_and_starts_nothing(toy, capsys):
    notebook = toy.folder / "notebooks" / "table.ipynb"
    notebook.touch()
    assert toy.execute(dry_run=True) == (0, [])
    assert "to do: nothing" in capsys.readouterr().out
    source = notebook.read_text()
    notebook.write_text(source + "\n")
    assert toy.execute(dry_run=True) == (0, [])
    out = capsys.readouterr().out
    assert out.endswith("done   make/s3\nto do  table/table\n7 jobs, to do: 1 job\n1 left\n")
    notebook.write_text(source)


def test_changed_parameter_runs_its_job_and_what_needs_it_again(toy):
    toy.jobs = toy.changed("s2", value=21)
    assert toy.execute() == (0, ["s2", "table"])
    assert json.loads(toy.result("table").read_text())["value"] == 65


def test_a_parameter_that_makes_the_same_runs_runs_nothing(toy):
    jobs = [replace(job, params=job.params | {"extra": {"threads": 2}}) for job in toy.jobs[:-1]]
    assert toy.execute([*jobs, toy.jobs[-1]]) == (0, [])


def test_failing_jobs_leave_the_others_done(toy, capsys):
    good = toy.jobs
    toy.jobs = toy.changed("s0", value=-1)
    toy.jobs = toy.changed("s1", valeu=3)
    toy.result("s3").unlink()  # a lost result is made again, too
    code, executed = toy.execute()
    toy.jobs = good
    assert (code, executed) == (batch.FAILED, ["s0", "s3"])  # s1 was refused, the table waits
    out, err = capsys.readouterr()
    assert out.count("FAILED after") == 2
    executed = toy.folder / ".batch" / "notebooks"
    assert err.startswith("2 jobs failed:\n")
    assert (
        "  make/s0: ValueError: value must not be negative, got -1\n"
        f"    {executed}/make/s0.ipynb\n" in err
    )
    assert "make/s1: LookupError: make.ipynb has no 'valeu', did you mean 'value'?" in err
    assert err.endswith("  table/table: not started, it needs a failed one\n")
    log = (toy.folder / ".batch" / "logs" / "make" / "s0.log").read_text()
    assert log.count("make/s0 failed") == 1
    why = json.loads((toy.folder / REASONS).read_text())
    assert why == {
        "s0, changed": "make/s0: ValueError: value must not be negative, got -1",
        "s1, changed": "make/s1: LookupError: make.ipynb has no 'valeu', did you mean 'value'?",
        "table": "table/table: not started, it needs make/s0, make/s1",
    }


def test_files_that_an_analysis_reads_are_part_of_its_key(tmp_path):
    claims = tmp_path / "deep" / "claims.yaml"
    claims.parent.mkdir()
    jobs = [Job("a", "a", {}, (), (), reads=(f"{tmp_path}/**/claims.yaml",))]

    def key(text):
        claims.write_text(text)
        (tmp_path / "a.ipynb").touch()
        batch._write_plan(jobs, tmp_path, tmp_path, {"run"})
        return json.loads((tmp_path / "plan.json").read_text())[0]["key"]

    assert key("seeds: 5") == key("seeds: 5") != key("seeds: 3")


def test_source_of_the_library_is_part_of_the_key_of_an_analysis_only(tmp_path, monkeypatch):
    jobs = [Job("a", "a", {}, (), ("run",)), Job("b", "b", {}, (), ())]
    monkeypatch.setattr(batch, "ROOT", tmp_path)
    (tmp_path / "kdlib").mkdir()
    (tmp_path / "a.ipynb").touch()

    def keys(source):
        (tmp_path / "kdlib" / "report.py").write_text(source)
        batch._write_plan(jobs, tmp_path, tmp_path, {"run"})
        return [job["key"] for job in json.loads((tmp_path / "plan.json").read_text())]

    before, after = keys("width = 1"), keys("width = 2")
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_progress_estimates_from_the_runs_of_this_start(monkeypatch):
    jobs = [Job(name, "make", {}, (), tuple(f"{name}{i}" for i in range(4))) for name in "abc"]
    clock = iter([0.0, 150.0])
    monkeypatch.setattr(batch.time, "monotonic", lambda: next(clock))
    progress = batch.Progress(jobs, {"b", "c"}, stored={"a0", "a1", "a2", "a3", "b0"})
    assert progress.rest() == "2 jobs, 7 runs"
    assert progress.line({"job": "b", "event": "start"}) == "[1/3] b  3 runs ..."
    line = progress.line({"job": "b", "event": "done", "seconds": 48.2})
    assert line == "[2/3] b  3 runs in 48 s   left: 1 job, 4 runs, about 3 min"
    progress.line({"job": "c", "event": "start"})
    assert "c: its process died" in progress.failures(ROOT)


def test_a_job_that_a_cluster_tries_again_is_no_failure():
    jobs = [Job("a", "make", {}, (), ("a0",)), Job("b", "make", {}, ("a",), ("b0",))]
    progress = batch.Progress(jobs, {"a", "b"}, stored=())
    progress.line({"job": "a", "event": "start"})
    line = progress.line({"job": "a", "event": "failed", "seconds": 5, "error": "no node"})
    assert line == "[0/2] a  FAILED after 5 s"
    assert progress.reasons() == {"a0": "a: no node", "b0": "b: not started, it needs a"}
    assert progress.line({"job": "a", "event": "start"}) == "[0/2] a  1 run ..."
    assert "2 jobs, 2 runs" in progress.rest()
    progress.line({"job": "a", "event": "done", "seconds": 5})
    assert progress.failed == {}
    assert progress.reasons() == {"b0": "b: not started"}


def test_a_stored_run_needs_no_kernel(tmp_path, capsys):
    """As in a fresh clone: rows are there, markers are not."""
    toy = Toy(tmp_path)
    for job in toy.jobs[:-1]:
        rows = tmp_path / "make" / "rows"
        rows.mkdir(parents=True, exist_ok=True)
        (rows / f"{job.runs[0]}.json").write_text(job.name)
        toy.result(job.runs[0]).write_text('{"value": 1}')
    assert toy.execute() == (0, ["table"])
    assert "7 jobs, to do: 1 job, 1 run\n" in capsys.readouterr().out
    assert toy.execute() == (0, [])
    toy.result("s0").unlink()
    assert toy.execute() == (0, ["s0", "table"])


def test_an_interrupt_of_the_batch_alone_ends_its_jobs(tmp_path):
    """As an IDE or `kill -INT` sends it, not to the whole group as a terminal does."""
    toy, started = Toy(tmp_path), tmp_path / "started"
    notebook = nbformat.read(tmp_path / "notebooks" / "make.ipynb", 4)
    wait = f"import pathlib, time\npathlib.Path({str(started)!r}).touch()\ntime.sleep(600)"
    notebook.cells.append(nbformat.v4.new_code_cell(wait))
    nbformat.write(notebook, tmp_path / "notebooks" / "make.ipynb")
    jobs = json.dumps([asdict(toy.jobs[0])])
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, jobs, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as child:  # fmt: skip
        while not started.exists():
            assert child.poll() is None
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        assert "start again to go on" in child.communicate(timeout=60)[1].decode()
    assert child.returncode == batch.INTERRUPTED


def test_a_section_of_no_setting_leaves_the_page(tmp_path, capsys):
    """The setting of an earlier params file: its rows and tables stay, nobody reads them as new."""
    for stem, setting in (("03_calibration_study", "old"), ("04_self_distillation", "")):
        page = Section(tmp_path, stem, setting).write(stem, [], summary=stem)
    batch._drop_sections(plan("digits", tmp_path))
    text = page.read_text(encoding="utf-8")
    assert "04_self_distillation" in text
    assert "03_calibration_study" not in text
    assert "of no setting of params/digits: 03_calibration_study/old" in capsys.readouterr().err
    assert (tmp_path / "03_calibration_study" / "old").is_dir()


def test_no_second_start_and_a_lock_that_nobody_must_undo(tmp_path, capsys):
    held = lock.take(tmp_path)
    started = time.monotonic()
    assert lock.take(tmp_path) is None
    assert time.monotonic() - started < 1
    assert capsys.readouterr().err == f"another batch is at work in {tmp_path}\n"
    held.close()
    with lock.take(tmp_path):
        assert lock.take(tmp_path) is None


def test_where_jobs_run(tmp_path):
    assert batch.workflow_folder("slurm") == ROOT / "workflow" / "profiles" / "slurm"
    (tmp_path / "config.yaml").write_text("executor: slurm\n")
    assert batch.workflow_folder(str(tmp_path)) == tmp_path
    with pytest.raises(LookupError, match=r"'slrm'.*did you mean 'slurm'"):
        batch.workflow_folder("slrm")


def test_run_checks_its_arguments(tmp_path):
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        batch.run("digits", jobs=0)
    with pytest.raises(LookupError, match="'digitz', did you mean 'digits'"):
        batch.run("digitz", out_dir=tmp_path)


def test_only_failures_draw_what_is_there(tmp_path, monkeypatch):
    """An interrupt ends at once: what was at work has not failed."""
    toy, drawn = Toy(tmp_path), []
    for code, asked in ((batch.INTERRUPTED, []), (batch.FAILED, [["analysis"]])):

        def work(home, settings, cores, held, progress, code=code):
            progress.line({"job": "make/t0", "event": "start"})
            return code

        monkeypatch.setattr(batch, "_work", work)
        jobs = [*toy.jobs[:-1], replace(toy.jobs[-1], name="analysis", runs=())]
        assert toy.execute(jobs, conclude=drawn.append) == (code, [])
        assert drawn == asked


@pytest.mark.parametrize(("threads", "jobs", "cores"), [(1, 3, 3), (2, 3, 6), (2, None, None)])
def test_jobs_are_notebooks_at_once_whatever_their_threads(
    threads, jobs, cores, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(batch, "execute", lambda *_, **options: asked.append(options) or 0)
    monkeypatch.setattr(batch, "closing_words", lambda *_: [])
    changes = {"threads": threads}
    assert batch.run("digits", out_dir=tmp_path, jobs=jobs, changes=changes) == 0
    assert asked[0]["cores"] == cores
