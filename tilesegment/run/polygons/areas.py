"""The polygons of areas: of a block those that no other block has a part of, of two areas those that lie on
the line between them, and so on to the whole scene.

They are made where blocks are predicted. Beside the blocks' own files stands another one for each area,
with its polygons and the pieces of all regions that reach beyond it, which wait for the area around it.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.grid import Window
from tilesegment.run.block.file import BLOCK, POLYGONS, new_block, read_arrays, read_fragments
from tilesegment.run.block.job import Job
from tilesegment.run.polygons.making import Making
from tilesegment.run.polygons.saved import SavedPixels
from tilesegment.tiling.memory import give_back_memory
from tilesegment.tiling.plan import Plan, window_name
from tilesegment.vector.apart import Candidates
from tilesegment.vector.rings import Geometries, IntArray, offsets_of
from tilesegment.vector.seams import Features, join, reaching
from tilesegment.vector.trace import Fragments, bands_of

_NUMBERS = ("value", "pixels", "probability_sum", "first_pixel", "group", "state", "deviation")
_SHAPES = ("geometry", "plain")
# Polygons that are read at a time.
_BATCH = 512
# Where pieces are: the number of a band in a file.
_Key = tuple[Path, int]


@dataclass(frozen=True)
class Area:
    """A block, or the area of two others. name: of its file; level: 0 for a block; parts: the names of the
    two, none for a block."""

    name: str
    window: Window
    level: int = 0
    parts: tuple[str, ...] = ()


def areas_of(plan: Plan) -> list[Area]:
    """All areas of a plan, each behind its parts; the last one is the whole. Blocks beside each other are
    put together first, then the rows of them."""
    rows: dict[int, list[Area]] = {}
    for block in plan.blocks:
        rows.setdefault(block.window.row, []).append(Area(block.name, block.window))
    lines = [sorted(line, key=lambda area: area.window.col) for _, line in sorted(rows.items())]
    found = [area for line in lines for area in line]
    level = 0
    while max(map(len, lines)) > 1:
        level += 1
        lines = [_paired(line, level, found) for line in lines]
    column = [line[0] for line in lines]
    while len(column) > 1:
        level += 1
        column = _paired(column, level, found)
    return found


def _paired(areas: Sequence[Area], level: int, found: list[Area]) -> list[Area]:
    """Two at a time; one that is left over waits for the next level."""
    result = []
    for begin in range(0, len(areas), 2):
        parts = areas[begin : begin + 2]
        if len(parts) == 1:
            result.append(parts[0])
            continue
        first, last = parts[0].window, parts[1].window
        window = Window(first.row, first.col, last.row_end - first.row, last.col_end - first.col)
        area = Area(window_name(window), window, level, (parts[0].name, parts[1].name))
        found.append(area)
        result.append(area)
    return result


class Waiting:
    """Areas whose polygons are not made yet. Told what is done, it says what can be."""

    def __init__(self, areas: Sequence[Area]) -> None:
        self._left = [area for area in areas if area.parts]
        self._done: set[str] = set()

    def done(self, name: str) -> list[Area]:
        """The areas that can be made, now that this one is."""
        self._done.add(name)
        ready = [area for area in self._left if name in area.parts and self._done.issuperset(area.parts)]
        self._left = [area for area in self._left if area not in ready]
        return ready


def make_polygons(job: Job, area: Area, folder: Path, going_on: Callable[[], bool] = lambda: True) -> None:
    """Make the polygons of an area whose parts are made, or which is a block that is predicted; nothing
    where that was done, and for a job whose blocks are not looked at one by one.

    folder: of all files; going_on: see `SavedPixels`. Raises OutputError where they cannot be saved.
    """
    path = folder / f"{area.name}{POLYGONS}"
    if job.polygons_key is None or is_made(job, path):
        return
    begin = time.perf_counter()
    groups = _groups(job.plan, area, folder)
    keys = [key for group, _ in groups for key in group]
    rim = dict(zip(keys, reaching(_load, keys, _inner_lines(area.window, job)), strict=True))

    def inside(key: _Key) -> Fragments:
        return _load(key).with_runs(~rim[key])

    saved = SavedPixels(job.plan, lambda block: folder / f"{block.name}{BLOCK}", going_on)
    with new_block(path) as file:
        for number, (group, _) in enumerate(groups):
            file.fragments(number, Fragments.concatenate([_load(key).with_runs(rim[key]) for key in group]))
        file.arrays("ends", {"ends": np.array([end for _, end in groups], np.int64)})
        joined = join(inside, groups)
        made = Making.of(job, saved).made(joined)
        few = (part for batch in made for part in _few_at_a_time(batch))
        for number, candidates in enumerate(few):
            file.arrays(f"polygons/{number}", _as_arrays(candidates))
        seconds = np.array([time.perf_counter() - begin])
        file.arrays("made", {"key": _bytes_of(job.polygons_key), "seconds": seconds})
    give_back_memory(area.window.area)


def _few_at_a_time(candidates: Candidates) -> Iterator[Candidates]:
    for begin in range(0, len(candidates), _BATCH):
        yield candidates[np.arange(begin, min(begin + _BATCH, len(candidates)))]


def _groups(plan: Plan, area: Area, folder: Path) -> list[tuple[list[_Key], int]]:
    """Where the pieces of an area are, by rows of bands from top to bottom, each with the linear index at
    which the next one starts."""
    found: dict[int, list[_Key]] = {}
    if not area.parts:
        path = folder / f"{area.name}{BLOCK}"
        for band, windows in enumerate(bands_of(plan, area.window, False)):
            found[windows[0].row_end * plan.width] = [(path, band)]
    for name in area.parts:
        path = folder / f"{name}{POLYGONS}"
        for band, end in enumerate(_must_hold(path, "ends")["ends"].tolist()):
            found.setdefault(end, []).append((path, band))
    return [(keys, end) for end, keys in sorted(found.items())]


def _load(key: _Key) -> Fragments:
    return read_fragments(*key)


def _must_hold(path: Path, name: str) -> dict[str, NDArray[Any]]:
    found = read_arrays(path, name)
    if found is None:
        raise ValueError(f"{path}: holds no {name}")
    return found


def is_made(job: Job, path: Path) -> bool:
    """Whether an area's polygons are there, whole, and what a job would make. path: its file."""
    if job.polygons_key is None:
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        found = read_arrays(path, "made")
    except (OSError, zipfile.BadZipFile):
        return False
    return found is not None and found["key"].tobytes() == job.polygons_key.encode()


