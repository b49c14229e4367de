"""What a run writes, and when it must not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tilesegment.errors import OutputError, SettingsError
from tilesegment.raster.sink import is_raster
from tilesegment.run.ledger import Ledger, ledger_folder
from tilesegment.settings import PredictSettings
from tilesegment.vector.write import DRIVERS, is_vector


@dataclass(frozen=True)
class Outputs:
    """What a run writes. main: polygons or, with a raster extension, the mask."""

    main: Path
    mask: Path | None = None
    probability: Path | None = None
    overlay: Path | None = None

    @property
    def vector(self) -> Path | None:
        """The file of polygons, if one is wanted."""
        return self.main if is_vector(self.main) else None

    @property
    def masks(self) -> list[Path]:
        """The class rasters."""
        first = [] if is_vector(self.main) else [self.main]
        return first + ([self.mask] if self.mask is not None else [])

    @property
    def record(self) -> Path:
        """The run record, beside the main output."""
        return self.main.with_name(self.main.name + ".json")

    @property
    def all(self) -> list[Path]:
        """All but the record."""
        optional = [self.mask, self.probability, self.overlay]
        return [self.main, *(path for path in optional if path is not None)]

    def check(self, source: str) -> None:
        """Raises OutputError or SettingsError for names that cannot be written to."""
        if not (is_vector(self.main) or is_raster(self.main)):
            known = " ".join([*DRIVERS, ".tif"])
            raise SettingsError(f"-o {self.main}: unknown extension; use one of {known}")
        for path in (self.mask, self.probability):
            if path is not None and not is_raster(path):
                raise SettingsError(f"{path}: masks and probabilities are written as .tif")
        if self.overlay is not None and self.overlay.suffix.lower() != ".png":
            raise SettingsError(f"--overlay {self.overlay}: overlays are written as .png")
        resolved = [path.resolve() for path in self.all]
        if len(set(resolved)) < len(resolved):
            raise SettingsError("two outputs have the same name")
        for path in self.all:
            if str(path).startswith(("/vsi", "s3:", "gs:", "az:", "http:", "https:")):
                raise OutputError(f"{path}: outputs are written to local paths; copy them afterwards")
            if not path.parent.is_dir():
                raise OutputError(f"{path.parent}: no such folder")
            if not os.access(path.parent, os.W_OK):
                raise OutputError(f"{path.parent}: cannot be written to")
            if path.exists() and Path(source).exists() and path.samefile(source):
                raise OutputError(f"{path}: is the input itself")


def refuse_existing(outputs: Outputs, settings: PredictSettings) -> None:
    """An output that exists is an error, unless an interrupted run may have been about to finish."""
    if settings.overwrite or ledger_folder(outputs.main).exists():
        return
    for path in outputs.all:
        if path.exists():
            raise OutputError(f"{path}: exists already; choose another name or give --overwrite")


def refuse_foreign(outputs: Outputs, settings: PredictSettings, ledger: Ledger) -> None:
    """Beside a ledger, an output may only exist if the run that left the ledger was renaming its own."""
    if settings.overwrite or ledger.publishing:
        return
    for path in outputs.all:
        if path.exists():
            raise OutputError(f"{path}: exists already; choose another name or give --overwrite")
