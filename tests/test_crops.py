"""Training crops, boxes instead of masks, and where buildings touch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine

from tests import layouts
from tilesegment.datasets.buildings import _between, contact_of_layer, label_of_boxes
from tilesegment.datasets.crops import CropReader
from tilesegment.datasets.opening import open_reader
from tilesegment.datasets.sample import IGNORE
from tilesegment.errors import InputError, SettingsError
from tilesegment.grid import Window
from tilesegment.raster.picture import Part


def place(root: Path, name: str, mask: np.ndarray, count: int = 2, **profile: object) -> None:
    """Pictures whose red is their mask, whose green is their number."""
    for k in range(count):
        picture = np.stack([mask * 200, np.full_like(mask, k), mask * 0])
        layouts.save_tif(root / name / "images" / f"{k}.tif", picture.astype(np.uint8), **profile)
        layouts.save_tif(root / name / "masks" / f"{k}.tif", (mask * 255)[None].astype(np.uint8), **profile)


def opened(root: Path, **options: Any) -> CropReader:
    given = {"gsd": 0.5, "crops": 40, "split": {"val": ["b"]}, "metres": {"a": 0.5, "b": 0.5, "c": 0.5}}
    reader = open_reader("rooftop-tiles", root, {**given, **options}, (32, 32))
    assert isinstance(reader, CropReader)
    return reader


def half(size: int = 96) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[:, size // 2 :] = 1
    return mask


class TestCrops:
    def test_shares_of_places_and_the_same_crop_for_the_same_seed(self, tmp_path: Path) -> None:
        place(tmp_path, "a", np.zeros((96, 96), np.uint8))
        place(tmp_path, "b", half())
        place(tmp_path, "c", np.ones((96, 96), np.uint8))
        reader = opened(tmp_path, weights={"a": 0.2, "c": 0.8})
        assert len(reader.names("train")) == 40
        assert reader.names("val") == ["b/0", "b/1"]
        samples = [reader.read("train", k, np.random.default_rng([7, k])) for k in range(200)]
        # 46 pixels: the diagonal of 32, so that 32 can be cut from the middle after any turn.
        assert {sample.label.shape for sample in samples} == {(46, 46)}
        assert np.mean([sample.label.mean() for sample in samples]) == pytest.approx(0.8, abs=0.08)
        again = reader.read("train", 3, np.random.default_rng([7, 3]))
        np.testing.assert_array_equal(again.values, samples[3].values)
        for sample in samples:
            np.testing.assert_array_equal(sample.values[0] == 200, sample.label == 1)

    def test_places_are_drawn_by_their_ground_without_weights(self, tmp_path: Path) -> None:
        place(tmp_path, "a", np.zeros((96, 96), np.uint8))
        place(tmp_path, "b", half())
        place(tmp_path, "c", np.ones((96, 96), np.uint8))
        reader = opened(tmp_path, metres={"a": 0.25, "b": 0.5, "c": 0.5})
        assert dict(reader.shares)["c"] == pytest.approx(4 * dict(reader.shares)["a"])

    def test_one_crop_an_epoch_is_enough(self, tmp_path: Path) -> None:
        place(tmp_path, "a", half())
        place(tmp_path, "b", half())
        assert len(opened(tmp_path, crops=1).names("train")) == 1

    def test_some_crops_are_looked_for_where_no_roof_is(self, tmp_path: Path) -> None:
        place(tmp_path, "a", half(128))
        place(tmp_path, "b", half())
        empty = {}
        for share in (0.0, 1.0):
            reader = opened(tmp_path, empty_share=share, places=["a", "b"])
            labels = [reader.read("train", k, np.random.default_rng(k)).label for k in range(60)]
            empty[share] = np.mean([not (label == 1).any() for label in labels])
        # Of the places that a crop of 46 can have in 128 columns, 19 of 83 are without roof: 1 in 4.4.
        assert empty[0.0] == pytest.approx(19 / 83, abs=0.15)
        assert empty[1.0] == pytest.approx(1 - (1 - 19 / 83) ** 6, abs=0.12)

    def test_pixel_sizes_are_those_asked_for(self, tmp_path: Path) -> None:
        """A stripe of 10 m is as wide as the drawn pixel size says."""
        mask = np.zeros((400, 400), np.uint8)
        mask[:, 190:210] = 1
        place(tmp_path, "a", mask)
        place(tmp_path, "b", half())
        reader = opened(tmp_path, pixel_sizes=[0.4, 1.0])
        widths = []
        for k in range(150):
            sample = reader.read("train", k, np.random.default_rng(k))
            columns = (sample.label == 1).all(axis=0)
            if columns.any() and not columns[0] and not columns[-1]:
                widths.append(int(columns.sum()))
        assert min(widths) in (10, 11)
        assert max(widths) in (23, 24, 25)

    def test_small_pictures_are_laid_side_by_side(self, tmp_path: Path) -> None:
        place(tmp_path, "a", half(20), count=5)
        place(tmp_path, "b", half())
        sample = opened(tmp_path).read("train", 0, np.random.default_rng(1))
        assert sample.valid.all()
        np.testing.assert_array_equal(sample.values[0] == 200, sample.label == 1)
        # Whole pictures of 20 pixels with their edges at one distance from each other.
        edges = np.flatnonzero(np.diff(sample.label[0].astype(int)))
        assert set(np.diff(edges)) == {10}
        assert len(np.unique(sample.values[1])) > 1

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"crops": None, "empty_share": 0.2}, "data.empty_share is for data.crops"),
            ({"gsd": None}, "data.crops needs data.gsd"),
            ({"crops": 0}, "data.crops 0 is no whole number above 0"),
            ({"weights": {"aa": 1.0}}, "no training place is called 'aa'; did you mean 'a'"),
            ({"weights": {"a": -1.0}}, "data.weights: a -1.0 is below 0"),
            ({"weights": {"a": 0.0}}, "all are 0"),
            ({"pixel_sizes": [0.3]}, "give the least and the largest"),
            ({"pixel_sizes": [0.3, 0.2]}, "give the least and the largest"),
            ({"empty_share": 1.5}, "data.empty_share 1.5 is no share"),
        ],
    )
    def test_wrong_options_are_one_line(self, tmp_path: Path, options: dict, words: str) -> None:
        place(tmp_path, "a", half())
        place(tmp_path, "b", half())
        with pytest.raises(SettingsError, match=words):
            opened(tmp_path, **options)


class TestBoxes:
    def test_outside_is_background_the_core_is_roof_the_rest_unknown(self) -> None:
        label = label_of_boxes(((10, 20, 20, 10),), (40, 50))
        assert (label[20:30, 10:30][(label[20:30, 10:30] != 1)] == IGNORE).all()
        rows, cols = np.nonzero(label == 1)
        # Two fifths of 20 x 10 about the middle (20, 25).
        assert (rows.min(), rows.max(), cols.min(), cols.max()) == (23, 26, 16, 23)
        assert (label == 0).sum() == 40 * 50 - 200

    def test_boxes_that_reach_over_the_rim_and_overlap(self) -> None:
        label = label_of_boxes(((-10, -10, 20, 20), (0, 0, 30, 30)), (30, 30))
        assert label[0, 0] == 1  # the core of the first is 4 pixels about (0, 0)
        assert label[15, 15] == 1
        assert label[8, 8] == IGNORE

    def test_a_place_with_boxes_is_read_whole_and_in_parts(self, tmp_path: Path) -> None:
        place(tmp_path, "b", half())
        for k in range(2):
            layouts.save_tif(tmp_path / "e/images" / f"{k}.tif", np.full((3, 60, 80), 9, np.uint8))
        boxes = {"0": [[20, 10, 30, 40]], "1": []}
        (tmp_path / "e/boxes.json").write_text(json.dumps(boxes))
        options = {"gsd": 1.0, "metres": {"b": 0.5, "e": 0.5}, "split": {"val": ["b"]}}
        reader = open_reader("rooftop-tiles", tmp_path, options)
        assert reader.names("train") == ["e/0", "e/1"]
        whole = reader.read("train", 0, None)
        assert whole.label.shape == (30, 40)
        np.testing.assert_array_equal(
            whole.label, label_of_boxes(((20, 10, 30, 40),), (60, 80))[1::2, 1::2]
        )
        assert not reader.read("train", 1, None).label.any()
        pair = reader.splits["train"][0]
        part = reader.read_part(pair, Part(Window(10, 20, 20, 20), (20, 20)))
        np.testing.assert_array_equal(
            part.label, label_of_boxes(((20, 10, 30, 40),), (60, 80))[10:30, 20:40]
        )

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("[1, 2]", "no boxes by picture"),
            ('{"0": [[1, 2, 3]]}', r"a box is \[x, y, width, height\]"),
            ("{", "no boxes by picture"),
            ('{"1": []}', r"0\.tif: boxes\.json says nothing of it"),
        ],
    )
    def test_wrong_files_are_one_line(self, tmp_path: Path, text: str, words: str) -> None:
        layouts.save_tif(tmp_path / "e/images/0.tif", np.zeros((3, 8, 8), np.uint8))
        (tmp_path / "e/boxes.json").write_text(text)
        with pytest.raises(InputError, match=words):
            open_reader("rooftop-tiles", tmp_path, {})


class TestContact:
    @pytest.mark.parametrize("radius", [1.0, 2.0, 2.67, 3.5])
    def test_it_is_within_a_radius_of_two_numbers(self, radius: float) -> None:
        numbers = np.random.default_rng(2).choice([0, 0, 0, 0, 1, 2, 3], (24, 30))
        rows, cols = np.mgrid[:24, :30]
        found = _between(numbers, radius)
        for row in range(24):
            for col in range(30):
                near = (rows - row) ** 2 + (cols - col) ** 2 <= radius**2
                assert found[row, col] == (len(set(numbers[near].tolist()) - {0}) > 1)

    def test_regions_of_the_mask_are_buildings(self, tmp_path: Path) -> None:
        """Two houses 1 m apart have contact between them, and a third one far away has none."""
        mask = np.zeros((60, 60), np.uint8)
        mask[10:30, 5:20], mask[10:30, 22:40], mask[40:55, 5:20] = 1, 1, 1
        place(tmp_path, "a", mask)
        place(tmp_path, "b", half())
        reader = opened(tmp_path, instances={"a": "mask"}, gsd=0.2, metres={"a": 0.2, "b": 0.2})
        for k in range(20):
            sample = reader.read("train", k, np.random.default_rng(k))
            assert sample.contact is not None
            assert set(np.unique(sample.contact)) <= {0, 1}
            cols = np.nonzero(sample.contact)[1]
            # Radius 2 pixels, gap 2: one column of each house and the gap.
            assert len(set(cols.tolist())) <= 4
        assert (sample.contact == 1).any()
        plain = opened(tmp_path).read("train", 0, np.random.default_rng(0))
        assert plain.contact is not None
        assert (plain.contact == IGNORE).all()

    def test_buildings_of_a_vector_file_touch_where_the_mask_is_one(self, tmp_path: Path) -> None:
        transform = Affine(0.2, 0, 5e5, 0, -0.2, 9e6)
        mask = np.zeros((60, 60), np.uint8)
        mask[10:50, 10:50] = 1
        place(tmp_path, "a", mask, crs="EPSG:32737", transform=transform)
        houses = [shapely.box(5e5 + x, 9e6 - 10, 5e5 + x + 4, 9e6 - 2) for x in (2, 6)]
        frame = geopandas.GeoDataFrame(geometry=houses, crs="EPSG:32737").to_crs("EPSG:4326")
        frame.to_file(tmp_path / "houses.geojson")
        part = Part(None, (60, 60))
        found = contact_of_layer(tmp_path / "a/masks/0.tif", str(tmp_path / "houses.geojson"), part, 0.2)
        expected = np.zeros((60, 60), np.uint8)
        # Their wall is at 6 m, column 30; within 2 pixels of both are 28..31, rounded at its ends.
        expected[10:50, 28:32] = 1
        np.testing.assert_array_equal(found[12:48], expected[12:48])


@pytest.mark.parametrize("box", [(2, -5, 4, 3), (-9, 2, 4, 3), (2, 12, 4, 3), (12, 2, 4, 3)])
def test_a_box_beside_the_picture_says_nothing_of_it(box: tuple[int, int, int, int]) -> None:
    assert not label_of_boxes((box,), (10, 10)).any()