def seconds_of(plan: Plan, path: Callable[[str], Path]) -> float:
    """Seconds that the polygons of all areas took. path: the file of an area by name."""
    found = (_must_hold(path(area.name), "made")["seconds"] for area in areas_of(plan))
    return sum(float(seconds[0]) for seconds in found)


def read_polygons(path: Path) -> Iterator[Candidates]:
    """An area's polygons in the order of their first pixel, in batches. path: its file."""
    number = 0
    while (arrays := read_arrays(path, f"polygons/{number}")) is not None:
        yield _from_arrays(arrays)
        number += 1


def streams_of(plan: Plan, path: Callable[[str], Path]) -> list[Iterator[Candidates]]:
    """The polygons of all areas, those of one size that stand above each other as one stream, which is in
    the order of the first pixel. path: the file of an area by name."""

    def of(column: Sequence[Area]) -> Iterator[Candidates]:
        for area in column:
            yield from read_polygons(path(area.name))

    columns: dict[tuple[int, int], list[Area]] = {}
    for area in areas_of(plan):
        columns.setdefault((area.level, area.window.col), []).append(area)
    return [of(sorted(column, key=lambda area: area.window.row)) for column in columns.values()]


def _inner_lines(window: Window, job: Job) -> tuple[IntArray, IntArray]:
    """The edges of an area's window, x and y, behind which there is another one."""
    region = job.plan.region
    cols = [x for x in (window.col, window.col_end) if x not in (region.col, region.col_end)]
    rows = [y for y in (window.row, window.row_end) if y not in (region.row, region.row_end)]
    return np.array(cols, np.int64), np.array(rows, np.int64)


def _as_arrays(candidates: Candidates) -> dict[str, NDArray[Any]]:
    features = candidates.features
    found = {name: getattr(features, name) for name in _NUMBERS}
    shapes = {name: getattr(features, name) for name in _SHAPES}
    # Without rules no outline but the one that is written is asked for.
    shapes["exact"] = candidates.exact if features.state is not None else None
    for name, shape in shapes.items():
        if shape is not None:
            binary = shapely.to_wkb(shape, byte_order=1)
            found[f"{name}_wkb"] = _bytes_of(b"".join(binary))
            found[f"{name}_at"] = offsets_of(np.array([len(part) for part in binary], np.int64))
    return {name: values for name, values in found.items() if values is not None}


def _from_arrays(arrays: dict[str, NDArray[Any]]) -> Candidates:
    shapes = {name: _shapes_of(arrays, name) for name in (*_SHAPES, "exact")}
    geometry = shapes.pop("geometry")
    exact = shapes.pop("exact")
    if geometry is None:
        raise ValueError("polygons without outlines")
    features = Features(geometry=geometry, **shapes, **{name: arrays.get(name) for name in _NUMBERS})  # type: ignore[arg-type]
    return Candidates(features, geometry if exact is None else exact)


def _shapes_of(arrays: dict[str, NDArray[Any]], name: str) -> Geometries | None:
    if f"{name}_wkb" not in arrays:
        return None
    binary, at = arrays[f"{name}_wkb"].tobytes(), arrays[f"{name}_at"].tolist()
    parts = [binary[begin:end] for begin, end in pairwise(at)]
    return np.asarray(shapely.from_wkb(np.array(parts, object)))


def _bytes_of(data: str | bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data.encode() if isinstance(data, str) else data, np.uint8)
