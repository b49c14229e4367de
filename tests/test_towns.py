"""Crops that are drawn: what is on them, and their share of a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tests import layouts
from tests.test_crops import half, opened, place
from tilesegment.datasets.drawn.canvas import Canvas, rectangle
from tilesegment.datasets.drawn.ground import THINGS, streets, tree
from tilesegment.datasets.drawn.roofs import Roof, drawn_roof, random_roof
from tilesegment.datasets.drawn.towns import drawn
from tilesegment.errors import SettingsError

SIZE, GSD = (200, 240), 0.2
FLAT = Roof((), "flat", np.array([200.0, 60.0, 60.0]), 4.0, 0.0, 0.0)


def canvas(seed: int = 0) -> Canvas:
    """Plain ground of 90 with the sun in the west."""
    return Canvas(
        np.random.default_rng(seed),
        np.full((*SIZE, 3), 90, np.float32),
        np.zeros(SIZE, np.int32),
        np.zeros(SIZE, np.bool_),
        1 / GSD,
        np.array([0.5, 0.0]),
        0.5,
    )


class TestDrawn:
    samples = tuple(drawn(SIZE, GSD, np.random.default_rng(seed)) for seed in range(40))

    def test_a_crop_is_a_function_of_its_seed(self) -> None:
        for seed in (0, 7):
            again = drawn(SIZE, GSD, np.random.default_rng(seed))
            np.testing.assert_array_equal(again.values, self.samples[seed].values)
            np.testing.assert_array_equal(again.label, self.samples[seed].label)
        assert not np.array_equal(self.samples[0].values, self.samples[1].values)

    def test_pictures_and_labels(self) -> None:
        for sample in self.samples:
            assert (sample.values.shape, sample.values.dtype) == ((3, *SIZE), np.uint8)
            assert sample.label.shape == SIZE
            assert set(np.unique(sample.label)) <= {0, 1}
            assert sample.valid.all()
            assert sample.values.std() > 5
        roofs = np.array([sample.label.mean() for sample in self.samples])
        # Some show no roof, some hardly anything else.
        assert 6 <= np.count_nonzero(roofs == 0) <= 24
        assert roofs.max() > 0.35

    def test_contact_lies_between_two_roofs(self) -> None:
        touching = 0
        for sample in self.samples:
            assert sample.contact is not None
            where = sample.contact == 1
            touching += where.any()
            # Contact reaches 0.4 m, two pixels here.
            assert not where[ndimage.distance_transform_cdt(sample.label == 0) > 2].any()
        assert touching >= 8

    def test_where_roofs_of_a_row_touch_they_are_two(self) -> None:
        apart = 0
        for sample in self.samples:
            assert sample.contact is not None
            together = ndimage.label(sample.label)[1]
            single = ndimage.label((sample.label == 1) & (sample.contact == 0))[1]
            apart += single > together
        assert apart >= 6


class TestParts:
    def test_what_lies_on_the_ground_is_no_roof(self) -> None:
        for seed, thing in enumerate([*THINGS, streets]):
            for again in range(6):
                here = canvas(100 * seed + again)
                thing(here, 0.3)
                assert not here.numbers.any()
                if (here.picture != 90).any():
                    break
            else:
                pytest.fail(f"{thing.__name__} drew nothing")

    def test_things_stand_on_free_ground(self) -> None:
        for thing in THINGS[:-1]:
            here = canvas()
            here.taken[:] = True
            thing(here, 0.3)
            assert (here.picture == 90).all()

    def test_trees_leave_roofs_alone(self) -> None:
        here = canvas()
        here.numbers[:] = 1
        tree(here)
        assert (here.picture == 90).all()

    @pytest.mark.parametrize("form", ["flat", "shed", "gable", "hip"])
    def test_a_roof_is_drawn_on_its_place_alone(self, form: str) -> None:
        here = canvas()
        part = rectangle(np.array([24.0, 20.0]), (14.0, 8.0), 0.0)
        own = here.mask(part)
        assert np.count_nonzero(own) == pytest.approx(14 * 8 / GSD**2, rel=0.04)
        drawn_roof(here, replace(FLAT, parts=(part,), form=form, step=0.5 if form == "gable" else 0.0), own)
        changed = (here.picture != 90).any(axis=-1)
        assert changed[ndimage.binary_erosion(own)].all()
        # A hip's lines end on its corners.
        assert not changed[~ndimage.binary_dilation(own, iterations=2)].any()

    def test_the_slope_towards_the_sun_is_brighter(self) -> None:
        here = canvas()
        part = rectangle(np.array([24.0, 20.0]), (14.0, 8.0), np.pi / 2)
        drawn_roof(here, replace(FLAT, parts=(part,), form="gable"), here.mask(part))
        # Shadows fall to the east: the western slope is in the light.
        west, east = (
            np.median(here.picture[80:120, cols, 0]) for cols in (slice(104, 116), slice(124, 136))
        )
        assert west > 1.3 * east

    def test_a_shadow_falls_behind_a_body_as_far_as_it_is_high(self) -> None:
        here = canvas()
        part = rectangle(np.array([24.0, 20.0]), (10.0, 10.0), 0.0)
        own = here.mask(part)
        here.shadow([part], 6.0, own)
        dark = here.picture[..., 0] < 90
        rows, cols = np.nonzero(dark)
        assert np.unique(here.picture[dark]).tolist() == [45.0]
        # Three metres to the east of its eastern wall.
        assert cols.min() in (145, 146)
        assert cols.max() in (160, 161)
        assert (rows.min(), rows.max()) == (75, 125)

    def test_roofs_alike_have_one_colour_and_height(self) -> None:
        rng = np.random.default_rng(0)
        first = random_roof(rng, np.zeros(2), (8, 8), 0.0)
        second = random_roof(rng, np.ones(2), (8, 8), 0.0, like=first, whole=True)
        assert (second.form, second.height) == (first.form, first.height)
        np.testing.assert_allclose(second.colour, first.colour, rtol=0.08)
        assert len(second.parts) == 1


class TestReader:
    def test_a_share_of_crops_is_drawn(self, tmp_path: Path) -> None:
        place(tmp_path, "a", half())
        place(tmp_path, "b", half())
        reader = opened(tmp_path, drawn=0.4)
        samples = [reader.read("train", k, np.random.default_rng(k)) for k in range(100)]
        # Photographed ones of this place have a green of 0 or 1 everywhere.
        count = sum(int(sample.values[1].max() > 1) for sample in samples)
        assert 25 <= count <= 55
        assert {sample.label.shape for sample in samples} == {(46, 46)}

    def test_wrong_shares_and_types(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            place(tmp_path / "bytes", name, half())
            picture = np.zeros((3, 96, 96), np.uint16)
            layouts.save_tif(tmp_path / "wide" / name / "images" / "0.tif", picture)
            layouts.save_tif(tmp_path / "wide" / name / "masks" / "0.tif", half()[None])
        with pytest.raises(SettingsError, match=r"data\.drawn 2 is no share"):
            opened(tmp_path / "bytes", drawn=2)
        with pytest.raises(SettingsError, match=r"data\.drawn is for data\.crops"):
            opened(tmp_path / "bytes", crops=None, drawn=0.1)
        with pytest.raises(SettingsError, match=r"what is drawn is uint8, and .*0\.tif is uint16"):
            opened(tmp_path / "wide", drawn=0.1)
