"""What a run writes, and when it must not."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilesegment.errors import ExistsError, OutputError, SettingsError
from tilesegment.raster.sink import is_raster
from tilesegment.run.files import belongings, check_name, settle
from tilesegment.run.record import is_record
from tilesegment.run.scene.ledger import Ledger, ledger_folder
from tilesegment.vector.files import DRIVERS, is_vector


@dataclass(frozen=True)
class Outputs:
    """What a run writes. main: polygons or, with a raster extension, the mask. tiles: of polygons, for the
    web; report: a page about the run; consensus: how far tiles disagreed."""

    main: Path
    mask: Path | None = None
    probability: Path | None = None
    overlay: Path | None = None
    tiles: Path | None = None
    report: Path | None = None
    consensus: Path | None = None

    def __post_init__(self) -> None:
        # A link is written through, as everything else does.
        for name in ("main", "mask", "probability", "overlay", "tiles", "report", "consensus"):
            path = getattr(self, name)
            if path is not None and path.is_symlink():
                object.__setattr__(self, name, Path(os.path.realpath(path)))

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
    def shares(self) -> list[Path]:
        """The rasters of shares of 1: probabilities, and how far they disagree."""
        return [path for path in (self.probability, self.consensus) if path is not None]

    @property
    def record(self) -> Path:
        """The run record, beside the main output."""
        return self.main.with_name(self.main.name + ".json")

    def read_record(self) -> dict[str, Any]:
        """What the record says; empty where there is none."""
        try:
            found = json.loads(self.record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def is_untouched(self) -> bool:
        """Whether the outputs are there, and none was changed since the record was written."""
        try:
            written = self.record.stat().st_mtime_ns
            return all(path.stat().st_mtime_ns <= written for path in self.all)
        except OSError:
            return False

    @property
    def all(self) -> list[Path]:
        """All but the record."""
        optional = [self.mask, self.probability, self.overlay, self.tiles, self.report, self.consensus]
        return [self.main, *(path for path in optional if path is not None)]

    def check(self, *inputs: str | None) -> None:
        """Raises OutputError or SettingsError for names that cannot be written to. inputs: paths that are
        read, and so must not be replaced."""
        if not (is_vector(self.main) or is_raster(self.main)):
            known = " ".join([*DRIVERS, ".tif", ".png"])
            raise SettingsError(f"-o {self.main}: unknown extension; use one of {known}")
        for path in (self.mask, *self.shares):
            if path is not None and not is_raster(path):
                raise SettingsError(
                    f"{path}: masks, probabilities and consensus are written as .tif or .png"
                )
        if self.overlay is not None and self.overlay.suffix.lower() != ".png":
            raise SettingsError(f"--overlay {self.overlay}: overlays are written as .png")
        if self.report is not None and self.report.suffix.lower() not in (".html", ".htm"):
            raise SettingsError(f"--report {self.report}: reports are written as .html")
        if self.tiles is not None and self.vector is None:
            raise SettingsError("--pmtiles holds polygons: give -o a vector format too")
        # The page that belongs to the tiles has a name as well.
        pages = [] if self.tiles is None else [self.tiles.with_suffix(end) for end in (".html", ".jpg")]
        resolved = [path.resolve() for path in [*self.all, *pages]]
        for path in resolved:
            if resolved.count(path) > 1:
                raise SettingsError(f"two outputs have the same name ({path.name})")
        for path in self.all:
            check_place(path)
        for file in (self.record, *(found for path in self.all for found in belongings(path))):
            if file.is_dir():
                raise OutputError(f"{file}: is a folder, and a file of this name is to be written")
        self.spare(path for path in inputs if path is not None)

    def settle(self) -> None:
        """Bring what is to be replaced to rest. Raises OutputError where another program has it open."""
        for path in self.all:
            settle(path)

    def spare(self, inputs: Iterable[str]) -> None:
        """Raises OutputError where a file to be replaced is one of the inputs, or belongs to one."""
        read = {os.path.realpath(path) for path in inputs if os.path.exists(path)}
        for path in self.all:
            for file in [path, *belongings(path)]:
                if os.path.realpath(file) in read:
                    raise OutputError(f"{file}: is an input of this run; choose another name")

    def refuse_existing(self) -> None:
        """Raises ExistsError where something has an output's name already, or belongs to one that has."""
        for path in self.all:
            if path.exists():
                raise ExistsError(f"{path}: exists already; choose another name or give --overwrite")
            for file in belongings(path):
                raise ExistsError(
                    f"{file}: exists already, and would belong to {path.name}; choose another name or give "
                    "--overwrite"
                )
        if self.record.exists() and not is_record(self.record):
            raise ExistsError(
                f"{self.record}: exists already, and the record would replace it; choose another name or "
                "give --overwrite"
            )


def check_place(path: Path) -> None:
    """Raises OutputError where a file of this name cannot be written."""
    if str(path).startswith("/vsi") or re.match(r"[a-z0-9+]{2,}:/", str(path)):
        raise OutputError(f"{path}: outputs are written to local paths; copy them afterwards")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: no such folder")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path.parent}: cannot be written to")
    check_name(path)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder")


def refuse_existing(outputs: Outputs, overwrite: bool) -> None:
    """An output that exists is an error, unless an interrupted run may have been about to finish."""
    if not overwrite and not ledger_folder(outputs.main).exists():
        outputs.refuse_existing()


def refuse_foreign(outputs: Outputs, overwrite: bool, ledger: Ledger) -> None:
    """Beside a ledger, an output may only exist if the run that left the ledger was renaming its own."""
    if not overwrite and not ledger.publishing:
        outputs.refuse_existing()
