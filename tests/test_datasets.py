"""Readers on small data sets in their real layouts."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests import layouts
from tilesegment.datasets.check import Findings, _note_twin, check
from tilesegment.datasets.download import fetch_archive
from tilesegment.datasets.labels import Colours, Indices, Threshold
from tilesegment.datasets.opening import open_reader
from tilesegment.datasets.sample import IGNORE
from tilesegment.datasets.split import split
from tilesegment.datasets.tables import (
    CAMVID_11,
    CAMVID_32,
    CITYSCAPES,
    CITYSCAPES_19,
    CITYSCAPES_30,
    COCO,
    VOC,
)
from tilesegment.datasets.values import values_of
from tilesegment.errors import InputError, SettingsError


def opened(name: str, root: Path, **options: Any):
    return open_reader(name, root, options)


def first(reader, part: str = "train"):
    return reader.read(part, 0, None)


class TestRooftopTiles:
    @pytest.mark.parametrize("nested", [True, False])
    def test_both_layouts(self, tmp_path: Path, nested: bool) -> None:
        reader = opened("rooftop-tiles", layouts.rooftops(tmp_path, 20, nested=nested))
        assert {part: len(reader.names(part)) for part in ("train", "val", "test")} == {
            "train": 18,
            "val": 1,
            "test": 1,
        }
        sample = first(reader)
        assert sample.values.shape == (3, 64, 64)
        assert set(np.unique(sample.label)) == {0, 1}
        assert reader.names("train")[0].startswith("t")

    def test_labels_of_0_and_1_and_jpeg_labels(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        label = layouts.scene(rng, 40, 40, [0, 1]).astype(np.uint8)
        for kind, values in (("png", label), ("jpg", label * 255)):
            root = tmp_path / kind
            for k in range(3):
                layouts.save(root / "images" / f"{k}.jpg", layouts.photograph(rng, label))
                layouts.save(root / "labels" / f"{k}.{kind}", values, quality=95)
            np.testing.assert_array_equal(first(opened("rooftop-tiles", root)).label, label)

    def test_a_wrong_label_value_names_file_and_value(self, tmp_path: Path) -> None:
        root = layouts.rooftops(tmp_path, 4)
        layouts.save_tif(root / "label/label/t00_label.tif", np.full((1, 64, 64), 77, np.uint8))
        reader = opened("rooftop-tiles", root, split={"train": 1.0})
        with pytest.raises(InputError, match=r"t00_label\.tif: holds the label 77"):
            first(reader)

    def test_a_missing_label_is_an_error_with_its_name(self, tmp_path: Path) -> None:
        root = layouts.rooftops(tmp_path, 5)
        (root / "label/label/t03_label.tif").unlink()
        with pytest.raises(InputError, match=r"t03\.tif: no label in .*label"):
            opened("rooftop-tiles", root)

    def test_another_size_is_an_error_with_both(self, tmp_path: Path) -> None:
        root = layouts.rooftops(tmp_path, 4)
        layouts.save_tif(root / "label/label/t00_label.tif", np.zeros((1, 64, 60), np.uint8))
        with pytest.raises(InputError, match="64x64 pixels, but its label has 60x64"):
            first(opened("rooftop-tiles", root, split={"train": 1.0}))

    def test_places_are_folders(self, tmp_path: Path) -> None:
        for place in ("a", "b", "c"):
            layouts.rooftops(tmp_path / place, 3, nested=False)
        reader = opened("rooftop-tiles", tmp_path, split={"val": ["b"]})
        assert reader.names("val") == ["b/t00", "b/t01", "b/t02"]
        assert len(reader.names("train")) == 6
        assert opened("rooftop-tiles", tmp_path, places=["a"]).names("train")[0].startswith("a/")
        with pytest.raises(InputError, match="nothing there is called 'bb'"):
            opened("rooftop-tiles", tmp_path, split={"val": ["bb"]})

    def test_a_pixel_size_resamples_picture_and_label_alike(self, tmp_path: Path) -> None:
        label = np.zeros((1, 80, 80), np.uint8)
        label[:, 20:60, 20:60] = 255
        where = {"crs": "EPSG:32737", "transform": Affine(0.1, 0, 5e5, 0, -0.1, 9e6)}
        for k in range(2):
            layouts.save_tif(tmp_path / "images" / f"{k}.tif", np.repeat(label, 3, axis=0), **where)
            layouts.save_tif(tmp_path / "masks" / f"{k}.tif", label)
        sample = first(opened("rooftop-tiles", tmp_path, gsd=0.2))
        assert sample.label.shape == sample.values.shape[1:] == (40, 40)
        np.testing.assert_array_equal(sample.label, sample.values[0] > 127)
        plain = layouts.rooftops(tmp_path / "x")
        with pytest.raises(InputError, match=r"has no georeference.*data\.metres"):
            opened("rooftop-tiles", plain, gsd=0.2)
        # 64 pixels of 0.1 m.
        assert first(opened("rooftop-tiles", plain, gsd=0.2, metres=0.1)).label.shape == (32, 32)
        assert first(opened("rooftop-tiles", plain, gsd=0.2, metres={"": 0.1})).label.shape == (32, 32)
        for wrong in (0, "a", True, {"": -1}):
            with pytest.raises(SettingsError, match=r"data\.metres .*give metres a pixel"):
                opened("rooftop-tiles", plain, gsd=0.2, metres=wrong)


class TestSplit:
    names = tuple(f"n{k}" for k in range(40))

    @given(st.integers(0, 60), st.integers(0, 99))
    def test_shares_are_a_partition(self, count: int, seed: int) -> None:
        parts = split(
            self.names[:1] * count, [""] * count, {"train": 0.9, "val": 0.05, "test": 0.05}, seed, ""
        )
        together = sorted(parts["train"] + parts["val"] + parts["test"])
        assert together == list(range(count))
        if count >= 3:
            assert all(parts.values())

    def test_lists(self, tmp_path: Path) -> None:
        (tmp_path / "t.txt").write_text("n0\nn1.tif\n")
        (tmp_path / "v.txt").write_text("n7\n")
        parts = split(self.names, [""] * 40, {"train": "t.txt", "val": "v.txt"}, 0, str(tmp_path))
        assert parts == {"train": [0, 1], "val": [7], "test": []}
        (tmp_path / "v.txt").write_text("n77\n")
        with pytest.raises(InputError, match="names 'n77', which is not there"):
            split(self.names, [""] * 40, {"val": "v.txt"}, 0, str(tmp_path))

    @pytest.mark.parametrize(
        "setting", [{"trian": 0.9}, {"train": 0.9, "val": 0.3}, {"train": 0.9, "val": ["a"]}]
    )
    def test_wrong_settings(self, setting: dict[str, Any]) -> None:
        with pytest.raises(SettingsError, match=r"data\.split"):
            split(self.names, [""] * 40, setting, 0, "")


class TestCityscapes:
    @pytest.mark.parametrize(("classes", "count"), [(19, 19), (30, 30)])
    def test_label_ids(self, tmp_path: Path, classes: int, count: int) -> None:
        reader = opened("cityscapes", layouts.cityscapes(tmp_path), classes=classes)
        assert len(reader.classes) == count
        sample = first(reader)
        known = {entry.name for entry in reader.classes}
        assert {reader.classes[k].name for k in set(np.unique(sample.label)) - {IGNORE}} <= known
        assert (sample.label == IGNORE).any()
        assert reader.names("train")[0].startswith("aachen_000000")

    def test_train_ids_agree_with_label_ids(self, tmp_path: Path) -> None:
        root = layouts.cityscapes(tmp_path)
        ids, train_ids = (opened("cityscapes", root, labels=kind) for kind in ("labelIds", "labelTrainIds"))
        for k in range(len(ids.names("train"))):
            np.testing.assert_array_equal(
                ids.read("train", k, None).label, train_ids.read("train", k, None).label
            )

    def test_colours_agree_but_for_those_that_are_shared(self, tmp_path: Path) -> None:
        root = layouts.cityscapes(tmp_path)
        ids = first(opened("cityscapes", root, classes=30)).label
        reader = opened("cityscapes", root, classes=30, labels="color")
        colours = first(reader).label
        names = [label.name for label in CITYSCAPES_30]
        expected = ids.copy()
        expected[ids == names.index("polegroup")] = names.index("pole")
        # Black stands for five labels; among the thirty it is static.
        black = ids == IGNORE
        np.testing.assert_array_equal(colours[~black], expected[~black])
        assert any("pole, polegroup share the colour" in note for note in reader.notes)

    def test_foreground_becomes_one_class(self, tmp_path: Path) -> None:
        root = layouts.cityscapes(tmp_path)
        plain = first(opened("cityscapes", root, classes=30)).label
        binary = first(opened("cityscapes", root, classes=30, foreground=["car", "person"])).label
        names = [label.name for label in CITYSCAPES_30]
        wanted = np.isin(plain, [names.index("car"), names.index("person")])
        np.testing.assert_array_equal(binary == 1, wanted)
        np.testing.assert_array_equal(binary == IGNORE, plain == IGNORE)
        with pytest.raises(InputError, match="foreground 'cart' is no class"):
            opened("cityscapes", root, foreground=["cart"])

    def test_what_is_missing_is_named(self, tmp_path: Path) -> None:
        root = layouts.cityscapes(tmp_path)
        next((root / "gtFine" / "train" / "aachen").glob("*_labelIds.png")).unlink()
        with pytest.raises(InputError, match=r"_leftImg8bit\.png: no \*_gtFine_labelIds\.png"):
            opened("cityscapes", root)
        with pytest.raises(InputError, match="leftImg8bit/ and gtFine/, or train/"):
            opened("cityscapes", tmp_path / "gtFine")

    def test_the_table_is_the_publishers(self) -> None:
        assert len(CITYSCAPES) == 34
        assert [label.number for label in CITYSCAPES_19] == [
            7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33,
        ]  # fmt: skip
        assert [label.train_id for label in CITYSCAPES_19] == list(range(19))
        assert len({label.colour for label in CITYSCAPES}) == 29


class TestColourFolders:
    @pytest.mark.parametrize("layout", ["images+masks", "img+label", "labels", "halves"])
    def test_layouts(self, tmp_path: Path, layout: str) -> None:
        reader = opened("colour-folders", layouts.colour_folders(tmp_path, layout))
        assert [entry.name for entry in reader.classes] == list(layouts.PALETTE)
        assert len(reader.names("train")) == len(reader.names("val")) == 4
        sample = first(reader)
        assert sample.label.shape == sample.values.shape[1:] == (48, 48)
        assert len(set(np.unique(sample.label)) - {IGNORE}) >= 2

    def test_a_colour_at_the_distance_is_within_it(self) -> None:
        decode = Colours(((0, 0, 0, 0), (200, 0, 0, 1)), distance=40)
        bands = np.zeros((3, 1, 4), np.uint8)
        bands[:, 0] = np.array([[40, 0, 0], [0, 41, 0], [200, 24, 32], [200, 24, 33]]).T
        assert decode(bands, "x").tolist() == [[0, IGNORE, 1, IGNORE]]

    def test_blended_edges_take_the_nearest_colour_or_none(self) -> None:
        decode = Colours(((0, 0, 0, 0), (200, 0, 0, 1)), distance=40)
        values = np.array([[0, 30, 100, 170, 200, 205]], np.uint8)
        bands = np.stack([values, np.zeros_like(values), np.zeros_like(values)])
        assert decode(bands, "x").tolist() == [[0, 0, IGNORE, 1, 1, 1]]

    @given(st.integers(0, 2**32 - 1))
    def test_decoding_equals_brute_force(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        palette = rng.integers(0, 256, (5, 3))
        values = rng.integers(0, 256, (3, 6, 7)).astype(np.uint8)
        decode = Colours(tuple((*map(int, row), k) for k, row in enumerate(palette)), distance=90)
        far = ((values.astype(float)[:, None] - palette.T[:, :, None, None]) ** 2).sum(axis=0)
        expected = np.where(far.min(axis=0) <= 90**2, far.argmin(axis=0), IGNORE)
        if (expected == IGNORE).all():
            with pytest.raises(InputError, match="none of its colours"):
                decode(values, "x")
        else:
            np.testing.assert_array_equal(decode(values, "x"), expected)

    def test_a_wrong_palette_is_one_line(self, tmp_path: Path) -> None:
        root = layouts.colour_folders(tmp_path, "images+masks")
        palette = {"red": [255, 0, 0], "yellow": [255, 255, 0]}
        with pytest.raises(InputError, match=r"\.png: none of its colours, such as .*palette's$"):
            first(opened("colour-folders", root, palette=palette))

    def test_ignored_and_wrong_palettes(self, tmp_path: Path) -> None:
        root = layouts.colour_folders(tmp_path, "images+masks")
        reader = opened("colour-folders", root, ignore=["void"])
        assert [entry.name for entry in reader.classes] == ["sky", "road", "tree"]
        everything = opened("colour-folders", root)
        for k in range(4):
            void = everything.read("train", k, None).label == 3
            np.testing.assert_array_equal(reader.read("train", k, None).label == IGNORE, void)
        with pytest.raises(SettingsError, match="'vod' is no class"):
            opened("colour-folders", root, ignore=["vod"])
        with pytest.raises(InputError, match="is no colour"):
            opened("colour-folders", root, palette={"a": [1, 2, 300]})
        (root / "class_dict.csv").unlink()
        with pytest.raises(InputError, match=r"class_dict\.csv: no palette there"):
            opened("colour-folders", root)

    def test_json_palettes(self, tmp_path: Path) -> None:
        root = layouts.colour_folders(tmp_path, "img+label")
        (root / "p.json").write_text('{"classes": [{"name": "sky", "color": [70, 130, 180]}]}')
        assert opened("colour-folders", root, palette="p.json").classes[0].name == "sky"


class TestVoc:
    def test_lists_palette_indices_and_borders(self, tmp_path: Path) -> None:
        reader = opened("voc", layouts.voc(tmp_path))
        assert reader.names("train") == [f"2007_{k:06d}" for k in range(4)]
        assert reader.names("val") == reader.names("test") == ["2007_000004", "2007_000005"]
        label = first(reader).label
        assert set(np.unique(label)) <= {0, 7, 15, IGNORE}
        assert (label == IGNORE).any()
        assert VOC[15].name == "person"
        assert VOC[15].colour == (192, 128, 128)

    def test_a_named_file_that_is_not_there(self, tmp_path: Path) -> None:
        root = layouts.voc(tmp_path)
        (root / "VOCdevkit/VOC2012/SegmentationClass/2007_000001.png").unlink()
        with pytest.raises(InputError, match=r"2007_000001\.png: is named by train\.txt"):
            opened("voc", root)

    def test_a_truncated_png_is_one_line(self, tmp_path: Path) -> None:
        root = layouts.voc(tmp_path)
        path = root / "VOCdevkit/VOC2012/SegmentationClass/2007_000000.png"
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(InputError, match=r"2007_000000\.png: cannot be read") as caught:
            first(opened("voc", root))
        assert "\n" not in str(caught.value)


class TestCoco:
    def test_multi_class_ids_overlaps_and_crowds(self, tmp_path: Path) -> None:
        reader = opened("coco", layouts.coco(tmp_path))
        assert len(reader.classes) == 81
        label = first(reader).label
        names = [entry.name for entry in reader.classes]
        # The small car lies in front of the large person whatever the order in the file.
        assert names[label[30, 30]] == "car"
        assert names[label[10, 12]] == "person"
        assert names[label[20, 60]] == "toothbrush"
        # The crowd is ignored but where an instance was drawn.
        assert (label[50:, :10] == IGNORE).all()
        assert names[label[10, 7]] == "person"
        assert len(COCO) == 80
        assert max(COCO) == 90

    def test_binary_grey_and_empty_pictures(self, tmp_path: Path) -> None:
        reader = opened("coco", layouts.coco(tmp_path), foreground=["person"])
        label = first(reader).label
        assert label[10, 12] == 1
        assert label[30, 30] == 1
        assert label[20, 60] == 0
        assert reader.read("train", 1, None).values.shape[0] == 3
        assert not reader.read("train", 3, None).label.any()
        with pytest.raises(SettingsError, match="'persons' is no category of COCO; did you mean 'person'"):
            opened("coco", tmp_path, foreground=["persons"])


class TestCamvid:
    def test_indices(self, tmp_path: Path) -> None:
        reader = opened("camvid", layouts.camvid(tmp_path))
        assert len(reader.classes) == 11
        assert set(np.unique(first(reader).label)) <= {0, 1, 3, 8, IGNORE}

    def test_colours_of_32_classes(self, tmp_path: Path) -> None:
        root = layouts.camvid(tmp_path, rgb=True)
        eleven, all_of_them = opened("camvid", root), opened("camvid", root, classes=32)
        names = [[entry.name for entry in reader.classes] for reader in (eleven, all_of_them)]
        few, many = first(eleven).label, first(all_of_them).label
        assert {names[0][k] for k in np.unique(few) if k != IGNORE} <= {"Sky", "Building", "Car", "Road"}
        np.testing.assert_array_equal(few == names[0].index("Car"), many == names[1].index("Car"))
        assert len(names[1]) == 31
        with pytest.raises(SettingsError, match="11 or 32"):
            opened("camvid", root, classes=12)


class TestScenes:
    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        rng = np.random.default_rng(0)
        at = Affine(0.1, 0, 5e5, 0, -0.1, 9e6)
        values = rng.integers(1, 255, (3, 300, 400)).astype(np.uint8)
        values[:, :40, :40] = 0
        layouts.save_tif(tmp_path / "s.tif", values, crs="EPSG:32737", transform=at, nodata=0)
        roofs = [shapely.box(5e5 + 10, 9e6 - 20, 5e5 + 16, 9e6 - 12)]
        frame = geopandas.GeoDataFrame(geometry=roofs, crs="EPSG:32737").to_crs("EPSG:4326")
        frame.to_file(tmp_path / "roofs.geojson")
        area = geopandas.GeoDataFrame(
            geometry=[shapely.box(5e5, 9e6 - 25, 5e5 + 30, 9e6)], crs="EPSG:32737"
        )
        area.to_file(tmp_path / "area.gpkg")
        return tmp_path

    def reader(self, place: Path, **more: Any):
        entry = {"scene": "s.tif", "footprints": "roofs.geojson"}
        scenes = [{**entry, **more}, {**entry, **more, "split": "val"}]
        return open_reader("rooftop-scenes", place, {"scenes": scenes, "windows": 5}, (64, 64))

    def test_footprints_lie_on_the_pixels_grid(self, place: Path) -> None:
        reader = self.reader(place)
        whole = np.full((320, 448), IGNORE, np.uint8)
        for k in range(len(reader.names("val"))):
            row, col = map(int, reader.names("val")[k].split("-")[1:])
            whole[row : row + 64, col : col + 64] = reader.read("val", k, None).label
        expected = np.zeros((300, 400), np.uint8)
        expected[120:200, 100:160] = 1
        expected[:40, :40] = IGNORE
        np.testing.assert_array_equal(whole[:300, :400], expected)
        assert (whole[300:] == IGNORE).all()
        assert len(reader.names("train")) == 5

    def test_windows_follow_from_the_random_numbers(self, place: Path) -> None:
        reader = self.reader(place)
        one, same, other = (reader.read("train", 0, np.random.default_rng(seed)) for seed in (3, 3, 4))
        np.testing.assert_array_equal(one.values, same.values)
        assert not np.array_equal(one.values, other.values)

    def test_only_what_was_labelled_counts(self, place: Path) -> None:
        reader = self.reader(place, labelled="area.gpkg")
        assert all(int(name.split("-")[2]) < 300 for name in reader.names("val"))
        labels = [reader.read("val", k, None).label for k in range(len(reader.names("val")))]
        known = sum(int((label != IGNORE).sum()) for label in labels)
        assert known == 250 * 300 - 40 * 40


def test_values_outside_a_table_are_an_error() -> None:
    with pytest.raises(InputError, match="holds the label 9, which is none of 0, 1"):
        Indices.of({0: 0, 1: 1})(np.array([[[0, 9]]], np.uint8), "x")


def test_unknown_readers_and_options_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean 'rooftop-tiles'"):
        opened("rooftop-tile", tmp_path)
    with pytest.raises(SettingsError, match="has no option 'splits'; did you mean 'split'"):
        opened("rooftop-tiles", layouts.rooftops(tmp_path), splits={})
    with pytest.raises(InputError, match="no such folder; give the data set with --data"):
        opened("voc", tmp_path / "nowhere")


class TestCheck:
    def test_a_good_data_set(self, tmp_path: Path) -> None:
        findings = check(opened("rooftop-tiles", layouts.rooftops(tmp_path, 20)))
        assert findings.errors == []
        assert findings.pictures == {"train": 18, "val": 1, "test": 1}
        assert sum(findings.pixels.values()) == 20 * 64 * 64

    def test_everything_that_is_wrong_is_named_at_once(self, tmp_path: Path) -> None:
        root = layouts.rooftops(tmp_path, 6)
        (root / "images/images/t01.tif").write_bytes(b"II*\0nothing")
        layouts.save_tif(root / "label/label/t02_label.tif", np.full((1, 64, 64), 3, np.uint8))
        layouts.save_tif(root / "label/label/t03_label.tif", np.zeros((1, 9, 9), np.uint8))
        (root / "images/images/t05.tif").write_bytes((root / "images/images/t04.tif").read_bytes())
        (root / "a.txt").write_text("t00 t01 t02 t03 t04")
        (root / "b.txt").write_text("t05")
        findings = check(opened("rooftop-tiles", root, split={"train": "a.txt", "val": "b.txt"}))
        text = "\n".join(findings.errors)
        twin = "val/t05 is the same picture as train/t04"
        for part in ("t01.tif: cannot be read", "holds the label 3", "9x9", twin):
            assert part in text
        assert len(findings.errors) == 4


def test_cityscapes_colours_outside_the_table_are_no_class() -> None:
    """Of the 19 classes; each label's own colour, beside that of the first class."""
    from tilesegment.datasets.cityscapes import _decoder

    decode = _decoder(CITYSCAPES_19, "color")
    own = {entry.colour: number for number, entry in enumerate(CITYSCAPES_19)}
    for entry in CITYSCAPES:
        bands = np.array([entry.colour, CITYSCAPES_19[0].colour], np.uint8).T[:, None]
        assert decode(bands, "x")[0].tolist() == [own.get(entry.colour, IGNORE), 0], entry


