"""Stored runs of any profile, and pairs of them that differ in one choice: differences by seed."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd

from kdlib import plan
from kdlib.config import fingerprint
from kdlib.report.literature import FOLDER
from kdlib.report.tables import over_seeds
from kdlib.report.text import listed
from kdlib.store import Row, outdated, read_row
from kdlib.studies.published_claims import Comparison

log = logging.getLogger("kdlib")
DIGITS = "digits"
RESULTS = FOLDER.parent
SETTING = ["setting", "effect", "effect_ci95", "seeds"]
# Facts that say what a difference was measured on; `seed` and `profile` pair, too.
SCALE = ("profile", "data", "imbalance_factor", "image_size", "classes", "images", "model",
         "teachers", "recipe", "epochs", "precision")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Entry:
    """A stored run: what it can be told by, the networks that teach it, its row, and how many
    epochs its teachers were trained for, where their rows are there."""

    facts: dict[str, Any]
    taught_by: tuple[str, ...]
    row: Row
    taught_epochs: tuple[int, ...] = ()


def profiles(
    results: Sequence[str | Path] = (), out_dir: str | Path = "", profile: str = ""
) -> dict[str, Path]:
    """Profile -> its folder, to read: those given, by default all of the repository that hold rows,
    each named as its folder is; out_dir is its profile's only one.

    profile: out_dir's, default its name. FileNotFoundError for a folder that is not there,
    ValueError for two of one name.
    """
    found: dict[str, Path] = {}
    for folder in [Path(folder).resolve() for folder in results] or with_rows(RESULTS):
        if not folder.is_dir():
            raise FileNotFoundError(f"results: no folder {folder}")
        if found.setdefault(folder.name, folder) != folder:
            raise ValueError(f"results: {found[folder.name]} and {folder} have one name")
    own = Path(out_dir).resolve()
    return found | ({profile or own.name: own} if out_dir else {})


def with_rows(results: Path) -> list[Path]:
    """The folders of profiles under `results` that hold rows."""
    return [path for path in sorted(results.glob("*/")) if any(path.glob("[0-9]*/**/rows"))]


def entries(
    folders: Mapping[str, Path], changes: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> list[Entry]:
    """Every run stored under the folders of these profiles, once. Rows of parts that have another
    version today are left out, and those of runs that the profile's params do not ask for, as
    earlier params did; the log says so.

    changes: profile -> the keys that its params are changed by, as in `kdlib.plan.plan`. A profile
    without params has all its rows read, one whose params are wrong none. DamagedError that names
    the file where a row is not what was written.
    """
    found = []
    for profile, folder in folders.items():
        paths = sorted(folder.glob("[0-9]*/**/rows/*.json"))
        rows = {row["id"]: row for row in map(read_row, paths)}
        old = {name: parts for name, row in rows.items() if (parts := outdated(row))}
        if old:
            changed = ", ".join(sorted({part for parts in old.values() for part in parts}))
            log.warning("%s: %d rows are left out, other versions made them of: %s", profile,
                        len(old), changed)  # fmt: skip
        try:
            strays = unplanned(rows, profile, changes.get(profile, {}))
        except (ValueError, LookupError, OSError) as error:
            log.warning("%s is left out, what belongs to it is not known: %s", folder, error)
            continue
        if strays:
            log.warning("%s: %d rows are left out, params/%s asks for no such runs: %s", folder,
                        len(strays), profile, listed(strays, 3))  # fmt: skip
        rows = {name: row for name, row in rows.items() if name not in {*old, *strays}}
        models = {name: row["run"]["model"] for name, row in rows.items()}
        recipes = {name: row["run"]["recipe"] for name, row in rows.items()}
        for row in rows.values():
            ids = row["run"]["teachers"]
            teachers = tuple(dict.fromkeys(models.get(teacher, "?") for teacher in ids))
            epochs = {recipes[teacher]["epochs"] for teacher in ids if recipes.get(teacher)}
            found.append(Entry(facts(row, profile), teachers, row, tuple(sorted(epochs))))
    return found


def unplanned(ids: Iterable[str], profile: str, changes: Mapping[str, Any]) -> list[str]:
    """Those ids of runs that the params of a profile do not ask for, none where it has no params:
    a row that an earlier value of a key left behind is in no table, so in no verdict either."""
    if not (plan.ROOT / "params" / profile).is_dir():
        return []
    asked = plan.plan(profile, **changes).rows
    return [name for name in ids if name not in asked]


def facts(row: Row, profile: str) -> dict[str, Any]:
    """The labels of a run, and `SCALE`, `seed`, `notebook` and `setting`; what does not apply is
    left out.

    classes: how many of the set's it has, where not all; images: how many train it, where the
    params say what share validates; teachers: how many, where several; recipe: a hash of how it was
    trained, on which share of the data and with which augmentation; image_size: px a side that its
    network takes, where they are not the set's.
    """
    run = row["run"]
    recipe, teachers = run["recipe"], run["teachers"]
    notebook, _, setting = row["folder"].partition("/")
    trained = [recipe, run.get("augment"), run.get("val_fraction")]
    found = {
        "profile": profile,
        "notebook": notebook,
        "setting": setting or None,
        "recipe": recipe and fingerprint(trained)[:8],
        "epochs": recipe and recipe["epochs"],
        "classes": run.get("classes") and len(run["classes"]),
        "images": sum(row["data"]["class_counts"]) if run.get("val_fraction") is not None else None,
        "teachers": len(teachers) if len(teachers) > 1 else None,
        "image_size": run.get("network_size") or run["image_size"],
        **{key: run[key] for key in ("data", "imbalance_factor", "model")},
        **{key: run[key] for key in ("precision", "seed")},
        **row["labels"],
    }
    return {key: value for key, value in found.items() if value is not None}


def metric_of(row: Row, metric: str) -> float:
    """A metric of the test split, or of a dotted path; NaN where the row has none or no number."""
    value: Any = row["metrics"]
    for key in metric.split(".") if "." in metric else ("test", metric):
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _matches(entry: Entry, wanted: Mapping[str, Any]) -> bool:
    return all(
        entry.facts.get(key) in (values if isinstance(values, tuple) else (values,))
        for key, values in wanted.items()
    )


def pairs(found: Sequence[Entry], judged: Comparison) -> list[tuple[Entry, Entry]]:
    """Runs of `level` with those of `versus` that agree in all that the comparison leaves open, and
    in the length of their teachers' training where both have teachers."""
    where = {"notebook": judged.notebook} | (judged.where or {})
    level, versus = (
        [entry for entry in found if _matches(entry, where | side)]
        for side in (judged.level, judged.versus)
    )
    open_keys = {*judged.level, *judged.versus, *judged.free}

    def same(entry: Entry) -> frozenset:
        return frozenset(item for item in entry.facts.items() if item[0] not in open_keys)

    partners = defaultdict(list)
    for entry in versus:
        partners[same(entry)].append(entry)
    return [
        (entry, other)
        for entry in level
        for other in partners[same(entry)]
        if len({entry.taught_epochs, other.taught_epochs} - {()}) < 2
    ]


