"""Laws on values worked out by hand or by brute force, each where nothing else would notice its breach."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image

import tilesegment
from tests.fakes import fake_card
from tests.test_pipeline import counter, model, read_mask, scene
from tilesegment.errors import OutputError
from tilesegment.grid import Grid, Window
from tilesegment.model.card import ModelClass
from tilesegment.raster.aoi import region_of
from tilesegment.raster.picture import Part, read_colour, resampled
from tilesegment.raster.sink import Band, write_band
from tilesegment.raster.source import open_scene
from tilesegment.raster.values import blank_edge, blank_value, value_range
from tilesegment.run.block import predict as block_module
from tilesegment.run.block.job import TraceSettings
from tilesegment.run.record import versions
from tilesegment.run.scene import executor as executor_module
from tilesegment.run.scene.ledger import ledger_folder, open_ledger
from tilesegment.run.scene.measures import resolve_measures, shared_tolerance
from tilesegment.run.scene.prepare import prepare
from tilesegment.settings import Measure, VectorSettings, parse_bytes, parse_tile
from tilesegment.tiling.blend import NODATA, axis_weights, quantise
from tilesegment.train.batches import epoch_batches
from tilesegment.vector.clean import clean, fill_holes, pixel_metric, simplify
from tilesegment.vector.seams import Features

__all__ = ["counter", "model", "scene"]

UTM = Grid("EPSG:32645", Affine(0.5, 0, 354000, 0, -0.25, 3057000), 400, 600)
DEGREES = Grid("EPSG:4326", Affine(2e-6, 0, 85.5, 0, -1e-6, 27.6), 400, 600)


class TestWeights:
    def test_of_a_ramp_of_four(self) -> None:
        # Pixel centres lie at 1/8, 3/8, 5/8 and 7/8 of the overlap.
        places = [Fraction(k, 8) for k in (1, 3, 5, 7)]
        linear = [max(1, round(63 * float(p))) for p in places]
        cosine = [max(1, round(63 * math.sin(float(p) * math.pi / 2) ** 2)) for p in places]
        assert axis_weights(12, 4, "linear").tolist() == [*linear, *[63] * 4, *linear[::-1]]
        assert axis_weights(12, 4, "cosine").tolist() == [*cosine, *[63] * 4, *cosine[::-1]]
        assert cosine == [2, 19, 44, 61]
        assert linear == [8, 24, 39, 55]

    def test_of_a_bell(self) -> None:
        # A tile of 8: centres are 3.5, 2.5, 1.5, 0.5 from the middle, and s is 2.
        half = [max(1, round(63 * math.exp(-(d**2) / 8))) for d in (3.5, 2.5, 1.5, 0.5)]
        assert half == [14, 29, 48, 61]
        assert axis_weights(8, 2, "gauss").tolist() == [*half, *half[::-1]]

    def test_probabilities_are_counted_to_the_nearest_step(self) -> None:
        values = np.array([0, 1, 0.5, 1 / 16256, 0.49 / 16256, 0.51 / 16256], np.float32)
        assert quantise(values).tolist() == [0, 16256, 8128, 1, 0, 1]


class TestThreshold:
    @pytest.mark.parametrize("threshold", [0.01, 0.1, 0.25, 0.5, 0.501, 0.6, 0.749, 0.9, 0.999])
    def test_every_probability(self, threshold: float) -> None:
        """The least count whose probability reaches the threshold is a roof; 255 never is."""
        counts = np.arange(256, dtype=np.uint8)
        expected = [int(count / 254 >= threshold - 1e-9) if count < 255 else 255 for count in range(256)]
        settings = TraceSettings(threshold, (1,))
        assert settings.classes(None, counts).tolist() == expected
        assert settings.labels(None, counts).tolist() == [0 if v == 255 else v for v in expected]

    def test_labels_of_several_classes(self) -> None:
        classes = np.array([0, 1, 2, 3, NODATA], np.uint8)
        assert TraceSettings(0.5, (1, 3)).labels(classes, classes).tolist() == [0, 1, 0, 3, 0]
        # Where class 0 is no background, what is outside cannot be 0.
        assert TraceSettings(0.5, (0, 2)).labels(classes, classes).tolist() == [0, 255, 2, 255, 255]

    def test_settings_that_trace_otherwise_have_another_key(self) -> None:
        every = [
            TraceSettings(0.5, (1,)), TraceSettings(0.6, (1,)), TraceSettings(0.5, (1, 2)),
            TraceSettings(0.5, (1,), (1.0, 1.0)), TraceSettings(0.5, (1,), (1.0, 2.0)),
            TraceSettings(0.5, (1,), None, False),
        ]  # fmt: skip
        assert len({settings.key for settings in every}) == len(every)


class TestNodata:
    def test_of_one_band_alone_is_still_ground(self, make_raster) -> None:
        """A pixel is invalid where every band has the value: black roofs are dark in some only."""
        values = np.full((3, 2, 4), 9, np.uint8)
        values[:, 0, 0] = 0
        values[0, 0, 1] = 0
        values[:2, 0, 2] = 0
        for declared, given in ((0, None), (None, 0), (77, 0)):
            with open_scene(make_raster(values, nodata=declared), nodata=given) as scene:
                valid = scene.read(scene.grid.window).valid
            assert valid.tolist() == [[False, True, True, True], [True] * 4], (declared, given)

    def test_blank_edges(self, make_raster, rng) -> None:
        values = rng.integers(1, 255, (3, 300, 400)).astype(np.uint8)
        with open_scene(make_raster(values)) as scene:
            assert blank_edge(scene) is None
        for value, place in ((0, np.s_[:, :, :40]), (255, np.s_[:, -40:]), (0, np.s_[:, :40])):
            other = values.copy()
            other[place] = value
            with open_scene(make_raster(other)) as scene:
                assert blank_edge(scene) == value
            with open_scene(make_raster(other), nodata=value) as scene:
                assert blank_edge(scene) is None

    def test_blank_values(self) -> None:
        yes = np.ones((4, 4), np.bool_)
        for value, expected in ((0, 0), (255, 255), (7, None)):
            assert blank_value(np.full((3, 4, 4), value, np.uint8), yes) == expected
        assert blank_value(np.full((3, 4, 4), 65535, np.uint16), yes) == 65535
        assert blank_value(np.full((3, 4, 4), 255, np.uint16), yes) == 255
        one = np.zeros((3, 4, 4), np.uint8)
        one[2, 3, 3] = 1
        assert blank_value(one, yes) is None
        no = yes.copy()
        no[0, 0] = False
        assert blank_value(np.zeros((3, 4, 4), np.uint8), no) is None
        assert blank_value(np.zeros((3, 4, 4), np.float32), yes) is None

    def test_a_given_value_silences_the_warning(self, make_raster, model, counter, tmp_path, rng) -> None:
        values = rng.integers(1, 255, (3, 141, 187)).astype(np.uint8)
        values[:, :70] = 0
        path, name = make_raster(values), model()
        record = tilesegment.predict(path, tmp_path / "a.tif", model=name)
        assert any("--nodata 0" in line for line in record["warnings"])
        record = tilesegment.predict(path, tmp_path / "b.tif", model=name, nodata=0)
        assert record["warnings"] == []
        assert (read_mask(tmp_path / "b.tif")[:70] == NODATA).all()
        # Inside the scene, where only the prediction meets it, another blank area is nobody's concern then.
        values = rng.integers(1, 255, (3, 141, 187)).astype(np.uint8)
        values[:, 40:120, 50:150] = 255
        path = make_raster(values, "inside.tif")
        record = tilesegment.predict(path, tmp_path / "c.tif", model=name)
        assert ["--nodata 255" in line for line in record["warnings"]] == [True]
        assert tilesegment.predict(path, tmp_path / "d.tif", model=name, nodata=0)["warnings"] == []


class TestResampling:
    """Averages where pixels are thrown away, straight lines between them where they are made up."""

    def test_halving_averages(self, make_raster) -> None:
        values = np.arange(3 * 8 * 12).reshape(3, 8, 12).astype(np.float32)
        path = make_raster(values, transform=Affine(0.15, 0, 354000, 0, -0.15, 3057000))
        with open_scene(path, gsd=0.3) as scene:
            assert (scene.grid.height, scene.grid.width) == (4, 6)
            found = scene.read(scene.grid.window).values
        expected = values.reshape(3, 4, 2, 6, 2).mean(axis=(2, 4))
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_doubling_interpolates(self, make_raster) -> None:
        ramp = np.broadcast_to(np.arange(12, dtype=np.float32) * 8, (3, 8, 12)).copy()
        path = make_raster(ramp, transform=Affine(0.3, 0, 354000, 0, -0.3, 3057000))
        with open_scene(path, gsd=0.15) as scene:
            assert (scene.grid.height, scene.grid.width) == (16, 24)
            found = scene.read(scene.grid.window).values
        # Centres lie at 3.75, 4.25, ... of the old pixels: steps of 4 inside.
        np.testing.assert_allclose(found[0, 5, 1:-1], np.arange(1, 23) * 4.0 - 2, atol=1e-4)

    def test_pictures_of_a_data_set_as_scenes(self, tmp_path: Path, rng) -> None:
        """Training reads as prediction does: the same means, the same lines between pixels."""
        values = rng.integers(0, 255, (8, 12, 3)).astype(np.uint8)
        Image.fromarray(values).save(tmp_path / "p.png")
        bands = values.transpose(2, 0, 1)
        half = read_colour(tmp_path / "p.png", Part(None, (4, 6))).values
        means = bands.reshape(3, 4, 2, 6, 2).mean(axis=(2, 4))
        assert np.abs(half - means).max() <= 0.5
        for shape in ((4, 6), (16, 24)):
            with open_scene(tmp_path / "p.png", size=shape) as scene:
                found = scene.read(scene.grid.window).values
            np.testing.assert_array_equal(read_colour(tmp_path / "p.png", Part(None, shape)).values, found)
            np.testing.assert_array_equal(resampled(bands, shape), found)

    def test_overviews_show_classes_and_mean_probabilities(self, tmp_path: Path) -> None:
        rows, cols = np.indices((600, 600))
        board = ((rows + cols) % 2).astype(np.uint8)
        grid = Grid("EPSG:32645", Affine(1, 0, 0, 0, -1, 0), 600, 600)
        labels = {0: ModelClass("a", (0, 0, 0)), 100: ModelClass("b", (9, 9, 9))}
        found = {}
        for name, kind in (("classes", labels), ("probability", None)):
            path = tmp_path / f"{name}.tif"
            write_band(path, Band(grid, kind), lambda window: board[window.slices] * 100)
            with rasterio.open(path, overview_level=0) as dataset:
                assert dataset.shape == (300, 300)
                found[name] = set(np.unique(dataset.read(1)).tolist())
        assert found["classes"] <= {0, 100}
        assert found["probability"] == {50}

    def test_a_flat_band_has_a_range(self, make_raster) -> None:
        values = np.stack([np.full((40, 50), 500), np.arange(2000).reshape(40, 50), np.zeros((40, 50))])
        with open_scene(make_raster(values.astype(np.uint16))) as scene:
            found = value_range(scene, None, "uint8", (0.0, 255.0))
        assert (found.low[0], found.low[2]) == (500, 0)
        assert 500 < found.high[0] < 501
        assert 0 < found.high[2] < 1
        # By hand: of 0 to 1999, 2 and 98 percent.
        assert (found.low[1], found.high[1]) == pytest.approx((0.02 * 1999, 0.98 * 1999))


class TestRegions:
    def test_a_border_on_a_pixel_edge_but_for_rounding(self) -> None:
        for shift in (-1e-9, 0, 1e-9, -1e-7, 1e-7):
            area = shapely.box(3 + shift, 5 + shift, 10 + shift, 20 + shift)
            assert region_of(area, UTM) == Window(5, 3, 15, 7)
        assert region_of(shapely.box(3.1, 5.1, 9.9, 19.9), UTM) == Window(5, 3, 15, 7)
        assert region_of(shapely.box(3.9, 5.9, 10.1, 20.1), UTM) == Window(5, 3, 16, 8)
        assert region_of(shapely.box(-5, -5, 2.5, 1), UTM) == Window(0, 0, 1, 3)


def features(*shapes: shapely.Geometry, values: list[int] | None = None) -> Features:
    count = len(shapes)
    geometry = np.empty(count, object)
    geometry[:] = shapes
    ones = np.ones(count, np.int64)
    pixels = shapely.area(geometry).astype(np.int64)
    return Features(geometry, np.array(values or [1] * count), pixels, pixels * 200, ones)


class TestMeasures:
    """Square metres and pixels mean what they say on every grid."""

    @pytest.mark.parametrize("grid", [UTM, DEGREES])
    def test_minimum_areas(self, grid: Grid) -> None:
        boxes = [shapely.box(10, 10, 10 + w, 10 + h) for w, h in ((4, 4), (4, 5), (10, 10))]
        x, y = grid.metres_per_pixel[::-1] if grid.metres_per_pixel else (0, 0)
        metres = [w * h * x * y for w, h in ((4, 4), (4, 5), (10, 10))]
        none = Measure(0, True)
        for limit, left in ((metres[0] * 0.99, 3), (metres[0] * 1.01, 2), (metres[1] * 1.01, 1), (1e9, 0)):
            assert len(clean(features(*boxes), grid, Measure(limit), none, none)) == left
        for limit, left in ((16, 3), (16.5, 2), (20, 2), (20.5, 1), (100, 1), (101, 0)):
            assert len(clean(features(*boxes), grid, Measure(limit, True), none, none)) == left

    def test_the_area_that_counts_is_that_of_the_outline_written(self) -> None:
        # Simplified, the notch is gone and the outline is larger than the region: it is what is written.
        notched = shapely.Polygon(
            [(0, 0), (20, 0), (20, 10), (11, 10), (11, 9), (10, 9), (10, 10), (0, 10)]
        )
        assert notched.area == 199
        for limit, left in ((200, 1), (200.5, 0)):
            kept = clean(features(notched), UTM, Measure(limit, True), Measure(1.5, True), Measure(0, True))
            assert len(kept) == left
        spiked = shapely.Polygon(
            [(0, 0), (20, 0), (20, 10), (11, 10), (11, 11), (10, 11), (10, 10), (0, 10)]
        )
        for limit, left in ((200, 1), (200.5, 0)):
            kept = clean(features(spiked), UTM, Measure(limit, True), Measure(1.5, True), Measure(0, True))
            assert len(kept) == left

    def test_tolerances_in_metres_and_pixels(self) -> None:
        """A pixel is 0.5 m wide and 0.25 m high."""
        across = shapely.Polygon([(0, 0), (9, 0), (9, 20), (10, 20), (10, 40), (0, 40)])
        along = shapely.Polygon([(0, 0), (40, 0), (40, 10), (20, 10), (20, 9), (0, 9)])

        def corners(shape: shapely.Geometry, tolerance: Measure) -> int:
            geometry = features(shape).geometry
            return int(
                shapely.get_num_coordinates(simplify(geometry, tolerance, pixel_metric(geometry, UTM)))[0]
            )

        # The step's corners lie half a pixel off the line that is left: 0.25 m across, 0.125 m along.
        for shape, metres in ((across, 0.25), (along, 0.125)):
            assert corners(shape, Measure(0.45, True)) == 7
            assert corners(shape, Measure(0.55, True)) == 5
            assert corners(shape, Measure(metres * 0.9)) == 7
            assert corners(shape, Measure(metres * 1.1)) == 5

    def test_shared_tolerances_by_axis(self) -> None:
        assert shared_tolerance(Measure(0), UTM) is None
        assert shared_tolerance(Measure(3, True), UTM) == (3, 3)
        rows, cols = shared_tolerance(Measure(1.0), UTM) or (0, 0)
        assert (rows, cols) == pytest.approx((4, 2), rel=1e-3)
        nowhere = Grid(None, Affine.identity(), 10, 10)
        assert shared_tolerance(Measure(2.0), nowhere) == (2, 2)

    def test_without_a_crs_defaults_count_pixels_of_the_model(self) -> None:
        nowhere = Grid(None, Affine.identity(), 10, 10)
        resolved, notes = resolve_measures(VectorSettings(), nowhere, 0.5)
        assert (resolved.min_area, resolved.fill_holes) == (Measure(8, True), Measure(4, True))
        assert resolved.simplify == Measure(1, True)
        assert resolve_measures(VectorSettings(), nowhere, None)[0].min_area == Measure(0, True)
        some = resolve_measures(VectorSettings(min_area=Measure(3, True)), nowhere, 0.5)[0]
        assert (some.min_area, some.fill_holes) == (Measure(3, True), Measure(4, True))
        assert len(notes) == 1

    @pytest.mark.parametrize("several", [False, True])
    def test_holes(self, several: bool) -> None:
        """Of several classes a hole may hold a region: only what is below the minimum area is filled."""
        hole = [(5, 5), (9, 5), (9, 9), (5, 9)]
        ring = shapely.Polygon(shapely.box(0, 0, 20, 20).exterior, [hole])
        for holes, area, filled in (
            (20, 30, True),
            (20, 10, not several),
            (10, 30, False),
            (16, 16, False),
        ):
            kept = clean(
                features(ring), UTM, Measure(area, True), Measure(0, True), Measure(holes, True), several
            )
            assert (shapely.area(kept.geometry[0]) == 400) == filled, (holes, area)
        metric = pixel_metric(features(ring).geometry, UTM)
        for limit, filled in ((16 * 0.125 * 1.01, True), (16 * 0.125 * 0.99, False)):
            found = fill_holes(features(ring).geometry, (Measure(limit),), metric)
            assert (shapely.area(found[0]) == 400) == filled

    def test_outlines_are_counter_clockwise_in_every_format(self, make_raster, tmp_path) -> None:
        values = np.zeros((40, 60), np.uint8)
        values[5:35, 10:50] = 1
        values[15:20, 20:30] = 0
        for place in (Affine(0.5, 0, 354000, 0, -0.5, 3057000), Affine(0.5, 0, 354000, 0, 0.5, 3057000)):
            path = make_raster(values, "m.tif", transform=place)
            for ending in ("gpkg", "parquet", "fgb", "geojson"):
                out = tmp_path / f"r.{ending}"
                tilesegment.vectorize(path, out, overwrite=True)
                read = geopandas.read_parquet if ending == "parquet" else geopandas.read_file
                outline = read(out).geometry[0]
                assert outline.exterior.is_ccw, ending
                assert [ring.is_ccw for ring in outline.interiors] == [False], ending


class TestWords:
    def test_bytes(self) -> None:
        for text, expected in (
            ("1KB", 10**3), ("1MB", 10**6), ("1GB", 10**9), ("1TB", 10**12), ("1K", 10**3), ("1M", 10**6),
            ("1G", 10**9), ("1T", 10**12), ("1KiB", 2**10), ("1MiB", 2**20), ("1GiB", 2**30),
            ("1TiB", 2**40), ("7", 7), ("1.5gb", 1_500_000_000),
        ):  # fmt: skip
            assert parse_bytes(text) == expected, text

    def test_tiles(self) -> None:
        assert parse_tile("512") == (512, 512)
        assert parse_tile("256x512") == (256, 512)

    def test_measures(self) -> None:
        for text, expected in (
            ("2", Measure(2)), ("2.5m", Measure(2.5)), ("2m2", Measure(2)), ("3px", Measure(3, True)),
            (".5px2", Measure(0.5, True)),
        ):  # fmt: skip
            assert Measure.parse(text) == expected

    @pytest.mark.parametrize("name", ["background", "Unlabeled", "unlabelled", "VOID", "ignore"])
    def test_what_is_no_class_becomes_no_polygon(self, name: str) -> None:
        classes = (
            ModelClass(name, (0, 0, 0)),
            ModelClass("roof", (1, 1, 1)),
            ModelClass("road", (2, 2, 2)),
        )
        import dataclasses

        card = dataclasses.replace(fake_card(3), classes=classes)
        assert card.foreground == (1, 2)
        other = dataclasses.replace(card, classes=(ModelClass("sky", (0, 0, 0)), *classes[1:]))
        assert other.foreground == (0, 1, 2)


class TestTheLedgersKey:
    """Whatever decides a pixel's value starts a ledger afresh; what does not goes on with it."""

    @pytest.fixture
    def key(self, scene: Path, model: Callable[..., str], counter: Any) -> Callable[..., dict[str, Any]]:
        standard = model()

        def of(path: Path = scene, **settings: Any) -> dict[str, Any]:
            from tilesegment.api import predict_settings

            resolved = predict_settings({"model": standard, "engine": "torch", **settings})
            return json.loads(json.dumps(prepare(str(path), resolved, True, "").key))

        return of

    def test_by_setting(self, key, scene, model, tmp_path, make_raster) -> None:
        area = shapely.box(354002, 3056985, 354020, 3056999)
        for name, shape in (("a", area), ("b", area.buffer(-1)), ("c", area.exterior.buffer(1))):
            geopandas.GeoDataFrame(geometry=[shape], crs="EPSG:32645").to_file(tmp_path / f"{name}.gpkg")
        other = tmp_path / "other.safetensors"
        from tilesegment.model.store import save_model

        save_model(other, {"w": np.ones(3, np.float32)}, fake_card(2))
        changes: dict[str, dict[str, Any]] = {
            "nothing": {},
            "model": {"model": str(other)},
            "one model more": {"model": [model(), str(other)]},
            "tta": {"tta": "flips"},
            "range": {"stretch": "0,200"},
            "range of the bands": {"stretch": "2%,98%"},
            "nodata": {"nodata": 0},
            "bands": {"bidx": (3, 2, 1)},
            "crs": {"src_crs": "EPSG:32644"},
            "grid": {"gsd": 0.3},
            "region": {"bbox": (354002, 3056985, 354020, 3056999)},
            "aoi": {"aoi": str(tmp_path / "a.gpkg")},
            "aoi of the same region": {"aoi": str(tmp_path / "b.gpkg")},
            "a hole in it": {"aoi": str(tmp_path / "c.gpkg")},
            "tile": {"tile": 48},
            "overlap": {"overlap": 4},
            "blend": {"blend": "linear"},
            "engine": {"engine": "openvino", "precision": "fp32"},
            "engine of the same precision": {"engine": "onnx", "precision": "fp32"},
            "precision": {"precision": "bf16"},
            "device": {"device": "cpu:0"},
        }
        keys = {name: json.dumps(key(**settings), sort_keys=True) for name, settings in changes.items()}
        for one, another in itertools.combinations(keys, 2):
            assert keys[one] != keys[another], (one, another)

    def test_not_by_what_changes_no_pixel(self, key) -> None:
        same = [
            {}, {"min_area": 50}, {"simplify": 0}, {"threshold": 0.7}, {"workers": 2}, {"cog": True},
            {"max_memory": "4GB"}, {"co": {"COMPRESS": "LZW"}}, {"batch": 3}, {"match_input": True},
        ]  # fmt: skip
        assert len({json.dumps(key(**settings), sort_keys=True) for settings in same}) == 1

    def test_by_the_files_behind_the_input(self, key, scene) -> None:
        before = key()
        os.utime(scene, (1, 1))
        assert key()["input"] != before["input"]

    def test_by_the_program(self, key, monkeypatch) -> None:
        before = key()
        monkeypatch.setattr("tilesegment.run.scene.prepare.version_of", lambda name: "9.9")
        assert key() != before


