"""The command line: run a profile; verify, compare or re-evaluate its results.

run_all.sh starts it by its path, so that what imports torch waits until the lock is taken.
"""

import argparse
import runpy
import sys
from pathlib import Path
from typing import IO, Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
LOCK = runpy.run_path(str(ROOT / "kdlib" / "lock.py"))  # not imported: that would be `kdlib` first


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

    _add_run(commands)

    check = commands.add_parser("verify", help="recompute every number of a results folder")
    check.add_argument("results", help="e.g. results/digits")
    check.add_argument(
        "--profile", help="whose runs and tables they are (default: the folder's name)"
    )
    _add_changes(check)
    check.set_defaults(do=_verify)

    two = commands.add_parser("compare", help="say which rows of two results folders differ")
    two.add_argument("results", nargs=2, help="e.g. results/digits5 and the --out of another run")
    two.add_argument(
        "--tolerance", type=float, default=0.0, metavar="X",
        help="the largest difference of two numbers that counts as none (default: exact)",
    )  # fmt: skip
    two.set_defaults(do=_compare)

    again = commands.add_parser("evaluate", help="measure stored checkpoints again, then redraw")
    again.add_argument("profile", nargs="?", default="digits")
    again.add_argument("--out", help="results folder (default: results/PROFILE)")
    _add_changes(again)
    again.set_defaults(do=_evaluate)

    times = commands.add_parser("tune", help="time other keys for a profile, print what to paste")
    times.add_argument("profile", nargs="?", default="digits")
    times.add_argument("--steps", type=int, default=5, help="steps of each measurement")
    times.add_argument("--repeats", type=int, default=3, help="measurements, interleaved")
    _add_changes(times)
    times.set_defaults(do=_tune)

    parts = commands.add_parser("parts", help="list methods, losses, models and their options")
    parts.add_argument("plugins", nargs="*", help="files or modules of yours, listed with them")
    parts.set_defaults(do=_parts)

    tiny = commands.add_parser(
        "tiny-imagenet", help="make the npz of Tiny ImageNet's unpacked archive"
    )
    tiny.add_argument("folder", help="the unpacked archive, with train/ and val/")
    tiny.add_argument("--data-dir", help="where the npz goes (default: $KDLIB_DATA, else ./data)")
    tiny.add_argument("--image-size", type=int, default=64)
    tiny.set_defaults(do=_tiny_imagenet)

    doctor = commands.add_parser("doctor", help="say whether torch and torchvision fit")
    doctor.set_defaults(do=_doctor)
    return parser


def _add_run(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser("run", help="train and analyse a profile of params/")
    run.add_argument("profile", nargs="?", default="digits")
    run.add_argument("--dry-run", action="store_true", help="print what would be done")
    run.add_argument(
        "--jobs", type=int, help="notebooks at once (default: what the cores allow; on a GPU one)"
    )
    run.add_argument("--out", help="results folder (default: results/PROFILE)")
    _add_changes(run)
    run.add_argument(
        "--only", action="append", default=[], metavar="NOTEBOOK",
        help="run this notebook of the profile (04, 04_self_distillation) or one of its settings "
        "(02/verdicts); may be repeated",
    )  # fmt: skip
    run.add_argument(
        "--workflow-profile", default="local", metavar="NAME",
        help="where the jobs run: a folder of workflow/profiles (local, slurm) or one of your own",
    )  # fmt: skip
    run.set_defaults(do=_run)


def _add_changes(command: argparse.ArgumentParser) -> None:
    command.add_argument("--trust-data", action="store_true", help="accept another fingerprint")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", type=_assignment,
        help="another value of a key of the params files, in YAML, or of one inside a mapping "
        "(options.kd.temperature=2); may be repeated",
    )  # fmt: skip


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
        raise argparse.ArgumentTypeError(f"the value of {text!r} is no YAML: {told}") from None


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """The keys to set otherwise, each given once."""
    changes: dict[str, Any] = {"trust_data": True} if options.trust_data else {}
    for key, value in options.set:
        if key in ("out_dir", "notebooks"):  # arguments of `plan`, which refuses all others
            raise ValueError(f"--set {key}: unknown key, it is no key of a params file")
        if key in changes:
            raise ValueError(f"--set {key}: given twice; several values are a list, {key}=[...]")
        changes[key] = value
    return changes


