"""Show what a batch survives: SIGKILLs at random moments, flipped bytes, cut files.

  python scripts/chaos.py kill   [--times 20] [--profile digits] [--only NN]... [--set K=V]...
  python scripts/chaos.py damage [--times 50] [...the same]

Both work in a temporary folder (--work DIR: in this one, kept) and end with exit code 0 only if
all is as it should be.

kill: runs the profile undisturbed; then again, killing the whole process group at random moments
until it has been killed so many times and is done. All tables and all metrics must be the same.
damage: runs the profile, then flips a byte of a random file or cuts it, so many times over all
kinds of files. Each must be named, none loaded, and the next run must put everything right.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# timings.csv says how long it took; the executed notebooks and the page carry it, too.
TIMED = {"timings.csv"}


def command(options: argparse.Namespace, out_dir: Path) -> list[str]:
    """./run_all.sh for this profile into that folder."""
    words = [str(ROOT / "run_all.sh"), options.profile, "--out", str(out_dir)]
    words += ["--jobs", str(options.jobs)]
    words += [word for name in options.only for word in ("--only", name)]
    return words + [word for change in options.set for word in ("--set", change)]


def run(options: argparse.Namespace, out_dir: Path) -> str:
    """The profile undisturbed; what it printed. CalledProcessError where it fails."""
    done = subprocess.run(
        command(options, out_dir), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        print(done.stdout)
        done.check_returncode()
    return done.stdout


def digests(out_dir: Path) -> dict[str, str]:
    """sha256 of every table, and of every row's metrics."""
    found = {}
    for path in sorted(out_dir.rglob("*.csv")):
        if path.name not in TIMED:
            found[str(path.relative_to(out_dir))] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(out_dir.rglob("rows/*.json")):
        row = json.loads(path.read_text())
        kept = json.dumps([row[key] for key in ("metrics", "history", "data", "files")])
        found[str(path.relative_to(out_dir))] = hashlib.sha256(kept.encode()).hexdigest()
    return found


def same(expected: dict[str, str], found: dict[str, str]) -> bool:
    """Whether all digests agree; prints those of the tables, and every difference."""
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            print(f"DIFFERS  {name}: {expected.get(name)} and {found.get(name)}")
        elif name.endswith(".csv"):
            print(f"same  {found[name]}  {name}")
    rows = sum(name.endswith(".json") for name in found)
    print(f"{rows} rows, {len(found) - rows} tables:", "same" if expected == found else "DIFFERENT")
    return expected == found


def kill(options: argparse.Namespace, work: Path) -> bool:
    """Twenty kills, then the same tables."""
    draws, calm, wild = random.Random(options.seed), work / "calm", work / "wild"
    started = time.monotonic()
    run(options, calm)
    longest = options.longest or (time.monotonic() - started) / 2
    kills = 0
    while kills < options.times:
        life, started = draws.uniform(0.5, longest), time.monotonic()
        with open(work / "wild.log", "a") as log:
            child = subprocess.Popen(
                command(options, wild), stdout=log, stderr=log, start_new_session=True
            )
        try:
            child.wait(life)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            kills += 1
            rows, epochs = len(list(wild.rglob("rows/*.json"))), len(list(wild.rglob("*.progress")))
            print(f"kill {kills:2} after {time.monotonic() - started:5.1f} s: "
                  f"{rows} rows stored, {epochs} runs under way", flush=True)  # fmt: skip
            continue
        if child.returncode:
            raise RuntimeError(f"exit code {child.returncode}, see {work / 'wild.log'}")
        print("done before the next kill; from scratch for the rest", flush=True)
        shutil.rmtree(wild)
    run(options, wild)
    return same(digests(calm), digests(wild))


def hurt(path: Path, draws: random.Random) -> str:
    """Flip a byte of a file or cut it; which."""
    content = bytearray(path.read_bytes())
    place = draws.randrange(len(content))
    if draws.random() < 0.5:
        content[place] ^= 1 << draws.randrange(8)
        path.write_bytes(bytes(content))
        return f"a bit of byte {place} of {len(content)}"
    path.write_bytes(bytes(content[:place]))
    return f"cut to {place} of {len(content)} bytes"


def damage(options: argparse.Namespace, work: Path) -> bool:
    """Fifty wounds, all named and healed."""
    draws, out_dir = random.Random(options.seed), work / "calm"
    run(options, out_dir)
    expected, named, wounds = digests(out_dir), 0, 0
    kinds = ("rows", "checkpoints", "predictions")
    while wounds < options.times:
        files = [path for kind in kinds for path in sorted(out_dir.rglob(f"{kind}/*"))]
        draws.shuffle(files)
        # One file a run: its row is the witness against the others.
        one_each = list({path.stem: path for path in files}.values())[: options.at_once]
        victims = {path: hurt(path, draws) for path in one_each}
        told = subprocess.run(
            [sys.executable, "-m", "kdlib", "verify", str(out_dir)], text=True, cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        healed = run(options, out_dir)
        for path, what in victims.items():
            found = str(path) in told.stdout and told.returncode == 1
            found &= f"{path} is damaged" in healed
            wounds, named = wounds + 1, named + found
            where = path.relative_to(out_dir)
            print(f"{'named' if found else 'MISSED'}  {where}: {what}", flush=True)
    print(f"{wounds} wounds, {named} named")
    return same(expected, digests(out_dir)) and named == wounds


def main() -> int:
    """Parse and do."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("kill", "damage"))
    parser.add_argument("--times", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", default="digits")
    parser.add_argument("--only", action="append", default=[], metavar="NOTEBOOK")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--longest", type=float, help="seconds that a killed run lives at most")
    parser.add_argument("--at-once", type=int, default=10, help="wounds before each run")
    parser.add_argument("--work", help="a folder to work in, kept")
    options = parser.parse_args()
    options.times = options.times or {"kill": 20, "damage": 50}[options.what]
    work = Path(options.work or tempfile.mkdtemp(prefix="kdlib-chaos-")).resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        good = {"kill": kill, "damage": damage}[options.what](options, work)
    finally:
        if not options.work:
            shutil.rmtree(work, ignore_errors=True)
    print("all as it should be" if good else "NOT as it should be")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
