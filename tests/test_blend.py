from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilesegment.errors import SettingsError
from tilesegment.tiling.blend import (
    BLEND_MODES,
    CONTACT_FROM,
    FINE_MAX,
    NODATA,
    PROBABILITY_MAX,
    Accumulator,
    axis_weights,
    quantise,
    tile_weights,
)
from tilesegment.tiling.plan import MOST_OVERLAP, Axis


@pytest.mark.parametrize("mode", BLEND_MODES)
@given(length=st.integers(1, 512), share=st.floats(0, MOST_OVERLAP))
def test_weights_are_symmetric_and_never_zero(mode: str, length: int, share: float) -> None:
    weights = axis_weights(length, int(length * share), mode)  # type: ignore[arg-type]
    assert weights.min() >= 1
    np.testing.assert_array_equal(weights, weights[::-1])


def test_linear_and_cosine_share_the_overlap_evenly() -> None:
    for mode in ("linear", "cosine"):
        weights = axis_weights(512, 64, mode).astype(float)  # type: ignore[arg-type]
        both = weights[:64] + weights[-64:]
        assert np.ptp(both) <= 2
        assert (weights[64:-64] == weights.max()).all()


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(SettingsError, match="linear, cosine, gauss"):
        axis_weights(8, 2, "hann")  # type: ignore[arg-type]


def test_the_integers_cannot_overflow() -> None:
    # The most tiles over a pixel, each with the largest weight and probability.
    axis = Axis(1000, 64, 16)
    cover = np.zeros(1000, int)
    for k in range(axis.count):
        cover[axis.start(k) : axis.start(k) + 64] += 1
    most = cover.max() ** 2 * int(tile_weights((64, 64), 48, "linear").max())
    assert most * FINE_MAX < 2**32


def brute_force(tiles: list[tuple[int, int, np.ndarray]], weights: np.ndarray, shape: tuple[int, int]):
    total, weight = np.zeros(shape), np.zeros(shape)
    for row, col, values in tiles:
        h, w = weights.shape
        total[row : row + h, col : col + w] += weights * values
        weight[row : row + h, col : col + w] += weights
    return total / weight


@given(
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(2, 16),
    st.sampled_from(BLEND_MODES),
    st.integers(0, 2**32 - 1),
)
def test_the_strip_equals_the_weighted_mean(height: int, width: int, tile: int, mode, seed: int) -> None:
    overlap = tile // 2
    rows, cols = Axis(height, tile, tile - overlap), Axis(width, tile, tile - overlap)
    weights = tile_weights((tile, tile), overlap, mode)
    rng = np.random.default_rng(seed)
    shape = max(height, tile), max(width, tile)
    strip = Accumulator(weights, 1, shape[1])
    tiles, result = [], []
    for r in range(rows.count):
        result.append(strip.advance(rows.start(r))[1])
        for c in range(cols.count):
            values = rng.random((1, tile, tile), np.float32)
            tiles.append((rows.start(r), cols.start(c), values[0]))
            strip.add(cols.start(c), quantise(values))
    result.append(strip.advance(strip.top + tile)[1])
    expected = brute_force(tiles, weights, shape) * PROBABILITY_MAX
    assert np.abs(np.concatenate(result) - expected).max() <= 0.52


def test_contact_is_blended_beside_the_classes() -> None:
    """As a class of its own would be, and without a say in which class wins."""
    rng = np.random.default_rng(0)
    weights = tile_weights((16, 16), 4, "cosine")
    both, plain, alone = (Accumulator(weights, n, 28, 0, c) for n, c in ((3, True), (3, False), (1, False)))
    for col in (0, 12):
        counts = rng.integers(0, FINE_MAX, (4, 16, 16)).astype(np.uint16)
        both.add(col, counts)
        plain.add(col, counts[:3])
        alone.add(col, counts[3:])
    classes, probability, contact = both.advance(16)
    for found, wanted in ((classes, plain.advance(16)[0]), (contact, alone.advance(16)[1])):
        np.testing.assert_array_equal(found, wanted)
    assert probability.max() <= PROBABILITY_MAX


def test_of_one_class_contact_is_kept_where_that_may_be() -> None:
    rng = np.random.default_rng(1)
    weights = tile_weights((16, 16), 4, "cosine")
    both, plain, alone = (Accumulator(weights, 1, 40, 0, c) for c in (True, False, False))
    for col in (0, 12):
        counts = rng.integers(0, FINE_MAX // 4, (2, 16, 16)).astype(np.uint16)
        both.add(col, counts)
        plain.add(col, counts[:1])
        alone.add(col, counts[1:])
    _, probability, contact = both.advance(16)
    np.testing.assert_array_equal(probability, plain.advance(16)[1])
    whole = alone.advance(16)[1]
    assert contact is not None
    low = probability < CONTACT_FROM
    assert 100 < np.count_nonzero(low) < low.size - 300
    assert (contact[low] == 0).all()
    np.testing.assert_array_equal(contact[~low], whole[~low])
    assert (contact[:, 28:] == NODATA).all()


def test_no_tile_means_nodata() -> None:
    strip = Accumulator(tile_weights((4, 4), 0, "linear"), 2, 6)
    strip.add(0, np.full((2, 4, 4), FINE_MAX // 2, np.uint16))
    classes, probability, contact = strip.advance(4)
    assert contact is None
    assert (classes[:, 4:] == NODATA).all()
    assert (probability[:, 4:] == NODATA).all()
    # Of equal classes the first wins.
    assert (classes[:, :4] == 0).all()
