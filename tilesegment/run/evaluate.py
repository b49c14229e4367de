"""The story of an evaluation: a prediction of a scene held against the truth."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray

from tilesegment.errors import InputError, SettingsError
from tilesegment.evaluate.classes import Named, Shared, of_layer, of_raster, shared_classes
from tilesegment.evaluate.masks import MaskCounts, MaskTask, compare_masks, reach_of
from tilesegment.evaluate.objects import Objects
from tilesegment.evaluate.summary import ObjectResult, compare_objects, mask_summary, object_summary
from tilesegment.grid import Grid
from tilesegment.polygons import Polygons
from tilesegment.raster.aoi import read_aoi
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.labels import (
    UNKNOWN,
    Labels,
    PolygonLabels,
    RasterLabels,
    category_names,
    distinct_values,
)
from tilesegment.raster.source import open_scene
from tilesegment.run.vectorize import vectorize_raster
from tilesegment.settings import Measure, VectorizeSettings, VectorSettings
from tilesegment.tiling.blend import PROBABILITY_MAX
from tilesegment.vector.files import is_vector
from tilesegment.vector.read import Plane, PolygonLayer, read_layer

# Two layers of polygons have no pixels of their own: these are compared, in metres.
_PIXEL = 0.25
# A grid of more would be a wrong extent or a wrong CRS.
_MOST_PIXELS = 4e10
# An object counts where more than this share of it lies in the area that was labelled.
_MOSTLY = 0.5
_CHUNK = 50_000
# Formats of polygons that are read and not written.
_READ_ONLY = (".kml", ".kmz", ".gml", ".tab", ".mif", ".gdb")
_EXACT = VectorSettings(min_area=Measure(0.0), simplify=Measure(0.0), fill_holes=Measure(0.0))

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Question:
    """What to evaluate.

    prediction, truth: class rasters or polygon layers; aoi: a vector file of what was labelled;
    probability: raster of class 1's probability on the prediction's grid; distances: metres of boundary
    IoU; sizes: limits of size classes in m2; pixel: metres a pixel where both are layers; nodata: a value
    of both rasters that means unknown.
    """

    prediction: str
    truth: str
    aoi: str | None = None
    probability: str | None = None
    distances: tuple[float, ...] = (0.5, 1.0, 2.0)
    sizes: tuple[float, ...] = (25.0, 100.0, 500.0)
    pixel: float = _PIXEL
    nodata: float | None = None


@dataclass(frozen=True)
class Side:
    """One side: its polygons (traced, for a raster), and the grid of a raster, None for a layer."""

    path: str
    layer: PolygonLayer
    grid: Grid | None
    named: Named


@dataclass(frozen=True)
class Answer:
    """What was measured. figures: everything as plain values; objects: for layers and tables; masks, task:
    for pictures; plane: the map that objects are on."""

    figures: dict[str, Any]
    objects: ObjectResult
    masks: MaskCounts
    task: MaskTask
    shared: Shared
    plane: Plane


@contextmanager
def evaluate_scene(question: Question, progress: Progress = lambda done, total: None) -> Iterator[Answer]:
    """Evaluate; the answer is good inside the `with`, where its rasters are open.

    Raises InputError where files cannot be read or related, SettingsError for unusable settings.
    """
    _check(question)
    begin = time.perf_counter()
    with ExitStack() as stack, gdal_environment():
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tilesegment-")))
        sides = [
            _side(path, folder / f"{name}.parquet", question.nodata)
            for name, path in (("prediction", question.prediction), ("truth", question.truth))
        ]
        predicted, truth = sides
        shared = shared_classes(predicted.named, truth.named)
        _check_overlap(predicted, truth)
        grid = _grid(predicted, truth, question)
        labels = [
            stack.enter_context(_labels(side, grid, shared, numbers))
            for side, numbers in ((predicted, shared.predicted), (truth, shared.truth))
        ]
        aoi = None if question.aoi is None else shapely.to_wkb(read_aoi(question.aoi, grid))
        probability = None
        if question.probability is not None:
            probability = stack.enter_context(_probability(question.probability, grid, shared))
        reaches = tuple(reach_of(metres, grid) for metres in question.distances)
        task = MaskTask(labels[1], labels[0], grid, len(shared.names), reaches, probability, aoi)
        masks = compare_masks(task, progress)
        if not len(masks.known):
            raise InputError(f"{question.prediction} and {question.truth} have no labelled pixel in common")
        plane = Plane.of(grid.crs, _bounds(grid))
        region = _region(sides, grid, plane, aoi)
        objects = compare_objects(
            *(_objects(side, numbers, plane, region) for side, numbers in
              ((predicted, shared.predicted), (truth, shared.truth))),
        )  # fmt: skip
        figures = {
            "prediction": question.prediction,
            "truth": question.truth,
            "classes": list(shared.names),
            "metres_per_pixel": grid.metres_per_pixel,
            "pixels": mask_summary(masks, shared.names, question.distances, probability is not None),
            "objects": object_summary(objects, question.sizes),
            "invalid": {
                name: None if not len(side.layer) else side.layer.invalid / len(side.layer)
                for name, side in (("prediction", predicted), ("truth", truth))
            },
            "seconds": round(time.perf_counter() - begin, 2),
        }
        yield Answer(figures, objects, masks, task, shared, plane)


def _check(question: Question) -> None:
    for metres in question.distances:
        if not 0 < metres < 1000:
            raise SettingsError(f"--distances {metres:g}: give metres between 0 and 1000")
    if any(size <= 0 for size in question.sizes) or list(question.sizes) != sorted(set(question.sizes)):
        raise SettingsError(f"--sizes {','.join(map(str, question.sizes))}: give rising areas in m2")
    if not question.pixel > 0:
        raise SettingsError(f"--pixel {question.pixel:g}: give metres above 0")


def _side(path: str, traced: Path, nodata: float | None) -> Side:
    if is_vector(path) or Path(path).suffix.lower() in _READ_ONLY:
        layer = read_layer(path)
        return Side(path, layer, None, of_layer(path, layer.names))
    with open_scene(path, bands=1, nodata=nodata, raw=True) as scene:
        named = of_raster(path, distinct_values(scene), category_names(path))
        grid = scene.grid
    vectorize_raster(path, traced, _EXACT, VectorizeSettings(nodata=nodata))
    layer = read_layer(str(traced))
    # Traced classes are called as the raster calls them, or by their value.
    return Side(path, layer, grid, named)


def _check_overlap(predicted: Side, truth: Side) -> None:
    """Raises InputError where the two lie in different places."""
    crs = predicted.grid.crs if predicted.grid is not None else predicted.layer.crs
    boxes = [_extent(predicted, crs), _extent(truth, crs)]
    if all(box is not None for box in boxes) and not shapely.intersects(*boxes):
        raise InputError(f"{predicted.path} and {truth.path} do not overlap")


def _extent(side: Side, crs: str | None) -> Any:
    """The area around a side in a CRS, None where it is empty."""
    if side.grid is not None:
        return _footprint(side.grid, Plane(crs), side.path)
    bounds = side.layer.polygons.total_bounds
    if bounds is None:
        return None
    around = Plane(crs).project(Polygons.of(_outline(bounds)), side.layer.crs, side.path)
    return around.take(np.array([0]))[0]


def _footprint(grid: Grid, plane: Plane, where: str) -> Any:
    """The area of a grid on a plane."""
    corners = shapely.box(0, 0, grid.width, grid.height)
    dense = shapely.segmentize(corners, max(grid.width, grid.height) / 50)
    world = Polygons.of(np.array([shapely.transform(dense, grid.to_world)]))
    return plane.project(world, grid.crs, where).take(np.array([0]))[0]


def _grid(predicted: Side, truth: Side, question: Question) -> Grid:
    """The grid that pixels are compared on: the prediction's, else the truth's, else one made for it."""
    found = predicted.grid or truth.grid
    if found is not None:
        return found
    crs = predicted.layer.crs
    boxes = [box for side in (predicted, truth) if (box := _extent(side, crs)) is not None]
    if not boxes:
        raise InputError(f"{predicted.path} and {truth.path} hold no polygon")
    left, bottom, right, top = shapely.union_all(boxes).bounds
    plane = Plane.of(crs, (left, bottom, right, top))
    if plane.crs is not None and plane.crs != crs:
        around = plane.project(Polygons.of(_outline((left, bottom, right, top))), crs, predicted.path)
        crs, (left, bottom, right, top) = plane.crs, around.total_bounds or (0, 0, 0, 0)
    size = question.pixel
    rows, cols = int(np.ceil((top - bottom) / size)), int(np.ceil((right - left) / size))
    if rows * cols > _MOST_PIXELS:
        raise InputError(
            f"{predicted.path} and {truth.path} together span {right - left:.0f} x {top - bottom:.0f} m, "
            f"which is too much for pixels of {size:g} m; give a larger --pixel"
        )
    return Grid(crs, Affine(size, 0, left, 0, -size, top), max(1, rows), max(1, cols))


def _outline(bounds: tuple[float, float, float, float]) -> NDArray[np.object_]:
    """A box with points along its sides, which a projection may bend."""
    box = shapely.box(*bounds)
    return np.array([shapely.segmentize(box, max(shapely.length(box) / 200, 1e-9))])


@contextmanager
def _labels(side: Side, grid: Grid, shared: Shared, numbers: Any) -> Iterator[Labels]:
    found: RasterLabels | PolygonLabels
    if side.grid is not None:
        found = RasterLabels(side.path, grid, shared.table(side.named, numbers))
    else:
        layer = side.layer
        moved = (
            Plane(grid.crs).project(layer.polygons, layer.crs, side.path) if len(layer) else layer.polygons
        )
        found = PolygonLabels(moved, _numbers(side, numbers), grid)
    try:
        yield found
    finally:
        found.close()


def _numbers(side: Side, numbers: Any) -> NDArray[np.int64]:
    """The class number of each polygon."""
    names = side.layer.names
    if names is None:
        return np.ones(len(side.layer), np.int64)
    table = np.array([numbers.get(name, 1) for name in names] or [1], np.int64)
    return np.asarray(table[side.layer.code], np.int64)


@contextmanager
def _probability(path: str, grid: Grid, shared: Shared) -> Iterator[Labels]:
    if len(shared.names) > 2:
        raise SettingsError("--probability is for one class besides the background")
    table = np.full(256, UNKNOWN, np.uint8)
    table[: PROBABILITY_MAX + 1] = np.arange(PROBABILITY_MAX + 1)
    found = RasterLabels(path, grid, table)
    try:
        yield found
    finally:
        found.close()


def _bounds(grid: Grid) -> tuple[float, float, float, float]:
    corners = np.array([[0, 0], [grid.width, 0], [0, grid.height], [grid.width, grid.height]], float)
    world = grid.to_world(corners)
    (left, bottom), (right, top) = world.min(axis=0), world.max(axis=0)
    return float(left), float(bottom), float(right), float(top)


def _region(sides: Sequence[Side], grid: Grid, plane: Plane, aoi: bytes | None) -> Any:
    """The area in which objects count, on the plane: that of every raster, and the area of interest; None
    for everywhere."""
    areas = [_footprint(side.grid, plane, side.path) for side in sides if side.grid is not None]
    if aoi is not None:
        world = Polygons.of(np.array([shapely.transform(shapely.from_wkb(aoi), grid.to_world)]))
        areas.append(plane.project(world, grid.crs, "--aoi").take(np.array([0]))[0])
    return None if not areas else shapely.intersection_all(shapely.make_valid(np.array(areas)))


def _objects(side: Side, numbers: Any, plane: Plane, region: Any) -> tuple[Objects, NDArray[Any]]:
    """A side's foreground polygons on the plane that lie mostly in the region, and their ids."""
    layer = side.layer
    label = _numbers(side, numbers)
    polygons = plane.project(layer.polygons, layer.crs, side.path) if len(layer) else layer.polygons
    kept = label > 0
    if region is not None:
        kept &= _mostly_inside(polygons, region)
    confidence = None if layer.confidence is None else layer.confidence[kept]
    return Objects(polygons.chosen(kept), label[kept], confidence), layer.ids[kept]


def _mostly_inside(polygons: Polygons, region: Any) -> NDArray[np.bool_]:
    """Which polygons have more than half of their area in a region."""
    shapely.prepare(region)
    inside = np.zeros(len(polygons), np.bool_)
    for begin in range(0, len(polygons), _CHUNK):
        index = np.arange(begin, min(begin + _CHUNK, len(polygons)))
        geometry = polygons.take(index)
        whole = shapely.covers(region, geometry)
        inside[index[whole]] = True
        edge = index[~whole]
        shared = shapely.area(shapely.intersection(geometry[~whole], region))
        inside[edge] = shared > _MOSTLY * polygons.area[edge]
    return inside
