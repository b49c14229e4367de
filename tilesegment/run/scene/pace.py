"""How long a run will take here: the measured rate of the forward pass, and what goes with it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tilesegment.model.cache import cache_folder
from tilesegment.model.engines import Pending, Predictor
from tilesegment.run.block.job import Job
from tilesegment.run.block.predict import forget_model, predictor_of

_NAME = "pace.json"
_log = logging.getLogger("tilesegment")
# Seconds of a trial, besides its warm-up.
_TRIAL = 1.5
# What follows was measured on two cores of a cloud CPU, in towns. Seconds of a command before and after its
# tiles.
_START = 1.85
# Core-seconds a megapixel to read, blend and trace; seconds a megapixel to write polygons, and to split and
# regularise them.
_AROUND, _POLYGONS, _REGULAR = 0.06, 0.05, 0.07


@dataclass(frozen=True)
class Pace:
    """Seconds of the whole run; forward: of these, the forward passes; start: those that a further scene of
    the same command does not take; tile: of one, where all cores work."""

    total: float
    forward: float
    start: float
    tile: float

    def plain(self) -> dict[str, float]:
        """By name, rounded."""
        return {name: round(value, 6) for name, value in vars(self).items()}


def pace_of(job: Job, workers: int, regular: bool) -> Pace:
    """How long a job takes on this machine in `workers` processes, if no tile is skipped.
    regular: polygons are split and regularised."""
    tile = _seconds_a_tile(job) / workers
    forward = tile * job.plan.predicted_tiles
    megapixels = job.plan.region.area / 1e6
    around = megapixels * _AROUND / (job.streams * workers)
    if job.tracing.trace:
        around += megapixels * (_POLYGONS + (_REGULAR if regular else 0.0))
    total = _START + forward + around
    return Pace(total, forward, _START, tile)


def _seconds_a_tile(job: Job) -> float:
    """Measured once for a model, its engine and this machine, and kept beside converted models."""
    path = cache_folder() / _NAME
    known = _read(path)
    key = _key(job)
    if key not in known:
        known[key] = _measured(predictor_of(job, 0), job)
        # What a run needs is not this one's to hold.
        forget_model()
        _keep(path, known)
    return known[key]


def _keep(path: Path, known: dict[str, float]) -> None:
    """Others may do the same at the same time; what cannot be kept is measured again."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".pace-", delete=False) as file:
            json.dump(known, file, indent=1)
        os.replace(file.name, path)
    except OSError as error:
        _log.info("%s: cannot be kept (%s)", path, error.strerror)


def _key(job: Job) -> str:
    machine = platform.node(), platform.processor(), platform.machine()
    engine = *vars(job.engine).values(), job.engine.version, job.batch, job.streams, job.contact
    told = [model.sha256 for model in job.models], job.tta, job.plan.tile, *engine, *machine
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, float]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, float)} if isinstance(found, dict) else {}


def _measured(predictor: Predictor, job: Job) -> float:
    """Seconds a tile of noise, with as many under way as in a run."""
    rng = np.random.default_rng(0)
    low, high = min(job.range.low), max(job.range.high)
    shape = (predictor.batch, len(job.scene.bands), *job.plan.tile)
    values = rng.uniform(low, high, shape).astype(job.dtype)
    valid = np.ones((predictor.batch, *job.plan.tile), np.bool_)

    def run(least: float) -> float:
        """Seconds a call, of calls for so long."""
        waiting: deque[Pending] = deque()
        begin, calls = time.perf_counter(), 0
        while time.perf_counter() - begin < least or calls < 2 * predictor.depth:
            if len(waiting) == predictor.depth:
                waiting.popleft().result()
            waiting.append(predictor.submit(values, valid))
            calls += 1
        for pending in waiting:
            pending.result()
        return (time.perf_counter() - begin) / calls

    run(0.0)
    return run(_TRIAL) / predictor.batch


def pace_or_none(job: Job, workers: int, scheduler: str | None, regular: bool) -> dict[str, Any] | None:
    """`pace_of` in plain values; None for a cluster, whose machines are not this one."""
    return None if scheduler is not None else pace_of(job, workers, regular).plain()
