"""Claims against stored rows: paired differences inside each seed, and the verdict they allow.

The rule is `params/claims.yaml`'s. Rows of any profile are read, nothing is trained.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from kdlib.report.literature import SIGN
from kdlib.report.pairs import (
    DIGITS,
    SCALE,
    SETTING,
    Entry,
    by_scale,
    by_setting,
    pairs,
    scale,
    seed_differences,
)
from kdlib.report.tables import over_seeds
from kdlib.studies.published_claims import Claim, Claims, Comparison

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"
ILLUSTRATION = "digits: no verdict"
MOST_SEEDS = 1000
PLACE = {*SCALE} - {"teachers"}
# A metric, and what is left of it after a fit on validation: of the class prior for accuracy, of
# one temperature for calibration.
FITTED = {
    "acc": "logit_adjustment.acc", "ece": "temperature.ece", "ece_10": "temperature.ece",
    "nll": "temperature.nll",
}  # fmt: skip


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

    effect: level minus versus in the metric's unit, with `effect_ci95`; settings, lowest, highest:
    how many settings it is a mean of, and their ends (`by_setting`); left_out: how many have too
    few seeds to be in it; versus: the mean of the latter; fitted: the same effect on what is left
    after a fit (`FITTED`); beside: that of the claim's third level; p: of the two-sided t test
    against the margin, so below 0.05 where the interval excludes it.
    """
    judged = claim.judged_by
    name = {"id": claim.id, "study": claim.study, "metric": judged.metric, "side": judged.side}
    lines = []
    for group in by_scale(found, judged):
        told = group[0][0].facts
        if told["data"] != DIGITS and told["profile"] not in judged.profiles:
            continue
        if line := _line(claim, claims, group):
            line |= _readings(judged, group, found)
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
    parts = by_setting(group, claim.judged_by.metric)
    if len(parts):
        own = parts.loc[parts["seeds"] == parts["seeds"].max(), "effect"]
        line |= {"settings": len(own), "lowest": own.min(), "highest": own.max()}
        line["left_out"] = len(parts) - len(own)
    if group[0][0].facts["data"] == DIGITS:
        return line | {"verdict": ILLUSTRATION}
    line["verdict"] = verdict(sign * effect, half, seeds, margin, claims.seeds)
    if seeds >= claims.seeds:
        line["p"] = _p(sign * values, margin)
    if line["verdict"] == UNDECIDED:
        line["seeds_to_decide"] = seeds_to_decide(sign * effect, values.std(), margin)
    return line


def _readings(
    judged: Comparison, group: Sequence[tuple[Entry, Entry]], found: Sequence[Entry]
) -> dict[str, float]:
    """What an effect is to be read by, where there is such a thing: see `judge`."""
    line, judging = {}, seed_differences(group, judged.metric)
    left = seed_differences(group, FITTED.get(judged.metric, ""))
    if (left.pairs, len(left.by_seed)) == (judging.pairs, len(judging.by_seed)):
        line["fitted"], line["fitted_ci95"], _ = over_seeds(left.by_seed)
    if judged.beside:
        free = (*judged.free, "teachers")  # which a student of labels alone lacks
        third = judged.model_copy(update={"level": judged.beside, "free": free})
        place = {key: value for key, value in group[0][0].facts.items() if key in PLACE}
        own = [
            pair
            for pair in pairs(found, third)
            if all(pair[0].facts.get(key) == value for key, value in place.items())
        ]
        if own:
            line["beside"], line["beside_ci95"], _ = over_seeds(
                seed_differences(own, judged.metric).by_seed
            )
    return line


def _p(values: pd.Series, margin: float) -> float:
    spread = values.std()
    if spread == 0:
        return 1.0 if values.mean() == margin else 0.0
    return float(stats.ttest_1samp(values, margin).pvalue)


def settings(claims: Claims, found: Sequence[Entry]) -> pd.DataFrame:
    """The effect of every judged claim in each setting that it leaves open, those too that have too
    few seeds to be in its mean: descriptive, so without verdicts and not adjusted."""
    parts = [pd.DataFrame(columns=["id", "profile", "scale", "metric", *SETTING])]
    for claim in claims.claims:
        judged = claim.judged_by
        for group in by_scale(found, judged):
            profile = group[0][0].facts["profile"]
            if profile in judged.profiles:
                head = {"id": claim.id, "profile": profile, "scale": scale(group)}
                part = by_setting(group, judged.metric)
                parts.append(part.assign(**head, metric=judged.metric)[list(parts[0])])
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def verdicts(claims: Claims, found: Sequence[Entry]) -> pd.DataFrame:
    """`judge` of every claim, with `p_holm`: adjusted inside each study and profile over its
    verdicts and the claims without one, so that what is not run buys nothing."""
    lines = [line for claim in claims.claims for line in judge(claim, claims, found)]
    columns = ["id", "study", "profile", "scale", "metric", "side", "pairs", "seeds", "effect",
               "effect_ci95", "settings", "lowest", "highest", "left_out", "versus", "fitted",
               "fitted_ci95", "beside", "beside_ci95", "margin", "p",
               "verdict", "seeds_to_decide"]  # fmt: skip
    table = pd.DataFrame(lines, columns=columns)
    table.insert(columns.index("p") + 1, "p_holm", np.nan)
    judged = table[table["verdict"].isin([HOLDS, FAILS, UNDECIDED])]
    for (study, _), family in judged.groupby(["study", "profile"]):
        size = len(family) + len({one.id for one in claims.of(study)} - set(family["id"]))
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
