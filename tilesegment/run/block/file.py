"""One block as one file: pixels by bands of rows, fragments, and what happened.

The file is a zip archive of stored members, zstd-compressed arrays: the archive's directory stands
at its end and every member has a CRC, so a torn or damaged file is recognised. It is written under
another name, band by band as rows are finished, then flushed to the disk and renamed.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import threading
import zipfile
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy
from numpy.typing import NDArray

from tilesegment.errors import OutputError
from tilesegment.vector.trace import Fragments, no_fragments

# Endings of a block's files: of itself, and of what was made of it alone (see `run.polygons.areas`).
BLOCK, POLYGONS = ".block", ".polygons"
_CODEC = pa.Codec("zstd", compression_level=1)
# Bytes of a file from which on it is waited for until the disk has it.
_WORTH_SYNCING = 500_000


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
    probability: (rows, columns) uint8, 0..254; 255 where nothing was predicted; contact: likewise, that of
    lying between two buildings, None where it is not wanted; spread: how far tiles disagree, likewise."""

    classes: NDArray[np.uint8] | None
    probability: NDArray[np.uint8]
    contact: NDArray[np.uint8] | None = None
    spread: NDArray[np.uint8] | None = None


class BlockWriter:
    """A block's file in the making, for several threads. Whatever is given must not change any more: it is
    compressed and written by a thread of its own, one piece while the next is made."""

    def __init__(self, archive: zipfile.ZipFile, thread: ThreadPoolExecutor) -> None:
        self._archive, self._thread = archive, thread
        self._turn = threading.Lock()
        self._saving: Future[None] | None = None

    def rows(self, row: int, pixels: BlockPixels) -> None:
        """Save a band of pixels whose first row is the block's row `row`."""
        self._save(
            {
                f"{name}/{row}": partial(_packed, pixels=array)
                for name, array in vars(pixels).items()
                if array is not None
            }
        )

    def fragments(self, band: int, fragments: Fragments) -> None:
        """Save the fragments of a band, counted from the block's first."""
        if len(fragments):
            self.arrays(
                f"fragments/{band}",
                {part.name: getattr(fragments, part.name) for part in fields(Fragments)},
            )

    def arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Save some arrays under a name."""
        self._save({name: partial(_packed, **arrays)})

    def info(self, info: BlockInfo) -> None:
        """Save what is known of the block."""
        self._save({"info.json": lambda: json.dumps(asdict(info)).encode()})

    def settle(self) -> None:
        """Return when everything is written. Raises OSError where it was not."""
        if self._saving is not None:
            self._saving.result()
            self._saving = None

    def _save(self, members: dict[str, Callable[[], bytes]]) -> None:
        def write() -> None:
            for name, data in members.items():
                self._archive.writestr(name, data())

        with self._turn:
            self.settle()
            self._saving = self._thread.submit(write)


@contextmanager
def new_block(path: Path) -> Iterator[BlockWriter]:
    """Write a block file so that `path` is complete or does not exist. A small one may be torn where the
    power fails, which is found when it is read: waiting for the disk would take longer than it.

    Raises OutputError where the disk is full or refuses.
    """
    # Two machines may write the same block at the same time, where one was believed lost.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with temporary.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive, ThreadPoolExecutor(1) as thread:
                writer = BlockWriter(archive, thread)
                yield writer
                writer.settle()
            file.flush()
            lasting = file.tell() >= _WORTH_SYNCING
            if lasting:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if lasting:
            _sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError) or isinstance(error, OutputError):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "free the disk" if full else "every worker must be able to write there"
        raise OutputError(
            f"{path.parent}: cannot save a block ({error.strerror or error}); {advice}, then run the same "
            "command again"
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


def read_fragments(path: Path, band: int) -> Fragments:
    """The traced fragments of a band of a block."""
    found = read_arrays(path, f"fragments/{band}")
    return no_fragments() if found is None else Fragments(**found)


def read_arrays(path: Path, name: str) -> dict[str, NDArray[Any]] | None:
    """Arrays that were saved under a name, None where there are none."""
    with zipfile.ZipFile(path) as archive:
        return _unpacked(archive, name) if name in archive.NameToInfo else None


def read_rows(path: Path, begin: int, end: int) -> BlockPixels:
    """The rows [begin, end) of a block, counted from its first."""
    with zipfile.ZipFile(path) as archive:
        starts: dict[str, list[int]] = {part.name: [] for part in fields(BlockPixels)}
        for name in archive.namelist():
            kind, _, row = name.partition("/")
            if kind in starts:
                starts[kind].append(int(row))

        def rows(kind: str) -> NDArray[np.uint8] | None:
            bands = sorted(starts[kind])
            if not bands:
                return None
            first = bisect_right(bands, begin) - 1
            touched = bands[first : bisect_left(bands, end)]
            # A copy of what is wanted: a part of a band would keep all of it in memory.
            return np.concatenate(
                [
                    _unpacked(archive, f"{kind}/{row}")["pixels"][max(0, begin - row) : end - row]
                    for row in touched
                ]
            )

        probability = rows("probability")
        if probability is None:
            raise OutputError(f"{path}: holds no pixels; delete it, then run the same command again")
        return BlockPixels(rows("classes"), probability, rows("contact"), rows("spread"))


def band_starts(path: Path) -> list[int]:
    """The first rows of the bands that a block is saved in, from top to bottom."""
    with zipfile.ZipFile(path) as archive:
        return sorted(
            int(name.partition("/")[2]) for name in archive.namelist() if name.startswith("probability/")
        )


def read_bands(path: Path, rows: int) -> Iterator[tuple[int, BlockPixels]]:
    """All bands of a block of `rows` rows from top to bottom, each with its first row."""
    for begin, end in pairwise([*band_starts(path), rows]):
        yield begin, read_rows(path, begin, end)


def _packed(**arrays: NDArray[Any]) -> bytes:
    raw = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    compressed: bytes = _CODEC.compress(raw, asbytes=True)
    return len(raw).to_bytes(8, "little") + compressed


def _unpacked(archive: zipfile.ZipFile, name: str) -> dict[str, NDArray[Any]]:
    data = archive.read(name)
    size = int.from_bytes(data[:8], "little")
    raw = _CODEC.decompress(memoryview(data)[8:], decompressed_size=size, asbytes=True)
    return safetensors.numpy.load(raw)


def _sync_folder(folder: Path) -> None:
    """After a power loss the new name must be there; Windows has no such call and needs none."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
