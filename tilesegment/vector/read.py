"""Reading anyone's polygon layer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.atomic import only_read
from tilesegment.errors import InputError, SettingsError
from tilesegment.grid import Grid
from tilesegment.polygons import Polygons
from tilesegment.settings import nearest
from tilesegment.tiling.memory import give_back_memory
from tilesegment.vector.coco import check_coco, read_coco
from tilesegment.vector.files import driver_of

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

# Columns that mean something here.
_COLUMNS = ("class", "confidence", "id")
_BATCH = 50_000
# A CRS whose scale is further from 1 than this at the layer's middle does not measure in metres.
_SCALE = 0.002
_AREAL = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)


@dataclass(frozen=True)
class PolygonLayer:
    """Polygons and multipolygons of a file, in its order, all valid.

    invalid: how many were not as they stood. crs: WKT, None without one. names: of the classes in order of
    their first appearance, code: (n,) each one's place among them; None where the file has no such column.
    confidence: (n,) or None. ids: (n,), numbered from 1 where the file has none.
    """

    path: str
    polygons: Polygons
    invalid: int
    crs: str | None
    names: tuple[str, ...] | None
    code: NDArray[np.int64]
    confidence: NDArray[np.float64] | None
    ids: NDArray[Any]

    def __len__(self) -> int:
        return len(self.polygons)


def read_layer(path: str, layer: str | None = None) -> PolygonLayer:
    """All polygons of a vector file; `layer` by name, by default the first one. Memory holds a batch of
    shapely's geometries besides.

    Raises InputError where the file cannot be read or holds other geometries, SettingsError for an unknown
    layer."""
    with _opened(path, layer) as (crs, geometry, batches):
        store: list[Polygons] = []
        names: dict[str, int] = {}
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in _COLUMNS}
        invalid = 0
        for batch in batches:
            shapes = shapely.from_wkb(batch.column(geometry).to_numpy(zero_copy_only=False))
            shapes, kept, wrong = _areal(shapes, path)
            invalid += wrong
            if not len(shapes):
                continue
            store.append(Polygons.of(shapes))
            for name in set(_COLUMNS) & set(batch.schema.names):
                column = batch.column(name).filter(_arrow(kept))
                parts[name].append(_codes(column, names) if name == "class" else _values(column))
    polygons = Polygons.joined(store)
    store.clear()
    give_back_memory()
    confidence = np.concatenate(parts["confidence"]) if parts["confidence"] else None
    if confidence is not None and confidence.dtype == object and all(v is None for v in confidence):
        confidence = None
    if confidence is not None and confidence.dtype.kind not in "fiu":
        raise InputError(f"{path}: its column 'confidence' holds no numbers")
    if confidence is not None:
        known = confidence.astype(np.float64)
        confidence = None if np.isnan(known).all() else np.nan_to_num(known)
    has_classes = bool(parts["class"])
    return PolygonLayer(
        path,
        polygons,
        invalid,
        crs,
        tuple(names) if has_classes else None,
        np.concatenate(parts["class"]) if has_classes else np.zeros(len(polygons), np.int64),
        confidence,
        np.concatenate(parts["id"]) if parts["id"] else np.arange(1, len(polygons) + 1),
    )


def read_polygons(path: Path) -> GeoDataFrame:
    """A layer of ours with all its columns, in the order of its ids. Raises InputError where it cannot be
    read."""
    import geopandas

    if driver_of(path) == "COCO":
        return read_coco(path)
    is_parquet = driver_of(path) == "Parquet"
    try:
        with only_read():
            found = geopandas.read_parquet(path) if is_parquet else geopandas.read_file(path)
        return found.sort_values("id", kind="stable", ignore_index=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error


def check_opens(path: str) -> None:
    """Raises InputError for a file that cannot be read as polygons; no polygon is looked at."""
    if driver_of(path) == "COCO":
        check_coco(Path(path))
        return
    with _opened(path, None):
        return


def _areal(shapes: NDArray[Any], path: str) -> tuple[NDArray[Any], NDArray[np.bool_], int]:
    """Valid polygons, which of the given ones they are, and how many were not valid."""
    kept = np.asarray(~(shapely.is_missing(shapes) | shapely.is_empty(shapes)), np.bool_)
    other = kept & ~np.isin(shapely.get_type_id(shapes), _AREAL)
    if other.any():
        kind = shapes[other][0].geom_type
        raise InputError(f"{path}: holds {kind}s, and polygons are expected")
    valid = np.asarray(shapely.is_valid(shapes), np.bool_)
    mend = kept & ~valid
    if mend.any():
        shapes = shapes.copy()
        shapes[mend] = shapely.make_valid(shapes[mend], method="structure", keep_collapsed=False)
        kept &= np.isin(shapely.get_type_id(shapes), _AREAL) & ~shapely.is_empty(shapes)
    return shapes[kept], kept, int(mend.sum())


def _arrow(mask: NDArray[np.bool_]) -> Any:
    import pyarrow as pa

    return pa.array(mask)


def _values(column: Any) -> NDArray[Any]:
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _codes(column: Any, names: dict[str, int]) -> NDArray[np.int64]:
    """Numbers of class names, which are added to `names` as they appear."""
    encoded = column.dictionary_encode()
    table = [names.setdefault(str(value), len(names)) for value in encoded.dictionary.to_pylist()]
    missing = names.setdefault("unknown", len(names)) if column.null_count else 0
    indices = encoded.indices.to_numpy(zero_copy_only=False)
    found = np.full(len(indices), missing, np.int64)
    known = ~np.isnan(indices.astype(np.float64))
    found[known] = np.array(table or [0], np.int64)[indices[known].astype(np.int64)]
    return found


@contextmanager
def _opened(path: str, layer: str | None) -> Iterator[tuple[str | None, str, Iterator[Any]]]:
    """CRS, name of the geometry column, and Arrow batches."""
    from pyogrio.errors import DataLayerError, DataSourceError

    if driver_of(path) == "COCO":
        raise InputError(f"{path}: is COCO JSON, whose polygons have no place on the Earth")
    try:
        opener = _parquet(path) if driver_of(path) == "Parquet" else _ogr(path, layer)
        with only_read(), opener as found:
            yield found
    except (DataSourceError, DataLayerError, OSError, ValueError) as error:
        if isinstance(error, InputError | SettingsError):
            raise
        raise InputError(f"{path}: cannot be read as polygons ({' '.join(str(error).split())})") from error


@contextmanager
def _ogr(path: str, layer: str | None) -> Iterator[tuple[str | None, str, Iterator[Any]]]:
    import pyogrio
    from pyogrio.raw import open_arrow
    from pyproj import CRS

    names = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    if not names:
        raise InputError(f"{path}: holds no layer of geometries")
    if layer is not None and layer not in names:
        raise SettingsError(f"{path}: has no layer {layer!r}{nearest(layer, names)}")
    chosen = layer or names[0]
    known = pyogrio.read_info(path, layer=chosen)["fields"].tolist()
    columns = [name for name in _COLUMNS if name in known]
    with open_arrow(path, layer=chosen, columns=columns, batch_size=_BATCH, use_pyarrow=True) as opened:
        meta, reader = opened
        crs = None if meta["crs"] is None else CRS.from_user_input(meta["crs"]).to_wkt()
        yield crs, meta["geometry_name"] or "wkb_geometry", iter(reader)


@contextmanager
def _parquet(path: str) -> Iterator[tuple[str | None, str, Iterator[Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyproj import CRS

    with pq.ParquetFile(path, pre_buffer=False) as file:
        text = (file.schema_arrow.metadata or {}).get(b"geo")
        if text is None:
            raise InputError(f"{path}: is Parquet without geometry")
        geo = json.loads(text)
        geometry = geo["primary_column"]
        column = geo["columns"][geometry]
        if column["encoding"] != "WKB":
            raise InputError(f"{path}: its geometry is encoded as {column['encoding']}, and WKB is read")
        crs = column.get("crs", "OGC:CRS84")
        columns = [geometry, *(name for name in _COLUMNS if name in file.schema_arrow.names)]
        known = None if crs is None else CRS.from_user_input(crs).to_wkt()
        yield known, geometry, file.iter_batches(_BATCH, columns=columns)
    # Arrow's pool keeps what was decoded, which may be a row group of the whole file.
    pa.default_memory_pool().release_unused()


@dataclass(frozen=True)
class Plane:
    """A map on which lengths are metres: that of a layer's own CRS where it is one, else an equal-area
    projection about the middle of the data, whose lengths are right to 0.1 % within 500 km. Without any CRS
    the unit is the pixel."""

    crs: str | None

    @classmethod
    def of(cls, crs: str | None, bounds: tuple[float, float, float, float]) -> Plane:
        """The plane for data in a CRS within bounds. Raises InputError where these lie outside of it."""
        if crs is None:
            return cls(None)
        from pyproj import CRS

        middle = np.array([[(bounds[0] + bounds[2]) / 2, (bounds[1] + bounds[3]) / 2]])
        # A grid of one unit a pixel about the middle tells what the unit is on the ground.
        from affine import Affine

        grid = Grid(crs, Affine.translation(*middle[0]), 1, 1)
        metric = grid.metric_at(np.zeros((1, 2)))[0]
        lengths = np.linalg.norm(metric, axis=0)
        flat = grid.is_local or CRS.from_user_input(crs).is_projected
        if flat and np.abs(lengths - 1).max() < _SCALE:
            return cls(crs)
        lon, lat = grid.to_lonlat(middle)[0]
        return cls(
            CRS.from_proj4(f"+proj=laea +lat_0={lat:.6f} +lon_0={lon:.6f} +datum=WGS84 +units=m").to_wkt()
        )

    def project(self, polygons: Polygons, crs: str | None, where: str) -> Polygons:
        """Polygons from a CRS to the plane. Raises InputError where one of both has no CRS."""
        if (crs is None) != (self.crs is None):
            own, other = ("no CRS", "one") if crs is None else ("a CRS", "none")
            raise InputError(f"{where}: has {own}, and the other has {other}")
        from pyproj import CRS, Transformer

        # Formats write the same CRS in different words.
        if crs == self.crs or CRS(crs).equals(CRS(self.crs), ignore_axis_order=True):
            return polygons
        from pyproj.exceptions import ProjError

        try:
            transformer = Transformer.from_crs(crs, self.crs, always_xy=True)
        except ProjError as error:
            raise InputError(f"{where}: its CRS and the other's cannot be related") from error
        moved = polygons.moved(lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1])))
        if not np.isfinite(moved.coords).all():
            raise InputError(f"{where}: holds coordinates outside the area its CRS is defined for")
        return moved
