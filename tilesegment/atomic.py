"""Files that are complete or unchanged, whatever happens while they are written or read; locks on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tilesegment.errors import OutputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name to write a file under, which becomes `path` when the body is done and the disk has it.

    Raises OutputError where the disk is full or refuses.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError) or isinstance(error, OutputError):
            raise
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def write_text(path: Path, text: str) -> None:
    """Write a small text file. Raises OutputError."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def lock_file(file: IO[str], wait: bool = False) -> None:
    """Lock an open file for this process, until it is closed or the process ends, however it ends.

    Raises OSError where another process holds it and `wait` is False.
    """
    if os.name == "posix":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    else:
        import msvcrt

        # A byte far behind the text, so that another process can still read who holds it.
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]


@contextmanager
def only_read() -> Iterator[None]:
    """Nothing is written beside vector files that are read inside: GDAL would put a GeoPackage's metadata
    into a `.aux.xml`."""
    import pyogrio

    pyogrio.set_gdal_config_options({"GDAL_PAM_ENABLED": False})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"GDAL_PAM_ENABLED": None})
