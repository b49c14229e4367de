"""An evaluation as files: figures, a table and a layer of objects, a picture of the errors, a page."""

from __future__ import annotations

import csv
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tilesegment.errors import OutputError
from tilesegment.evaluate.masks import MaskTask
from tilesegment.evaluate.summary import ObjectResult
from tilesegment.grid import Window
from tilesegment.model.card import ModelClass
from tilesegment.raster.labels import UNKNOWN
from tilesegment.report.html import page, picture
from tilesegment.vector.style import add_style, layer_style

HIT, MISSED, FALSE = "hit", "missed", "false"
COLOURS = {HIT: (40, 160, 80), MISSED: (40, 90, 220), FALSE: (220, 50, 40)}
_UNLABELLED, _QUIET = (236, 236, 236), (255, 255, 255)
_LONGEST = 1400
_STRIP = 512
_CROPS, _CROP = 6, 512


def object_rows(result: ObjectResult, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row an object: predictions (hit or false), then what was missed. A hit names its partner."""
    rows = []
    predicted, truth, matching = result.predicted, result.truth, result.matching
    for k, (other, iou) in enumerate(zip(matching.truth_of.tolist(), matching.iou.tolist(), strict=True)):
        rows.append(
            {
                "id": result.predicted_ids[k],
                "result": HIT if other >= 0 else FALSE,
                "class": names[predicted.label[k]],
                "matched_id": result.truth_ids[other] if other >= 0 else None,
                "iou": round(iou, 4) if other >= 0 else None,
                "area_m2": round(float(predicted.area[k]), 2),
                "confidence": None if predicted.confidence is None else float(predicted.confidence[k]),
            }
        )
    for k in np.flatnonzero(~matching.found).tolist():
        rows.append(
            {
                "id": result.truth_ids[k],
                "result": MISSED,
                "class": names[truth.label[k]],
                "matched_id": None,
                "iou": None,
                "area_m2": round(float(truth.area[k]), 2),
                "confidence": None,
            }
        )
    return rows


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One line an object."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(
            file, ["id", "result", "class", "matched_id", "iou", "area_m2", "confidence"]
        )
        writer.writeheader()
        writer.writerows(rows)


def write_layer_of_errors(
    path: Path, result: ObjectResult, rows: Sequence[dict[str, Any]], crs: str | None
) -> None:
    """A GeoPackage of hits, false and missed objects, with a QGIS style that colours them.

    Raises OutputError where the driver refuses."""
    import geopandas
    from pyogrio.errors import DataSourceError, GeometryError

    missed = ~result.matching.found
    geometry = np.concatenate(
        [
            result.predicted.polygons.take(np.arange(len(result.predicted))),
            result.truth.polygons.take(missed),
        ]
    )
    columns = {
        "object": [str(row["id"]) for row in rows],
        **{name: [row[name] for row in rows] for name in ("result", "class")},
        "matched": [None if row["matched_id"] is None else str(row["matched_id"]) for row in rows],
        **{name: np.array([row[name] for row in rows], float) for name in ("iou", "area_m2", "confidence")},
    }
    frame = geopandas.GeoDataFrame(columns, geometry=geometry, crs=crs)
    labels = {k: ModelClass(name, colour) for k, (name, colour) in enumerate(COLOURS.items())}
    try:
        frame.to_file(path, layer="objects", driver="GPKG", GEOMETRY_NAME="geom")
        add_style(path, "objects", layer_style(labels, "result"))
    except (DataSourceError, GeometryError, OSError) as error:
        raise OutputError(f"{path}: cannot be written ({' '.join(str(error).split())})") from error


def error_map(task: MaskTask) -> Image.Image:
    """The whole scene, at most 1400 pixels a side: hits green, missed blue, false red; a pixel shows what
    lies at its centre."""
    grid = task.grid
    scale = max(1.0, max(grid.height, grid.width) / _LONGEST)
    height, width = max(1, round(grid.height / scale)), max(1, round(grid.width / scale))
    rows = ((2 * np.arange(height) + 1) * grid.height) // (2 * height)
    cols = ((2 * np.arange(width) + 1) * grid.width) // (2 * width)
    picture = np.zeros((height, width, 3), np.uint8)
    for begin in range(0, grid.height, _STRIP):
        inside = np.flatnonzero((rows >= begin) & (rows < begin + _STRIP))
        if len(inside):
            window = Window(begin, 0, min(_STRIP, grid.height - begin), grid.width)
            picture[inside] = _coloured(task, window)[rows[inside] - begin][:, cols]
    return Image.fromarray(picture)


def worst_places(task: MaskTask, matrix: NDArray[np.int64], cell: int) -> list[tuple[float, Image.Image]]:
    """Pictures of the cells with most wrong pixels, and their share of right ones. matrix: (cells, classes,
    classes)."""
    right = matrix.trace(axis1=1, axis2=2)
    total = matrix.sum(axis=(1, 2))
    wrong = total - right
    across = -(-task.grid.width // cell)
    found = []
    for number in np.argsort(-wrong, kind="stable")[:_CROPS].tolist():
        if wrong[number]:
            row, col = number // across * cell, number % across * cell
            window = Window(row, col, cell, cell).intersection(task.grid.window)
            if window is not None:
                image = Image.fromarray(_coloured(task, window))
                image.thumbnail((_CROP, _CROP))
                found.append((float(right[number] / total[number]), image))
    return found


def _coloured(task: MaskTask, window: Window) -> NDArray[np.uint8]:
    truth, found = task.truth.read(window), task.found.read(window)
    picture = np.full((*truth.shape, 3), _QUIET, np.uint8)
    picture[(truth == found) & (truth > 0)] = COLOURS[HIT]
    picture[(truth != found) & (found > 0)] = COLOURS[FALSE]
    picture[(truth != found) & (truth > 0)] = COLOURS[MISSED]
    picture[(truth == UNKNOWN) | (found == UNKNOWN)] = _UNLABELLED
    return picture


def text_table(figures: dict[str, Any]) -> str:
    """The figures that matter, for a terminal."""
    lines = []
    pixels, objects = figures["pixels"], figures.get("objects")
    lines += _rows(
        "pixels",
        pixels,
        ("iou", "dice", "precision", "recall", "accuracy", "class_accuracy", "mse", "brier"),
    )
    for entry in pixels.get("boundary", []):
        lines.append(
            f"  {'boundary IoU ' + format(entry['metres'], 'g') + ' m':18} {_number(entry['iou'])}"
        )
    if len(pixels["by_class"]) > 2:
        lines += [f"  {row['class'][:18]:18} IoU {_number(row['iou'])}" for row in pixels["by_class"]]
    if objects is not None:
        lines.append(
            f"objects: {objects['predicted']} predicted, {objects['truth']} true, {objects['hits']} hits"
        )
        lines += _rows("at IoU 0.5", objects, ("f1", "precision", "recall", "ap50", "ap", "pq"))
        tolerant = objects["tolerant"]
        lines.append(
            f"  {'F1, tolerant':18} {_number(tolerant['f1'])}  ({tolerant['merging']} predictions merge "
            f"{tolerant['merged']} objects; {tolerant['split']} are split)"
        )
        shape = objects["shape"]
        if shape["pairs"]:
            lines += _rows(
                "shape of hits", shape, ("iou", "c_iou", "n_ratio", "polis_m", "max_tangent_angle")
            )
        if objects.get("calibration_error") is not None:
            lines.append(f"  {'calibration error':18} {_number(objects['calibration_error'])}")
    return "\n".join(lines)


def _rows(title: str, figures: dict[str, Any], names: Sequence[str]) -> list[str]:
    between = figures.get("intervals", {})
    rows = [f"{title}:"]
    for name in names:
        if figures.get(name) is not None:
            low_high = between.get(name)
            shown = "" if low_high is None else f"  [{low_high[0]:.3f}, {low_high[1]:.3f}]"
            rows.append(f"  {name:18} {_number(figures[name])}{shown}")
    return rows


def _number(value: float | None) -> str:
    return "     -" if value is None else f"{value:6.3f}"


def write_page(
    path: Path, figures: dict[str, Any], pictures: Sequence[tuple[str, Image.Image]], title: str
) -> None:
    """One self-contained HTML page. pictures: with their captions."""
    parts = [f"<pre>{html.escape(text_table(figures))}</pre>"]
    parts += [picture(image, caption) for caption, image in pictures]
    for name, rows in (("pixels", figures["pixels"]), ("objects", figures.get("objects") or {})):
        if rows.get("thresholds"):
            curves = {
                key: [(row["threshold"], row[key]) for row in rows["thresholds"]]
                for key in ("iou", "precision", "recall")
            }
            parts.append(_chart(f"{name}: by threshold", curves))
        if rows.get("reliability"):
            curve = [(row["confidence"], row["hits"]) for row in rows["reliability"]]
            parts.append(_chart(f"{name}: share of hits by confidence", {"hits": curve}, diagonal=True))
    parts.append(_confusion(figures))
    parts.append(f"<details><summary>all figures</summary><pre>{_all(figures)}</pre></details>")
    path.write_text(page(title, parts), encoding="utf-8")


def _all(figures: dict[str, Any]) -> str:
    return html.escape(json.dumps(figures, indent=1))


def _confusion(figures: dict[str, Any]) -> str:
    pixels = figures["pixels"]
    names = [row["class"] for row in pixels["by_class"]]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{value:,}</td>' for value in row)}</tr>"
        for name, row in zip(names, pixels["confusion"], strict=True)
    )
    return f"<h2>Pixels by truth (rows) and prediction</h2><table><tr><th></th>{head}</tr>{rows}</table>"


def _chart(title: str, curves: dict[str, list[tuple[float, Any]]], diagonal: bool = False) -> str:
    """Curves over 0..1 as a small drawing."""
    size, margin = 300, 34
    colours = ("#1f6fb4", "#d9542b", "#3a9a4b")

    def at(x: float, y: float) -> str:
        return f"{margin + x * size:.1f},{margin + (1 - y) * size:.1f}"

    whole = size + 2 * margin
    parts = [
        f'<svg width="{whole}" height="{whole}" role="img">',
        f'<text x="{margin}" y="20">{html.escape(title)}</text>',
        f'<rect x="{margin}" y="{margin}" width="{size}" height="{size}" fill="none" stroke="#aaa"/>',
    ]
    if diagonal:
        parts.append(f'<polyline points="{at(0, 0)} {at(1, 1)}" fill="none" stroke="#bbb"/>')
    for k, (name, points) in enumerate(curves.items()):
        drawn = " ".join(at(x, y) for x, y in points if y is not None)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colours[k]}" stroke-width="2"/>')
        place = f'x="{margin + 8 + 90 * k}" y="{whole - 10}" fill="{colours[k]}"'
        parts.append(f"<text {place}>{html.escape(name)}</text>")
    return "".join(parts) + "</svg>"
