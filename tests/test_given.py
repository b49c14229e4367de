"""Scenes that are values, and polygons that are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from geopandas.testing import assert_geodataframe_equal
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

import tilesegment
from tests.fakes import Wavy, save_fake, use
from tilesegment.errors import InputError, SettingsError
from tilesegment.raster.given import as_file
from tilesegment.raster.source import open_scene

AFFINE, CRS = Affine(0.15, 0, 354000, 0, -0.15, 3057000), "EPSG:32645"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    use(monkeypatch, Wavy())
    return save_fake(tmp_path / "model.safetensors")


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    coarse = rng.integers(1, 255, (3, 9, 11))
    return np.kron(coarse, np.ones((1, 10, 10))).astype(np.uint8)


def read(path: str) -> tuple[np.ndarray, np.ndarray]:
    with open_scene(path) as scene:
        found = scene.read(scene.grid.window)
    return found.values, found.valid


class TestPolygons:
    def test_are_what_a_file_would_hold(self, pixels, model, make_raster, tmp_path: Path) -> None:
        scene = make_raster(pixels)
        record = tilesegment.predict(scene, tmp_path / "r.gpkg", model=model, min_area=0)
        expected = geopandas.read_file(tmp_path / "r.gpkg")
        before = sorted(tmp_path.iterdir())
        found = tilesegment.predict(scene, model=model, min_area=0)
        assert sorted(tmp_path.iterdir()) == before
        assert len(found) == record["counts"]["polygons"] >= 3
        assert_geodataframe_equal(found, expected, check_like=True)
        assert found.crs.to_epsg() == 32645
        assert found.attrs["record"]["counts"] == record["counts"]

    def test_other_outputs_come_along(self, pixels, model, make_raster, tmp_path: Path) -> None:
        found = tilesegment.predict(make_raster(pixels), model=model, min_area=0, mask=tmp_path / "m.tif")
        with rasterio.open(tmp_path / "m.tif") as mask:
            area = (mask.read(1) == 1).sum() * 0.15**2
        assert found.area.sum() == pytest.approx(area, rel=0.02)

    def test_of_many_scenes(self, pixels, model, make_raster, tmp_path: Path) -> None:
        scene = make_raster(pixels)
        (tmp_path / "bad.tif").write_bytes(b"no")
        for _ in range(2):
            good, bad = tilesegment.predict_many([scene, tmp_path / "bad.tif"], tmp_path / "o", model=model)
            assert_geodataframe_equal(good.polygons(), geopandas.read_file(tmp_path / "o" / "scene.gpkg"))
        assert good.outcome == "skipped"
        with pytest.raises(InputError, match=r"bad\.tif: has no polygons .*not a raster"):
            bad.polygons()
        (mask,) = tilesegment.predict_many([scene], tmp_path / "m", format="tif", model=model)
        with pytest.raises(InputError, match=r"has no polygons$"):
            mask.polygons()


class TestArrays:
    def test_are_predicted_where_they_lie(self, pixels, model, make_raster) -> None:
        expected = tilesegment.predict(make_raster(pixels), model=model, min_area=0)
        for transform in (AFFINE, tuple(AFFINE), [0.15, 0, 354000, 0, -0.15, 3057000]):
            found = tilesegment.predict(pixels, model=model, min_area=0, transform=transform, crs=CRS)
            assert_geodataframe_equal(found, expected)

    def test_without_a_place_are_pictures(self, pixels, model) -> None:
        found = tilesegment.predict(pixels, model=model, min_area=0)
        assert found.crs is None
        assert found.total_bounds.min() >= 0
        assert found.total_bounds.max() <= 110

    @pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
    def test_keep_every_value(self, pixels, dtype: str, tmp_path: Path) -> None:
        values = pixels.astype(dtype) / (1 if dtype[0] != "f" else 256)
        found, valid = read(as_file(values.astype(dtype), AFFINE, CRS, tmp_path))
        np.testing.assert_array_equal(found, values)
        assert found.dtype == dtype
        assert valid.all()

    def test_of_one_band(self, pixels, tmp_path: Path) -> None:
        found, _ = read(as_file(pixels[0], None, None, tmp_path))
        np.testing.assert_array_equal(found, np.repeat(pixels[:1], 3, axis=0))

    def test_masks_and_nan_are_no_ground(self, pixels, tmp_path: Path) -> None:
        mask = np.zeros(pixels.shape, bool)
        mask[:, :20] = True
        mask[0, 40:50] = True
        found, valid = read(as_file(np.ma.array(pixels, mask=mask), AFFINE, CRS, tmp_path))
        np.testing.assert_array_equal(valid, ~mask.all(axis=0))
        np.testing.assert_array_equal(found[:, 50:], pixels[:, 50:])
        floats = pixels.astype(np.float32)
        floats[1, 7, 9] = np.nan
        (tmp_path / "nan").mkdir()
        _, valid = read(as_file(floats, AFFINE, CRS, tmp_path / "nan"))
        assert np.argwhere(~valid).tolist() == [[7, 9]]

    @pytest.mark.parametrize(
        ("values", "options", "words"),
        [
            (np.zeros((30, 40, 3), np.uint8), {}, "bands come first, as rasterio reads them"),
            (np.zeros((0, 4, 4), np.uint8), {}, "of shape (0, 4, 4): use (bands, rows, columns)"),
            (np.zeros(9, np.uint8), {}, "of shape (9,): use (bands, rows, columns)"),
            (np.zeros((3, 4, 4), complex), {}, "array of complex128: use whole numbers or floats"),
            (np.zeros((3, 4, 4), bool), {}, "array of bool: use whole numbers or floats"),
            (np.zeros((3, 4, 4), np.uint8), {"crs": CRS}, "transform and crs need each other"),
            (np.zeros((3, 4, 4), np.uint8), {"transform": AFFINE}, "transform and crs need each other"),
            (np.zeros((3, 4, 4), np.uint8), {"transform": AFFINE, "crs": "?"}, "crs '?' is no known CRS"),
            (np.zeros((3, 4, 4), np.uint8), {"transform": "x", "crs": CRS}, "is no affine transformation"),
            ("scene.tif", {"crs": CRS}, "transform and crs are for arrays; src_crs names that of a file"),
        ],
    )
    def test_that_are_no_scene(self, values: Any, options: dict[str, Any], words: str) -> None:
        with pytest.raises(SettingsError) as caught:
            tilesegment.predict(values, **options)
        assert words in str(caught.value)


class TestOpenDataSets:
    def test_a_file_is_read_by_its_name(self, pixels, make_raster, tmp_path: Path) -> None:
        path = make_raster(pixels)
        with rasterio.open(path) as dataset:
            assert as_file(dataset, None, None, tmp_path) == str(path)
        assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]

    def test_in_memory_and_warped(self, pixels, model, make_raster) -> None:
        path = make_raster(pixels)
        expected = tilesegment.predict(path, model=model, min_area=0)
        with MemoryFile(path.read_bytes()) as memory, memory.open() as dataset:
            assert_geodataframe_equal(tilesegment.predict(dataset, model=model, min_area=0), expected)
        with rasterio.open(path) as dataset, WarpedVRT(dataset, crs="EPSG:3857") as warped:
            found = tilesegment.predict(warped, model=model, min_area=0)
        assert found.crs.to_epsg() == 3857
        middle = found.to_crs(32645).union_all().centroid
        assert middle.distance(expected.union_all().centroid) < 3

    def test_an_overview_is_read_as_it_is_open(self, pixels, make_raster, tmp_path: Path) -> None:
        path = make_raster(pixels)
        with rasterio.open(path, "r+") as dataset:
            dataset.build_overviews([2])
        with rasterio.open(path, overview_level=0) as dataset:
            expected = dataset.read()
            (tmp_path / "given").mkdir()
            found, _ = read(as_file(dataset, None, None, tmp_path / "given"))
        np.testing.assert_array_equal(found, expected)

    def test_nodata_that_is_no_number_is_equal_to_itself(self, make_raster, tmp_path: Path) -> None:
        path = make_raster(np.ones((3, 20, 20), np.float32), nodata=float("nan"))
        with rasterio.open(path) as dataset:
            assert as_file(dataset, None, None, tmp_path) == str(path)

    def test_workers_elsewhere_need_files(self, pixels, model, make_raster, tmp_path: Path) -> None:
        for source, output in ((make_raster(pixels), None), (pixels, tmp_path / "r.gpkg")):
            with pytest.raises(SettingsError, match="workers elsewhere cannot see what has no file"):
                tilesegment.predict(source, output, model=model, scheduler="tcp://127.0.0.1:9")  # type: ignore[call-overload]

    def test_what_is_written_still_is_refused(self, pixels, make_raster, tmp_path: Path) -> None:
        path = make_raster(pixels)
        with rasterio.open(path, "r+") as dataset, pytest.raises(SettingsError, match="open for writing"):
            as_file(dataset, None, None, tmp_path)
        with rasterio.open(path) as dataset, pytest.raises(SettingsError, match="a data set has its own"):
            as_file(dataset, AFFINE, None, tmp_path)
