"""What rows say to who has to choose: which options raise accuracy, which calibrate, and what of
that is left after a fit on validation.

An option is a level of a choice (a KD method, a loss, mixup) against the level that stands for not
choosing it, in pairs of runs equal in everything else, as claims are judged.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from kdlib.names import called
from kdlib.quantities import QUANTITIES, quantity
from kdlib.registry import TARGETS, TERMS
from kdlib.report.controls import WEIGHT
from kdlib.report.pairs import (
    DIGITS,
    Entry,
    apart,
    by_scale,
    scale,
    scale_key,
    seed_differences,
)
from kdlib.report.tables import CELL, over_seeds
from kdlib.report.text import listed, seeds_note
from kdlib.studies.published_claims import Claims, Comparison

KD = "kd_method"
SHOWN = 4  # options that a sentence names
JUDGED = ("acc", "ece")  # of the metrics of `kdlib.report.pairs.metric_of`
# What is compared, as its heading says: the option's metric, and the other side's where it differs.
DIFFERENCES = {
    "Δ accuracy": ("acc", ""),
    "Δ ECE": ("ece", ""),
    "Δ accuracy after logit adjustment": ("logit_adjustment.acc", ""),
    "Δ ECE after one temperature": ("temperature.ece", ""),
    "Δ NLL after one temperature": ("temperature.nll", ""),
    "Δ ECE against the other fitted": ("ece", "temperature.ece"),
}
GAIN, CALIBRATION, ADJUSTED, *_, BEYOND_FIT = DIFFERENCES
FITS = """ACC and ECE on test, as trained; Δ: the difference to what stands under "against". Means ±
half of the 95 % t interval over seeds, not adjusted for the number of options. After a fit (a
logit adjustment, one temperature): both sides are fitted on validation, then compared on test.
Against the other fitted: the option as trained beside the other after one temperature."""
FIXED = "Where a grid has runs with and without mixup, an option is judged without."


@dataclass(frozen=True)
class Choice:
    """A label, its value for not choosing, the values that are options (None: all others, of KD
    methods those registered and `variants`), labels that an option has beside it, and how it and
    what it is compared with are called (`against`, default as `words`). by: labels whose every
    value that rows have makes a choice of its own, because what an option does hangs on them;
    `words` may name them. fixed: a label's value at which options are judged where rows have it,
    because the label is a choice of its own."""

    key: str
    versus: dict[str, Any]
    levels: tuple[Any, ...] | None = None
    variants: tuple[str, ...] = ()
    where: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)
    free: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    words: str = "{}"
    against: str = ""
    fixed: dict[str, Any] = field(default_factory=dict)


PLAIN = {"mixup": False}


# Study -> the notebook of its students, and the choices they differ in.
CHOICES: dict[str, tuple[str, tuple[Choice, ...]]] = {
    "kd_calibration": ("02_students", (
        Choice(KD, {KD: "none", "teacher_loss": "none"}, variants=("kd_adjusted",),
               by=("teacher_loss", "student_loss"),
               words="{} from teachers of {teacher_loss} to students of {student_loss}",
               against="{}", fixed=PLAIN),
        Choice("student_loss", {"student_loss": "ce"}, by=(KD,), words="{} with {kd_method}",
               fixed=PLAIN),
        Choice("teacher_loss", {"teacher_loss": "ce"}, words="{} in the teacher", fixed=PLAIN),
        Choice("mixup", {"mixup": False}, words="mixup", against="no mixup"),
    )),
    "self_distillation": ("04_self_distillation", (Choice("method", {"method": "none"}),)),
    "multi_teacher": ("05_multi_teacher_fidelity", (Choice("method", {"method": "none"}),)),
    "overlapping_teachers": ("06_overlapping_teachers", (
        Choice("method", {"method": "none"}, where={"role": "student"},
               free=("teachers", "setting"), by=("alpha", "temperature"),
               words="{}, alpha {alpha}, T {temperature}", against="{}"),
    )),
}  # fmt: skip


def legend(study: str) -> str:
    """What the tables of `advice` and `elsewhere` show."""
    fixed = any(choice.fixed for choice in CHOICES[study][1])
    return " ".join(FITS.split()) + f" {FIXED}" * fixed


def options(study: str, found: Sequence[Entry]) -> pd.DataFrame:
    """One line a scale and option: `DIFFERENCES`, level minus not choosing it, means over seeds
    with half-widths (`*_ci95`; NaN where no fit was made), its own accuracy and ECE; only options
    with as many seeds as the scale's others."""
    notebook, choices = CHOICES.get(study, ("", ()))  # none: nothing to advise on
    lines = []
    for profile in dict.fromkeys(entry.facts["profile"] for entry in found):
        own = [
            entry
            for entry in found
            if (entry.facts["notebook"], entry.facts["profile"]) == (notebook, profile)
        ]
        for choice in itertools.chain.from_iterable(_split(own, choice) for choice in choices):
            for level in choice.levels or _levels(own, choice):
                lines += _lines(own, notebook, choice, level)
    table = pd.DataFrame(line for line in lines if line["seeds"])
    if table.empty:
        return table
    most = table.groupby(["profile", "scale"])["seeds"].transform("max")
    return table[table["seeds"] == most].reset_index(drop=True)


