"""The command as users and cron see it: exit codes, streams, precedence, start-up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import yaml
from PIL import Image

from tilesegment.errors import TilesegmentError


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tilesegment", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


def printed_config(*arguments: object, **environment: str) -> dict[str, object]:
    done = run("predict", "x.tif", "-o", "x.gpkg", "--print-config", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    loaded: dict[str, object] = yaml.safe_load(done.stdout)
    return loaded


def test_help_is_quick_to_import() -> None:
    code = (
        "import sys\nfrom tilesegment.cli.main import cli\n"
        "try:\n cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch','rasterio','numpy','geopandas','distributed') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "vectorize" in done.stdout


@pytest.mark.parametrize("command", ["predict", "vectorize"])
def test_every_command_has_help(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert "--min-area" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["predict"], 2, "Missing argument"),
        (["predict", "x.tif", "-o", "r.gpkg", "--tile", "q"], 2, "no tile size"),
        (["predict", "x.tif", "-o", "r.gpkg", "--bidx", "1,z"], 2, "1,2,3"),
        (["predict", "x.tif", "-o", "r.gpkg", "--max-memory", "lots"], 2, "2GB"),
        (["predict", "x.tif", "-o", "r.gpkg", "--co", "COMPRESS"], 2, "NAME=VALUE"),
        (["predict", "x.tif", "-o", "r.xyz"], 2, "unknown extension"),
        (["predict", "x.tif", "-o", "r.gpkg"], 1, "x.tif: no such file"),
        (["predict", "x.tif", "-o", "r.gpkg", "--model", "y"], 1, "--model 'y'"),
        (["vectorize", "x.tif", "-o", "r.gpkg"], 1, "x.tif: no such file"),
        (["vectorize", "x.tif", "-o", "r.tif"], 2, "unknown extension"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(arguments, code: int, words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tilesegment", *arguments],
        capture_output=True, text=True, cwd=tmp_path, timeout=60,
    )  # fmt: skip
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_vv_shows_where(tmp_path: Path) -> None:
    assert "Traceback" in run("predict", tmp_path / "x.tif", "-o", tmp_path / "r.gpkg", "-vv").stderr


def test_json_log_lines(tmp_path: Path) -> None:
    done = run("predict", tmp_path / "x.tif", "-o", tmp_path / "r.gpkg", "--log-format", "json")
    (line,) = done.stderr.splitlines()
    entry = json.loads(line)
    assert entry["level"] == "error"
    assert "no such file" in entry["message"]


class TestConfig:
    def test_command_line_over_environment_over_file_over_defaults(self, tmp_path: Path) -> None:
        file = tmp_path / "c.yaml"
        file.write_text("overlap: 32\nblend: gauss\nmin-area: 7\nbidx: [3, 2, 1]\nco: {COMPRESS: LZW}\n")
        environment = {"TILESEGMENT_BLEND": "linear", "TILESEGMENT_OVERLAP": "48"}
        found = printed_config("--config", file, "--overlap", 64, **environment)
        assert found["overlap"] == 64
        assert found["blend"] == "linear"
        assert found["min_area"] == "7"
        assert found["bidx"] == [3, 2, 1]
        assert found["co"] == {"COMPRESS": "LZW"}
        assert found["model"] == ["roofs"]

    def test_names_and_values_as_a_mapping_or_a_list(self, tmp_path: Path) -> None:
        file = tmp_path / "c.yaml"
        for name in ("co", "lco", "gdal"):
            for text in ("{A: 1, B: x}", "[A=1, B=x]"):
                file.write_text(f"{name}: {text}\n")
                assert printed_config("--config", file)[name] == {"A": "1", "B": "x"}

    def test_one_model_or_several(self, tmp_path: Path) -> None:
        file = tmp_path / "c.yaml"
        file.write_text("model: my roofs\n")
        assert printed_config("--config", file)["model"] == ["my roofs"]
        file.write_text("model: [a, b]\n")
        assert printed_config("--config", file)["model"] == ["a", "b"]
        assert printed_config("--model", "a b", "--model", "c")["model"] == ["a b", "c"]
        assert printed_config(TILESEGMENT_MODEL="my roofs")["model"] == ["my roofs"]
        both = os.pathsep.join(["my roofs", "yours"])
        assert printed_config(TILESEGMENT_MODEL=both)["model"] == ["my roofs", "yours"]

    def test_what_is_printed_can_be_read_again(self, tmp_path: Path) -> None:
        first = printed_config(
            "--tile", "256x512", "--max-memory", "2GB", "--no-resume", "--bbox", "1,2,3,4"
        )
        file = tmp_path / "c.yaml"
        file.write_text(yaml.safe_dump(first))
        assert printed_config("--config", file) == first
        assert first["tile"] == [256, 512]
        assert first["resume"] is False

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("tyle: 3", "unknown key 'tyle'; did you mean 'tile'?"),
            ("- a", "holds a list"),
            ("a: [", "not YAML"),
            ("tile: huge", "no tile size"),
        ],
    )
    def test_a_wrong_file(self, tmp_path: Path, text: str, words: str) -> None:
        (tmp_path / "c.yaml").write_text(text)
        done = run("predict", "x.tif", "-o", "r.gpkg", "--config", tmp_path / "c.yaml")
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_dry_run_prints_the_plan_and_writes_nothing(
    make_raster: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_raster(np.zeros((3, 700, 1200), np.uint8) + 90)
    done = run("predict", path, "-o", tmp_path / "r.gpkg", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "tiles      6 of 512 x 512, overlap 32" in done.stdout
    as_json = run("predict", path, "-o", tmp_path / "r.gpkg", "--dry-run", "--json")
    assert json.loads(as_json.stdout)["tiles"] == 6
    assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]


def test_vectorize_reports_json_on_stdout(make_raster: Callable[..., Path], tmp_path: Path) -> None:
    mask = np.zeros((50, 50), np.uint8)
    mask[10:40, 10:40] = 1
    done = run("vectorize", make_raster(mask), "-o", tmp_path / "v.geojson", "--json")
    assert json.loads(done.stdout)["polygons"] == 1
    quiet = run("vectorize", make_raster(mask), "-o", tmp_path / "w.geojson", "-q")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_every_error_is_also_a_builtin_one() -> None:
    for kind in TilesegmentError.__subclasses__():
        assert issubclass(kind, ValueError | OSError | RuntimeError), kind


class TestOneLine:
    """Whatever goes wrong, in whatever form it was asked for."""

    @pytest.mark.parametrize(
        "arguments", [["predict", "x.tif"], ["predict", "x.tif", "-o", "y.gpkg", "--tile", "q"]]
    )
    def test_usage_errors_as_json_and_quietly(self, arguments: list[str]) -> None:
        for more in (["--log-format", "json"], ["--log-format=json"]):
            done = run(*arguments, *more)
            assert done.returncode == 2
            line = json.loads(done.stderr)
            assert line["level"] == "error"
            assert "Usage" not in line["message"]
        done = run(*arguments, TILESEGMENT_LOG_FORMAT="json")
        assert json.loads(done.stderr)["level"] == "error"
        assert len(run(*arguments, "-q").stderr.splitlines()) == 1
        assert run(*arguments).stderr.startswith("Usage: tilesegment predict")

    def test_pictures_without_a_place_are_predicted_quietly(self, tmp_path: Path) -> None:
        picture = np.random.default_rng(1).integers(0, 255, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "p.png")
        done = run("predict", tmp_path / "p.png", "-o", tmp_path / "m.tif", "-q")
        assert (done.returncode, done.stderr) == (0, "")

    def test_an_area_of_several_layers(self, tmp_path: Path) -> None:
        box = shapely.box(354000, 3056994, 354003, 3057000)
        for name in ("first", "second"):
            frame = geopandas.GeoDataFrame(geometry=[box], crs="EPSG:32645")
            frame.to_file(tmp_path / "a.gpkg", layer=name)
        values = np.random.default_rng(1).integers(0, 255, (3, 40, 50)).astype(np.uint8)
        place = rasterio.Affine(0.15, 0, 354000, 0, -0.15, 3057000)
        with rasterio.open(
            tmp_path / "s.tif", "w", driver="GTiff", dtype="uint8", count=3, height=40, width=50,
            crs="EPSG:32645", transform=place,
        ) as dataset:  # fmt: skip
            dataset.write(values)
        done = run("predict", tmp_path / "s.tif", "-o", tmp_path / "m.tif", "--aoi", tmp_path / "a.gpkg")
        assert done.returncode == 0
        assert done.stderr.splitlines()[0].endswith(
            "a.gpkg: the first of its layers of areas is read (first, second)"
        )
        assert "UserWarning" not in done.stderr

    def test_vectorize_prints_its_settings(self, tmp_path: Path) -> None:
        done = run(
            "vectorize", "m.tif", "-o", "r.gpkg", "--min-area", "3px", "--lco", "A=b", "--print-config"
        )
        assert done.returncode == 0
        loaded = yaml.safe_load(done.stdout)
        assert (loaded["min_area"], loaded["lco"], loaded["connectivity"]) == ("3px", {"A": "b"}, 4)
        (tmp_path / "c.yaml").write_text(done.stdout)
        again = run("vectorize", "m.tif", "-o", "r.gpkg", "--config", tmp_path / "c.yaml", "--print-config")
        assert yaml.safe_load(again.stdout) == loaded


class TestStopped:
    """What is said of a stopped run is what is there."""

    def test_nothing_was_saved(self, tmp_path: Path) -> None:
        code = (
            "import os, signal\nfrom tilesegment.cli import main\n"
            "from tilesegment.run.scene import pipeline\n"
            "pipeline.prepare = lambda *a: os.kill(os.getpid(), signal.SIGTERM)\n"
            f"main.main(['predict', 'x.tif', '-o', '{tmp_path}/r.tif'])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (143, "error: stopped\n")

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_blocks_were_saved(self, tmp_path: Path, number: int, code: int) -> None:
        script = (
            "import os, signal\nfrom tilesegment.cli import main\n"
            # Background jobs of a shell ignore it.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from tilesegment.run.scene import pipeline\n"
            f"pipeline.write_outputs = lambda *a: os.kill(os.getpid(), {int(number)})\n"
            f"main.main(['predict', '{tmp_path}/s.png', '-o', '{tmp_path}/r.tif', '-q'])"
        )
        picture = np.random.default_rng(1).integers(0, 255, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "s.png")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == code
        assert done.stderr.lstrip() == (
            "error: stopped; 1 finished blocks are saved: the same command goes on from there\n"
        )
        assert run("predict", tmp_path / "s.png", "-o", tmp_path / "r.tif", "-q").returncode == 0


def test_out_of_memory_is_a_failure_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tilesegment.cli import main

    def fail(**named: object) -> None:
        raise MemoryError

    monkeypatch.setattr(main.cli, "main", fail)
    assert main._run([]) == 1
    assert capsys.readouterr().err.startswith("error: out of memory; run the same command again")


def test_a_second_request_to_stop_disturbs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from tilesegment.cli import main

    monkeypatch.setattr(main, "_terminated", False)
    with pytest.raises(main.Terminated):
        main._terminate(signal.SIGTERM, None)
    assert main._terminate(signal.SIGTERM, None) is None
