"""Claims against stored rows: paired differences inside each seed, and the verdict they allow.

The rule is `params/claims.yaml`'s. Rows of any profile are read, nothing is trained.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from kdlib.config import fingerprint
from kdlib.report.literature import SIGN
from kdlib.report.tables import PUBLISHED, over_seeds
from kdlib.store import Row, read_row
from kdlib.studies.published_claims import Claim, Claims, Comparison

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"
ILLUSTRATION = "digits: no verdict"
DIGITS = "digits"
RESULTS = PUBLISHED.parents[1]
MOST_SEEDS = 1000
# Facts that say what a difference was measured on; `seed` and `profile` pair, too.
SCALE = ("profile", "data", "imbalance_factor", "image_size", "classes", "model", "teachers",
         "recipe", "epochs", "precision")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Entry:
    """A stored run: what it can be told by, the networks that teach it, its row."""

    facts: dict[str, Any]
    taught_by: tuple[str, ...]
    row: Row


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


def entries(folders: Mapping[str, Path]) -> list[Entry]:
    """Every run stored under the folders of these profiles, once.

    DamagedError that names the file where a row is not what was written.
    """
    found = []
    for profile, folder in folders.items():
        paths = sorted(folder.glob("[0-9]*/**/rows/*.json"))
        rows = {row["id"]: row for row in map(read_row, paths)}
        models = {name: row["run"]["model"] for name, row in rows.items()}
        for row in rows.values():
            teachers = (models.get(teacher, "?") for teacher in row["run"]["teachers"])
            found.append(Entry(facts(row, profile), tuple(dict.fromkeys(teachers)), row))
    return found


def facts(row: Row, profile: str) -> dict[str, Any]:
    """The labels of a run, and `SCALE`, `seed` and `notebook`; what does not apply is left out.

    classes: how many of the set's it has, where not all; teachers: how many, where several; recipe:
    a hash of how it was trained.
    """
    run = row["run"]
    recipe, teachers = run["recipe"], run["teachers"]
    found = {
        "profile": profile,
        "notebook": row["folder"].split("/")[0],
        "recipe": recipe and fingerprint(recipe)[:8],
        "epochs": recipe and recipe["epochs"],
        "classes": run.get("classes") and len(run["classes"]),
        "teachers": len(teachers) if len(teachers) > 1 else None,
        **{key: run[key] for key in ("data", "imbalance_factor", "image_size", "model")},
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
    """Runs of `level` with those of `versus` that agree in all that the comparison leaves open."""
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
    return [(entry, other) for entry in level for other in partners[same(entry)]]


def by_scale(found: Sequence[Entry], judged: Comparison) -> list[list[tuple[Entry, Entry]]]:
    """The pairs in groups that were measured on the same thing."""
    groups = defaultdict(list)
    for pair in pairs(found, judged):
        groups[tuple(pair[0].facts.get(key) for key in SCALE)].append(pair)
    return list(groups.values())


def scale(group: Sequence[tuple[Entry, Entry]]) -> str:
    """What a group was measured on: "cifar10 IF 100, resnet20 -> resnet8, 40 epochs"."""
    told = group[0][0].facts
    teachers = sorted({name for pair in group for entry in pair for name in entry.taught_by})
    what = told["data"]
    what += f" IF {told['imbalance_factor']:g}" if "imbalance_factor" in told else ""
    what += f", {told['classes']} classes" if "classes" in told else ""
    if len(teachers) > 2:
        teachers = [f"{told.get('teachers', len(teachers))} teachers"]
    who = f"{' + '.join(teachers)} -> {told['model']}" if teachers else told["model"]
    epochs = f", {told['epochs']} epochs" if "epochs" in told else ""
    precision = f", {told['precision']}" if told["precision"] != "fp32" else ""
    return f"{what}, {who}{epochs}{precision}"


class Differences(NamedTuple):
    """by_seed: the mean difference of each seed, level minus versus; pairs: how many a seed has;
    versus: the mean of what they are measured against."""

    by_seed: pd.Series
    pairs: int
    versus: float


def seed_differences(group: Sequence[tuple[Entry, Entry]], metric: str) -> Differences:
    """The differences of a group, seed by seed.

    Pairs that have rows of fewer seeds than others (a part of a grid that has one seed), or this
    metric in none, do not count; a seed counts where it has the metric of all pairs that do: one
    run whose metric is no number takes its seed away, not its pair.
    """
    lines = pd.DataFrame([
        {
            "seed": one.facts["seed"],
            "pair": fingerprint([_labels(one), _labels(other)]),
            "level": metric_of(one.row, metric),
            "versus": metric_of(other.row, metric),
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


def _labels(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in entry.facts.items() if key != "seed"}


def verdict(effect: float, half: float, seeds: int, margin: float, needed: int) -> str:
    """What an interval allows to say. effect and margin: towards the claimed side.

    >>> verdict(0.02, 0.01, 5, 0.005, 5), verdict(0.0, 0.004, 5, 0.005, 5)
    ('holds', 'does not hold')
    >>> verdict(0.01, 0.006, 5, 0.005, 5), verdict(0.02, 0.01, 3, 0.005, 5)
    ('undecided', '3 seeds: no verdict')
    """
    if seeds < needed:
        return f"{seeds} seed{'s' * (seeds != 1)}: no verdict"
    if effect - half > margin:
        return HOLDS
    return FAILS if effect + half < margin else UNDECIDED


def seeds_to_decide(effect: float, spread: float, margin: float) -> float:
    """The fewest seeds whose 95 % interval would exclude the margin, if effect and spread (standard
    deviation over seeds) stay; inf beyond MOST_SEEDS.

    >>> seeds_to_decide(0.01, 0.005, 0.005)
    7
    """
    for seeds in range(2, MOST_SEEDS + 1):
        half = stats.t.ppf(0.975, seeds - 1) * spread / math.sqrt(seeds)
        if half < abs(effect - margin):
            return seeds
    return math.inf


def judge(claim: Claim, claims: Claims, found: Sequence[Entry]) -> list[dict[str, Any]]:
    """One line a scale of a claim's profiles, then of digits, which illustrates; "not run" alone
    where no profile that may decide has rows.

    effect: level minus versus in the metric's unit, with `effect_ci95`; versus: the mean of the
    latter; p: of the two-sided t test against the margin, so below 0.05 where the interval excludes
    it.
    """
    judged = claim.judged_by
    name = {"id": claim.id, "study": claim.study, "metric": judged.metric, "side": judged.side}
    lines = []
    for group in by_scale(found, judged):
        told = group[0][0].facts
        if told["data"] != DIGITS and told["profile"] not in judged.profiles:
            continue
        if line := _line(claim, claims, group):
            lines.append(name | {"profile": told["profile"], "scale": scale(group)} | line)
    shown = [line for line in lines if line["verdict"] == ILLUSTRATION]
    decided = [line for line in lines if line["verdict"] != ILLUSTRATION]
    return (decided or [name | {"verdict": NOT_RUN}]) + shown


def _line(
    claim: Claim, claims: Claims, group: Sequence[tuple[Entry, Entry]]
) -> dict[str, Any] | None:
    """The effect in a group and its verdict; nothing where no seed has a number."""
    sign, margin = SIGN[claim.judged_by.side], claims.margin(claim)
    values, number, versus = seed_differences(group, claim.judged_by.metric)
    effect, half, seeds = over_seeds(values)
    if not seeds:
        return None
    line = {"pairs": number, "seeds": seeds, "effect": effect, "effect_ci95": half}
    line |= {"versus": versus, "margin": sign * margin}
    if group[0][0].facts["data"] == DIGITS:
        return line | {"verdict": ILLUSTRATION}
    line["verdict"] = verdict(sign * effect, half, seeds, margin, claims.seeds)
    if seeds >= claims.seeds:
        line["p"] = _p(sign * values, margin)
    if line["verdict"] == UNDECIDED:
        line["seeds_to_decide"] = seeds_to_decide(sign * effect, values.std(), margin)
    return line


def _p(values: pd.Series, margin: float) -> float:
    spread = values.std()
    if spread == 0:
        return 1.0 if values.mean() == margin else 0.0
    return float(stats.ttest_1samp(values, margin).pvalue)


def verdicts(claims: Claims, found: Sequence[Entry]) -> pd.DataFrame:
    """`judge` of every claim, with `p_holm`: adjusted inside each study and profile over as many
    claims as the study has, those not run included, so that what is not run buys nothing."""
    lines = [line for claim in claims.claims for line in judge(claim, claims, found)]
    columns = ["id", "study", "profile", "scale", "metric", "side", "pairs", "seeds", "effect",
               "effect_ci95", "versus", "margin", "p", "verdict", "seeds_to_decide"]  # fmt: skip
    table = pd.DataFrame(lines, columns=columns)
    table.insert(columns.index("p") + 1, "p_holm", np.nan)
    judged = table[table["verdict"].isin([HOLDS, FAILS, UNDECIDED])]
    for (study, _), family in judged.groupby(["study", "profile"]):
        size = max(len(claims.of(study)), len(family))
        table.loc[family.index, "p_holm"] = holm(family["p"], size)
    return table


def holm(p: Sequence[float], size: int) -> np.ndarray:
    """p values adjusted for a family of `size`, of which these are some (Holm 1979).

    >>> holm([0.01, 0.04], size=3)
    array([0.03, 0.08])
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate((size - np.arange(len(values))) * values[order])
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted
