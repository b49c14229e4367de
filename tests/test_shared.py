"""One engine for several blocks at a time, and scenes that are predicted side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilesegment
from tests.fakes import Ready, Wavy, save_fake, use
from tilesegment.model.engines.several import SeveralPredictor, turns_of
from tilesegment.model.engines.shared import SharedPredictor
from tilesegment.run.many import ahead


class Slow:
    """A predictor whose answer is each tile's first value, when it is told to give it."""

    name, batch, depth = "slow", 4, 2

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.gate = gate or threading.Event()
        self.calls: list[list[int]] = []
        self.under_way = self.most = self.cancelled = 0
        self._lock = threading.Lock()

    def submit(self, values: np.ndarray, valid: np.ndarray) -> Any:
        assert len(values) == len(valid)
        found = values[:, 0, 0, 0].copy()
        with self._lock:
            self.calls.append(found.tolist())
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        if 99 in found:
            self._over()
            raise ValueError("not this one")
        return SlowPending(self, found)

    def _over(self) -> None:
        with self._lock:
            self.under_way -= 1

    def blender(self, *arguments: Any) -> Any:
        return arguments


class SlowPending:
    def __init__(self, owner: Slow, found: np.ndarray) -> None:
        self._owner, self._found = owner, found

    def result(self) -> np.ndarray:
        assert self._owner.gate.wait(20)
        self._owner._over()
        if 77 in self._found:
            raise ValueError("nor this one")
        return self._found

    def cancel(self) -> None:
        self._owner.cancelled += 1
        self._owner._over()


