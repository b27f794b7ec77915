"""Price the runs of profiles on this machine, from a few steps of each kind of run, and write
docs/results/prices.json, from which the results pages tell what the runs not made would cost.

python scripts/prices.py PROFILE...    all other prices stay as they are
"""

import argparse
import itertools
import json

from kdlib import prices
from kdlib.estimate import run_seconds
from kdlib.plan import plan, profiles
from kdlib.provenance import machine
from kdlib.stand_ins import measurable

CORES = 1  # one measurement at once: a price is of a core that nobody else needs


def main(wanted: list[str]) -> None:
    """Measure and write, notebook by notebook: a large network takes its time on a processor."""
    empty = {"machines": {}, "seconds": {}}
    content = json.loads(prices.PRICES.read_text()) if prices.PRICES.exists() else empty
    for profile in wanted:
        whole = plan(profile)
        asked = {run.id: (run, part.params) for part in whole.parts for run in part.runs}
        asked = {name: one for name, one in asked.items() if measurable(*one)}
        for notebook, jobs in itertools.groupby(whole.jobs, lambda job: job.notebook):
            made = [[asked[name] for name in job.runs if name in asked] for job in jobs]
            found = run_seconds(made, CORES)
            hours = sum(found.values()) / 3600
            print(f"{profile} {notebook}: {len(found)} runs, {hours:.1f} h of one core", flush=True)
            content["seconds"] |= {name: round(value, 1) for name, value in found.items()}
            content["machines"][profile] = machine("cpu", CORES)
            prices.PRICES.write_text(json.dumps(content, indent=0, sort_keys=True) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Price the runs of profiles on this machine.")
    parser.add_argument("profiles", nargs="+", choices=profiles(), metavar="PROFILE")
    main(parser.parse_args().profiles)
