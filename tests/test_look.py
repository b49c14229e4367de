"""Brightness, contrast and tint: of scenes against the pictures that a model learnt from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

import tilesegment
from tests import layouts
from tests.fakes import fake_card, save_fake
from tests.test_pipeline import counter, model
from tests.test_train import trained
from tilesegment.datasets.opening import open_reader
from tilesegment.datasets.values import looks_of
from tilesegment.model.card import Card
from tilesegment.model.look import drift_of, look_of, summary_of
from tilesegment.model.store import find_model
from tilesegment.raster.source import open_scene
from tilesegment.raster.values import blank_edge, few_windows

__all__ = ["counter", "model"]
RGB = ("red", "green", "blue")
KNOWN = {"brightness": (0.5, 0.1), "contrast": (0.2, 0.05), "red": (0.0, 0.02), "green": (0.0, 0.02),
         "blue": (0.0, 0.02)}  # fmt: skip


def test_a_look_by_hand() -> None:
    pixels = np.tile(np.array([[0.2, 0.4], [0.4, 0.6], [0.6, 0.8]], np.float32), 400)
    look = look_of(pixels, RGB)
    assert look == pytest.approx(
        {"brightness": 0.5, "contrast": 0.1, "red": -0.2, "green": 0.0, "blue": 0.2}, abs=1e-6
    )
    assert look_of(pixels[:, :499], RGB) is None
    assert look_of(pixels[:1], ("grey",)) == pytest.approx({"brightness": 0.3, "contrast": 0.1}, abs=1e-6)


def test_a_summary_by_hand() -> None:
    found = summary_of([{"brightness": 0.2}, {"brightness": 0.6}])
    assert found["brightness"] == pytest.approx((0.4, 0.2))
    assert summary_of([{"brightness": 0.2}]) == {}


def looks(**changes: float) -> dict[str, float]:
    return {"brightness": 0.5, "contrast": 0.2, "red": 0.0, "green": 0.0, "blue": 0.0, **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"brightness": 0.79}, []),
        ({"brightness": 0.81}, ["brighter"]),
        ({"brightness": 0.19}, ["darker"]),
        ({"contrast": 0.04}, ["flatter"]),
        ({"contrast": 0.36}, ["harsher in its contrasts"]),
        ({"red": 0.07, "blue": -0.07}, ["more red", "less blue"]),
    ],
)
def test_words(changes: dict[str, float], words: list[str]) -> None:
    off, found = drift_of([looks(**changes)], KNOWN)
    assert found == words
    for name, value in changes.items():
        mean, spread = KNOWN[name]
        assert off[name] == pytest.approx((value - mean) / spread, abs=0.01)


def test_several_windows_count_by_their_mean_and_nothing_without_knowledge() -> None:
    off, words = drift_of([looks(brightness=0.1), looks(brightness=0.9)], KNOWN)
    assert (off["brightness"], words) == (0.0, [])
    assert drift_of([], KNOWN) == ({}, [])
    assert drift_of([looks()], {}) == ({}, [])
    # All training pictures alike: a hundredth of the range is nothing.
    off, words = drift_of([looks(brightness=0.52)], {"brightness": (0.5, 0.0)})
    assert (off["brightness"], words) == (2.0, [])


@pytest.mark.parametrize("shape", [(10, 10), (900, 900), (1000, 1200)])
def test_windows_are_spread_over_a_scene(make_raster: Callable[..., Path], shape: tuple[int, int]) -> None:
    rows, cols = np.indices(shape)
    values = np.stack([rows * 255 // shape[0], cols * 255 // shape[1], rows * 0]).astype(np.uint8)
    with open_scene(make_raster(values)) as scene:
        found = list(few_windows(scene))
    # A small scene is read whole.
    large = shape[0] == 1000
    assert len(found) == (9 if large else 1)
    assert all(part.values.shape[1:] == ((192, 192) if large else shape) for part in found)
    assert np.mean([part.values[0].mean() for part in found]) == pytest.approx(values[0].mean(), abs=1)
    assert np.mean([part.values[1].mean() for part in found]) == pytest.approx(values[1].mean(), abs=1)


class TestRuns:
    def test_an_unlike_scene_is_named(self, make_raster, counter, tmp_path: Path, caplog) -> None:
        path = save_fake(tmp_path / "m.safetensors", looks=KNOWN, gsd=0.15)
        rng = np.random.default_rng(0)
        usual = np.repeat(rng.normal(127, 51, (1, 64, 64)).clip(0, 255), 3, axis=0).astype(np.uint8)
        record = tilesegment.predict(make_raster(usual), tmp_path / "a.tif", model=path)
        assert abs(record["drift"]["brightness"]) < 1
        assert not [line for line in caplog.messages if "learnt from" in line]
        night = make_raster((usual // 8), "night.tif")
        record = tilesegment.predict(night, tmp_path / "b.tif", model=path)
        assert record["drift"]["brightness"] < -3
        (line,) = [line for line in caplog.messages if "learnt from" in line]
        assert line.startswith("the scene is darker and flatter than the pictures that fake learnt from")
        assert line in record["warnings"]
        # In the model's range, whatever the scene's type.
        wide = make_raster(usual.astype(np.uint16) * 16, "wide.tif")
        record = tilesegment.predict(wide, tmp_path / "c.tif", model=path, stretch="0,4080")
        assert abs(record["drift"]["brightness"]) < 1

    def test_models_that_do_not_know_say_nothing(self, make_raster, model, counter, tmp_path: Path) -> None:
        scene = make_raster(np.zeros((3, 64, 64), np.uint8))
        record = tilesegment.predict(scene, tmp_path / "a.tif", model=model())
        assert record["drift"] == {}
        assert not [line for line in record["warnings"] if "learnt from" in line]

    def test_the_bundled_model_knows_the_scenes(self, data: Path, tmp_path: Path) -> None:
        record = tilesegment.predict(data / "scenes" / "philippines_epsg3857.tif", tmp_path / "a.gpkg")
        assert set(record["drift"]) == set(KNOWN)
        assert max(map(abs, record["drift"].values())) < 3


class TestTraining:
    def test_a_model_remembers_its_pictures(self, tmp_path: Path) -> None:
        root = layouts.rooftops(tmp_path / "set", 12, 64, nested=False)
        trained("rooftop", root, tmp_path / "r", "data.gsd=null", "epochs=1")
        card = find_model(str(tmp_path / "r")).card
        assert set(card.looks) == set(KNOWN)
        reader = open_reader("rooftop-tiles", root, {"gsd": None}, (64, 64), 0)
        expected = looks_of(reader, (0.0, 255.0))
        assert card.looks["brightness"] == pytest.approx(expected["brightness"], abs=0.05)
        means = []
        for path in sorted((root / "images").glob("*.tif")):
            with rasterio.open(path) as dataset:
                means.append(dataset.read().mean() / 255)
        assert min(means) - 1e-6 <= card.looks["brightness"][0] <= max(means) + 1e-6

    def test_a_card_keeps_them(self) -> None:
        card = fake_card(looks=KNOWN)
        assert Card.from_json(card.to_json(), "here") == card
        assert Card.from_json(dataclasses.replace(card, looks={}).to_json(), "here").looks == {}


def test_an_edge_is_blank_in_small_scenes_and_large_ones(make_raster: Callable[..., Path]) -> None:
    for shape in ((300, 400), (1100, 1000)):
        values = np.full((3, *shape), 90, np.uint8)
        values[:, -40:] = 255
        with open_scene(make_raster(values)) as scene:
            assert blank_edge(scene) == 255
        values[:, -40:, ::5] = 7
        with open_scene(make_raster(values, "b.tif")) as scene:
            assert blank_edge(scene) is None
