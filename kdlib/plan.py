"""From a profile to jobs: which notebook runs with which parameters, and what it waits for.

The runs of a notebook are split by stream, so that a job is one cohort (or several, one after the
other): in 01 all teachers of a mixup setting and seed, in 02 all students of one teacher, or those
without a teacher. A notebook that makes no runs reads all that came before it.
"""

import ast
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from kdlib import grid
from kdlib.config import Params, Run, by_stream, load_settings, merge, validate
from kdlib.registry import suggest

ROOT = Path(__file__).resolve().parent.parent

# Which runs a notebook makes.
RUNS: dict[str, Callable[[Params], list[Run]]] = {
    grid.TEACHERS: grid.teacher_runs,
    grid.STUDENTS: lambda params: grid.student_runs(params) + grid.control_runs(params),
    grid.STUDY: lambda params: [],
}
# Which key of the params a label of a run belongs to.
AXES = {
    "kd_method": "kd_methods",
    "teacher_loss": "teacher_losses",
    "student_loss": "student_losses",
    "mixup": "mixup",
}


@dataclass(frozen=True)
class Job:
    """One execution of a notebook. params: what is injected, JSON-able. needs: names of the jobs
    whose results it reads. runs: ids of the runs it makes (none for an analysis)."""

    name: str
    notebook: str
    params: dict[str, Any]
    needs: tuple[str, ...]
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A profile's jobs, in an order that respects their needs, and what each params file (or each
    of its settings) asks for: its params and runs."""

    profile: str
    out_dir: Path
    jobs: tuple[Job, ...]
    parts: tuple[tuple[Params, tuple[Run, ...]], ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every run, once."""
        return tuple(run for _, runs in self.parts for run in runs)


def profiles() -> list[str]:
    """The folders of params/."""
    return sorted(path.name for path in (ROOT / "params").iterdir() if path.is_dir())


def plan(profile: str, out_dir: str | Path | None = None, **changes: Any) -> Plan:
    """The jobs of a profile. changes: keys of every params file to set otherwise.

    LookupError for an unknown profile, ValueError for a params file that is wrong.
    """
    if profile not in profiles():
        raise LookupError(f"unknown profile {profile!r}, {suggest(profile, profiles())}")
    out_dir = Path(out_dir).resolve() if out_dir else ROOT / "results" / profile
    jobs: dict[str, list[Job]] = {}  # by setting
    parts: list[tuple[Params, tuple[Run, ...]]] = []
    for path in sorted((ROOT / "params" / profile).glob("*.yaml")):
        if path.stem not in RUNS:
            raise LookupError(f"{path}: no notebook of that name, {suggest(path.stem, RUNS)}")
        for setting, params in load_settings(path).items():
            params = validate(Params, merge(params.model_dump(), changes), f"{path} with changes")
            if params.data_dir:  # notebooks have another working directory
                params = params.model_copy(
                    update={"data_dir": str(Path(params.data_dir).resolve())}
                )
            made = RUNS[path.stem](params)
            before = jobs.setdefault(setting, [])
            before += _jobs(path.stem, params, made, out_dir, before)
            parts.append((params, tuple(made)))
    return Plan(profile, out_dir, tuple(itertools.chain(*jobs.values())), tuple(parts))


def _jobs(
    stem: str, params: Params, runs: list[Run], out_dir: Path, before: list[Job]
) -> list[Job]:
    if not runs:
        return [_job(stem, params, "", out_dir, [job.name for job in before], [])]
    makers = {run: job.name for job in before for run in job.runs}
    jobs = []
    for part in by_stream(runs):
        needs = {makers[teacher.id] for run in part for teacher in run.teachers}
        jobs.append(_job(stem, _restrict(params, part), _part(part), out_dir, sorted(needs), part))
    return jobs


def _job(
    stem: str, params: Params, part: str, out_dir: Path, needs: list[str], runs: list[Run]
) -> Job:
    """The job's name and parameters: those the notebook has no line for travel in `extra`."""
    name = "/".join(piece for piece in (stem, params.setting, part) if piece)
    values = params.model_dump(mode="json") | {"out_dir": str(out_dir)}
    lines = parameter_names(ROOT / "notebooks" / f"{stem}.ipynb")
    inject = {key: value for key, value in values.items() if key in lines}
    inject["extra"] = {key: value for key, value in values.items() if key not in lines}
    return Job(name, stem, inject, tuple(needs), tuple(run.id for run in runs))


def _restrict(params: Params, runs: list[Run]) -> Params:
    """The params whose grid is just these runs."""
    axes: dict[str, Any] = {"seeds": tuple(dict.fromkeys(run.seed for run in runs))}
    for label, axis in AXES.items():
        found = dict.fromkeys(run.labels[label] for run in runs if label in run.labels)
        values = tuple(value for value in found if value in getattr(params, axis))
        if found and not (axis == "teacher_losses" and not values):  # "none" is no level of it
            axes[axis] = values
    restricted = params.model_copy(update=axes)
    alone = {run.id for run in runs}.isdisjoint(run.id for run in grid.control_runs(restricted))
    return restricted.model_copy(update={"controls": {}}) if alone else restricted


def _part(runs: list[Run]) -> str:
    """What the runs of a job have in common: "bs-mixup-seed0"."""
    first = runs[0]
    same = {
        label: value
        for label, value in first.labels.items()
        if all(run.labels[label] == value for run in runs)
    }
    return "-".join([*dict.fromkeys(first.slugs(same)), f"seed{first.seed}"])


def parameter_names(notebook: Path) -> list[str]:
    """The names assigned in a notebook's cell tagged `parameters`."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        if "parameters" in cell.metadata.get("tags", []):
            statements = ast.parse(cell.source).body
            return [line.target.id for line in statements if isinstance(line, ast.AnnAssign)]
    raise ValueError(f"{notebook} has no cell tagged 'parameters'")
