"""Pictures of a run: learning curves, confusion matrix, panels of image, truth and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tilesegment.datasets.sample import IGNORE, Sample
from tilesegment.model.card import ModelClass

_GAP = 6
_LARGEST = 400
_IGNORED = (224, 224, 192)


def draw_curves(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Losses on the left, IoU and Dice on the right, learning rate below, by epoch."""
    figure, (losses, scores) = _axes(1, 2, (11, 4))
    epochs = [row["epoch"] for row in history]
    for axis, names in (
        (losses, ("train_loss", "val_loss")),
        (scores, ("train_iou", "val_iou", "val_dice")),
    ):
        for name in names:
            axis.plot(epochs, [row[name] for row in history], marker="o", markersize=3, label=name)
        axis.set_xlabel("epoch")
        axis.legend()
        axis.grid(alpha=0.3)
    losses.set_title("loss")
    scores.set_title("IoU and Dice")
    scores.set_ylim(0, 1)
    _save(figure, path)


def draw_confusion(path: Path, matrix: NDArray[np.int64], names: Sequence[str]) -> None:
    """Shares of each true class, in rows."""
    share = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    side = max(4.0, 0.35 * len(names) + 2)
    figure, axis = _axes(1, 1, (side, side))
    shown = axis.imshow(share, vmin=0, vmax=1, cmap="viridis")
    ticks = range(len(names))
    axis.set_xticks(ticks, names, rotation=90, fontsize=7)
    axis.set_yticks(ticks, names, fontsize=7)
    axis.set_xlabel("predicted")
    axis.set_ylabel("truth")
    if len(names) <= 12:
        for (row, col), value in np.ndenumerate(share):
            colour = "black" if value > 0.6 else "white"
            axis.text(col, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(shown, fraction=0.04)
    _save(figure, path)


def draw_panels(path: Path, rows: Sequence[Sequence[Image.Image]], titles: Sequence[str]) -> None:
    """A sheet of pictures with a title over each column."""
    rows = [[_small(cell) for cell in row] for row in rows]
    width = max(cell.width for row in rows for cell in row)
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new(
        "RGB", (len(titles) * (width + _GAP) + _GAP, 20 + sum(heights) + _GAP * (len(rows) + 1)), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for k, title in enumerate(titles):
        pen.text((_GAP + k * (width + _GAP), 4), title, fill="black")
    top = 20
    for row, height in zip(rows, heights, strict=True):
        for k, cell in enumerate(row):
            sheet.paste(cell, (_GAP + k * (width + _GAP), top))
        top += height + _GAP
    sheet.save(path)


def picture(sample: Sample, value_range: tuple[float, float]) -> Image.Image:
    """A sample's pixels as a picture, black where invalid."""
    low, high = value_range
    shown = np.clip((sample.values[:3].astype(np.float32) - low) / (high - low) * 255, 0, 255).astype(
        np.uint8
    )
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


def _axes(rows: int, cols: int, size: tuple[float, float]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # No pyplot: it would look for a screen, and keep every figure.
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, cols)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110)
