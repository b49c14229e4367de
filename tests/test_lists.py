"""Lists, palettes and annotation files as people and programs really write them."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tilesegment.datasets.check import check
from tilesegment.datasets.opening import open_reader
from tilesegment.errors import InputError, SettingsError


def tiles(
    root: Path, names: list[str], folder: str = "images", masks: str = "masks", mode: str = "L"
) -> None:
    rng = np.random.default_rng(1)
    for name in names:
        for kind, values in (
            (folder, rng.integers(0, 255, (16, 16, 3), np.uint8)),
            (masks, np.kron([[0, 255], [255, 0]], np.ones((8, 8))).astype(np.uint8)),
        ):
            (root / kind).mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(values)
            (picture.convert(mode) if kind == masks else picture).save(root / kind / f"{name}.png")


class TestLists:
    @pytest.mark.parametrize(
        ("form", "encoding", "ending"),
        [
            ("{}", "utf-8", "\n"),
            ("{}", "utf-8-sig", "\r\n"),
            ("{}", "utf-16", "\r\n"),
            ("{}.png", "utf-8", "\n"),
            ("images\\{}.png", "utf-8", "\r\n"),
            ("images/{}.png masks/{}.png", "utf-8", "\n"),
            ("  {}  ", "utf-8", "\n\n"),
        ],
    )
    @pytest.mark.parametrize("word", ["t", "tile ", "Straße_"])
    def test_every_way_to_write_one(self, tmp_path: Path, form, encoding, ending, word) -> None:
        if " masks/" in form and " " in word:
            pytest.skip("two paths with spaces cannot be told apart")
        names = [f"{word}{k}" for k in range(6)]
        tiles(tmp_path, names)
        for part, chosen in (("train", names[:4]), ("val", names[4:])):
            text = ending.join(form.format(name, name) for name in chosen) + ending
            (tmp_path / f"{part}.txt").write_bytes(text.encode(encoding))
        split = {"train": "train.txt", "val": "val.txt"}
        reader = open_reader("rooftop-tiles", tmp_path, {"split": split})
        assert list(reader.names("train")) == names[:4]
        assert list(reader.names("val")) == names[4:]

    @pytest.mark.parametrize(("on_disk", "in_list"), [("NFC", "NFD"), ("NFD", "NFC")])
    def test_accents_in_one_piece_or_two(self, tmp_path: Path, on_disk, in_list) -> None:
        names = [f"café_{k}" for k in range(3)]
        tiles(tmp_path, [unicodedata.normalize(on_disk, name) for name in names])
        for part, chosen in (("train", names[:2]), ("val", names[2:])):
            (tmp_path / f"{part}.txt").write_text(unicodedata.normalize(in_list, "\n".join(chosen)))
        split = {"train": "train.txt", "val": "val.txt"}
        reader = open_reader("rooftop-tiles", tmp_path, {"split": split})
        assert [len(reader.names(part)) for part in ("train", "val")] == [2, 1]

    @pytest.mark.parametrize(
        ("raw", "words"),
        [
            (b"t0\nt1\nt9\n", "train.txt: names 't9', which is not there"),
            (b"t0 copy\n", "train.txt: names 't0 copy', which is not there"),
            ("tä\n".encode("latin-1"), "train.txt: is not in utf-8"),
            ("t0\n".encode("utf-16")[:-1], "train.txt: is not in utf-16"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, tmp_path: Path, raw: bytes, words: str) -> None:
        tiles(tmp_path, ["t0", "t1"])
        (tmp_path / "train.txt").write_bytes(raw)
        with pytest.raises(InputError, match=words):
            open_reader("rooftop-tiles", tmp_path, {"split": {"train": "train.txt"}})

    @pytest.mark.parametrize("word", ["street view ", "Straße_"])
    def test_voc(self, tmp_path: Path, word: str) -> None:
        base = tmp_path / "VOCdevkit" / "VOC2012"
        (base / "ImageSets" / "Segmentation").mkdir(parents=True)
        names = [f"{word}{k}" for k in range(6)]
        tiles(base, names, "PNGs", "SegmentationClass")
        for name in names:
            (base / "JPEGImages").mkdir(exist_ok=True)
            Image.open(base / "PNGs" / f"{name}.png").save(base / "JPEGImages" / f"{name}.jpg")
        lists = base / "ImageSets" / "Segmentation"
        (lists / "train.txt").write_text("\n".join(names[:4]), encoding="utf-8")
        (lists / "val.txt").write_text("\n".join(names[4:]), encoding="utf-8-sig")
        reader = open_reader("voc", tmp_path, {})
        assert [list(reader.names(part)) for part in ("train", "val")] == [names[:4], names[4:]]
        assert reader.read("val", 1, None).label.shape == (16, 16)
        (base / "SegmentationClass" / f"{names[4]}.png").unlink()
        with pytest.raises(InputError, match=f"{names[4]}.png: is named by val.txt"):
            open_reader("voc", tmp_path, {})

    def test_hidden_files_of_other_systems_are_no_pictures(self, tmp_path: Path) -> None:
        tiles(tmp_path, ["t0", "t1", "t2"])
        for folder in ("images", "masks"):
            (tmp_path / folder / "._t0.png").write_bytes(b"\0\5\26\7")
        reader = open_reader("rooftop-tiles", tmp_path, {"split": {"val": 0.34}})
        assert sum(len(reader.names(part)) for part in ("train", "val", "test")) == 3


class TestPalettes:
    rows = "ground,0,0,0\nroof,255,255,255\n"

    @pytest.mark.parametrize("head", ["", "name,r,g,b\n", "name, red, green, blue\n\n"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_with_and_without_headings(self, tmp_path: Path, head: str, encoding: str) -> None:
        tiles(tmp_path, ["a", "b", "c"], mode="RGB")
        (tmp_path / "class_dict.csv").write_bytes((head + self.rows).encode(encoding))
        reader = open_reader("colour-folders", tmp_path, {"split": {"val": 0.34}})
        assert [entry.name for entry in reader.classes] == ["ground", "roof"]
        assert np.bincount(reader.read("train", 0, None).label.ravel()).tolist() == [128, 128]

    @pytest.mark.parametrize("text", ["ground,0,0\n", "name,r,g,b\nroof;255;255;255\n"])
    def test_lines_that_are_none(self, tmp_path: Path, text: str) -> None:
        tiles(tmp_path, ["a", "b", "c"])
        (tmp_path / "class_dict.csv").write_text(text)
        with pytest.raises(
            InputError, match=r"class_dict.csv: .*name,r,g,b|class_dict.csv: names no class"
        ):
            open_reader("colour-folders", tmp_path, {"split": {"val": 0.34}})


def coco(root: Path, edit: Callable[[dict[str, Any]], Any] = lambda data: data) -> Path:
    """Three pictures, in each a person of 10 x 12 pixels at (4, 6)."""
    rng = np.random.default_rng(1)
    ring = [6, 4, 18, 4, 18, 14, 6, 14]
    for part in ("train", "val"):
        data: dict[str, Any] = {
            "images": [{"id": k, "file_name": f"p{k}.png", "width": 32, "height": 32} for k in (1, 2, 3)],
            "annotations": [
                {"id": k, "image_id": k, "category_id": 1, "iscrowd": 0, "area": 120, "bbox": [6, 4, 12, 9]}
                | {"segmentation": [list(ring)]} for k in (1, 2, 3)
            ],
            "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
        }  # fmt: skip
        for k in (1, 2, 3):
            (root / f"{part}2017").mkdir(parents=True, exist_ok=True)
            values = rng.integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(values).save(root / f"{part}2017" / f"p{k}.png")
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(edit(data)))
    return root


def each(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """An edit of every annotation; None removes a field."""

    def edit(data: dict[str, Any]) -> dict[str, Any]:
        for entry in data["annotations"]:
            for name, value in changes.items():
                if value is None:
                    del entry[name]
                else:
                    entry[name] = value(entry) if callable(value) else value
        return data

    return edit


def second(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """An edit of the second annotation only."""

    def edit(data: dict[str, Any]) -> dict[str, Any]:
        data["annotations"][1].update(changes)
        return data

    return edit


def text_ids(data: dict[str, Any]) -> dict[str, Any]:
    for entry in data["images"]:
        entry["id"] = f"img-{entry['id']}"
    return each(image_id=lambda a: f"img-{a['image_id']}")(data)


def no_sizes(data: dict[str, Any]) -> dict[str, Any]:
    for entry in data["images"]:
        del entry["width"], entry["height"]
    return data


# 6 columns of 32, then in each of 12 columns 4 off, 10 on, 18 off.
RUNS = [6 * 32 + 4, *([10, 22] * 11), 10, 18 + 14 * 32]


class TestCoco:
    @pytest.mark.parametrize(
        "edit",
        [
            lambda data: data,
            each(area=None),
            each(iscrowd=None),
            each(id=None),
            each(bbox=None),
            each(image_id=lambda a: str(a["image_id"])),
            each(category_id="1"),
            text_ids,
            no_sizes,
            each(segmentation={"size": [32, 32], "counts": RUNS}),
            each(segmentation={"counts": RUNS}),
            lambda data: {
                **data,
                "annotations": [*data["annotations"], {**data["annotations"][0], "image_id": 99}],
            },
        ],
    )
    def test_what_can_be_used_is_used(self, tmp_path: Path, edit: Any) -> None:
        reader = open_reader("coco", coco(tmp_path, edit), {"foreground": ["person"]})
        assert list(reader.names("train")) == ["p1", "p2", "p3"]
        expected = np.zeros((32, 32), np.uint8)
        expected[4:14, 6:18] = 1
        for index in range(3):
            np.testing.assert_array_equal(reader.read("train", index, None).label, expected)

    @pytest.mark.parametrize(
        ("edit", "words"),
        [
            (second(category_id=None), "annotation 2: has no category_id (p2.png)"),
            (second(category_id="x"), "annotation 2: 'x' is no whole number (p2.png)"),
            (second(category_id=7), "annotation 2: its category 7 is none of the file's (p2.png)"),
            (second(area="big"), "annotation 2: its area 'big' is no number (p2.png)"),
            (second(iscrowd="yes"), "annotation 2: 'yes' is no whole number (p2.png)"),
            (second(segmentation=[]), "annotation 2 of p2.png has no outline"),
            (second(segmentation=None), "annotation 2 of p2.png has no outline"),
            (second(segmentation=[[6, 4, 18, 14]]), "annotation 2 of p2.png has an outline of 4 numbers"),
            (second(segmentation=[[6, 4]]), "annotation 2 of p2.png has an outline of 2 numbers"),
            (
                second(segmentation=[[6, 4, 18, 4, 18]]),
                "annotation 2 of p2.png has an outline of 5 numbers",
            ),
            (second(segmentation=[6, 4, 18, 4, 18, 14]), "annotation 2 of p2.png cannot be drawn"),
            (second(segmentation={"size": [32, 32]}), "annotation 2 of p2.png cannot be drawn"),
            (
                second(segmentation={"size": [64, 32], "counts": RUNS}),
                "annotation 2 of p2.png is for 32x64",
            ),
            (second(segmentation={"counts": [5, 9]}), "annotation 2 of p2.png counts 14 pixels of 1024"),
        ],
    )
    def test_the_check_names_it_and_goes_on(self, tmp_path: Path, edit: Any, words: str) -> None:
        found = check(open_reader("coco", coco(tmp_path, edit), {"foreground": ["person"]}))
        assert len([line for line in found.errors if words in line]) == 3  # train, val, and val as test
        assert found.pixels["foreground"] == 6 * 120

    @pytest.mark.parametrize(
        ("edit", "words"),
        [
            (lambda data: [data], "holds a list"),
            (lambda data: {**data, "annotations": None}, "has no list of annotations"),
            (lambda data: {**data, "images": {}}, "has no list of images"),
            (second(image_id=None), "annotation 2: has no image_id"),
        ],
    )
    def test_files_of_another_kind(self, tmp_path: Path, edit: Any, words: str) -> None:
        with pytest.raises(InputError, match=f"instances_train2017.json: .*{words}"):
            open_reader("coco", coco(tmp_path, edit), {"foreground": ["person"]})

    @pytest.mark.parametrize(
        ("entry", "words"),
        [
            ({"id": 3, "file_name": "p9.png"}, "picture 3: its id is in the file twice (p9.png)"),
            ({"id": 9, "file_name": "p1.png"}, "picture 9: its file p1.png is in the file twice"),
            ({"id": 9}, "picture 9: has no file_name"),
            ({"file_name": "p9.png"}, "picture 3: has no id (p9.png)"),
            ("p9.png", "picture 3: has no id"),
            (
                {"id": 9, "file_name": "p9.png", "height": "x", "width": 1},
                "'x' is no whole number (p9.png)",
            ),
        ],
    )
    def test_a_picture_that_cannot_be_used_is_one_fault(
        self, tmp_path: Path, entry: Any, words: str
    ) -> None:
        reader = open_reader("coco", coco(tmp_path, lambda d: {**d, "images": [*d["images"], entry]}), {})
        found = check(reader)
        assert [words in line for line in found.errors] == [True] * 3  # train, val, and val as test
        assert found.pictures == {"train": 4, "val": 4, "test": 4}
        assert found.pixels["person"] == 9 * 120

    def test_own_categories_are_own_classes(self, tmp_path: Path) -> None:
        def edit(data: dict[str, Any]) -> dict[str, Any]:
            data["categories"] = [{"id": 7, "name": "pool"}, {"id": 1, "name": "building"}]
            return data

        root = coco(tmp_path, edit)
        reader = open_reader("coco", root, {})
        assert [entry.name for entry in reader.classes] == ["background", "building", "pool"]
        assert reader.read("train", 0, None).label.max() == 1
        with pytest.raises(
            SettingsError, match=r"'person' is no category of this data set \(building, pool\)"
        ):
            open_reader("coco", root, {"foreground": ["person"]})

    def test_cocos_own_are_all_eighty(self, tmp_path: Path) -> None:
        for name, edit in (("some", lambda d: d), ("none", lambda d: {**d, "categories": []})):
            reader = open_reader("coco", coco(tmp_path / name, edit), {})
            assert len(reader.classes) == 81

    def test_annotations_of_no_picture_are_mentioned(self, tmp_path: Path) -> None:
        def edit(data: dict[str, Any]) -> dict[str, Any]:
            data["annotations"].append({**data["annotations"][0], "id": 9, "image_id": 4711})
            return data

        reader = open_reader("coco", coco(tmp_path, edit), {})
        assert any(
            "1 annotations are of pictures that it does not list, such as 4711" in n for n in reader.notes
        )


class TestMaskFiles:
    """Masks that are drawn in transparency, or saved in more bits."""

    inside: Any = np.kron([[0, 1], [1, 0]], np.ones((8, 8))).astype(np.uint8)

    @pytest.mark.parametrize("kind", ["rgba", "la", "palette", "bits"])
    def test_what_is_transparent_is_no_roof(self, tmp_path: Path, kind: str) -> None:
        tiles(tmp_path, ["a", "b", "c"])
        white = np.full((16, 16), 255, np.uint8)
        for name in "abc":
            path = tmp_path / "masks" / f"{name}.png"
            if kind == "palette":
                picture = Image.fromarray(self.inside, "P")
                picture.putpalette([255, 255, 255, 255, 255, 255])
                picture.save(path, transparency=0)
            elif kind == "bits":
                Image.fromarray(self.inside.astype(np.uint16) * 65535).save(path)
            else:
                bands = [white] * (3 if kind == "rgba" else 1)
                Image.fromarray(np.stack([*bands, self.inside * 255], axis=-1)).save(path)
        reader = open_reader("rooftop-tiles", tmp_path, {"split": {"val": 0.34}})
        np.testing.assert_array_equal(reader.read("train", 0, None).label, self.inside)


@pytest.mark.parametrize(
    ("edit", "ignored"),
    [(each(iscrowd="0"), 0), (each(iscrowd="1"), 120), (each(image_id=lambda a: float(a["image_id"])), 0)],
)
def test_numbers_as_texts_and_fractions(tmp_path: Path, edit: Any, ignored: int) -> None:
    label = (
        open_reader("coco", coco(tmp_path, edit), {"foreground": ["person"]}).read("train", 1, None).label
    )
    assert ((label == 255).sum(), (label == 1).sum()) == (ignored, 120 - ignored)


def test_paths_of_another_machine(tmp_path: Path) -> None:
    def edit(data: dict[str, Any]) -> dict[str, Any]:
        for entry, form in zip(data["images"], ("C:\\x\\{}", "train2017/{}", "{}"), strict=True):
            entry["file_name"] = form.format(entry["file_name"])
        return data

    reader = open_reader("coco", coco(tmp_path, edit), {"foreground": ["person"]})
    for index in range(3):
        assert (reader.read("train", index, None).label == 1).sum() == 120


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda d: {**d, "categories": [*d["categories"], {"id": 1, "name": "dog"}]},
            "is both 'person' and 'dog'",
        ),
    ],
)
def test_what_is_said_twice(tmp_path: Path, edit: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_reader("coco", coco(tmp_path, edit), {})
