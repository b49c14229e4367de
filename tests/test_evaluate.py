"""Figures against independent programs, brute force and cases by hand; then whole evaluations."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import re
import sqlite3
from itertools import pairwise
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from shapely.affinity import rotate, scale, translate

import tilesegment
from tests import layouts
from tests.test_model import small_card
from tests.test_train import run_cli
from tilesegment.datasets.opening import open_reader
from tilesegment.errors import InputError, ModelError, OutputError, SettingsError
from tilesegment.evaluate import masks, shapes
from tilesegment.evaluate.boundary import boundary_counts, boundary_region
from tilesegment.evaluate.classes import of_layer, of_raster, shared_classes
from tilesegment.evaluate.confidence import calibration_error, fit_temperature, reliability, threshold_curve
from tilesegment.evaluate.intervals import interval
from tilesegment.evaluate.masks import UNKNOWN, MaskTask, reach_of
from tilesegment.evaluate.objects import (
    THRESHOLDS,
    Objects,
    average_precision,
    by_size,
    match,
    match_tolerantly,
    overlapping,
    overlapping_share,
    panoptic_quality,
    scores,
)
from tilesegment.evaluate.pixels import Confusion
from tilesegment.evaluate.summary import compare_objects, object_summary
from tilesegment.grid import Grid, Window
from tilesegment.polygons import Polygons
from tilesegment.raster.labels import RasterLabels
from tilesegment.report.evaluation import worst_places
from tilesegment.vector.read import Plane, read_layer

SQUARE = shapely.box(0, 0, 10, 10)


def objects(*geometry: Any, confidence: Any = None, label: Any = None) -> Objects:
    array = np.array(geometry, object)
    return Objects(
        Polygons.of(array),
        np.ones(len(array), np.int64) if label is None else np.array(label),
        None if confidence is None else np.array(confidence, float),
    )


def geometries(of: Objects) -> list[Any]:
    return of.polygons.take(np.arange(len(of))).tolist()


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) x, y, width, height that overlap often."""
    return np.column_stack([rng.uniform(0, 60, (count, 2)), rng.uniform(3, 20, (count, 2))])


def as_objects(boxes: np.ndarray, **fields: Any) -> Objects:
    return objects(*(shapely.box(x, y, x + w, y + h) for x, y, w, h in boxes), **fields)


