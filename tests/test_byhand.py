"""Values worked out by hand or by brute force, for steps whose faults no other test saw."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio.enums import ColorInterp
from scipy import ndimage

from tests import layouts
from tests.test_evaluate import objects
from tilesegment.datasets.sample import Sample
from tilesegment.errors import BlockFailedError
from tilesegment.evaluate.objects import by_size, match, overlapping
from tilesegment.evaluate.summary import _units, compare_objects
from tilesegment.grid import Window
from tilesegment.raster import values
from tilesegment.raster.picture import read_colour
from tilesegment.raster.sheets import sheets_as_vrt
from tilesegment.run import evaluate_model, vectorize
from tilesegment.run.block.file import BlockInfo, BlockPixels
from tilesegment.run.block.rowbuffer import RowBuffer
from tilesegment.run.scene import pipeline
from tilesegment.settings import PredictSettings
from tilesegment.tiling.blend import FINE_MAX
from tilesegment.tiling.plan import Block, Plan
from tilesegment.vector.trace import trace


class TestSheets:
    """A mosaic has a mask of its own where its sheets do not say by value or alpha what is valid."""

    @pytest.mark.parametrize(
        ("count", "nodata", "masks"),
        [(3, None, 1), (3, 7, 0), (4, None, 0)],
        ids=["plain", "nodata", "alpha"],
    )
    def test_masks(self, tmp_path: Path, count: int, nodata: int | None, masks: int) -> None:
        profile = {"count": count, "height": 4, "width": 4, "dtype": "uint8", "crs": "EPSG:32645"}
        paths = []
        for k in range(2):
            path = tmp_path / f"{k}.tif"
            place = rasterio.Affine(1, 0, 4 * k, 0, -1, 0)
            with rasterio.open(path, "w", **profile, transform=place, nodata=nodata) as dataset:
                if count == 4:
                    kinds = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
                    dataset.colorinterp = kinds
                dataset.write(np.full((count, 4, 4), 200, np.uint8))
            paths.append(str(path))
        root = ElementTree.fromstring(sheets_as_vrt(paths))  # noqa: S314 - of ours
        assert len(root.findall("MaskBand")) == masks
        assert len(root.findall("VRTRasterBand")) == count


def test_late_warnings_are_of_undeclared_blank_areas(caplog: pytest.LogCaptureFixture) -> None:
    infos = [BlockInfo("b", 1, 1, "e", "k", 1, 0, 1, blank) for blank in (None, 255, 255)]
    plain = PredictSettings()
    (line,) = pipeline._late_warnings(infos, plain, [])
    assert "255" in line
    assert pipeline._late_warnings(infos, plain, [line]) == []
    assert pipeline._late_warnings(infos, PredictSettings(nodata=0), []) == []
    assert caplog.messages == [line]


def test_bands_of_a_block_end_with_it() -> None:
    cell = vectorize._CELL
    block = Block(0, Window(cell, 3, 2 * cell + 5, 7), range(1), range(1))
    assert list(vectorize._bands(block)) == [
        Window(cell, 3, cell, 7), Window(2 * cell, 3, cell, 7), Window(3 * cell, 3, 5, 7),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [1, values._SAMPLE - 1, values._SAMPLE, values._SAMPLE + 9, 5000])
def test_samples_are_spread_from_end_to_end(size: int) -> None:
    found = values._spread(size)
    last = max(0, size - values._SAMPLE)
    assert found[0] == 0
    assert found[-1] == last
    steps = np.diff(found)
    assert len(found) == min(values._SAMPLES_A_SIDE, last + 1)
    assert (np.ptp(steps) if len(steps) else 0) <= 1


def test_objects_belong_to_one_size_class_each() -> None:
    truth = objects(shapely.box(0, 0, 5, 5), shapely.box(20, 0, 30, 10))
    predicted = objects(
        shapely.box(100, 0, 101, 1), shapely.box(110, 0, 115, 6), shapely.box(130, 0, 145, 15),
        shapely.box(160, 0, 162, 1),
    )  # fmt: skip
    matching = match(overlapping(predicted, truth), predicted.order, 2, 0.5)
    rows = by_size(matching, predicted, truth, [25.0, 100.0])
    # 25 m2 and 100 m2 lie in the class that begins there; nobody is hit.
    assert [row["truth"] for row in rows] == [0, 1, 1]
    assert [row["precision"] for row in rows] == [0.0, 0.0, 0.0]
    hit = objects(shapely.box(0, 0, 5, 5), shapely.box(200, 0, 202, 2))
    matching = match(overlapping(hit, truth), hit.order, 2, 0.5)
    rows = by_size(matching, hit, truth, [25.0, 100.0])
    # The small false one does not spoil the class of the hit.
    assert rows[1]["precision"] == 1.0


def test_cells_of_an_interval_do_not_depend_on_where_the_layer_lies() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 500, (60, 2))

    def units(dx: float, dy: float) -> Counter[tuple[float, ...]]:
        sets = [
            objects(*(shapely.box(x, y, x + 6, y + 6) for x, y in corners[part] + (dx, dy)))
            for part in (slice(0, 40), slice(20, 60))
        ]
        result = compare_objects(*((each, np.arange(len(each))) for each in sets))
        return Counter(map(tuple, _units(result).tolist()))

    expected = units(0, 0)
    assert sum(expected.values()) > 10
    assert units(4096.0, -8192.0) == expected
    assert sum(np.array(key) * count for key, count in expected.items()).tolist() == [20.0, 20.0, 20.0]


def test_a_palettes_picture_is_read_in_its_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode="P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90] + [0] * 759)
    picture.save(tmp_path / "p.png")
    found = read_colour(tmp_path / "p.png").values
    assert found[:, 0, 0].tolist() == [10, 20, 30]
    assert found[:, 1, 0].tolist() == [70, 80, 90]
    layouts.save(tmp_path / "g.png", np.array([[7, 9]], np.uint8))
    assert read_colour(tmp_path / "g.png").values[:, 0].tolist() == [[7, 9]] * 3


@pytest.mark.parametrize("seed", range(4))
def test_pixels_and_probabilities_of_regions_are_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (ndimage.gaussian_filter(rng.random((70, 90)), 1.5) > 0.5).astype(np.uint8)
    probability = rng.integers(0, 255, labels.shape).astype(np.uint8)
    found = trace(labels, probability, Window(0, 0, 70, 90), 90, 0)
    regions, count = ndimage.label(labels)
    inside = regions[labels > 0]
    pixels = np.bincount(inside, minlength=count + 1)[1:]
    sums = np.bincount(inside, probability[labels > 0].astype(float), minlength=count + 1)[1:]
    assert sorted(zip(found.pixels.tolist(), found.probability_sum.tolist(), strict=True)) == sorted(
        zip(pixels.tolist(), sums.astype(int).tolist(), strict=True)
    )


class TestFinishedRows:
    def test_pieces_are_cut_out_of_the_bands_they_lie_in(self) -> None:
        rows = RowBuffer(Window(100, 20, 12, 5), 1000)
        whole = np.arange(60, dtype=np.uint8).reshape(12, 5)
        for begin, end in ((0, 5), (5, 12)):
            rows.put(BlockPixels(None, whole[begin:end]))
        for top, bottom, left, right in (
            (100, 103, 20, 25),
            (101, 104, 21, 23),
            (103, 109, 20, 22),
            (106, 112, 24, 25),
        ):
            piece = Window(top, left, bottom - top, right - left)
            found = rows.take(piece).probability
            np.testing.assert_array_equal(found, whole[top - 100 : bottom - 100, left - 20 : right - 20])

    def test_what_never_comes_is_an_error(self) -> None:
        rows = RowBuffer(Window(0, 0, 12, 5), 1000)
        rows.put(BlockPixels(None, np.zeros((5, 5), np.uint8)))

        def end() -> None:
            with rows.closing():
                pass

        threading.Timer(0.2, end).start()
        with pytest.raises(BlockFailedError, match="not finished"):
            rows.take(Window(0, 0, 6, 5))


def test_tiles_side_by_side_fill_a_picture() -> None:
    """A runner that answers with a tile's first band: every pixel of the picture gets its own."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (3, 50, 70)).astype(np.uint8)
    sample = Sample(pixels, np.zeros((50, 70), np.uint8), np.ones((50, 70), bool))
    card = SimpleNamespace(classes=(1, 2), tile=(32, 32))

    def submit(values: np.ndarray, valid: np.ndarray) -> Any:
        counts = np.rint(values[:, :1].astype(float) / 255 * FINE_MAX)
        return SimpleNamespace(result=lambda: counts)

    runner = SimpleNamespace(predictor=lambda tile: SimpleNamespace(submit=submit))
    found = evaluate_model._of_tiles(runner, sample, card)  # type: ignore[arg-type]
    np.testing.assert_allclose(found[1], pixels[0] / 255, atol=1e-4)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-9)


def test_tiles_of_a_plan_follow_its_overlap() -> None:
    plan = Plan(100, 130, Window(0, 0, 100, 130), (40, 50), 10)
    assert (plan.rows.step, plan.cols.step) == (30, 40)


def test_squared_errors_of_masks_and_of_probabilities() -> None:
    from tilesegment.evaluate.pixels import Confusion

    truth, said = np.array([0, 1, 2, 2, 1]), np.array([0, 2, 2, 1, 1])
    matrix = np.zeros((3, 3), np.int64)
    np.add.at(matrix, (truth, said), 1)
    one_hot = np.eye(3)
    figures = Confusion(3, 2.4, matrix).summary()
    assert figures["mse"] == pytest.approx(((one_hot[said] - one_hot[truth]) ** 2).mean())
    assert figures["brier"] == pytest.approx(2.4 / 15)
