"""Many scenes in one command: which ones are meant, and that each is done as if it were alone."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window as RasterWindow

import tilesegment
from tests.fakes import Wavy, fake_card
from tilesegment.errors import InputError, ModelError, OutputError, SettingsError
from tilesegment.model.store import save_model
from tilesegment.raster.sheets import sheets_as_vrt
from tilesegment.raster.source import open_scene
from tilesegment.run.block import predict as block_module
from tilesegment.run.many.inputs import Entry, entries_of, is_several
from tilesegment.run.scene.executor import Executor
from tilesegment.run.scene.ledger import open_ledger
from tilesegment.run.scene.outputs import Outputs
from tilesegment.run.scene.pipeline import SceneRun, run_predict
from tilesegment.settings import FORMATS, PredictSettings
from tilesegment.vector.files import is_vector


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the network; the names of the models that were loaded."""
    found: list[str] = []

    def load(name: str, model: Any, setup: Any) -> Wavy:
        found.append(model.name)
        return Wavy()

    monkeypatch.setattr(block_module, "load_engine", load)
    monkeypatch.setattr(block_module, "_loaded", {})
    return found


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.safetensors"
    save_model(path, {"w": np.zeros(3, np.float32)}, fake_card(2))
    return str(path)


@pytest.fixture
def scenes(tmp_path: Path, make_raster: Callable[..., Path], rng: np.random.Generator) -> Path:
    """A folder of three scenes of different sizes, and of what is none."""
    folder = tmp_path / "scenes"
    (folder / "north").mkdir(parents=True)
    for name, size in (("a.tif", (70, 90)), ("b.TIF", (141, 120)), ("north/a.tif", (64, 64))):
        values = np.kron(rng.integers(0, 255, (3, 15, 19)), np.ones((1, 10, 10))).astype(np.uint8)
        make_raster(values[:, : size[0], : size[1]]).rename(folder / name)
    for name in ("notes.txt", ".hidden.tif", "a.tfw", "list.csv"):
        (folder / name).write_text("no scene")
    return folder


def names(entries: list[Entry], root: Path) -> dict[str, str]:
    return {entry.name: os.path.relpath(entry.source, root) for entry in entries}


class TestInputs:
    def test_files_folders_and_patterns(self, scenes: Path) -> None:
        def found(*words: str) -> dict[str, str]:
            return names(entries_of([str(scenes / word) for word in words], bytes), scenes)

        assert found("a.tif") == {"a": "a.tif"}
        # A folder is its rasters, not what is in folders within, hidden, or no raster.
        assert found(".") == {"a": "a.tif", "b": "b.TIF"}
        assert found("*.tif", "b.TIF") == {"a": "a.tif", "b": "b.TIF"}
        # A pattern keeps the folders below what is fixed of it.
        assert found("**/*.tif") == {"a": "a.tif", "north/a": "north/a.tif"}
        assert found("n*/a.tif") == {"north/a": "north/a.tif"}
        # What is named twice is done once.
        assert found("a.tif", ".", "[ab].tif") == {"a": "a.tif", "b": "b.TIF"}

    def test_order_is_that_of_the_words(self, scenes: Path) -> None:
        found = entries_of([str(scenes / "b.TIF"), str(scenes)], bytes)
        assert [entry.name for entry in found] == ["b", "a"]

    @pytest.mark.parametrize(
        ("source", "name"),
        [
            ("https://example.org/data/town.tif?X-Amz-Signature=secret", "town"),
            ("s3://bucket/a.b/town.v2.tif", "town.v2"),
            ("/vsizip/pack.zip/in/town.jp2", "town"),
            ("zip://pack.zip!in/town.jp2", "town"),
            ("PG:dbname=towns table=x", "PG_dbname=towns table=x"),
            ("https://example.org/tiles/*.tif", "_"),
        ],
    )
    def test_names_of_what_is_no_file(self, source: str, name: str) -> None:
        assert entries_of([source], bytes) == [Entry(source, name)]

    def test_lists(self, scenes: Path, tmp_path: Path) -> None:
        lines = f"# scenes\r\n\r\n  {scenes / 'a.tif'}\r\n{scenes / 'north'}{os.sep}*.tif\r\n"
        listed = tmp_path / "list.txt"
        # Two of one name are no error where they are one file.
        listed.write_bytes(lines.replace("*.tif", "n*.tif").encode("utf-8-sig"))
        with pytest.raises(InputError, match=r"n\*\.tif: no file is named so"):
            entries_of([f"@{listed}"], bytes)
        listed.write_bytes(f"{scenes / 'a.tif'}\n{scenes / 'b.TIF'}\n".encode("utf-16"))
        assert names(entries_of([f"@{listed}"], bytes), scenes) == {"a": "a.tif", "b": "b.TIF"}
        from_input = entries_of(["-"], lambda: f"{scenes / 'b.TIF'}\n".encode())
        assert names(from_input, scenes) == {"b": "b.TIF"}
        with pytest.raises(InputError, match=r"nowhere\.txt: cannot be read"):
            entries_of(["@nowhere.txt"], bytes)
        with pytest.raises(InputError, match="standard input: is not in utf-8"):
            entries_of(["-"], lambda: b"\xff\xfa.tif")

    def test_two_of_one_name(self, scenes: Path) -> None:
        words = [str(scenes / "a.tif"), str(scenes / "north" / "a.tif")]
        with pytest.raises(SettingsError, match=r"a\.tif and .*north.a\.tif would both be written as a;"):
            entries_of(words, bytes)

    def test_names_with_the_characters_of_patterns(self, scenes: Path) -> None:
        odd = scenes / "odd"
        odd.mkdir()
        for name in ("x[1].tif", "@y.tif"):
            (odd / name).write_bytes((scenes / "a.tif").read_bytes())
        assert names(entries_of([str(odd / "x[1].tif")], bytes), odd) == {"x[1]": "x[1].tif"}
        assert not is_several([str(odd / "x[1].tif")], "o.gpkg")
        assert names(entries_of([str(odd)], bytes), odd) == {"x[1]": "x[1].tif", "@y": "@y.tif"}

    def test_one_or_several(self, scenes: Path, tmp_path: Path) -> None:
        a = str(scenes / "a.tif")
        assert not is_several([a], "roofs.gpkg")
        assert not is_several([a], "roofs")
        # GDAL reads some folders as rasters.
        assert not is_several([str(scenes)], "roofs.gpkg")
        assert is_several([str(scenes)], "roofs")
        for words, output in (
            ([a], "roofs/"),
            ([a], str(tmp_path)),
            ([a, a], "roofs"),
            (["-"], "roofs.v2"),
        ):
            assert is_several(words, output)
        with pytest.raises(SettingsError, match=r"written to a folder: -o town.roofs/ --format fgb"):
            is_several([str(scenes / "*.tif")], os.path.join("town", "roofs.FGB"))
        for ending in ("tiff", "json", "geoparquet"):
            assert not is_several([str(scenes)], f"roofs.{ending}")
            with pytest.raises(SettingsError, match=r"several scenes are written to a folder"):
                is_several([a, a], f"roofs.{ending}")

    def test_formats_are_those_that_are_written(self) -> None:
        assert [name for name in FORMATS if not is_vector(f"x.{name}")] == ["tif", "png"]


