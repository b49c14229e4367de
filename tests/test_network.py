"""Scenes on a server that fails now and then."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

import tilesegment
from tests.fakes import Wavy, save_fake, use
from tests.flaky import served
from tilesegment.errors import InputError
from tilesegment.grid import Window
from tilesegment.raster import network, values
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.opening import open_file
from tilesegment.raster.source import open_scene
from tilesegment.run.scene import identity
from tilesegment.run.scene.ledger import ledger_folder

SIDE, ROWS = 1024, 128
# The same waits as usual, twenty times as short.
QUICK = (("GDAL_HTTP_RETRY_DELAY", "0.05"),)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scene that no single request brings."""
    folder = tmp_path_factory.mktemp("served")
    values = np.random.default_rng(1).integers(0, 255, (3, SIDE, SIDE), np.uint8)
    profile = {"width": SIDE, "height": SIDE, "count": 3, "dtype": "uint8", "tiled": True,
               "blockxsize": 128, "blockysize": 128, "crs": "EPSG:32651", "compress": "deflate",
               "transform": Affine(0.15, 0, 500000, 0, -0.15, 1200000)}  # fmt: skip
    with rasterio.open(folder / "scene.tif", "w", **profile) as dataset:
        dataset.write(values)
    return folder


@pytest.fixture
def scene(place: Path, tmp_path: Path) -> Path:
    """Under a name that GDAL has not read from yet."""
    path = tmp_path / "www" / f"{tmp_path.name}.tif"
    path.parent.mkdir()
    shutil.copy(place / "scene.tif", path)
    return path


def now_and_then(name: str, share: float, seed: int = 3) -> Callable[[int], str | None]:
    numbers = random.Random(seed)
    return lambda number: name if numbers.random() < share else None


def rows(scene: Any) -> list[np.ndarray]:
    return [scene.read(Window(row, 0, ROWS, SIDE)).values for row in range(0, SIDE, ROWS)]


@pytest.mark.parametrize("fault", ["500", "503", "429", "cut", "short", "wait"])
def test_every_pixel_comes_whatever_goes_wrong(scene: Path, fault: str) -> None:
    with open_scene(scene) as local:
        expected = rows(local)
    with served(scene.parent, now_and_then(fault, 0.4)) as server, gdal_environment(QUICK):
        with open_scene(f"{server.url}/{scene.name}", gdal=QUICK) as remote:
            found = rows(remote)
        assert server.failed >= 2
    np.testing.assert_array_equal(found, expected)


def test_a_server_that_falls_silent_is_asked_again(scene: Path) -> None:
    options = (*QUICK, ("GDAL_HTTP_LOW_SPEED_TIME", "1"))
    stalls = iter([None, "stall"])
    begin = time.monotonic()
    with (
        served(scene.parent, lambda number: next(stalls, None)) as server,
        gdal_environment(options),
        open_scene(f"{server.url}/{scene.name}", gdal=options) as remote,
    ):
        assert np.array(rows(remote)).shape == (SIDE // ROWS, 3, ROWS, SIDE)
    assert server.failed == 1
    assert time.monotonic() - begin < 9


def test_what_stays_broken_is_one_line(scene: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = False
    with (
        served(scene.parent, lambda number: "cut" if broken else None) as server,
        gdal_environment(QUICK),
        open_scene(f"{server.url}/{scene.name}?token=secret", gdal=QUICK) as remote,
    ):
        remote.read(Window(0, 0, ROWS, SIDE))
        broken = True
        with pytest.raises(InputError) as caught:
            remote.read(Window(SIDE - ROWS, 0, ROWS, SIDE))
    begin = f"{server.url}/{scene.name}"
    assert str(caught.value).startswith(f"{begin}: rows 896 to 1024 cannot be read ({scene.name}, ")
    lines = caplog.messages
    assert [line.rpartition("; ")[2] for line in lines] == [
        "trying again in 0.05 s, then 3 times more",
        "trying again in 0.1 s, then 2 times more",
        "trying again in 0.2 s, then 1 times more",
        "trying again in 0.4 s",
    ]
    assert all(line.startswith(begin) and line.count(begin) == 1 for line in lines)
    assert "secret" not in caplog.text + str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 2, 4, 8]),
        ({"GDAL_HTTP_MAX_RETRY": "2", "GDAL_HTTP_RETRY_DELAY": "0.5"}, [0.5, 1]),
        ({"GDAL_HTTP_MAX_RETRY": 0}, []),
        ({"GDAL_HTTP_MAX_RETRY": 9, "GDAL_HTTP_RETRY_DELAY": 1}, [1, 2, 4, 8, 16, 32, 60, 60, 60]),
        ({"GDAL_HTTP_MAX_RETRY": "many"}, [1, 2, 4, 8]),
    ],
)
def test_waits_double_as_often_as_gdal_may(options: dict[str, Any], expected: list[float]) -> None:
    with gdal_environment(tuple(options.items())):
        assert network.waits() == expected


