"""Reading across a network that fails now and then: what is worth another try, after which wait."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import rasterio._base
from rasterio.env import getenv, hasenv

from tilesegment.errors import without_secrets
from tilesegment.raster.opening import gdal_path, is_remote

# Drivers whose files are on this machine and whose pixels are not.
_SERVICES = frozenset({"WMS", "WMTS", "WCS", "STACIT", "STACTA", "EEDAI", "PLMosaic", "OGCAPI"})
_MOST_RETRIES, _FIRST_WAIT = 4, 1.0
# Waits double, up to this many seconds.
_LONGEST_WAIT = 60.0

_T = TypeVar("_T")
_log = logging.getLogger("tilesegment")


def is_across_network(driver: str, files: Iterable[str]) -> bool:
    """Whether a scene of these files, opened by this driver, is read across a network."""
    return driver in _SERVICES or any(is_remote(path) for path in files)


def waits() -> list[float]:
    """Seconds before each further try, twice as many each time: as many as GDAL_HTTP_MAX_RETRY says, from
    GDAL_HTTP_RETRY_DELAY on."""
    options: dict[str, Any] = {**os.environ, **(getenv() if hasenv() else {})}
    count = int(_number(options.get("GDAL_HTTP_MAX_RETRY"), _MOST_RETRIES))
    first = _number(options.get("GDAL_HTTP_RETRY_DELAY"), _FIRST_WAIT)
    return [min(first * 2**k, _LONGEST_WAIT) for k in range(count)]


def _number(value: Any, default: float) -> float:
    try:
        return max(0.0, float(value))
    except (TypeError, ValueError):
        return default


def tried_again(
    path: str, read: Callable[[], _T], reopen: Callable[[], None], failure: type[Exception]
) -> _T:
    """What `read` gives, tried again after growing waits where it raises `failure`, each time after
    `reopen`, whose failures count alike. GDAL itself only repeats requests that a server answers with 429
    or 5xx: not those whose answer breaks off, is too short, or never comes."""
    pauses = waits()
    for number, pause in enumerate([*pauses, None]):
        try:
            if number:
                reopen()
            return read()
        except failure as error:
            if pause is None:
                raise
            left = len(pauses) - number - 1
            again = f"trying again in {pause:g} s" + (f", then {left} times more" if left else "")
            reason, shown = " ".join(str(error).split()), without_secrets(path)
            _log.warning("%s; %s", reason if shown in reason else f"{shown}: {reason}", again)
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def forget(files: Iterable[str]) -> None:
    """Let GDAL forget what it keeps of remote files: an answer that was cut short would be read for ever.
    Rasterio has no name for this function of GDAL's, and its own library knows it; where a system's loader
    does not look into it, GDAL's cache stays as it is."""
    library = ctypes.CDLL(rasterio._base.__file__)
    with contextlib.suppress(AttributeError):
        clear = library.VSICurlPartialClearCache
        clear.argtypes, clear.restype = [ctypes.c_char_p], None
        for path in files:
            if is_remote(path):
                clear(gdal_path(path).encode())
