"""Windows and grids: where pixels are, in the world and in metres.

A `Window` is a rectangle of whole pixels; a `Grid` is the georeference of a raster. Vector work is
done in *pixel coordinates* (x = column, y = row, both from the grid's first pixel's outer corner),
where every traced vertex is an integer and joins are exact, and leaves them only through
`Grid.to_world` and `Grid.metric_at`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from tilesegment.errors import InputError, SettingsError

_SET_CRS = "give it the right one (gdal_edit.py -a_srs, or --src-crs of predict and vectorize)"

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of whole pixels: rows [row, row + height), columns [col, col + width)."""

    row: int
    col: int
    height: int
    width: int

    @property
    def row_end(self) -> int:
        """The row behind the last one."""
        return self.row + self.height

    @property
    def col_end(self) -> int:
        """The column behind the last one."""
        return self.col + self.width

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """For indexing an array (rows, columns)."""
        return slice(self.row, self.row_end), slice(self.col, self.col_end)

    def intersection(self, other: Window) -> Window | None:
        """The common rectangle, or None where the two do not overlap."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        height = min(self.row_end, other.row_end) - row
        width = min(self.col_end, other.col_end) - col
        return Window(row, col, height, width) if height > 0 and width > 0 else None

    def relative_to(self, origin: Window) -> Window:
        """The same rectangle, counted from another window's first pixel."""
        return replace(self, row=self.row - origin.row, col=self.col - origin.col)


