"""The laws of prediction, on blocks, with predictors that need no network."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes import Constant, Wavy, fake_model
from tilesegment.errors import OutputError
from tilesegment.grid import Window
from tilesegment.model.engines import Predictor
from tilesegment.model.engines.choose import EngineChoice
from tilesegment.model.preprocess import ValueRange
from tilesegment.raster.source import Scene, open_scene
from tilesegment.raster.spec import Pixels
from tilesegment.run.block.file import BlockPixels
from tilesegment.run.block.job import Job, TraceSettings
from tilesegment.run.block.rowbuffer import RowBuffer
from tilesegment.run.block.rows import predict_rows
from tilesegment.run.block.stopwatch import Stopwatch
from tilesegment.tiling.blend import BLEND_MODES, NODATA, PROBABILITY_MAX
from tilesegment.tiling.plan import Plan
from tilesegment.vector.trace import Fragments

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)


def job_of(
    scene: Scene, plan: Plan, classes: int = 2, blend: str = "cosine", aoi: bytes | None = None
) -> Job:
    return Job(
        scene=scene.spec,
        model=fake_model(classes),
        plan=plan,
        dtype="uint8",
        range=ValueRange.of_all((0.0, 255.0), 3),
        blend=blend,  # type: ignore[arg-type]
        engine=EngineChoice("torch", "cpu", "fp32"),
        batch=None,
        streams=2,
        aoi=aoi,
        tracing=TraceSettings(0.5, (1,)),
        folder="",
    )


class Collected:
    """Keeps what a block file would hold."""

    def __init__(self) -> None:
        self.bands: list[tuple[int, BlockPixels]] = []
        self.traced: list[Fragments] = []

    def rows(self, row: int, pixels: BlockPixels) -> None:
        self.bands.append((row, pixels))

    def fragments(self, band: int, fragments: Fragments) -> None:
        assert band == len(self.traced)
        self.traced.append(fragments)


def predicted(
    scene: Scene, predictor: Predictor, plan: Plan, **job: object
) -> tuple[np.ndarray | None, np.ndarray]:
    """Class (None for two) and probability of the plan's region, from all of its blocks."""
    region = plan.region
    probability = np.full((region.height, region.width), 200, np.uint8)
    classes = None
    for block in plan.blocks:
        sink = Collected()
        predict_rows(scene, predictor, job_of(scene, plan, **job), block, Stopwatch(), sink)  # type: ignore[arg-type]
        bands = sink.bands
        starts = np.cumsum([0, *(len(pixels.probability) for _, pixels in bands)]).tolist()
        assert starts == [*(row for row, _ in bands), block.window.height]
        here = block.window.relative_to(region).slices
        probability[here] = np.concatenate([pixels.probability for _, pixels in bands])
        if bands[0][1].classes is not None:
            classes = np.zeros_like(probability) if classes is None else classes
            classes[here] = np.concatenate([pixels.classes for _, pixels in bands])
    return classes, probability


def whole(height: int, width: int, tile=(32, 32), overlap: int = 8, rows: int = 1, cols: int = 1) -> Plan:
    return Plan(height, width, Window(0, 0, height, width), tile, overlap, rows, cols)


