"""Polygons of many scenes as one layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from click.testing import CliRunner
from rasterio.warp import Resampling, calculate_default_transform, reproject

import tilesegment
from tests.fakes import Fake, save_fake, use
from tilesegment.cli.predict import command
from tilesegment.errors import BusyError, ExistsError, InputError, OutputError, SettingsError
from tilesegment.run.many.inputs import Entry
from tilesegment.run.many.merge import scene_folders
from tilesegment.run.many.parts import _worse
from tilesegment.run.scene.ledger import open_ledger

PIXEL, LEFT, TOP = 0.15, 354000.0, 3057000.0
# Rows, columns, and how bright: of a town of 60 x 200 pixels, whose west (120 columns) and east (from 80)
# are scenes.
IN_THE_WEST, IN_BOTH, FAINT_EAST = (5, 15, 10, 30, 200), (10, 30, 85, 105, 200), (40, 55, 90, 110, 250)
CUT_BY_WEST, CUT_BY_EAST, IN_THE_EAST = (
    (35, 39, 112, 150, 220),
    (45, 58, 60, 88, 220),
    (2, 9, 160, 170, 200),
)
HOUSES = [IN_THE_WEST, IN_BOTH, FAINT_EAST, CUT_BY_WEST, CUT_BY_EAST, IN_THE_EAST]


class Bright(Fake):
    """As bright, as likely a roof."""

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return tiles[:, :1]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    use(monkeypatch, Bright())
    return save_fake(tmp_path / "model.safetensors")


def town() -> np.ndarray:
    values = np.full((3, 60, 200), 20, np.uint8)
    for top, bottom, left, right, brightness in HOUSES:
        values[:, top:bottom, left:right] = brightness
    return values


def save(path: Path, values: np.ndarray, col: int, crs: str | None = "EPSG:32645") -> Path:
    path.parent.mkdir(exist_ok=True)
    place = (
        {}
        if crs is None
        else {"crs": crs, "transform": Affine(PIXEL, 0, LEFT + col * PIXEL, 0, -PIXEL, TOP)}
    )
    count, height, width = values.shape
    with rasterio.open(
        path, "w", count=count, height=height, width=width, dtype="uint8", **place
    ) as dataset:
        dataset.write(values)
    return path


@pytest.fixture
def scenes(tmp_path: Path) -> list[Path]:
    """In the east the house FAINT_EAST is seen less clearly."""
    whole, folder = town(), tmp_path / "scenes"
    east = whole[:, :, 80:].copy()
    top, bottom, left, right, _ = FAINT_EAST
    east[:, top:bottom, left - 80 : right - 80] = 150
    return [save(folder / "west.tif", whole[:, :, :120], 0), save(folder / "east.tif", east, 80)]


def box(house: tuple[int, int, int, int, int]) -> Any:
    top, bottom, left, right, _ = house
    return shapely.box(LEFT + left * PIXEL, TOP - bottom * PIXEL, LEFT + right * PIXEL, TOP - top * PIXEL)


OPTIONS: dict[str, Any] = {"merge": True, "min_area": 0, "simplify": 0, "regularize": "none"}


def merged(sources: Any, output: Path, model: str, **options: Any) -> list[Any]:
    return list(tilesegment.predict_many(sources, output, model=model, **{**OPTIONS, **options}))


class TestLayer:
    def test_each_house_is_there_once(self, scenes, model, tmp_path: Path) -> None:
        out = tmp_path / "town.gpkg"
        results = merged(scenes, out, model)
        assert [result.outcome for result in results] == ["predicted"] * 2
        found = geopandas.read_file(out, layer="town")
        assert found.crs.to_epsg() == 32645
        assert list(found.columns)[-2:] == ["source", "geometry"]
        assert found["id"].tolist() == [1, 2, 3, 4, 5, 6]
        west, east = (str(path) for path in scenes)
        expected = {
            # That which no edge cuts, then the surer one, then the first.
            IN_THE_WEST: west, IN_BOTH: west, FAINT_EAST: west,
            CUT_BY_WEST: east, CUT_BY_EAST: west, IN_THE_EAST: east,
        }  # fmt: skip
        for house, source in expected.items():
            (mine,) = found[found.intersects(box(house).centroid)].itertuples()
            assert mine.geometry.symmetric_difference(box(house)).area < 1e-6
            assert (mine.source, mine.area_m2) == (source, pytest.approx(box(house).area, rel=1e-3))
        record = json.loads((tmp_path / "town.gpkg.json").read_text())
        assert record["counts"] == {"scenes": 2, "doubles": 4, "polygons": 6}
        assert record["inputs"] == [west, east]

    def test_the_surer_one_stays_wherever_it_comes(self, scenes, model, tmp_path: Path) -> None:
        merged(scenes[::-1], tmp_path / "town.parquet", model)
        found = geopandas.read_parquet(tmp_path / "town.parquet").sort_values("id", ignore_index=True)
        (sure,) = found[found.intersects(box(FAINT_EAST).centroid)].itertuples()
        assert sure.source == str(scenes[0])
        (first,) = found[found.intersects(box(IN_BOTH).centroid)].itertuples()
        assert first.source == str(scenes[1])
        assert len(found) == 6

    @pytest.mark.parametrize("ending", ["geojson", "shp", "fgb", "gpkg"])
    def test_formats_and_other_crs(self, scenes, model, tmp_path: Path, ending: str) -> None:
        out = tmp_path / f"town.{ending}"
        crs = None if ending == "geojson" else "EPSG:3857"
        merged(scenes, out, model, **({} if crs is None else {"dst_crs": crs}))
        found = geopandas.read_file(out, **({"layer": "town"} if ending == "gpkg" else {}))
        assert found.crs.to_epsg() == (4326 if crs is None else 3857)
        back = found.to_crs(32645)
        assert sorted(back.area) == pytest.approx(sorted(box(house).area for house in HOUSES), rel=1e-2)
        assert set(found["source"]) == {str(path) for path in scenes}

    def test_scenes_of_several_crs(self, scenes, model, tmp_path: Path) -> None:
        with rasterio.open(scenes[1]) as dataset:
            transform, width, height = calculate_default_transform(
                dataset.crs, "EPSG:3857", dataset.width, dataset.height, *dataset.bounds
            )
            profile = {**dataset.profile, "crs": "EPSG:3857", "transform": transform, "nodata": 0,
                       "width": width, "height": height}  # fmt: skip
            values = np.zeros((3, height, width), np.uint8)
            reproject(
                dataset.read(), values, src_transform=dataset.transform, src_crs=dataset.crs,
                dst_transform=transform, dst_crs="EPSG:3857", resampling=Resampling.nearest, dst_nodata=0,
            )  # fmt: skip
        with rasterio.open(scenes[1], "w", **profile) as dataset:
            dataset.write(values)
        merged(scenes, tmp_path / "town.gpkg", model)
        found = geopandas.read_file(tmp_path / "town.gpkg", layer="town")
        assert found.crs.to_epsg() == 32645
        assert len(found) == 6
        for house in HOUSES:
            (mine,) = found[found.intersects(box(house).centroid)].geometry
            assert mine.symmetric_difference(box(house)).area < 0.15 * box(house).area

    def test_scenes_apart_are_only_joined(self, scenes, model, tmp_path: Path) -> None:
        far = save(tmp_path / "scenes" / "far.tif", town(), 900)
        merged([scenes[0], far], tmp_path / "town.fgb", model)
        found = geopandas.read_file(tmp_path / "town.fgb")
        assert len(found) == 5 + 6
        record = json.loads((tmp_path / "town.fgb.json").read_text())
        assert record["counts"]["doubles"] == 0


def test_what_gives_way_takes_nothing_with_it() -> None:
    # 0 is better than 1, which is better than 2; 0 and 2 are no doubles.
    shapes = np.array(
        [shapely.box(0, 0, 10, 10), shapely.box(4, 0, 14, 10), shapely.box(8, 0, 18, 10)], object
    )
    owner, cut = np.array([0, 1, 2]), np.zeros(3, bool)
    assert _worse(shapes, owner, cut, np.array([0.9, 0.8, 0.7])).tolist() == [False, True, False]
    assert _worse(shapes, owner, cut, np.array([0.7, 0.8, 0.9])).tolist() == [False, True, False]
    assert _worse(shapes, owner, cut, np.array([0.8, 0.9, 0.7])).tolist() == [True, False, True]
    assert _worse(shapes, owner, np.array([True, False, False]), np.array([0.9, 0.8, 0.7])).tolist() == [
        True, False, True,
    ]  # fmt: skip
    # Those of one scene are two buildings.
    assert not _worse(shapes, np.zeros(3, np.int64), cut, np.ones(3)).any()
    # Half of the smaller one is not more than half.
    half = np.array([shapely.box(0, 0, 10, 10), shapely.box(5, 0, 15, 10)], object)
    assert not _worse(half, owner[:2], cut[:2], np.ones(2)).any()


class TestAgain:
    def test_nothing_new_changes_nothing(self, scenes, model, tmp_path: Path) -> None:
        out = tmp_path / "town.gpkg"
        merged(scenes, out, model)
        before = out.read_bytes()
        results = merged(scenes, out, model)
        assert [(result.outcome, result.reason) for result in results] == [("skipped", "done before")] * 2
        assert out.read_bytes() == before
        assert len(results[0].polygons()) == 5

    def test_what_is_new_is_predicted_and_replaces(self, scenes, model, tmp_path: Path) -> None:
        out = tmp_path / "town.gpkg"
        merged(scenes[:1], out, model)
        for more in ({}, {"min_area": 3}):
            with pytest.raises(OutputError, match="exists already"):
                merged(scenes[: 1 if more else 2], out, model, **more)
        results = merged(scenes, out, model, overwrite=True)
        assert [result.outcome for result in results] == ["skipped", "predicted"]
        assert len(geopandas.read_file(out, layer="town")) == 6

    def test_a_changed_layer_is_not_what_was_written(self, scenes, model, tmp_path: Path) -> None:
        out = tmp_path / "town.geojson"
        merged(scenes, out, model)
        out.write_text(out.read_text() + "\n")
        with pytest.raises(OutputError, match="exists already"):
            merged(scenes, out, model)

    def test_settings_that_change_no_polygon(self, scenes, model, tmp_path: Path) -> None:
        out = tmp_path / "town.gpkg"
        merged(scenes, out, model)
        before = out.stat().st_mtime_ns
        merged(scenes, out, model, max_memory="3GB", batch=2)
        assert out.stat().st_mtime_ns == before

    def test_a_scene_that_fails_every_time(self, scenes, model, tmp_path: Path) -> None:
        """The layer of the others stays, until the scene can be read."""
        bad = tmp_path / "scenes" / "bad.tif"
        bad.write_bytes(b"no")
        out = tmp_path / "town.gpkg"
        for _ in range(2):
            results = merged([*scenes, bad], out, model)
            assert [result.outcome for result in results][-1] == "failed"
        before = out.stat().st_mtime_ns
        assert len(geopandas.read_file(out, layer="town")) == 6
        save(bad, town(), 900)
        with pytest.raises(OutputError, match="exists already"):
            merged([*scenes, bad], out, model)
        assert out.stat().st_mtime_ns == before
        merged([*scenes, bad], out, model, overwrite=True)
        assert len(geopandas.read_file(out, layer="town")) == 12

    def test_more_scenes_than_files_can_be_open(self, scenes, model, tmp_path: Path) -> None:
        import resource

        merged(scenes, tmp_path / "a.gpkg", model)
        folder = Path("/proc/self/fd")
        if not folder.is_dir():
            pytest.skip("nothing says how many files are open")
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        many = [save(tmp_path / "many" / f"{k}.tif", town()[:, :20, 80:110], 200 * k) for k in range(12)]
        merged(many, tmp_path / "many.gpkg", model)
        used = max(int(name.name) for name in folder.iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, limits[1]))
        try:
            merged(many, tmp_path / "many.gpkg", model, overwrite=True)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert len(geopandas.read_file(tmp_path / "many.gpkg", layer="many")) == 12

    def test_what_another_run_predicts_is_waited_for(self, scenes, model, tmp_path: Path) -> None:
        out = tmp_path / "town.gpkg"
        merged(scenes, out, model)
        before = out.read_bytes()
        part = scene_folders(out).outputs(Entry(str(scenes[1]), "east"))
        part.main.unlink()
        with open_ledger(part.main, {}), pytest.raises(BusyError, match=r"another run predicts .*east"):
            merged(scenes, out, model, overwrite=True)
        assert out.read_bytes() == before

    def test_scenes_of_other_settings_are_not_mixed(self, scenes, model, tmp_path: Path) -> None:
        out = tmp_path / "town.gpkg"
        merged(scenes, out, model)
        (tmp_path / "town.gpkg.scenes" / "west.parquet.json").unlink()
        with pytest.raises(InputError, match=r"west\.parquet: was written with other settings"):
            merged(scenes, out, model, overwrite=True, skip_existing=True)


class TestWhatGoesWrong:
    def test_files_of_others(self, scenes, model, tmp_path: Path) -> None:
        masks = tmp_path / "masks"
        masks.mkdir()
        (masks / "west.tif").write_text("drawn by hand")
        with pytest.raises(ExistsError, match=r"west\.tif: exists already"):
            merged(scenes, tmp_path / "town.gpkg", model, mask=masks)
        assert (masks / "west.tif").read_text() == "drawn by hand"
        (masks / "west.tif").unlink()
        merged(scenes, tmp_path / "town.gpkg", model, mask=masks)
        # What a run of ours wrote is its own.
        merged(scenes, tmp_path / "town.gpkg", model, mask=masks)
        (tmp_path / "other.gpkg.json").write_text("mine")
        with pytest.raises(ExistsError, match="the record would replace it"):
            merged(scenes, tmp_path / "other.gpkg", model)
        (tmp_path / "lone.dbf").write_text("mine")
        with pytest.raises(ExistsError, match=r"lone\.dbf: exists already"):
            merged(scenes, tmp_path / "lone.shp", model)

    def test_an_input_is_no_output(self, scenes, model, tmp_path: Path) -> None:
        raster = tmp_path / "scenes" / "town.gpkg"
        with rasterio.open(scenes[0]) as dataset:
            profile = {**dataset.profile, "driver": "GPKG"}
            with rasterio.open(raster, "w", **profile) as copy:
                copy.write(dataset.read())
        with pytest.raises(OutputError, match="is an input of this run"):
            merged([raster, scenes[1]], raster, model, overwrite=True)

    def test_links_are_written_through(self, scenes, model, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        link = tmp_path / "town.gpkg"
        link.symlink_to(tmp_path / "elsewhere" / "real.gpkg")
        merged(scenes, link, model)
        assert link.is_symlink()
        assert len(geopandas.read_file(tmp_path / "elsewhere" / "real.gpkg", layer="real")) == 6

    def test_options_of_the_layer_are_looked_at_before(self, scenes, model, tmp_path: Path) -> None:
        for options, words in (
            ({"dst_crs": "EPSG:99999"}, "is no known CRS"),
            ({"lco": [("NO_SUCH", "1")]}, "NO_SUCH"),
            ({"layer": "gpkg_x"}, "GeoPackage keeps names like this"),
        ):
            with pytest.raises(SettingsError, match=words):
                merged(scenes, tmp_path / "town.gpkg", model, **options)
        assert not list(tmp_path.glob("town*"))

    def test_what_stops_the_polygons_is_told(self, scenes, model, tmp_path: Path, monkeypatch) -> None:
        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("tilesegment.run.many.merge.without_secrets", stop)
        with pytest.raises(KeyboardInterrupt):
            merged(scenes, tmp_path / "town.gpkg", model)
        assert not (tmp_path / "town.gpkg").exists()

    def test_a_bad_scene_is_named_and_the_others_are_merged(
        self, scenes, model, tmp_path: Path, capfd
    ) -> None:
        (tmp_path / "scenes" / "bad.tif").write_bytes(b"no")
        out = tmp_path / "town.gpkg"
        arguments = ["predict", str(tmp_path / "scenes"), "-o", str(out), "--merge", "--model", model]
        done = CliRunner().invoke(command, [*arguments[1:], "--min-area", "0"])
        assert done.exit_code == 3
        assert len(geopandas.read_file(out, layer="town")) == 6
        (failed,) = json.loads((tmp_path / "town.gpkg.json").read_text())["failed"]
        assert failed["input"].endswith("bad.tif")

    def test_all_bad_scenes_make_no_layer(self, model, tmp_path: Path) -> None:
        (tmp_path / "bad.tif").write_bytes(b"no")
        (result,) = merged([tmp_path / "bad.tif"], tmp_path / "town.gpkg", model)
        assert result.outcome == "failed"
        assert not (tmp_path / "town.gpkg").exists()

    def test_pictures_have_no_place(self, model, tmp_path: Path) -> None:
        picture = save(tmp_path / "a.tif", town(), 0, None)
        with pytest.raises(InputError, match=r"a\.tif: has no CRS, so its polygons cannot be merged"):
            merged([picture], tmp_path / "town.gpkg", model)
        # That is known before anything is predicted; of one that comes later, when it is merged.
        assert not (tmp_path / "town.gpkg.scenes").exists()
        placed = save(tmp_path / "0.tif", town(), 0)
        with pytest.raises(InputError, match=r"a\.tif: has no CRS, so its polygons cannot be merged"):
            merged([placed, picture], tmp_path / "town.gpkg", model)
        assert (tmp_path / "town.gpkg.scenes").exists()
        assert not (tmp_path / "town.gpkg").exists()
        assert not (tmp_path / "town.gpkg.partial").exists()

    @pytest.mark.parametrize(
        ("name", "options", "words"),
        [
            ("town.tif", {}, "--merge makes a layer of polygons"),
            ("town.gpkg", {"keep_raw": True, "regularize": "right"}, "keep_raw is not for merged layers"),
        ],
    )
    def test_before_anything_is_predicted(self, scenes, model, tmp_path, name, options, words) -> None:
        with pytest.raises(SettingsError) as caught:
            merged(scenes, tmp_path / name, model, **options)
        assert words.replace("--merge", "merge") in str(caught.value).replace("--merge", "merge")
        assert not list(tmp_path.glob("town*"))

    def test_not_with_mosaic(self, scenes, model, tmp_path: Path) -> None:
        out = str(tmp_path / "o.gpkg")
        done = CliRunner().invoke(command, [str(scenes[0]), "-o", out, "--merge", "--mosaic"])
        assert "give one of them" in str(done.exception)
