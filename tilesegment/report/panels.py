"""Panels: image, truth and prediction beside one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tilesegment.datasets.sample import IGNORE, Sample
from tilesegment.model.card import ModelClass
from tilesegment.model.preprocess import ValueRange, in_range

_GAP = 6
_LARGEST = 400
# Of a name and the space to the next row.
_LINE = 22
_IGNORED = (224, 224, 192)


def sheet_of(
    rows: Sequence[Sequence[Image.Image]], titles: Sequence[str], names: Sequence[str]
) -> Image.Image:
    """A sheet of pictures with a title over each column, and a name under each row."""
    rows = [[_small(cell) for cell in row] for row in rows]
    width = max(cell.width for row in rows for cell in row)
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new(
        "RGB", (len(titles) * (width + _GAP) + _GAP, 20 + sum(heights) + _LINE * len(rows)), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for k, title in enumerate(titles):
        pen.text((_GAP + k * (width + _GAP), 4), title, fill="black")
    top = 20
    for row, height, name in zip(rows, heights, names, strict=True):
        for k, cell in enumerate(row):
            sheet.paste(cell, (_GAP + k * (width + _GAP), top))
        pen.text((_GAP, top + height + 2), name, fill="black")
        top += height + _LINE
    return sheet


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in one row."""
    height = max(picture.height for picture in pictures)
    width = sum(picture.width + _GAP for picture in pictures) - _GAP
    sheet, left = Image.new("RGB", (width, height), "white"), 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + _GAP
    return sheet


def picture_of(sample: Sample, value_range: tuple[float, float]) -> Image.Image:
    """A sample's pixels as a picture, black where invalid; one band as grey."""
    values = sample.values[:3]
    shown = (in_range(values, ValueRange.of_all(value_range, len(values))) * 255).astype(np.uint8)
    if len(shown) < 3:
        shown = np.repeat(shown[:1], 3, axis=0)
    shown[:, ~sample.valid] = 0
    return Image.fromarray(shown.transpose(1, 2, 0))


def coloured(label: NDArray[np.uint8], classes: Sequence[ModelClass]) -> Image.Image:
    """Class indices (rows, columns) in their colours; what is ignored is light yellow."""
    table = np.zeros((256, 3), np.uint8)
    for index, entry in enumerate(classes):
        table[index] = entry.colour
    table[IGNORE] = _IGNORED
    return Image.fromarray(table[label])


def laid_over(base: Image.Image, label: NDArray[np.uint8], classes: Sequence[ModelClass]) -> Image.Image:
    """The picture with its classes, but for a background, half through it."""
    hidden = [index for index, entry in enumerate(classes) if entry.name == "background"]
    mask = Image.fromarray(np.where(np.isin(label, [*hidden, IGNORE]), 0, 128).astype(np.uint8))
    return Image.composite(coloured(label, classes), base, mask)


def _small(image: Image.Image) -> Image.Image:
    factor = _LARGEST / max(image.size)
    if factor >= 1:
        return image
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
