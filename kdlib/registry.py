"""Named parts: what exists, its version, and the closest name when somebody mistypes one.

The registries themselves stand here, so that a config can check a name without importing the room
that fills the registry. Importing `kdlib` fills them all.
"""

import difflib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kdlib.definitions import hashed, source

WEIGHTS = ("weight", "label_weight")  # options that every KD method has


def suggest(name: object, known: Iterable[str]) -> str:
    """The tail of an error message: the closest known name, else all of them.

    >>> suggest("lrr", ["lr", "epochs"])
    "did you mean 'lr'?"
    >>> suggest("zzz", ["lr", "epochs"])
    'known: epochs, lr'
    """
    known = sorted({*known})
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


@dataclass(frozen=True)
class Entry:
    """One named part. `number` rises when a change of its code changes numbers: rows made with
    another version are stale. `facts`: what is to be known about it, of its registry's class;
    `source` tells the hash of what defines a part from outside kdlib, None for kdlib's own;
    `plugin`: the one that registered it."""

    name: str
    build: Callable[..., Any]
    number: int = 1
    facts: Any = None
    source: Callable[[], str | None] = lambda: None
    plugin: str = ""

    @property
    def version(self) -> int | str:
        """The number, and of a part from outside kdlib the hash of its source, too."""
        source = self.source()
        return f"{self.number} of {source}" if source else self.number


@dataclass(frozen=True)
class NoFacts:
    """Of kinds that are told by their name alone."""


@dataclass(frozen=True)
class LossFacts:
    """holds_prior: the log of the class counts is in it, as in balanced softmax."""

    holds_prior: bool = False


@dataclass(frozen=True)
class TermFacts:
    """Of a KD method's term: what `kdlib.objectives.term` takes."""

    weight: float
    label_weight: float
    teachers: int | None
    logits_only: bool
    keeps_maps: bool
    side_heads: bool
    taught_heads: Callable[..., Sequence[str]]
    partial: bool
    scale: Callable[[Any], float]
    check: Callable[..., None]


@dataclass(frozen=True)
class ModelFacts:
    """The smallest images it takes, in px, and with side heads (None: it has none); pretrained: the
    name of torchvision's weights that it can start from."""

    min_size: int = 1
    side_heads_min_size: int | None = None
    pretrained: str = ""


@dataclass(frozen=True)
class NotebookFacts:
    """study: whose claims its runs judge, "" for none. params: their model. section: the module of
    kdlib.report that writes its part of the report. concludes: it runs once more when all its runs
    are there. drawing: how long it draws, in starts of a job. reads: patterns of the files that an
    analysis hangs on beside its rows, from its params."""

    study: str
    params: type
    section: str = ""
    concludes: bool = False
    drawing: float = 0.0
    reads: Callable[[Any], Sequence[str]] = lambda params: ()


@dataclass(frozen=True)
class OptimizerFacts:
    """needs_lr: its learning rate has no default."""

    needs_lr: bool = False


@dataclass(frozen=True)
class ScheduleFacts:
    """milestones: it reads them."""

    milestones: bool = False


_plugins: list[tuple[str, str]] = []  # name and hash of those being imported, the last the inmost


def _again(build: Callable, before: Callable) -> bool:
    """Whether a function or class replaces one of the same name from the same module, as it does
    where a notebook's cell is run again or a module is reloaded."""
    if _plugins or (build.__module__ or "").startswith("kdlib."):
        return False
    names = [(one.__module__, getattr(one, "__qualname__", None)) for one in (build, before)]
    return names[0] == names[1] and names[0][1] is not None


