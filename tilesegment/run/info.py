"""What there is to know of a scene before it is predicted."""

from __future__ import annotations

from typing import Any

from tilesegment.errors import SettingsError, TilesegmentError, without_secrets
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.source import Scene, open_scene
from tilesegment.raster.values import Look, looked_at
from tilesegment.run.scene.summary import describe
from tilesegment.settings import PredictSettings


def scene_info(source: str, settings: PredictSettings) -> dict[str, Any]:
    """A scene's grid, bands and values in plain values, and under `plan` what predicting it would take;
    None there, and why under `unfit`, where the model cannot read it.

    Raises InputError where it is none.
    """
    with gdal_environment(settings.gdal):
        try:
            scene = _opened(source, settings)
        except SettingsError:
            # Bands that are not there, or a nodata value that does not fit, are what `unfit` says.
            scene = _opened(source, PredictSettings(src_crs=settings.src_crs, gdal=settings.gdal))
        with scene:
            told = _told(source, scene, looked_at(scene))
    plan, unfit = None, None
    try:
        plan = describe(source, settings)
    except TilesegmentError as error:
        unfit = str(error)
    return {**told, "plan": plan, "unfit": unfit}


def _opened(source: str, settings: PredictSettings) -> Scene:
    return open_scene(
        source, bands=settings.bidx or 3, nodata=settings.nodata, gdal=settings.gdal, crs=settings.src_crs
    )


def _told(source: str, scene: Scene, look: Look) -> dict[str, Any]:
    grid = scene.native
    metres = grid.metres_per_pixel
    area = None if metres is None else grid.height * grid.width * metres[0] * metres[1] / 1e6
    return {
        "input": without_secrets(source),
        "driver": scene.driver,
        "files": [without_secrets(file) for file in scene.files],
        "height": grid.height,
        "width": grid.width,
        "crs": grid.crs_name,
        "metres_per_pixel": None if metres is None else [round(m, 5) for m in metres],
        "km2": area,
        "bands": scene.band_count,
        "read": list(scene.spec.bands),
        "dtype": scene.dtype.name,
        "overviews": scene.has_overviews,
        "valid_share": look.valid,
        "blank_shares": {str(value): share for value, share in look.blank.items()},
        "percentiles": [
            None if band is None else [round(value, 4) for value in band] for band in look.percentiles
        ],
        "notes": scene.notes(),
    }
