"""One finished block as one file: pixels by bands of rows, fragments, and what happened.

The file is a zip archive of stored members, each a zstd-compressed array: the archive's directory stands
at its end and every member has a CRC, so a torn or damaged file is recognised. It is written under
another name, flushed to the disk and renamed.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tilesegment.errors import OutputError
from tilesegment.vector.trace import Fragments

_ROWS = 256
_CODEC = pa.Codec("zstd", compression_level=1)


@dataclass(frozen=True)
class BlockInfo:
    """What is known of a finished block besides its arrays.

    trace_key: identifies the settings its fragments were traced with. seconds: by stage.
    """

    name: str
    height: int
    width: int
    engine: str
    trace_key: str
    tiles: int
    skipped_tiles: int
    valid_pixels: int
    blank_value: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BlockPixels:
    """classes: (rows, columns) uint8, None for two classes, where the probability of class 1 says all;
    probability: (rows, columns) uint8, 0..254; 255 where nothing was predicted."""

    classes: NDArray[np.uint8] | None
    probability: NDArray[np.uint8]


def write_block(path: Path, info: BlockInfo, pixels: BlockPixels, fragments: Fragments) -> None:
    """Save a block so that `path` is complete or does not exist.

    Raises OutputError where the disk is full or refuses.
    """

    def members() -> Iterator[tuple[str, bytes]]:
        yield "info.json", json.dumps(asdict(info)).encode()
        for name, array in (("classes", pixels.classes), ("probability", pixels.probability)):
            if array is not None:
                for row in range(0, info.height, _ROWS):
                    yield f"{name}/{row}", _packed(array[row : row + _ROWS])
        yield from _fragment_members(fragments)

    _write_archive(path, members())


def write_fragments(path: Path, fragments: Fragments) -> None:
    """Save fragments alone; `read_fragments` reads them. Raises OutputError."""
    _write_archive(path, _fragment_members(fragments))


def _fragment_members(fragments: Fragments) -> Iterator[tuple[str, bytes]]:
    for part in fields(Fragments):
        yield f"fragments/{part.name}", _packed(getattr(fragments, part.name))


def _write_archive(path: Path, members: Iterator[tuple[str, bytes]]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, data in members:
                    archive.writestr(name, data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(
            f"{path.parent}: cannot save a block ({error.strerror or error}); free the disk, then run "
            "the same command again"
        ) from error


def check_block(path: Path) -> BlockInfo | None:
    """The information of a complete, undamaged block file; None for any other."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
            return BlockInfo(**json.loads(archive.read("info.json")))
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError):
        return None


def read_fragments(path: Path) -> Fragments:
    """The traced fragments of a block."""
    with zipfile.ZipFile(path) as archive:
        arrays = {part.name: _unpacked(archive, f"fragments/{part.name}") for part in fields(Fragments)}
    return Fragments(**arrays)


def read_rows(path: Path, begin: int, end: int) -> BlockPixels:
    """The rows [begin, end) of a block, counted from its first."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        first = begin // _ROWS * _ROWS
        chunks = range(first, end, _ROWS)
        cut = slice(begin - first, end - first)

        def rows(name: str) -> NDArray[np.uint8]:
            return np.concatenate([_unpacked(archive, f"{name}/{row}") for row in chunks])[cut]

        classes = rows("classes") if "classes/0" in names else None
        return BlockPixels(classes, rows("probability"))


def _packed(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    raw = buffer.getvalue()
    compressed: bytes = _CODEC.compress(raw, asbytes=True)
    return len(raw).to_bytes(8, "little") + compressed


def _unpacked(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    data = archive.read(name)
    raw = _CODEC.decompress(data[8:], decompressed_size=int.from_bytes(data[:8], "little"), asbytes=True)
    array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
    return array


def _sync_folder(folder: Path) -> None:
    """After a power loss the new name must be there; Windows has no such call and needs none."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
