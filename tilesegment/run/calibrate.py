"""The story of a calibration: measure on a scene, then write the card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tilesegment.errors import ModelError, OutputError
from tilesegment.evaluate.calibrate import calibrate
from tilesegment.model.card import Card
from tilesegment.model.engines import Setup, load_engine
from tilesegment.model.engines.choose import choose_engine
from tilesegment.model.store import ModelFile, find_model, read_int8, read_weights, save_model
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.source import open_scene
from tilesegment.raster.values import value_range
from tilesegment.run.files import discard, publish, writing
from tilesegment.run.scene.prepare import cores


def calibrate_model(
    name: str, source: str, output: Path | None, agreement: float, sites: int, overwrite: bool
) -> dict[str, Any]:
    """See `tilesegment.calibrate`."""
    model = find_model(name)
    target = model_target(model, output, overwrite)
    card = model.card
    choice = choose_engine("auto", "auto", "auto", model.quantized, model.graph is not None)
    with (
        gdal_environment(),
        open_scene(source, bands=len(card.bands), gsd=card.gsd, size=card.image_size) as scene,
    ):
        values = value_range(scene, None, card.dtype, card.value_range)
        setup = Setup(
            tile=card.tile,
            dtype=str(scene.dtype),
            range=values,
            device=choice.device,
            precision=choice.precision,
            batch=1,
            streams=cores(),
        )
        found = calibrate(
            scene, load_engine(choice.engine, model, setup), card, sites=sites, wanted=agreement
        )
    save_card(model, replace(card, overlap=found.overlap), target)
    return {
        "model": str(target),
        "scene": source,
        "sites": found.sites,
        "agreement": [round(float(share), 5) for share in found.agreement],
        "wanted": agreement,
        "rim": found.rim,
        "reached": found.reached,
        "cost": round(found.cost, 3),
        "overlap_before": card.overlap,
        "overlap": found.overlap,
    }


def model_target(model: ModelFile, output: Path | None, overwrite: bool) -> Path:
    """Where a model with a changed card is written: over itself, or under a new name. Raises ModelError or
    OutputError where it cannot be."""
    if model.graph is not None:
        raise ModelError(
            f"{model.name}: is an ONNX file; this takes the model it was made from (.safetensors)"
        )
    if output is None:
        if model.bundled or Path(model.name).is_dir():
            raise ModelError(f"{model.name}: its card cannot be changed; name a new file with -o")
        return Path(model.path)
    if output.suffix != ".safetensors":
        raise OutputError(f"-o {output}: models are written as .safetensors")
    if not output.parent.is_dir():
        raise OutputError(f"{output.parent}: no such folder")
    if output.exists() and not overwrite:
        raise OutputError(f"{output}: exists already; choose another name or give --overwrite")
    return output


def save_card(model: ModelFile, card: Card, target: Path) -> None:
    """Write a model's weights under another card, all or nothing."""
    try:
        with writing(target) as temporary:
            save_model(temporary, read_weights(model), card, read_int8(model))
        publish(target)
    except BaseException:
        discard(target)
        raise
