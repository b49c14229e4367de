"""What belongs to an output: looked at before, replaced together, hidden until it is whole."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image

import tilesegment
from tests.test_pipeline import counter, model, scene
from tilesegment.errors import OutputError, SettingsError
from tilesegment.run import files
from tilesegment.run.files import belongings, temporary_for

__all__ = ["counter", "model", "scene"]


@pytest.fixture
def mask(make_raster: Callable[..., Path]) -> Path:
    """Roofs of 11 and 3.4 square metres."""
    values = np.zeros((100, 150), np.uint8)
    values[2:22, 3:28] = 1
    values[50:60, 100:115] = 1
    return make_raster(values, "mask.tif")


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class TestBelongings:
    def test_of_a_shapefile(self, tmp_path: Path) -> None:
        names = ["a.shp", "a.shx", "a.DBF", "a.qix", "a.shp.xml", "a.b.dbf", "ab.dbf", "a.txt", "a.tif"]
        for name in names:
            (tmp_path / name).touch()
        found = {path.name for path in belongings(tmp_path / "a.shp")}
        assert found == {"a.shx", "a.DBF", "a.qix", "a.shp.xml"}

    def test_of_rasters_and_databases(self, tmp_path: Path) -> None:
        for ending in (
            ".tif",
            ".tif.aux.xml",
            ".tif.ovr",
            ".tif.msk",
            ".tfw",
            ".gpkg-wal",
            ".gpkg-shm",
            ".pgw",
        ):
            (tmp_path / f"x{ending}").touch()
        assert {p.name for p in belongings(tmp_path / "x.tif")} == {
            "x.tif.aux.xml", "x.tif.ovr", "x.tif.msk", "x.tfw",
        }  # fmt: skip
        assert {p.name for p in belongings(tmp_path / "x.gpkg")} == {"x.gpkg-wal", "x.gpkg-shm"}
        assert {p.name for p in belongings(tmp_path / "x.png")} == {"x.pgw"}

    def test_a_temporary_name_is_short_for_every_name(self, tmp_path: Path) -> None:
        for stem in ("a", "屋" * 78):
            assert len(temporary_for(tmp_path / f"{stem}.gpkg").name.encode()) < 40


class TestWithoutOverwrite:
    @pytest.mark.parametrize(
        ("output", "own"),
        [
            ("town.shp", "town.dbf"),
            ("town.shp", "town.DBF"),
            ("town.shp", "town.qix"),
            ("roofs.gpkg", "roofs.gpkg-wal"),
            ("roofs.gpkg", "roofs.gpkg.json"),
            ("roofs.fgb", "roofs.fgb.json"),
        ],
    )
    def test_what_is_somebody_elses_stays(self, mask: Path, tmp_path: Path, output: str, own: str) -> None:
        (tmp_path / own).write_text("mine")
        before = everything(tmp_path)
        with pytest.raises(OutputError, match=f"{own}: exists already"):
            tilesegment.vectorize(mask, tmp_path / output)
        assert everything(tmp_path) == before

    def test_an_input_that_would_belong_to_the_output(self, mask: Path, tmp_path: Path) -> None:
        """A new m.tif takes the m.tif.msk of the old one away, which is what is read here."""
        scene = mask.rename(tmp_path / "m.tif.msk")
        before = everything(tmp_path)
        for settings in ({}, {"overwrite": True}):
            with pytest.raises(OutputError, match=r"m\.tif\.msk: (is an input of this run|exists already)"):
                tilesegment.predict(scene, tmp_path / "m.tif", bidx=[1, 1, 1], **settings)
        assert everything(tmp_path) == before

    def test_a_record_of_ours_is_no_hindrance(self, mask: Path, tmp_path: Path) -> None:
        out = tmp_path / "r.gpkg"
        tilesegment.vectorize(mask, out)
        out.unlink()
        assert tilesegment.vectorize(mask, out)["polygons"] == 2

    @pytest.mark.parametrize("own", ["m.tif.aux.xml", "m.tif.ovr", "m.tfw"])
    def test_of_a_mask(self, scene, model, counter, tmp_path: Path, own: str) -> None:
        (tmp_path / own).write_text("mine")
        with pytest.raises(OutputError, match=f"{own}: exists already"):
            tilesegment.predict(scene, tmp_path / "r.gpkg", mask=tmp_path / "m.tif", model=model())
        assert counter.calls == 0
        assert (tmp_path / own).read_text() == "mine"

    def test_inputs_are_never_replaced(self, scene, model, counter, tmp_path: Path) -> None:
        area = tmp_path / "area.gpkg"
        grid = rasterio.open(scene).bounds
        box = {"type": "Polygon", "coordinates": [[[grid.left, grid.top], [grid.right, grid.top],
               [grid.right, grid.bottom], [grid.left, grid.top]]]}  # fmt: skip
        (tmp_path / "area.geojson").write_text(json.dumps(box))
        pyogrio.write_dataframe(
            pyogrio.read_dataframe(tmp_path / "area.geojson").set_crs(32645, allow_override=True), area
        )
        before = area.read_bytes()
        with pytest.raises(OutputError, match=r"area\.gpkg: is an input"):
            tilesegment.predict(scene, area, aoi=str(area), model=model(), overwrite=True)
        assert area.read_bytes() == before

    def test_files_behind_an_input_too(self, mask: Path, tmp_path: Path) -> None:
        sidecar = tmp_path / "mask.tif.aux.xml"
        sidecar.write_text("<PAMDataset/>")
        other = tmp_path / "mask.vrt"
        other.write_text("")
        with rasterio.open(mask) as dataset:
            rasterio.shutil.copy(dataset, other, driver="VRT")
        before = everything(tmp_path)
        with pytest.raises(OutputError, match="is an input"):
            tilesegment.predict(other, tmp_path / "mask.tif", overwrite=True)
        assert everything(tmp_path) == before


class TestOverwriting:
    def test_an_old_index_goes(self, mask: Path, tmp_path: Path) -> None:
        out = tmp_path / "r.shp"
        tilesegment.vectorize(mask, out, min_area=5, lco={"SPATIAL_INDEX": "YES"})
        assert (tmp_path / "r.qix").exists()
        tilesegment.vectorize(mask, out, min_area=0, overwrite=True)
        assert not (tmp_path / "r.qix").exists()
        left, bottom, right, top = pyogrio.read_info(out)["total_bounds"]
        inside = pyogrio.read_dataframe(out, bbox=(left - 1, bottom - 1, right + 1, top + 1))
        assert len(inside) == len(pyogrio.read_dataframe(out)) == 2

    def test_old_class_names_go(self, scene, model, counter, tmp_path: Path) -> None:
        out, first, second = tmp_path / "a.gpkg", tmp_path / "x.tif", tmp_path / "y.tif"
        tilesegment.predict(scene, out, mask=first, model=model())
        assert (tmp_path / "x.tif.aux.xml").exists()
        tilesegment.predict(scene, out, mask=second, probability=first, model=model(), overwrite=True)
        assert not (tmp_path / "x.tif.aux.xml").exists()
        assert (tmp_path / "y.tif.aux.xml").exists()

    def test_a_left_journal_is_no_part_of_the_new_file(self, mask: Path, tmp_path: Path) -> None:
        out = tmp_path / "r.gpkg"
        with closing(sqlite3.connect(tmp_path / "old.gpkg")) as old:
            old.execute("PRAGMA journal_mode=WAL")
            old.execute("CREATE TABLE mine (x)")
            old.commit()
            # As a killed program leaves them.
            for ending in ("", "-wal", "-shm"):
                (tmp_path / f"r.gpkg{ending}").write_bytes((tmp_path / f"old.gpkg{ending}").read_bytes())
        tilesegment.vectorize(mask, out, overwrite=True)
        assert not list(tmp_path.glob("r.gpkg-*"))
        assert len(pyogrio.read_dataframe(out)) == 2
        with closing(sqlite3.connect(out)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    @pytest.mark.parametrize("mode", ["WAL", "DELETE"])
    def test_what_another_program_has_open_is_not_touched(
        self, mask: Path, tmp_path: Path, mode: str
    ) -> None:
        out = tmp_path / "r.gpkg"
        tilesegment.vectorize(mask, out)
        with closing(sqlite3.connect(out, isolation_level=None)) as other:
            other.execute(f"PRAGMA journal_mode={mode}")
            other.execute("BEGIN IMMEDIATE")
            other.execute("CREATE TABLE edits (x)")
            with pytest.raises(OutputError, match="open in another program"):
                tilesegment.vectorize(mask, out, overwrite=True)
            other.execute("COMMIT")
            assert other.execute("SELECT count(*) FROM edits").fetchone() == (0,)

    def test_a_file_that_is_opened_meanwhile(self, tmp_path: Path) -> None:
        """Another program that opens the old file while the new one is made keeps it."""
        from tilesegment.run.files import publish

        out = tmp_path / "r.gpkg"
        for path in (out, temporary_for(out)):
            with closing(sqlite3.connect(path)) as database:
                database.execute("CREATE TABLE a (x)")
        with closing(sqlite3.connect(out, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            before = out.read_bytes()
            with pytest.raises(OutputError, match="open in another program"):
                publish(out)
            assert out.read_bytes() == before

    def test_the_record_is_that_of_the_new_output(self, mask: Path, tmp_path: Path) -> None:
        out = tmp_path / "r.geojson"
        tilesegment.vectorize(mask, out, min_area=5)
        tilesegment.vectorize(mask, out, min_area=0, overwrite=True)
        record = json.loads((tmp_path / "r.geojson.json").read_text())
        assert (record["polygons"], record["settings"]["min_area"]) == (2, "0")


class TestNames:
    @pytest.mark.parametrize("name", ["gpkg_roofs", "GPKG_x", "sqlite_x", "layer_styles", "rtree_a"])
    def test_a_reserved_layer_is_refused_at_once(
        self, scene, model, counter, tmp_path: Path, name: str
    ) -> None:
        out = tmp_path / f"{name}.gpkg"
        with pytest.raises(SettingsError, match="give another with layer"):
            tilesegment.predict(scene, out, model=model())
        assert counter.calls == 0
        assert tilesegment.predict(scene, out, model=model(), layer="roofs")["counts"]["polygons"] > 0
        assert pyogrio.list_layers(out)[:, 0].tolist()[0] == "roofs"

    @pytest.mark.parametrize("stem", ["a" * 236, "屋" * 78 + "ab"])
    def test_the_longest_name_works(self, mask: Path, tmp_path: Path, stem: str) -> None:
        out = tmp_path / f"{stem}.gpkg"
        assert len(out.name.encode()) == 241
        assert tilesegment.vectorize(mask, out)["polygons"] == 2
        assert out.exists()

    def test_a_longer_one_is_refused_at_once(self, scene, model, counter, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="242 bytes, and at most 241"):
            tilesegment.predict(scene, tmp_path / ("a" * 237 + ".gpkg"), model=model())
        assert counter.calls == 0

    def test_messages_name_the_output(
        self, scene, model, counter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tilesegment.vector import write

        def fail(*_: Any) -> None:
            raise OSError(28, "No space left on device", str(temporary_for(tmp_path / "roofs.gpkg")))

        monkeypatch.setattr(write, "add_style", fail)
        with pytest.raises(OutputError) as error:
            tilesegment.predict(scene, tmp_path / "roofs.gpkg", model=model())
        assert "incomplete" not in str(error.value)
        assert f"{tmp_path / 'roofs.gpkg'}: cannot be written" in str(error.value)


class TestOrigin:
    """Every format says where it comes from."""

    def test_geojson(self, mask: Path, tmp_path: Path) -> None:
        tilesegment.vectorize(mask, tmp_path / "r.geojson")
        text = json.loads((tmp_path / "r.geojson").read_text())["description"]
        assert text.startswith("software: tilesegment ")
        assert str(mask) in text

    def test_shapefile(self, mask: Path, tmp_path: Path) -> None:
        tilesegment.vectorize(mask, tmp_path / "r.shp")
        assert "software: tilesegment " in (tmp_path / "r.shp.xml").read_text()

    def test_overlay_and_its_place(self, scene, model, counter, tmp_path: Path) -> None:
        out = tmp_path / "o.png"
        tilesegment.predict(scene, tmp_path / "r.gpkg", overlay=out, model=model())
        with Image.open(out) as picture:
            assert picture.text["software"].startswith("tilesegment ")  # type: ignore[attr-defined]
            assert picture.size == (187, 141)
        with rasterio.open(out) as dataset:
            assert dataset.transform.almost_equals(Affine(0.15, 0, 354000, 0, -0.15, 3057000))
            assert dataset.crs.to_epsg() == 32645


class TestFullDisk:
    def test_libtiffs_lines_are_left_out_and_others_pass(self) -> None:
        script = (
            "import os, sys\nfrom tilesegment.raster.stderr import without_libtiff\n"
            "os.write(2, b'before\\n')\n"
            "with without_libtiff():\n"
            "    os.write(2, b'_tiffSeekProc: No space left on device.\\nours: 1\\n')\n"
            "    os.write(2, b'TIFFReadDirectory: Failed\\n')\n"
            "    print('python', file=sys.stderr, flush=True)\n"
            "    os.write(2, b'no end of line')\n"
            "os.write(2, b'\\nafter\\n')\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert done.stderr.splitlines() == ["before", "ours: 1", "python", "no end of line", "after"]
        closed = subprocess.run(
            [
                "bash",
                "-c",
                f'exec {sys.executable} -c "$0" 2>&-',
                script.replace("os.write(2", "(lambda *_: 0)(2"),
            ],
            timeout=60,
        )
        assert closed.returncode == 0

    def test_it_is_called_by_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from tilesegment.grid import Grid
        from tilesegment.raster import sink

        def fail(*_: Any) -> None:
            raise rasterio.errors.RasterioIOError("TIFFReadDirectory: offset 12")

        band = sink.Band(Grid(None, Affine.identity(), 5, 5), None)
        monkeypatch.setattr(sink, "_write_tiled", fail)
        for free, words in ((100, "No space left on device"), (10**9, "TIFFReadDirectory: offset 12")):
            usage = type("Usage", (), {"free": free})
            monkeypatch.setattr(sink.shutil, "disk_usage", lambda _, usage=usage: usage)
            with pytest.raises(OutputError, match=words):
                sink.write_band(tmp_path / "a.tif", band, lambda _: np.zeros((5, 5), np.uint8))


class TestWhatIsSomebodyElses:
    def test_a_folder_with_the_ledgers_name(
        self, mask: Path, scene, model, counter, tmp_path: Path
    ) -> None:
        for call, name in (
            (lambda out: tilesegment.vectorize(mask, out), "v.gpkg"),
            (lambda out: tilesegment.predict(scene, out, model=model()), "p.gpkg"),
        ):
            folder = tmp_path / f"{name}.partial"
            folder.mkdir()
            (folder / "notes.txt").write_text("mine")
            with pytest.raises(OutputError, match="holds no interrupted run"):
                call(tmp_path / name)
            assert (folder / "notes.txt").read_text() == "mine"
        assert counter.calls == 0

    @pytest.mark.parametrize("name", ["m.tif.json", "m.tif.aux.xml"])
    def test_folders_where_files_go(self, scene, model, counter, tmp_path: Path, name: str) -> None:
        (tmp_path / name).mkdir()
        with pytest.raises(OutputError, match=f"{name}: is a folder"):
            tilesegment.predict(scene, tmp_path / "m.tif", model=model(), overwrite=True)
        assert counter.calls == 0

    def test_a_refused_run_changes_nothing(self, mask: Path, tmp_path: Path) -> None:
        out = tmp_path / "r.gpkg"
        tilesegment.vectorize(mask, out)
        with closing(sqlite3.connect(out)) as database:
            database.execute("PRAGMA journal_mode=WAL")
        before = everything(tmp_path)
        with pytest.raises(OutputError, match="exists already"):
            tilesegment.vectorize(mask, out)
        assert everything(tmp_path) == before

    def test_links_are_written_through(self, mask: Path, tmp_path: Path) -> None:
        real, link = tmp_path / "real" / "t.gpkg", tmp_path / "link.gpkg"
        real.parent.mkdir()
        link.symlink_to(real)
        assert tilesegment.vectorize(mask, link)["polygons"] == 2
        assert link.is_symlink()
        assert len(pyogrio.read_dataframe(real)) == 2
        with pytest.raises(OutputError, match="exists already"):
            tilesegment.vectorize(mask, link)
        tilesegment.vectorize(mask, link, min_area=5, overwrite=True)
        assert link.is_symlink()
        assert len(pyogrio.read_dataframe(real)) == 1

    def test_a_world_file_of_an_older_overlay(self, tmp_path: Path, model, counter) -> None:
        values = np.random.default_rng(1).integers(0, 255, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(values).save(tmp_path / "s.png")
        (tmp_path / "o.wld").write_text("1\n0\n0\n-1\n5\n5\n")
        with pytest.raises(OutputError, match=r"o\.wld: exists already"):
            tilesegment.predict(
                tmp_path / "s.png", tmp_path / "m.tif", overlay=tmp_path / "o.png", model=model()
            )


class TestOddNames:
    @pytest.mark.parametrize("name", ["A.SHP", "B.GPKG", "c.GeoJSON", "D.FGB"])
    def test_endings_in_capitals(self, mask: Path, tmp_path: Path, name: str) -> None:
        tilesegment.vectorize(mask, tmp_path / name)
        assert (tmp_path / name).is_file()
        assert len(pyogrio.read_dataframe(tmp_path / name)) == 2
        assert not [
            path for path in tmp_path.iterdir() if "incomplete" in path.name or "partial" in path.name
        ]

    @pytest.mark.parametrize("stem", ["%s", "{x}", "$HOME", "-dash", "a b", "屋 根", "x'y"])
    def test_work_or_are_refused_before_anything_is_predicted(
        self, scene, model, counter, tmp_path: Path, stem: str
    ) -> None:
        out, refused = tmp_path / f"{stem}.gpkg", ""
        try:
            tilesegment.predict(scene, out, model=model())
        except SettingsError as error:
            refused = str(error)
        if refused:
            assert "layer gives another" in refused
            assert counter.calls == 0
            assert not list(tmp_path.glob("*.partial"))
            tilesegment.predict(scene, out, model=model(), layer="roofs")
        assert len(pyogrio.read_dataframe(out))


def test_the_main_output_appears_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is there, all others are."""
    paths = [tmp_path / name for name in ("main.gpkg", "mask.tif", "look.png")]
    for path in paths:
        files.temporary_for(path).write_text(path.name)
    order: list[str] = []
    real = os.replace

    def replace(one: Path, other: Path) -> None:
        order.append(Path(other).name)
        real(one, other)

    monkeypatch.setattr(files.os, "replace", replace)
    files.publish(*paths)
    assert order == ["look.png", "mask.tif", "main.gpkg"]
    assert [path.read_text() for path in paths] == [path.name for path in paths]


