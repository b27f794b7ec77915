"""Words and numbers for readers: formatted tables, headline sentences, the terminal's summary."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pandas as pd

from kdlib.config import Params
from kdlib.grid import NO_KD
from kdlib.quantities import QUANTITIES, Quantity
from kdlib.report.choice import ENOUGH, objections
from kdlib.report.study import Study
from kdlib.report.tables import cell_label
from kdlib.store import Row

VERDICT_SEEDS = 5
DIGITS = "Digits illustrates and tests; it decides no claim about CIFAR."
Number = tuple[str, int, int, bool]  # heading, scale, digits, whether the sign is always shown


def _columns(name: str, written: Quantity) -> dict[str, Number]:
    """A quantity's own column, that of its differences, and those of what others published."""
    share = " %" * (written.unit == "points")
    points = ", points" * bool(share)
    style, heading = (written.scale, written.digits), written.heading
    return {
        name: (f"{heading}{share}", *style, False),
        f"{name}_effect": (f"{heading} effect{points}", *style, True),
        f"{name}_published": (f"{heading}{share} published", *style, False),
        f"{name}_effect_published": (f"{heading} effect published{points}", *style, True),
    }


def _like(metric: str, heading: str, signed: bool = False) -> Number:
    """A column of another name that is written as a metric is."""
    written = QUANTITIES[metric]
    return (heading, written.scale, written.digits, signed)


NUMBERS: dict[str, Number] = {
    column: number
    for name, written in QUANTITIES.items()
    for column, number in _columns(name, written).items()
}
NUMBERS |= {
    "ece_floor": _like("ece", "ECE floor"),
    "acc_selected": _like("acc", "ACC % selected"),
    "ece_selected": _like("ece", "ECE selected"),
    "val_acc": _like("acc", "validation ACC %"),
    "plain_val_acc": _like("acc", "no KD, validation ACC %"),
    "val_nll": _like("nll", "validation NLL"),
    "val_ece": _like("ece", "validation ECE"),
    "val_harmonic": _like("harmonic", "validation Harmonic"),
    "accuracy": _like("acc", "ACC %"),
    "ece_batches": _like("ece", "mean ECE of batches of 128"),
    "ece_floor_batch": _like("ece", "floor of batches"),
    "acc_median": _like("acc", "median ACC points", signed=True),
    "nll_median": _like("nll", "median NLL", signed=True),
    "ece_median": _like("ece", "median ECE", signed=True),
    "acc_best": _like("acc", "its ACC points", signed=True),
    "nll_best": _like("nll", "its NLL", signed=True),
    "ece_best": _like("ece", "its ECE", signed=True),
    "inside": _like("acc", "errors inside %"),
    "between": _like("acc", "errors between %"),
    "nll_versus_scaled": _like("nll", "NLL less plain after T", signed=True),
    "ece_versus_scaled": _like("ece", "ECE less plain after T", signed=True),
    "kd_share_first": ("KD share first", 1, 2, False),
    "kd_share_last": ("KD share last", 1, 2, False),
    "choice_same": ("% of choices the same", 100, 0, False),
    "top5_images": ("% in top 5, images redrawn", 100, 1, False),
    "top5_seeds": ("% of seeds in top 5", 100, 0, False),
    "T": ("T", 1, 3, False),
    "tau": ("tau", 1, 2, False),
    "parameters": ("parameters", 1, 0, False),
    "parameters_with_heads": ("parameters with side heads", 1, 0, False),
    "MFLOP": ("MFLOP", 1, 1, False),
    "MFLOP_with_heads": ("MFLOP with side heads", 1, 1, False),
    "latency_1": ("ms, batch 1", 1, 2, False),
    "latency_128": ("ms, batch 128", 1, 1, False),
    "seconds_an_epoch": ("seconds an epoch", 1, 2, False),
    "slower": ("times the plain network's", 1, 2, False),
    "slower_low": ("its lowest round", 1, 2, False),
    "slower_high": ("its highest round", 1, 2, False),
    "mean_gap": ("mean difference", 1, 2, True),
    "gap_size": ("its mean size", 1, 2, False),
    "largest_gap": ("the largest", 1, 2, False),
}
WORDS = {
    "at_bound": "fits at a bound", "better": "better in both", "clear": "clearly so",
    "kd_method": "KD", "teacher_loss": "teacher", "student_loss": "student",
    "cells_ranked": "of", "effect_seeds": "seeds of effect", "other_factor": "other factor",
}  # fmt: skip
FACTORS = {
    "kd_method": "KD method", "teacher_loss": "teacher loss", "student_loss": "student loss",
    "mixup": "mixup",
}  # fmt: skip


def number(value: float, half: float, scale: float, digits: int, signed: bool) -> str:
    """A number with its half-width where there is one; nothing for NaN.

    >>> number(0.8312, 0.004, 100, 2, False), number(0.01, float("nan"), 1, 3, True)
    ('83.12 ± 0.40', '+0.010')
    """
    if pd.isna(value):
        return ""
    text = f"{scale * value:{'+' if signed else ''}.{digits}f}"
    return text if pd.isna(half) else f"{text} ± {scale * half:.{digits}f}"


