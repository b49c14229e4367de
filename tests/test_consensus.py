"""How far overlapping tiles disagree."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio

import tilesegment
from tests.fakes import Fake, save_fake, use
from tilesegment.errors import SettingsError
from tilesegment.tiling.blend import FINE_MAX, NODATA
from tilesegment.tiling.consensus import Disagreement

TILE, OVERLAP, STEP = 32, 8, 24


class Tilted(Fake):
    """Says more of a pixel the further right it lies in its tile."""

    calls, most = 0, 10**9

    def __init__(self, channels: int = 1) -> None:
        self.channels = channels

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.calls += len(tiles)
        if self.calls > self.most:
            raise RuntimeError("power cut")
        slope = np.linspace(0, 1, tiles.shape[-1], dtype=np.float32)
        first = np.broadcast_to(slope, tiles[:, :1].shape)
        return np.concatenate([first / (k + 1) for k in range(self.channels)], axis=1)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Tilted:
    tilted = Tilted()
    use(monkeypatch, tilted, 3000)
    return tilted


@pytest.fixture
def model(tmp_path: Path) -> str:
    return save_fake(tmp_path / "m.safetensors")


def expected(rows: int, cols: int) -> np.ndarray:
    """The range of what all tiles say of a column, by brute force; the same in every row."""
    count = 1 + max(0, -(-(cols - TILE) // STEP))
    slope = np.rint(np.linspace(0, 1, TILE) * FINE_MAX)
    high, low = np.full(cols, -1.0), np.full(cols, 1e9)
    for k in range(count):
        # The last tile ends with the scene.
        start = min(k * STEP, cols - TILE)
        for x in range(TILE):
            high[start + x] = max(high[start + x], slope[x])
            low[start + x] = min(low[start + x], slope[x])
    return np.tile(np.rint((high - low) * 254 / FINE_MAX), (rows, 1))


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        values: np.ndarray = dataset.read(1)
    return values


def test_it_is_the_range_of_what_tiles_say(make_raster, engine, model, tmp_path: Path) -> None:
    scene = make_raster(np.full((3, 90, 110), 9, np.uint8))
    record = tilesegment.predict(scene, tmp_path / "m.tif", model=model, consensus=tmp_path / "c.tif")
    assert record["counts"]["blocks"] > 1
    assert str(tmp_path / "c.tif") in record["outputs"]
    found = read(tmp_path / "c.tif")
    np.testing.assert_array_equal(found, expected(90, 110))
    assert (found > 0).any()
    assert (found == 0).any()
    with rasterio.open(tmp_path / "c.tif") as dataset:
        assert dataset.nodata == NODATA
        assert dataset.scales[0] == pytest.approx(1 / 254)


def test_nothing_else_changes(make_raster, engine, model, tmp_path: Path, rng) -> None:
    values = rng.integers(1, 255, (3, 90, 110)).astype(np.uint8)
    values[:, :20, :30] = 0
    scene = make_raster(values, nodata=0)
    tilesegment.predict(scene, tmp_path / "a.gpkg", model=model, mask=tmp_path / "a.tif")
    tilesegment.predict(
        scene, tmp_path / "b.gpkg", model=model, mask=tmp_path / "b.tif", consensus=tmp_path / "c.png"
    )
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), read(tmp_path / "b.tif"))
    frames = [geopandas.read_file(tmp_path / f"{name}.gpkg", layer=name) for name in "ab"]
    assert frames[0].drop(columns="geometry").equals(frames[1].drop(columns="geometry"))
    # What is no ground is nowhere.
    np.testing.assert_array_equal(read(tmp_path / "c.png") == NODATA, read(tmp_path / "b.tif") == NODATA)


def test_it_survives_an_interruption(make_raster, engine, model, tmp_path: Path) -> None:
    scene = make_raster(np.full((3, 90, 110), 9, np.uint8))
    options = {"model": model, "consensus": tmp_path / "c.tif"}
    engine.most = 12
    with pytest.raises(RuntimeError, match="power cut"):
        tilesegment.predict(scene, tmp_path / "m.tif", **options)
    engine.most = 10**9
    record = tilesegment.predict(scene, tmp_path / "m.tif", **options)
    assert 0 < record["counts"]["blocks_predicted"] < record["counts"]["blocks"]
    np.testing.assert_array_equal(read(tmp_path / "c.tif"), expected(90, 110))


def test_blocks_without_it_are_not_gone_on_with(make_raster, engine, model, tmp_path: Path) -> None:
    scene = make_raster(np.full((3, 90, 110), 9, np.uint8))
    engine.most = 12
    with pytest.raises(RuntimeError, match="power cut"):
        tilesegment.predict(scene, tmp_path / "m.tif", model=model)
    engine.most = 10**9
    tilesegment.predict(scene, tmp_path / "m.tif", model=model, consensus=tmp_path / "c.tif")
    np.testing.assert_array_equal(read(tmp_path / "c.tif"), expected(90, 110))


def test_by_hand() -> None:
    band = Disagreement((4, 3), 2, 5)
    one = np.zeros((3, 4, 3), np.uint16)
    one[0], one[1] = 100 * 64, 64
    # The third channel is no class.
    one[2] = 254 * 64
    other = one.copy()
    other[0, :, 0] = 40 * 64
    other[1, 1] = 31 * 64
    band.add(0, one)
    band.add(2, other)
    found = band.advance(2)
    assert found.tolist() == [[0, 0, 60, 0, 0], [0, 0, 60, 0, 0]]
    band.add(-1, one)
    # Rows moved up: the next ones are as they were, and the last two are new.
    assert band.advance(9).tolist() == [[0, 0, 60, 0, 0]] * 2 + [[0, 0, 255, 255, 255]] * 2


def test_it_is_written_as_a_raster(make_raster, engine, model, tmp_path: Path) -> None:
    scene = make_raster(np.full((3, 40, 40), 9, np.uint8))
    with pytest.raises(SettingsError, match=r"are written as \.tif or \.png"):
        tilesegment.predict(scene, tmp_path / "m.tif", model=model, consensus=tmp_path / "c.gpkg")


def test_it_is_part_of_the_plan(make_raster, engine, model, tmp_path: Path) -> None:
    from tilesegment.run.scene.outputs import Outputs
    from tilesegment.run.scene.summary import describe
    from tilesegment.settings import PredictSettings

    scene = str(make_raster(np.full((3, 300, 300), 9, np.uint8)))
    settings = PredictSettings(model=(model,))
    plain = describe(scene, settings, Outputs(tmp_path / "m.tif"))
    more = describe(scene, settings, Outputs(tmp_path / "m.tif", consensus=tmp_path / "c.tif"))
    assert more["disk_bytes"] == plain["disk_bytes"] + 300 * 300
    assert more["memory_bytes"]["strip"] > plain["memory_bytes"]["strip"]