def test_flatgeobuf_says_where_it_comes_from(mask: Path, tmp_path: Path) -> None:
    tilesegment.vectorize(mask, tmp_path / "r.fgb")
    marks = pyogrio.read_info(tmp_path / "r.fgb")["layer_metadata"]
    assert marks["software"].startswith("tilesegment ")
    assert marks["input"] == str(mask)


class TestGeoParquet:
    """Version 1.1, sorted by place."""

    def squares(self, count: int, seed: int = 0) -> tuple[Any, np.ndarray]:
        import pyarrow as pa

        from tilesegment.vector.files import schema_of

        corners = np.random.default_rng(seed).uniform(0, 1000, (count, 2))
        shapes = shapely.box(corners[:, 0], corners[:, 1], corners[:, 0] + 1, corners[:, 1] + 2)
        schema = schema_of({"id": pa.int64()}, "Parquet")
        arrays = [pa.array(np.arange(count)), pa.array(shapely.to_wkb(shapes))]
        return pa.RecordBatch.from_arrays(arrays, schema=schema), corners

    def write(self, path: Path, batch: Any, part: int) -> None:
        from tilesegment.vector.files import Target, write_tables

        parts = [batch.slice(start, part) for start in range(0, batch.num_rows, part)]
        write_tables(path, Target("a", "EPSG:32633"), batch.schema, iter(parts))

    def test_its_metadata(self, tmp_path: Path) -> None:
        import pyarrow.parquet as pq

        batch, corners = self.squares(500)
        self.write(tmp_path / "a.parquet", batch, 90)
        geo = json.loads(pq.read_schema(tmp_path / "a.parquet").metadata[b"geo"])
        column = geo["columns"]["geometry"]
        assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
        assert column["covering"] == {
            "bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}
        }
        assert column["crs"]["id"] == {"authority": "EPSG", "code": 32633}
        low, high = corners.min(axis=0), corners.max(axis=0)
        assert column["bbox"] == pytest.approx([*low, high[0] + 1, high[1] + 2], rel=1e-12)
        frame = geopandas.read_parquet(tmp_path / "a.parquet", bbox=(0, 0, 100, 100))
        inside = (corners[:, 0] <= 100) & (corners[:, 1] <= 100)
        assert sorted(frame["id"]) == np.flatnonzero(inside).tolist()

    def test_rows_are_those_that_came_whatever_the_batches(self, tmp_path: Path, monkeypatch) -> None:
        import pyarrow.parquet as pq

        from tilesegment.vector import parquet

        batch, corners = self.squares(1000)
        for name, size in (("_GROUP", 70), ("_SPOOLED", 64), ("_KEPT", 2)):
            monkeypatch.setattr(parquet, name, size)
        found = []
        for part in (1, 77, 1000):
            self.write(tmp_path / f"{part}.parquet", batch, part)
            found.append(pq.read_table(tmp_path / f"{part}.parquet"))
        assert found[0].equals(found[1])
        assert found[0].equals(found[2])
        ids = found[0]["id"].to_numpy()
        assert sorted(ids) == list(range(1000))
        np.testing.assert_array_equal(
            shapely.bounds(shapely.from_wkb(found[0]["geometry"].to_numpy()))[:, :2], corners[ids]
        )
        boxes = found[0]["bbox"].combine_chunks().flatten()
        np.testing.assert_array_equal(boxes[0], corners[ids, 0])
        np.testing.assert_array_equal(boxes[3], corners[ids, 1] + 2)
        groups = pq.ParquetFile(tmp_path / "77.parquet").metadata
        assert [groups.row_group(k).num_rows for k in range(groups.num_row_groups)] == [70] * 14 + [20]

    def test_neighbours_on_the_curve_are_neighbours(self) -> None:
        from tilesegment.vector.parquet import hilbert

        side = 2**12
        rows, cols = np.divmod(np.arange(64 * 64), 64)
        centres = np.column_stack([cols + 0.5, rows + 0.5]) * (side // 64)
        order = np.argsort(hilbert(centres, np.array([0.0, 0, side, side])))
        steps = np.abs(np.diff(centres[order] // (side // 64), axis=0)).sum(axis=1)
        assert steps.tolist() == [1] * (64 * 64 - 1)
        # The first cell and those after it, by hand.
        bounds = np.array([0.0, 0, 2, 2])
        quarters = hilbert(np.array([[0.5, 0.5], [0.5, 1.5], [1.5, 1.5], [1.5, 0.5]]), bounds)
        assert (quarters // (side * side // 4)).tolist() == [0, 1, 2, 3]

    def test_points_of_one_place(self) -> None:
        from tilesegment.vector.parquet import hilbert

        assert hilbert(np.ones((3, 2)), np.ones(4)).tolist() == [0, 0, 0]