def listed(words: Sequence[str], most: int | None = None) -> str:
    """Words as in a sentence; after `most` of them, how many more there are.

    >>> listed(["a", "b", "c"]), listed(["a"]), listed([])
    ('a, b and c', 'a', '')
    >>> listed(["a", "b", "c", "d"], most=2)
    'a, b and 2 more'
    """
    shown = list(words[:most])
    shown += [f"{len(words) - len(shown)} more"] * (len(words) > len(shown))
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def word(value: Any) -> str:
    """A label or its value as readers know it: switches are on or off, nothing stands for NaN."""
    if pd.isna(value):
        return ""
    return {"True": "on", "False": "off", **FACTORS}.get(str(value), str(value))


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table of text: percent and units in the headings, intervals behind their means."""
    columns, headed = {}, defaultdict(list)
    for name, column in table.items():
        if name in NUMBERS:
            heading, *style = NUMBERS[name]
            halves = table.get(f"{name}_ci95", pd.Series(float("nan"), table.index))
            columns[heading] = [number(*pair, *style) for pair in zip(column, halves, strict=True)]
        elif not name.endswith("_ci95"):
            heading = WORDS.get(name, name.replace("_", " "))
            columns[heading] = column.map(word)
        else:
            continue
        headed[heading].append(name)
    if doubled := [names for names in headed.values() if len(names) > 1]:
        raise ValueError(f"columns of one heading: {doubled}")
    return pd.DataFrame(columns)


def title(params: Params) -> str:
    """What a grid was measured on.

    >>> title(Params(data="digits", imbalance_factor=50, mixup=[False], seeds=[0, 1]))
    'KD x calibration on digits, imbalance factor 50, without mixup, 2 seeds'
    """
    factor, seeds = params.imbalance_factor, len(params.seeds)
    tail = "class counts as they are" if factor is None else f"imbalance factor {factor:g}"
    mixed = f", with{'out' * (not params.mixup[0])} mixup" * (len(params.mixup) == 1)
    return f"KD x calibration on {params.data}, {tail}{mixed}, {seeds} seed{'s' * (seeds != 1)}"


def seeds_note(seeds: int) -> str:
    """What a number of seeds allows to say."""
    if seeds < 2:
        return "1 seed, no interval, descriptive"
    verdict = "" if seeds >= VERDICT_SEEDS else f", descriptive: a verdict takes {VERDICT_SEEDS}"
    return f"{seeds} seeds, mean ± half of the 95 % t interval{verdict}"


def best(study: Study) -> str:
    """The cell that validation chooses and how it does on test, or why none is called best."""
    reasons = objections(study.students)
    if reasons:
        return (
            f"No cell is called best: {' and '.join(reasons)}, and a choice takes {ENOUGH} images "
            "with every class among them."
        )
    if study.best.empty:
        return "No cell is called best: no two with KD have all their seeds."
    line, shown = study.best.iloc[0], readable(study.best).iloc[0]
    text = (
        f"Best by validation: {line['cell']} (Harmonic {shown['validation Harmonic']} there); on "
        f"test ACC {shown['ACC %']} %, ECE {shown['ECE']}, Harmonic {shown['Harmonic']}, rank "
        f"{line['rank']} of {line['cells_ranked']}"
    )
    for sure in study.certainty.to_dict("records"):
        ranks, chosen = (
            f"{sure[f'{name}_low']:.0f} to {sure[f'{name}_high']:.0f}"
            for name in ("rank", "choice")
        )
        text += (
            f", {ranks} in 95 % of 1000 bootstraps of the test images; redrawn validation images "
            f"choose the same cell in {100 * sure['choice_same']:.0f} % of 1000 bootstraps, and "
            f"cells of the test ranks {chosen} in 95 %"
        )
    return f"{text}."


def answer(study: Study) -> list[str]:
    """The answer in three sentences: what KD does, what calibration in training does, and whether
    either beats a plain student adjusted after training."""
    found = {factor: _effects(study, factor) for factor in FACTORS}
    kd = found.pop("kd_method")
    trained = "; ".join(text for text in found.values() if text)
    sentences = (kd, trained and f"Calibration in training: {trained}", _after(study.contests))
    note = seeds_note(study.seeds).split(":")[0]
    return [f"{text} ({note})." for text in sentences if text]


def resolution(study: Study) -> str:
    """How large an effect has to be to be seen with so many seeds."""
    parts = []
    for name, table in (("a main effect", study.summary), ("an interaction", study.interactions)):
        if len(table) and table["acc_effect_ci95"].notna().any():
            acc, ece = (table[f"{metric}_effect_ci95"].median() for metric in ("acc", "ece"))
            parts.append(f"± {100 * acc:.2f} ACC points and ± {ece:.4f} ECE for {name}")
    if not parts:
        return "With fewer than two complete seeds there is no interval: it resolves nothing."
    return f"{study.seeds} seeds resolve (median half-width): {', '.join(parts)}."


def _effects(study: Study, factor: str) -> str:
    """The paired effects of a factor's levels; nothing where there is none. Where it has one level,
    the level is named here, else at its effect."""
    effects = study.summary[study.summary["factor"] == factor].dropna(subset="acc_effect")
    if effects.empty:
        return ""
    ends = (_ends(effects, column) for column in ("acc_effect", "ece_effect"))
    spans = "accuracy {} points, ECE {}".format(*ends)
    only = word(effects["level"].iloc[0]) if len(effects) == 1 else ""
    versus = word(effects["versus"].iloc[0])
    if factor == "kd_method" and versus == NO_KD:
        return f"{(only or 'kd').upper()} against no teacher, {spans}"
    return f"{' '.join(filter(None, [FACTORS[factor], only]))} against {versus}, {spans}"


def _after(contests: pd.DataFrame) -> str:
    """How many cells, as trained, beat the plain student after each honest adjustment."""
    if contests.empty:
        return ""
    bound = contests["against plain with"].str.contains("bound")
    honest = contests[(contests["cells adjusted"] == "as trained") & ~bound]
    texts = [
        f"{adjustment} ({_judged(part)}): {' and '.join(map(_beaten, part.to_dict('records')))}"
        for adjustment, part in honest.groupby("against plain with", sort=False)
    ]
    return f"Cells as trained that beat the plain student after {'; after '.join(texts)}"


def _judged(part: pd.DataFrame) -> str:
    """By which metrics, and what speaks against the adjustment's fit."""
    line = part.iloc[0]
    texts = [f"in {line['metrics']}"]
    if line["at_bound"]:
        seeds = line["seeds"]
        texts.append(f"its fit ended at a bound in {line['at_bound']} of {seeds} seeds")
    if line["seeds"] > 1 and part["clear"].isna().all():
        texts.append("no interval, for an NLL is infinite")
    return ", ".join(texts)


