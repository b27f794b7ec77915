"""What a run and a params file may say: pydantic models, every error by name.

A `Run` is one training (or one given checkpoint) with everything that decides its numbers; its `id`
is a function of exactly that. A `Params` is a whole params file; `kdlib.grid` expands it into runs.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from kdlib.config.fields import (
    Count,
    Fraction,
    Names,
    NonNegative,
    Positive,
    Seeds,
    Share,
    Strict,
    Switches,
    distinct,
)
from kdlib.config.plugins import load_plugin
from kdlib.config.recipe import Augment, Recipe
from kdlib.registry import unknown_key


class GivenPreprocess(Strict):
    """The statistics (one number a channel, of pixels in [0, 1]) and the size a network expects."""

    mean: Annotated[tuple[Share, ...], Field(min_length=1)]
    std: Annotated[tuple[Annotated[Positive, Field(le=1)], ...], Field(min_length=1)]
    image_size: Count | None = None


def _absolute(path: str) -> str:
    """Jobs of a batch have another working directory."""
    return str(Path(path).expanduser().resolve())


class Given(Strict):
    """A trained network that a user brings: a model kdlib builds and a state dict for it.

    checkpoint: a .safetensors file, or a torch file that loads with `weights_only=True`; sha256 is
    filled in when the params are read, so that another file is another run. classes: checked
    against the set's, in order. preprocess: default that of the state dict, else the set's own.
    """

    model: str
    checkpoint: Annotated[str, AfterValidator(_absolute)]
    sha256: str | None = None
    classes: tuple[str, ...] | None = None
    preprocess: GivenPreprocess | None = None


class Execution(Strict):
    """Where and how fast: `threads` a job, precision and compile (which a run takes from its
    params, for they move numbers), students trained side by side.

    cuda_graphs: a GPU replays the step of a cohort. deterministic: it repeats itself bit for bit.
    checkpoint_seconds: how much training a kill may cost, where epochs are shorter than that.
    """

    device: str = "auto"
    threads: Count = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    cuda_graphs: bool = False
    deterministic: bool = False
    cohort_size: Count = 32
    checkpoint_seconds: NonNegative = 60

    @model_validator(mode="after")
    def _replayable(self) -> Self:
        if self.cuda_graphs and (self.compile or self.precision == "fp16"):
            other = "compile: true" if self.compile else "precision: fp16"
            raise ValueError(f"cuda_graphs does not go with {other}")
        return self


class Run(Strict):
    """One network trained on one selection of one data set, or given by the user.

    objective: term name -> its options and weight, all of them explicit. targets: the same of what
    softens the targets its label terms read, at most one. teachers: the runs whose networks teach
    this one. classes: names of those of the set's classes it knows, None: all. fidelity_every:
    epochs between two comparisons with the teachers on validation, 0: none. network_size: px a side
    to which its network resizes images, None: the set's. pretrained: the name of the ImageNet
    weights it starts from, "" for random ones. `labels` (the cell in the grid) make the readable
    half of the id and do not enter its hash; nor does `folder` (where its results lie).
    """

    data: str
    image_size: Count | None = None
    imbalance_factor: float | None = None
    val_fraction: Fraction | None = None
    seed: int
    model: str
    given: Given | None = None
    classes: Annotated[tuple[str, ...], Field(min_length=2), AfterValidator(distinct)] | None = None
    objective: dict[str, dict[str, Any]] = Field(default_factory=dict)
    targets: Annotated[dict[str, dict[str, Any]], Field(max_length=1, default_factory=dict)]
    mixup_alpha: NonNegative = 0.0
    augment: Augment = Augment()
    recipe: Annotated[Recipe, AfterValidator(Recipe.explicit)] | None = None
    precision: str = "fp32"
    compile: bool = False
    teachers: tuple["Run", ...] = ()
    fidelity_every: Annotated[int, Field(ge=0)] = 0
    network_size: Count | None = None
    pretrained: str = ""
    labels: dict[str, Any] = Field(default_factory=dict)
    folder: str = ""

    @property
    def kind(self) -> Literal["trained", "given", "ensemble"]:
        """Whether its network is trained here, brought by a user, or its teachers put together."""
        return "given" if self.given else "trained" if self.recipe else "ensemble"

    def identity(self) -> dict[str, Any]:
        """Everything that decides the numbers, JSON-able; a teacher is named by its id."""
        own = self._dump(exclude={"labels", "folder", "teachers"})
        if self.given:
            own["given"].pop("checkpoint")  # the file's content counts, not its place
        return {**own, "teachers": [teacher.id for teacher in self.teachers]}

    def _dump(self, exclude: set[str]) -> dict[str, Any]:
        """The fields that say something: a field that came later keeps older ids as they were."""
        later = ("targets", "classes", "fidelity_every", "network_size", "pretrained")
        unset = {name for name in later if not getattr(self, name)}
        return self.model_dump(mode="json", exclude=exclude | unset)

    @cached_property
    def id(self) -> str:
        """The labels for people and eight hex digits of the identity for sure. ValueError where it
        could not name files."""
        slug = "-".join(self.slugs(self.labels))
        if {*slug} & {*"/\\"}:
            raise ValueError(f"{slug!r} names a run's files, so no slash may be in it")
        return f"{slug}-seed{self.seed}-{fingerprint(self.identity())[:8]}"

    def model_copy(self, **options: Any) -> "Run":
        """pydantic's copy, without what was derived from the original."""
        copied = super().model_copy(**options)
        for derived in ("id", "stream"):
            copied.__dict__.pop(derived, None)
        return copied

    @staticmethod
    def slugs(labels: Mapping[str, Any]) -> list[str]:
        """Labels as they stand in names: a switch by its key, everything else by its value.

        >>> Run.slugs({"kd_method": "crd", "mixup": True}), Run.slugs({"mixup": False})
        (['crd', 'mixup'], ['no_mixup'])
        """
        return [
            ("" if value else "no_") + key if isinstance(value, bool) else str(value)
            for key, value in labels.items()
        ]

    def input_size(self, data_size: int) -> int:
        """The size of the images its network takes, in px: its own, what a given one says, or the
        set's."""
        own = self.given.preprocess if self.given else None
        return (own and own.image_size) or self.network_size or data_size

    @cached_property
    def stream(self) -> str:
        """Runs of one stream see the same batches and teachers, so a cohort may share them."""
        own = {"model", "objective", "targets", "pretrained", "labels", "folder"}
        return fingerprint(self._dump(own))


