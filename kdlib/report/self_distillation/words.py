"""The self-distillation study in words: its question, how it is measured, captions and names."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd

from kdlib.grid import NO_KD
from kdlib.names import called
from kdlib.store import Row
from kdlib.studies.self_distillation import SelfDistillation

NOTHING: Mapping[str, Any] = MappingProxyType({})
QUESTION = """Which of PS-KD (labels softened by the network's own past), BYOT (side heads taught by
the final one) and DMFL (mutual learning of their features) improves a network, and its
calibration, and what does that cost? Every subset of the three, against the same network without
any (the plain network; in tables, the baseline)."""
MEASURED = """All numbers are of the last epoch on the test images. Differences are taken inside
each seed, between runs that share initial weights, batches and validation images; an interval is
the 95 % t interval over seeds, not adjusted for the number of comparisons, and one seed has none:
its numbers describe what happened and decide nothing. ECE has 15 equal-width bins (10 where
stated, as published); its floor is what a perfectly calibrated network would show. T is one
temperature fitted on validation: below 1 the network was not confident enough, above 1 too
confident. AURC and E-AURC are x1000. A method's network is judged without its side heads, which
only training needs; heads and their ensemble (mean of probabilities) have a table of their own, of
the side heads that BYOT taught to classify. BYOT adds the side heads' losses and counts the main
cross-entropy once (published code: 1.9 times; the option is label_weight). DMFL is a true KL with
gradient into both features."""
INSIDE = "inside seeds; intervals where there are two seeds or more"
CELLS = """Every model and method, before and after one temperature T: means over seeds ± half of
the 95 % t interval; one seed has no interval and decides nothing"""
VERSUS = "Difference from the plain network of the same seed (seeds in brackets)"
VERSUS_TABLE = f"""Difference from the plain network, {INSIDE}. The last two columns: the method as
trained less the plain network after its one temperature"""
FACTORIAL = """Main effects and interactions of the 2^3 factorial, computed inside each seed that
has all eight subsets (seeds in brackets)"""
FACTORIAL_TABLE = f"Main effects and interactions of the 2^3 factorial, {INSIDE}"
ABLATIONS = f"Ablations: difference from the same cell with all heads and stages, {INSIDE}"
HEADS = f"""Heads from input to output, and the ensemble of all of them (mean of probabilities);
effects: difference from the final head, {INSIDE}"""
ERROR_AND_COST = """Top-1 error, and what an epoch of training costs (intervals are of the means;
methods of a seed are paired, so differences are surer than these)"""
BY_HEAD = """Heads from input to output, and their ensemble (mean of probabilities); dashed,
the plain network"""
SIZES = """What a network costs: trainable parameters, and operations of one forward of one image;
with side heads in training and for the ensemble, without them after training"""
PUBLISHED = """Ours beside the published numbers (CIFAR-100, one seed, 300 epochs by its schedule,
the epoch chosen on test). Where network or schedule are smaller only the effects, differences from
each study's own baseline (ours inside seeds), are comparable"""
PAIRED = """The published table read in pairs of cells that differ in one part. Its DMFL had no
gradient, so its differences are those of repeated trainings: the noise of one run"""
CLOCKS = {
    "CPU": """computing time of one thread, in which waiting for a core that other work had too does
not count (sharing memory with it does)""",
    "wall": "by the clock on the wall, other work of the machine included",
}


def title(params: SelfDistillation) -> str:
    """What the study was measured on."""
    return f"Self-distillation on {params.data}"


def method_name(method: str, options: Mapping[str, Any] = NOTHING) -> str:
    """A method as readers know it. options: of the params, what a name of theirs changes.

    >>> method_name("none"), method_name("pskd+byot")
    ('baseline', 'PS-KD + BYOT')
    >>> method_name("late+dmfl", {"late": {"of": "byot", "first_head": 2}})
    'BYOT (first head 2) + DMFL'
    """
    names = []
    for part in method.split("+"):
        changed = dict(options.get(part, {}))
        name = changed.pop("of", part)
        what = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in changed.items())
        names.append(("baseline" if name == NO_KD else called(name)) + f" ({what})" * bool(what))
    return " + ".join(names)


def effect_name(effect: str) -> str:
    """A factorial effect as readers know it."""
    return " x ".join(called(part) for part in effect.split(" x "))


def named(table: pd.DataFrame, params: SelfDistillation) -> pd.DataFrame:
    """A table with the methods' names for readers."""
    names = {"effect": effect_name}
    for column in ("method", "versus method", "part"):
        names[column] = lambda method: method_name(method, params.options)
    return table.assign(**{key: table[key].map(names[key]) for key in names if key in table})


def seeds_of(table: pd.DataFrame) -> str:
    """Over how many seeds the points of a figure are.

    >>> seeds_of(pd.DataFrame({"seeds": [5, 1, 5]}))
    'mean over 5 seeds with its 95 % t interval, or a single seed (hollow, no interval)'
    """
    counts = sorted({int(count) for count in table["seeds"] if count}, reverse=True)
    texts = [f"mean over {count} seeds with its 95 % t interval" for count in counts if count > 1]
    return ", or ".join([*texts, *["a single seed (hollow, no interval)"] * (1 in counts)])


def times(clocked: pd.DataFrame) -> str:
    """The caption of the table of times (`kdlib.report.self_distillation.seconds.timed`)."""
    line = clocked.iloc[0]
    return (
        f"Seconds of an epoch of training, of each network alone: {CLOCKS[line['clock']]}. The "
        f"fastest of {line['rounds']} rounds in which all methods take a few steps in turn; how "
        "many times the plain network's, the median of the rounds and their range. Timings differ "
        "from machine to machine"
    )


def noise(pairs: pd.DataFrame) -> list[str]:
    """What the published table itself says about its noise."""
    if pairs.empty:  # the published table is not at hand
        return []
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
