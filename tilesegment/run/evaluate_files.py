"""An evaluation's folder, complete or not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tilesegment.errors import OutputError
from tilesegment.evaluate.masks import cell_size
from tilesegment.report import evaluation as pages
from tilesegment.report.panels import side_by_side
from tilesegment.run.evaluate import Answer

_FIGURES = "metrics.json"


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raises OutputError where a folder may not be written."""
    if not folder.parent.is_dir():
        raise OutputError(f"{folder.parent}: no such folder")
    if not folder.exists():
        return
    if not overwrite:
        raise OutputError(f"{folder}: exists already; choose another name or give --overwrite")
    if not (folder / _FIGURES).is_file():
        raise OutputError(f"{folder}: is no evaluation; --overwrite does not remove it")


def write_answer(folder: Path, answer: Answer) -> None:
    """Figures, objects, pictures and the page of a scene's evaluation. Raises OutputError."""

    def fill(into: Path) -> None:
        rows = pages.object_rows(answer.objects, answer.shared.names)
        pages.write_csv(into / "objects.csv", rows)
        if rows:
            pages.write_layer_of_errors(into / "objects.gpkg", answer.objects, rows, answer.plane.crs)
        whole = pages.error_map(answer.task)
        whole.save(into / "errors.png")
        cell = cell_size(answer.task.grid, answer.task.classes)
        worst = pages.worst_places(answer.task, answer.masks.matrix, cell)
        pictures = [("Hits green, missed blue, false red; grey was not labelled.", whole)]
        if worst:
            sheet = side_by_side([picture for _, picture in worst])
            sheet.save(into / "panels.png")
            shares = ", ".join(f"{share:.0%}" for share, _ in worst)
            pictures.append((f"Where most is wrong; right are {shares} of the pixels.", sheet))
        title = f"{Path(answer.figures['prediction']).name} against {Path(answer.figures['truth']).name}"
        _write_texts(into, answer.figures, pictures, title)

    _whole_folder(folder, fill)


def write_model_answer(folder: Path, figures: dict[str, Any], panels: Image.Image) -> None:
    """Figures and the page of a model's evaluation on a data set. Raises OutputError."""

    def fill(into: Path) -> None:
        panels.save(into / "panels.png")
        pictures = [("Some of the pictures.", panels)]
        _write_texts(into, figures, pictures, f"{figures['model']} on {figures['data']}")

    _whole_folder(folder, fill)


def _write_texts(
    into: Path, figures: dict[str, Any], pictures: list[tuple[str, Image.Image]], title: str
) -> None:
    (into / _FIGURES).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    pages.write_page(into / "report.html", figures, pictures, title)


def _whole_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        fill(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
