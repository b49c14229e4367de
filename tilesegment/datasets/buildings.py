"""What is known of single buildings: boxes around them, and where two of them touch."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize
from scipy import ndimage

from tilesegment.datasets.sample import IGNORE
from tilesegment.errors import InputError
from tilesegment.raster.aoi import read_polygons
from tilesegment.raster.picture import Part, nearest
from tilesegment.raster.source import open_scene

# Within this many metres of two buildings a pixel is contact; at least one pixel to each side.
CONTACT_METRES = 0.4
# `Pair.instances` of places whose masks hold every building as a region of its own.
BY_MASK = "mask"
# This share of a box's width and height, about its centre, is taken for roof: buildings fill the middle of
# their boxes, whichever way they are turned.
_CORE = 0.4

Box = tuple[int, int, int, int]


def read_boxes(path: Path) -> dict[str, tuple[Box, ...]]:
    """The boxes of a `boxes.json`: (column, row, width, height) of every building, by picture.

    Raises InputError where it holds anything else.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        found = {}
        for name, boxes in raw.items():
            rows = [tuple(int(value) for value in box) for box in boxes]
            if any(len(row) != 4 or row[2] < 0 or row[3] < 0 for row in rows):
                raise ValueError(f"{name}: a box is [x, y, width, height]")
            found[str(name)] = tuple((x, y, width, height) for x, y, width, height in rows)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: no boxes by picture ({error})") from error
    return found


def label_of_boxes(
    boxes: tuple[Box, ...], size: tuple[int, int], part: Part | None = None
) -> NDArray[np.uint8]:
    """A label from boxes around all buildings of a picture of `size` (rows, columns): 0 outside of them, 1
    in their cores, IGNORE in the rest, where nobody knows how much is roof."""
    label = np.zeros(size, np.uint8)
    for col, row, width, height in boxes:
        label[max(0, row) : max(0, row + height), max(0, col) : max(0, col + width)] = IGNORE
    # Cores last: a box that lies in another's rim is a building all the same.
    for col, row, width, height in boxes:
        top, left = row + (1 - _CORE) / 2 * height, col + (1 - _CORE) / 2 * width
        rows = slice(max(0, round(top)), max(0, round(top + _CORE * height)))
        cols = slice(max(0, round(left)), max(0, round(left + _CORE * width)))
        label[rows, cols] = 1
    return label if part is None else _part_of(label, part)


def contact_of_mask(mask: NDArray[np.uint8], shape: tuple[int, int], gsd: float) -> NDArray[np.uint8]:
    """Where a picture, read at `shape` (rows, columns) with pixels of `gsd` metres, lies within 0.4 m of
    two buildings: 1, else 0. mask: its label at its own pixels, in which each region of 1 is a building."""
    numbers = ndimage.label(mask == 1, np.ones((3, 3)))[0]
    return contact_of_numbers(nearest(numbers, shape), gsd)


def contact_of_numbers(numbers: NDArray[Any], gsd: float) -> NDArray[np.uint8]:
    """As `contact_of_mask`, from the number of the building at each pixel, 0 where none is."""
    return _between(numbers, max(1.0, CONTACT_METRES / gsd))


def contact_of_layer(label: Path, buildings: str, part: Part, gsd: float) -> NDArray[np.uint8]:
    """As `contact_of_mask`, from a vector file of buildings on the grid of a label file."""
    return contact_of_numbers(_part_of(_numbered(label, buildings), part), gsd)


def _between(numbers: NDArray[Any], radius: float) -> NDArray[np.uint8]:
    """1 where two numbers other than 0 lie within `radius` pixels."""
    reach = int(np.floor(radius))
    steps = np.arange(-reach, reach + 1)
    disk = steps[:, None] ** 2 + steps[None, :] ** 2 <= radius**2
    highest = ndimage.grey_dilation(numbers, footprint=disk)
    none = np.iinfo(np.int32).max
    lowest = ndimage.grey_erosion(np.where(numbers == 0, none, numbers), footprint=disk)
    return np.asarray((highest > 0) & (lowest < highest), np.uint8)


@lru_cache(maxsize=512)
def _numbered(label: Path, instances: str) -> NDArray[np.int32]:
    """A number for every building of a vector file, on a picture's own pixels; 0 where none is."""
    with open_scene(label, bands=1) as scene:
        grid = scene.native
    footprints = read_polygons(instances, grid)
    shape = (grid.height, grid.width)
    shapes = ((polygon, number) for number, polygon in enumerate(footprints, 1))
    return np.asarray(rasterize(shapes, shape, dtype="int32"), np.int32)


def _part_of(values: NDArray[Any], part: Part) -> NDArray[Any]:
    """A part of an array."""
    window = part.window
    inside = values if window is None else values[window.slices]
    return nearest(inside, part.shape)
