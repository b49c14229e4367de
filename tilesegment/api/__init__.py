"""The Python interface: the commands as functions, with the same settings and the same results."""

from tilesegment.api.given import predict_settings
from tilesegment.api.models import (
    calibrate,
    calibrate_temperature,
    evaluate_model,
    evaluate_scene,
    export,
    quantize,
    train_model,
)
from tilesegment.api.scenes import info, plan, predict, predict_many, vectorize
from tilesegment.raster.source import open_scene

__all__ = [
    "calibrate",
    "calibrate_temperature",
    "evaluate_model",
    "evaluate_scene",
    "export",
    "info",
    "open_scene",
    "plan",
    "predict",
    "predict_many",
    "predict_settings",
    "quantize",
    "train_model",
    "vectorize",
]