def coco_precision(truth: np.ndarray, found: np.ndarray, score: np.ndarray) -> list[float]:
    """Average precision by threshold, as pycocotools computes it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {}, "images": [{"id": 1}], "categories": [{"id": 1}],
            "annotations": [
                {"id": k, "image_id": 1, "category_id": 1, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
                for k, b in enumerate(truth.tolist(), 1)
            ],
        }  # fmt: skip
        coco.createIndex()
        results = [
            {"image_id": 1, "category_id": 1, "bbox": box, "score": value}
            for box, value in zip(found.tolist(), score.tolist(), strict=True)
        ]
        run = COCOeval(coco, coco.loadRes(results), "bbox")
        run.params.maxDets = [1, 10, 100_000]
        run.evaluate()
        run.accumulate()
    return run.eval["precision"][:, :, 0, 0, 2].mean(axis=1).tolist()


class TestObjects:
    @given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
    @settings(max_examples=25, deadline=None)
    def test_average_precision_is_that_of_pycocotools(self, seed: int, count: int, truths: int) -> None:
        rng = np.random.default_rng(seed)
        truth = random_boxes(rng, truths)
        near = truth[rng.integers(truths, size=count)] + rng.normal(0, 1.2, (count, 4))
        near[:, 2:] = np.maximum(near[:, 2:], 1)
        score = rng.choice([0.2, 0.5, 0.7, 0.9], count) if seed % 2 else rng.uniform(0, 1, count)
        predicted = as_objects(near, confidence=score)
        pairs = overlapping(predicted, as_objects(truth))
        found = [
            average_precision(match(pairs, predicted.order, truths, t), predicted.order) for t in THRESHOLDS
        ]
        np.testing.assert_allclose(found, coco_precision(truth, near, score), rtol=0, atol=1e-9)

    @given(st.integers(0, 2**32 - 1))
    @settings(max_examples=25, deadline=None)
    def test_matching_is_the_rule_step_by_step(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        one = as_objects(random_boxes(rng, 30), confidence=rng.uniform(0, 1, 30))
        other = as_objects(random_boxes(rng, 25))
        iou = np.array(
            [[a.intersection(b).area / a.union(b).area for b in geometries(other)] for a in geometries(one)]
        )
        pairs = overlapping(one, other)
        assert len(pairs.iou) == (iou > 0).sum()
        np.testing.assert_allclose(pairs.iou, iou[pairs.predicted, pairs.truth], atol=1e-9)
        found = match(pairs, one.order, 25, 0.2)
        free = np.ones(25, bool)
        for k in np.argsort(-one.confidence, kind="stable").tolist():
            candidates = np.where(free & (iou[k] >= 0.2), iou[k], -1.0)
            best = int(candidates.argmax())
            if candidates[best] < 0:
                assert found.truth_of[k] == -1
            else:
                assert found.truth_of[k] == best
                free[best] = False

    def test_classes_are_apart(self) -> None:
        one, other = objects(SQUARE, SQUARE, label=[1, 2]), objects(SQUARE, label=[2])
        pairs = overlapping(one, other)
        assert (pairs.predicted.tolist(), pairs.truth.tolist()) == ([1], [0])

    def test_panoptic_quality_by_hand(self) -> None:
        one = objects(SQUARE, shapely.box(20, 0, 30, 10), shapely.box(50, 50, 60, 60))
        other = objects(shapely.box(0, 0, 10, 8), shapely.box(20, 0, 30, 5), shapely.box(80, 0, 90, 9))
        found = match(overlapping(one, other), one.order, 3, 0.5)
        # An IoU of 0.8 counts; exactly 0.5 is a hit at 0.5, and no match for panoptic quality.
        assert found.hits == 2
        quality = panoptic_quality(found)
        assert quality == pytest.approx({"pq": 0.8 / 3, "sq": 0.8, "rq": 1 / 3})

    @pytest.mark.parametrize(
        ("hits", "false", "missed", "expected"),
        [
            (0, 0, 0, (math.nan, math.nan, math.nan)),
            (0, 3, 0, (0.0, math.nan, 0.0)),
            (0, 0, 3, (math.nan, 0.0, 0.0)),
            (2, 1, 3, (2 / 3, 2 / 5, 4 / 8)),
        ],
    )
    def test_scores(self, hits: int, false: int, missed: int, expected: tuple[float, ...]) -> None:
        assert tuple(scores(hits, false, missed).values()) == pytest.approx(expected, nan_ok=True)

    def test_one_polygon_over_three_houses_is_a_merge(self) -> None:
        houses = [translate(SQUARE, 10.5 * k) for k in range(3)]
        row = objects(shapely.box(0, 0, 31, 10))
        pairs = overlapping(row, objects(*houses))
        found = match_tolerantly(pairs, match(pairs, row.order, 3, 0.5), row, objects(*houses))
        assert (found.merging, found.merged, found.split, found.splitting) == (1, 3, 0, 0)
        assert found.scores() == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
        # The other way round three predictions share one house.
        one, other = objects(*houses), row
        pairs = overlapping(one, other)
        found = match_tolerantly(pairs, match(pairs, one.order, 1, 0.5), one, other)
        assert (found.merging, found.merged, found.split, found.splitting) == (0, 0, 1, 3)
        assert found.scores()["f1"] == 1.0

    def test_a_merge_must_fit_what_it_merges(self) -> None:
        """Two small houses in one large block are no merge, and neither are houses that only reach in."""
        block = objects(shapely.box(0, 0, 100, 100))
        small = objects(SQUARE, translate(SQUARE, 20))
        pairs = overlapping(block, small)
        found = match_tolerantly(pairs, match(pairs, block.order, 2, 0.5), block, small)
        assert found.merging == 0
        assert found.scores() == {"precision": 0.0, "recall": 0.0, "f1": 0.0}

    def test_size_classes(self) -> None:
        truth = objects(shapely.box(0, 0, 4, 5), shapely.box(20, 0, 30, 10), shapely.box(40, 0, 45, 5))
        predicted = objects(shapely.box(0, 0, 4, 5), shapely.box(60, 0, 61, 1))
        matching = match(overlapping(predicted, truth), predicted.order, 3, 0.5)
        rows = by_size(matching, predicted, truth, [25.0, 100.0])
        assert [(row["from_m2"], row["to_m2"], row["truth"]) for row in rows] == [
            (0.0, 25.0, 1), (25.0, 100.0, 1), (100.0, None, 1),
        ]  # fmt: skip
        assert (rows[0]["precision"], rows[0]["recall"]) == (0.5, 1.0)
        assert (rows[1]["recall"], rows[2]["recall"]) == (0.0, 0.0)

    def test_overlapping_polygons_of_one_set(self) -> None:
        touching = objects(SQUARE, translate(SQUARE, 10), translate(SQUARE, 15), translate(SQUARE, 90))
        assert overlapping_share(touching) == 0.5
        assert math.isnan(overlapping_share(objects()))

    @pytest.mark.parametrize("one", [0, 2])
    @pytest.mark.parametrize("other", [0, 2])
    def test_empty_sets_have_stated_answers(self, one: int, other: int) -> None:
        sets = [objects(*[translate(SQUARE, 20 * k) for k in range(n)]) for n in (one, other)]
        result = compare_objects(*((part, np.arange(len(part))) for part in sets))
        figures = object_summary(result, [25.0])
        assert figures["count_error"] == one - other
        expected = {(0, 0): None, (0, 2): 0.0, (2, 0): 0.0, (2, 2): 1.0}[one, other]
        assert figures["f1"] == figures["tolerant"]["f1"] == figures["pq"] == expected
        # Without predictions there is no precision, without truth no recall.
        assert figures["precision"] == (None if not one else 1.0 if other else 0.0)
        assert figures["recall"] == (None if not other else 1.0 if one else 0.0)
        assert figures["ap50"] == ({(0, 2): 0.0}.get((one, other)))
        json.dumps(figures, allow_nan=False)


class TestShapes:
    def test_vertices_count_every_ring_once(self) -> None:
        holed = shapely.Polygon(SQUARE.exterior, [shapely.box(2, 2, 4, 4).exterior])
        several = shapely.MultiPolygon([holed, shapely.box(20, 0, 30, 10)])
        assert shapes.vertices(np.array([SQUARE, holed, several])).tolist() == [4, 8, 12]

    def test_complexity_iou_and_ratio(self) -> None:
        finer = shapely.segmentize(SQUARE, 5.0)
        one, other = np.array([finer, SQUARE]), np.array([SQUARE, SQUARE])
        assert shapes.complexity_iou(one, other, np.array([0.9, 0.8])).tolist() == pytest.approx(
            [0.9 * (1 - 4 / 12), 0.8]
        )
        assert shapes.vertex_ratio(one, other) == 12 / 8

    @given(st.integers(0, 2**32 - 1))
    @settings(max_examples=20, deadline=None)
    def test_polis_by_its_formula(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        one = rotate(scale(SQUARE, *rng.uniform(0.5, 2, 2)), rng.uniform(0, 90))
        other = shapely.Polygon(SQUARE.exterior, [shapely.box(3, 3, 5, 6).exterior])

        def distance(point: np.ndarray, outline: Any) -> float:
            best = math.inf
            for ring in (outline.exterior, *outline.interiors):
                coords = np.array(ring.coords)
                for a, b in pairwise(coords):
                    along = np.clip((point - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
                    best = min(best, float(np.hypot(*(a + along * (b - a) - point))))
            return best

        def corners(polygon: Any) -> np.ndarray:
            rings = (polygon.exterior, *polygon.interiors)
            return np.concatenate([np.array(ring.coords)[:-1] for ring in rings])

        expected = sum(
            np.mean([distance(p, b) for p in corners(a)]) / 2 for a, b in ((one, other), (other, one))
        )
        found = shapes.polis(np.array([one, SQUARE]), np.array([other, SQUARE]))
        assert found == pytest.approx([expected, 0.0], abs=1e-9)

    @pytest.mark.parametrize("degrees", [0.0, 3.0, 20.0, 44.0])
    def test_a_turned_square_is_off_by_its_angle(self, degrees: float) -> None:
        turned = rotate(scale(SQUARE, 4, 4), degrees)
        found = shapes.tangent_angle(np.array([turned, SQUARE]), np.array([scale(SQUARE, 4, 4), SQUARE]))
        assert found[1] == pytest.approx(0, abs=1e-5)
        if degrees < 30:
            assert found[0] == pytest.approx(degrees, abs=1.0)
        else:
            # Projections then stretch over corners, so that the angle may be larger, never smaller.
            assert degrees - 1 <= found[0] <= 90

    def test_stairs_are_off_by_up_to_a_right_angle(self) -> None:
        line = [(k // 2 + k % 2, k // 2) for k in range(41)]
        stairs = shapely.Polygon([*line, (20, 0)])
        triangle = shapely.Polygon([(0, 0), (20, 20), (20, 0)])
        assert shapes.tangent_angle(np.array([stairs]), np.array([triangle]), 0.1)[0] == pytest.approx(
            45, abs=2
        )

    def test_orthogonality(self) -> None:
        turned = rotate(scale(SQUARE, 3, 1), 31.7)
        assert shapes.orthogonality(Polygons.of(np.array([turned, SQUARE]))) == pytest.approx(1.0)
        # 3, 4, 5: the slope is 36.9 degrees off the legs.
        triangle = shapely.Polygon([(0, 0), (40, 0), (0, 30)])
        assert shapes.orthogonality(Polygons.of(np.array([triangle]))) == pytest.approx(70 / 120)
        assert math.isnan(shapes.orthogonality(Polygons.of(np.array([], object))))


class TestBoundary:
    @given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 4))
    @settings(max_examples=30, deadline=None)
    def test_it_is_what_lies_near_the_outside(self, seed: int, down: int, across: int) -> None:
        rng = np.random.default_rng(seed)
        mask = np.kron(rng.random((4, 5)) < 0.6, np.ones((4, 3), bool)).astype(bool)
        padded = np.pad(mask, 8)
        expected = np.zeros_like(mask)
        for row, col in zip(*np.nonzero(mask), strict=True):
            near = padded[row + 8 - down : row + 9 + down, col + 8 - across : col + 9 + across]
            expected[row, col] = not near.all()
        np.testing.assert_array_equal(boundary_region(mask, (down, across)), expected)

    def test_counts(self) -> None:
        """Squares of 10 and 8 about one centre, 1 pixel: rims of 36 and 28 that have nothing in common."""
        one, other = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
        one[5:15, 5:15], other[6:14, 6:14] = 1, 1
        known = np.ones(one.shape, bool)
        assert boundary_counts(one, other, known, 2, (1, 1))[1].tolist() == [0, 64]
        assert boundary_counts(one, one, known, 2, (1, 1))[1].tolist() == [36, 36]
        # Two pixels: rims of 100 - 36 and 64 - 16; they share what of the smaller square is outside the 36.
        assert boundary_counts(one, other, known, 2, (2, 2))[1].tolist() == [64 - 36, 64 + 48 - 28]


class TestPixels:
    @given(st.integers(0, 2**32 - 1), st.integers(2, 6))
    @settings(max_examples=20, deadline=None)
    def test_they_are_those_of_scikit_learn(self, seed: int, classes: int) -> None:
        from sklearn import metrics

        rng = np.random.default_rng(seed)
        truth = np.concatenate([np.arange(classes), rng.integers(0, classes, 300)])
        found = np.where(rng.random(len(truth)) < 0.6, truth, rng.integers(0, classes, len(truth)))
        matrix = metrics.confusion_matrix(truth, found, labels=range(classes))
        confusion = Confusion(classes, matrix=matrix.astype(np.int64))
        summary = confusion.summary()
        kind: dict[str, Any] = {"average": "binary"} if classes == 2 else {"average": "macro"}
        for name, expected in (
            ("accuracy", metrics.accuracy_score(truth, found)),
            ("class_accuracy", metrics.balanced_accuracy_score(truth, found)),
            ("iou", metrics.jaccard_score(truth, found, **kind)),
            ("miou", metrics.jaccard_score(truth, found, average="macro")),
            ("dice", metrics.f1_score(truth, found, **kind)),
            ("recall", metrics.recall_score(truth, found, **kind)),
        ):
            assert summary[name] == pytest.approx(expected, abs=1e-9)
        by_class = metrics.precision_score(truth, found, average=None, zero_division=np.nan)
        np.testing.assert_allclose(confusion.precision, by_class, atol=1e-9)


class TestConfidence:
    def test_reliability_and_calibration_error_by_hand(self) -> None:
        rows = reliability(np.array([0.55, 0.58, 0.95, 1.0]), np.array([True, False, True, True]))
        assert [(row["from"], row["count"]) for row in rows] == [(0.5, 2.0), (0.9, 2.0)]
        assert rows[0]["confidence"] == pytest.approx(0.565)
        assert rows[0]["hits"] == 0.5
        assert calibration_error(rows) == pytest.approx(0.5 * 0.065 + 0.5 * 0.025)
        assert math.isnan(calibration_error([]))

    def test_threshold_curve(self) -> None:
        counts = np.zeros((2, 251), np.int64)
        counts[1, 200], counts[1, 100], counts[0, 130] = 6, 2, 4
        rows = {row["threshold"]: row for row in threshold_curve(counts)}
        assert rows[0.4]["iou"] == pytest.approx(8 / 12)  # 100 / 250 is 0.4 itself
        assert rows[0.45]["iou"] == pytest.approx(6 / 12)
        assert rows[0.55]["precision"] == 1.0
        assert rows[0.85]["recall"] == 0.0

    @pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
    def test_a_known_temperature_is_found(self, temperature: float) -> None:
        rng = np.random.default_rng(0)
        logits = rng.normal(0, 2, (200_000, 3))
        right = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        truth = (right.cumsum(axis=1) < rng.random((len(logits), 1))).sum(axis=1)
        found = fit_temperature(logits * temperature, truth)
        assert found == pytest.approx(temperature, rel=0.02)

    def test_intervals_hold_what_they_say(self) -> None:
        """Of 200 samples of 60 units, the interval of the mean holds the true one in about 95 %."""
        rng = np.random.default_rng(1)
        held = 0
        for k in range(200):
            units = np.column_stack([rng.exponential(1.0, 60), np.ones(60)])
            low, high = interval(units, lambda summed: summed[0] / summed[1], seed=k) or (0.0, 0.0)
            held += low <= 1.0 <= high
        assert 0.88 <= held / 200 <= 0.99
        assert interval(np.ones((1, 2)), lambda summed: 1.0) is None

    def test_an_interval_is_of_95_percent(self) -> None:
        """For a mean of many: 1.96 standard errors to either side."""
        values = np.random.default_rng(3).normal(5, 2, 2000)
        units = np.column_stack([values, np.ones(2000)])
        found = [interval(units, lambda summed: summed[0] / summed[1], seed=k) for k in range(8)]
        widths = [high - low for low, high in filter(None, found)]
        assert len(widths) == 8
        assert np.mean(widths) == pytest.approx(2 * 1.96 * values.std() / np.sqrt(2000), rel=0.04)


class TestClasses:
    def test_one_class_on_both_sides_is_the_same(self) -> None:
        found = shared_classes(of_raster("a", [0, 255], {}), of_layer("b", ["house"]))
        assert found.names == ("background", "house")
        assert found.predicted == {"background": 0, "255": 1}
        assert found.truth == {"house": 1}

    def test_several_are_matched_by_name_or_value(self) -> None:
        named = of_raster("a", [0, 1, 2], {0: "background", 1: "Roof", 2: "road"})
        other = of_layer("b", ["road", "roof", "tree"])
        found = shared_classes(named, other)
        assert found.names == ("background", "road", "roof", "tree")
        assert found.predicted == {"background": 0, "Roof": 2, "road": 1}
        by_value = shared_classes(of_raster("c", [0, 1, 2], {}), named)
        assert by_value.names == ("background", "roof", "road")
        assert by_value.predicted == {"background": 0, "1": 1, "2": 2}

    def test_what_cannot_be_related_is_one_line(self) -> None:
        two = of_layer("a.gpkg", ["x", "y"])
        with pytest.raises(
            InputError, match=r"b\.gpkg: has no column 'class', and a\.gpkg has the classes x, y"
        ):
            shared_classes(two, of_layer("b.gpkg", None))
        with pytest.raises(InputError, match=r"none in common"):
            shared_classes(two, of_layer("b.gpkg", ["p", "q"]))


METRES = Affine(0.5, 0, 5e5, 0, -0.5, 9e6)
CRS = "EPSG:32737"


def town(seed: int = 0, count: int = 40, spread: float = 290.0) -> list[Any]:
    """Houses that do not overlap, at any angle, in metres about (500000, 9000000)."""
    rng = np.random.default_rng(seed)
    found: list[Any] = []
    while len(found) < count:
        size = rng.uniform(6, 20, 2)
        house = rotate(shapely.box(0, 0, *size), rng.uniform(0, 90))
        house = translate(house, 5e5 + rng.uniform(10, spread), 9e6 - rng.uniform(10, spread))
        if not any(house.distance(other) < 3 for other in found):
            found.append(house)
    return found


def save_layer(path: Path, houses: list[Any], crs: str = CRS, **columns: Any) -> Path:
    frame = geopandas.GeoDataFrame(columns, geometry=houses, crs=CRS).to_crs(crs)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path)
    return path


def save_mask(path: Path, houses: list[Any], size: int = 640, **profile: Any) -> Path:
    mask = rasterize(houses, (size, size), transform=METRES, dtype="uint8")
    return layouts.save_tif(path, mask[None], crs=CRS, transform=METRES, **profile)


def jittered(houses: list[Any]) -> list[Any]:
    """What a model makes of them: shifted, grown; one lost, one made up."""
    moved = [translate(scale(h, 1.1, 0.95), 0.7, -0.4) for h in houses[1:]]
    return [*moved, shapely.box(5e5 + 1, 9e6 - 9, 5e5 + 8, 9e6 - 1)]


class TestScenes:
    def test_rasters_and_layers_give_the_same_pixels(self, tmp_path: Path) -> None:
        truth, found = town(), jittered(town())
        one = save_mask(tmp_path / "p.tif", found)
        white = rasterize(truth, (640, 640), transform=METRES, dtype="uint8")[None] * 255
        kinds = {
            "raster": save_mask(tmp_path / "t.tif", truth),
            "layer": save_layer(tmp_path / "t.gpkg", truth),
            "degrees": save_layer(tmp_path / "t.geojson", truth, "EPSG:4326"),
            "white": layouts.save_tif(tmp_path / "w.tif", white, crs=CRS, transform=METRES),
        }
        a = rasterize(truth, (640, 640), transform=METRES, dtype="uint8").astype(bool)
        b = rasterize(found, (640, 640), transform=METRES, dtype="uint8").astype(bool)
        for kind, path in kinds.items():
            figures = tilesegment.evaluate_scene(one, path)
            if kind != "degrees":
                assert figures["pixels"]["confusion"] == [
                    [int((~a & ~b).sum()), int((~a & b).sum())], [int((a & ~b).sum()), int((a & b).sum())],
                ]  # fmt: skip
            assert figures["pixels"]["iou"] == pytest.approx((a & b).sum() / (a | b).sum(), abs=1e-3)
            assert figures["objects"]["truth"] == 40
            assert (figures["objects"]["false"], figures["objects"]["missed"]) == (1, 1)

    def test_a_truth_on_another_grid_and_crs(self, tmp_path: Path) -> None:
        truth, found = town(), jittered(town())
        one = save_mask(tmp_path / "p.tif", found)
        same = tilesegment.evaluate_scene(one, save_mask(tmp_path / "t.tif", truth))["pixels"]["iou"]
        with rasterio.open(tmp_path / "t.tif") as dataset:
            from rasterio.vrt import WarpedVRT

            with WarpedVRT(dataset, crs="EPSG:4326", add_alpha=True) as vrt:
                profile = {"crs": vrt.crs, "transform": vrt.transform, "nodata": 255}
                values = np.where(vrt.read(2) > 0, vrt.read(1), 255).astype(np.uint8)
        layouts.save_tif(tmp_path / "d.tif", values[None], **profile)
        other = tilesegment.evaluate_scene(one, tmp_path / "d.tif")
        assert other["pixels"]["iou"] == pytest.approx(same, abs=0.01)
        assert (other["objects"]["hits"], other["objects"]["missed"]) == (39, 1)

    def test_two_layers_are_compared_at_a_stated_pixel(self, tmp_path: Path) -> None:
        truth, found = town(), jittered(town())
        a, b = shapely.union_all(truth), shapely.union_all(found)
        exact = a.intersection(b).area / a.union(b).area
        for crs in (CRS, "EPSG:4326", "EPSG:3857"):
            one = save_layer(tmp_path / f"p{crs[5:]}.gpkg", found, crs)
            other = save_layer(tmp_path / f"t{crs[5:]}.parquet", truth, crs)
            figures = tilesegment.evaluate_scene(one, other)
            assert figures["pixels"]["iou"] == pytest.approx(exact, abs=2e-3)
            assert figures["metres_per_pixel"] == pytest.approx((0.25, 0.25), rel=1e-3)
            # Metres are metres in every CRS.
            assert figures["objects"]["shape"]["polis_m"] == pytest.approx(0.62, abs=0.06)

    def test_a_layer_of_nothing_finds_nothing(self, tmp_path: Path) -> None:
        truth = save_layer(tmp_path / "t.gpkg", town())
        empty = geopandas.GeoDataFrame(geometry=[], crs=CRS)
        empty.to_file(tmp_path / "none.gpkg", geometry_type="Polygon")
        for one, other in ((tmp_path / "none.gpkg", truth), (truth, tmp_path / "none.gpkg")):
            counted = tilesegment.evaluate_scene(one, other)["objects"]
            assert counted["hits"] == 0
            assert counted["missed"] + counted["false"] == 40

    def test_only_what_was_labelled_counts(self, tmp_path: Path) -> None:
        truth, found = town(), jittered(town())
        one, other = save_mask(tmp_path / "p.tif", found), save_layer(tmp_path / "t.gpkg", truth)
        area = shapely.box(5e5, 9e6 - 150, 5e5 + 150, 9e6)
        save_layer(tmp_path / "aoi.gpkg", [area])
        figures = tilesegment.evaluate_scene(one, other, aoi=tmp_path / "aoi.gpkg")
        assert figures["pixels"]["pixels"] == 300 * 300
        inside = [h for h in truth if h.intersection(area).area > h.area / 2]
        assert figures["objects"]["truth"] == len(inside)
        # A truth raster that covers less says nothing of the rest, and neither do its unknown pixels.
        values = rasterize(truth, (640, 640), transform=METRES, dtype="uint8")[:300, :300]
        values[:, :10] = 255
        layouts.save_tif(tmp_path / "s.tif", values[None], crs=CRS, transform=METRES, nodata=255)
        assert tilesegment.evaluate_scene(one, tmp_path / "s.tif")["pixels"]["pixels"] == 300 * 290

    def test_a_given_nodata_adds_to_the_declared_one_on_any_grid(self, tmp_path: Path) -> None:
        one = save_mask(tmp_path / "p.tif", town())
        values = rasterize(town(), (640, 640), transform=METRES, dtype="uint8")
        values[:100], values[100:150] = 255, 7
        for name, shift in (("same.tif", 0.0), ("other.tif", 0.5)):
            transform = METRES @ Affine.translation(shift, 0)
            layouts.save_tif(tmp_path / name, values[None], crs=CRS, transform=transform, nodata=255)
            pixels = tilesegment.evaluate_scene(one, tmp_path / name, nodata=7)["pixels"]
            assert pixels["pixels"] == pytest.approx(490 * 640, rel=2e-3)
            assert pixels["iou"] > 0.9

    def test_a_given_nodata_is_no_object(self, tmp_path: Path) -> None:
        houses = [shapely.box(5e5 + x, 9e6 - 30, 5e5 + x + 10, 9e6 - 20) for x in (20, 60)]
        one = save_mask(tmp_path / "p.tif", houses, 200)
        values = rasterize(houses, (200, 200), transform=METRES, dtype="uint8")
        values[100:] = 7
        layouts.save_tif(tmp_path / "t.tif", values[None], crs=CRS, transform=METRES)
        figures = tilesegment.evaluate_scene(one, tmp_path / "t.tif", nodata=7)
        found = figures["objects"]
        assert (found["truth"], found["predicted"], found["f1"]) == (2, 2, 1)

    def test_windows_do_not_change_a_figure(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        truth, found = town(), jittered(town())
        one, other = save_mask(tmp_path / "p.tif", found), save_layer(tmp_path / "t.gpkg", truth)
        before = tilesegment.evaluate_scene(one, other)
        monkeypatch.setattr(masks, "_WINDOW", 128)
        monkeypatch.setattr(masks, "_CELL", 128)
        after = tilesegment.evaluate_scene(one, other)
        for figures in (before, after):
            figures["pixels"].pop("intervals")
        assert after["pixels"] == before["pixels"]

    def test_boundaries_of_a_scene_are_those_of_the_whole_mask(self, tmp_path: Path) -> None:
        truth, found = town(), jittered(town())
        one, other = save_mask(tmp_path / "p.tif", found), save_mask(tmp_path / "t.tif", truth)
        usual = tilesegment.evaluate_scene(one, other)["pixels"]["boundary"]
        assert [row["metres"] for row in usual] == [0.5, 1, 2]
        figures = tilesegment.evaluate_scene(one, other, distances=(0.5, 3.0))
        a, b = (rasterize(h, (640, 640), transform=METRES, dtype="uint8") for h in (truth, found))
        for row, pixels in zip(figures["pixels"]["boundary"], (1, 6), strict=True):
            both = boundary_counts(a, b, np.ones(a.shape, bool), 2, (pixels, pixels))[1]
            assert row["iou"] == pytest.approx(both[0] / both[1], abs=1e-12)

    def test_probabilities(self, tmp_path: Path) -> None:
        truth = save_mask(tmp_path / "t.tif", town())
        with rasterio.open(truth) as dataset:
            label = dataset.read(1)
        said = np.where(label == 1, 200, 50).astype(np.uint8)
        said[:320] = np.where(label[:320] == 1, 110, 50)
        layouts.save_tif(tmp_path / "q.tif", said[None], crs=CRS, transform=METRES, nodata=255)
        layouts.save_tif(
            tmp_path / "p.tif", (said >= 127)[None].astype(np.uint8), crs=CRS, transform=METRES
        )
        figures = tilesegment.evaluate_scene(tmp_path / "p.tif", truth, probability=tmp_path / "q.tif")[
            "pixels"
        ]
        assert figures["brier"] == pytest.approx((((said / 254) - label) ** 2).mean(), abs=1e-12)
        assert figures["mse"] == pytest.approx(1 - figures["accuracy"])
        curve = {row["threshold"]: row["iou"] for row in figures["thresholds"]}
        assert curve[0.4] == 1.0
        assert curve[0.5] == pytest.approx(figures["iou"])
        assert figures["calibration_error"] == pytest.approx(
            abs((said / 254 - label)[said == 200].sum() + 0) / label.size
            + abs((said / 254 - label)[said == 110].sum()) / label.size
            + abs((said / 254 - label)[said == 50].sum()) / label.size
        )  # fmt: skip

    def test_a_folder_with_everything(self, tmp_path: Path) -> None:
        truth, found = town(), jittered(town())
        sure = np.linspace(0.5, 0.99, len(found))
        one = save_layer(tmp_path / "p.gpkg", found, confidence=sure, id=np.arange(len(found)) + 700)
        other = save_layer(tmp_path / "t.gpkg", truth)
        folder = tmp_path / "out"
        figures = tilesegment.evaluate_scene(one, other, output=folder)
        assert {path.name for path in folder.iterdir()} == {
            "metrics.json", "objects.csv", "objects.gpkg", "errors.png", "panels.png", "report.html",
        }  # fmt: skip
        assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(figures))
        with (folder / "objects.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["result"] for row in rows] == [*["hit"] * 39, "false", "missed"]
        assert (rows[0]["id"], rows[0]["matched_id"]) == ("700", "2")
        expected = found[0].intersection(truth[1]).area / found[0].union(truth[1]).area
        assert float(rows[0]["iou"]) == pytest.approx(expected, abs=1e-3)
        assert (rows[-1]["id"], rows[-1]["iou"]) == ("1", "")
        layer = geopandas.read_file(folder / "objects.gpkg", layer="objects")
        assert layer["result"].value_counts().to_dict() == {"hit": 39, "false": 1, "missed": 1}
        assert layer.crs.to_epsg() == 32737
        with contextlib.closing(sqlite3.connect(folder / "objects.gpkg")) as database:
            (style,) = database.execute("SELECT styleQML FROM layer_styles").fetchone()
        assert 'attr="result"' in style
        assert all(f'value="{name}"' in style for name in ("hit", "missed", "false"))
        page = (folder / "report.html").read_text()
        assert "data:image/png;base64," in page
        assert "http" not in page.replace("http-equiv", "")
        # Charts of 300 in margins of 34: none of none is at the bottom left, all of all at the top right.
        assert 'points="34.0,334.0 334.0,34.0"' in page
        with pytest.raises(OutputError, match="exists already"):
            tilesegment.evaluate_scene(one, other, output=folder)
        tilesegment.evaluate_scene(one, other, output=folder, overwrite=True)
        (folder / "metrics.json").unlink()
        with pytest.raises(OutputError, match="is no evaluation"):
            tilesegment.evaluate_scene(one, other, output=folder, overwrite=True)

    def test_pictures_without_a_crs(self, tmp_path: Path) -> None:
        label = np.zeros((50, 60), np.uint8)
        label[10:20, 10:30] = 1
        layouts.save(tmp_path / "t.png", label)
        layouts.save(tmp_path / "p.png", np.roll(label, 1, axis=0))
        figures = tilesegment.evaluate_scene(tmp_path / "p.png", tmp_path / "t.png", distances=(1.0,))
        assert figures["pixels"]["iou"] == pytest.approx(180 / 220)
        assert figures["objects"]["hits"] == 1
        layouts.save(tmp_path / "q.png", label[:40])
        with pytest.raises(InputError, match="60x50 pixels do not fit the other's 60x40"):
            tilesegment.evaluate_scene(tmp_path / "q.png", tmp_path / "t.png")

    def test_one_pixel(self, tmp_path: Path) -> None:
        layouts.save(tmp_path / "t.png", np.ones((1, 1), np.uint8))
        figures = tilesegment.evaluate_scene(tmp_path / "t.png", tmp_path / "t.png")
        assert (figures["pixels"]["iou"], figures["objects"]["f1"]) == (1.0, 1.0)
        assert figures["pixels"]["intervals"]["iou"] is None

    @pytest.mark.parametrize(
        ("one", "other", "words"),
        [
            ("missing.gpkg", "t.gpkg", r"missing\.gpkg: cannot be read as polygons"),
            ("points.gpkg", "t.gpkg", r"points\.gpkg: holds Points, and polygons are expected"),
            ("far.gpkg", "p.tif", r"do not overlap"),
            ("p.tif", "far.gpkg", r"do not overlap"),
            ("nocrs.gpkg", "t.gpkg", r"t\.gpkg: has a CRS, and the other has none"),
            ("p.tif", "nocrs.gpkg", r"nocrs\.gpkg: has no CRS, and the other has one"),
            ("fractions.tif", "t.gpkg", r"holds the value 0\.5, and classes are 0 to 255"),
        ],
    )
    def test_wrong_inputs_are_one_line(self, tmp_path: Path, one: str, other: str, words: str) -> None:
        save_mask(tmp_path / "p.tif", town())
        save_layer(tmp_path / "t.gpkg", town())
        save_layer(tmp_path / "points.gpkg", [shapely.Point(5e5, 9e6)])
        save_layer(tmp_path / "far.gpkg", [translate(h, 9000) for h in town()])
        geopandas.GeoDataFrame(geometry=town()).to_file(tmp_path / "nocrs.gpkg")
        layouts.save_tif(
            tmp_path / "fractions.tif", np.full((1, 8, 8), 0.5, np.float32), crs=CRS, transform=METRES
        )
        done = run_cli("evaluate", tmp_path / one, tmp_path / other)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        assert re.search(words, done.stderr), done.stderr

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([], "give PREDICTION and TRUTH"),
            (["a.gpkg", "b.gpkg", "--split", "val"], "--split is for --model"),
            (["--model", "roofs"], "--model needs --data and --as"),
            (["--model", "roofs", "--aoi", "a.gpkg"], "--aoi and --model exclude"),
            (["a.gpkg", "b.gpkg", "--sizes", "100,25"], "give rising areas"),
            (["a.gpkg", "b.gpkg", "--sizes", "0,25"], "give rising areas"),
            (["a.gpkg", "b.gpkg", "--distances", "0"], "give metres between"),
        ],
    )  # fmt: skip
    def test_usage(self, arguments: list[str], words: str) -> None:
        done = run_cli("evaluate", *arguments)
        assert done.returncode == 2
        assert words in done.stderr

    def test_settings_of_the_wrong_name(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="did you mean 'distances'"):
            tilesegment.evaluate_scene("a", "b", distance=(1.0,))


class TestModels:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return layouts.rooftops(tmp_path / "set", 12, 96, nested=False)

    def test_splits_are_those_that_training_and_check_see(self, root: Path) -> None:
        from tilesegment.api import models

        changes = ["gsd=null"]
        seen = models._reader_for("roofs", root, "rooftop-tiles", changes)
        for split in ("val", "test"):
            expected = open_reader("rooftop-tiles", root, {"gsd": None}, (512, 512), 0).names(split)
            assert list(seen.names(split)) == list(expected)
            assert list(open_reader("rooftop-tiles", root, {"gsd": None}).names(split)) == list(expected)

    def test_it_is_what_predict_gives(self, root: Path, tmp_path: Path) -> None:
        changes = ["split={test: [t]}", "gsd=null"]
        figures = tilesegment.evaluate_model("roofs", root, "rooftop-tiles", changes=changes)
        assert figures["pictures"] == 12
        matrix = np.zeros((2, 2), np.int64)
        for image in sorted((root / "images").glob("*.tif")):
            tilesegment.predict(image, tmp_path / "m.tif", overwrite=True)
            pixels = tilesegment.evaluate_scene(tmp_path / "m.tif", root / "masks" / image.name)["pixels"]
            found = np.array(pixels["confusion"])
            matrix[: len(found), : len(found)] += found
        assert figures["pixels"]["confusion"] == matrix.tolist()
        assert figures["pixels"]["intervals"]["of"] == "pictures"

    def test_a_temperature_changes_what_is_said_and_no_class(self, tmp_path: Path) -> None:
        root = layouts.houses(tmp_path / "houses", 8)
        out = tmp_path / "calibrated.safetensors"
        changes = ["split={val: 0.5, test: 0.5}", "gsd=null"]
        found = tilesegment.calibrate_temperature(
            "roofs", root, "rooftop-tiles", changes=changes, output=out
        )
        assert found["likelihood"] < found["likelihood_before"]
        before = tilesegment.evaluate_model("roofs", root, "rooftop-tiles", split="val", changes=changes)
        after = tilesegment.evaluate_model(str(out), root, "rooftop-tiles", split="val", changes=changes)
        a, b = (np.array(figures["pixels"]["confusion"]) for figures in (before, after))
        assert np.abs(a - b).sum() <= 0.01 * a.sum()
        assert after["pixels"]["calibration_error"] < before["pixels"]["calibration_error"]
        # Fitted again, it stays as it is.
        again = tilesegment.calibrate_temperature(
            str(out), root, "rooftop-tiles", changes=changes, output=tmp_path / "b.safetensors"
        )
        assert again["temperature"] == pytest.approx(found["temperature"], rel=0.05)

    def test_a_temperature_is_fitted_on_the_validation_split(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from click.testing import CliRunner

        from tilesegment import api
        from tilesegment.cli import evaluate as command

        asked: list[str] = []

        def noted(*arguments: Any, split: str, **options: Any) -> Any:
            asked.append(split)
            raise InputError("enough")

        monkeypatch.setattr(api, "calibrate_temperature", noted)
        monkeypatch.setattr(api, "evaluate_model", noted)
        base = ["--model", "roofs", "--data", ".", "--as", "rooftop"]
        for more in (["--calibrate"], [], ["--calibrate", "--split", "test"], ["--split", "train"]):
            CliRunner().invoke(command.command, [*base, *more])
        assert asked == ["val", "test", "test", "train"]

    def test_a_model_of_voc_on_coco(self, tmp_path: Path) -> None:
        """Classes are met by their names; what the model does not know is its background."""
        from tilesegment.model.card import ModelClass
        from tilesegment.run.evaluate_model import _common_classes

        root = layouts.coco(tmp_path)
        reader = open_reader("coco", root, {})
        card = dataclasses.replace(
            small_card(3), classes=tuple(ModelClass(n, (k, k, k)) for k, n in
                                         enumerate(("background", "motorbike", "person"))),
        )  # fmt: skip
        names, table = _common_classes(card, reader)
        assert names == ["background", "motorbike", "person"]
        theirs = [entry.name for entry in reader.classes]
        assert table[theirs.index("person")] == 2
        assert table[theirs.index("motorcycle")] == 1
        assert table[theirs.index("car")] == 0
        assert table[255] == 255
        other = dataclasses.replace(card, classes=(*card.classes[:2], ModelClass("unicorn", (1, 1, 1))))
        with pytest.raises(ModelError, match="are not those of the data set"):
            _common_classes(other, reader)

    def test_other_classes_and_empty_splits(self, root: Path, tmp_path: Path) -> None:
        layouts.voc(tmp_path / "voc")
        done = run_cli("evaluate", "--model", "roofs", "--data", tmp_path / "voc", "--as", "voc")
        assert done.returncode == 1
        assert "its classes (background, roof) are not those of the data set" in done.stderr
        done = run_cli(
            "evaluate", "--model", "roofs", "--data", root, "--as", "rooftop-tiles", "--set", "gsd=null",
            "--set", "split={train: [t]}",
        )  # fmt: skip
        assert "the test split is empty (pictures: train 12, val 0, test 0)" in done.stderr


class TestStore:
    @given(st.integers(0, 2**32 - 1))
    @settings(max_examples=25, deadline=None)
    def test_what_goes_in_comes_out(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        holed = shapely.Polygon(SQUARE.exterior, [shapely.box(2, 2, 4, 4).exterior])
        kinds = [SQUARE, holed, shapely.MultiPolygon([holed, translate(SQUARE, 20)])]
        shapes = np.array([translate(kinds[k], *rng.uniform(0, 90, 2)) for k in rng.integers(0, 3, 40)])
        assert len(Polygons.joined([]).area) == len(Polygons.joined([]).bounds) == 0
        store = Polygons.joined([Polygons.of(shapes[:13]), Polygons.of(shapes[13:])])
        index = rng.integers(0, 40, 25)
        assert shapely.equals(store.take(index), shapes[index]).all()
        some = store.chosen(index)
        assert shapely.equals(some.take(np.arange(25)), shapes[index]).all()
        np.testing.assert_allclose(some.area, shapely.area(shapes[index]))
        moved = store.moved(lambda xy: xy * [2.0, 3.0])
        np.testing.assert_allclose(moved.area, 6 * store.area)
        np.testing.assert_allclose(moved.bounds, store.bounds * [2, 3, 2, 3])
        box = (20.0, 20.0, 50.0, 40.0)
        expected = np.flatnonzero(shapely.intersects(shapely.envelope(shapes), shapely.box(*box)))
        np.testing.assert_array_equal(store.touching(box), expected)

    @pytest.mark.parametrize(
        ("box", "met"),
        [
            ((10, 0, 20, 10), True), ((10.5, 0, 20, 10), False), ((-9, 0, 0, 10), True),
            ((-9, 0, -0.5, 10), False), ((0, 10, 10, 20), True), ((0, 10.5, 10, 20), False),
            ((0, -9, 10, 0), True), ((0, -9, 10, -0.5), False),
        ],
    )  # fmt: skip
    def test_a_box_that_only_touches_is_met(self, box: tuple, met: bool) -> None:
        store = Polygons.of(np.array([SQUARE], object))
        assert (len(store.touching(box)) == 1) == met

    def test_nothing(self) -> None:
        none = Polygons.of(np.zeros(0, object))
        assert len(none) == 0
        assert none.total_bounds is None
        assert len(none.take(np.zeros(0, np.int64))) == 0
        assert len(none.moved(lambda xy: xy)) == 0

    def test_pairs_do_not_depend_on_the_neighbourhoods(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from tilesegment.evaluate import objects as room

        rng = np.random.default_rng(3)
        one, other = as_objects(random_boxes(rng, 200)), as_objects(random_boxes(rng, 200))
        whole = overlapping(one, other)
        monkeypatch.setattr(room, "_CHUNK", 17)
        parts = overlapping(one, other)
        for name in ("predicted", "truth", "shared", "iou"):
            np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


class TestLayers:
    @pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".fgb", ".geojson", ".shp"])
    def test_every_format_is_read_alike(self, tmp_path: Path, suffix: str) -> None:
        houses = town(count=12)
        bow = shapely.Polygon([(5e5, 9e6), (5e5 + 4, 9e6 + 4), (5e5 + 4, 9e6), (5e5, 9e6 + 4)])
        columns = {
            "id": np.arange(13) + 5,
            "class": ["a"] * 6 + ["b"] * 7,
            "confidence": np.linspace(0, 1, 13),
        }
        path = save_layer(tmp_path / f"t{suffix}", [*houses, bow], **columns)
        layer = read_layer(str(path))
        order = np.argsort(layer.ids)  # FlatGeobuf sorts by place
        assert layer.ids[order].tolist() == list(range(5, 18))
        assert layer.names is not None
        assert [layer.names[k] for k in layer.code[order].tolist()] == columns["class"]
        np.testing.assert_allclose(layer.confidence[order], columns["confidence"])
        assert layer.invalid == 1
        if suffix != ".geojson":
            np.testing.assert_allclose(layer.polygons.area[order][:12], [h.area for h in houses])
        assert shapely.is_valid(layer.polygons.take(np.arange(13))).all()

    def test_missing_and_empty_geometries_are_left_out(self, tmp_path: Path) -> None:
        frame = geopandas.GeoDataFrame(
            {"id": [1, 2, 3]}, geometry=[SQUARE, None, shapely.Polygon()], crs=CRS
        )
        frame.to_parquet(tmp_path / "t.parquet")
        assert read_layer(str(tmp_path / "t.parquet")).ids.tolist() == [1]

    def test_a_plane_measures_in_metres(self) -> None:
        assert Plane.of(CRS, (5e5, 9e6, 5.1e5, 9.01e6)).crs == CRS
        # The last one is true along meridians alone.
        polar = "+proj=aeqd +lat_0=90 +lon_0=-74 +datum=WGS84"
        for crs in ("EPSG:4326", "EPSG:3857", "EPSG:2263", polar):
            frame = geopandas.GeoSeries([SQUARE.buffer(200).envelope], crs="EPSG:32618")
            moved = translate(frame.iloc[0], 585000, 4511000)
            frame = geopandas.GeoSeries([moved], crs="EPSG:32618").to_crs(crs)
            plane = Plane.of(frame.crs.to_wkt(), tuple(frame.total_bounds))
            found = plane.project(Polygons.of(frame.to_numpy()), frame.crs.to_wkt(), "x")
            assert found.area[0] == pytest.approx(moved.area, rel=2e-3)


def test_polygons_of_formats_that_are_only_read(tmp_path: Path) -> None:
    """A layer against itself, drawn in Google Earth."""
    corners = "85.5,27.6 85.501,27.6 85.501,27.601 85.5,27.601 85.5,27.6"
    (tmp_path / "a.kml").write_text(
        '<kml xmlns="http://www.opengis.net/kml/2.2"><Document><Folder><name>q</name><Placemark><Polygon>'
        f"<outerBoundaryIs><LinearRing><coordinates>{corners}</coordinates></LinearRing></outerBoundaryIs>"
        "</Polygon></Placemark></Folder></Document></kml>"
    )
    shape = shapely.Polygon([tuple(map(float, pair.split(","))) for pair in corners.split()])
    geopandas.GeoDataFrame(geometry=[shape], crs="EPSG:4326").to_file(tmp_path / "b.gpkg")
    figures = tilesegment.evaluate_scene(tmp_path / "a.kml", tmp_path / "b.gpkg", pixel=1.0)
    assert figures["objects"]["f1"] == 1


def test_on_a_plane_of_its_own(make_raster, tmp_path: Path) -> None:
    crs = 'LOCAL_CS["Site",LOCAL_DATUM["x",0],UNIT["metre",1],AXIS["E",EAST],AXIS["N",NORTH]]'
    values = np.zeros((50, 60), np.uint8)
    values[5:30, 5:40] = 1
    path = make_raster(values, "m.tif", crs=crs)
    tilesegment.vectorize(path, tmp_path / "r.gpkg", simplify=0)
    figures = tilesegment.evaluate_scene(path, tmp_path / "r.gpkg")
    assert figures["objects"]["f1"] == figures["pixels"]["iou"] == 1


@pytest.mark.parametrize(("hits", "false", "missed"), [(2, 1, 2), (2, 2, 1), (3, 3, 3)])
def test_scores_where_hits_are_as_many_as_misses(hits: int, false: int, missed: int) -> None:
    found = scores(hits, false, missed)
    assert found["precision"] == hits / (hits + false)
    assert found["recall"] == hits / (hits + missed)
    assert found["f1"] == pytest.approx(2 * hits / (2 * hits + false + missed))


def test_geoparquet_without_a_crs_is_in_degrees(tmp_path: Path) -> None:
    """As its specification says: OGC:CRS84."""
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    geopandas.GeoDataFrame(geometry=[SQUARE], crs="EPSG:3857").to_parquet(path)
    table = pq.read_table(path)
    geo = json.loads(table.schema.metadata[b"geo"])
    del geo["columns"]["geometry"]["crs"]
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"geo": json.dumps(geo)}), path)
    found = read_layer(str(path))
    assert found.crs is not None
    assert pyproj.CRS(found.crs).is_geographic


def test_a_distance_in_pixels_that_are_not_square() -> None:
    grid = Grid(pyproj.CRS("EPSG:32645").to_wkt(), Affine(0.5, 0, 354000, 0, -0.25, 3057000), 100, 100)
    assert reach_of(2.0, grid) == (8, 4)
    assert reach_of(0.01, grid) == (1, 1)
    assert reach_of(3.0, Grid(None, Affine.identity(), 100, 100)) == (3, 3)


def test_classes_of_another_grid_are_not_mixed(tmp_path: Path) -> None:
    """Between 1 and 3 there is no 2."""
    values = np.ones((1, 40, 40), np.uint8)
    values[:, :, 20:] = 3
    path = layouts.save_tif(tmp_path / "a.tif", values, crs=CRS, transform=METRES)
    crs = pyproj.CRS(CRS).to_wkt()
    for transform in (METRES @ Affine.translation(0.4, 0.3), METRES @ Affine.scale(0.3)):
        labels = RasterLabels(str(path), Grid(crs, transform, 30, 90), np.arange(256).astype(np.uint8))
        found = labels.read(Window(0, 0, 30, 90))
        labels.close()
        assert set(np.unique(found).tolist()) <= {1, 3, UNKNOWN}
        assert {1, 3} <= set(np.unique(found).tolist())


def test_the_share_of_right_pixels_in_the_worst_places() -> None:
    class Zeros:
        def read(self, window: Window) -> np.ndarray:
            return np.zeros((window.height, window.width), np.uint8)

        def close(self) -> None:
            pass

    task = MaskTask(Zeros(), Zeros(), Grid(None, Affine.identity(), 8, 24), 2)
    # Three cells: 10 of 64 wrong, none, 48 of 64.
    matrix = np.array([[[50, 4], [6, 4]], [[64, 0], [0, 0]], [[10, 40], [8, 6]]])
    assert [share for share, _ in worst_places(task, matrix, 8)] == [16 / 64, 54 / 64]
