"""Anyone's class raster to polygons, by the same tracing, joining and cleaning as a prediction's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.atomic import write_text
from tilesegment.errors import InputError, SettingsError, without_secrets
from tilesegment.grid import Window
from tilesegment.model.card import ModelClass, default_colours
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.labels import category_names
from tilesegment.raster.source import Scene, open_scene
from tilesegment.raster.spec import SceneSpec
from tilesegment.run.block.file import new_block
from tilesegment.run.files import discard, publish, writing
from tilesegment.run.polygons.making import Making
from tilesegment.run.polygons.regular import rules_of
from tilesegment.run.polygons.whole import whole_features
from tilesegment.run.record import name_of, now, software
from tilesegment.run.scene.ledger import Ledger, open_ledger
from tilesegment.run.scene.measures import resolve_measures, shared_tolerance
from tilesegment.run.scene.outputs import Outputs
from tilesegment.settings import VectorizeSettings, VectorSettings
from tilesegment.tiling.plan import Block, Plan
from tilesegment.vector.files import DRIVERS, is_vector
from tilesegment.vector.parallel import in_threads
from tilesegment.vector.regularize import Rules
from tilesegment.vector.trace import Traceable, trace_bands
from tilesegment.vector.write import Layer, check_layer, write_layer

_CELL = 1024
_BLOCK_PIXELS = 32_000_000
_MOST_NAMED = 256
# A part of a raster that is looked at, how many values are more than classes, and what share of neighbours
# is alike in a raster of classes at least.
_LOOK, _MANY_VALUES, _ALIKE = 1024, 64, 0.5
# Each holds a band of a block, see `_plan`.
_THREADS = 4


def vectorize_raster(
    source: str,
    output: Path,
    settings: VectorSettings,
    given: VectorizeSettings,
) -> dict[str, Any]:
    """Trace every class but 0 and nodata of a class raster; what was written, by name.

    Memory does not grow with the raster. Raises InputError, OutputError or SettingsError.
    """
    begin = time.perf_counter()
    if not is_vector(output):
        raise SettingsError(f"-o {output}: unknown extension; use {' '.join(DRIVERS)}")
    outputs = Outputs(output)
    outputs.check(source)
    if not given.overwrite:
        outputs.refuse_existing()
    outputs.settle()
    output = outputs.main
    with (
        gdal_environment(given.gdal),
        open_scene(
            source, bands=1, nodata=given.nodata, gdal=given.gdal, raw=True, crs=given.src_crs
        ) as scene,
    ):
        outputs.spare(scene.files)
        _refuse_pictures(scene)
        grid = scene.grid
        settings, notes = resolve_measures(settings, grid, None)
        if scene.band_count > 1:
            notes.append(f"band 1 of {scene.band_count} is traced")
        plan = _plan(grid.height, grid.width)
        found = _values(scene.spec, plan)
        rules = rules_of(settings, grid, len(found), None, 0)
        tolerance = shared_tolerance(settings.simplify, grid) if len(found) > 1 else None
        layer = _layer(scene, output, settings, given, found, rules is not None)
        check_layer(output, layer)
        with open_ledger(output, {"vectorize": source}, resume=False) as ledger:
            _trace(scene.spec, plan, ledger, tolerance)
            polygons = _write(output, plan, layer, ledger, settings, len(found) > 1, rules)
            record = {
                **_origin(source, output, settings),
                "classes": found,
                "polygons": polygons,
                "warnings": notes,
                "seconds": round(time.perf_counter() - begin, 3),
            }
            write_text(outputs.record, json.dumps(record, indent=1) + "\n")
            ledger.remove()
    return record


def _layer(
    scene: Scene,
    output: Path,
    settings: VectorSettings,
    given: VectorizeSettings,
    found: list[int],
    regularized: bool,
) -> Layer:
    return Layer(
        grid=scene.grid,
        labels=_labels(scene, found),
        name=settings.layer or output.stem,
        confidence=False,
        multi=settings.connectivity == 8,
        regularized=regularized,
        raw=settings.keep_raw,
        dst_crs=settings.dst_crs,
        options=given.lco,
        metadata={"software": software(), "input": without_secrets(scene.path)},
        source=name_of(scene.path),
    )


def _origin(source: str, output: Path, settings: VectorSettings) -> dict[str, Any]:
    return {
        "software": software(),
        "finished": now(),
        "input": without_secrets(source),
        "outputs": [str(output)],
        "settings": {name: str(value) for name, value in vars(settings).items() if value is not None},
    }


def _refuse_pictures(scene: Scene) -> None:
    """Raises InputError for a photograph, which would take minutes and gigabytes to trace: three or more
    bands, or many values that hardly ever lie beside their own kind."""
    if scene.band_count > 2:
        raise InputError(
            f"{scene.path}: has {scene.band_count} bands, as pictures have; give a raster of classes, or "
            "`predict` it"
        )
    grid = scene.grid
    side = min(_LOOK, grid.height), min(_LOOK, grid.width)
    middle = Window((grid.height - side[0]) // 2, (grid.width - side[1]) // 2, *side)
    pixels = scene.read(middle)
    values, both = pixels.values[0], pixels.valid[:, 1:] & pixels.valid[:, :-1]
    count = len(np.unique(values[pixels.valid]))
    if count <= _MANY_VALUES or not both.any():
        return
    alike = float((values[:, 1:] == values[:, :-1])[both].mean())
    if alike < _ALIKE:
        raise InputError(
            f"{scene.path}: holds {count} values in the middle, {1 - alike:.0%} of them beside another "
            "one: this is a picture and no raster of classes"
        )


def _write(
    output: Path,
    plan: Plan,
    layer: Layer,
    ledger: Ledger,
    settings: VectorSettings,
    several_classes: bool,
    rules: Rules | None,
) -> int:
    discard(output)
    try:
        shared = several_classes and settings.simplify.value > 0
        making = Making(layer.grid, settings, several_classes, shared, rules)
        features = whole_features(plan, ledger.path, making, settings.connectivity)
        with writing(output) as temporary:
            count = write_layer(temporary, layer, features).rows
        publish(output)
    except BaseException:
        discard(output)
        raise
    return count


def _plan(height: int, width: int) -> Plan:
    """Blocks of whole cells, as wide as the raster where it is not enormous."""
    plan = Plan(height, width, Window(0, 0, height, width), (_CELL, _CELL), 0)
    cols = -(-width * _CELL // _BLOCK_PIXELS)
    rows = -(-height * width // (cols * _BLOCK_PIXELS))
    return Plan(height, width, plan.region, plan.tile, 0, max(1, rows), max(1, cols))


def _read(scene: Scene, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Classes as whole numbers of at most 32 bits, and which pixels carry one other than 0."""
    pixels = scene.read(window)
    values = pixels.values[0]
    if values.dtype.kind == "f" and not (values == np.rint(values))[pixels.valid].all():
        raise InputError(
            f"{scene.path}: holds fractions ({values.dtype}), and classes are whole numbers; a probability "
            "must be cut by a threshold first"
        )
    if not np.can_cast(values.dtype, np.int32):
        limits = np.iinfo(np.int32)
        inside = values[pixels.valid]
        if inside.size and (inside.min() < limits.min or inside.max() > limits.max):
            raise InputError(f"{scene.path}: class {inside.max()} is beyond 32 bits")
        values = values.astype(np.int32)
    return values, pixels.valid & (values != 0)


