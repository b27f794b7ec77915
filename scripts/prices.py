"""Price the runs of profiles on this machine, from a few steps of each kind of run, and write
docs/results/prices.json, from which the results pages tell what the runs not made would cost.

python scripts/prices.py PROFILE...    all other prices stay as they are
"""

import itertools
import json
import sys

from kdlib import costs, prices
from kdlib.estimate import run_seconds
from kdlib.plan import plan
from kdlib.provenance import machine

KNOWN = {"digits", *costs.SHAPES}  # sets whose images are here or have a known shape
CORES = 1  # one measurement at once: a price is of a core that nobody else needs


def main(profiles: list[str]) -> None:
    """Measure and write, notebook by notebook: a large network takes its time on a processor."""
    empty = {"machines": {}, "seconds": {}}
    content = json.loads(prices.PRICES.read_text()) if prices.PRICES.exists() else empty
    for profile in profiles:
        whole = plan(profile)
        asked = {run.id: (run, part.params) for part in whole.parts for run in part.runs}
        asked = {name: one for name, one in asked.items() if one[0].data in KNOWN}
        for notebook, jobs in itertools.groupby(whole.jobs, lambda job: job.notebook):
            made = [[asked[name] for name in job.runs if name in asked] for job in jobs]
            found = run_seconds(made, CORES)
            hours = sum(found.values()) / 3600
            print(f"{profile} {notebook}: {len(found)} runs, {hours:.1f} h of one core", flush=True)
            content["seconds"] |= {name: round(value, 1) for name, value in found.items()}
            content["machines"][profile] = machine("cpu", CORES)
            prices.PRICES.write_text(json.dumps(content, indent=0, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
