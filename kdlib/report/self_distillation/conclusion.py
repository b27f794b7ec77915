"""What the study found, in sentences that follow from its tables.

A method is better or worse where its interval over at least five seeds lies beyond 0, undecided
where it holds 0; with fewer seeds the range of the methods is described and nothing is decided.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from kdlib import evaluate
from kdlib.grid import NO_KD
from kdlib.report.self_distillation.words import effect_name, method_name
from kdlib.report.text import NUMBERS, VERDICT_SEEDS, listed, number, seeds_note
from kdlib.studies.self_distillation import SUBSETS, SelfDistillation

Line = Mapping[str, Any]
Tables = Mapping[str, pd.DataFrame]
DESCRIBED = ["top1_error_effect", "nll_effect", "ece_effect", "ece_after_effect"]


def answer(tables: Tables, clocked: pd.DataFrame, params: SelfDistillation) -> list[str]:
    """For each main model: what the methods do to its errors, and which to take; to its
    probabilities; the parts averaged over the others; the ensemble of its heads.

    tables: of the section. clocked: of `seconds.timed`.
    """
    sentences: list[str] = []
    length = f"{params.epochs} epoch{'s' * (params.epochs > 1)}"
    for model in params.models:
        name = f"{model}, {length}"
        own = {name: _of(tables[name], model) for name in ("versus_baseline", "effects", "heads")}
        wanted = {*SUBSETS, *params.methods}
        lines = [line for line in own["versus_baseline"] if line["method"] in wanted]
        lines = _named(_most_sure(lines), lambda line: method_name(line["method"], params.options))
        cells = {line["method"]: line for line in _of(tables["cells"], model)}
        if lines and lines[0]["seeds"] >= VERDICT_SEEDS:
            times = {line["method"]: line["slower"] for line in _of(clocked, model)}
            plain = cells[NO_KD]
            sentences.append(f"{name}: {_errors(lines, plain)} {_choice(lines, times)}")
            sentences.append(f"{name}: {_probabilities(lines, cells)}")
        elif lines:
            sentences.append(f"{name}, against the plain network: {_range(lines)}.")
        sentences += _parts(name, own["effects"])
        sentences += _ensembles(name, own["heads"], params)
    return sentences


def _of(table: pd.DataFrame, model: str) -> list[dict[str, Any]]:
    return table[table["model"] == model].to_dict("records") if len(table) else []


def _most_sure(lines: Sequence[Line]) -> list[Line]:
    """Those over at least five seeds, else those over the most."""
    enough = [line for line in lines if line["seeds"] >= VERDICT_SEEDS]
    most = max((line["seeds"] for line in lines), default=0)
    return enough or [line for line in lines if line["seeds"] == most > 0]


def _named(lines: Sequence[Line], name: Callable[[Line], str]) -> list[dict[str, Any]]:
    return [{**line, "name": name(line)} for line in lines]


def _errors(lines: Sequence[Line], plain: Line) -> str:
    start = number(plain["top1_error"], plain["top1_error_ci95"], 100, 2, False)
    text = sides(lines, "top1_error_effect", " points", all_numbers=True)
    return f"top-1 error against the plain network's {start} %: {text} ({_note(lines)})."


def _choice(lines: Sequence[Line], times: Mapping[str, float]) -> str:
    """Which method to take for accuracy, if any, and what it costs."""
    fewer = [line for line in lines if _side(line, "top1_error_effect") == "lower"]
    if all(_side(line, "top1_error_effect") == "higher" for line in lines):
        return (
            "For accuracy none of these is worth having: the plain network is clearly better than "
            "each."
        )
    if not fewer:
        half = 100 * pd.Series([line["top1_error_effect_ci95"] for line in lines]).median()
        return (
            "For accuracy none is clearly worth having: these seeds resolve "
            f"± {half:.2f} points (median half-width)."
        )

    def named(line: Line) -> str:
        time = times.get(line["method"])
        return line["name"] + (f", {time:.2f} times the time of an epoch" if pd.notna(time) else "")

    best = min(fewer, key=lambda line: line["top1_error_effect"])
    cheapest = min(fewer, key=lambda line: times.get(line["method"], float("inf")))
    text = f"For accuracy: {named(best)}, has the lowest mean error"
    if cheapest is not best:
        text += f"; the cheapest that is clearly better than plain is {named(cheapest)}"
    return f"{text}."


def _probabilities(lines: Sequence[Line], cells: Mapping[str, Line]) -> str:
    """NLL and ECE, as trained and after one temperature, and whether that temperature on the plain
    network would have done as well."""
    start = cells[NO_KD]
    # Which way a network errs is what its temperature corrects.
    notes = {
        line["name"]: f", {_confidence(cells[line['method']]['T'])}"
        for line in lines
        if _side(line, "ece_effect") == "higher"
    }
    texts = [
        f"NLL {sides(lines, 'nll_effect')}",
        f"ECE as trained (plain: {start['ece']:.4f}) {sides(lines, 'ece_effect', notes=notes)}",
    ]
    scaled = ""
    if pd.notna(start["ece_after"]):
        after = f"(plain: {start['ece_after']:.4f})"
        texts.append(f"after one temperature each {after} {sides(lines, 'ece_after_effect')}")
        better = [line for line in lines if _side(line, "ece_versus_scaled") == "lower"]
        names = ", ".join(line["name"] for line in better) or "no method"
        scaled = (
            f" As trained, {names} {'has' if len(better) < 2 else 'have'} a clearly lower ECE than "
            "the plain network after one temperature, which costs nothing."
        )
    return f"{'; '.join(texts)}.{scaled}"


def _confidence(temperature: float) -> str:
    """Which way a network errs, by its fitted temperature.

    >>> _confidence(0.5), _confidence(1.25), _confidence(float("nan"))
    ('underconfident: T 0.50', 'overconfident: T 1.25', 'T unknown')
    """
    if pd.isna(temperature):
        return "T unknown"
    return f"{'under' if temperature < 1 else 'over'}confident: T {temperature:.2f}"


def _range(lines: Sequence[Line]) -> str:
    """The smallest and the largest change of each metric, where nothing can be decided."""
    texts = []
    for key in DESCRIBED:
        known = [line for line in lines if pd.notna(line[key])]
        ends = [end(known, key=lambda line: line[key]) for end in (min, max) if known]
        ends = ends[: 1 + (len(known) > 1)]
        points = " points" * key.startswith("top1_error")
        found = " to ".join(f"{_number(line, key)} ({line['name']})" for line in ends)
        texts += [f"{_heading(key)} {found}{points}"] * bool(known)
    return f"{', '.join(texts)} ({_note(lines)})"


def _parts(name: str, effects: Sequence[Line]) -> list[str]:
    """Main effects and clear interactions of the factorial, where it has the seeds for it."""
    lines = _named(effects, lambda line: effect_name(line["effect"]))
    if not lines or lines[0]["seeds"] < VERDICT_SEEDS:
        return []
    main = [line for line in lines if " x " not in line["effect"]]
    texts = [
        f"top-1 error {sides(main, 'top1_error_effect', ' points')}",
        f"NLL {sides(main, 'nll_effect')}",
        f"ECE {sides(main, 'ece_effect')}",
    ]
    crossed = [line for line in lines if line not in main and _clear(line, "top1_error_effect")]
    found = [f"{line['name']} ({_number(line, 'top1_error_effect')} points)" for line in crossed]
    return [
        f"{name}, each part averaged over the others: {'; '.join(texts)}; interactions beyond 0 "
        f"in top-1 error: {listed(found) or 'none'} ({_note(lines)})."
    ]


def _ensembles(name: str, heads: Sequence[Line], params: SelfDistillation) -> Iterator[str]:
    """The ensemble of all heads against the final one: judged where it has the seeds for it."""
    lines = [line for line in heads if line["head"] == evaluate.ENSEMBLE]
    lines = _named(_most_sure(lines), lambda line: method_name(line["method"], params.options))
    if not lines:
        return
    start = f"{name}, ensemble of all heads against the final head:"
    if lines[0]["seeds"] < VERDICT_SEEDS:
        acc, ece = ([line[f"{name}_effect"] for line in lines] for name in ("acc", "ece"))
        yield (
            f"{start} more accurate in {sum(gap > 0 for gap in acc)} of {len(lines)} methods (mean "
            f"{100 * sum(acc) / len(acc):+.2f} points), ECE lower in {sum(gap < 0 for gap in ece)} "
            f"(mean {sum(ece) / len(ece):+.4f}) ({_note(lines)})."
        )
        return
    yield (
        f"{start} accuracy {sides(lines, 'acc_effect', ' points')}; NLL "
        f"{sides(lines, 'nll_effect')}; ECE {sides(lines, 'ece_effect')} ({_note(lines)})."
    )


def sides(
    lines: Sequence[Line],
    key: str,
    unit: str = "",
    notes: Mapping[str, str] | None = None,
    all_numbers: bool = False,
) -> str:
    """Which lines (with a `name`) lie on which side of 0, with their numbers.

    >>> lines = [{"name": name, "nll_effect": value, "nll_effect_ci95": 0.1}
    ...          for name, value in (("A", -0.2), ("B", -0.3), ("C", 0.05))]
    >>> sides(lines, "nll_effect")
    'lower with A (-0.200 ± 0.100) and B (-0.300 ± 0.100), undecided with C'
    >>> sides(lines[2:] * 2, "nll_effect")
    'undecided with all'
    """
    texts = []
    for side in ("lower", "higher", "undecided"):
        found = [line for line in lines if _side(line, key) == side]
        numbers = all_numbers or side != "undecided"
        shown = [
            line["name"]
            + f" ({_number(line, key)}{unit}{(notes or {}).get(line['name'], '')})" * numbers
            for line in found
        ]
        if len(found) == len(lines) > 1 and not numbers:
            shown = ["all"]
        texts += [f"{side} with {listed(shown)}"] * bool(shown)
    return ", ".join(texts)


def _side(line: Line, key: str) -> str:
    if not _clear(line, key):
        return "undecided"
    return "lower" if line[key] < 0 else "higher"


def _clear(line: Line, key: str) -> bool:
    """Whether the interval lies beyond 0: not where there is none."""
    return bool(abs(line[key]) > line[f"{key}_ci95"])


def _number(line: Line, key: str) -> str:
    _, *style = NUMBERS[key]
    return number(line[key], line[f"{key}_ci95"], *style)


def _heading(key: str) -> str:
    return NUMBERS[key.removesuffix("_effect")][0].removesuffix(" %")


def _note(lines: Sequence[Line]) -> str:
    return seeds_note(min(line["seeds"] for line in lines))