def _values(spec: SceneSpec, plan: Plan) -> list[int]:
    """All classes of the raster, ascending."""

    def of_block(block: Block) -> set[int]:
        found: set[int] = set()
        with gdal_environment(spec.gdal), Scene(spec) as scene:
            for window in _bands(block):
                values, mask = _read(scene, window)
                found.update(_distinct(values[mask]))
        return found

    return sorted(set().union(*in_threads(of_block, plan.blocks, _THREADS)))


def _distinct(values: NDArray[Any]) -> list[int]:
    if values.dtype != np.uint8:
        return list(np.unique(values).tolist())
    # Sorting takes much longer than counting.
    return list(np.flatnonzero(np.bincount(values, minlength=256)).tolist())


def _bands(block: Block) -> Iterator[Window]:
    for row in range(block.window.row, block.window.row_end, _CELL):
        height = min(_CELL, block.window.row_end - row)
        yield Window(row, block.window.col, height, block.window.width)


def _trace(spec: SceneSpec, plan: Plan, ledger: Ledger, tolerance: tuple[float, float] | None) -> None:
    """Trace all blocks into the ledger, several at a time, each with a handle of its own."""

    def trace_block(block: Block) -> None:
        with gdal_environment(spec.gdal), Scene(spec) as scene, new_block(ledger.path(block)) as file:

            def read(piece: Window) -> Traceable:
                values, mask = _read(scene, piece)
                return np.where(mask, values, 0), None

            for band, fragments in enumerate(trace_bands(plan, block.window, read, 0, tolerance)):
                file.fragments(band, fragments)

    in_threads(trace_block, plan.blocks, _THREADS)


def _labels(scene: Scene, values: list[int]) -> dict[int, ModelClass]:
    """Names from GDAL's category names and colours from the colour table, where the raster has them."""
    names = category_names(scene.path)
    colours = scene.colours()
    chosen = values[:_MOST_NAMED]
    spare = dict(zip(chosen, default_colours(len(chosen) + 1)[1:], strict=True))
    return {
        value: ModelClass(names.get(value) or str(value), colours.get(value, spare[value]))
        for value in chosen
    }
