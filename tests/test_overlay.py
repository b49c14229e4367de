"""The overlay, pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tilesegment.grid import Window
from tilesegment.model.card import ModelClass
from tilesegment.model.preprocess import ValueRange
from tilesegment.raster.source import open_scene
from tilesegment.report.overlay import View, write_overlay

LABELS = {0: ModelClass("background", (0, 0, 0)), 1: ModelClass("roof", (200, 0, 100))}
GREY = 100
TINTED = [round(GREY * 0.65 + c * 0.35) for c in (200, 0, 100)]


def drawn(make_raster, tmp_path: Path, classes: np.ndarray, region: Window | None = None) -> np.ndarray:
    path = make_raster(np.full((3, *classes.shape), GREY, np.uint8))
    with open_scene(path) as scene:
        values = ValueRange.of_all((0.0, 255.0), 3)
        where = region or scene.grid.window
        view = View(scene, values, where, (where.height, where.width))
        write_overlay(tmp_path / "o.png", view, lambda w: classes[w.slices], LABELS, {"a": "b"})
    picture = Image.open(tmp_path / "o.png")
    assert picture.info["a"] == "b"
    return np.asarray(picture)


def test_a_tint_with_a_bright_rim_of_two_pixels(make_raster, tmp_path: Path) -> None:
    classes = np.zeros((30, 40), np.uint8)
    classes[5:20, 10:30] = 1
    picture = drawn(make_raster, tmp_path, classes)
    expected = np.full((30, 40, 3), GREY)
    expected[5:20, 10:30] = LABELS[1].colour
    expected[7:18, 12:28] = TINTED
    np.testing.assert_array_equal(picture, expected)


def test_a_roof_that_the_picture_cuts_has_no_rim_there(make_raster, tmp_path: Path) -> None:
    picture = drawn(make_raster, tmp_path, np.ones((12, 9), np.uint8))
    np.testing.assert_array_equal(picture, np.broadcast_to(TINTED, (12, 9, 3)))


@pytest.mark.parametrize(("rows", "cols"), [(2, 4096), (6000, 3)])
def test_a_large_scene_is_sampled_at_the_middle_of_each_pixel(
    make_raster, tmp_path: Path, rows: int, cols: int
) -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat(rng.integers(0, 2, (1, max(rows, cols)), np.uint8), min(rows, cols), axis=0)
    classes = classes if cols > rows else classes.T
    picture = drawn(make_raster, tmp_path, classes)
    assert max(picture.shape[:2]) == 2048
    at = np.floor((np.arange(2048) + 0.5) * max(rows, cols) / 2048).astype(int)
    line = picture[0] if cols > rows else picture[:, 0]
    found = (line != GREY).any(axis=1)
    np.testing.assert_array_equal(found, (classes[0] if cols > rows else classes[:, 0])[at] == 1)


def test_a_part_of_the_scene(make_raster, tmp_path: Path) -> None:
    classes = np.zeros((30, 40), np.uint8)
    classes[12:18, 20:26] = 1
    picture = drawn(make_raster, tmp_path, classes, Window(10, 15, 12, 20))
    assert picture.shape == (12, 20, 3)
    np.testing.assert_array_equal((picture != GREY).any(axis=2), classes[10:22, 15:35] == 1)
