"""Several looks at each tile, by one model or several: their mean, and all laws as with one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio

import tilesegment
from tests.fakes import Constant, Fake, Ready, Wavy, fake_card
from tilesegment.errors import BlockFailedError, ModelError, SettingsError
from tilesegment.model.card import ModelClass
from tilesegment.model.engines.several import SeveralPredictor, turns_of
from tilesegment.model.store import find_models, save_model
from tilesegment.run.block import predict as block_module
from tilesegment.tiling import memory
from tilesegment.tiling.blend import quantise


class Busy(Wavy):
    """Holds no more calls than it said, and gives them out in their order."""

    depth = 3

    def __init__(self, channels: int = 1) -> None:
        super().__init__(channels)
        self.open = 0

    def submit(self, values: np.ndarray, valid: np.ndarray) -> Any:
        self.open += 1
        assert self.open <= self.depth
        return Held(self, super().submit(values, valid))


class Held:
    def __init__(self, owner: Busy, ready: Ready) -> None:
        self.owner, self.ready = owner, ready

    def result(self) -> np.ndarray:
        self.owner.open -= 1
        return self.ready.result()

    def cancel(self) -> None:
        self.owner.open -= 1


def tiles_of(rng: np.random.Generator, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    valid = rng.random((count, 32, 32)) > 0.1
    return rng.integers(0, 255, (count, 3, 32, 32)).astype(np.uint8), valid


# Eight symmetries of a square, and what undoes them, written out.
SYMMETRIES: list[tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = [
    (lambda a: a, lambda a: a),
    (lambda a: a[..., ::-1], lambda a: a[..., ::-1]),
    (lambda a: a[..., ::-1, :], lambda a: a[..., ::-1, :]),
    (lambda a: a[..., ::-1, ::-1], lambda a: a[..., ::-1, ::-1]),
    (lambda a: np.rot90(a, 1, (-2, -1)), lambda a: np.rot90(a, -1, (-2, -1))),
    (lambda a: np.rot90(a, -1, (-2, -1)), lambda a: np.rot90(a, 1, (-2, -1))),
    (lambda a: np.swapaxes(a, -1, -2), lambda a: np.swapaxes(a, -1, -2)),
    (
        lambda a: np.rot90(a, 2, (-2, -1)).swapaxes(-1, -2),
        lambda a: np.rot90(a.swapaxes(-1, -2), 2, (-2, -1)),
    ),
]


@pytest.mark.parametrize(("tta", "count"), [("none", 1), ("flips", 4), ("d4", 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_mean_of_all_looks(rng: np.random.Generator, tta: str, count: int, channels: int) -> None:
    values, valid = tiles_of(rng, 2)
    members = [Busy(channels), Busy(channels)]
    several = SeveralPredictor(members, turns_of(tta))
    found = several.submit(values, valid).result()
    plain = Wavy(channels)
    total = np.zeros((2, channels, 32, 32), np.int64)
    for turn, back in SYMMETRIES[:count]:
        seen = plain.submit(np.ascontiguousarray(turn(values)), np.ascontiguousarray(turn(valid))).result()
        total += 2 * back(seen).astype(np.int64)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, (total + count) // (2 * count))
    assert [member.open for member in members] == [0, 0]


@pytest.mark.parametrize("turn", [turn for turn, _ in SYMMETRIES])
def test_d4_turns_with_its_tile(rng: np.random.Generator, turn: Callable[..., np.ndarray]) -> None:
    values, valid = tiles_of(rng)
    several = SeveralPredictor([Wavy()], turns_of("d4"))
    straight = several.submit(values, valid).result()
    turned = several.submit(np.ascontiguousarray(turn(values)), np.ascontiguousarray(turn(valid))).result()
    np.testing.assert_array_equal(turned, turn(straight))


def test_the_order_of_results_does_not_matter(rng: np.random.Generator) -> None:
    batches = [tiles_of(rng) for _ in range(5)]
    member = Busy()
    several = SeveralPredictor([member], turns_of("d4"))
    alone = [several.submit(*batch).result() for batch in batches]
    pending = [several.submit(*batch) for batch in batches]
    pending[3].cancel()
    for k in (4, 0, 2, 1):
        np.testing.assert_array_equal(pending[k].result(), alone[k])
    assert member.open == 0


class Failing(Busy):
    """One of its results is an error."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def submit(self, values: np.ndarray, valid: np.ndarray) -> Any:
        self.number -= 1
        held = super().submit(values, valid)
        if self.number == 0:
            held.result = self.fail
        return held

    def fail(self) -> Any:
        self.open -= 1
        raise BlockFailedError("one tile does not fit")