class TestRuns:
    def test_each_is_done_as_if_it_were_alone(self, scenes, model, loads, tmp_path: Path) -> None:
        out, masks = tmp_path / "roofs", tmp_path / "masks"
        told: list[tuple[int, int, str]] = []
        results = list(
            tilesegment.predict_many(
                [scenes / "**" / "*.[tT][iI][fF]"], out, mask=masks, model=model, min_area=0,
                progress=lambda *words: told.append(words),
            )
        )  # fmt: skip
        assert [result.outcome for result in results] == ["predicted"] * 3
        # The model is loaded once for all of them.
        assert len(loads) == 1
        assert told[0][:2] == (0, 3)
        assert told[-1] == (3, 3, "")
        assert any(re.search(r"a\.tif, (\d+) of \1 tiles", words) for _, _, words in told)
        for result in results:
            name = Path(os.path.relpath(result.source, scenes)).with_suffix("")
            single = tmp_path / "single.gpkg"
            record = tilesegment.predict(
                result.source, single, mask=tmp_path / "single.tif", model=model, min_area=0, overwrite=True
            )
            assert result.record is not None
            assert result.record["counts"] == record["counts"]
            with (
                rasterio.open(masks / f"{name}.tif") as one,
                rasterio.open(tmp_path / "single.tif") as other,
            ):
                np.testing.assert_array_equal(one.read(1), other.read(1))
            both = [geopandas.read_file(path) for path in (out / f"{name}.gpkg", single)]
            assert both[0].geometry.geom_equals(both[1].geometry).all()
            assert len(both[0]) == len(both[1]) > 0
        assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.gpkg")) == [
            "a.gpkg", "b.gpkg", "north/a.gpkg",
        ]  # fmt: skip

    def test_one_that_fails_does_not_stop_the_others(self, scenes, model, loads, tmp_path: Path) -> None:
        (scenes / "aa.tif").write_text("no raster")
        words = [scenes / "nowhere.tif", scenes]
        results = {
            Path(result.source).name: result
            for result in tilesegment.predict_many(words, tmp_path / "out", format="tif", model=model)
        }
        outcomes = {name: str(result.outcome) for name, result in results.items()}
        assert outcomes == {
            "nowhere.tif": "failed", "a.tif": "predicted", "aa.tif": "failed", "b.TIF": "predicted",
        }  # fmt: skip
        assert "nowhere.tif: no such file" in results["nowhere.tif"].reason
        assert "aa.tif: not a raster" in results["aa.tif"].reason
        assert results["aa.tif"].record is None
        assert sorted(path.name for path in (tmp_path / "out").glob("*.tif")) == ["a.tif", "b.tif"]

    def test_a_fault_of_ours_does_not_either(
        self, scenes, model, loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tilesegment.run.many import one

        class Faulty(SceneRun):
            def predict(self, executor: Executor, progress: Any) -> None:
                if str(self.prepared.job.scene.path).endswith("a.tif"):
                    raise KeyError("what")
                super().predict(executor, progress)

        monkeypatch.setattr(one, "SceneRun", Faulty)
        first, second = tilesegment.predict_many([scenes], tmp_path / "out", model=model)
        assert (first.outcome, first.reason) == ("failed", "internal error: KeyError: 'what'")
        assert second.outcome == "predicted"

    def test_again_only_what_is_new(self, scenes, model, loads, tmp_path: Path) -> None:
        out = tmp_path / "out"

        def again(**settings: Any) -> list[str]:
            found = tilesegment.predict_many([scenes], out, **{"model": model, **settings})
            return [f"{result.outcome}: {result.reason}" for result in found]

        assert again() == ["predicted: ", "predicted: "]
        before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
        assert again() == again(workers=None, max_memory="8GB") == ["skipped: done before"] * 2
        (out / "a.gpkg").unlink()
        assert again() == ["predicted: ", "skipped: done before"]
        assert {p.name for p, then in before.items() if p.stat().st_mtime_ns != then} == {
            "a.gpkg", "a.gpkg.json", ".tilesegment.jsonl",
        }  # fmt: skip
        # Other settings are another result, which replaces nothing by itself.
        assert all("failed: " in line and "overwrite=True" in line for line in again(min_area=30))
        assert again(min_area=30, skip_existing=True) == ["skipped: its outputs are there"] * 2
        assert again(min_area=30, overwrite=True) == ["predicted: "] * 2
        assert again(min_area=30, overwrite=True) == ["skipped: done before"] * 2
        assert again(min_area=30, overwrite=True, resume=False) == ["predicted: "] * 2
        # So is a scene that is another one now, and a model.
        os.utime(scenes / "a.tif", (1e9, 1e9))
        assert [line[:7] for line in again(min_area=30)] == ["failed:", "skipped"]
        save_model(model, {"w": np.ones(3, np.float32)}, fake_card(2))
        assert [line[:7] for line in again(min_area=30)] == ["failed:", "failed:"]

    def test_what_was_changed_by_hand(self, scenes, model, loads, tmp_path: Path) -> None:
        def again(**settings: Any) -> list[str]:
            found = tilesegment.predict_many([scenes / "a.tif"], tmp_path / "out", model=model, **settings)
            return [str(result.outcome) for result in found]

        again()
        roofs = tmp_path / "out" / "a.gpkg"
        os.utime(roofs, ns=(2**62, 2**62))
        # It stays, unless it may be replaced.
        assert again() == ["skipped"]
        assert again(overwrite=True) == ["predicted"]
        roofs.write_text("damaged")
        (found,) = tilesegment.predict_many(
            [scenes / "a.tif"], roofs.parent, model=model, skip_existing=True
        )
        assert found.outcome == "failed"
        assert "a.gpkg: is there and cannot be read" in found.reason
        assert roofs.read_text() == "damaged"
        roofs.unlink()
        (tmp_path / "out" / "a.gpkg.json").write_text("{")
        assert again() == ["failed"]
        assert again(overwrite=True) == ["predicted"]

    def test_what_another_run_is_making(self, scenes, model, loads, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        with open_ledger(out / "a.gpkg", {}):
            first, second = tilesegment.predict_many([scenes], out, model=model)
        assert first.outcome == "skipped"
        assert "another run is writing it" in first.reason
        assert second.outcome == "predicted"

    def test_messages_name_their_scene(
        self, scenes, model, loads, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        profile = {"driver": "GTiff", "count": 3, "height": 64, "width": 64, "dtype": "uint8"}
        with rasterio.open(scenes / "b.TIF", "w", **profile) as dataset:
            dataset.write(np.full((3, 64, 64), 90, np.uint8))
        logger = logging.getLogger("tilesegment")
        filters = list(logger.filters)
        logger.propagate = True
        with caplog.at_level("WARNING", "tilesegment"):
            list(tilesegment.predict_many([scenes], tmp_path / "out", model=model))
        said = [message for message in caplog.messages if "no CRS" in message]
        assert said
        assert all(message.startswith(f"{scenes / 'b.TIF'}: ") for message in said)
        assert logger.filters == filters

    @pytest.mark.parametrize(
        ("folders", "settings", "error", "words"),
        [
            ({"folder": "scenes"}, {"format": "tif"}, SettingsError, "scenes are read from there"),
            ({"folder": "out", "overlay": "scenes"}, {}, SettingsError, "scenes are read from there"),
            ({"folder": "model.safetensors"}, {}, OutputError, "is a file; several scenes"),
            ({"folder": "none/out"}, {}, OutputError, "none: no such folder"),
            ({"folder": "out", "mask": "none/m"}, {}, OutputError, "none: no such folder"),
            ({"folder": "out"}, {"format": "dwg"}, SettingsError, "format 'dwg': use one of gpkg"),
            ({"folder": "out"}, {"scheduler": "nowhere"}, SettingsError, "is no address"),
        ],
    )
    def test_refused_before_anything_is_done(
        self, scenes, model, loads, tmp_path: Path, folders, settings, error, words
    ) -> None:
        places = {name: tmp_path / value for name, value in folders.items()}
        with pytest.raises(error, match=words):
            list(tilesegment.predict_many([scenes], **places, **settings, model=model))
        assert loads == []
        assert not (tmp_path / "out").exists()

    def test_the_same_folder_takes_polygons(self, scenes, model, loads) -> None:
        results = list(tilesegment.predict_many([scenes], scenes, model=model))
        assert [result.outcome for result in results] == ["predicted"] * 2
        assert (scenes / "a.gpkg").exists()


class TestWhatIsThere:
    """What another run has just made, and what is there by half."""

    def test_made_meanwhile(
        self, scenes, model, loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tilesegment.run.many import one

        def late(source: str, outputs: Outputs, settings: PredictSettings, most: int | None) -> SceneRun:
            # Another run was faster.
            run_predict(source, outputs, settings)
            return SceneRun(source, outputs, settings, most)

        monkeypatch.setattr(one, "SceneRun", late)
        for skip_existing in (False, True):
            out = tmp_path / f"out{skip_existing}"
            (found,) = tilesegment.predict_many(
                scenes / "a.tif", out, model=model, skip_existing=skip_existing
            )
            assert found.outcome == "skipped"

    def test_a_half_is_no_whole(self, scenes, model, loads, tmp_path: Path) -> None:
        out = tmp_path / "out"
        a = scenes / "a.tif"
        assert [r.outcome for r in tilesegment.predict_many(a, out, model=model)] == ["predicted"]
        # The mask is missing, and nothing may be replaced.
        (found,) = tilesegment.predict_many(a, out, mask=tmp_path / "m", model=model, skip_existing=True)
        assert (found.outcome, "a.gpkg: exists already" in found.reason) == ("failed", True)
        (out / "b.gpkg-journal").write_text("mine")
        (found,) = tilesegment.predict_many(scenes / "b.TIF", out, model=model, skip_existing=True)
        assert (found.outcome, "journal: exists already" in found.reason) == ("failed", True)

    @pytest.mark.parametrize("format", FORMATS)
    def test_no_roofs_are_a_result_as_well(self, scenes, model, loads, tmp_path: Path, format: str) -> None:
        settings: dict[str, Any] = {"model": model, "format": format, "min_area": 1e9}
        for outcome in ("predicted", "skipped"):
            (found,) = tilesegment.predict_many([scenes / "a.tif"], tmp_path / "out", **settings)
            assert (found.outcome, found.reason) == (
                outcome,
                "" if outcome == "predicted" else "done before",
            )

    def test_pictures_in_folders_of_outputs_are_no_scenes(
        self, scenes, model, loads, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (scenes / "a.tif").unlink()
        logging.getLogger("tilesegment").propagate = True
        for outcome in ("predicted", "skipped", "skipped"):
            found = list(
                tilesegment.predict_many(
                    [scenes / "**" / "*.tif"], tmp_path / "out", mask=scenes / "masks", model=model
                )
            )
            assert [(Path(r.source).parent.name, str(r.outcome)) for r in found] == [("north", outcome)]
        assert "1 files are left out: they lie in folders of outputs" in caplog.messages

    def test_what_is_wrong_for_all_is_said_once(self, scenes, tmp_path: Path) -> None:
        for settings, error in (({"model": "nothing"}, ModelError), ({"blend": "nothing"}, SettingsError)):
            with pytest.raises(error, match="nothing"):
                tilesegment.predict_many([scenes], tmp_path / "out", **settings)

    def test_a_folder_that_cannot_be(self, scenes, model, loads, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "north").write_text("a file")
        found = tilesegment.predict_many([scenes / "**" / "*.tif"], tmp_path / "out", model=model)
        assert [(str(r.outcome), "cannot be made" in r.reason) for r in found] == [
            ("predicted", False), ("failed", True),
        ]  # fmt: skip


def test_an_executor_keeps_no_other_model(scenes, model, loads, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_model(other, {"w": np.ones(3, np.float32)}, fake_card(2))
    with Executor() as executor:
        for path in (model, model, str(other), model):
            outputs = Outputs(tmp_path / "r.gpkg")
            settings = PredictSettings((path,), overwrite=True)
            run_predict(str(scenes / "a.tif"), outputs, settings, executor=executor)
    assert loads == [model, str(other), model]


def test_pictures_of_several_shapes_load_the_model_once_each(
    make_raster, loads, tmp_path: Path, rng: np.random.Generator
) -> None:
    folder, large = tmp_path / "pictures", tmp_path / "large.safetensors"
    save_model(large, {"w": np.zeros(3, np.float32)}, fake_card(2, tile=(128, 128)))
    folder.mkdir()
    # Smaller than a tile, which then is as large as they are.
    shapes = [(32, 64), (64, 32), (32, 96), (96, 32), (64, 64)]
    order = [0, 1, 0, 1, 0, 2, 3, 0, 1, 4, 1, 0, 2]
    for number, which in enumerate(order):
        make_raster(rng.integers(0, 255, (3, *shapes[which]), np.uint8)).rename(folder / f"{number:02}.tif")
    with Executor() as executor:
        for path in sorted(folder.iterdir()):
            outputs = Outputs(tmp_path / f"{path.stem}.gpkg")
            run_predict(str(path), outputs, PredictSettings((str(large),)), executor=executor)
    # Four are kept: the fifth shape takes the place of the one that was not used for longest, the third.
    assert len(loads) == 6


def test_one_cluster_for_all_scenes(scenes, model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilesegment.run.scene import executor

    started: list[int | None] = []
    real = executor._client

    def client(workers: int | None, scheduler: str | None) -> Any:
        started.append(workers)
        return real(workers, scheduler)

    monkeypatch.setattr(executor, "_client", client)
    # Nothing is started where nothing is to be done.
    assert list(tilesegment.predict_many([], tmp_path / "out", workers=1)) == []
    assert started == []
    results = list(tilesegment.predict_many([scenes], tmp_path / "out", workers=1, gsd=0.15))
    assert [result.outcome for result in results] == ["predicted"] * 2
    assert started == [1]


class TestCommand:
    def run(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tilesegment", "predict", *map(str, arguments)],
            capture_output=True, text=True, timeout=300, **options,
        )  # fmt: skip

    def test_exit_code_lines_and_summary(self, scenes: Path, tmp_path: Path) -> None:
        (scenes / "b.TIF").write_text("no raster")
        out = tmp_path / "out"
        done = self.run("-", "-o", f"{out}/", "--json", input=f"{scenes}\n", cwd=tmp_path)
        assert done.returncode == 3
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(Path(row["input"]).name, row["outcome"]) for row in rows] == [
            ("a.tif", "predicted"), ("b.TIF", "failed"),
        ]  # fmt: skip
        assert rows[0]["record"]["outputs"] == [str(out / "a.gpkg")]
        lines = done.stderr.splitlines()
        assert lines[-2] == "1 predicted, 0 skipped, 1 failed"
        assert lines[-1].startswith("error: failed: ")
        assert "b.TIF: not a raster" in lines[-1]
        (scenes / "b.TIF").unlink()
        again = self.run(scenes, "-o", out)
        assert (again.returncode, again.stderr) == (0, "0 predicted, 1 skipped, 0 failed\n")

    def test_plans(self, scenes: Path, tmp_path: Path) -> None:
        (scenes / "aa.tif").write_text("no raster")
        done = self.run(scenes, "-o", tmp_path / "out", "--dry-run", "--format", "tif")
        assert done.returncode == 3
        # One start, and next to nothing for two small scenes.
        assert done.stdout.splitlines()[-1] == "3 scenes: 0.0 Mpx, 2 tiles, about 2 s"
        assert done.stdout.startswith(f"{scenes / 'a.tif'}: 0.0 Mpx, 1 tiles, ")
        assert "aa.tif: not a raster" in done.stderr
        assert not (tmp_path / "out").exists()

    def test_usage(self, scenes: Path, tmp_path: Path) -> None:
        a = scenes / "a.tif"
        for arguments, words in (
            ([a, a, "-o", "roofs.gpkg"], "several scenes are written to a folder: -o roofs/"),
            ([a, "-o", "roofs.gpkg", "--skip-existing"], "--skip-existing is for several scenes"),
            ([a, "-o", "roofs"], "unknown extension"),
            (["-o", "roofs.gpkg"], "Missing argument 'INPUT...'"),
        ):
            done = self.run(*arguments, cwd=tmp_path)
            assert done.returncode == 2
            assert words in done.stderr
        empty = tmp_path / "empty"
        empty.mkdir()
        done = self.run(empty, "-o", f"{tmp_path / 'out'}{os.sep}")
        assert (done.returncode, done.stderr) == (0, "0 predicted, 0 skipped, 0 failed\n")


class TestMosaic:
    """Sheets of one scene: what is predicted is what the whole scene gives."""

    @pytest.fixture
    def cut(self, make_raster: Callable[..., Path], rng: np.random.Generator, tmp_path: Path) -> Any:
        """A scene, and its four sheets in a folder. marks: alpha, mask, nodata or none."""

        def make(marks: str = "none", dtype: str = "uint8") -> tuple[Path, Path]:
            values = np.kron(rng.integers(1, 255, (3, 15, 19)), np.ones((1, 10, 10))).astype(dtype)
            valid = np.ones(values.shape[1:], np.bool_)
            valid[40:90, 60:130] = False
            options: dict[str, Any] = {"photometric": "RGB"} if dtype == "uint8" else {}
            if marks == "alpha":
                values = np.concatenate([values, (255 * valid[None]).astype(dtype)])
                options = {"colorinterp": [ColorInterp(k) for k in (3, 4, 5, 6)]}
            if marks == "nodata":
                values[:, ~valid] = 0
                options["nodata"] = 0
            whole = make_raster(values, mask=valid if marks == "mask" else None, **options)
            sheets = tmp_path / "sheets"
            sheets.mkdir()
            with rasterio.open(whole) as dataset:
                for number, (row, col) in enumerate([(0, 0), (0, 77), (81, 0), (81, 77)]):
                    window = RasterWindow(col, row, (77, 113)[col > 0], (81, 69)[row > 0])
                    profile = {
                        **dataset.profile, "height": window.height, "width": window.width,
                        "transform": dataset.window_transform(window),
                    }  # fmt: skip
                    with rasterio.open(sheets / f"{number}.tif", "w", **profile) as sheet:
                        sheet.write(dataset.read(window=window))
                        sheet.colorinterp = dataset.colorinterp
                        if marks == "mask":
                            sheet.write_mask(dataset.dataset_mask(window=window))
            return whole, sheets

        return make

    def test_an_alpha_band_that_is_no_mask(self, make_raster: Callable[..., Path]) -> None:
        """GDAL takes it for one among four bands alone."""
        values = np.full((5, 20, 30), 90, np.uint8)
        path = make_raster(values, photometric="RGB", alpha="YES")
        with rasterio.open(path, "r+") as dataset:
            dataset.colorinterp = [ColorInterp(k) for k in (3, 4, 5, 1, 6)]
        with rasterio.open(path) as dataset:
            assert ColorInterp.alpha in dataset.colorinterp
            is_mask = MaskFlags.per_dataset in dataset.mask_flag_enums[0]
        assert not is_mask
        with pytest.raises(InputError, match="alpha band is none that GDAL takes for a mask"):
            sheets_as_vrt([str(path)])

    def test_what_is_transparent_covers_nothing(
        self, make_raster: Callable[..., Path], tmp_path: Path
    ) -> None:
        """Two sheets that overlap by half; the second one is transparent there."""
        values = np.full((4, 20, 30), 90, np.uint8)
        values[3] = 255
        colours = {"photometric": "RGB", "alpha": "YES"}
        one = make_raster(values, "a.tif", **colours)
        values[:3], values[:, :, :15] = 40, 0
        with rasterio.open(one) as dataset:
            transform = dataset.transform @ rasterio.Affine.translation(15, 0)
        other = make_raster(values, "b.tif", transform=transform, **colours)
        path = tmp_path / "sheets.vrt"
        path.write_text(sheets_as_vrt([str(one), str(other)]))
        with open_scene(path) as scene:
            pixels = scene.read(scene.grid.window)
        assert pixels.valid.all()
        assert pixels.values[0, 0].tolist() == [90] * 30 + [40] * 15

    @pytest.mark.parametrize(
        ("marks", "dtype"),
        [
            ("none", "uint8"),
            ("alpha", "uint8"),
            ("mask", "uint8"),
            ("nodata", "uint8"),
            ("nodata", "uint16"),
        ],
    )
    def test_sheets_are_read_as_the_whole(self, cut, tmp_path: Path, marks: str, dtype: str) -> None:
        whole, sheets = cut(marks, dtype)
        path = tmp_path / "sheets.vrt"
        path.write_text(sheets_as_vrt([str(sheets / f"{number}.tif") for number in (3, 0, 1, 2)]))
        with rasterio.open(whole) as one, rasterio.open(path) as other:
            assert one.transform.almost_equals(other.transform)
            assert (one.crs, one.shape, one.colorinterp) == (other.crs, other.shape, other.colorinterp)
        with open_scene(whole) as one, open_scene(path) as other:
            window = one.grid.window
            first, second = one.read(window), other.read(window)
        assert first.valid.all() == (marks == "none")
        np.testing.assert_array_equal(first.valid, second.valid)
        np.testing.assert_array_equal(first.values[:, first.valid], second.values[:, first.valid])

    def test_between_sheets_nothing_is_valid(self, cut, tmp_path: Path) -> None:
        _, sheets = cut()
        path = tmp_path / "sheets.vrt"
        path.write_text(sheets_as_vrt([str(sheets / "0.tif"), str(sheets / "3.tif")]))
        with open_scene(path) as scene:
            valid = scene.read(scene.grid.window).valid
        expected = np.zeros((150, 190), np.bool_)
        expected[:81, :77] = expected[81:, 77:] = True
        np.testing.assert_array_equal(valid, expected)

    def test_where_sheets_overlap_the_last_valid_pixel_counts(self, make_raster, tmp_path: Path) -> None:
        first = make_raster(np.full((3, 20, 20), 10, np.uint8), "first.tif", photometric="RGB")
        valid = np.ones((20, 20), np.bool_)
        valid[:, :5] = False
        second = make_raster(
            np.full((3, 20, 20), 20, np.uint8), "second.tif", photometric="RGB", mask=valid,
            transform=rasterio.Affine(0.15, 0, 354001.5, 0, -0.15, 3057000),
        )  # fmt: skip
        path = tmp_path / "sheets.vrt"
        path.write_text(sheets_as_vrt([str(first), str(second)]))
        with open_scene(path) as scene:
            found = scene.read(scene.grid.window)
        assert found.valid.all()
        assert found.values[0, 7].tolist() == [10] * 15 + [20] * 15

    def test_polygons_are_those_of_the_whole(self, cut, model, loads, tmp_path: Path) -> None:
        whole, sheets = cut("mask")
        settings: dict[str, Any] = {"model": model, "min_area": 0}
        tilesegment.predict(whole, tmp_path / "one.gpkg", **settings)
        record = tilesegment.predict([sheets / "*.tif"], tmp_path / "two.gpkg", **settings)
        (listed,) = tmp_path.glob("two.gpkg.sheets-*.vrt")
        assert record["plan"]["input"] == str(listed)
        one, two = (geopandas.read_file(tmp_path / f"{name}.gpkg") for name in ("one", "two"))
        assert len(one) == len(two) > 3
        assert one.geometry.geom_equals(two.geometry).all()
        assert one["confidence"].equals(two["confidence"])

    def test_other_sheets_are_another_file(self, cut, model, loads, tmp_path: Path) -> None:
        """What another run may be reading is not changed; what is of no use any more goes."""
        _, sheets = cut()
        out = sheets / "r.gpkg"
        tilesegment.predict([sheets], out, model=model)
        (listed,) = sheets.glob("*.vrt")
        before = listed.stat().st_mtime_ns
        # The file itself is no sheet, though it lies between them.
        tilesegment.predict([sheets], out, model=model, overwrite=True)
        assert [path.name for path in sheets.glob("*.vrt")] == [listed.name]
        assert listed.stat().st_mtime_ns == before
        with pytest.raises(OutputError, match=r"r\.gpkg: exists already"):
            tilesegment.predict([sheets / "0.tif"], out, model=model)
        assert listed.exists()
        tilesegment.predict([sheets / "[01].tif"], out, model=model, overwrite=True)
        (other,) = sheets.glob("*.vrt")
        assert other.name != listed.name
        with rasterio.open(other) as dataset:
            assert dataset.shape == (81, 190)
        assert names(entries_of([str(sheets / "*.*t*")], bytes), sheets).keys() == {"0", "1", "2", "3"}

    def test_nodata_that_is_no_number(self, make_raster, tmp_path: Path) -> None:
        values = np.full((3, 9, 9), 5, np.float32)
        values[:, :2] = np.nan
        one = make_raster(values, "one.tif", nodata=np.nan)
        there = rasterio.Affine(0.15, 0, 354000 + 9 * 0.15, 0, -0.15, 3057000)
        other = make_raster(values, "other.tif", nodata=np.nan, transform=there)
        path = tmp_path / "sheets.vrt"
        path.write_text(sheets_as_vrt([str(one), str(other)]))
        with open_scene(path) as scene:
            assert scene.read(scene.grid.window).valid.sum(axis=1).tolist() == [0, 0, *[18] * 7]
        both = make_raster(
            np.full((3, 9, 9), 5, np.uint8), "both.tif", nodata=0, mask=np.ones((9, 9), bool)
        )
        with pytest.raises(InputError, match="a nodata value or a mask of their own, and not both"):
            sheets_as_vrt([str(both)])

    def test_sheets_that_do_not_fit(self, cut, make_raster) -> None:
        _, sheets = cut()
        first = str(sheets / "0.tif")
        grey = np.full((3, 9, 9), 90, np.uint8)

        def at(pixel: float, east: float = 0.0, north: float = 0.0) -> rasterio.Affine:
            return rasterio.Affine(pixel, 0, 354000 + east, 0, -pixel, 3057000 + north)

        for options, words in (
            ({"crs": "EPSG:32646"}, "has another CRS than .*0.tif"),
            ({"transform": at(0.3)}, "pixels do not lie on the grid of .*0.tif"),
            ({"transform": at(0.15, east=0.05)}, r"pixels do not lie on the grid of .*0.33 pixels off"),
            ({"transform": at(0.15, north=150_000)}, "lies so far from .*0.tif that the sheets cover"),
            ({"nodata": 7}, "its nodata value is not that of .*0.tif: 7"),
            ({"transform": rasterio.Affine.identity(), "crs": None}, "has no georeference"),
        ):
            other = make_raster(grey, "other.tif", **{"photometric": "RGB", **options})
            with pytest.raises(InputError, match=rf"other\.tif: .*{words}|other\.tif: {words}"):
                sheets_as_vrt([first, str(other)])
        other = make_raster(grey[:1], "other.tif")
        with pytest.raises(InputError, match=r"its number of bands is not that of .*0\.tif: 1"):
            sheets_as_vrt([first, str(other)])
        other = make_raster(grey[:1], "other.tif", colormap={1: (1, 2, 3, 255)})
        with pytest.raises(InputError, match="sheets need plain bands"):
            sheets_as_vrt([str(other)])
        with pytest.raises(InputError, match=r"none\.tif: not a raster"):
            sheets_as_vrt(["none.tif"])

    def test_command(self, cut, tmp_path: Path) -> None:
        _, sheets = cut()
        run = TestCommand().run
        plan = run(sheets / "*.tif", "--mosaic", "-o", tmp_path / "r.gpkg", "--dry-run", "--json")
        assert json.loads(plan.stdout)["grid"]["height"] == 150
        assert not (tmp_path / "r.sheets.vrt").exists()
        done = run(sheets / "*.tif", "--mosaic", "-o", tmp_path / "r.gpkg", "--skip-existing")
        assert done.returncode == 2


class TestIndexes:
    """Sheets that an index names are one scene: GDAL's tile index, and a file of STAC items."""

    @pytest.fixture
    def sheets(self, tmp_path: Path, rng: np.random.Generator) -> tuple[Path, list[Path]]:
        """A scene, and its two halves."""
        values = np.kron(rng.integers(0, 255, (3, 8, 16)), np.ones((1, 8, 8))).astype(np.uint8)
        profile = {"count": 3, "dtype": "uint8", "crs": "EPSG:32645"}
        paths = []
        for name, begin, end in (("whole", 0, 128), ("west", 0, 64), ("east", 64, 128)):
            path = tmp_path / f"{name}.tif"
            place = rasterio.Affine(0.25, 0, 354000 + begin * 0.25, 0, -0.25, 3057000)
            size = {"width": end - begin, "height": 64}
            with rasterio.open(path, "w", **profile, **size, transform=place) as dataset:
                dataset.write(values[:, :, begin:end])
            paths.append(path)
        return paths[0], paths[1:]

    def mask(self, source: object, model: str, out: Path) -> np.ndarray:
        # As it is: GDAL resamples each sheet by itself.
        tilesegment.predict(str(source), out, model=model, gsd=0.25, overwrite=True)
        with rasterio.open(out) as dataset:
            values: np.ndarray = dataset.read(1)
        return values

    def test_a_tile_index(self, sheets, model, loads, tmp_path: Path) -> None:
        whole, parts = sheets
        boxes = []
        for path in parts:
            with rasterio.open(path) as dataset:
                boxes.append(shapely.box(*dataset.bounds))
        index = geopandas.GeoDataFrame({"location": list(map(str, parts))}, geometry=boxes, crs=32645)
        index.to_file(tmp_path / "sheets.gti.gpkg", driver="GPKG")
        expected = self.mask(whole, model, tmp_path / "whole_mask.tif")
        for source in (tmp_path / "sheets.gti.gpkg", f"GTI:{tmp_path / 'sheets.gti.gpkg'}"):
            np.testing.assert_array_equal(self.mask(source, model, tmp_path / "m.tif"), expected)

    def test_stac_items(self, sheets, model, loads, tmp_path: Path) -> None:
        whole, parts = sheets
        items = []
        for path in parts:
            with rasterio.open(path) as dataset:
                place = {
                    "proj:epsg": 32645, "proj:shape": list(dataset.shape),
                    "proj:bbox": list(dataset.bounds), "proj:transform": list(dataset.transform)[:6],
                }  # fmt: skip
            asset = {"href": str(path), "type": "image/tiff", **place}
            items.append(
                {
                    "type": "Feature", "stac_version": "1.0.0", "id": path.stem, "collection": "sheets",
                    "stac_extensions": ["https://stac-extensions.github.io/projection/v1.0.0/schema.json"],
                    "bbox": [85, 27, 86, 28], "geometry": None, "links": [],
                    "properties": {"datetime": "2020-01-01T00:00:00Z"}, "assets": {"image": asset},
                }
            )  # fmt: skip
        path = tmp_path / "items.json"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
        expected = self.mask(whole, model, tmp_path / "whole_mask.tif")
        np.testing.assert_array_equal(self.mask(path, model, tmp_path / "m.tif"), expected)
