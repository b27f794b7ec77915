"""From a profile to jobs: which notebook runs with which parameters, and what it waits for.

The runs of a notebook are split by stream, so that a job is one cohort (or several, one after the
other): in 01 all teachers of a mixup setting and seed, in 02 all students of one teacher, or those
without a teacher. A notebook that concludes from its own runs is executed once more when they are
all there; one that makes no runs reads all that came before it.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

from kdlib import grid, studies  # noqa: F401 (importing registers their notebooks)
from kdlib.config import Run, StudyParams, by_stream, load_settings, validate
from kdlib.registry import STUDIES, suggest, unknown_key

OWN = {"setting", "only", "profile", "changes"}  # keys of params that a plan says itself
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Job:
    """One execution of a notebook. params: what is injected, JSON-able. needs: names of the jobs
    whose results it reads. runs: ids of the runs it makes (none for an analysis). reads: patterns
    of further files that an analysis hangs on."""

    name: str
    notebook: str
    params: dict[str, Any]
    needs: tuple[str, ...]
    runs: tuple[str, ...]
    reads: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """The values of its keys, those of `extra` among them."""
        return self.params.get("extra", {}) | self.params

    @property
    def threads(self) -> int:
        """Of a processor, which it takes while it runs."""
        return self.settings.get("threads", 1)


class Part(NamedTuple):
    """What one params file, or one of its settings, asks of the notebook of its stem."""

    stem: str
    params: StudyParams
    runs: tuple[Run, ...]

    @property
    def key(self) -> str:
        """The folder of its section: "02_students/verdicts"."""
        return f"{self.stem}/{self.params.setting}".rstrip("/")


@dataclass(frozen=True)
class Plan:
    """A profile's jobs, the most urgent first and none before what it needs, and the parts they
    come from."""

    profile: str
    out_dir: Path
    jobs: tuple[Job, ...]
    parts: tuple[Part, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every run, once."""
        return tuple({run.id: run for part in self.parts for run in part.runs}.values())

    @property
    def rows(self) -> set[str]:
        """The ids of the runs and of all their teachers, which are stored even where no part asks
        for them."""
        found, left = set(), list(self.runs)
        while left:
            found.add((run := left.pop()).id)
            left += run.teachers
        return found


def profiles() -> list[str]:
    """The folders of params/; FileNotFoundError where there are none."""
    if not (ROOT / "params").is_dir():
        raise FileNotFoundError(
            f"no params/ in {ROOT}: profiles need a clone of the repository, an installed kdlib is "
            "the library alone"
        )
    return sorted(path.name for path in (ROOT / "params").iterdir() if path.is_dir())


def plan(
    profile: str,
    /,
    out_dir: str | Path | None = None,
    notebooks: Sequence[str] = (),
    **changes: Any,
) -> Plan:
    """The jobs of a profile. notebooks: numbers or names of those to plan, "02/verdicts" for one
    setting, none for all. changes: keys to set otherwise, in every params file that has them;
    "options.rkd.angle" is one value inside a mapping, "options" all of it.

    LookupError for an unknown profile, ValueError for a params file or a change that is wrong.
    """
    if profile not in profiles():
        raise LookupError(f"unknown profile {profile!r}, {suggest(profile, profiles())}")
    out_dir = Path(out_dir).resolve() if out_dir else ROOT / "results" / profile
    paths = sorted((ROOT / "params" / profile).glob("*.yaml"))
    stems = tuple(name.partition("/")[0] for name in notebooks) or ""
    parts = _parts([path for path in paths if path.stem.startswith(stems)], changes)
    for name in notebooks:
        if not any(_means(name, part) for part in parts):
            known = [path.stem for path in paths] + [part.key for part in parts]
            hint = suggest(name, dict.fromkeys(known))
            raise LookupError(f"no notebook {name!r} in the profile {profile!r}, {hint}")
    parts = [part for part in parts if any(_means(name, part) for name in notebooks or [""])]
    jobs: list[Job] = []
    for part in parts:
        jobs += _jobs(part, out_dir, jobs, _before(part, parts, jobs))
    return Plan(profile, out_dir, tuple(_by_urgency(jobs)), tuple(parts))


def _parts(paths: Sequence[Path], changes: dict[str, Any]) -> list[Part]:
    """What each setting of each file asks for, files in order."""
    parts, known = [], set()
    for path in paths:
        if path.stem not in STUDIES:
            hint = suggest(path.stem, STUDIES.names())
            raise LookupError(f"{path}: no notebook of that name, {hint}")
        study = STUDIES[path.stem]
        model = study.facts.params
        known |= set(model.model_fields) - OWN
        own = {key: value for key, value in changes.items() if _root(key) in model.model_fields}
        for params in load_settings(path).values():
            values = params.model_dump()
            for key, value in own.items():
                values = _replaced(values, key.split("."), value)
            params = validate(model, values, f"{path} with changes")
            if "profile" in model.model_fields:  # whose rows are judged, wherever they are kept
                told = {"profile": path.parent.name, "changes": changes}
                params = params.model_copy(update=told)
            parts.append(Part(path.stem, params, tuple(study.build(params))))
    for key in {_root(key) for key in changes} - known:
        raise ValueError(f"changes: {unknown_key(key, known)}")
    return parts


