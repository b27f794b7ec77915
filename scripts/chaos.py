"""Show what a batch survives: SIGKILLs at random moments, flipped bytes, cut files.

  python scripts/chaos.py kill   [--times 20]   # about 12 minutes of a processor
  python scripts/chaos.py damage [--times 50]   # the same

Both take --profile (default digits) and work in a temporary folder (--work DIR: in this one, kept);
exit code 0 only if all is as it should be. By default they run a slice of the profile, `SLICE`:
teachers, students of four kinds, tables and report. Another slice: --only NN and --set K=V, each as
often as wanted; all of the profile: --whole.

kill: runs undisturbed; then again, killing the whole process group at random moments until it has
been killed so many times and is done. All tables and all metrics must be the same.
damage: runs, and takes a copy in which some runs stand in the middle. Then it flips a byte of
random files or cuts them, so many times over all kinds of files, the data file too. Each must be
named, none loaded, and the next run must put everything right.
"""

import argparse
import hashlib
import itertools
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
# How long it took; the executed notebooks and the page carry it, too.
TIMED = {"timings.csv", "seconds.csv", "latency.csv"}
SLICE = {
    "epochs": "40", "checkpoint_seconds": "0", "mixup": "[false]", "teacher_losses": "[ce, bs]",
    "student_losses": "[ce, bs]", "kd_methods": "[none, kd, crd, pskd]",
}  # fmt: skip
OWN = "own_digits"  # the digits as a file, which can be damaged
KINDS = ("progress", "rows", "checkpoints", "predictions")


def command(options: argparse.Namespace, out_dir: Path) -> list[str]:
    """./run_all.sh for this profile into that folder."""
    words = [str(ROOT / "run_all.sh"), options.profile, "--out", str(out_dir)]
    words += ["--jobs", str(options.jobs)]
    words += [word for name in options.only for word in ("--only", name)]
    return words + [word for change in options.set for word in ("--set", change)]