def test_what_the_user_exported_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "7")
    with gdal_environment():
        assert "GDAL_HTTP_MAX_RETRY" not in rasterio.env.getenv()
        assert rasterio.env.getenv()["GDAL_HTTP_LOW_SPEED_TIME"] == 60


def test_services_and_vrts_of_remote_files_are_remote() -> None:
    assert network.is_across_network("WMS", ["here.xml"])
    assert network.is_across_network("VRT", ["here.vrt", "/vsicurl/http://a/b.tif"])
    assert not network.is_across_network("VRT", ["here.vrt", "/data/b.tif"])


def test_local_damage_is_not_tried_again(scene: Path, caplog: pytest.LogCaptureFixture) -> None:
    scene.write_bytes(scene.read_bytes()[:-300_000])
    with open_scene(scene) as damaged, pytest.raises(InputError, match="damaged, rows"):
        rows(damaged)
    assert caplog.messages == []


def test_forgotten_files_are_asked_for_again(scene: Path) -> None:
    with served(scene.parent) as server:
        url = f"{server.url}/{scene.name}"
        open_file(url).close()
        before = server.asked
        open_file(url).close()
        assert server.asked == before
        network.forget([url, str(scene)])
        open_file(url).close()
        assert server.asked == before + 1


def test_a_head_that_fails_once_identifies_all_the_same(scene: Path) -> None:
    with served(scene.parent) as server, gdal_environment(QUICK):
        url = f"{server.url}/{scene.name}"
        expected = identity._url_identity(url)
        server.failing_heads = 2
        assert identity._url_identity(url) == expected
        assert expected is not None
        server.failing_heads = 99
        assert identity._url_identity(url) is None
        assert 99 - server.failing_heads == 5
        server.failing_heads, before = 0, len(server.methods)
        assert identity._url_identity(f"{server.url}/none.tif") is None
        assert len(server.methods) == before + 1


class TestRuns:
    @pytest.fixture
    def model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        use(monkeypatch, Wavy(), 200_000)
        return save_fake(tmp_path / "model.safetensors", tile=(256, 256), overlap=32)

    def test_a_run_ends_as_on_local_files(self, scene: Path, model: str, tmp_path: Path) -> None:
        tilesegment.predict(scene, tmp_path / "local.tif", model=model)
        with served(scene.parent, now_and_then("cut", 0.3)) as server:
            url = f"{server.url}/{scene.name}"
            record = tilesegment.predict(url, tmp_path / "remote.tif", model=model, gdal=QUICK)
            assert server.failed >= 2
        assert record["counts"]["blocks"] > 3
        with rasterio.open(tmp_path / "local.tif") as one, rasterio.open(tmp_path / "remote.tif") as other:
            np.testing.assert_array_equal(one.read(), other.read())

    def test_what_was_finished_is_kept(self, scene: Path, model: str, tmp_path: Path, monkeypatch) -> None:
        out = tmp_path / "out.tif"
        # Looked at in windows, as large scenes are, so that not all of it is here from the start.
        monkeypatch.setattr(values, "_SMALL", 0)
        tilesegment.predict(scene, tmp_path / "local.tif", model=model)
        broken = False

        def fault(number: int) -> str | None:
            return "cut" if broken else None

        def seen(done: int, total: int) -> None:
            nonlocal broken
            broken = done >= total // 2

        options = (("GDAL_HTTP_RETRY_DELAY", "0.01"), ("GDAL_CACHEMAX", "100000"))
        options += (("CPL_VSIL_CURL_CACHE_SIZE", "16384"),)
        with served(scene.parent, fault) as server:
            url = f"{server.url}/{scene.name}"
            with pytest.raises(InputError, match="cannot be read"):
                tilesegment.predict(url, out, model=model, gdal=options, progress=seen)
            assert not out.exists()
            finished = len(list(ledger_folder(out).glob("*.block")))
            assert finished >= 1
            broken = False
            record = tilesegment.predict(url, out, model=model, gdal=options)
        assert record["counts"]["blocks_predicted"] == record["counts"]["blocks"] - finished
        with rasterio.open(tmp_path / "local.tif") as one, rasterio.open(out) as other:
            np.testing.assert_array_equal(one.read(), other.read())


def test_the_environment_says_how_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "1")
    with gdal_environment():
        assert network.waits() == [1]


def test_an_address_that_is_none_is_not_asked_twice(caplog: pytest.LogCaptureFixture) -> None:
    assert identity._url_identity("http://127.0.0.1:9/a b.tif") is None
    assert caplog.messages == []
