"""Many sheets as one scene."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from tilesegment.atomic import write_text
from tilesegment.errors import InputError
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.sheets import sheets_as_vrt
from tilesegment.run.many.inputs import is_mosaic
from tilesegment.run.scene.outputs import check_place
from tilesegment.settings import PredictSettings


def write_mosaic(sources: Sequence[str], output: Path, settings: PredictSettings) -> Path:
    """Write the VRT that shows sheets as one scene, beside an output, and return its path. Other sheets are
    another file (`roofs.gpkg.sheets-0123abcd.vrt`), so that no run changes what another one reads. It
    stays: a run that was stopped goes on with it, workers read it, and the record names it.

    Raises InputError where a sheet does not fit the others, OutputError where the file cannot be written.
    """
    if not sources:
        raise InputError("there are no sheets")
    with gdal_environment(settings.gdal):
        text = sheets_as_vrt(sources)
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    path = output.with_name(f"{output.name}.sheets-{mark}.vrt")
    check_place(path)
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)
    return path


def discard_others(path: Path) -> None:
    """Remove the files of other sheets that earlier runs of the same output left."""
    begin = path.name.rpartition("-")[0]
    for other in path.parent.iterdir():
        if is_mosaic(other.name) and other.name.startswith(f"{begin}-") and other.name != path.name:
            other.unlink(missing_ok=True)
