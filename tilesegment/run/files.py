"""The files of an output: what belongs to its format, and the name it has until it is whole.

A format is several files to those who read it: an index, a journal or a note left by an earlier output
would speak of the new one. All of them are known here, looked at before, and replaced together.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tilesegment.errors import OutputError
from tilesegment.vector.files import ending_of

# Endings after the whole name, and endings instead of the extension.
_AFTER = {
    ".tif": (".aux.xml", ".ovr", ".msk", ".msk.ovr"),
    ".png": (".aux.xml", ".ovr", ".msk"),
    ".gpkg": ("-wal", "-shm", "-journal", ".aux.xml"),
    ".shp": (".xml",),
}
_INSTEAD = {
    ".tif": (".tfw", ".tifw"),
    ".png": (".pgw", ".pngw", ".wld"),
    # The page that shows them, and its picture.
    ".pmtiles": (".html", ".jpg"),
    ".shp": (
        *(".shx", ".dbf", ".prj", ".cpg", ".qpj", ".qix", ".sbn", ".sbx", ".idm", ".ind", ".fbn", ".fbx"),
        *(".ain", ".aih", ".atx", ".ixs", ".mxs", ".cst"),
    ),
}
# Bytes of a name that file systems take, and of the longest ending that this package adds to one.
_LONGEST_NAME, _LONGEST_ENDING = 255, len("..partial.done")


def belongings(path: Path) -> list[Path]:
    """The files beside `path` that readers of its format take for a part of it, without itself."""
    suffix = path.suffix.lower().replace(".tiff", ".tif")
    names = [path.name + ending for ending in _AFTER.get(suffix, ())]
    names += [path.stem + ending for ending in _INSTEAD.get(suffix, ())]
    names += [path.stem + ending.upper() for ending in _INSTEAD.get(suffix, ())]
    return [found for name in names if os.path.lexists(found := path.with_name(name))]


def check_name(path: Path) -> None:
    """Raises OutputError where the names of an output's other files would be too long for the disk."""
    size, most = len(os.fsencode(path.name)), _LONGEST_NAME - _LONGEST_ENDING
    if size > most:
        raise OutputError(f"{path.name[:20]}...: the name has {size} bytes, and at most {most} can be used")


def settle(path: Path) -> None:
    """Bring an existing GeoPackage to rest before it is replaced: what its journal holds goes into it.

    Raises OutputError where another program has it open, which would write on into the new one.
    """
    if path.suffix.lower() != ".gpkg" or not path.is_file():
        return
    with path.open("rb") as file:
        if not file.read(16).startswith(b"SQLite format 3"):
            return
    try:
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode=DELETE").fetchall()
            database.execute("BEGIN EXCLUSIVE")
            database.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise OutputError(f"{path}: is open in another program (QGIS?); close it there") from error
    except sqlite3.DatabaseError:
        # Damaged; it is to be replaced anyway.
        return


def temporary_for(path: Path) -> Path:
    """Where an output is written before it takes its name: beside it, so that renaming is atomic, and
    with its extension, which drivers look at. A killed run leaves one at most, and the next replaces it."""
    short = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    return path.with_name(f".{short}.incomplete{ending_of(path)}")


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """The temporary name of an output. In messages it is the output's own."""
    temporary = temporary_for(path)
    try:
        yield temporary
    except OutputError as error:
        words = str(error).replace(str(temporary), str(path)).replace(temporary.stem, path.stem)
        if words == str(error):
            raise
        raise OutputError(words) from error


def discard(path: Path) -> None:
    """Remove an output's temporary files, if there are any."""
    temporary = temporary_for(path)
    for file in [*belongings(temporary), temporary]:
        file.unlink(missing_ok=True)


def publish(*paths: Path) -> None:
    """Give complete outputs their names, the last one first, so that all of them are there where the first
    is. What belonged to earlier ones goes. Slow disks are waited for before, not between.

    Raises OutputError where a folder refuses, or another program holds what is to be replaced.
    """
    files = {path: [*belongings(temporary_for(path)), temporary_for(path)] for path in paths}
    try:
        for path in paths:
            settle(path)
            for file in files[path]:
                _flush(file)
        for path in reversed(paths):
            ends = {file: file.name.removeprefix(temporary_for(path).stem) for file in files[path]}
            names = {file: path.with_name(path.stem + end) for file, end in ends.items()}
            names[temporary_for(path)] = path
            for file in belongings(path):
                if file not in names.values():
                    file.unlink(missing_ok=True)
            for file, name in names.items():
                os.replace(file, name)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error


def _flush(file: Path) -> None:
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())