def test_cityscapes_black_is_no_class() -> None:
    from tilesegment.datasets.cityscapes import _decoder

    assert "static" in [entry.name for entry in CITYSCAPES_30]
    bands = np.array([[0, 0, 0], CITYSCAPES_30[5].colour], np.uint8).T[:, None]
    assert _decoder(CITYSCAPES_30, "color")(bands, "x")[0].tolist() == [IGNORE, 5]


def test_colours_are_looked_up_however_often_they_were_met() -> None:
    """The second picture has colours of the first one, and new ones."""
    decode = Colours(((10, 0, 0, 0), (0, 200, 0, 1), (9, 9, 200, IGNORE)), distance=30.5)
    first = np.array([[10, 0, 0], [0, 190, 0], [9, 9, 190], [90, 90, 90]], np.uint8).T[:, None]
    second = np.array([[90, 90, 90], [0, 180, 0], [0, 190, 0], [39, 0, 0]], np.uint8).T[:, None]
    for _ in range(2):
        assert decode(first, "x")[0].tolist() == [0, 1, IGNORE, IGNORE]
        assert decode(second, "x")[0].tolist() == [IGNORE, 1, 1, 0]
    # Another distance is another table.
    assert Colours(decode.palette, distance=15)(second, "x")[0].tolist() == [IGNORE, IGNORE, 1, IGNORE]
    # What the palette leaves out is no error.
    assert decode(first[:, :, 2:3], "x")[0].tolist() == [IGNORE]
    with pytest.raises(InputError, match=r"none of its colours, such as \(90, 90, 90\)"):
        decode(first[:, :, 3:], "x")


