"""What the verdicts come to: a sentence of all claims, then what is read of each study."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from kdlib.quantities import quantity
from kdlib.report.claims import FAILS, HOLDS, ILLUSTRATION, MOST_SEEDS, NOT_RUN, UNDECIDED
from kdlib.report.literature import SIGN
from kdlib.report.pairs import apart
from kdlib.studies.published_claims import Claims, named

LEVEL = 0.05
FEW = "too few seeds"
MIXED = "holds at one scale and not at another"
HELD, FAILED = (f"{kind} at one scale and is undecided at another" for kind in (HOLDS, FAILS))
BY_SCALE = (MIXED, HELD, FAILED)  # verdicts differ between scales
# What the claims of a standing do, one of them and several.
DO = {
    HOLDS: ("holds", "hold"), FAILS: ("does not hold", "do not hold"),
    MIXED: (MIXED, "hold at one scale and not at another"),
    HELD: (HELD, "hold at one scale and are undecided at another"),
    FAILED: (FAILED, "do not hold at one scale and are undecided at another"),
    UNDECIDED: ("is undecided", "are undecided"),
    FEW: ("has too few seeds for a verdict", "have too few seeds for a verdict"),
    NOT_RUN: ("is not run", "are not run"),
}  # fmt: skip


def standings(claims: Claims, verdicts: pd.DataFrame) -> pd.DataFrame:
    """One line a claim: its `standing`, a key of `DO`, over all scales but digits, and what the
    clearest of its verdicts (the smallest p) says, of those by which it holds where it does at some
    scale; its first line where none is decided."""
    lines = []
    for claim in claims.claims:
        own = verdicts[(verdicts["id"] == claim.id) & (verdicts["verdict"] != ILLUSTRATION)]
        standing = _standing(set(own["verdict"]))
        kind = {HOLDS: HOLDS, MIXED: HOLDS, HELD: HOLDS, FAILS: FAILS, FAILED: FAILS}.get(standing)
        clearest = own[own["verdict"] == kind] if kind else own
        lines.append({
            **clearest.sort_values("p", kind="stable").iloc[0], "claim": claim.claim,
            "standing": standing,
        })  # fmt: skip
    return pd.DataFrame(lines)


def _standing(found: set[str]) -> str:
    if {HOLDS, FAILS} <= found:
        return MIXED
    for kind, partly in ((HOLDS, HELD), (FAILS, FAILED)):
        if kind in found:
            return partly if UNDECIDED in found else kind
    return UNDECIDED if UNDECIDED in found else (NOT_RUN if found == {NOT_RUN} else FEW)


def answer(claims: Claims, verdicts: pd.DataFrame) -> list[str]:
    """What stands of all claims, then sentences of each study: how many hold, do not, are undecided
    or not run, and how that is read (`reading`); without a reading the clearest with its effect and
    interval, beside the published effect."""
    table = standings(claims, verdicts)
    total = _counts(table, f"claims of {len(claims.studies)} public studies")
    total += _refitted(table) + _failed(table) + _after_holm(table)
    total += ". A verdict is about the scale it was measured at, and no more."
    return [total] + [
        _of_study(claims.name(name), table[table["study"] == name], told_of(one.reading, verdicts))
        for name, one in claims.studies.items()
    ]


def scoreboard(claims: Claims, verdicts: pd.DataFrame) -> pd.DataFrame:
    """One line a study and one of all: how many claims there are and have each standing; of those
    that hold at some scale how many `still` do after a fit, where one was made (`fitted`), of those
    that do not in how many the reverse does; how many are our reading of their source."""
    table = standings(claims, verdicts)
    parts = {name: table[table["study"] == name] for name in claims.studies} | {"all": table}
    derived = [claim.id for claim in claims.claims if claim.derived]
    return pd.DataFrame({
        name: {
            "claims": len(own),
            **{kind: int((own["standing"] == kind).sum()) for kind in DO},
            "fitted": len(fits := _fits(own)),
            "still": int(_still(fits).sum()),
            "derived": int(own["id"].isin(derived).sum()),
            "reversed": sum(map(reversed_effect, own[own["standing"] == FAILS].to_dict("records"))),
        }
        for name, own in parts.items()
    }).T  # fmt: skip


def headlines(claims: Claims, verdicts: pd.DataFrame) -> dict[str, str]:
    """Of each study what it was measured on and its `headline`; what `answer` says where it has
    none, or where a claim named in it has no verdict."""
    table, told = standings(claims, verdicts), answer(claims, verdicts)[1:]
    lines = {}
    for (name, study), longer in zip(claims.studies.items(), told, strict=True):
        short = told_of(study.headline, verdicts)
        where, _ = _measured_on(table[table["study"] == name])
        lines[name] = f"{claims.name(name)}{where}. {short}" if short else longer
    return lines


def _failed(table: pd.DataFrame) -> str:
    """Of the claims that do not hold, how many published numbers support, do not support or are
    silent on, and in how many the effect is reversed."""
    failed = table[table["standing"] == FAILS].to_dict("records")
    if not failed:
        return ""
    silent = sum(bool(pd.isna(line.get("published_effect", math.nan))) for line in failed)
    supported, turned = (sum(map(test, failed)) for test in (published_supports, reversed_effect))
    parts = [
        (supported, "contradict published numbers"),
        (len(failed) - supported - silent, "fail in the published numbers, too"),
        (silent, "have no published number"),
    ]
    told = ", ".join(f"{number} {words}" for number, words in parts if number)
    return (
        f". Of the {len(failed)} that do not hold, {told}; in {turned} our effect is beyond the "
        "margin the other way"
    )


def _fits(table: pd.DataFrame) -> pd.DataFrame:
    """The claims that hold, at some scale at least, whose effect can be judged again after a fit on
    validation."""
    return table[(table["verdict"] == HOLDS) & table["fitted"].notna()]


def _still(fits: pd.DataFrame) -> pd.Series:
    """Which of them hold after it, too."""
    signs = fits["side"].map(SIGN)
    return signs * fits["fitted"] - fits["fitted_ci95"] > signs * fits["margin"]


def _refitted(table: pd.DataFrame) -> str:
    fits = _fits(table)
    return (
        f". Of the {len(fits)} that hold, at some scale at least, and can be judged again after a "
        "fit on validation (one temperature, or a logit adjustment), "
        f"{_still(fits).sum()} still do"
    ) * bool(len(fits))


def _after_holm(table: pd.DataFrame) -> str:
    """How many decided claims stay so when p is adjusted for their study's number of claims."""
    decided = table[table["verdict"].isin([HOLDS, FAILS])]
    if decided.empty:
        return ""
    stay, many = int((decided["p_holm"] < LEVEL).sum()), len(decided)
    return (
        f". After Holm p is below {LEVEL:g} for {'all' if stay == many else stay} of {many} decided"
    )


