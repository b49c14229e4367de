"""Whole runs: outputs, resumption, refusals. The predictor is a fake; everything else is real."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.features import shapes

import tilesegment
from tests.fakes import Wavy, save_fake, use
from tilesegment.errors import InputError, OutputError, SettingsError, TilesegmentError
from tilesegment.grid import Grid, Window
from tilesegment.run.block import predict as block_module
from tilesegment.run.scene.ledger import ledger_folder
from tilesegment.run.scene.publish import on_output_grid
from tilesegment.tiling import memory


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Wavy:
    """Replaces the network; counts the tiles it is asked for."""
    wavy = Wavy()
    use(monkeypatch, wavy, 3000)
    return wavy


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., str]:
    def make(classes: int = 2, **fields: Any) -> str:
        return save_fake(tmp_path / f"model{classes}.safetensors", classes, **fields)

    return make


@pytest.fixture
def scene(make_raster: Callable[..., Path], rng: np.random.Generator) -> Path:
    coarse = rng.integers(0, 255, (3, 15, 19))
    smooth = np.kron(coarse, np.ones((1, 10, 10))).astype(np.uint8)
    return make_raster(smooth[:, :141, :187])


def read_mask(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        values: np.ndarray = dataset.read(1)
    return values


def test_a_run_writes_all_it_was_asked_for(scene, model, counter, tmp_path: Path) -> None:
    out = tmp_path / "roofs.gpkg"
    record = tilesegment.predict(
        scene,
        out,
        model=model(),
        mask=tmp_path / "mask.tif",
        probability=tmp_path / "p.tif",
        overlay=tmp_path / "o.png",
        min_area=0,
        simplify=0,
        fill_holes=0,
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "scene.tif", "model2.safetensors", "roofs.gpkg", "roofs.gpkg.json", "mask.tif",
        "mask.tif.aux.xml", "p.tif", "o.png", "o.pgw", "o.png.aux.xml",
    }  # fmt: skip
    assert record["counts"]["blocks"] > 1
    assert all(seconds >= 0 for seconds in record["seconds"].values())
    assert record["seconds"]["forward"] + record["seconds"]["read"] > 0
    assert json.loads((tmp_path / "roofs.gpkg.json").read_text())["counts"] == record["counts"]

    with rasterio.open(tmp_path / "mask.tif") as mask, rasterio.open(tmp_path / "p.tif") as probability:
        assert mask.profile["tiled"]
        assert mask.compression.name == "deflate"
        assert (mask.nodata, mask.count, mask.shape) == (255, 1, (141, 187))
        assert mask.crs.to_epsg() == 32645
        assert mask.transform == Affine(0.15, 0, 354000, 0, -0.15, 3057000)
        assert mask.colormap(1)[1] == (128, 0, 0, 255)
        assert mask.tags()["model_sha256"] == record["models"][0]["sha256"]
        classes, chance = mask.read(1), probability.read(1)
        assert probability.scales[0] == pytest.approx(1 / 254)
    np.testing.assert_array_equal(classes, chance >= 127)

    roofs = geopandas.read_file(out)
    expected = list(shapes(classes, classes == 1, connectivity=4))
    assert len(roofs) == len(expected) == record["counts"]["polygons"]
    assert list(roofs.columns) == ["id", "class", "area_m2", "perimeter_m", "confidence", "geometry"]
    assert roofs.geometry.area.sum() == pytest.approx((classes == 1).sum() * 0.15**2)
    # UTM's scale factor at the edge of zone 45 is 0.99986: true areas are that much larger.
    assert roofs["area_m2"].sum() == pytest.approx((classes == 1).sum() * 0.15**2, rel=1e-3)
    assert roofs["id"].is_monotonic_increasing
    assert set(roofs["class"]) == {"class 1"}
    assert roofs["confidence"].between(0.5, 1).all()


def test_the_geopackage_carries_its_style_and_origin(scene, model, counter, tmp_path: Path) -> None:
    out = tmp_path / "roofs.gpkg"
    tilesegment.predict(scene, out, model=model(), layer="houses")
    with sqlite3.connect(out) as database:
        (table, qml), *_ = database.execute("SELECT f_table_name, styleQML FROM layer_styles")
        assert table == "houses"
        assert 'value="class 1"' in qml
        metadata = " ".join(row[0] for row in database.execute("SELECT metadata FROM gpkg_metadata"))
        assert "tilesegment" in metadata
        assert database.execute("SELECT count(*) FROM rtree_houses_geom").fetchone()[0] > 0


@pytest.mark.parametrize("name", ["r.gpkg", "r.parquet", "r.fgb", "r.geojson", "r.geojsonl", "r.shp"])
def test_every_vector_format_holds_the_same(scene, model, counter, tmp_path: Path, name: str) -> None:
    reference = tmp_path / "reference.gpkg"
    tilesegment.predict(scene, reference, model=model())
    tilesegment.predict(scene, tmp_path / name, model=model())
    read = geopandas.read_parquet if name.endswith("parquet") else geopandas.read_file
    found, expected = read(tmp_path / name), geopandas.read_file(reference)
    if "geojson" in name:
        assert found.crs.to_authority() in (("OGC", "CRS84"), ("EPSG", "4326"))
        assert found.total_bounds[0] == pytest.approx(85.5, abs=1)
        found = found.to_crs(expected.crs)
    assert found.crs == expected.crs
    # FlatGeobuf is ordered by its index.
    found, expected = found.sort_values("id"), expected.sort_values("id")
    assert found["id"].tolist() == expected["id"].tolist()
    tolerance = 1e-2 if "geojson" in name else 1e-6
    gap = found.geometry.reset_index(drop=True).hausdorff_distance(expected.geometry.reset_index(drop=True))
    assert gap.max() < tolerance
    assert found["area_m2"].tolist() == pytest.approx(expected["area_m2"].tolist())


def test_dst_crs_moves_the_polygons_and_not_their_areas(scene, model, counter, tmp_path: Path) -> None:
    tilesegment.predict(scene, tmp_path / "a.gpkg", model=model())
    tilesegment.predict(scene, tmp_path / "b.gpkg", model=model(), dst_crs="EPSG:3857")
    one, other = geopandas.read_file(tmp_path / "a.gpkg"), geopandas.read_file(tmp_path / "b.gpkg")
    assert other.crs == pyproj.CRS("EPSG:3857")
    assert one["area_m2"].tolist() == other["area_m2"].tolist()
    with pytest.raises(SettingsError, match="no known CRS"):
        tilesegment.predict(scene, tmp_path / "c.gpkg", model=model(), dst_crs="nonsense")
    assert not (tmp_path / "c.gpkg").exists()


def test_several_classes(scene, model, counter, tmp_path: Path) -> None:
    tilesegment.predict(scene, tmp_path / "r.gpkg", mask=tmp_path / "m.tif", model=model(4), min_area=0)
    frame = geopandas.read_file(tmp_path / "r.gpkg")
    assert set(frame["class"]) == {"class 1", "class 2", "class 3"}
    assert shapely.coverage_is_valid(frame.geometry.to_numpy())
    classes = read_mask(tmp_path / "m.tif")
    assert set(np.unique(classes)) == {0, 1, 2, 3}
    with pytest.raises(SettingsError, match="threshold is for two classes"):
        tilesegment.predict(scene, tmp_path / "x.gpkg", model=model(4), threshold=0.4)


def test_match_input_puts_the_mask_on_the_inputs_grid(make_raster, model, counter, tmp_path, rng) -> None:
    values = np.kron(rng.integers(0, 255, (3, 20, 24)), np.ones((1, 12, 12))).astype(np.uint8)
    fine = make_raster(values, transform=Affine(0.06, 0.01, 354000, 0.01, -0.06, 3057000))
    tilesegment.predict(fine, tmp_path / "own.tif", model=model())
    tilesegment.predict(fine, tmp_path / "same.tif", model=model(), match_input=True)
    with rasterio.open(tmp_path / "own.tif") as own, rasterio.open(tmp_path / "same.tif") as same:
        assert same.shape == (240, 288)
        assert same.transform == Affine(0.06, 0.01, 354000, 0.01, -0.06, 3057000)
        assert own.shape[0] < 110
        mask, matched = own.read(1), same.read(1)
        for row, col in [(0, 0), (100, 17), (239, 287), (57, 203)]:
            x, y = same.transform @ (col + 0.5, row + 0.5)
            inner_col, inner_row = ~own.transform @ (x, y)
            assert matched[row, col] == mask[int(inner_row), int(inner_col)]


def test_bbox_and_aoi_cut_from_the_same_prediction(scene, model, counter, tmp_path: Path) -> None:
    tilesegment.predict(scene, tmp_path / "all.tif", model=model())
    calls = counter.calls
    box = (354000 + 0.15 * 40, 3057000 - 0.15 * 90, 354000 + 0.15 * 100, 3057000 - 0.15 * 30)
    tilesegment.predict(scene, tmp_path / "box.tif", model=model(), bbox=box)
    assert counter.calls - calls < calls
    everything = read_mask(tmp_path / "all.tif")
    np.testing.assert_array_equal(read_mask(tmp_path / "box.tif"), everything[30:90, 40:100])

    area = geopandas.GeoDataFrame(
        geometry=[geopandas.GeoSeries.from_wkt(["POINT (354012 3056991)"])[0].buffer(3)], crs=32645
    )
    area.to_crs(4326).to_file(tmp_path / "aoi.geojson")
    tilesegment.predict(scene, tmp_path / "aoi.tif", model=model(), aoi=str(tmp_path / "aoi.geojson"))
    with rasterio.open(tmp_path / "aoi.tif") as dataset:
        inside = dataset.read(1)
        col, row = map(round, ~Affine(0.15, 0, 354000, 0, -0.15, 3057000) @ dataset.transform @ (0, 0))
    written = inside != 255
    part = everything[row : row + inside.shape[0], col : col + inside.shape[1]]
    np.testing.assert_array_equal(inside[written], part[written])
    assert written.sum() * 0.15**2 == pytest.approx(np.pi * 9, rel=0.03)


def test_max_memory_changes_blocks_and_nothing_else(scene, model, counter, tmp_path, monkeypatch) -> None:
    results = []
    for k, (work, pixels) in enumerate([(1.0, 10**9), (1.4, 10**9), (3.0, 3000)]):
        monkeypatch.setattr(memory, "MOST_WORK", work)
        monkeypatch.setattr(memory, "MOST_BLOCK_PIXELS", pixels)
        record = tilesegment.predict(
            scene, tmp_path / f"{k}.gpkg", mask=tmp_path / f"{k}.tif", model=model()
        )
        frame = geopandas.read_file(tmp_path / f"{k}.gpkg")
        results.append((record["counts"]["blocks"], frame, read_mask(tmp_path / f"{k}.tif")))
    assert len({blocks for blocks, _, _ in results}) == 3
    for _, frame, mask in results[1:]:
        np.testing.assert_array_equal(mask, results[0][2])
        assert frame.drop(columns="geometry").equals(results[0][1].drop(columns="geometry"))
        assert frame.geometry.to_wkt().tolist() == results[0][1].geometry.to_wkt().tolist()


class Stops(Wavy):
    """Fails after some tiles, as a machine does."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        if self.calls >= self.after:
            raise RuntimeError("power cut")
        return super().__call__(tiles)


