"""One job: a kernel that dies is started once more, then named."""

import os
import sys

import nbformat
import pytest

from kdlib import runnb

DIES = """import os, pathlib, signal
path = pathlib.Path(count)
path.write_text(path.read_text() + "x")
if len(path.read_text()) < survives_at:
    os.kill(os.getpid(), signal.SIGKILL)"""


def test_kernel_that_never_answers_is_started_once_more(tmp_path, monkeypatch):
    papermill = pytest.importorskip("papermill")
    monkeypatch.setattr(papermill, "inspect_notebook", lambda path: {"value": None})
    monkeypatch.setitem(sys.modules, "rfc3987_syntax", None)
    monkeypatch.setattr(os, "environ", {})
    starts = []

    def start(*arguments, **options):
        starts.append(options["config"]["KernelManager"])
        if len(starts) < answers_at:
            raise RuntimeError("Kernel died before replying to kernel_info")

    monkeypatch.setattr(papermill, "execute_notebook", start)
    answers_at = 2
    runnb.execute("make.ipynb", tmp_path / "executed.ipynb", {"value": 1}, threads=1)
    assert [manager["transport"] for manager in starts] == ["ipc", "ipc"]
    assert starts[0]["ip"] != starts[1]["ip"]
    answers_at = 9
    with pytest.raises(RuntimeError, match="Kernel died"):
        runnb.execute("make.ipynb", tmp_path / "executed.ipynb", {"value": 1}, threads=1)
    assert len(starts) == 4


@pytest.fixture
def deadly(tmp_path):
    """Runs a notebook whose kernel kills itself until its start number `survives_at`; how many
    starts there were."""
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    tagged = nbformat.v4.new_code_cell(
        'count: str = ""\nsurvives_at: int = 1', metadata={"tags": ["parameters"]}
    )
    cells = [tagged, nbformat.v4.new_code_cell(DIES)]
    path, count = tmp_path / "deadly.ipynb", tmp_path / "count"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)

    def run(survives_at):
        count.write_text("")
        params = {"count": str(count), "survives_at": survives_at}
        try:
            runnb.execute(str(path), tmp_path / "executed.ipynb", params, threads=1)
        finally:
            run.starts = len(count.read_text())

    return run


def test_kernel_that_dies_is_started_once_more(deadly, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "rfc3987_syntax", None)
    deadly(survives_at=2)
    assert deadly.starts == 2


def test_kernel_that_dies_twice_is_named(deadly, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "rfc3987_syntax", None)
    with pytest.raises(RuntimeError, match=r"the kernel died twice \(out of memory\?\)"):
        deadly(survives_at=9)
    assert deadly.starts == 2
