from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from rasterio.shutil import copy as copy_raster

from tilesegment.errors import InputError, SettingsError
from tilesegment.grid import Window
from tilesegment.raster.source import gdal_environment, open_scene
from tilesegment.raster.values import blank_edge, blank_value, value_range

RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def test_a_plain_scene_is_read_as_it_is(make_raster, rng) -> None:
    values = rng.integers(0, 255, (3, 40, 50), np.uint8)
    with open_scene(make_raster(values), gsd=0.15) as scene:
        pixels = scene.read(Window(5, 6, 7, 8))
        np.testing.assert_array_equal(pixels.values, values[:, 5:12, 6:14])
        assert pixels.valid.all()
        assert scene.spec.shape is None


def test_a_window_may_reach_beyond_the_scene(make_raster, rng) -> None:
    values = rng.integers(1, 255, (3, 10, 10), np.uint8)
    with open_scene(make_raster(values)) as scene:
        pixels = scene.read(Window(-2, 7, 6, 6))
        np.testing.assert_array_equal(pixels.values[:, 2:, :3], values[:, :4, 7:])
        assert pixels.valid.sum() == 12
        assert not pixels.valid[:2].any()
        assert not scene.read(Window(50, 50, 3, 3)).valid.any()


class TestValidity:
    """Every mark of invalid pixels counts, alone and together."""

    values = np.full((3, 8, 8), 100, np.uint8)

    def test_nodata_needs_all_bands(self, make_raster) -> None:
        values = self.values.copy()
        values[:, 0, 0] = 0
        values[0, 1, 1] = 0  # a dark red pixel is still ground
        with open_scene(make_raster(values, nodata=0)) as scene:
            valid = scene.read(scene.grid.window).valid
        assert not valid[0, 0]
        assert valid.sum() == 63

    def test_alpha(self, make_raster) -> None:
        alpha = np.full((1, 8, 8), 255, np.uint8)
        alpha[0, :, :3] = 0
        path = make_raster(np.concatenate([self.values, alpha]), colorinterp=(*RGB, ColorInterp.alpha))
        with open_scene(path) as scene:
            assert scene.spec.bands == (1, 2, 3)
            assert scene.read(scene.grid.window).valid.sum() == 40

    def test_alpha_and_nodata_together(self, make_raster) -> None:
        values, alpha = self.values.copy(), np.full((1, 8, 8), 255, np.uint8)
        alpha[0, :, :3] = 0
        values[:, :2] = 7
        path = make_raster(np.concatenate([values, alpha]), colorinterp=(*RGB, ColorInterp.alpha), nodata=7)
        with open_scene(path) as scene:
            assert scene.read(scene.grid.window).valid.sum() == 6 * 5

    def test_internal_mask(self, make_raster) -> None:
        mask = np.full((8, 8), 255, np.uint8)
        mask[3] = 0
        with open_scene(make_raster(self.values, mask=mask)) as scene:
            assert scene.read(scene.grid.window).valid.sum() == 56

    def test_nan_in_any_band(self, make_raster) -> None:
        values = self.values.astype(np.float32)
        values[1, 2, 2] = np.nan
        values[2, 3, 3] = np.inf
        with open_scene(make_raster(values)) as scene:
            pixels = scene.read(scene.grid.window)
        assert pixels.valid.sum() == 62
        assert np.isfinite(pixels.values).all()

    def test_nodata_given_adds_to_the_mask(self, make_raster) -> None:
        values, mask = self.values.copy(), np.full((8, 8), 255, np.uint8)
        values[:, 0] = 255
        mask[3] = 0
        with open_scene(make_raster(values, mask=mask), nodata=255) as scene:
            assert scene.read(scene.grid.window).valid.sum() == 48

    def test_nodata_that_does_not_fit_is_refused(self, make_raster) -> None:
        with pytest.raises(SettingsError, match="holds 0 to 255"):
            open_scene(make_raster(self.values), nodata=-9999)

    def test_nodata_is_kept_out_of_resampled_pixels(self, make_raster) -> None:
        values = self.values.copy()
        values[:, :, :4] = 0
        values[:, 3:5, 3] = 0
        with open_scene(make_raster(values), nodata=0, gsd=0.3) as scene:
            pixels = scene.read(scene.grid.window)
        assert (pixels.values[:, pixels.valid] == 100).all()
        assert pixels.valid.sum() == 8


