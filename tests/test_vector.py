from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from xml.etree import ElementTree

import geopandas
import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pyproj import CRS
from rasterio.features import rasterize, shapes
from shapely.geometry import shape

import tilesegment
from tilesegment.errors import SettingsError
from tilesegment.grid import Grid, Window
from tilesegment.model.card import ModelClass
from tilesegment.settings import Measure
from tilesegment.tiling.blend import PROBABILITY_MAX
from tilesegment.tiling.plan import Plan
from tilesegment.vector import seams
from tilesegment.vector.attributes import _geodesic, attribute_columns, ground_size
from tilesegment.vector.clean import clean
from tilesegment.vector.project import _cut_at_180
from tilesegment.vector.rings import Ragged, order_of
from tilesegment.vector.seams import Features, join
from tilesegment.vector.style import layer_style
from tilesegment.vector.trace import Fragments, bands_of, trace, trace_bands


@pytest.fixture(autouse=True, scope="module")
def small_batches() -> Iterator[None]:
    """Regions are handed out a few at a time, so that the order holds across batches as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seams, "_BATCH", 2)
        yield


def masks(most: int, values: int) -> st.SearchStrategy[np.ndarray]:
    sides = st.tuples(st.integers(1, most), st.integers(1, most))
    return sides.flatmap(lambda s: arrays(np.uint8, s, elements=st.integers(0, values)))


def cut_at(size: int, cuts: list[int]) -> list[int]:
    return sorted({0, size, *(cut % size for cut in cuts)})


def joined(
    mask: np.ndarray, probability: np.ndarray, rows: list[int], cols: list[int], connectivity: int
) -> Features:
    """Polygons of a mask that is traced in the windows between the given cuts."""
    pieces, groups = [], []
    for row, row_end in pairwise(rows):
        group = []
        for col, col_end in pairwise(cols):
            window = Window(row, col, row_end - row, col_end - col)
            part = np.ascontiguousarray(mask[window.slices])
            group.append(len(pieces))
            pieces.append(trace(part, probability[window.slices], window, mask.shape[1], 0))
        groups.append((group, row_end * mask.shape[1]))
    return Features.concatenate(list(join(lambda k: pieces[k], groups, connectivity)))


def reference(mask: np.ndarray, connectivity: int) -> list[tuple[shapely.Geometry, int]]:
    """GDAL's polygons of the whole mask, made valid."""
    found = shapes(mask, mask != 0, connectivity=connectivity)
    return [(shapely.make_valid(shape(geometry)), int(value)) for geometry, value in found]


def in_order(pairs) -> list:
    return sorted(pairs, key=lambda p: (p[0].bounds, p[0].area, p[1]))


