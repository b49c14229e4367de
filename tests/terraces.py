"""Rows of houses that touch, and a predictor that knows where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.fakes import Fake, fake_card
from tilesegment.model.store import save_model
from tilesegment.run.block import predict as block_module
from tilesegment.tiling import memory
from tilesegment.tiling.blend import Accumulator


class Terraces(Fake):
    """Reads the probability of roof off the first band and that of contact off the second one."""

    name = "terraces"

    def __init__(self, contact: bool) -> None:
        self.contact = contact

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(tiles[:, : 1 + self.contact])

    def blender(self, weights: np.ndarray, width: int, top: int) -> Accumulator:
        return Accumulator(weights, 1, width, top, self.contact)


def model_of_terraces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model that answers with what it reads, for blocks as small as one likes."""
    monkeypatch.setattr(block_module, "load_engine", lambda name, model, setup: Terraces(setup.contact))
    monkeypatch.setattr(block_module, "_loaded", {})
    monkeypatch.setattr(memory, "LEAST_BLOCK_PIXELS", 1)
    path = tmp_path / "model.safetensors"
    save_model(path, {"w": np.zeros(3, np.float32)}, fake_card(contact=True))
    return str(path)


def terraces() -> np.ndarray:
    """A picture whose bands are roof and contact, uint8: a row of five houses with a bend, one of three,
    and a house that stands alone; walls between them are three pixels wide."""
    roof, contact = np.zeros((2, 150, 190), np.uint8)
    for k in range(5):
        top = 12 + 2 * k
        roof[top : top + 50, 10 + 30 * k : 40 + 30 * k] = 230
        if k:
            contact[top : top + 48, 9 + 30 * k : 12 + 30 * k] = 220
    for k in range(3):
        roof[90:135, 20 + 25 * k : 45 + 25 * k] = 240
        if k:
            contact[90:135, 19 + 25 * k : 22 + 25 * k] = 200
    roof[95:130, 120:160] = 250
    # No pixel may be taken for nodata.
    return np.stack([roof, contact, np.full_like(roof, 7)])