class TestBands:
    def test_named_colours_are_found_in_any_order(self, make_raster, rng) -> None:
        values = rng.integers(0, 255, (4, 5, 5), np.uint8)
        order = (ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined)
        with open_scene(make_raster(values, colorinterp=order)) as scene:
            assert scene.spec.bands == (3, 2, 1)

    def test_one_grey_band_stands_for_three(self, make_raster, rng) -> None:
        with open_scene(make_raster(rng.integers(0, 255, (1, 5, 5), np.uint8))) as scene:
            assert scene.spec.bands == (1, 1, 1)
            assert scene.read(scene.grid.window).values.shape == (3, 5, 5)
            assert "one band stands for 3" in scene.notes()[0]

    def test_a_palette_is_expanded(self, make_raster) -> None:
        indices = np.array([[1, 2], [2, 1]], np.uint8)
        path = make_raster(indices, colormap={1: (10, 20, 30, 255), 2: (200, 100, 50, 255)})
        with open_scene(path) as scene:
            values = scene.read(scene.grid.window).values
        assert values[:, 0, 0].tolist() == [10, 20, 30]
        assert values[:, 0, 1].tolist() == [200, 100, 50]
        with open_scene(path, bands=1, raw=True) as scene:
            np.testing.assert_array_equal(scene.read(scene.grid.window).values[0], indices)

    def test_two_bands_cannot_be_three(self, make_raster, rng) -> None:
        with pytest.raises(InputError, match="has 2 bands, the model reads 3"):
            open_scene(make_raster(rng.integers(0, 255, (2, 5, 5), np.uint8)))

    def test_a_band_that_is_not_there(self, make_raster, rng) -> None:
        with pytest.raises(SettingsError, match="--bidx 9 does not exist"):
            open_scene(make_raster(rng.integers(0, 255, (3, 5, 5), np.uint8)), bands=(1, 2, 9))


class TestScale:
    @pytest.mark.parametrize(
        ("pixel", "read_as_is"), [(0.14, True), (0.17, True), (0.1, False), (0.2, False)]
    )
    def test_fifteen_percent(self, make_raster, rng, pixel: float, read_as_is: bool) -> None:
        path = make_raster(
            rng.integers(0, 255, (3, 60, 60), np.uint8),
            transform=Affine(pixel, 0, 354000, 0, -pixel, 3057000),
        )
        with open_scene(path, gsd=0.15) as scene:
            assert (scene.spec.shape is None) == read_as_is
            if not read_as_is:
                assert scene.grid.metres_per_pixel == pytest.approx((0.15, 0.15), rel=0.02)

    def test_pixels_that_are_not_square_on_the_ground_become_so(self, make_raster, rng) -> None:
        path = make_raster(
            rng.integers(0, 255, (3, 100, 100), np.uint8),
            crs="EPSG:4326",
            transform=Affine(1e-6, 0, 30, 0, -1e-6, 60),
        )
        with open_scene(path, gsd=0.15) as scene:
            assert scene.grid.metres_per_pixel == pytest.approx((0.15, 0.15), rel=0.02)
            assert scene.grid.width < scene.grid.height

    def test_a_satellite_scene_is_not_blown_up(self, make_raster, rng) -> None:
        path = make_raster(
            rng.integers(0, 255, (3, 10, 10), np.uint8), transform=Affine(10, 0, 354000, 0, -10, 3057000)
        )
        with pytest.raises(InputError, match=r"its pixels are 10 m, the model's are 0\.15 m.*--gsd 10"):
            open_scene(path, gsd=0.15)

    def test_resampled_windows_agree_wherever_they_overlap(self, make_raster, rng) -> None:
        path = make_raster(
            rng.integers(0, 255, (3, 700, 900), np.uint8),
            transform=Affine(0.11, 0, 354000, 0, -0.11, 3057000),
        )
        with open_scene(path, gsd=0.2) as first, open_scene(path, gsd=0.2) as second:
            whole = first.read(first.grid.window).values
            for row, col in [(0, 0), (3, 111), (200, 17), (311, 401)]:
                part = second.read(Window(row, col, 60, 70))
                expected = whole[:, row : row + 60, col : col + 70]
                shape = expected.shape[1:]
                np.testing.assert_array_equal(part.values[:, : shape[0], : shape[1]], expected)

    def test_ground_control_points_alone_are_warped(self, make_raster, rng) -> None:
        from rasterio.control import GroundControlPoint as Gcp

        path = make_raster(
            rng.integers(1, 255, (3, 80, 80), np.uint8), crs=None, transform=Affine.identity()
        )
        with rasterio.open(path, "r+") as dataset:
            points = [
                Gcp(row, col, 500000 + col * 0.15, 3000000 - row * 0.15)
                for row in (0, 80)
                for col in (0, 80)
            ]
            dataset.gcps = points, rasterio.crs.CRS.from_epsg(32645)
        with open_scene(path, gsd=0.15) as scene:
            assert scene.grid.metres_per_pixel == pytest.approx((0.15, 0.15), rel=0.02)
            assert scene.read(scene.grid.window).valid.mean() > 0.95
            assert any("ground control points" in note for note in scene.notes())


