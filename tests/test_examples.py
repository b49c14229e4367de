"""What lies in examples/ runs."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import geopandas
import pytest
import rasterio
import yaml
from rasterio.windows import Window

import tilesegment

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    bins = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bins}:{os.environ['PATH']}", **variables}
    return subprocess.run(
        list(map(str, words)), capture_output=True, text=True, timeout=280, env=environment
    )


@pytest.fixture
def scene(data: Path, tmp_path: Path) -> Path:
    """A corner of a real scene."""
    path = tmp_path / "scenes" / "corner.tif"
    path.parent.mkdir()
    with rasterio.open(data / "scenes" / "philippines_epsg3857.tif") as dataset:
        window = Window(0, 0, 800, 500)
        place = {"width": 800, "height": 500, "transform": dataset.window_transform(window)}
        with rasterio.open(path, "w", **{**dataset.profile, **place}) as part:
            part.write(dataset.read(window=window))
    return path


def test_cron_does_what_is_new(scene: Path, tmp_path: Path) -> None:
    first = run(EXAMPLES / "cron.sh", scene.parent, tmp_path / "roofs")
    assert (first.returncode, first.stdout, first.stderr) == (0, "", "")
    out = tmp_path / "roofs" / "corner.gpkg"
    before = out.stat().st_mtime_ns
    (scene.parent / "half.tif").write_bytes(scene.read_bytes()[:1000])
    second = run(EXAMPLES / "cron.sh", scene.parent, tmp_path / "roofs")
    assert second.returncode == 3
    assert "half.tif" in second.stderr
    assert out.stat().st_mtime_ns == before
    assert run(EXAMPLES / "cron.sh", tmp_path / "nothing", tmp_path / "roofs").returncode == 3


def test_a_dask_cluster_by_hand(scene: Path, tmp_path: Path) -> None:
    done = run(EXAMPLES / "dask" / "by_hand.sh", scene, tmp_path / "roofs.gpkg")
    assert done.returncode == 0, done.stderr
    expected = tilesegment.predict(scene)
    assert len(geopandas.read_file(tmp_path / "roofs.gpkg", layer="roofs")) == len(expected)


def test_the_tour(scene: Path, tmp_path: Path) -> None:
    done = run(sys.executable, EXAMPLES / "tour.py", scene, tmp_path / "tour")
    assert done.returncode == 0, done.stderr
    assert "roofs in the western half" in done.stdout
    assert "corner.tif predicted" in done.stdout


def test_scripts_are_right_to_a_shell() -> None:
    for path in EXAMPLES.rglob("*.sh"):
        first = path.read_text().splitlines()[0]
        assert run(first.removeprefix("#!").split("/")[-1], "-n", path).returncode == 0
        assert os.access(path, os.X_OK)


def test_the_cluster_of_kubernetes_is_right() -> None:
    parts = list(yaml.safe_load_all((EXAMPLES / "dask" / "kubernetes.yaml").read_text()))
    assert [part["kind"] for part in parts] == ["Service", "Deployment", "Deployment", "Job"]
    (job,) = (part["spec"]["template"]["spec"]["containers"][0] for part in parts if part["kind"] == "Job")
    from tilesegment.cli.predict import command

    command.make_context("predict", list(job["args"][1:]))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gdal_proximity.py") is None, reason="needs GDAL's commands")
def test_a_step_among_gdals(data: Path, tmp_path: Path) -> None:
    sheets = []
    with rasterio.open(data / "scenes" / "philippines_epsg3857.tif") as dataset:
        for k in range(2):
            window = Window(1000 * k, 0, 1000, 800)
            profile = {**dataset.profile, "width": 1000, "height": 800}
            profile["transform"] = dataset.window_transform(window)
            sheets.append(tmp_path / f"sheet{k}.tif")
            with rasterio.open(sheets[-1], "w", **profile) as part:
                part.write(dataset.read(window=window))
    done = run(EXAMPLES / "gdal_pipeline.sh", "EPSG:32651", tmp_path / "out", *sheets)
    assert done.returncode == 0, done.stderr
    roofs = geopandas.read_file(tmp_path / "out" / "roofs.gpkg", layer="roofs")
    large = geopandas.read_file(tmp_path / "out" / "large.fgb")
    assert roofs.crs.to_epsg() == 32651
    assert len(large) == (roofs["area_m2"] >= 50).sum() > 5
    assert large.crs.to_epsg() == 4326
    with (
        rasterio.open(tmp_path / "out" / "mask.tif") as mask,
        rasterio.open(tmp_path / "out" / "distance.tif") as distance,
    ):
        inside = mask.read(1) == 1
        far = distance.read(1)
    assert (far[inside] == 0).all()
    assert far[~inside].min() > 0


@pytest.mark.slow
@pytest.mark.skipif(
    not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or shutil.which("ogr2ogr") is None,
    reason="needs PostgreSQL, PostGIS and GDAL's commands",
)
def test_a_pipeline_into_postgis(scene: Path) -> None:
    done = run(EXAMPLES / "postgis.sh", scene, PGHOST="")
    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader(done.stdout.splitlines())
    expected = tilesegment.predict(scene, min_area=4)
    assert int(row["roofs"]) == len(expected) > 5
    assert float(row["square_metres"]) == pytest.approx(expected["area_m2"].sum(), abs=0.1)
    near = expected.sjoin(expected, predicate="dwithin", distance=2)
    assert int(row["close_pairs"]) == (near["id_left"] < near["id_right"]).sum()
