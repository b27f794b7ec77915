"""Rows, checkpoints and predictions on disk: atomic, hashed, never a pickle.

Under a profile's folder each run of a notebook has
``<NN_stem>/[<setting>/]rows/<id>.json``, ``checkpoints/<id>.safetensors``,
``predictions/<id>.safetensors`` and ``timings/<id>.json``. A run is done when its row verifies;
until then there may be a ``progress/<id>.progress``, where training goes on after a kill.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from kdlib import evaluate, models, objectives, train
from kdlib.config import Run, fingerprint
from kdlib.files import write_atomic
from kdlib.registry import ALL, MODELS, suggest

Row = dict[str, Any]
FORMAT = 1
SUFFIX = {"checkpoints": "safetensors", "predictions": "safetensors", "progress": "progress"}
# Under a profile's folder: run id -> why the last batch left it without a row.
REASONS = Path(".batch", "missing.json")
DIGEST = hashlib.sha256().digest_size

log = logging.getLogger("kdlib")


class DamagedError(OSError):
    """A stored file that is not what was written."""


def read_row(path: Path) -> Row:
    """A row whose own hash is right; DamagedError naming the file otherwise."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        stated = row.pop("sha256")
    except (ValueError, KeyError, AttributeError):
        raise DamagedError(f"{path} is damaged: it is no complete row") from None
    if fingerprint(row) != stated:
        raise DamagedError(f"{path} is damaged: its content has another sha256 than it states")
    return row


def _packed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The safetensors of these; what several names share, as tied weights, is there once a name."""
    own, seen = {}, set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        own[name] = value.clone() if place in seen else value
        seen.add(place)
    return safetensors.torch.save(own, metadata=metadata and dict(metadata))


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a file whose hash is the stated one; DamagedError with its name otherwise."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedError(f"{path} is damaged: it has another sha256 than its row states")
    return safetensors.torch.load(content)


def versions(run: Run) -> dict[str, int | str]:
    """Everything a row's validity hangs on."""
    return {"row format": FORMAT, "training core": train.VERSION, **objectives.versions(run)}


def outdated(row: Row) -> list[str]:
    """What a row was made with, its teachers' included, that has another version today; a part that
    is not here (a plugin's) is not judged."""
    today = {"row format": FORMAT, "training core": train.VERSION, "evaluation": evaluate.VERSION}
    for registry in ALL:
        today |= {f"{registry.kind} {name}": registry[name].version for name in registry.names()}
    made = row["versions"] | {"evaluation": row["evaluation"]}
    return [
        part
        for part, version in made.items()
        if version != today.get(part.replace("teacher's ", ""), version)
    ]


def differences(
    one: Any, other: Any, tolerance: float, where: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Where two values nested in dictionaries and lists differ, numbers by more than `tolerance`:
    the place, as "test.kl[0][1]", and both; NaN equals NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            place = f"{where}.{key}".strip(".")
            yield from differences(one.get(key), other.get(key), tolerance, place)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, tolerance, f"{where}[{index}]")
    elif is_number(one) and is_number(other):
        both_nan = math.isnan(one) and math.isnan(other)
        if one != other and not abs(one - other) <= tolerance and not both_nan:
            yield where, one, other
    elif one != other:
        yield where, one, other


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


