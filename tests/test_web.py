"""Vector tiles with a page that shows them, and records in notebooks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
from affine import Affine
from PIL import Image

import tilesegment
from tests.test_pipeline import counter, model, scene
from tilesegment.errors import OutputError, SettingsError, TilesegmentError
from tilesegment.grid import Grid
from tilesegment.interop.web import check_tiles
from tilesegment.raster.display import in_mercator

__all__ = ["counter", "model", "scene"]
CHROMIUM = shutil.which("chromium")


def view(path: Path) -> dict[str, object]:
    found = re.search(r"const VIEW = (.*);", path.read_text(encoding="utf-8"))
    assert found is not None
    told: dict[str, object] = json.loads(found[1])
    return told


@pytest.mark.parametrize("ending", ["gpkg", "parquet", "fgb", "geojson", "shp"])
def test_tiles_hold_what_the_layer_holds(scene, model, counter, tmp_path: Path, ending: str) -> None:
    out, tiles = tmp_path / f"roofs.{ending}", tmp_path / "web.pmtiles"
    before = set(tmp_path.iterdir())
    record = tilesegment.predict(scene, out, model=model(), pmtiles=tiles, min_area=0)
    new = {path.name for path in set(tmp_path.iterdir()) - before}
    assert {"web.pmtiles", "web.html", "web.jpg"} <= new
    assert not [name for name in new if name.endswith("aux.xml")]
    assert str(tiles) in record["outputs"]
    drawn = pyogrio.read_dataframe(tiles)
    assert record["counts"]["polygons"] >= 3
    assert drawn["id"].nunique() == record["counts"]["polygons"]
    layer = geopandas.read_parquet(out) if ending == "parquet" else geopandas.read_file(out, layer=0)
    expected, found = layer.to_crs(3857).union_all(), drawn.to_crs(3857).union_all()
    # At zoom 16 a step is 0.15 m.
    assert found.symmetric_difference(expected).area < 0.1 * expected.area
    west, south, east, north = layer.to_crs(4326).total_bounds
    told = view(tmp_path / "web.html")
    box = told["bounds"]
    assert isinstance(box, list)
    assert box[0] <= west + 1e-7
    assert box[1] <= south + 1e-7
    assert box[2] >= east - 1e-7
    assert box[3] >= north - 1e-7
    assert (told["tiles"], told["picture"], told["title"]) == ("web.pmtiles", "web.jpg", "roofs")
    assert told["classes"] == {"class 1": [128, 0, 0]}


def test_names_end_no_script(scene, model, counter, tmp_path: Path) -> None:
    out = tmp_path / "a<b>&.geojson"
    tilesegment.predict(scene, out, model=model(), pmtiles=tmp_path / "w.pmtiles")
    text = (tmp_path / "w.html").read_text()
    assert view(tmp_path / "w.html")["title"] == "a<b>&"
    assert "<title>a&lt;b&gt;&amp;</title>" in text
    assert "a<b>" not in text


@pytest.mark.parametrize("ending", ["gpkg", "geojsonl", "parquet"])
def test_nothing_found_is_an_empty_archive(
    make_raster, model, counter, tmp_path: Path, ending: str
) -> None:
    scene = make_raster(np.zeros((3, 50, 60), np.uint8))
    record = tilesegment.predict(
        scene, tmp_path / f"r.{ending}", model=model(), pmtiles=tmp_path / "w.pmtiles", min_area=1e6
    )
    assert record["counts"]["polygons"] == 0
    data = (tmp_path / "w.pmtiles").read_bytes()
    assert (data[:8], len(data)) == (b"PMTiles\x03", 130)
    root, length = int.from_bytes(data[8:16], "little"), int.from_bytes(data[16:24], "little")
    assert data[root : root + length] == b"\x00"
    told, size = int.from_bytes(data[24:32], "little"), int.from_bytes(data[32:40], "little")
    assert json.loads(data[told : told + size]) == {}
    west, south = (int.from_bytes(data[k : k + 4], "little", signed=True) / 1e7 for k in (102, 106))
    assert [west, south] == pytest.approx(view(tmp_path / "w.html")["bounds"][:2], abs=1e-6)  # type: ignore[index]


class TestRefusals:
    def test_pages_of_one_name(self, scene, model, counter, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="two outputs have the same name"):
            tilesegment.predict(
                scene, tmp_path / "r.gpkg", model=model(), pmtiles=tmp_path / "r.pmtiles",
                report=tmp_path / "r.html",
            )  # fmt: skip

    def test_across_180_degrees_and_without_an_earth(self) -> None:
        across = Grid("EPSG:32660", Affine(1000, 0, 700000, 0, -1000, 100000), 200, 300)
        with pytest.raises(SettingsError, match="across 180 degrees"):
            check_tiles(Path("w.pmtiles"), across)
        axes = 'AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]'
        local = f'ENGCRS["site",EDATUM["x"],CS[Cartesian,2],{axes}]'
        with pytest.raises(TilesegmentError):
            check_tiles(Path("w.pmtiles"), Grid(local, Affine(1, 0, 0, 0, -1, 0), 10, 10))

    def test_what_holds_no_polygons(self, scene, model, counter, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="pmtiles holds polygons"):
            tilesegment.predict(scene, tmp_path / "m.tif", model=model(), pmtiles=tmp_path / "w.pmtiles")
        with pytest.raises(SettingsError, match=r"vector tiles are written as \.pmtiles"):
            tilesegment.predict(scene, tmp_path / "m.gpkg", model=model(), pmtiles=tmp_path / "w.mbtiles")

    def test_what_lies_nowhere(self) -> None:
        with pytest.raises(SettingsError, match="lies nowhere on a map"):
            check_tiles(Path("w.pmtiles"), Grid(None, Affine.identity(), 10, 10))

    def test_a_build_without_the_driver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pyogrio, "list_drivers", lambda: {"PMTiles": "r"})
        with pytest.raises(SettingsError, match="this build of GDAL cannot write it"):
            check_tiles(Path("w.pmtiles"), Grid("EPSG:32645", Affine.identity(), 10, 10))

    def test_what_belongs_to_others(self, scene, model, counter, tmp_path: Path) -> None:
        (tmp_path / "w.jpg").write_text("mine")
        options = {"model": model(), "pmtiles": tmp_path / "w.pmtiles"}
        with pytest.raises(OutputError, match=r"w\.jpg: exists already, and would belong to w\.pmtiles"):
            tilesegment.predict(scene, tmp_path / "r.gpkg", **options)
        assert (tmp_path / "w.jpg").read_text() == "mine"
        tilesegment.predict(scene, tmp_path / "r.gpkg", **options, overwrite=True)
        assert Image.open(tmp_path / "w.jpg").size == (187, 141)


def test_a_picture_lies_where_it_should() -> None:
    """A grid of UTM, turned a little: its middle pixel, coloured, is found at its place in Web Mercator."""
    grid = Grid("EPSG:32645", Affine(10, 0, 500000, 0, -10, 5000000) @ Affine.rotation(20), 40, 60)
    picture = np.zeros((40, 60, 3), np.float32)
    picture[18:22, 28:32] = (10, 200, 30)
    valid = np.ones((40, 60), bool)
    valid[:, :10] = False
    found, (west, south, east, north) = in_mercator(picture, valid, grid)
    assert found.shape == (40, 60, 4)
    rows, cols = np.nonzero(found[..., 1] > 100)
    ((lon, lat),) = grid.to_lonlat(grid.to_world(np.array([[30.0, 20.0]])))
    assert west + (cols.mean() + 0.5) / 60 * (east - west) == pytest.approx(lon, abs=(east - west) / 60)
    assert north - (rows.mean() + 0.5) / 40 * (north - south) == pytest.approx(
        lat, abs=(north - south) / 40
    )
    assert 0.2 < (found[..., 3] > 0).mean() < 0.8


class TestNotebooks:
    def test_a_record_is_a_map(self, scene, model, counter, tmp_path: Path) -> None:
        record = tilesegment.predict(scene, tmp_path / "r.gpkg", model=model())
        assert json.loads(json.dumps(record, default=str))["counts"] == record["counts"]
        page = record._repr_html_()  # type: ignore[attr-defined]
        rings = page.count("M")
        shapes = geopandas.read_file(tmp_path / "r.gpkg", layer="r").geometry
        assert rings - page.count("Mpx") == sum(1 + len(shape.interiors) for shape in shapes)
        assert f"{len(shapes)} polygons" in page
        numbers = [float(v) for v in re.findall(r"[M ]([\d.]+),", page)]
        assert max(numbers) <= 481

    def test_of_a_mask_or_without_its_file(self, scene, model, counter, tmp_path: Path) -> None:
        record = tilesegment.predict(scene, tmp_path / "m.tif", model=model())
        assert "Mpx in" in record._repr_html_()  # type: ignore[attr-defined]
        record = tilesegment.predict(scene, tmp_path / "r.gpkg", model=model())
        (tmp_path / "r.gpkg").write_bytes(b"no layer")
        assert "cannot be read" in record._repr_html_()  # type: ignore[attr-defined]
        (tmp_path / "r.gpkg").unlink()
        assert "<svg" not in record._repr_html_()  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_draws_the_page(data: Path, tmp_path: Path) -> None:
    scene = data / "scenes" / "philippines_epsg3857.tif"
    record = tilesegment.predict(scene, tmp_path / "roofs.gpkg", pmtiles=tmp_path / "roofs.pmtiles")
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
             "--disable-background-networking --disable-component-update --window-size=1000,700 "
             "--hide-scrollbars --virtual-time-budget=9000")  # fmt: skip
    try:
        subprocess.run(
            [str(CHROMIUM), *flags.split(), f"--user-data-dir={tmp_path / 'profile'}",
             f"--screenshot={tmp_path / 'page.png'}", f"http://127.0.0.1:{server.server_port}/roofs.html"],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
    finally:
        server.shutdown()
    page = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    blue = (page[..., 2] - page[..., 0] > 60).sum() / page[..., 0].size
    area = geopandas.read_file(tmp_path / "roofs.gpkg", layer="roofs").area.sum()
    west, south, east, north = pyogrio.read_info(tmp_path / "roofs.gpkg", layer="roofs")["total_bounds"]
    assert record["counts"]["polygons"] > 20
    # The scene fills the window's width, and half of its height.
    assert blue == pytest.approx(area / ((east - west) * (north - south)) * 0.7, rel=0.6)
