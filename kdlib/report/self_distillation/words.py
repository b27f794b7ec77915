"""The self-distillation study in sentences: its question, its answer, how it is measured."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from kdlib.grid import NO_KD
from kdlib.report.text import NUMBERS, VERDICT_SEEDS, number, seeds_note
from kdlib.store import Row
from kdlib.studies.self_distillation import PARTS, SelfDistillation

PART_NAMES = {NO_KD: "baseline", "pskd": "PS-KD", "byot": "BYOT", "dmfl": "DMFL"}
QUESTION = """Which of PS-KD (labels softened by the network's own past), BYOT (side heads taught by
the final one) and DMFL (mutual learning of their features) improves a network, and its
calibration, and what does that cost? Every subset of the three, against the same network without
any."""
MEASURED = """All numbers are of the last epoch on the test images. Differences are taken inside
each seed, between runs that share initial weights, batches and validation images; an interval is
the 95 % t interval over seeds. ECE has 15 equal-width bins (10 where stated, as published); its
floor is what a perfectly calibrated network would show. T is one temperature fitted on validation:
below 1 the network was not confident enough, above 1 too confident. AURC and E-AURC are x1000. A
method's network is judged without its side heads, which only training needs; heads and their
ensemble (mean of probabilities) have a table of their own, of the side heads that BYOT taught to
classify. BYOT adds the side heads' losses and counts the main cross-entropy once (published code:
1.9 times; the option is label_weight). DMFL is a true KL with gradient into both features."""
HEADS = "Heads from input to output, and the ensemble of all of them"
SIZES = "Trainable parameters"
CELLS = "Every model and method, before and after one temperature T"
VERSUS = "Difference from the plain network, paired inside seeds"
FACTORIAL = "Main effects and interactions of the 2^3 factorial, inside seeds"
ABLATIONS = """Ablations: difference from the same cell with all heads and stages, paired inside
seeds"""
PUBLISHED = """Ours beside the published numbers (CIFAR-100, one seed, 300 epochs by its schedule,
the epoch chosen on test). Where network or schedule are smaller only the effects, differences from
each study's own baseline, are comparable"""
PAIRED = """The published table read in pairs of cells that differ in one part. Its DMFL had no
gradient, so its differences are those of repeated trainings: the noise of one run"""
TIMES = """Seconds an epoch of training, alone on one machine, methods in turn; timings differ from
machine to machine"""


def title(params: SelfDistillation) -> str:
    """What the study was measured on."""
    return f"Self-distillation on {params.data}"


def method_name(method: str) -> str:
    """A method as readers know it.

    >>> method_name("none"), method_name("pskd+byot_from2")
    ('baseline', 'PS-KD + byot_from2')
    """
    return " + ".join(PART_NAMES.get(part, part) for part in method.split("+"))


def effect_name(effect: str) -> str:
    """A factorial effect as readers know it."""
    return " x ".join(PART_NAMES[part] for part in effect.split(" x "))


def named(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the methods' names for readers."""
    names = {"effect": effect_name}
    names |= dict.fromkeys(("method", "versus method", "part"), method_name)
    return table.assign(**{key: table[key].map(names[key]) for key in names if key in table})


def change(line: Mapping, metric: str) -> str:
    """An effect of a table's line in words.

    >>> line = {"nll_effect": -0.1, "nll_effect_ci95": 0.02}
    >>> change(line, "nll"), change(line | {"nll_effect_ci95": float("nan")}, "nll")
    ('NLL -0.100 ± 0.020', 'NLL -0.100')
    """
    heading, scale, digits, _ = NUMBERS[metric]
    value, half = line[f"{metric}_effect"], line[f"{metric}_effect_ci95"]
    percent = heading.endswith("%")
    words = number(value, half, scale, digits, True)
    return f"{heading.removesuffix(' %')} {words}{' points' * percent}"


def answer(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """What was found: a sentence for each model and part, of the factorial where it has as many
    seeds as the part alone, the ensembles, and how noisy the published table is."""
    alone = _by_part(tables["versus_baseline"], "method")
    factorial = _by_part(tables["effects"], "effect")
    sentences = []
    for key in alone | factorial:
        line, kind = alone.get(key), "alone"
        average = factorial.get(key)
        if line is None or (average and average["seeds"] >= line["seeds"]):
            line, kind = average, "averaged over the other parts"
        if line["seeds"]:
            model, part = key
            sentences.append(f"{method_name(part)} on {model}, {kind}: {_changes(line)}.")
    return [*sentences, *_ensembles(tables["heads"]), *_noise(tables["published_pairs"])]


def _by_part(table: pd.DataFrame, column: str) -> dict[tuple[str, str], dict]:
    """The lines of single parts by model and part."""
    lines = table.to_dict("records")
    return {(line["model"], line[column]): line for line in lines if line[column] in PARTS}


def _changes(line: Mapping) -> str:
    """The changes that matter, how many seeds, and which of them are clear where that is enough."""
    metrics = ("top1_error", "nll", "ece", "ece_after")
    text = ", ".join(change(line, name) for name in metrics if pd.notna(line[f"{name}_effect"]))
    note = seeds_note(line["seeds"]).split(":")[0]
    if line["seeds"] < VERDICT_SEEDS:
        return f"{text} ({note})"
    clear = [name for name in metrics if abs(line[f"{name}_effect"]) > line[f"{name}_effect_ci95"]]
    heads = ", ".join(NUMBERS[name][0].removesuffix(" %") for name in clear) or "none of them"
    return f"{text} ({note}; interval beyond 0: {heads})"


def _ensembles(heads: pd.DataFrame) -> Iterator[str]:
    """The ensemble of all heads against the final one, counted over the methods that have it."""
    for model, group in heads.groupby("model", sort=False) if len(heads) else ():
        wide = group.pivot(index="method", columns="head", values=["acc", "ece"])
        acc, ece = (wide[name]["ensemble"] - wide[name]["final"] for name in ("acc", "ece"))
        yield (
            f"The ensemble of all heads on {model}: more accurate than the final head in "
            f"{(acc > 0).sum()} of {len(wide)} methods (mean {100 * acc.mean():+.2f} points), ECE "
            f"lower in {(ece < 0).sum()} (mean {ece.mean():+.4f}); descriptive."
        )


def _noise(pairs: pd.DataFrame) -> list[str]:
    """What the published table itself says about its noise."""
    found = pairs[(pairs["part"] == "dmfl") & (pairs["metric"].str.startswith("top-1"))]
    return [
        "The published table measures its own noise: its DMFL had no gradient, yet "
        f"{line['pairs']} pairs with and without it differ by {line['gap_size']:.2f} points of "
        f"top-1 error on average, at most {line['largest_gap']:.2f}."
        for line in found.to_dict("records")
    ]


def scale(rows: Sequence[Row]) -> list[str]:
    """How large the study is, and the data as used."""
    seeds = sorted({row["run"]["seed"] for row in rows})
    data = rows[0]["data"]
    counts = {name: sum(data[key]) for name, key in (("training", "class_counts"),
              ("validation", "val_counts"), ("test", "test_counts"))}  # fmt: skip
    images = ", ".join(f"{count} {name}" for name, count in counts.items())
    return [f"{len(rows)} runs, seeds {', '.join(map(str, seeds))}; {images} images."]


def summary(title: str, lines: Sequence[str]) -> str:
    """The section for the terminal."""
    return "\n".join([title, *(f"  {line}" for line in lines), ""])
