"""Polygons of pictures as COCO JSON: in the picture's pixels, x to the right and y down from its corner."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import shapely

from tilesegment.errors import InputError

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

COCO_ENDING = ".coco.json"


@dataclass(frozen=True)
class Picture:
    """name: of the picture's file; height, width: in its own pixels; categories: names of the classes."""

    name: str
    height: int
    width: int
    categories: tuple[str, ...]


def write_coco(path: Path, picture: Picture, tables: Iterator[Any], metadata: dict[str, str]) -> None:
    """One picture's polygons (record batches of `schema_of`, in its pixels). Holes are joined to their
    outlines by a line there and back, since COCO's polygons have none; memory holds one batch."""
    numbers = {name: number for number, name in enumerate(picture.categories, 1)}
    with path.open("w", encoding="utf-8") as file:
        _begin(file, metadata, picture.categories)
        _item(file, {"id": 1, "file_name": picture.name, "width": picture.width, "height": picture.height})
        file.write('\n],\n"annotations": [')
        first = True
        for table in tables:
            for row in table.to_pylist():
                found = _annotation(row, numbers, picture)
                if found is not None:
                    _item(file, found, first)
                    first = False
        file.write("\n]\n}\n")


def merge_coco(parts: Sequence[Path], names: Sequence[str], path: Path, metadata: dict[str, str]) -> int:
    """The pictures of several files of ours as one; how many polygons there are. names: of the pictures.
    Memory holds one file. Raises InputError where one cannot be read."""
    wholes = [_read(part)["images"][0] for part in parts]
    with path.open("w", encoding="utf-8") as file:
        _begin(file, metadata, [entry["name"] for entry in _read(parts[0])["categories"]])
        for number, (image, name) in enumerate(zip(wholes, names, strict=True), 1):
            _item(file, {**image, "id": number, "file_name": name}, number == 1)
        file.write('\n],\n"annotations": [')
        count = 0
        for number, part in enumerate(parts, 1):
            for annotation in _read(part)["annotations"]:
                count += 1
                _item(file, {**annotation, "id": count, "image_id": number}, count == 1)
        file.write("\n]\n}\n")
    return count


def read_coco(path: Path) -> GeoDataFrame:
    """The polygons of a file of ours, with the picture that each is in. Raises InputError."""
    import geopandas

    whole = _read(path)
    names = {entry["id"]: entry["name"] for entry in whole["categories"]}
    files = {entry["id"]: entry["file_name"] for entry in whole["images"]}
    rows = whole["annotations"]
    columns = {
        "id": np.array([row["id"] for row in rows], np.int64),
        "class": [names[row["category_id"]] for row in rows],
        "confidence": np.array([row.get("score", np.nan) for row in rows], float),
        "picture": [files[row["image_id"]] for row in rows],
    }
    shapes = [_shape(row["segmentation"]) for row in rows]
    return geopandas.GeoDataFrame(columns, geometry=shapes)


def _read(path: Path) -> dict[str, Any]:
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(whole, dict) and {"images", "annotations", "categories"} <= whole.keys():
            return whole
        words = "no images, annotations and categories"
    except (OSError, ValueError) as error:
        words = " ".join(str(error).split())
    raise InputError(f"{path}: cannot be read as COCO JSON ({words})")


def check_coco(path: Path) -> None:
    """Raises InputError for a file that is none of COCO."""
    _read(path)


def _begin(file: IO[str], metadata: dict[str, str], categories: Sequence[str]) -> None:
    listed = [{"id": number, "name": name} for number, name in enumerate(categories, 1)]
    file.write('{\n"info": ' + json.dumps(metadata))
    file.write(',\n"categories": ' + json.dumps(listed, ensure_ascii=False))
    file.write(',\n"images": [')


def _item(file: IO[str], item: dict[str, Any], first: bool = True) -> None:
    file.write(("\n" if first else ",\n") + json.dumps(item, ensure_ascii=False))


def _annotation(row: dict[str, Any], numbers: dict[str, int], picture: Picture) -> dict[str, Any] | None:
    """A polygon inside the picture, over whose rim a straightened outline may reach; None for nothing."""
    inside = shapely.box(0, 0, picture.width, picture.height)
    shape = shapely.intersection(shapely.from_wkb(row["geometry"]), inside)
    parts = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon" and part.area]
    if not parts:
        return None
    shape = shapely.multipolygons(parts)
    left, top, right, bottom = shapely.bounds(shape)
    found = {
        "id": row["id"],
        "image_id": 1,
        "category_id": numbers[row["class"]],
        "iscrowd": 0,
        "area": round(float(shape.area), 2),
        "bbox": [round(float(value), 2) for value in (left, top, right - left, bottom - top)],
        "segmentation": [_ring(polygon) for polygon in parts],
    }
    if row["confidence"] is not None:
        found["score"] = row["confidence"]
    return found


def _ring(polygon: Any) -> list[float]:
    """x, y, x, y ... of an outline, without its first point again; holes are entered from its nearest
    vertex and left the same way."""
    points = shapely.get_coordinates(polygon.exterior)[:-1]
    for hole in polygon.interiors:
        inner = shapely.get_coordinates(hole)[:-1]
        apart = ((points[:, None] - inner[None]) ** 2).sum(axis=2)
        here, there = np.unravel_index(apart.argmin(), apart.shape)
        inner = np.roll(inner, -int(there), axis=0)
        points = np.concatenate([points[: here + 1], inner, inner[:1], points[here:]])
    return [float(value) for value in np.round(points, 2).ravel()]


def _shape(rings: Sequence[Sequence[float]]) -> Any:
    """A polygon again, of outlines whose holes hang on a line."""
    parts = [shapely.Polygon(np.reshape(ring, (-1, 2))) for ring in rings]
    return shapely.union_all(shapely.make_valid(np.array(parts, object)))
