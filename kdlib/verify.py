"""Check a profile's results against themselves: every row, every metric that can be recomputed."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdlib import evaluate
from kdlib.store import DamagedError, Row, read_row, read_tensors

TOLERANCE = 1e-9
REQUIRED = {
    "id": (),
    "labels": (),
    "metrics": ("test",),
    "versions": ("row format", "training core"),
    "run": ("data", "seed", "model", "objective", "recipe", "augment", "precision"),
    "data": ("fingerprint", "split_hash", "class_counts"),
    "provenance": ("commit", "dirty", "device", "threads", "versions"),
    "files": ("checkpoints", "predictions"),
}


@dataclass
class Findings:
    """What was checked: rows read, rows recomputed from predictions, everything that is wrong."""

    rows: int = 0
    recomputed: int = 0
    wrong: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line for people."""
        parts = [f"{self.rows} rows", f"{self.recomputed} recomputed from their predictions"]
        unknown = self.rows - self.recomputed
        parts += [f"{unknown} not checkable: their predictions are not here"] * bool(unknown)
        return ", ".join([*parts, f"{len(self.wrong)} wrong"])


def verify(results: str | Path) -> Findings:
    """Check every row under a profile's folder: whole, complete in its provenance and, where the
    predictions are there, equal to the metrics recomputed from them (1e-9), checkpoints whole.

    FileNotFoundError where the folder holds no rows.
    """
    paths = sorted(Path(results).rglob("rows/*.json"))
    if not paths:
        raise FileNotFoundError(f"no rows under {results}")
    findings = Findings(rows=len(paths))
    for path in paths:
        try:
            _verify_row(path, read_row(path), findings)
        except DamagedError as error:
            findings.wrong.append(str(error))
    return findings


def _verify_row(path: Path, row: Row, findings: Findings) -> None:
    lacking = [
        f"{part}.{key}" if key else part
        for part, keys in REQUIRED.items()
        for key in keys or ("",)
        if part not in row or (key and key not in row[part])
    ]
    if lacking:
        findings.wrong.append(f"{path} lacks {', '.join(lacking)}")
        return
    if row["id"] != path.stem:
        findings.wrong.append(f"{path} is the row of {row['id']}")
    stored = {kind: path.parents[1] / kind / f"{path.stem}.safetensors" for kind in row["files"]}
    tensors = {
        kind: read_tensors(file, row["files"][kind])
        for kind, file in stored.items()
        if file.exists()
    }
    if "predictions" in tensors:
        found = {name: tensor.numpy() for name, tensor in tensors["predictions"].items()}
        again = evaluate.measure(found, row["data"]["class_counts"])
        findings.wrong += [f"{path}: {text}" for text in differences(row["metrics"], again)]
        findings.recomputed += 1


def differences(stated: Any, found: Any, where: str = "") -> list[str]:
    """Where two nested values differ by more than 1e-9, in words."""
    if isinstance(stated, dict) and isinstance(found, dict):
        return [
            line
            for key in sorted(stated.keys() | found.keys())
            for line in differences(stated.get(key), found.get(key), f"{where}.{key}".strip("."))
        ]
    numbers = isinstance(stated, float) and isinstance(found, float)
    same = math.isclose(stated, found, abs_tol=TOLERANCE) if numbers else stated == found
    return [] if same else [f"{where} is stated as {stated}, recomputed {found}"]