def coco_of(tmp_path: Path, annotations: list[dict[str, Any]], names: tuple[str, ...] = ("a.jpg",)) -> Path:
    """A data set of grey pictures of 20 x 20 pixels, their ids from 9 on."""
    images = []
    for k, name in enumerate(names):
        layouts.save(tmp_path / "val2017" / name, np.full((20, 20, 3), 9, np.uint8))
        layouts.save(tmp_path / "train2017" / name, np.full((20, 20, 3), 9, np.uint8))
        images.append({"id": 9 + k, "file_name": name, "height": 20, "width": 20})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
    }
    for part in ("train2017", "val2017"):
        file = tmp_path / "annotations" / f"instances_{part}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    return tmp_path


def box_of(number: int, category: int, box: tuple[int, int, int, int], **fields: Any) -> dict[str, Any]:
    x, y, width, height = box
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {"id": number, "image_id": 9, "category_id": category, "segmentation": [corners], **fields}


def test_of_equal_instances_the_one_of_the_larger_number_lies_above(tmp_path: Path) -> None:
    boxes = [box_of(10, 3, (2, 2, 10, 10), area=100), box_of(9, 1, (6, 6, 10, 10), area=100)]
    reader = opened("coco", coco_of(tmp_path, boxes))
    label = reader.read("val", 0).label
    names = [entry.name for entry in reader.classes]
    assert names[label[8, 8]] == "car"
    assert names[label[14, 14]] == "person"


