"""Values that callers give, brought to the types that settings are declared with, or refused by name."""

from __future__ import annotations

import dataclasses
import os
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from tilesegment.errors import SettingsError
from tilesegment.settings import nearest, options_of

_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}


def checked(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values by name, each of the type that the dataclass `kind` declares for it. Paths count as
    texts, lists as tuples, mappings as pairs, whole numbers as numbers, numpy's numbers as Python's.

    Raises SettingsError for an unknown name or a value of another type.
    """
    hints = get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    options = options_of(kind)
    result = {}
    for name, value in given.items():
        if name not in known:
            raise SettingsError(f"unknown setting {name!r}{nearest(name, known)}")
        option = options.get(name)
        result[name] = _checked(name, value, hints[name], None if option is None else option.parse)
    return result


def _checked(name: str, value: Any, hint: Any, parse: Callable[[str], Any] | None) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if parse is not None and isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            return parse(str(value))
        except SettingsError as error:
            raise SettingsError(f"{name}: {error}") from None
    choices = get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    for choice in choices:
        found = _as(value, choice)
        if found is not None or choice is type(None) is type(value):
            return found
    words = " or ".join(_word(choice) for choice in choices if choice is not type(None))
    raise SettingsError(f"{name}: {reprlib.repr(value)} is not {words}")


def _as(value: Any, kind: Any) -> Any:
    """A value as an instance of a type; None where it is none."""
    if kind is str:
        return os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if kind is float:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if kind is int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return int(value) if whole and not isinstance(value, bool) else None
    if get_origin(kind) is tuple:
        return _as_tuple(value, get_args(kind))
    return value if isinstance(value, kind) else None


def _as_tuple(value: Any, inner: tuple[Any, ...]) -> tuple[Any, ...] | None:
    if isinstance(value, Mapping):
        value = [(str(key), str(entry)) for key, entry in value.items()]
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return None
    kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
    if len(kinds) != len(value):
        return None
    found = tuple(_as(part, kind) for part, kind in zip(value, kinds, strict=True))
    return None if None in found else found


def _word(kind: Any) -> str:
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        if get_origin(inner[0]) is tuple:
            return "a mapping of names to texts"
        several = "numbers" if inner[0] in (int, float) else "texts"
        return f"a list of {several if inner[-1] is Ellipsis else f'{len(inner)} {several}'}"
    return _WORDS.get(kind, f"a {getattr(kind, '__name__', kind)}")
