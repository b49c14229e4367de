"""How long a run will take: measured once, then worked out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tilesegment
from tests.fakes import Fake, fake_card
from tilesegment.model.store import save_model
from tilesegment.run.block import predict as block_module
from tilesegment.run.scene import pace


class Counting(Fake):
    """Counts the tiles that it was given."""

    calls = 0

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        type(self).calls += 1
        return tiles[:, :1]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TILESEGMENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(block_module, "load_engine", lambda name, model, setup: Counting())
    monkeypatch.setattr(block_module, "_loaded", {})
    monkeypatch.setattr(pace, "_TRIAL", 0.0)
    monkeypatch.setattr(Counting, "calls", 0)
    path = tmp_path / "model.safetensors"
    save_model(path, {"w": np.zeros(3, np.float32)}, fake_card())
    return str(path)


@pytest.fixture
def scene(make_raster: Callable[..., Path]) -> Path:
    return make_raster(np.full((3, 100, 100), 90, np.uint8))


def test_the_forward_rate_is_measured_once(scene: Path, model: str, tmp_path: Path) -> None:
    first = tilesegment.plan(scene, model=model)["seconds"]
    calls = Counting.calls
    assert calls > 0
    assert tilesegment.plan(scene, model=model)["seconds"] == first
    assert Counting.calls == calls
    tilesegment.plan(scene, model=model, tile=64, overlap=16)
    assert Counting.calls > calls
    assert len(json.loads((tmp_path / "cache" / "pace.json").read_text())) == 2


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": "b"}'])
def test_a_damaged_file_is_made_anew(scene: Path, model: str, tmp_path: Path, content: str) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "pace.json").write_text(content)
    assert tilesegment.plan(scene, model=model)["seconds"]["tile"] > 0
    assert len(json.loads((tmp_path / "cache" / "pace.json").read_text())) == 1


def test_by_hand(make_raster: Callable[..., Path], model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_raster(np.full((3, 1000, 2000), 90, np.uint8))
    monkeypatch.setattr(pace, "_seconds_a_tile", lambda job: 0.5)
    monkeypatch.setattr("tilesegment.run.scene.prepare.cores", lambda: 4)
    plan = tilesegment.plan(scene, model=model, regularize="none")
    told = plan["seconds"]
    assert told["tile"] == 0.5
    assert told["forward"] == 0.5 * plan["tiles"]
    # 2 megapixels: .06 core-seconds each on four cores, .05 s for their polygons, .07 for regular ones.
    expected = 1.85 + told["forward"] + 2 * 0.06 / 4
    assert told["total"] == pytest.approx(expected + 2 * 0.05)
    regular = tilesegment.plan(scene, model=model, regularize="right")["seconds"]
    assert regular["total"] == pytest.approx(expected + 2 * 0.12)
    twice = tilesegment.plan(scene, model=model, workers=2)["seconds"]
    assert twice["tile"] == 0.25


def test_of_a_cluster_nothing_is_known(scene: Path, model: str) -> None:
    assert tilesegment.plan(scene, model=model, scheduler="tcp://far:8786")["seconds"] is None
    assert Counting.calls == 0