def test_an_instance_without_an_area_has_that_of_its_mask(tmp_path: Path) -> None:
    boxes = [box_of(1, 1, (4, 4, 6, 6), area=36), box_of(2, 3, (2, 2, 14, 14))]
    reader = opened("coco", coco_of(tmp_path, boxes))
    label = reader.read("val", 0).label
    names = [entry.name for entry in reader.classes]
    assert names[label[6, 6]] == "person"
    assert names[label[12, 12]] == "car"


def test_pictures_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    reader = opened("coco", coco_of(tmp_path, [], ("b.jpg", "a.jpg")))
    assert [Path(name).stem for name in reader.names("val")] == ["b", "a"]


def test_twins_in_different_splits() -> None:
    found = Findings()
    for one, other in (("train", "val"), ("train", "test"), ("val", "test"), ("train", "train")):
        _note_twin(found, (one, "a"), (other, "b"))
    assert [line.split()[0] for line in found.errors] == ["val/b", "test/b", "test/b"]
    assert found.warnings == ["train/b is the same picture as train/a"]
    found = Findings()
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        _note_twin(found, (one, "a"), (other, "a"))
    # One list may stand for validation and test; what is trained on is worth a line.
    assert found.errors == []
    assert found.warnings == [
        "val/a is the same picture as train/a", "test/a is the same picture as train/a",
    ]  # fmt: skip


