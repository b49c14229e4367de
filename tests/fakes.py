"""Predictors without a network, for everything that does not need one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tilesegment.model.card import Card, ModelClass, default_colours
from tilesegment.model.store import ModelFile, save_model
from tilesegment.run.block import predict as block_module
from tilesegment.tiling import memory
from tilesegment.tiling.blend import Accumulator, quantise


def fake_card(classes: int = 2, **fields: object) -> Card:
    names = ["background", *(f"class {k}" for k in range(1, classes))]
    entries = tuple(ModelClass(n, c) for n, c in zip(names, default_colours(classes), strict=True))
    values = {"gsd": 0.15, "tile": (32, 32), "overlap": 8, "mean": (0.0,) * 3, "std": (1.0,) * 3, **fields}
    return Card("fake", "Unet", "resnet18", entries, **values)  # type: ignore[arg-type]


def fake_model(classes: int = 2, **fields: object) -> ModelFile:
    return ModelFile("fake", "/nowhere", "0" * 64, 1000, fake_card(classes, **fields))


def save_fake(path: Path, classes: int = 2, **fields: object) -> str:
    """A model file whose weights nobody computes with."""
    save_model(path, {"w": np.zeros(3, np.float32)}, fake_card(classes, **fields))
    return str(path)


def use(monkeypatch: pytest.MonkeyPatch, predictor: Fake, block_pixels: int | None = None) -> None:
    """Let a predictor answer instead of a network. block_pixels: of blocks, so that small scenes have
    several."""

    def load(name: str, model: ModelFile, setup: object) -> Fake:
        predictor.channels = model.card.channels
        return predictor

    monkeypatch.setattr(block_module, "load_engine", load)
    monkeypatch.setattr(block_module, "_loaded", {})
    if block_pixels is not None:
        monkeypatch.setattr(memory, "LEAST_BLOCK_PIXELS", 1)
        monkeypatch.setattr(memory, "MOST_WORK", 3.0)
        monkeypatch.setattr(memory, "MOST_BLOCK_PIXELS", block_pixels)


class Ready:
    """A result that is there already."""

    def __init__(self, counts: np.ndarray) -> None:
        self._counts = counts

    def result(self) -> np.ndarray:
        return self._counts

    def cancel(self) -> None:
        pass


class Fake:
    """A predictor from a function of tiles in 0..1 whose invalid pixels are 0."""

    name, batch, depth = "fake", 1, 3
    channels = 1

    def submit(self, values: np.ndarray, valid: np.ndarray) -> Ready:
        tiles = np.where(valid[:, None], values.astype(np.float32) / 255, 0).astype(np.float32)
        return Ready(quantise(self(tiles)))

    def blender(self, weights: np.ndarray, width: int, top: int) -> Accumulator:
        return Accumulator(weights, self.channels, width, top)

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class Constant(Fake):
    """Says the same of every pixel."""

    name, batch = "constant", 3

    def __init__(self, probability: float | tuple[float, ...]) -> None:
        self.values = np.atleast_1d(np.asarray(probability, np.float32))
        self.channels = len(self.values)

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        shape = (len(tiles), len(self.values), *tiles.shape[-2:])
        return np.broadcast_to(self.values[:, None, None], shape).astype(np.float32)


class Wavy(Fake):
    """Depends on each pixel, on the whole tile and on the place in it, as networks do."""

    name = "wavy"

    def __init__(self, channels: int = 1, batch: int = 1) -> None:
        self.channels, self.batch, self.calls = channels, batch, 0

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.calls += len(tiles)
        context = tiles.mean(axis=(1, 2, 3), keepdims=True)[:, 0]
        place = np.linspace(0, 0.3, tiles.shape[-1], dtype=np.float32)[None, None]
        base = tiles[:, 0] * 0.6 + context * 0.3 + place
        waves = [np.sin((k + 1) * 3 * base + k) ** 2 for k in range(self.channels)]
        result = np.stack(waves, axis=1).astype(np.float32)
        return result if self.channels == 1 else result / result.sum(axis=1, keepdims=True)
