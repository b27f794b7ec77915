"""What published studies claim, as data: the claim, what its own numbers say, what would decide it.

`params/claims.yaml` holds the claims; it is written before the runs that judge them. Notebook 07
reads it together with the rows of any number of profiles, and trains nothing.
"""

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from kdlib.config import StudyParams, validate
from kdlib.config.fields import Count, Names, Strict
from kdlib.registry import STUDIES, suggest

STEM = "07_published_claims"
CLAIMS = Path(__file__).parents[2] / "params" / "claims.yaml"

Side = Literal["higher", "lower"]
Scalar = bool | int | float | str
# Label -> its value, or a list of values that all match.
Cell = Annotated[dict[str, Scalar | tuple[Scalar, ...]], Field(min_length=1)]


class Analysis(Strict):
    """A paired reading of a published table, results/published/<table>.csv.

    Lines of `level` minus lines of `versus` that agree in every other label, among those of `where`
    and not of `without` (all of its values at once); one result a value of the columns `by`. noise:
    lines that repeat one thing, whose range of the metric is a yardstick.
    """

    table: str
    metric: str
    side: Side
    level: Cell
    versus: Cell
    where: Cell | None = None
    without: Cell | None = None
    by: tuple[str, ...] = ()
    noise: Cell | None = None


class Published(Strict):
    """The effect as published: in the source's own numbers, or that it gives none, and what its
    tables give when they are read in pairs."""

    says: str
    analyses: tuple[Analysis, ...] = ()


class Comparison(Strict):
    """What judges a claim: runs of `level` minus runs of `versus` that agree in every other label,
    among those of `where` (which level and versus override), inside each seed.

    A key is a label of the runs or one of their facts (`kdlib.report.pairs.facts`: data, classes,
    model, ...). free: keys that need not agree, for one side lacks them. notebook: whose runs;
    profiles: folders under results/ that may decide it. metric: of the test split, or a dotted path
    as `fidelity.centroid_probs`. margin: in the metric's unit, towards the claimed side; negative:
    not worse by more than that. beside: a third level to read the effect by, as the student without
    teachers; its own difference to `versus` is shown, and judges nothing.
    """

    notebook: str
    profiles: Names
    metric: str
    side: Side
    margin: float | None = None
    where: Cell | None = None
    level: Cell
    versus: Cell
    beside: Cell | None = None
    free: tuple[str, ...] = ()


class Claim(Strict):
    """One claim of one source. short: in a few words, for figures. derived: no sentence of the
    source says it, it follows from one or is what an experiment asks. rests_on: names of
    `kdlib.report.demonstrations`, the mistakes of published code that its published numbers went
    through."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    short: Annotated[str, Field(min_length=1, max_length=60)]
    study: str
    source: str
    claim: str
    derived: bool = False
    published: Published
    rests_on: tuple[str, ...] = ()
    judged_by: Comparison


class Study(Strict):
    """A published study: a name for readers, where it was published, how we read its verdicts, in a
    sentence and at length (`kdlib.report.answers.told_of` fills in the effects named), and what one
    would do in practice."""

    name: str
    source: str
    headline: str = ""
    reading: str = ""
    practice: str = ""


def named(text: str) -> set[str]:
    """The ids of the claims whose effects a headline or a reading names in braces."""
    fields = (field for _, field, _, _ in string.Formatter().parse(text))
    return {field.partition(".")[0] for field in fields if field}


class Claims(Strict):
    """All claims. margins: metric -> the margin of comparisons that give none; seeds: fewer give no
    verdict; studies: what the claims' `study` means."""

    margins: dict[str, float]
    seeds: Count = 5
    studies: dict[str, Study]
    claims: Annotated[tuple[Claim, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _complete(self) -> "Claims":
        seen: set[str] = set()
        for claim in self.claims:
            for name in (claim.id, claim.short):
                if name in seen:
                    raise ValueError(f"the name {name!r} stands twice")
                seen.add(name)
            if claim.study not in self.studies:
                hint = suggest(claim.study, self.studies)
                raise ValueError(f"{claim.id}: unknown study {claim.study!r}, {hint}")
            self.margin(claim)
        for name, study in self.studies.items():
            known = [claim.id for claim in self.of(name)]
            if unknown := (named(study.headline) | named(study.reading)).difference(known):
                hint = suggest(min(unknown), known)
                raise ValueError(f"studies.{name}: unknown claim {min(unknown)!r}, {hint}")
        return self

    def margin(self, claim: Claim) -> float:
        """The claim's own margin, or its metric's."""
        judged = claim.judged_by
        if judged.margin is not None:
            return judged.margin
        if judged.metric not in self.margins:
            hint = suggest(judged.metric, self.margins)
            raise ValueError(f"{claim.id}: no margin for the metric {judged.metric!r}, {hint}")
        return self.margins[judged.metric]

    def name(self, study: str) -> str:
        """A study's name for readers, to start a sentence with."""
        name = self.studies[study].name
        return name[0].upper() + name[1:]

    def of(self, study: str) -> tuple[Claim, ...]:
        """The claims of one study, a family for the adjustment of their p values."""
        return tuple(claim for claim in self.claims if claim.study == study)


class PublishedClaims(StudyParams):
    """The params of 07_published_claims. claims: a file, empty for the repository's own; results:
    folders of profiles to read beside `out_dir`, empty for all that the repository has.

    profile: the one whose rows `out_dir` holds, empty where that is its name; changes: the keys
    that its params are changed by; a batch says both."""

    claims: str = ""
    profile: str = ""
    changes: dict[str, Any] = Field(default_factory=dict)
    results: tuple[str, ...] = ()


def load_claims(path: str | Path = "") -> Claims:
    """The validated claims of a file, the repository's own for "".

    ValueError that names the claim and the key; FileNotFoundError naming the file.
    """
    path = Path(path) if path else CLAIMS
    if not path.is_file():
        raise FileNotFoundError(f"no claims file {path}; the repository's is params/claims.yaml")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} is no mapping of keys to values, but a {type(content).__name__}")
    return validate(Claims, {**content, "claims": _named(content.get("claims"), path)}, str(path))


def _named(claims: Any, path: Path) -> tuple[Claim, ...]:
    """The claims, each checked under its own name: a position in a list tells nobody which."""
    if not isinstance(claims, list):
        raise ValueError(f"{path}: claims is no list, but a {type(claims).__name__}")
    found = []
    for place, claim in enumerate(claims, start=1):
        if not isinstance(claim, Mapping):
            raise ValueError(f"{path}: claim {place} is no mapping, but {claim!r}")
        found.append(validate(Claim, claim, f"{path}, claim {claim.get('id', place)}"))
    return tuple(found)


def reads(params: PublishedClaims) -> list[str]:
    """Patterns of what verdicts hang on: the claims, published tables, rows of other profiles and
    the params that say which of them count."""
    results = CLAIMS.parents[1] / "results"
    folders = params.results or (str(results / "*"),)
    rows = [f"{folder}/[0-9]*/**/rows/*.json" for folder in folders]
    asked = str(CLAIMS.parent / "**" / "*.yaml")
    return [params.claims or str(CLAIMS), str(results / "published" / "*.csv"), asked, *rows]


STUDIES.register(
    STEM, study="", params=PublishedClaims, reads=reads, drawing=0.3, section="published_claims"
)(lambda own: [])
