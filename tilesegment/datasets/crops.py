"""Training crops drawn at random: so many from each place, at varied pixel sizes, some without a roof."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tilesegment.datasets.buildings import BY_MASK, CONTACT_METRES, contact_of_layer, contact_of_mask
from tilesegment.datasets.drawn.towns import drawn as drawn_crop
from tilesegment.datasets.mixing import laid_in, recoloured
from tilesegment.datasets.pairs import Pair, PairReader
from tilesegment.datasets.sample import IGNORE, Sample
from tilesegment.errors import SettingsError
from tilesegment.grid import Window
from tilesegment.model.card import ModelClass
from tilesegment.raster.picture import Part, picture_size
from tilesegment.settings import nearest

# Crops looked at until one without a roof is found.
_TRIES = 6
# Pictures laid side by side are at least this share of a crop: smaller, they would be all seams.
_LEAST_PIECE = 0.25
# Pictures are not read at pixels this many times smaller than their own: the ground holds no such detail.
_UPSAMPLING = 2.2


@dataclass(frozen=True)
class _Piece:
    """A part of a picture, and where its first row and column lie in the crop."""

    pair: Pair
    part: Part
    row: int
    col: int


@dataclass(frozen=True)
class CropReader:
    """The `Reader` of a data set whose training split is crops; the other splits are its pictures.

    size: (rows, columns) of a crop; crops: an epoch; shares: of the crops, by place; empty_share: of the
    crops that are looked for where no roof is; sizes: metres a pixel that crops are read at, least and
    largest, as if each were `gsd`. A place whose pictures are smaller than a crop is laid out side by side.
    paste, recolour: the shares of crops into which roofs of another are laid, and whose roofs get other
    colours, see `datasets.mixing`. drawn: the share of crops that are drawn, see `datasets.drawn.towns`.
    """

    pictures: PairReader
    size: tuple[int, int]
    crops: int
    shares: tuple[tuple[str, float], ...]
    empty_share: float
    sizes: tuple[float, float]
    classes: tuple[ModelClass, ...]
    gsd: float
    notes: tuple[str, ...] = field(default=())
    paste: float = 0.0
    recolour: float = 0.0
    drawn: float = 0.0

    def names(self, split: str) -> Sequence[str]:
        """See `Reader`."""
        if split == "train":
            return [f"crop {k}" for k in range(self.crops if self.pictures.names("train") else 0)]
        return self.pictures.names(split)

    def read(self, split: str, index: int, rng: np.random.Generator | None = None) -> Sample:
        """See `Reader`."""
        if split != "train":
            return self.pictures.read(split, index, rng)
        rng = rng if rng is not None else np.random.default_rng(index)
        if self.drawn and rng.random() < self.drawn:
            return drawn_crop(self.size, self.gsd, rng)
        if rng.random() >= self.empty_share:
            return self._mixed(self._assembled(self._drawn(rng)), rng)
        for _ in range(_TRIES):
            pieces = self._drawn(rng)
            if not any(self._has_roof(piece) for piece in pieces):
                break
        return self._assembled(pieces)

    def _mixed(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if self.paste and rng.random() < self.paste:
            sample = laid_in(sample, self._assembled(self._drawn(rng)), self.gsd, rng)
        if self.recolour and rng.random() < self.recolour:
            sample = recoloured(sample, rng)
        return sample

    def _drawn(self, rng: np.random.Generator) -> list[_Piece]:
        """Where a crop is read."""
        shares = np.array([share for _, share in self.shares])
        place = self.shares[int(rng.choice(len(shares), p=shares / shares.sum()))][0]
        pairs = [pair for pair in self.pictures.splits["train"] if pair.place == place]
        pair = pairs[int(rng.integers(len(pairs)))]
        metres = pair.metres or self.gsd
        rows, cols = picture_size(pair.image)
        least = max(self.sizes[0], metres / _UPSAMPLING)
        most = min(self.sizes[1], metres * min(rows, cols) / (_LEAST_PIECE * max(self.size)))
        low, high = math.log(least), math.log(max(least, most))
        scale = metres / math.exp(rng.uniform(low, high))
        wanted = math.ceil(self.size[0] / scale), math.ceil(self.size[1] / scale)
        if wanted[0] <= rows and wanted[1] <= cols:
            row, col = rng.integers(rows - wanted[0] + 1), rng.integers(cols - wanted[1] + 1)
            return [_Piece(pair, Part(Window(int(row), int(col), *wanted), self.size), 0, 0)]
        return _side_by_side(pairs, scale, (rows, cols), self.size, rng)

    def _has_roof(self, piece: _Piece) -> bool:
        return bool((self.pictures.read_label(piece.pair, piece.part) == 1).any())

    def _assembled(self, pieces: Sequence[_Piece]) -> Sample:
        values = np.zeros((3, *self.size), np.uint8)
        label, contact = np.full(self.size, IGNORE, np.uint8), np.full(self.size, IGNORE, np.uint8)
        valid = np.zeros(self.size, np.bool_)
        for piece in pieces:
            sample = self.pictures.read_part(piece.pair, piece.part)
            if sample.values.dtype != np.uint8:
                values = values.astype(sample.values.dtype)
            here, there = _overlap(piece, self.size)
            values[:, here[0], here[1]] = sample.values[:, there[0], there[1]]
            label[here], valid[here] = sample.label[there], sample.valid[there]
            touching = self._contact(piece, alone=len(pieces) == 1)
            if touching is not None:
                contact[here] = touching[there]
        return Sample(values, label, valid, contact)

    def _contact(
        self, piece: _Piece, alone: bool
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None:
        pair = piece.pair
        if pair.instances is None or pair.label is None:
            return None
        if pair.instances == BY_MASK:
            window = piece.part.window
            native = None if window is None else Part(window, (window.height, window.width))
            mask = self.pictures.read_label(pair, native)
            touching = contact_of_mask(mask, piece.part.shape, self.gsd)
        else:
            touching = contact_of_layer(pair.label, pair.instances, piece.part, self.gsd)
        if not alone:
            # Nobody knows what lies beyond the rim of a picture.
            rim = math.ceil(CONTACT_METRES / self.gsd)
            framed = np.full_like(touching, IGNORE)
            framed[rim:-rim, rim:-rim] = touching[rim:-rim, rim:-rim]
            touching = framed
        return touching


def _side_by_side(
    pairs: Sequence[Pair],
    scale: float,
    picture: tuple[int, int],
    size: tuple[int, int],
    rng: np.random.Generator,
) -> list[_Piece]:
    """Pictures of a place drawn at random, edge to edge, from a random place of the first one on."""
    rows, cols = max(1, round(picture[0] * scale)), max(1, round(picture[1] * scale))
    top, left = -int(rng.integers(rows)), -int(rng.integers(cols))
    pieces = []
    for row in range(top, size[0], rows):
        for col in range(left, size[1], cols):
            pair = pairs[int(rng.integers(len(pairs)))]
            pieces.append(_Piece(pair, Part(None, (rows, cols)), row, col))
    return pieces


def _overlap(piece: _Piece, size: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a piece lies in the crop, and which part of it that is."""
    here, there = [], []
    for first, length, whole in zip((piece.row, piece.col), piece.part.shape, size, strict=True):
        begin, end = max(0, first), min(first + length, whole)
        here.append(slice(begin, end))
        there.append(slice(begin - first, end - first))
    return (here[0], here[1]), (there[0], there[1])


