"""What a run folder says about its run: metrics as CSV and JSON lines, environment, report.md."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tilesegment.atomic import write_text
from tilesegment.evaluate.pixels import Confusion

_COLUMNS = ("train_loss", "val_loss", "val_iou", "val_dice", "lr")
_PACKAGES = ("tilesegment", "torch", "segmentation-models-pytorch", "albumentations", "numpy", "rasterio")


def environment(device: torch.device, precision: str, workers: int) -> dict[str, Any]:
    """The machine and the versions of everything that decides a result."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "workers": workers,
        **{name: metadata.version(name) for name in _PACKAGES},
    }


def write_metrics(folder: Path, history: Sequence[dict[str, float]]) -> None:
    """metrics.csv and metrics.jsonl, whole. Raises OutputError."""
    table = io.StringIO()
    writer = csv.DictWriter(table, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(folder / "metrics.csv", table.getvalue())
    lines = [json.dumps({k: None if np.isnan(v) else v for k, v in row.items()}) for row in history]
    write_text(folder / "metrics.jsonl", "\n".join(lines) + "\n")


def report(
    name: str,
    history: Sequence[dict[str, float]],
    tested: tuple[str, float, Confusion],
    classes: Sequence[str],
    notes: Sequence[str],
    facts: dict[str, Any],
) -> str:
    """report.md. tested: split, loss and confusion of the best weights. facts: shown as a list."""
    split, loss, confusion = tested
    summary = {"loss": loss, **confusion.summary()}
    best = max(history, key=lambda row: -1.0 if np.isnan(row["val_iou"]) else row["val_iou"])
    scores = (confusion.iou, confusion.dice, confusion.precision, confusion.recall)
    lines = [
        f"# {name}",
        "",
        *(f"- {key}: {value}" for key, value in facts.items()),
        f"- epochs: {len(history)}, best by IoU: {int(best['epoch'])} (validation {best['val_iou']:.4f})",
        *(f"- note: {note}" for note in notes),
        "",
        f"## Best weights on the {split} split",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {key} | {value:.4f} |" for key, value in summary.items()),
        "",
        "| class | IoU | Dice / F1 | precision | accuracy (recall) | pixels |",
        "|---|---|---|---|---|---|",
        *(
            _row(label, *(values[k] for values in scores), int(confusion.matrix[k].sum()))
            for k, label in enumerate(classes)
        ),
        "",
        "![Learning curves](curves.png)",
        "",
        "![Confusion matrix](confusion.png)",
        "",
        "![Image, truth, prediction](panels.png)",
        "",
        "## Epochs",
        "",
        "| epoch | train loss | val loss | val IoU | val Dice | lr |",
        "|---|---|---|---|---|---|",
        *(_row(int(row["epoch"]), *(row[name] for name in _COLUMNS)) for row in history),
    ]
    return "\n".join(lines) + "\n"


def _row(*cells: str | int | float) -> str:
    return (
        "| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"
    )


@dataclass(frozen=True)
class Status:
    """Where a run stands, for a progress bar. done, total: batches of the epoch."""

    epoch: int
    epochs: int
    done: int
    total: int
    loss: float
    iou: float
    images_per_second: float


def epoch_line(row: dict[str, float], epochs: int) -> str:
    """`Epoch 01/15 | Train Loss ... | Val Loss ... | Dice ... | IoU ...`."""
    width = len(str(epochs))
    return (
        f"Epoch {int(row['epoch']):0{max(2, width)}d}/{epochs:0{max(2, width)}d} | Train Loss "
        f"{row['train_loss']:.4f} | Val Loss {row['val_loss']:.4f} | Dice {row['val_dice']:.4f} | IoU "
        f"{row['val_iou']:.4f}"
    )
