"""What is said of each polygon: ground area and perimeter, right in any CRS, and confidence."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.grid import Grid
from tilesegment.tiling.blend import PROBABILITY_MAX
from tilesegment.vector.clean import pixel_metric
from tilesegment.vector.gate import REASONS, State
from tilesegment.vector.rings import Geometries
from tilesegment.vector.seams import Features

# Beyond this extent one local metric is no longer exact enough, and the geodesic integral is taken.
_LOCAL_METRES = 3000.0


def ground_size(geometry: Geometries, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Areas in m2 and perimeters in m of geometries in pixel coordinates; NaN without a CRS.

    Building-sized shapes are measured in the local metric of `Grid.metric_at`; larger ones by the
    geodesic integral on the ellipsoid (Karney 2013, "Algorithms for geodesics", through PROJ).
    """
    if grid.crs is None:
        return np.full(len(geometry), np.nan), np.full(len(geometry), np.nan)
    metric = pixel_metric(geometry, grid)
    coords, index = shapely.get_coordinates(geometry, return_index=True)
    local = np.einsum("nij,nj->ni", metric[index], coords)
    flat = shapely.set_coordinates(geometry.copy(), local)
    area, perimeter = shapely.area(flat), shapely.length(flat)
    bounds = shapely.bounds(flat)
    extent = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1])
    # A plane of its own is flat at any size.
    for row in np.flatnonzero((extent > _LOCAL_METRES) & (not grid.is_local)):
        area[row], perimeter[row] = _geodesic(geometry[row], grid)
    return area, perimeter


def _geodesic(geometry: Any, grid: Grid) -> tuple[float, float]:
    from pyproj import CRS

    geod = CRS.from_user_input(grid.crs).get_geod()
    if geod is None:
        raise ValueError("a grid with a metric has an ellipsoid")
    lonlat = shapely.transform(geometry, lambda points: grid.to_lonlat(grid.to_world(points)))
    # PROJ's sign is that of the ring's direction; a hole must count against its outline.
    area, perimeter = geod.geometry_area_perimeter(shapely.orient_polygons(lonlat))
    return abs(area), abs(perimeter)


def attribute_columns(
    features: Features, grid: Grid, names: dict[int, str], with_confidence: bool
) -> dict[str, Any]:
    """Columns by name: id, class, area_m2, perimeter_m, confidence, and where features were regularised
    regularized (yes, or no and why) and deviation_m (from the traced outline, at most).

    id: the linear index of the region's first pixel on the working grid, plus 1: the same in every run.
    confidence: the mean probability of the class over the region's pixels, 0..1; NaN without one.
    """
    area, perimeter = ground_size(features.geometry, grid)
    confidence = np.full(len(features), np.nan)
    if with_confidence and len(features):
        confidence = features.probability_sum / features.pixels / PROBABILITY_MAX
    columns = {
        "id": features.first_pixel + 1,
        "class": [names.get(value, str(value)) for value in features.value.tolist()],
        "area_m2": np.round(area, 3),
        "perimeter_m": np.round(perimeter, 3),
        "confidence": np.round(confidence, 4),
    }
    if features.state is not None and features.deviation is not None:
        columns["regularized"] = [REASONS[State(state)] for state in features.state.tolist()]
        columns["deviation_m"] = np.round(features.deviation, 3)
    return columns
