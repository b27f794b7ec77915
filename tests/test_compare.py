"""`compare` says which rows differ and by how much."""

import json

import pytest

from kdlib.__main__ import main
from kdlib.compare import compare
from kdlib.config import fingerprint


@pytest.fixture
def folders(tmp_path):
    """Writes rows into one of two results folders: run id -> accuracy."""

    def write(name, **accuracies):
        for run, accuracy in accuracies.items():
            path = tmp_path / name / "02_students" / "rows" / f"{run}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            row = {"id": run, "evaluation": 1, "data": {"name": "digits"}}
            row["metrics"] = {"test": {"acc": accuracy, "nll": float("nan"), "at_bound": False}}
            path.write_text(json.dumps({**row, "sha256": fingerprint(row)}))
        return tmp_path / name

    return write


def test_equal_folders(folders, capsys):
    a, b = (folders(name, ce=0.5, bs=0.75) for name in "ab")
    assert compare(a, b).equal
    assert main(["compare", str(a), str(b)]) == 0
    assert capsys.readouterr().out == "2 rows in both, 0 differ\n"


def test_a_difference_is_named_with_its_size(folders, capsys):
    a, b = folders("a", ce=0.5, bs=0.75), folders("b", ce=0.5, bs=0.625)
    assert main(["compare", str(a), str(b)]) == 1
    assert capsys.readouterr().out == (
        "bs\n  metrics.test.acc: 0.75 and 0.625, by 0.125\n2 rows in both, 1 differ\n"
    )
    assert main(["compare", str(a), str(b), "--tolerance", "0.125"]) == 0
    assert main(["compare", str(a), str(b), "--tolerance", "0.12"]) == 1


def test_rows_of_one_folder_only(folders, capsys):
    a, b = folders("a", ce=0.5, bs=0.75), folders("b", ce=0.5)
    assert main(["compare", str(a), str(b)]) == 1
    out = capsys.readouterr().out
    assert out == f"only in {a}: bs\n1 rows in both, 0 differ; 1 rows in one folder only\n"


def test_runs_of_other_params_stand_beside_each_other(tmp_path, capsys):
    """By folder, labels and seed: which key differs, and what it changes."""
    for name, temperature, acc in (("a", 4.0, 0.5), ("b", 2.0, 0.53)):
        for kind, seed in (("kd", 0), ("none", 0), ("kd", 1))[: 3 - (name == "b")]:
            kd = {"kd": {"temperature": temperature}} if kind == "kd" else {}
            row = {
                "folder": "02_students", "labels": {"kd_method": kind}, "evaluation": 1, "data": {},
                "run": {"seed": seed, "objective": {"label": {"weight": 0.1}} | kd},
                "metrics": {"test": {"acc": acc, "nll": 1.0, "ece": 0.1}},
            }  # fmt: skip
            row["id"] = f"{kind}-seed{seed}-{fingerprint(row['run'])[:8]}"
            path = tmp_path / name / "02_students" / "rows" / f"{row['id']}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({**row, "sha256": fingerprint(row)}))
    found = compare(tmp_path / "a", tmp_path / "b")
    assert not found.equal
    ((pair, texts),) = found.changed.items()
    assert [run.partition("-seed")[0] for run in pair.split(" and ")] == ["kd", "kd"]
    assert texts == [
        "run.objective.kd.temperature: 4 and 2, by 2", "test accuracy +3.00 points",
        "test NLL +0.000 nats", "test ECE +0.0000",
    ]  # fmt: skip
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    *_, verdict = capsys.readouterr().out.splitlines()
    assert verdict == ("1 rows in both, 1 differ; 1 of other params; 1 rows in one folder only")


def test_what_cannot_be_compared(folders, tmp_path, capsys):
    a = folders("a", ce=0.5)
    with pytest.raises(FileNotFoundError, match="no rows under"):
        compare(a, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="tolerance must be at least 0, got -1"):
        compare(a, a, tolerance=-1)
    path = next(a.rglob("*.json"))
    path.write_text(path.read_text().replace("0.5", "0.6"))
    assert main(["compare", str(a), str(a)]) == 2
    assert f"{path} is damaged" in capsys.readouterr().err
