"""Price the runs of profiles on this machine, from a few steps of each kind of run, and write
docs/results/prices.json, from which the results pages tell what the runs not made would cost.

python scripts/prices.py PROFILE...    all other prices stay as they are
"""

import itertools
import json
import sys

from benchmarks.common import machine
from kdlib import costs, prices
from kdlib.estimate import run_seconds
from kdlib.plan import plan

KNOWN = {"digits", *costs.SHAPES}  # sets whose images are here or have a known shape
CORES = 1  # one measurement at once: a price is of a core that nobody else needs


def main(profiles: list[str]) -> None:
    """Measure and write, notebook by notebook: a large network takes its time on a processor."""
    seconds = prices.stored() if prices.PRICES.exists() else {}
    for profile in profiles:
        for stem, parts in itertools.groupby(plan(profile).parts, lambda part: part.stem):
            asked = {run.id: (run, part.params) for part in parts for run in part.runs}
            found = run_seconds([one for one in asked.values() if one[0].data in KNOWN], CORES)
            hours = sum(found.values()) / 3600
            print(f"{profile} {stem}: {len(found)} runs, {hours:.1f} h of one core", flush=True)
            seconds |= {name: round(value, 1) for name, value in found.items()}
            content = {"machine": machine("cpu", CORES), "seconds": dict(sorted(seconds.items()))}
            prices.PRICES.write_text(json.dumps(content, indent=0) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
