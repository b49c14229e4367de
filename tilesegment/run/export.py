"""The story of an export: a network written for another program, and asked the same as before."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.atomic import replacing, write_text
from tilesegment.errors import ExistsError, InputError, ModelError, SettingsError
from tilesegment.evaluate.calibrate import tile_sites
from tilesegment.grid import Window
from tilesegment.interop.stac import model_item
from tilesegment.model.card import Card
from tilesegment.model.preprocess import normalise
from tilesegment.model.sharing import FORMATS, Tiles, read_shared, shared_card, write_shared
from tilesegment.model.store import find_model
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.source import open_scene
from tilesegment.raster.values import value_range
from tilesegment.run.record import software
from tilesegment.run.scene.outputs import check_place

# Tiles of a scene that are asked of both.
_TILES = 4
# Probabilities may differ by this much: the order of sums is another one.
MOST_DIFFERENT = 1e-3
_log = logging.getLogger("tilesegment")


def export_model(
    name: str,
    output: Path,
    kind: str | None,
    tile: int | None,
    scenes: Sequence[str],
    stac: Path | None,
    overwrite: bool,
) -> dict[str, Any]:
    """See `tilesegment.export`."""
    kind = _kind(output, kind)
    model = find_model(name)
    if model.graph is not None:
        raise ModelError(f"{name}: is an ONNX file already; export the model it was made from")
    size = model.card.tile if tile is None else (tile, tile)
    # OpenVINO looks for weights under the graph's own name, so that both are renamed together.
    files = [output, *([output.with_suffix(".bin")] if kind == "openvino" else [])]
    written = [*files, *([stac] if stac is not None else [])]
    if len({path.resolve() for path in written}) < len(written):
        raise SettingsError("two outputs have the same name")
    for path in written:
        check_place(path)
        if path.resolve() == Path(model.path).resolve():
            raise SettingsError(f"{path}: is the model itself; choose another name")
        if path.exists() and not overwrite:
            raise ExistsError(f"{path}: exists already; choose another name or give --overwrite")
    card = shared_card(model.card, size)
    tiles = [tile for scene in scenes for tile in _tiles(scene, card)] or list(_noise(card))
    with replacing(output) as temporary:
        # With the ending that the writers and readers look at.
        draft = temporary.with_name(f".{output.stem}.incomplete{output.suffix}")
        try:
            before = write_shared(model, kind, size, draft)
            different = _largest_difference(before, read_shared(kind, draft), tiles)
            if not different <= MOST_DIFFERENT:
                raise ModelError(
                    f"{name}: as {kind} its probabilities differ by {different:.2g}; nothing is written"
                )
            if kind == "openvino":
                os.replace(draft.with_suffix(".bin"), files[1])
            os.replace(draft, temporary)
        finally:
            for file in (draft, draft.with_suffix(".bin")):
                file.unlink(missing_ok=True)
    if stac is not None:
        digest = hashlib.sha256(output.read_bytes()).hexdigest()
        hrefs = [Path(os.path.relpath(path.resolve(), stac.resolve().parent)).as_posix() for path in files]
        weights = model.bytes // 4
        item = model_item(card, kind, hrefs, digest, output.stat().st_size, weights, software())
        write_text(stac, json.dumps(item, indent=1) + "\n")
    if model.card.contact:
        _log.warning(
            "%s: gives the classes alone; buildings that touch are one polygon, which %s tells apart",
            output,
            model.name,
        )
    return {
        "model": model.name,
        "sha256": model.sha256,
        "format": kind,
        "outputs": [str(path) for path in written],
        "tile": list(size),
        "tiles_compared": len(tiles),
        "of": "scenes" if scenes else "noise",
        "largest_difference": different,
    }


def _kind(output: Path, kind: str | None) -> str:
    ending = output.suffix.lower()
    if kind is None:
        kind = next((name for name, its in FORMATS.items() if its == ending), None)
    if kind is None:
        raise SettingsError(
            f"-o {output}: unknown extension; use one of {', '.join(FORMATS.values())}, or --format"
        )
    if kind == "openvino" and ending != ".xml":
        raise SettingsError(f"-o {output}: OpenVINO's graphs are .xml files, with a .bin beside them")
    return kind


def _tiles(source: str, card: Card) -> list[NDArray[np.float32]]:
    """Normalised tiles from random places of a scene."""
    with (
        gdal_environment(),
        open_scene(source, bands=len(card.bands), gsd=card.gsd, size=card.image_size) as scene,
    ):
        values = value_range(scene, None, card.dtype, card.value_range)
        rows, cols = card.tile
        if scene.grid.height < rows or scene.grid.width < cols:
            found = [Window(0, 0, rows, cols)]
        else:
            found = tile_sites(scene, card.tile, _TILES, np.random.default_rng(0))
        if not found:
            raise InputError(f"{source}: no place with enough valid pixels for a tile")
        pixels = [scene.read(window) for window in found]
    return [normalise(each.values, each.valid, values, card) for each in pixels]


def _noise(card: Card) -> Iterator[NDArray[np.float32]]:
    """Normalised tiles of random patches."""
    rng = np.random.default_rng(0)
    rows, cols = card.tile
    for side in (1, 8, 32, 64):
        coarse = rng.normal(size=(len(card.bands), -(-rows // side), -(-cols // side)))
        fine = np.kron(coarse, np.ones((1, side, side)))[:, :rows, :cols]
        yield np.ascontiguousarray(fine, np.float32)


def _largest_difference(one: Tiles, other: Tiles, tiles: Sequence[NDArray[np.float32]]) -> float:
    return max(float(np.abs(one(tile) - other(tile)).max()) for tile in tiles)