@pytest.mark.parametrize("connectivity", [4, 8])
@given(
    mask=masks(12, 2),
    rows=st.lists(st.integers(0, 99), max_size=3),
    cols=st.lists(st.integers(0, 99), max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_polygons_of_blocks_joined_are_those_of_the_whole(mask, rows, cols, seed, connectivity) -> None:
    probability = np.random.default_rng(seed).integers(0, 255, mask.shape).astype(np.uint8)
    whole = joined(mask, probability, [0, mask.shape[0]], [0, mask.shape[1]], connectivity)
    parts = joined(
        mask, probability, cut_at(mask.shape[0], rows), cut_at(mask.shape[1], cols), connectivity
    )
    # Not one vertex, statistic or position differs.
    assert [g.wkt for g in parts.geometry] == [g.wkt for g in whole.geometry]
    for name in ("value", "pixels", "probability_sum", "first_pixel"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    assert (np.diff(parts.first_pixel) > 0).all()
    # And both are GDAL's.
    mine = in_order(zip(parts.geometry, parts.value.tolist(), strict=True))
    theirs = in_order(reference(mask, connectivity))
    assert len(mine) == len(theirs)
    for (one, value), (other, other_value) in zip(mine, theirs, strict=True):
        assert value == other_value
        assert one.is_valid
        assert shapely.equals(one, other)


@given(mask=masks(14, 1), seed=st.integers(0, 2**32 - 1))
def test_statistics_are_those_of_the_pixels(mask, seed) -> None:
    probability = np.random.default_rng(seed).integers(0, 255, mask.shape).astype(np.uint8)
    height, width = mask.shape
    features = joined(mask, probability, cut_at(height, [5]), cut_at(width, [3, 7]), 4)
    assert features.pixels.sum() == (mask != 0).sum()
    assert (np.diff(features.first_pixel) > 0).all()
    for k, geometry in enumerate(features.geometry):
        inside = rasterize([geometry], out_shape=mask.shape).astype(bool)
        assert features.pixels[k] == inside.sum() == geometry.area
        assert features.probability_sum[k] == probability[inside].sum()
        assert features.first_pixel[k] == np.flatnonzero(inside)[0]


@pytest.mark.parametrize("far", [0, 2**40])
def test_the_order_by_several_numbers(far: int) -> None:
    # With numbers far apart it does not fit into one word.
    rng = np.random.default_rng(0)
    keys = rng.integers(-3, 3, (3, 500))
    keys[1:, 0] += far
    found = order_of(*keys)
    assert sorted(map(tuple, keys.T.tolist())) == [tuple(row) for row in keys[:, found].T.tolist()]
    assert order_of(*np.empty((2, 0), np.int64)).shape == (0,)


def test_a_large_trace_sums_exactly() -> None:
    probability = np.full((4200, 4100), 254, np.uint8)
    mask = np.ones_like(probability)
    traced = trace(mask, probability, Window(0, 0, *mask.shape), 4100, 0)
    assert traced.probability_sum.tolist() == [254 * mask.size]


def multi_class(plan: Plan, mask: np.ndarray, tolerance: float) -> Features:
    def read(piece: Window):
        return np.ascontiguousarray(mask[piece.slices]), None

    traced: dict[tuple[int, int], Fragments] = {}
    rows: dict[int, list[tuple[int, int]]] = {}
    for block in plan.blocks:
        bands = bands_of(plan, block.window, shared_outlines=True)
        found = trace_bands(plan, block.window, read, 0, (tolerance, tolerance))
        for band, (windows, fragments) in enumerate(zip(bands, found, strict=True)):
            key = block.index, band
            traced[key] = fragments
            rows.setdefault(windows[0].row_end, []).append(key)
    groups = [(keys, end * plan.width) for end, keys in sorted(rows.items())]
    return Features.concatenate(list(join(traced.__getitem__, groups, shared_outlines=True)))


def blobs(rng: np.random.Generator, height: int, width: int, classes: int) -> np.ndarray:
    """A class mask with curved borders: the nearest of some random points."""
    points = rng.random((25, 2)) * [height, width]
    values = rng.integers(0, classes, 25)
    row, col = np.mgrid[:height, :width]
    distance = (row[..., None] - points[:, 0]) ** 2 + 2 * (col[..., None] - points[:, 1]) ** 2
    return values[distance.argmin(axis=-1)].astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_several_classes_are_simplified_without_gaps_or_overlaps(seed: int) -> None:
    mask = blobs(np.random.default_rng(seed), 150, 170, 5) + 1
    whole = Plan(150, 170, Window(0, 0, 150, 170), (40, 40), 8)
    simplified = multi_class(whole, mask, 2.0)
    exact = multi_class(whole, mask, 1e-6)
    assert shapely.is_valid(simplified.geometry).all()
    vertices = shapely.get_num_coordinates(simplified.geometry).sum()
    assert vertices < 0.6 * shapely.get_num_coordinates(exact.geometry).sum()
    # No pixel is lost and none is counted twice: the areas sum to the union's and to the scene's.
    union = shapely.union_all(simplified.geometry)
    assert union.area == pytest.approx(mask.size, abs=1e-6)
    assert shapely.area(simplified.geometry).sum() == pytest.approx(mask.size, abs=1e-6)
    assert shapely.coverage_is_valid(simplified.geometry)
    # And the blocks do not matter.
    for rows, cols in [(2, 3), (4, 1)]:
        other = Plan(150, 170, whole.region, (40, 40), 8, rows, cols)
        again = multi_class(other, mask, 2.0)
        assert [g.wkt for g in again.geometry] == [g.wkt for g in simplified.geometry]


UTM = Grid(CRS("EPSG:32645").to_wkt(), Affine(0.5, 0, 500000, 0, -0.5, 3000000), 2000, 2000)
NOTHING = Measure(0.0)


def features_of(mask: np.ndarray) -> Features:
    return joined(mask, np.full(mask.shape, 254, np.uint8), [0, mask.shape[0]], [0, mask.shape[1]], 4)


def test_small_regions_are_dropped_by_their_ground_area() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[2:4, 2:4] = 1  # 4 pixels of 0.25 m2: 1 m2
    mask[10:14, 10:14] = 1  # 16 pixels: 4 m2
    kept = clean(features_of(mask), UTM, Measure(2.0), NOTHING, NOTHING)
    assert kept.pixels.tolist() == [16]
    assert clean(features_of(mask), UTM, Measure(5, pixels=True), NOTHING, NOTHING).pixels.tolist() == [16]
    assert len(clean(features_of(mask), UTM, Measure(0.9), NOTHING, NOTHING)) == 2


def test_a_region_cut_by_a_block_edge_is_not_small() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[8:12, 8:12] = 1
    parts = joined(mask, mask, [0, 10, 20], [0, 10, 20], 4)
    assert clean(parts, UTM, Measure(4, pixels=True), NOTHING, NOTHING).pixels.tolist() == [16]


def test_holes_below_the_limit_are_filled_and_larger_ones_stay() -> None:
    mask = np.ones((20, 20), np.uint8)
    mask[2:4, 2:4] = 0  # 1 m2
    mask[10:14, 10:14] = 0  # 4 m2
    filled = clean(features_of(mask), UTM, NOTHING, NOTHING, Measure(2.0))
    assert [len(g.interiors) for g in filled.geometry] == [1]
    assert filled.geometry[0].area == 400 - 16


@given(masks(25, 1), st.floats(0.1, 5))
def test_simplified_outlines_are_valid_and_stay_within_the_tolerance(mask, tolerance) -> None:
    exact = features_of(mask)
    simplified = clean(exact, UTM, NOTHING, Measure(tolerance, pixels=True), NOTHING)
    assert len(simplified) == len(exact)
    for before, after in zip(exact.geometry, simplified.geometry, strict=True):
        assert after.is_valid
        corners = shapely.get_coordinates(after)
        np.testing.assert_array_equal(corners, np.rint(corners))
        assert shapely.hausdorff_distance(before.exterior, after.exterior) <= tolerance + 1e-9


def test_a_diagonal_outline_loses_its_stairs() -> None:
    mask = np.tri(30, dtype=np.uint8)
    simple = clean(features_of(mask), UTM, NOTHING, Measure(1.0, pixels=True), NOTHING)
    assert len(simple.geometry[0].exterior.coords) <= 6


def test_a_hole_counts_against_its_outline_whichever_way_it_runs() -> None:
    grid = Grid("EPSG:4326", Affine(1e-3, 0, 10, 0, -1e-3, 50), 1000, 1000)
    outer, inner = (
        [(0, 0), (900, 0), (900, 900), (0, 900)], [(300, 300), (600, 300), (600, 600), (300, 600)],
    )  # fmt: skip
    areas = {_geodesic(shapely.Polygon(outer, [ring]), grid)[0] for ring in (inner, inner[::-1])}
    whole, hole = (_geodesic(shapely.Polygon(ring), grid)[0] for ring in (outer, inner))
    assert sorted(areas) == pytest.approx([whole - hole] * len(areas))


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(4e-6, 0, 30, 0, -3e-6, 60)),
        ("EPSG:3857", Affine(1, 0, 2e6, 0, -1, 8.4e6)),
        ("EPSG:2263", Affine(2, 0, 980000, 0, -2, 200000)),
        ("EPSG:32645", Affine(0.4, 0.3, 500000, 0.3, -0.4, 3000000)),
        ("EPSG:32645", Affine(0.5, 0.2, 500000, 0, 0.5, 3000000)),
    ],
)
def test_ground_sizes_are_the_geodesic_ones(crs: str, transform: Affine) -> None:
    grid = Grid(CRS(crs).to_wkt(), transform, 500, 500)
    hexagon = shapely.Polygon([(100, 100), (160, 90), (190, 130), (150, 190), (90, 170)])
    area, perimeter = ground_size(np.array([hexagon]), grid)
    lonlat = shapely.transform(shapely.segmentize(hexagon, 1.0), lambda p: grid.to_lonlat(grid.to_world(p)))
    geod = CRS(crs).get_geod()
    assert geod is not None
    expected_area, expected_perimeter = geod.geometry_area_perimeter(lonlat)
    assert area[0] == pytest.approx(abs(expected_area), rel=1e-4)
    assert perimeter[0] == pytest.approx(expected_perimeter, rel=1e-4)