def interrupted(monkeypatch, scene: Path, out: Path, after: int, **settings: Any) -> None:
    monkeypatch.setattr(block_module, "load_engine", lambda name, model, setup: Stops(after))
    monkeypatch.setattr(block_module, "_loaded", {})
    with pytest.raises(RuntimeError, match="power cut"):
        tilesegment.predict(scene, out, **settings)
    assert not out.exists()
    assert ledger_folder(out).is_dir()


def restored(monkeypatch, counter: Wavy) -> None:
    counter.calls = 0
    monkeypatch.setattr(block_module, "load_engine", lambda name, model, setup: counter)
    monkeypatch.setattr(block_module, "_loaded", {})


class TestResume:
    def test_the_same_command_goes_on(self, scene, model, counter, tmp_path, monkeypatch, caplog) -> None:
        out, name = tmp_path / "r.tif", model()
        whole = tilesegment.predict(scene, tmp_path / "whole.tif", model=name)
        interrupted(monkeypatch, scene, out, counter.calls // 2, model=name)
        restored(monkeypatch, counter)
        record = tilesegment.predict(scene, out, model=name)
        assert 0 < record["counts"]["blocks_predicted"] < whole["counts"]["blocks"]
        assert counter.calls == record["counts"]["tiles_predicted"]
        assert "going on with" in caplog.text
        np.testing.assert_array_equal(read_mask(out), read_mask(tmp_path / "whole.tif"))
        assert not ledger_folder(out).exists()

    def test_a_changed_vector_setting_predicts_nothing_again(
        self, scene, model, counter, tmp_path, monkeypatch
    ) -> None:
        name, out = model(), tmp_path / "r.gpkg"
        expected = tmp_path / "expected.gpkg"
        changed = {"min_area": 0.3, "threshold": 0.6, "simplify": "2px", "connectivity": 8}
        tilesegment.predict(scene, expected, model=name, **changed)
        # All blocks are done, then writing the output fails.
        monkeypatch.setattr("tilesegment.run.scene.writing.write_layer", fail)
        with pytest.raises(OSError, match="disk full"):
            tilesegment.predict(scene, out, model=name)
        monkeypatch.undo()
        restored(monkeypatch, counter)
        record = tilesegment.predict(scene, out, model=name, **changed)
        assert counter.calls == 0
        assert record["counts"]["blocks_predicted"] == 0
        assert geopandas.read_file(out).to_wkt().equals(geopandas.read_file(expected).to_wkt())

    def test_a_changed_prediction_setting_starts_afresh_and_says_so(
        self, scene, model, counter, tmp_path, monkeypatch, caplog
    ) -> None:
        name, out = model(), tmp_path / "r.tif"
        interrupted(monkeypatch, scene, out, 20, model=name)
        restored(monkeypatch, counter)
        record = tilesegment.predict(scene, out, model=name, overlap=4)
        assert "overlap changed from 8 to 4 since the interrupted run: starting afresh" in caplog.text
        assert record["counts"]["blocks_predicted"] == record["counts"]["blocks"]

    def test_a_changed_input_starts_afresh(
        self, scene, model, counter, tmp_path, monkeypatch, caplog
    ) -> None:
        name, out = model(), tmp_path / "r.tif"
        interrupted(monkeypatch, scene, out, 20, model=name)
        restored(monkeypatch, counter)
        os.utime(scene, (1, 1))
        tilesegment.predict(scene, out, model=name)
        assert "input" in caplog.text
        assert "starting afresh" in caplog.text

    def test_a_torn_block_is_made_again(self, scene, model, counter, tmp_path, monkeypatch, caplog) -> None:
        name, out = model(), tmp_path / "r.tif"
        tilesegment.predict(scene, tmp_path / "whole.tif", model=name)
        total = counter.calls
        interrupted(monkeypatch, scene, out, total * 2 // 3, model=name)
        blocks = sorted(ledger_folder(out).glob("*.block"))
        assert len(blocks) >= 3
        blocks[0].write_bytes(blocks[0].read_bytes()[:-70])
        damaged = bytearray(blocks[1].read_bytes())
        damaged[len(damaged) // 3] ^= 0xFF
        blocks[1].write_bytes(damaged)
        restored(monkeypatch, counter)
        tilesegment.predict(scene, out, model=name)
        assert "2 damaged block files were found" in caplog.text
        np.testing.assert_array_equal(read_mask(out), read_mask(tmp_path / "whole.tif"))

    def test_no_resume(self, scene, model, counter, tmp_path, monkeypatch) -> None:
        name, out = model(), tmp_path / "r.tif"
        interrupted(monkeypatch, scene, out, 40, model=name)
        restored(monkeypatch, counter)
        record = tilesegment.predict(scene, out, model=name, resume=False)
        assert record["counts"]["blocks_predicted"] == record["counts"]["blocks"]

    def test_blocks_stay_as_the_first_run_chose_them(
        self, scene, model, counter, tmp_path, monkeypatch
    ) -> None:
        name, out = model(), tmp_path / "r.tif"
        whole = tilesegment.predict(scene, tmp_path / "whole.tif", model=name)
        interrupted(monkeypatch, scene, out, 40, model=name)
        restored(monkeypatch, counter)
        monkeypatch.setattr(memory, "MOST_WORK", 1.0)
        record = tilesegment.predict(scene, out, model=name)
        assert record["counts"]["blocks"] == whole["counts"]["blocks"]


def fail(*_: object, **__: object) -> None:
    raise OSError("disk full")


class TestRefusals:
    def test_an_existing_output(self, scene, model, counter, tmp_path: Path) -> None:
        out = tmp_path / "r.tif"
        out.write_text("precious")
        with pytest.raises(OutputError, match=r"exists already.*overwrite=True"):
            tilesegment.predict(scene, out, model=model())
        assert out.read_text() == "precious"
        tilesegment.predict(scene, out, model=model(), overwrite=True)
        assert read_mask(out).shape == (141, 187)

    def test_an_output_that_appeared_beside_a_ledger(
        self, scene, model, counter, tmp_path, monkeypatch
    ) -> None:
        name, out = model(), tmp_path / "r.tif"
        interrupted(monkeypatch, scene, out, 20, model=name)
        out.write_text("precious")
        restored(monkeypatch, counter)
        with pytest.raises(OutputError, match="exists already"):
            tilesegment.predict(scene, out, model=name)
        assert out.read_text() == "precious"

    @pytest.mark.parametrize("main", ["r.gpkg", "r.shp"])
    def test_a_crash_between_two_renames_is_finished_by_the_next_run(
        self, scene, model, counter, tmp_path, monkeypatch, main
    ) -> None:
        name, out, mask, overlay = model(), tmp_path / main, tmp_path / "m.tif", tmp_path / "o.png"
        from tilesegment.run import files as files_module

        real, renamed, limit = os.replace, 0, 0

        def stops(temporary: Path, path: Path) -> None:
            nonlocal renamed
            if renamed == limit:
                raise RuntimeError("power cut")
            renamed += 1
            real(temporary, path)

        monkeypatch.setattr(
            files_module.os,
            "replace",
            lambda a, b: (stops if "incomplete" in str(a) and a.suffix != ".tmp" else real)(a, b),
        )
        # Of the overlay three, of the mask two, and of a Shapefile six.
        files = 3 + 2 + (1 if main == "r.gpkg" else 6)
        for crash in range(files):
            limit, renamed = crash, 0
            with pytest.raises(RuntimeError, match="power cut"):
                tilesegment.predict(scene, out, mask=mask, overlay=overlay, model=name, overwrite=crash > 0)
            # The main output comes last: where it is, everything is.
            assert not out.exists()
            assert (overlay.exists(), mask.exists()) == (crash > 2, crash > 4)
            limit, renamed = files, 0
            record = tilesegment.predict(scene, out, mask=mask, overlay=overlay, model=name)
            assert renamed == files
            assert record["counts"]["blocks_predicted"] == 0
            assert [path.exists() for path in (out, mask, overlay)] == [True] * 3
            for path in tmp_path.iterdir():
                if path.name.split(".")[0] in {"r", "m", "o"}:
                    path.unlink()

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), OutputError("a block cannot be read")])
    def test_what_stops_the_polygons_is_not_taken_for_a_full_disk(
        self, scene, model, counter, tmp_path, monkeypatch, error
    ) -> None:
        def stopped(*arguments: Any, **named: Any) -> Any:
            raise error
            yield

        out, name = tmp_path / "r.gpkg", model()
        with monkeypatch.context() as cut:
            cut.setattr("tilesegment.run.scene.writing.made_features", stopped)
            with pytest.raises(type(error)) as found:
                tilesegment.predict(scene, out, model=name)
        assert found.value is error
        assert tilesegment.predict(scene, out, model=name)["counts"]["blocks_predicted"] == 0

    def test_a_folder_that_cannot_be_written_is_known_before(
        self, scene, model, counter, tmp_path, monkeypatch
    ) -> None:
        # Root may write everywhere, so that the system's answer is played.
        locked = tmp_path / "locked"
        locked.mkdir()
        monkeypatch.setattr("tilesegment.run.scene.outputs.os.access", lambda path, mode: path != locked)
        with pytest.raises(OutputError, match="locked: cannot be written to"):
            tilesegment.predict(scene, tmp_path / "r.gpkg", mask=locked / "m.tif", model=model())
        assert counter.calls == 0

    def test_a_crash_while_the_ledger_is_removed(
        self, scene, model, counter, tmp_path, monkeypatch
    ) -> None:
        from tilesegment.run.scene import ledger

        def half(folder: Path, ignore_errors: bool = False) -> None:
            if any(Path(folder).glob("*.block")):
                (folder / "run.json").unlink()
                raise RuntimeError("power cut")

        name, out = model(), tmp_path / "r.tif"
        with monkeypatch.context() as cut:
            cut.setattr(ledger.shutil, "rmtree", half)
            with pytest.raises(RuntimeError, match="power cut"):
                tilesegment.predict(scene, out, model=name)
        before = out.read_bytes()
        assert not ledger_folder(out).exists()
        with pytest.raises(OutputError, match="exists already"):
            tilesegment.predict(scene, out, model=name)
        assert out.read_bytes() == before
        tilesegment.predict(scene, out, model=name, overwrite=True)
        assert not [path.name for path in tmp_path.iterdir() if "partial" in path.name]

    def test_a_second_run_on_the_same_output(self, scene, model, counter, tmp_path: Path) -> None:
        from tilesegment.run.scene.ledger import open_ledger

        out = tmp_path / "r.tif"
        with (
            open_ledger(out, {}),
            pytest.raises(OutputError, match=rf"another run is writing it .process {os.getpid()}"),
        ):
            tilesegment.predict(scene, out, model=model())
        # The lock of a run that is gone binds nobody.
        ledger_folder(out).mkdir()
        (ledger_folder(out) / "lock").write_text("process 1 on elsewhere")
        tilesegment.predict(scene, out, model=model())

    @pytest.mark.parametrize(
        ("name", "settings", "words"),
        [
            ("r.xyz", {}, "unknown extension"),
            ("no/r.tif", {}, "no such folder"),
            ("scene.tif", {}, "is an input of this run"),
            ("r.tif", {"mask": "r.tif"}, "two outputs have the same name"),
            ("r.tif", {"overlay": "o.jpg"}, "written as .png"),
            ("r.tif", {"tile": "5y"}, "is no tile size"),
            ("r.tif", {"overlap": 500}, "overlap 500 does not fit"),
            ("r.tif", {"threshold": 1.5}, "not between 0 and 1"),
            ("r.tif", {"blend": "hann"}, "linear, cosine, gauss"),
            ("r.tif", {"model": "rofs"}, "did you mean 'roofs'"),
            ("r.tif", {"bidx": (1, 2)}, "names 2 bands, the model 'fake' reads 3"),
            ("r.tif", {"max_memory": "200MB"}, "is less than the"),
            ("r.tif", {"bbox": (0, 0, 1, 1)}, "outside the scene"),
            ("r.tif", {"bbox": (5, 5, 1, 1)}, "left,bottom,right,top"),
            ("r.tif", {"aoi": "none.gpkg"}, "aoi none.gpkg: cannot be read"),
            ("r.tif", {"workers": 2, "scheduler": "tcp://x:1"}, "give one of them"),
            ("r.tif", {"smplify": 1}, "did you mean 'simplify'"),
            ("r.tif", {"min_area": "5km"}, "is no measure"),
        ],
    )
    def test_wrong_settings_are_one_line_and_leave_nothing(
        self, scene, model, counter, tmp_path, name, settings, words
    ) -> None:
        before = sorted(tmp_path.rglob("*"))
        for key in ("mask", "overlay"):
            if key in settings:
                settings = {**settings, key: tmp_path / settings[key]}
        standard = model()
        with pytest.raises(TilesegmentError) as caught:
            tilesegment.predict(scene, tmp_path / name, **{"model": standard, **settings})
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert sorted(p for p in tmp_path.rglob("*") if p != Path(standard)) == before

    def test_a_scene_without_a_valid_pixel(self, make_raster, model, counter, tmp_path: Path) -> None:
        empty = make_raster(np.zeros((3, 50, 50), np.uint8), nodata=0)
        with pytest.raises(InputError, match="no valid pixel"):
            tilesegment.predict(empty, tmp_path / "r.tif", model=model())
        assert not (tmp_path / "r.tif").exists()
        assert not ledger_folder(tmp_path / "r.tif").exists()
        assert counter.calls == 0

    def test_a_damaged_scene_leaves_no_output(self, scene, model, counter, tmp_path: Path) -> None:
        scene.write_bytes(scene.read_bytes()[:30_000])
        with pytest.raises(InputError, match="damaged"):
            tilesegment.predict(scene, tmp_path / "r.tif", model=model())
        assert not (tmp_path / "r.tif").exists()