def _of_study(name: str, table: pd.DataFrame, told_of_it: str) -> str:
    where, own = _measured_on(table)
    text = f"{name}{where}: {_lower(_counts(table, 'claims'))}"
    if told_of_it:
        return f"{text}. {told_of_it}"
    for kind in (HOLDS, FAILS):
        lines = table[table["standing"] == kind].sort_values("p", kind="stable").to_dict("records")
        turned = [line for line in lines if reversed_effect(line)]
        supported = [line for line in lines if kind == FAILS and published_supports(line)]
        though = " though published numbers support it" * bool(supported)
        for line in (supported or turned or lines)[:1]:
            text += f"; the clearest that {DO[kind][0]}{though}: “{line['claim'].rstrip('.')}” "
            text += f"({told(line, own[line['scale']])})"
    return f"{text}."


def _measured_on(table: pd.DataFrame) -> tuple[str, dict[str, str]]:
    """What all claims of a study were measured on, " (cifar100, resnet8, 15 epochs; 5 seeds)", and
    what is special of each scale."""
    measured = table.dropna(subset="seeds")
    shared, own = apart(list(measured["scale"].unique())) if len(measured) else ("", {})
    if not shared:
        return "", own
    fewest, most = (f"{number:.0f}" for number in measured["seeds"].agg(["min", "max"]))
    seeds = most if fewest == most else f"{fewest} to {most}"
    return f" ({shared}; {seeds} seed{'s' * (most != '1')})", own


def _counts(table: pd.DataFrame, what: str) -> str:
    """How many claims have which standing: "Of 6 claims 2 hold, 1 is undecided, 3 are not run"."""
    found, number = table["standing"].value_counts().to_dict(), len(table)
    if len(found) == 1:
        (kind,) = found
        none, every = f"None of {number} {what} is run", f"{number} of {number} {what}"
        return none if kind == NOT_RUN else f"{every} {DO[kind][1]}"
    parts = (f"{found[kind]} {DO[kind][found[kind] > 1]}" for kind in DO if kind in found)
    return f"Of {number} {what} {', '.join(parts)}"


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def told(line: Any, where: str = "") -> str:
    """The effect behind a verdict: metric, interval, its ends over the settings it is a mean of,
    the published effect, where."""
    written = quantity(line["metric"])
    published = SIGN[line["side"]] * line.get("published_effect", math.nan)
    parts = [
        ", ".join(filter(None, [f"{written.word} {effect(line)}", over_settings(line)])),
        fitted(line),
        "" if pd.isna(published) else f"published {written.amount(published)}",
        where,
    ]
    return "; ".join(filter(None, parts))