def _beaten(line: Any) -> str:
    group = {"KD": "with KD", "no KD": "without"}[line["cells are"]]
    better = line["better"] or "none"
    clearly = f" ({line['clear']} clearly)" * bool(line["better"] and pd.notna(line["clear"]))
    return f"{better} of {line['cells']} {group}{clearly}"


def _ends(effects: pd.DataFrame, column: str) -> str:
    """The smallest and the largest effect with their levels, or the only one."""
    shown = readable(effects)[NUMBERS[column][0]]
    low, high = effects[column].idxmin(), effects[column].idxmax()
    if len(effects) == 1:
        return shown[low]
    return " to ".join(f"{shown[at]} ({effects['level'][at]})" for at in (low, high))


def flagged(rows: Sequence[Row]) -> pd.DataFrame:
    """One line a flag of a run."""
    lines = [
        {"cell": cell_label(row["labels"]), "seed": row["run"]["seed"], "flag": flag}
        for row in rows
        for flag in row["flags"]
    ]
    return pd.DataFrame(lines, columns=["cell", "seed", "flag"])


def terminal(study: Study) -> str:
    """A grid in at most 25 lines of plain text."""
    setting = f" ({study.params.setting})" if study.params.setting else ""
    runs = f"students: {len(study.students)}, teachers: {len(study.teachers)}"
    lines = [title(study.params) + setting, f"{runs}; {seeds_note(study.seeds)}"]
    effects = study.summary[study.summary["pairs"] > 0]
    names = [
        f"{FACTORS[factor]} {word(level)} - {word(versus)}"
        for factor, level, versus in zip(
            effects["factor"], effects["level"], effects["versus"], strict=True
        )
    ]
    lines += _aligned("effect", names, effects, ["acc_effect", "ece_effect"])
    ranked = study.cells["harmonic"].count()
    if ranked > 1:
        head = f"top {len(study.top)} of {ranked} by test Harmonic, descriptive"
        lines += _aligned(head, study.top["cell"], study.top, ["acc", "ece", "harmonic"])
    counts = Counter(flag for row in study.students for flag in row["flags"])
    flags = (f"{flag}: {count} runs" for flag, count in sorted(counts.items()))
    lines += [f"flagged: {', '.join(flags)}"] if counts else ["flagged: nothing"]
    lines += [best(study)]
    lines += [DIGITS] if study.params.data == "digits" else []
    return "\n".join(lines) + "\n"


def _aligned(
    head: str, names: Sequence[str], table: pd.DataFrame, columns: Sequence[str]
) -> list[str]:
    """Lines of a table, names to the left, numbers to the right; none for an empty table."""
    shown = readable(table)[[NUMBERS[name][0] for name in columns]].set_axis(list(names))
    return shown.rename_axis(columns=head).to_string().splitlines() if len(shown) else []
