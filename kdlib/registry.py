"""Named parts: what exists, its version, and the closest name when somebody mistypes one.

The registries themselves stand here, so that a config can check a name without importing the room
that fills the registry. Importing `kdlib` fills them all.
"""

import difflib
import functools
import hashlib
import inspect
import linecache
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
    """One named part. `version` rises when a change of its code changes numbers: rows made with
    another version are stale. Of a part from outside kdlib it holds the hash of its source, too.
    `facts` holds what the registering room wants known about it."""

    name: str
    build: Callable[..., Any]
    version: int | str = 1
    facts: dict[str, Any] = field(default_factory=dict)


_plugins: list[str] = []  # the hashes of the plugins that are being imported, the last the inmost


def _source(build: Callable) -> str | None:
    """The hash of the file or notebook cell that defines a part; of a partial, or of a part of
    kdlib's under another name, that of the plugin which registers it. None for kdlib's own, whose
    versions are raised by hand."""
    partial, module = isinstance(build, functools.partial), build.__module__ or ""
    if partial or module.startswith("kdlib."):
        return _plugins[-1] if _plugins else None
    file = getattr(sys.modules.get(module), "__file__", None)
    return _hash(Path(file).read_bytes() if file else _cell(build).encode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _cell(part: Any) -> str:
    """All of the cell in which a function, or a class with methods, was defined; other cells are
    not seen."""
    functions = [part, *getattr(part, "__dict__", {}).values()]
    codes = (one.__code__ for one in functions if inspect.isfunction(one))
    return "".join("".join(linecache.getlines(code.co_filename)) for code in codes)


def _again(build: Callable, before: Callable) -> bool:
    """Whether both are one definition, run a second time: a notebook's cell, a reloaded module."""
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
        ValueError; the same definition may be run again, and the last counts."""

        def file(build: Callable) -> Callable:
            if name in self._entries and not _again(build, self._entries[name].build):
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            source = _source(build)
            told = f"{version} of {source}" if source else version
            self._entries[name] = Entry(name, build, told, facts)
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
ALL = (LABEL_LOSSES, TERMS, TARGETS, MODELS, STUDIES)


@contextmanager
def of_plugin(content: bytes) -> Iterator[None]:
    """What code registers inside is a plugin's, of that content. It stays only where it ends well,
    so that a file which failed half way can be mended and loaded again."""
    before = [dict(registry._entries) for registry in ALL]
    _plugins.append(_hash(content))
    try:
        yield
    except BaseException:
        for registry, entries in zip(ALL, before, strict=True):
            registry._entries = entries
        raise
    finally:
        _plugins.pop()