def test_a_country_is_measured_on_the_ellipsoid() -> None:
    # Ten by ten degrees with its corner on the equator: one metric for all of it would be 1 % off.
    grid = Grid(CRS("EPSG:4326").to_wkt(), Affine(0.01, 0, 0, 0, -0.01, 10), 1000, 1000)
    area, _ = ground_size(np.array([shapely.segmentize(shapely.box(0, 0, 1000, 1000), 1.0)]), grid)
    a, e2 = 6378137.0, 0.00669437999014
    e = e2**0.5
    phi = np.radians(10)
    q = np.sin(phi) / (1 - e2 * np.sin(phi) ** 2) + np.arctanh(e * np.sin(phi)) / e
    band = np.radians(10) * a**2 * (1 - e2) / 2 * q
    assert area[0] == pytest.approx(band, rel=1e-5)


def test_columns() -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[2:4, 3:5] = 1
    probability = np.where(mask, 127, 0).astype(np.uint8)
    features = joined(mask, probability, [0, 3, 6], [0, 8], 4)
    columns = attribute_columns(features, UTM, {1: "roof"}, True)
    assert columns["id"].tolist() == [2 * 8 + 3 + 1]
    assert columns["class"] == ["roof"]
    assert columns["area_m2"][0] == pytest.approx(1.0, rel=1e-3)
    assert columns["perimeter_m"][0] == pytest.approx(4.0, rel=1e-3)
    assert columns["confidence"][0] == pytest.approx(127 / PROBABILITY_MAX, abs=1e-4)
    without = Grid(None, Affine.identity(), 6, 8)
    assert np.isnan(attribute_columns(features, without, {}, False)["area_m2"]).all()


