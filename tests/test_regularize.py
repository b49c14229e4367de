"""Regular outlines: right where they should be, apart from each other, and the same however they came."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.features import rasterize

import tilesegment
from tests import drawn
from tilesegment.errors import ModelError, SettingsError
from tilesegment.grid import Grid, Window
from tilesegment.model.card import Card, ModelClass
from tilesegment.run.polygons.making import Making
from tilesegment.run.polygons.regular import in_metres, rules_of
from tilesegment.settings import Measure, VectorSettings
from tilesegment.tiling.plan import Plan
from tilesegment.vector.apart import Candidates, kept_apart
from tilesegment.vector.edges import shifts_of, unit_edges
from tilesegment.vector.gate import REASONS, State, hausdorff_distance
from tilesegment.vector.regularize import Rules, regularize
from tilesegment.vector.rings import Ragged
from tilesegment.vector.seams import Features, join
from tilesegment.vector.trace import bands_of, trace

UTM = "EPSG:32737"
EXACT = VectorSettings(min_area=Measure(0), regularize="right")


def grid_of(scene: np.ndarray, gsd: float = drawn.GSD) -> Grid:
    return Grid(UTM, Affine(gsd, 0, 4e5, 0, -gsd, 9e6), *scene.shape)


def found(
    scene: np.ndarray, blocks: tuple[int, int] = (1, 1), settings: VectorSettings = EXACT, least: int = 127
) -> Features:
    """The regular features of a scene of probabilities, traced in so many rows and columns of blocks."""
    grid = grid_of(scene)
    plan = Plan(*scene.shape, grid.window, (128, 128), 32, *blocks)
    rows: dict[int, list[Window]] = {}
    for block in plan.blocks:
        for band in bands_of(plan, block.window, shared_outlines=False):
            rows.setdefault(band[0].row_end, []).append(band[0])
    mask = (scene >= least).astype(np.uint8)
    groups = [(keys, end * plan.width) for end, keys in sorted(rows.items())]
    joined = join(lambda w: trace(mask[w.slices], scene[w.slices], w, plan.width, 0), groups)
    around = np.pad(scene, 1, constant_values=255)
    tolerance = in_metres(settings.tolerance, grid)
    rules = Rules(settings.regularize, tolerance, lambda r, c: around[r + 1, c + 1], least)
    making = Making(grid, settings, rules=rules)
    return Features.concatenate(list(making.settled(making.made(joined))))


def one(
    shape: shapely.Geometry, mode: str = "right", tolerance: float = 0.35, pixel: float = 1.0
) -> tuple[shapely.Geometry, State, float]:
    """A single polygon along pixel edges, of pixels of so many metres."""
    metric = np.broadcast_to(np.eye(2) * pixel, (1, 2, 2))
    result = regularize(np.array([shape]), np.array([shape]), metric, Rules(mode, tolerance))
    return result.geometry[0], State(result.state[0]), float(result.deviation[0])


def agreement(shapes: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Mean IoU, mean C-IoU (Zorzi and Fraundorfer 2023: times 1 - |N - N'| / (N + N')) and N over N'."""
    common = shapely.area(shapely.intersection(shapes, truth))
    iou = common / (shapely.area(shapes) + shapely.area(truth) - common)
    mine, theirs = (shapely.get_num_coordinates(g) - 1 for g in (shapes, truth))
    return (
        float(iou.mean()),
        float((iou * (1 - np.abs(mine - theirs) / (mine + theirs))).mean()),
        float(mine.sum() / theirs.sum()),
    )


@pytest.fixture(scope="module")
def town() -> tuple[np.ndarray, np.ndarray, Features]:
    truth, scene = drawn.roofs(81, noise=0.3)
    features = found(scene)
    return truth, scene, features[shapely.area(features.geometry) > 200]


