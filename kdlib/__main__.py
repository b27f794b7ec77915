"""The command line: run a profile, verify or re-evaluate its results."""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from kdlib import _compat, batch, grid
from kdlib.config import Params
from kdlib.pipeline import Lab
from kdlib.plan import Plan, plan, profiles
from kdlib.store import Store
from kdlib.verify import verify


def main(arguments: list[str] | None = None) -> int:
    """Parse and do; bad input is one line on stderr and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        return options.do(options)
    except (ValueError, LookupError, OSError) as error:
        print(f"kdlib: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kdlib", description=__doc__)
    commands = parser.add_subparsers(required=True)

    run = commands.add_parser("run", help="train and analyse a profile of params/")
    run.add_argument("profile", nargs="?", default="digits")
    run.add_argument("--dry-run", action="store_true", help="print what would be done")
    run.add_argument(
        "--jobs", type=int, help="notebooks at once (default: the cores; on a GPU one)"
    )
    run.add_argument("--out", help="results folder (default: results/PROFILE)")
    run.add_argument("--trust-data", action="store_true", help="accept another fingerprint")
    run.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", type=_assignment,
        help="another value of a key of the params files, in YAML; may be repeated",
    )  # fmt: skip
    run.set_defaults(do=_run)

    check = commands.add_parser("verify", help="recompute every number of a results folder")
    check.add_argument("results", help="e.g. results/digits")
    check.set_defaults(do=_verify)

    again = commands.add_parser("evaluate", help="measure stored checkpoints again, then redraw")
    again.add_argument("profile", nargs="?", default="digits")
    again.add_argument("--out", help="results folder (default: results/PROFILE)")
    again.set_defaults(do=_evaluate)

    doctor = commands.add_parser("doctor", help="say whether torch and torchvision fit")
    doctor.set_defaults(do=_doctor)
    return parser


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    return key, yaml.safe_load(value)


def _run(options: argparse.Namespace) -> int:
    return batch.run(
        options.profile,
        out_dir=options.out,
        jobs=options.jobs,
        dry_run=options.dry_run,
        changes=dict(options.set) | ({"trust_data": True} if options.trust_data else {}),
    )


def _verify(options: argparse.Namespace) -> int:
    from kdlib import report  # pandas and seaborn: a second that the other commands save

    findings, results = verify(options.results), Path(options.results)
    if results.resolve().name in profiles() and (results / grid.STUDY).is_dir():
        rows = Store(results).rows()
        for params in _settings(plan(results.resolve().name, results)):
            tables = report.differing_tables(rows, params, results)
            findings.wrong += [f"{table} is not what the rows give" for table in tables]
    print(*findings.wrong, findings.summary(), sep="\n")
    return 1 if findings.wrong else 0


def _settings(whole: Plan) -> list[Params]:
    """The params of each grid of a profile, from the last of its files."""
    return list({params.setting: params for params, _ in whole.parts}.values())


def _evaluate(options: argparse.Namespace) -> int:
    from kdlib import report

    whole = plan(options.profile, options.out)
    measured, rows = 0, []
    for params, runs in whole.parts:
        lab = Lab.of(params, whole.out_dir)
        measured += sum(lab.evaluate(run) is not None for run in runs)
        rows += [row for run in runs if (row := lab.stored(run)) is not None]
    print(f"{measured} of {len(whole.runs)} runs measured again, the others have no checkpoint")
    for params in _settings(whole):
        print(report.write(rows, params, whole.out_dir))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    print(_compat.torchvision_line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