def test_holes_are_dropped_from_multipolygons_too() -> None:
    ring = shapely.Point(0, 0).buffer(5).difference(shapely.Point(0, 0).buffer(1))
    other = shapely.box(20, 20, 30, 30)
    rings = Ragged.of(np.array([shapely.MultiPolygon([ring, other]), shapely.MultiPolygon([other])]))
    plain = rings.without_rings(rings.is_hole()).geometries()
    assert plain[0].area == pytest.approx(shapely.Polygon(ring.exterior).area + 100)
    assert plain[1].equals(shapely.MultiPolygon([other]))


def test_outlines_are_cut_at_180_degrees(make_raster, tmp_path) -> None:
    """In UTM zone 60 a roof reaches over the antimeridian: in degrees it has a part on either side."""
    x, y = pyproj.Transformer.from_crs(4326, 32760, always_xy=True).transform(180.0, -17.0)
    values = np.zeros((40, 60), np.uint8)
    values[5:35, 10:50] = 1
    path = make_raster(values, "m.tif", crs="EPSG:32760", transform=Affine(1, 0, x - 30, 0, -1, y + 20))
    native, degrees = tmp_path / "n.gpkg", {}
    tilesegment.vectorize(path, native, simplify=0)
    whole = geopandas.read_file(native)
    assert whole.geometry[0].area == 1200
    for ending in ("gpkg", "parquet", "fgb", "shp", "geojson"):
        out = tmp_path / f"d.{ending}"
        tilesegment.vectorize(path, out, simplify=0, dst_crs="EPSG:4326", overwrite=True)
        read = geopandas.read_parquet if ending == "parquet" else geopandas.read_file
        degrees[ending] = read(out).geometry[0]
    for ending, outline in degrees.items():
        assert outline.is_valid, ending
        west, _, east, _ = outline.bounds
        assert (west, east) == pytest.approx((-180, 180), abs=1e-3)
        parts = sorted(outline.geoms, key=lambda part: part.bounds[0])
        assert [part.area > 0 for part in parts] == [True, True]
        assert all(part.bounds[2] - part.bounds[0] < 0.001 for part in parts)
        assert outline.area == pytest.approx(degrees["gpkg"].area, rel=1e-4)