class Store:
    """The results of one profile under one folder."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def path(self, run: Run, kind: str) -> Path:
        """Where a run's `rows`, `timings`, `checkpoints` or `predictions` file lies."""
        return self.root / run.folder / kind / f"{run.id}.{SUFFIX.get(kind, 'json')}"

    def row(self, run: Run) -> Row | None:
        """A run's row if it verifies and was made by the versions of today; None otherwise.
        DamagedError where the file is damaged."""
        path = self.path(run, "rows")
        if not path.exists():
            return None
        row = read_row(path)
        return row if row["versions"] == versions(run) else None

    def whole_row(self, run: Run) -> Row | None:
        """The same; a damaged one counts as none, and is named in the log."""
        try:
            return self.row(run)
        except DamagedError as error:
            log.warning("%s; the run is done again", error)
            return None

    def write(
        self, run: Run, row: Row, state: Mapping[str, Tensor], predictions: Mapping[str, Any]
    ) -> Row:
        """Store a finished run, its row last: the row is what makes it done."""
        found = {name: torch.as_tensor(value) for name, value in predictions.items()}
        tensors = {"checkpoints": state, "predictions": found}
        files = {
            kind: write_atomic(self.path(run, kind), _packed(values))
            for kind, values in tensors.items()
        }
        row = {**row, "id": run.id, "folder": run.folder, "versions": versions(run), "files": files}
        row = json.loads(json.dumps(row))
        self.write_row(run, row)
        self.path(run, "progress").unlink(missing_ok=True)
        return row

    def write_row(self, run: Run, row: Row) -> None:
        """Write a run's row, with the sha256 of what it says."""
        row = {key: value for key, value in row.items() if key != "sha256"}
        self.write_json(run, "rows", {**row, "sha256": fingerprint(row)})

    def write_json(self, run: Run, kind: str, content: Row) -> None:
        """Write one of a run's JSON files as it is."""
        text = json.dumps(content, indent=1, sort_keys=True) + "\n"
        write_atomic(self.path(run, kind), text.encode())

    def write_progress(self, run: Run, progress: train.Progress) -> None:
        """Store a run between two epochs: the sha256, then safetensors with the facts in them."""
        facts = json.dumps({**progress.facts, "versions": versions(run)})
        content = _packed(progress.tensors, {"facts": facts})
        write_atomic(self.path(run, "progress"), hashlib.sha256(content).digest() + content)

    def progress(self, run: Run) -> train.Progress | None:
        """Where a run stands, None where nothing is stored or other versions stored it.
        DamagedError where the file is damaged."""
        path = self.path(run, "progress")
        if not path.exists():
            return None
        stated, content = (whole := path.read_bytes())[:DIGEST], whole[DIGEST:]
        if hashlib.sha256(content).digest() != stated:
            raise DamagedError(f"{path} is damaged: its content has another sha256 than it states")
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts = json.loads(header["__metadata__"]["facts"])
        if facts.pop("versions") != versions(run):
            return None
        return train.Progress(safetensors.torch.load(content), facts)

    def network(self, run: Run) -> nn.Module:
        """The trained network of a done run, eval mode; DamagedError or FileNotFoundError."""
        return _network(self.row(run), self.path(run, "checkpoints"))

    def rows(self, folder: str = "") -> list[Row]:
        """Every row under a folder of the profile, sorted by id, damage raised by name."""
        return [read_row(path) for path in sorted((self.root / folder).rglob("rows/*.json"))]


def temperature(row: Row) -> float | None:
    """What validation fitted to divide a network's logits by, None where there was nothing to fit
    it on or the fit ended at its bound."""
    fit = row["metrics"].get("temperature", {})
    return None if fit.get("at_bound") else fit.get("T")


def _network(row: Row, checkpoint: Path) -> nn.Module:
    network = models.build(**row["network"])
    network.load_state_dict(read_tensors(checkpoint, row["files"]["checkpoints"]))
    network.temperature = temperature(row)
    network.classes = tuple(row["classes"])
    return network.eval()


def load_student(row_or_id: Row | str, results: str | Path = "results") -> nn.Module:
    """A trained network to take home: eval mode, on the CPU, images in [0, 1] in, `View` out.

    row_or_id: a row, or a run's id looked for under `results`. The module has `classes` (names in
    the order of its logits), `temperature` (fitted on validation; divide the logits by it; None
    where there was no validation image, or so few that the fit ended at its bound) and
    `preprocess`, its first layer. Where several folders know the run, the one that has its
    checkpoint. LookupError for an unknown id or a model of a plugin that was not imported,
    ValueError for teachers put together, which are no network, FileNotFoundError where nobody has
    the checkpoint.

    >>> network = load_student("kd-bs-bs-mixup-seed0-1a2b3c4d")  # doctest: +SKIP
    """
    name = row_or_id if isinstance(row_or_id, str) else row_or_id["id"]
    paths = sorted(Path(results).rglob("rows/*.json"))
    found = {_checkpoint(path): path for path in paths if path.stem == name}
    if not found:
        known = dict.fromkeys(path.stem for path in paths)
        hint = suggest(name, known) if known else "there are no rows at all"
        raise LookupError(f"no run {name!r} under {results}, {hint}")
    checkpoint = next((path for path in found if path.exists()), next(iter(found)))
    row = read_row(found[checkpoint])
    if row["network"] is None:
        raise ValueError(f"{name} is its teachers put together, no network")
    model = row["network"]["name"]
    if model not in MODELS and isinstance(row["versions"][f"model {model}"], str):
        raise LookupError(f"{name}: the model {model!r} is of a plugin, import that file first")
    if not checkpoint.exists():
        raise FileNotFoundError(f"{checkpoint} is not there: run its profile again to rebuild it")
    return _network(row, checkpoint)


def _checkpoint(row: Path) -> Path:
    return row.parents[1] / "checkpoints" / f"{row.stem}.safetensors"
