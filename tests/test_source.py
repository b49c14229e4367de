from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pyproj import Transformer
from rasterio.enums import ColorInterp
from rasterio.shutil import copy as copy_raster

from tests import layouts
from tilesegment.errors import InputError, SettingsError
from tilesegment.grid import Grid, Window
from tilesegment.raster.aoi import inside_aoi, read_aoi
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.opening import is_remote
from tilesegment.raster.picture import Part, picture_size, read_colour
from tilesegment.raster.source import open_scene
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
        # What shines through is still there.
        alpha[0, 4:, 3] = 1, 60, 127, 128
        path = make_raster(np.concatenate([self.values, alpha]), colorinterp=(*RGB, ColorInterp.alpha))
        with open_scene(path) as scene:
            assert scene.spec.bands == (1, 2, 3)
            assert scene.read(scene.grid.window).valid.sum() == 40

    def test_alpha_and_nodata_together(self, make_raster) -> None:
        values, alpha = self.values.copy(), np.full((1, 8, 8), 255, np.uint8)
        alpha[0, :, :3] = 0
        # What shines through is still there.
        alpha[0, 4:, 3] = 1, 60, 127, 128
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

    @pytest.mark.parametrize("across", [False, True])
    def test_pixels_twice_as_long_as_wide(self, make_raster, rng, across: bool) -> None:
        values = rng.integers(0, 255, (3, 100, 100), np.uint8)
        values = values[:, :, :50] if not across else values[:, :50]
        col, row = (0.075, 0.15) if across else (0.15, 0.075)
        path = make_raster(values, transform=Affine(col, 0, 354000, 0, -row, 3057000))
        with open_scene(path, gsd=0.15) as scene:
            assert scene.spec.shape == (50, 50)
            found = scene.read(scene.grid.window).values
        axes = (3, 50, 50, 2) if across else (3, 50, 2, 50)
        expected = values.reshape(axes).mean(axis=3 if across else 2)
        assert np.abs(found - expected).max() <= 0.5

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

    def test_beside_a_picture_that_its_points_turn_there_is_nothing(self, make_raster) -> None:
        from rasterio.control import GroundControlPoint as Gcp

        path = make_raster(np.full((3, 80, 80), 200, np.uint8), crs=None, transform=Affine.identity())
        turn = Affine.translation(500000, 3000000) @ Affine.rotation(45) @ Affine.scale(0.15, -0.15)
        with rasterio.open(path, "r+") as dataset:
            points = [Gcp(row, col, *(turn @ (col, row))) for row in (0, 80) for col in (0, 80)]
            dataset.gcps = points, rasterio.crs.CRS.from_epsg(32645)
        with open_scene(path) as scene:
            pixels = scene.read(scene.grid.window)
        # A square that stands on its corner fills half of the square around it.
        assert pixels.valid.mean() == pytest.approx(0.5, abs=0.03)
        assert (pixels.values[:, pixels.valid] == 200).all()


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

    @pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
    def test_a_blank_stretch_along_any_edge(self, make_raster, rng, side: str) -> None:
        values = rng.integers(1, 250, (3, 600, 600), np.uint8)
        along, across = slice(200, 400), slice(0, 50) if side in ("left", "top") else slice(550, 600)
        rows, cols = (along, across) if side in ("left", "right") else (across, along)
        values[:, rows, cols] = 255
        with open_scene(make_raster(values)) as scene:
            assert blank_edge(scene) == 255

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

    @pytest.mark.parametrize("declared", [None, 255])
    def test_invalid_pixels_have_no_part_in_coarser_ones(self, make_raster, declared: int | None) -> None:
        values = np.full((3, 60, 60), 100, np.uint8)
        values[:, :, 31:] = 255
        path = make_raster(values, nodata=declared)
        with open_scene(path, nodata=255, gsd=2 * 0.15) as scene:
            assert scene.grid.width == 30
            pixels = scene.read(Window(0, 0, 30, 30))
        found, valid = pixels.values, pixels.valid
        np.testing.assert_array_equal(found[:, :, :15], 100)
        # Half of this one is invalid.
        assert set(found[:, valid[:, 15], 15].ravel().tolist()) <= {100}
        assert not valid[:, 16:].any()

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

    from tilesegment.run.scene.identity import scene_identity

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