@pytest.mark.parametrize("number", [1, 4, 6, 8])
def test_an_error_is_the_engines_own_and_leaves_nothing(rng: np.random.Generator, number: int) -> None:
    member = Failing(number)
    several = SeveralPredictor([member], turns_of("flips"))
    values, valid = tiles_of(rng)
    pending = []

    def both() -> None:
        for _ in range(2):
            pending.append(several.submit(values, valid))
        for entry in pending:
            entry.result()

    with pytest.raises(BlockFailedError, match="one tile does not fit"):
        both()
    for entry in pending:
        entry.cancel()
    assert member.open == 0
    # The next scene is none the worse.
    expected = SeveralPredictor([Busy()], turns_of("flips")).submit(values, valid).result()
    np.testing.assert_array_equal(several.submit(values, valid).result(), expected)


@pytest.fixture
def standard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(block_module, "load_engine", lambda name, model, setup: Wavy())
    monkeypatch.setattr(block_module, "_loaded", {})
    monkeypatch.setattr(memory, "LEAST_BLOCK_PIXELS", 1)
    path = tmp_path / "model.safetensors"
    save_model(path, {"w": np.zeros(3, np.float32)}, fake_card())
    return str(path)


@pytest.fixture
def scene(make_raster: Callable[..., Path], rng: np.random.Generator) -> Path:
    values = rng.integers(0, 255, (3, 15, 20)).repeat(8, axis=1).repeat(8, axis=2)
    return make_raster(values.astype(np.uint8))


def test_blocks_change_nothing(
    scene: Path, standard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for k, (work, pixels) in enumerate([(1.0, 10**9), (3.0, 3000)]):
        monkeypatch.setattr(memory, "MOST_WORK", work)
        monkeypatch.setattr(memory, "MOST_BLOCK_PIXELS", pixels)
        record = tilesegment.predict(
            scene, tmp_path / f"{k}.gpkg", model=standard, tta="d4", probability=tmp_path / f"{k}.tif"
        )
        with rasterio.open(tmp_path / f"{k}.tif") as dataset:
            frame = geopandas.read_file(tmp_path / f"{k}.gpkg")
            found.append((record["counts"]["blocks"], dataset.read(1), frame.geometry.to_wkt().tolist()))
    assert found[0][0] < found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]


def test_two_models_are_averaged(
    scene: Path, standard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.safetensors"
    save_model(other, {"w": np.ones(3, np.float32)}, fake_card())
    said = {standard: 0.2, str(other): 0.7}
    monkeypatch.setattr(block_module, "load_engine", lambda name, model, setup: Constant(said[model.name]))
    record = tilesegment.predict(
        scene, tmp_path / "m.tif", model=[standard, other], probability=tmp_path / "p.tif", tta="flips"
    )
    with rasterio.open(tmp_path / "p.tif") as dataset:
        # .45 of 254.
        assert set(np.unique(dataset.read(1)).tolist()) == {round(0.45 * 254)}
        assert dataset.tags()["model"] == f"{standard}, {other}"
    assert [entry["name"] for entry in record["models"]] == [standard, str(other)]
    assert record["plan"]["looks"] == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gsd": 0.3}, r"its gsd \(0\.3\) and those of .* \(0\.15\) differ"),
        ({"value_range": (0.0, 1000.0)}, "its value range"),
        ({"bands": ("near infrared", "red", "green")}, "its bands"),
        ({"classes": (ModelClass("background", (0, 0, 0)), ModelClass("car", (9, 9, 9)))}, "its classes"),
    ],
)
def test_models_that_see_or_say_something_else(
    scene: Path, standard: str, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    other = tmp_path / "other.safetensors"
    save_model(other, {"w": np.ones(3, np.float32)}, replace(fake_card(), **changes))
    with pytest.raises(ModelError, match=words):
        tilesegment.predict(scene, tmp_path / "m.tif", model=[standard, other])
    assert not (tmp_path / "m.tif").exists()


def test_refusals(scene: Path, standard: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="name one"):
        find_models([])
    with pytest.raises(SettingsError, match="tta 'd8'"):
        tilesegment.predict(scene, tmp_path / "m.tif", model=standard, tta="d8")
    with pytest.raises(SettingsError, match="32 x 64; give a square"):
        tilesegment.predict(scene, tmp_path / "m.tif", model=standard, tta="d4", tile="32x64", overlap=8)


def test_a_strip_of_a_scene_is_turned_too(
    make_raster: Callable[..., Path], standard: str, tmp_path: Path
) -> None:
    scene = make_raster(np.full((3, 10, 90), 120, np.uint8))
    record = tilesegment.predict(scene, tmp_path / "m.tif", model=standard, tta="d4")
    assert record["plan"]["tile"] == [32, 32]


def test_counts_stay_in_their_steps() -> None:
    class Most(Fake):
        def __call__(self, tiles: np.ndarray) -> np.ndarray:
            return np.ones((len(tiles), 1, 32, 32), np.float32)

    several = SeveralPredictor([Most(), Most(), Most()], turns_of("d4"))
    found = several.submit(np.zeros((1, 3, 32, 32), np.uint8), np.ones((1, 32, 32), np.bool_)).result()
    np.testing.assert_array_equal(found, quantise(np.ones((1, 1, 32, 32), np.float32)))
