"""Many sheets as one scene."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tilesegment.atomic import write_text
from tilesegment.errors import ExistsError, InputError
from tilesegment.raster.sheets import sheets_as_vrt
from tilesegment.raster.source import gdal_environment
from tilesegment.run.scene.outputs import check_place
from tilesegment.settings import PredictSettings


def mosaic_path(output: Path) -> Path:
    """Where the VRT of sheets lies: beside the main output, `roofs.sheets.vrt` for `roofs.gpkg`."""
    return output.with_name(f"{output.stem}.sheets.vrt")


def write_mosaic(sources: Sequence[str], path: Path, settings: PredictSettings) -> str:
    """Write the VRT that shows sheets as one scene, and return its path. It stays: a run that was stopped
    goes on with it, workers read it, and the record names it.

    Raises InputError where a sheet does not fit the others, OutputError where the file cannot be written.
    """
    if not sources:
        raise InputError("there are no sheets")
    check_place(path)
    with gdal_environment(settings.gdal):
        text = sheets_as_vrt(sources)
    if path.exists():
        if path.read_bytes() == text.encode():
            return str(path)
        if not settings.overwrite:
            raise ExistsError(
                f"{path}: exists already, of other sheets; choose another name or give --overwrite"
            )
    write_text(path, text)
    return str(path)
