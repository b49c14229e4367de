"""Every error a user can cause, each one line: what was wrong, both numbers, what to do.

    TilesegmentError
    ├── InputError(ValueError)        a scene, mask or vector file cannot be used
    ├── SettingsError(ValueError)     an option, a config key or a combination of them is wrong
    ├── ModelError(ValueError)        a model file, its card or its weights cannot be used
    ├── MemoryBudgetError(ValueError) the work does not fit in --max-memory
    ├── OutputError(OSError)          an output cannot be written
    │   ├── ExistsError               it is there already
    │   └── BusyError                 another run is writing it
    ├── BlockFailedError(RuntimeError) a block could not be predicted, on any worker
    └── TrainingError(RuntimeError)   training cannot go on: the loss diverged, or memory is short

Each class also inherits the built-in that a Python programmer would catch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

# A URL, also as GDAL's `/vsicurl/...`: what logs one in before the host, and what signs it after the path.
# What follows a query in a sentence is no part of it.
_QUERY = r"\?[^\s'\"]*?(?=[:;,.)]*(?:\s|['\"]|$))"
_URL = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+]*://)(?:[^\s/@]+@)?(?P<place>[^\s?'\"]*)(?:" + _QUERY + ")?")
# GDAL says the last part of an address alone: `a.tif?sig=1, band 1: ...`.
_LAST_PART = re.compile(r"(?P<name>[^\s?'\"/(]+)(?=\?[\w.-]+=)" + _QUERY)

# What the extra `torch` installs.
_TORCH_EXTRA = (
    *("torch", "torchvision", "segmentation_models_pytorch", "albumentations", "matplotlib"),
    *("pycocotools", "cv2"),
)


def without_secrets(text: str) -> str:
    """A text whose URLs have neither user and password nor a query, which may sign them: for messages, logs
    and whatever is published with a result."""
    text = _URL.sub(lambda match: match["scheme"] + match["place"], text)
    return _LAST_PART.sub(lambda match: match["name"], text)


def in_python(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose errors name its parameters as Python does, and not as the command line."""

    @functools.wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        try:
            return function(*arguments, **settings)
        except TilesegmentError as error:
            error.args = tuple(as_parameters(str(part)) for part in error.args)
            raise
        except ModuleNotFoundError as error:
            missing = missing_extra(error)
            if missing is None:
                raise
            raise missing from error

    return call


def missing_extra(error: ModuleNotFoundError) -> SettingsError | None:
    """What to install for a package that is not part of the base; None for any other."""
    package = (error.name or "").partition(".")[0]
    if package not in _TORCH_EXTRA:
        return None
    return SettingsError(
        f"this needs {package}, which is not installed: pip install 'tilesegment[torch]' (some gigabytes)"
    )


def as_parameters(text: str) -> str:
    """A message with parameters as Python names them."""
    text = text.replace("--overwrite", "overwrite=True").replace("-o ", "output ")
    return re.sub(r"--([a-z][a-z-]*[a-z])", lambda match: match[1].replace("-", "_"), text)


class TilesegmentError(Exception):
    """Root of the package's own errors; `str(error)` is one line for the user, without secrets of URLs."""

    def __str__(self) -> str:
        return without_secrets(super().__str__())


class InputError(TilesegmentError, ValueError):
    """A scene, mask or vector file is missing, unreadable or of the wrong kind."""


class SettingsError(TilesegmentError, ValueError):
    """An option, a config key or a combination of settings is wrong."""


class ModelError(TilesegmentError, ValueError):
    """A model's file, card or weights cannot be used."""


class MemoryBudgetError(TilesegmentError, ValueError):
    """The smallest possible plan needs more memory than allowed."""


class OutputError(TilesegmentError, OSError):
    """An output cannot be written."""


class ExistsError(OutputError):
    """An output exists already."""


class BusyError(OutputError):
    """Another run is writing an output."""


class BlockFailedError(TilesegmentError, RuntimeError):
    """A block of the plan could not be predicted."""


class TrainingError(TilesegmentError, RuntimeError):
    """Training cannot go on: the loss is no number any more, or memory is short."""
