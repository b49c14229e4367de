"""Provenance: what an output says of itself, and the record beside it."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import importlib.metadata
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tilesegment.errors import without_secrets
from tilesegment.model.engines.choose import version_of
from tilesegment.model.store import ModelFile
from tilesegment.run.block.file import BlockInfo
from tilesegment.settings import Measure, PredictSettings

_PACKAGES = ("rasterio", "numpy", "shapely", "pyogrio", "torch", "segmentation-models-pytorch")
# Words in the names of GDAL options whose values nobody should read.
_SECRET = ("SECRET", "TOKEN", "PASSWORD", "USERPWD", "ACCESS_KEY", "SIGNATURE", "HEADER", "COOKIE")


def software() -> str:
    """`tilesegment VERSION`."""
    return f"tilesegment {version_of('tilesegment')}"


@functools.cache
def versions() -> Mapping[str, str]:
    """Versions of Python, GDAL and those packages that decide a result, as far as they are installed."""
    import rasterio

    installed = {found.name for found in importlib.metadata.distributions()}
    found = {name: version_of(name) for name in _PACKAGES if name in installed}
    return MappingProxyType(
        {"python": platform.python_version(), "gdal": rasterio.__gdal_version__, **found}
    )


def provenance(path: str, models: Sequence[ModelFile], settings: dict[str, Any]) -> dict[str, str]:
    """Short texts that are written into an output's own metadata."""
    told = {name: value for name, value in settings.items() if name != "model" and value not in (None, ())}
    shown = "; ".join(f"{name}={value}" for name, value in told.items())
    return {
        "software": software(),
        "model": ", ".join(model.name for model in models),
        "model_sha256": ", ".join(model.sha256 for model in models),
        "input": without_secrets(path),
        "settings": shown,
    }


def plain_settings(settings: PredictSettings) -> dict[str, Any]:
    """The settings in values that YAML and JSON can hold, under the flags' names."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            for inner in dataclasses.fields(value):
                found = getattr(value, inner.name)
                result[inner.name] = str(found) if isinstance(found, Measure) else found
        else:
            result[field.name] = value
    result["gdal"] = tuple((name, _shown(name, str(value))) for name, value in settings.gdal)
    return result


def _shown(option: str, value: str) -> str:
    """The value of a GDAL option as it may be published."""
    hidden = any(word in option.upper() for word in _SECRET)
    return "***" if hidden else without_secrets(value)


def name_of(source: str) -> str:
    """The file's name of a source, for people."""
    return re.split(r"[/\\]", without_secrets(source).rstrip("/\\"))[-1]


def is_record(path: Path) -> bool:
    """Whether a file was written by a run of this package, which may replace it."""
    try:
        begin = path.read_bytes()[:200].decode("utf-8", "replace")
    except OSError:
        return False
    return '"software": "tilesegment ' in begin


def stage_seconds(infos: list[BlockInfo]) -> dict[str, float]:
    """Seconds by stage, summed over the blocks that this run predicted."""
    total: dict[str, float] = {}
    for info in infos:
        for stage, seconds in info.seconds.items():
            total[stage] = round(total.get(stage, 0.0) + seconds, 3)
    return total


def now() -> str:
    """The time in ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
