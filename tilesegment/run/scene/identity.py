"""What identifies an input: every file behind it, so that a resumed run never mixes two inputs."""

from __future__ import annotations

import hashlib
import os
from email.message import Message
from http import HTTPStatus
from http.client import BadStatusLine, HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tilesegment.errors import without_secrets
from tilesegment.grid import Window
from tilesegment.raster.network import tried_again
from tilesegment.raster.source import Scene

_SAMPLE = 512


def scene_identity(scene: Scene) -> list[str]:
    """One line for each file behind a scene: path with size and modification time, or a URL with its
    ETag; for other remote files a checksum of sampled pixels stands in."""
    lines = [_file_identity(path) for path in sorted(scene.files)]
    if any(line is None for line in lines):
        lines.append(f"pixels {_pixel_checksum(scene)}")
    return [line for line in lines if line is not None]


def _file_identity(path: str) -> str | None:
    if path.startswith("/vsicurl/") or path.startswith(("http://", "https://")):
        return _url_identity(path.removeprefix("/vsicurl/"))
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return f"{os.path.abspath(path)} {stat.st_size} {stat.st_mtime_ns}"


def _url_identity(url: str) -> str | None:
    try:
        headers = tried_again(url, lambda: _headers(url), lambda: None, _PassingError)
    except (_PassingError, HTTPException, OSError, ValueError):
        return None
    mark = headers.get("ETag") or headers.get("Last-Modified")
    # Without what signs it: a new signature is no other file.
    return None if mark is None else f"{without_secrets(url)} {headers.get('Content-Length')} {mark}"


class _PassingError(Exception):
    """A server's trouble that may be over soon."""


def _headers(url: str) -> Message:
    try:
        with urlopen(Request(url, method="HEAD"), timeout=20) as answer:  # noqa: S310 - the scene's own URL
            found: Message = answer.headers
            return found
    except HTTPError as error:
        if error.code == HTTPStatus.TOO_MANY_REQUESTS or error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _PassingError(str(error)) from error
        raise
    except URLError as error:
        if isinstance(error.reason, ConnectionError | TimeoutError):
            raise _PassingError(str(error)) from error
        raise
    except (BadStatusLine, ConnectionError, TimeoutError) as error:
        raise _PassingError(str(error)) from error


def _pixel_checksum(scene: Scene) -> str:
    grid = scene.grid
    side = min(_SAMPLE, grid.height), min(_SAMPLE, grid.width)
    corner = Window((grid.height - side[0]) // 2, (grid.width - side[1]) // 2, *side)
    pixels = scene.read(corner)
    digest = hashlib.sha256(repr((grid, scene.spec.bands)).encode())
    digest.update(pixels.values.tobytes())
    return digest.hexdigest()
