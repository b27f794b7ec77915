"""Check a profile's results against themselves: every row, every metric that can be recomputed."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdlib import evaluate
from kdlib.store import DamagedError, Row, differences, read_row, read_tensors

TOLERANCE = 1e-9
REQUIRED = {
    "id": (),
    "labels": (),
    "evaluation": (),
    "metrics": ("test",),
    "versions": ("row format", "training core"),
    "run": ("data", "seed", "model", "objective", "recipe", "augment", "precision"),
    "data": ("fingerprint", "split_hash", "class_counts"),
    "provenance": ("commit", "dirty", "device", "threads", "versions"),
    "files": ("checkpoints", "predictions"),
}
# What a run says of the images it sees.
DATA = ("classes", "data", "image_size", "imbalance_factor", "seed", "val_fraction")


@dataclass
class Findings:
    """What was checked: rows read, rows recomputed from predictions, everything that is wrong, and
    what rows of one folder do not have in common (`mixtures`)."""

    rows: int = 0
    recomputed: int = 0
    wrong: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)

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
    findings, whole = Findings(rows=len(paths)), []
    for path in paths:
        try:
            row = read_row(path)
            if _verify_row(path, row, findings):
                whole.append(row)
        except DamagedError as error:
            findings.wrong.append(str(error))
    findings.mixed = mixtures(whole)
    return findings


def mixtures(rows: Sequence[Row]) -> list[str]:
    """What should be one thing in all rows of a table and is not, in words: versions of what made
    them, data under one name, the weights of a teacher, commits, devices; and how many rows come
    from uncommitted code."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    taught = {name for row in rows for name in row.get("teachers", ())}
    for row in rows:
        origin, data, run = row["provenance"], row["data"], row["run"]
        for part, version in (row["versions"] | {"evaluation": row["evaluation"]}).items():
            found[f"versions of {part}"][str(version)] += 1
        asked = ", ".join(f"{key} {run[key]}" for key in DATA if run.get(key))
        for split, digest in data["fingerprint"].items():
            found[f"contents of {split} ({asked})"][digest[:12]] += 1
        found[f"splits ({asked})"][data["split_hash"][:12]] += 1
        weights = {**row.get("teachers", {})}
        if (name := row.get("id")) in taught:  # as it lies here now
            weights[name] = row["files"]["checkpoints"]
        for teacher, digest in weights.items():
            found[f"weights of the teacher {teacher}"][digest[:12]] += 1
        found["commits"][origin["commit"][:10]] += 1
        found["devices"][origin["device"]] += 1
        found["versions of torch"][origin["versions"]["torch"]] += 1
    lines = [
        f"mixed rows: {len(values)} {what}: "
        + ", ".join(f"{value} ({_rows(count)})" for value, count in values.most_common())
        for what, values in found.items()
        if len(values) > 1
    ]
    dirty = sum(row["provenance"]["dirty"] is not False for row in rows)
    told = f"{_rows(dirty)} {'was' if dirty == 1 else 'were'}"
    return lines + [f"{told} made by code that is in no commit"] * bool(dirty)


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"


def _verify_row(path: Path, row: Row, findings: Findings) -> bool:
    """Note what is wrong with a row; whether it is complete."""
    lacking = [
        f"{part}.{key}" if key else part
        for part, keys in REQUIRED.items()
        for key in keys or ("",)
        if part not in row or (key and key not in row[part])
    ]
    if lacking:
        findings.wrong.append(f"{path} lacks {', '.join(lacking)}")
        return False
    if row["id"] != path.stem:
        findings.wrong.append(f"{path} is the row of {row['id']}")
    stored = {kind: path.parents[1] / kind / f"{path.stem}.safetensors" for kind in row["files"]}
    tensors = {
        kind: read_tensors(file, row["files"][kind])
        for kind, file in stored.items()
        if file.exists()
    }
    if row["evaluation"] != evaluate.VERSION:
        findings.wrong.append(
            f"{path} was measured by evaluation {row['evaluation']}, today's is "
            f"{evaluate.VERSION}: the next run of the profile measures it again"
        )
    elif "predictions" in tensors:
        found = {name: tensor.numpy() for name, tensor in tensors["predictions"].items()}
        again = evaluate.from_predictions(
            found, row["data"]["class_counts"], row["run"].get("classes")
        )
        stated = {key: row.get(key) for key in again}
        findings.wrong += [
            f"{path}: {where} is stated as {one}, recomputed {other}"
            for where, one, other in differences(stated, again, TOLERANCE)
        ]
        findings.recomputed += 1
    return True
