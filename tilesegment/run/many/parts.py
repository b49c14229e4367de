"""The polygons of each of several scenes, and which of them are one building."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from tilesegment.errors import InputError
from tilesegment.grid import FloatArray
from tilesegment.run.many.one import SceneResult
from tilesegment.vector.project import reprojected

# Two polygons of different scenes are one building where they share this much of the smaller one.
_DOUBLE = 0.5
# An outline so near to the edge of its scene was cut by it, in pixels.
_CUT = 1.5
_BATCH = 20_000


@dataclass(frozen=True)
class Part:
    """One scene's polygons. outline: of the scene, in the layer's CRS; pixel: its size there."""

    source: str
    path: Path
    crs: str
    outline: Any
    pixel: float

    def batches(
        self, target: str | None, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Record batches in the order of the file, and their outlines in the layer's CRS."""
        # There may be more scenes than files that a process can have open.
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(_BATCH, columns=columns):
                shapes = shapely.from_wkb(batch.column("geometry").to_numpy(zero_copy_only=False))
                yield batch, reprojected(shapes, self.crs, target)

    @property
    def has_multipolygons(self) -> bool:
        """Whether its file says so."""
        geo = json.loads(pq.read_schema(self.path).metadata[b"geo"])
        return "MultiPolygon" in geo["columns"]["geometry"]["geometry_types"]


def crs_of_scene(result: SceneResult, schema: Any) -> str:
    """That of a scene's polygons, as PROJJSON. Raises InputError where it has none."""
    crs = json.loads(schema.metadata[b"geo"])["columns"]["geometry"]["crs"]
    if crs is None:
        raise without_crs(result.source)
    return json.dumps(crs)


def without_crs(source: str) -> InputError:
    """What is wrong with a scene that has none."""
    return InputError(
        f"{source}: has no CRS, so its polygons cannot be merged; pictures are, as .coco.json"
    )


def schema_of_scene(result: SceneResult, first: Any) -> Any:
    """The schema of a scene's polygons, that of the first scene. Raises InputError for another one, which
    an earlier run with other settings may have left."""
    try:
        found = pq.read_schema(result.outputs.main)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{result.outputs.main}: cannot be read ({error})") from error
    if (first is not None and found.names != first.names) or not result.outputs.read_record():
        raise InputError(
            f"{result.outputs.main}: was written with other settings; remove it, or leave out "
            "--skip-existing"
        )
    return found


def part_of(result: SceneResult, target: str | None, first: Any) -> Part:
    """One scene's polygons for a layer of the CRS `target`. first: the schema of the first one's. Raises
    InputError."""
    crs = crs_of_scene(result, schema_of_scene(result, first))
    grid = result.outputs.read_record()["plan"]["grid"]
    corners = np.asarray(grid["corners"], float)
    # Straight edges are curves in another CRS.
    along = np.linspace(0, 1, 21)[:-1, None]
    ring = np.concatenate(
        [a + along * (b - a) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)]
    )
    outline = reprojected(np.array([shapely.Polygon(ring)], object), crs, target)[0]
    pixel = float(np.sqrt(outline.area / (grid["region"][0] * grid["region"][1])))
    return Part(result.source, result.outputs.main, crs, outline, pixel)


def doubles(parts: Sequence[Part], target: str | None) -> list[NDArray[np.int64]]:
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
