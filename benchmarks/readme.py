"""Draw the tables of benchmarks/README.md from results/*.json: `python -m benchmarks.readme`."""

import json
import re
from pathlib import Path

from benchmarks import common

README = common.HERE / "README.md"
BLOCK = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def block(pattern: str, folder: Path) -> str:
    """The rows of all files of a pattern in one table, and on what they were measured.

    ValueError where there is no such file: a table may not vanish silently.
    """
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise ValueError(f"no file {pattern} in {folder}")
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    rows = [row for result in results for row in result["rows"]]
    facts = dict.fromkeys(_facts(result) for result in results)
    return f"{common.table(rows)}\n\n{'; '.join(facts)}.\n"


def _facts(result: dict) -> str:
    machine = result["machine"]
    flags = ", ".join(machine["flags"]) or "none of AVX2, AVX-512, AMX"
    return (
        f"{machine['cpu']} ({flags}), {machine['cores']} cores, {machine['threads']} thread(s), "
        f"torch {machine['torch']}, {result['clock']} time, {result['repeats']} repeats of "
        f"{result['steps']} steps, load {machine['load']}, {machine['date']}"
    )


def render(text: str, folder: Path = common.HERE / "results") -> str:
    """A page with every block between its marks drawn anew."""
    return BLOCK.sub(lambda found: found[1] + block(found[2], folder) + found[3], text)


if __name__ == "__main__":
    README.write_text(render(README.read_text(encoding="utf-8")), encoding="utf-8")
