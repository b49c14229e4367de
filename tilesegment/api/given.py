"""What callers give, as the rooms below take it: settings by name, paths."""

from __future__ import annotations

import dataclasses
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilesegment.checked import checked
from tilesegment.errors import SettingsError
from tilesegment.settings import PredictSettings, VectorSettings, nearest

Place = str | os.PathLike[str]


def predict_settings(settings: Mapping[str, Any]) -> PredictSettings:
    """Settings by name, as commands, configuration files and callers give them.

    Raises SettingsError for an unknown name or an unusable value.
    """
    if isinstance(settings.get("model"), str | os.PathLike):
        settings = {**settings, "model": (settings["model"],)}
    vector, rest = split_settings(settings, PredictSettings)
    return PredictSettings(**checked(PredictSettings, rest), vector=vector_settings(vector))


def vector_settings(given: Mapping[str, Any]) -> VectorSettings:
    """Settings of polygons by name. Raises SettingsError."""
    settings = VectorSettings(**checked(VectorSettings, given))
    if settings.connectivity not in (4, 8):
        raise SettingsError(f"connectivity {settings.connectivity} is neither 4 nor 8")
    return settings


def split_settings(settings: Mapping[str, Any], kind: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those of the polygons, and the rest. Raises SettingsError for an unknown name."""
    vector, others = _names(VectorSettings), [name for name in _names(kind) if name != "vector"]
    for name in settings:
        if name not in (*vector, *others):
            raise SettingsError(f"unknown setting {name!r}{nearest(name, [*vector, *others])}")
    return (
        {name: value for name, value in settings.items() if name in vector},
        {name: value for name, value in settings.items() if name not in vector},
    )


def _names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def path_of(name: str, value: Any) -> Path:
    """Raises SettingsError for what is no path."""
    if not isinstance(value, str | os.PathLike):
        raise SettingsError(f"{name}: {reprlib.repr(value)} is no path")
    return Path(os.fspath(value))


def optional_path(name: str, value: Any) -> Path | None:
    """None stays None. Raises SettingsError for what is no path."""
    return None if value is None else path_of(name, value)


def source_of(value: Any, name: str = "source") -> str:
    """Raises SettingsError for what is neither a path nor a URI."""
    if not isinstance(value, str | os.PathLike):
        raise SettingsError(f"{name}: {reprlib.repr(value)} is neither a path nor a URI")
    return os.fspath(value)