class TestSidecars:
    """What lies beside a file belongs to it."""

    def test_world_file_and_aux_xml(self, tmp_path: Path) -> None:
        path = layouts.save_tif(tmp_path / "agency.tif", np.ones((3, 20, 30), np.uint8))
        (tmp_path / "agency.tfw").write_text("0.15\n0\n0\n-0.15\n500000.075\n1199999.925\n")
        wkt = rasterio.crs.CRS.from_epsg(32651).to_wkt()
        (tmp_path / "agency.tif.aux.xml").write_text(
            f"<PAMDataset><SRS>{wkt.replace('&', '&amp;')}</SRS>"
            '<PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand></PAMDataset>'
        )
        with open_scene(path) as scene:
            assert scene.native.transform == Affine(0.15, 0, 500000, 0, -0.15, 1200000)
            assert rasterio.crs.CRS.from_wkt(scene.native.crs).to_epsg() == 32651
            assert scene._dataset.nodatavals[0] == 7

    def test_a_mask_beside_it(self, tmp_path: Path) -> None:
        path = layouts.save_tif(tmp_path / "m.tif", np.ones((3, 20, 30), np.uint8))
        mask = np.full((1, 20, 30), 255, np.uint8)
        mask[0, :5] = 0
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(mask[0])
        assert (tmp_path / "m.tif.msk").exists()
        with open_scene(path) as scene:
            np.testing.assert_array_equal(scene.read(scene.grid.window).valid, mask[0] > 0)

    def test_nobody_lists_a_folder_over_a_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert all(
            is_remote(p)
            for p in ("https://a/b.tif", "s3://a/b.tif", "/vsicurl/http://a", "/vsis3_streaming/a")
        )
        assert not any(is_remote(p) for p in ("a.tif", "/a/b.tif", "/vsizip/a.zip/b.tif", "file:///a.tif"))
        seen = []

        def opened(path: str) -> None:
            seen.append((rasterio.env.getenv() if rasterio.env.hasenv() else {}).get(LISTING))
            raise rasterio.errors.RasterioIOError("stop")

        monkeypatch.setattr(rasterio, "open", opened)
        for path, options in (
            ("https://a/b.tif", ()),
            ("b.tif", ()),
            ("https://a/b.tif", ((LISTING, "FALSE"),)),
        ):
            with pytest.raises(InputError):
                open_scene(path, gdal=options)
        assert seen == ["EMPTY_DIR", None, "FALSE"]


LISTING = "GDAL_DISABLE_READDIR_ON_OPEN"


class TestGivenNodata:
    """A given value adds to every mark that a scene has itself."""

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
    @pytest.mark.parametrize("declared", [None, 0])
    def test_it_adds_to_the_declared_one(self, make_raster, dtype: str, declared: int | None) -> None:
        values = np.full((3, 40, 60), 90, dtype)
        values[:, :, :20], values[:, :, 40:] = 0, 200
        values[0, 5, 50] = 90  # one band of another value is ground
        path = make_raster(values, nodata=declared)
        with open_scene(path, nodata=200) as scene:
            valid = scene.read(scene.grid.window).valid
        assert valid[:, 20:40].all()
        assert valid[5, 50]
        assert valid[:, 40:].sum() == 1
        assert valid[:, :20].all() == (declared is None)

    def test_a_value_of_floats_that_no_binary_number_is(self, make_raster) -> None:
        values = np.full((3, 10, 10), 5.0, np.float32)
        values[:, :3] = -9999.9
        values[:, 5:7] = -32768.0
        with open_scene(make_raster(values, nodata=-32768), nodata=-9999.9) as scene:
            valid = scene.read(scene.grid.window).valid
        assert valid.sum(axis=1).tolist() == [0, 0, 0, 10, 10, 0, 0, 10, 10, 10]

    @pytest.mark.parametrize("value", [float(np.finfo(np.float32).min), 1234567.0])
    def test_numbers_of_many_digits(self, make_raster, value: float) -> None:
        values = np.full((3, 10, 10), 5.0, np.float32)
        values[:, :3] = value
        if value > 0:
            values[:, 3] = value + 1
        with open_scene(make_raster(values), nodata=value) as scene:
            valid = scene.read(scene.grid.window).valid
        assert valid.sum(axis=1).tolist() == [0, 0, 0, *[10] * 7]

    def test_with_alpha_and_resampled(self, make_raster) -> None:
        values = np.full((4, 80, 80), 255, np.uint8)
        values[:3, :40] = 60
        values[3, :, :20] = 0
        path = make_raster(values, colorinterp=(*RGB, ColorInterp.alpha))
        with open_scene(path, nodata=255, gsd=0.3) as scene:
            valid = scene.read(scene.grid.window).valid
        assert valid.shape == (40, 40)
        expected = np.zeros((40, 40), bool)
        expected[:20, 10:] = True
        np.testing.assert_array_equal(valid, expected)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -1, 256, 0.5])
    def test_what_no_pixel_can_hold_is_a_usage_error(self, make_raster, value: float) -> None:
        path = make_raster(np.zeros((3, 8, 8), np.uint8))
        with pytest.raises(SettingsError, match=r"is no uint8 value; .* holds 0 to 255"):
            open_scene(path, nodata=value)