def test_a_place_is_a_folder_or_a_beginning() -> None:
    names, places = ["ab/1", "b/1", "c/b", "bc1"], ["ab", "b", "c", ""]
    found = split(names, places, {"val": ["b"]}, 0, "x")
    assert found == {"train": [0, 2], "val": [1, 3], "test": []}
    found = split(names, places, {"val": ["bc"], "train": ["ab"]}, 0, "x")
    assert found == {"train": [0], "val": [3], "test": []}


class _Server(http.server.BaseHTTPRequestHandler):
    """Serves one archive, breaks off the first time, and honours ranges."""

    content = b""
    asked: ClassVar[list[str | None]] = []
    broken = True

    def do_GET(self) -> None:
        begin = int((self.headers["Range"] or "bytes=0-").split("=")[1].rstrip("-"))
        type(self).asked.append(self.headers["Range"])
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(self.content) - begin))
        self.end_headers()
        end = len(self.content) // 2 if self.broken else len(self.content)
        type(self).broken = False
        self.wfile.write(self.content[begin:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[_Server]]]:
    _Server.asked, _Server.broken = [], True
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_address[1]}/archive.tar", _Server
        found.shutdown()


def archive_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


class TestDownload:
    def test_it_goes_on_where_it_broke_off(self, tmp_path: Path, server) -> None:
        url, handler = server
        handler.content = archive_of({"a/b.txt": b"x" * 50_000})
        with pytest.raises(InputError, match="run it again to go on"):
            fetch_archive(url, None, tmp_path)
        half = (tmp_path / "archive.tar.part").stat().st_size
        assert 0 < half < len(handler.content)
        fetch_archive(url, None, tmp_path)
        assert handler.asked == [None, f"bytes={half}-"]
        assert (tmp_path / "a/b.txt").read_bytes() == b"x" * 50_000

    def test_a_wrong_checksum_unpacks_nothing(self, tmp_path: Path, server) -> None:
        url, handler = server
        handler.content, handler.broken = archive_of({"a.txt": b"x"}), False
        with pytest.raises(InputError, match=r"md5 is .*, not 123"):
            fetch_archive(url, "123", tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["../out.txt", "/out.txt"])
    def test_no_path_escapes(self, tmp_path: Path, server, name: str) -> None:
        url, handler = server
        handler.content, handler.broken = archive_of({name: b"x"}), False
        folder = tmp_path / "in"
        with contextlib.suppress(InputError):
            # Python removes the leading slash of an absolute name and refuses the other one.
            fetch_archive(url, None, folder)
        assert not (tmp_path / "out.txt").exists()
        assert not Path("/out.txt").exists()

    def test_voc_is_fetched_where_it_is_not_there(self, tmp_path: Path, server) -> None:
        url, handler = server
        source = layouts.voc(tmp_path / "made")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(source / "VOCdevkit", "VOCdevkit")
        handler.content, handler.broken = buffer.getvalue(), False
        reader = opened("voc", tmp_path / "new", download=True, url=url)
        assert len(reader.names("train")) == 4