def _split(own: Sequence[Entry], choice: Choice) -> Iterable[Choice]:
    """The choice for every value that rows have of the labels it hangs on: of both sides, or of the
    option's where the other has no such label."""
    for values in itertools.product(*(_values(own, key, choice.variants) for key in choice.by)):
        labels = dict(zip(choice.by, values, strict=True))
        names = {key: called(value) for key, value in labels.items()}
        words, against = (
            text.format("{}", **names) for text in (choice.words, choice.against or choice.words)
        )
        plain = [one.facts for one in own if choice.versus.items() <= one.facts.items()]
        shared = {key: labels[key] for key in labels if any(key in facts for facts in plain)}
        alone = {key: labels[key] for key in labels.keys() - shared.keys()}
        fixed = {key: value for key, value in choice.fixed.items()
                 if any(one.facts.get(key) == value for one in own)}  # fmt: skip
        yield replace(choice, where=choice.where | fixed | shared, beside=choice.beside | alone,
                      words=words, against=against)  # fmt: skip


def _levels(own: Sequence[Entry], choice: Choice) -> list[Any]:
    there = _values(own, choice.key, choice.variants)
    return [one for one in there if one not in ("none", choice.versus[choice.key])]


def _values(own: Sequence[Entry], key: str, variants: Sequence[str]) -> list[Any]:
    """What rows have of a label, sorted; of KD methods what is registered, its sums, `variants`."""
    there = sorted({entry.facts[key] for entry in own if key in entry.facts}, key=str)
    if key != KD:
        return there
    known = {"none", *variants, *TERMS.names(), *TARGETS.names()}
    return [one for one in there if known.issuperset(one.split("+"))]


def _lines(
    own: Sequence[Entry], notebook: str, choice: Choice, level: Any
) -> Iterable[dict[str, Any]]:
    comparison = Comparison(
        notebook=notebook, profiles=("any",), metric="acc", side="higher",
        where=choice.where or None, level={choice.key: level} | choice.beside, versus=choice.versus,
        free=choice.free,
    )  # fmt: skip
    groups = by_scale(own, comparison)
    kinds = {bool(group[0][0].taught_by) for group in groups}
    for group in groups:
        told, (*key, lengths) = group[0][0].facts, scale_key(group[0][0])
        whole = [
            (entry, entry)
            for entry in own
            if scale_key(entry)[:-1] == (*key,)
            and (not lengths or entry.taught_epochs in ((), lengths))
        ]  # teachers, too
        line = {"profile": told["profile"], "scale": scale(whole), "data": told["data"]}
        taught = f", with{'' if group[0][0].taught_by else 'out'} a teacher" * (len(kinds) > 1)
        line["option"] = choice.words.format(called(level)) + taught
        line["against"] = choice.against.format(called(choice.versus[choice.key]))
        for name, (metric, other) in DIFFERENCES.items():
            values, _, versus = seed_differences(group, metric, other)
            effect, half, seeds = over_seeds(values)
            line |= {name: effect, f"{name}_ci95": half}
            if metric in JUDGED and not other:
                line |= {metric: versus + effect, "seeds": seeds}
        kept = (one.row.get("data", {}).get("val_counts", ()) for one, _ in group)
        yield line | {"validated": max(map(sum, kept))}


def advice(study: str, found: Sequence[Entry], claims: Claims) -> list[tuple[str, pd.DataFrame]]:
    """What to choose at each scale: sentences that say where, how sure and what is clearly better,
    and the options for readers, the most accurate first. Empty without rows."""
    return [(_where(part, where), _readable(part)) for where, part in _scales(study, found, claims)]


def elsewhere(study: str, found: Sequence[Entry], claims: Claims) -> list[tuple[str, pd.DataFrame]]:
    """The same of all other scales with real data: of fewer seeds, or of profiles that judge no
    claim."""
    table = options(study, found)
    if table.empty:
        return []
    rest = table.drop(_leading(table, study, claims).index)
    return [
        (_where(part, where), _readable(part))
        for where, part in _by_scale(rest[rest["data"] != DIGITS])
    ]


def _where(part: pd.DataFrame, where: str) -> str:
    seeds = int(part["seeds"].max())
    note = "1 seed, descriptive" if seeds == 1 else f"{seeds} seeds"
    note += "; digits illustrates and decides nothing" * bool((part["data"] == DIGITS).all())
    if part["validated"].max():
        note += f"; fits on {part['validated'].max():,} validation images"
    lines = part.sort_values("acc", ascending=False).to_dict("records")
    good = [f"{line['option']} (against {line['against']})" for line in lines if _gains(line)]
    if seeds == 1:
        return f"{where} ({note})."
    return (
        f"{where} ({note}). Clearly better in accuracy, or in ECE by more than one temperature, "
        f"and clearly worse in neither: {listed(good, SHOWN) or 'nothing'}."
    )


