from __future__ import annotations

import pickle

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS

from tilesegment.errors import InputError
from tilesegment.grid import Grid, Window


def grid(crs: str | None, transform: Affine, size: int = 1000) -> Grid:
    return Grid(None if crs is None else CRS(crs).to_wkt(), transform, size, size)


def test_windows_intersect_or_do_not() -> None:
    assert Window(0, 0, 4, 4).intersection(Window(2, 3, 9, 9)) == Window(2, 3, 2, 1)
    assert Window(0, 0, 4, 4).intersection(Window(4, 0, 1, 1)) is None


@pytest.mark.parametrize(
    ("crs", "transform", "metres"),
    [
        # UTM at the central meridian: the scale factor 0.9996 makes true metres longer.
        ("EPSG:32645", Affine(0.5, 0, 500000, 0, -0.5, 3000000), (0.5 / 0.9996, 0.5 / 0.9996)),
        # Mercator stretches by 1 / cos(lat): at 60 degrees a pixel is half as long.
        ("EPSG:3857", Affine(1, 0, 0, 0, -1, 8399737.9), (0.5, 0.5)),
        # US survey feet (New York, Long Island).
        ("EPSG:2263", Affine(2, 0, 980000, 0, -2, 200000), (0.6096, 0.6096)),
        # Degrees on the equator: a degree of longitude is 111.32 km, of latitude 110.57 km.
        ("EPSG:4326", Affine(1e-5, 0, 30, 0, -1e-5, 0.005), (1.10574, 1.11320)),
        # South-up and rotated by 30 degrees.
        ("EPSG:32645", Affine.translation(500000, 3000000) @ Affine.scale(0.5, 0.5), (0.5002, 0.5002)),
        (
            "EPSG:32645",
            Affine.translation(500000, 3000000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5),
            (0.5002, 0.5002),
        ),
    ],
)
def test_metres_per_pixel(crs: str, transform: Affine, metres: tuple[float, float]) -> None:
    assert grid(crs, transform).metres_per_pixel == pytest.approx(metres, rel=5e-3)


def test_an_antimeridian_pixel_is_small() -> None:
    wide = grid("EPSG:4326", Affine(1e-5, 0, 180 - 0.005, 0, -1e-5, 0.005))
    assert wide.metres_per_pixel == pytest.approx((1.10574, 1.1132), rel=1e-3)


def test_no_crs_has_no_metres() -> None:
    assert grid(None, Affine.identity()).metres_per_pixel is None


def test_outside_the_projection_is_one_clear_error() -> None:
    with pytest.raises(InputError, match="outside the area"):
        _ = grid("EPSG:32645", Affine(1e9, 0, 1e15, 0, -1e9, 1e15)).metres_per_pixel


def test_windows_keep_their_place_and_resizing_keeps_the_extent() -> None:
    whole = grid("EPSG:32645", Affine(0.5, 0.1, 500000, 0.05, -0.5, 3000000))
    corner = whole[Window(10, 20, 5, 5)]
    points = np.array([[0.0, 0.0], [5.0, 5.0]])
    np.testing.assert_allclose(corner.to_world(points), whole.to_world(np.add(points, [20, 10])))
    small = whole.resized(250, 500)
    np.testing.assert_allclose(
        small.to_world(np.array([[500.0, 250.0]])), whole.to_world(np.array([[1000.0, 1000.0]]))
    )
    np.testing.assert_allclose(whole.to_pixel(whole.to_world(points)), points, atol=1e-6)


def test_grids_travel_to_workers() -> None:
    one = grid("EPSG:4326", Affine(1e-5, 0, 30, 0, -1e-5, 0.005))
    assert one.metres_per_pixel is not None
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - our own bytes
