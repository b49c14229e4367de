"""Polygons of many scenes as one layer, each building once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from tilesegment.atomic import write_text
from tilesegment.errors import InputError, SettingsError, without_secrets
from tilesegment.grid import FloatArray
from tilesegment.model.store import find_models
from tilesegment.raster.environment import gdal_environment
from tilesegment.run.files import discard, publish, writing
from tilesegment.run.many.folder import Folders, Outcome, Progress, SceneResult, is_up_to_date, run_many
from tilesegment.run.many.inputs import Entry
from tilesegment.run.record import now, plain_settings, software
from tilesegment.run.scene.ledger import open_ledger
from tilesegment.run.scene.outputs import Outputs
from tilesegment.settings import PredictSettings
from tilesegment.vector.files import DRIVERS, Target, is_vector, schema_of, write_tables
from tilesegment.vector.project import layer_crs, reprojected
from tilesegment.vector.style import add_style, layer_style

# Two polygons of different scenes are one building where they share this much of the smaller one.
_DOUBLE = 0.5
# An outline so near to the edge of its scene was cut by it, in pixels.
_CUT = 1.5
_BATCH = 20_000


def scene_folders(
    output: Path, mask: Path | None = None, probability: Path | None = None, overlay: Path | None = None
) -> Folders:
    """Where the polygons of each scene are kept for the next time: a folder beside the layer.

    Raises SettingsError where the output is no layer.
    """
    if not is_vector(output):
        raise SettingsError(
            f"-o {output}: --merge makes a layer of polygons; masks become one by --mosaic or gdalbuildvrt"
        )
    return Folders(output.with_name(f"{output.name}.scenes"), ".parquet", mask, probability, overlay)


def run_merged(
    entries: Sequence[Entry],
    output: Path,
    folders: Folders,
    settings: PredictSettings,
    *,
    skip_existing: bool = False,
    progress: Progress = lambda done, total, words: None,
    merged: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Iterator[SceneResult]:
    """As `run_many`, and then all polygons as one layer, whose record `merged` is told. A layer that is
    there already, of the same scenes with the same settings, stays as it is.

    Raises SettingsError, ModelError and OutputError before anything is predicted.
    """
    if settings.vector.keep_raw:
        raise SettingsError("--keep-raw is not for merged layers")
    outputs = Outputs(output)
    outputs.check()
    # What is there of a scene is ours, and replaced where it must be.
    vector = replace(settings.vector, dst_crs=None, layer=None)
    of_scene = replace(settings, overwrite=True, lco=(), vector=vector)
    results = run_many(entries, folders, of_scene, skip_existing=skip_existing, progress=progress)
    if not settings.overwrite and output.exists():
        if _is_up_to_date(entries, outputs, folders, settings, of_scene):
            return iter(
                [
                    SceneResult(entry.source, Outcome.SKIPPED, folders.outputs(entry), None, "done before")
                    for entry in entries
                ]
            )
        outputs.refuse_existing()
    return _then_merged(results, output, settings, merged)


def _then_merged(
    results: Iterator[SceneResult],
    output: Path,
    settings: PredictSettings,
    merged: Callable[[dict[str, Any]], None],
) -> Iterator[SceneResult]:
    found = []
    for result in results:
        found.append(result)
        yield result
    if any(result.outcome is not Outcome.FAILED for result in found):
        merged(merge_scenes(found, output, settings))


def _is_up_to_date(
    entries: Sequence[Entry],
    outputs: Outputs,
    folders: Folders,
    settings: PredictSettings,
    of_scene: PredictSettings,
) -> bool:
    """Whether a layer is what would be written now."""
    try:
        record = json.loads(outputs.record.read_text(encoding="utf-8"))
        untouched = outputs.main.stat().st_mtime_ns <= outputs.record.stat().st_mtime_ns
    except (OSError, ValueError):
        return False
    told = json.loads(json.dumps(plain_settings(replace(settings, overwrite=False)), default=str))
    return bool(
        untouched
        and record.get("inputs") == [without_secrets(entry.source) for entry in entries]
        and record.get("settings") == told
        and all(is_up_to_date(entry, folders.outputs(entry), of_scene) for entry in entries)
    )


@dataclass(frozen=True)
class _Part:
    """One scene's polygons. outline: of the scene, in the layer's CRS; pixel: its size there."""

    source: str
    file: pq.ParquetFile
    crs: str | None
    outline: Any
    pixel: float

    def batches(
        self, target: str | None, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Record batches in the order of the file, and their outlines in the layer's CRS."""
        for batch in self.file.iter_batches(_BATCH, columns=columns):
            shapes = shapely.from_wkb(batch.column("geometry").to_numpy(zero_copy_only=False))
            yield batch, reprojected(shapes, self.crs, target)