def by_scale(found: Sequence[Entry], judged: Comparison) -> list[list[tuple[Entry, Entry]]]:
    """The pairs in groups that were measured on the same thing."""
    groups = defaultdict(list)
    for pair in pairs(found, judged):
        groups[scale_key(pair[0])].append(pair)
    return list(groups.values())


def scale_key(entry: Entry) -> tuple[Any, ...]:
    """What runs of one scale share, the length of their teachers' training included."""
    return (*(entry.facts.get(key) for key in SCALE), entry.taught_epochs)


def scale(group: Sequence[tuple[Entry, Entry]]) -> str:
    """What a group was measured on: "cifar10 IF 100, resnet20 -> resnet8, 40 epochs"."""
    told = group[0][0].facts
    teachers = sorted({name for pair in group for entry in pair for name in entry.taught_by})
    what = told["data"]
    what += f" IF {told['imbalance_factor']:g}" if "imbalance_factor" in told else ""
    what += f", {told['classes']} classes" if "classes" in told else ""
    what += f", {told['images']} images" if "images" in told else ""
    what += f", {told['image_size']} px" if "image_size" in told else ""
    if len(teachers) > 2:
        teachers = [f"{told.get('teachers', len(teachers))} teachers"]
    lengths = {epochs for pair in group for entry in pair for epochs in entry.taught_epochs}
    apart_from = len(lengths) == 1 and lengths != {told.get("epochs")}
    taught = f" ({min(lengths)} epochs)" if apart_from else ""
    who = f"{' + '.join(teachers)}{taught} -> {told['model']}" if teachers else told["model"]
    epochs = f", {told['epochs']} epochs" if "epochs" in told else ""
    precision = f", {told['precision']}" if told["precision"] != "fp32" else ""
    return f"{what}, {who}{epochs}{precision}"


