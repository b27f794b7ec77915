"""Code that users bring: files or modules that register parts (`kdlib.registry`)."""

import importlib.util
import logging
import sys
import traceback
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from kdlib import definitions
from kdlib.registry import of_plugin

FILE = "kdlib_plugin_"
_loaded: dict[str, bytes] = {}  # the content of each plugin, as it was imported

log = logging.getLogger("kdlib")


def load_plugin(name: str) -> str:
    """Import a module by its dotted name, or a file that ends in .py, once and again where its
    content has changed; what to call it later.

    A file is called by its absolute path, so that a job in another folder finds it, too. The
    content of a file, and of the modules beside it that it imports, is part of the version of what
    is defined in it (`kdlib.registry.Entry`), so what is made with it is trained anew where it
    changes. ValueError names what is not there, or what went wrong in it.
    """
    path = Path(name).expanduser().resolve()
    is_file = name.endswith(".py")
    if is_file and not path.is_file():
        raise ValueError(f"no file {path}")
    key = f"{FILE}{path}" if is_file else name
    try:
        origin = path if is_file else _origin(name)
        content = definitions.content(origin) if origin else b""
        if key in sys.modules and _loaded.get(key, content) == content:
            return str(path) if is_file else name
        before = sys.modules.pop(key, None)
        if before:
            _forget(origin)
        with of_plugin(key, content):
            _import_file(key, path) if is_file else import_module(name)
    except Exception as error:
        sys.modules.pop(key, None)
        raise ValueError(f"{name}{_line(error, path)}: {type(error).__name__}: {error}") from error
    if before:
        log.info("%s has changed and was imported again", name)
    _loaded[key] = content
    return str(path) if is_file else name


def load_plugins(names: Iterable[str]) -> None:
    """Import each of them, as a new process must that is handed params or runs."""
    for name in names:
        load_plugin(name)


def _origin(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}")
    return Path(spec.origin) if spec.origin else None  # a folder without __init__.py has none


def _line(error: Exception, path: Path) -> str:
    """Where in the file something went wrong, the place that was reached last."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _forget(origin: Path | None) -> None:
    """The modules beside a plugin that it imports are imported anew with it."""
    beside = set(definitions.files(origin)[1:]) if origin else set()
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) and Path(module.__file__).resolve() in beside:
            del sys.modules[name]


def _import_file(key: str, path: Path) -> None:
    spec = importlib.util.spec_from_file_location(key, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    spec.loader.exec_module(module)
