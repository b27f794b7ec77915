"""The options of a registered part: those of its function's signature, with their types."""

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kdlib.registry import Entry, suggest


def resolve_options(entry: Entry, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """All options of a registered part, defaults filled in from its signature, types checked."""
    known = {
        name: parameter
        for name, parameter in inspect.signature(entry.build).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    for key in options:
        if key not in known:
            hint = suggest(key, known) if known else "it takes none"
            raise ValueError(f"{where}: unknown option {key!r} of {entry.name!r}, {hint}")
    resolved = {}
    for name, parameter in known.items():
        value = options.get(name, parameter.default)
        kind = Any if parameter.annotation is parameter.empty else parameter.annotation
        try:
            resolved[name] = TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            what = error.errors()[0]["msg"].lower()
            raise ValueError(f"{where}: {entry.name}.{name}: {what}, got {value!r}") from None
    return resolved
