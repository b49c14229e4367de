"""Crops that are mixed, outlines that a teacher draws into boxes, and pictures that are seen again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests import layouts
from tests.test_crops import half, opened, place
from tilesegment.datasets.crops import CropReader
from tilesegment.datasets.mixing import _moved, laid_in, recoloured
from tilesegment.datasets.opening import open_reader
from tilesegment.datasets.outlining import label_of_outlines
from tilesegment.datasets.pairs import PairReader
from tilesegment.datasets.sample import IGNORE, Sample
from tilesegment.errors import SettingsError
from tilesegment.grid import Window
from tilesegment.raster.picture import Part
from tilesegment.train import teacher as teachers
from tilesegment.train.config import load_config
from tilesegment.train.hard import hardest, scores_of, seen_again
from tilesegment.train.teacher import taught

GROUND, ROOF = 90, 180


def scene(*roofs: tuple[slice, slice], size: int = 80, contact: bool = False) -> Sample:
    label = np.zeros((size, size), np.uint8)
    for roof in roofs:
        label[roof] = 1
    values = np.where(label == 1, ROOF, GROUND).astype(np.uint8)
    touching = np.zeros_like(label) if contact else None
    return Sample(np.stack([values] * 3), label, np.ones(label.shape, np.bool_), touching)


class TestLaidIn:
    donor = scene(np.s_[20:40, 30:60], np.s_[0:10, 0:10])

    def test_a_whole_roof_comes_with_its_pixels_and_its_shadow(self) -> None:
        mixed = laid_in(scene(), self.donor, 0.5, np.random.default_rng(3))
        # The roof at the donor's rim may be a part of one, and stays there.
        rows, cols = np.nonzero(mixed.label == 1)
        assert (np.ptp(rows), np.ptp(cols), len(rows)) == (19, 29, 600)
        inner = ndimage.binary_erosion(mixed.label == 1, iterations=3)
        assert (mixed.values[:, inner] == ROOF).all()
        ground = mixed.values[:, mixed.label == 0]
        assert ground.max() == GROUND
        shade = (mixed.values[0] < 0.9 * GROUND) & (mixed.label == 0)
        assert shade.any()
        # 0.35 to 0.75 of the light is left, within 4 m of the roof.
        assert ground.min() >= 0.34 * GROUND
        far = ndimage.distance_transform_edt(mixed.label != 1)[shade]
        assert far.max() <= 4 / 0.5 + 3

    @pytest.mark.parametrize("seed", range(8))
    def test_nothing_is_laid_on_what_may_be_a_roof(self, seed: int) -> None:
        sample = scene(np.s_[:, :30])
        sample.label[:, 60:] = IGNORE
        mixed = laid_in(sample, scene(np.s_[20:40, 30:42]), 0.5, np.random.default_rng(seed))
        known = sample.label != 0
        np.testing.assert_array_equal(mixed.label[known], sample.label[known])
        new = (mixed.label == 1) & (sample.label == 0)
        if new.any():
            assert not ndimage.binary_dilation(new)[known].any()

    def test_too_large_and_too_small_roofs_stay(self) -> None:
        for roof in (np.s_[20:22, 20:22], np.s_[10:60, 10:60]):
            sample = scene()
            assert laid_in(sample, scene(roof), 0.5, np.random.default_rng(0)) is sample

    def test_where_buildings_touch_comes_along(self) -> None:
        donor = scene(np.s_[20:40, 30:60], contact=True)
        assert donor.contact is not None
        donor.contact[20:40, 44:46] = 1
        known = laid_in(scene(contact=True), donor, 0.5, np.random.default_rng(1))
        assert known.contact is not None
        # Two roofs of 14 x 20, each laid down alone, without the pixels between them.
        assert ndimage.label(known.label == 1)[1] == 2
        assert (known.label == 1).sum() == 2 * 14 * 20
        assert not known.contact.any()
        unknown = laid_in(scene(contact=True), self.donor, 0.5, np.random.default_rng(1))
        assert unknown.contact is not None
        np.testing.assert_array_equal(unknown.contact == IGNORE, unknown.label == 1)

    def test_moved_by_hand(self) -> None:
        mask = np.zeros((4, 5), np.bool_)
        mask[1, 1] = True
        assert np.argwhere(_moved(mask, 2, -1)).tolist() == [[3, 0]]
        assert np.argwhere(_moved(mask, -1, 3)).tolist() == [[0, 4]]
        assert not _moved(mask, -2, 0).any()


class TestRecoloured:
    def test_roofs_change_and_the_ground_does_not(self) -> None:
        sample = scene(np.s_[10:30, 10:30], np.s_[40:70, 40:70])
        changed = [recoloured(sample, np.random.default_rng(seed)) for seed in range(30)]
        for each in changed:
            np.testing.assert_array_equal(each.values[:, sample.label == 0], GROUND)
            np.testing.assert_array_equal(each.label, sample.label)
        one = [tuple(each.values[:, 20, 20]) for each in changed]
        other = [tuple(each.values[:, 50, 50]) for each in changed]
        # Half of the roofs, each on its own, each in its own colour.
        assert 6 <= one.count((ROOF,) * 3) <= 24
        assert any((a == (ROOF,) * 3) != (b == (ROOF,) * 3) for a, b in zip(one, other, strict=True))
        assert len({*one}) > 6

    def test_texture_stays(self) -> None:
        sample = scene(np.s_[10:30, 10:30])
        sample.values[:, 10:30, 10:20] -= 40
        for seed in range(10):
            values = recoloured(sample, np.random.default_rng(seed)).values.astype(int)
            dark, bright = values[:, 20, 12], values[:, 20, 25]
            assert (dark <= bright).all()
            assert (dark < bright).any()

    def test_other_numbers_of_bands_and_types(self) -> None:
        sample = scene(np.s_[10:30, 10:30])
        grey = Sample(sample.values[:1], sample.label, sample.valid)
        assert recoloured(grey, np.random.default_rng(0)) is grey
        wide = Sample(sample.values.astype(np.uint16) * 200, sample.label, sample.valid)
        found = recoloured(wide, np.random.default_rng(1))
        assert found.values.dtype == np.uint16
        assert found.values.max() <= ROOF * 200


class TestReader:
    @pytest.mark.parametrize("key", ["paste", "recolour"])
    def test_a_share_of_crops_is_mixed(self, tmp_path: Path, key: str) -> None:
        roof = np.zeros((96, 96), np.uint8)
        roof[40:60, 40:60] = 1
        place(tmp_path, "a", roof)
        place(tmp_path, "b", half())
        plain, mixed, always = (opened(tmp_path, **{key: share}) for share in (0.0, 0.5, 1.0))
        kinds = {"same": 0, "other": 0}
        for k in range(40):
            first, second = (
                reader.read("train", k, np.random.default_rng(k)).values for reader in (plain, mixed)
            )
            kinds["same" if np.array_equal(first, second) else "other"] += 1
            again = mixed.read("train", k, np.random.default_rng(k)).values
            np.testing.assert_array_equal(second, again)
        assert kinds["same"] >= 15
        assert kinds["other"] >= 3
        for k in range(40):
            sample = always.read("train", k, np.random.default_rng(k))
            assert sample.label.shape == (46, 46)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"paste": 1.5}, "data.paste 1.5 is no share"),
            ({"recolour": -0.1}, "data.recolour -0.1 is no share"),
            ({"crops": None, "paste": 0.2}, "data.paste is for data.crops"),
        ],
    )
    def test_wrong_shares(self, tmp_path: Path, options: dict, words: str) -> None:
        place(tmp_path, "a", half())
        place(tmp_path, "b", half())
        with pytest.raises(SettingsError, match=words):
            opened(tmp_path, **options)


def drawn(angle: float = 0.0) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int, int]]:
    """A red building on green grass with noise, its mask, and the box around it."""
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:120, :120] - 60.0
    along, across = (
        cols * np.cos(angle) + rows * np.sin(angle),
        rows * np.cos(angle) - cols * np.sin(angle),
    )
    mask = (abs(along) < 35) & (abs(across) < 15)
    picture = np.where(mask, np.array([170, 60, 50])[:, None, None], np.array([90, 120, 60])[:, None, None])
    picture = np.clip(picture + rng.normal(0, 8, picture.shape), 0, 255).astype(np.uint8)
    where = np.argwhere(mask)
    (top, left), (bottom, right) = where.min(axis=0), where.max(axis=0)
    return picture, mask, (int(left), int(top), int(right - left + 1), int(bottom - top + 1))


class TestOutlines:
    @pytest.mark.parametrize("angle", [0.0, 0.6])
    def test_colours_mend_what_a_model_says(self, angle: float) -> None:
        picture, mask, box = drawn(angle)
        # The model is a blob that reaches over the walls here and falls short there.
        blob = ndimage.gaussian_filter(np.roll(mask, 3, axis=1).astype(np.float32), 3)
        label = label_of_outlines(picture, blob, (box,), 0.5)
        known = label != IGNORE
        # But for single pixels of the rim, which the noise decides.
        assert ((label == 1) == mask)[known].mean() > 0.999
        assert (label[mask] == 1).mean() > 0.9
        inside = np.zeros_like(mask)
        inside[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = True
        assert (label[~inside] == 0).all()
        # Where they disagree nobody knows.
        assert (label[inside & (blob >= 0.5) & ~mask] == IGNORE).all()

    def test_an_outline_of_a_part_leaves_the_core(self) -> None:
        picture, mask, box = drawn()
        part = mask.astype(np.float32)
        part[:, 60:] = 0
        picture[:, :, 60:] = np.array([90, 120, 60])[:, None, None]
        label = label_of_outlines(picture, part, (box,), 0.5)
        inside = label[box[1] : box[1] + box[3], box[0] : box[0] + box[2]]
        assert set(np.unique(inside)) == {1, IGNORE}
        rows, cols = np.nonzero(label == 1)
        # Two fifths of 69 x 29.
        assert (np.ptp(rows) + 1, np.ptp(cols) + 1) == pytest.approx((12, 28), abs=1)

    def test_a_model_that_sees_nothing_leaves_the_core(self) -> None:
        picture, _, box = drawn()
        label = label_of_outlines(picture, np.zeros((120, 120), np.float32), (box,), 0.5)
        assert 0.1 < (label[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] == 1).mean() < 0.2

    def test_a_box_that_the_rim_cuts(self) -> None:
        picture, mask, (left, top, width, height) = drawn()
        picture, mask = picture[:, :, 50:], mask[:, 50:]
        box = (left - 50, top, width, height)
        label = label_of_outlines(picture, mask.astype(np.float32), (box,), 0.5)
        assert (label[mask] == 1).mean() > 0.9
        np.testing.assert_array_equal(label[label != IGNORE] == 1, mask[label != IGNORE])


class TestTeacher:
    @pytest.fixture
    def boxed(self, tmp_path: Path) -> Callable[[], CropReader]:
        picture, _, box = drawn()
        for name in "ab":
            layouts.save_tif(tmp_path / "data/e/images" / f"{name}.tif", picture)
        (tmp_path / "data/e/boxes.json").write_text(json.dumps({"a": [box], "b": []}))
        place(tmp_path / "data", "v", half())
        place(tmp_path / "data", "c", half())

        def make() -> CropReader:
            options = {
                "gsd": 0.15, "crops": 8, "split": {"val": ["v"]}, "metres": {"e": 0.2, "v": 0.2, "c": 0.2},
            }  # fmt: skip
            reader = open_reader("rooftop-tiles", tmp_path / "data", options, (32, 32))
            assert isinstance(reader, CropReader)
            return reader

        return make

    def test_training_pictures_get_outlines_and_the_others_do_not(
        self, boxed: Callable[[], CropReader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TILESEGMENT_CACHE", str(tmp_path / "cache"))
        told: list[tuple[int, int]] = []
        reader = boxed()
        found = taught(reader, "roofs", torch.device("cpu"), lambda done, total: told.append((done, total)))
        assert isinstance(found, CropReader)
        assert told == [(1, 2), (2, 2)]
        before, after = reader.pictures.splits["train"], found.pictures.splits["train"]
        assert [pair.name for pair in before] == [pair.name for pair in after]
        assert [bool(pair.outlines) for pair in after] == [pair.place == "e" for pair in after]
        whole = {pair.name: found.pictures.read_part(pair, None).label for pair in after}
        assert not whole["e/b"].any()
        _, mask, box = drawn()
        inside = np.zeros(mask.shape, np.bool_)
        inside[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = True
        assert (whole["e/a"][~inside] == 0).all()
        assert (whole["e/a"] == 1).any()
        sample = found.read("train", 0, np.random.default_rng(0))
        assert set(np.unique(sample.label)) <= {0, 1, IGNORE}
        # What was drawn is found again.
        monkeypatch.setattr(teachers, "load_network", None)
        again = taught(boxed(), "roofs", torch.device("cpu"))
        assert isinstance(again, CropReader)
        assert again.pictures.splits == found.pictures.splits

    def test_a_part_of_an_outline(
        self, boxed: Callable[[], CropReader], tmp_path: Path, monkeypatch
    ) -> None:
        monkeypatch.setenv("TILESEGMENT_CACHE", str(tmp_path / "cache"))
        found = taught(boxed(), "roofs", torch.device("cpu"))
        assert isinstance(found, CropReader)
        assert isinstance(found.pictures, PairReader)
        pair = next(pair for pair in found.pictures.splits["train"] if pair.name == "e/a")
        whole = found.pictures.read_label(pair, None)
        part = found.pictures.read_label(pair, Part(Window(20, 30, 40, 60), (20, 30)))
        np.testing.assert_array_equal(part, whole[20:60, 30:90][1::2, 1::2])

    def test_without_boxes_there_is_nothing_to_teach(self, tmp_path: Path) -> None:
        place(tmp_path, "a", half())
        place(tmp_path, "b", half())
        with pytest.raises(SettingsError, match=r"data.teacher: no training picture has boxes"):
            taught(opened(tmp_path), "roofs", torch.device("cpu"))

    def test_a_teacher_is_a_key_of_the_configuration(self) -> None:
        assert load_config("roofs", ["data.teacher=roofs"]).data.teacher == "roofs"
        assert load_config("roofs").data.options.get("teacher") is None


class TestHard:
    def test_false_alarms_by_hand(self) -> None:
        label = torch.tensor([[[0, 0], [1, IGNORE]], [[0, 1], [1, 1]], [[IGNORE, IGNORE]] * 2])
        roof = torch.tensor([[[1, 0], [0, 1]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]]).float()
        logits = torch.stack([torch.zeros_like(roof), roof * 4 - 2], dim=1)
        # One of three known pixels; missed roofs are no alarm; nothing is known.
        assert scores_of(logits, label, 0.5) == pytest.approx([1 / 3, 0.0, 0.0])
        assert scores_of(logits[:, 1:], label, 0.5) == pytest.approx([1 / 3, 0.0, 0.0])
        three = torch.cat([logits, torch.full_like(logits[:, :1], -9.0)], dim=1)
        assert scores_of(three, label, 0.5) == pytest.approx([2 / 3, 3 / 4, 0.0])

    def test_the_hardest_by_hand(self) -> None:
        scores = [((4, 0), 0.1), ((4, 1), 0.5), ((4, 2), 0.0), ((4, 3, 3, 9), 0.3), ((4, 4, 3, 9), 0.2)]
        assert hardest(scores, 0.4) == [(4, 1), (3, 9)]
        assert hardest(scores, 1.0) == [(4, 1), (3, 9), (4, 0)]
        assert hardest(scores, 0.0) == []

    def test_they_take_the_places_of_others_drawn_by_seed_and_epoch(self) -> None:
        batches = [[(5, k) for k in range(row, row + 4)] for row in range(0, 20, 4)]
        hard = [(4, 1), (3, 9), (4, 0)]
        found = seen_again(batches, hard, 7)
        flat = [key for batch in found for key in batch]
        assert [key[:2] for key in flat] == [(5, k) for k in range(20)]
        assert sorted(key[2:] for key in flat if len(key) > 2) == sorted(hard)
        assert seen_again(batches, hard, 7) == found
        assert seen_again(batches, hard, 8) != found
        assert seen_again([[(6, k) for _, k in batch] for batch in batches], hard, 7) != found
        assert seen_again(batches, [], 7) == batches