class TestAreas:
    """An area's sides are lines in its own CRS, and its corners may be anywhere on Earth."""

    PLACES: ClassVar = {
        "utm": ("EPSG:32651", 500000, 1200000),
        "lambert": ("EPSG:2154", 652000, 6862000),
        "arctic": ("EPSG:3413", 200000, -1000000),
        "pole": ("EPSG:3413", -19, 19),
        "antimeridian": ("EPSG:3832", 3339500, 4000000),
    }

    @pytest.mark.parametrize("place", PLACES)
    def test_a_scene_inside_the_whole_world(self, tmp_path: Path, place: str) -> None:
        crs, left, top = self.PLACES[place]
        grid = Grid(
            rasterio.crs.CRS.from_string(crs).to_wkt(), Affine(0.15, 0, left, 0, -0.15, top), 256, 256
        )
        frame = geopandas.GeoDataFrame(geometry=[shapely.box(-180, -90, 180, 90)], crs="EPSG:4326")
        frame.to_file(tmp_path / "world.geojson")
        area = read_aoi(str(tmp_path / "world.geojson"), grid)
        assert inside_aoi(shapely.to_wkb(area), grid.window).mean() > (0.99 if place == "pole" else 0.9999)

    def test_half_a_scene_beyond_the_antimeridian(self, tmp_path: Path) -> None:
        crs, _, top = self.PLACES["antimeridian"]
        wkt = rasterio.crs.CRS.from_string(crs).to_wkt()
        middle = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(180, 33.0)[0]
        grid = Grid(wkt, Affine(1, 0, middle - 50, 0, -1, top), 100, 100)
        for box, expected in (((-180, 0, -170, 80), False), ((170, 0, 180, 80), True)):
            frame = geopandas.GeoDataFrame(geometry=[shapely.box(*box)], crs="EPSG:4326")
            frame.to_file(tmp_path / "half.geojson")
            area = read_aoi(str(tmp_path / "half.geojson"), grid)
            inside = inside_aoi(shapely.to_wkb(area), grid.window)
            west = np.arange(100) < 50
            np.testing.assert_array_equal(inside, np.tile(west == expected, (100, 1)))

    def test_a_long_side_in_degrees_is_a_curve_elsewhere(self, tmp_path: Path) -> None:
        """The parallel of 45 degrees over 8 degrees of longitude, on a conic map: 400 m off its chord."""
        transformer = Transformer.from_crs("EPSG:4326", "EPSG:2154", always_xy=True)
        x, y = transformer.transform(3.0, 45.0)
        grid = Grid(
            rasterio.crs.CRS.from_epsg(2154).to_wkt(), Affine(1, 0, x - 50, 0, -1, y + 50), 100, 100
        )
        frame = geopandas.GeoDataFrame(geometry=[shapely.box(-1, 45, 7, 50)], crs="EPSG:4326")
        frame.to_file(tmp_path / "half.geojson")
        inside = inside_aoi(shapely.to_wkb(read_aoi(str(tmp_path / "half.geojson"), grid)), grid.window)
        np.testing.assert_array_equal(inside, np.arange(100)[:, None] < 50 + np.zeros((1, 100)))

    @pytest.mark.parametrize("ending", [".GEOJSON", ".geoparquet", ".PARQUET", ".gpkg"])
    def test_endings(self, tmp_path: Path, ending: str) -> None:
        grid = Grid(rasterio.crs.CRS.from_epsg(32651).to_wkt(), Affine(1, 0, 5e5, 0, -1, 1.2e6), 10, 10)
        frame = geopandas.GeoDataFrame(geometry=[shapely.box(5e5, 1.2e6 - 5, 5e5 + 10, 1.2e6)], crs=32651)
        path = tmp_path / f"a{ending}"
        frame.to_parquet(path) if "parquet" in ending.lower() else frame.to_file(path, driver=None)
        assert inside_aoi(shapely.to_wkb(read_aoi(str(path), grid)), grid.window).sum() == 50

    def test_collections_hold_areas_too(self, tmp_path: Path) -> None:
        grid = Grid(rasterio.crs.CRS.from_epsg(32651).to_wkt(), Affine(1, 0, 5e5, 0, -1, 1.2e6), 10, 10)
        inner = shapely.GeometryCollection([shapely.box(5e5, 1.2e6 - 5, 5e5 + 10, 1.2e6)])
        several = shapely.GeometryCollection([shapely.Point(5e5, 1.2e6), inner])
        geopandas.GeoDataFrame(geometry=[several], crs=32651).to_file(tmp_path / "a.gpkg")
        assert inside_aoi(shapely.to_wkb(read_aoi(str(tmp_path / "a.gpkg"), grid)), grid.window).sum() == 50

    @pytest.mark.parametrize("wrong", [np.nan, np.inf])
    def test_coordinates_that_are_no_numbers(self, tmp_path: Path, wrong: float) -> None:
        grid = Grid(rasterio.crs.CRS.from_epsg(32651).to_wkt(), Affine(1, 0, 5e5, 0, -1, 1.2e6), 10, 10)
        area = shapely.Polygon([(5e5, 1.2e6), (5e5 + 9, 1.2e6), (5e5 + 9, wrong), (5e5, 1.2e6 - 9)])
        geopandas.GeoDataFrame(geometry=[area], crs=32651).to_parquet(tmp_path / "a.parquet")
        with pytest.raises(InputError, match="holds coordinates that are no numbers"):
            read_aoi(str(tmp_path / "a.parquet"), grid)