def test_without_a_crs_metres_become_pixels(make_raster, model, counter, tmp_path, rng, caplog) -> None:
    values = np.kron(rng.integers(0, 255, (3, 9, 9)), np.ones((1, 10, 10))).astype(np.uint8)
    path = make_raster(values, crs=None, transform=Affine.identity())
    tilesegment.predict(path, tmp_path / "r.gpkg", model=model())
    assert "area_m2 and perimeter_m are left empty" in caplog.text
    frame = geopandas.read_file(tmp_path / "r.gpkg")
    assert frame["area_m2"].isna().all()
    # 2 m2 at the model's 0.15 m are 89 pixels.
    assert frame.geometry.area.min() >= 2 / 0.15**2
    with pytest.raises(SettingsError, match="write 9px"):
        tilesegment.predict(path, tmp_path / "x.gpkg", model=model(), min_area=9)


def test_a_cog_is_one(scene, model, counter, tmp_path: Path) -> None:
    tilesegment.predict(scene, tmp_path / "r.tif", model=model(), cog=True)
    with rasterio.open(tmp_path / "r.tif") as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.colormap(1)[1] == (128, 0, 0, 255)


def test_creation_options_are_the_users(scene, model, counter, tmp_path: Path) -> None:
    tilesegment.predict(scene, tmp_path / "r.tif", model=model(), co={"COMPRESS": "LZW", "BLOCKXSIZE": 256})
    with rasterio.open(tmp_path / "r.tif") as dataset:
        assert dataset.compression.name == "lzw"
        assert dataset.block_shapes[0][1] == 256