@dataclass(frozen=True)
class Grid:
    """The georeference of a raster: CRS (WKT, or None), affine pixel -> world, and size in pixels."""

    crs: str | None
    transform: Affine
    height: int
    width: int

    @property
    def window(self) -> Window:
        """All of it."""
        return Window(0, 0, self.height, self.width)

    def __getitem__(self, window: Window) -> Grid:
        """The georeference of a window."""
        shift = Affine.translation(window.col, window.row)
        return Grid(self.crs, self.transform @ shift, window.height, window.width)

    def resized(self, height: int, width: int) -> Grid:
        """The same extent in another number of pixels."""
        scale = Affine.scale(self.width / width, self.height / height)
        return Grid(self.crs, self.transform @ scale, height, width)

    @property
    def has_georeference(self) -> bool:
        """Whether pixels have a place on the Earth."""
        return self.crs is not None

    def to_world(self, points: FloatArray) -> FloatArray:
        """Pixel coordinates (n, 2) of x = column, y = row to the CRS's coordinates (n, 2)."""
        a, b, c, d, e, f = self.transform[:6]
        col, row = points[:, 0], points[:, 1]
        return np.column_stack([a * col + b * row + c, d * col + e * row + f])

    def to_pixel(self, points: FloatArray) -> FloatArray:
        """The CRS's coordinates (n, 2) to pixel coordinates (n, 2)."""
        inverse = Grid(None, ~self.transform, self.height, self.width)
        return inverse.to_world(points)

    @cached_property
    def metres_per_pixel(self) -> tuple[float, float] | None:
        """Ground length of one pixel step along (row, col) at the middle; None without a CRS."""
        if self.crs is None:
            return None
        middle = np.array([[self.width / 2, self.height / 2]])
        metric = self.metric_at(middle)[0]
        along_col, along_row = np.linalg.norm(metric, axis=0)
        return float(along_row), float(along_col)

    def metric_at(self, points: FloatArray) -> FloatArray:
        """Local maps from pixel steps to ground metres, (n, 2, 2), at pixel coordinates (n, 2).

        Column 0 is the (east, north) movement in metres of one step in column, column 1 of one step in
        row, on the CRS's ellipsoid: with the meridian radius M and the prime vertical radius N (Snyder,
        "Map Projections: A Working Manual", eqs. 4-18 and 4-20), d_north = M d_lat and
        d_east = N cos(lat) d_lon. Derivatives are central differences over one pixel, so areas and lengths
        of building-sized shapes are right in degrees, feet, Mercator and rotated grids alike. Without a
        CRS the unit is the pixel.

        Raises InputError where the CRS cannot be related to the ground.
        """
        if self.crs is None:
            return np.broadcast_to(np.eye(2), (len(points), 2, 2)).copy()
        if self._local_metres is not None:
            a, b, _, d, e, _ = self.transform[:6]
            plane = np.array([[a, b], [d, e]]) * self._local_metres
            return np.broadcast_to(plane, (len(points), 2, 2)).copy()
        half = np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]])
        probes = (points[:, None, :] + half[None]).reshape(-1, 2)
        lonlat = np.radians(self.to_lonlat(self.to_world(probes)).reshape(-1, 4, 2))
        step = lonlat[:, 0::2] - lonlat[:, 1::2]
        # A pixel that straddles the antimeridian must not look as wide as the world.
        step[..., 0] = (step[..., 0] + np.pi) % (2 * np.pi) - np.pi
        lat = lonlat[..., 1].mean(axis=1)
        a, e2 = self._ellipsoid
        w2 = 1 - e2 * np.sin(lat) ** 2
        east = (a / np.sqrt(w2) * np.cos(lat))[:, None] * step[..., 0]
        north = (a * (1 - e2) / w2**1.5)[:, None] * step[..., 1]
        return np.stack([east, north], axis=1)

    def areas_m2(self, points: FloatArray) -> FloatArray:
        """Ground area of one pixel at pixel coordinates (n, 2): (n,) in square metres (square pixels
        without a CRS)."""
        return np.asarray(np.abs(np.linalg.det(self.metric_at(points))), dtype=np.float64)

    @property
    def crs_name(self) -> str | None:
        """For people: authority and code where there are any, and the name."""
        if self.crs is None:
            return None
        from pyproj import CRS

        crs = CRS.from_user_input(self.crs)
        authority = crs.to_authority()
        return crs.name if authority is None else f"{':'.join(authority)} ({crs.name})"

    @property
    def is_local(self) -> bool:
        """Whether the CRS is a plane that is not tied to the Earth."""
        return self.crs is not None and self._local_metres is not None

    @cached_property
    def _local_metres(self) -> float | None:
        """Metres a unit of a plane that is not tied to the Earth (an engineering CRS); None for others."""
        from pyproj import CRS

        crs = CRS.from_user_input(self.crs)
        if not crs.is_engineering:
            return None
        return float(crs.axis_info[0].unit_conversion_factor) if crs.axis_info else 1.0

    @cached_property
    def _ellipsoid(self) -> tuple[float, float]:
        from pyproj import CRS

        geod = CRS.from_user_input(self.crs).get_geod()
        if geod is None:
            raise InputError(f"its CRS has no ellipsoid, so pixels have no size in metres; {_SET_CRS}")
        return float(geod.a), float(geod.es)

    def to_lonlat(self, world: FloatArray) -> FloatArray:
        """The CRS's coordinates (n, 2) to longitude and latitude in degrees (n, 2)."""
        lon, lat = self._lonlat_transformer.transform(world[:, 0], world[:, 1])
        result = np.column_stack([lon, lat])
        if not np.isfinite(result).all():
            raise InputError("its georeference puts pixels outside the area its CRS is defined for")
        return result

    @cached_property
    def _lonlat_transformer(self) -> Any:
        from pyproj import CRS, Transformer
        from pyproj.exceptions import ProjError

        try:
            crs = CRS.from_user_input(self.crs)
            if crs.is_geocentric or not (crs.is_geographic or crs.is_projected):
                raise InputError(f"{crs.name!r} is no CRS of a map; {_SET_CRS}")
            if crs.geodetic_crs is None:
                raise InputError(f"its CRS is not tied to the Earth; {_SET_CRS}")
            return Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
        except ProjError as error:
            raise InputError(f"its CRS cannot be used: {str(error).splitlines()[0]}") from error

    def __getstate__(self) -> dict[str, Any]:
        # Transformers are per process; a pickled grid carries its four fields alone.
        return {name: getattr(self, name) for name in ("crs", "transform", "height", "width")}


def require_crs(text: str, option: str) -> None:
    """Raises SettingsError where `text` names no CRS; `option` is how the user gave it."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        crs = CRS.from_user_input(text)
    except CRSError:
        raise SettingsError(f"{option} {text!r} is no known CRS; write EPSG:25832, for example") from None
    if crs.is_geocentric or not (crs.is_geographic or crs.is_projected or crs.is_engineering):
        raise SettingsError(
            f"{option} {text!r} ({crs.name}) is no CRS of a map, nor longitude and latitude"
        )