class TestLedgers:
    def test_what_a_killed_run_was_writing_goes(self, tmp_path: Path) -> None:
        out = tmp_path / "r.gpkg"
        folder = ledger_folder(out)
        folder.mkdir()
        (folder / "lock").touch()
        (folder / ".r0-c0.block.0a1b2c").write_bytes(b"half")
        (folder / "r0-c0.block").write_bytes(b"whole?")
        with open_ledger(out, {"a": 1}) as ledger:
            assert [path.name for path in ledger.folder.glob(".*")] == []

    def test_a_changed_key_is_named(self, tmp_path: Path) -> None:
        out = tmp_path / "r.gpkg"
        for key, words in (({"tile": 1, "b": 2}, []), ({"tile": 3, "b": 2}, ["tile changed from 1 to 3"])):
            with open_ledger(out, key) as ledger:
                assert [note.partition(" since")[0] for note in ledger.notes] == words
                ledger.fix({"block_rows": 1})
                (ledger.folder / "x.block").touch()

    def test_one_block_at_a_time_on_a_worker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A scheduler may give a worker several threads: memory is planned for one block."""
        at_work, most = [], []

        class Slow:
            def __init__(self, *_: Any) -> None:
                pass

            def __enter__(self) -> Any:
                at_work.append(1)
                most.append(len(at_work))
                time.sleep(0.05)
                at_work.pop()
                raise OutputError("enough")

            def __exit__(self, *_: object) -> None:
                pass

        monkeypatch.setattr(block_module, "Scene", Slow)

        def go() -> None:
            task: Any = type("Task", (), {})()
            task.job = type("J", (), {"scene": type("S", (), {"gdal": ()})()})()
            task.block, task.path = None, "nowhere.block"
            with pytest.raises(OutputError):
                executor_module._on_worker(task)

        worker = type("W", (), {"name": 0, "address": "here"})()
        monkeypatch.setattr("distributed.get_worker", lambda: worker)
        threads = [threading.Thread(target=go) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1, 1, 1, 1]


class TestCounts:
    def test_the_record_counts_what_is_valid_and_skipped(
        self, make_raster, model, counter, tmp_path, rng
    ) -> None:
        values = rng.integers(1, 255, (3, 141, 187)).astype(np.uint8)
        values[:, :80] = 0
        values[:, 100, 3:9] = 0
        path = make_raster(values, nodata=0)
        record = tilesegment.predict(path, tmp_path / "m.tif", model=model())
        assert record["counts"]["valid_pixels"] == 61 * 187 - 6
        assert (read_mask(tmp_path / "m.tif") != NODATA).sum() == 61 * 187 - 6
        counts = record["counts"]
        assert counts["tiles_predicted"] == counter.calls
        assert counts["tiles_skipped"] > 0
        assert record["plan"]["input"] == str(path)
        from tilesegment.run.record import is_record

        assert is_record(tmp_path / "m.tif.json")
        with rasterio.open(tmp_path / "m.tif") as dataset:
            assert dataset.tags()["input"] == str(path)


class TestBatches:
    def test_every_epoch_has_an_order_of_its_own(self) -> None:
        orders = [[k for batch in epoch_batches(40, 8, 5, epoch) for _, k in batch] for epoch in range(4)]
        assert len({tuple(order) for order in orders}) == 4
        assert all(sorted(order) == list(range(40)) for order in orders)
        again = [[k for batch in epoch_batches(40, 8, 5, epoch) for _, k in batch] for epoch in range(4)]
        assert again == orders
        other = [k for batch in epoch_batches(40, 8, 6, 0) for _, k in batch]
        assert other != orders[0]

    def test_scenes_are_drawn_by_their_area(self, make_raster, tmp_path, rng) -> None:
        from tilesegment.datasets.opening import open_reader

        box = shapely.box(353990, 3056000, 354001, 3057001)
        geopandas.GeoDataFrame(geometry=[box], crs="EPSG:32645").to_file(tmp_path / "f.gpkg")
        # The first scene is all 10, the second all 200, and nine times as large.
        for name, value, size in (("small.tif", 10, (60, 60)), ("large.tif", 200, (180, 180))):
            make_raster(np.full((3, *size), value, np.uint8), name)
        scenes = [{"scene": n, "footprints": "f.gpkg"} for n in ("small.tif", "large.tif")]
        reader = open_reader("rooftop-scenes", tmp_path, {"scenes": scenes}, size=(16, 16))
        seen = [int(reader.read("train", k, np.random.default_rng(k)).values[0, 0, 0]) for k in range(300)]
        assert set(seen) == {10, 200}
        # Of 300 draws with a share of 0.1, five standard deviations are 26.
        assert abs(seen.count(10) - 30) <= 26


class TestTraining:
    def test_what_comes_in_from_outside_is_ignored(self) -> None:
        """A picture smaller than the crop: its rim is filled, and no class is learnt from it."""
        from tilesegment.datasets.sample import IGNORE, Sample
        from tilesegment.train.augment import Augment

        whole = np.ones((10, 12), np.bool_)
        sample = Sample(np.ones((3, 10, 12), np.float32), np.full((10, 12), 1, np.uint8), whole)
        steps = ([], [{"Affine": {"translate_px": {"x": 5, "y": 3}, "p": 1.0}}], [{"Rotate": {"p": 1.0}}])
        for number, given in enumerate(steps):
            found = Augment(given, (32, 32), "crop")(sample, number)
            assert found.label.shape == (32, 32)
            assert set(np.unique(found.label).tolist()) == {1, IGNORE}
            assert (found.label[~found.valid] == IGNORE).all()
            assert found.valid.sum() <= 120
            assert found.valid.any()

    def test_values_beyond_the_range_are_cut(self) -> None:
        """By hand: of a range of 10 to 20, 5 is 0, 15 is 0.5 and 40 is 1, before mean and deviation."""
        from tilesegment.model.preprocess import ValueRange, normalise

        card = fake_card(2, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 1.0))
        values = np.array([[[5, 10, 15, 20, 40]]] * 3, np.int16)
        valid = np.array([[True] * 4 + [False]])
        found = normalise(values, None, ValueRange.of_all((10.0, 20.0), 3), card)
        np.testing.assert_allclose(found[0, 0], [-1, -1, 0, 1, 1])
        np.testing.assert_allclose(found[1, 0], [-2, -2, 0, 2, 2])
        np.testing.assert_allclose(found[2, 0], [-0.5, -0.5, 0, 0.5, 0.5])
        found = normalise(values, valid, ValueRange.of_all((10.0, 20.0), 3), card)
        assert found[:, 0, 4].tolist() == [0, 0, 0]

    def test_every_step_draws_its_own_dropout(self) -> None:
        from tilesegment.train.loop import _mixed

        seeds = {(s, e, k): _mixed(s, e, k) for s in range(3) for e in range(3) for k in range(3)}
        assert len(set(seeds.values())) == 27
        assert _mixed(1, 2, 3) == _mixed(1, 2, 3)

    @pytest.mark.parametrize(
        ("count", "shares", "expected"),
        [
            (100, {"train": 0.9, "val": 0.05, "test": 0.05}, (90, 5, 5)),
            (10, {"train": 0.9, "val": 0.05, "test": 0.05}, (8, 1, 1)),
            (3, {"train": 0.9, "val": 0.05, "test": 0.05}, (1, 1, 1)),
            (2, {"train": 0.9, "val": 0.05, "test": 0.05}, (1, 1, 0)),
            (1, {"train": 0.9, "val": 0.05, "test": 0.05}, (1, 0, 0)),
            (10, {"val": 0.2}, (8, 2, 0)),
        ],
    )
    def test_shares(self, count: int, shares: dict[str, float], expected: tuple[int, ...]) -> None:
        from tilesegment.datasets.split import split

        names = [f"n{k}" for k in range(count)]
        found = split(names, [""] * count, shares, 3, "here")
        assert tuple(len(found[name]) for name in ("train", "val", "test")) == expected
        assert sorted(k for part in found.values() for k in part) == list(range(count))
        assert split(names, [""] * count, shares, 3, "here") == found

    def test_shares_are_drawn(self) -> None:
        """Neither the first nor the last pictures of a folder, and others with another seed."""
        from tilesegment.datasets.split import split

        names = [f"n{k}" for k in range(60)]
        drawn = [split(names, [""] * 60, {"val": 0.3}, seed, "here")["val"] for seed in range(5)]
        assert len({tuple(part) for part in drawn}) == 5
        assert all(part not in (list(range(18)), list(range(42, 60))) for part in drawn)

    def test_weights_of_a_class_that_never_occurs(self) -> None:
        """By hand: of two classes with shares of 3/4 and 1/4 and a third without a pixel, 4/9, 4/3, 4/3."""
        from types import SimpleNamespace

        from tilesegment.datasets.sample import IGNORE
        from tilesegment.train.loop import class_weights

        label = np.array([[0, 0, 0, 1, IGNORE]], np.uint8)
        reader: Any = SimpleNamespace(
            classes=[SimpleNamespace(name=name) for name in "abc"],
            names=lambda split: ["x"],
            read=lambda split, index, rng: SimpleNamespace(label=label),
        )
        config: Any = SimpleNamespace(class_weights="auto", seed=0)
        found = class_weights(config, reader, 3)
        assert found is not None
        assert found.tolist() == pytest.approx([4 / 9, 4 / 3, 4 / 3])


class TestMatching:
    def test_an_overlap_of_exactly_the_threshold_counts(self, tmp_path: Path) -> None:
        """By hand: half of a roof has an IoU of 1/2 with it, and a little less than half does not reach."""
        for share, f1 in ((0.5, 1.0), (0.499, 0.0)):
            for name, width in (("found", 20 * share), ("truth", 20)):
                box = shapely.box(354000, 3057000, 354000 + width, 3057010)
                frame = geopandas.GeoDataFrame(geometry=[box], crs="EPSG:32645")
                frame.to_file(tmp_path / f"{name}.gpkg")
            figures = tilesegment.evaluate_scene(
                tmp_path / "found.gpkg", tmp_path / "truth.gpkg", pixel=1.0
            )
            assert figures["objects"]["f1"] == f1


class TestThreads:
    def test_a_forward_pass_has_one_thread(self, tmp_path: Path) -> None:
        """More would give other last bits than the same pass with one."""
        import torch

        from tests.test_engines import saved_model, setup_of
        from tilesegment.model.engines.torch import TorchPredictor

        predictor = TorchPredictor(saved_model(tmp_path), setup_of())
        counts = [predictor._pool.submit(torch.get_num_threads).result() for _ in range(3)]
        assert counts == [1, 1, 1]


class TestSignals:
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_exit_codes(self, tmp_path: Path, number: int, code: int) -> None:
        script = (
            "import os, signal\nfrom tilesegment.cli import main\nfrom tilesegment.run import vectorize\n"
            # Background jobs of a shell ignore it.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"vectorize.vectorize_raster = lambda *a: os.kill(os.getpid(), {int(number)})\n"
            "from tilesegment.api import scenes\nscenes.vectorize_raster = vectorize.vectorize_raster\n"
            f"main.main(['vectorize', 'm.tif', '-o', '{tmp_path}/r.gpkg'])"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == code

    @pytest.mark.parametrize(("flags", "said"), [([], True), (["-q"], False), (["-v"], True)])
    def test_warnings_are_seen_unless_quiet(self, tmp_path: Path, flags: list[str], said: bool) -> None:
        from tests.test_cli import run

        with rasterio.open(
            tmp_path / "m.tif", "w", driver="GTiff", dtype="uint8", count=1, height=9, width=9
        ) as dataset:
            dataset.write(np.ones((1, 9, 9), np.uint8))
        done = run("vectorize", tmp_path / "m.tif", "-o", tmp_path / "r.gpkg", *flags)
        assert done.returncode == 0
        assert ("warning: no CRS" in done.stderr) == said


def test_a_record_names_the_versions_that_decide_a_result() -> None:
    found = versions()
    assert found["numpy"] == np.__version__
    assert found["shapely"] == shapely.__version__
    assert {"python", "gdal", "rasterio", "pyogrio"} <= set(found)


def test_a_remote_file_is_told_by_its_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length may stay what it was."""
    from tilesegment.run.scene import identity

    headers: dict[str, str] = {}

    class Answer:
        def __enter__(self) -> Any:
            return type("Head", (), {"headers": headers})

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(identity, "urlopen", lambda request, timeout: Answer())
    found = []
    for mark in ({"ETag": "a"}, {"ETag": "b"}, {"Last-Modified": "c"}, {"Last-Modified": "d"}, {}):
        headers.clear()
        headers.update({"Content-Length": "100", **mark})
        found.append(identity._url_identity("https://h/a.tif?X-Amz-Signature=1"))
        assert found[-1] == identity._url_identity("https://h/a.tif?X-Amz-Signature=2")
    assert found[-1] is None
    assert len(set(found)) == 5