def tiles(*numbers: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.zeros((len(numbers), 1, 2, 2), np.int64)
    values[:, 0, 0, 0] = numbers
    return values, np.ones((len(numbers), 2, 2), np.bool_)


def until(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        time.sleep(0.005)
    raise AssertionError("it never came to that")


class TestShared:
    def test_it_is_what_it_shares(self) -> None:
        shared = SharedPredictor(Slow())
        assert (shared.name, shared.batch, shared.depth) == ("slow", 4, 2)
        assert shared.blender(np.zeros(1, np.uint32), 7, 3)[1:] == (7, 3)

    @pytest.mark.parametrize("fills", [False, True])
    def test_many_callers_get_their_own(self, fills: bool) -> None:
        gate = threading.Event()
        gate.set()
        slow = Slow(gate)
        shared = SharedPredictor(slow, fills)

        def caller(first: int) -> list[int]:
            found = []
            for number in range(first, first + 40, 2):
                found += shared.submit(*tiles(number, number + 1)).result().tolist()
            return found

        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(caller, range(1000, 7000, 1000)))
        assert found == [list(range(first, first + 40)) for first in range(1000, 7000, 1000)]
        assert slow.most <= slow.depth
        assert sorted(number for call in slow.calls for number in call) == sorted(
            number for numbers in found for number in numbers
        )
        assert slow.under_way == 0

    def test_batches_are_filled_across_callers(self) -> None:
        slow = Slow()
        shared = SharedPredictor(slow, fills=True)
        waiting = [shared.submit(*tiles(0))]
        until(lambda: len(slow.calls) == 1)
        waiting.append(shared.submit(*tiles(1)))
        until(lambda: len(slow.calls) == 2)
        # It is busy now: what comes is put together, in its order, and never cut.
        waiting += [shared.submit(*tiles(*numbers)) for numbers in ((2, 3), (4,), (5, 6), (7,))]
        slow.gate.set()
        assert [part.result().tolist() for part in waiting] == [[0], [1], [2, 3], [4], [5, 6], [7]]
        assert slow.calls == [[0], [1], [2, 3, 4], [5, 6, 7]]

    def test_without_filling_every_call_stays_alone(self) -> None:
        slow = Slow()
        shared = SharedPredictor(slow)
        waiting = [shared.submit(*tiles(number)) for number in range(5)]
        slow.gate.set()
        assert [part.result().tolist() for part in waiting] == [[number] for number in range(5)]
        assert slow.calls == [[number] for number in range(5)]

    @pytest.mark.parametrize("number", [77, 99])
    def test_what_goes_wrong_is_raised_where_it_is_asked_for(self, number: int) -> None:
        slow = Slow()
        slow.gate.set()
        shared = SharedPredictor(slow)
        parts = [shared.submit(*tiles(n)) for n in (1, number, 2, number, 3, number, 4)]
        for part, expected in zip(parts, (1, None, 2, None, 3, None, 4), strict=True):
            if expected is None:
                with pytest.raises(ValueError, match="this one"):
                    part.result()
                part.cancel()
            else:
                assert part.result().tolist() == [expected]

    def test_what_nobody_wants(self) -> None:
        slow = Slow()
        shared = SharedPredictor(slow, fills=True)
        first, second = shared.submit(*tiles(0)), shared.submit(*tiles(1))
        until(lambda: len(slow.calls) == 2)
        waiting = [shared.submit(*tiles(number)) for number in (2, 3, 4)]
        # Not begun yet, and begun.
        waiting[1].cancel()
        second.cancel()
        until(lambda: slow.calls == [[0], [1], [2, 4]])
        # A call of two is ended when both are gone.
        waiting[0].cancel()
        assert slow.cancelled == 1
        waiting[2].cancel()
        assert slow.cancelled == 2
        slow.gate.set()
        assert first.result().tolist() == [0]
        assert shared.submit(*tiles(5)).result().tolist() == [5]
        assert slow.under_way == 0

    def test_means_of_several_looks(self, rng: np.random.Generator) -> None:
        values = rng.integers(0, 255, (40, 3, 16, 16), np.uint8)
        valid = np.ones((40, 16, 16), np.bool_)
        alone = SeveralPredictor([Wavy(), Wavy()], turns_of("d4"))
        expected = [alone.submit(values[k : k + 1], valid[k : k + 1]).result() for k in range(40)]
        shared = SharedPredictor(SeveralPredictor([Wavy(), Wavy()], turns_of("d4")))

        def one(k: int) -> np.ndarray:
            found: np.ndarray = shared.submit(values[k : k + 1], valid[k : k + 1]).result()
            return found

        with ThreadPoolExecutor(8) as pool:
            for found, right in zip(pool.map(one, range(40)), expected, strict=True):
                np.testing.assert_array_equal(found, right)


@pytest.fixture
def folder(tmp_path: Path, make_raster: Callable[..., Path], rng: np.random.Generator) -> Path:
    found = tmp_path / "scenes"
    found.mkdir()
    for number in range(6):
        values = np.kron(rng.integers(0, 255, (3, 7, 7)), np.ones((1, 10, 10))).astype(np.uint8)
        make_raster(values).rename(found / f"{number}.tif")
    return found


class Meeting(Wavy):
    """Waits in every call until so many scenes are in one, or no more come."""

    depth = 8

    def __init__(self, guests: int) -> None:
        super().__init__()
        self.barrier = threading.Barrier(guests)
        self.met = 0

    def submit(self, values: np.ndarray, valid: np.ndarray) -> Any:
        return Guest(self, super().submit(values, valid).result())

    def meet(self) -> None:
        try:
            self.barrier.wait(0.5)
            self.met += 1
        except threading.BrokenBarrierError:
            return


class Guest(Ready):
    def __init__(self, host: Meeting, counts: np.ndarray) -> None:
        super().__init__(counts)
        self._host = host

    def result(self) -> np.ndarray:
        self._host.meet()
        return super().result()


class TestSideBySide:
    def test_scenes_meet(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = save_fake(tmp_path / "m.safetensors", tile=(96, 96), overlap=0)
        use(monkeypatch, predictor := Meeting(3))
        monkeypatch.setattr(ahead, "_most_at_once", lambda run: 3)
        found = list(tilesegment.predict_many([folder], tmp_path / "out", model=model))
        assert [Path(result.source).name for result in found] == [f"{k}.tif" for k in range(6)]
        assert [result.outcome for result in found] == ["predicted"] * 6
        assert predictor.met >= 3

    def test_as_one_by_one(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = save_fake(tmp_path / "m.safetensors")
        polygons = []
        for most in (1, 4):
            use(monkeypatch, Wavy())
            monkeypatch.setattr(ahead, "_most_at_once", lambda run, most=most: most)
            results = tilesegment.predict_many([folder], tmp_path / f"{most}", model=model, min_area=0)
            polygons.append([result.polygons() for result in results])
        assert len(polygons[0]) == 6
        assert sum(map(len, polygons[0])) > 6
        for first, second in zip(*polygons, strict=True):
            assert first.equals(second)

    @pytest.mark.parametrize(("limit", "together"), [("memory", False), ("tiles", False), (None, True)])
    def test_room(
        self,
        folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        limit: str | None,
        together: bool,
    ) -> None:
        """Scenes are alone where two take more memory than is given, or are large."""
        model = save_fake(tmp_path / "m.safetensors", tile=(96, 96), overlap=0)
        use(monkeypatch, predictor := Meeting(2))
        monkeypatch.setattr(ahead, "_most_at_once", lambda run: 2)
        if limit == "tiles":
            monkeypatch.setattr(ahead, "_FEW_TILES", 1)
        settings: dict[str, Any] = {"model": model, "max_memory": "8GB"}
        if limit == "memory":
            need = tilesegment.plan(folder / "0.tif", **settings)["memory_bytes"]["total"]
            settings["max_memory"] = need + 1000
        results = list(tilesegment.predict_many([folder], tmp_path / "out", **settings))
        assert [result.outcome for result in results] == ["predicted"] * 6
        assert (predictor.met > 0) is together

    def test_stopped(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is under way ends, nothing is left locked, and the same call goes on."""
        model = save_fake(tmp_path / "m.safetensors")
        use(monkeypatch, Wavy())
        before = threading.active_count()
        results = tilesegment.predict_many([folder], tmp_path / "out", model=model)
        assert next(results).outcome == "predicted"
        results.close()
        until(lambda: threading.active_count() <= before + 2)
        again = list(tilesegment.predict_many([folder], tmp_path / "out", model=model))
        assert [result.outcome for result in again] == ["skipped", *["predicted"] * 5]
        assert not list((tmp_path / "out").glob("*.partial"))