def _run(options: argparse.Namespace) -> int:
    held = _lock(options)
    if held is None:
        return LOCK["BUSY"]
    with held:
        from kdlib import batch

        return batch.run(
            options.profile,
            out_dir=options.out,
            jobs=options.jobs,
            dry_run=options.dry_run,
            changes=_changes(options),
            notebooks=options.only,
            workflow_profile=options.workflow_profile,
            held=held,
        )


def _lock(options: argparse.Namespace) -> IO[str] | None:
    """The lock of the run's results folder."""
    known = sorted(path.name for path in (ROOT / "params").glob("*/"))
    if options.profile not in known:  # or a folder would be made for a typo
        from kdlib.plan import profiles
        from kdlib.registry import suggest

        if options.profile not in (there := profiles()):
            hint = suggest(options.profile, there)
            raise LookupError(f"unknown profile {options.profile!r}, {hint}")
    out_dir = Path(options.out).resolve() if options.out else ROOT / "results" / options.profile
    return LOCK["take"](out_dir)


def _verify(options: argparse.Namespace) -> int:
    from kdlib.store import DamagedError
    from kdlib.verify import verify

    results = Path(options.results)
    findings = verify(results)
    try:
        _check_tables(options, results, findings)
    except DamagedError as error:
        findings.mixed.append(f"tables not checked: {error}")
    print(*findings.wrong, *findings.mixed, findings.summary(), sep="\n")
    return 1 if findings.wrong else 0


def _check_tables(options: argparse.Namespace, results: Path, findings: Any) -> None:
    """Add to what was found: tables that are not what the rows give, rows nobody asks for."""
    from kdlib import report
    from kdlib.plan import plan, profiles
    from kdlib.report.text import listed
    from kdlib.store import Store

    name = results.resolve().name
    if not options.profile and name not in profiles():
        told = f"tables not checked: {name} is no profile, --profile says whose they are"
        findings.mixed.append(told)
        return
    whole = plan(options.profile or name, results, **_changes(options))
    rows, asked = Store(results).rows(), whole.rows
    if strays := [row["id"] for row in rows if row["id"] not in asked]:
        findings.mixed.append(f"{len(strays)} rows of runs that params/{whole.profile} does not "
                              f"ask for, so in no table: {listed(strays, 3)}")  # fmt: skip
    for stem, params in _concluded(whole):
        if not (folder := results / stem / params.setting).is_dir():  # not concluded yet
            continue
        try:
            tables = report.differing_tables(stem, rows, params, results)
            findings.wrong += [f"{table} is not what the rows give" for table in tables]
        except ValueError as error:
            findings.wrong.append(f"{folder}: no tables from these rows: {error}")


def _compare(options: argparse.Namespace) -> int:
    from kdlib.compare import compare

    found = compare(*options.results, tolerance=options.tolerance)
    print(*found.lines(), sep="\n")
    return 0 if found.equal else 1


def _concluded(whole: Any) -> list[tuple[str, Any]]:
    """The parts of a profile that write a section of its report."""
    from kdlib import report

    return [(stem, params) for stem, params, _ in whole.parts if report.of(stem)]


def _evaluate(options: argparse.Namespace) -> int:
    held = _lock(options)
    if held is None:
        return LOCK["BUSY"]
    with held:
        from kdlib import report
        from kdlib.pipeline import Lab
        from kdlib.plan import plan

        whole = plan(options.profile, options.out, **_changes(options))
        labs = [(Lab.of(params, whole.out_dir), runs) for _, params, runs in whole.parts]
        shared = {run.id: (lab, run) for lab, runs in labs for run in runs}.values()
        measured = sum(lab.evaluate(run) is not None for lab, run in shared)
        rows = [row for lab, run in shared if (row := lab.stored(run)) is not None]
        print(f"{measured} of {len(shared)} runs measured again, the others lack what that takes")
        for stem, params in _concluded(whole):
            print(report.of(stem).write(rows, params, whole.out_dir))
    return 0


def _tune(options: argparse.Namespace) -> int:
    from kdlib.tune import tune

    for line in tune(options.profile, options.steps, options.repeats, **_changes(options)):
        print(line, flush=True)
    return 0


def _parts(options: argparse.Namespace) -> int:
    from kdlib import config, registry

    config.load_plugins(options.plugins)
    print(*registry.listing(), sep="\n")
    return 0


def _tiny_imagenet(options: argparse.Namespace) -> int:
    from kdlib.data.tiny_imagenet import convert_tiny_imagenet

    print(convert_tiny_imagenet(options.folder, options.data_dir, options.image_size))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from kdlib import _compat

    print(_compat.torchvision_line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
