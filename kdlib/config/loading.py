"""Params files: YAML with settings and inheritance, read into validated `Params`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kdlib.config.schema import Params, StudyParams, validate
from kdlib.registry import STUDIES, suggest


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = [file.name for file in path.parent.glob("*.yaml")]
        raise FileNotFoundError(f"no params file {path}, {suggest(path.name, known)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if content is None:
        raise ValueError(f"{path} is empty")
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no mapping of keys to values, but a {type(content).__name__}")
    return content


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one; where both say something, `above` counts.

    >>> merge({"lr": 1, "options": {"kd": {"weight": 2}}}, {"options": {"kd": {"temperature": 4}}})
    {'lr': 1, 'options': {'kd': {'weight': 2, 'temperature': 4}}}
    """
    both = {
        key: merge(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping)
    }
    return {**below, **above, **both}


def _layers(path: Path, seen: tuple[Path, ...] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """A file's common keys and its settings, those of the file it extends underneath."""
    if path.resolve() in seen:
        raise ValueError(f"{path} extends itself")
    content = _read_yaml(path)
    parent, own = content.pop("extends", None), content.pop("common", {})
    settings = content.pop("settings", {})
    _check_mappings(path, {"common": own, "settings": settings})
    _check_mappings(path, settings)
    own = merge(own, content)
    if parent is not None:
        if not isinstance(parent, str):
            raise ValueError(f"{path}: extends names a file, got {parent!r}")
        below, settings_below = _layers(path.parent / parent, (*seen, path.resolve()))
        own, settings = merge(below, own), merge(settings_below, settings)
    return own, settings


def _check_mappings(path: Path, parts: Mapping[str, Any]) -> None:
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise ValueError(f"{path}: {name} is no mapping of keys to values, but {part!r}")


def load_settings(path: str | Path) -> dict[str, StudyParams]:
    """Every setting of a params file by name; a file without settings holds one, named "".

    The file's stem names the notebook, and so the model of its params (`Params` for a stem that is
    no notebook's).

    A file is flat, or `common:` plus `settings: {name: {...}}`; `extends: FILE` (relative to it)
    puts another file's keys underneath. Errors: ValueError or FileNotFoundError naming the file.
    """
    path = Path(path)
    common, settings = _layers(path)
    model = STUDIES[path.stem].facts.params if path.stem in STUDIES else Params
    where = {name: f"{path}, setting {name}" if name else str(path) for name in settings or [""]}
    return {
        name: validate(model, merge(common, settings.get(name, {})) | {"setting": name}, place)
        for name, place in where.items()
    }


def load_params(path: str | Path, setting: str | None = None) -> StudyParams:
    """The validated params of a file, or of one setting of a file with several."""
    settings = load_settings(path)
    if setting is None and len(settings) == 1:
        return next(iter(settings.values()))
    if setting in settings:
        return settings[setting]
    known = f"its settings are {', '.join(settings)}" if any(settings) else "it has no settings"
    asked = "which setting?" if setting is None else f"no setting {setting!r},"
    raise ValueError(f"{path}: {asked} {known}")