class Registry:
    """A dictionary of named parts of one kind, filled by decorators; facts: the class of what is to
    be known about each of them.

    >>> SCALES = Registry("schedule", ScheduleFacts)
    >>> @SCALES.register("halving", milestones=True)
    ... def halving(): ...
    >>> SCALES["halving"].facts.milestones
    True
    >>> SCALES["halvin"]
    Traceback (most recent call last):
    LookupError: unknown schedule 'halvin', did you mean 'halving'?
    """

    def __init__(self, kind: str, facts: type):
        self.kind, self.facts = kind, facts
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, version: int = 1, **facts: Any) -> Callable:
        """Decorator: file a function or class under `name`. A name that another one has is a
        ValueError; the same definition (the cell of a function of that name) may be run again, and
        the last counts. A fact that is none of this kind is a TypeError."""
        try:
            known = self.facts(**facts)
        except TypeError as error:
            raise TypeError(f"{self.kind} {name!r}: {error}") from None

        def file(build: Callable) -> Callable:
            if name in self._entries and not _again(build, before := self._entries[name].build):
                raise ValueError(
                    f"{self.kind} {name!r} is registered twice: {before.__module__} has it as "
                    f"{getattr(before, '__qualname__', before)!r}; take another name, or define it "
                    "anew under that one"
                )
            plugin, content = _plugins[-1] if _plugins else ("", None)
            made = source(build, content)
            self._entries[name] = Entry(name, build, version, known, made, plugin)
            return build

        return file

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise LookupError(f"unknown {self.kind} {name!r}, {suggest(name, self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        """Every registered name, in the order of registration."""
        return list(self._entries)


LABEL_LOSSES = Registry("label loss", LossFacts)
TERMS = Registry("KD method", TermFacts)
TARGETS = Registry("target source", NoFacts)
MODELS = Registry("model", ModelFacts)
STUDIES = Registry("notebook", NotebookFacts)
# (recipe, parameters, lr tensor, cuda_graphs) -> an optimizer.
OPTIMIZERS = Registry("optimizer", OptimizerFacts)
# (recipe, epoch, fractions included) -> the rate.
SCHEDULES = Registry("schedule", ScheduleFacts)
# ((B, C, H, W) images in [0, 1], a generator on the CPU) -> images of that shape.
AUGMENTATIONS = Registry("augmentation", NoFacts)
ALL = (LABEL_LOSSES, TERMS, TARGETS, MODELS, STUDIES, OPTIMIZERS, SCHEDULES, AUGMENTATIONS)
LISTED = {
    "KD methods": TERMS, "target sources": TARGETS, "label losses": LABEL_LOSSES, "models": MODELS,
    "optimizers": OPTIMIZERS, "schedules": SCHEDULES, "augmentations": AUGMENTATIONS,
}  # fmt: skip
HAVE_OPTIONS = (TERMS, TARGETS, LABEL_LOSSES)  # which params give by `options`


def listing() -> Iterator[str]:
    """Every part, in lines for a terminal: those with options with their defaults and what they do,
    of the others the names."""
    for kind, registry in LISTED.items():
        yield f"{kind}:"
        if registry not in HAVE_OPTIONS:
            yield _indented(", ".join(registry.names()) or "none", 2)
            continue
        for name in registry.names():
            entry = registry[name]
            given = {key: getattr(entry.facts, key) for key in WEIGHTS if registry is TERMS}
            taken = inspect.signature(entry.build).parameters.values()
            given |= {one.name: one.default for one in taken if one.default is not one.empty}
            options = ", ".join(f"{key}: {value}" for key, value in given.items())
            yield f"  {name}" + f"  {{{options}}}" * bool(options)
            yield _indented((inspect.getdoc(entry.build) or "").split("\n\n")[0], 6)


def _indented(text: str, by: int) -> str:
    return textwrap.fill(text, 98, initial_indent=by * " ", subsequent_indent=by * " ")


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What to say of a key that params do not have: how it is set where it is an option of a KD
    method, else what was meant.

    >>> unknown_key("lrr", ["lr", "epochs"])
    "unknown key 'lrr', did you mean 'lr'?"
    """
    taken = {
        name: inspect.signature(TERMS[name].build).parameters for name in sorted(TERMS.names())
    }
    owners = {name: key for name, options in taken.items() if key in options}
    for name, options in taken.items():
        option = key.removeprefix(f"{name}_")
        if option != key and option in (*options, *WEIGHTS):
            owners = {name: option}
    if owners:
        name, option = next(iter(owners.items()))
        of = f"an option of {', '.join(owners)}: options: {{{name}: {{{option}: ...}}}}"
        return f"unknown key {key!r}, {of}"
    return f"unknown key {key!r}, {suggest(key, known)}"


@contextmanager
def of_plugin(name: str, content: bytes) -> Iterator[None]:
    """What code registers inside is a plugin's, of that content, in the place of what the plugin
    registered before. It stays only where it ends well, so that a file which failed half way can be
    mended and loaded again."""
    before = [registry._entries for registry in ALL]
    for registry in ALL:
        kept = {key: one for key, one in registry._entries.items() if one.plugin != name}
        registry._entries = kept
    _plugins.append((name, hashed(content)))
    try:
        yield
    except BaseException:
        for registry, entries in zip(ALL, before, strict=True):
            registry._entries = entries
        raise
    finally:
        _plugins.pop()
