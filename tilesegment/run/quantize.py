"""The story of a quantisation: tiles of scenes, a graph in int8, what it changes, and the model with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.datasets.sample import Reader
from tilesegment.errors import InputError, ModelError, OutputError, SettingsError
from tilesegment.grid import Window
from tilesegment.model.engines import Predictor, Setup, load_engine
from tilesegment.model.engines.choose import EngineChoice
from tilesegment.model.preprocess import normalise, padded_tile
from tilesegment.model.quantize import quantized_graph
from tilesegment.model.store import ModelFile, find_model, read_weights, save_model
from tilesegment.raster.source import gdal_environment, open_scene
from tilesegment.raster.values import value_range
from tilesegment.run.calibrate import model_target
from tilesegment.run.evaluate_model import evaluate_model
from tilesegment.run.files import discard, publish, writing
from tilesegment.run.prepare import cores
from tilesegment.tiling.blend import FINE_MAX

# First convolutions that stay in floats: at full resolution ranges are wide, and little is gained.
_KEPT = (5, 12)
# So many tiles are drawn for each that is used; of these every third judges, and the others give ranges.
_DRAWN = 3
_VALID_SHARE = 0.9
_TRIES = 50
# Least IoU of masks with those of the network in floats, where there are no labels; and how much of the IoU
# with labels may be lost, where there are.
_ALIKE, _LOST = 0.98, 0.005
# Seconds for which a rate is measured.
_SECONDS = 1.5


@dataclass(frozen=True)
class Labels:
    """A labelled data set to judge by, and its name."""

    reader: Reader
    data: str
    split: str


@dataclass(frozen=True)
class _Tiles:
    """values: (n, bands, rows, columns) as the scene has them; low, high: their range by band; judges: (n,)
    which give no ranges."""

    values: NDArray[Any]
    low: tuple[float, ...]
    high: tuple[float, ...]
    judges: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.values)


def quantize_model(
    name: str,
    sources: Sequence[str],
    output: Path | None,
    count: int,
    labels: Labels | None,
    overwrite: bool,
) -> dict[str, Any]:
    """See `tilesegment.quantize`."""
    if count < 3:
        raise SettingsError(f"--tiles {count} is less than 3")
    model = find_model(name)
    target = model_target(model, output, overwrite)
    tiles = [_drawn(model, source, -(-count // len(sources))) for source in sources]
    drawn = _set_apart(tiles)
    before = None if labels is None else _iou(model.source, labels, "fp32")
    tried = []
    for kept in _KEPT:
        try:
            found = _with_graph(model, drawn, kept, target)
            judged = _judged(model, find_model(str(found)), drawn)
            if labels is not None and before is not None:
                judged |= {"iou_before": before, "iou": _iou(str(found), labels, "int8")}
            elif not judged["seen"]:
                raise InputError(f"{', '.join(sources)}: nothing of any class is found in the tiles")
            tried.append({"kept": kept, **judged})
            if _good(judged):
                publish(target)
                return {"model": str(target), "tiles": sum(map(len, tiles)), **tried[-1]}
        except OSError as error:
            raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from error
        finally:
            discard(target)
    best = max(tried, key=lambda row: row.get("iou", row["alike"]))
    raise ModelError(f"{name}: in int8 {_words(best)}; nothing is written")


def _good(judged: dict[str, float]) -> bool:
    if "iou" in judged:
        return judged["iou_before"] - judged["iou"] <= _LOST
    return judged["alike"] >= _ALIKE


def _words(row: dict[str, float]) -> str:
    if "iou" in row:
        return f"its IoU falls from {row['iou_before']:.4f} to {row['iou']:.4f}, by more than {_LOST}"
    return f"its masks have an IoU of {row['alike']:.4f} with those in floats, less than {_ALIKE}"


def _iou(path: str, labels: Labels, precision: str) -> float:
    engine = EngineChoice("openvino", "cpu", precision)
    figures, _ = evaluate_model(path, labels.reader, labels.data, labels.split, engine=engine)
    iou = figures["pixels"]["iou"]
    if iou is None:
        raise InputError(f"{labels.data}: no pixel of any class in the {labels.split} split")
    return float(iou)


def _drawn(model: ModelFile, source: str, count: int) -> _Tiles:
    """Tiles of a scene, half of them those in which there is most to tell apart."""
    card = model.card
    with (
        gdal_environment(),
        open_scene(source, bands=len(card.bands), gsd=card.gsd, size=card.image_size) as scene,
    ):
        values = value_range(scene, None, card.dtype, card.value_range)
        (rows, cols), grid = card.tile, scene.grid
        if grid.height < rows or grid.width < cols:
            raise InputError(
                f"{source}: {grid.height}x{grid.width} pixels at the model's pixel size, and a tile has "
                f"{rows}x{cols}"
            )
        rng = np.random.default_rng(0)
        found: list[NDArray[Any]] = []
        places: list[tuple[int, int]] = []
        for _ in range(_DRAWN * count * _TRIES):
            row, col = int(rng.integers(grid.height - rows + 1)), int(rng.integers(grid.width - cols + 1))
            # None overlaps another: what judges is never what gave ranges.
            if any(abs(row - r) < rows and abs(col - c) < cols for r, c in places):
                continue
            window = Window(row, col, rows, cols)
            if scene.sample(window, 32, 32).valid.mean() >= _VALID_SHARE:
                places.append((row, col))
                found.append(scene.read(window).values)
            if len(found) == _DRAWN * count:
                break
    if not found:
        raise InputError(f"{source}: no place with enough valid pixels for a tile of {rows}x{cols}")
    tiles = _Tiles(np.stack(found), values.low, values.high, np.zeros(len(found), np.bool_))
    predictor = _predictor(model, tiles, "fp32")
    # Of shares of the commonest class the nearest to a half.
    common = [np.bincount(_classes(predictor, tile, model).ravel()).max() for tile in tiles.values]
    telling = np.argsort(common, kind="stable")
    chosen = np.concatenate([telling[: count // 2], rng.permutation(telling[count // 2 :])])[:count]
    return replace(tiles, values=tiles.values[np.sort(chosen)], judges=np.zeros(len(chosen), np.bool_))


def _set_apart(tiles: list[_Tiles]) -> list[_Tiles]:
    """Every third of all as a judge. Raises InputError for less than three."""
    total = sum(map(len, tiles))
    if total < 3:
        raise InputError(f"the scenes have room for {total} tiles side by side; at least 3 are needed")
    judges = np.arange(total) % 3 == 0
    begins = np.cumsum([0, *map(len, tiles)])
    return [
        replace(part, judges=judges[begin : begin + len(part)])
        for part, begin in zip(tiles, begins, strict=False)
    ]


def _with_graph(model: ModelFile, drawn: list[_Tiles], kept: int, target: Path) -> Path:
    """The model with a graph in int8, under a temporary name."""
    card = model.card
    rows, cols = (padded - size for padded, size in zip(padded_tile(card.tile), card.tile, strict=True))
    samples = [
        np.pad(normalise(tile, None, part.low, part.high, card), ((0, 0), (0, rows), (0, cols)))
        for part in drawn
        for tile in part.values[~part.judges]
    ]
    graph = quantized_graph(model, np.stack(samples), kept)
    with writing(target) as temporary:
        save_model(temporary, read_weights(model), card, graph)
    return temporary


def _judged(model: ModelFile, other: ModelFile, drawn: list[_Tiles]) -> dict[str, float]:
    """The IoU of the two models' masks on tiles that gave no ranges, how many pixels of any class either
    sees there, and how fast both are here."""
    common, either, speed = 0, 0, {}
    for part in drawn:
        predictors = [_predictor(model, part, "fp32"), _predictor(other, part, "int8")]
        for tile in part.values[part.judges]:
            one, two = (_classes(each, tile, model) for each in predictors)
            common += int(((one == two) & (one > 0)).sum())
            either += int(((one > 0) | (two > 0)).sum())
        speed = {
            f"megapixels_per_second_{precision}": _rate(each, part.values[:1])
            for each, precision in zip(predictors, ("fp32", "int8"), strict=True)
        }
    return {"alike": common / either if either else 1.0, "seen": either, **speed}


def _predictor(model: ModelFile, tiles: _Tiles, precision: str) -> Predictor:
    setup = Setup(
        tile=model.card.tile,
        dtype=str(tiles.values.dtype),
        low=tiles.low,
        high=tiles.high,
        precision=precision,
        batch=1,
        lanes=cores(),
    )
    return load_engine("openvino", model, setup)


def _classes(predictor: Predictor, tile: NDArray[Any], model: ModelFile) -> NDArray[np.int64]:
    """Classes (rows, columns) of a tile (bands, rows, columns)."""
    card = model.card
    counts = np.asarray(predictor.submit(tile[None], np.ones((1, *tile.shape[1:]), bool)).result())[0]
    if card.is_binary:
        return np.asarray(counts[0] >= card.threshold * FINE_MAX, np.int64)
    return np.asarray(counts.argmax(axis=0), np.int64)


def _rate(predictor: Predictor, tile: NDArray[Any]) -> float:
    """Millions of pixels a second, with as many tiles under way as the engine likes."""
    valid = np.ones((1, *tile.shape[2:]), bool)
    predictor.submit(tile, valid).result()
    pending = [predictor.submit(tile, valid) for _ in range(predictor.depth)]
    done, begin = 0, time.monotonic()
    while (seconds := time.monotonic() - begin) < _SECONDS:
        pending.pop(0).result()
        pending.append(predictor.submit(tile, valid))
        done += 1
    for last in pending:
        last.result()
    return done * valid.size / seconds / 1e6
