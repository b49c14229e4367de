"""The command as users and cron see it: exit codes, streams, precedence, start-up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

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
        assert found["model"] == "roofs"

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
    assert "tiles      6 of 512 x 512, overlap 64" in done.stdout
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
