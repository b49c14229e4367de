"""The overlay: the scene with what was found drawn over it, small enough to open anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from tilesegment.atomic import write_text
from tilesegment.errors import OutputError
from tilesegment.grid import Grid, Window
from tilesegment.model.card import ModelClass
from tilesegment.model.preprocess import ValueRange
from tilesegment.raster.display import displayed
from tilesegment.raster.source import Scene
from tilesegment.tiling.blend import NODATA

_LONGEST = 2048
_FILL = 0.35
_ROWS = 256
# Pixels of a letter's height.
_TEXT = 14


# Classes of a window of the working grid.
Classes = Callable[[Window], NDArray[np.uint8]]


@dataclass(frozen=True)
class View:
    """What an overlay shows: a region of a scene's working grid, with the range of its values. shape:
    (rows, columns) that it has at its own size."""

    scene: Scene
    values: ValueRange
    region: Window
    shape: tuple[int, int]


def write_overlay(
    path: Path,
    view: View,
    read_classes: Classes,
    labels: dict[int, ModelClass],
    metadata: Mapping[str, str],
) -> None:
    """Write a PNG of at most 2048 pixels a side: every class but a background tinted in its colour, with a
    bright outline; invalid pixels white. With a georeference a world file and the CRS lie beside it;
    without one, and with several classes, their names are written below. metadata: provenance, written into
    the picture. Raises OutputError where the disk refuses."""
    scene = view.scene
    found = drawn(view, read_classes, labels, _LONGEST)
    height, width = (max(1, round(side / _scale(view, _LONGEST))) for side in view.shape)
    texts = PngInfo()
    for name, text in metadata.items():
        texts.add_itxt(name, text)
    try:
        Image.fromarray(found).save(path, format="PNG", pnginfo=texts)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
    if scene.grid.has_georeference:
        _write_place(path, scene.grid[view.region].resized(height, width))


def drawn(
    view: View, read_classes: Classes, labels: dict[int, ModelClass], longest: int
) -> NDArray[np.uint8]:
    """The picture (rows, columns, 3), of at most `longest` pixels a side, with its legend below where it
    has one."""
    scene, region = view.scene, view.region
    scale = _scale(view, longest)
    height, width = (max(1, round(side / scale)) for side in view.shape)
    image, valid = displayed(scene, view.values, region, height, width)
    classes = _sampled_classes(read_classes, region, height, width)
    shown = []
    for value, entry in labels.items():
        if value == 0 and entry.name.lower() == "background":
            continue
        shown += [entry] if (classes == value).any() else []
        inside = classes == value
        colour = np.asarray(entry.colour, np.float32)
        image[inside] = image[inside] * (1 - _FILL) + colour * _FILL
        image[inside & _rim(inside)] = colour
    image[~valid] = 255
    found = np.rint(image).astype(np.uint8)
    if len(shown) > 1 and not scene.grid.has_georeference:
        found = np.concatenate([found, _legend(shown, width)])
    return found


def _scale(view: View, longest: int) -> float:
    return max(1.0, max(view.shape) / longest)


def _legend(entries: Sequence[ModelClass], width: int) -> NDArray[np.uint8]:
    """Rows below a picture: a square of each class's colour, and its name."""
    font = ImageFont.load_default(_TEXT)
    places: list[tuple[int, int]] = []
    x, y, step = _TEXT // 2, _TEXT // 2, 2 * _TEXT
    for entry in entries:
        length = _TEXT + round(font.getlength(f" {entry.name}")) + _TEXT
        if x + length > width and x > _TEXT // 2:
            x, y = _TEXT // 2, y + step
        places.append((x, y))
        x += length
    strip = Image.new("RGB", (width, y + step), "white")
    pen = ImageDraw.Draw(strip)
    for entry, (x, y) in zip(entries, places, strict=True):
        pen.rectangle((x, y, x + _TEXT - 1, y + _TEXT - 1), fill=entry.colour, outline="black")
        pen.text((x + _TEXT, y - 1), f" {entry.name}", fill="black", font=font)
    return np.asarray(strip)


def _write_place(path: Path, grid: Grid) -> None:
    """A world file, which every GIS reads, and the CRS as GDAL and QGIS keep it."""
    a, b, _, d, e, _ = grid.transform[:6]
    centre = grid.to_world(np.array([[0.5, 0.5]]))[0].tolist()
    write_text(path.with_suffix(".pgw"), "".join(f"{v!r}\n" for v in (a, d, b, e, *centre)))
    if grid.crs is not None:
        text = f"<PAMDataset><SRS>{escape(grid.crs)}</SRS></PAMDataset>\n"
        write_text(path.with_name(path.name + ".aux.xml"), text)


def _sampled_classes(
    read: Callable[[Window], NDArray[np.uint8]], region: Window, height: int, width: int
) -> NDArray[np.uint8]:
    """Classes at the centres of the picture's pixels, read band by band."""
    rows = region.row + ((2 * np.arange(height) + 1) * region.height) // (2 * height)
    cols = ((2 * np.arange(width) + 1) * region.width) // (2 * width)
    result = np.full((height, width), NODATA, np.uint8)
    for begin in range(region.row, region.row_end, _ROWS):
        end = min(begin + _ROWS, region.row_end)
        inside = np.flatnonzero((rows >= begin) & (rows < end))
        if len(inside):
            band = read(Window(begin, region.col, end - begin, region.width))
            result[inside] = band[rows[inside] - begin][:, cols]
    return result


def _rim(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels within two pixels of one that is not inside."""
    core = np.pad(inside, 2, mode="edge")
    for axis in (0, 1):
        length = core.shape[axis]
        parts = [core.take(range(k, length - 4 + k), axis) for k in range(5)]
        core = np.logical_and.reduce(parts)
    return inside & ~core
