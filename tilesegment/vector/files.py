"""Vector formats: their drivers, and record batches of WKB written by them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tilesegment.atomic import write_text
from tilesegment.errors import OutputError
from tilesegment.vector.coco import COCO_ENDING, Picture, write_coco
from tilesegment.vector.project import wkt

DRIVERS = {
    ".gpkg": "GPKG",
    ".parquet": "Parquet",
    ".geoparquet": "Parquet",
    ".fgb": "FlatGeobuf",
    ".geojson": "GeoJSON",
    ".json": "GeoJSON",
    COCO_ENDING: "COCO",
    ".geojsonl": "GeoJSONSeq",
    ".shp": "ESRI Shapefile",
}
# Shapefiles cut names after ten characters.
_SHORT_NAMES = {"perimeter_m": "perim_m", "regularized": "regular", "deviation_m": "deviat_m"}


@dataclass(frozen=True)
class Target:
    """A layer of a file. crs: WKT or an authority's code; mixed: both polygons and multipolygons occur;
    picture: what COCO files are about."""

    name: str
    crs: str | None
    multi: bool = False
    mixed: bool = False
    options: tuple[tuple[str, str], ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    picture: Picture | None = None


def ending_of(path: str | Path) -> str:
    """The extension by which a format is known, with its dot and in small letters."""
    name = Path(path).name.lower()
    return COCO_ENDING if name.endswith(COCO_ENDING) else Path(name).suffix


def driver_of(path: str | Path) -> str | None:
    """The driver of a vector format, `COCO` for our own; None where the extension is of none."""
    return DRIVERS.get(ending_of(path))


def is_vector(path: str | Path) -> bool:
    """Whether the extension is that of a vector format."""
    return driver_of(path) is not None


def column_name(name: str, driver: str) -> str:
    """A column's name as a driver can hold it."""
    return _SHORT_NAMES.get(name, name) if driver == "ESRI Shapefile" else name


def schema_of(kinds: dict[str, Any], driver: str) -> Any:
    """The schema of a layer: types of attributes by name, then the geometry as WKB."""
    import pyarrow as pa

    fields = [pa.field(column_name(name, driver), kind) for name, kind in kinds.items()]
    tag = {"ARROW:extension:name": "geoarrow.wkb"} if driver != "Parquet" else None
    return pa.schema([*fields, pa.field("geometry", pa.binary(), metadata=tag)])


def write_tables(path: Path, target: Target, schema: Any, tables: Iterator[Any]) -> None:
    """Write record batches of `schema_of`. Raises OutputError or SettingsError."""
    driver = DRIVERS[ending_of(path)]
    if driver == "COCO" and target.picture is not None:
        write_coco(path, target.picture, tables, target.metadata)
    elif driver == "Parquet":
        from tilesegment.vector.parquet import write_parquet

        kinds = ["MultiPolygon"] if target.multi else ["Polygon"]
        kinds = ["Polygon", "MultiPolygon"] if target.mixed and not target.multi else kinds
        write_parquet(path, schema, tables, target.crs, kinds, target.options, target.metadata)
    else:
        _write_ogr(path, driver, target, schema, tables)
    if driver == "ESRI Shapefile":
        write_text(path.with_name(path.name + ".xml"), _shapefile_metadata(target.metadata))


def _write_ogr(path: Path, driver: str, target: Target, schema: Any, tables: Iterator[Any]) -> None:
    import pyarrow as pa
    from pyogrio.errors import DataSourceError, FeatureError, FieldError, GeometryError
    from pyogrio.raw import write_arrow

    # RFC 7946 means longitude and latitude, and cuts pixel coordinates away as if they were.
    geojson = {} if target.crs is None else {"RFC7946": "YES"}
    geojson["DESCRIPTION"] = "; ".join(f"{name}: {text}" for name, text in target.metadata.items())
    options = {"GeoJSON": geojson, "GPKG": {"GEOMETRY_NAME": "geom"}}.get(driver, {})
    options = {**options, **{key.upper(): value for key, value in target.options}}
    metadata = target.metadata if driver in ("GPKG", "FlatGeobuf") else None
    reader = pa.RecordBatchReader.from_batches(schema, tables)
    try:
        with warnings.catch_warnings():
            # Pyogrio warns of layers without a CRS; the user has been told by us.
            warnings.filterwarnings("ignore", message="'crs' was not provided")
            write_arrow(
                reader,
                str(path),
                layer=target.name,
                driver=driver,
                geometry_name="geometry",
                geometry_type="MultiPolygon" if target.multi or target.mixed else "Polygon",
                crs=wkt(target.crs),
                layer_options=options,
                layer_metadata=metadata if driver == "FlatGeobuf" else None,
                dataset_metadata=metadata if driver == "GPKG" else None,
            )
    except (DataSourceError, FeatureError, FieldError, GeometryError) as error:
        raise OutputError(f"{path}: cannot be written ({' '.join(str(error).split())})") from error


def _shapefile_metadata(metadata: dict[str, str]) -> str:
    """Provenance as the metadata (FGDC) that lies beside a Shapefile."""
    text = escape("; ".join(f"{name}: {words}" for name, words in metadata.items()))
    return f"<metadata><idinfo><descript><abstract>{text}</abstract></descript></idinfo></metadata>\n"
