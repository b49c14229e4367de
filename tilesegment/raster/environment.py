"""GDAL's own settings for the length of a run, and whether it and PROJ find what they need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rasterio
from rasterio.errors import CRSError, RasterioError

from tilesegment.settings import parse_bytes
from tilesegment.tiling.memory import GDAL_CACHE_BYTES

# What holds unless the user says otherwise, by an option or in the environment. Retries are of answers
# 429 and 5xx, after waits that double; a server that says nothing for a minute is given up.
_DEFAULTS = {
    "CPL_VSIL_CURL_CACHE_SIZE": 32_000_000,
    "GDAL_HTTP_MAX_RETRY": 4,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_CONNECTTIMEOUT": 20,
    "GDAL_HTTP_LOW_SPEED_TIME": 60,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1,
    # The header and the directory of a cloud-optimised GeoTIFF in one request.
    "GDAL_INGESTED_BYTES_AT_OPEN": 32_768,
}


@contextmanager
def gdal_environment(options: tuple[tuple[str, str], ...] = ()) -> Iterator[None]:
    """GDAL's configuration for the length of a run: a known cache, and the user's own options."""
    free = {name: value for name, value in _DEFAULTS.items() if name not in os.environ}
    defaults: dict[str, Any] = {"GDAL_CACHEMAX": GDAL_CACHE_BYTES, **free}
    given: dict[str, Any] = dict(options)
    if "GDAL_CACHEMAX" in given:
        given["GDAL_CACHEMAX"] = _cache_bytes(given["GDAL_CACHEMAX"])
    with rasterio.Env(**{**defaults, **given}):
        yield


def projects_rightly() -> str | None:
    """Whether GDAL and PROJ find their data: what is wrong, None for nothing. Both copies of PROJ are
    asked, rasterio's and pyproj's."""
    import pyproj
    from rasterio.warp import transform

    # On the middle meridian of a UTM zone: 500 km, and the arc from the equator (4984944.4 m) by 0.9996.
    expected = 500_000.0, 4_982_950.4
    try:
        (x,), (y,) = transform("EPSG:4326", "EPSG:32645", [87.0], [45.0])
        found = {"GDAL": (x, y)}
        to_utm = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32645", always_xy=True)
        found["pyproj"] = to_utm.transform(87.0, 45.0)
    except (RasterioError, CRSError, pyproj.exceptions.ProjError) as error:
        return f"coordinates cannot be projected ({' '.join(str(error).split())})"
    for name, place in found.items():
        if max(abs(a - b) for a, b in zip(place, expected, strict=True)) > 1:
            return f"{name} projects 87 E, 45 N to {place[0]:.0f}, {place[1]:.0f}"
    return None


def _cache_bytes(text: str) -> int:
    """As GDAL reads it: small numbers are megabytes. Raises SettingsError."""
    if text.isdigit():
        return int(text) if int(text) >= 100_000 else int(text) * 1_000_000
    return parse_bytes(text)
