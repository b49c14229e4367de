"""The polygons of a block that no other block has a part of: made where the block was predicted.

Beside the block's own file stands another one with these, and with the pieces of all regions that reach
another block: they are all that is joined at the end, on one machine.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.grid import Window
from tilesegment.run.block.file import BLOCK, POLYGONS, new_block, read_arrays, read_fragments
from tilesegment.run.block.job import BlockTask, Job
from tilesegment.run.polygons.making import Making
from tilesegment.run.polygons.saved import SavedPixels
from tilesegment.tiling.memory import give_back_memory
from tilesegment.tiling.plan import Block
from tilesegment.vector.apart import Candidates
from tilesegment.vector.rings import Geometries, IntArray, offsets_of
from tilesegment.vector.seams import Features, join, reaching
from tilesegment.vector.trace import Fragments, bands_of

_NUMBERS = ("value", "pixels", "probability_sum", "first_pixel", "group", "state", "deviation")
_SHAPES = ("geometry", "plain")


def polygons_path(block_file: Path) -> Path:
    """The file of a block's polygons, from its own."""
    return block_file.with_suffix(POLYGONS)


def make_inner(task: BlockTask) -> None:
    """Make the polygons of a block that is predicted, unless that was done; nothing for a job whose blocks
    are not looked at one by one. Raises OutputError where they cannot be saved."""
    job, block, path = task.job, task.block, Path(task.path)
    if job.polygons_key is None or is_made(job, path):
        return
    bands = range(len(bands_of(job.plan, block.window, False)))
    at_rim = reaching(lambda band: read_fragments(path, band), bands, _inner_lines(block.window, job))

    def inside(band: int) -> Fragments:
        return read_fragments(path, band).with_runs(~at_rim[band])

    ends = [windows[0].row_end * job.plan.width for windows in bands_of(job.plan, block.window, False)]
    saved = SavedPixels(job.plan, lambda other: path.with_name(f"{other.name}{BLOCK}"))
    with new_block(polygons_path(path)) as file:
        for band in bands:
            file.fragments(band, read_fragments(path, band).with_runs(at_rim[band]))
        joined = join(inside, [((band,), end) for band, end in zip(bands, ends, strict=True)])
        for number, candidates in enumerate(Making.of(job, saved).made(joined)):
            file.arrays(f"polygons/{number}", _as_arrays(candidates))
        file.arrays("key", {"key": _bytes_of(job.polygons_key)})
    give_back_memory()


def is_made(job: Job, path: Path) -> bool:
    """Whether a block's polygons are there, whole, and what a job would make. path: the block's file."""
    if job.polygons_key is None:
        return False
    try:
        with zipfile.ZipFile(polygons_path(path)) as archive:
            if archive.testzip() is not None:
                return False
        found = read_arrays(polygons_path(path), "key")
    except (OSError, zipfile.BadZipFile):
        return False
    return found is not None and found["key"].tobytes() == job.polygons_key.encode()


def read_inner(path: Path) -> Iterator[Candidates]:
    """A block's own polygons in the order of their first pixel, in batches. path: the block's file."""
    number = 0
    while (arrays := read_arrays(polygons_path(path), f"polygons/{number}")) is not None:
        yield _from_arrays(arrays)
        number += 1


def rim_fragments(path: Callable[[Block], Path]) -> Callable[[tuple[Block, int]], Fragments]:
    """Reads the pieces of regions that reach another block, by block and band. path: the block's file."""
    return lambda key: read_fragments(polygons_path(path(key[0])), key[1])


def _inner_lines(window: Window, job: Job) -> tuple[IntArray, IntArray]:
    """The edges of a block's window, x and y, behind which there is another block."""
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