def apart(scales: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What all scales say, and what each says beside it.

    >>> apart(["cifar100, 12 classes, 30 epochs", "cifar100, 15 classes, 30 epochs"])[0]
    'cifar100, 30 epochs'
    >>> apart(["cifar100, 12 classes", "cifar100, 15 classes"])[1]
    {'cifar100, 12 classes': '12 classes', 'cifar100, 15 classes': '15 classes'}
    """
    parts = {one: one.split(", ") for one in scales}
    shared = [part for part in parts[scales[0]] if all(part in own for own in parts.values())]
    own = {one: [part for part in parts[one] if part not in shared] for one in parts}
    return ", ".join(shared), {one: ", ".join(rest) for one, rest in own.items()}


class Differences(NamedTuple):
    """by_seed: the mean difference of each seed, level minus versus; pairs: how many a seed has;
    versus: the mean of what they are measured against."""

    by_seed: pd.Series
    pairs: int
    versus: float


def seed_differences(
    group: Sequence[tuple[Entry, Entry]], metric: str, versus: str = ""
) -> Differences:
    """The differences of a group, seed by seed. versus: the metric of the other side, default the
    same.

    Pairs that have rows of fewer seeds than others (a part of a grid that has one seed), or this
    metric in none, do not count; a seed counts where it has the metric of all pairs that do: one
    run whose metric is no number takes its seed away, not its pair.
    """
    lines = pd.DataFrame([
        {
            "seed": one.facts["seed"],
            "pair": fingerprint([_labels(one), _labels(other)]),
            "level": metric_of(one.row, metric),
            "versus": metric_of(other.row, versus or metric),
        }
        for one, other in group
    ])  # fmt: skip
    lines["difference"] = lines["level"] - lines["versus"]
    by_run = lines.groupby(["seed", "pair"])
    wide = by_run[["difference", "versus"]].mean().unstack()
    seeds = by_run.size().unstack().count().where(wide["difference"].notna().any(), 0)
    kept = seeds.index[seeds == seeds.max()]
    whole = wide["difference"][kept].dropna()
    against = wide["versus"].loc[whole.index, kept].mean(axis=1).mean()
    return Differences(whole.mean(axis=1), whole.shape[1] if len(whole) else 0, float(against))


def by_setting(group: Sequence[tuple[Entry, Entry]], metric: str) -> pd.DataFrame:
    """What the mean of a group is made of: one line a setting, in which its pairs are told apart
    by their labels, with seeds, effect and effect_ci95; no line where there is one setting. Those
    with fewer seeds than others are not in the mean."""
    own, others = ([pair[side].facts for pair in group] for side in (0, 1))
    varied = _varied(own)
    against = [key for key in _varied(others) if key not in varied]
    settings = defaultdict(list)
    for pair, mine, theirs in zip(group, own, others, strict=True):
        told = [_told(key, mine.get(key)) for key in varied]
        told += [f"against {_told(key, theirs.get(key))}" for key in against]
        settings[", ".join(told)].append(pair)
    lines = [
        (name, *over_seeds(seed_differences(settings[name], metric).by_seed))
        for name in sorted(settings)
    ]
    table = pd.DataFrame(lines, columns=SETTING)
    return table if len(table) > 1 else table.iloc[:0]


def _varied(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = sorted({key for one in facts for key in one} - {"seed"})
    return [key for key in keys if len({str(one.get(key)) for one in facts}) > 1]


def _told(key: str, value: Any) -> str:
    """A label and its value: "alpha 0.5", "mixup", "no mixup"."""
    if isinstance(value, bool):
        return key if value else f"no {key}"
    return f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"


def _labels(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in entry.facts.items() if key != "seed"}