@SHARED
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    tile=st.tuples(st.integers(4, 48), st.integers(4, 48)),
    share=st.floats(0, 0.75),
    mode=st.sampled_from(BLEND_MODES),
    value=st.floats(0, 1, width=32),
    blocks=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_a_constant_model_gives_a_constant_scene(
    make_raster, height, width, tile, share, mode, value, blocks
) -> None:
    path = make_raster(np.full((3, height, width), 90, np.uint8))
    plan = whole(height, width, tile, int(min(tile) * share), *blocks)
    with open_scene(path) as scene:
        _, probability = predicted(scene, Constant(value), plan, blend=mode)
    expected = round(float(np.rint(np.float32(value) * np.float32(16256)) + 32 - 1e-6) // 64)
    assert (probability == probability[0, 0]).all()
    assert abs(int(probability[0, 0]) - expected) <= 1
    assert probability[0, 0] <= PROBABILITY_MAX


def test_constant_classes(make_raster) -> None:
    path = make_raster(np.full((3, 50, 70), 90, np.uint8))
    with open_scene(path) as scene:
        classes, probability = predicted(scene, Constant((0.2, 0.5, 0.3)), whole(50, 70), classes=3)
    assert (classes == 1).all()
    assert (probability == 127).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_blocks_batches_and_regions_do_not_change_a_pixel(make_raster, rng, classes: int) -> None:
    values = rng.integers(0, 255, (3, 150, 170), np.uint8)
    channels = 1 if classes == 2 else classes
    with open_scene(make_raster(values)) as scene:
        reference = predicted(scene, Wavy(channels), whole(150, 170), classes=classes)
        for rows, cols, batch in [(2, 1, 1), (1, 3, 2), (3, 3, 5), (7, 8, 64)]:
            plan = whole(150, 170, rows=rows, cols=cols)
            assert len(plan.blocks) > 1
            found = predicted(scene, Wavy(channels, batch), plan, classes=classes)
            for one, other in zip(found, reference, strict=True):
                np.testing.assert_array_equal(one, other)
        region = Window(37, 11, 80, 101)
        part = Plan(150, 170, region, (32, 32), 8, 2, 2)
        found = predicted(scene, Wavy(channels), part, classes=classes)
        np.testing.assert_array_equal(found[1], reference[1][region.slices])


def test_nothing_invalid_is_predicted_or_written(make_raster, rng) -> None:
    values = rng.integers(1, 255, (3, 120, 130), np.uint8)
    hole = np.zeros((120, 130), bool)
    hole[20:90, 40:] = True
    hole[100, 3] = True
    values[:, hole] = 0
    with open_scene(make_raster(values, nodata=0)) as scene:
        _, probability = predicted(scene, Wavy(), whole(120, 130, rows=2, cols=2))
    np.testing.assert_array_equal(probability == NODATA, hole)


def test_invalid_pixels_do_not_leak_into_valid_ones(make_raster, rng) -> None:
    values = rng.integers(1, 255, (3, 60, 60), np.uint8)
    mask = np.full((60, 60), 255, np.uint8)
    mask[:, 30:] = 0
    other = values.copy()
    other[:, :, 30:] = rng.integers(1, 255, (3, 60, 30), np.uint8)
    found = []
    for content in (values, other):
        with open_scene(make_raster(content, mask=mask)) as scene:
            found.append(predicted(scene, Wavy(), whole(60, 60))[1])
    np.testing.assert_array_equal(*found)


def test_a_tile_without_a_valid_pixel_costs_nothing(make_raster, rng) -> None:
    values = rng.integers(1, 255, (3, 96, 96), np.uint8)
    values[:, 32:] = 0
    predictor = Wavy()
    with open_scene(make_raster(values, nodata=0)) as scene:
        predicted(scene, predictor, whole(96, 96, overlap=0))
    assert predictor.calls == 3


def test_an_area_of_interest_limits_the_output_not_the_context(make_raster, rng) -> None:
    values = rng.integers(1, 255, (3, 140, 140), np.uint8)
    area = shapely.Polygon([(20, 15), (70, 30), (60, 66), (25, 50)])
    predictor = Wavy()
    with open_scene(make_raster(values)) as scene:
        _, everything = predicted(scene, Wavy(), whole(140, 140))
        _, inside = predicted(scene, predictor, whole(140, 140, rows=3), aoi=shapely.to_wkb(area))
    written = inside != NODATA
    np.testing.assert_array_equal(inside[written], everything[written])
    row, col = np.mgrid[:140, :140]
    expected = shapely.contains_xy(area, col + 0.5, row + 0.5)
    np.testing.assert_array_equal(written, expected)
    assert predictor.calls < 25


def test_every_scene_size_is_covered(make_raster, rng) -> None:
    for height, width in [(1, 1), (1, 200), (200, 1), (31, 33), (32, 32), (33, 64)]:
        values = rng.integers(1, 255, (3, height, width), np.uint8)
        with open_scene(make_raster(values)) as scene:
            _, probability = predicted(scene, Wavy(), whole(height, width))
        assert probability.shape == (height, width)
        assert (probability <= PROBABILITY_MAX).all()


def test_a_failing_model_stops_the_block(make_raster, rng) -> None:
    class Broken(Constant):
        def __call__(self, tiles: np.ndarray) -> np.ndarray:
            raise ValueError("broken")

    path: Path = make_raster(rng.integers(1, 255, (3, 90, 90), np.uint8))
    with open_scene(path) as scene, pytest.raises(ValueError, match="broken"):
        predicted(scene, Broken(0.5), whole(90, 90))


def test_few_finished_rows_wait_for_the_tracer_however_high_the_block_is() -> None:
    finished = RowBuffer(Window(100, 7, 1000, 5), most=30)
    band = BlockPixels(None, np.arange(50, dtype=np.uint8).reshape(10, 5))
    with ThreadPoolExecutor(1) as thread:
        producer = thread.submit(lambda: [finished.put(band) for _ in range(100)])
        with pytest.raises(TimeoutError):
            producer.result(timeout=0.2)
        assert len(finished._bands) == 3
        for row in range(100, 1100, 20):
            piece = finished.take(Window(row, 8, 20, 3)).probability
            np.testing.assert_array_equal(piece, np.tile(band.probability[:, 1:4], (2, 1)))
            assert len(finished._bands) <= 5
        producer.result(timeout=5)


def test_a_tracer_that_fails_stops_the_run_and_holds_nobody_up(make_raster, rng, monkeypatch) -> None:
    def broken(*_: object) -> object:
        raise MemoryError("tracing")

    monkeypatch.setattr("tilesegment.vector.trace.trace", broken)
    path: Path = make_raster(rng.integers(1, 255, (3, 400, 60), np.uint8))
    with open_scene(path) as scene, pytest.raises(MemoryError, match="tracing"):
        predicted(scene, Constant(0.9), whole(400, 60))


class _Slow:
    """A scene whose reading takes a while."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.reading = False
        self.began = 0

    def read(self, window: Window) -> Pixels:
        self.began += 1
        self.reading = True
        time.sleep(0.2)
        found = self._scene.read(window)
        self.reading = False
        return found


def test_nobody_reads_any_more_when_a_block_fails(make_raster) -> None:
    class Broken(Constant):
        def submit(self, values: np.ndarray, valid: np.ndarray) -> Any:
            raise OutputError("broken")

    path = make_raster(np.full((3, 320, 40), 90, np.uint8))
    plan = whole(320, 40)
    with open_scene(path) as scene:
        slow = _Slow(scene)
        with pytest.raises(OutputError) as failed:
            predict_rows(slow, Broken(0.5), job_of(scene, plan), plan.blocks[0], Stopwatch(), Collected())
        # The error holds the frames in which it was raised, and all that they hold.
        assert failed.value.__traceback__ is not None
        assert not slow.reading
        began = slow.began
        assert began < len(plan.blocks[0].tile_rows)
        time.sleep(0.3)
        assert slow.began == began
