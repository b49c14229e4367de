"""Pictures of a run: learning curves and confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def draw_curves(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Losses, scores (IoU, Dice, pixel accuracy) and the learning rate, side by side, by epoch."""
    figure, (losses, scores, rate) = _axes(1, 3, (15, 4))
    epochs = [row["epoch"] for row in history]
    for axis, names in (
        (losses, ("train_loss", "val_loss")),
        (scores, ("train_iou", "val_iou", "val_dice", "val_accuracy")),
        (rate, ("lr",)),
    ):
        for name in names:
            axis.plot(epochs, [row[name] for row in history], marker="o", markersize=3, label=name)
        axis.set_xlabel("epoch")
        axis.legend()
        axis.grid(alpha=0.3)
    losses.set_title("loss")
    scores.set_title("IoU, Dice, accuracy")
    rate.set_title("learning rate")
    if all(row["lr"] > 0 for row in history):
        rate.set_yscale("log")
    scores.set_ylim(0, 1)
    _save(figure, path)


def draw_confusion(path: Path, matrix: NDArray[np.int64], names: Sequence[str]) -> None:
    """Shares of each true class, in rows; classes that are neither there nor found are left out."""
    met: NDArray[np.bool_] = np.logical_or(matrix.any(axis=0), matrix.any(axis=1))
    names = [name for name, is_met in zip(names, met.tolist(), strict=True) if is_met]
    if not names:
        return
    missing = len(met) - len(names)
    matrix = matrix[np.ix_(met, met)]
    share = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    side = max(4.0, 0.35 * len(names) + 2)
    figure, axis = _axes(1, 1, (side, side))
    shown = axis.imshow(share, vmin=0, vmax=1, cmap="viridis")
    ticks = range(len(names))
    axis.set_xticks(ticks, names, rotation=90, fontsize=7)
    axis.set_yticks(ticks, names, fontsize=7)
    axis.set_xlabel("predicted")
    axis.set_ylabel("truth")
    if missing:
        axis.set_title(f"{missing} other classes do not occur", fontsize=8)
    if len(names) <= 12:
        for (row, col), value in np.ndenumerate(share):
            colour = "black" if value > 0.6 else "white"
            axis.text(col, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(shown, fraction=0.04)
    _save(figure, path)


def _axes(rows: int, cols: int, size: tuple[float, float]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # No pyplot: it would look for a screen, and keep every figure.
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, cols)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110)