class TestLabelFiles:
    """White is roof, whatever number a palette gives it; an alpha band changes nothing."""

    MASK: ClassVar = np.kron(np.array([[0, 1], [0, 0]]), np.ones((20, 20))).astype(np.uint8)

    def root(self, tmp_path: Path, save) -> Path:
        for k in range(3):
            layouts.save(tmp_path / "images" / f"{k}.png", np.full((40, 40, 3), k, np.uint8))
            (tmp_path / "masks").mkdir(exist_ok=True)
            save(tmp_path / "masks" / f"{k}.png")
        return tmp_path

    def palette(self, numbers: np.ndarray, colours: list[tuple[int, int, int]]) -> Any:
        picture = Image.fromarray(numbers, "P")
        picture.putpalette([value for colour in colours for value in colour])
        return picture.save

    @pytest.mark.parametrize(
        "kind",
        ["white first", "black first", "red", "grey and alpha", "colours and alpha", "one bit", "ones"],
    )
    def test_the_same_mask_in_every_form(self, tmp_path: Path, kind: str) -> None:
        white = Image.fromarray(self.MASK * 255)
        save = {
            "white first": self.palette(1 - self.MASK, [(255, 255, 255), (0, 0, 0)]),
            "black first": self.palette(self.MASK, [(0, 0, 0), (255, 255, 255)]),
            "red": self.palette(self.MASK, [(0, 0, 0), (128, 0, 0)]),
            "grey and alpha": Image.merge("LA", (white, Image.new("L", (40, 40), 255))).save,
            "colours and alpha": white.convert("RGBA").save,
            "one bit": white.convert("1").save,
            "ones": Image.fromarray(self.MASK).save,
        }[kind]
        sample = first(opened("rooftop-tiles", self.root(tmp_path, save)))
        np.testing.assert_array_equal(sample.label, self.MASK)

    def test_several_colours_are_no_mask_of_roofs(self, tmp_path: Path) -> None:
        numbers = self.MASK.copy()
        numbers[30:, 30:] = 2
        save = self.palette(numbers, [(0, 0, 0), (128, 0, 0), (0, 128, 0)])
        with pytest.raises(InputError, match=r"0\.png: holds the colours \(0, 128, 0\) and \(128, 0, 0\)"):
            first(opened("rooftop-tiles", self.root(tmp_path, save), split={"train": [""]}))

    def test_a_palette_of_the_table_s_colours(self, tmp_path: Path) -> None:
        (tmp_path / "class_dict.csv").write_text("name,r,g,b\nsky,0,0,0\nhouse,128,0,0\n")
        for part in ("train", "val"):
            self.root(tmp_path / part, self.palette(1 - self.MASK, [(128, 0, 0), (0, 0, 0)]))
        np.testing.assert_array_equal(first(opened("colour-folders", tmp_path)).label, self.MASK)

    @pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 0.7]])
    def test_float_labels(self, tmp_path: Path, values: list[float]) -> None:
        label = np.array(values, np.float32)[self.MASK]
        for k in range(3):
            layouts.save_tif(tmp_path / "images" / f"{k}.tif", np.full((3, 40, 40), k, np.uint8))
            layouts.save_tif(tmp_path / "masks" / f"{k}.tif", label[None])
        reader = opened("rooftop-tiles", tmp_path, split={"train": ["0"]})
        if values[1] == 1:
            np.testing.assert_array_equal(first(reader).label, self.MASK)
        else:
            with pytest.raises(InputError, match=r"0\.tif: holds fractions \(float32\)"):
                first(reader)

    @pytest.mark.parametrize(("values", "known"), [([np.nan, 1.0], 1), ([0.0, np.nan], 0)])
    def test_labels_that_are_not_numbers_are_unknown(
        self, tmp_path: Path, values: list[float], known: int
    ) -> None:
        label = np.array(values, np.float32)[self.MASK]
        for k in range(3):
            layouts.save_tif(tmp_path / "images" / f"{k}.tif", np.full((3, 40, 40), k, np.uint8))
            layouts.save_tif(tmp_path / "masks" / f"{k}.tif", label[None])
        found = first(opened("rooftop-tiles", tmp_path, split={"train": ["0"]}))
        np.testing.assert_array_equal(found.label, np.where(known == self.MASK, known, 255))


