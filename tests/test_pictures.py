"""Plain pictures: read at the size of training, answered at their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

import tilesegment
from tests.fakes import Fake, fake_card
from tilesegment.errors import SettingsError
from tilesegment.model.card import ModelClass
from tilesegment.model.store import save_model
from tilesegment.run.block import predict as block_module

CLASSES = (
    ModelClass("road", (128, 64, 128)), ModelClass("car", (0, 0, 142)), ModelClass("person", (220, 20, 60)),
)  # fmt: skip


class ByColour(Fake):
    """The class of a pixel is its brightest band."""

    channels = 3

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        one = np.eye(3, dtype=np.float32)[tiles.argmax(axis=1)].transpose(0, 3, 1, 2)
        return np.ascontiguousarray(one)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(block_module, "load_engine", lambda name, model, setup: ByColour())
    monkeypatch.setattr(block_module, "_loaded", {})
    path = tmp_path / "model.safetensors"
    card = fake_card(3, gsd=None, image_size=(40, 80))
    save_model(path, {"w": np.zeros(3, np.float32)}, card.__class__(**{**vars(card), "classes": CLASSES}))
    return str(path)


def picture_of(path: Path, shape: tuple[int, int], **options: Any) -> Path:
    """Left half red (road), right half blue (person), a green (car) square in the middle of it."""
    values = np.zeros((*shape, 3), np.uint8)
    values[:, : shape[1] // 2, 0] = 200
    values[:, shape[1] // 2 :, 2] = 200
    square = slice(shape[0] // 4, shape[0] // 2), slice(5 * shape[1] // 8, 7 * shape[1] // 8)
    values[square] = (0, 200, 0)
    Image.fromarray(values).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_a_mask_of_the_pictures_own_size(model: str, tmp_path: Path, name: str, ending: str) -> None:
    # Twice and four times the size of training: another aspect as well.
    options = {"lossless": True} if name.endswith("webp") else {}
    path = picture_of(tmp_path / name, (80, 320), **options)
    mask = tmp_path / f"mask{ending}"
    record = tilesegment.predict(path, mask, model=model, overlay=tmp_path / "look.png")
    assert [record["plan"]["grid"][side] for side in ("height", "width")] == [40, 80]
    with rasterio.open(mask) as dataset:
        found = dataset.read(1)
        assert dataset.colormap(1)[2][:3] == (220, 20, 60)
        assert dataset.tags()["software"].startswith("tilesegment")
    assert found.shape == (80, 320)
    expected = np.zeros((80, 320), np.uint8)
    expected[:, 160:] = 2
    expected[20:40, 200:280] = 1
    np.testing.assert_array_equal(found, expected)
    if ending == ".png":
        with Image.open(mask) as picture:
            assert picture.mode == "P"
            np.testing.assert_array_equal(np.asarray(picture), expected)
        assert "<Category>car</Category>" in mask.with_name("mask.png.aux.xml").read_text()
    assert record["warnings"] == []


def test_the_overlay_has_its_aspect_and_a_legend(model: str, tmp_path: Path) -> None:
    path = picture_of(tmp_path / "a.png", (80, 320))
    tilesegment.predict(path, tmp_path / "m.png", model=model, overlay=tmp_path / "look.png")
    with Image.open(tmp_path / "look.png") as picture:
        look = np.asarray(picture.convert("RGB")).astype(int)
    assert look.shape[1] == 320
    assert look.shape[0] > 80
    # The picture's middle is tinted, and all three colours stand on white below.
    assert (
        np.abs(look[70, 80] - (np.array([200, 0, 0]) * 0.65 + np.array([128, 64, 128]) * 0.35)).max() <= 2
    )
    below = look[80:].reshape(-1, 3).tolist()
    for entry in CLASSES:
        assert list(entry.colour) in below
    assert below[0] == [255, 255, 255]


def test_polygons_are_in_the_pictures_pixels(model: str, tmp_path: Path) -> None:
    path = picture_of(tmp_path / "a.png", (80, 320))
    tilesegment.predict(path, tmp_path / "p.geojson", model=model, simplify=0, min_area=0)
    frame = geopandas.read_file(tmp_path / "p.geojson")
    car = frame[frame["class"] == "car"].geometry.iloc[0]
    assert car.bounds == (200, 20, 280, 40)


def test_a_folder_of_pictures(model: str, tmp_path: Path) -> None:
    folder = tmp_path / "street"
    folder.mkdir()
    for k, shape in enumerate([(40, 80), (60, 90), (100, 50)]):
        picture_of(folder / f"{k}.png", shape)
    results = list(tilesegment.predict_many([folder], tmp_path / "out", format="png", model=model))
    assert [result.outcome for result in results] == ["predicted"] * 3
    sizes = [Image.open(tmp_path / "out" / f"{k}.png").size for k in range(3)]
    assert sizes == [(80, 40), (90, 60), (50, 100)]
    again = list(tilesegment.predict_many([folder], tmp_path / "out", format="png", model=model))
    assert [result.outcome for result in again] == ["skipped"] * 3
    with pytest.raises(SettingsError, match="scenes are read from there"):
        list(tilesegment.predict_many([folder], folder, format="png", model=model))


def test_a_png_keeps_its_place(make_raster: Callable[..., Path], model: str, tmp_path: Path) -> None:
    scene = make_raster(np.full((3, 30, 50), 9, np.uint8), transform=Affine(0.15, 0.01, 7, 0.02, -0.15, 9))
    tilesegment.predict(scene, tmp_path / "m.png", model=model, probability=tmp_path / "p.png")
    for name in ("m.png", "p.png"):
        with rasterio.open(scene) as one, rasterio.open(tmp_path / name) as other:
            assert one.crs == other.crs
            assert one.transform.almost_equals(other.transform)
            assert other.tags()["model"] == model
            assert other.descriptions == ("class" if name == "m.png" else "probability",)
            assert other.scales == (1.0 if name == "m.png" else 1 / 254,)


@pytest.mark.parametrize("settings", [{"cog": True}, {"co": {"COMPRESS": "LZW"}}])
def test_options_of_geotiffs(model: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    path = picture_of(tmp_path / "a.png", (40, 80))
    with pytest.raises(SettingsError, match="are for GeoTIFFs"):
        tilesegment.predict(path, tmp_path / "m.png", model=model, **settings)