class TestPaths:
    """URIs and odd names, with and without something added to the file."""

    values = np.arange(3 * 6 * 8, dtype=np.uint8).reshape(3, 6, 8)

    @pytest.mark.parametrize("nodata", [None, 5])
    @pytest.mark.parametrize("kind", ["plain", "file:", "file://", "zip:", "zip://", "/vsizip/"])
    def test_uris(self, make_raster, tmp_path: Path, kind: str, nodata: float | None) -> None:
        path = make_raster(self.values, "a b&c?d.tif")
        with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
            archive.write(path, "in/x.tif")
        names = {
            "plain": str(path),
            "file:": f"file:{path}",
            "file://": f"file://{path}",
            "zip:": f"zip:{tmp_path}/z.zip!in/x.tif",
            "zip://": f"zip://{tmp_path}/z.zip!in/x.tif",
            "/vsizip/": f"/vsizip/{tmp_path}/z.zip/in/x.tif",
        }
        with open_scene(names[kind], nodata=nodata) as scene:
            pixels = scene.read(scene.grid.window)
            assert scene.grid.crs is not None
        np.testing.assert_array_equal(pixels.values, self.values)
        # A pixel is invalid where every band has the value, and none does.
        assert pixels.valid.all()
        flat = make_raster(np.repeat(self.values[:1], 3, axis=0), "a b&c?d.tif")
        if kind == "plain" and nodata is not None:
            with open_scene(str(flat), nodata=nodata) as scene:
                np.testing.assert_array_equal(scene.read(scene.grid.window).valid, self.values[0] != 5)

    def test_a_missing_file_by_uri(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such file"):
            open_scene(f"file://{tmp_path}/none.tif")

    def test_a_palette_with_an_odd_name_keeps_its_colours(self, make_raster) -> None:
        numbers = np.array([[0, 1], [2, 1]], np.uint8)
        colours = {0: (10, 20, 30), 1: (40, 50, 60), 2: (7, 8, 9)}
        path = make_raster(numbers, "p?.tif", colormap={k: (*v, 255) for k, v in colours.items()})
        with open_scene(path) as scene:
            found = scene.read(scene.grid.window).values
        expected = np.array([[colours[v] for v in row] for row in numbers.tolist()]).transpose(2, 0, 1)
        np.testing.assert_array_equal(found, expected)


class TestCrs:
    def test_a_given_one_replaces_the_files(self, make_raster) -> None:
        values = np.zeros((3, 20, 30), np.uint8)
        for own in ("EPSG:32645", None):
            path = make_raster(values, crs=own)
            with open_scene(path, crs="EPSG:32637") as scene:
                assert pyproj.CRS(scene.grid.crs).to_epsg() == 32637
                assert scene.grid.transform == Affine(0.15, 0, 354000, 0, -0.15, 3057000)
        with pytest.raises(SettingsError, match="--src-crs 'EPSG:nothing'"):
            open_scene(path, crs="EPSG:nothing")

    @pytest.mark.parametrize(("unit", "metres"), [("metre", 1.0), ("foot", 0.3048)])
    def test_a_local_plane_has_its_own_metres(self, make_raster, unit: str, metres: float) -> None:
        crs = f'LOCAL_CS["Site",LOCAL_DATUM["x",0],UNIT["{unit}",{metres}],AXIS["E",EAST],AXIS["N",NORTH]]'
        path = make_raster(
            np.zeros((3, 20, 30), np.uint8), crs=crs, transform=Affine(0.5, 0, 100, 0, -0.25, 200)
        )
        with open_scene(path) as scene:
            along_row, along_col = scene.grid.metres_per_pixel or (0, 0)
            areas = scene.grid.areas_m2(np.array([[3.0, 4.0]]))
        assert (along_row, along_col) == pytest.approx((0.25 * metres, 0.5 * metres))
        assert areas == pytest.approx([0.125 * metres**2])


class TestOrientation:
    """EXIF: a photograph is read as its camera was held, by Pillow's own turning."""

    @pytest.fixture
    def photo(self, tmp_path: Path, rng: np.random.Generator) -> Callable[[int], Path]:
        def make(orientation: int) -> Path:
            values = np.kron(rng.integers(0, 255, (6, 9, 3)), np.ones((8, 8, 1))).astype(np.uint8)
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = tmp_path / f"photo{orientation}.jpg"
            Image.fromarray(values).save(path, quality=95, subsampling=0, exif=exif)
            return path

        return make

    @staticmethod
    def upright(path: Path) -> np.ndarray:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture)).transpose(2, 0, 1)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_in_prediction_and_in_training(self, photo, orientation: int) -> None:
        path = photo(orientation)
        expected = self.upright(path).astype(int)
        size = (72, 48) if orientation > 4 else (48, 72)
        assert picture_size(path) == expected.shape[1:] == size
        with open_scene(path) as scene:
            assert (scene.grid.height, scene.grid.width) == size
            found = scene.read(scene.grid.window)
            part = scene.read(Window(5, 11, 20, 9))
            turned = any("EXIF" in note for note in scene.notes())
        assert turned == (orientation > 1)
        # Pillow and GDAL decode JPEG alike but for a level or two, unless chroma is subsampled.
        assert np.abs(found.values - expected).max() <= 3
        np.testing.assert_array_equal(part.values, found.values[:, 5:25, 11:20])
        np.testing.assert_array_equal(read_colour(path).values, found.values)
        window = Window(4, 8, 16, 24)
        np.testing.assert_array_equal(
            read_colour(path, Part(window, (16, 24))).values, found.values[:, 4:20, 8:32]
        )

    def test_at_another_size(self, photo) -> None:
        path = photo(6)
        with open_scene(path, size=(36, 24)) as scene:
            found = scene.read(scene.grid.window).values.astype(int)
        expected = self.upright(path).reshape(3, 36, 2, 24, 2).mean(axis=(2, 4))
        assert np.abs(found - expected).max() <= 3

    def test_what_has_its_place_on_the_earth_is_not_turned(self, photo) -> None:
        path = photo(6)
        path.with_suffix(".jgw").write_text("1\n0\n0\n-1\n1000\n2000\n")
        with open_scene(path) as scene:
            assert (scene.grid.height, scene.grid.width) == (48, 72)


