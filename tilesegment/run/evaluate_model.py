"""The story of an evaluation: a model on a labelled data set, predicted as `predict` does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tilesegment.datasets.sample import IGNORE, SPLITS, Reader, Sample
from tilesegment.datasets.tables import USUAL_NAMES
from tilesegment.errors import InputError, ModelError, SettingsError
from tilesegment.evaluate.confidence import (
    calibration_error,
    fit_temperature,
    squared_differences,
    threshold_curve,
)
from tilesegment.evaluate.pixels import Confusion
from tilesegment.evaluate.summary import pixel_intervals, pixel_summary, reliability_of_pixels
from tilesegment.grid import Window
from tilesegment.model.card import BACKGROUND_NAMES, Card, ModelClass
from tilesegment.model.engines.choose import EngineChoice
from tilesegment.model.store import ModelFile, find_model
from tilesegment.raster.picture import nearest, resampled
from tilesegment.report.panels import coloured, laid_over, picture_of, sheet_of
from tilesegment.run.calibrate import model_target, save_card
from tilesegment.run.pictures import ModelRunner, Picture
from tilesegment.tiling.blend import FINE_MAX, NODATA, PROBABILITY_MAX
from tilesegment.tiling.plan import fitting_tile

Progress = Callable[[int, int], None]
# Intervals are drawn from places where there are so many, else from pictures.
_LEAST_PLACES = 5
_PANELS = 6
# A temperature is fitted on about so many pixels.
_FITTED = 2_000_000


def evaluate_model(
    name: str,
    reader: Reader,
    data: str,
    split: str,
    *,
    engine: EngineChoice | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[dict[str, Any], Image.Image]:
    """Figures of a model on a split, and panels of some of its pictures. engine: None for the one that
    `predict` takes.

    Raises ModelError where the model's classes are not the data set's, InputError for an empty split.
    """
    model = find_model(name)
    card = model.card
    names, table = _common_classes(card, reader)
    pictures = _names(reader, split)
    theirs = names == [entry.name for entry in reader.classes]
    entries = reader.classes if theirs else tuple(card.labels.values())
    matrices: list[NDArray[np.int64]] = []
    counts = np.zeros((2, PROBABILITY_MAX + 1), np.int64)
    panels: list[list[Image.Image]] = []
    shown: list[str] = []
    runner: ModelRunner | None = None
    for index in range(len(pictures)):
        sample = reader.read(split, index, None)
        sample = replace(sample, label=table[sample.label])
        seen = at_card_size(sample, card)
        runner = runner or ModelRunner(model, str(seen.values.dtype), engine)
        classes, probability = (nearest(part, sample.label.shape) for part in runner.predict(seen))
        known = (sample.label != IGNORE) & sample.valid & (classes != NODATA)
        matrices.append(_counted(sample.label[known], classes[known], len(names)))
        if card.is_binary:
            flat = (sample.label[known] == 1).astype(np.int64) * (PROBABILITY_MAX + 1) + probability[known]
            counts += np.bincount(flat, minlength=counts.size).reshape(2, -1)
        if index % max(1, len(pictures) // _PANELS) == 0 and len(panels) < _PANELS:
            panels.append(_panel(sample, classes, card, entries))
            shown.append(pictures[index])
        progress(index + 1, len(pictures))
    figures = {
        "model": name,
        "sha256": model.sha256,
        "data": data,
        "split": split,
        "pictures": len(pictures),
        "pixels": _pixel_figures(np.stack(matrices), names, pictures, counts if card.is_binary else None),
    }
    return figures, sheet_of(panels, ["image", "truth", "prediction", "overlay"], shown)


def calibrate_temperature(
    name: str, reader: Reader, split: str, output: Path | None, overwrite: bool
) -> dict[str, Any]:
    """Fit a temperature on a split and write the model with it in its card: what it says before and after.

    The threshold moves along, so that no class changes. Raises as `evaluate_model`, OutputError.
    """
    model = find_model(name)
    card = model.card
    target = model_target(model, output, overwrite)
    if _common_classes(card, reader)[0] != [entry.name for entry in reader.classes]:
        raise ModelError(
            f"{card.name}: has other classes than the data set, so nothing can be fitted on it"
        )
    scores, truth = _scores(model, reader, split)
    if not len(truth):
        raise InputError(f"the {split} split has no labelled pixel")
    factor = fit_temperature(scores, truth)
    logit = math.log(card.threshold / (1 - card.threshold)) / factor
    calibrated = replace(card, temperature=card.temperature * factor, threshold=1 / (1 + math.exp(-logit)))
    save_card(model, calibrated, target)
    return {
        "model": str(target),
        "split": split,
        "pixels": len(truth),
        "temperature_before": card.temperature,
        "temperature": calibrated.temperature,
        "likelihood_before": _likelihood(scores, truth, 1.0),
        "likelihood": _likelihood(scores, truth, factor),
    }


def at_card_size(sample: Sample, card: Card) -> Sample:
    """A picture at the size that a card for pictures says, as prediction reads it; others as they are."""
    if card.image_size is None or sample.label.shape == card.image_size:
        return sample
    values = resampled(sample.values, card.image_size)
    label, valid = (nearest(part, card.image_size) for part in (sample.label, sample.valid))
    return Sample(values, label, valid)


def _common_classes(card: Card, reader: Reader) -> tuple[list[str], NDArray[np.uint8]]:
    """The names of the classes that are compared, and the index among them of each of the data set's
    (256,).

    They are the data set's, unless all of the model's are among them, under the same or another usual name:
    then they are the model's, and what it does not know is its background. Raises ModelError.
    """
    own, theirs = [c.name for c in card.labels.values()], [c.name for c in reader.classes]
    table = np.arange(256, dtype=np.uint8)
    if own == theirs or (len(own) == len(theirs) == 2):
        return theirs, table
    usual = [USUAL_NAMES.get(name, name) for name in own]
    known = [USUAL_NAMES.get(name, name) for name in theirs]
    if len(own) < 3 or own[0] not in BACKGROUND_NAMES or not set(usual[1:]) <= set(known):
        raise ModelError(
            f"{card.name}: its classes ({', '.join(own[:6])}) are not those of the data set "
            f"({', '.join(theirs[:6])})"
        )
    table[: len(theirs)] = [usual.index(name) if name in usual else 0 for name in known]
    return own, table


def _names(reader: Reader, split: str) -> list[str]:
    if split not in SPLITS:
        raise SettingsError(f"--split {split!r}: use one of {', '.join(SPLITS)}")
    names = list(reader.names(split))
    if not names:
        others = ", ".join(f"{part} {len(reader.names(part))}" for part in SPLITS)
        raise InputError(f"the {split} split is empty (pictures: {others})")
    return names


def _counted(truth: NDArray[Any], found: NDArray[Any], classes: int) -> NDArray[np.int64]:
    cells = np.bincount(truth.astype(np.int64) * classes + found, minlength=classes**2)
    return np.asarray(cells.reshape(classes, classes), np.int64)


def _pixel_figures(
    matrices: NDArray[np.int64],
    names: list[str],
    pictures: list[str],
    counts: NDArray[np.int64] | None,
) -> dict[str, Any]:
    squared = 0.0 if counts is None else squared_differences(counts)
    figures = pixel_summary(Confusion(len(names), squared, matrices.sum(axis=0)), names)
    places = [name.split("/")[0] if "/" in name else name for name in pictures]
    kind, units = "pictures", matrices
    if _LEAST_PLACES <= len(set(places)) < len(pictures):
        kind = "places"
        units = np.stack(
            [matrices[[place == one for place in places]].sum(axis=0) for one in dict.fromkeys(places)]
        )
    figures["intervals"] = {"units": len(units), "of": kind, **pixel_intervals(units.astype(np.float64))}
    if counts is None:
        figures["brier"] = None
    else:
        figures["thresholds"] = threshold_curve(counts)
        figures["reliability"] = reliability_of_pixels(counts)
        figures["calibration_error"] = calibration_error(figures["reliability"])
    return figures


def _scores(model: ModelFile, reader: Reader, split: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logarithms of probabilities (n, classes) and true classes (n,) of pixels spread over a split."""
    found: list[NDArray[np.float64]] = []
    truths: list[NDArray[np.int64]] = []
    count = len(_names(reader, split))
    wanted = max(1, _FITTED // count)
    runner: ModelRunner | None = None
    for index in range(count):
        sample = at_card_size(reader.read(split, index, None), model.card)
        runner = runner or ModelRunner(model, str(sample.values.dtype))
        known = np.flatnonzero((sample.label != IGNORE) & sample.valid)
        # Every so-many-th pixel, whatever the picture's size.
        known = known[:: max(1, len(known) // wanted)]
        probabilities = _of_tiles(runner, sample, model.card)
        found.append(
            np.log(np.maximum(probabilities.reshape(len(probabilities), -1).T[known], 0.5 / FINE_MAX))
        )
        truths.append(sample.label.ravel()[known].astype(np.int64))
    return np.concatenate(found), np.concatenate(truths)


def _of_tiles(runner: ModelRunner, sample: Sample, card: Card) -> NDArray[np.float64]:
    """Probabilities (classes, rows, columns) of tiles side by side, as the network says them."""
    rows, cols = sample.label.shape
    result = np.zeros((max(2, len(card.classes)), rows, cols))
    tile, _ = fitting_tile(card.tile, rows, cols, 0)
    predictor = runner.predictor(tile)
    for window in _side_by_side(rows, cols, tile):
        pixels = Picture(sample).read(window)
        counts = np.asarray(predictor.submit(pixels.values[None], pixels.valid[None]).result())[0]
        part = counts.astype(np.float64) / FINE_MAX
        part = np.concatenate([1 - part, part]) if len(part) == 1 else part
        inside = slice(window.row, min(window.row_end, rows)), slice(window.col, min(window.col_end, cols))
        result[:, inside[0], inside[1]] = part[
            :, : inside[0].stop - inside[0].start, : inside[1].stop - inside[1].start
        ]
    return result


def _side_by_side(rows: int, cols: int, tile: tuple[int, int]) -> Iterator[Window]:
    for row in range(0, rows, tile[0]):
        for col in range(0, cols, tile[1]):
            yield Window(row, col, *tile)


def _likelihood(scores: NDArray[np.float64], truth: NDArray[np.int64], temperature: float) -> float:
    """Mean negative log-likelihood of the truth."""
    scaled = scores / temperature
    top = scaled.max(axis=1)
    total = np.log(np.exp(scaled - top[:, None]).sum(axis=1)) + top
    return float((total - scaled[np.arange(len(truth)), truth]).mean())


def _panel(
    sample: Sample, classes: NDArray[np.uint8], card: Card, entries: Sequence[ModelClass]
) -> list[Image.Image]:
    """Image, truth, prediction and both together."""
    base = picture_of(sample, card.value_range)
    return [
        base,
        coloured(sample.label, entries),
        coloured(classes, entries),
        laid_over(base, classes, entries),
    ]