def test_the_plan_says_what_a_run_will_do(scene, model, counter, tmp_path: Path) -> None:
    plan = tilesegment.plan(scene, model=model())
    counter.calls = 0
    record = tilesegment.predict(scene, tmp_path / "r.tif", model=model())
    assert plan["tiles"] == record["counts"]["tiles_predicted"] == counter.calls
    assert plan["blocks"] == record["counts"]["blocks"]
    assert plan["disk_bytes"] == plan["grid"]["height"] * plan["grid"]["width"]
    assert plan["memory_bytes"]["total"] == sum(
        size for part, size in plan["memory_bytes"].items() if part != "total"
    )


class TestVectorize:
    def test_a_predicted_mask_gives_the_polygons_of_its_run(self, scene, model, counter, tmp_path) -> None:
        tilesegment.predict(scene, tmp_path / "r.gpkg", mask=tmp_path / "m.tif", model=model())
        result = tilesegment.vectorize(tmp_path / "m.tif", tmp_path / "v.gpkg")
        one, other = geopandas.read_file(tmp_path / "r.gpkg"), geopandas.read_file(tmp_path / "v.gpkg")
        assert one.geometry.to_wkt().tolist() == other.geometry.to_wkt().tolist()
        assert one["id"].tolist() == other["id"].tolist()
        assert set(other["class"]) == {"class 1"}
        assert other["confidence"].isna().all()
        assert result["polygons"] == len(one)
        assert not ledger_folder(tmp_path / "v.gpkg").exists()

    def test_anyones_masks(self, make_raster, tmp_path: Path) -> None:
        values = np.zeros((40, 40), np.int32)
        values[5:15, 5:15], values[20:30, 20:30] = 70_000, 255
        path = make_raster(values, "big.tif", nodata=-1)
        result = tilesegment.vectorize(path, tmp_path / "v.fgb", min_area=0, simplify=0)
        assert result["classes"] == [255, 70_000]
        assert set(geopandas.read_file(tmp_path / "v.fgb")["class"]) == {"255", "70000"}
        path = make_raster((values > 0).astype(np.float32), "float.tif")
        assert tilesegment.vectorize(path, tmp_path / "f.gpkg")["polygons"] == 2
        with pytest.raises(InputError, match="holds fractions"):
            tilesegment.vectorize(
                make_raster(np.full((5, 5), 0.3, np.float32), "p.tif"), tmp_path / "p.gpkg"
            )
        empty = tilesegment.vectorize(make_raster(np.zeros((9, 9), np.uint8), "e.tif"), tmp_path / "e.gpkg")
        assert empty["polygons"] == 0
        assert len(geopandas.read_file(tmp_path / "e.gpkg")) == 0

    def test_the_ground_area_does_not_depend_on_the_crs(self, make_raster, tmp_path: Path) -> None:
        from rasterio.warp import Resampling, calculate_default_transform, reproject

        rng = np.random.default_rng(3)
        coarse = (rng.random((40, 40)) > 0.6).astype(np.uint8)
        values = np.kron(coarse, np.ones((25, 25))).astype(np.uint8)
        path = make_raster(values, "utm.tif")
        totals = []
        for crs in ("EPSG:32645", "EPSG:4326", "EPSG:3857"):
            warped = tmp_path / f"{crs[5:]}.tif"
            with rasterio.open(path) as src:
                transform, width, height = calculate_default_transform(
                    src.crs, crs, src.width, src.height, *src.bounds, resolution=None
                )
                out = np.zeros((height, width), np.uint8)
                reproject(
                    rasterio.band(src, 1), out, dst_transform=transform, dst_crs=crs,
                    resampling=Resampling.nearest,
                )  # fmt: skip
            with rasterio.open(
                warped, "w", driver="GTiff", dtype="uint8", count=1, height=height, width=width,
                crs=crs, transform=transform,
            ) as dst:  # fmt: skip
                dst.write(out, 1)
            tilesegment.vectorize(
                warped, tmp_path / f"{crs[5:]}.gpkg", simplify=0, min_area=0, fill_holes=0
            )
            totals.append(geopandas.read_file(tmp_path / f"{crs[5:]}.gpkg")["area_m2"].sum())
        assert totals == pytest.approx([totals[0]] * 3, rel=0.005)