def test_a_plane_without_an_earth_cannot_be_brought_to_one(make_raster, tmp_path) -> None:
    crs = 'LOCAL_CS["Site",LOCAL_DATUM["x",0],UNIT["metre",1],AXIS["E",EAST],AXIS["N",NORTH]]'
    values = np.zeros((40, 60), np.uint8)
    values[5:35, 10:50] = 1
    path = make_raster(values, "m.tif", crs=crs)
    for name, settings in (("r.geojson", {}), ("r.gpkg", {"dst_crs": "EPSG:4326"})):
        with pytest.raises(SettingsError, match="src_crs"):
            tilesegment.vectorize(path, tmp_path / name, **settings)
    tilesegment.vectorize(path, tmp_path / "r.gpkg", simplify=0)
    assert geopandas.read_file(tmp_path / "r.gpkg").area_m2[0] == pytest.approx(1200 * 0.15**2)
    # Named by hand, it is the Earth's again.
    tilesegment.vectorize(path, tmp_path / "r.geojson", src_crs="EPSG:32645")
    assert geopandas.read_file(tmp_path / "r.geojson").total_bounds[0] == pytest.approx(85.5, abs=0.5)


def test_a_large_shape_on_a_plane_of_its_own(make_raster, tmp_path) -> None:
    crs = 'LOCAL_CS["Site",LOCAL_DATUM["x",0],UNIT["foot",0.3048],AXIS["E",EAST],AXIS["N",NORTH]]'
    values = np.ones((60, 50), np.uint8)
    path = make_raster(values, "m.tif", crs=crs, transform=Affine(1000, 0, 0, 0, -1000, 0))
    tilesegment.vectorize(path, tmp_path / "r.gpkg", simplify=0)
    found = geopandas.read_file(tmp_path / "r.gpkg")
    assert found.area_m2[0] == pytest.approx(3000 * 304.8**2)
    assert found.perimeter_m[0] == pytest.approx(220 * 304.8)


def test_the_style_has_a_symbol_for_all_others() -> None:
    style = layer_style({value: ModelClass(f"c{value}", (value, 0, 0)) for value in range(1, 4)})
    root = ElementTree.fromstring(  # noqa: S314 - our own
        style.partition('SYSTEM">')[2]
    )
    categories = [(c.get("value"), c.get("symbol")) for c in root.iter("category")]
    assert categories == [("c1", "0"), ("c2", "1"), ("c3", "2"), ("", "other")]
    assert [s.get("name") for s in root.iter("symbol")] == ["0", "1", "2", "other"]


def test_longitudes_beyond_180_are_brought_back(make_raster, tmp_path) -> None:
    """A scene in longitudes of 0 to 360, one roof on either side of 360 and one across."""
    values = np.zeros((40, 100), np.uint8)
    for begin, end in ((5, 20), (40, 60), (80, 95)):
        values[5:35, begin:end] = 1
    path = make_raster(values, "m.tif", crs="EPSG:4326", transform=Affine(1e-5, 0, 359.9995, 0, -1e-5, 10))
    for ending in ("geojson", "geojsonl"):
        out = tmp_path / f"r.{ending}"
        tilesegment.vectorize(path, out, simplify=0)
        found = sorted(geopandas.read_file(out).geometry, key=lambda shape: shape.bounds[0])
        assert [round(shape.bounds[0] * 1e5) for shape in found] == [-45, -10, 30]
        assert [round(shape.bounds[2] * 1e5) for shape in found] == [-30, 10, 45]
        assert sum(shape.area for shape in found) == pytest.approx(1500e-10, rel=1e-6)