def over_settings(line: Any) -> str:
    """The ends of an effect over the settings that it is a mean of, and how many lack seeds for it:
    "-1.20 to +0.40 points over 8 settings, 8 of fewer seeds left out"; nothing where there is one
    setting."""
    if pd.isna(line.get("settings", math.nan)):
        return ""
    number, left_out = line["settings"], line["left_out"]
    told = quantity(line["metric"]).span(line["lowest"], line["highest"])
    told = f"{told} over {number:.0f} settings" if number > 1 else "1 setting"
    return told + f", {left_out:.0f} of fewer seeds left out" * bool(left_out)


def published_supports(line: Any) -> bool:
    """Whether the published effect, a mean without an interval, lies beyond the margin."""
    return bool(line.get("published_effect", math.nan) > SIGN[line["side"]] * line["margin"])


def to_hold(line: Any) -> str:
    """Where the interval has to lie for the claim to hold: "> +0.50 points"."""
    if pd.isna(line["margin"]):
        return ""
    margin = quantity(line["metric"]).amount(line["margin"])
    return f"{'>' if line['side'] == 'higher' else '<'} {margin}"


def reversed_effect(line: Any) -> bool:
    """Whether a claim fails by more than its margin: the interval lies beyond the margin on the
    other side of 0."""
    if line["verdict"] != FAILS:
        return False
    sign = SIGN[line["side"]]
    highest, margin = sign * line["effect"] + line["effect_ci95"], sign * line["margin"]
    return margin > 0 and highest < -margin


def _contrary(line: Any) -> bool:
    """Whether an effect that holds is beyond the margin the other way in some setting that it is a
    mean of, or one that does not hold is beyond it on the claimed side."""
    if line["verdict"] not in (HOLDS, FAILS) or pd.isna(line.get("settings", math.nan)):
        return False
    sign, margin = SIGN[line["side"]], abs(line["margin"])
    worst, best = sorted(sign * line[end] for end in ("lowest", "highest"))
    return worst < -margin if line["verdict"] == HOLDS else best > margin


def effect(line: Any) -> str:
    """The effect of a line of verdicts with its half-width; nothing for NaN."""
    return quantity(line["metric"]).amount(line["effect"], line["effect_ci95"])


def fitted(line: Any) -> str:
    """What is left of an effect after a fit on validation: "+0.008 ± 0.004 nats after one
    temperature"; nothing where none was made."""
    found = another(line, "fitted")
    fit = "a logit adjustment" if line["metric"] == "acc" else "one temperature"
    bins = " (15 bins)" * (line["metric"] == "ece_10")
    return found and f"{found} after {fit}{bins}"


def another(line: Any, name: str) -> str:
    """The effect that stands under this name in a line of verdicts; nothing where there is none."""
    return effect({"metric": line["metric"], "effect": line.get(name, math.nan),
                   "effect_ci95": line.get(f"{name}_ci95", math.nan)})  # fmt: skip


class Told:
    """The effect of a claim at each of its scales, for a headline or a reading: as it is, `fitted`,
    `beside`, and its ends over `settings`."""

    def __init__(self, lines: pd.DataFrame):
        scales = list(lines["scale"])
        _, where = apart(scales)
        self._lines = [(f" ({where[line['scale']]})" if where[line["scale"]] else "", line)
                       for line in lines.to_dict("records")]  # fmt: skip
        self.fitted, self.beside = (
            self._join(lambda line, name=name: another(line, name)) for name in ("fitted", "beside")
        )
        self.settings = self._join(over_settings)

    def _join(self, words: Callable[[Any], str]) -> str:
        return " and ".join(f"{words(line)}{place}" for place, line in self._lines)

    def __str__(self) -> str:
        return self._join(effect)


def told_of(text: str, verdicts: pd.DataFrame) -> str:
    """A study's headline or reading with the effects of the claims it names; nothing where one of
    them has no verdict."""
    judged = verdicts[verdicts["verdict"].isin([HOLDS, FAILS, UNDECIDED])]
    found = {name: judged[judged["id"] == name] for name in named(text)}
    if any(lines.empty for lines in found.values()):
        return ""
    return " ".join(text.format(**{name: Told(lines) for name, lines in found.items()}).split())


def verdict(line: Any) -> str:
    """A verdict; where it is undecided, by how many seeds, how wide, and how many would decide;
    where it fails by more than its margin, and where some setting says the contrary, that too."""
    if line["verdict"] != UNDECIDED:
        average = " on average, the contrary in some settings" * _contrary(line)
        return (
            line["verdict"]
            + average
            + " (the reverse is beyond the margin)" * reversed_effect(line)
        )
    needed, half = line["seeds_to_decide"], quantity(line["metric"]).size(line["effect_ci95"])
    more = f"more than {MOST_SEEDS}" if needed > MOST_SEEDS else f"{needed:.0f}"
    return f"{UNDECIDED} ({line['seeds']:.0f} seeds, ± {half}; {more} would decide)"


def p_value(value: float) -> str:
    """A p value for readers; nothing for NaN."""
    return "" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