def _readable(part: pd.DataFrame) -> pd.DataFrame:
    """The options for readers, the most accurate first, with the differences that any has."""
    shown = [name for name in DIFFERENCES if part[name].notna().any()]
    return pd.DataFrame(
        {
            "option": line["option"], "against": line["against"],
            "ACC %": f"{100 * line['acc']:.2f}", "ECE": f"{line['ece']:.4f}",
        }
        | {name: _effect(line, name) for name in shown}
        for line in part.sort_values("acc", ascending=False).to_dict("records")
    )  # fmt: skip


def helped(study: str, found: Sequence[Entry], claims: Claims) -> list[str]:
    """A sentence a scale of several seeds: the options that gain (`_gains`), with both effects, the
    most accurate first; a scale is told from the others."""
    told, scales = [], _scales(study, found, claims)
    _, own = apart([where for where, _ in scales]) if scales else ("", {})
    for where, part in scales:
        if part["seeds"].max() == 1:
            continue
        gained = [
            f"{line['option']}, against {line['against']} ({_told(line)})"
            for line in part.sort_values("acc", ascending=False).to_dict("records")
            if _gains(line)
        ]
        on = f" ({own[where]})" if own[where] else ""
        told.append(f"What helped{on}: {'; '.join(gained[:SHOWN]) or 'nothing'}.")
    return told


def _told(line: dict[str, Any]) -> str:
    adjusted = _effect(line, ADJUSTED)
    after = f", {adjusted} after logit adjustment" * bool(adjusted)
    return (
        f"{QUANTITIES['acc'].level(line['acc'])} accurate, {_effect(line, GAIN)}{after}; "
        f"ECE {line['ece']:.4f}, {_effect(line, CALIBRATION)}"
    )


def _scales(study: str, found: Sequence[Entry], claims: Claims) -> list[tuple[str, pd.DataFrame]]:
    """The options of each scale that leads (`_leading`)."""
    table = options(study, found)
    return [] if table.empty else _by_scale(_leading(table, study, claims))


def _leading(table: pd.DataFrame, study: str, claims: Claims) -> pd.DataFrame:
    """The options at scales that have the seeds of a verdict or, where none has, at those with
    most. Of the profiles that judge the study's claims, else of others, else of digits."""
    judges = {name for claim in claims.of(study) for name in claim.judged_by.profiles}
    real = table["data"] != DIGITS
    for wanted in (real & table["profile"].isin(judges), real, ~real):
        if wanted.any():
            table = table[wanted]
            break
    return table[table["seeds"] >= min(claims.seeds, table["seeds"].max())]


def _by_scale(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    groups = table.groupby(["profile", "scale"], sort=False)
    return [(where, part) for (_, where), part in groups]


def _direction(line: dict[str, Any], name: str) -> int:
    """Where the interval lies; with one seed, which has none, where the effect does."""
    effect, half = line[name], line[f"{name}_ci95"]
    half = 0.0 if pd.isna(half) else half
    return (effect > half) - (effect < -half)


def _gains(line: dict[str, Any]) -> bool:
    """Whether an option is clearly better in accuracy, or in ECE than the other both as trained and
    (where it has one) after one temperature, and clearly worse in neither as trained."""
    more, calibrated = _direction(line, GAIN), -_direction(line, CALIBRATION)
    needed = calibrated == 1 and (pd.isna(line[BEYOND_FIT]) or _direction(line, BEYOND_FIT) == -1)
    return min(more, calibrated) >= 0 and (more == 1 or needed)


def _effect(line: dict[str, Any], name: str) -> str:
    return quantity(DIFFERENCES[name][0]).amount(line[name], line[f"{name}_ci95"])


def other_weights(table: pd.DataFrame, options: Mapping[str, Any]) -> str:
    """In sentences, how other weights of its methods change accuracy on validation; nothing where
    none was asked for. table: of `kdlib.report.controls.control_grids`; options: of its params,
    which say what each variant varies."""
    lines = table.to_dict("records")
    bases = {tuple(line[key] for key in CELL): line for line in lines}
    told, seeds = {}, set()
    for line in lines:
        method = options.get(line["kd_method"], {}).get("of")
        base = bases.get((method, *(line[key] for key in CELL[1:])))
        if base is None or not line["change"].startswith(WEIGHT):
            continue
        if gap := QUANTITIES["acc"].amount(line["val_acc"] - base["val_acc"]):
            own = told.setdefault(base["cell"], [])
            own.append(f"{gap} at {line['change'].removeprefix(WEIGHT)}")
            seeds.add(line["seeds"])
    if not told:
        return ""
    changes = "; ".join(f"{cell} {listed(own)}" for cell, own in told.items())
    note = seeds_note(min(seeds)).split(",")[0]
    return (
        "Claims compare the methods at the weights that the grid gives them. At others, accuracy "
        f"on validation changes by: {changes} ({'at least ' * (len(seeds) > 1)}{note})."
    )
