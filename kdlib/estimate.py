"""What a batch will take: the costs of its runs added up, job by job."""

import heapq
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from kdlib.config import Run, by_stream, cohort_size
from kdlib.costs import Asked, Cost, Kind, kind, measure
from kdlib.plan import Job, Plan
from kdlib.registry import STUDIES
from kdlib.stand_ins import measurable


def table(whole: Plan, left: Collection[str], stored: Collection[str], cores: int) -> str:
    """The time and memory that the jobs named in `left` will take, a line a notebook, below it one
    for each of its models, a total, and which runs it leaves out, for their data are not here;
    empty where nothing is left. stored: ids of runs that are done. cores: jobs at once."""
    jobs = [job for job in whole.jobs if job.name in left]
    if not jobs:
        return ""
    asked = {run.id: (run, params) for _, params, made in whole.parts for run in made}
    left_out = Counter[str]()
    todo: dict[str, list[Asked]] = {job.name: [] for job in jobs}
    for name, place in ((run, job.name) for job in jobs for run in job.runs if run not in stored):
        run, params = asked[name]
        if measurable(run, params):
            todo[place].append((run, params))
        else:
            left_out[run.data] += 1
    trained = [one for made in todo.values() for one in made if one[0].recipe]
    try:
        costs, start = measure({kind(run): (run, params) for run, params in trained}, cores)
    except (OSError, LookupError, BrokenProcessPool) as error:
        return f"no estimate: {error}\n"
    bills = [_bill(job, todo[job.name], costs, start) for job in jobs]
    lines = list(_lines(bills, cores))
    for name, count in left_out.items():
        lines.append(
            f"  without {count} runs on {name!r}: how large its images are is not known here"
        )
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Bill:
    """What a job will cost: seconds, megabytes, and those of each of its runs, by model."""

    job: Job
    seconds: float
    memory: float
    models: dict[str, list[tuple[float, float]]]


def _bill(job: Job, todo: Sequence[Asked], costs: Mapping[Kind, Cost], start: float) -> Bill:
    models: dict[str, list[tuple[float, float]]] = defaultdict(list)
    seconds, memory = start, 0.0
    if not job.runs:  # tables, figures and the report
        seconds += start * STUDIES[job.notebook].facts.drawing
    for cohort in _cohorts(todo):
        own = [costs[kind(run)] for run in cohort]
        shares = _shares(cohort, own)
        for cost, run, share in zip(own, cohort, shares, strict=True):
            teachers = list(dict.fromkeys(teacher.model for teacher in run.teachers))
            taught_by = " + ".join(teachers) if len(teachers) < 3 else f"{len(teachers)} models"
            name = f"{run.model} of {taught_by}" if teachers else run.model
            models[name].append((share, cost.own))
        seconds += sum(shares)
        memory = max(memory, own[0].shared + sum(cost.own for cost in own))
    return Bill(job, seconds, memory, dict(models))


def run_seconds(jobs: Iterable[Sequence[Asked]], cores: int) -> dict[str, float]:
    """Seconds of each run of these jobs by id, on a core of its own, as one of its cohort.

    Errors: those of `costs.measure`.
    """
    trained = [[one for one in made if one[0].recipe] for made in jobs]
    kinds = {kind(run): (run, params) for made in trained for run, params in made}
    costs, _ = measure(kinds, cores, crowded=False)
    found: dict[str, float] = {}
    for cohort in (cohort for made in trained for cohort in _cohorts(made)):
        shares = _shares(cohort, [costs[kind(run)] for run in cohort])
        found |= dict(zip((run.id for run in cohort), shares, strict=True))
    return found


def _shares(cohort: Sequence[Run], costs: Sequence[Cost]) -> list[float]:
    """Seconds of each run of a cohort: its own, and its part of what they do together."""
    each = list(zip(costs, cohort, strict=True))
    once = max(cost.together(run) for cost, run in each)
    return [cost.alone(run) + once / len(cohort) for cost, run in each]


def _cohorts(todo: Sequence[Asked]) -> Iterator[list[Run]]:
    """The runs of a job that are trained, side by side as they will be."""
    sizes = {run.id: params.cohort_size for run, params in todo}
    for stream in by_stream(run for run, _ in todo if run.recipe):
        size = cohort_size(stream[0], sizes[stream[0].id])
        yield from (stream[start : start + size] for start in range(0, len(stream), size))


def wall_seconds(jobs: Sequence[Job], seconds: Mapping[str, float], cores: int) -> float:
    """When the last job ends. A core that is free takes the first job whose needs are done; a need
    that is no job here is done already."""
    free, ended, waiting = [0.0] * cores, {}, {job.name: job for job in jobs}
    while waiting:
        now = heapq.heappop(free)
        ready = {
            name: max((ended.get(need, 0.0) for need in job.needs), default=0.0)
            for name, job in waiting.items()
            if waiting.keys().isdisjoint(job.needs)
        }
        name = min(ready, key=lambda one: max(now, ready[one]))  # of equals the first
        ended[name] = max(now, ready[name]) + seconds[name]
        heapq.heappush(free, ended[name])
        del waiting[name]
    return max(ended.values(), default=0.0)


def _lines(bills: Sequence[Bill], cores: int) -> Iterator[str]:
    yield "estimate, from a few steps of each kind of run on this machine:"
    for stem in dict.fromkeys(bill.job.notebook for bill in bills):
        own = [bill for bill in bills if bill.job.notebook == stem]
        models: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for bill in own:
            for name, runs in bill.models.items():
                models[name] += runs
        total, most = sum(bill.seconds for bill in own), max(bill.memory for bill in own)
        size = f"  {most / 1024:.1f} GB a job" if most else ""
        count = sum(map(len, models.values()))
        yield f"  {stem:32}{len(own):5} jobs{count:6} runs  {duration(total):>8} of work{size}"
        for name, runs in models.items():
            seconds, memory = (statistics.mean(values) for values in zip(*runs, strict=True))
            each = f"{duration(seconds):>8} and {memory:.0f} MB each"
            yield f"    {name:40}{len(runs):6} runs  {each}"
    seconds = {bill.job.name: bill.seconds for bill in bills}
    wall = duration(wall_seconds([bill.job for bill in bills], seconds, cores))
    most = sum(sorted(bill.memory for bill in bills)[-cores:]) / 1024
    yield f"  in all, {cores} at once: about {wall}, {most:.1f} GB of memory"


def duration(seconds: float) -> str:
    """For people: seconds, minutes or hours, whichever is short."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
