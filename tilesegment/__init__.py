"""Roofs and other classes from huge images: tiled prediction, blended, streamed, vectorised.

Names load on first use, so that importing the package (and `tilesegment --help`) stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilesegment.api import (
        calibrate,
        calibrate_temperature,
        evaluate_model,
        evaluate_scene,
        export,
        info,
        open_scene,
        plan,
        predict,
        predict_many,
        quantize,
        train_model,
        vectorize,
    )

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
    "quantize",
    "train_model",
    "vectorize",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tilesegment' has no attribute {name!r}")
    from tilesegment import api
    from tilesegment.errors import in_python

    return in_python(getattr(api, name))


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
