"""Buildings that touch: a polygon each, walls shared, however the scene was cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely

import tilesegment
from tests.fakes import fake_card
from tests.terraces import Terraces, model_of_terraces, terraces
from tilesegment.errors import SettingsError
from tilesegment.grid import Window
from tilesegment.model.store import save_model
from tilesegment.run.block import predict as block_module
from tilesegment.run.polygons import split as split_module
from tilesegment.run.scene.prepare import prepare
from tilesegment.settings import PredictSettings
from tilesegment.tiling import memory
from tilesegment.vector import cells
from tilesegment.vector.cells import parts_by_cells
from tilesegment.vector.instances import Planes, component, split, split_by_depth


class Cut(Terraces):
    """Fails after some tiles, as a machine does."""

    calls, left = 0, 1_000_000

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.calls, self.left = self.calls + 1, self.left - 1
        if self.left < 0:
            raise RuntimeError("power cut")
        return super().__call__(tiles)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return model_of_terraces(tmp_path, monkeypatch)


@pytest.fixture
def scene(make_raster: Callable[..., Path]) -> Path:
    return make_raster(terraces())


def predicted(scene: Path, out: Path, model: str, **settings: Any) -> geopandas.GeoDataFrame:
    tilesegment.predict(scene, out, model=model, stretch="0,255", **settings)
    return geopandas.read_file(out)


class TestRuns:
    def test_a_polygon_for_each_building(self, scene: Path, model: str, tmp_path: Path) -> None:
        mask = tmp_path / "m.tif"
        frame = predicted(scene, tmp_path / "a.gpkg", model, mask=mask)
        assert len(frame) == 9
        assert len(predicted(scene, tmp_path / "b.gpkg", model, split="none")) == 3
        assert frame["id"].is_monotonic_increasing
        assert frame["id"].is_unique
        assert shapely.coverage_is_valid(frame.geometry.to_numpy())
        with rasterio.open(mask) as dataset:
            pixels = int((dataset.read(1) == 1).sum())
            exact = predicted(scene, tmp_path / "c.gpkg", model, simplify=0, min_area=0, fill_holes=0)
            assert exact.geometry.area.sum() == pytest.approx(pixels * abs(dataset.transform.determinant))
        assert len(exact) == 9
        assert shapely.coverage_is_valid(exact.geometry.to_numpy())

    def test_walls_lie_where_contact_is(self, scene: Path, model: str, tmp_path: Path) -> None:
        frame = predicted(scene, tmp_path / "a.gpkg", model, simplify=0)
        with rasterio.open(scene) as dataset:
            to_pixels = ~dataset.transform
        widths = []
        for shape in frame.geometry:
            left, bottom = to_pixels @ shape.bounds[:2]
            right, top = to_pixels @ shape.bounds[2:]
            widths.append(round(right - left))
            assert bottom > top
        assert sorted(widths) == pytest.approx([25, 25, 25, 30, 30, 30, 30, 30, 40], abs=3)

    def test_whoever_joins_at_corners_does_not_split(self, scene: Path, model: str, tmp_path: Path) -> None:
        frame = predicted(scene, tmp_path / "a.gpkg", model, connectivity=8)
        assert len(frame) == 3
        assert set(frame.geom_type) == {"MultiPolygon"}

    @pytest.mark.parametrize("settings", [{}, {"regularize": "right"}])
    def test_blocks_change_nothing(
        self, scene: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict
    ) -> None:
        found = []
        for k, (work, pixels) in enumerate([(1.0, 10**9), (3.0, 3000)]):
            monkeypatch.setattr(memory, "MOST_WORK", work)
            monkeypatch.setattr(memory, "MOST_BLOCK_PIXELS", pixels)
            out = tmp_path / f"{k}.gpkg"
            record = tilesegment.predict(scene, out, model=model, stretch="0,255", **settings)
            found.append((record["counts"]["blocks"], geopandas.read_file(out)))
        assert found[0][0] < found[1][0]
        one, other = found[0][1], found[1][1]
        assert one.drop(columns="geometry").equals(other.drop(columns="geometry"))
        assert one.geometry.to_wkt().tolist() == other.geometry.to_wkt().tolist()

    def test_regular_neighbours_do_not_overlap(self, scene: Path, model: str, tmp_path: Path) -> None:
        frame = predicted(scene, tmp_path / "a.gpkg", model, regularize="right")
        shapes = frame.geometry.to_numpy()
        pairs = shapely.STRtree(shapes).query(shapes, "intersects")
        pairs = pairs[:, pairs[0] < pairs[1]]
        assert pairs.shape[1] == 6
        assert not shapely.relate_pattern(shapes[pairs[0]], shapes[pairs[1]], "T********").any()
        assert shapely.coverage_is_valid(shapes)
        assert (frame["regularized"] == "yes").all()
        assert (shapely.get_num_coordinates(shapes) - 1).max() <= 6

    def test_a_run_that_was_cut_off_ends_with_the_same_polygons(
        self, scene: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory, "MOST_BLOCK_PIXELS", 3000)
        cut = Cut(contact=True)
        monkeypatch.setattr(block_module, "load_engine", lambda name, model, setup: cut)
        whole = predicted(scene, tmp_path / "whole.gpkg", model, regularize="right")
        asked, cut.calls, cut.left = cut.calls, 0, cut.calls // 2
        out = tmp_path / "r.gpkg"
        with pytest.raises(RuntimeError, match="power cut"):
            predicted(scene, out, model, regularize="right")
        cut.left = asked
        again = predicted(scene, out, model, regularize="right")
        assert again.to_wkt().equals(whole.to_wkt())
        # Some of what the first one was asked for was not asked again.
        assert cut.calls < asked + asked // 2

    def test_by_depth_without_contact(self, scene: Path, model: str, tmp_path: Path) -> None:
        path = Path(model)
        save_model(path, {"w": np.zeros(3, np.float32)}, fake_card())
        roof = np.zeros((3, 120, 160), np.uint8)
        roof[0, 10:60, 10:60], roof[0, 10:60, 80:140], roof[0, 30:40, 60:80] = 230, 230, 230
        roof[2] = 7
        with rasterio.open(scene) as dataset:
            profile = {**dataset.profile, "width": 160, "height": 120}
        with rasterio.open(scene, "w", **profile) as dataset:
            dataset.write(roof)
        assert len(predicted(scene, tmp_path / "a.gpkg", str(path))) == 1
        frame = predicted(scene, tmp_path / "b.gpkg", str(path), split="depth", regularize="right")
        assert len(frame) == 2
        assert shapely.coverage_is_valid(frame.geometry.to_numpy())
        # Without a CRS the model's pixel size says how wide three metres are.
        flat = tmp_path / "flat.tif"
        with rasterio.open(flat, "w", **{**profile, "crs": None, "transform": None}) as dataset:
            dataset.write(roof)
        assert len(predicted(flat, tmp_path / "f.gpkg", str(path), split="depth")) == 2
        with pytest.raises(SettingsError, match=r"split depth and .*connectivity 8 exclude each other"):
            predicted(scene, tmp_path / "c.gpkg", str(path), split="depth", connectivity=8)
        save_model(path, {"w": np.zeros(3, np.float32)}, fake_card(3))
        with pytest.raises(SettingsError, match="depth is for models of one class besides the background"):
            predicted(scene, tmp_path / "c.gpkg", str(path), split="depth")

    @pytest.mark.parametrize("across", [False, True])
    def test_pixels_that_are_not_square(
        self, scene: Path, model: str, tmp_path: Path, across: bool
    ) -> None:
        """Two houses of 3.6 x 5.4 m, in pixels of 0.15 x 0.9 m: half a metre is four of them one way, and
        one the other way."""
        save_model(Path(model), {"w": np.zeros(3, np.float32)}, fake_card(contact=True, gsd=None))
        roof, contact = np.zeros((2, 40, 120), np.uint8)
        roof[8:14, 10:58] = 230
        contact[8:14, 33:35] = 220
        values = np.stack([roof, contact, np.full_like(roof, 7)])
        col, row = 0.15, 0.9
        if across:
            values, col, row = values.transpose(0, 2, 1), row, col
        with rasterio.open(scene) as dataset:
            profile = {**dataset.profile, "height": values.shape[1], "width": values.shape[2]}
        profile["transform"] = rasterio.Affine(col, 0, 354000, 0, -row, 3057000)
        with rasterio.open(scene, "w", **profile) as dataset:
            dataset.write(values)
        frame = predicted(scene, tmp_path / "a.gpkg", model, simplify=0)
        assert len(frame) == 2

    def test_outlines_before_as_a_second_layer(self, scene: Path, model: str, tmp_path: Path) -> None:
        out = tmp_path / "a.gpkg"
        frame = predicted(scene, out, model, regularize="right", keep_raw=True)
        raw = geopandas.read_file(out, layer="a_raw")
        assert raw["id"].tolist() == frame["id"].tolist()
        assert raw.crs == frame.crs
        plain = predicted(scene, tmp_path / "b.gpkg", model)
        assert raw.geometry.to_wkt().tolist() == plain.geometry.to_wkt().tolist()
        assert raw.geometry.to_wkt().tolist() != frame.geometry.to_wkt().tolist()
        assert tilesegment.evaluate_scene(out, out)["objects"]["f1"] == 1
        named = {"regularize": "right", "keep_raw": True, "lco": {"IDENTIFIER": "town"}}
        predicted(scene, tmp_path / "named.gpkg", model, **named)
        assert len(geopandas.list_layers(tmp_path / "named.gpkg")) == 3
        for name, settings, words in (
            ("c.fgb", {"regularize": "right"}, "keep_raw writes a second layer, which .fgb has no place"),
            ("c.gpkg", {}, "keep_raw: no outline is changed; give regularize right"),
        ):
            with pytest.raises(SettingsError, match=words):
                predicted(scene, tmp_path / name, model, keep_raw=True, **settings)

    def test_contact_is_part_of_what_is_gone_on_with(self, scene: Path, model: str, tmp_path: Path) -> None:
        plan = tilesegment.plan(scene, model=model)
        assert plan["disk_bytes"] == 2 * 150 * 190
        assert tilesegment.plan(scene, model=model, split="none")["disk_bytes"] == 150 * 190
        # Blocks that were saved without contact do not split anything.
        keys = [
            prepare(str(scene), PredictSettings((model,), split=how), True, "").key
            for how in ("auto", "none")
        ]
        assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"contact"}
        with pytest.raises(SettingsError, match="'maybe': use one of auto, none, depth"):
            tilesegment.plan(scene, model=model, split="maybe")


class TestLargeRegions:
    """Those that are looked at cell by cell."""

    @pytest.mark.parametrize(("cell", "rim"), [(1000, 0), (64, 200), (40, 60), (37, 30)])
    def test_the_same_polygons_as_when_they_are_looked_at_whole(
        self, scene: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: int, rim: int
    ) -> None:
        whole = predicted(scene, tmp_path / "a.gpkg", model)
        monkeypatch.setattr(split_module, "_MOST_PIXELS", 0)
        monkeypatch.setattr(cells, "CELL", cell)
        monkeypatch.setattr(cells, "RIM", rim)
        by_cells = predicted(scene, tmp_path / "b.gpkg", model)
        assert len(by_cells) == 9
        assert by_cells.drop(columns="geometry").equals(whole.drop(columns="geometry"))
        assert by_cells.geometry.to_wkt().tolist() == whole.geometry.to_wkt().tolist()

    def test_blocks_change_nothing(
        self, scene: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(split_module, "_MOST_PIXELS", 0)
        monkeypatch.setattr(cells, "CELL", 50)
        monkeypatch.setattr(cells, "RIM", 8)
        found = []
        for k, (work, pixels) in enumerate([(1.0, 10**9), (3.0, 3000)]):
            monkeypatch.setattr(memory, "MOST_WORK", work)
            monkeypatch.setattr(memory, "MOST_BLOCK_PIXELS", pixels)
            found.append(predicted(scene, tmp_path / f"{k}.gpkg", model, split="depth"))
        assert found[0].geometry.to_wkt().tolist() == found[1].geometry.to_wkt().tolist()
        assert found[0]["id"].tolist() == found[1]["id"].tolist()

    def test_nothing_is_lost_and_nothing_overlaps(
        self, make_raster: Callable[..., Path], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Walls of contact in a net that fits no cell, in a region with a court and one within that.
        roof, contact = np.zeros((2, 220, 260), np.uint8)
        roof[5:215, 5:255] = 230
        contact[[*range(34, 215, 31)], 5:255] = 220
        contact[5:215, [*range(40, 255, 37)]] = 220
        roof[90:150, 95:170] = 0
        roof[100:130, 110:150] = 230
        scene = make_raster(np.stack([roof, contact, np.full_like(roof, 7)]))
        whole = predicted(scene, tmp_path / "a.gpkg", model, simplify=0, min_area=0, fill_holes=0)
        monkeypatch.setattr(split_module, "_MOST_PIXELS", 0)
        monkeypatch.setattr(cells, "CELL", 61)
        monkeypatch.setattr(cells, "RIM", 50)
        frame = predicted(scene, tmp_path / "b.gpkg", model, simplify=0, min_area=0, fill_holes=0)
        assert len(frame) == len(whole) > 30
        assert shapely.coverage_is_valid(frame.geometry.to_numpy())
        assert frame.geometry.area.sum() == pytest.approx(whole.geometry.area.sum(), rel=1e-9)
        assert frame["confidence"].tolist() == whole["confidence"].tolist()
        pairs = whole.geometry.intersection(frame.geometry).area / whole.geometry.union(frame.geometry).area
        assert pairs.min() > 0.95

    def test_parts_that_are_one_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wall that ends far from the next cell: what one cell sees as two, the other sees as one."""
        monkeypatch.setattr(cells, "CELL", 50)
        monkeypatch.setattr(cells, "RIM", 5)
        region = np.zeros((60, 140), np.int32)
        region[5:55, 5:135] = 1
        value = np.arange(60 * 140).reshape(60, 140) % 200

        def look(window: Window) -> np.ndarray:
            labels = region[window.slices].copy()
            if window.col_end > 105:
                rows = np.arange(window.row, window.row_end)[:, None]
                labels[(labels > 0) & (rows >= 30)] = 2
            return labels

        def read(window: Window) -> np.ndarray:
            return value[window.slices].astype(np.uint8)

        found = parts_by_cells(Window(0, 0, 60, 140), look, read, 140)
        assert found.pixels.sum() == shapely.area(found.geometry).sum() == 50 * 130
        assert found.probability_sum.sum() == value[region > 0].sum()
        assert shapely.is_valid(found.geometry).all()

    def test_a_cell_is_no_larger_than_a_region_that_is_looked_at_whole(self) -> None:
        assert (cells.CELL + 2 * cells.RIM) ** 2 <= memory.SPLIT_PIXELS == split_module._MOST_PIXELS

    def test_a_rim_that_sees_too_little_still_covers_everything(self) -> None:
        region = np.zeros((40, 90), np.int32)
        region[5:35, 5:85] = 1

        def look(window: Window) -> np.ndarray:
            # Every look sees two parts, above and below a line that depends on where it looks from.
            labels = region[window.slices].copy()
            labels[(20 + window.col // 30 - window.row) :] *= 2
            return labels

        def read(window: Window) -> np.ndarray:
            return np.full((window.height, window.width), 200, np.uint8)

        found = parts_by_cells(Window(0, 0, 40, 90), look, read, 90)
        assert len(found) == 2
        assert found.pixels.sum() == 30 * 80
        assert found.probability_sum.sum() == 30 * 80 * 200


class TestSplit:
    region = np.zeros((40, 80), np.bool_)
    region[5:35, 5:75] = True

    def planes(self, contact: np.ndarray, roof: int = 230) -> Planes:
        return Planes(self.region, np.where(self.region, roof, 0).astype(np.uint8), contact)

    def band(self, value: int = 200) -> np.ndarray:
        contact = np.zeros((40, 80), np.uint8)
        contact[:, 39:42] = value
        return contact

    def test_two_houses(self) -> None:
        parts = split(self.planes(self.band()), (0.15, 0.15))
        assert parts is not None
        assert np.unique(parts).tolist() == [0, 1, 2]
        np.testing.assert_array_equal(parts > 0, self.region)
        assert (parts[5:35, 5:39] == 1).all()
        assert (parts[5:35, 42:75] == 2).all()

    def test_without_contact_it_is_one(self) -> None:
        assert split(self.planes(np.zeros((40, 80), np.uint8)), (0.15, 0.15)) is None
        assert split(self.planes(self.band(60)), (0.15, 0.15)) is None

    def test_contact_that_does_not_part_it_changes_nothing(self) -> None:
        contact = self.band()
        contact[:20] = 0
        assert split(self.planes(contact), (0.15, 0.15)) is None

    def test_small_or_shallow_seeds_are_none(self) -> None:
        contact = self.band()
        contact[:, 43:] = 200
        contact[10:14, 60:64] = 0
        assert split(self.planes(contact), (0.15, 0.15)) is None
        assert split(self.planes(contact), (0.5, 0.5)) is not None
        assert split(self.planes(self.band(), roof=140), (0.15, 0.15)) is None

    def test_a_seed_has_one_and_a_half_square_metres(self) -> None:
        def found(side: int) -> bool:
            contact = self.band()
            contact[:, 42:] = 200
            contact[10 : 10 + side, 50 : 50 + side] = 0
            return split(self.planes(contact), (0.125, 0.125)) is not None

        # Nine pixels reach half a metre to all sides, but are 1.27 square metres.
        assert [found(side) for side in (8, 9, 10)] == [False, False, True]

    @pytest.mark.parametrize(("neck", "parts"), [(8, 2), (16, 2), (24, 1)])
    @pytest.mark.parametrize("turned", [False, True])
    def test_by_depth_at_places_narrower_than_three_metres(
        self, neck: int, parts: int, turned: bool
    ) -> None:
        region = np.zeros((60, 130), np.bool_)
        region[10:50, 10:60], region[10:50, 70:120] = True, True
        region[30 - neck // 2 : 30 + neck // 2, 60:70] = True
        region = region.T if turned else region
        planes = Planes(region, region.view(np.uint8) * np.uint8(200), np.zeros(region.shape, np.uint8))
        found = split_by_depth(planes, (0.15, 0.15))
        if parts == 1:
            assert found is None
            return
        assert found is not None
        np.testing.assert_array_equal(found > 0, region)
        found = found.T if turned else found
        assert (found[10:50, 10:60] == 1).all()
        assert (found[10:50, 70:120] == 2).all()
        # They meet within the neck, which is as wide in metres along rows as along columns.
        assert split_by_depth(planes, (0.3, 0.3)) is None or neck * 0.3 < 3

    @pytest.mark.parametrize(("across", "wide"), [(False, 4), (False, 2), (True, 16), (True, 8)])
    def test_by_depth_pixels_that_are_not_square(self, across: bool, wide: int) -> None:
        """Rooms of 12 x 12 m in pixels of 1 x 0.25 m, and between them a neck of 4 or 2 m, 4 m long."""
        region = np.zeros((40, 120), np.bool_)
        if across:
            region[2:14, 10:58] = region[18:30, 10:58] = region[14:18, 20 : 20 + wide] = True
        else:
            region[2:14, 5:53] = region[2:14, 69:117] = region[4 : 4 + wide, 53:69] = True
        planes = Planes(region, np.where(region, 230, 0).astype(np.uint8), np.zeros(region.shape, np.uint8))
        found = split_by_depth(planes, (1.0, 0.25))
        assert (found is None) == (wide in (4, 16))

    def test_by_depth_small_parts_are_none(self) -> None:
        region = np.zeros((60, 100), np.bool_)
        region[10:50, 10:60], region[28:32, 60:70], region[18:42, 70:94] = True, True, True
        planes = Planes(region, region.view(np.uint8) * np.uint8(200), np.zeros(region.shape, np.uint8))
        # Of the smaller one 4 pixels square are deeper than 1.5 m: 0.36 square metres.
        assert split_by_depth(planes, (0.15, 0.15)) is None
        region[14:46, 70:98] = True
        assert split_by_depth(planes, (0.15, 0.15)) is not None

    def test_a_pixels_own_region(self) -> None:
        mask = np.array([[1, 1, 0, 1], [0, 0, 1, 1]], bool)
        np.testing.assert_array_equal(component(mask, 0, 0), [[1, 1, 0, 0], [0, 0, 0, 0]])
        np.testing.assert_array_equal(component(mask, 1, 2), [[0, 0, 0, 1], [0, 0, 1, 1]])


def test_parts_meet_at_the_top_of_a_ridge() -> None:
    """However steep its sides are: one rises by steps, the other one at once."""
    region = np.ones((21, 60), np.bool_)
    contact = np.zeros((21, 60), np.uint8)
    contact[:, 20:41] = np.arange(0, 210, 10)
    contact[:, 41:44] = 120
    # Here it rises from the other side.
    contact[8:] = contact[8:, ::-1]
    found = split(Planes(region, np.full((21, 60), 230, np.uint8), contact), (0.15, 0.15))
    assert found is not None
    assert (found > 0).all()
    assert np.unique(found[:8, :38]).tolist() == [1]
    assert np.unique(found[:8, 42:]).tolist() == [2]
    assert np.unique(found[9:, :18]).tolist() == [1]
    assert np.unique(found[9:, 22:]).tolist() == [2]