def run(options: argparse.Namespace, out_dir: Path, code: int = 0) -> str:
    """The profile undisturbed; what it printed. CalledProcessError for another exit code."""
    done = subprocess.run(
        command(options, out_dir), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != code:
        print(done.stdout)
        raise subprocess.CalledProcessError(done.returncode, done.args)
    return done.stdout


def events(out_dir: Path) -> list[dict]:
    """What the jobs of the last start have told so far."""
    path = out_dir / ".batch" / "events.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def at_work(out_dir: Path) -> set[str]:
    """The jobs that had begun and not ended."""
    told = events(out_dir)
    begun = {one["job"] for one in told if one["event"] == "start"}
    return begun - {one["job"] for one in told if one["event"] != "start"}


def start(options: argparse.Namespace, out_dir: Path) -> subprocess.Popen:
    """The profile in a process group of its own."""
    (out_dir / ".batch" / "events.jsonl").unlink(missing_ok=True)
    with open(f"{out_dir}.log", "a") as log:
        return subprocess.Popen(
            command(options, out_dir), stdout=log, stderr=log, start_new_session=True
        )


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
    run(options, calm)
    longest = max(one["seconds"] for one in events(calm) if one["event"] == "done")
    kills = 0
    while kills < options.times:
        child, started = start(options, wild), time.monotonic()
        # Every other time counts from the first job: else half of all kills would hit the start.
        while kills % 2 and child.poll() is None and not events(wild):
            time.sleep(0.05)
        try:
            child.wait(draws.uniform(0.5, longest))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            kills += 1
            rows, epochs = len(list(wild.rglob("rows/*.json"))), len(list(wild.rglob("*.progress")))
            print(f"kill {kills:2} after {time.monotonic() - started:5.1f} s: {rows} rows stored, "
                  f"{epochs} runs under way; in {', '.join(sorted(at_work(wild))) or 'no job'}",
                  flush=True)  # fmt: skip
            continue
        if child.returncode:
            raise RuntimeError(f"exit code {child.returncode}, see {wild}.log")
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


def own_data(options: argparse.Namespace, work: Path) -> Path:
    """Let the profile read its images from a file; the file."""
    os.environ["KDLIB_DATA"] = str(work / "data")
    program = "from dataclasses import replace; from kdlib import data; "
    program += f"data.save_npz(replace(data.load('digits'), name={OWN!r}))"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    options.set += [f"data={OWN}", "augment={crop: 1}"]
    return work / "data" / f"{OWN}.npz"


def stop_halfway(options: argparse.Namespace, out_dir: Path) -> None:
    """Undo the runs of the largest job of a finished folder, and stop when they are under way."""
    jobs = json.loads((out_dir / ".batch" / "plan.json").read_text())
    for name in max((job["runs"] for job in jobs), key=len):
        for path in out_dir.rglob(f"{name}.*"):
            path.unlink()
    child = start(options, out_dir)
    while not list(out_dir.rglob("*.progress")):
        if child.poll() is not None:
            raise RuntimeError(f"it was done before it could be stopped, see {out_dir}.log")
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    time.sleep(3)  # kernels notice within a second


def victims(out_dir: Path, draws: random.Random, count: int) -> list[Path]:
    """So many files, of each kind in turn, one a run: its row is the witness against the others.
    What a killed writer left unfinished (`.*.partial`) is never read, so it is none."""
    files = {kind: sorted(out_dir.rglob(f"{kind}/[!.]*")) for kind in KINDS}
    turns, chosen = itertools.cycle(KINDS), {}
    while len(chosen) < count and any(files.values()):
        left = files[next(turns)]
        left[:] = [path for path in left if path.stem not in chosen]
        if left:
            path = draws.choice(left)
            chosen[path.stem] = path
    return list(chosen.values())


def wound(
    options: argparse.Namespace, out_dir: Path, images: Path, draws: random.Random
) -> dict[Path, tuple[str, bool]]:
    """Damage the data and some results, let it heal; file -> what was done, if it was named."""
    whole, what = images.read_bytes(), {images: hurt(images, draws)}
    refused = run(options, out_dir, code=2)
    images.write_bytes(whole)
    for path in victims(out_dir, draws, options.at_once - 1):
        what[path] = hurt(path, draws)
    verify = [sys.executable, "-m", "kdlib", "verify", str(out_dir)]
    verified = subprocess.run(verify, cwd=ROOT, capture_output=True, text=True).stdout
    healed = run(options, out_dir)
    named = {path: f"{path} is damaged" in healed for path in what}
    named[images] = f"{images} is damaged" in refused
    for path in what.keys() - {images}:  # verify judges what is done
        named[path] &= path.suffix == ".progress" or str(path) in verified
    return {path: (text, named[path]) for path, text in what.items()}


def damage(options: argparse.Namespace, work: Path) -> bool:
    """Fifty wounds, all named and healed."""
    draws, images, out_dir = random.Random(options.seed), own_data(options, work), work / "run"
    run(options, out_dir)
    expected, told, good = digests(out_dir), [], True
    stop_halfway(options, out_dir)
    shutil.copytree(out_dir, work / "half")
    while len(told) < options.times:
        shutil.rmtree(out_dir)
        shutil.copytree(work / "half", out_dir)
        for path, (what, named) in wound(options, out_dir, images, draws).items():
            told.append(named)
            word = "named" if named else "MISSED"
            print(f"{word}  {path.relative_to(work)}: {what}", flush=True)
        good &= same(expected, digests(out_dir))
    print(f"{len(told)} wounds, {sum(told)} named")
    return good and all(told)


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
    parser.add_argument("--whole", action="store_true", help="no slice but all of the profile")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=10, help="wounds before each run")
    parser.add_argument("--work", help="a folder to work in, kept")
    options = parser.parse_args()
    if not options.whole:
        options.only = options.only or ["01", "02", "03"]
        own = dict(change.split("=", 1) for change in options.set)
        options.set = [f"{key}={value}" for key, value in (SLICE | own).items()]
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