def _root(key: str) -> str:
    return key.partition(".")[0]


def _replaced(values: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """The values with another one at a path of keys.

    >>> _replaced({"a": {"b": 1, "c": 2}}, ["a", "b"], 3)
    {'a': {'b': 3, 'c': 2}}
    """
    key, *rest = path
    if rest and not isinstance(values.get(key) or {}, Mapping):
        raise ValueError(f"changes: {key!r} is {values[key]!r}, it has no {'.'.join(rest)!r}")
    return {**values, key: _replaced(values.get(key) or {}, rest, value) if rest else value}


def _means(name: str, part: Part) -> bool:
    """Whether "02", "02_students" or "02/verdicts" names the part."""
    stem, _, setting = name.partition("/")
    return part.stem.startswith(stem) and setting in ("", part.params.setting)


def _before(part: Part, parts: Sequence[Part], jobs: Sequence[Job]) -> list[Job]:
    """Those of the jobs that a part may read: of its setting, and those that make runs which it
    shares with others. A part without settings reads all."""
    setting = part.params.setting
    shared = {run.id for one in parts if one.params.setting == setting for run in one.runs}
    return [
        job
        for job in jobs
        if not setting or _value(job, "setting") == setting or not shared.isdisjoint(job.runs)
    ]


def _by_urgency(jobs: Sequence[Job]) -> list[Job]:
    """The jobs as they should start where not all can: settings as they stand in the files, each
    seed by seed, so that a batch that is cut short leaves whole seeds."""
    settings = list(dict.fromkeys(_value(job, "setting") for job in jobs))
    ranks: dict[str, tuple[int, int]] = {}
    for job in jobs:
        own = settings.index(_value(job, "setting")), min(_value(job, "seeds"))
        ranks[job.name] = max([own, *(ranks[need] for need in job.needs)])
    return sorted(jobs, key=lambda job: ranks[job.name])


def _value(job: Job, key: str) -> Any:
    return (job.params["extra"] | job.params)[key]


def _jobs(part: Part, out_dir: Path, jobs: Sequence[Job], before: Sequence[Job]) -> list[Job]:
    """A part's jobs, after those there are; a run that one of them makes is not made again."""
    stem, params, runs = part
    if not runs:
        return [_job(stem, params, "", out_dir, [job.name for job in before], [])]
    made: list[Job] = []
    makers = {run: job.name for job in jobs for run in job.runs}
    for group in by_stream(run for run in runs if run.id not in makers):
        teachers = {teacher.id for run in group for teacher in run.teachers}
        needs = {makers[one] for one in teachers & makers.keys()}  # others: stored, or made for it
        own = {"seeds": (group[0].seed,), "only": tuple(run.id for run in group)}
        job = params.model_copy(update=own)
        made.append(_job(stem, job, _part(group), out_dir, sorted(needs), group))
        makers |= {run.id: made[-1].name for run in group}
    if STUDIES[stem].facts.concludes:
        needs = sorted({makers[run.id] for run in runs})
        made.append(_job(stem, params, "", out_dir, needs, []))
    return made


def _job(
    stem: str, params: StudyParams, part: str, out_dir: Path, needs: list[str], runs: list[Run]
) -> Job:
    """The job's name and parameters: those the notebook has no line for travel in `extra`."""
    name = "/".join(piece for piece in (stem, params.setting, part) if piece)
    values = params.model_dump(mode="json") | {"out_dir": str(out_dir)}
    lines = parameter_names(ROOT / "notebooks" / f"{stem}.ipynb")
    inject = {key: value for key, value in values.items() if key in lines}
    inject["extra"] = {key: value for key, value in values.items() if key not in lines}
    reads = STUDIES[stem].facts.reads(params)
    return Job(name, stem, inject, tuple(needs), tuple(run.id for run in runs), tuple(reads))


def _part(runs: list[Run]) -> str:
    """What the runs of a job have in common: "bs-mixup-seed0"."""
    first = runs[0]
    same = {
        label: value
        for label, value in first.labels.items()
        if all(run.labels.get(label) == value for run in runs)
    }
    return "-".join([*dict.fromkeys(first.slugs(same)), f"seed{first.seed}"])


def parameter_names(notebook: Path) -> list[str]:
    """The names assigned in a notebook's cell tagged `parameters`."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        if "parameters" in cell.metadata.get("tags", []):
            statements = ast.parse(cell.source).body
            return [line.target.id for line in statements if isinstance(line, ast.AnnAssign)]
    raise ValueError(f"{notebook} has no cell tagged 'parameters'")