# A run that can be killed: the real pipeline with a slow fake model, in a process of its own.
_CHILD = """
import sys, time
import numpy as np
from tests.fakes import Wavy
from tilesegment.run.block import predict as block
from tilesegment.tiling import memory
import tilesegment

class Slow(Wavy):
    def __call__(self, tiles):
        with open(sys.argv[4], "a") as log:
            log.write("x" * len(tiles))
        time.sleep(0.004)
        return super().__call__(tiles)

if __name__ == "__main__":
    memory.LEAST_BLOCK_PIXELS, memory.MOST_WORK, memory.MOST_BLOCK_PIXELS = 1, 3.0, 3000
    block.load_engine = lambda name, model, setup: Slow()
    tilesegment.predict(sys.argv[1], sys.argv[2], model=sys.argv[3], mask=sys.argv[2] + ".tif")
"""


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_at_any_moment_loses_only_what_was_under_way(scene, model, tmp_path: Path, kills) -> None:
    script, name = tmp_path / "child.py", model()
    script.write_text(_CHILD)

    def start(out: Path, log: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        return subprocess.Popen(
            [sys.executable, script, scene, out, name, log], env=environment, stderr=subprocess.DEVNULL
        )

    def check(out: Path) -> None:
        assert geopandas.read_file(out).to_wkt().equals(expected.to_wkt())
        np.testing.assert_array_equal(read_mask(Path(f"{out}.tif")), read_mask(Path(f"{whole}.tif")))

    whole, log = tmp_path / "whole.gpkg", tmp_path / "log"
    assert start(whole, log).wait(60) == 0
    tiles = log.stat().st_size
    expected = geopandas.read_file(whole)
    rng = np.random.default_rng(kills)
    for k in range(kills):
        out, log = tmp_path / f"{k}.gpkg", tmp_path / f"log{k}"
        child, target = start(out, log), int(rng.integers(1, tiles + 1))
        while child.poll() is None and not (log.exists() and log.stat().st_size >= target):
            time.sleep(0.001)
        # Now and then it dies while the outputs are being written or renamed.
        time.sleep(rng.choice([0.0, rng.uniform(0, 0.4)]))
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        if out.exists():
            check(out)
        if ledger_folder(out).exists():
            assert start(out, log).wait(60) == 0
        check(out)
        # At most the block under way is computed twice, and the streams' tiles ahead of it.
        assert log.stat().st_size - tiles <= 30, log.stat().st_size
        assert not ledger_folder(out).exists()


def test_a_raster_that_cannot_be_written_is_not_passed_over(
    counter: Wavy, scene: Path, tmp_path: Path, model: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OutputError("no room for the mask")

    monkeypatch.setattr("tilesegment.run.scene.writing.write_band", broken)
    with pytest.raises(OutputError, match="no room for the mask"):
        tilesegment.predict(scene, tmp_path / "r.gpkg", model=model(), mask=tmp_path / "m.tif")
    assert not (tmp_path / "m.tif").exists()


@pytest.mark.parametrize("working", [(7, 5), (10, 20), (23, 31), (40, 13)])
def test_each_pixel_of_the_input_takes_the_working_pixel_at_its_centre(
    working: tuple[int, int], rng: np.random.Generator
) -> None:
    identity = Affine.identity()
    native, grid = Grid(None, identity, 20, 26), Grid(None, identity, *working)
    values = rng.integers(0, 255, working, np.uint8)
    region = grid.window

    def read(window: Window) -> np.ndarray:
        return values[window.slices]

    found = on_output_grid(read, grid, region, native, True)(Window(0, 0, 20, 26))
    for row in range(20):
        for col in range(26):
            there = int((row + 0.5) / 20 * working[0]), int((col + 0.5) / 26 * working[1])
            assert found[row, col] == values[there]
