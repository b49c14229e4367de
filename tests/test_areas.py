"""The polygons of blocks, and of areas of them, made where blocks are predicted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely

import tilesegment
from tests.terraces import Terraces, model_of_terraces, terraces
from tilesegment.grid import Window
from tilesegment.run.block import predict as block_module
from tilesegment.run.block.file import BlockPixels, new_block, read_arrays, read_fragments
from tilesegment.run.polygons import whole
from tilesegment.run.polygons.areas import Waiting, _as_arrays, _from_arrays, areas_of, read_polygons
from tilesegment.run.polygons.saved import SavedPixels
from tilesegment.run.polygons.whole import in_order
from tilesegment.run.scene import executor
from tilesegment.tiling import memory
from tilesegment.tiling.plan import Plan
from tilesegment.vector.apart import Candidates
from tilesegment.vector.seams import Features, reaching
from tilesegment.vector.trace import trace


@pytest.fixture
def scene(make_raster: Callable[..., Path]) -> Path:
    return make_raster(terraces())


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return model_of_terraces(tmp_path, monkeypatch)


@pytest.fixture
def many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_WORK", 3.0)
    monkeypatch.setattr(memory, "MOST_BLOCK_PIXELS", 9000)


def stopped(
    picture: Path, out: Path, name: str, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> list[Path]:
    """The block files of a run that is stopped before it joins."""

    def stop(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr("tilesegment.run.scene.writing.write_layer", stop)
        with pytest.raises(KeyboardInterrupt):
            tilesegment.predict(picture, out, model=name, stretch="0,255", **options)
    return sorted(Path(f"{out}.partial").glob("*.block"))


def polygons_path(block: Path) -> Path:
    return block.with_suffix(".polygons")


def window_of(block: Path) -> Window:
    row, col, size = block.stem.split("-")
    height, width = size.split("x")
    return Window(int(row[1:]), int(col[1:]), int(height), int(width))


@pytest.mark.usefixtures("many_blocks")
class TestBlocks:
    def test_what_reaches_another_block_waits_and_the_rest_is_made(
        self,
        scene: Path,
        model: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        options = {"min_area": 0, "simplify": 0, "fill_holes": 0, "split": "none"}
        blocks = stopped(scene, tmp_path / "a.gpkg", model, monkeypatch, **options)
        assert len(blocks) >= 4
        made, waiting = 0, 0
        for block in blocks:
            window = window_of(block)
            fragments = read_fragments(block, 0)
            rim = read_fragments(polygons_path(block), 0)
            inner = [batch.features for batch in read_polygons(polygons_path(block))]
            made += sum(map(len, inner))
            waiting += len(rim)
            pixels = sum(int(features.pixels.sum()) for features in inner)
            assert pixels + rim.pixels.sum() == fragments.pixels.sum()
            for features in inner:
                left, top, right, bottom = shapely.bounds(features.geometry).T
                assert ((left > window.col) | (window.col == 0)).all()
                assert ((right < window.col_end) | (window.col_end == 190)).all()
                assert ((top > window.row) | (window.row == 0)).all()
                assert ((bottom < window.row_end) | (window.row_end == 150)).all()
        assert waiting > 0
        # Areas of several blocks wait for less and less; the whole for nothing.
        areas = [
            path for path in blocks[0].parent.glob("*.polygons") if not path.with_suffix(".block").exists()
        ]
        assert len(areas) == len(blocks) - 1
        left = {}
        for path in areas:
            window = window_of(path)
            pieces = [read_fragments(path, band) for band in range(9)]
            left[window.area] = sum(int(part.pixels.sum()) for part in pieces)
            made += sum(len(batch) for batch in read_polygons(path))
        assert left[max(left)] == 0
        assert max(left) == 150 * 190
        assert made == 3
        record = tilesegment.predict(scene, tmp_path / "a.gpkg", model=model, stretch="0,255", **options)
        assert record["counts"]["blocks_predicted"] == 0
        assert record["counts"]["polygons"] == 3
        assert 0 < record["seconds"]["polygons"] < 60

    @pytest.mark.parametrize("harm", ["missing", "torn", "older"])
    def test_polygons_that_are_not_there_are_made_again(
        self,
        scene: Path,
        model: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        harm: str,
    ) -> None:
        fresh = tmp_path / "fresh.gpkg"
        tilesegment.predict(scene, fresh, model=model, stretch="0,255", simplify=0)
        out = tmp_path / "a.gpkg"
        # Other settings of polygons alone: nothing is predicted again.
        stopped(scene, out, model, monkeypatch, **({} if harm == "older" else {"simplify": 0}))
        for path in Path(f"{out}.partial").glob("*.polygons"):
            if harm == "missing":
                path.unlink()
            elif harm == "torn":
                path.write_bytes(path.read_bytes()[:-30])
        record = tilesegment.predict(scene, out, model=model, stretch="0,255", simplify=0)
        assert record["counts"]["blocks_predicted"] == 0
        first, second = (geopandas.read_file(path) for path in (fresh, out))
        assert len(first) == 9
        assert first.equals(second)
        assert not Path(f"{out}.partial").exists()

    def test_nothing_is_left_to_join_at_the_end(
        self, scene: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        joined: list[int] = []
        real = whole.join

        def join(*arguments: Any) -> Any:
            joined.append(1)
            return real(*arguments)

        monkeypatch.setattr(whole, "join", join)
        tilesegment.predict(scene, tmp_path / "a.gpkg", model=model, stretch="0,255")
        assert not joined
        # Regions that touch at corners have no inside.
        tilesegment.predict(scene, tmp_path / "b.gpkg", model=model, stretch="0,255", connectivity=8)
        assert joined

    def test_a_run_goes_on_where_some_blocks_are_missing(
        self, scene: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fresh, out = tmp_path / "fresh.gpkg", tmp_path / "a.gpkg"
        tilesegment.predict(scene, fresh, model=model, stretch="0,255")
        blocks = stopped(scene, out, model, monkeypatch)
        for path in [*Path(f"{out}.partial").glob("*.polygons")][::2]:
            path.unlink()
        blocks[1].unlink()
        record = tilesegment.predict(scene, out, model=model, stretch="0,255")
        assert record["counts"]["blocks_predicted"] == 1
        assert geopandas.read_file(out).equals(geopandas.read_file(fresh))

    def test_an_interrupted_run_does_not_wait_for_polygons(
        self, scene: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waited: list[float] = []

        def slow(job: Any, area: Any, folder: Path, going_on: Callable[[], bool]) -> None:
            begin = time.monotonic()
            while going_on() and time.monotonic() < begin + 60:
                time.sleep(0.01)
            waited.append(time.monotonic() - begin)

        def interrupted(done: int, total: int) -> None:
            if done == total:
                raise KeyboardInterrupt

        monkeypatch.setattr(executor, "make_polygons", slow)
        with pytest.raises(KeyboardInterrupt):
            tilesegment.predict(
                scene, tmp_path / "a.gpkg", model=model, stretch="0,255", progress=interrupted
            )
        assert len(waited) == 1
        assert waited[0] < 50

    def test_polygons_that_nobody_wants_any_more_leave_no_file(
        self, scene: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[tuple[Any, ...]] = []
        real = executor.make_polygons

        def seen(*arguments: Any) -> None:
            made.append(arguments[:3])
            real(*arguments)

        with monkeypatch.context() as cut:
            cut.setattr(executor, "make_polygons", seen)
            stopped(scene, tmp_path / "a.gpkg", model, monkeypatch)
        ended = 0
        for job, area, folder in made:
            path = folder / f"{area.name}.polygons"
            path.unlink()
            try:
                real(job, area, folder, lambda: False)
            except CancelledError:
                ended += 1
                assert not path.exists()
                real(job, area, folder)
        assert ended >= 2
        assert len(made) == 2 * sum(not area.parts for _, area, _ in made) - 1

    def test_a_fault_beside_the_next_block_ends_the_run(
        self,
        scene: Path,
        model: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(*task: Any) -> None:
            raise RuntimeError("no polygons")

        monkeypatch.setattr("tilesegment.run.scene.executor.make_polygons", fail)
        with pytest.raises(RuntimeError, match="no polygons"):
            tilesegment.predict(scene, tmp_path / "a.gpkg", model=model, stretch="0,255")
        monkeypatch.undo()
        monkeypatch.setattr(block_module, "load_engine", lambda name, model, setup: Terraces(setup.contact))
        monkeypatch.setattr(memory, "MOST_BLOCK_PIXELS", 9000)
        record = tilesegment.predict(scene, tmp_path / "a.gpkg", model=model, stretch="0,255")
        assert record["counts"]["blocks_predicted"] == 0


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 2), (3, 1), (4, 4), (5, 3), (7, 6)])
def test_areas_are_put_together_two_by_two(rows: int, cols: int) -> None:
    plan = Plan(rows * 40, cols * 48, Window(0, 0, rows * 40, cols * 48), (8, 8), 0, rows, cols)
    areas = areas_of(plan)
    assert len(areas) == 2 * rows * cols - 1
    assert areas[-1].window == plan.region
    assert len({area.name for area in areas}) == len(areas)
    known = {area.name: area for area in areas}
    waiting, made = Waiting(areas), [area.name for area in areas if not area.parts]
    for number, area in enumerate(areas):
        parts = [known[name] for name in area.parts]
        assert all(areas.index(part) < number and part.level < area.level for part in parts)
        assert not parts or sum(part.window.area for part in parts) == area.window.area
    # In whatever order blocks are done, each area becomes possible once.
    np.random.default_rng(rows).shuffle(made)
    order: list[str] = []
    while made:
        name = made.pop()
        order.append(name)
        made += [area.name for area in waiting.done(name)]
    assert sorted(order) == sorted(known)
    for name in order:
        assert all(order.index(part) < order.index(name) for part in known[name].parts)


def test_a_single_block_has_its_polygons_too(
    scene: Path,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (block,) = stopped(scene, tmp_path / "a.gpkg", model, monkeypatch)
    assert polygons_path(block).exists()


def test_regions_that_reach_a_line_through_other_windows() -> None:
    """A hook leaves the first window, and comes back to the line in the second."""
    labels = np.zeros((8, 12), np.uint8)
    labels[1:7, 2] = 1
    labels[6, 2:12] = 1
    labels[1:3, 5:8] = 1
    labels[5:7, 0] = 1
    windows = [Window(0, 0, 4, 12), Window(4, 0, 4, 12)]
    traced = [trace(labels[w.slices], labels[w.slices], w, 12, 0) for w in windows]
    lines = np.array([12]), np.array([], np.int64)
    found = reaching(lambda k: traced[k], range(2), lines)
    reached = [set(t.first_pixel[part].tolist()) for t, part in zip(traced, found, strict=True)]
    assert reached == [{12 + 2}, {4 * 12 + 2}]
    picked = traced[0].with_runs(found[0])
    assert picked.first_pixel.tolist() == [12 + 2]
    assert picked.runs.tolist() == [[0, 4, 0, 2, 3, 0]]
    rest = traced[1].with_runs(~found[1])
    assert rest.first_pixel.tolist() == [5 * 12]
    # That region lies on the left side of its window, x = 0.
    left = reaching(lambda k: traced[k], range(2), (np.array([0]), lines[1]))
    assert traced[1].first_pixel[left[1]].tolist() == [5 * 12]
    assert not left[0].any()


def candidates(begins: list[int], regular: bool = False) -> Candidates:
    numbers = np.array(begins, np.int64)
    shapes = shapely.box(numbers, 0.1, numbers + 1, 1 / 3)
    features = Features(shapes, numbers * 0 + 1, numbers + 7, numbers * 3, numbers)
    if not regular:
        return Candidates(features, shapes)
    features = Features(
        shapes, numbers * 0 + 1, numbers + 7, numbers * 3, numbers,
        plain=shapely.buffer(shapes, 1), group=numbers // 2, state=np.full(len(numbers), 3, np.uint8),
        deviation=numbers / 7,
    )  # fmt: skip
    return Candidates(features, shapely.buffer(shapes, 2))


class TestInOrder:
    @pytest.mark.parametrize("seed", range(20))
    def test_as_if_they_were_sorted(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(whole, "_BATCH", 5)
        rng = np.random.default_rng(seed)
        owner = rng.integers(0, 4, 60)
        streams = []
        for number in range(4):
            mine = np.flatnonzero(owner == number)
            cuts = np.sort(rng.integers(0, len(mine) + 1, 4))
            streams.append(iter([candidates(part.tolist()) for part in np.split(mine, cuts)]))
        found = list(in_order(streams))
        begins = [batch.features.first_pixel.tolist() for batch in found]
        assert [begin for batch in begins for begin in batch] == list(range(60))
        assert all(len(batch) >= 5 for batch in found[:-1])

    def test_no_stream_runs_ahead(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(whole, "_BATCH", 1)
        asked: list[int] = []

        def stream(first: int) -> Iterator[Candidates]:
            for begin in range(first, 100, 10):
                asked.append(begin)
                yield candidates([begin, begin + 1])

        found = in_order([stream(0), stream(5)])
        assert next(found).features.first_pixel.tolist() == [0, 1]
        assert asked == [0, 5]

    def test_nothing(self) -> None:
        assert list(in_order([iter([]), iter([candidates([])])])) == []


@pytest.mark.parametrize("regular", [False, True])
def test_polygons_come_back_as_they_were(regular: bool) -> None:
    before = candidates([3, 8, 9], regular)
    after = _from_arrays(_as_arrays(before))
    for name, value in vars(before.features).items():
        back = getattr(after.features, name)
        if value is None:
            assert back is None, name
        elif value.dtype == object:
            assert shapely.to_wkb(value).tolist() == shapely.to_wkb(back).tolist(), name
        else:
            np.testing.assert_array_equal(value, back)
            assert value.dtype == back.dtype, name
    assert shapely.to_wkb(before.exact).tolist() == shapely.to_wkb(after.exact).tolist()


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (3, 4)])
def test_pixels_are_found_in_whatever_block_they_are(tmp_path: Path, rows: int, cols: int) -> None:
    rng = np.random.default_rng(0)
    region = Window(10, 20, 90, 130)
    plan = Plan(120, 160, region, (8, 8), 0, rows, cols)
    whole = np.full((2, 120, 160), 255, np.uint8)
    whole[(slice(None), *region.slices)] = rng.integers(0, 254, (2, 90, 130))
    for block in plan.blocks:
        window = block.window
        with new_block(tmp_path / block.name) as file:
            for begin in range(0, window.height, 7):
                here = whole[:, window.row + begin : min(window.row + begin + 7, window.row_end)]
                part = np.ascontiguousarray(here[..., window.col : window.col_end])
                file.rows(begin, BlockPixels(None, part[0], part[1]))
    saved = SavedPixels(plan, lambda block: tmp_path / block.name)
    at = rng.integers(0, 120, 3000), rng.integers(0, 160, 3000)
    np.testing.assert_array_equal(saved(*at), whole[0][at])
    # Beyond the scene's rim there is nothing.
    assert saved(np.array([-1, 50, 120]), np.array([30, 160, 30])).tolist() == [255] * 3
    for _ in range(40):
        row, col = int(rng.integers(110)), int(rng.integers(150))
        window = Window(row, col, int(rng.integers(1, 120 - row)), int(rng.integers(1, 160 - col)))
        found = saved.window(window)
        np.testing.assert_array_equal(found, whole[(slice(None), *window.slices)])


def test_names_that_are_not_there(tmp_path: Path) -> None:
    with new_block(tmp_path / "x.block") as file:
        file.arrays("a", {"k": np.arange(3)})
    assert read_arrays(tmp_path / "x.block", "b") is None
    found = read_arrays(tmp_path / "x.block", "a")
    assert found is not None
    assert found["k"].tolist() == [0, 1, 2]
