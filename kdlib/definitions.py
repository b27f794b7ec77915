"""What defines a part from outside kdlib: a file with the modules beside it that it imports, or
the notebook cells that it is made of. Their hash is part of its version."""

import ast
import dis
import functools
import hashlib
import inspect
import linecache
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

PLAIN = (bool, int, float, str, bytes, tuple, list, dict, set)  # values that are their repr


def hashed(content: bytes) -> str:
    """Eight hex digits of a content."""
    return hashlib.sha256(content).hexdigest()[:8]


def content(path: Path) -> bytes:
    """Of a file of Python, and of the modules in its folder that it imports, theirs included."""
    return b"".join(file.read_bytes() for file in files(path))


def files(path: Path) -> list[Path]:
    """A file and the modules in its folder that it imports, and that these import; no more than
    the file itself where it is no Python."""
    found, waiting = [], [path.resolve()]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.append(file)
            waiting += sorted(_imported(file, path.resolve().parent))
    return [found[0], *sorted(found[1:])]


def _imported(file: Path, folder: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:
        return
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            head = f"{node.module}." if node.module else ""
            names = [node.module or "", *(head + alias.name for alias in node.names)]
        for name in filter(None, names):
            stem = folder.joinpath(*name.split("."))
            there = (stem.with_suffix(".py"), stem / "__init__.py")
            yield from (path for path in there if path.is_file())


def source(build: Callable, plugin: str | None) -> Callable[[], str | None]:
    """Tells the hash of what defines a part; `plugin`: the hash of the one that is being imported.
    A partial, or a part of kdlib's under another name, has that of the plugin which registers it;
    kdlib's own have none, their versions are raised by hand. That of cells is of now: what they
    read may change later."""
    partial, module = isinstance(build, functools.partial), build.__module__ or ""
    if partial or module.startswith("kdlib."):
        return lambda: plugin
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return lambda: hashed("".join(_cell(build, set())).encode())
    of_file = hashed(content(Path(file)))
    return lambda: of_file


def _cell(part: Any, seen: set[int]) -> Iterator[str]:
    """All of the cell in which a function, or a class with methods, was defined, and what it reads
    of other cells: their plain values, functions and classes."""
    seen.add(id(part))
    for one in [part, *getattr(part, "__dict__", {}).values()]:
        if not inspect.isfunction(one):
            continue
        yield from linecache.getlines(one.__code__.co_filename)
        for name in sorted(_globals(one.__code__)):
            value = one.__globals__.get(name)
            if isinstance(value, PLAIN):
                yield f"{name} = {value!r}"
            elif getattr(value, "__module__", None) == one.__module__ and id(value) not in seen:
                yield from _cell(value, seen)


def _globals(code: CodeType) -> set[str]:
    """The global names that code reads, functions inside it included."""
    read = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    inner = (part for part in code.co_consts if isinstance(part, CodeType))
    return read.union(*map(_globals, inner))
