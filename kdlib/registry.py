"""Named parts: what exists, its version, and the closest name when somebody mistypes one.

The registries themselves stand here, so that a config can check a name without importing the room
that fills the registry. Importing `kdlib` fills them all.
"""

import difflib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    another version are stale. `facts` holds what the registering room wants known about it;
    `source` tells the hash of what defines a part from outside kdlib, None for kdlib's own;
    `plugin`: the one that registered it."""

    name: str
    build: Callable[..., Any]
    number: int = 1
    facts: dict[str, Any] = field(default_factory=dict)
    source: Callable[[], str | None] = lambda: None
    plugin: str = ""

    @property
    def version(self) -> int | str:
        """The number, and of a part from outside kdlib the hash of its source, too."""
        source = self.source()
        return f"{self.number} of {source}" if source else self.number


_plugins: list[tuple[str, str]] = []  # name and hash of those being imported, the last the inmost


def _again(build: Callable, before: Callable) -> bool:
    """Whether a function or class replaces one of the same name from the same module, as it does
    where a notebook's cell is run again or a module is reloaded."""
    if _plugins or (build.__module__ or "").startswith("kdlib."):
        return False
    names = [(one.__module__, getattr(one, "__qualname__", None)) for one in (build, before)]
    return names[0] == names[1] and names[0][1] is not None


class Registry:
    """A dictionary of named parts of one kind, filled by decorators.

    >>> SHAPES = Registry("shape")
    >>> @SHAPES.register("disc", sides=0)
    ... def disc(): ...
    >>> SHAPES["disc"].facts["sides"]
    0
    >>> SHAPES["disk"]
    Traceback (most recent call last):
    LookupError: unknown shape 'disk', did you mean 'disc'?
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, version: int = 1, **facts: Any) -> Callable:
        """Decorator: file a function or class under `name`. A name that another one has is a
        ValueError; the same definition (the cell of a function of that name) may be run again, and
        the last counts."""

        def file(build: Callable) -> Callable:
            if name in self._entries and not _again(build, before := self._entries[name].build):
                raise ValueError(
                    f"{self.kind} {name!r} is registered twice: {before.__module__} has it as "
                    f"{getattr(before, '__qualname__', before)!r}; take another name, or define it "
                    "anew under that one"
                )
            plugin, content = _plugins[-1] if _plugins else ("", None)
            made = source(build, content)
            self._entries[name] = Entry(name, build, version, facts, made, plugin)
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


# Fact of a loss: holds_prior, whether the log of the class counts is in it, as in balanced softmax.
LABEL_LOSSES = Registry("label loss")
TERMS = Registry("KD method")
TARGETS = Registry("target source")
MODELS = Registry("model")
# Facts of a notebook. study: whose claims its runs judge, "" for none. params: their model.
# reads: patterns of the files that an analysis hangs on beside its rows, from its params.
# section: the module of kdlib.report that writes its part of the report. concludes: it runs once
# more when all its runs are there. drawing: how long it draws, in starts of a job.
STUDIES = Registry("notebook")
# (recipe, parameters, lr tensor, cuda_graphs) -> an optimizer; fact needs_lr: it has no default.
OPTIMIZERS = Registry("optimizer")
# (recipe, epoch, fractions included) -> the rate; fact milestones: it reads them.
SCHEDULES = Registry("schedule")
# ((B, C, H, W) images in [0, 1], a generator on the CPU) -> images of that shape.
AUGMENTATIONS = Registry("augmentation")
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
            given = {key: entry.facts[key] for key in WEIGHTS if key in entry.facts}
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
