from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilesegment.errors import MemoryBudgetError, SettingsError
from tilesegment.grid import Window
from tilesegment.tiling import memory
from tilesegment.tiling.memory import Load, fit_blocks, worst_memory
from tilesegment.tiling.plan import Axis, Plan, fitting_tile


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    tile = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    overlap = draw(st.integers(0, int(min(tile) * 0.75)))
    row, col = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    region = Window(row, col, draw(st.integers(1, height - row)), draw(st.integers(1, width - col)))
    return Plan(height, width, region, tile, overlap, draw(st.integers(1, 9)), draw(st.integers(1, 9)))


@given(plans())
def test_blocks_partition_the_region(plan: Plan) -> None:
    seen = np.zeros((plan.height, plan.width), int)
    for block in plan.blocks:
        seen[block.window.slices] += 1
    expected = np.zeros_like(seen)
    expected[plan.region.slices] = 1
    np.testing.assert_array_equal(seen, expected)


@given(plans())
def test_a_block_lists_exactly_the_tiles_that_touch_it(plan: Plan) -> None:
    for block in plan.blocks:
        for axis, tiles, begin, end in (
            (plan.rows, block.tile_rows, block.window.row, block.window.row_end),
            (plan.cols, block.tile_cols, block.window.col, block.window.col_end),
        ):
            touching = [
                k for k in range(axis.count) if axis.start(k) < end and axis.start(k) + axis.tile > begin
            ]
            assert list(tiles) == touching


@given(st.integers(1, 300), st.integers(1, 64), st.data())
def test_tiles_cover_the_axis_and_stay_inside(size: int, tile: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(max(1, tile // 4), tile))
    axis = Axis(size, tile, step)
    covered = np.zeros(size, bool)
    for k in range(axis.count):
        start = axis.start(k)
        assert start >= 0
        assert start + tile <= max(size, tile)
        covered[start : start + tile] = True
    assert covered.all()
    # Not one tile more than needed.
    assert axis.count == 1 or (axis.count - 2) * step + tile < size


def test_tiles_do_not_depend_on_blocks_or_region() -> None:
    whole = Plan(1000, 900, Window(0, 0, 1000, 900), (128, 128), 32)
    part = Plan(1000, 900, Window(300, 100, 50, 60), (128, 128), 32, 2, 2)
    assert all(
        part.tile_window(r, c) == whole.tile_window(r, c)
        for block in part.blocks
        for r in block.tile_rows
        for c in block.tile_cols
    )


@pytest.mark.parametrize("overlap", [-1, 97, 200])
def test_an_impossible_overlap_is_refused_with_the_possible_ones(overlap: int) -> None:
    with pytest.raises(SettingsError, match="use 0 to 96"):
        Plan(10, 10, Window(0, 0, 10, 10), (128, 128), overlap)


LOAD = Load(3, 1, 1, 20_000_000, 100_000_000, 2, 1, 920_000_000)


def plan_of(height: int, width: int) -> Plan:
    return Plan(height, width, Window(0, 0, height, width), (512, 512), 64)


def test_few_wide_blocks_keep_the_recompute_small() -> None:
    for height, width in [(8704, 11264), (17408, 22528), (40000, 40000), (300000, 200000)]:
        fitted = fit_blocks(plan_of(height, width), LOAD, 3_000_000_000)
        assert fitted.recompute <= 1.05, (height, width, fitted.recompute)
        assert len(fitted.blocks) > 1


@given(st.integers(1, 120_000), st.integers(1, 120_000), st.integers(1500, 8000))
def test_memory_is_kept_or_refused(height: int, width: int, megabytes: int) -> None:
    budget = megabytes * 1_000_000
    try:
        fitted = fit_blocks(plan_of(height, width), LOAD, budget)
    except MemoryBudgetError:
        return
    assert worst_memory(fitted, LOAD).total <= budget


def test_memory_does_not_grow_with_the_scene() -> None:
    small, large = (
        worst_memory(fit_blocks(plan_of(side, side), LOAD, 2_000_000_000), LOAD).total
        for side in (20_000, 400_000)
    )
    assert large <= 2_000_000_000
    assert large <= small * 1.15


def test_too_little_memory_says_how_much_is_needed() -> None:
    with pytest.raises(MemoryBudgetError, match=r"0\.50GB is less than the 1\.\d\dGB"):
        fit_blocks(plan_of(9000, 9000), LOAD, 500_000_000)


def test_every_worker_gets_a_block() -> None:
    assert len(fit_blocks(plan_of(3000, 3000), LOAD, 8_000_000_000, workers=4).blocks) >= 4


@pytest.mark.parametrize(
    ("size", "tile", "expected", "overlap"),
    [
        ((4000, 3000), (512, 512), (512, 512), 64),
        ((256, 256), (512, 512), (256, 256), 64),
        ((257, 511), (512, 512), (288, 512), 64),
        ((1, 5000), (512, 512), (32, 512), 24),
        ((300, 100), (256, 512), (256, 128), 64),
        ((50, 50), (40, 40), (40, 40), 30),
    ],
)
def test_a_tile_is_no_larger_than_its_scene(size, tile, expected, overlap) -> None:
    assert fitting_tile(tile, *size, 64) == (expected, overlap)


def test_contact_is_a_channel_more() -> None:
    plan = plan_of(4000, 4000)
    without, with_it = worst_memory(plan, LOAD), worst_memory(plan, dataclasses.replace(LOAD, contact=True))
    tile_cols = max(len(tiles) for _, _, tiles in plan.col_parts)
    strip = plan.tile[0] * (tile_cols * (plan.tile[1] - plan.overlap) + plan.overlap)
    # Sums in four bytes, and two batches of one tile each a stream, in floats.
    assert with_it.strip - without.strip == 4 * strip
    assert with_it.forward - without.forward == 2 * 2 * 4 * plan.tile[0] * plan.tile[1]
    assert with_it.finished == 2 * without.finished


def test_writing_may_take_more_than_predicting() -> None:
    plan = plan_of(1000, 3000)
    for splits in (False, True):
        found = worst_memory(plan, dataclasses.replace(LOAD, splits=splits))
        predicting = found.strip + found.finished + found.trace
        writing = 3_000_000 + (memory.SPLIT_BYTES * 3_000_000 if splits else 0)
        assert predicting + found.outputs == max(predicting, writing)


def test_a_plan_travels_without_its_blocks() -> None:
    plan = Plan(10_000, 10_000, Window(0, 0, 10_000, 10_000), (256, 256), 32, 20, 20)
    before = pickle.dumps(plan)
    assert len(plan.blocks) == 400
    assert len(pickle.dumps(plan)) == len(before) < 1000
    again = copy.copy(plan)
    assert again == plan
    assert again.blocks == plan.blocks