def merge_scenes(results: Sequence[SceneResult], output: Path, settings: PredictSettings) -> dict[str, Any]:
    """Write the polygons of all scenes that were predicted, now or before, as one layer with a column
    `source`, and its record, which is returned.

    Where scenes overlap and two polygons of different ones are one building, that which is not cut by its
    scene's edge stays, then the more confident one, then that of the scene named first. Ids are numbered
    anew. Memory holds the polygons of where scenes overlap.

    Raises InputError where there is nothing to merge or a scene has no CRS; OutputError.
    """
    done = [result for result in results if result.outcome is not Outcome.FAILED]
    if not done:
        raise InputError(f"{output}: no scene has polygons to merge")
    with gdal_environment(settings.gdal), open_ledger(output, {"merge": str(output)}, False) as ledger:
        first = pq.read_schema(done[0].outputs.main)
        target = layer_crs(_crs_of(done[0], first), settings.vector.dst_crs, DRIVERS[output.suffix.lower()])
        parts = [_part(result, target) for result in done]
        dropped = _doubles(parts, target)
        counts = {"scenes": len(parts), "doubles": int(sum(map(len, dropped)))}
        counts["polygons"] = _write(output, parts, dropped, first, target, settings)
        record = {
            "software": software(),
            "finished": now(),
            "outputs": [str(output)],
            "inputs": [without_secrets(result.source) for result in done],
            "failed": [r.plain() for r in results if r.outcome is Outcome.FAILED],
            "settings": plain_settings(replace(settings, overwrite=False)),
            "counts": counts,
        }
        write_text(Outputs(output).record, json.dumps(record, indent=1, default=str) + "\n")
        ledger.remove()
    return record


def _crs_of(result: SceneResult, schema: Any) -> str:
    crs = json.loads(schema.metadata[b"geo"])["columns"]["geometry"]["crs"]
    if crs is None:
        raise InputError(f"{result.source}: has no CRS, so its polygons cannot be merged with others")
    return json.dumps(crs)


def _part(result: SceneResult, target: str | None) -> _Part:
    file = pq.ParquetFile(result.outputs.main)
    grid = json.loads(result.outputs.record.read_text(encoding="utf-8"))["plan"]["grid"]
    crs = _crs_of(result, file.schema_arrow)
    corners = np.asarray(grid["corners"], float)
    # Straight edges are curves in another CRS.
    along = np.linspace(0, 1, 21)[:-1, None]
    ring = np.concatenate(
        [a + along * (b - a) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)]
    )
    outline = reprojected(np.array([shapely.Polygon(ring)], object), crs, target)[0]
    pixel = float(np.sqrt(outline.area / (grid["region"][0] * grid["region"][1])))
    return _Part(result.source, file, crs, outline, pixel)


def _doubles(parts: Sequence[_Part], target: str | None) -> list[NDArray[np.int64]]:
    """Rows of each part that other parts have as well and better."""
    outlines = np.array([part.outline for part in parts], object)
    near = shapely.STRtree(outlines).query(outlines, predicate="intersects")
    shapes, owner, row, cut, confidence = [], [], [], [], []
    for number, part in enumerate(parts):
        others = [k for k in near[1][near[0] == number] if k != number]
        if not others:
            continue
        shared = shapely.intersection(part.outline, shapely.union_all(outlines[others]))
        shapely.prepare(shared)
        start = 0
        for batch, found in part.batches(target, ["confidence", "geometry"]):
            inside = np.flatnonzero(shapely.intersects(shared, found))
            shapes.append(found[inside])
            owner.append(np.full(len(inside), number))
            row.append(start + inside)
            cut.append(shapely.dwithin(found[inside], part.outline.boundary, _CUT * part.pixel))
            confidence.append(batch.column("confidence").to_numpy(zero_copy_only=False)[inside])
            start += len(found)
    if not shapes:
        return [np.empty(0, np.int64) for _ in parts]
    numbers = np.concatenate(owner)
    lost = _worse(
        np.concatenate(shapes), numbers, np.concatenate(cut),
        np.nan_to_num(np.concatenate(confidence).astype(float)),
    )  # fmt: skip
    rows = np.concatenate(row)
    return [rows[lost & (numbers == number)] for number in range(len(parts))]


