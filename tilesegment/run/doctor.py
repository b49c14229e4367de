"""Whether this machine can do the work: what is installed, what is wrong with it, and what helps."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilesegment.errors import TilesegmentError
from tilesegment.model.cache import cache_folder
from tilesegment.model.engines import Setup, load_engine
from tilesegment.model.engines.choose import choose_engine, gpu_count
from tilesegment.model.preprocess import ValueRange
from tilesegment.model.store import find_model
from tilesegment.raster.environment import projects_rightly
from tilesegment.run.record import software, versions

OK, WARNING, FAILURE = "ok", "warning", "failure"
# Free bytes below which a scene of some gigapixels may not fit.
_LITTLE_DISK, _LITTLE_MEMORY = 2_000_000_000, 1_000_000_000
# Where libraries are told to look for their data, which may be that of another version.
_DATA_VARIABLES = ("PROJ_DATA", "PROJ_LIB", "GDAL_DATA", "GDAL_DRIVER_PATH")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. state: ok, warning or failure; advice: what helps, where something is
    wrong."""

    name: str
    state: str
    text: str
    advice: str = ""


def examined(folder: Path) -> Iterator[Finding]:
    """All findings, one after the other. folder: where outputs are to go."""
    for look in (_versions, _projections, _devices, _forward_pass, _memory):
        yield _found(look)
    yield _place("output folder", lambda: folder)
    yield _place("temporary folder", lambda: Path(tempfile.gettempdir()))
    yield _place("cache", cache_folder)


def _found(look: Callable[[], Finding]) -> Finding:
    """What a look finds; where a library cannot even be loaded, that."""
    try:
        return look()
    except (ImportError, OSError, RuntimeError) as error:
        advice = "pip install --force-reinstall tilesegment"
        return Finding(look.__name__.strip("_"), FAILURE, " ".join(str(error).split()), advice)


def _versions() -> Finding:
    shown = ", ".join(f"{name} {version}" for name, version in versions().items())
    return Finding("versions", OK, f"{software()}, {shown}")


def _projections() -> Finding:
    given = [f"{name}={os.environ[name]}" for name in _DATA_VARIABLES if os.environ.get(name)]
    found = projects_rightly()
    if found is None:
        if not given:
            return Finding("projections", OK, "GDAL and PROJ have their data")
        return Finding(
            "projections", OK, f"GDAL and PROJ have their data, though there is {', '.join(given)}"
        )
    advice = (
        "unset " + " ".join(text.partition("=")[0] for text in given) if given else "install rasterio anew"
    )
    return Finding("projections", FAILURE, found, advice)


def _devices() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{cores} cores ({platform.machine()})"
    if importlib.util.find_spec("openvino") is not None:
        from tilesegment.model.engines.openvino import native_bf16

        text += ", bf16" if native_bf16() else ", no bf16"
    count = gpu_count()
    if count and importlib.util.find_spec("torch") is None:
        advice = "pip install 'tilesegment[torch]'"
        return Finding("devices", WARNING, f"{text}; {count} GPUs that nothing uses", advice)
    return Finding("devices", OK, f"{text}; {count} GPUs" if count else f"{text}; no GPU")


def _forward_pass() -> Finding:
    """Of the bundled model, on a tile of noise, as `predict` would do it."""
    try:
        model = find_model("roofs")
        choice = choose_engine("auto", "auto", "auto", model.quantized, model.graph is not None)
        tile, bands = model.card.tile, len(model.card.bands)
        known = ValueRange.of_all((0.0, 255.0), bands)
        setup = Setup(tile, "uint8", known, choice.device, precision=choice.precision)
        begin = time.perf_counter()
        predictor = load_engine(choice.engine, model, setup)
        values = np.random.default_rng(0).integers(0, 256, (1, bands, *tile)).astype(np.uint8)
        loaded = time.perf_counter()
        predictor.submit(values, np.ones((1, *tile), np.bool_)).result()
    except (TilesegmentError, ImportError, OSError, RuntimeError) as error:
        advice = "pip install --force-reinstall tilesegment"
        return Finding("bundled model", FAILURE, " ".join(str(error).split()), advice)
    done = time.perf_counter()
    text = f"{predictor.name}: loaded in {loaded - begin:.1f} s, a tile in {done - loaded:.2f} s"
    return Finding("bundled model", OK, text)


def _memory() -> Finding:
    import psutil

    found = psutil.virtual_memory()
    text = f"{found.available / 1e9:.1f} of {found.total / 1e9:.1f} GB free"
    if found.available < _LITTLE_MEMORY:
        return Finding("memory", WARNING, text, "give --max-memory, and close other programs")
    return Finding("memory", OK, text)


def _place(name: str, find: Callable[[], Path]) -> Finding:
    """Whether a folder can be written to, and what is free there."""
    try:
        folder = find()
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
        free = shutil.disk_usage(folder).free
    except (OSError, TilesegmentError) as error:
        told = getattr(error, "strerror", None) or str(error)
        advice = "set TILESEGMENT_CACHE" if name == "cache" else "give it to this user, or take another"
        return Finding(name, FAILURE, f"cannot be written ({told})", advice)
    text = f"{folder}: {free / 1e9:.1f} GB free"
    if free < _LITTLE_DISK:
        return Finding(name, WARNING, text, "free the disk: finished blocks and outputs are written there")
    return Finding(name, OK, text)
