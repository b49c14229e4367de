"""Polygons for the web: an archive of vector tiles, a picture of the scene, and a page that shows both."""

from __future__ import annotations

import html
import json
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tilesegment.atomic import only_read
from tilesegment.errors import OutputError, SettingsError
from tilesegment.grid import Grid, Window
from tilesegment.model.card import ModelClass
from tilesegment.model.preprocess import ValueRange
from tilesegment.raster.display import displayed, in_mercator, mercator_bounds
from tilesegment.raster.source import Scene
from tilesegment.vector.files import driver_of
from tilesegment.vector.project import CRS84, crosses_180

_WKB = {"ARROW:extension:name": "geoarrow.wkb"}
_PAGE = Path(__file__).parent / "viewer.html"
# At zoom 16 a step of a tile's 4096 is 15 cm on the equator.
_LEAST_ZOOM, _MOST_ZOOM = 8, 16
_LONGEST = 3000
_HEADER_BYTES = 127
_QUALITY = 82
# Of the page where there is no picture.
_GREY = 221


@dataclass(frozen=True)
class Page:
    """What is shown. region: of a scene's working grid, with the range of its values; classes: their names
    and colours; title, text: in words."""

    scene: Scene
    values: ValueRange
    region: Window
    classes: Mapping[int, ModelClass]
    title: str
    text: str


def check_tiles(path: Path, grid: Grid) -> None:
    """Raises SettingsError where there can be no tiles."""
    import pyogrio

    if path.suffix.lower() != ".pmtiles":
        raise SettingsError(f"--pmtiles {path}: vector tiles are written as .pmtiles")
    if "w" not in pyogrio.list_drivers().get("PMTiles", ""):
        raise SettingsError("--pmtiles: this build of GDAL cannot write it (pyogrio from PyPI can)")
    if grid.crs is None:
        raise SettingsError("--pmtiles: a picture without a CRS lies nowhere on a map")
    if crosses_180(grid, CRS84):
        raise SettingsError("--pmtiles: the scene lies across 180 degrees, where maps of the web end")
    mercator_bounds(grid)


def write_no_tiles(path: Path, bounds: tuple[float, float, float, float]) -> None:
    """An archive without a tile, of nothing in bounds (west, south, east, north): the header and empty
    parts of https://github.com/protomaps/PMTiles/blob/main/spec/v3/spec.md. GDAL refuses to make one."""
    directory, told = b"\x00", b"{}"
    begin = _HEADER_BYTES
    parts = (begin, 1, begin + 1, len(told), begin + 3, 0, begin + 3, 0, 0, 0, 0)
    degrees = [round(value * 1e7) for value in bounds]
    middle = [round(1e7 * (bounds[0] + bounds[2]) / 2), round(1e7 * (bounds[1] + bounds[3]) / 2)]
    # Clustered; nothing is compressed; tiles would be vectors (MVT).
    kinds = (1, 1, 1, 1, _LEAST_ZOOM, _MOST_ZOOM)
    header = struct.pack("<7sB11Q6B4iB2i", b"PMTiles", 3, *parts, *kinds, *degrees, _LEAST_ZOOM, *middle)
    path.write_bytes(header + directory + told)


def write_tiles(path: Path, polygons: Path, name: str) -> None:
    """Write the layer of polygons in a file (of any format of ours) as vector tiles to `path`, which must
    not exist. Raises OutputError."""
    from pyogrio.errors import DataSourceError, FeatureError, GeometryError
    from pyogrio.raw import write_arrow

    try:
        with _batches(polygons) as (reader, geometry, crs), warnings.catch_warnings():
            # The format has no types beyond text, numbers and truth.
            warnings.simplefilter("ignore")
            write_arrow(
                reader,
                str(path),
                layer=name,
                driver="PMTiles",
                geometry_name=geometry,
                geometry_type="MultiPolygon",
                crs=crs,
                dataset_options={"MINZOOM": str(_LEAST_ZOOM), "MAXZOOM": str(_MOST_ZOOM), "NAME": name},
            )
    except (DataSourceError, FeatureError, GeometryError, OSError) as error:
        raise OutputError(f"{path}: cannot be written ({' '.join(str(error).split())})") from error


@contextmanager
def _batches(path: Path) -> Iterator[tuple[Any, str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyogrio.raw import open_arrow
    from pyproj import CRS

    if driver_of(path) == "Parquet":
        with pq.ParquetFile(path) as file:
            geo = json.loads(file.schema_arrow.metadata[b"geo"])["columns"]["geometry"]
            kept = [field for field in file.schema_arrow if field.name != "bbox"]
            schema = pa.schema(
                field.with_metadata(_WKB) if field.name == "geometry" else field for field in kept
            )
            batches = (
                pa.RecordBatch.from_arrays(batch.columns, schema=schema)
                for batch in file.iter_batches(columns=schema.names)
            )
            crs = CRS.from_user_input(geo["crs"]).to_wkt()
            yield pa.RecordBatchReader.from_batches(schema, batches), "geometry", crs
        return
    with only_read(), open_arrow(path, layer=0, use_pyarrow=True) as (told, reader):
        yield reader, told["geometry_name"] or "wkb_geometry", told["crs"]


def write_page(path: Path, page: Page, tiles_name: str) -> None:
    """Write the page `path` and the picture beside it, both for tiles of this name. Raises OutputError."""
    grid = page.scene.grid[page.region]
    scale = max(1.0, max(grid.height, grid.width) / _LONGEST)
    size = max(1, round(grid.height / scale)), max(1, round(grid.width / scale))
    shown, valid = displayed(page.scene, page.values, page.region, *size)
    values, bounds = in_mercator(shown, valid, grid)
    values[values[..., 3] < 128] = _GREY
    picture = Image.fromarray(np.ascontiguousarray(values[..., :3]))
    stem = Path(tiles_name).stem
    told = {
        "tiles": tiles_name,
        "picture": f"{stem}.jpg",
        "bounds": list(bounds),
        "classes": {entry.name: list(entry.colour) for value, entry in page.classes.items() if value},
        "title": page.title,
        "text": page.text,
    }
    # A script ends where its end is written, also in a text.
    text = json.dumps(told).replace("<", "\\u003c")
    document = _PAGE.read_text(encoding="utf-8")
    document = document.replace("<title>TITLE", f"<title>{html.escape(page.title)}", 1)
    document = document.replace("const VIEW = {};", f"const VIEW = {text};", 1)
    try:
        picture.save(path.with_suffix(".jpg"), quality=_QUALITY)
        path.write_text(document, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