def _worse(
    shapes: NDArray[Any], owner: NDArray[np.int64], cut: NDArray[np.bool_], confidence: FloatArray
) -> NDArray[np.bool_]:
    """Which polygons give way to one of another owner that is the same building."""
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    apart = owner[one] < owner[other]
    one, other = one[apart], other[apart]
    area = shapely.area(shapes)
    shared = shapely.area(shapely.intersection(shapes[one], shapes[other]))
    same = shared > _DOUBLE * np.minimum(area[one], area[other])
    one, other = one[same], other[same]
    rank = np.empty(len(shapes), np.int64)
    rank[np.lexsort((np.arange(len(shapes)), -confidence, cut))] = np.arange(len(shapes))
    better, worse = np.where(rank[one] < rank[other], [one, other], [other, one])
    lost = np.zeros(len(shapes), np.bool_)
    # The best first: what has given way itself takes nothing with it.
    for k in np.argsort(rank[better], kind="stable"):
        lost[worse[k]] |= not lost[better[k]]
    return lost


def _write(
    output: Path,
    parts: Sequence[_Part],
    dropped: Sequence[NDArray[np.int64]],
    first: Any,
    target: str | None,
    settings: PredictSettings,
) -> int:
    driver = DRIVERS[output.suffix.lower()]
    kinds = {name: first.field(name).type for name in first.names if name not in ("geometry", "bbox")}
    schema = schema_of({**kinds, "source": pa.string()}, driver)
    mixed = any(_has_multipolygons(part) or part.crs != target for part in parts)
    model = find_models(settings.model)[0]
    marks = {"software": software(), "model": model.name, "model_sha256": model.sha256}
    layer = Target(
        settings.vector.layer or output.stem, target, settings.vector.connectivity == 8, mixed,
        settings.lco, marks,
    )  # fmt: skip
    total = 0

    def tables() -> Iterator[Any]:
        nonlocal total
        for part, lost in zip(parts, dropped, strict=True):
            start = 0
            for batch, shapes in part.batches(target):
                kept = np.setdiff1d(np.arange(start, start + len(shapes)), lost) - start
                start += len(shapes)
                if not len(kept):
                    continue
                rows = batch.take(pa.array(kept))
                columns = [pa.array(np.arange(total + 1, total + 1 + len(kept)))]
                columns += [rows.column(name) for name in kinds if name != "id"]
                columns.append(pa.array([without_secrets(part.source)] * len(kept), pa.string()))
                columns.append(pa.array(shapely.to_wkb(_alike(shapes[kept], mixed), byte_order=1)))
                total += len(kept)
                yield pa.RecordBatch.from_arrays(columns, schema=schema)

    discard(output)
    try:
        with writing(output) as temporary:
            write_tables(temporary, layer, schema, tables())
            if driver == "GPKG":
                add_style(temporary, layer.name, layer_style(model.card.labels))
        publish(output)
    except BaseException:
        discard(output)
        raise
    return total


def _has_multipolygons(part: _Part) -> bool:
    geo = json.loads(part.file.schema_arrow.metadata[b"geo"])
    return "MultiPolygon" in geo["columns"]["geometry"]["geometry_types"]


def _alike(shapes: NDArray[Any], multi: bool) -> NDArray[Any]:
    """Multipolygons all, where a layer has some: drivers take its type at its word."""
    if not multi:
        return shapes
    pieces, owners = shapely.get_parts(shapes, return_index=True)
    return np.asarray(shapely.multipolygons(pieces, indices=owners))