class TestValues:
    def test_the_cards_range_where_the_dtype_is_its_own(self, make_raster, rng) -> None:
        with open_scene(make_raster(rng.integers(0, 255, (3, 9, 9), np.uint8))) as scene:
            found = value_range(scene, None, "uint8", (0, 255))
        assert (found.low, found.high, found.source) == ((0,) * 3, (255,) * 3, "model")

    def test_else_the_scenes_percentiles_of_valid_pixels(self, make_raster) -> None:
        ramp = np.tile(np.arange(1, 1001, dtype=np.uint16), (3, 4, 1))
        ramp[2] += 5000
        ramp[:, 0] = 0
        with open_scene(make_raster(ramp, nodata=0)) as scene:
            found = value_range(scene, None, "uint8", (0, 255))
        assert found.low == pytest.approx((21, 21, 5021), abs=1)
        assert found.high == pytest.approx((980, 980, 5980), abs=1)

    def test_given(self, make_raster, rng) -> None:
        with open_scene(make_raster(rng.integers(0, 4000, (3, 9, 9), np.uint16))) as scene:
            assert value_range(scene, "10,4000", "uint8", (0, 255)).high == (4000,) * 3
            assert value_range(scene, "0%,100%", "uint8", (0, 255)).source.startswith("percentiles 0-100")
            for wrong in ("5", "5,1", "a,b", "3%,200%"):
                with pytest.raises(SettingsError, match="--stretch"):
                    value_range(scene, wrong, "uint8", (0, 255))

    def test_blank_areas(self, make_raster, rng) -> None:
        values = rng.integers(1, 254, (3, 200, 200), np.uint8)
        with open_scene(make_raster(values)) as scene:
            assert blank_edge(scene) is None
        values[:, :60, :60] = 255
        with open_scene(make_raster(values)) as scene:
            assert blank_edge(scene) == 255
        with open_scene(make_raster(values), nodata=255) as scene:
            assert blank_edge(scene) is None

    @given(st.sampled_from([0, 255, 7]), st.booleans())
    def test_blank_value(self, value: int, disturbed: bool) -> None:
        values = np.full((3, 4, 4), value, np.uint8)
        if disturbed:
            values[1, 2, 2] ^= 1
        expected = value if value in (0, 255) and not disturbed else None
        assert blank_value(values, np.ones((4, 4), bool)) == expected


class TestUnusable:
    @pytest.mark.parametrize("name", ["nothing.tif", "folder/none.tif"])
    def test_missing(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match="no such file"):
            open_scene(tmp_path / name)

    def test_empty_and_foreign(self, tmp_path: Path) -> None:
        (tmp_path / "empty.tif").touch()
        (tmp_path / "text.tif").write_text("hello")
        with pytest.raises(InputError, match="empty"):
            open_scene(tmp_path / "empty.tif")
        with pytest.raises(InputError, match="not a raster"):
            open_scene(tmp_path / "text.tif")

    def test_complex(self, make_raster) -> None:
        with pytest.raises(InputError, match="complex"):
            open_scene(make_raster(np.zeros((3, 4, 4), np.complex64)))

    def test_damaged_pixels(self, make_raster, rng) -> None:
        path = make_raster(rng.integers(0, 255, (3, 300, 300), np.uint8), compress="deflate")
        path.write_bytes(path.read_bytes()[:100_000])
        with open_scene(path) as scene, pytest.raises(InputError, match="damaged, rows"):
            scene.read(scene.grid.window)


def test_vrts_list_every_file_behind_them(make_raster, rng, tmp_path: Path) -> None:
    path = make_raster(rng.integers(0, 255, (3, 30, 30), np.uint8))
    copy_raster(path, tmp_path / "scene.vrt", driver="VRT")
    with open_scene(tmp_path / "scene.vrt") as scene:
        assert {Path(name).name for name in scene.files} == {"scene.vrt", "scene.tif"}


def test_a_scene_over_http_is_read_and_identified(make_raster, rng, tmp_path: Path) -> None:
    import functools
    import threading
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    from tilesegment.run.identity import scene_identity

    values = rng.integers(0, 255, (3, 30, 30), np.uint8)
    make_raster(values)
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/scene.tif"
        for nodata in (None, 3):
            with open_scene(url, nodata=nodata) as scene:
                np.testing.assert_array_equal(scene.read(scene.grid.window).values, values)
                assert scene_identity(scene)[0].startswith(url)
    finally:
        server.shutdown()


@pytest.mark.parametrize("size", ["64", "64MB", "64000000"])
def test_the_size_of_gdals_cache(size: str) -> None:
    from rasterio.env import getenv

    with gdal_environment((("GDAL_CACHEMAX", size),)):
        assert getenv()["GDAL_CACHEMAX"] == 64_000_000
    with (
        pytest.raises(SettingsError, match="no amount of memory"),
        gdal_environment((("GDAL_CACHEMAX", "x"),)),
    ):
        pass