class TestOddFiles:
    def test_uris_of_archives_relative_to_here(self, make_raster, tmp_path: Path, monkeypatch) -> None:
        path = make_raster(np.zeros((3, 6, 8), np.uint8), "m n.tif")
        with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
            archive.write(path, "m.tif")
        monkeypatch.chdir(tmp_path)
        names = ["zip://z.zip!m.tif", "zip+file://z.zip!m.tif", "zip://z.zip!/m.tif", "zip:z.zip!m.tif"]
        for name in [*names, f"file://{tmp_path}/m%20n.tif", f"file://{tmp_path}/m n.tif"]:
            with open_scene(name) as scene:
                assert scene.read(scene.grid.window).values.shape == (3, 6, 8), name

    def test_a_png_without_its_end(self, tmp_path: Path, rng) -> None:
        path = tmp_path / "p.png"
        Image.fromarray(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(path)
        whole = path.read_bytes()
        for share in (0.2, 0.5, 0.95, 1 - 12 / len(whole)):
            path.write_bytes(whole[: int(len(whole) * share)])
            for read in (read_colour, open_scene):
                with pytest.raises(InputError, match=r"p\.png"):
                    read(path)
        path.write_bytes(whole)
        assert read_colour(path).values.shape == (3, 64, 64)

    def test_pixels_without_a_size(self, make_raster) -> None:
        path = make_raster(np.zeros((3, 6, 8), np.uint8), transform=Affine(0, 0, 5, 0, 0, 9))
        with pytest.raises(InputError, match="gives pixels no size"):
            open_scene(path)

    @pytest.mark.parametrize("crs", ["EPSG:4978", "EPSG:5773"])
    def test_what_is_no_crs_of_a_map(self, make_raster, crs: str) -> None:
        path = make_raster(np.zeros((3, 20, 30), np.uint8))
        with pytest.raises(SettingsError, match="is no CRS of a map"):
            open_scene(path, crs=crs)

    def test_a_geocentric_scene(self, make_raster) -> None:
        path = make_raster(np.zeros((3, 20, 30), np.uint8), crs="EPSG:4978")
        with pytest.raises(InputError, match=r"\.tif: .*is no CRS of a map"):
            open_scene(path, gsd=0.5)

    def test_an_area_in_the_layer_that_has_one(self, make_raster, tmp_path: Path) -> None:
        path = make_raster(np.zeros((3, 20, 30), np.uint8))
        point, box = shapely.Point(354001, 3056999), shapely.box(354001, 3056998, 354002, 3056999)
        areas = tmp_path / "a.gpkg"
        for layer, shape in (("notes", point), ("area", box)):
            geopandas.GeoDataFrame(geometry=[shape], crs="EPSG:32645").to_file(areas, layer=layer)
        kml = tmp_path / "a.kml"
        corners = ["85.5,27.6", "85.6,27.6", "85.6,27.7", "85.5,27.7", "85.5,27.6"]
        lon, lat = Transformer.from_crs(32645, 4326, always_xy=True).transform(354000, 3057000)
        corners = [f"{lon + x},{lat + y}" for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]
        kml.write_text(
            '<kml xmlns="http://www.opengis.net/kml/2.2"><Document>'
            f"<Folder><name>p</name><Placemark><Point><coordinates>{corners[0]}</coordinates></Point>"
            "</Placemark></Folder><Folder><name>q</name><Placemark><Polygon><outerBoundaryIs><LinearRing>"
            f"<coordinates>{' '.join(corners)}</coordinates></LinearRing></outerBoundaryIs></Polygon>"
            "</Placemark></Folder></Document></kml>"
        )
        with open_scene(path) as scene:
            assert read_aoi(str(areas), scene.grid).area == pytest.approx(1 / 0.15**2)
            assert read_aoi(str(kml), scene.grid).covers(shapely.box(0, 0, 30, 20))


@pytest.mark.parametrize(
    ("pixel", "resampled"), [(0.129, True), (0.132, False), (0.15, False), (0.171, False), (0.174, True)]
)
def test_a_scene_within_15_percent_of_a_pixel_size_is_read_as_it_is(
    make_raster, pixel: float, resampled: bool
) -> None:
    """Either way: 1 / 1.15 to 1.15 times 0.15 m."""
    transform = Affine(pixel, 0, 500000, 0, -pixel, 3000000)
    path = make_raster(np.ones((3, 60, 60), np.uint8), transform=transform)
    with open_scene(path, gsd=0.15) as scene:
        assert (scene.spec.shape is not None) == resampled