class TestDrawnTown:
    def test_comes_back_within_stated_figures(self, town) -> None:
        truth, scene, features = town
        assert len(features) == len(truth)
        near = shapely.STRtree(features.geometry).query(shapely.point_on_surface(truth), "within")
        shapes = features.geometry[near[1][np.argsort(near[0])]]
        iou, c_iou, ratio = agreement(shapes, truth)
        assert iou >= 0.955
        assert c_iou >= 0.93
        assert 0.95 <= ratio <= 1.05
        mask = found(
            scene, settings=VectorSettings(Measure(0), Measure(0), Measure(1.0), regularize="right")
        )
        assert (mask.state == State.YES).mean() > 0.95

    def test_is_as_large_as_the_mask(self, town) -> None:
        _, scene, features = town
        assert shapely.area(features.geometry).sum() == pytest.approx((scene >= 127).sum(), rel=0.01)

    def test_walls_meet_at_right_angles(self, town) -> None:
        _, _, features = town
        for shape in features.geometry[features.state == State.YES]:
            for ring in (shape.exterior, *shape.interiors):
                step = np.diff(np.array(ring.coords), axis=0)
                along = step / np.linalg.norm(step, axis=1)[:, None]
                assert np.abs((along * np.roll(along, 1, axis=0)).sum(axis=1)).max() < 1e-6

    def test_says_how_far_outlines_moved(self, town) -> None:
        _, _, features = town
        assert features.deviation is not None
        assert 0 < features.deviation.max() <= 6 * 0.35
        assert (features.deviation[features.state != State.YES] == 0).all()


@pytest.mark.parametrize("blocks", [(2, 1), (1, 3), (4, 5)])
def test_blocks_change_nothing(blocks: tuple[int, int]) -> None:
    _, scene = drawn.roofs(16, noise=0.5, seed=3)
    whole, cut = found(scene), found(scene, blocks)
    assert shapely.equals_identical(whole.geometry, cut.geometry).all()
    for name in ("value", "pixels", "probability_sum", "first_pixel", "state", "deviation"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(cut, name), name)


@pytest.mark.parametrize("turn", [1, 2, 3])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_turned_scene_gives_turned_outlines(turn: int, mirror: bool) -> None:
    _, scene = drawn.roofs(9, noise=0.3, seed=5)
    other = np.rot90(scene[:, ::-1] if mirror else scene, turn)
    centre = scene.shape[0] / 2
    back = found(other).geometry
    back = shapely.transform(back, lambda p: p - centre)
    for _ in range(turn):
        # A quarter turn to the left, rows counted downwards, undone.
        back = shapely.transform(back, lambda p: np.column_stack([-p[:, 1], p[:, 0]]))
    if mirror:
        back = shapely.transform(back, lambda p: p * [-1, 1])
    back = shapely.transform(back, lambda p: p + centre)
    straight = found(scene).geometry
    pairs = shapely.STRtree(back).query(shapely.point_on_surface(straight), "within")
    assert pairs.shape[1] == len(straight) == len(back)
    apart = shapely.hausdorff_distance(straight[pairs[0]], back[pairs[1]])
    # Where an outline's points begin may decide a tie.
    assert np.quantile(apart, 0.8) < 1e-6
    assert apart.max() < 6 * 0.35 / drawn.GSD


