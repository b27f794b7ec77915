"""`verify` finds what somebody changed by hand, and says how much it could check."""

import json
import math

import pytest

from kdlib import Lab, Params, grid
from kdlib.__main__ import main
from kdlib.config import fingerprint
from kdlib.plan import ROOT
from kdlib.report.pairs import with_rows
from kdlib.store import Store, differences
from kdlib.verify import verify


def committed():
    """The profiles' folders with rows, but for `digits`, which a first run makes."""
    return [folder for folder in with_rows(ROOT / "results") if folder.name != "digits"]


@pytest.fixture
def results(tmp_path):
    params = Params(
        kd_methods=["none"], student_losses=["ce", "bs"], mixup=[False], epochs=1, batch_size=32
    )
    runs = grid.student_runs(params)
    Lab.of(params, tmp_path).complete(runs)
    return tmp_path, runs


def test_honest_results_pass(results):
    folder, runs = results
    findings = verify(folder)
    assert findings.wrong == []
    assert findings.summary() == "2 rows, 2 recomputed from their predictions, 0 wrong"
    Store(folder).path(runs[0], "predictions").unlink()
    assert "1 recomputed from their predictions, 1 not checkable" in verify(folder).summary()


def change(path, edit):
    """Edit a row and make its hash right again, as somebody determined would."""
    row = json.loads(path.read_text())
    del row["sha256"]
    edit(row)
    path.write_text(json.dumps({**row, "sha256": fingerprint(row)}))


def test_an_edited_metric_is_found_even_with_a_right_hash(results):
    folder, runs = results
    path = Store(folder).path(runs[0], "rows")
    change(path, lambda row: row["metrics"]["test"].update(acc=0.99))
    (wrong,) = verify(folder).wrong
    assert path.name in wrong
    assert "test.acc is stated as 0.99, recomputed" in wrong


def test_a_row_without_provenance_is_refused(results):
    folder, runs = results
    path = Store(folder).path(runs[0], "rows")
    change(path, lambda row: row["provenance"].pop("commit"))
    (wrong,) = verify(folder).wrong
    assert wrong.endswith("lacks provenance.commit")


def test_rows_of_different_origin_are_named(results):
    folder, runs = results
    assert not any(line.startswith("mixed") for line in verify(folder).mixed)
    path = Store(folder).path(runs[0], "rows")
    change(path, lambda row: row["provenance"].update(commit="f" * 40, dirty=True))
    change(path, lambda row: row["versions"].update({"training core": 0}))
    change(path, lambda row: row["data"]["fingerprint"].update(test="0" * 64))
    told = "\n".join(verify(folder).mixed)
    assert "mixed rows: 2 commits: " in told
    assert "ffffffffff (1 row)" in told
    assert "mixed rows: 2 versions of training core: " in told
    assert "mixed rows: 2 contents of test (data digits): " in told
    assert "1 row was made by code that is in no commit" in told
    assert "splits" not in told


def test_rows_of_other_data_are_named_whatever_else_differs(results):
    folder, runs = results
    path = Store(folder).path(runs[0], "rows")
    change(path, lambda row: row["data"]["fingerprint"].update(test="0" * 64))
    change(path, lambda row: row["run"].update(pretrained="imagenet", fidelity_every=2))
    assert any("2 contents of test (data digits): " in line for line in verify(folder).mixed)


def test_a_confusion_is_recomputed(tmp_path):
    changes = {"kd_methods": ["none"], "mixup": [False], "student_losses": ["ce"], "epochs": 1}
    params = Params(**changes, batch_size=16)
    (run,) = grid.student_runs(params)
    run = run.model_copy(update={"classes": ("0", "1", "2")})
    Lab.of(params, tmp_path).complete([run])
    assert verify(tmp_path).wrong == []
    path = Store(tmp_path).path(run, "rows")
    change(path, lambda row: row["confusion"][0].__setitem__(1, 99))
    (wrong,) = verify(tmp_path).wrong
    assert "confusion[0][1] is stated as 99, recomputed" in wrong


def test_a_row_of_an_older_evaluation_is_not_called_wrong_numbers(results):
    folder, runs = results
    path = Store(folder).path(runs[0], "rows")
    change(path, lambda row: row.update(evaluation=0))
    (wrong,) = verify(folder).wrong
    assert "was measured by evaluation 0, today's is 1: the next run" in wrong


@pytest.mark.parametrize("kind", ["rows", "checkpoints", "predictions"])
def test_a_flipped_byte_is_found_in_any_file(results, kind):
    folder, runs = results
    path = Store(folder).path(runs[1], kind)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))
    (wrong,) = verify(folder).wrong
    assert str(path) in wrong
    assert "damaged" in wrong


def test_nothing_to_verify_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no rows under"):
        verify(tmp_path)


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [
        (1.0, 1.0 + 1e-10, None), (1.0, 1.0 + 1e-8, "a.b"), (math.inf, math.inf, None),
        (math.nan, math.nan, None), (math.nan, 1.0, "a.b"), (True, False, "a.b"),
        ([[0.1], [2]], [[0.1 + 1e-10], [2]], None), ([[0.1], [2]], [[0.1], [3]], "a.b[1][0]"),
        ([0.1], [0.1, 0.2], "a.b"), (1, None, "a.b"),
    ],
)  # fmt: skip
def test_differences_by_more_than_a_tolerance(one, other, place):
    found = differences({"a": {"b": one}, "c": 0}, {"a": {"b": other}, "c": 0}, 1e-9)
    assert [where for where, _, _ in found] == [place] * (place is not None)


@pytest.mark.parametrize("folder", committed(), ids=lambda folder: folder.name)
def test_every_committed_profile_is_what_its_rows_give(folder, capsys):
    """Its tables, too: drawn after its last row and by today's kdlib."""
    assert main(["verify", str(folder)]) == 0
    assert ", 0 wrong" in capsys.readouterr().out
