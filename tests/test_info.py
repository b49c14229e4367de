"""`info`, `doctor`, `models` and completion: what is there, and what is wrong with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import tilesegment
from tilesegment.cli import doctor as doctor_command
from tilesegment.cli import models as models_command
from tilesegment.cli.info import command as info_command
from tilesegment.cli.predict import command as predict_command
from tilesegment.errors import InputError
from tilesegment.raster import environment
from tilesegment.run import doctor


class TestInfo:
    def test_values_by_hand(self, make_raster: Callable[..., Path]) -> None:
        values = np.full((3, 100, 200), 50, np.uint8)
        values[:, :25] = 255
        values[1, 25:] = 60
        values[:, :, :20] = 9
        found = tilesegment.info(make_raster(values, nodata=9))
        assert (found["height"], found["width"], found["bands"]) == (100, 200, 3)
        assert found["crs"] == "EPSG:32645 (WGS 84 / UTM zone 45N)"
        assert found["metres_per_pixel"] == pytest.approx([0.15, 0.15], rel=0.01)
        assert found["km2"] == pytest.approx(100 * 200 * 0.15**2 / 1e6, rel=0.01)
        assert found["valid_share"] == pytest.approx(0.9)
        assert found["blank_shares"] == {"255": pytest.approx(0.25)}
        assert found["percentiles"] == [[50.0, 50.0, 255.0], [60.0, 60.0, 255.0], [50.0, 50.0, 255.0]]
        assert found["plan"]["tiles"] == 1
        assert found["unfit"] is None

    def test_a_scene_that_the_model_cannot_read(self, make_raster: Callable[..., Path]) -> None:
        scene = make_raster(np.full((3, 40, 40), 7, np.uint8), transform=source_transform(10.0))
        found = tilesegment.info(scene)
        assert found["plan"] is None
        assert "its pixels are 10 m" in found["unfit"]
        assert found["metres_per_pixel"] == pytest.approx([10.0, 10.0], rel=0.01)

    def test_it_takes_the_file_that_predict_takes(
        self, make_raster: Callable[..., Path], tmp_path: Path
    ) -> None:
        scene, file = str(make_raster(np.full((3, 40, 40), 7, np.uint8))), tmp_path / "c.yaml"
        found = CliRunner().invoke(
            predict_command, [scene, "-o", "x.gpkg", "--tile", "160", "--print-config"]
        )
        assert found.exit_code == 0, found.output
        file.write_text(found.output)
        done = CliRunner().invoke(info_command, [scene, "--config", str(file), "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.output)["plan"]["tile"] == [160, 160]
        file.write_text("overlya: a.png\n")
        done = CliRunner().invoke(info_command, [scene, "--config", str(file)])
        assert "unknown key 'overlya'; did you mean 'overlay'?" in str(done.exception)

    def test_bands_that_are_not_there(self, make_raster: Callable[..., Path]) -> None:
        found = tilesegment.info(make_raster(np.full((3, 40, 40), 7, np.uint8)), bidx=(1, 2, 8))
        assert found["read"] == [1, 2, 3]
        assert "8" in found["unfit"]

    def test_nothing_valid(self, make_raster: Callable[..., Path]) -> None:
        found = tilesegment.info(make_raster(np.zeros((3, 40, 40), np.uint8), nodata=0))
        assert found["valid_share"] == 0
        assert found["percentiles"] == [None] * 3
        json.dumps(found, allow_nan=False)

    def test_no_raster(self, tmp_path: Path) -> None:
        (tmp_path / "a.tif").write_text("no raster")
        with pytest.raises(InputError, match="not a raster"):
            tilesegment.info(tmp_path / "a.tif")

    def test_the_command(self, make_raster: Callable[..., Path]) -> None:
        scene = make_raster(np.full((3, 40, 60), 7, np.uint8))
        done = CliRunner().invoke(info_command, [str(scene)])
        assert done.exit_code == 0, done.output
        assert "size       40 x 60 pixels of 0.15" in done.output
        assert "values     band 2: 7 to 7 (2nd to 98th percentile), median 7" in done.output
        assert "tiles      1 of" in done.output
        done = CliRunner().invoke(info_command, [str(scene), "--json"])
        assert json.loads(done.stdout)["width"] == 60


def source_transform(metres: float) -> Any:
    from affine import Affine

    return Affine(metres, 0, 354000, 0, -metres, 3057000)


class TestDoctor:
    def found(self, folder: Path) -> dict[str, doctor.Finding]:
        return {finding.name: finding for finding in doctor.examined(folder)}

    def test_a_machine_that_is_well(self, tmp_path: Path) -> None:
        found = self.found(tmp_path)
        assert {f.state for f in found.values()} <= {"ok", "warning"}
        assert "cpu" in found["bundled model"].text or "cuda" in found["bundled model"].text
        assert str(tmp_path) in found["output folder"].text

    def test_folders_that_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("")
        finding = self.found(tmp_path / "file" / "x")["output folder"]
        assert finding.state == "failure"
        assert "cannot be written" in finding.text
        done = CliRunner().invoke(doctor_command.command, [str(tmp_path / "file" / "x")])
        assert done.exit_code == 1
        assert "output folder    failure: cannot be written" in done.output

    def test_data_of_another_proj(self, tmp_path: Path) -> None:
        """In a process of its own: PROJ looks for its data once."""
        code = "from tilesegment.run.doctor import _projections as p; f = p(); print(f.state, f.advice)"
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PROJ_DATA": str(tmp_path), "PROJ_LIB": ""},
            capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert done.stdout.strip() == "failure unset PROJ_DATA", done.stderr

    def test_projections_that_are_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PROJ_LIB", "/elsewhere")
        monkeypatch.setattr("rasterio.warp.transform", lambda a, b, x, y: ([500_003.0], [4_982_950.0]))
        finding = doctor._projections()
        assert finding.state == "failure"
        assert "GDAL projects 87 E, 45 N to 500003" in finding.text
        assert finding.advice == "unset PROJ_LIB"

    def test_the_expected_place_is_right(self) -> None:
        assert environment.projects_rightly() is None

    def test_a_folder_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        finding = doctor._place("output folder", lambda: tmp_path / "a" / "b")
        assert finding.state == "failure"
        assert "No such file or directory" in finding.text
        assert not (tmp_path / "a").exists()

    def test_a_library_that_cannot_be_loaded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken() -> Any:
            raise ImportError("libtbb.so.12: cannot open shared object file")

        broken.__name__ = "_devices"
        monkeypatch.setattr(doctor, "_devices", broken)
        found = self.found(tmp_path)
        assert found["devices"].state == "failure"
        assert "libtbb" in found["devices"].text
        assert "output folder" in found

    def test_a_gpu_that_nothing_uses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "gpu_count", lambda: 2)
        real = doctor.importlib.util.find_spec
        monkeypatch.setattr(
            doctor.importlib.util, "find_spec", lambda name: None if name == "torch" else real(name)
        )
        finding = doctor._devices()
        assert (finding.state, finding.advice) == ("warning", "pip install 'tilesegment[torch]'")

    def test_a_model_that_does_not_load(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: Any) -> Any:
            raise OSError("libgomp.so.1: cannot open shared object file")

        monkeypatch.setattr(doctor, "load_engine", broken)
        finding = doctor._forward_pass()
        assert finding.state == "failure"
        assert "libgomp" in finding.text

    def test_little_is_left(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
        monkeypatch.setattr(
            "psutil.virtual_memory", lambda: SimpleNamespace(available=5 * 10**8, total=2 * 10**9)
        )
        found = [doctor._place("output folder", lambda: tmp_path), doctor._memory()]
        assert [finding.state for finding in found] == ["warning", "warning"]

    def test_lines_and_json(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        findings = [
            doctor.Finding("disk", "ok", "fine"),
            doctor.Finding("gpu", "warning", "idle", "use it"),
        ]
        monkeypatch.setattr(doctor, "examined", lambda folder: iter(findings))
        done = CliRunner().invoke(doctor_command.command, [str(tmp_path)])
        assert done.exit_code == 0
        assert done.output.splitlines() == [
            "disk             fine", "gpu              warning: idle; use it",
        ]  # fmt: skip
        assert len(CliRunner().invoke(doctor_command.command, ["-q"]).output.splitlines()) == 1
        rows = [
            json.loads(line)
            for line in CliRunner().invoke(doctor_command.command, ["--json"]).output.splitlines()
        ]
        assert [row["state"] for row in rows] == ["ok", "warning"]


class TestModels:
    def test_the_bundled_one(self) -> None:
        done = CliRunner().invoke(models_command.command, [])
        assert done.exit_code == 0
        assert done.output == "roofs: DeepLabV3Plus / timm-tf_efficientnet_lite0, 0.15 m, 2 classes\n"

    def test_its_card(self) -> None:
        done = CliRunner().invoke(models_command.command, ["roofs"])
        lines = done.output.splitlines()
        assert "classes    background, roof" in lines
        assert "scale      0.15 m a pixel" in lines
        assert "precision  fp32, bf16 and int8" in lines
        assert any(line.startswith("licence    MIT") for line in lines)
        assert any("LINZ" in line for line in lines)
        card = json.loads(CliRunner().invoke(models_command.command, ["roofs", "--json"]).output)
        assert (card["name"], card["gsd"], len(card["sha256"])) == ("roofs", 0.15, 64)

    def test_one_that_is_not_there(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "tilesegment", "models", "rofs"],
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 1
        assert "did you mean 'roofs'" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    variables = {**os.environ, "_TILESEGMENT_COMPLETE": f"{shell}_source"}
    done = subprocess.run(
        [sys.executable, "-c", "from tilesegment.cli.main import main; main()"],
        env=variables, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert "_TILESEGMENT_COMPLETE" in done.stdout, done.stderr
    words = {"COMP_WORDS": "tilesegment pre", "COMP_CWORD": "pre" if shell == "fish" else "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from tilesegment.cli.main import main; main()"],
        env={**os.environ, "_TILESEGMENT_COMPLETE": f"{shell}_complete", **words},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert "predict" in done.stdout, done.stderr