def crowd(seed: int) -> np.ndarray:
    """Roofs one to four pixels apart, at odd angles, with ragged outlines."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:300, :300]
    turned = rng.uniform(0, 90)
    u = np.cos(np.radians(turned)) * cols + np.sin(np.radians(turned)) * rows
    v = np.cos(np.radians(turned)) * rows - np.sin(np.radians(turned)) * cols
    walls = (u % 44 < rng.integers(1, 5)) | ((v + 17 * (u // 44)) % 37 < rng.integers(1, 5))
    scene = np.where(walls, 60, 200) + rng.normal(0, 45, rows.shape)
    return np.clip(scene, 0, 254).astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", [EXACT, VectorSettings(regularize="right", simplify=Measure(0.5))])
def test_nothing_overlaps(seed: int, settings: VectorSettings) -> None:
    scene = crowd(seed)
    features = found(scene, settings=settings)
    pairs = shapely.STRtree(features.geometry).query(features.geometry, "intersects")
    pairs = pairs[:, pairs[0] < pairs[1]]
    common = shapely.relate_pattern(features.geometry[pairs[0]], features.geometry[pairs[1]], "T********")
    assert not common.any()
    cut = found(scene, (3, 2), settings)
    assert shapely.equals_identical(features.geometry, cut.geometry).all()


class TestOneShape:
    def test_a_rectangle_on_the_grid_stays(self) -> None:
        shape, state, deviation = one(shapely.box(3, 5, 23, 40))
        assert state == State.YES
        assert shape.normalize().equals_exact(shapely.box(3, 5, 23, 40).normalize(), 1e-9)
        assert deviation == pytest.approx(0, abs=1e-9)

    def test_a_step_that_is_no_wall_goes(self) -> None:
        ragged = shapely.box(0, 0, 40, 30) | shapely.box(10, 30, 14, 31)
        shape, state, _ = one(ragged, tolerance=1.5)
        assert state == State.YES
        assert shapely.get_num_coordinates(shape) == 5

    def test_a_court_is_kept(self) -> None:
        shape, state, _ = one(shapely.box(0, 0, 60, 60) - shapely.box(20, 20, 40, 45), tolerance=1.5)
        assert state == State.YES
        assert shape.area == pytest.approx(3600 - 500)
        assert shapely.get_num_interior_rings(shape) == 1

    def test_diagonals_are_walls_where_they_are_asked_for(self) -> None:
        size = 120
        y, x = np.mgrid[:size, :size] + 0.5
        inside = (x > 10) & (x < 110) & (y > 10) & (y < 110) & (x + y > 50) & (x + y < 190)
        inside &= (x - y < 70) & (y - x < 70)
        traced = trace(inside.astype(np.uint8), None, Window(0, 0, size, size), size, 0)
        octagon = traced.outlines.geometries()[0]
        shape, state, _ = one(octagon, "right-diagonal", tolerance=1.5)
        assert state == State.YES
        assert shapely.get_num_coordinates(shape) == 9
        step = np.diff(np.array(shape.exterior.coords), axis=0)
        angles = np.degrees(np.arctan2(step[:, 1], step[:, 0])) % 45
        assert np.minimum(angles, 45 - angles).max() < 1e-6

    def test_circles(self) -> None:
        y, x = np.mgrid[:100, :100] + 0.5
        inside = np.hypot(x - 50, y - 50) < 33
        disc = trace(inside.astype(np.uint8), None, Window(0, 0, 100, 100), 100, 0).outlines.geometries()[0]
        shape, state, _ = one(disc, "circles", tolerance=1.5)
        assert state == State.YES
        assert shape.area == pytest.approx(inside.sum(), rel=1e-6)
        assert shapely.get_num_coordinates(shape) == 33
        square, _, _ = one(shapely.box(0, 0, 66, 66), "circles", tolerance=1.5)
        assert shapely.get_num_coordinates(square) == 5

    def test_what_is_like_no_building_stays(self) -> None:
        """A ring of a spiral, whose walls would have to be where there are none."""
        turn = np.linspace(0, 3 * np.pi, 200)
        radius = 8 + 6 * turn
        line = shapely.LineString(np.column_stack([radius * np.cos(turn), radius * np.sin(turn)]) + 80)
        inside = rasterize([line.buffer(6)], (160, 160))
        shape = trace(inside, None, Window(0, 0, 160, 160), 160, 0).outlines.geometries()[0]
        found, state, deviation = one(shape, tolerance=1.5)
        assert state != State.YES
        assert found.equals_exact(shape, 0)
        assert deviation == 0

    def test_a_multipolygon_part_by_part(self) -> None:
        both = shapely.MultiPolygon([shapely.box(0, 0, 20, 20), shapely.box(20, 20, 50, 40)])
        shape, _, _ = one(both)
        assert shape.normalize().equals_exact(both.normalize(), 1e-9)

    def test_one_pixel(self) -> None:
        shape, _, _ = one(shapely.box(4, 4, 5, 5))
        assert shape.area == pytest.approx(1)

    def test_nothing(self) -> None:
        none = np.empty(0, object)
        assert len(regularize(none, none, np.empty((0, 2, 2)), Rules("right", 0.35)).geometry) == 0


class TestApart:
    def test_a_neighbours_pixels_are_not_covered(self) -> None:
        left, right = shapely.box(0, 0, 10, 10), shapely.box(11, 0, 20, 10)
        wide = shapely.box(0, 0, 12, 10)
        settled = self.settle([wide, right], [left, right], [left, right])
        assert settled.geometry[0].equals(left)
        assert settled.geometry[1].equals(right)
        assert settled.state.tolist() == [State.OVERLAP, State.YES]
        assert settled.deviation.tolist() == [0, 0.5]

    def test_whoever_meet_in_between_both_step_back(self) -> None:
        left, right = shapely.box(0, 0, 10, 10), shapely.box(12, 0, 20, 10)
        settled = self.settle(
            [shapely.box(0, 0, 11.5, 10), shapely.box(11, 0, 20, 10)], [left, right], [left, right]
        )
        assert settled.geometry[0].equals(left)
        assert settled.geometry[1].equals(right)

    def test_simplified_outlines_that_meet_give_way_to_traced_ones(self) -> None:
        left, right = shapely.box(0, 0, 10, 10), shapely.box(11, 0, 20, 10)
        wider, wide = shapely.box(0, 0, 10.8, 10), shapely.box(10.5, 0, 20, 10)
        settled = self.settle([wider, wide], [wider, wide], [left, right])
        assert settled.geometry[0].equals(left)
        assert settled.geometry[1].equals(right)

    def test_parts_of_a_region_step_back_together(self) -> None:
        """Where a simplified wall between them is not where the traced one is."""
        left, right, other = (
            shapely.box(0, 0, 10, 10),
            shapely.box(10, 0, 20, 10),
            shapely.box(22, 0, 30, 10),
        )
        moved = [shapely.box(0, 0, 9, 10), shapely.box(9, 0, 20, 10)]
        kept = self.settle([*moved, other], [*moved, other], [left, right, other], [0, 0, 1])
        assert [shape.area for shape in kept.geometry] == [90, 110, 80]
        wide = [moved[0], shapely.box(9, 0, 23, 10)]
        back = self.settle([*wide, other], [*wide, other], [left, right, other], [0, 0, 1])
        assert [shape.area for shape in back.geometry] == [100, 100, 80]

    def test_touching_is_no_overlap(self) -> None:
        left, right = shapely.box(0, 0, 10, 10), shapely.box(10, 10, 20, 20)
        settled = self.settle([left, right], [left, right], [left, right])
        assert settled.state.tolist() == [State.YES, State.YES]

    def test_of_two_that_meet_only_the_regular_one_steps_back(self) -> None:
        left, right = shapely.box(0, 0, 10, 10), shapely.box(12, 0, 22, 10)
        # Simplified outlines meet in the gap; the right one is no regular one at all.
        wide, plain = shapely.box(0, 0, 11.8, 10), shapely.box(11.5, 0, 22, 10)
        candidates = self.candidates([wide, plain], [left, plain], [left, right])
        features = dataclasses.replace(
            candidates.features, state=np.array([State.YES, State.FAR], np.uint8)
        )
        found = Features.concatenate(
            list(kept_apart(iter([dataclasses.replace(candidates, features=features)]), 100, 5.0))
        )
        assert [shape.bounds[2] - shape.bounds[0] for shape in found.geometry] == [10, 10.5]
        assert found.state.tolist() == [State.OVERLAP, State.FAR]

    def test_whoever_comes_later_may_reach_up(self) -> None:
        """The first outline ends at row 14; the last one begins at row 17, and may reach up to row 13."""
        upper, aside, lower = (
            shapely.box(0, 0, 9, 12),
            shapely.box(40, 17, 49, 27),
            shapely.box(0, 17, 9, 27),
        )
        outlines = [shapely.box(0, 0, 9, 14), aside, shapely.box(0, 13, 9, 27)]
        whole = self.candidates(outlines, [upper, aside, lower], [upper, aside, lower])
        first = np.array([0, 1740, 1750])
        whole = dataclasses.replace(whole, features=dataclasses.replace(whole.features, first_pixel=first))
        for cuts in ([], [1], [2], [1, 2]):
            batches = [whole[part] for part in np.split(np.arange(3), cuts)]
            found = Features.concatenate(list(kept_apart(iter(batches), 100, 5.0)))
            assert [shape.bounds[3] - shape.bounds[1] for shape in found.geometry] == [12, 10, 10]

    @staticmethod
    def candidates(regular: list, plain: list, exact: list) -> Candidates:
        count = len(regular)
        numbers = np.ones(count, np.int64)
        features = Features(
            np.array(regular), numbers, numbers, numbers, np.arange(count) * 11, plain=np.array(plain),
            state=np.zeros(count, np.uint8), deviation=np.full(count, 0.5),
        )  # fmt: skip
        return Candidates(features, np.array(exact))

    @staticmethod
    def settle(regular: list, plain: list, exact: list, group: list[int] | None = None) -> Features:
        candidates = TestApart.candidates(regular, plain, exact)
        if group is not None:
            features = dataclasses.replace(candidates.features, group=np.array(group))
            candidates = Candidates(features, np.array(exact))
        return Features.concatenate(list(kept_apart(iter([candidates]), 100, 5.0)))


class TestCommands:
    @pytest.fixture
    def mask(self, tmp_path: Path) -> Path:
        _, scene = drawn.roofs(4, noise=0.3, seed=2)
        return self.saved(tmp_path / "mask.tif", (scene >= 127).astype(np.uint8))

    @staticmethod
    def saved(path: Path, values: np.ndarray, **profile: object) -> Path:
        grid = grid_of(values)
        profile = {"crs": UTM, "transform": grid.transform, **profile}
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=1,
            dtype="uint8",
            height=grid.height,
            width=grid.width,
            **profile,
        ) as out:
            out.write(values, 1)
        return path

    @pytest.mark.parametrize("ending", ["gpkg", "parquet", "fgb", "geojson", "shp"])
    def test_every_format_says_what_became_of_each(self, mask: Path, tmp_path: Path, ending: str) -> None:
        out = tmp_path / f"r.{ending}"
        tilesegment.vectorize(mask, out, regularize="right", tolerance="fine")
        read = geopandas.read_parquet if ending == "parquet" else geopandas.read_file
        frame = read(out)
        names = ("regular", "deviat_m") if ending == "shp" else ("regularized", "deviation_m")
        assert set(frame[names[0]]) <= set(REASONS.values())
        assert (frame[names[0]] == "yes").sum() >= 3
        assert frame[names[1]].between(0, 6 * 0.225 + 1e-3).all()

    def test_none_is_as_before(self, mask: Path, tmp_path: Path) -> None:
        tilesegment.vectorize(mask, tmp_path / "a.gpkg")
        frame = geopandas.read_file(tmp_path / "a.gpkg")
        assert "regularized" not in frame
        assert list(frame.columns[:5]) == ["id", "class", "area_m2", "perimeter_m", "confidence"]

    def test_metres_mean_the_same_in_degrees(self, mask: Path, tmp_path: Path) -> None:
        tilesegment.vectorize(mask, tmp_path / "utm.gpkg", regularize="right")
        with rasterio.open(mask) as dataset:
            values, grid = dataset.read(1), grid_of(dataset.read(1))
        corner = grid.to_lonlat(grid.to_world(np.array([[0.0, 0.0], [1000, 1000]])))
        step = (corner[1] - corner[0]) / 1000
        degrees = Affine(step[0], 0, corner[0, 0], 0, step[1], corner[0, 1])
        other = self.saved(tmp_path / "degrees.tif", values, crs="EPSG:4326", transform=degrees)
        tilesegment.vectorize(other, tmp_path / "degrees.gpkg", regularize="right")
        one, two = (geopandas.read_file(tmp_path / f"{name}.gpkg") for name in ("utm", "degrees"))
        np.testing.assert_allclose(two["area_m2"], one["area_m2"], rtol=0.01)
        np.testing.assert_array_equal(two["regularized"], one["regularized"])

    def test_without_a_crs_pixels_count(self, mask: Path, tmp_path: Path) -> None:
        with rasterio.open(mask) as dataset:
            plain = self.saved(tmp_path / "p.tif", dataset.read(1), crs=None)
        tilesegment.vectorize(plain, tmp_path / "r.gpkg", regularize="right", tolerance="3px")
        assert (geopandas.read_file(tmp_path / "r.gpkg")["regularized"] == "yes").sum() >= 3

    def test_several_classes_are_refused(self, tmp_path: Path) -> None:
        values = np.zeros((60, 60), np.uint8)
        values[5:20, 5:20], values[30:50, 30:50] = 1, 2
        mask = self.saved(tmp_path / "m.tif", values)
        with pytest.raises(SettingsError, match="regularize right is for one class; there are 2"):
            tilesegment.vectorize(mask, tmp_path / "r.gpkg", regularize="right")
        assert not (tmp_path / "r.gpkg").exists()

    def test_unknown_words(self, mask: Path, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="'round': use one of auto, none, right"):
            tilesegment.vectorize(mask, tmp_path / "r.gpkg", regularize="round")
        with pytest.raises(SettingsError, match="'coarse' is none of fine, default, map, and no length"):
            tilesegment.vectorize(mask, tmp_path / "r.gpkg", regularize="right", tolerance="coarse")


def test_rules_are_in_metres() -> None:
    grid = grid_of(np.zeros((10, 10), np.uint8), 0.5)
    rules = rules_of(VectorSettings(regularize="right", tolerance=Measure(3, True)), grid, 1, None, 0)
    assert rules is not None
    assert rules.tolerance == pytest.approx(1.5, rel=1e-3)
    assert rules_of(VectorSettings(), grid, 1, None, 0) is None


class TestWhatTheCardSays:
    @pytest.mark.parametrize(
        ("names", "said", "expected"),
        [
            (["background", "roof"], None, "right"),
            (["Building"], None, "right"),
            (["background", "roof"], "none", "none"),
            (["background", "pond"], None, "none"),
            (["background", "tank"], "circles", "circles"),
            (["background", "roof", "road"], "right", "none"),
        ],
    )
    def test_buildings_have_right_angles(self, names: list[str], said: str | None, expected: str) -> None:
        classes = tuple(ModelClass(name, (k, k, k)) for k, name in enumerate(names))
        assert Card("m", "Unet", "resnet18", classes, regularize=said).drawn == expected

    def test_unknown_words_are_refused(self) -> None:
        with pytest.raises(ModelError, match="regularize 'round' is none of none, right"):
            Card("m", "Unet", "resnet18", (ModelClass("roof", (1, 1, 1)),), regularize="round")

    def test_the_bundled_model_draws_right_angles(self, data: Path, tmp_path: Path) -> None:
        scene = data / "scenes" / "philippines_epsg3857.tif"
        box = rasterio.open(scene).bounds
        part = (box.left, box.top - 60, box.left + 60, box.top)
        # Parts of a region that was split are not regularised.
        # What is as large as the smallest that is kept may be a little smaller once it is straight.
        options = {"bbox": part, "split": "none", "min_area": 4}
        record = tilesegment.predict(scene, tmp_path / "a.gpkg", **options)
        tilesegment.predict(scene, tmp_path / "b.gpkg", regularize="none", **options)
        regular, traced = (geopandas.read_file(tmp_path / f"{name}.gpkg") for name in "ab")
        assert record["counts"]["polygons"] == len(regular) == len(traced)
        assert (regular["regularized"] == "yes").mean() > 0.5
        assert "regularized" not in traced
        tilesegment.predict(scene, tmp_path / "c.gpkg", bbox=part, simplify=0)
        assert "regularized" not in geopandas.read_file(tmp_path / "c.gpkg")
        assert regular["area_m2"].sum() == pytest.approx(traced["area_m2"].sum(), rel=0.03)
        straight = regular["id"][regular["regularized"] == "yes"]
        corners = [
            shapely.get_num_coordinates(frame.geometry[frame["id"].isin(straight)]).sum()
            for frame in (regular, traced)
        ]
        assert corners[0] < 0.4 * corners[1]


@pytest.mark.parametrize("corners", [(40, 12), (1500, 400)])
def test_distances_between_outlines(corners: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)

    def star(count: int, x: float) -> shapely.Polygon:
        angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
        rim = np.column_stack([np.cos(angle), np.sin(angle)])
        hole = shapely.Point(0, 0).buffer(9)
        whole = shapely.Polygon(rim * rng.uniform(28, 32, (count, 1)), [hole.exterior])
        return shapely.affinity.translate(whole, x)

    one = np.array([star(corners[0], 0) for _ in range(3)])
    other = np.array([star(corners[1], x) for x in (0, 1, 9)])
    expected = shapely.hausdorff_distance(one, other)
    np.testing.assert_allclose(hausdorff_distance(one, other), expected)
    np.testing.assert_allclose(hausdorff_distance(other, one), expected)


@pytest.mark.parametrize("threshold", [100, 127, 128, 150])
def test_an_edge_is_where_the_probability_crosses_the_threshold(threshold: int) -> None:
    """Between two pixels' middles, linearly; pixels from the threshold on are inside."""
    inside, outside = 200, 60
    square = np.array([shapely.box(2, 2, 6, 5)])

    def read(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        return np.where((cols >= 2) & (cols < 6) & (rows >= 2) & (rows < 5), inside, outside).astype(
            np.uint8
        )

    shifts = shifts_of(unit_edges(Ragged.of(square)), read, threshold)
    # From the middle of the inner pixel it falls by 140 a pixel; the edge lies half a pixel outwards.
    expected = (inside - (threshold - 0.5)) / (inside - outside) - 0.5
    assert len(shifts) == 14
    np.testing.assert_allclose(shifts, expected, atol=1e-12)


@pytest.mark.parametrize("unit", [0.1, 7.0])
def test_lengths_in_another_unit_change_nothing(unit: float) -> None:
    """Pixels and tolerance both in feet, say: small roofs too, whose walls are told by their size."""
    _, scene = drawn.roofs(25, noise=0.3, seed=3)
    scene = scene[::2, ::2]
    fragments = trace((scene >= 128).astype(np.uint8), scene, Window(0, 0, *scene.shape), scene.shape[1], 0)
    shapes = fragments.outlines.geometries()
    metric = np.broadcast_to(np.eye(2), (len(shapes), 2, 2))
    results = [
        regularize(shapes, shapes, 0.3 * scale * metric, Rules("right", 0.9 * scale)) for scale in (1, unit)
    ]
    assert (results[0].state == State.YES).sum() > 10
    np.testing.assert_array_equal(results[0].state, results[1].state)
    np.testing.assert_allclose(results[1].deviation, unit * results[0].deviation, rtol=1e-6, atol=1e-9)
    assert shapely.equals_exact(results[0].geometry, results[1].geometry, 1e-6).all()