def open_crops(
    pictures: PairReader,
    size: tuple[int, int],
    *,
    crops: Any,
    weights: Mapping[str, float] | None,
    empty_share: float,
    pixel_sizes: Sequence[float] | None,
    paste: float = 0.0,
    recolour: float = 0.0,
    drawn: float = 0.0,
) -> CropReader:
    """Crops of a data set's training pictures, large enough that `size` (rows, columns) can be cut whole
    from their middle after any turn.

    crops: an epoch; weights: the share of each place, by default in proportion to its ground; empty_share:
    that is looked for where no roof is; pixel_sizes: the least and largest metres a pixel to read at, by
    default the data set's own; paste, recolour, drawn: see `CropReader`. Raises SettingsError.
    """
    gsd = pictures.gsd
    if gsd is None:
        raise SettingsError("data.crops needs data.gsd, the pixel size that the model is for")
    if not isinstance(crops, int) or crops < 1:
        raise SettingsError(f"data.crops {crops!r} is no whole number above 0")
    for name, share in (
        ("empty_share", empty_share),
        ("paste", paste),
        ("recolour", recolour),
        ("drawn", drawn),
    ):
        if not 0 <= share <= 1:
            raise SettingsError(f"data.{name} {share} is no share between 0 and 1")
    if drawn:
        _check_bytes(pictures)
    sizes = list(pixel_sizes or (gsd, gsd))
    if len(sizes) != 2 or not 0 < sizes[0] <= sizes[1]:
        raise SettingsError(f"data.pixel_sizes {sizes}: give the least and the largest, in metres")
    across = math.ceil(math.hypot(*size))
    return CropReader(
        pictures,
        (across, across),
        crops,
        _shares(weights, pictures.splits["train"]),
        empty_share,
        (float(sizes[0]), float(sizes[1])),
        pictures.classes,
        gsd,
        paste=paste,
        recolour=recolour,
        drawn=drawn,
    )


def _check_bytes(pictures: PairReader) -> None:
    """Raises SettingsError where drawn crops would be of another type than the pictures."""
    for pair in pictures.splits["train"][:1]:
        kind = pictures.read_part(pair, Part(None, (1, 1))).values.dtype
        if kind != np.uint8:
            raise SettingsError(f"data.drawn: what is drawn is uint8, and {pair.image} is {kind}")


def _shares(weights: Mapping[str, float] | None, pairs: Sequence[Pair]) -> tuple[tuple[str, float], ...]:
    places = {pair.place for pair in pairs}
    for place, share in (weights or {}).items():
        if place not in places:
            raise SettingsError(
                f"data.weights: no training place is called {place!r}{nearest(place, places)}"
            )
        if share < 0:
            raise SettingsError(f"data.weights: {place} {share} is below 0")
    if weights is not None and not sum(weights.values()):
        raise SettingsError("data.weights: all are 0")
    return tuple((weights or _ground(pairs)).items())


def _ground(pairs: Sequence[Pair]) -> dict[str, float]:
    """Square metres by place."""
    ground: dict[str, float] = {}
    for pair in pairs:
        rows, cols = picture_size(pair.image)
        ground[pair.place] = ground.get(pair.place, 0.0) + rows * cols * (pair.metres or 1.0) ** 2
    return ground


def instances_of(root: Path, given: Mapping[str, str], place: str) -> str | None:
    """`mask`, or the path of a place's vector file below root."""
    named = given.get(place)
    return named if named is None or named == BY_MASK else str(root / named)
