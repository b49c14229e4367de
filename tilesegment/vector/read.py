"""Reading anyone's polygon layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.errors import InputError, SettingsError
from tilesegment.grid import Grid
from tilesegment.settings import nearest

_PARQUET = (".parquet", ".geoparquet")
# A CRS whose scale is further from 1 than this at the layer's middle does not measure in metres.
_SCALE = 0.002


@dataclass(frozen=True)
class PolygonLayer:
    """Polygons and multipolygons of a file, in its order.

    geometry: (n,); valid: (n,) whether each was valid as it stood, all are now. crs: WKT, None without one.
    classes: (n,) names, confidence: (n,), ids: (n,); None where the file has no such column.
    """

    path: str
    geometry: NDArray[np.object_]
    valid: NDArray[np.bool_]
    crs: str | None
    classes: NDArray[np.object_] | None
    confidence: NDArray[np.float64] | None
    ids: NDArray[Any] | None

    def __len__(self) -> int:
        return len(self.geometry)


def read_layer(path: str, layer: str | None = None) -> PolygonLayer:
    """All polygons of a vector file; `layer` by name, by default the first. Raises InputError where the
    file cannot be read or holds other geometries, SettingsError for an unknown layer."""
    import geopandas
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        if path.lower().endswith(_PARQUET):
            frame = geopandas.read_parquet(path)
        else:
            names = _layers(path)
            if layer is not None and layer not in names:
                raise SettingsError(f"{path}: has no layer {layer!r}{nearest(layer, names)}")
            frame = geopandas.read_file(path, layer=layer or names[0], use_arrow=True)
    except (DataSourceError, DataLayerError, OSError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        raise InputError(f"{path}: cannot be read as polygons ({' '.join(str(error).split())})") from error
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise InputError(f"{path}: holds no geometry")
    frame = frame[~(frame.geometry.isna() | frame.geometry.is_empty)]
    other = sorted(set(frame.geom_type) - {"Polygon", "MultiPolygon"})
    if other:
        raise InputError(f"{path}: holds {other[0]}s, and polygons are expected")
    geometry = frame.geometry.to_numpy()
    valid = np.asarray(shapely.is_valid(geometry), np.bool_)
    if not valid.all():
        geometry = geometry.copy()
        geometry[~valid] = shapely.make_valid(geometry[~valid], method="structure")
    confidence = None
    if "confidence" in frame and not frame["confidence"].isna().all():
        confidence = frame["confidence"].fillna(0.0).to_numpy(np.float64)
    return PolygonLayer(
        path,
        geometry,
        valid,
        None if frame.crs is None else frame.crs.to_wkt(),
        frame["class"].astype(str).to_numpy(object) if "class" in frame else None,
        confidence,
        frame["id"].to_numpy() if "id" in frame else None,
    )


def _layers(path: str) -> list[str]:
    import pyogrio

    names = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    if not names:
        raise InputError(f"{path}: holds no layer of geometries")
    return names


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
        if CRS.from_user_input(crs).is_projected and np.abs(lengths - 1).max() < _SCALE:
            return cls(crs)
        lon, lat = grid.to_lonlat(middle)[0]
        return cls(
            CRS.from_proj4(f"+proj=laea +lat_0={lat:.6f} +lon_0={lon:.6f} +datum=WGS84 +units=m").to_wkt()
        )

    def project(self, geometry: NDArray[np.object_], crs: str | None, where: str) -> NDArray[np.object_]:
        """Geometries from a CRS to the plane. Raises InputError where one of both has no CRS."""
        if (crs is None) != (self.crs is None):
            own, other = ("no CRS", "one") if crs is None else ("a CRS", "none")
            raise InputError(f"{where}: has {own}, and the other has {other}")
        if crs == self.crs:
            return geometry
        from pyproj import Transformer

        transformer = Transformer.from_crs(crs, self.crs, always_xy=True)
        moved = shapely.transform(
            geometry, lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))
        )
        if not np.isfinite(shapely.get_coordinates(moved)).all():
            raise InputError(f"{where}: holds coordinates outside the area its CRS is defined for")
        return np.asarray(moved)


def is_vector_file(path: str) -> bool:
    """Whether a path names a vector layer: by its extension, which no raster has."""
    from tilesegment.vector.write import DRIVERS

    return Path(path).suffix.lower() in DRIVERS
