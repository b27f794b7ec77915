"""Draw the tables of benchmarks/README.md, and README's one of speed, from results/*.json:
`python -m benchmarks.readme`."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from benchmarks import common

PAGES = common.HERE / "README.md", common.HERE.parent / "README.md"
EQUAL = "fp32, its format made equal"
SPEED = "speed"  # a block of the headlines of several files
BLOCK = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def block(pattern: str, folder: Path) -> str:
    """The rows of all files of a pattern in one table, and on what they were measured; for SPEED
    the headlines.

    ValueError where there is no such file: a table may not vanish silently.
    """
    if pattern == SPEED:
        return f"{common.table(headlines(folder))}\n"
    results = _results(pattern, folder)
    return f"{common.table(_rows(results))}\n\n{_facts(results)}\n"


def headlines(folder: Path) -> list[dict[str, str]]:
    """How many times faster than what, in both precisions and, against a peer, at equal precision
    and memory format: medians of ratios."""
    found = [
        _headline("RepDistiller's loop, as shipped", f"{row['method'].upper()}, {row['pair']}",
                  bf16=row["as shipped, bf16"], fp32=row["as shipped, fp32"],
                  **{EQUAL: row["equal: fp32, channels_last"]})
        for row in _rows(_results("step_*.json", folder))
    ]  # fmt: skip
    cached: dict[tuple[str, int], dict[str, dict]] = {}
    for row in _rows(_results("cached.json", folder)):
        if row["plain / cached"]:  # some methods have nothing to cache
            by_precision = cached.setdefault((row["method"], row["teachers"]), {})
            by_precision[row["precision"]] = row["plain / cached"]
    for (method, teachers), by_precision in cached.items():
        what = f"cached {method}, {teachers} teacher{'s' * (teachers > 1)}, Fashion-MNIST"
        found.append(_headline("a plain loop in fp32 that asks its teachers", what, **by_precision))
    for row in _rows(_results("cohorts_*.json", folder)):
        if row["cohort"] == 16:
            what = f"16 students side by side, {row['pair']}"
            found.append(_headline("one student", what, **{row["precision"]: row["gain over one"]}))
    return found


def _headline(slower: str, what: str, **ratios: dict[str, float]) -> dict[str, str]:
    shown = {name: f"{ratios[name]['median']:.1f}x" if name in ratios else ""
             for name in ("bf16", "fp32", EQUAL)}  # fmt: skip
    return {"against": slower, "what": what, **shown}


def _results(pattern: str, folder: Path) -> list[dict]:
    if not (paths := sorted(folder.glob(pattern))):
        raise ValueError(f"no file {pattern} in {folder}")
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _rows(results: list[dict]) -> list[dict]:
    return [row for result in results for row in result["rows"]]


def _facts(results: list[dict]) -> str:
    """One sentence a machine: what it is, and the ranges of what differs between its files."""
    groups: dict[str, list[dict]] = {}
    for result in results:
        machine = result["machine"]
        flags = ", ".join(machine["flags"]) or "none of AVX2, AVX-512, AMX"
        gpu = "" if machine["device"] == "cpu" else f"{machine['device']}, "
        where = f"{gpu}{machine['cpu']} ({flags}), {machine['cores']} cores, {machine['threads']} "
        where += f"thread(s), torch {machine['torch']}, {result['clock']} time"
        groups.setdefault(where, []).append(result)
    return " ".join(
        f"{where}; repeats {_span(one['repeats'] for one in group)}, "
        f"of steps {_span(one['steps'] for one in group)}; "
        f"load {_span(one['machine']['load'] for one in group)}; "
        f"{_span(one['machine']['date'] for one in group)}."
        for where, group in groups.items()
    )


def _span(values: Iterable) -> str:
    low, *_, high = sorted([*values] * 2)
    return f"{low}" if low == high else f"{low} to {high}"


def render(text: str, folder: Path = common.HERE / "results") -> str:
    """A page with every block between its marks drawn anew."""
    return BLOCK.sub(lambda found: found[1] + block(found[2], folder) + found[3], text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")