class TestValues:
    @pytest.mark.parametrize(
        ("dtype", "low", "high", "expected"),
        [
            ("uint8", 3, 90, ("uint8", (0.0, 255.0))),
            ("float32", 0.1, 0.9, ("float32", (0.0, 1.0))),
            ("uint16", 1000, 11000, ("uint16", (1200.0, 10800.0))),
            ("int16", -500, 500, ("int16", (-480.0, 480.0))),
            ("float32", -10, 90, ("float32", (-8.0, 88.0))),
        ],
    )
    def test_the_range_is_found(
        self, tmp_path: Path, dtype: str, low: float, high: float, expected
    ) -> None:
        ramp = np.linspace(low, high, 3 * 64 * 64).reshape(3, 64, 64).astype(dtype)
        for k in range(4):
            layouts.save_tif(tmp_path / "images" / f"{k}.tif", ramp)
            layouts.save_tif(tmp_path / "masks" / f"{k}.tif", np.zeros((1, 64, 64), np.uint8))
        kind, found = values_of(opened("rooftop-tiles", tmp_path))
        assert kind == expected[0]
        assert found == pytest.approx(expected[1], abs=0.01 * (high - low))
        findings = check(opened("rooftop-tiles", tmp_path))
        assert any("training maps" in line for line in findings.warnings) == (dtype != "uint8")

    def test_several_types_are_one_line(self, tmp_path: Path) -> None:
        for k, dtype in enumerate(("uint8", "uint16", "uint8")):
            layouts.save_tif(tmp_path / "images" / f"{k}.tif", np.ones((3, 8, 8), dtype))
            layouts.save_tif(tmp_path / "masks" / f"{k}.tif", np.zeros((1, 8, 8), np.uint8))
        with pytest.raises(InputError, match=r"0 is uint8 and 1 is uint16; pictures must be of one type"):
            values_of(opened("rooftop-tiles", tmp_path, split={"train": ["0", "1", "2"]}))


@pytest.mark.parametrize(("most", "expected"), [(1.0, (0.0, 1.0)), (1.5, None)])
def test_floats_from_0_to_1_are_their_own_range(
    tmp_path: Path, most: float, expected: tuple[float, float] | None
) -> None:
    for k in range(3):
        picture = np.linspace(0, most, 3 * 40 * 40, dtype=np.float32).reshape(3, 40, 40)
        layouts.save_tif(tmp_path / "images" / f"{k}.tif", picture)
        layouts.save_tif(tmp_path / "masks" / f"{k}.tif", np.zeros((1, 40, 40), np.uint8))
    kind, found = values_of(opened("rooftop-tiles", tmp_path))
    assert kind == "float32"
    assert found == expected if expected else 0 < found[0] < found[1] < most


def digest(rows: list[str]) -> str:
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def test_class_tables_are_the_publishers_to_the_last_digit() -> None:
    """Digests of the same lines made of what the publishers have: cityscapesScripts, the VOC development
    kit, COCO's annotations, CamVid's class_dict.csv."""
    label = [f"{row.number} {row.name} {row.train_id} {row.colour}" for row in CITYSCAPES]
    assert digest(label) == "a9ee69c39b9f08b6"
    assert digest([f"{entry.name} {entry.colour}" for entry in VOC]) == "5ae36a762f4ff4d9"
    assert digest([f"{number} {name}" for number, name in COCO.items()]) == "bec11bedfa4a658f"
    assert digest([f"{name} {colour}" for name, colour, _ in CAMVID_32]) == "e06b53a9988a9fa2"


def test_camvids_32_classes_as_11() -> None:
    """The grouping of SegNet's authors, by name."""
    groups = {
        "Sky": "Sky", "Building": "Archway Bridge Building Tunnel Wall", "Pole": "Column_Pole TrafficCone",
        "Road": "LaneMkgsDriv LaneMkgsNonDriv Road", "Sidewalk": "ParkingBlock RoadShoulder Sidewalk",
        "Tree": "Tree VegetationMisc", "SignSymbol": "Misc_Text SignSymbol TrafficLight", "Fence": "Fence",
        "Car": "Car OtherMoving SUVPickupTruck Train Truck_Bus",
        "Pedestrian": "Animal CartLuggagePram Child Pedestrian", "Bicyclist": "Bicyclist MotorcycleScooter",
    }  # fmt: skip
    names = [entry.name for entry in CAMVID_11]
    found = {name: [n for n, _, index in CAMVID_32 if index == k] for k, name in enumerate(names)}
    assert found == {name: members.split() for name, members in groups.items()}
    assert [name for name, _, index in CAMVID_32 if index is None] == ["Void"]


