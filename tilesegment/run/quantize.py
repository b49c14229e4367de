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
from tilesegment.evaluate.calibrate import tile_classes, tile_sites
from tilesegment.model.engines import Predictor, Setup, load_engine
from tilesegment.model.engines.choose import EngineChoice
from tilesegment.model.preprocess import ValueRange, normalise, padded_tile
from tilesegment.model.quantize import quantized_graph
from tilesegment.model.store import ModelFile, find_model, read_weights, save_model
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.source import open_scene
from tilesegment.raster.spec import Pixels
from tilesegment.raster.values import value_range
from tilesegment.run.calibrate import model_target
from tilesegment.run.evaluate_model import evaluate_model
from tilesegment.run.files import discard, publish, writing
from tilesegment.run.scene.prepare import cores

# First convolutions that stay in floats: at full resolution ranges are wide, and little is gained.
_KEPT = (5, 12)
# So many tiles are drawn for each that is used.
_DRAWN = 3
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
    """pixels: of n tiles, as the scene has them; range: what becomes 0 and 1; judges: (n,) which give no
    ranges."""

    pixels: list[Pixels]
    range: ValueRange
    judges: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.pixels)

    def of(self, judges: bool) -> list[Pixels]:
        """Those that judge, or the others."""
        return [pixels for pixels, is_one in zip(self.pixels, self.judges, strict=True) if is_one == judges]


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
        rng = np.random.default_rng(0)
        # What judges is never what gave ranges.
        windows = tile_sites(scene, card.tile, _DRAWN * count, rng, apart=True)
        found = [scene.read(window) for window in windows]
    if not found:
        raise InputError(f"{source}: no place with enough valid pixels for a tile")
    tiles = _Tiles(found, values, np.zeros(len(found), np.bool_))
    predictor = _predictor(model, tiles, "fp32")
    # Of shares of the commonest class the nearest to a half.
    common = [np.bincount(tile_classes(predictor, card, tile).ravel()).max() for tile in found]
    telling = np.argsort(common, kind="stable")
    chosen = np.concatenate([telling[: count // 2], rng.permutation(telling[count // 2 :])])[:count]
    kept = [found[k] for k in np.sort(chosen)]
    return replace(tiles, pixels=kept, judges=np.zeros(len(kept), np.bool_))


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
        np.pad(normalise(tile.values, tile.valid, part.range, card), ((0, 0), (0, rows), (0, cols)))
        for part in drawn
        for tile in part.of(judges=False)
    ]
    graph = quantized_graph(model, np.stack(samples), kept)
    with writing(target) as temporary:
        try:
            save_model(temporary, read_weights(model), card, graph)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from error
    return temporary


def _judged(model: ModelFile, other: ModelFile, drawn: list[_Tiles]) -> dict[str, float]:
    """The IoU of the two models' masks on tiles that gave no ranges, how many pixels of any class either
    sees there, and how fast both are here."""
    common, either, speed = 0, 0, {}
    for part in drawn:
        predictors = [_predictor(model, part, "fp32"), _predictor(other, part, "int8")]
        for tile in part.of(judges=True):
            one, two = (tile_classes(each, model.card, tile) for each in predictors)
            common += int(((one == two) & (one > 0)).sum())
            either += int(((one > 0) | (two > 0)).sum())
        speed = {
            f"megapixels_per_second_{precision}": _rate(each, part.pixels[0])
            for each, precision in zip(predictors, ("fp32", "int8"), strict=True)
        }
    return {"alike": common / either if either else 1.0, "seen": either, **speed}


def _predictor(model: ModelFile, tiles: _Tiles, precision: str) -> Predictor:
    setup = Setup(
        tile=model.card.tile,
        dtype=str(tiles.pixels[0].values.dtype),
        range=tiles.range,
        precision=precision,
        batch=1,
        streams=cores(),
    )
    return load_engine("openvino", model, setup)


def _rate(predictor: Predictor, pixels: Pixels) -> float:
    """Millions of pixels a second, with as many tiles under way as the engine likes."""
    tile, valid = pixels.values[None], pixels.valid[None]
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
