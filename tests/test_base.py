"""The base installation: what it needs, and what it says of the rest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio

from tests.test_train import run_cli

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRA = [
    "torch",
    "torchvision",
    "segmentation_models_pytorch",
    "albumentations",
    "matplotlib",
    "pycocotools",
    "cv2",
]
# Packages that are imported under another name.
IMPORTED = {"opencv_python_headless": "cv2"}


def names(requirements: list[str]) -> set[str]:
    found = {re.split(r"[<>=\[; ]", entry)[0].replace("-", "_").lower() for entry in requirements}
    return {IMPORTED.get(name, name) for name in found}


def test_the_extra_is_what_messages_name() -> None:
    from tilesegment import errors

    assert set(errors._TORCH_EXTRA) == set(EXTRA) == names(PROJECT["optional-dependencies"]["torch"])
    assert not names(PROJECT["dependencies"]) & set(EXTRA)


# Packages of the extra as if they were not installed: neither found nor imported.
_WITHOUT = f"""
import importlib.util, sys
hidden = {EXTRA!r}
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in hidden:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in hidden else real(name, package)
from tilesegment.cli.main import main
main(sys.argv[1:])
"""


def without_extra(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def picture(make_raster, rng) -> Path:
    values = np.kron(rng.integers(0, 255, (3, 20, 30)), np.ones((1, 12, 12))).astype(np.uint8)
    path: Path = make_raster(values)
    return path


def test_predicting_vectorising_and_evaluating_need_no_torch(picture: Path, tmp_path: Path) -> None:
    done = without_extra("predict", picture, "-o", tmp_path / "r.gpkg", "--mask", tmp_path / "m.tif")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r.gpkg").is_file()
    mask = np.zeros((240, 360), np.uint8)
    mask[20:90, 30:120] = 1
    with rasterio.open(tmp_path / "m.tif", "r+") as dataset:
        dataset.write(mask, 1)
    done = without_extra("vectorize", tmp_path / "m.tif", "-o", tmp_path / "v.fgb")
    assert done.returncode == 0, done.stderr
    done = without_extra("evaluate", tmp_path / "v.fgb", tmp_path / "m.tif", "-o", tmp_path / "e", "--json")
    assert done.returncode == 0, done.stderr
    assert '"f1": 1.0' in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "rooftop", "--data", "{data}"], "this needs torch, which is not installed"),
        (
            ["predict", "{picture}", "-o", "{out}", "--engine", "torch"],
            "--engine torch: it is not installed",
        ),
        (["predict", "{picture}", "-o", "{out}", "--model", "{model}"], "takes PyTorch"),
    ],
)
def test_what_needs_more_says_so_in_one_line(picture: Path, tmp_path: Path, arguments, words: str) -> None:
    from tests.test_engines import saved_model

    named = {
        "picture": str(picture), "out": str(tmp_path / "r.tif"), "data": str(tmp_path),
        "model": saved_model(tmp_path).path,
    }  # fmt: skip
    done = without_extra(*(argument.format(**named) for argument in arguments))
    assert done.returncode in (1, 2)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, done.stderr
    assert words in lines[0]
    assert "pip install 'tilesegment[torch]'" in lines[0]
    assert not (tmp_path / "r.tif").exists()


def steps(kind: str) -> list[str]:
    """What follows an instruction of the Dockerfile, wherever it stands."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    return [line.removeprefix(f"{kind} ") for line in lines if line.startswith(f"{kind} ")]


def test_the_image_is_nobodys_root_and_looks_after_itself() -> None:
    assert steps("USER") == ["tilesegment"]
    assert steps("ENTRYPOINT") == ['["tilesegment"]']
    (health,) = steps("HEALTHCHECK")
    assert json.loads(health.partition("CMD ")[2]) == ["tilesegment", "doctor", "-q"]
    # Nothing comes from a host that is not the default one.
    assert "://" not in (ROOT / "Dockerfile").read_text()


def test_the_base_alone_installs_and_predicts(picture: Path, tmp_path: Path) -> None:
    """In an environment of its own, from the registry, by the steps of the Dockerfile."""
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, timeout=120)
    binaries = home / ("Scripts" if os.name == "nt" else "bin")
    # Beside the project, whose folders a build would write to.
    source = tmp_path / "source"
    source.mkdir()
    for words in steps("COPY"):
        *names_, _ = words.split()
        for name in names_:
            if (ROOT / name).is_dir():
                (source / name).symlink_to(ROOT / name)
            else:
                (source / name).write_bytes((ROOT / name).read_bytes())
    (install,) = (line for line in steps("RUN") if line.startswith("pip install"))
    variables = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "EXTRAS": ""}
    done = subprocess.run(
        ["sh", "-c", install], cwd=source, env=variables, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    (health,) = steps("HEALTHCHECK")
    command = json.loads(health.partition("CMD ")[2])
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    listed = subprocess.run(
        [str(binaries / "python"), "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True
    ).stdout
    assert "tilesegment==" in listed
    assert not names(listed.splitlines()) & set(EXTRA)
    output = tmp_path / "r.gpkg"
    command = [str(binaries / "tilesegment"), "predict", str(picture), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ours = run_cli("predict", picture, "-o", tmp_path / "ours.gpkg")
    assert ours.returncode == 0
    found, expected = (geopandas.read_file(path).to_wkt() for path in (output, tmp_path / "ours.gpkg"))
    assert found.equals(expected)
    size = sum(f.lstat().st_size for f in home.rglob("*") if f.is_file() and not f.is_symlink())
    assert size < 1.3e9, size


def test_nothing_is_reported_to_anybody(tmp_path: Path) -> None:
    """OpenVINO's telemetry asks nobody: it would leave `intel/` in the home folder, and send from there."""
    script = (
        "import tilesegment.model.engines.openvino\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "telemetry_utils.init_ovc_telemetry().send_event('x', 'y', 'z')\n"
        "print(telemetry_utils.tm.__name__)\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        timeout=120,
    )
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"
    assert not (tmp_path / "intel").exists()