class Control(Strict):
    """A small grid beside the main one: its own KD methods, on some levels of the other axes and
    some seeds (None: all that the params have). Levels and seeds that the params lack make no run,
    so `--set seeds=[0]` holds for it, too."""

    kd_methods: Names
    seeds: Seeds | None = None
    teacher_losses: Names | None = None
    student_losses: Names | None = None
    mixup: Switches | None = None


class StudyParams(Recipe, Execution):
    """What the params of every study have: data, seeds, recipe, execution.

    options: method or loss name -> options that differ from the defaults; `{kd_T2: {of: kd,
    temperature: 2}}` makes a variant under its own name. plugins: files (mine.py) or modules of
    yours that register models, methods or label losses. setting: the name of this part where a
    file has several. only: ids of the runs that a job of a batch makes, empty for all.
    """

    setting: str = ""
    plugins: tuple[Annotated[str, AfterValidator(load_plugin)], ...] = ()
    data: str = "digits"
    data_dir: Annotated[str, AfterValidator(_absolute)] | None = None
    trust_data: bool = False
    image_size: Count | None = None
    imbalance_factor: Annotated[float, Field(ge=1)] | None = None
    val_fraction: Fraction | None = None
    augment: Augment | None = None
    seeds: Seeds = (0,)
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    only: tuple[str, ...] = ()

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Params from a notebook's parameters; ValueError with a suggestion for an unknown name."""
        return validate(cls, values, "parameters")

    def recipe(self, **changes: Any) -> Recipe:
        """The recipe part, with lr made explicit."""
        values = {key: getattr(self, key) for key in Recipe.model_fields}
        return validate(Recipe, values | changes, "teacher_recipe").explicit()


class Params(StudyParams):
    """The KD x calibration grid (notebooks 01, 02, 03).

    kd_methods: a name, or several joined as in "kd+byot". teacher_recipe: recipe keys that differ
    for the teachers. teacher_model may be `{model, checkpoint, ...}`, a trained network of yours.
    plain_losses: label losses of the students without any method, None: `student_losses`.
    controls: name -> a small grid of further students, outside the tables of the main one.
    given_students: name -> `{model, checkpoint, ...}`, evaluated and listed beside those grids.
    share_runs: all settings of the file keep their rows in one folder, the notebook's own, so that
    a run of several settings is made once.
    """

    teacher_model: str | Given = "resnet8"
    student_model: str = "resnet8_half"
    kd_methods: Names = ("none", "kd", "crd", "rkd", "at")
    teacher_losses: Names = ("ce", "als", "cp", "bs")
    student_losses: Names = ("ce", "als", "cp", "bs")
    plain_losses: Names | None = None
    mixup: Switches = (False, True)
    mixup_alpha: Positive = 1.0
    teacher_recipe: dict[str, Any] = Field(default_factory=dict)
    controls: dict[str, Control] = Field(default_factory=dict)
    given_students: dict[str, Given] = Field(default_factory=dict)
    share_runs: bool = False


def fingerprint(value: Any) -> str:
    """sha256 of the canonical JSON of a value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def by_stream(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs in groups that may share a cohort, in the order of their first ones."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.stream, []).append(run)
    return list(groups.values())


def cohort_size(run: Run, size: int) -> int:
    """How many runs of its stream are trained side by side: `size`, but the gradient scaling of
    fp16 would be everyone's."""
    return 1 if run.precision == "fp16" else size


def validate(model: type[BaseModel], values: Mapping[str, Any], where: str) -> Any:
    """Build a model; every error becomes one ValueError that names `where`, the key, the value."""
    for key in values:
        if key not in model.model_fields:
            raise ValueError(f"{where}: {unknown_key(key, model.model_fields)}")
    try:
        return model(**values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            path = ".".join(str(part) for part in item["loc"] if "[" not in str(part))
            message = item["msg"].removeprefix("Value error, ")
            message = f"{message[:1].lower()}{message[1:]}"
            given = item["input"]  # which an error of several keys together, or of a file, says
            named = not path or (isinstance(given, str) and given in message)
            told = message if named else f"{message}, got {given!r}"
            lines.append(f"{path}: {told}" if path else told)
        raise ValueError(f"{where}: " + "; ".join(lines)) from None