@pytest.mark.parametrize("ending", ["geojson", "geojsonl", "fgb", "gpkg"])
def test_roofs_on_both_sides_of_180(make_raster, tmp_path, ending: str) -> None:
    x, y = pyproj.Transformer.from_crs(4326, 32760, always_xy=True).transform(180.0, -17.0)
    values = np.zeros((40, 60), np.uint8)
    for begin, end in ((2, 10), (20, 40), (50, 58)):
        values[5:35, begin:end] = 1
    path = make_raster(values, "m.tif", crs="EPSG:32760", transform=Affine(1, 0, x - 30, 0, -1, y + 20))
    out = tmp_path / f"d.{ending}"
    assert tilesegment.vectorize(path, out, simplify=0, dst_crs="EPSG:4326")["polygons"] == 3
    found = geopandas.read_file(out).geometry
    assert sorted(len(getattr(shape, "geoms", [shape])) for shape in found) == [1, 1, 2]
    assert all(shape.is_valid for shape in found)
    assert max(part.bounds[2] - part.bounds[0] for part in found.explode()) < 0.001


@pytest.mark.parametrize(
    ("west", "east", "expected"),
    [
        (-190, -185, [(170, 175)]),
        (185, 190, [(-175, -170)]),
        (-182, -178, [(-180, -178), (178, 180)]),
        (178, 182, [(-180, -178), (178, 180)]),
        (-179, 179, [(-180, -179), (179, 180)]),
        (10, 12, [(10, 12)]),
    ],
)
def test_longitudes_by_hand(west: float, east: float, expected: list[tuple[float, float]]) -> None:
    """A box as it comes from a projection, and its parts in -180..180; what reaches around the Earth is on
    both sides of 180 degrees."""
    (found,) = _cut_at_180(np.array([shapely.box(west, 1, east, 2)]), "EPSG:4326")
    bounds = sorted(tuple(part.bounds) for part in shapely.get_parts(found))
    assert bounds == [pytest.approx((left, 1, right, 2)) for left, right in expected]


@pytest.mark.parametrize("corners", [(100, 100, 20_100, 110), (100, 100, 110, 20_100)])
def test_long_and_thin_ones_are_geodesic_too(corners: tuple[float, ...]) -> None:
    grid = Grid(pyproj.CRS("EPSG:3857").to_wkt(), Affine(1, 0, 1e6, 0, -1, 8e6), 40_000, 40_000)
    outline = shapely.box(*corners)
    (area,), (perimeter,) = ground_size(np.array([outline]), grid)
    assert (area, perimeter) == _geodesic(outline, grid)


def test_several_classes_that_are_not_simplified(make_raster, tmp_path) -> None:
    """More rows than a band has."""
    rng = np.random.default_rng(3)
    values = rng.integers(0, 4, (70, 9)).repeat(10, axis=0).repeat(10, axis=1).astype(np.uint8)
    path = make_raster(values)
    tilesegment.vectorize(path, tmp_path / "a.gpkg", simplify=0, min_area=0, fill_holes=0)
    frame = geopandas.read_file(tmp_path / "a.gpkg")
    found = frame.geometry.area.groupby(frame["class"]).sum() / 0.15**2
    assert found.to_dict() == pytest.approx({str(k): int((values == k).sum()) for k in (1, 2, 3)})


@pytest.mark.parametrize("count", [63, 64, 65, 128])
def test_holes_that_begin_in_very_many_rows(count: int) -> None:
    """Every row but the outer ones has one: outlines and areas are those of counting."""
    labels = np.ones((2 * count + 1, 9), np.uint8)
    labels[1::2, 4] = 0
    found = trace(labels, None, Window(0, 0, *labels.shape), 9, 0)
    assert found.pixels.tolist() == [labels.sum()]
    assert len(found.outlines.rings) - 1 == 1 + count
