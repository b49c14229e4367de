from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tilesegment
from tests.fakes import Fake, fake_card
from tilesegment.errors import InputError, ModelError, OutputError
from tilesegment.evaluate.calibrate import calibrate
from tilesegment.model.store import find_model, save_model
from tilesegment.raster.source import open_scene
from tilesegment.run import calibrate as story


class Rimmed(Fake):
    """Says what each pixel is, but the opposite within `rim` pixels of the tile's rim."""

    def __init__(self, rim: int) -> None:
        self.rim = rim

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        bright = tiles[:, :1] > 0.5
        inside = np.zeros(tiles.shape[-2:], np.bool_)
        inside[self.rim : tiles.shape[-2] - self.rim, self.rim : tiles.shape[-1] - self.rim] = True
        return np.where(bright == inside, 0.9, 0.1).astype(np.float32)


@pytest.fixture
def scene(make_raster, rng) -> Path:
    return make_raster(rng.integers(1, 255, (3, 400, 420), np.uint8), nodata=0)


@pytest.mark.parametrize(("rim", "overlap"), [(0, 16), (5, 16), (9, 24), (20, 40)])
def test_the_rim_is_found(scene: Path, rim: int, overlap: int) -> None:
    card = fake_card(tile=(128, 128))
    with open_scene(scene) as opened:
        found = calibrate(opened, Rimmed(rim), card, sites=4)
    assert (found.rim, found.overlap, found.sites) == (rim, overlap, 4)
    assert found.agreement.shape == (24,)
    assert (found.agreement[rim:] == 1).all()
    assert found.reached
    assert (found.agreement[:rim] < 0.6).all()


def test_a_tile_that_is_not_square_is_looked_into_as_deep_as_its_short_side_allows(scene: Path) -> None:
    with open_scene(scene) as opened:
        found = calibrate(opened, Rimmed(5), fake_card(tile=(64, 128)), sites=4)
    assert found.agreement.shape == (12,)
    assert (found.rim, found.overlap) == (5, 16)


def test_a_model_that_never_agrees_gets_the_best_there_is(scene: Path) -> None:
    """Tiles that differ within 12 pixels, and by chance in a tenth of the pixels everywhere."""

    class Uncertain(Rimmed):
        def __call__(self, tiles: np.ndarray) -> np.ndarray:
            found = super().__call__(tiles)
            wrong = np.random.default_rng(int(tiles[:, :, 3, 3].sum() * 1000)).random(found.shape) < 0.05
            return np.where(wrong, 1 - found, found).astype(np.float32)

    with open_scene(scene) as opened:
        found = calibrate(opened, Uncertain(12), fake_card(tile=(128, 128)), sites=6)
    assert not found.reached
    assert 12 <= found.rim < 24
    assert found.overlap == -(-2 * found.rim // 8) * 8
    assert found.cost == pytest.approx((128 / (128 - found.overlap)) ** 2)
    assert 0.85 < found.agreement.max() < 0.95


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.ones((3, 150, 500), np.uint8), "150x500 pixels at the model's pixel size"),
        (np.zeros((3, 300, 300), np.uint8), "no place with enough valid pixels"),
    ],
)
def test_scenes_that_cannot_serve(make_raster, values: np.ndarray, words: str) -> None:
    with open_scene(make_raster(values, nodata=0)) as opened, pytest.raises(InputError, match=words):
        calibrate(opened, Rimmed(0), fake_card(tile=(128, 128)))


class TestCommand:
    @pytest.fixture
    def model(self, tmp_path: Path, monkeypatch) -> Path:
        monkeypatch.setattr(story, "load_engine", lambda *_: Rimmed(9))
        path = tmp_path / "m.safetensors"
        save_model(path, {"w": np.ones(3, np.float16)}, fake_card(tile=(128, 128), gsd=None))
        return path

    def test_the_card_takes_the_overlap(self, model: Path, scene: Path) -> None:
        result = tilesegment.calibrate(str(model), scene, sites=2)
        json.dumps(result)
        assert (result["overlap_before"], result["overlap"]) == (8, 24)
        assert find_model(str(model)).card.overlap == 24
        assert sorted(p.name for p in model.parent.iterdir() if p.suffix == ".safetensors") == [model.name]

    def test_another_file_leaves_the_model_alone(self, model: Path, scene: Path, tmp_path: Path) -> None:
        before = model.read_bytes()
        out = tmp_path / "new.safetensors"
        tilesegment.calibrate(str(model), scene, output=out, sites=2)
        assert model.read_bytes() == before
        assert find_model(str(out)).card.overlap == 24
        with pytest.raises(OutputError, match="exists already"):
            tilesegment.calibrate(str(model), scene, output=out)
        tilesegment.calibrate(str(model), scene, output=out, sites=1, overwrite=True)

    def test_what_cannot_be_written(self, model: Path, scene: Path, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="name a new file with -o"):
            tilesegment.calibrate("roofs", scene)
        with pytest.raises(OutputError, match=r"written as \.safetensors"):
            tilesegment.calibrate(str(model), scene, output=tmp_path / "m.pth")
        with pytest.raises(OutputError, match="no such folder"):
            tilesegment.calibrate(str(model), scene, output=tmp_path / "no" / "m.safetensors")