def test_masks_that_jpeg_disturbed_have_two_classes_from_128_on() -> None:
    values = np.array([[[0, 3, 127, 128, 129, 255]]], np.uint8)
    assert Threshold()(values, "x.jpg").tolist() == [[0, 0, 0, 1, 1, 1]]


class TestCityscapesPassedAround:
    """The layouts in which Cityscapes is passed around, by the configurations of the official one."""

    def rearranged(self, tmp_path: Path, kinds: tuple[str, ...], images: str, labels: str) -> Path:
        """`SPLIT/IMAGES/*.png` with `SPLIT/LABELS/*.png`, of the official files."""
        official = layouts.cityscapes(tmp_path / "official")
        root = tmp_path / "flat"
        for split_name in ("train", "val"):
            for name in (images, labels):
                (root / split_name / name).mkdir(parents=True)
            for path in sorted((official / "leftImg8bit" / split_name).rglob("*.png")):
                (root / split_name / images / path.name).write_bytes(path.read_bytes())
                stem = path.stem.removesuffix("_leftImg8bit")
                for kind in kinds:
                    (label,) = (official / "gtFine").rglob(f"{stem}_gtFine_{kind}.png")
                    (root / split_name / labels / label.name).write_bytes(label.read_bytes())
        return root

    @pytest.mark.parametrize(("images", "labels"), [("images", "masks"), ("img", "label")])
    @pytest.mark.parametrize("kinds", [("labelIds",), ("color",), ("color", "labelIds", "instanceIds")])
    def test_the_same_labels_as_from_the_official_files(self, tmp_path, images, labels, kinds) -> None:
        root = self.rearranged(tmp_path, kinds, images, labels)
        only = kinds[0] if len(kinds) == 1 else "labelIds"
        official = opened("cityscapes", tmp_path / "official", classes=30, labels=only)
        # Whatever kind the configuration expects.
        for expected in ("labelIds", "color"):
            reader = opened("cityscapes", root, classes=30, labels=expected)
            assert len(reader.names("train")) == 4
            assert len(reader.names("val")) == 4
            for k in range(2):
                wanted = official if len(kinds) == 1 else opened(
                    "cityscapes", tmp_path / "official", classes=30, labels=expected
                )  # fmt: skip
                np.testing.assert_array_equal(
                    reader.read("val", k, None).label, wanted.read("val", k, None).label
                )

    def test_with_configurations_of_vehicles_and_people(self, tmp_path: Path) -> None:
        root = self.rearranged(tmp_path, ("color",), "images", "masks")
        foreground = ["person", "rider", "car", "truck", "bus"]
        found = opened("cityscapes", root, classes=30, foreground=foreground)
        expected = opened("cityscapes", tmp_path / "official", classes=30, foreground=foreground)
        one, other = found.read("train", 0, None).label, expected.read("train", 0, None).label
        assert [entry.name for entry in found.classes] == ["background", "foreground"]
        assert (other == 1).any()
        # What colours cannot tell is left out.
        np.testing.assert_array_equal(one[one != IGNORE], other[one != IGNORE])
        np.testing.assert_array_equal(one == 1, other == 1)

    def test_train_ids(self, tmp_path: Path) -> None:
        root = self.rearranged(tmp_path, ("labelTrainIds",), "img", "label")
        official = opened("cityscapes", tmp_path / "official", classes=19, labels="labelTrainIds")
        for labels in ("labelTrainIds", "color"):
            found = opened("cityscapes", root, classes=19, labels=labels)
            np.testing.assert_array_equal(
                found.read("train", 1, None).label, official.read("train", 1, None).label
            )

    def test_train_ids_have_19_classes(self, tmp_path: Path) -> None:
        root = self.rearranged(tmp_path, ("labelTrainIds",), "img", "label")
        with pytest.raises(InputError, match=r"\(labelTrainIds\) have 19 classes, and data.classes is 30"):
            opened("cityscapes", root, classes=30, labels="color")

    def test_halves_of_one_file(self, tmp_path: Path) -> None:
        official = layouts.cityscapes(tmp_path / "official")
        for split_name in ("train", "val"):
            (tmp_path / "pairs" / split_name).mkdir(parents=True)
            for number, path in enumerate(sorted((official / "leftImg8bit" / split_name).rglob("*.png"))):
                stem = path.stem.removesuffix("_leftImg8bit")
                (label,) = (official / "gtFine").rglob(f"{stem}_gtFine_color.png")
                both = [np.asarray(Image.open(file).convert("RGB")) for file in (path, label)]
                Image.fromarray(np.concatenate(both, axis=1)).save(
                    tmp_path / "pairs" / split_name / f"{number}.png"
                )
        found = opened("cityscapes", tmp_path / "pairs", classes=30, labels="color")
        expected = opened("cityscapes", official, classes=30, labels="color")
        np.testing.assert_array_equal(found.read("val", 0, None).label, expected.read("val", 0, None).label)

    def test_without_folders_for_splits(self, tmp_path: Path) -> None:
        root = self.rearranged(tmp_path, ("labelIds",), "images", "masks")
        whole = opened("cityscapes", root / "train", classes=30, split={"train": 0.5, "val": 0.5})
        assert len(whole.names("train")) == len(whole.names("val")) == 2

    def test_what_is_none_of_them(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no Cityscapes: leftImg8bit/ and gtFine/, or train/"):
            opened("cityscapes", tmp_path)
