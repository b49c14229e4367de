"""Fixtures: small rasters made on the spot, real scenes by TILESEGMENT_DATA, and models without weights."""

from __future__ import annotations

import os

# Networks here are tiny: a second thread only waits for the first, and for other processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import settings

settings.register_profile("fixed", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("fixed")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real scenes; without it these tests are skipped, unless they are required."""
    folder = os.environ.get("TILESEGMENT_DATA")
    if folder and Path(folder).is_dir():
        return Path(folder)
    if os.environ.get("TILESEGMENT_REQUIRE_DATA"):
        pytest.fail("TILESEGMENT_DATA does not name a folder, and the real scenes are required")
    pytest.skip("TILESEGMENT_DATA is not set: real scenes are not at hand")


@pytest.fixture
def make_raster(tmp_path: Path) -> Callable[..., Path]:
    """Writes (bands, rows, columns) or (rows, columns) as a GeoTIFF in UTM with 0.15 m pixels."""

    def make(values: np.ndarray, name: str = "scene.tif", **profile: Any) -> Path:
        array = values if values.ndim == 3 else values[None]
        path = tmp_path / name
        colormap = profile.pop("colormap", None)
        mask = profile.pop("mask", None)
        colours = profile.pop("colorinterp", None)
        options = {
            "driver": "GTiff",
            "crs": "EPSG:32645",
            "transform": Affine(0.15, 0, 354000, 0, -0.15, 3057000),
            **profile,
        }
        bands, height, width = array.shape
        with rasterio.open(
            path, "w", count=bands, height=height, width=width, dtype=array.dtype, **options
        ) as dataset:
            dataset.write(array)
            if colours:
                dataset.colorinterp = colours
            if colormap:
                dataset.write_colormap(1, colormap)
            if mask is not None:
                dataset.write_mask(mask)
        return path

    return make


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
