"""Converted models on disk, in the user's cache folder (`TILESEGMENT_CACHE` names another).

An entry is a few files with a list of their checksums, written last: what is not whole is made again. One
process at a time makes entries, under a lock that the operating system drops with its holder. The folder
stays below a size; what was not used for longest goes first.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tilesegment.atomic import lock_file, write_text
from tilesegment.errors import ModelError

_LOCK, _SUMS, _UNFINISHED = "lock", ".sums", "making-"
_MOST_BYTES = 1_000_000_000
# Seconds for which an entry that was used is not removed: somebody may be reading it.
_IN_USE = 3600.0
_log = logging.getLogger("tilesegment")


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The file `name` of the cache, made where it is not there whole.

    make: is given a path in an empty folder to write it to; more files may be written beside it.
    Raises ModelError where there is no folder to write to, and whatever `make` raises.
    """
    folder = cache_folder()
    path = folder / name
    if _is_whole(path):
        return path
    with _alone(folder):
        # Another process may have been faster.
        if not _is_whole(path):
            for left in folder.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(left, ignore_errors=True)
            _fill(path, make)
            _shrink(folder, path)
    return path


def cache_folder() -> Path:
    """Where converted models are kept; a temporary folder where the user's own cannot be written to."""
    from platformdirs import user_cache_dir

    named = os.environ.get("TILESEGMENT_CACHE")
    for folder in (
        Path(named or user_cache_dir("tilesegment")),
        Path(tempfile.gettempdir()) / "tilesegment",
    ):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            _log.warning("%s: no cache there (%s)", folder, error.strerror)
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise ModelError("no folder to keep converted models in; name one by TILESEGMENT_CACHE")


def _is_whole(path: Path) -> bool:
    """Whether all files of an entry have the content that was written; it counts as used now."""
    sums = path.with_suffix(_SUMS)
    try:
        expected = json.loads(sums.read_text(encoding="utf-8"))
        whole = path.name in expected and all(
            _checksum(path.with_name(file)) == checksum for file, checksum in expected.items()
        )
        if whole:
            os.utime(sums)
    except (OSError, ValueError, TypeError, AttributeError):
        return False
    return whole


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fill(path: Path, make: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=path.parent) as folder:
        make(Path(folder) / path.name)
        files = sorted(Path(folder).iterdir())
        sums = {file.name: _checksum(file) for file in files}
        path.with_suffix(_SUMS).unlink(missing_ok=True)
        for file in files:
            os.replace(file, path.with_name(file.name))
    write_text(path.with_suffix(_SUMS), json.dumps(sums))


def _shrink(folder: Path, kept: Path) -> None:
    entries: dict[str, list[Path]] = {}
    for file in folder.iterdir():
        # Small files that others write here come and go.
        if file.is_file() and file.name != _LOCK and file.suffix != ".json" and file.name[0] != ".":
            entries.setdefault(file.stem, []).append(file)
    sizes = {stem: sum(file.stat().st_size for file in files) for stem, files in entries.items()}
    used = {stem: max(file.stat().st_mtime for file in files) for stem, files in entries.items()}
    total = sum(sizes.values())
    for stem in sorted(used, key=lambda stem: used[stem]):
        if total <= _MOST_BYTES or time.time() - used[stem] < _IN_USE:
            return
        if stem != kept.stem:
            for file in entries[stem]:
                file.unlink(missing_ok=True)
            total -= sizes[stem]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; wait where another process does."""
    with (folder / _LOCK).open("a+") as lock:
        try:
            lock_file(lock)
        except OSError:
            _log.info("waiting for another process, which converts a model")
            lock_file(lock, wait=True)
        yield
